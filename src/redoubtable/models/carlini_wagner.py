"""The networks of Carlini & Wagner 2017 (https://arxiv.org/abs/1608.04644, table I)."""

from collections.abc import Sequence

from torch import nn

from redoubtable.models.catalogue import MODELS
from redoubtable.models.plain_cnn import PlainCnn

_PAPER = "Carlini & Wagner 2017, https://arxiv.org/abs/1608.04644"


@MODELS.register(
    "carlini_wagner_mnist", paper=_PAPER, input=(1, 28, 28), output="logits", parameters=312_202
)
def carlini_wagner_mnist(
    *,
    classes: int = 10,
    channels: int = 1,
    size: int | Sequence[int] = 28,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Network of Carlini & Wagner for MNIST, four convolutions: 0.31 million parameters.

    Args:
        classes: number of logits.
        channels: channels of the images.
        size: side of the images, or (height, width); other sizes are refused then.
        mean: what is subtracted from the images in [0, 1], one number or one per channel.
        std: what they are divided by then; by default the network sees [-0.5, 0.5], as published.

    Raises:
        ValueError: a size is below 1, the images are too small, or `std` is not positive.
    """
    stages = [((32, 32), 0.0), ((64, 64), 0.0)]
    return PlainCnn(stages, [(200, 0.5), (200, 0.0)], classes, channels, size, mean, std)


@MODELS.register(
    "carlini_wagner_cifar10", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=1_147_978
)
def carlini_wagner_cifar10(
    *,
    classes: int = 10,
    channels: int = 3,
    size: int | Sequence[int] = 32,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Network of Carlini & Wagner for CIFAR-10, four convolutions: 1.15 million parameters.

    Arguments and errors are those of `carlini_wagner_mnist`.
    """
    stages = [((64, 64), 0.0), ((128, 128), 0.0)]
    return PlainCnn(stages, [(256, 0.5), (256, 0.0)], classes, channels, size, mean, std)
