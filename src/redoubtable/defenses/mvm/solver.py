"""The best sampling probabilities, exactly: Newton in Newton, a fixed number of steps.

Rows of energies a_i >= 0 share c draws; p on the simplex minimises sum a_i / (1 - (1 - p_i)^c)
(Sheikholeslami, Jain & Giannakis 2019, Efficient Randomized Defense, problem 3). The problem is
convex. At its optimum every row with energy has a_i h(p_i) = lambda, where h(p) is
c (1 - p)^(c-1) / pi(p)^2 and pi(p) = 1 - (1 - p)^c. All is done in logarithms, with

    s = -log(1 - p),  z = c s,  pi = 1 - e^-z,  log h = log c - (1 - 1/c) z - 2 log pi.

log h falls and is convex in z, so Newton from the left of a row's root needs no safeguard, and the
sum of all p falls in y = log lambda, whose only root lies in a bracket that is known beforehand.
Nothing here looks at a value, so an accelerator never waits.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_OUTER = 8
"""Steps on lambda: enough for energies 1e22 apart; those 1e60 apart take two more."""
_HALVINGS = 64
"""Of a bracket as wide as double precision allows; what is left is below its rounding."""
_STRAIGHT = 60.0
"""From this z on pi is 1 to any precision."""


class _Problem(NamedTuple):
    """The energies, made independent of their scale."""

    root: Tensor
    """(B, N) sqrt(c a / max a); sqrt c where there is no energy."""
    level: Tensor
    """(B, N) log c + log(a / max a); log c where there is no energy."""
    support: Tensor
    """(B, N), 1 where there is energy, else 0."""
    others: Tensor
    """(B, N), `support` without the row of most energy."""
    top: Tensor
    """(B, 1) which that is."""
    low: Tensor
    """(B, 1) y below the root."""
    high: Tensor
    """(B, 1) y above the root."""
    start: Tensor
    """(B, 1) the y that would be right if p were as the roots of the energies."""


@torch.no_grad()
def exact(alpha: Tensor, draws: float, outer: int = _OUTER) -> Tensor:
    """Return the (B, N) optimum; raise `outer`, up to 60, for energies more than 1e22 apart."""
    if draws == 1:
        return square_root(alpha)
    p, _ = _solve(alpha, draws, 1 - 1 / draws, outer, _inner_steps(draws))
    return normalised(p)


@torch.no_grad()
def gap(alpha: Tensor, draws: float, outer: int = _OUTER) -> Tensor:
    """Return the (B,) distances to 1 of the sums that `exact` then normalises.

    Beyond rounding (1e-12, in single precision 1e-5) `outer` was too small for these energies.
    """
    if draws == 1:
        return alpha.new_zeros(len(alpha))
    _, total = _solve(alpha, draws, 1 - 1 / draws, outer, _inner_steps(draws))
    # A row that alone has energy has p = 1, which the bracket of the others doesn't hold.
    return torch.where((alpha > 0).sum(1) > 1, (total - 1).abs(), 0.0)


@torch.no_grad()
def bisection(alpha: Tensor, draws: float, outer: int = _HALVINGS) -> Tensor:
    """Return the (B, N) optimum by halving the bracket of lambda: slower, and beyond doubt."""
    if draws == 1:
        return square_root(alpha)
    p, _ = _solve(alpha, draws, 1 - 1 / draws, outer, _inner_steps(draws), halve=True)
    return normalised(p)


@torch.no_grad()
def large_c(alpha: Tensor, draws: float, outer: int = _OUTER) -> Tensor:
    """Return (B, N) probabilities with (1 - p)^c taken for (1 - p)^(c-1) in h.

    Then s = (2 / c) asinh(sqrt(c a / lambda) / 2), the start of the others, and the one inner step
    is for its slope. At 1,024 rows and 512 draws the objective is within 3e-7 of the best.
    """
    p, _ = _solve(alpha, draws, 1, outer, 1)
    return normalised(p)


def square_root(alpha: Tensor, draws: float = 1) -> Tensor:
    """Return p as the roots of the energies: the optimum of one draw, good up to N / 2 draws.

    Autograd's derivative is finite, 0 where there is no energy.
    """
    return normalised(torch.where(alpha > 0, amplitudes(alpha), 0))


def normalised(p: Tensor) -> Tensor:
    """Return `p` with sums of 1, uniform where all are 0."""
    total = p.sum(1, keepdim=True)
    return torch.where(total > 0, p / torch.where(total > 0, total, 1), 1 / p.shape[1])


def log_slope(z: Tensor, draws: float, bend: float) -> Tensor:
    """Return log h at z = -c log(1 - p): how fast 1 / pi falls where p grows."""
    return math.log(draws) - bend * z - 2 * (-torch.expm1(-z)).log()


def amplitudes(alpha: Tensor) -> Tensor:
    """Return (B, N) sqrt(a / max a), 1 where there is no energy.

    By roots, whose ratio doesn't underflow where that of the energies would. It is none below a
    floor (1e-31 in single precision), so that neither does what is computed from it.
    """
    support = alpha > 0
    root = torch.where(support, alpha, 1).sqrt()
    largest = torch.where(support, root, 0).amax(1, keepdim=True)
    limits = torch.finfo(alpha.dtype)
    ratio = (root / torch.where(largest > 0, largest, 1)).clamp_min(limits.tiny / limits.eps)
    return torch.where(support, ratio, 1)


def _inner_steps(draws: float) -> int:
    """Newton steps that take a row's start to its root: the more draws, the better the start.

    Measured from 1.0001 draws on to leave 1e-14 of z at any level. Towards one draw the slope of a
    row with nearly everything vanishes, hence the logarithm.
    """
    if draws < 16:
        return 5 + max(0, math.ceil(-math.log(draws - 1)))
    return 3 if draws < 1024 else 2


def _problem(alpha: Tensor, draws: float, bend: float) -> _Problem:
    """The bracket holds since of m rows the largest p is at least 1 / m, the smallest at most."""
    root, support = amplitudes(alpha), (alpha > 0).to(alpha)
    logs = root.log().mul_(2)
    count = support.sum(1, keepdim=True).clamp_min(2)
    high = log_slope(-draws * torch.log1p(-1 / count), draws, bend)
    low = logs.amin(1, keepdim=True) + high
    top = alpha.argmax(1, keepdim=True)
    others = support.scatter(1, top, 0)
    # With p as the roots, 1 / (1 - p) of the largest is 1 + 1 / (the sum of the others' roots).
    odds = (root * others).sum(1, keepdim=True).clamp_min(torch.finfo(alpha.dtype).tiny)
    start = log_slope(draws * torch.log1p(1 / odds), draws, bend)
    start = torch.minimum(torch.maximum(start, low), high)
    level = logs + math.log(draws)
    return _Problem(root * math.sqrt(draws), level, support, others, top, low, high, start)


def _solve(
    alpha: Tensor, draws: float, bend: float, outer: int, inner: int, halve: bool = False
) -> tuple[Tensor, Tensor]:
    """(B, N) p before it is normalised, and its (B,) sums."""
    root, level, support, others, top, low, high, y = _problem(alpha, draws, bend)
    y = (low + high) / 2 if halve else y
    for _ in range(outer):
        minus_z = _start(root, y)
        half_slope = _newton(minus_z, level - y, bend, inner)
        minus_s = minus_z.div_(draws)
        log_left, steep = minus_s.gather(1, top), half_slope.gather(1, top)
        p = minus_s.expm1_().neg_()
        shared = p * others
        rest = shared.sum(1, keepdim=True)
        # The sum of all p is 1 where the others take what the largest leaves: the difference of the
        # logs is almost linear in y, and has no cancellation where one row has nearly everything.
        # (A row alone has no others: excess is -inf, Newton NaN, and normalising makes its p 1.)
        excess = rest.log() - log_left
        low = torch.where(excess > 0, y, low)
        high = torch.where(excess > 0, high, y)
        middle = (low + high) / 2
        if halve:
            y = middle
            continue
        fall = torch.sub(others, shared).div_(half_slope).sum(1, keepdim=True)
        newton = y + 2 * draws * excess / (fall / rest + 1 / steep)
        # The ends belong to the bracket: once converged, y is one of them.
        y = torch.where((low <= newton) & (newton <= high), newton, middle)
    p.mul_(support)
    return p, p.sum(1)


def _start(root: Tensor, y: Tensor) -> Tensor:
    """-z for a bend of 1, where z = 2 asinh(root / (2 e^(y/2))); left of any other bend's root."""
    # A start further to the left is good enough there: Newton's equation is straight from it on.
    half = (root * (y / -2 - math.log(2)).exp()).clamp_max_(math.exp(_STRAIGHT / 2))
    square = half.square()
    half.add_(square.div_((square + 1).sqrt_().add_(1)))
    return half.log1p_().mul_(-2)


def _newton(minus_z: Tensor, level: Tensor, bend: float, steps: int) -> Tensor:
    """Take -z in place to where level = bend z + 2 log(1 - e^-z); return half the slope there."""
    for _ in range(steps):
        pi = torch.expm1(minus_z).neg_()
        excess = torch.add(level, minus_z, alpha=bend).sub_(pi.log(), alpha=2)
        half_slope = pi.reciprocal_().add_(bend / 2 - 1)
        minus_z.addcdiv_(excess, half_slope, value=-0.5)
    return half_slope
