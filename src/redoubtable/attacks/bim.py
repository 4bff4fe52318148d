"""The basic iterative method, BIM-A and BIM-B."""

from typing import Literal

import torch
from torch import nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.losses import cross_entropy, margin
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("bim", threats=(Linf, L2, L1, L0, L0Values), access="gradient")
def bim(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 10,
    step_size: float | None = None,
    loss: Loss = cross_entropy,
    success: Loss = margin,
    momentum: float = 0.0,
    eot: int = 1,
    batch_size: int | None = None,
    stop: Literal["first", "last"] = "last",
) -> Images:
    """Basic iterative method (Kurakin et al. 2017, arXiv:1607.02533, section 2.2), from the image.

    `stop="first"` is BIM-A, the first iterate that is misclassified (the last one where none is);
    `stop="last"` is BIM-B, the last iterate (Feinman et al. 2017, arXiv:1703.00410, section 4.1).
    An image that is misclassified from the start is its own first iterate. On a random model no
    single look can say which iterate is the first, and both give the last one.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: any norm.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: number of steps, at least 1.
        step_size: length of a step in the units of eps; None for 2.5 eps / steps.
        loss: what is raised.
        success: a margin, positive once the attack succeeded.
        momentum: weight of the running sum of gradients, in [0, 1]; 0 for none. On a random model
            it averages over the draws of earlier steps at no cost.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: which iterate is returned.

    Returns:
        (N, C, H, W) legal images.
    """
    search = Search(model, x, y, targets, success, stop == "first", batch_size)
    last = search.climb(
        search.x, threat, loss, steps=steps, step_size=step_size, momentum=momentum, eot=eot
    )
    if stop == "last":
        return last
    return torch.where(search.finished.view(-1, 1, 1, 1), search.best, last)
