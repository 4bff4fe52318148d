"""Projected gradient descent."""

from torch import nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.losses import cross_entropy, margin
from redoubtable.parts import less_random
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("pgd", threats=(Linf, L2, L1, L0, L0Values), access="gradient")
def pgd(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    loss: Loss = cross_entropy,
    success: Loss = margin,
    momentum: float = 0.0,
    eot: int = 1,
    randomness: float = 1.0,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Projected gradient descent from random starts (Madry et al. 2018, arXiv:1706.06083, 2.1).

    Steps of steepest ascent of the threat's norm, each projected back: signs under Linf, normalised
    gradients under L2, the best coordinates under L1 (Tramèr & Boneh 2019, arXiv:1904.13000,
    section 4) and under L0 the best pixels, then swaps (Hosseini et al. 2019, arXiv:1905.00180).

    All starts are drawn for all images before any is attacked, so a result depends on the random
    state and not on which other images are finished.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: any norm.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: steps per restart, at least 1.
        step_size: length of a step in the units of eps; None for 2.5 eps / steps.
        restarts: random starts, at least 1.
        loss: what is raised.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        momentum: weight of the running sum of gradients, in [0, 1]; 0 for none. On a random model
            it averages over the draws of earlier steps at no cost.
        eot: random draws that each gradient is averaged over.
        randomness: share of the model's randomness that is on while it climbs, in (0, 1]: at 0.9 a
            drop rate of 0.9 counts as 0.81. Gradients are less noisy then, and those of another
            function; the true model chooses among the images kept.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.
    """
    if restarts < 1:
        raise ValueError(f"`restarts` must be at least 1, got {restarts}")
    x = x.detach()
    search = Search(model, x, y, targets, success, stop, batch_size)
    with less_random(model, randomness):
        for _ in range(restarts):
            search.climb(
                threat.sample(x),
                threat,
                loss,
                steps=steps,
                step_size=step_size,
                momentum=momentum,
                eot=eot,
            )
    return search.strongest(eot)
