"""Intervals and paired tests for accuracies; no models here."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.metrics import roc_auc_score


@dataclass(frozen=True)
class Proportion:
    """A share of n examples with its interval.

    Attributes:
        value: the share, in [0, 1].
        n: how many examples it is of.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        """Write it in percent, as `91.2% [88.4, 93.4]`."""
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def _check(hits: float, n: int, confidence: float) -> None:
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}")
    if not 0 <= hits <= n * (1 + 1e-9):
        raise ValueError(f"`hits` must lie in [0, n={n}], got {hits}")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1), got {confidence}")


def wilson(hits: float, n: int, confidence: float = 0.95) -> Proportion:
    """Return a share with its score interval (Wilson 1927).

    Args:
        hits: number of successes; it need not be whole. A mean over examples of per-example
            success rates (many random draws each) has at most the binomial variance, so the
            interval then is on the safe side.
        n: number of examples.
        confidence: coverage.
    """
    _check(hits, n, confidence)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share = min(hits / n, 1.0)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At 0 and 1 the exact end is 0 or 1; rounding must not move it.
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return Proportion(share, n, low, high)


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> Proportion:
    """Return a share with its exact two-sided interval (Clopper & Pearson 1934)."""
    _check(hits, n, confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(stats.beta.ppf(1 - tail, hits + 1, n - hits))
    return Proportion(hits / n, n, low, high)


def lower_bound(hits: int, n: int, alpha: float) -> float:
    """Return the one-sided exact lower bound of a share, wrong with probability at most `alpha`."""
    _check(hits, n, 1 - alpha)
    return 0.0 if hits == 0 else float(stats.beta.ppf(alpha, hits, n - hits + 1))


def mcnemar(
    a: ArrayLike, b: ArrayLike, alternative: Literal["two-sided", "greater", "less"] = "two-sided"
) -> float:
    """Return the exact p-value of McNemar's test (1947) for two paired outcomes.

    Args:
        a: (N,) outcomes of one model, true or false.
        b: (N,) outcomes of the other on the same examples, in the same order.
        alternative: what the test is to find: that one of the two is better, or that `a` is true
            more often than `b`, or less. Both questions at a level of 2.5% raise a false alarm in
            at most 5% of cases; half a two-sided p is no answer to either of them in a tie.

    Returns:
        The probability, were both equally good, of a split at least as uneven among the examples on
        which they differ, or at least as far in the direction asked for; 1 where they never differ.

    Raises:
        ValueError: the two are not of one length.
    """
    left, right = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"paired outcomes must be (N,) both, got {left.shape} and {right.shape}")
    only_left = int((left & ~right).sum())
    differ = only_left + int((~left & right).sum())
    if not differ:
        return 1.0
    return float(stats.binomtest(only_left, differ, 0.5, alternative=alternative).pvalue)


def auc(negatives: ArrayLike, positives: ArrayLike, confidence: float = 0.95) -> Proportion:
    """Return the area under the ROC curve with its interval; ties count half.

    The interval is the normal one with the variance of Hanley & McNeil (1982), cut to [0, 1], and
    never narrower than Wilson's for a share of the smaller group.

    Args:
        negatives: (N,) scores of clean images.
        positives: (M,) scores of adversarial images, which should be higher.
        confidence: coverage.

    Raises:
        ValueError: one of the two is empty or a score is not finite.
    """
    low, high = np.asarray(negatives, dtype=float), np.asarray(positives, dtype=float)
    if not len(low) or not len(high):
        raise ValueError("an ROC curve needs scores of clean and of adversarial images")
    truth = np.repeat([0, 1], [len(low), len(high)])
    area = float(roc_auc_score(truth, np.concatenate([low, high])))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (len(high) - 1) * (q1 - area**2) + (len(low) - 1) * (q2 - area**2)
    error = math.sqrt((area * (1 - area) + spread) / (len(low) * len(high)))
    half = float(stats.norm.ppf((1 + confidence) / 2)) * error
    # The normal interval shrinks to nothing at 0 and 1; the smaller group says how little is known.
    fewest = min(len(low), len(high))
    floor = wilson(area * fewest, fewest, confidence)
    least, most = min(area - half, floor.low), max(area + half, floor.high)
    return Proportion(area, len(high), max(0.0, least), min(1.0, most))
