"""Sparse-RS: random search over sets of pixels and their colours."""

import torch
from torch import Tensor, nn

from redoubtable.attacks.random_search import other_signs, random_search, random_signs
from redoubtable.attacks.registry import ATTACKS, check_threat
from redoubtable.attacks.search import Search
from redoubtable.losses import margin
from redoubtable.threat import L0, ThreatModel
from redoubtable.types import Images, Labels, Loss

_SCHEDULE = ((0, 2), (50, 4), (200, 5), (500, 6), (1000, 8), (2000, 10), (4000, 12), (6000, 15))
"""After which of 10,000 queries the share of exchanged pixels is divided by what (their code)."""
_LAST = (8000, 20)


@ATTACKS.register("sparse_rs", threats=(L0,), access="score")
def sparse_rs(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    queries: int = 10_000,
    alpha: float = 0.3,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Sparse-RS (Croce et al. 2022, arXiv:2006.12834, section 3 and algorithm 1).

    A random search that sees the logits alone: always `eps` pixels stand at corners of the colour
    cube; each query gives some of them back and puts as many others in, ever fewer. Here each image
    has its own exchanges, new colours differ from the clean ones, and a pixel that was given back
    may be drawn again: in the paper a good pixel of a bad colour can only leave for a worse one. On
    a random model it looks again as Square attack does.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L0.
        targets: (N,) classes to be taken for; None to leave the true class.
        queries: answers asked for per image, each a mean over `eot` draws, and of a random model
            the equivalent of 12 more, which choose among the kept images; the schedule is scaled
            to them.
        alpha: share of the pixels exchanged at first; 0.3 is the paper's, 0.8 is that of the
            authors' code.
        success: a margin, positive once the attack succeeded; what the search raises, also towards
            a target, where the paper takes the cross-entropy.
        eot: random draws that an answer is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the candidate of largest `success`.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"`alpha` must lie in (0, 1], got {alpha}")
    check_threat("sparse_rs", threat)
    x = x.detach()
    search = Search(model, x, y, targets, success, stop, batch_size)
    pixels = threat.radius(x).clamp_max(threat.diameter(x))
    most = pixels.amax().item()

    def propose(query: int, index: Tensor, kept: Images) -> Images:
        share = alpha / _divisor(query / queries)
        exchanged = torch.minimum((share * pixels[index]).floor().clamp_min(1), pixels[index])
        return _exchange(kept, x[index], exchanged, max(int(share * most), min(int(most), 1)))

    start = _place(x, x, torch.rand_like(x[:, 0]).flatten(1), pixels, int(most))
    random_search(search, start, propose, queries, eot)
    return threat.project(search.strongest(eot), x)


def _divisor(spent: float) -> int:
    """By what `alpha` is divided once this share of the queries is spent."""
    now = int(spent * 10_000)
    return max([1, *(by for after, by in (*_SCHEDULE, _LAST) if now > after)])


def _exchange(kept: Images, x: Images, count: Tensor, most: int) -> Images:
    """Give `count` changed pixels back and change as many others; `most` is the largest count."""
    changed = (kept != x).any(1).flatten(1)
    draw, again = torch.rand(2, *changed.shape, dtype=x.dtype, device=x.device)
    dropped = _chosen(draw.masked_fill(~changed, -1), count, most)
    left = torch.where(dropped.view(len(x), 1, *x.shape[2:]), x, kept)
    return _place(left, x, again.masked_fill(changed & ~dropped, -1), count, most)


def _place(left: Images, x: Images, order: Tensor, count: Tensor, most: int) -> Images:
    """Give the `count[n]` pixels of largest (N, H * W) order random corner colours, not `x`'s."""
    signs = random_signs(*x.shape[:2], x[0, 0].numel(), like=x)
    colour = (signs + 1) / 2
    same = (colour == x.flatten(2)).all(1, keepdim=True)
    colour = ((other_signs(signs, same) + 1) / 2).view_as(x)
    return torch.where(_chosen(order, count, most).view(len(x), 1, *x.shape[2:]), colour, left)


def _chosen(order: Tensor, count: Tensor, most: int) -> Tensor:
    """(N, M) mask of the `count[n]` largest entries of each row, at most `most`."""
    places = order.topk(most, dim=1).indices
    among = torch.arange(most, device=order.device) < count[:, None]
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, places, among)
