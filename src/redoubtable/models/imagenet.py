"""Large networks that may start from what torchvision learned on ImageNet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from redoubtable.models.catalogue import MODELS, check_sizes
from redoubtable.models.normalize import Normalize
from redoubtable.types import Images, Logits

if TYPE_CHECKING:  # torchvision takes as long to import as torch, and few commands need it
    from torchvision.models import WeightsEnum

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Numbers = float | Sequence[float] | None
"""Of a normalisation; None for ImageNet's."""


def pretrained_state(weights: "WeightsEnum") -> dict[str, Tensor]:
    """Return torchvision's weights by name, downloaded unless they lie in torch's cache.

    Raises:
        ValueError: they can't be downloaded, or the file in the cache is damaged.
    """
    url = str(weights.url)
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # of the network, the disk, or one of many ways to be damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot get the pretrained weights {url} ({reason}); put that file at {place}, or "
            "pass pretrained=False and load weights of your own"
        ) from None


def wider_filters(weight: Tensor, channels: int) -> Tensor:
    """Return the first filters of a network for RGB images, widened to see a saliency map too.

    Args:
        weight: (K, 3, H, W).
        channels: 3, or 6: then channels 3 to 5 are the same filters at a tenth, so that the map
            does not drown what the filters have learned (spec 003, section 1.5).

    Raises:
        ValueError: `channels` is another number.
    """
    if channels not in (3, 6):
        raise ValueError(
            f"`channels` must be 3 or 6 with pretrained=True, got {channels}; pass pretrained=False"
        )
    return weight if channels == 3 else torch.cat((weight, 0.1 * weight), 1)


def _normalize(channels: int, mean: Numbers, std: Numbers) -> Normalize:
    """ImageNet's normalisation of the first three channels, none of the others, unless given."""
    rest = channels - 3
    imagenet = rest >= 0
    if mean is None:
        mean = (*IMAGENET_MEAN, *[0.0] * rest) if imagenet else sum(IMAGENET_MEAN) / 3
    if std is None:
        std = (*IMAGENET_STD, *[1.0] * rest) if imagenet else sum(IMAGENET_STD) / 3
    return Normalize(mean, std)


def _load(network: nn.Module, state: dict[str, Tensor], head: str) -> None:
    """Load all weights but those of the new last layer."""
    own = {k: v for k, v in network.state_dict().items() if k.startswith(f"{head}.")}
    network.load_state_dict({**state, **own})


class ResNet101(nn.Module):
    """torchvision's ResNet-101 behind a normalisation, with a last layer of its own.

    Its pooling adapts to the features, 10x10 of a 299x299 image, so any size will do. `network` is
    torchvision's, with its layer names. See `resnet101` for the arguments.
    """

    def __init__(
        self, classes: int, channels: int, pretrained: bool, mean: Numbers, std: Numbers
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, channels=channels)
        from torchvision import models

        state = pretrained_state(models.ResNet101_Weights.IMAGENET1K_V1) if pretrained else None
        self.normalize = _normalize(channels, mean, std)
        self.network = models.resnet101(num_classes=classes)
        if channels != 3:
            self.network.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.network.conv1.weight, mode="fan_out")
        if state is not None:
            state["conv1.weight"] = wider_filters(state["conv1.weight"], channels)
            _load(self.network, state, "fc")

    def forward(self, x: Images) -> Logits:
        """Return (N, classes) logits of images in [0, 1]."""
        logits: Tensor = self.network(self.normalize(x))
        return logits


@MODELS.register(
    "resnet101",
    paper="He et al. 2016, https://arxiv.org/abs/1512.03385",
    input=(3, 299, 299),
    output="logits",
    parameters=42_912_009,
)
def resnet101(
    *,
    classes: int = 201,
    channels: int = 3,
    pretrained: bool = False,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> nn.Module:
    """ResNet-101 of torchvision for images of any size, from 224 or so: 42.9 million parameters.

    Args:
        classes: number of logits.
        channels: channels of the images; 3 or 6 with `pretrained`, see `wider_filters`.
        pretrained: start from torchvision's weights (IMAGENET1K_V1), all but the last layer.
        mean: what is subtracted from the images in [0, 1]; None for ImageNet's numbers, with 0
            for channels after the third, or their average for fewer than three.
        std: what they are divided by then; None for ImageNet's numbers, likewise with 1.

    Raises:
        ValueError: a size is below 1, `std` is not positive, or the pretrained weights can't be
            downloaded or don't fit the channels.
    """
    return ResNet101(classes, channels, pretrained, mean, std)


_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg16(nn.Module):
    """The network D of Simonyan & Zisserman 2015, with the layer names of torchvision.

    `features[6]` is relu2_1, `features[18]` relu4_1 and `features[30]` the last pooling. Takes
    images of any size from 32x32 up, since the features are averaged to 7x7. See `vgg16` for the
    arguments.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        hidden: int,
        pretrained: bool,
        mean: Numbers,
        std: Numbers,
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, channels=channels, hidden=hidden)
        if pretrained and hidden != 4096:
            raise ValueError(f"`hidden` must be 4096 with pretrained=True, got {hidden}")
        from torchvision.models import VGG16_Weights

        state = pretrained_state(VGG16_Weights.IMAGENET1K_V1) if pretrained else None
        self.normalize = _normalize(channels, mean, std)
        layers: list[nn.Module] = []
        before = channels
        for widths in _VGG16:
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, classes),
        )  # fmt: skip
        self._draw()
        if state is not None:
            state["features.0.weight"] = wider_filters(state["features.0.weight"], channels)
            _load(self, self._buffers_of_ours() | state, "classifier.6")

    def _draw(self) -> None:
        """Draw the weights as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def _buffers_of_ours(self) -> dict[str, Tensor]:
        return {f"normalize.{k}": v for k, v in self.normalize.state_dict().items()}

    def forward(self, x: Images) -> Logits:
        """Return (N, classes) logits of images in [0, 1]."""
        features = self.avgpool(self.features(self.normalize(x)))
        logits: Tensor = self.classifier(self.flatten(features))
        return logits


@MODELS.register(
    "vgg16",
    paper="Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556",
    input=(3, 224, 224),
    output="logits",
    parameters=134_301_514,
)
def vgg16(
    *,
    classes: int = 10,
    channels: int = 3,
    hidden: int = 4096,
    pretrained: bool = False,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> nn.Module:
    """VGG16 as in torchvision, for images from 32x32 up: 134.3 million parameters.

    Args:
        classes: number of logits.
        channels: channels of the images; 3 or 6 with `pretrained`, see `wider_filters`.
        hidden: units of the two hidden fully connected layers, which hold most of the weights.
        pretrained: start from torchvision's weights (IMAGENET1K_V1), all but the last layer.
        mean: what is subtracted from the images in [0, 1]; None for ImageNet's numbers, with 0
            for channels after the third, or their average for fewer than three.
        std: what they are divided by then; None for ImageNet's numbers, likewise with 1.

    Raises:
        ValueError: a size is below 1, `std` is not positive, `hidden` is changed with
            `pretrained`, or the pretrained weights can't be downloaded or don't fit the channels.
    """
    return Vgg16(classes, channels, hidden, pretrained, mean, std)
