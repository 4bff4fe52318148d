"""Images and labels of one split, as the 8-bit numbers they are stored in."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from redoubtable.files import digest_tensors
from redoubtable.types import Images, Labels, check_labels

Split = Literal["train", "validation", "test"]


def check_split(split: str) -> None:
    """Refuse what is not the name of a split.

    Raises:
        ValueError: `split` is not train, validation or test.
    """
    known = get_args(Split)
    if split not in known:
        raise ValueError(f"`split` must be one of {', '.join(known)}, got {split!r}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, in memory; a quarter of the size that it has in float32.

    Attributes:
        name: what it is called, for cards and records.
        split: train, validation or test.
        images: (N, C, H, W), uint8.
        labels: (N,), int64, in [0, classes).
        classes: number of classes in all splits together.
        tracks: (N,), int64, or None; images of one class and track show the same object, so they
            must never stand on both sides of a split.

    Raises:
        TypeError: the images are not uint8, or the labels not int64.
        ValueError: the shapes or the labels don't fit.
    """

    name: str
    split: str
    images: Tensor
    labels: Labels
    classes: int
    tracks: Tensor | None = None

    def __post_init__(self) -> None:
        """Check what the docstring promises."""
        if self.images.dtype != torch.uint8:
            raise TypeError(
                f"`images` must be uint8, got {self.images.dtype}; multiply images in [0, 1] by "
                "255 and round"
            )
        if self.images.ndim != 4 or not len(self.images):
            raise ValueError(
                "`images` must be a non-empty (N, C, H, W) tensor, got shape "
                f"{tuple(self.images.shape)}"
            )
        check_labels(self.labels, len(self.images), self.classes, "labels")
        if self.tracks is not None and self.tracks.shape != self.labels.shape:
            raise ValueError(
                f"`tracks` must have shape {tuple(self.labels.shape)}, one per image, got "
                f"{tuple(self.tracks.shape)}"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, which: Tensor, split: str | None = None) -> "Dataset":
        """Return the images of the indices (or the boolean mask) `which`, as a data set."""
        tracks = None if self.tracks is None else self.tracks[which]
        return Dataset(
            self.name,
            split or self.split,
            self.images[which],
            self.labels[which],
            self.classes,
            tracks,
        )

    def floats(self) -> tuple[Images, Labels]:
        """Return float32 images in [0, 1] and their labels."""
        return to_unit(self.images).contiguous(), self.labels.clone()

    def digest(self) -> str:
        """Return 16 hex digits that name images and labels by their content."""
        return digest_tensors(self.images, self.labels)


def to_unit(images: Tensor) -> Images:
    """Return 8-bit images as float32 in [0, 1]."""
    return images.to(torch.float32) / 255
