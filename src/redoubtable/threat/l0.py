"""The number of changed pixels."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from redoubtable.threat.base import ThreatModel


@final
@dataclass(frozen=True, eq=False)
class L0(ThreatModel):
    """At most `eps` pixels change, each in all its channels and as much as it likes.

    Raises:
        ValueError: `eps` is no whole number.
    """

    name = "L0"
    least = 1 / 8
    whole = True

    def __post_init__(self) -> None:
        """Refuse half a pixel."""
        super().__post_init__()
        values = self.eps if isinstance(self.eps, Tensor) else torch.tensor(self.eps)
        if bool((values != values.floor()).any()):
            raise ValueError(f"`eps` of L0 is a count and must be whole, got {self.eps}")

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102 - the base class says it
        return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)

    def clip(self, delta: Tensor) -> Tensor:  # noqa: D102
        return delta * self._largest(delta.abs().sum(1).flatten(1), delta)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        chosen = self._largest(torch.rand_like(x[:, 0]).flatten(1) + 1e-3, x)
        return (torch.rand_like(x) - x) * chosen

    def ascent(self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor) -> Tensor:
        """Return the step that sets the best `size` pixels, and frees others where need be.

        The gain of a pixel is the linear gain of its best corner of the colour cube; beyond `eps`
        pixels those whose change is worth least go back to `x` (specs of the L0 attack of
        Hosseini et al. 2019: one pixel a step, then swaps). `size` is rounded up to whole pixels.
        """
        corner = (gradient > 0).to(x)
        now = (gradient * (x_adv - x)).sum(1).flatten(1)
        best = (gradient * (corner - x)).sum(1).flatten(1)
        amount = size.to(x) if isinstance(size, Tensor) else x.new_full((len(x),), size)
        changed = (x_adv != x).any(1).flatten(1)
        # Once the budget is full, a new pixel takes the place of the one that is worth least.
        cheapest = now.masked_fill(~changed, math.inf).amin(1)
        full = changed.sum(1) >= self.radius(x)
        replaced = torch.where(full, cheapest, 0.0)[:, None]
        better = best - torch.where(changed, now, replaced)
        move = _top(better, amount.ceil()) & (better > 0)
        # Unchanged pixels are worth nothing and must not push out one with a small loss first.
        worth = torch.where(move, best, now).masked_fill(~(move | changed), -math.inf)
        keep = self._largest(worth, x)
        target = torch.where(move.view_as(keep[:, 0]).unsqueeze(1), corner, x_adv)
        return torch.where(keep > 0, target, x) - x_adv

    def dual(self, gradient: Tensor) -> Tensor:  # noqa: D102
        return gradient.abs().sum(1).flatten(1).amax(1)

    def fill(self, weight: Tensor, room: Tensor, need: Tensor) -> Tensor:  # noqa: D102
        # The last pixel goes as far as is needed and no further; its channels keep their ratio.
        gain, order = (weight * room).sum(1).flatten(1).sort(dim=1, descending=True)
        left = (need[:, None] - (gain.cumsum(1) - gain)).clamp_min(0)
        share = (left / gain.clamp_min(torch.finfo(gain.dtype).tiny)).clamp_max(1)
        share = torch.zeros_like(share).scatter_(1, order, share)
        return room * share.view_as(weight[:, :1])

    def exchange(self, gradient: Tensor, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return images with one more pixel, and one less where the budget is full.

        The unchanged pixel of the largest linear gain goes to its best corner of the colour cube,
        and once `eps` pixels are changed the one whose change is worth least goes back to `x`,
        whether that pays or not: steps that don't lead on from a set no exchange improves.
        """
        corner = (gradient > 0).to(x)
        now = (gradient * (x_adv - x)).sum(1).flatten(1)
        best = (gradient * (corner - x)).sum(1).flatten(1)
        changed = (x_adv != x).any(1).flatten(1)
        pixels, radius = changed.sum(1), self.radius(x)
        enters = _top(best.masked_fill(changed, -math.inf), (radius > 0).to(x)) & ~changed
        full = (pixels >= radius).to(x)
        leaves = _top(-now.masked_fill(~changed, math.inf), full) & changed
        shape = (len(x), 1, *x.shape[2:])
        left = torch.where(leaves.view(shape), x, x_adv)
        return torch.where(enters.view(shape), corner, left)

    def nearest(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the legal image of least Euclidean distance to `x_adv`, which may leave the box.

        The pixels that stay are those whose removal would cost most beyond what the box costs
        anyway (Croce & Hein 2019, arXiv:1909.05040, section 3.1).
        """
        boxed = x_adv.clamp(0, 1)
        gain = (x_adv - x).square() - (x_adv - boxed).square()
        keep = self._largest(gain.sum(1).flatten(1), x)
        return torch.where(keep > 0, boxed, x)

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return float(x.shape[-2] * x.shape[-1])

    def _largest(self, score: Tensor, like: Tensor) -> Tensor:
        """(N, 1, H, W) mask of the `eps` pixels of largest (N, H * W) score."""
        mask = _top(score, self.radius(like))
        return mask.to(like).view(len(like), 1, *like.shape[2:])


def _top(score: Tensor, count: Tensor) -> Tensor:
    """(N, M) mask of the `count[n]` largest entries of each row; the first of equal ones win."""
    rank = torch.empty_like(score, dtype=torch.int64)
    order = score.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank.scatter_(1, order, places)
    return rank < count[:, None]
