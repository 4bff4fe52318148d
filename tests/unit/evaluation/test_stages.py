"""A comparison in stages raises few false alarms and notices what it says that it notices."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from redoubtable.evaluation.checks.stages import IMAGES, LEVEL, Comparison, compare, ends

RUNS = 600
DRAWS = 10
Counts = NDArray[np.int64]


def run(before: Counts, after: Counts, answers: int, few: float = 0.0) -> Comparison:
    stages = ends(len(before))
    return compare(stages, answers, lambda rows: (before[rows], after[rows]), few)


def found(draw: Callable[[Any], tuple[Counts, Counts]], answers: int) -> tuple[float, float, float]:
    """Share of runs in which fewer stand and in which more do, and how many images they took."""
    rng = np.random.default_rng(7)
    seen = [run(*draw(rng), answers) for _ in range(RUNS)]
    fewer = sum(s.differs and s.after < s.before for s in seen) / RUNS
    more = sum(s.differs and s.after > s.before for s in seen) / RUNS
    return fewer, more, sum(s.n for s in seen) / RUNS


def hidden(rng: Any, n: int = 150) -> NDArray[np.float64]:
    """How probable it is that an image stands: some never do, some always, most in between."""
    return np.clip(rng.beta(0.5, 0.5, n), 0, 1)


def test_stages_end_with_the_images() -> None:
    assert ends(1000) == ends(150) == list(IMAGES) == [50, 100, 150]
    assert ends(120) == [50, 100, 120]
    assert ends(60) == [50, 60]
    assert ends(50) == [50]
    assert ends(7) == [7]
    assert ends(500, whole=True) == [500]


@pytest.mark.parametrize("n", [150, 80, 40])
def test_a_converged_attack_passes(n: int) -> None:
    """With new luck in attack and draws, 95% pass at least; in each direction 2.5% fail at most."""

    def draw(rng: Any) -> tuple[Counts, Counts]:
        stands = hidden(rng, n)
        luck = [np.clip(stands + rng.normal(0, 0.2, n), 0, 1) for _ in range(2)]
        return rng.binomial(DRAWS, luck[0]), rng.binomial(DRAWS, luck[1])

    fewer, more, images = found(draw, DRAWS)
    slack = 2.5 * (LEVEL / RUNS) ** 0.5
    assert fewer <= LEVEL + slack and more <= LEVEL + slack and fewer + more <= 0.05 + slack
    assert images < 0.62 * n or n < 100, "half of the images are enough"


@pytest.mark.parametrize("sign", [-1, 1])
def test_what_it_says_that_it_notices_it_notices_without_chance(sign: int) -> None:
    """Nine times in ten, an image in so many changing."""
    notices = run(np.ones(150, dtype=int), np.ones(150, dtype=int), 1).notices
    assert 0.06 < notices < 0.09

    def draw(rng: Any) -> tuple[Counts, Counts]:
        changed, same = (rng.random(150) < notices).astype(int), np.zeros(150, dtype=int)
        return (changed, same) if sign < 0 else (same, changed)

    fewer, more, _ = found(draw, 1)
    assert (fewer, more)[sign > 0] >= 0.88 and (fewer, more)[sign < 0] == 0


@pytest.mark.parametrize("luck", [0.1, 0.25])
def test_what_it_says_that_it_notices_it_notices_with_chance(luck: float) -> None:
    def change(rng: Any, by: float) -> tuple[Counts, Counts]:
        stands = rng.beta(0.5, 0.5, 150)
        # Images that stand fall altogether, so many that the mean falls by as much.
        falls = rng.random(150) < 2 * by
        chances = [stands, np.where(falls, 0, stands)]
        noisy = [np.clip(c + rng.normal(0, luck, 150), 0, 1) for c in chances]
        return rng.binomial(DRAWS, noisy[0]), rng.binomial(DRAWS, noisy[1])

    rng = np.random.default_rng(3)
    says = np.mean([run(*change(rng, 0.0), DRAWS).notices for _ in range(30)])
    assert 0.08 < says < 0.15
    fewer, _, _ = found(lambda rng: change(rng, float(says)), DRAWS)
    assert fewer >= 0.9


@pytest.mark.parametrize(("n", "level"), [(50, 0.025), (80, 0.022), (150, 0.016)])
def test_the_last_stage_has_what_is_left_of_the_level(n: int, level: float) -> None:
    before = np.zeros(n, dtype=int)
    before[:3] = 1
    seen = run(before, np.zeros(n, dtype=int), 1)
    assert seen.stages == seen.of_stages == len(ends(n)) and seen.n == n
    assert seen.level == pytest.approx(level)
    assert not seen.differs and seen.p == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("falls", "n", "differs"),
    [
        ([], 50, False),
        ([0], 50, False),  # no hint
        ([0, *range(50, 90)], 50, False),  # what comes later is not seen
        ([0, 1], 150, False),  # a hint, and nothing more
        (range(8), 100, True),  # 1/256 is not below 0.3%, but below 0.6%
        (range(9), 50, True),  # 1/512
        ([0, 1, *range(50, 56)], 100, True),
        ([0, 1, *range(100, 104)], 150, True),  # 1/64 is below 1.6%
        ([0, 1, *range(100, 103)], 150, False),  # 1/32 is not
    ],
)
def test_it_ends_when_it_is_decided(falls: Any, n: int, differs: bool) -> None:
    before, after = np.ones(150, dtype=int), np.ones(150, dtype=int)
    after[list(falls)] = 0
    seen = run(before, after, 1)
    assert (seen.n, seen.differs) == (n, differs)
    assert seen.after == pytest.approx(1 - sum(f < n for f in falls) / n)
    seen = run(after, before, 1)  # the other direction likewise
    assert (seen.n, seen.differs) == (n, differs)


def test_a_small_difference_is_none_however_sure() -> None:
    before = np.full(150, 100)
    seen = run(before, before - 1, 100, few=0.02)
    assert not seen.differs and seen.n == 50 and seen.p < 1e-9
    assert run(before, before - 3, 100, few=0.02).differs


def test_too_few_images_notice_nothing() -> None:
    flat = np.zeros(5, dtype=int)
    assert run(flat, flat, 1).notices == 1.0
    assert not run(flat + 1, flat, 1).differs
