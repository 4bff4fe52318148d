"""Defenses that are none, and say wrong things of themselves; no user should meet them."""

import torch
from torch import Tensor, nn

from redoubtable.parts import Part
from tests.networks import facts


class KillsGradients(Part):
    """Rounds the image and states a true derivative, which is 0 everywhere: the user's lie."""

    facts = facts(differentiable=True)

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return (self.levels * x).round() / self.levels

    def undefended(self) -> nn.Module:
        return nn.Identity()


class RoundsUnstated(nn.Module):
    """The same as a plain module: nothing says that there is a defense at all."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return (self.levels * x).round() / self.levels


class LooksAtBrightness(Part):
    """Rejects an image whose mean value is far from that of the images it was made with."""

    facts = facts(abstains=True)

    def __init__(self, model: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.model, self.low, self.high = model, low, high

    def forward(self, x: Tensor) -> Tensor:
        log_p = self.model(x).log_softmax(1)
        mean = x.flatten(1).mean(1)
        excess = torch.maximum(self.low - mean, mean - self.high)
        # Rejected are images outside of the interval, whatever the network answers to them.
        return torch.cat([log_p, (log_p.amax(1) + 100 * excess)[:, None]], 1)

    def undefended(self) -> nn.Module:
        return self.model

    def objectives(self) -> tuple[str, ...]:
        return (
            "loss=evasion_margin,success=evasion_margin",
            "loss=evasion_confidence,success=evasion_margin",
        )
