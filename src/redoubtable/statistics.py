"""Intervals and paired tests for accuracies; no models here."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import scipy  # scipy.stats is read when it is first used
from numpy.typing import ArrayLike, NDArray


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
        hits: number of successes; it need not be whole.
        n: number of examples. Of several looks at each see `share_of_draws`.
        confidence: coverage.
    """
    _check(hits, n, confidence)
    share = min(hits / n, 1.0)
    return Proportion(share, n, *_score_interval(share, n, confidence))


def _score_interval(share: float, n: float, confidence: float) -> tuple[float, float]:
    z = float(NormalDist().inv_cdf((1 + confidence) / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # At 0 and 1 the exact end is 0 or 1; rounding must not move it.
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return low, high


def share_of_draws(
    hits: ArrayLike, tries: ArrayLike, confidence: float = 0.95
) -> Proportion | None:
    """Return a share over several random draws of each example, with its interval.

    Wilson's score interval at the effective number of examples (Dean & Pagano 2015, Journal
    of Survey Statistics and Methodology 3(4)): as many independent answers as would vary like the
    share of these clusters does. With one draw of each example it is Wilson's. Taking the draws for
    independent would make it too narrow where examples differ, and counting examples alone too wide
    where draws do.

    Args:
        hits: (N,) successes of each example.
        tries: (N,) draws that count of each example; an example with none does not count.
        confidence: coverage.

    Returns:
        The share of all tries, n being the number of examples with any; None where there are none.

    Raises:
        ValueError: there are more hits than tries, or negative ones.
    """
    h, t = np.asarray(hits, dtype=float), np.asarray(tries, dtype=float)
    if h.shape != t.shape or h.ndim != 1 or not bool(((h >= 0) & (h <= t)).all()):
        raise ValueError(f"`hits` must be (N,) in [0, tries], got {h.shape} and {t.shape}")
    n, total = int((t > 0).sum()), float(t.sum())
    if not n:
        return None
    share = float(h.sum()) / total
    variance = float(((h - share * t) ** 2).sum()) / total**2
    spread = share * (1 - share)
    # Draws of one example tell at most as much as those of as many examples.
    effective = min(spread / variance, total) if variance > 0 and spread > 0 else float(n)
    return Proportion(share, n, *_score_interval(share, effective, confidence))


def mean_share(values: ArrayLike, confidence: float = 0.95) -> Proportion:
    """Return the mean of one share per example with Student's interval (1908), cut to [0, 1].

    Args:
        values: (N,) shares in [0, 1]; of a single one the interval is all of [0, 1].
        confidence: coverage.

    Raises:
        ValueError: there are none, or one leaves [0, 1].
    """
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or not len(v) or not bool(((v >= 0) & (v <= 1)).all()):
        raise ValueError(f"a mean share needs one or more values in [0, 1], got {v.tolist()}")
    mean, n = min(float(v.mean()), 1.0), len(v)
    if n == 1:
        return Proportion(mean, 1, 0.0, 1.0)
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * v.std(ddof=1)) / math.sqrt(n)
    return Proportion(mean, n, max(0.0, mean - half), min(1.0, mean + half))


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> Proportion:
    """Return a share with its exact two-sided interval (Clopper & Pearson 1934)."""
    _check(hits, n, confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(scipy.stats.beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(scipy.stats.beta.ppf(1 - tail, hits + 1, n - hits))
    return Proportion(hits / n, n, low, high)


def lower_bound(hits: int, n: int, alpha: float) -> float:
    """Return the one-sided exact lower bound of a share, wrong with probability at most `alpha`."""
    _check(hits, n, 1 - alpha)
    return 0.0 if hits == 0 else float(scipy.stats.beta.ppf(alpha, hits, n - hits + 1))


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
    return float(scipy.stats.binomtest(only_left, differ, 0.5, alternative=alternative).pvalue)


@dataclass(frozen=True)
class Difference:
    """How two models differ on the same examples, the first minus the second.

    Attributes:
        value: difference of the two shares, in [-1, 1].
        low: lower end of its interval.
        high: upper end.
        p: probability of a difference at least as large, either way, were both equally good.
        better: examples on which the first does better.
        worse: examples on which it does worse.
        n: examples.
    """

    value: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    n: int


def paired_difference(
    a: ArrayLike, b: ArrayLike, draws: int = 1, confidence: float = 0.95
) -> Difference:
    """Return the difference of two paired shares with its interval and an exact p-value.

    The p-value is that of the sign-flip test (Fisher 1935): were both equally good, each example's
    difference could as well have the other sign. With one draw it is McNemar's exact test. The
    interval is the one of Agresti & Min (2005, https://doi.org/10.1002/sim.1781), the normal one
    with half an example added to each of the four outcomes of a pair.

    Args:
        a: (N,) of each example how many draws the first model does well, 0 to `draws`.
        b: (N,) the same of the second model, on the same examples in the same order.
        draws: answers per example.
        confidence: coverage of the interval.

    Raises:
        ValueError: the two are not of one length, or are no counts of that many draws.
    """
    left, right = np.asarray(a), np.asarray(b)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise ValueError(f"paired outcomes must be (N,) both, got {left.shape} and {right.shape}")
    both = np.concatenate([left, right]).astype(float)
    if not bool(((both >= 0) & (both <= draws) & (both == both.round())).all()):
        raise ValueError(f"paired outcomes must be counts of 0 to draws={draws}")
    steps = left.astype(np.int64) - right.astype(np.int64)
    d, n = steps / draws, len(steps)
    centre = float(d.sum()) / (n + 2)
    variance = (float((d**2).sum()) + 1) / (n + 2) - centre**2
    half = float(NormalDist().inv_cdf((1 + confidence) / 2)) * math.sqrt(variance / (n + 2))
    value = float(d.mean())
    return Difference(
        value=value,
        low=max(-1.0, min(value, centre - half)),
        high=min(1.0, max(value, centre + half)),
        p=sign_flip(steps),
        better=int((steps > 0).sum()),
        worse=int((steps < 0).sum()),
        n=n,
    )


def sign_flip(
    differences: ArrayLike, alternative: Literal["two-sided", "greater", "less"] = "two-sided"
) -> float:
    """Return the exact p-value of the sign-flip test (Fisher 1935) for paired counts.

    Were both equally good, each difference could as well have the other sign. The distribution of
    the sum is the inverse Fourier transform of the product of cosines.

    Args:
        differences: (N,) whole numbers, of each example the count of one less that of the other.
        alternative: what the test is to find: any difference, or a sum above or below 0.

    Returns:
        The probability of a sum at least as far from 0, were the signs those of fair coins; 1
        where nothing differs.

    Raises:
        ValueError: they are no whole numbers.
    """
    steps = np.asarray(differences)
    if steps.ndim != 1 or not bool((steps == np.round(steps)).all()):
        raise ValueError("`differences` must be (N,) whole numbers; give counts, not shares")
    steps = steps.astype(np.int64)
    sizes, counts = np.unique(np.abs(steps[steps != 0]), return_counts=True)
    reach = int((sizes * counts).sum())
    if not reach:
        return 1.0
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    wave = np.ones_like(angles)
    for size, count in zip(sizes, counts, strict=True):
        wave *= np.cos(size * angles) ** count
    chances = np.fft.ifft(wave).real.clip(0)  # entry k is the sum k, the negative ones from the end
    sums = np.arange(2 * reach + 1)
    sums = np.where(sums > reach, sums - 2 * reach - 1, sums)
    total = int(steps.sum())
    far = {"two-sided": abs(sums) >= abs(total), "greater": sums >= total, "less": sums <= total}
    return float(min(1.0, chances[far[alternative]].sum()))


@dataclass(frozen=True)
class Spread:
    """One number over several seeds.

    Attributes:
        mean: over the seeds.
        sd: standard deviation over the seeds, with n - 1.
        least: smallest value.
        most: largest value.
        low: lower end of the interval of the mean.
        high: upper end.
        n: how many seeds.
    """

    mean: float
    sd: float
    least: float
    most: float
    low: float
    high: float
    n: int


def over_seeds(values: ArrayLike, confidence: float = 0.95) -> Spread:
    """Return mean, spread and Student's interval (1908) of one number measured with several seeds.

    It says how much a training or an attack varies, on these images; how much the images vary is
    what the interval of each single value says.

    Args:
        values: (S,) one value per seed, at least two.
        confidence: coverage of the interval.

    Raises:
        ValueError: there are fewer than two values, or one is not finite.
    """
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) < 2 or not bool(np.isfinite(v).all()):
        raise ValueError(f"a spread needs two or more finite values, got {v.tolist()}")
    mean, sd = float(v.mean()), float(v.std(ddof=1))
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(v) - 1)) * sd / math.sqrt(len(v))
    return Spread(mean, sd, float(v.min()), float(v.max()), mean - half, mean + half, len(v))


