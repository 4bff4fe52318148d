"""Networks of convolutions, max-pools and fully connected layers, without batch norm."""

from collections.abc import Sequence

from torch import Tensor, fx, nn

from redoubtable.models.catalogue import check_sizes
from redoubtable.models.normalize import Normalize
from redoubtable.models.sizes import check_images, sides
from redoubtable.types import Images, Logits

Stage = tuple[tuple[int, ...], float]
"""Channels of its 3x3 convolutions, and the dropout after its max-pool."""
Hidden = tuple[int, float]
"""Units of a fully connected layer, and the dropout after it."""


class PlainCnn(nn.Module):
    """Stages of 3x3 convolutions with a 2x2 max-pool each, then fully connected layers; all ReLU.

    The first fully connected layer takes every place of the last features, so the image size is
    fixed when the network is built. Weights are drawn as Keras does, in which these networks were
    published: uniform (Glorot & Bengio 2010), biases 0.

    Args:
        stages: from the image on.
        hidden: the fully connected layers before the last.
        classes: number of logits.
        channels: channels of the images.
        size: side of the images, or (height, width).
        mean: what is subtracted from the images; see `Normalize`.
        std: what they are divided by then.
        padding: of the convolutions of a stage, in turn; 0 loses a pixel on each side.
        penalty: weight of the squared weights and biases of the hidden layers in the loss.

    Attributes:
        penalised: the penalty of each layer, by its name in the network; see `weight_penalty`.

    Raises:
        ValueError: a size is below 1, or the images are too small for the stages.
    """

    penalised: dict[str, float]

    def __init__(
        self,
        stages: Sequence[Stage],
        hidden: Sequence[Hidden],
        classes: int,
        channels: int,
        size: int | Sequence[int],
        mean: float | Sequence[float],
        std: float | Sequence[float],
        *,
        padding: tuple[int, ...] = (0,),
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(classes=classes, channels=channels)
        self.shape = (channels, *sides(size))
        self.normalize = Normalize(mean, std)
        layers: list[nn.Module] = []
        before = channels
        for widths, dropout in stages:
            layers += _stage(before, widths, padding, dropout)
            before = widths[-1]
        self.features = nn.Sequential(*layers)
        self.flatten = nn.Flatten()
        height, width = _features_of(self.shape[1:], stages, padding)
        before *= height * width
        self.hidden = nn.Sequential()
        for units, dropout in hidden:
            self.hidden.extend([nn.Linear(before, units), nn.ReLU(), *_dropout(dropout)])
            before = units
        self.linear = nn.Linear(before, classes)
        linear = [f"hidden.{n}" for n, m in self.hidden.named_children() if hasattr(m, "weight")]
        self.penalised = dict.fromkeys(linear, penalty) if penalty else {}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all of them have one

    def forward(self, x: Images) -> Logits:
        """Return (N, classes) logits of images in [0, 1].

        Raises:
            ValueError: the images don't have the shape that the network was built for.
        """
        features = self.features(self.normalize(check_images(x, self.shape)))
        logits: Tensor = self.linear(self.hidden(self.flatten(features)))
        return logits


fx.wrap("check_images")


def _dropout(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate else []


def _stage(
    channels: int, widths: tuple[int, ...], padding: tuple[int, ...], dropout: float
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for index, width in enumerate(widths):
        pad = padding[index % len(padding)]
        layers += [nn.Conv2d(channels, width, 3, padding=pad), nn.ReLU()]
        channels = width
    return [*layers, nn.MaxPool2d(2), *_dropout(dropout)]


def _features_of(
    size: tuple[int, ...], stages: Sequence[Stage], padding: tuple[int, ...]
) -> tuple[int, ...]:
    """Height and width of the last features.

    Raises:
        ValueError: nothing would be left of one of them.
    """
    left = size
    for widths, _ in stages:
        lost = sum(2 - 2 * padding[i % len(padding)] for i in range(len(widths)))
        left = tuple((side - lost) // 2 for side in left)
        if min(left) < 1:
            raise ValueError(
                f"`size` must leave something after {len(stages)} poolings, got {size}; "
                "take larger images"
            )
    return left
