"""Residual networks with batch norm and ReLU before each convolution, narrow and wide."""

from collections.abc import Sequence

from torch import Tensor, nn

from redoubtable.models.catalogue import MODELS, check_rates, check_sizes
from redoubtable.models.normalize import Normalize
from redoubtable.types import Images, Logits

_PREACT = "He et al. 2016, https://arxiv.org/abs/1603.05027"
_WIDE = "Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146"


class PreActBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU before each, added to a shortcut.

    Where the shapes differ the shortcut is a 1x1 convolution of what the first ReLU gives (He et
    al. 2016, https://arxiv.org/abs/1603.05027, appendix).

    Args:
        channels: that come in.
        width: that go out.
        stride: of the first convolution.
        dropout: share dropped between the convolutions (Zagoruyko & Komodakis 2016, 2.4).
    """

    def __init__(self, channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = stride == 1 and channels == width
        self.shortcut = None if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, ceil(H / stride), ceil(W / stride)) features."""
        active = self.relu1(self.bn1(x))
        inner = self.dropout(self.relu2(self.bn2(self.conv1(active))))
        out: Tensor = self.conv2(inner) + (self.shortcut(active) if self.shortcut else x)
        return out


class PreActNet(nn.Module):
    """A 3x3 convolution, stages of blocks, a last batch norm and ReLU, a linear layer.

    Maps images of any size from 1x1 up to logits. Each stage but the first halves the image.

    Args:
        stem: channels of the first convolution.
        widths: channels of the stages.
        blocks: of each stage.
        classes: number of logits.
        channels: channels of the images.
        dropout: share dropped inside the blocks, in training.
        mean: what is subtracted from the images; see `Normalize`.
        std: what they are divided by then.
    """

    def __init__(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: int,
        classes: int,
        channels: int,
        dropout: float,
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, channels=channels)
        check_rates(dropout=dropout)
        self.normalize = Normalize(mean, std)
        self.conv = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        before = stem
        for index, width in enumerate(widths):
            stage: list[nn.Module] = []
            for block in range(blocks):
                stage.append(PreActBlock(before, width, 2 if index and not block else 1, dropout))
                before = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(before)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Images) -> Logits:
        """Return (N, classes) logits of images in [0, 1]."""
        features = self.relu(self.bn(self.stages(self.conv(self.normalize(x)))))
        logits: Tensor = self.linear(self.flatten(self.pool(features)))
        return logits


@MODELS.register(
    "preact_resnet18", paper=_PREACT, input=(3, 32, 32), output="logits", parameters=11_172_170
)
def preact_resnet18(
    *,
    classes: int = 10,
    channels: int = 3,
    width: int = 64,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> nn.Module:
    """PreActResNet-18 for small images: 11.17 million parameters.

    The network of fast adversarial training (Wong et al. 2020), with the batch norm and ReLU after
    the last block that many copies of it lack. They normalise by the channels of CIFAR-10:
    `mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616)`.

    Args:
        classes: number of logits.
        channels: channels of the images.
        width: channels of the first stage; each of the other three has twice as many.
        mean: what is subtracted from the images in [0, 1], one number or one per channel.
        std: what they are divided by then; see `Normalize` for the defaults.

    Raises:
        ValueError: a size is below 1, or `std` is not positive.
    """
    check_sizes(width=width)
    widths = [width * 2**stage for stage in range(4)]
    return PreActNet(width, widths, 2, classes, channels, 0.0, mean, std)


@MODELS.register(
    "wrn_28_10", paper=_WIDE, input=(3, 32, 32), output="logits", parameters=36_479_194
)
def wrn_28_10(
    *,
    classes: int = 10,
    channels: int = 3,
    width: int = 10,
    dropout: float = 0.0,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Wide ResNet 28-10 (Zagoruyko & Komodakis 2016, table 1): 36.5 million parameters.

    Args:
        classes: number of logits.
        channels: channels of the images.
        width: the widening factor; the stages have 16, 32 and 64 times as many channels.
        dropout: share dropped between the two convolutions of a block, in training.
        mean: what is subtracted from the images in [0, 1], one number or one per channel.
        std: what they are divided by then; by default the images stay as they are, as in the code
            of TRADES (Zhang et al. 2019), so that a saliency map keeps the scale of the pixels.

    Raises:
        ValueError: a size is below 1, `dropout` is not in [0, 1), or `std` is not positive.
    """
    return _wide(4, classes, channels, width, dropout, mean, std)


@MODELS.register(
    "wrn_32_10",
    paper=_WIDE,
    input=(3, 32, 32),
    output="logits",
    parameters=46_160_474,
    alias="wrn_34_10",
)
@MODELS.register(
    "wrn_34_10", paper=_WIDE, input=(3, 32, 32), output="logits", parameters=46_160_474
)
def wrn_34_10(
    *,
    classes: int = 10,
    channels: int = 3,
    width: int = 10,
    dropout: float = 0.0,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> nn.Module:
    """Wide ResNet 34-10, which Madry et al. 2018 and others call 32-10: 46.2 million parameters.

    A depth of 32 is not of the form 6n + 4; they count five blocks in each of three stages, which
    is 34 here. Arguments and errors are those of `wrn_28_10`.
    """
    return _wide(5, classes, channels, width, dropout, mean, std)


def _wide(
    blocks: int,
    classes: int,
    channels: int,
    width: int,
    dropout: float,
    mean: float | Sequence[float],
    std: float | Sequence[float],
) -> nn.Module:
    check_sizes(width=width)
    widths = (16 * width, 32 * width, 64 * width)
    network = PreActNet(16, widths, blocks, classes, channels, dropout, mean, std)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # by the fan-out, as in the paper's code and in TRADES
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    nn.init.zeros_(network.linear.bias)
    return network
