"""Many candidates of each example, looked at within a memory bound."""

from collections.abc import Callable

import torch
from torch import Tensor

from redoubtable.gradients import CPU_PIECE
from redoubtable.types import Images, Logits

_GPU_PIECE = 1024


def per_pass(n: int, batch_size: int | None, together: bool, like: Tensor) -> int:
    """Return how many candidates of each of `n` examples go through the model at a time.

    Args:
        n: number of examples.
        batch_size: images in one pass; None for as many as go through a network well.
        together: the model depends on its batch, so that a pass is one candidate of each example.
        like: a tensor on the device at hand.
    """
    piece = batch_size or (CPU_PIECE if like.device.type == "cpu" else _GPU_PIECE)
    return 1 if together else max(1, piece // n)


def look_at_all(
    look: Callable[[Images], Logits],
    paint: Callable[[slice], Images],
    n: int,
    count: int,
    batch_size: int | None,
    together: bool,
    like: Tensor,
) -> Logits:
    """Return the logits of `count` candidates of each of `n` examples: (N, count, K).

    Args:
        look: of images, the model's answers, in passes of at most `batch_size`.
        paint: of a range of candidates, their images for all examples, (N, m, C, H, W).
        n: number of examples.
        count: candidates of each.
        batch_size: as `per_pass` takes it, and so the next two.
        together: the model depends on its batch.
        like: a tensor on the device at hand.
    """
    most = per_pass(n, batch_size, together, like)
    parts = []
    for first in range(0, count, most):
        images = paint(slice(first, min(first + most, count)))
        parts.append(look(images.flatten(0, 1)).view(n, images.shape[1], -1))
    return torch.cat(parts, 1)
