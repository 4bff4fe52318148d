"""Randomised ablation (Levine & Feizi 2020, arXiv:1911.09272): certificates in pixels changed."""

import math
from collections.abc import Sequence

import torch

from redoubtable.certification.registry import CERTIFICATES
from redoubtable.masks import GREY, Granularity, check_law, random_mask
from redoubtable.types import Images

_ROUNDING = 1e-12
"""More than rounding adds to a lead: one that only equals what an attack can take is no proof."""


@CERTIFICATES.register("ablation", norm="L0", whole=True, paper="Levine & Feizi 2020")
class Ablation:
    """Randomised ablation: the vote on images of which few random pixels are kept, the rest grey.

    Levine & Feizi 2020, https://arxiv.org/abs/1911.09272, section 3, for exactly `keep` pixels of
    each image. For a drop rate, which is random pixel subsampling (Hosseini et al. 2019,
    arXiv:1905.00180), it follows by the same coupling: under one mask two images look the same
    unless a value is kept in which they differ, so no class's probability differs by more than the
    chance of that (`seen`).

    The network should be trained under such masks (recipe `subsampled`, of the same granularity);
    one that is not mostly abstains.

    Args:
        rate: drop rate in [0, 1]. One changed pixel can be certified above a rate of 1/2 only, with
            "element" and three channels above 0.794; 30 pixels above 0.977 ("pixel").
        granularity: "pixel" drops all channels of a pixel together, "element" each by itself, so
            that a pixel is seen more easily and fewer can be certified.
        keep: instead of a rate, how many pixels ("pixel") or values ("element") are kept; the
            paper keeps 75 of 1,024 pixels on CIFAR-10.
    """

    def __init__(
        self,
        rate: float | None = None,
        granularity: Granularity = "pixel",
        keep: int | None = None,
    ) -> None:
        check_law(rate, granularity, keep)
        self.rate, self.granularity, self.keep = rate, granularity, keep

    def sample(self, x: Images) -> Images:
        """Return copies under masks of their own."""
        return torch.where(random_mask(x, self.rate, self.granularity, self.keep), x, GREY)

    def seen(self, pixels: int, shape: Sequence[int]) -> float:
        """Return the probability that a mask keeps anything of as many given pixels.

        1 - r^pixels for a rate, 1 - C(d - pixels, k) / C(d, k) for exactly k of d; with "element"
        each pixel is as many values as the image has channels, and d counts values.

        Args:
            pixels: how many, 0 to all.
            shape: (C, H, W) of the image.

        Raises:
            ValueError: the image has fewer places than are kept.
        """
        places = math.prod(shape[1:])
        if self.granularity == "element":
            pixels, places = shape[0] * pixels, shape[0] * places
        if self.rate is not None:
            return 1 - float(self.rate) ** pixels
        assert self.keep is not None
        if self.keep > places:
            raise ValueError(f"`keep` must be at most the {places} places, got {self.keep}")
        # Whole numbers: their quotient is rounded once, however large they are.
        return 1 - math.comb(places - pixels, self.keep) / math.comb(places, self.keep)

    def radius(self, lower: float, upper: float, shape: Sequence[int]) -> float:
        """Return the largest number of pixels with lower - seen > upper + seen, at most all.

        The class loses at most `seen`, another one wins at most as much. With upper = 1 - lower
        that is the paper's lower - seen > 1/2.

        Args:
            lower: bound of the probability of the class.
            upper: bound of the probability of every other class, below it.
            shape: (C, H, W) of the image.

        Raises:
            ValueError: the image has fewer places than are kept.
        """
        _, height, width = shape
        pixels, lead = 0, lower - upper - _ROUNDING
        while pixels < height * width and lead > 2 * self.seen(pixels + 1, shape):
            pixels += 1
        return float(pixels)

    def guarantee(self) -> str:
        """Say what holds."""
        what = "pixels" if self.granularity == "pixel" else "values (each channel by itself)"
        kept = (
            f"each of the {what} is made grey with probability {self.rate}"
            if self.rate is not None
            else f"all {what} but {self.keep} random ones are made grey"
        )
        return (
            f"the class that the network answers most often when {kept} is the same for every "
            f"image that differs in no more pixels than the radius (L0), in any of their channels"
        )
