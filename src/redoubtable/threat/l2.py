"""The Euclidean length of the change."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from redoubtable.threat.base import ThreatModel, column, movable, water_level


@final
@dataclass(frozen=True, eq=False)
class L2(ThreatModel):
    """The Euclidean length of the change is at most `eps`."""

    name = "L2"

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102 - the base class says it
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def clip(self, delta: Tensor) -> Tensor:  # noqa: D102
        shrink = self.radius(delta) / self.norm(delta).clamp_min(1e-12)
        return delta * column(shrink.clamp_max(1), delta)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        direction = torch.randn_like(x)
        dimension = x.shape[1:].numel()
        # A uniform point of a ball lies at the radius u^(1/d), u uniform.
        radius = torch.rand(len(x), dtype=x.dtype, device=x.device) ** (1 / dimension)
        radius = radius * self.radius(x).clamp_max(self.diameter(x))
        return direction * column(radius / self.norm(direction), x)

    def ascent(  # noqa: D102
        self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor
    ) -> Tensor:
        free = movable(gradient, x_adv)
        length = self.norm(free)
        unit = free / column(torch.where(length > 0, length, 1.0), free)
        return unit * column(size, gradient)

    def dual(self, gradient: Tensor) -> Tensor:  # noqa: D102
        return self.norm(gradient)

    def fill(self, weight: Tensor, room: Tensor, need: Tensor) -> Tensor:  # noqa: D102
        # Inside the box the change is in proportion to the weight; at a limit it stays there.
        limit = room / weight.clamp_min(torch.finfo(weight.dtype).tiny)
        level = water_level(weight.flatten(1) ** 2, limit.flatten(1), need)
        return torch.where(limit > level.view(-1, 1, 1, 1), weight * level.view(-1, 1, 1, 1), room)

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return math.sqrt(x.shape[1:].numel())
