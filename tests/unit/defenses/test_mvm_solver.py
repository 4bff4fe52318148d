"""The best sampling probabilities: vectors of spec 002, section 7, optimality, and odd inputs."""

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from redoubtable.defenses import mvm_probabilities
from redoubtable.defenses.mvm import (
    SOLVERS,
    algorithm_2,
    bisection,
    exact,
    gap,
    keep_probabilities,
    large_c,
    solve,
    variance,
)

VECTORS: list[tuple[list[float], float, list[float], float | None]] = [
    ([1, 2, 4, 8], 1, [0.1380711875, 0.1952621459, 0.2761423749, 0.3905242918], 52.4558441227),
    ([1, 2, 4, 8], 2, [0.1399839287, 0.1973370648, 0.2771087290, 0.3855702776], 30.6929817969),
    ([1, 2, 4, 8], 3, [0.1429418395, 0.2004015802, 0.2782108392, 0.3784457411], 23.7300117204),
    ([1, 2, 4, 8], 4, [0.1467065336, 0.2040505954, 0.2790373128, 0.3702055582], 20.4436177598),
    ([1, 2, 4, 8], 16, [0.1988767363, 0.2335309685, 0.2674225399, 0.3001697553], 15.1127100446),
    ([1, 2, 4, 8], 64, [0.2375773547, 0.2459198073, 0.2541709766, 0.2623318614], 15.0000001136),
    ([0, 1, 1, 2], 10, [0, 0.3170103940, 0.3170103940, 0.3659792121], 4.0663873755),
    ([1, 1e-6, 1e-6], 5, [0.9263539757, 0.0368230121, 0.0368230121], 1.0000138592),
    ([1, 2, 3], 1.5, [0.2426970358, 0.3415026593, 0.4158003049], 12.6481917606),
    ([5, 1], 1, [0.6909830056, 0.3090169944], None),
    ([1, 0, 0, 0], 16, [1, 0, 0, 0], None),
    ([0, 0, 0, 0], 7, [0.25, 0.25, 0.25, 0.25], 0.0),
]
CONVERGED = ("exact", "bisection", "algorithm_2")


