"""The derivative of the best probabilities (spec 002, 4.6), and what follows from them."""

import math

import pytest
import torch
from torch import Tensor

from redoubtable.defenses.mvm import SOLVERS, keep_probabilities, mvm_probabilities, variance

DRAWS = [1.0001, 1, 1.5, 2, 16, 200]
ROOTS = ["exact", "bisection", "large_c"]


def double(*row: float) -> Tensor:
    return torch.tensor([row], dtype=torch.float64)


def energies(*shape: int) -> Tensor:
    """Positive energies in double precision, some hundred times apart."""
    return torch.randn(*shape, dtype=torch.float64).mul(1.5).exp()


def differences(alpha: Tensor, draws: float, solver: str, v: Tensor) -> Tensor:
    """(1, N) d(sum v p) / d alpha by central differences of fourth order in log alpha."""
    step, n = 1e-3, alpha.shape[1]
    found = torch.zeros_like(alpha)
    for weight, length in ((8, 1), (-1, 2)):
        for sign in (1, -1):
            moved = alpha * (sign * length * step * torch.eye(n, dtype=alpha.dtype)).exp()
            found += weight * sign * (mvm_probabilities(moved, draws, solver) * v).sum(1)
    return found / (12 * step) / alpha


def gradient(alpha: Tensor, draws: float, solver: str, v: Tensor) -> Tensor:
    leaf = alpha.clone().requires_grad_()
    (found,) = torch.autograd.grad((mvm_probabilities(leaf, draws, solver) * v).sum(), leaf)
    return found


@pytest.mark.parametrize("solver", [*ROOTS, "sqrt"])
@pytest.mark.parametrize("draws", DRAWS)
def test_it_is_what_differences_say(solver: str, draws: float) -> None:
    for n in (2, 6, 20):
        alpha, v = energies(1, n), torch.randn(1, n, dtype=torch.float64)
        found = gradient(alpha, draws, solver, v) * alpha
        expected = differences(alpha, draws, solver, v) * alpha
        assert float((found - expected).abs().max()) <= 1e-7 * float(expected.abs().max())


@pytest.mark.parametrize("draws", [1, 2, 30])
def test_algorithm_2_has_it_too(draws: float) -> None:
    alpha, v = energies(3, 8).clamp(0.5, 2), torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(
        gradient(alpha, draws, "algorithm_2", v),
        gradient(alpha, draws, "exact", v),
        rtol=1e-3,
        atol=1e-6,
    )


@pytest.mark.parametrize("solver", ["exact", "large_c", "sqrt"])
@pytest.mark.parametrize("draws", [1, 2, 40])
def test_autograd_agrees_for_batches_and_for_second_derivatives(solver: str, draws: float) -> None:
    alpha = energies(2, 4).requires_grad_()

    def solved(a: Tensor) -> Tensor:
        return mvm_probabilities(a, draws, solver)

    assert torch.autograd.gradcheck(solved, alpha)
    assert torch.autograd.gradgradcheck(solved, alpha)


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("draws", [1, 1.5, 2, 64, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_energy_have_none_and_spoil_nothing(
    solver: str, draws: float, dtype: torch.dtype
) -> None:
    alpha = torch.tensor([[0, 0, 0, 0], [0, 2, 0, 0], [3, 0, 1, 0], [1, 1, 1, 1]], dtype=dtype)
    v, leaf = torch.randn(4, 4, dtype=dtype), alpha.clone().requires_grad_()
    value = (mvm_probabilities(leaf, draws, solver) * v).sum()
    (found,) = torch.autograd.grad(value, leaf, create_graph=True)
    (second,) = torch.autograd.grad(found.square().sum(), leaf)
    assert found.isfinite().all() and second.isfinite().all()
    assert not found[alpha == 0].any()
    assert not found[:2].any()
    assert found[2, 0] != 0 and (found[3] != 0).all()
    pair = gradient(alpha[2:3, [0, 2]], draws, solver, v[2:3, [0, 2]])
    torch.testing.assert_close(found[2:3, [0, 2]], pair)


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_a_change_of_scale_moves_nothing(solver: str) -> None:
    alpha, v = energies(5, 30), torch.randn(5, 30, dtype=torch.float64)
    along = gradient(alpha, 20, solver, v) * alpha
    assert float(along.sum(1).abs().max()) < 1e-14
    assert float(along.abs().max()) > 1e-4


@pytest.mark.parametrize("draws", [1, 1.0001, 1.5, 3, 40])
def test_single_precision_keeps_it_where_one_row_has_nearly_everything(draws: float) -> None:
    """What is left to the others is rounded away from the largest p."""
    alpha = torch.tensor([[1, 3e-15, 1e-15], [1, 1e-11, 2e-12]])
    v = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]])
    expected = gradient(alpha.double(), draws, "exact", v.double())
    found = gradient(alpha, draws, "exact", v)
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=0)


