"""Projected gradient descent towards each of the likeliest other classes."""

from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.rivals import aims, duel
from redoubtable.attacks.search import Search
from redoubtable.attacks.walk import walk
from redoubtable.losses import aim, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("multi_targeted", threats=(Linf, L2, L1, L0, L0Values), access="gradient")
def multi_targeted(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    classes: int = 9,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """PGD on the logit difference to one class after another (Gowal et al. 2019, arXiv:1910.09338).

    Each start raises z_t - z_y for one class t (section 3, equation 6), the likeliest classes of
    the clean image first. Any wrong answer counts as a success. Steps and starts are those of
    `pgd`; the paper takes as many steps and restarts as it can pay for.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: any norm.
        targets: (N,) classes to be taken for, then the only ones that are aimed at and count.
        classes: how many classes are aimed at, fewer if the model has no more.
        steps: steps per restart, at least 1.
        step_size: length of a step in the units of eps; None for 2.5 eps / steps.
        restarts: random starts for each class, at least 1.
        success: a margin, positive once the attack succeeded; candidates are ranked by it, and the
            logit difference is the one that it takes.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.

    Raises:
        ValueError: an argument is out of range, or no step size follows from an infinite radius.
    """
    if restarts < 1:
        raise ValueError(f"`restarts` must be at least 1, got {restarts}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"`step_size` must be positive, got {step_size}")
    abstains = facts_of(model).abstains
    search = Search(model, x, y, targets, success, stop, batch_size)
    size = threat.default_step(steps) if step_size is None else step_size

    def step(index: Tensor, here: Images, gradient: Tensor) -> Images:
        ball, clean = threat.select(index), search.x[index]
        length = size[index.to(size.device)] if isinstance(size, Tensor) else size
        return ball.project(here + ball.ascent(gradient, here, clean, length), clean)

    for goal in aims(search, classes, eot, abstains):
        objective = (
            aim(success, y, goal) if targets is not None else duel(success, y, goal, abstains)
        )
        for _ in range(restarts):
            walk(search, threat.sample(search.x), objective, step, steps=steps, eot=eot)
    return search.strongest(eot)