def double(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def objective(alpha: Tensor, p: Tensor, draws: float) -> Tensor:
    """Sum of a / pi, the paper's form."""
    return torch.where(alpha > 0, alpha / keep_probabilities(p, draws), 0).sum(1)


def families(n: int, batch: int = 3) -> Tensor:
    """(8 * batch, n) energies of many kinds, in double precision."""
    u = torch.rand(batch, n, dtype=torch.float64)
    one = torch.zeros_like(u)
    one[:, 0] = 1
    return torch.cat(
        [
            benign(n, batch),
            (3 * torch.randn_like(u)).exp(),
            10 ** (-11 * u),
            one + 1e-11,
            1 + 1e-11 - one,
            one + 1e-22,
        ]
    )


def benign(n: int, batch: int = 3) -> Tensor:
    """(3 * batch, n) energies that aren't far apart: uniform, with zeros, with equal ones."""
    u = torch.rand(batch, n, dtype=torch.float64)
    zeros = torch.empty_like(u).exponential_() * (torch.rand_like(u) > 0.4)
    return torch.cat([u, zeros, (3 * torch.rand_like(u)).floor() + (u > 0.5) / 2])


def relu_like(batch: int, n: int) -> Tensor:
    """(batch, n) energies of 64 rectified channels, places of different strength."""
    maps = torch.randn(batch, n, 64).relu() * torch.rand(batch, n, 1)
    return maps.square().sum(2)


def kkt_spread(alpha: Tensor, p: Tensor, draws: float) -> float:
    """How far log(a h(p)) is from the same for all rows of a matrix that have energy."""
    # 1 - p of a row with nearly everything is known from the others; p itself has it rounded away.
    rest = torch.where(p > 0.5, 0, p).sum(1, keepdim=True)
    s = torch.where(p > 0.5, -rest.log(), -torch.log1p(-p.clamp_max(0.5)))
    logs = alpha.log() - (draws - 1) * s - 2 * (-torch.expm1(-draws * s)).log()
    support = alpha > 0
    high = torch.where(support, logs, -math.inf).amax(1)
    low = torch.where(support, logs, math.inf).amin(1)
    return float(torch.where(support.sum(1) > 1, high - low, 0).max())


# -- what is known -------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", CONVERGED)
@pytest.mark.parametrize(("alpha", "draws", "p", "value"), VECTORS)
def test_vectors_of_the_specification(
    solver: str, alpha: list[float], draws: float, p: list[float], value: float | None
) -> None:
    found = mvm_probabilities(double(alpha), draws, solver)
    close = 1e-6 if solver == "algorithm_2" else 1e-10
    torch.testing.assert_close(found, double(p), rtol=0, atol=close)
    if value is not None:
        assert float(objective(double(alpha), found, draws)) == pytest.approx(value, rel=1e-9)


def test_one_draw_and_little_more_meet() -> None:
    alpha = relu_like(3, 20).double()
    near, at = exact(alpha, 1 + 1e-9), exact(alpha, 1)
    torch.testing.assert_close(near, at, rtol=1e-7, atol=0)
    torch.testing.assert_close(at, alpha.sqrt() / alpha.sqrt().sum(1, keepdim=True))


@pytest.mark.parametrize("n", [2, 3, 16, 64, 1024])
def test_the_conditions_of_the_optimum_hold(n: int) -> None:
    alpha = families(n)
    for draws in (1.0001, 1.5, 2, 3, 0.1 * n, 0.5 * n, n, 2 * n, 16 * n, 100 * n):
        if draws <= 1:
            continue
        p = exact(alpha, draws)
        assert kkt_spread(alpha, p, draws) <= 1e-12, draws
        assert float((p.sum(1) - 1).abs().max()) <= 1e-14
        assert float(gap(alpha, draws).max()) <= 1e-13, draws
        assert not p[alpha == 0].any()


@pytest.mark.parametrize("n", [2, 50])
def test_bisection_has_the_same_answer(n: int) -> None:
    alpha = families(n)
    for draws in (1, 1.01, 1.5, 2, 0.5 * n, 2 * n, 16 * n):
        torch.testing.assert_close(bisection(alpha, draws), exact(alpha, draws), rtol=1e-12, atol=0)
    assert float((bisection(alpha, 2, outer=12) - exact(alpha, 2)).abs().max()) > 1e-7  # it halves


def test_more_steps_solve_energies_further_apart_and_the_gap_tells() -> None:
    alpha = 10 ** (-150 * torch.rand(8, 40, dtype=torch.float64))
    assert float(gap(alpha, 60).max()) > 1e-9
    assert float(gap(alpha, 60, outer=60).max()) < 1e-14
    assert kkt_spread(alpha, exact(alpha, 60, outer=60), 60) <= 1e-12


@pytest.mark.parametrize("draws", [2, 8, 30])
def test_scipy_finds_nothing_better(draws: float) -> None:
    for alpha in (torch.rand(1, 8, dtype=torch.float64), relu_like(1, 12).double()):
        a = (alpha / alpha.max()).numpy()[0]

        def cost(p: np.ndarray, a: np.ndarray = a) -> float:
            return float((a / -np.expm1(draws * np.log1p(-p))).sum())

        def slope(p: np.ndarray, a: np.ndarray = a) -> np.ndarray:
            return -a * draws * (1 - p) ** (draws - 1) / np.expm1(draws * np.log1p(-p)) ** 2

        theirs = minimize(
            cost,
            np.full(len(a), 1 / len(a)),
            jac=slope,
            method="SLSQP",
            bounds=[(1e-9, 1 - 1e-9)] * len(a),
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        ours = exact(alpha, draws)
        assert cost(ours.numpy()[0]) == pytest.approx(theirs.fun, rel=1e-9)
        assert cost(ours.numpy()[0]) <= theirs.fun * (1 + 1e-14)
        np.testing.assert_allclose(ours.numpy()[0], theirs.x, atol=1e-5)


@pytest.mark.parametrize("draws", [1, 4, 32, 64, 512, 2048])
def test_algorithm_2_comes_to_the_same_objective(draws: float) -> None:
    alpha = benign(64)
    best, theirs = exact(alpha, draws), algorithm_2(alpha, draws)
    least = variance(alpha, best, draws)
    assert bool((variance(alpha, theirs, draws) >= least * (1 - 1e-13)).all())
    torch.testing.assert_close(variance(alpha, theirs, draws), least, rtol=1e-7, atol=0)
    torch.testing.assert_close(theirs, best, rtol=0, atol=1e-4 / 64)


def test_algorithm_2_takes_the_published_steps() -> None:
    alpha, p = np.array([1.0, 2.0, 4.0, 8.0]), np.full(4, 0.25)
    for length in (0.5 / 4, 0.75 / 4):
        slope = alpha / p**2
        r = p + length * slope / slope.max()
        p = r - (r.sum() - 1) / 4  # the projection, far from the sides
    found = algorithm_2(double([1, 2, 4, 8]), 1, steps=2)
    np.testing.assert_allclose(found[0].numpy(), p, rtol=1e-12)


def test_algorithm_2_resolves_what_is_kept_nearly_surely() -> None:
    alpha = double([1, 2, 4, 8])
    torch.testing.assert_close(algorithm_2(alpha, 4000), exact(alpha, 4000), rtol=0, atol=1e-7)


def test_algorithm_2_wastes_no_steps_where_there_is_nothing_to_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("redoubtable.defenses.mvm.algorithm_2")
    project, calls = module._project, []

    def counted(r: Tensor) -> Tensor:
        calls.append(len(r))
        return project(r)

    monkeypatch.setattr(module, "_project", counted)
    algorithm_2(SPECIAL[:3], 8)
    assert len(calls) <= 3


def test_algorithm_2_stops_a_row_when_it_is_told_to() -> None:
    alpha = benign(64)
    values = [variance(alpha, algorithm_2(alpha, 64, steps=k), 64).sum() for k in (1, 5, 20, 800)]
    assert values == sorted(values, reverse=True)
    torch.testing.assert_close(algorithm_2(alpha, 64)[1:2], algorithm_2(alpha[1:2], 64))
    at_once = algorithm_2(alpha, 64, tolerance=1e9)
    assert float(variance(alpha, at_once, 64).sum()) > float(values[1])


# -- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [64, 1024])
def test_single_precision_is_right_to_five_digits(n: int) -> None:
    alpha = relu_like(8, n)
    alpha[:, ::3] = 0
    for draws in (1, 1.5, 2, 0.5 * n, n, 2 * n, 16 * n):
        p = mvm_probabilities(alpha, draws)
        assert p.dtype == torch.float32
        torch.testing.assert_close(
            p.double(), exact(alpha.double(), draws), rtol=1e-5, atol=0, msg=str(draws)
        )
        assert float(gap(alpha, draws).max()) < 2e-6


def test_single_precision_holds_for_energies_far_apart() -> None:
    alpha = families(16).float()
    for draws in (1.0001, 1.5, 3, 16, 1600, 160_000):
        expected = exact(alpha.double(), draws).float()
        for solver in ("exact", "bisection"):
            p = mvm_probabilities(alpha, draws, solver)
            torch.testing.assert_close(p, expected, rtol=1e-5, atol=0, msg=f"{solver} {draws}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draws", [1, 1.5, 16, 4096, 1e6])
def test_the_largest_and_the_smallest_energies_there_are(dtype: torch.dtype, draws: float) -> None:
    limits = torch.finfo(dtype)
    least = limits.tiny * limits.eps  # the smallest subnormal
    counts = torch.tensor([[1, 2, 4, 0, 8]], dtype=dtype)
    expected = exact(counts, draws)
    for alpha in (counts * least, counts * (limits.max / 8)):
        for solver, close in (("exact", 1e-5), ("bisection", 1e-5), ("algorithm_2", 1e-3)):
            found = mvm_probabilities(alpha, draws, solver)
            torch.testing.assert_close(found, expected, rtol=close, atol=close / 10)
    both = torch.tensor([[least, limits.max]], dtype=dtype)
    for solver in SOLVERS:
        p = mvm_probabilities(both, draws, solver)
        assert p.isfinite().all() and float(p.sum()) == pytest.approx(1)
        assert 0 < p[0, 0] <= p[0, 1]
    crowd = torch.full((1, 5000), limits.max, dtype=dtype)
    crowd[0, 0] = least
    assert float(exact(crowd, draws)[0, 1:].sum()) == pytest.approx(1, abs=1e-3)
    assert float(gap(crowd, min(draws, 100)).max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    alpha = relu_like(2, 20).to(dtype)
    for solver in ("exact", "sqrt", "large_c"):
        p = mvm_probabilities(alpha, 30, solver)
        assert p.dtype == dtype
        assert torch.equal(p, mvm_probabilities(alpha.float(), 30, solver).to(dtype))


# -- properties ----------------------------------------------------------------------------------

ROUNDING = 1 + 1e-11
some = settings(max_examples=40)
values = st.one_of(st.just(0.0), st.floats(1e-11, 1.0), st.sampled_from([0.25, 0.5]))
energies = st.lists(values, min_size=2, max_size=12).filter(any)
counts_of_draws = st.one_of(st.floats(1, 60), st.sampled_from([1, 1.5, 2, 500]))


@some
@given(energies, counts_of_draws, st.integers(-60, 60), st.randoms(use_true_random=False))
def test_scale_makes_no_difference_and_order_only_to_the_order(
    row: list[float], draws: float, power: int, random: Any
) -> None:
    alpha = double(row)
    p = exact(alpha, draws)
    torch.testing.assert_close(exact(alpha * 2.0**power, draws), p, rtol=1e-13, atol=0)
    order = list(range(len(row)))
    random.shuffle(order)
    torch.testing.assert_close(exact(alpha[:, order], draws), p[:, order], rtol=1e-12, atol=0)


@some
@given(energies, counts_of_draws)
def test_more_energy_has_more_probability_and_nothing_simple_is_better(
    row: list[float], draws: float
) -> None:
    alpha = double(row)
    p = exact(alpha, draws)
    ranked = p[0, alpha[0].argsort()]
    assert bool((ranked.diff() >= -1e-14).all())
    assert torch.equal(p > 0, alpha > 0)
    for other in (
        (alpha > 0) / (alpha > 0).double().sum(),
        alpha / alpha.sum(),
        solve(alpha, draws, "sqrt"),
    ):
        for measure in (objective, variance):
            assert float(measure(alpha, p, draws)) <= float(measure(alpha, other, draws)) * ROUNDING


@some
@given(st.integers(1, 40), st.floats(1e-30, 1e30), counts_of_draws)
def test_equal_energies_have_equal_probabilities(n: int, value: float, draws: float) -> None:
    for solver in ("exact", "algorithm_2", "sqrt", "large_c"):
        p = mvm_probabilities(double([value] * n), draws, solver)
        torch.testing.assert_close(p, torch.full_like(p, 1 / n), rtol=1e-14, atol=0)


# -- batches -------------------------------------------------------------------------------------

SPECIAL = double([0, 0, 0, 0], [0, 3, 0, 0], [1, 1, 1, 1], [1, 2, 4, 8], [5, 0, 1, 0])


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("draws", [1, 1.5, 8, 2000])
def test_a_matrix_alone_has_what_it_has_in_a_batch(solver: str, draws: float) -> None:
    before = SPECIAL.clone()
    p = mvm_probabilities(SPECIAL, draws, solver)
    assert torch.equal(SPECIAL, before)
    for i, row in enumerate(SPECIAL):
        torch.testing.assert_close(mvm_probabilities(row[None], draws, solver), p[i : i + 1])
    assert p[0].tolist() == [0.25] * 4
    assert p[1].tolist() == [0, 1, 0, 0]
    assert p[4, 1] == p[4, 3] == 0
    torch.testing.assert_close(p.sum(1), torch.ones(5, dtype=p.dtype))
    assert mvm_probabilities(double([7]), draws, solver).tolist() == [[1]]
    assert mvm_probabilities(torch.zeros(0, 5), draws, solver).shape == (0, 5)
    assert gap(SPECIAL, draws)[:2].tolist() == [0, 0]


@pytest.mark.parametrize("solver", ["exact", "bisection", "sqrt", "large_c"])
def test_nothing_waits_for_a_value(solver: str) -> None:
    """Tensors without values refuse every look at one."""
    alpha = torch.rand(3, 5, device="meta", requires_grad=True)
    p = solve(alpha, 20, solver)
    variance(alpha, p, 20).sum().backward()
    assert alpha.grad is not None and keep_probabilities(p, 20).shape == (3, 5)


def test_the_approximations_are_good_where_they_claim_to_be() -> None:
    def excess(solver: str, n: int, draws: int) -> float:
        alpha = torch.cat([relu_like(4, n).double(), benign(n)])
        least = objective(alpha, exact(alpha, draws), draws)
        found = objective(alpha, mvm_probabilities(alpha, draws, solver), draws)
        return float(((found - least) / least).max())

    assert excess("large_c", 1024, 512) < 3e-7
    assert 1e-9 < excess("large_c", 64, 64) < 1e-4
    assert excess("sqrt", 1024, 512) < 0.01
    alpha = relu_like(2, 64).double()
    torch.testing.assert_close(large_c(alpha, 1e7), exact(alpha, 1e7), rtol=1e-7, atol=0)
    assert torch.equal(mvm_probabilities(alpha, 50, "sqrt"), exact(alpha, 1))


# -- what is refused -----------------------------------------------------------------------------

ALPHA = torch.tensor([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("alpha", "draws", "solver", "error", "message"),
    [
        (torch.tensor([[1.0, 2.0], [3.0, -1.0]]), 2, "exact", ValueError, r"-1.0 at \[1, 1\]"),
        (torch.tensor([[1.0, math.nan]]), 2, "exact", ValueError, r"nan at \[0, 1\]"),
        (torch.tensor([[math.inf, 1.0]]), 2, "exact", ValueError, r"inf at \[0, 0\] and 0 more"),
        (torch.ones(3), 2, "exact", ValueError, r"\(B, N\).*got \(3,\)"),
        (torch.ones(1, 2, 3), 2, "exact", ValueError, r"got \(1, 2, 3\)"),
        (torch.ones(2, 0), 2, "exact", ValueError, r"got \(2, 0\)"),
        (torch.ones(1, 2, dtype=torch.int64), 2, "exact", TypeError, "torch.int64"),
        ([[1.0, 2.0]], 2, "exact", TypeError, "got list"),
        (ALPHA, 0.99, "exact", ValueError, "`draws` must be finite and at least 1, got 0.99"),
        (ALPHA, math.nan, "exact", ValueError, "got nan"),
        (ALPHA, math.inf, "exact", ValueError, "got inf"),
        (ALPHA, True, "exact", TypeError, "`draws` must be a number, got bool"),
        (ALPHA, torch.tensor(2.0), "exact", TypeError, "got Tensor"),
        (ALPHA, 2, "newton", ValueError, "exact, bisection, algorithm_2, sqrt, large_c; got 'new"),
    ],
)
def test_what_is_no_question_is_refused(
    alpha: Any, draws: Any, solver: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mvm_probabilities(alpha, draws, solver)
