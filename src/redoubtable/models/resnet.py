"""ResNet-18 and ResNet-50 for small images: the wide ones of He et al. 2016, with a small stem."""

from collections.abc import Sequence

from torch import Tensor, nn

from redoubtable.models.catalogue import MODELS, check_sizes
from redoubtable.models.normalize import Normalize
from redoubtable.types import Images, Logits

_PAPER = "He et al. 2016, https://arxiv.org/abs/1512.03385"


class ResidualBlock(nn.Module):
    """Convolutions with batch norm, added to a shortcut (He et al. 2016, figure 5).

    Where the shapes differ the shortcut is a 1x1 convolution (section 3.3, option B).

    Args:
        channels: that come in.
        width: of the 3x3 convolutions.
        stride: of the first 3x3 convolution.
        bottleneck: one 3x3 convolution between two of 1x1, the last with four times the width,
            instead of two of 3x3.
    """

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        if bottleneck:
            body = [
                *_joined(channels, width, 1, 1),
                nn.ReLU(),
                *_joined(width, width, 3, stride),
                nn.ReLU(),
                *_joined(width, out, 1, 1),
            ]
        else:
            body = [
                *_joined(channels, width, 3, stride),
                nn.ReLU(),
                *_joined(width, width, 3, 1),
            ]
        self.body = nn.Sequential(*body)
        same = stride == 1 and channels == out
        self.shortcut = (
            nn.Sequential() if same else nn.Sequential(*_joined(channels, out, 1, stride))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, ceil(H / stride), ceil(W / stride)) features, not negative."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def _joined(channels: int, width: int, side: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, side, stride, padding=side // 2, bias=False)
    return [conv, nn.BatchNorm2d(width)]


class ResNet(nn.Module):
    """A 3x3 convolution, four stages of residual blocks, a linear layer; no max-pool at the start.

    Maps images of any size from 1x1 up to logits. Weights are drawn as PyTorch does by default,
    like in the code of TRADES; see `resnet18` for the arguments.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        bottleneck: bool,
        classes: int,
        channels: int,
        width: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, channels=channels, width=width)
        self.normalize = Normalize(mean, std)
        self.stem = nn.Sequential(*_joined(channels, width, 3, 1), nn.ReLU())
        stages: list[nn.Module] = []
        before = width
        for index, count in enumerate(blocks):
            inner = width * 2**index
            stage: list[nn.Module] = []
            for block in range(count):
                stride = 2 if index and not block else 1
                stage.append(ResidualBlock(before, inner, stride, bottleneck))
                before = 4 * inner if bottleneck else inner
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Images) -> Logits:
        """Return (N, classes) logits of images in [0, 1]."""
        features = self.stages(self.stem(self.normalize(x)))
        logits: Tensor = self.linear(self.flatten(self.pool(features)))
        return logits


@MODELS.register(
    "resnet18", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=11_173_962
)
def resnet18(
    *,
    classes: int = 10,
    channels: int = 3,
    width: int = 64,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """ResNet-18 for small images, 64 to 512 channels: 11.17 million parameters.

    Args:
        classes: number of logits.
        channels: channels of the images.
        width: channels of the first stage; each of the other three has twice as many.
        mean: what is subtracted from the images in [0, 1], one number or one per channel.
        std: what they are divided by then; by default the images stay as they are, as in the code
            of TRADES (Zhang et al. 2019), so that a saliency map keeps the scale of the pixels.

    Raises:
        ValueError: a size is below 1, or `std` is not positive.
    """
    return ResNet((2, 2, 2, 2), False, classes, channels, width, mean, std)


@MODELS.register(
    "resnet50", paper=_PAPER, input=(3, 32, 32), output="logits", parameters=23_520_842
)
def resnet50(
    *,
    classes: int = 10,
    channels: int = 3,
    width: int = 64,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """ResNet-50 for small images, bottlenecks up to 2048 channels: 23.52 million parameters.

    Arguments and errors are those of `resnet18`.
    """
    return ResNet((3, 4, 6, 3), True, classes, channels, width, mean, std)
