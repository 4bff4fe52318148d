"""The sampling probabilities of matricised variance minimisation, and what follows from them."""

import math

import torch
from torch import Tensor

from redoubtable.defenses.mvm.algorithm_2 import algorithm_2
from redoubtable.defenses.mvm.derivative import Solver, with_derivative
from redoubtable.defenses.mvm.solver import bisection, exact, large_c, square_root

SOLVERS: dict[str, Solver] = {
    "exact": with_derivative(exact),
    "bisection": with_derivative(bisection),
    "algorithm_2": with_derivative(algorithm_2),
    "sqrt": square_root,
    "large_c": with_derivative(large_c, limit=True),
}
"""What `mvm_probabilities` can be told to use."""


def mvm_probabilities(alpha: Tensor, draws: float, solver: str = "exact") -> Tensor:
    """Return with which probabilities rows are drawn so that sampling changes a matrix the least.

    Sheikholeslami, Jain & Giannakis 2019, Efficient Randomized Defense against Adversarial Attacks
    in Deep Convolutional Neural Networks, section 2. A matrix has rows of energy a_i, their squared
    lengths. c rows are drawn with replacement; a row that was drawn is divided by the probability
    of that, pi_i = 1 - (1 - p_i)^c, and any other is dropped. The mean is the matrix itself, and
    the expected squared distance from it is sum a_i (1 / pi_i - 1), which p minimises.

    The scale of the energies makes no difference, a larger energy has a larger p, equal ones have
    equal p, and rows without energy have p = 0; where none has any, p is uniform.

    Args:
        alpha: (B, N) energies, finite and none negative. A gradient to them is exact for every
            solver but "algorithm_2", whose p is approximate; it is 0 where there is no energy.
        draws: c, a real number of at least 1.
        solver: "exact" takes a fixed number of steps and never waits for an accelerator;
            "bisection" has the same answer, slower; "algorithm_2" is the published projected
            gradient descent, far slower, and inexact for energies far apart; "sqrt" is right for
            c = 1 and good up to N / 2 draws; "large_c" is the limit of many draws, whose objective
            is within 3e-7 of the best from 512 draws on.

    Returns:
        (B, N) probabilities; each row sums to 1. In the precision of `alpha`, half precision is
        computed in single.

    Raises:
        TypeError: `alpha` is no floating-point tensor, or `draws` is no number.
        ValueError: `alpha` is not (B, N) with N of at least 1, or has negative, infinite or NaN
            values, `draws` is below 1, infinite or NaN, or `solver` is unknown.
    """
    _check_alpha(alpha)
    check_draws(draws)
    if solver not in SOLVERS:
        raise ValueError(f"`solver` must be one of {', '.join(SOLVERS)}; got {solver!r}")
    return solve(alpha, draws, solver)


def solve(alpha: Tensor, draws: float, solver: str = "exact") -> Tensor:
    """Return what `mvm_probabilities` does, unchecked: nothing looks at a value of `alpha`.

    "algorithm_2" does, to stop.
    """
    precise = alpha.to(torch.promote_types(alpha.dtype, torch.float32))
    return SOLVERS[solver](precise, float(draws)).to(alpha.dtype)


def keep_probabilities(p: Tensor, draws: float) -> Tensor:
    """Return pi = 1 - (1 - p)^c, with which each row is drawn at least once in c draws.

    To rounding for every p, tiny ones and 1 included. Values are not checked.

    Args:
        p: (..., N) probabilities of a draw.
        draws: c.
    """
    sure = p >= 1
    pi = -torch.expm1(draws * torch.log1p(-torch.where(sure, 0.5, p)))
    return torch.where(sure, 1, pi)


def variance(alpha: Tensor, p: Tensor, draws: float) -> Tensor:
    """Return the (...) expected squared distance of the sampled matrix, sum a (1 / pi - 1).

    Without the cancellation of that form, so that it tells how p compare where nearly all rows are
    kept. It is infinite where a row with energy is never drawn. Values are not checked.

    Args:
        alpha: (..., N) energies.
        p: (..., N) probabilities of a draw.
        draws: c.
    """
    counts = (alpha > 0) & (p < 1)
    minus_z = draws * torch.log1p(-torch.where(counts, p, 0.5))
    terms = alpha * minus_z.exp() / -torch.expm1(minus_z)
    return torch.where(counts, terms, 0).sum(-1)


def check_draws(draws: float) -> None:
    """Refuse what is no number of draws.

    Raises:
        TypeError: it is no number.
        ValueError: it is below 1, infinite or NaN.
    """
    if isinstance(draws, bool) or not isinstance(draws, int | float):
        raise TypeError(f"`draws` must be a number, got {type(draws).__name__}; pass one for all")
    if not 1 <= draws < math.inf:
        raise ValueError(
            f"`draws` must be finite and at least 1, got {draws}; the paper takes 0.5, 1 or 2 times"
            f" the number of rows"
        )


def _check_alpha(alpha: Tensor) -> None:
    if not isinstance(alpha, Tensor) or not alpha.is_floating_point():
        kind = alpha.dtype if isinstance(alpha, Tensor) else type(alpha).__name__
        raise TypeError(
            f"`alpha` must be a floating-point tensor, got {kind}; convert it by float()"
        )
    if alpha.ndim != 2 or not alpha.shape[1]:
        raise ValueError(
            f"`alpha` must be (B, N) with N of at least 1, got {tuple(alpha.shape)}; a single "
            f"matrix is alpha[None]"
        )
    bad = ~(torch.isfinite(alpha) & (alpha >= 0))
    if bool(bad.any()):
        row, place = (int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"`alpha` must be finite and not negative, got {float(alpha[row, place])} at "
            f"[{row}, {place}] and {int(bad.sum()) - 1} more; energies are z.square().sum(-1)"
        )
