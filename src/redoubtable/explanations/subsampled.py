"""Explanation maps of subsampled images (Hosseini et al. 2019, arXiv:1905.00180, figure 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redoubtable.masks import GREY, Granularity, check_law, random_mask
from redoubtable.saliency import Saliency, saliency
from redoubtable.seeding import seeded
from redoubtable.statistics import Proportion, mean_share
from redoubtable.types import Images, Labels, LazyImages, check_images, check_lazy


@dataclass(frozen=True)
class SubsampledMaps:
    """What the figure shows of N images, all (N, C, H, W).

    The paper's words and its formulas name the last two columns the other way round; here M is 1
    where a value is kept, as in its formula of the mask.

    Attributes:
        x: the images X.
        x_masked: X' = X * M, the dropped values grey.
        kept: the mask M, true where a value is kept.
        on_x: E(X) and the class predicted of X.
        on_masked: E(X') and the class predicted of X'.
    """

    x: Images
    x_masked: Images
    kept: Tensor
    on_x: Saliency
    on_masked: Saliency

    @property
    def on_kept(self) -> Tensor:
        """E(X') * M."""
        return torch.where(self.kept, self.on_masked.values, 0)

    @property
    def on_dropped(self) -> Tensor:
        """E(X') * (1 - M)."""
        return torch.where(self.kept, 0, self.on_masked.values)

    @property
    def mass_share(self) -> Tensor:
        """Sum of E(X') * M over sum of E(X'), (N,); NaN where E(X') is 0 everywhere."""
        return _share(self.on_masked.values, self.kept)

    @property
    def kept_share(self) -> Tensor:
        """Share of values that are kept, (N,): what the mass share is of a map without a view."""
        return self.kept.double().mean((1, 2, 3))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays by name, to be written to a file."""
        tensors = {
            "x": self.x,
            "x_masked": self.x_masked,
            "kept": self.kept,
            "on_x": self.on_x.values,
            "on_masked": self.on_masked.values,
            "class_of_x": self.on_x.classes,
            "class_of_masked": self.on_masked.classes,
        }
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "SubsampledMaps":
        """Return what `arrays` gave, read back."""
        x, x_masked, kept, on_x, on_masked, class_of_x, class_of_masked = (
            torch.from_numpy(arrays[name])
            for name in (
                "x", "x_masked", "kept", "on_x", "on_masked", "class_of_x", "class_of_masked"
            )
        )  # fmt: skip
        return cls(
            x, x_masked, kept, Saliency(on_x, class_of_x), Saliency(on_masked, class_of_masked)
        )


def subsampled_maps(
    model: nn.Module,
    x: Images,
    rate: float,
    granularity: Granularity = "element",
    seed: int = 0,
    *,
    first: int = 0,
    batch_size: int | None = None,
) -> SubsampledMaps:
    """Return explanation maps of images, and of the same images under one random mask each.

    E(X') is the derivative at X' by the image that the network sees, so it tells of dropped
    positions too: there a change of the grey would matter. The mask of an image is named by the
    seed and the image's number, so images that come together or in parts get the same.

    Args:
        model: the network that is explained, without a mask of its own.
        x: (N, C, H, W) in [0, 1].
        rate: drop rate in [0, 1].
        granularity: "element" drops channels of a pixel by themselves, "pixel" all together.
        seed: of the masks.
        first: number of the first image, where `x` is a part of many.
        batch_size: images in one pass; None for all at once.

    Raises:
        TypeError: `x` are no images.
        ValueError: an argument is out of its range, or the model has no gradient.
    """
    kept, x_masked = _masked(x, rate, granularity, seed, first)
    return SubsampledMaps(
        x=x,
        x_masked=x_masked,
        kept=kept,
        on_x=saliency(model, x, batch_size=batch_size),
        on_masked=saliency(model, x_masked, batch_size=batch_size),
    )


@dataclass(frozen=True)
class MassShare:
    """How much of the maps of subsampled images lies on what was kept.

    Attributes:
        mass: mean over the images of sum E(X') * M / sum E(X'); `mass.n` is how many count.
        kept: mean over all images of the share of values that were kept. A map that knows nothing
            of the mask has it as its mass share in expectation.
        each: (N,) the mass share of each image, NaN where E(X') is 0 everywhere, which does not
            count.
        classes: (N,) the class predicted of each X'.
    """

    mass: Proportion
    kept: float
    each: NDArray[np.float64]
    classes: Labels


def mass_share(
    model: nn.Module,
    x: LazyImages,
    rate: float,
    granularity: Granularity = "element",
    seed: int = 0,
    *,
    batch_size: int = 64,
) -> MassShare:
    """Measure on images the mass share of the maps that `subsampled_maps` makes of them.

    The interval is of the images (Student's), each under one mask, of one network.

    Args:
        model: the network that is explained, without a mask of its own.
        x: (N, C, H, W) in [0, 1], a tensor or a view that reads them.
        rate: drop rate in [0, 1].
        granularity: "element" or "pixel".
        seed: of the masks.
        batch_size: images in one pass; it does not change the masks.

    Raises:
        TypeError: `x` are no images.
        ValueError: an argument is out of its range, the model has no gradient, or it is 0
            everywhere on all images.
    """
    check_lazy(x)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    mass, kept, classes = [], [], []
    for first in range(0, len(x), batch_size):
        images = x[first : first + batch_size].to(device)
        mask, x_masked = _masked(images, rate, granularity, seed, first)
        found = saliency(model, x_masked)
        mass.append(_share(found.values, mask))
        classes.append(found.classes)
        kept.append(mask.double().mean((1, 2, 3)))
    each = torch.cat(mass).cpu().numpy()
    counted = each[~np.isnan(each)]
    if not len(counted):
        raise ValueError("the gradient of the model is 0 on all images; there is nothing to share")
    return MassShare(mean_share(counted), torch.cat(kept).mean().item(), each, torch.cat(classes))


def _masked(
    x: Images, rate: float, granularity: Granularity, seed: int, first: int
) -> tuple[Tensor, Images]:
    """Masks of images by their numbers, (N, C, H, W), and the images under them."""
    check_images(x)
    check_law(rate, granularity)
    masks = []
    for number, image in enumerate(x, first):
        with seeded("explain", seed, number):
            masks.append(random_mask(image[None], rate, granularity))
    kept = torch.cat(masks).expand_as(x)
    return kept, torch.where(kept, x, GREY)


def _share(values: Tensor, kept: Tensor) -> Tensor:
    """Which share of maps lies on the values that are kept, (N,)."""
    v = values.double()  # the sum of a map has thousands of terms
    return torch.where(kept, v, 0).sum((1, 2, 3)) / v.sum((1, 2, 3))
