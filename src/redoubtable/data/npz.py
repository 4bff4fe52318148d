"""Data sets in one `.npz` file: `x_train, y_train, x_test, y_test` and, if known, `track_train`."""

import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from redoubtable.data.dataset import Dataset
from redoubtable.data.source import Source, pool_in_memory

Array = npt.NDArray[Any]

_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged archive raises."""


def open_npz(path: Path) -> Source:
    """Return a `.npz` file as a data set of two parts; nothing in it is ever unpickled.

    Args:
        path: a file with images `x_train, x_test` as uint8 (N, H, W, C) or (N, H, W), labels
            `y_train, y_test` as whole numbers (N,), and optionally `track_train` likewise. One of
            the two parts may be missing as long as it is not asked for.
    """
    parts = {split: partial(_read, path, split) for split in ("train", "test")}
    return Source(path.stem, str(path), parts, pool_in_memory)


def _read(path: Path, part: str) -> Dataset:
    """Read one part whole; the other one's images are not read.

    Raises:
        ValueError: the file is missing or damaged, lacks an array, an array has the wrong type,
            shape or length, or the parts have images of different shapes.
    """
    arrays = _arrays(path, [f"x_{part}", f"y_{part}"], ["y_train", "y_test", "track_train"])
    images = _images(arrays[f"x_{part}"], f"x_{part}", path)
    there = [p for p in ("train", "test") if f"y_{p}" in arrays]
    both = {p: _whole_numbers(arrays[f"y_{p}"], f"y_{p}", path) for p in there}
    labels = both[part]
    _same_length(images, labels, f"x_{part}", f"y_{part}", path)
    _same_shape(path)
    tracks = None
    if part == "train" and "track_train" in arrays:
        tracks = _whole_numbers(arrays["track_train"], "track_train", path)
        _same_length(tracks, labels, "track_train", "y_train", path)
    classes = 1 + max(int(y.max()) for y in both.values())
    return Dataset(path.stem, part, images, labels, classes, tracks)


def _arrays(path: Path, needed: list[str], optional: list[str]) -> dict[str, Array]:
    """The named arrays of a file, read whole; the others are not read at all."""
    try:
        file = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"no data set at {path}; name an existing .npz file") from None
    except _DAMAGED as error:
        raise ValueError(f"{path} is no readable .npz file ({error}); write it again") from None
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} holds one bare array; write it with numpy.savez")
    with file:
        missing = [key for key in needed if key not in file]
        if missing:
            raise ValueError(
                f"{path} lacks {', '.join(missing)} (it has {', '.join(file) or 'nothing'}); a "
                "data set needs x_train, y_train, x_test, y_test"
            )
        found: dict[str, Array] = {}
        for key in dict.fromkeys(needed + [k for k in optional if k in file]):
            try:
                found[key] = file[key]
            except _DAMAGED as error:
                raise ValueError(
                    f"{key} in {path} can't be read ({error}); write the file again, with plain "
                    "numeric arrays"
                ) from None
    return found


def _images(x: Array, key: str, path: Path) -> torch.Tensor:
    """(N, C, H, W) uint8, as a view of (N, H, W[, C]): the layout that convolutions like best."""
    where = f"{key} in {path}"
    if x.dtype != np.uint8:
        raise ValueError(f"{where} must be uint8 (0 to 255), got {x.dtype}; convert it")
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise ValueError(
            f"{where} must be non-empty (N, H, W, C) or (N, H, W), got shape {x.shape}"
        )
    if x.ndim == 3:
        return torch.from_numpy(x)[:, None]
    if x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        raise ValueError(
            f"{where} has its channels first, shape {x.shape}; store x.transpose(0, 2, 3, 1)"
        )
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def _whole_numbers(y: Array, key: str, path: Path) -> torch.Tensor:
    where = f"{key} in {path}"
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{where} must be whole numbers, got {y.dtype}; convert it")
    if y.ndim != 1 or not len(y):
        raise ValueError(f"{where} must be a non-empty (N,) array, got shape {y.shape}; flatten it")
    if y.min() < 0:
        raise ValueError(f"{where} must not be negative, got {y.min()}; count classes from 0")
    return torch.from_numpy(y.astype(np.int64))


def _same_length(a: torch.Tensor, b: torch.Tensor, a_key: str, b_key: str, path: Path) -> None:
    if len(a) != len(b):
        raise ValueError(f"{a_key} and {b_key} in {path} differ in length: {len(a)} and {len(b)}")


def _same_shape(path: Path) -> None:
    """Compare the images of both parts by the heads of their arrays, where the file has both."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for key in ("x_train", "x_test"):
            if f"{key}.npy" in archive.namelist():
                try:
                    with archive.open(f"{key}.npy") as file:
                        shapes[key] = _shape(file)[1:]
                except _DAMAGED as error:
                    raise ValueError(
                        f"{key} in {path} can't be read ({error}); write the file again"
                    ) from None
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"x_train and x_test in {path} must have images of one shape, got {shapes['x_train']} "
            f"and {shapes['x_test']}; resize one of them"
        )


def _shape(file: IO[bytes]) -> tuple[int, ...]:
    read = np.lib.format.read_array_header_1_0
    if np.lib.format.read_magic(file) != (1, 0):
        read = np.lib.format.read_array_header_2_0
    return read(file)[0]