def auc(negatives: ArrayLike, positives: ArrayLike, confidence: float = 0.95) -> Proportion:
    """Return the area under the ROC curve with its interval; ties count half.

    The interval is the normal one with the variance of Hanley & McNeil (1982), cut to [0, 1], and
    never narrower than Wilson's for a share of the smaller group. Several draws of each image are
    pooled, so the area is that of one draw; the interval counts the images alone.

    Args:
        negatives: (N,) or (N, draws) scores of clean images.
        positives: (M,) or (M, draws) scores of adversarial images, which should be higher.
        confidence: coverage.

    Raises:
        ValueError: one of the two is empty or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    low, high = np.asarray(negatives, dtype=float), np.asarray(positives, dtype=float)
    if not len(low) or not len(high):
        raise ValueError("an ROC curve needs scores of clean and of adversarial images")
    truth = np.repeat([0, 1], [low.size, high.size])
    area = float(roc_auc_score(truth, np.concatenate([low.ravel(), high.ravel()])))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (len(high) - 1) * (q1 - area**2) + (len(low) - 1) * (q2 - area**2)
    error = math.sqrt((area * (1 - area) + spread) / (len(low) * len(high)))
    half = float(NormalDist().inv_cdf((1 + confidence) / 2)) * error
    # The normal interval shrinks to nothing at 0 and 1; the smaller group says how little is known.
    fewest = min(len(low), len(high))
    floor = wilson(area * fewest, fewest, confidence)
    least, most = min(area - half, floor.low), max(area + half, floor.high)
    return Proportion(area, len(high), max(0.0, least), min(1.0, most))


def bootstrap_auc(
    negatives: ArrayLike,
    positives: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Proportion:
    """Return the area under the ROC curve with its bootstrap interval; ties count half.

    Images are drawn again together with what was made of them, because the two scores of an image
    go together, and the interval is that of the percentiles (Efron & Tibshirani 1993, chapter 13).
    It is never narrower than Wilson's for the share itself where one side is all above the other.

    Args:
        negatives: (N,) scores of clean images.
        positives: (N,) scores of what was made of the same images, in their order.
        seed: of the resamples.
        resamples: how many.
        confidence: coverage.

    Raises:
        ValueError: the two are not one score per image each, there are none, or one is not finite.
    """
    low, high = np.asarray(negatives, dtype=float), np.asarray(positives, dtype=float)
    if low.shape != high.shape or low.ndim != 1 or not len(low):
        raise ValueError(f"scores must be (N,) of the same images, got {low.shape}, {high.shape}")
    if not bool(np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("scores must be finite")
    values, ranks = np.unique(np.concatenate([low, high]), return_inverse=True)
    n, levels = len(low), len(values)

    def area(images: NDArray[np.int64]) -> float:
        below = np.bincount(ranks[:n][images], minlength=levels)
        above = np.bincount(ranks[n:][images], minlength=levels)
        return float((above * (np.cumsum(below) - below / 2)).sum()) / n**2

    drawn = np.random.default_rng(seed)
    areas = [area(drawn.integers(n, size=n)) for _ in range(resamples)]
    tail = (1 - confidence) / 2
    ends = np.quantile(areas, [tail, 1 - tail])
    found = area(np.arange(n))
    if found in (0.0, 1.0):
        floor = wilson(found * n, n, confidence)
        return Proportion(found, n, floor.low, floor.high)
    return Proportion(found, n, min(found, float(ends[0])), max(found, float(ends[1])))
