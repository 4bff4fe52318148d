"""Sets of images and labels of one split, as the 8-bit numbers they are stored in."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, final, get_args

import torch
from torch import Tensor

from redoubtable.data.memory import check_room, free_bytes
from redoubtable.data.workers import in_order
from redoubtable.types import Images, Labels, LazyImages, check_labels

Split = Literal["train", "validation", "test"]

_CHUNK = 256  # images per piece where a set is gone through from end to end


def check_split(split: str) -> None:
    """Refuse what is not the name of a split.

    Raises:
        ValueError: `split` is not train, validation or test.
    """
    known = get_args(Split)
    if split not in known:
        raise ValueError(f"`split` must be one of {', '.join(known)}, got {split!r}")


class ImageSet(ABC):
    """One split of a data set, wherever its images are: in memory, in files, in other sets.

    What is read is uint8 in (n, C, H, W), laid out channels last in memory, which convolutions
    like best. Nothing here draws random numbers: the order of the images is the caller's.

    Attributes:
        name: what it is called, for cards and records.
        split: train, validation or test.
        labels: (N,), int64, in [0, classes).
        classes: number of classes in all splits together.
        tracks: (N,), int64, or None; images of one class and track show the same object, so they
            must never stand on both sides of a split.
        class_names: what the classes are called, in the order of the labels, or None.
    """

    name: str
    split: str
    labels: Labels
    classes: int
    tracks: Tensor | None
    class_names: tuple[str, ...] | None

    def _check(self) -> None:
        """Refuse labels, tracks and names that don't fit; every kind calls it when it is built.

        Raises:
            TypeError: the labels are not int64.
            ValueError: there are no images, or something is out of range or of another length.
        """
        if not len(self.labels):
            raise ValueError(f"`labels` of {self.name} must not be empty; give at least one image")
        check_labels(self.labels, len(self.labels), self.classes, "labels")
        if self.tracks is not None and self.tracks.shape != self.labels.shape:
            raise ValueError(
                f"`tracks` must have shape {tuple(self.labels.shape)}, one per image, got "
                f"{tuple(self.tracks.shape)}"
            )
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(
                f"`class_names` must be {self.classes} names, one per class, got "
                f"{len(self.class_names)}"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    @property
    def what(self) -> str:
        """What it is, for messages."""
        return f"the {self.split} split of {self.name}"

    @abstractmethod
    def read(self, index: Tensor) -> Tensor:
        """Return the images of the indices (n,), in their order, as uint8 (n, C, H, W)."""

    @abstractmethod
    def take(self, which: Tensor, split: str | None = None) -> Self:
        """Return the images of the indices (or the boolean mask) `which`, as such a set."""

    def batches(
        self, batches: Sequence[Tensor], device: torch.device | str, workers: int = 0
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Go through batches of images and their labels, both on `device`.

        Args:
            batches: for each batch the indices of its images, on the processor; it may be empty.
            device: where the batches are wanted.
            workers: processes that read ahead, two batches each; 0 reads in this one. The result
                is the same.

        Yields:
            Per index tensor, in order: uint8 (n, C, H, W), channels last in memory, and (n,).

        Raises:
            ValueError: an image can't be read; the file is named.
        """
        pinned = torch.device(device).type == "cuda"
        pieces = in_order(_Batches(self, batches), workers, pinned)
        for index, images in zip(batches, pieces, strict=True):
            yield (
                images.permute(0, 3, 1, 2).to(device, non_blocking=pinned),
                self.labels[index].to(device),
            )

    def floats(self, workers: int = 0) -> tuple[Images, Labels]:
        """Return float32 images in [0, 1], contiguous, and their labels.

        Raises:
            ValueError: they would not fit into the memory that is free.
        """
        check_room(self.what, (len(self), *self.shape))
        images = torch.empty(len(self), *self.shape)
        chunks = _chunks(len(self))
        for index, (batch, _) in zip(chunks, self.batches(chunks, "cpu", workers), strict=True):
            images[index[0] : index[-1] + 1] = to_unit(batch)
        return images, self.labels.clone()

    def lazy(self) -> LazyImages:
        """Return the images as floats that are made when they are asked for."""
        return _View(self)

    def digest(self) -> str:
        """Return 16 hex digits that name images and labels by their content, however stored."""
        total = hashlib.sha256(f"{torch.uint8}{(len(self), *self.shape)}".encode())
        for index in _chunks(len(self)):
            total.update(self.read(index).contiguous().numpy().tobytes())
        total.update(f"{self.labels.dtype}{tuple(self.labels.shape)}".encode())
        total.update(self.labels.numpy().tobytes())
        return total.hexdigest()[:16]


