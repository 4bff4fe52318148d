"""Sets in two `.npy` files that may be larger than memory, as stored adversarial images are."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from redoubtable.data.dataset import ImageSet
from redoubtable.types import Labels

Array = npt.NDArray[Any]


@final
@dataclass(frozen=True, eq=False)
class Mapped(ImageSet):
    """Images that stay in a file and are read by the page; `open_mapped` opens one.

    Attributes:
        name: what it is called, for cards and records.
        split: train, validation or test.
        path: a `.npy` file of uint8 (M, H, W, C).
        order: (N,) int64, which of its images these are.
        labels: (N,), int64, in [0, classes).
        classes: number of classes in all splits together.
        tracks: (N,), int64, or None; images of one class and track show the same object.
        class_names: what the classes are called, or None.

    Raises:
        ValueError: the file is no such array, or the labels don't fit.
    """

    name: str
    split: str
    path: Path
    order: Tensor
    labels: Labels
    classes: int
    tracks: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    _held: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check what the docstring promises."""
        self._check()
        rows = self._rows
        if rows.dtype != np.uint8 or rows.ndim != 4:
            raise ValueError(
                f"{self.path} must hold uint8 images (N, H, W, C), got {rows.dtype} of shape "
                f"{rows.shape}; write it again"
            )
        if len(self.order) != len(self.labels) or int(self.order.max()) >= len(rows):
            raise ValueError(
                f"`order` must name {len(self.labels)} of the {len(rows)} images in {self.path}, "
                f"one per label, got {len(self.order)} up to {int(self.order.max())}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file: pickled, it would be its whole content."""
        return self.__dict__ | {"_held": {}}

    @property
    def _rows(self) -> Array:
        """The file, opened once per process."""
        if "rows" not in self._held:
            self._held["rows"] = _open(self.path)
        return self._held["rows"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, height, width, channels = self._rows.shape
        return channels, height, width

    def read(self, index: Tensor) -> Tensor:
        """Return the images of the indices (n,), in their order, as uint8 (n, C, H, W)."""
        rows = self._rows[self.order[index].numpy()]
        return torch.from_numpy(rows).permute(0, 3, 1, 2)

    def take(self, which: Tensor, split: str | None = None) -> "Mapped":
        """Return the images of the indices (or the boolean mask) `which`, as such a set."""
        return replace(
            self,
            split=split or self.split,
            order=self.order[which],
            labels=self.labels[which],
            tracks=None if self.tracks is None else self.tracks[which],
        )


def open_mapped(
    folder: Path,
    split: str,
    *,
    name: str | None = None,
    classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Mapped:
    """Open `images.npy` (N, H, W, C), uint8, and `labels.npy` (N,), whole numbers.

    Args:
        folder: where the two files are; nothing in them is ever unpickled.
        split: train, validation or test; what they are.
        name: what the set is called; by default the folder's name.
        classes: number of classes; by default the largest label and one.
        class_names: what the classes are called, or None.

    Raises:
        ValueError: a file is missing or damaged, or the two don't fit each other.
    """
    rows, numbers = _open(folder / "images.npy"), _open(folder / "labels.npy")
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.shape != (len(rows),):
        raise ValueError(
            f"{folder / 'labels.npy'} must be {len(rows)} whole numbers, one per image, got "
            f"{numbers.dtype} of shape {numbers.shape}; write it again"
        )
    labels = torch.from_numpy(numbers.astype(np.int64))
    classes = classes or (1 + int(labels.max()) if len(labels) else 1)
    order, path = torch.arange(len(labels)), folder / "images.npy"
    return Mapped(name or folder.name, split, path, order, labels, classes, None, class_names)


def _open(path: Path) -> Array:
    try:
        found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"no array at {path}; name a folder with images.npy and labels.npy") from (
            None
        )
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no readable .npy file ({error}); write it again") from None
    if not isinstance(found, np.ndarray) or not found.ndim:
        raise ValueError(f"{path} must hold one array; write it with numpy.save")
    return found
