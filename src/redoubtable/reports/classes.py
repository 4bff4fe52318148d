"""Which classes fall, and what they are taken for: from the answers to each example."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redoubtable.reports.record import VIEWS, Record
from redoubtable.statistics import share_of_draws

SHOWN = 12
"""Classes up to which every one is shown; of more only the best, the worst, and the commonest
confusions."""
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OfClass:
    """What becomes of the images of one class.

    Attributes:
        label: the true class.
        clean: share of its images answered right; one answer.
        attacked: share defended under the worst attack per image; one answer.
    """

    label: int
    clean: Mapping[str, Any]
    attacked: Mapping[str, Any]


@dataclass(frozen=True)
class Confusion:
    """What images of each class are taken for, under the worst of all attacks per image.

    Attributes:
        classes: per class that has images, by label.
        answers: the answers that occur, by number; the number of classes stands for a rejection.
        counts: (classes, answers) images by their commonest answer.
        rejection: the answer that is a rejection.
    """

    classes: tuple[OfClass, ...]
    answers: tuple[int, ...]
    counts: NDArray[np.int64]
    rejection: int

    @property
    def worst_first(self) -> list[OfClass]:
        """Classes by what attacks leave of them, then by what is right of the clean images."""
        return sorted(self.classes, key=lambda c: (c.attacked["value"], c.clean["value"], c.label))

    @property
    def extremes(self) -> list[OfClass]:
        """Classes worst first; of many only the worst and the best."""
        ordered, half = self.worst_first, SHOWN // 2
        return ordered if len(ordered) <= SHOWN else ordered[:half] + ordered[-half:]

    @property
    def commonest(self) -> list[tuple[int, int, int]]:
        """(label, wrong answer, images), the commonest first, at most as many as are shown."""
        pairs = [
            (c.label, answer, int(self.counts[i, j]))
            for i, c in enumerate(self.classes)
            for j, answer in enumerate(self.answers)
            if answer != c.label and self.counts[i, j]
        ]
        return sorted(pairs, key=lambda p: (-p[2], p[0], p[1]))[:SHOWN]


def worst_answers(arrays: Arrays) -> NDArray[np.int64] | None:
    """Return (N, draws) answers to the worst candidate of each example; none without arrays."""
    chosen = arrays.get("robust/chosen")
    # Candidates stand in the order in which they ran, the clean images first.
    candidates = (key for key in arrays if key.partition("/")[0] in VIEWS)
    reports = [arrays[key] for key in candidates if key.endswith("/report")]
    if chosen is None or not reports:
        return None
    return np.asarray(np.stack(reports)[chosen, np.arange(len(chosen))], dtype=np.int64)


def confusion(record: Record, arrays: Arrays) -> Confusion | None:
    """Return the true classes against what attacked images are taken for.

    Where draws differ an image counts under its commonest answer; of equally common ones under one
    that harms the defender. Shares per class are of single answers, as in the other tables.

    Args:
        record: the evaluation's record.
        arrays: as `Evaluation.arrays` has them.

    Returns:
        None where the answers to each example are not at hand.
    """
    attacked = worst_answers(arrays)
    if attacked is None or "clean/report" not in arrays:
        return None
    y, rejection = np.asarray(arrays["y"]), int(record["model"]["classes"])
    right = arrays["clean/report"] == y[:, None]
    stands = (attacked == y[:, None]) | (attacked == rejection)
    said = np.array([_commonest(a, label, rejection) for a, label in zip(attacked, y, strict=True)])
    answers = sorted({*y.tolist(), *said.tolist()})
    classes, counts = [], []
    for label in sorted(set(y.tolist())):
        its = y == label
        classes.append(OfClass(label, _share(right[its]), _share(stands[its])))
        counts.append([int((said[its] == answer).sum()) for answer in answers])
    return Confusion(tuple(classes), tuple(answers), np.array(counts, dtype=np.int64), rejection)


def _share(good: NDArray[np.bool_]) -> Mapping[str, Any]:
    """The share of single answers that are good, of (n, draws)."""
    found = share_of_draws(good.sum(1), np.full(len(good), good.shape[1]))
    return asdict(found) if found else {}


def _commonest(answers: NDArray[np.int64], label: int, rejection: int) -> int:
    values, counts = np.unique(answers, return_counts=True)
    common = values[counts == counts.max()].tolist()
    wrong = [v for v in common if v not in (label, rejection)]
    return int((wrong or common)[0])
