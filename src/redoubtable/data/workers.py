"""Work done ahead in other processes, its results in order."""

import os
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, cast

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

_AHEAD = 2  # pieces that each worker has ready at most: it bounds the memory they take


class Pieces(Protocol[T_co]):
    """Work in numbered pieces; it must be possible to send it to another process."""

    def __len__(self) -> int:
        """Return the number of pieces."""

    def __getitem__(self, number: int) -> T_co:
        """Do one piece of the work."""


def all_cores() -> int:
    """Return how many workers a machine keeps busy: its cores that we may use, eight at most."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(8, cores)


def in_order(pieces: Pieces[T], workers: int, pinned: bool = False) -> Iterator[T]:
    """Do the pieces of some work and go through their results in order.

    The workers end when the last result is taken or the iterator is closed or dropped. No state
    of a global generator of random numbers is used up.

    Args:
        pieces: the work; a `ValueError` in it is raised here as it is.
        workers: processes to do it in; 0 does each piece here when it is asked for.
        pinned: put tensors into page-locked memory, from which a GPU copies without waiting.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ValueError(f"`workers` must be a whole number of at least 0, got {workers!r}")
    workers = min(workers, len(pieces))
    if not workers:
        for number in range(len(pieces)):
            piece = pieces[number]
            yield cast(T, piece.pin_memory()) if pinned and torch.is_tensor(piece) else piece
        return
    loader: DataLoader[Any] = DataLoader(
        cast("TorchDataset[Any]", _Caught(pieces)),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        pin_memory=pinned,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    for piece in _whole(loader):
        if isinstance(piece, _Refusal):
            raise ValueError(piece.text)
        yield piece


def _whole(loader: DataLoader[Any]) -> Iterator[Any]:
    """The results of a loader whose workers live."""
    try:
        yield from loader
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        raise ValueError(
            f"a process that reads images ahead was killed ({str(error).splitlines()[0]}); there "
            "may be too little memory or /dev/shm for it: use fewer `workers`, or 0"
        ) from None


class _Refusal:
    """A `ValueError` on its way between processes: torch would wrap its text in a traceback."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Caught:
    """Pieces whose `ValueError` is a result."""

    def __init__(self, pieces: Pieces[Any]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.pieces[number]
        except ValueError as error:
            return _Refusal(str(error))


def _as_it_is(piece: Any) -> Any:
    return piece
