"""Logits divided by a number."""

import math

from torch import nn

from redoubtable.defenses.registry import DEFENSES
from redoubtable.parts import Facts, Part
from redoubtable.types import Images, Logits


@DEFENSES.register("temperature", form="wrapper", paper="Papernot et al. 2016")
class Temperature(Part):
    """Logits divided by a temperature (as in Papernot et al. 2016, arXiv:1511.04508).

    The answer stays the same. Defensive distillation leaves a network with such logits. A low
    temperature makes the softmax so sure that the cross-entropy has no gradient left in floating
    point; a high one makes all classes nearly alike. Either makes attacks on the cross-entropy fail
    and none that knows it.

    Known against it: any loss that does not depend on the scale of the logits, such as the margin
    (Carlini & Wagner 2017, arXiv:1608.04644, section IX) and DLR (Croce & Hein 2020).

    Args:
        model: a classifier.
        temperature: what the logits are divided by, positive.
    """

    def __init__(self, model: nn.Module, *, temperature: float = 0.01) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"`temperature` must be positive and finite, got {temperature}")
        self.model = model
        self.temperature = temperature

    facts = Facts(
        stochastic=False, differentiable=True, batch_dependent=False, abstains=False, passes=1
    )

    def forward(self, x: Images) -> Logits:
        """Return the model's logits divided by the temperature."""
        logits: Logits = self.model(x)
        return logits / self.temperature

    def undefended(self) -> nn.Module:
        """Return the model."""
        return self.model

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"temperature={self.temperature}"
