"""A data set before it is split: its parts as they are stored, each read when it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from redoubtable.data.dataset import Dataset, ImageSet
from redoubtable.data.splits import draw_part, draw_sizes
from redoubtable.registry import Registry

_VALIDATION_SHARE = 0.1
DRAWS = ("stratified", "balanced", "random")


@dataclass(frozen=True)
class Source:
    """Where the splits of a data set come from.

    Attributes:
        name: what it is called; it names the randomness of its splits.
        where: the same for messages: its file or folder.
        parts: by the name of a split what reads that part whole: train, test, and validation
            where it has its own; or `all`, where it is in one piece.
        pool: makes one set of several parts.
    """

    name: str
    where: str
    parts: Mapping[str, Callable[[], ImageSet]]
    pool: Callable[[Sequence[ImageSet]], ImageSet]

    def split(self, split: str) -> ImageSet:
        """Return a part as it is, or, without a validation part, cut a tenth off the training part.

        The tenth is drawn class by class, in whole tracks where there are any, and named by the
        data set's name, so that every run and machine has the same.

        Raises:
            ValueError: there is no such part, or too little to cut from, or the training part has
                no images of some class.
        """
        if split in self.parts and (split == "test" or "validation" in self.parts):
            part = self.parts[split]()
            return self._every_class(part) if split == "train" else part
        if split == "test" or "train" not in self.parts:
            needed = "test" if split == "test" else "train"
            there = "one part only" if "all" in self.parts else " and ".join(self.parts)
            raise ValueError(
                f"the {split} split comes from a {needed} part, and {self.where} has {there}; add "
                "it, or draw all splits with sizes"
            )
        whole = self._every_class(self.parts["train"]())
        key = ("split", self.name, "validation")
        inside = draw_part(whole.labels, _VALIDATION_SHARE, *key, tracks=whole.tracks)
        if not inside.any():
            raise ValueError(
                f"{self.where} has too few training images to draw a validation split from"
            )
        return whole.take(inside if split == "validation" else ~inside, split)

    def drawn(
        self,
        split: str,
        sizes: Mapping[str, int],
        draw: str,
        vetted: Callable[[ImageSet], ImageSet],
    ) -> ImageSet:
        """Return a split of a stated size.

        With `test` among the sizes all parts are pooled and drawn from; otherwise the training part
        (and that for validation) is, and the test part stays as it is.

        Args:
            split: which of them.
            sizes: by the name of a split how many images it gets.
            draw: stratified, balanced or random; see `draw_sizes`.
            vetted: what is drawn from goes through this first.

        Raises:
            ValueError: the sizes don't say how large the split is, or can't be met.
        """
        _check_sizes(sizes, draw)
        if split == "test" and "test" not in sizes:
            return self.split(split)
        names = [p for p in self.parts if p != "test" or "test" in sizes]
        if split not in sizes or not names:
            raise ValueError(
                f"`sizes` must say how many images {split} gets, and {self.where} must have "
                f"some to draw from, got sizes of {', '.join(sizes) or 'nothing'}"
            )
        pool = vetted(self.pool([self.parts[p]() for p in names]))
        self._every_class(pool)
        parts = draw_sizes(
            pool.labels, _ordered(sizes), draw, "sizes", self.name, draw, tracks=pool.tracks
        )
        return pool.take(parts[split], split)

    def _every_class(self, pool: ImageSet) -> ImageSet:
        """What splits are cut from; refused where it lacks a class, which nobody would learn."""
        counts = torch.bincount(pool.labels, minlength=pool.classes)
        if not counts.all():
            gap = int((counts == 0).nonzero()[0])
            name = pool.class_names[gap] if pool.class_names else str(gap)
            raise ValueError(
                f"every class of {self.where} must have images to draw from, got none of class "
                f"{name}; add some, or leave it out with classes"
            )
        return pool


DATASETS: Registry[Callable[[Path | None, bool], Source]] = Registry("data set")
"""Data sets by name; each is called with the folder of data sets and whether to download."""


def pool_in_memory(parts: Sequence[ImageSet]) -> Dataset:
    """Return the images of several parts of one data set as one set, in memory.

    Where only some parts have tracks, each image of the others counts as a track of its own.

    Raises:
        ValueError: the images of the parts differ in shape.
    """
    sets = [p for p in parts if isinstance(p, Dataset)]
    first = sets[0]
    for other in sets[1:]:
        if other.shape != first.shape:
            raise ValueError(
                f"the parts of {first.name} must have images of one shape to be drawn from, got "
                f"{first.shape} in {first.split} and {other.shape} in {other.split}"
            )
    tracks = None
    if any(d.tracks is not None for d in sets):
        free = 1 + max(int(d.tracks.max()) for d in sets if d.tracks is not None)
        own = free + torch.arange(sum(len(d) for d in sets))
        ends = list(accumulate(len(d) for d in sets))
        tracks = torch.cat(
            [
                own[end - len(d) : end] if d.tracks is None else d.tracks
                for d, end in zip(sets, ends, strict=True)
            ]
        )
    rows = torch.cat([d.images.permute(0, 2, 3, 1) for d in sets])
    return Dataset(
        first.name,
        first.split,
        rows.permute(0, 3, 1, 2),
        torch.cat([d.labels for d in sets]),
        first.classes,
        tracks,
        first.class_names,
    )


def _ordered(sizes: Mapping[str, int]) -> dict[str, int]:
    """One order, whichever they were written in."""
    return {s: sizes[s] for s in ("train", "validation", "test") if s in sizes}


def _check_sizes(sizes: Mapping[str, int], draw: str) -> None:
    if draw not in DRAWS:
        raise ValueError(f"`draw` must be one of {', '.join(DRAWS)}, got {draw!r}")
    for name, size in sizes.items():
        if name not in ("train", "validation", "test"):
            raise ValueError(f"`sizes` must be of train, validation and test, got one of {name!r}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(
                f"`sizes` must be whole numbers of at least 1, got {size!r} for {name}"
            )
