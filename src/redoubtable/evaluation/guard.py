"""Put a defense around a network from its description."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from redoubtable.defenses import DEFENSES, Vote
from redoubtable.detectors import SCORES, Entropy, Rejecting, calibrate
from redoubtable.parts import bare, facts_of, parts_of
from redoubtable.seeding import seeded
from redoubtable.types import Labels, LazyImages


@DEFENSES.register("reject", form="rejecting", paper="Hosseini et al. 2019, section 3.2")
def reject(
    model: nn.Module,
    x: LazyImages,
    y: Labels,
    *,
    score: str = "entropy",
    rule: Literal["accuracy", "fpr"] = "accuracy",
    level: float = 0.01,
) -> Rejecting:
    """Rejection of what scores above a threshold, fitted on clean held-out images.

    Args:
        model: a classifier.
        x: (N, C, H, W) clean held-out images, or a view that reads them.
        y: (N,) their labels.
        score: a registered score, with its settings as in "entropy:votes=100".
        rule: "accuracy" or "fpr", see `calibrate`.
        level: the allowed loss of accuracy or share of false positives.
    """
    # The paper's reference is a single pass: the same model without the vote.
    single = bare(model, lambda part: part.facts.passes > 1)
    bound = SCORES.bind(score)
    # A score that owns a network has the one that is left without any defense.
    own = (bare(model),) if bound.entry.facts.get("network") else ()
    suspicion = bound.entry.obj(*own, **bound.arguments)
    _check_votes(model, suspicion, score)
    return calibrate(model, suspicion, x, y, rule=rule, level=level, single=single)


def _check_votes(model: nn.Module, suspicion: nn.Module, text: str) -> None:
    """Refuse a histogram's entropy where the model's answer is no histogram of as many votes."""
    if isinstance(suspicion, Entropy) and suspicion.votes is not None:
        # The outermost counts; a transform may stand before it.
        vote = next((part for part in parts_of(model) if isinstance(part, Vote)), None)
        if vote is None or (vote.count, vote.draws) != ("labels", suspicion.votes):
            n = suspicion.votes
            raise ValueError(
                f"{text!r} is of the labels of {n} votes; put `vote:draws={n},count=labels` before "
                "it, or leave `votes` out"
            )


def needs_clean(defenses: Sequence[str]) -> bool:
    """Return whether one of the defenses is calibrated on clean held-out images."""
    return any(DEFENSES.bind(text).entry.facts["form"] == "rejecting" for text in defenses)


def guarded(
    network: nn.Module,
    defenses: Sequence[str],
    held_out: tuple[LazyImages, Labels] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return a network behind defenses, the first innermost.

    Args:
        network: a classifier; it is put in eval mode.
        defenses: as on the command line, `["subsample:rate=0.9", "vote:draws=10", "reject"]`.
        held_out: clean images, or a view that reads them, and labels; for calibration.
        seed: of the random passes during calibration.

    Raises:
        ValueError: a defense is unknown, or one needs held-out images and there are none.
    """
    model = network.eval()
    for text in defenses:
        bound = DEFENSES.bind(text)
        build, form = bound.entry.obj, bound.entry.facts["form"]
        if facts_of(model).abstains:
            raise ValueError(f"{text!r} follows another rejection, which must be the last defense")
        if form == "transform":
            model = nn.Sequential(build(**bound.arguments), model)
        elif form == "wrapper":
            model = build(model, **bound.arguments)
        elif held_out is None:
            raise ValueError(f"{text!r} is calibrated on clean held-out images; give `held_out`")
        else:
            with seeded("calibrate", seed, bound.text):
                model = build(model, *held_out, **bound.arguments)
    return model.eval()
