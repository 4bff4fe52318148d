"""Random pixel subsampling (Hosseini, Kannan & Poovendran 2019, arXiv:1905.00180)."""

from typing import Literal

import torch
from torch import Tensor

from redoubtable.defenses.registry import DEFENSES
from redoubtable.defenses.transforms import InputTransform
from redoubtable.parts import Facts
from redoubtable.types import Images

Granularity = Literal["element", "pixel"]
GREY = 0.5
"""What a dropped value becomes: the 0 of the paper's [-1, 1] scale."""


def subsample(x: Images, rate: float | Tensor, granularity: Granularity = "element") -> Images:
    """Return images in which each value is kept with probability 1 - rate and else is grey.

    Section 2 of the paper: X' = M * X on the [-1, 1] scale, which in [0, 1] leaves 0.5 where M is
    0. The kept values are not scaled up; this is no dropout. Every call draws a fresh mask.

    Args:
        x: (N, C, H, W) in [0, 1].
        rate: drop rate in [0, 1]; a float, or (N,) with one per image.
        granularity: "element" draws for every channel of every pixel (the paper's formula), "pixel"
            once for all channels of a pixel (its words).

    Raises:
        ValueError: the rate leaves [0, 1] or is not one per image.
    """
    if isinstance(rate, Tensor):
        if rate.shape != (len(x),) or not bool(((rate >= 0) & (rate <= 1)).all()):
            raise ValueError(f"`rate` must be ({len(x)},) and in [0, 1], got {rate}")
        rate = rate.to(x).view(-1, 1, 1, 1)
    else:
        check_rate(rate)
    shape = x.shape if granularity == "element" else x[:, :1].shape
    kept = torch.rand(shape, dtype=x.dtype, device=x.device) >= rate
    return torch.where(kept, x, GREY)


def check_rate(rate: float) -> None:
    """Refuse a drop rate outside [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` is the share of dropped pixels, in [0, 1]; got {rate}")


@DEFENSES.register("subsample", form="transform", paper="Hosseini et al. 2019")
class Subsample(InputTransform):
    """Random pixel subsampling at the input (Hosseini et al. 2019), one fresh mask per pass.

    Meant for a network trained on subsampled images (recipe `subsampled`); in front of any other it
    costs most of the accuracy.

    Known against it: the paper's attack averages the gradient over ten masks, and its claims rest
    on that one. An attacker would use expectation over transformation (Athalye et al. 2018) with
    more masks and steps, and the loss of the vote instead of the mean loss.

    Args:
        rate: drop rate in [0, 1].
        granularity: "element" or "pixel", see `subsample`.
    """

    def __init__(self, rate: float = 0.9, granularity: Granularity = "element") -> None:
        super().__init__()
        check_rate(rate)
        if granularity not in ("element", "pixel"):
            raise ValueError(f"`granularity` must be 'element' or 'pixel', got {granularity!r}")
        self.rate = rate
        self.granularity: Granularity = granularity

    @property
    def facts(self) -> Facts:
        """State a random mask; it is constant in the image, so autograd's derivative is true."""
        return Facts(
            stochastic=0 < self.rate < 1,
            differentiable=True,
            batch_dependent=False,
            abstains=False,
            passes=1,
        )

    def transform(self, x: Images) -> Images:
        """Return `x` under a fresh mask."""
        return subsample(x, self.rate, self.granularity)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"rate={self.rate}, granularity={self.granularity!r}"


def uniform_rates(x: Images) -> Tensor:
    """Return one drop rate per image, uniform in [0, 1] (section 3.2 of the paper)."""
    return torch.rand(len(x), dtype=x.dtype, device=x.device)
