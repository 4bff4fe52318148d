"""PGD_0: gradient steps, projected onto the images with few changed pixels."""

from typing import cast

import torch
from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS, check_threat
from redoubtable.attacks.search import Search
from redoubtable.attacks.walk import walk
from redoubtable.losses import aim, check_losses, cross_entropy, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L0, L0Values, ThreatModel
from redoubtable.threat.base import column
from redoubtable.types import Images, Labels, Loss

_PER_VALUE = 0.15
"""The step for each value of an image: 120,000 / 255 for the 3,072 of CIFAR-10."""


@ATTACKS.register("pgd0", threats=(L0, L0Values), access="gradient")
def pgd0(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 10,
    loss: Loss = cross_entropy,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """PGD_0 (Croce & Hein 2019, arXiv:1909.05040, section 3.1).

    Steps along the gradient over its L1 norm, each followed by the Euclidean projection onto the
    ball and the box, from images whose pixels are all changed at random. The projection looks at
    all values before it chooses pixels, so a step must be long: its length is that of all values
    together.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L0, of pixels or of values.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: steps per restart, at least 1.
        step_size: L1 length of a step before it is projected; None for 0.15 per value of an image,
            the authors' step on CIFAR-10.
        restarts: random starts, at least 1.
        loss: what is raised.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.
    """
    if restarts < 1:
        raise ValueError(f"`restarts` must be at least 1, got {restarts}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"`step_size` must be positive, got {step_size}")
    check_threat("pgd0", threat)
    ball = cast(L0 | L0Values, threat)
    x = x.detach()
    check_losses(facts_of(model).abstains, loss=loss)
    search = Search(model, x, y, targets, success, stop, batch_size)
    length = _PER_VALUE * x[0].numel() if step_size is None else step_size

    def step(index: Tensor, here: Images, gradient: Tensor) -> Images:
        size = gradient.abs().sum((1, 2, 3)).clamp_min(1e-10)
        return ball.select(index).nearest(here + gradient * column(length / size, x), x[index])

    for _ in range(restarts):
        noise = (2 * torch.rand_like(x) - 1 + x).clamp(0, 1)
        walk(search, ball.nearest(noise, x), aim(loss, y, targets), step, steps=steps, eot=eot)
    return threat.project(search.strongest(eot), x)
