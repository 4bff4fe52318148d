"""Input transforms that throw detail away: fewer bits, median filter, JPEG."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from redoubtable.defenses.registry import DEFENSES
from redoubtable.defenses.transforms import InputTransform
from redoubtable.parts import Facts
from redoubtable.types import Images

_A_STEP_FUNCTION = Facts(
    stochastic=False, differentiable=False, batch_dependent=False, abstains=False, passes=1
)


@DEFENSES.register("bit_depth", form="transform", paper="Xu et al. 2018, section III-A")
class BitDepth(InputTransform):
    """Fewer bits per value (Xu, Evans & Qi 2018, arXiv:1704.01155, section III-A).

    Each value is rounded to one of 2^bits levels. The derivative of rounding is 0 almost
    everywhere. The surrogate is the identity, fair because a rounded value is at most half a level
    from the value itself.

    Known against it: the identity in the backward pass breaks it (Athalye, Carlini & Wagner 2018,
    arXiv:1802.00420, section 4.1; He et al. 2017, arXiv:1706.04701).

    Args:
        bits: per value, 1 to 8 (the paper's 1 to 5).
    """

    def __init__(self, bits: int = 3) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"`bits` must lie in 1 to 8, got {bits}")
        self.bits = bits

    facts = _A_STEP_FUNCTION

    def transform(self, x: Images) -> Images:
        """Return the nearest of 2^bits levels."""
        levels = 2**self.bits - 1
        rounded: Tensor = (x * levels).round() / levels
        return rounded

    def surrogate(self, x: Images) -> Images:
        """Return the image itself."""
        return x

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"bits={self.bits}"


@DEFENSES.register("jpeg", form="transform", paper="Dziugaite et al. 2016")
class JPEG(InputTransform):
    """JPEG compression (Dziugaite, Ghahramani & Roy 2016, arXiv:1608.00853).

    Each image is rounded to 8 bits, coded and decoded by libjpeg, on the processor. The surrogate
    is the identity, fair because a decoded image looks like the image; where the quality is so low
    that it does not, attacks without gradients must be looked at as well.

    Known against it: the identity in the backward pass breaks it (Athalye, Carlini & Wagner 2018,
    arXiv:1802.00420, section 5.2), and so do differentiable forms of it (Shin & Song 2017).

    Args:
        quality: of libjpeg, 1 to 100 (the paper's and Guo et al.'s 75).
    """

    def __init__(self, quality: int = 75) -> None:
        super().__init__()
        if not 1 <= quality <= 100:
            raise ValueError(f"`quality` must lie in 1 to 100, got {quality}")
        self.quality = quality

    facts = _A_STEP_FUNCTION

    def transform(self, x: Images) -> Images:
        """Return what is left after coding.

        Raises:
            ValueError: the images have neither one channel nor three.
        """
        if x.shape[1] not in (1, 3):
            raise ValueError(f"JPEG knows 1 or 3 channels, got {x.shape[1]}; leave `jpeg` out")
        pixels = (255 * x.clamp(0, 1)).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        coded = np.empty_like(pixels)
        for image, result in zip(pixels, coded, strict=True):
            file = io.BytesIO()
            Image.fromarray(image.squeeze(2) if x.shape[1] == 1 else image).save(
                file, "JPEG", quality=self.quality
            )
            result[:] = np.asarray(Image.open(file)).reshape(result.shape)
        return torch.from_numpy(coded).permute(0, 3, 1, 2).to(x) / 255

    def surrogate(self, x: Images) -> Images:
        """Return the image itself."""
        return x

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"quality={self.quality}"


@DEFENSES.register("median", form="transform", paper="Xu et al. 2018, section III-B")
class MedianFilter(InputTransform):
    """Median of the values around each (Xu, Evans & Qi 2018, arXiv:1704.01155, section III-B).

    Edges are repeated outwards. The surrogate is the mean of those values of a window that equal
    its median: away from ties it is the median's own derivative, and among equal values, of which
    flat backgrounds are full, it takes no side where autograd takes one at random.

    Known against it: it has a gradient, and attacks that follow it break it (He et al. 2017,
    arXiv:1706.04701).

    Args:
        size: side of the window, odd (the paper's 2 and 3).
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"`size` must be odd and positive, got {size}")
        self.size = size

    facts = _A_STEP_FUNCTION

    def transform(self, x: Images) -> Images:
        """Return the median of each window."""
        return self._windows(x).median(2).values

    def surrogate(self, x: Images) -> Images:
        """Return the mean of the values that equal the median."""
        windows = self._windows(x)
        middle = windows.detach() == windows.detach().median(2, keepdim=True).values
        return (windows * middle).sum(2) / middle.sum(2)

    def _windows(self, x: Images) -> Tensor:
        """(N, C, size^2, H, W): the values around each."""
        n, channels, height, width = x.shape
        padded = F.pad(x, (self.size // 2,) * 4, mode="replicate")
        return F.unfold(padded, self.size).view(n, channels, self.size**2, height, width)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"size={self.size}"
