"""Several image sets as one, without copying any."""

import hashlib
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, final

import torch
from torch import Tensor

from redoubtable.data.dataset import ImageSet
from redoubtable.types import Labels


@final
@dataclass(frozen=True, eq=False)
class Joined(ImageSet):
    """The union of image sets of one shape, as clean images and stored adversarial ones.

    Attributes:
        name: what it is called, for cards and records.
        split: train, validation or test.
        parts: the sets; they are read when their images are asked for.
        order: (N,) int64, which images of the parts, one after another, these are; None: all.
        labels: (N,), int64, those of the parts.
        classes: number of classes of every part.
        tracks: (N,), int64, those of the parts; None unless all have them. A number means the same
            object in all parts.
        class_names: those of the parts that have any.

    Raises:
        ValueError: there are no parts, or they differ in shape, classes or names.
    """

    name: str
    split: str
    parts: tuple[ImageSet, ...]
    order: Tensor | None = None
    labels: Labels = field(init=False)
    classes: int = field(init=False)
    tracks: Tensor | None = field(init=False)
    class_names: tuple[str, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        """Check what the docstring promises, and collect what the parts say."""
        if not self.parts:
            raise ValueError("`parts` must be at least one image set, got none")
        names = [p.class_names for p in self.parts if p.class_names is not None]
        for what, values in (
            ("shape", [p.shape for p in self.parts]),
            ("classes", [p.classes for p in self.parts]),
            ("class_names", names),
        ):
            other = next((v for v in values if v != values[0]), None)
            if other is not None:
                raise ValueError(f"`parts` must agree in {what}, got {values[0]} and {other}")
        tracks = [p.tracks for p in self.parts if p.tracks is not None]
        self._set("labels", self._picked(torch.cat([p.labels for p in self.parts])))
        self._set("classes", self.parts[0].classes)
        whole = len(tracks) == len(self.parts)
        self._set("tracks", self._picked(torch.cat(tracks)) if whole else None)
        self._set("class_names", names[0] if names else None)
        self._check()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the way a frozen class fills in its own fields

    def _picked(self, values: Tensor) -> Tensor:
        return values if self.order is None else values[self.order]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.parts[0].shape

    def read(self, index: Tensor) -> Tensor:
        """Return the images of the indices (n,), in their order, as uint8 (n, C, H, W)."""
        channels, height, width = self.shape
        index = index if self.order is None else self.order[index]
        out = torch.empty(len(index), height, width, channels, dtype=torch.uint8)
        ends = torch.tensor(list(accumulate(len(p) for p in self.parts)))
        part_of = torch.bucketize(index, ends, right=True)
        for number, part in enumerate(self.parts):
            rows = torch.nonzero(part_of == number).flatten()
            if len(rows):
                start = int(ends[number]) - len(part)
                out[rows] = part.read(index[rows] - start).permute(0, 2, 3, 1)
        return out.permute(0, 3, 1, 2)

    def take(self, which: Tensor, split: str | None = None) -> "Joined":
        """Return the images of the indices (or the boolean mask) `which`, as such a set."""
        order = torch.arange(len(self)) if self.order is None else self.order
        return replace(self, split=split or self.split, order=order[which])

    def digest(self) -> str:
        """Return 16 hex digits that name the parts by their content, and the order."""
        total = hashlib.sha256("".join(p.digest() for p in self.parts).encode())
        if self.order is not None:
            total.update(self.order.numpy().tobytes())
        return total.hexdigest()[:16]