class _Batches:
    """What a worker reads: batch by number, channels last."""

    def __init__(self, data: ImageSet, batches: Sequence[Tensor]) -> None:
        self.data, self.batches = data, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor:
        return self.data.read(self.batches[number]).permute(0, 2, 3, 1).contiguous()


class _View:
    """Float images that are read when they are asked for.

    Attributes:
        shape: (N, C, H, W).
    """

    def __init__(self, data: ImageSet) -> None:
        self._data = data
        self.shape = torch.Size((len(data), *data.shape))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._data)

    def __getitem__(self, which: slice | Tensor) -> Images:
        """Return the images of a slice, of indices (n,) or of a mask (N,): float32 in [0, 1]."""
        if not isinstance(which, slice | Tensor):
            raise TypeError(
                f"`which` must be a slice or an index tensor, got {type(which).__name__}; for one "
                "image take view[i : i + 1]"
            )
        index = torch.arange(len(self))[which]
        return to_unit(self._data.read(index)).contiguous()


@final
@dataclass(frozen=True, eq=False)
class Dataset(ImageSet):
    """One split of a data set, in memory; a quarter of the size that it has in float32.

    Attributes:
        name: what it is called, for cards and records.
        split: train, validation or test.
        images: (N, C, H, W), uint8.
        labels: (N,), int64, in [0, classes).
        classes: number of classes in all splits together.
        tracks: (N,), int64, or None; images of one class and track show the same object.
        class_names: what the classes are called, or None.

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
    class_names: tuple[str, ...] | None = None
    _held: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

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
        self._check()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is on a device: another process has to put it there itself."""
        return self.__dict__ | {"_held": {}}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def read(self, index: Tensor) -> Tensor:
        """Return the images of the indices (n,), in their order, as uint8 (n, C, H, W)."""
        return _rows(self.images, index)

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
            self.class_names,
        )

    def batches(
        self, batches: Sequence[Tensor], device: torch.device | str, workers: int = 0
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Go through batches of images and their labels; see `ImageSet.batches`.

        A set of at most a quarter of the device's free memory is put there once and stays; a
        larger one is copied batch by batch. `workers` is not used: there is nothing to decode.
        """
        device = torch.device(device)
        images = self._on(device)
        for index in batches:
            if images is None:
                batch = _rows(self.images, index).permute(0, 2, 3, 1).contiguous().pin_memory()
                here = batch.permute(0, 3, 1, 2).to(device, non_blocking=True)
            else:
                here = _rows(images, index.to(device))
            yield here, self.labels[index].to(device)

    def _on(self, device: torch.device) -> Tensor | None:
        """All images on the device, channels last; None if they would crowd it."""
        if device == self.images.device:
            return self.images
        if device not in self._held:
            if 4 * self.images.numel() > free_bytes(device):
                return None
            rows = self.images.permute(0, 2, 3, 1).contiguous().to(device)
            self._held[device] = rows.permute(0, 3, 1, 2)
        return self._held[device]


def _rows(images: Tensor, index: Tensor) -> Tensor:
    """The images of the indices, channels last in memory.

    Whole rows are copied in the layout that they have: on a processor that is thirty times as
    fast as indexing images of another layout.
    """
    rows = images.permute(0, 2, 3, 1)
    if rows.is_contiguous():
        return rows.index_select(0, index).permute(0, 3, 1, 2)
    return images.index_select(0, index).contiguous(memory_format=torch.channels_last)


def _chunks(n: int) -> list[Tensor]:
    """The indices of all n images, in pieces that are small enough to hold."""
    return [torch.arange(a, min(a + _CHUNK, n)) for a in range(0, n, _CHUNK)]


def to_unit(images: Tensor) -> Images:
    """Return 8-bit images as float32 in [0, 1]."""
    return images.to(torch.float32) / 255
