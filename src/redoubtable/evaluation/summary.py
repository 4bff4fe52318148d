"""From answers to the numbers of a record: pure functions of what was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from redoubtable.detectors import Rejecting
from redoubtable.evaluation.candidates import Candidate
from redoubtable.evaluation.outcomes import (
    Answers,
    Flags,
    accuracy,
    correct,
    covered,
    defended,
    one_shot,
    pick,
    worst_candidate,
)
from redoubtable.files import make_folder, write_json, write_npz
from redoubtable.parts import facts_of, parts_of
from redoubtable.statistics import auc

ROC_POINTS = 200


def describe(model: nn.Module, digest: str, classes: int) -> dict[str, Any]:
    """Return what a record says of a model."""
    return {
        "structure": repr(model),
        "digest": digest,
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": classes,
        "facts": asdict(facts_of(model)),
        "thresholds": [asdict(p.threshold) for p in parts_of(model) if isinstance(p, Rejecting)],
    }


def worst(
    candidates: Sequence[Candidate], good: Callable[[Answers], Flags]
) -> tuple[Answers, Flags, NDArray[np.int64]]:
    """Return the reported answers of each example's worst candidate, and which candidate it is.

    Chosen on the selection draws, reported on the others.
    """
    chosen = worst_candidate([good(c.selection) for c in candidates])
    answers = np.asarray(pick([c.report for c in candidates], chosen), dtype=np.int16)
    return answers, good(answers), chosen


def summarise(
    candidates: Sequence[Candidate], y: NDArray[np.int64], classes: int, abstains: bool
) -> dict[str, Any]:
    """Return clean accuracy, one row per attack, and the worst case per view.

    Args:
        candidates: the clean one first.
        y: (N,) labels.
        classes: K; the answer K is a rejection.
        abstains: whether there are rejections to report.
    """
    clean = candidates[0]
    groups = {
        view: [c for c in candidates if c.view in ("clean", view)]
        for view in ("static", "adaptive")
    }
    result: dict[str, Any] = {
        "clean": _numbers(clean.report, correct(clean.report, y), y, classes, abstains),
        "rows": [_row(c, y, classes, abstains) for c in candidates[1:]],
        "robust": _worst_numbers(candidates, y, classes, abstains),
    }
    for view, group in groups.items():
        result[view] = _worst_numbers(group, y, classes, abstains) if len(group) > 1 else None
    if abstains:
        result["detection"] = _detection(candidates, y, classes)
    return result


def _row(c: Candidate, y: NDArray[np.int64], classes: int, abstains: bool) -> dict[str, Any]:
    n = len(y)
    return {
        "view": c.view,
        "attack": c.attack,
        **_numbers(c.report, defended(c.report, y, classes), y, classes, abstains),
        "passes": {"forward": c.passes.forward, "backward": c.passes.backward},
        "passes_per_image": (c.passes.forward + c.passes.backward) / n,
        "distance": {"median": float(np.median(c.distance)), "max": float(c.distance.max())},
    }


def _numbers(
    answers: Answers, good: Flags, y: NDArray[np.int64], classes: int, abstains: bool
) -> dict[str, Any]:
    """Accuracy, and for an abstaining model the strict one, rejections and coverage."""
    numbers: dict[str, Any] = {"accuracy": asdict(accuracy(answers, good))}
    if abstains:
        numbers["strict"] = asdict(accuracy(answers, correct(answers, y)))
        answered = answers != classes
        within = covered(correct(answers, y), answered)
        numbers["rejected"] = asdict(one_shot(~answered))
        numbers["coverage"] = {
            "answered": asdict(one_shot(answered)),
            "accuracy": asdict(within) if within else None,
        }
    return numbers


def _worst_numbers(
    group: Sequence[Candidate], y: NDArray[np.int64], classes: int, abstains: bool
) -> dict[str, Any]:
    """The worst case per example; the strict count has its own worst case."""
    answers, good, chosen = worst(group, lambda a: defended(a, y, classes))
    numbers = _numbers(answers, good, y, classes, abstains)
    if abstains:
        strict_answers, strict, _ = worst(group, lambda a: correct(a, y))
        numbers["strict"] = asdict(accuracy(strict_answers, strict))
    names = [f"{c.view} {c.attack}".strip() for c in group]
    counts = np.bincount(_finders(group, chosen), minlength=len(group)).tolist()
    numbers["worst_by"] = dict(zip(names, counts, strict=True))
    return numbers


def _finders(group: Sequence[Candidate], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which candidate found what the chosen one shows: in a cascade it may have been carried."""
    carried = np.stack([c.carried for c in group])
    finders = chosen.copy()
    for _ in group:
        late = carried[finders, np.arange(len(finders))]
        # The one before within the cascade of a view, or the clean image at its start.
        previous = [
            max(0, i - 1) if group[max(0, i - 1)].view == c.view else 0 for i, c in enumerate(group)
        ]
        finders = np.where(late, np.array(previous)[finders], finders)
    return finders


def _detection(
    candidates: Sequence[Candidate], y: NDArray[np.int64], classes: int
) -> dict[str, Any]:
    """ROC and its area of the attacks of all views together, and of each view alone."""
    clean, *attacked = candidates
    groups = {view: [c for c in attacked if c.view == view] for view in ("static", "adaptive")}
    return {
        **_separation(clean, attacked, y, classes),
        "views": {
            view: _separation(clean, group, y, classes) if group else None
            for view, group in groups.items()
        },
        "note": "adversarial images were made for the guard's own threshold",
    }


def _separation(
    clean: Candidate, attacked: Sequence[Candidate], y: NDArray[np.int64], classes: int
) -> dict[str, Any]:
    """How well suspicion tells clean images from each example's worst adversarial one.

    Over all draws of both, so that it is what one answer tells. The worst is chosen as for the
    accuracy, at the guard's own threshold, so the curve is of that attack; one made for another
    threshold has another curve.
    """
    from sklearn.metrics import roc_curve  # slow to import

    chosen = worst_candidate([defended(c.selection, y, classes) for c in attacked])
    negatives = clean.suspicion
    positives = np.asarray(pick([c.suspicion for c in attacked], chosen))
    truth = np.repeat([0, 1], [negatives.size, positives.size])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([negatives.ravel(), positives.ravel()]))
    keep = np.unique(np.linspace(0, len(fpr) - 1, min(ROC_POINTS, len(fpr))).astype(int))
    return {
        "auc": asdict(auc(negatives, positives)),
        "roc": {"fpr": fpr[keep].tolist(), "tpr": tpr[keep].tolist()},
        "attacks": [f"{c.view} {c.attack}" for c in attacked],
    }


def point(
    eps: float,
    static: Sequence[Candidate],
    adaptive: Sequence[Candidate],
    y: NDArray[np.int64],
    classes: int,
) -> dict[str, Any]:
    """Return one point of accuracy against eps; a rejection counts as defended, at 0 too."""

    def one(group: Sequence[Candidate]) -> dict[str, Any]:
        _, good, _ = worst(group, lambda a: defended(a, y, classes))
        return asdict(one_shot(good))

    return {"eps": eps, "static": one(static), "adaptive": one(adaptive)}


def save(
    folder: Path,
    record: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    images: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write `record.json`, `examples.npz` and `images.npz`, each whole or not at all."""
    make_folder(folder)
    write_npz(folder / "examples.npz", arrays)
    write_npz(folder / "images.npz", images)
    write_json(folder / "record.json", record)
