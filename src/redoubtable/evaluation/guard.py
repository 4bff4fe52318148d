"""Put a defense around a network from its description."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from redoubtable.defenses import DEFENSES
from redoubtable.detectors import SCORES, Rejecting, Score, by_accuracy_loss, by_false_positives
from redoubtable.evaluation.chunks import batches
from redoubtable.parts import bare, facts_of
from redoubtable.seeding import seeded
from redoubtable.types import Labels, LazyImages, check_labels, check_lazy

_BATCH = 256
"""Held-out images in one pass."""


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

    It is `calibrate` for images that need not be in memory.

    Args:
        model: a classifier.
        x: (N, C, H, W) clean held-out images, or a view that reads them.
        y: (N,) their labels.
        score: a registered score.
        rule: "accuracy" or "fpr", see `calibrate`.
        level: the allowed loss of accuracy or share of false positives.
    """
    # The paper's reference is a single pass: the same model without the vote.
    single = bare(model, lambda part: part.facts.passes > 1)
    suspicion = SCORES.bind(score).entry.obj()
    scores, correct = _measure(model, suspicion, x, y)
    if rule == "fpr":
        return Rejecting(model, suspicion, by_false_positives(scores, level))
    reference = _measure(single, suspicion, x, y)[1].double().mean().item()
    return Rejecting(model, suspicion, by_accuracy_loss(scores, correct, reference, level))


def _measure(model: nn.Module, score: Score, x: LazyImages, y: Labels) -> tuple[Tensor, Tensor]:
    """(N,) scores, and (N,) whether the answers are right, of clean images."""
    check_lazy(x, "held_out")
    check_labels(y, len(x))
    scores, correct = [], []
    with torch.no_grad():
        for part, images in batches(x, _BATCH, "held_out"):
            there = images.to(next((p.device for p in model.parameters()), images.device))
            logits = model(there)
            scores.append(score(there, logits.log_softmax(1)).cpu())
            correct.append(logits.argmax(1).cpu() == y[part].cpu())
    return torch.cat(scores), torch.cat(correct)


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
