"""Input gradients, and the surrogates of what has none.

Expectation over transformation (EOT, Athalye et al. 2018) and backward-pass differentiable
approximation (BPDA, the same authors) stand here once; no attack has its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from redoubtable.losses import Objective
from redoubtable.parts import ManyDraws, facts_of
from redoubtable.types import Images, Logits


@dataclass(frozen=True)
class Slope:
    """What one look at the model tells an attack, each a mean over the draws.

    Attributes:
        gradient: (N, C, H, W), of the objective to the image.
        loss: (N,), the objective.
        logits: (N, K).
    """

    gradient: Tensor
    loss: Tensor
    logits: Logits


_NO_GRADIENT = (
    "the model's output has no gradient to its input; a part that breaks the graph must name a "
    "surrogate (see redoubtable.gradients.bpda)"
)


CPU_PIECE = 64
"""Images that go through a network at a time on a processor: more no longer fit its cache."""


def images_per_pass(model: nn.Module, x: Images, draws: int, batch_size: int | None) -> int:
    """Return how many images go through a model at a time.

    Args:
        model: one that depends on its batch is always shown all images together, once per draw.
        x: (N, C, H, W) images.
        draws: looks at each of them.
        batch_size: the memory bound; None for all that are wanted.
    """
    most = batch_size or max(1, len(x) * draws)
    most = min(most, CPU_PIECE) if x.device.type == "cpu" else most
    # Facts are gathered from all modules, so they are asked for only where they decide.
    together = draws == 1 and len(x) <= most
    return max(1, len(x)) if together or facts_of(model).batch_dependent else most


def answers(model: nn.Module, x: Images, draws: int) -> Logits:
    """Return (draws, N, K) answers of a random model to the same images.

    What a model does once for all draws of an image (see `ManyDraws`) is done once; of any other
    the draws are folded into the batch, of which a processor sees no more at a time than fits its
    cache.
    """
    if isinstance(model, ManyDraws):
        return model.answers(x, draws)
    folded = x.repeat(draws, 1, 1, 1)
    pieces = torch.split(folded, images_per_pass(model, folded, 1, None))
    return torch.cat([model(piece) for piece in pieces]).view(draws, len(x), -1)


def input_gradient(
    model: nn.Module,
    x: Images,
    objective: Objective,
    *,
    eot: int = 1,
    batch_size: int | None = None,
) -> Slope:
    """Return the mean gradient, objective and logits over `eot` passes of a random model.

    The draws are folded into the batch, so thirty draws of one image cost one pass over thirty
    images. Parameters get no gradient and no `.grad` is left behind.

    Args:
        model: maps images to logits.
        x: (N, C, H, W) images.
        objective: of (M, K) logits and the (M,) indices of their images, what is raised.
        eot: random draws per image, at least 1; more than 1 only makes sense on a random model.
        batch_size: images in one pass, the memory bound; None for all draws at once. A model that
            depends on its batch sees all images in one pass, whatever is said here.

    Raises:
        ValueError: `eot` or `batch_size` is below 1, or the output does not depend on the image.
    """
    n = len(x)
    if eot < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"`eot` and `batch_size` must be at least 1, got {eot} and {batch_size}")
    if eot > 1 and isinstance(model, ManyDraws):
        return _shared_slope(model, x, objective, eot, batch_size)
    index = torch.arange(n, device=x.device).repeat(eot)
    gradient, loss = torch.zeros_like(x), x.new_zeros(n)
    logits: Tensor | None = None
    most = images_per_pass(model, x, eot, batch_size)
    for start, part in zip(range(0, len(index), most), torch.split(index, most), strict=True):
        whole = x[start : start + most] if eot == 1 else x[part]
        images = whole.detach().requires_grad_()
        with torch.enable_grad():
            out = model(images)
            value = objective(out, part)
        slope = _slope_of(value, images)
        if eot == 1 and len(part) == n:
            return Slope(slope, value.detach().to(x.dtype), out.detach())
        if logits is None:
            logits = out.new_zeros(n, out.shape[1])
        gradient.index_add_(0, part, slope)
        loss.index_add_(0, part, value.detach().to(x.dtype))
        logits.index_add_(0, part, out.detach())
    assert logits is not None
    return Slope(gradient / eot, loss / eot, logits / eot)


def _shared_slope(
    model: ManyDraws, x: Images, objective: Objective, eot: int, batch_size: int | None
) -> Slope:
    """The means over draws of a model that does for all of them at once what they share."""
    pieces = []
    most, turns = _shared(len(x), eot, batch_size)
    for part in torch.split(torch.arange(len(x), device=x.device), most):
        found = []
        for draws in turns:
            images = x[part].detach().requires_grad_()
            with torch.enable_grad():
                out = model.answers(images, draws)
                value = objective(out.flatten(0, 1), part.repeat(draws)).view(draws, -1).sum(0)
            slope = _slope_of(value, images)
            found.append((slope, value.detach().to(x.dtype), out.detach().sum(0)))
        pieces.append([torch.stack(each).sum(0) / eot for each in zip(*found, strict=True)])
    return Slope(*(torch.cat(p) for p in zip(*pieces, strict=True)))


def _shared(n: int, draws: int, batch_size: int | None) -> tuple[int, list[int]]:
    """How many images go through a model at a time, and how many draws of each in every turn."""
    most = batch_size or max(1, n * draws)
    turn = min(draws, most)
    turns = [turn] * (draws // turn) + [draws % turn] * (draws % turn > 0)
    return max(1, most // turn), turns


def _slope_of(value: Tensor, images: Images) -> Tensor:
    """The gradient of the sum of values to the images."""
    if not value.requires_grad:
        raise ValueError(_NO_GRADIENT)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(value.sum(), images, allow_unused=True)
    if slope is None:
        raise ValueError(_NO_GRADIENT)
    # A channels-last copy gives its own layout back, and sums of two layouts are slow.
    return slope.contiguous() if images.is_contiguous() else slope


def mean_logits(
    model: nn.Module, x: Images, *, eot: int = 1, batch_size: int | None = None
) -> Logits:
    """Return (N, K) logits without a gradient, averaged over `eot` passes of a random model.

    Args:
        model: maps images to logits.
        x: (N, C, H, W) images.
        eot: random draws per image, at least 1.
        batch_size: images in one pass, the memory bound; None for all at once. A model that
            depends on its batch sees all images in one pass, whatever is said here.
    """
    if eot > 1 and isinstance(model, ManyDraws):
        most, turns = _shared(len(x), eot, batch_size)
        with torch.no_grad():
            sums = [[model.answers(p, n).sum(0) for n in turns] for p in torch.split(x, most)]
            return torch.cat([torch.stack(each).sum(0) for each in sums]) / eot
    parts = torch.split(x, images_per_pass(model, x, 1, batch_size))
    with torch.no_grad():
        looks = [torch.cat([model(p) for p in parts]) for _ in range(eot)]
    return torch.stack(looks).mean(0) if eot > 1 else looks[0]


class _Replace(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def bpda(
    forward: Callable[[Tensor], Tensor], surrogate: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return a function with the exact values of `forward` and the gradient of `surrogate`.

    Backward-pass differentiable approximation (Athalye, Carlini & Wagner 2018, section 4.1). There
    is no default surrogate: the identity, too, has to be written down.

    Raises:
        ValueError: on a call, if the two give different shapes.
    """

    def replaced(x: Tensor) -> Tensor:
        with torch.no_grad():
            value = forward(x)
        smooth = surrogate(x)
        if value.shape != smooth.shape:
            raise ValueError(
                f"the surrogate gives {tuple(smooth.shape)} where the function gives "
                f"{tuple(value.shape)}; both must have one shape"
            )
        result: Tensor = _Replace.apply(value, smooth)
        return result

    return replaced


def finite_difference(
    value: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, step: float = 1e-3
) -> Tensor:
    """Return the central difference of an (N,)-valued function along a direction, per image."""
    with torch.no_grad():
        return (value(x + step * direction) - value(x - step * direction)) / (2 * step)
