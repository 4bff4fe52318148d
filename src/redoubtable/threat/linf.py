"""The largest change of a value."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from redoubtable.threat.base import ThreatModel, column, water_level


@final
@dataclass(frozen=True, eq=False)
class Linf(ThreatModel):
    """Every value may change by at most `eps`."""

    name = "Linf"
    peaked = True

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102 - the base class says it
        return delta.flatten(1).abs().amax(1)

    def clip(self, delta: Tensor) -> Tensor:  # noqa: D102
        if isinstance(self.eps, Tensor):
            eps = self.radius(delta).view(-1, 1, 1, 1)
            return torch.maximum(torch.minimum(delta, eps), -eps)
        return delta.clamp(-self.eps, self.eps)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        limit = column(self.radius(x).clamp_max(1), x)
        return (torch.rand_like(x) * 2 - 1) * limit

    def ascent(  # noqa: D102
        self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor
    ) -> Tensor:
        return gradient.sign() * column(size, gradient)

    def dual(self, gradient: Tensor) -> Tensor:  # noqa: D102
        return gradient.flatten(1).abs().sum(1)

    def fill(self, weight: Tensor, room: Tensor, need: Tensor) -> Tensor:  # noqa: D102
        level = water_level(weight.flatten(1), room.flatten(1), need)
        return torch.minimum(room, level.view(-1, 1, 1, 1))

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return 1.0

    def cost(self, delta: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        over = (delta.abs() - column(limit, delta)).clamp_min(0)
        return over.flatten(1).sum(1), delta.sign() * (over > 0)
