"""Accuracy under attack against the drop rate: figures 5 and 6."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from redoubtable.attacks import ATTACKS
from redoubtable.attacks.known import Known
from redoubtable.evaluation import Evaluation
from redoubtable.evaluation.outcomes import defended, one_shot, pick, worst_candidate
from redoubtable.papers.dropping_pixels.scale import (
    NATURAL,
    UNIFORM,
    Dropping,
    budget_of,
    steps_of,
    threat_of,
)
from redoubtable.papers.frame import Row
from redoubtable.papers.lab import Lab
from redoubtable.statistics import Proportion
from redoubtable.types import Images

MODES = {
    "ten masks": ("vote:draws=10",),
    "one mask, rejecting": ("reject",),
    "ten masks, rejecting": ("vote:draws=10", "reject"),
}


def figure_5(lab: Lab[Dropping]) -> Iterator[Row]:
    """Accuracy under L0 attacks against the drop rate."""
    yield from _attacked(lab, ("L0",))


def figure_6(lab: Lab[Dropping]) -> Iterator[Row]:
    """Accuracy under L2 and Linf attacks against the drop rate."""
    yield from _attacked(lab, lab.scale.norms)


def paper_attacks(lab: Lab[Dropping], norm: str, masks: int = 10) -> list[str]:
    """Return the paper's attacks (section 4): gradients averaged over masks, ten by default.

    Two losses, away from the label and towards targets; the best of all for each image counts.
    The strongest stand first, which in a cascade leaves the others little to do. All take all of
    their steps, as the paper's do: an image that just crosses the boundary of a network without
    masks is an uncertain one, which a rejection sees and no other network is fooled by.
    """
    towards = [*(f",targets={t}" for t in reversed(lab.scale.targets)), ""]
    losses = ("cross_entropy", "carlini_wagner")
    kinds = [f"eot={masks},loss={loss}{t}" for t in towards for loss in losses]
    steps = steps_of(lab, norm)
    if norm == "L0":
        return [f"l0_pgd:{kind},steps={steps},stop=False" for kind in kinds]
    rest = f"momentum=0,steps={steps},step_size={budget_of(lab, norm).step},stop=False"
    return [f"pgd:{kind},{rest}" for kind in kinds]


def _attacked(lab: Lab[Dropping], norms: Iterable[str]) -> Iterator[Row]:
    """Each mode at each rate: clean, under the paper's attack, under those that know all of it.

    The worst that was made against one mode is shown to those after it, and so are the worst
    against a natural network and against the network without masks (section 5.5: transfer).
    """
    network, (x, _) = lab.network(UNIFORM), lab.attacked
    for norm in norms:
        threat = threat_of(lab, norm)
        bare = [*paper_attacks(lab, norm, masks=1), *lab.scale.adaptive]
        natural = lab.evaluation("natural", lab.network(NATURAL), threat, bare, keep=len(x))
        yield from _rows(f"{norm}, natural network", natural, 0.0, "adaptive")
        strangers = [worst_against(x, natural, "the natural network")]
        for rate in (0.0, *(r for r in lab.scale.rates if r)):
            mask = [f"subsample:rate={rate:g}"] if rate else []
            published = paper_attacks(lab, norm, masks=10 if rate else 1)
            single = lab.evaluation(
                f"one mask {rate:g}",
                lab.guarded(network, mask),
                threat,
                [*published, *strangers, *lab.scale.adaptive],
                keep=len(x),
            )
            if not rate:
                strangers.append(worst_against(x, single, "the network without masks"))
            if rate not in lab.scale.rates:
                continue  # without masks it was only to be transferred from
            yield from _rows(f"{norm}, one mask", single, rate, *_names(published))
            papers = made_against(x, single, published)
            shown = [*strangers] if not rate else [*strangers, worst_against(x, single, "one mask")]
            for mode, defenses in MODES.items():
                if not rate and any(d.startswith("vote") for d in defenses):
                    continue  # ten answers without a mask are one
                model = lab.guarded(network, [*mask, *defenses])
                choice = [*papers, *shown, *lab.scale.adaptive]
                found = lab.evaluation(f"{mode} {rate:g}", model, threat, choice, keep=len(x))
                yield from _rows(f"{norm}, {mode}", found, rate, *(m.name for m in papers))
                shown.append(worst_against(x, found, mode))


def _names(attacks: Iterable[str]) -> list[str]:
    return [ATTACKS.bind(text).text for text in attacks]


def made_against(x: Images, single: Evaluation, attacks: Iterable[str]) -> list[Known]:
    """The images that the paper's attacks made against one mask, to be shown to other models."""
    names = _names(attacks)
    images = [torch.from_numpy(single.images[f"adaptive/{name}"]) for name in names]
    return [Known(x, i, f"against one mask, {n}") for i, n in zip(images, names, strict=True)]


def worst_against(x: Images, found: Evaluation, model: str) -> Known:
    """The worst image of each example, of all that an evaluation made, for other models."""
    return Known(x, torch.from_numpy(found.adversarial), f"worst against {model}")


def _rows(series: str, found: Evaluation, rate: float, *published: str) -> Iterator[Row]:
    """The clean accuracy, what the paper's attacks leave, and what all of them leave."""
    draws = found.record["settings"]["draws"]
    clean = Proportion(**found.record["clean"]["accuracy"]["one_shot"])
    yield Row(series, "accuracy", "clean", clean, rate, draws)
    if published != ("adaptive",):
        yield Row(series, "accuracy", "static", worst_of(found, published), rate, draws)
    robust = Proportion(**found.record["robust"]["accuracy"]["one_shot"])
    yield Row(series, "accuracy", "adaptive", robust, rate, draws)
    if "strict" in found.record["robust"]:
        strict = Proportion(**found.record["robust"]["strict"]["one_shot"])
        yield Row(series, "strict accuracy", "adaptive", strict, rate, draws)


def worst_of(found: Evaluation, attacks: Iterable[str]) -> Proportion:
    """What the worst of some attacks leaves of each image, chosen and reported on other draws."""
    arrays, y = found.arrays, found.arrays["y"]
    classes = int(found.record["model"]["classes"])
    views = ("static", "adaptive")
    prefixes = ["clean", *(f"{view}/{a}" for a in attacks for view in views)]
    there = [p for p in prefixes if f"{p}/report" in arrays]
    chosen = worst_candidate([defended(arrays[f"{p}/selection"], y, classes) for p in there])
    report = pick([arrays[f"{p}/report"] for p in there], chosen)
    return one_shot(defended(np.asarray(report, dtype=np.int16), y, classes))
