"""Gradients from answers alone, and the attack that follows them with signs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.losses import Objective, aim, check_losses, cross_entropy, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss

Directions = Callable[[Tensor], Tensor]
"""Random directions for images of the shape of what is given."""


@ATTACKS.register("nes", threats=(Linf, L2), access="score", differences=True)
def nes(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    queries: int = 10_000,
    draws: int = 50,
    sigma: float = 0.001,
    step_size: float | None = None,
    momentum: float = 0.9,
    loss: Loss = cross_entropy,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Natural evolution strategies (Ilyas et al. 2018, arXiv:1804.08598, algorithm 1, section 3.2).

    Projected steps of steepest ascent, of signs under Linf, along a gradient that is estimated from
    answers to Gaussian noise around the image and its mirror image. The authors' rule that halves
    steps on a plateau is left out; the running sum of estimates is theirs.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: Linf or L2, with a finite radius unless `step_size` is given.
        targets: (N,) classes to be taken for; None to leave the true class.
        queries: images that the model may be asked about per example; `draws` + 1 go into a step.
            Of a random model 12 more choose among the kept images in the end.
        draws: images per estimate, even, at least 2 (the authors' 50).
        sigma: standard deviation of the noise (the authors' 0.001).
        step_size: length of a step in the units of eps; None for 2.5 eps / steps.
        momentum: weight of the running sum of estimates, in [0, 1).
        loss: what is raised.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws of the model that an answer is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.
    """
    check_losses(facts_of(model).abstains, loss=loss)
    steps = estimates(queries, draws, sigma)
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must lie in [0, 1), got {momentum}")
    size = threat.default_step(steps) if step_size is None else step_size
    search = Search(model, x, y, targets, success, stop, batch_size)
    objective, x_adv = aim(loss, y, targets), search.x.clone()
    memory = torch.zeros_like(x_adv)
    for _ in range(steps):
        index = search.open
        index = index[search.offer(index, x_adv[index], search.look(x_adv[index], eot))]
        if len(index) == 0:
            return search.strongest(eot)
        here, clean, ball = x_adv[index], search.x[index], threat.select(index)
        slope = estimate(search, index, here, objective, torch.randn_like, draws, sigma, eot)
        memory[index] = momentum * memory[index] + (1 - momentum) * slope
        length = size[index.to(size.device)] if isinstance(size, Tensor) else size
        step = ball.ascent(memory[index], here, clean, length)
        x_adv[index] = ball.project(here + step, clean)
    index = search.open
    if len(index):
        search.offer(index, x_adv[index], search.look(x_adv[index], eot))
    return search.strongest(eot)


def estimates(queries: int, draws: int, sigma: float) -> int:
    """Return for how many steps `queries` last, a look at the iterate included each time.

    Raises:
        ValueError: they don't last for one, or what is given makes no sense.
    """
    if draws < 2 or draws % 2 or not sigma > 0:
        raise ValueError(
            f"`draws` must be even, at least 2, and `sigma` positive, got {draws} and {sigma}"
        )
    if queries < draws + 2:
        raise ValueError(f"`queries` must be at least `draws` + 2 = {draws + 2}, got {queries}")
    return (queries - 1) // (draws + 1)


def estimate(
    search: Search,
    index: Tensor,
    here: Images,
    objective: Objective,
    directions: Directions,
    draws: int,
    sigma: float,
    eot: int,
) -> Tensor:
    """Return (M, C, H, W) a gradient from differences along random directions.

    The mean of d (f(x + sigma d) - f(x - sigma d)) / (2 sigma) over `draws` / 2 directions d. They
    are drawn one after another, so that their number in memory does not change them.

    Args:
        search: whose model is asked.
        index: (M,) the examples that the images are of.
        here: (M, C, H, W) where the gradient is wanted.
        objective: what is raised.
        directions: gives random directions of unit variance per value.
        draws: images that are asked about per example.
        sigma: length of a difference.
        eot: random draws of the model per image.
    """
    total, left = torch.zeros_like(here), draws // 2
    room = max(1, (search.batch_size or 128) // (2 * len(here)))
    while left:
        block = [directions(here) for _ in range(min(room, left))]
        left -= len(block)
        ways = torch.stack(block)
        around = torch.cat([here + sigma * ways, here - sigma * ways]).flatten(0, 1)
        value = objective(search.look(around, eot), index.repeat(2 * len(block)))
        above, below = value.to(here).view(2, len(block), len(here), 1, 1, 1)
        total += (ways * (above - below)).sum(0)
    return total / (sigma * draws)
