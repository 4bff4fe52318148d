"""What a network is trained to do: losses of a batch, by name."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.defenses.subsampling import Granularity, check_rate, subsample
from redoubtable.registry import Registry
from redoubtable.types import Images, Labels

Recipe = Callable[[nn.Module, Images, Labels], Tensor]
"""A model, images in [0, 1] and labels to the scalar that training lowers.

It draws from torch's global generator, which the loop has seeded, and leaves the model in the mode
that it finds it in.
"""

RECIPES: Registry[Callable[..., Recipe]] = Registry("recipe")
"""Factories of recipes, with keyword-only arguments."""


@RECIPES.register("natural", paper=None)
def natural() -> Recipe:
    """Cross-entropy on the images as they are: the baseline of every comparison."""

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        return F.cross_entropy(model(x).float(), y)

    return loss


@RECIPES.register("subsampled", paper="Hosseini et al. 2019, https://arxiv.org/abs/1905.00180")
def subsampled(
    *, rate: float | Literal["uniform"] = "uniform", granularity: Granularity = "element"
) -> Recipe:
    """Cross-entropy on randomly subsampled images (Hosseini et al. 2019, section 2).

    The mask is drawn afresh for every image at every epoch; dropped values become grey 0.5 before
    the model's own normalisation, and the kept ones are not scaled up.

    Args:
        rate: drop rate in [0, 1], or "uniform" to draw one from U[0, 1] per image and epoch: one
            model then serves every rate (what the paper recommends and evaluates).
        granularity: "element" drops channels of a pixel by themselves, "pixel" all together.

    Raises:
        ValueError: `rate` is neither.
    """
    if rate != "uniform":
        check_rate(rate)

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        drop = torch.rand(len(x), device=x.device) if rate == "uniform" else rate
        return F.cross_entropy(model(subsample(x, drop, granularity)).float(), y)

    return loss
