"""Intervals and tests against scipy, hand numbers, simulation and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from redoubtable.statistics import (
    auc,
    clopper_pearson,
    lower_bound,
    mcnemar,
    mean_share,
    wilson,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_intervals_are_those_of_scipy(count: tuple[int, int], confidence: float) -> None:
    hits, n = count
    test = stats.binomtest(hits, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        got = ours(hits, n, confidence)
        expected = test.proportion_ci(confidence, method=method)
        assert got.value == pytest.approx(hits / n)
        assert got.n == n
        assert got.low == pytest.approx(expected.low, abs=1e-9)
        assert got.high == pytest.approx(expected.high, abs=1e-9)


@given(counts)
def test_intervals_hold_their_share_and_stay_in_the_unit_interval(count: tuple[int, int]) -> None:
    for interval in (wilson, clopper_pearson):
        got = interval(*count)
        assert 0 <= got.low <= got.value <= got.high <= 1
        assert got.low < got.high


@given(st.integers(1, 50), st.floats(0, 1))
def test_wilson_takes_fractional_hits_between_the_whole_ones(n: int, part: float) -> None:
    hits = part * n
    below, above = wilson(math.floor(hits), n), wilson(min(n, math.ceil(hits)), n)
    got = wilson(hits, n)
    assert below.low - 1e-12 <= got.low <= above.low + 1e-12
    assert below.high - 1e-12 <= got.high <= above.high + 1e-12


def test_hand_value() -> None:
    got = wilson(8, 10)  # Wilson 1927 with z = 1.959964: centre 0.7167, half width 0.2266
    assert (got.low, got.high) == pytest.approx((0.49016, 0.94331), abs=1e-5)
    assert str(wilson(250, 500)) == "50.0% [45.6, 54.4]"


def coverage(interval, share: float, n: int) -> float:  # type: ignore[no-untyped-def]
    """Exact probability that the interval holds the true share."""
    hits = np.arange(n + 1)
    inside = [interval(int(k), n).low <= share <= interval(int(k), n).high for k in hits]
    return float(stats.binom.pmf(hits, n, share)[inside].sum())


@pytest.mark.parametrize("share", [0.02, 0.1, 0.37, 0.5, 0.9])
@pytest.mark.parametrize("n", [30, 100])
def test_intervals_cover(share: float, n: int) -> None:
    assert coverage(clopper_pearson, share, n) >= 0.95
    assert coverage(wilson, share, n) >= 0.92  # on average 0.95, not at each single share


def test_wilson_covers_on_average() -> None:
    shares = np.linspace(0.01, 0.99, 99)
    assert np.mean([coverage(wilson, p, 60) for p in shares]) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("hits", "n"), [(-1, 10), (11, 10), (0, 0), (3, -2)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="must"):
            interval(hits, n)
    with pytest.raises(ValueError, match="must"):
        lower_bound(hits, n, 0.05)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, -0.1])
def test_confidence_lies_inside_the_unit_interval(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, confidence)
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson(1, 2, confidence)


@given(counts, st.sampled_from([0.001, 0.05]))
def test_lower_bound_is_one_sided(count: tuple[int, int], alpha: float) -> None:
    hits, n = count
    got = lower_bound(hits, n, alpha)
    expected = stats.binomtest(hits, n, alternative="greater").proportion_ci(1 - alpha)
    assert got == pytest.approx(expected.low, abs=1e-9)
    if hits:  # had the share been the bound, so many hits would have had probability alpha
        assert stats.binom.sf(hits - 1, n, got) == pytest.approx(alpha, rel=1e-6)


# -- McNemar -------------------------------------------------------------------------------------


def paired(both: int, left: int, right: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * both + [1] * left + [0] * right + [0] * neither
    b = [1] * both + [0] * left + [1] * right + [0] * neither
    return a, b


@pytest.mark.parametrize(
    ("left", "right", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (6, 1, 2 * 8 / 128),
        (4, 4, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar_by_hand(left: int, right: int, p: float) -> None:
    for both, neither in ((0, 0), (7, 3)):
        a, b = paired(both, left, right, neither)
        assert mcnemar(a, b) == pytest.approx(p)
        assert mcnemar(b, a) == pytest.approx(p)


def tail(k: int, n: int) -> float:
    """Probability of k heads or more in n throws."""
    return sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5))
def test_mcnemar_in_one_direction_is_exact(left: int, right: int, both: int) -> None:
    a, b = paired(both, left, right, 3)
    differ = left + right
    more, fewer = mcnemar(a, b, "greater"), mcnemar(a, b, "less")
    assert more == pytest.approx(tail(left, differ))
    assert fewer == pytest.approx(tail(right, differ))
    assert fewer == mcnemar(b, a, "greater")
    if differ:
        test = stats.binomtest(left, differ, 0.5, alternative="greater")
        assert more == pytest.approx(test.pvalue)
    if left == right:  # a tie speaks for neither
        assert more > 0.5 < fewer


@pytest.mark.parametrize("differ", [1, 5, 6, 9, 40])
def test_both_directions_at_two_and_a_half_percent_raise_few_false_alarms(differ: int) -> None:
    """Of two equally good models, over every way in which the examples can differ."""
    alarms = 0.0
    for left in range(differ + 1):
        a, b = paired(0, left, differ - left, 0)
        ps = mcnemar(a, b, "greater"), mcnemar(a, b, "less")
        alarms += (min(ps) < 0.025) * math.comb(differ, left) / 2**differ
    assert alarms <= 0.05
    assert alarms > 0 or differ < 6


def test_mcnemar_refuses_outcomes_of_other_lengths() -> None:
    with pytest.raises(ValueError, match="paired"):
        mcnemar([1, 0], [1])
    with pytest.raises(ValueError, match="paired"):
        mcnemar([[1, 0]], [[1, 0]])


# -- area under the curve ------------------------------------------------------------------------

scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(scores, scores)
def test_area_is_the_share_of_ordered_pairs_ties_half(
    negatives: list[float], positives: list[float]
) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    got = auc(negatives, positives)
    assert got.value == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= got.low <= got.value + 1e-12
    assert got.value - 1e-12 <= got.high <= 1
    assert got.n == len(positives)


def test_area_by_hand_and_its_interval() -> None:
    """Hanley & McNeil 1982: A = 0.75, Q1 = 0.6, Q2 = 0.642857 with 4 and 4 scores."""
    got = auc([1, 2, 3, 4], [2.5, 3.5, 3.7, 4.5])
    assert got.value == pytest.approx(12 / 16)
    area = 12 / 16
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = math.sqrt((area * (1 - area) + 3 * (q1 - area**2) + 3 * (q2 - area**2)) / 16)
    few = wilson(3, 4)  # the normal interval must not claim more than four scores can tell
    assert got.low == pytest.approx(min(area - 1.959964 * error, few.low), abs=1e-6)
    assert got.high == pytest.approx(min(1.0, area + 1.959964 * error), abs=1e-6)


def test_area_interval_covers() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    inside = 0
    for _ in range(200):
        got = auc(rng.normal(0, 1, 60), rng.normal(1, 1, 60))
        inside += got.low <= truth <= got.high
    assert inside / 200 >= 0.9


@pytest.mark.parametrize(
    ("negatives", "positives"),
    [([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([0.0], [math.inf])],
)
def test_area_needs_finite_scores_of_both(negatives: list[float], positives: list[float]) -> None:
    with pytest.raises(ValueError):
        auc(negatives, positives)


def test_the_mean_of_shares_by_hand() -> None:
    got = mean_share([0.5, 0.6, 0.7])
    half = 4.302653 * 0.1 / math.sqrt(3)  # Student's t with 2 degrees of freedom
    assert (got.value, got.low, got.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)
    assert got.n == 3
    assert mean_share([0.5, 0.6, 0.7], 0.5).high < got.high
    alone = mean_share([0.3])
    assert (alone.value, alone.n, alone.low, alone.high) == (0.3, 1, 0.0, 1.0)
    cut = mean_share([0.0, 0.0, 1.0])
    assert cut.low == 0 and mean_share([1.0, 0.9]).high == 1
    for bad in ([], [1.1], [-0.1, 0.5], [math.nan], [[0.5]]):
        with pytest.raises(ValueError, match="a mean share needs"):
            mean_share(bad)


def test_the_interval_of_a_mean_share_covers() -> None:
    rng = np.random.default_rng(5)
    found = [mean_share(rng.beta(2, 6, 40)) for _ in range(1000)]
    assert 930 <= sum(f.low <= 0.25 <= f.high for f in found) <= 970
