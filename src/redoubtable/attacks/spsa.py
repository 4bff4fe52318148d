"""Simultaneous perturbation stochastic approximation."""

import torch
from torch import Tensor, nn

from redoubtable.attacks.nes import estimate, estimates
from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.losses import aim, check_losses, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("spsa", threats=(Linf, L2), access="score", differences=True)
def spsa(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    queries: int = 12_901,
    draws: int = 128,
    sigma: float = 0.01,
    step_size: float = 0.01,
    loss: Loss = margin,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """SPSA (Uesato et al. 2018, arXiv:1802.05666, section 3.3, algorithm 1), from a random start.

    Adam (Kingma & Ba 2015) on a gradient that is estimated from answers at random corners of a
    small cube around the image, each step projected back. It needs no slope of the model, so it
    tells a masked gradient from a missing one; the paper goes up to 8,192 draws for 100 steps.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: Linf as published, or L2.
        targets: (N,) classes to be taken for; None to leave the true class.
        queries: images that the model may be asked about per example; `draws` + 1 go into a step,
            so the default is 100 steps.
        draws: images per estimate, even, at least 2 (CleverHans' 128).
        sigma: half the side of the cube (the authors' 0.01).
        step_size: Adam's (the authors' 0.01).
        loss: what is raised.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws of the model that an answer is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.
    """
    check_losses(facts_of(model).abstains, loss=loss)
    if not step_size > 0:
        raise ValueError(f"`step_size` must be positive, got {step_size}")
    steps = estimates(queries, draws, sigma)
    search = Search(model, x, y, targets, success, stop, batch_size)
    objective, x_adv = aim(loss, y, targets), threat.sample(search.x)
    mean, square = torch.zeros_like(x_adv), torch.zeros_like(x_adv)
    for number in range(1, steps + 1):
        index = search.open
        index = index[search.offer(index, x_adv[index], search.look(x_adv[index], eot))]
        if len(index) == 0:
            return search.strongest(eot)
        here = x_adv[index]
        slope = estimate(search, index, here, objective, _corners, draws, sigma, eot)
        mean[index] = 0.9 * mean[index] + 0.1 * slope
        square[index] = 0.999 * square[index] + 0.001 * slope**2
        root = (square[index] / (1 - 0.999**number)).sqrt() + 1e-8
        step = step_size * mean[index] / (1 - 0.9**number) / root
        x_adv[index] = threat.select(index).project(here + step, search.x[index])
    index = search.open
    if len(index):
        search.offer(index, x_adv[index], search.look(x_adv[index], eot))
    return search.strongest(eot)


def _corners(like: Tensor) -> Tensor:
    """Random signs."""
    return torch.randint(0, 2, like.shape, device=like.device).to(like).mul_(2).sub_(1)
