"""What more effort would leave: more steps and draws per gradient, more answers asked for."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray

from redoubtable.reports.record import Record
from redoubtable.statistics import wilson

_TIMES = re.compile(r"(\w+)_x(\d+(?:/\d+)?)")
_WORDS = {"eot": "draws per gradient"}
_ASKED = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Effort:
    """What an attack leaves with multiples of the effort of the evaluation.

    Attributes:
        what: of which there is more: "steps".
        left: share that stands by multiple, which is below 1 where there is less of it.
    """

    what: str
    left: Mapping[Fraction, Mapping[str, Any]]


def efforts(record: Record) -> list[Effort]:
    """Return what checks measured with other efforts: their evidence such as `steps_x3`.

    Intervals are over the images that the check looked at, the first ones.
    """
    found: dict[str, dict[Fraction, dict[str, Any]]] = {}
    for finding in record["findings"]:
        evidence = finding["evidence"]
        for key, value in evidence.items():
            match = _TIMES.fullmatch(key)
            if match and isinstance(value, int | float) and evidence.get("n"):
                n = int(evidence["n"])
                times = found.setdefault(match[1], {})
                times[Fraction(match[2])] = asdict(wilson(float(value) * n, n))
    return [
        Effort(_WORDS.get(word, word), dict(sorted(left.items())))
        for word, left in found.items()
        if len(left) > 1
    ]


def tries(answers: NDArray[Any], y: NDArray[Any], classes: int) -> dict[int, dict[str, Any]]:
    """Return the share of images of which k answers are all good, for several k.

    The expected value over every choice of k of the draws, so no order of the draws decides: with g
    of D draws good an image counts C(g, k) / C(D, k). Only answers are drawn anew: an attacker who
    also searches again between tries may do better.

    Args:
        answers: (N, draws) to each example's worst candidate.
        y: (N,) labels.
        classes: K; the answer K is a rejection, which counts as defended.
    """
    good = ((answers == y[:, None]) | (answers == classes)).sum(1).tolist()
    n, draws = answers.shape
    left = {}
    for k in sorted({k for k in _ASKED if k < draws} | {draws}):
        stand = sum(math.comb(g, k) / math.comb(draws, k) for g in good)
        left[k] = asdict(wilson(stand, n))
    return left
