"""The iterative L2 method of the literature on detectors."""

from torch import nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.losses import cross_entropy, margin
from redoubtable.threat import L2, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("iterative_l2", threats=(L2,), access="gradient")
def iterative_l2(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 10,
    step_size: float | None = None,
    loss: Loss = cross_entropy,
    eot: int = 1,
    batch_size: int | None = None,
) -> Images:
    """Iterative L2 method (Metzen et al. 2017, arXiv:1702.04267, section 3.1), from the image.

    x_i = project(x_{i-1} + step_size * g / |g|), g the gradient of the loss; it is BIM under L2
    and like BIM-B gives the last iterate. Values that stand at the box and point out of it are left
    out of g, as everywhere under L2 here.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L2.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: number of steps, at least 1.
        step_size: length of a step; None for 2.5 eps / steps, so eps / 4 at the default.
        loss: what is raised.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.

    Returns:
        (N, C, H, W) legal images.
    """
    search = Search(model, x, y, targets, margin, False, batch_size)
    return search.climb(
        search.x, threat, loss, steps=steps, step_size=step_size, momentum=0.0, eot=eot
    )
