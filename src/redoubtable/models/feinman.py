"""The networks of Feinman et al. 2017 (https://arxiv.org/abs/1703.00410), as in their code."""

from collections.abc import Sequence

from torch import nn

from redoubtable.models.catalogue import MODELS
from redoubtable.models.plain_cnn import PlainCnn

_PAPER = "Feinman et al. 2017, https://arxiv.org/abs/1703.00410"


@MODELS.register(
    "feinman_mnist", paper=_PAPER, input=(1, 28, 28), output="logits", parameters=1_218_634
)
def feinman_mnist(
    *,
    classes: int = 10,
    channels: int = 1,
    size: int | Sequence[int] = 28,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Network of Feinman et al. for MNIST, two convolutions, dropout 0.5: 1.22 million parameters.

    Args:
        classes: number of logits.
        channels: channels of the images.
        size: side of the images, or (height, width); other sizes are refused then.
        mean: what is subtracted from the images in [0, 1], one number or one per channel.
        std: what they are divided by then; the paper's images stay in [0, 1].

    Raises:
        ValueError: a size is below 1, the images are too small, or `std` is not positive.
    """
    return PlainCnn([((64, 64), 0.5)], [(128, 0.5)], classes, channels, size, mean, std)


@MODELS.register(
    "feinman_cifar10", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=2_915_114
)
def feinman_cifar10(
    *,
    classes: int = 10,
    channels: int = 3,
    size: int | Sequence[int] = 32,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Network of Feinman et al. for CIFAR-10, six convolutions: 2.92 million parameters.

    It was trained with a penalty of 0.01 on the squared weights and biases of its two hidden fully
    connected layers; `penalised` names them, and `weight_penalty` computes it. Arguments and
    errors are those of `feinman_mnist`.
    """
    return PlainCnn(
        [((32, 32), 0.0), ((64, 64), 0.0), ((128, 128), 0.5)],
        [(1024, 0.5), (512, 0.5)],
        classes,
        channels,
        size,
        mean,
        std,
        padding=(1,),
        penalty=0.01,
    )


@MODELS.register(
    "feinman_svhn", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=6_528_714
)
def feinman_svhn(
    *,
    classes: int = 10,
    channels: int = 3,
    size: int | Sequence[int] = 32,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Network of Feinman et al. for SVHN, two convolutions: 6.53 million parameters.

    Arguments and errors are those of `feinman_mnist`.
    """
    hidden = [(512, 0.5), (128, 0.5)]
    return PlainCnn([((64, 64), 0.5)], hidden, classes, channels, size, mean, std)
