"""Projected gradient descent under L0, one pixel at a time."""

from typing import cast

from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS, check_threat
from redoubtable.attacks.search import Search
from redoubtable.attacks.walk import walk
from redoubtable.losses import aim, check_losses, cross_entropy, margin
from redoubtable.parts import facts_of, less_random
from redoubtable.threat import L0, L0Values, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("l0_pgd", threats=(L0, L0Values), access="gradient")
def l0_pgd(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 60,
    loss: Loss = cross_entropy,
    success: Loss = margin,
    eot: int = 1,
    randomness: float = 1.0,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Greedy L0 gradient attack (Hosseini, Kannan & Poovendran 2019, arXiv:1905.00180).

    Each step takes the unchanged pixel of the largest linear gain to its best corner of the colour
    cube; once `eps` pixels are changed, each step also gives the pixel back whose change is worth
    least. The paper states a step of one pixel and no more; the gain and the swaps are our reading
    of it. `pgd` under L0 moves several pixels a step, from random starts.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L0, of pixels or of values.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: number of steps; the paper states none. Fewer than `eps` leave pixels unused.
        loss: what is raised.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws that each gradient is averaged over; the paper takes 10.
        randomness: share of the model's randomness that is on while it climbs, in (0, 1]: at 0.9 a
            drop rate of 0.9 counts as 0.81. Gradients are less noisy then, and those of another
            function; the true model chooses among the images kept.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.
    """
    check_threat("l0_pgd", threat)
    ball = cast(L0 | L0Values, threat)
    x = x.detach()
    check_losses(facts_of(model).abstains, loss=loss)
    search = Search(model, x, y, targets, success, stop, batch_size)

    def step(index: Tensor, here: Images, gradient: Tensor) -> Images:
        return ball.select(index).exchange(gradient, here, x[index])

    with less_random(model, randomness):
        walk(search, x, aim(loss, y, targets), step, steps=steps, eot=eot)
    return threat.project(search.strongest(eot), x)