def test_images_have_the_gradient_of_their_own_energies() -> None:
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    x[0, 2] = 0
    x.requires_grad_()

    def value(x: Tensor) -> Tensor:
        return mvm_probabilities(x.square().sum(2), 4).square().sum(1)

    (found,) = torch.autograd.grad(value(x).sum(), x)
    with torch.no_grad():
        step = 1e-6 * torch.randn_like(x) * (x != 0)
        risen = (value(x + step) - value(x - step)).sum() / 2
    assert not found[0, 2].any()
    torch.testing.assert_close((found * step).sum(), risen, rtol=1e-6, atol=0)


@pytest.mark.parametrize("draws", [1, 1.5, 6, 60])
def test_the_least_variance_moves_as_if_p_stood_still(draws: float) -> None:
    """At an optimum the slope through p is none, so that of the variance is 1 / pi - 1."""
    alpha = energies(3, 10).requires_grad_()
    p = mvm_probabilities(alpha, draws)
    (found,) = torch.autograd.grad(variance(alpha, p, draws).sum(), alpha)
    pi = keep_probabilities(p.detach(), draws)
    torch.testing.assert_close(found, 1 / pi - 1, rtol=1e-9, atol=1e-13)


# -- what follows from the probabilities ---------------------------------------------------------


def test_keep_probabilities_are_exact_for_every_p() -> None:
    p = torch.tensor([0, 1e-30, 1e-9, 0.3, 1 - 2**-24, 1])
    for draws in (1, 2.5, 1000):
        expected = [-math.expm1(draws * math.log1p(-float(q))) if q < 1 else 1.0 for q in p]
        found = keep_probabilities(p, draws)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=3e-7, atol=0)
    assert keep_probabilities(p, 1000)[1] == pytest.approx(1e-27, rel=1e-6)


def test_the_variance_is_the_objective_without_its_constant() -> None:
    alpha, p = double(1, 2, 0), double(0.2, 0.7, 0.1)
    pi = keep_probabilities(p, 3)
    expected = (alpha * (1 / pi - 1)).sum(1)
    torch.testing.assert_close(variance(alpha, p, 3), expected)
    # Where all of it is lost to the constant, and where the power of e overflows.
    assert float(variance(double(1), double(0.5), 200)) == pytest.approx(2.0**-200)
    assert float(variance(torch.ones(1, 1), torch.full((1, 1), 0.5), 2000)) == 0
    assert variance(double(1, 1), double(1, 0), 3).tolist() == [math.inf]
    assert variance(double(1, 0), double(1, 0), 3).tolist() == [0]


@pytest.mark.parametrize("draws", [1, 2.5, 50])
def test_what_follows_from_p_has_slopes_too(draws: float) -> None:
    p = torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([[1.0, 3.0, 0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: keep_probabilities(q, draws), p)
    assert torch.autograd.gradcheck(lambda a, q: variance(a, q, draws), (alpha, p))


@pytest.mark.parametrize("draws", [1, 3, 2000])
def test_their_slopes_are_finite_at_the_ends(draws: float) -> None:
    alpha = torch.tensor([[0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    p = torch.tensor([[0.0, 1.0], [0.5, 0.5]], requires_grad=True)
    value = keep_probabilities(p, draws).sum() + variance(alpha, p, draws).sum()
    for slope in torch.autograd.grad(value, (alpha, p)):
        assert slope.isfinite().all()
