"""Many candidates of each example, looked at within a memory bound."""

from collections.abc import Callable

import torch
from torch import Tensor

from redoubtable.attacks.search import Search
from redoubtable.gradients import CPU_PIECE
from redoubtable.losses import Objective
from redoubtable.parts import facts_of
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


def offer_best(
    search: Search,
    rank: Objective,
    index: Tensor,
    candidates: Tensor,
    paint: Callable[[Tensor], Images],
    eot: int,
) -> tuple[Logits, Tensor]:
    """Look at candidates of the open examples, and offer the best one of each.

    Args:
        search: where images are offered.
        rank: what `search` ranks by.
        index: (M,) the examples.
        candidates: (M, count, ...) whatever `paint` makes images of.
        paint: of some candidates of each example, (M, m, ...), their images (M, m, C, H, W).
        eot: random draws that an answer is averaged over.

    Returns:
        (M, count, K) logits, and (M,) which of the examples are still open.
    """
    n, count = candidates.shape[:2]
    most = per_pass(n, search.batch_size, facts_of(search.model).batch_dependent, search.x)
    parts = [
        search.look(paint(some).flatten(0, 1), eot).view(n, some.shape[1], -1)
        for some in torch.split(candidates, most, 1)
    ]
    logits = torch.cat(parts, 1)
    best = rank(logits.flatten(0, 1), index.repeat_interleave(count)).view(n, count).argmax(1)
    rows = torch.arange(n, device=index.device)
    strongest = paint(candidates[rows, best][:, None]).squeeze(1)
    return logits, search.offer(index, strongest, logits[rows, best])


def with_pixels(x: Images, places: Tensor, colours: Tensor, used: Tensor) -> Images:
    """Return copies of images with pixels set, one after the other.

    Args:
        x: (M, C, H, W).
        places: (M, m, pixels) numbers of positions, row by row.
        colours: (M, m, pixels, C).
        used: (M, m, pixels), or a shape that spreads to it: which of them are set at all.

    Returns:
        (M, m, C, H, W).
    """
    m, pixels = places.shape[1:]
    images = x.unsqueeze(1).expand(-1, m, -1, -1, -1).flatten(3).clone()
    used = used.expand_as(places)
    for number in range(pixels):
        place = places[:, :, number, None, None].expand(-1, -1, images.shape[2], 1)
        wanted = colours[:, :, number].unsqueeze(3)
        mine = used[:, :, number, None, None]
        images.scatter_(3, place, torch.where(mine, wanted, images.gather(3, place)))
    return images.view(*images.shape[:3], *x.shape[2:])
