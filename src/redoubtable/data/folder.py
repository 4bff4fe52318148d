"""Sets whose images stay in their files and are decoded when they are asked for."""

import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, final, get_args

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from redoubtable.data.dataset import ImageSet
from redoubtable.data.decoding import Look, WrongSize, decode, fingerprint, shown
from redoubtable.data.workers import in_order
from redoubtable.types import Labels

T = TypeVar("T")
Damaged = Literal["refuse", "skip", "unchecked"]

_PIECE = 32  # files that a worker looks at in one go
_FEW = 256  # so many files are looked at before other processes would have started
_NAMED = 10  # damaged files that a message names
_PATIENCE = 2.0  # seconds without a progress bar


def check_damaged(damaged: str) -> None:
    """Refuse what does not say how to go about damaged files.

    Raises:
        ValueError: `damaged` is not refuse, skip or unchecked.
    """
    known = get_args(Damaged)
    if damaged not in known:
        raise ValueError(f"`damaged` must be one of {', '.join(known)}, got {damaged!r}")


@dataclass(frozen=True, eq=False)
class Paths:
    """Many file names in little memory: their bytes in one piece, and where each begins and ends.

    A million names take about 60 MB, and a process that reads them copies none.
    """

    text: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[bytes]) -> "Paths":
        """Pack names."""
        ends = np.cumsum([len(n) for n in names], dtype=np.int64)
        return cls(b"".join(names), np.concatenate([[0], ends[:-1]]).astype(np.int64), ends)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self.ends)

    def __getitem__(self, number: int) -> bytes:
        """Return one name."""
        return self.text[self.starts[number] : self.ends[number]]

    def take(self, which: Tensor) -> "Paths":
        """Return the names of the indices (or the boolean mask) `which`."""
        return Paths(self.text, self.starts[which.numpy()], self.ends[which.numpy()])


