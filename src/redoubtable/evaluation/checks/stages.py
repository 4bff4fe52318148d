"""A paired comparison that ends as soon as it is decided, and what it would notice.

A group sequential test (Lan & DeMets 1983, https://doi.org/10.1093/biomet/70.3.659): its level is
shared out over the stages beforehand, so that looking early raises no more false alarms. It also
ends where the images so far give no hint of a difference that counts, which raises none at all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from redoubtable.statistics import sign_flip

LEVEL = 0.025
"""Of a one-sided test. Where both directions are an alarm, 5% of the sound attacks raise one at
most."""
IMAGES = (50, 100, 150)
"""How many images there are at the end of each stage."""
_SPENT = (0.003, 0.006)
"""The levels of the stages before the last, which has what is left of `LEVEL`: early on only what
is glaring decides."""
_HINT = 0.26
"""A one-sided p above which the images so far give no hint of a difference; two changes and none
against them, 1/4, are one."""
_EARLY_END = 1.4
"""By how much what is noticed grows because of that, in simulations (a test holds it)."""


Counts = NDArray[np.int64]
"""(M,) how many answers to each image stand."""


@dataclass(frozen=True)
class Comparison:
    """What was found when it was decided, or when the images were at an end.

    Attributes:
        before: share of the answers that stood.
        after: share that stands now.
        p: one-sided, of the sign-flip test in the direction that the share has taken.
        level: below which p is significant at the stage that was the last.
        n: how many images it took.
        stages: how many stages that were.
        of_stages: how many there might have been.
        notices: how large a change it would have noticed nine times in ten.
        differs: whether the difference is no chance, and none to be overlooked.
    """

    before: float
    after: float
    p: float
    level: float
    n: int
    stages: int
    of_stages: int
    notices: float
    differs: bool


def ends(n: int, whole: bool = False) -> list[int]:
    """Return the number of images at the end of each stage; one stage if n can't be parted."""
    return [n] if whole else sorted({min(n, end) for end in IMAGES})


def compare(
    ends: Sequence[int],
    answers: int,
    measure: Callable[[slice], tuple[Counts, Counts]],
    few: float,
) -> Comparison:
    """Compare two counts of answers, image by image, until it is decided whether they differ.

    Args:
        ends: the number of images at the end of each stage.
        answers: to each image.
        measure: gives of some images how many answers stood, and how many stand.
        few: a difference of the shares that is none.
    """
    before = after = np.zeros(0, dtype=np.int64)
    for number, end in enumerate(ends):
        stood, stands = measure(slice(len(before), end))
        before, after = np.append(before, stood), np.append(after, stands)
        steps = after - before
        p = sign_flip(steps, "greater" if steps.sum() > 0 else "less")
        level = _level(number, len(ends))
        large = bool(abs(steps.mean()) > few * answers)
        if p < level or p > _HINT or not large:
            break
    return Comparison(
        before=float(before.mean() / answers),
        after=float(after.mean() / answers),
        p=p,
        level=level,
        n=len(before),
        stages=number + 1,
        of_stages=len(ends),
        notices=_notices(steps / answers, ends[-1], len(ends)),
        differs=p < level and large,
    )


def _level(number: int, count: int) -> float:
    """The level of a stage of several."""
    return LEVEL - sum(_SPENT[:number]) if number == count - 1 else _SPENT[number]


def _notices(differences: NDArray[np.float64], n: int, count: int) -> float:
    """How large a change of the share is noticed nine times in ten by n images in the last stage.

    Were there no chance in the answers, it would be the share of images that must change for as
    many as are significant to be among those looked at; what chance adds is measured.
    """
    level = _level(count - 1, count)
    least = math.floor(math.log2(1 / level)) + 1  # so many changes in one direction
    if n < least:
        return 1.0
    sure = float(scipy.stats.beta.ppf(0.9, least, n - least + 1))
    z = float(scipy.stats.norm.ppf(0.9) - scipy.stats.norm.ppf(level))
    change = math.hypot(sure, z * float(differences.std()) / math.sqrt(n))
    return min(1.0, change * (_EARLY_END if count > 1 else 1))
