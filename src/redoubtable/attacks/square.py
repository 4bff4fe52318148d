"""Square attack: random search with square windows."""

import math

from torch import Tensor, nn

from redoubtable.attacks.random_search import random_search
from redoubtable.attacks.registry import ATTACKS, check_threat
from redoubtable.attacks.search import Search
from redoubtable.attacks.square_windows import MOVES
from redoubtable.losses import margin
from redoubtable.threat import L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which of 10,000 queries the share of changed pixels is halved (section 3.2)."""


@ATTACKS.register("square", threats=(Linf, L2), access="score")
def square(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    queries: int = 5000,
    alpha: float = 0.8,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Square attack (Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3).

    A random search that sees the logits alone: each query changes one square window of the
    strongest image so far, ever smaller ones, and stays at the edge of the ball. It does not care
    whether gradients are masked. Each image has windows of its own.

    On a random model nothing stops early, answers are means over `eot` draws, and the kept image is
    looked at again every tenth query.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: Linf or L2.
        targets: (N,) classes to be taken for; None to leave the true class.
        queries: answers asked for per image, each a mean over `eot` draws, and of a random model
            the equivalent of 12 more, which choose among the kept images; the default is that of
            AutoAttack (Croce & Hein 2020), and the schedule of the sides is scaled to it.
        alpha: share of the pixels that the first windows cover, p in the paper.
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
    check_threat("square", threat)
    moves, x = MOVES[type(threat)], x.detach()
    search = Search(model, x, y, targets, success, stop, batch_size)

    def propose(query: int, index: Tensor, kept: Images) -> Images:
        side = _side(alpha, query / queries, moves.least, x)
        return moves.change(kept, x[index], threat.select(index), side)

    start = moves.start(x, threat)
    random_search(search, start, propose, queries, eot)
    return threat.project(search.strongest(eot), x)


def _side(alpha: float, spent: float, least: int, x: Images) -> int:
    """The side of a window once this share of the queries is spent."""
    height, width = x.shape[2:]
    halved = sum(int(spent * 10_000) > limit for limit in _HALVINGS)
    side = max(round(math.sqrt(alpha / 2**halved * height * width)), least)
    # Under L2 it is odd, so that a window has a middle.
    side += least > 1 and side % 2 == 0
    return min(side, height, width)
