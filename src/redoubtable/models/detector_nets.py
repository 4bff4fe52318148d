"""Networks that tell adversarial images from clean ones: one logit, positive where adversarial."""

from collections.abc import Sequence

from torch import nn

from redoubtable.models.catalogue import MODELS
from redoubtable.models.plain_cnn import PlainCnn


@MODELS.register(
    "detector_small", paper=None, input=(1, 28, 28), output="logits", parameters=105_281
)
def detector_small(
    *,
    classes: int = 1,
    channels: int = 1,
    size: int | Sequence[int] = 28,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Small detector, two convolutions, smaller than what it guards: 0.11 million parameters.

    It stands for the detector of the saliency papers, whose figure is lost (spec 003, section 1.5).

    Args:
        classes: number of logits; 1 for a detector, positive where the image is adversarial.
        channels: channels of the images, with those of a saliency map beside them.
        size: side of the images, or (height, width); other sizes are refused then.
        mean: what is subtracted from the images in [0, 1], one number or one per channel.
        std: what they are divided by then.

    Raises:
        ValueError: a size is below 1, the images are too small, or `std` is not positive.
    """
    stages = [((16,), 0.0), ((32,), 0.0)]
    return PlainCnn(stages, [(64, 0.0)], classes, channels, size, mean, std, padding=(1,))


@MODELS.register(
    "detector_gong",
    paper="Gong et al. 2017, https://arxiv.org/abs/1704.04960",
    input=(3, 32, 32),
    output="logits",
    parameters=655_905,
)
def detector_gong(
    *,
    classes: int = 1,
    channels: int = 3,
    size: int | Sequence[int] = 32,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Detector of Gong et al. for CIFAR-10, four convolutions: 0.66 million parameters.

    As in their code: of two convolutions the first is padded, and a fifth is dropped after the
    first pooling. Arguments and errors are those of `detector_small`.
    """
    stages = [((32, 32), 0.2), ((64, 64), 0.0)]
    return PlainCnn(stages, [(256, 0.5)], classes, channels, size, mean, std, padding=(1, 0))
