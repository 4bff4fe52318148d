"""The sum of absolute changes."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from redoubtable.threat.base import ThreatModel, movable


@final
@dataclass(frozen=True, eq=False)
class L1(ThreatModel):
    """The absolute changes add up to at most `eps`."""

    name = "L1"
    sparse = True

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102 - the base class says it
        return delta.flatten(1).abs().sum(1)

    def clip(self, delta: Tensor) -> Tensor:
        """Return the nearest change inside the ball (Duchi et al. 2008, figure 1)."""
        size = delta.flatten(1).abs()
        outside = size.sum(1) > self.radius(delta)
        if not bool(outside.any()):
            return delta
        eps = torch.minimum(self.radius(delta), size.sum(1))  # an infinite one has no threshold
        ranked = size.sort(dim=1, descending=True).values
        # The threshold is the last one at which the running mean of the excess stays below.
        count = torch.arange(1, size.shape[1] + 1, dtype=size.dtype, device=size.device)
        excess = (ranked.cumsum(1) - eps[:, None]) / count
        last = (ranked > excess).sum(1, keepdim=True).clamp_min(1) - 1
        threshold = excess.gather(1, last).clamp_min(0) * outside[:, None]
        shrunk = delta.flatten(1).sign() * (size - threshold).clamp_min(0)
        return shrunk.view_as(delta)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the nearest legal image (Croce & Hein 2021, arXiv:2103.01208, section 3.1).

        The projection onto the ball and the box together; to clip to one after the other would give
        away budget. Every change shrinks by one threshold before the box cuts it.
        """
        delta = (x_adv - x).flatten(1)
        room = torch.where(delta > 0, 1 - x.flatten(1), x.flatten(1))
        size = delta.abs()
        eps = self.radius(x).clamp_max(self.diameter(x))[:, None]
        # With the threshold falling to 0, a change starts to grow at its size and stops at a knot.
        stops = (size - room).clamp_min(0)
        knots, order = torch.cat([size, stops], 1).sort(dim=1, descending=True)
        signs = torch.where(order < size.shape[1], 1, -1).to(size)
        growing, offset = signs.cumsum(1), (signs * knots).cumsum(1)
        after = (offset - growing * knots < eps).sum(1, keepdim=True).clamp(1, knots.shape[1] - 1)
        slope, height = growing.gather(1, after - 1), offset.gather(1, after - 1)
        threshold = (height - eps) / slope.clamp_min(1)
        # Between two knots; rounding must not lead out of there, as where some of them are equal.
        threshold = threshold.clamp(knots.gather(1, after), knots.gather(1, after - 1))
        inside = torch.minimum(size, room).sum(1, keepdim=True) <= eps
        kept = torch.minimum((size - threshold.masked_fill(inside, 0)).clamp_min(0), room)
        return (x + (kept * delta.sign()).view_as(x)).clamp(0, 1)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        # Exponential spacings are uniform on the simplex; one more makes them so in the ball.
        flat = x.flatten(1)
        weights = torch.empty_like(flat).exponential_()
        rest = torch.empty_like(flat[:, :1]).exponential_()
        weights = weights / (weights.sum(1, keepdim=True) + rest)
        signs = torch.rand_like(flat).sub(0.5).sign()
        eps = self.radius(x).clamp_max(self.diameter(x))
        return (weights * signs * eps[:, None]).view_as(x)

    def ascent(  # noqa: D102
        self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor
    ) -> Tensor:
        room = torch.where(gradient > 0, 1 - x_adv, x_adv).flatten(1)
        order = movable(gradient, x_adv).flatten(1).abs().sort(dim=1, descending=True)
        budget = size.to(x) if isinstance(size, Tensor) else x.new_full((len(x),), size)
        room = room.gather(1, order.indices) * (order.values > 0)
        before = room.cumsum(1) - room
        spent = torch.minimum((budget[:, None] - before).clamp_min(0), room)
        step = torch.zeros_like(room).scatter_(1, order.indices, spent)
        return step.view_as(x) * gradient.sign()

    def dual(self, gradient: Tensor) -> Tensor:  # noqa: D102
        return gradient.flatten(1).abs().amax(1)

    def fill(self, weight: Tensor, room: Tensor, need: Tensor) -> Tensor:  # noqa: D102
        slope, order = weight.flatten(1).sort(dim=1, descending=True)
        gain = slope * room.flatten(1).gather(1, order)
        spent = torch.minimum((need[:, None] - (gain.cumsum(1) - gain)).clamp_min(0), gain)
        change = spent / slope.clamp_min(torch.finfo(slope.dtype).tiny)
        return torch.zeros_like(change).scatter_(1, order, change).view_as(weight)

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return float(x.shape[1:].numel())
