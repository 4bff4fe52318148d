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

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102 - the base class says it
        return delta.flatten(1).abs().sum(1)

    def clip(self, delta: Tensor) -> Tensor:
        """Return the nearest change inside the ball (Duchi et al. 2008, figure 1)."""
        eps = self.radius(delta)
        size = delta.flatten(1).abs()
        outside = size.sum(1) > eps
        if not bool(outside.any()):
            return delta
        ranked = size.sort(dim=1, descending=True).values
        # The threshold is the last one at which the running mean of the excess stays below.
        count = torch.arange(1, size.shape[1] + 1, dtype=size.dtype, device=size.device)
        excess = (ranked.cumsum(1) - eps[:, None].clamp_max(self.diameter(delta))) / count
        last = (ranked > excess).sum(1, keepdim=True).clamp_min(1) - 1
        threshold = excess.gather(1, last).clamp_min(0) * outside[:, None]
        shrunk = delta.flatten(1).sign() * (size - threshold).clamp_min(0)
        return shrunk.view_as(delta)

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

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return float(x[0].numel())
