"""The bootstrap interval of the area under an ROC curve."""

import math

import numpy as np
import pytest

from redoubtable.statistics import auc, bootstrap_auc


def test_the_area_is_that_of_all_pairs_with_ties_for_half() -> None:
    clean, attacked = [0.0, 0.0, 1.0, 2.0], [0.0, 1.0, 3.0, 0.5]
    pairs = [(a > c) + 0.5 * (a == c) for a in attacked for c in clean]
    assert bootstrap_auc(clean, attacked).value == pytest.approx(sum(pairs) / 16)
    assert bootstrap_auc(clean, attacked).value == pytest.approx(auc(clean, attacked).value)
    assert bootstrap_auc(attacked, clean).value == pytest.approx(1 - sum(pairs) / 16)


def test_a_seed_repeats_it_and_more_confidence_is_wider() -> None:
    rng = np.random.default_rng(0)
    clean, attacked = rng.normal(0, 1, 60), rng.normal(1, 1, 60)
    found = bootstrap_auc(clean, attacked, seed=1)
    assert found == bootstrap_auc(clean, attacked, seed=1)
    assert found != bootstrap_auc(clean, attacked, seed=2)
    wide = bootstrap_auc(clean, attacked, seed=1, confidence=0.99)
    assert wide.low < found.low < found.value < found.high < wide.high
    assert found.n == 60


def test_pairs_are_drawn_together() -> None:
    """Scores that move together image by image: the area hardly varies, apart it would."""
    rng = np.random.default_rng(3)
    base = rng.normal(0, 1, 200)
    together = bootstrap_auc(base, base + 0.3)
    apart = bootstrap_auc(base, rng.permutation(base) + 0.3)
    assert together.high - together.low < 0.5 * (apart.high - apart.low)


def test_the_interval_covers() -> None:
    """Normal scores one apart: the area is Phi(1 / sqrt 2)."""
    rng, true = np.random.default_rng(7), 0.7602499
    hits = 0
    for seed in range(300):
        found = bootstrap_auc(rng.normal(0, 1, 80), rng.normal(1, 1, 80), seed=seed, resamples=300)
        hits += found.low <= true <= found.high
    assert 270 <= hits <= 297


def test_a_perfect_area_is_no_certainty() -> None:
    found = bootstrap_auc([0.0] * 20, [1.0] * 20)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.839, abs=0.001)  # Wilson's of 20 of 20


@pytest.mark.parametrize(
    ("clean", "attacked"), [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0]), ([[1.0]], [[1.0]])]
)
def test_scores_that_are_none_are_refused(clean: list[float], attacked: list[float]) -> None:
    with pytest.raises(ValueError, match="scores must be"):
        bootstrap_auc(clean, attacked)
