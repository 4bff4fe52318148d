"""The fast gradient sign method, and its forms in other norms."""

from typing import Literal

from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.gradients import input_gradient
from redoubtable.losses import Objective, aim, check_losses, cross_entropy
from redoubtable.parts import facts_of
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss


@ATTACKS.register("fgsm", threats=(Linf, L2, L1, L0, L0Values), access="gradient")
def fgsm(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    label: Literal["true", "predicted"] = "true",
    loss: Loss = cross_entropy,
    eot: int = 1,
    batch_size: int | None = None,
) -> Images:
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572, section 4).

    One step of the whole radius in the steepest direction of the norm: the sign under Linf, the
    normalised gradient under L2, the best coordinates and pixels under L1 and L0.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: with a finite radius.
        targets: (N,) classes to be taken for; None to leave the true class.
        label: "predicted" steps away from the model's own answer, so that nothing of the true label
            leaks into the image (Kurakin et al. 2017, arXiv:1611.01236, section 4).
        loss: what is raised.
        eot: random draws that the gradient is averaged over.
        batch_size: images in one pass.

    Returns:
        (N, C, H, W) legal images.

    Raises:
        ValueError: the radius is infinite, or `label="predicted"` meets targets.
    """
    if not bool(threat.radius(x).isfinite().all()):
        raise ValueError("fgsm takes one step of the whole radius; give a finite `eps`")
    x = x.detach()
    abstains = facts_of(model).abstains
    check_losses(abstains, loss=loss)
    objective = aim(loss, y, targets)
    if label == "predicted":
        if targets is not None:
            raise ValueError("`label='predicted'` has no meaning with `targets`; leave one out")
        objective = _from_own_answer(loss, abstains)
    slope = input_gradient(model, x, objective, eot=eot, batch_size=batch_size)
    return threat.project(x + threat.ascent(slope.gradient, x, x, threat.radius(x)), x)


def _from_own_answer(loss: Loss, abstains: bool) -> Objective:
    """The loss of the class that the model itself answers, rejection aside."""

    def objective(logits: Logits, index: Tensor) -> Tensor:
        classes = logits.shape[1] - abstains
        return loss(logits, logits[:, :classes].argmax(1))

    return objective
