"""Shares over draws, paired differences and seeds: coverage by simulation, p by enumeration."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from redoubtable.evaluation.outcomes import accuracy
from redoubtable.statistics import (
    mcnemar,
    over_seeds,
    paired_difference,
    share_of_draws,
    sign_flip,
    wilson,
)

Chances = Callable[[np.random.Generator, int], tuple[NDArray[np.float64], float]]

# -- a thousand evaluations ----------------------------------------------------------------------


def sure(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], float]:
    """Every image is right or wrong for sure: no randomness in the model."""
    mean = rng.uniform(0.03, 0.97)
    return (rng.random(n) < mean).astype(float), mean


def alike(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], float]:
    """All images are right with the same probability."""
    mean = rng.uniform(0.03, 0.97)
    return np.full(n, mean), mean


def mixed(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], float]:
    """Every image has a probability of its own."""
    a, b = rng.uniform(0.3, 4, 2)
    return rng.beta(a, b, n), a / (a + b)


def mostly(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], float]:
    """Most images are right for sure, the others by a coin of their own kind."""
    few, chance = rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.9)
    return np.where(rng.random(n) < few, chance, 1.0), 1 - few + few * chance


@pytest.mark.parametrize("chances", [sure, alike, mixed, mostly])
@pytest.mark.parametrize(("n", "draws"), [(100, 1), (100, 20), (400, 5)])
def test_of_a_thousand_evaluations_the_interval_holds_in_95_percent(
    chances: Chances, n: int, draws: int
) -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        each, truth = chances(rng, n)
        good = rng.random((n, draws)) < each[:, None]
        found = accuracy(np.where(good, 0, 1).astype(np.int16), good).one_shot
        inside += found.low <= truth <= found.high
    assert 930 <= inside <= 970


def test_majority_and_worst_of_a_thousand_random_models_are_held_too() -> None:
    """Of images that are alike both follow from the binomial distribution."""
    rng = np.random.default_rng(2)
    n, draws, inside = 100, 5, np.zeros(2)
    for _ in range(1000):
        p = rng.uniform(0.3, 0.9)
        good = rng.random((n, draws)) < p
        found = accuracy(np.where(good, 0, 1).astype(np.int16), good)
        truths = stats.binom.sf(2, draws, p), p**draws
        for k, (share, truth) in enumerate(zip((found.majority, found.worst), truths, strict=True)):
            inside[k] += share.low <= truth <= share.high
    assert np.all((inside >= 930) & (inside <= 970)), inside


def test_wilson_on_a_mean_of_draws_holds_too_often_to_be_called_95_percent() -> None:
    """Why there is another interval."""
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(300):
        each, truth = alike(rng, 100)
        hits = rng.binomial(20, each).sum() / 20
        inside += wilson(hits, 100).low <= truth <= wilson(hits, 100).high
    assert inside == 300


# -- shares over draws ---------------------------------------------------------------------------

flags = st.lists(st.booleans(), min_size=1, max_size=60)


@given(flags)
def test_one_draw_each_is_wilsons(good: list[bool]) -> None:
    got = share_of_draws(np.array(good, dtype=int), np.ones(len(good)))
    expected = wilson(sum(good), len(good))
    assert got is not None
    assert (got.value, got.n) == (expected.value, expected.n)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


@given(flags, st.integers(2, 9))
def test_draws_that_always_agree_tell_no_more_than_one(good: list[bool], draws: int) -> None:
    hits = draws * np.array(good, dtype=int)
    got, expected = share_of_draws(hits, np.full(len(good), draws)), wilson(sum(good), len(good))
    assert got is not None
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


def test_a_share_of_draws_by_hand() -> None:
    """Hits 1, 3, 2 of 4 each: share 1/2, variance of the mean (1 + 1 + 0) / 12^2."""
    got = share_of_draws([1, 3, 2], [4, 4, 4])
    expected = wilson(0.5 * 12, 12)  # 0.25 / (2 / 144) = 18 examples, but 12 draws at most
    assert got is not None
    assert (got.value, got.n) == (0.5, 3)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    wider = share_of_draws([0, 4, 2], [4, 4, 4])
    effective = wilson(2.25, 4.5)  # type: ignore[arg-type]  # 0.25 / (8 / 144)
    assert wider is not None
    assert (wider.low, wider.high) == pytest.approx((effective.low, effective.high))


def test_examples_without_tries_do_not_count() -> None:
    assert share_of_draws([1, 0, 2], [2, 0, 2]) == share_of_draws([1, 2], [2, 2])
    assert share_of_draws([0, 0], [0, 0]) is None
    for hits, tries in (([2], [1]), ([-1], [1]), ([1, 1], [1])):
        with pytest.raises(ValueError, match="hits"):
            share_of_draws(hits, tries)


# -- pairs ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9))
def test_the_p_value_is_the_share_of_signs_that_go_as_far(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    steps = a - b
    sums = [abs(int(np.dot(s, steps))) for s in itertools.product((1, -1), repeat=len(steps))]
    expected = np.mean([s >= abs(int(steps.sum())) for s in sums])
    got = paired_difference(a, b, 3)
    assert got.p == pytest.approx(expected, abs=1e-9)
    assert got.value == pytest.approx((a.mean() - b.mean()) / 3)
    assert (got.better, got.worse, got.n) == ((steps > 0).sum(), (steps < 0).sum(), len(steps))
    assert -1 <= got.low <= got.value <= got.high <= 1


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_a_one_sided_p_value_is_that_of_its_direction(steps: list[int]) -> None:
    total = sum(steps)
    sums = [int(np.dot(s, steps)) for s in itertools.product((1, -1), repeat=len(steps))]
    more, less = np.mean([s >= total for s in sums]), np.mean([s <= total for s in sums])
    assert sign_flip(steps, "greater") == pytest.approx(more, abs=1e-9)
    assert sign_flip(steps, "less") == pytest.approx(less, abs=1e-9)


def test_shares_are_no_counts() -> None:
    with pytest.raises(ValueError, match="counts"):
        sign_flip([0.5, 1.0])
    assert sign_flip([0, 0], "less") == sign_flip([], "greater") == 1.0


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 20))
def test_one_draw_each_is_mcnemars_test(left: int, right: int, both: int) -> None:
    a = [1] * left + [0] * right + [1] * both
    b = [0] * left + [1] * right + [1] * both
    got = paired_difference(a, b)
    assert got.p == pytest.approx(mcnemar(a, b), abs=1e-9)
    # Agresti & Min 2005: half an example more in each of the four cells.
    n, more, less = left + right + both + 2, left + 0.5, right + 0.5
    centre, spread = (more - less) / n, (more + less) / n - ((more - less) / n) ** 2
    half = stats.norm.ppf(0.975) * math.sqrt(spread / n)
    assert got.low == pytest.approx(max(-1, min(got.value, centre - half)))
    assert got.high == pytest.approx(min(1, max(got.value, centre + half)))


def test_differences_of_a_thousand_pairs_are_held_and_rarely_raise_a_false_alarm() -> None:
    rng = np.random.default_rng(4)
    inside = alarms = 0
    for _ in range(1000):
        each, loss = rng.beta(2, 1, 150), rng.uniform(0.2, 0.8)
        a, b = rng.binomial(4, each), rng.binomial(4, loss * each)
        got = paired_difference(a, b, 4)
        inside += got.low <= (1 - loss) * 2 / 3 <= got.high
        alarms += paired_difference(a, rng.binomial(4, each), 4).p < 0.05
    assert 930 <= inside <= 975
    assert 20 <= alarms <= 65


def test_pairs_are_counts_of_the_draws() -> None:
    for a, b, draws in (([1, 0], [1], 1), ([2], [1], 1), ([0.5], [1], 1), ([], [], 1)):
        with pytest.raises(ValueError, match="paired"):
            paired_difference(a, b, draws)


# -- seeds ---------------------------------------------------------------------------------------


def test_the_spread_over_seeds_by_hand() -> None:
    got = over_seeds([0.5, 0.6, 0.7])
    assert (got.mean, got.sd, got.least, got.most, got.n) == pytest.approx((0.6, 0.1, 0.5, 0.7, 3))
    half = 4.302653 * 0.1 / math.sqrt(3)  # Student's t with 2 degrees of freedom
    assert (got.low, got.high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)
    for bad in ([0.5], [], [0.5, math.nan]):
        with pytest.raises(ValueError, match="two or more"):
            over_seeds(bad)


def test_the_interval_over_seeds_covers() -> None:
    rng = np.random.default_rng(5)
    found = [over_seeds(rng.normal(0.6, 0.05, 5)) for _ in range(1000)]
    assert 930 <= sum(f.low <= 0.6 <= f.high for f in found) <= 970
