"""From answers to the numbers of a record: pure functions of what was measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    candidates: Sequence[Candidate],
    y: NDArray[np.int64],
    classes: int,
    abstains: bool,
    cascade: bool = False,
) -> dict[str, Any]:
    """Return clean accuracy, one row per attack, and the worst case per view.

    Args:
        candidates: the clean one first.
        y: (N,) labels.
        classes: K; the answer K is a rejection.
        abstains: whether there are rejections to report.
        cascade: an attack's row is what stands after it, of the worst of those so far.
    """
    clean = candidates[0]
    groups = {
        view: [c for c in candidates if c.view in ("clean", view)]
        for view in ("static", "adaptive")
    }
    result: dict[str, Any] = {
        "clean": _numbers(clean.report, correct(clean.report, y), y, classes, abstains),
        "rows": [
            _row(c, group if cascade else [c], y, classes, abstains)
            for c, group in _so_far(candidates[1:])
        ],
        "robust": _worst_case(candidates, y, classes, abstains),
    }
    for view, group in groups.items():
        result[view] = _worst_case(group, y, classes, abstains) if len(group) > 1 else None
    if abstains:
        result["detection"] = _detection(candidates, y, classes)
    return result


def _so_far(attacked: Sequence[Candidate]) -> Iterator[tuple[Candidate, list[Candidate]]]:
    """Each candidate with all of its view up to itself."""
    for i, c in enumerate(attacked):
        yield c, [one for one in attacked[: i + 1] if one.view == c.view]


def _row(
    c: Candidate,
    group: Sequence[Candidate],
    y: NDArray[np.int64],
    classes: int,
    abstains: bool,
) -> dict[str, Any]:
    """One attack's passes and distances, and the accuracies under the worst of a group."""
    n = len(y)
    return {
        "view": c.view,
        "attack": c.attack,
        **_worst_numbers(group, y, classes, abstains),
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


def _worst_case(
    group: Sequence[Candidate], y: NDArray[np.int64], classes: int, abstains: bool
) -> dict[str, Any]:
    """The worst case per example, and how often each candidate is it."""
    chosen = worst(group, lambda a: defended(a, y, classes))[2]
    counts = np.bincount(finders(group, chosen), minlength=len(group)).tolist()
    names = [f"{c.view} {c.attack}".strip() for c in group]
    by = {"worst_by": dict(zip(names, counts, strict=True))}
    return _worst_numbers(group, y, classes, abstains) | by


def _worst_numbers(
    group: Sequence[Candidate], y: NDArray[np.int64], classes: int, abstains: bool
) -> dict[str, Any]:
    """The numbers of each example's worst candidate; the strict count has its own."""
    answers, good, _ = worst(group, lambda a: defended(a, y, classes))
    numbers = _numbers(answers, good, y, classes, abstains)
    if abstains:
        strict_answers, strict, _ = worst(group, lambda a: correct(a, y))
        numbers["strict"] = asdict(accuracy(strict_answers, strict))
    return numbers


def finders(group: Sequence[Candidate], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,) which candidate made the image that the chosen one's answers are of.

    In a cascade they may be those of an attack before it.
    """
    taken = np.stack([c.carried | c.beaten for c in group])
    found = chosen.copy()
    for _ in group:
        late = taken[found, np.arange(len(found))]
        # The one before within the cascade of a view, or the clean image at its start.
        previous = [
            max(0, i - 1) if group[max(0, i - 1)].view == c.view else 0 for i, c in enumerate(group)
        ]
        found = np.where(late, np.array(previous)[found], found)
    return found


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
