"""The number of changed values."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from redoubtable.threat.base import ThreatModel
from redoubtable.threat.l0 import L0


@final
@dataclass(frozen=True, eq=False)
class L0Values(ThreatModel):
    """At most `eps` values change, each channel of a pixel counted by itself, as much as they like.

    The geometry of `L0` on images whose every value is a pixel.

    Raises:
        ValueError: `eps` is no whole number.
    """

    name = "L0values"
    least = L0.least
    whole = True

    def __post_init__(self) -> None:
        """Refuse half a value."""
        super().__post_init__()
        L0(self.eps)

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102 - the base class says it
        return L0(self.eps).norm(_alone(delta))

    def clip(self, delta: Tensor) -> Tensor:  # noqa: D102
        return L0(self.eps).clip(_alone(delta)).view_as(delta)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        return L0(self.eps).noise(_alone(x)).view_as(x)

    def ascent(  # noqa: D102
        self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor
    ) -> Tensor:
        step = L0(self.eps).ascent(_alone(gradient), _alone(x_adv), _alone(x), size)
        return step.view_as(x)

    def dual(self, gradient: Tensor) -> Tensor:  # noqa: D102
        return L0(self.eps).dual(_alone(gradient))

    def fill(self, weight: Tensor, room: Tensor, need: Tensor) -> Tensor:  # noqa: D102
        return L0(self.eps).fill(_alone(weight), _alone(room), need).view_as(room)

    def exchange(self, gradient: Tensor, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return images with one more value changed, and one less where the budget is full.

        As `L0.exchange`.
        """
        return L0(self.eps).exchange(_alone(gradient), _alone(x_adv), _alone(x)).view_as(x)

    def nearest(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the legal image of least Euclidean distance to `x_adv`, which may leave the box.

        As `L0.nearest`.
        """
        return L0(self.eps).nearest(_alone(x_adv), _alone(x)).view_as(x)

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return float(x.shape[1:].numel())


def _alone(images: Tensor) -> Tensor:
    """(N, C, H, W) images as (N, 1, 1, CHW), a pixel for each value."""
    return images.flatten(1)[:, None, None]
