"""Residual networks for small images (He et al. 2016, https://arxiv.org/abs/1512.03385, 4.2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.models.catalogue import MODELS, check_sizes
from redoubtable.models.normalize import Normalize
from redoubtable.types import Images, Logits


class PadShortcut(nn.Module):
    """The shortcut without parameters (He et al. 2016, section 3.3, option A).

    Takes every `stride`-th row and column, and fills the new channels with zeros.

    Args:
        stride: step between the rows and columns that stay.
        extra: channels to add, half of them on each side.
    """

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C + extra, ceil(H / stride), ceil(W / stride))."""
        below = self.extra // 2
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, below, self.extra - below))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else PadShortcut(stride, width - channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, ceil(H / stride), ceil(W / stride)) features, not negative."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        out: Tensor = self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return out


class ResNetCifar(nn.Module):
    """A convolution, three stages of basic blocks with 16, 32 and 64 channels, a linear layer.

    Maps images of any size from 1x1 up to logits. Convolutions are drawn as in He et al. 2015
    (normal, scaled by the fan-in); see `resnet20` for the arguments.
    """

    def __init__(
        self,
        blocks: int,
        classes: int,
        channels: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ) -> None:
        super().__init__()
        check_sizes(blocks=blocks, classes=classes, channels=channels)
        self.normalize = Normalize(mean, std)
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        stages: list[nn.Module] = []
        before = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for index in range(blocks):
                stages.append(BasicBlock(before, width, stride if index == 0 else 1))
                before = width
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Images) -> Logits:
        """Return (N, classes) logits of images in [0, 1]."""
        features = self.blocks(self.relu(self.bn(self.conv(self.normalize(x)))))
        logits: Tensor = self.linear(self.flatten(self.pool(features)))
        return logits


_PAPER = "He et al. 2016, https://arxiv.org/abs/1512.03385"


@MODELS.register("resnet20", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=269_722)
def resnet20(
    *,
    classes: int = 10,
    channels: int = 3,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> nn.Module:
    """ResNet-20 for CIFAR (He et al. 2016, section 4.2): 0.27 million parameters.

    Args:
        classes: number of logits.
        channels: channels of the images.
        mean: what is subtracted from the images in [0, 1], one number or one per channel.
        std: what they are divided by then; see `Normalize` for the defaults.

    Raises:
        ValueError: a size is below 1, or `std` is not positive.
    """
    return ResNetCifar(3, classes, channels, mean, std)


@MODELS.register("resnet56", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=853_018)
def resnet56(
    *,
    classes: int = 10,
    channels: int = 3,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> nn.Module:
    """ResNet-56 for CIFAR (He et al. 2016, section 4.2): 0.85 million parameters.

    Arguments and errors are those of `resnet20`.
    """
    return ResNetCifar(9, classes, channels, mean, std)


@MODELS.register(
    "resnet110", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=1_727_962
)
def resnet110(
    *,
    classes: int = 10,
    channels: int = 3,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> nn.Module:
    """ResNet-110 for CIFAR (He et al. 2016, section 4.2): 1.73 million parameters.

    Arguments and errors are those of `resnet20`. The paper starts its training with a learning
    rate of 0.01, since 0.1 is slow to start converging at this depth.
    """
    return ResNetCifar(18, classes, channels, mean, std)
