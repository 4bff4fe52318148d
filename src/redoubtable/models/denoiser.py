"""Networks from images to images: the denoisers of Liao et al. 2018 (https://arxiv.org/abs/1712.02976)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.models.catalogue import MODELS, check_rates, check_sizes
from redoubtable.models.normalize import Normalize
from redoubtable.types import Images

_PAPER = "Liao et al. 2018, https://arxiv.org/abs/1712.02976"


class Denoiser(nn.Module):
    """A U-shaped network that gives back an image of the same size (section 3.2, figure 2).

    Each block of the encoder but the first halves the image; each block of the decoder brings it
    back to the size of the encoder's block on its level. Weights are PyTorch's own, as in their
    code.

    Args:
        widths: channels of the encoder's blocks; the decoder has them in reverse, less the last.
        units: convolutions with batch norm and ReLU in each block.
        channels: channels of the images.
        lateral: the decoder sees the encoder's features of its level (DUNET), or not (DAE).
        residual: what comes out is added to the image, or is the image.
        momentum: of the batch norms; a lower one for very small batches.

    Raises:
        ValueError: a size is below 1, or `momentum` is not in [0, 1).
    """

    def __init__(
        self,
        widths: Sequence[int],
        units: Sequence[int],
        channels: int,
        lateral: bool,
        residual: bool,
        momentum: float,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels)
        check_rates(momentum=momentum)
        self.lateral, self.residual = lateral, residual
        self.normalize = Normalize()
        before, encoder = channels, []
        for index, (width, count) in enumerate(zip(widths, units, strict=True)):
            encoder.append(_block(before, width, count, 2 if index else 1, momentum))
            before = width
        decoder = []
        for width, count in reversed(list(zip(widths[:-1], units[:-1], strict=True))):
            decoder.append(_block(before + width * lateral, width, count, 1, momentum))
            before = width
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.head = nn.Conv2d(before, channels, 1, bias=False)

    def forward(self, x: Images) -> Images:
        """Return (N, C, H, W) images, not clipped to [0, 1]: that would end the gradient there."""
        levels = [self.normalize(x)]
        for block in self.encoder:
            levels.append(block(levels[-1]))
        out = levels.pop()
        for block in self.decoder:
            level = levels.pop()
            # Corners on corners, which was PyTorch's only way when the networks were published.
            out = F.interpolate(out, size=level.shape[2:], mode="bilinear", align_corners=True)
            out = block(torch.cat((out, level), 1) if self.lateral else out)
        change: Tensor = self.head(out)
        return x + change if self.residual else change


def _block(channels: int, width: int, units: int, stride: int, momentum: float) -> nn.Module:
    layers: list[nn.Module] = []
    for unit in range(units):
        step = 1 if unit else stride
        conv = nn.Conv2d(width if unit else channels, width, 3, step, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width, momentum=momentum), nn.ReLU()]
    return nn.Sequential(*layers)


@MODELS.register("dunet", paper=_PAPER, input=(3, 299, 299), output="images", parameters=11_033_984)
def dunet(
    *,
    channels: int = 3,
    width: int = 64,
    lateral: bool = True,
    residual: bool = True,
    momentum: float = 0.1,
) -> nn.Module:
    """Denoiser with lateral connections: 11.03 million parameters.

    Args:
        channels: channels of the images, which may have any size.
        width: channels of the first block; the others have 2, 4, 4 and 4 times as many.
        lateral: whether the decoder also sees the encoder's features of its level.
        residual: whether what comes out is added to the image.
        momentum: of the batch norms; 0.01 with batches of a few images.

    Raises:
        ValueError: a size is below 1, or `momentum` is not in [0, 1).
    """
    check_sizes(width=width)
    widths = [width, 2 * width, 4 * width, 4 * width, 4 * width]
    return Denoiser(widths, (2, 3, 3, 3, 3), channels, lateral, residual, momentum)


@MODELS.register("dae", paper=_PAPER, input=(3, 299, 299), output="images", parameters=9_670_016)
def dae(
    *,
    channels: int = 3,
    width: int = 64,
    lateral: bool = False,
    residual: bool = False,
    momentum: float = 0.1,
) -> nn.Module:
    """Denoising autoencoder, the denoiser without lateral connections: 9.67 million parameters.

    Arguments and errors are those of `dunet`.
    """
    check_sizes(width=width)
    widths = [width, 2 * width, 4 * width, 4 * width, 4 * width]
    return Denoiser(widths, (2, 3, 3, 3, 3), channels, lateral, residual, momentum)


@MODELS.register("dunet_small", paper=None, input=(3, 32, 32), output="images", parameters=472_256)
def dunet_small(
    *,
    channels: int = 3,
    width: int = 32,
    lateral: bool = True,
    residual: bool = True,
    momentum: float = 0.1,
) -> nn.Module:
    """Denoiser of our own for small images, three levels: 0.47 million parameters.

    Args:
        channels: channels of the images, which may have any size.
        width: channels of the first block; the others have twice and four times as many.
        lateral: whether the decoder also sees the encoder's features of its level.
        residual: whether what comes out is added to the image.
        momentum: of the batch norms; 0.01 with batches of a few images.

    Raises:
        ValueError: a size is below 1, or `momentum` is not in [0, 1).
    """
    check_sizes(width=width)
    widths = [width, 2 * width, 4 * width]
    return Denoiser(widths, (2, 2, 2), channels, lateral, residual, momentum)