@final
@dataclass(frozen=True, eq=False)
class Folder(ImageSet):
    """Image files of any size, decoded to one shape when they are read; see `decode`.

    Attributes:
        name: what it is called, for cards and records.
        split: train, validation or test.
        root: the folder that the names of the files are relative to.
        paths: N names.
        labels: (N,), int64, in [0, classes).
        classes: number of classes in all splits together.
        look: the shape, and whether files of another are resized.
        class_names: names of the folders that the classes stand in.
        ignored: number of files that were passed over: hidden, or no images by their name.
        prints: (N, 16) uint8, what the content of the files was when they were checked, or None.
        tracks: (N,), int64, or None; images of one class and track show the same object.

    Raises:
        ValueError: the labels don't fit.
    """

    name: str
    split: str
    root: Path
    paths: Paths
    labels: Labels
    classes: int
    look: Look
    class_names: tuple[str, ...] | None = None
    ignored: int = 0
    prints: npt.NDArray[np.uint8] | None = None
    tracks: Tensor | None = None

    def __post_init__(self) -> None:
        """Check what the docstring promises."""
        self._check()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.look.channels, self.look.height, self.look.width

    def path(self, number: int) -> bytes:
        """Return the whole path of one file; bytes, since a name need not be text."""
        return os.path.join(os.fsencode(self.root), self.paths[number])

    def read(self, index: Tensor) -> Tensor:
        """Decode the images of the indices (n,), in their order: uint8 (n, C, H, W).

        Raises:
            ValueError: a file can't be read; it is named.
        """
        channels, height, width = self.shape
        out = np.empty((len(index), height, width, channels), dtype=np.uint8)
        for row, number in enumerate(index.tolist()):
            out[row] = decode(self.path(number), self.look)
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def take(self, which: Tensor, split: str | None = None) -> "Folder":
        """Return the images of the indices (or the boolean mask) `which`, as such a set."""
        return replace(
            self,
            split=split or self.split,
            paths=self.paths.take(which),
            labels=self.labels[which],
            prints=None if self.prints is None else self.prints[which.numpy()],
            tracks=None if self.tracks is None else self.tracks[which],
        )

    def digest(self) -> str:
        """Return 16 hex digits that name the files' content, the labels and the shape.

        Files that were checked are not read again. A file counts by its bytes, so the digest is
        not that of a set with the same pixels in memory.
        """
        prints = self.prints
        if prints is None:
            every = [fingerprint(self.path(n)) for n in range(len(self))]
            prints = np.frombuffer(b"".join(every), dtype=np.uint8)
        total = hashlib.sha256(repr(self.look).encode())
        total.update(prints.tobytes())
        total.update(self.labels.numpy().tobytes())
        return total.hexdigest()[:16]

    def checked(self, damaged: Damaged = "refuse", workers: int = 0) -> "Folder":
        """Decode every file once, and return the set of those that can be read.

        Args:
            damaged: what to do about files that can't be decoded to their end: `refuse` them,
                `skip` them with one warning, or leave all `unchecked`, so that the first damaged
                file is an error when it is read.
            workers: processes to do it in. A progress bar is shown after two seconds.

        Raises:
            ValueError: damaged files are refused (the first ten are named), they are all of a
                class, or a file has another size than the others and nothing is resized.
        """
        check_damaged(damaged)
        if damaged == "unchecked" or self.prints is not None:
            return self
        pieces = _Checks(self)
        found = in_order(pieces, workers if len(self) > _FEW else 0)
        bad: list[tuple[int, str]] = []
        prints = np.zeros((len(self), 16), dtype=np.uint8)
        for start, piece in _watched(found, len(self), f"checking {self.name} {self.split}"):
            for number, (text, print_) in enumerate(piece, start):
                prints[number] = np.frombuffer(print_, dtype=np.uint8)
                if text:
                    bad.append((number, text))
        whole = replace(self, prints=prints)
        if not bad:
            return whole
        named = "; ".join(text for _, text in bad[:_NAMED])
        named += f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        if damaged == "refuse":
            raise ValueError(
                f"{len(bad)} of {len(self)} images in {shown(self.root)} are damaged: {named}. "
                "Repair or remove them, or leave them out with damaged='skip'"
            )
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[[number for number, _ in bad]] = False
        self._check_left(kept)
        warnings.warn(
            f"left out {len(bad)} damaged of {len(self)} images in {shown(self.root)}: {named}",
            stacklevel=2,
        )
        return whole.take(kept)

    def _check_left(self, kept: Tensor) -> None:
        """Refuse to lose a class to damage."""
        lost = set(self.labels.tolist()) - set(self.labels[kept].tolist())
        if lost:
            first = min(lost)
            name = self.class_names[first] if self.class_names else str(first)
            raise ValueError(
                f"all {self.split} images of the class {name!r} in {shown(self.root)} are damaged; "
                "repair them, or choose other classes"
            )


class _Checks:
    """Pieces of the check: for each file what is wrong with it, if anything, and its content."""

    def __init__(self, data: Folder) -> None:
        self.data = data

    def __len__(self) -> int:
        return -(-len(self.data) // _PIECE)

    def __getitem__(self, number: int) -> list[tuple[str, bytes]]:
        start = number * _PIECE
        return [self._one(n) for n in range(start, min(start + _PIECE, len(self.data)))]

    def _one(self, number: int) -> tuple[str, bytes]:
        path = self.data.path(number)
        try:
            decode(path, self.data.look)
            return "", fingerprint(path)
        except WrongSize:
            raise
        except ValueError as error:
            return str(error), bytes(16)


def _watched(pieces: Iterator[list[T]], total: int, text: str) -> Iterator[tuple[int, list[T]]]:
    """Go through lists and where each starts; show a bar on standard error if it takes long."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    began, done = time.perf_counter(), 0
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(text, total=total)
    try:
        for piece in pieces:
            yield done, piece
            done += len(piece)
            bar.update(task, completed=done)
            if time.perf_counter() - began > _PATIENCE and not bar.live.is_started:
                bar.start()
    finally:
        if bar.live.is_started:  # to stop one that was not would print an empty line
            bar.stop()
