"""Input saliency: how much each value of an image moves the logit of the predicted class.

What is here is to be looked at and measured. A defense that computes with saliency, or an attack on
one, must not differentiate these functions: the gradient of a ReLU network is piecewise constant,
so its derivative is 0 almost everywhere and says nothing.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from redoubtable.gradients import input_gradient
from redoubtable.parts import facts_of, in_eval_mode
from redoubtable.types import Images, Labels, Logits, check_images


@dataclass(frozen=True)
class Saliency:
    """Saliency maps of a batch.

    Attributes:
        values: (N, C, H, W), not negative, in logits per unit of the image.
        classes: (N,) the predicted class, whose logit it is of.
    """

    values: Tensor
    classes: Labels


def saliency(model: nn.Module, x: Images, *, batch_size: int | None = None) -> Saliency:
    """Absolute input gradient E(X) = |dF/dX| (Simonyan et al. 2014, arXiv:1312.6034, section 3.1).

    F is the logit of the predicted class and not its softmax: a probability also rises because
    other logits fall. The derivative is by the image as it is given; of a masked image it is also
    by the values that the mask has set. The model is looked at in evaluation mode. Of a part that
    breaks the graph it is the surrogate's gradient, and of a random model one draw's.

    Args:
        model: maps images to logits; a rejection in the last column is no class.
        x: (N, C, H, W) in [0, 1].
        batch_size: images in one pass; None for all at once.

    Raises:
        TypeError: `x` are no images.
        ValueError: `x` leaves [0, 1], or the output does not depend on the image.
    """
    check_images(x)
    abstains = facts_of(model).abstains

    def predicted(logits: Logits) -> Labels:
        return (logits[:, :-1] if abstains else logits).argmax(1)

    def logit(logits: Logits, index: Tensor) -> Tensor:
        return logits.gather(1, predicted(logits)[:, None]).squeeze(1)

    with in_eval_mode(model):
        slope = input_gradient(model, x, logit, batch_size=batch_size)
    return Saliency(slope.gradient.abs(), predicted(slope.logits))
