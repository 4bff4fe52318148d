"""The derivative of the best probabilities to the energies, without unrolling the solver."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Solver = Callable[[Tensor, float], Tensor]
"""(B, N) energies and a number of draws to (B, N) probabilities."""


def with_derivative(solver: Solver, limit: bool = False) -> Solver:
    """Return a solver with the implicit derivative of the problem that it solves.

    All rows share log h(p_i) + log a_i = log lambda and the sum of p, so with k_i = -1 / (log h)'

        dp_i = k_i (d log a_i - sum_j k_j d log a_j / sum_j k_j).

    It costs as much as one step, and is right as far as the solver is. Rows without energy have no
    slope: p stands at the corner of the square root of their energy, whose slope is infinite. It
    may be differentiated again.

    Args:
        solver: what finds p.
        limit: whether it solves the limit of many draws, see `solver.large_c`.
    """

    def solve(alpha: Tensor, draws: float) -> Tensor:
        p: Tensor = _Implicit.apply(alpha, draws, solver, draws if limit else draws - 1)
        return p

    return solve


class _Implicit(torch.autograd.Function):
    """A solver's answer, and the slope of what it solves."""

    @staticmethod
    def forward(alpha: Tensor, draws: float, solver: Solver, tail: float) -> Tensor:
        return solver(alpha, draws)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        alpha, ctx.draws, _, ctx.tail = inputs
        ctx.save_for_backward(alpha, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        alpha, p = ctx.saved_tensors
        k = _mobility(p, alpha > 0, ctx.draws, ctx.tail)
        total = k.sum(1, keepdim=True)
        # Only differences matter. From the row that moves most, its own to the mean isn't lost to
        # rounding where that row is nearly all of the mean.
        v = gradients[0] - gradients[0].gather(1, k.argmax(1, keepdim=True))
        mean = (k * v).sum(1, keepdim=True) / torch.where(total > 0, total, 1)
        # Without energy k is 0, and 0 it must stay.
        return k * (v - mean) / torch.where(alpha > 0, alpha, 1), None, None, None


def _mobility(p: Tensor, support: Tensor, draws: float, tail: float) -> Tensor:
    """(B, N) k = (1 - p) / (tail + 2 c / expm1(c s)), how far p moves with log a; 0 off support."""
    # One row may have nearly everything; what it leaves is known better from the others.
    most = p > 0.5
    left = torch.where(most, torch.where(most, 0, p).sum(1, keepdim=True), 1 - p)
    moves = support & (left > 0)
    left = torch.where(moves, left, 0.5)
    minus_s = torch.where(most, left.log(), torch.log1p(-torch.where(moves & ~most, p, 0.5)))
    z = -draws * minus_s
    # 1 / expm1(z), which would overflow.
    odds = (-z).exp() / -torch.expm1(-z)
    return torch.where(moves, left / (tail + 2 * draws * odds), 0)
