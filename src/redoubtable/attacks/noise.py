"""Random noise, the attack that every other one must beat."""

from torch import nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.losses import margin
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("noise", threats=(Linf, L2, L1, L0, L0Values), access="score")
def noise(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    draws: int = 100,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Best of many random images of the ball (Carlini et al. 2019, arXiv:1902.06705, section 4.10).

    Where it beats a gradient attack, that attack is broken. Images are drawn for all examples, so
    that those of one don't depend on which others are finished.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: any norm; without a finite radius the noise fills the box.
        targets: (N,) classes to be taken for; None to leave the true class.
        draws: random images per example, at least 1 (the paper gives no number).
        success: a margin, positive once the attack succeeded; images are ranked by it.
        eot: random draws of the model that an answer is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the one of largest `success`.
    """
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, got {draws}")
    search = Search(model, x, y, targets, success, stop, batch_size)
    for _ in range(draws):
        images, index = threat.sample(search.x), search.open
        if len(index) == 0:
            break
        search.offer(index, images[index], search.look(images[index], eot))
    return search.strongest(eot)
