"""Data sets in one `.npz` file: `x_train, y_train, x_test, y_test` and, if known, `track_train`."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from redoubtable.data.dataset import Dataset
from redoubtable.data.splits import draw_part

Array = npt.NDArray[Any]
_VALIDATION_SHARE = 0.1


def read_npz(path: Path, split: str) -> Dataset:
    """Read one split of a `.npz` file; nothing in it is ever unpickled.

    Validation is a tenth of the training part: drawn class by class, named by the file's name so
    that every run and machine has the same, and in whole tracks where the file has `track_train`.
    The test part is the file's, untouched.

    Args:
        path: a file with images `x_train, x_test` as uint8 (N, H, W, C) or (N, H, W), labels
            `y_train, y_test` as whole numbers (N,), and optionally `track_train` likewise.
        split: train, validation or test.

    Raises:
        ValueError: the file is missing or damaged, lacks an array, or an array has the wrong type,
            shape or length.
    """
    part = "test" if split == "test" else "train"
    arrays = _arrays(path, [f"x_{part}", "y_train", "y_test"], ["track_train"])
    images = _images(arrays[f"x_{part}"], f"x_{part}", path)
    both = {p: _whole_numbers(arrays[f"y_{p}"], f"y_{p}", path) for p in ("train", "test")}
    labels = both[part]
    _same_length(images, labels, f"x_{part}", f"y_{part}", path)
    tracks = None
    if part == "train" and "track_train" in arrays:
        tracks = _whole_numbers(arrays["track_train"], "track_train", path)
        _same_length(tracks, labels, "track_train", "y_train", path)
    classes = 1 + max(int(y.max()) for y in both.values())
    whole = Dataset(path.stem, split, images, labels, classes, tracks)
    if split == "test":
        return whole
    inside = draw_part(labels, _VALIDATION_SHARE, "split", path.stem, "validation", tracks=tracks)
    if not inside.any():
        raise ValueError(f"{path} has too few training images to draw a validation split from")
    return whole.take(inside if split == "validation" else ~inside)


def _arrays(path: Path, needed: list[str], optional: list[str]) -> dict[str, Array]:
    """The named arrays of a file, read whole; the others are not read at all."""
    damaged = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
    try:
        file = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"no data set at {path}; name an existing .npz file") from None
    except damaged as error:
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
        for key in needed + [k for k in optional if k in file]:
            try:
                found[key] = file[key]
            except damaged as error:
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
