"""What a network is trained to do: losses of a batch, by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.defenses.subsampling import subsample
from redoubtable.masks import GREY, Granularity, check_law, random_mask
from redoubtable.registry import Registry
from redoubtable.types import Images, Labels

_HOSSEINI = "Hosseini et al. 2019, https://arxiv.org/abs/1905.00180"
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


@RECIPES.register("subsampled", paper=_HOSSEINI)
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
    check_law(0 if rate == "uniform" else rate, granularity)
    check_smoothing(smoothing)

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        drop = torch.rand(len(x), device=x.device) if rate == "uniform" else rate
        logits = model(subsample(x, drop, granularity))
        return F.cross_entropy(logits.float(), y, label_smoothing=smoothing)

    return Recipe(loss)


@RECIPES.register("subsampled_uniform", paper=_HOSSEINI)
def subsampled_uniform(
    *,
    rate: float = 0.9,
    variant: Literal["original", "noisy"] = "original",
    weight: float = 1.0,
    eps: float | None = None,
    granularity: Granularity = "element",
    smoothing: float = 0.0,
) -> Recipe:
    """Subsampled images to their labels, others to the uniform distribution (Hosseini et al. 2019).

    The paper's section on explanations trains two networks so, to see what its maps show. The loss
    is CE(f(X * M), y) + weight * mean_k(-log softmax_k f(X_u)). X_u is the image itself
    ("original") or (X + eps V) * M ("noisy"): V is -1 or 1, each value with probability 1/2 by
    itself, and the mask that of the first term. X + eps V is not clipped, in the paper neither:
    clipped, values at 0 and 1 would have noise of one sign only.

    Both halves go through the network as one batch, so that batch norms train with the statistics
    of the mixture that they use later; in two batches each half would have its own.

    Args:
        rate: drop rate in [0, 1].
        variant: what is mapped to the uniform distribution.
        weight: of that term, 0 or more; the paper does not say it.
        eps: of the noise, in units of [0, 1]; None for 8/255, the paper's 16/255 of [-1, 1]. For
            "noisy" only.
        granularity: "element" drops channels of a pixel by themselves, "pixel" all together.
        smoothing: of the labels, in [0, 1).

    Raises:
        ValueError: an argument is out of its range, or `eps` is given and there is no noise.
    """
    check_law(rate, granularity)
    check_smoothing(smoothing)
    if variant not in ("original", "noisy"):
        raise ValueError(f"`variant` must be 'original' or 'noisy', got {variant!r}")
    if not 0 <= weight < math.inf:
        raise ValueError(f"`weight` must be finite and not negative, got {weight}")
    if eps is not None and variant == "original":
        raise ValueError(f"`eps` must be None unless variant=noisy has noise, got {eps}")
    size = 8 / 255 if eps is None else eps
    if not 0 < size <= 1:
        raise ValueError(f"`eps` must lie in (0, 1], in units of [0, 1], got {eps}")

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        kept = random_mask(x, rate, granularity)
        other = x
        if variant == "noisy":
            signs = torch.where(torch.rand_like(x) < 0.5, -1, 1)
            other = torch.where(kept, x + size * signs, GREY)
        logits = model(torch.cat([torch.where(kept, x, GREY), other])).float()
        to_label = F.cross_entropy(logits[: len(x)], y, label_smoothing=smoothing)
        to_uniform = -logits[len(x) :].log_softmax(1).mean()
        total: Tensor = to_label + weight * to_uniform
        return total

    return Recipe(loss)


def check_smoothing(smoothing: float) -> None:
    """Refuse what is no share of a label.

    Raises:
        ValueError: `smoothing` is not in [0, 1).
    """
    if isinstance(smoothing, bool) or not 0 <= smoothing < 1:
        raise ValueError(f"`smoothing` must lie in [0, 1), got {smoothing!r}")
