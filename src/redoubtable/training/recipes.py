"""What a network is trained to do: losses of a batch, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.defenses.subsampling import Granularity, check_rate, subsample
from redoubtable.registry import Registry
from redoubtable.types import Images, Labels

Loss = Callable[[nn.Module, Images, Labels], Tensor]
"""A model, images in [0, 1] and labels to the scalar that training lowers, a mean over the images.

It draws from torch's global generator, which the loop has seeded, and leaves the model in the mode
that it finds it in.
"""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Recipe:
    """What training lowers, and what little the loop must know beside it.

    Attributes:
        loss: of a batch.
        replays: how many steps of the descent each batch is used for.
        state: tensors that a recipe carries from batch to batch; checkpoints keep them.
        settle: brings `state` up to date with the last backward pass; called before it is kept.
    """

    loss: Loss
    replays: int = 1
    state: dict[str, Tensor] = field(default_factory=dict)
    settle: Callable[[], None] = _nothing

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(model, x, y)


RECIPES: Registry[Callable[..., Recipe]] = Registry("recipe")
"""Factories of recipes, with keyword-only arguments."""


@RECIPES.register("natural", paper=None)
def natural(*, smoothing: float = 0.0) -> Recipe:
    """Cross-entropy on the images as they are: the baseline of every comparison.

    Args:
        smoothing: of the labels, in [0, 1): that share of each label is spread over all classes
            (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7).

    Raises:
        ValueError: `smoothing` is out of its range.
    """
    check_smoothing(smoothing)

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        return F.cross_entropy(model(x).float(), y, label_smoothing=smoothing)

    return Recipe(loss)


@RECIPES.register("subsampled", paper="Hosseini et al. 2019, https://arxiv.org/abs/1905.00180")
def subsampled(
    *,
    rate: float | Literal["uniform"] = "uniform",
    granularity: Granularity = "element",
    smoothing: float = 0.0,
) -> Recipe:
    """Cross-entropy on randomly subsampled images (Hosseini et al. 2019, section 2).

    The mask is drawn afresh for every image at every epoch; dropped values become grey 0.5 before
    the model's own normalisation, and the kept ones are not scaled up.

    Args:
        rate: drop rate in [0, 1], or "uniform" to draw one from U[0, 1] per image and epoch: one
            model then serves every rate (what the paper recommends and evaluates).
        granularity: "element" drops channels of a pixel by themselves, "pixel" all together.
        smoothing: of the labels, in [0, 1).

    Raises:
        ValueError: `rate` is neither, or `smoothing` is out of its range.
    """
    if rate != "uniform":
        check_rate(rate)
    check_smoothing(smoothing)

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        drop = torch.rand(len(x), device=x.device) if rate == "uniform" else rate
        logits = model(subsample(x, drop, granularity))
        return F.cross_entropy(logits.float(), y, label_smoothing=smoothing)

    return Recipe(loss)


def check_smoothing(smoothing: float) -> None:
    """Refuse what is no share of a label.

    Raises:
        ValueError: `smoothing` is not in [0, 1).
    """
    if isinstance(smoothing, bool) or not 0 <= smoothing < 1:
        raise ValueError(f"`smoothing` must lie in [0, 1), got {smoothing!r}")
