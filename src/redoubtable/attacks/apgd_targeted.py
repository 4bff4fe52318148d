"""Auto-PGD towards each of the likeliest other classes."""

from torch import Tensor, nn

from redoubtable.attacks.apgd import climb
from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.rivals import aims
from redoubtable.attacks.search import Search
from redoubtable.losses import Objective, aim, check_losses, dlr, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss


@ATTACKS.register("apgd_targeted", threats=(Linf, L2, L1), access="gradient")
def apgd_targeted(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    classes: int = 9,
    steps: int = 100,
    restarts: int = 1,
    alpha: float = 0.75,
    loss: Loss = dlr,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Auto-PGD on the targeted DLR loss, class by class (Croce & Hein 2020, arXiv:2003.01690, 4).

    One climb towards each of the classes that the model finds likeliest for the clean image, the
    likeliest first. Any wrong answer counts as a success, whichever class was aimed at; finished
    examples leave. The defaults are those of AutoAttack's APGD-T. With fewer than four classes the
    targeted DLR loss has no gradient, and the margin stands in.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: with a finite radius.
        targets: (N,) classes to be taken for, then the only ones that are aimed at and count.
        classes: how many classes are aimed at, fewer if the model has no more.
        steps: steps per restart, at least 1.
        restarts: random starts for each class, at least 1.
        alpha: weight of the new step beside the last one, in (0, 1]. Not used under L1.
        loss: what is raised, in its targeted form.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.

    Raises:
        ValueError: the radius is infinite, or an argument is out of range.
    """
    if restarts < 1:
        raise ValueError(f"`restarts` must be at least 1, got {restarts}")
    abstains = facts_of(model).abstains
    check_losses(abstains, loss=loss)
    search = Search(model, x, y, targets, success, stop, batch_size)
    for goal in aims(search, classes, eot, abstains):
        for _ in range(restarts):
            climb(search, threat, _towards(loss, y, goal), steps=steps, alpha=alpha, eot=eot)
    return search.strongest(eot)


def _towards(loss: Loss, y: Labels, goal: Labels) -> Objective:
    """The loss towards a class, the margin in the place of a ratio that would be constant."""
    wanted, plain = aim(loss, y, goal), aim(margin, y, goal)

    def objective(logits: Logits, index: Tensor) -> Tensor:
        flat = loss is dlr and logits.shape[1] < 4
        return plain(logits, index) if flat else wanted(logits, index)

    return objective
