"""The published algorithm for the sampling probabilities: projected gradient descent.

Kept for comparison with `solver.exact`, which is faster and exact.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from redoubtable.defenses.mvm.solver import amplitudes, log_slope, normalised

_ENOUGH = 1e-4
"""The share of the predicted gain that a step must reach (Armijo's rule)."""


class _Point(NamedTuple):
    """Where the rows that still move stand."""

    p: Tensor
    """(B, N)."""
    value: Tensor
    """(B, 1) objective."""
    gain: Tensor
    """(B, N) minus its slope."""


@torch.no_grad()
def algorithm_2(alpha: Tensor, draws: float, steps: int = 800, tolerance: float = 1e-8) -> Tensor:
    """Return (B, N) probabilities by Algorithm 2 of Sheikholeslami, Jain & Giannakis, made safe.

    As published, a fixed step length diverges unless it is tiny, and the projection may put a row
    with energy at 0, where the objective is infinite. Here a step is halved until every such row
    stays above 0 and the objective falls enough, and grows by half after each success. The slope is
    divided by its largest value, and the objective is the variance, sum a (1 / pi - 1), which is
    not flat where nearly everything is kept.

    Args:
        alpha: (B, N) energies.
        draws: c.
        steps: the most of each row.
        tolerance: a row is finished when a step is shorter than this share of the length of p.
    """
    support = alpha > 0
    rows = support.sum(1, keepdim=True).clamp_min(1).to(alpha)
    # Divided by h(1 / N), so that the objective of many draws doesn't underflow.
    start = log_slope(-draws * torch.log1p(-1 / rows.clamp_min(2)), draws, 1 - 1 / draws)
    logs = torch.where(support, amplitudes(alpha).log() * 2 - start, -torch.inf)
    at = _look(support.to(alpha) / rows, logs, draws)
    answer, which, length = at.p.clone(), torch.arange(len(alpha), device=alpha.device), 0.5 / rows
    taken = torch.zeros_like(rows)
    # As steps grow by half and are halved, three successes pay for two failures.
    for _ in range(2 * steps):
        steepest = at.gain.amax(1, keepdim=True).clamp_min(torch.finfo(alpha.dtype).tiny)
        trial = _look(_project(at.p + length * at.gain / steepest), logs, draws)
        move = trial.p - at.p
        better = trial.value <= at.value - _ENOUGH * (at.gain * move).sum(1, keepdim=True)
        at = _Point(*(torch.where(better, new, old) for new, old in zip(trial, at, strict=True)))
        taken, length = taken + better, length * torch.where(better, 1.5, 0.5)
        answer[which] = at.p
        small = move.norm(dim=1) <= tolerance * at.p.norm(dim=1)
        moving = ~small & (taken < steps).squeeze(1)
        if not bool(moving.any()):
            break
        if not bool(moving.all()):
            at = _Point(*(t[moving] for t in at))
            which, logs, taken, length = (t[moving] for t in (which, logs, taken, length))
    # The projection's rounding must lift no row without energy.
    return normalised(torch.where(support, answer, 0))


def _look(p: Tensor, logs: Tensor, draws: float) -> _Point:
    """The objective sum a e^-z / pi, infinite where a row with energy is at 0, and its slope."""
    # A row that has everything is at an infinite z.
    minus_s = torch.log1p(-p.clamp_max(1 - torch.finfo(p.dtype).eps))
    pi = torch.expm1(draws * minus_s).neg_()
    some = logs > -torch.inf
    terms = torch.where(some, (logs + draws * minus_s).exp() / pi, 0)
    gain = torch.where(some, terms * draws / (minus_s.exp() * pi), 0)
    return _Point(p, terms.sum(1, keepdim=True), gain)


def _project(r: Tensor) -> Tensor:
    """The nearest points of the simplex (Held, Wolfe & Crowder 1974), by sorting."""
    ranked = r.sort(dim=1, descending=True).values
    count = torch.arange(1, r.shape[1] + 1, dtype=r.dtype, device=r.device)
    excess = (ranked.cumsum(1) - 1) / count
    last = (ranked > excess).sum(1, keepdim=True).clamp_min(1) - 1
    return (r - excess.gather(1, last)).clamp_min_(0)
