"""CornerSearch: random sets of the single pixels that do most."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from redoubtable.attacks.crowd import offer_best, with_pixels
from redoubtable.attacks.registry import ATTACKS, check_threat
from redoubtable.attacks.search import Search
from redoubtable.losses import Objective, aim, margin
from redoubtable.threat import L0, ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss

_AT_ONCE = 256
"""Single pixels whose answers are kept before the best of them are chosen."""


@ATTACKS.register("corner_search", threats=(L0,), access="score")
def corner_search(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 10,
    draws: int = 1000,
    population: int = 100,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """CornerSearch (Croce & Hein 2019, arXiv:1909.05040, section 3.2).

    First every pixel at every corner of the colour cube, alone; then random sets of the best of
    them, small sets first, the better ones drawn more often: the i-th of n with probability
    (2 n - 2 i + 1) / n^2. The order is that of `success`, then that of each class in turn.

    It asks H W 2^C + `steps` x `draws` x (classes + 1) times per image, all the sooner done the
    fewer pixels are enough. The paper tries every size of a set; here `steps` of them up to `eps`.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L0.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: sizes of sets, spread evenly from 2 to `eps`; fewer where there are not so many.
        draws: sets of each size and order; the paper's default.
        population: best single pixels that sets are made of; the paper's default.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws that an answer is averaged over.
        batch_size: images in one pass; None for as many as go through a network well.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the candidate of largest `success`.
    """
    if min(steps, draws, population) < 1:
        raise ValueError(
            "`steps`, `draws` and `population` must be at least 1, got "
            f"{steps}, {draws} and {population}"
        )
    check_threat("corner_search", threat)
    x = x.detach()
    search = Search(model, x, y, targets, success, stop, batch_size)
    rank = aim(success, y, targets)
    pixels = threat.radius(x).clamp_max(threat.diameter(x)).long()
    orders = _single_pixels(search, rank, None if targets is not None else y, population, eot)
    most = int(pixels.amax())
    for size in _sizes(most, steps):
        for order in range(orders.shape[1]):
            index = search.open[pixels[search.open] > 1]
            if len(index) == 0:
                break
            sets = _drawn(orders[index, order], draws, size)
            # Examples of a smaller radius take as large a share of their own.
            mine = (pixels[index] * size / most).ceil().clamp_min(2)
            used = torch.arange(size, device=x.device) < mine[:, None]
            sets = sets.masked_fill(~used[:, None], -1)
            offer_best(search, rank, index, sets, _painter(x[index]), eot)
    legal = (pixels > 0).view(-1, 1, 1, 1)
    return threat.project(torch.where(legal, search.strongest(eot), x), x)


def _sizes(most: int, steps: int) -> list[int]:
    """At most `steps` whole numbers from 2 to `most`."""
    spread = torch.linspace(2, most, steps).round().int().tolist() if most > 1 else []
    return sorted({*spread, most} - {0, 1})


def _single_pixels(
    search: Search, rank: Objective, y: Labels | None, population: int, eot: int
) -> Tensor:
    """Try every pixel at every corner, offer the best, and return the best of each order.

    Returns:
        (N, orders, population) numbers of changes: the pixel times 2^C plus the corner.
    """
    x = search.x
    n, channels, height, width = x.shape
    index, paint = torch.arange(n, device=x.device), _painter(x)
    numbers = torch.arange(height * width * 2**channels, device=x.device)
    best = kept = None
    for some in torch.split(numbers, _AT_ONCE):
        candidates = some.view(1, -1, 1).expand(n, -1, 1)
        logits, _ = offer_best(search, rank, index, candidates, paint, eot)
        values = _orders(logits, rank, index, y)
        whose = some.view(1, 1, -1).expand_as(values)
        if best is not None and kept is not None:
            values, whose = torch.cat([best, values], 2), torch.cat([kept, whose], 2)
        best, places = values.topk(min(population, values.shape[2]), dim=2)
        kept = torch.gather(whose, 2, places)
    assert kept is not None
    return kept


def _orders(logits: Logits, rank: Objective, index: Tensor, y: Labels | None) -> Tensor:
    """(N, orders, m): by what changes are ordered; `success`, and each class against the true."""
    n, m = logits.shape[:2]
    overall = rank(logits.flatten(0, 1), index.repeat_interleave(m)).view(n, 1, m)
    if y is None:
        return overall
    own = logits.gather(2, y.view(n, 1, 1).expand(n, m, 1))
    return torch.cat([overall, (logits - own).transpose(1, 2)], 1)


def _drawn(order: Tensor, draws: int, size: int) -> Tensor:
    """(N, draws, size) changes out of (N, population), the first ones more often."""
    n, population = order.shape
    draw = torch.rand(n, draws * size, device=order.device).sqrt()
    which = (population * (1 - draw)).long().clamp_max(population - 1)
    return order.gather(1, which).view(n, draws, size)


def _painter(x: Images) -> Callable[[Tensor], Images]:
    """Return what makes (N, m, C, H, W) images of (N, m, size) changes, -1 for none."""
    channels = x.shape[1]
    bits = torch.arange(channels, device=x.device)

    def paint(changes: Tensor) -> Images:
        known = changes.clamp_min(0)
        colours = ((known[..., None] >> bits) & 1).to(x)
        return with_pixels(x, known >> channels, colours, changes >= 0)

    return paint
