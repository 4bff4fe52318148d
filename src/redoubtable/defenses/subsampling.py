"""Random pixel subsampling (Hosseini, Kannan & Poovendran 2019, arXiv:1905.00180)."""

import math

import torch
from torch import Tensor

from redoubtable.defenses.registry import DEFENSES
from redoubtable.defenses.transforms import InputTransform
from redoubtable.masks import GREY, check_law, random_mask
from redoubtable.masks import Granularity as Granularity
from redoubtable.masks import check_rate as check_rate
from redoubtable.parts import Facts
from redoubtable.types import Images


def subsample(
    x: Images,
    rate: float | Tensor | None = None,
    granularity: Granularity = "element",
    *,
    keep: int | None = None,
) -> Images:
    """Return images in which random values are kept and all others are grey.

    Section 2 of the paper: X' = M * X on the [-1, 1] scale, which in [0, 1] leaves 0.5 where M is
    0. The kept values are not scaled up; this is no dropout. Every call draws a fresh mask.

    Args:
        x: (N, C, H, W) in [0, 1].
        rate: drop rate in [0, 1]; a float, or (N,) with one per image.
        granularity: "element" draws for every channel of every pixel (the paper's formula), "pixel"
            once for all channels of a pixel (its words).
        keep: instead of a rate, how many values or pixels of each image are kept (Levine & Feizi
            2020, arXiv:1911.09272).

    Raises:
        ValueError: not exactly one of `rate` and `keep` is given, the rate leaves [0, 1] or is not
            one per image, or the image has fewer places than `keep`.
    """
    return torch.where(random_mask(x, rate, granularity, keep), x, GREY)


@DEFENSES.register("subsample", form="transform", paper="Hosseini et al. 2019")
class Subsample(InputTransform):
    """Random pixel subsampling at the input (Hosseini et al. 2019), one fresh mask per pass.

    Meant for a network trained on subsampled images (recipe `subsampled`); in front of any other it
    costs most of the accuracy.

    Known against it: the paper's attack averages the gradient over ten masks, and its claims rest
    on that one. An attacker would use expectation over transformation (Athalye et al. 2018) with
    more masks and steps, the loss of the vote instead of the mean loss, and gradients at a lower
    drop rate, which are less noisy (`randomness` of `l0_pgd`).

    Args:
        rate: drop rate in [0, 1].
        granularity: "element" or "pixel", see `subsample`.
        keep: instead of a rate, how many values or pixels are kept, fewer than an image has.
    """

    def __init__(
        self,
        rate: float | None = None,
        granularity: Granularity = "element",
        keep: int | None = None,
    ) -> None:
        super().__init__()
        check_law(rate, granularity, keep)
        self.rate = rate
        self.granularity: Granularity = granularity
        self.keep = keep

    @property
    def facts(self) -> Facts:
        """State a random mask; it is constant in the image, so autograd's derivative is true."""
        random = self.keep > 0 if self.keep is not None else self.rate not in (0, 1)
        return Facts(
            stochastic=random,
            differentiable=True,
            batch_dependent=False,
            abstains=False,
            passes=1,
            adjustable=random,
        )

    def transform(self, x: Images) -> Images:
        """Return `x` under a fresh mask, of fewer dropped values where `randomness` is below 1.

        Raises:
            ValueError: the image has no more places than are kept; nothing would be random then,
                which the facts deny.
        """
        places = x.shape[1 if self.granularity == "element" else 2 :].numel()
        if self.keep is not None and self.keep >= places:
            raise ValueError(
                f"`keep`={self.keep} leaves nothing to drop of {places} places; keep fewer, or "
                f"leave the subsampling out"
            )
        if self.keep is not None:
            dropped = (places - self.keep) * self.randomness
            return subsample(x, granularity=self.granularity, keep=places - math.ceil(dropped))
        assert self.rate is not None
        return subsample(x, self.rate * self.randomness, self.granularity)

    def extra_repr(self) -> str:
        """Show the settings."""
        law = f"rate={self.rate}" if self.keep is None else f"keep={self.keep}"
        return f"{law}, granularity={self.granularity!r}"


def uniform_rates(x: Images) -> Tensor:
    """Return one drop rate per image, uniform in [0, 1] (section 3.2 of the paper)."""
    return torch.rand(len(x), dtype=x.dtype, device=x.device)
