"""Input transforms that change the image at random: noise, random size and place."""

import math
from typing import Literal

import torch
import torch.nn.functional as F

from redoubtable.defenses.registry import DEFENSES
from redoubtable.defenses.transforms import InputTransform
from redoubtable.parts import Facts
from redoubtable.types import Images


@DEFENSES.register("gaussian_noise", form="transform", paper="Cohen et al. 2019")
class GaussianNoise(InputTransform):
    """Gaussian noise on the image, fresh in every pass; values may leave [0, 1].

    With a vote it is randomised smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918), whose
    guarantee only `certification` can give.

    Known against it: expectation over transformation (Athalye, Carlini & Wagner 2018,
    arXiv:1802.00420, section 4.2). In front of a network that was not trained with noise it is
    worth next to nothing.

    Args:
        sigma: standard deviation, in the units of the image.
    """

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        if not (sigma >= 0 and math.isfinite(sigma)):
            raise ValueError(f"`sigma` must be 0 or more and finite, got {sigma}")
        self.sigma = sigma

    @property
    def facts(self) -> Facts:
        """State noise that does not depend on the image, so autograd's derivative is true."""
        return Facts(
            stochastic=self.sigma > 0,
            differentiable=True,
            batch_dependent=False,
            abstains=False,
            passes=1,
            adjustable=self.sigma > 0,
        )

    def transform(self, x: Images) -> Images:
        """Return the image plus noise."""
        # Not randn_like, which draws in the order in which `x` lies in memory.
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device)
        return x + self.sigma * self.randomness * noise

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"sigma={self.sigma}"


@DEFENSES.register("random_resize", form="transform", paper="Xie et al. 2018")
class RandomResizePad(InputTransform):
    """Random size at a random place (Xie et al. 2018, arXiv:1711.01991, section 3.2).

    Each image is resized to a side drawn for it and put at a random place of a larger, grey image.
    For the paper's side of 299 that is 310 to 330 in 331; other sides are scaled, and the side
    drawn is always at least one below the larger image's. The network must take that larger image;
    `least=0.8, most=1` shrinks the picture and keeps the side.

    Known against it: expectation over transformation (Athalye, Carlini & Wagner 2018,
    arXiv:1802.00420, section 5.3).

    Args:
        least: smallest side drawn, as a multiple of the image's.
        most: side of the larger image, likewise; not below `least`.
        mode: "nearest" (the paper's) or "bilinear".
        fill: value around the picture; 0.5 is the 0 of the paper's [-1, 1] scale.
    """

    def __init__(
        self,
        least: float = 310 / 299,
        most: float = 331 / 299,
        mode: Literal["nearest", "bilinear"] = "nearest",
        fill: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < least <= most:
            raise ValueError(f"`least` must be positive and at most `most`, got {least} and {most}")
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f"`mode` must be 'nearest' or 'bilinear', got {mode!r}")
        self.least, self.most, self.fill = least, most, fill
        self.mode: Literal["nearest", "bilinear"] = mode

    facts = Facts(
        stochastic=True, differentiable=True, batch_dependent=False, abstains=False, passes=1
    )

    def sides(self, side: int) -> tuple[int, int]:
        """Return the smallest side that is drawn for an image of `side`, and the larger image's."""
        # 299 * (310 / 299) must give 310, whatever the rounding.
        whole = math.floor(side * self.most + 1e-9)
        if self.most <= 1:
            # The side is kept: the picture has to shrink to have a choice of places.
            low = min(math.ceil(side * self.least - 1e-9), whole - 1)
            return max(1, low), max(2, whole)
        low = math.ceil(side * self.least - 1e-9)
        return low, max(whole, low + 1)

    def transform(self, x: Images) -> Images:
        """Return (N, C, H', W') images, each with a size and a place of its own."""
        n, (height, width) = len(x), x.shape[2:]
        share = torch.rand(n, dtype=x.dtype, device=x.device)
        rows, inside_rows, tall = _places(share, *self.sides(height), height, self.mode)
        columns, inside_columns, wide = _places(share, *self.sides(width), width, self.mode)
        grid = torch.stack(
            [columns[:, None, :].expand(n, tall, wide), rows[:, :, None].expand(n, tall, wide)], 3
        )
        picture = F.grid_sample(x, grid, self.mode, "border", align_corners=False)
        inside = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
        return torch.where(inside, picture, self.fill)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"least={self.least}, most={self.most}, mode={self.mode!r}, fill={self.fill}"


def _places(
    share: torch.Tensor, low: int, whole: int, side: int, mode: str
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Where each row of the larger image comes from, and whether from the picture at all.

    Args:
        share: (N,) in [0, 1], where between the smallest and the largest size; rows and columns
            have it in common, so that the picture keeps its proportions.
        low: smallest size drawn; the largest is `whole - 1`.
        whole: of the larger image.
        side: of the image.
        mode: how values between pixels are found.

    Returns:
        (N, whole) places in [-1, 1] for `grid_sample`, (N, whole) whether inside, and `whole`.
    """
    size = (low + (share * (whole - low)).floor()).clamp_max(whole - 1)[:, None]
    offset = (torch.rand_like(size) * (whole - size + 1)).floor()
    offset = torch.minimum(offset, whole - size)
    row = torch.arange(whole, dtype=share.dtype, device=share.device) - offset
    source = (row + 0.5) * side / size - 0.5
    if mode == "nearest":
        source = (row * side / size).floor()
    return (2 * source + 1) / side - 1, (row >= 0) & (row < size), whole
