"""Data sets by name or file, cut into training, validation and test."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from redoubtable.data.dataset import Dataset, check_split
from redoubtable.data.digits import read_digits
from redoubtable.data.npz import read_npz
from redoubtable.data.splits import generator
from redoubtable.registry import Registry
from redoubtable.types import Images, Labels

ROOT = "REDOUBT_DATA"
"""The environment variable that names the folder of data sets."""

DATASETS: Registry[Callable[[str], Dataset]] = Registry("data set")
"""Data sets that need no file; each is a reader that takes the name of a split."""

DATASETS.register(
    "digits",
    shape=(1, 28, 28),
    classes=10,
    sizes={"train": 997, "validation": 300, "test": 500},
    source="scikit-learn; Alpaydin and Kaynak 1998, https://archive.ics.uci.edu/dataset/80",
)(read_digits)


def load(
    name: str | Path, split: str, *, root: str | Path | None = None, limit: int | None = None
) -> tuple[Images, Labels]:
    """Load one split of a data set as float32 images in [0, 1] and int64 labels.

    Args:
        name: `digits`, the path of a `.npz` file, or the name of one in `root` without its ending.
        split: train, validation (for a file: a tenth of its training part, drawn class by class
            and in whole tracks) or test.
        root: folder of `.npz` files; by default the one that `REDOUBT_DATA` names.
        limit: take that many images. They are the first of a fixed random order of the split, so
            a file sorted by class still gives every class, and a larger limit adds to a smaller
            one. Without a limit the images come in the order of the file.

    Returns:
        Images (N, C, H, W) in [0, 1] and labels (N,).

    Raises:
        ValueError: there is no such data set or split, its file can't be used, or `limit` is not
            in 1 to the size of the split.

    Example:
        >>> x, y = load("digits", "test", limit=100)
        >>> tuple(x.shape), tuple(y.shape)
        ((100, 1, 28, 28), (100,))
    """
    return read(name, split, root=root, limit=limit).floats()


def read(
    name: str | Path, split: str, *, root: str | Path | None = None, limit: int | None = None
) -> Dataset:
    """Read one split of a data set in its 8-bit form; arguments and errors are those of `load`."""
    check_split(split)
    name = str(name)
    data = DATASETS[name].obj(split) if name in DATASETS else read_npz(_find(name, root), split)
    if limit is None:
        return data
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= len(data):
        raise ValueError(
            f"`limit` must be a whole number from 1 to {len(data)}, the size of the {split} split "
            f"of {data.name}, got {limit!r}"
        )
    order = generator("limit", data.name, split).permutation(len(data))
    return data.take(torch.from_numpy(order[:limit]))


def _find(name: str, root: str | Path | None) -> Path:
    """The file that a name stands for."""
    if name.endswith(".npz"):
        return Path(name)
    chosen = root if root is not None else os.environ.get(ROOT)
    known = ", ".join(e.name for e in DATASETS)
    if chosen is None:
        raise ValueError(
            f"unknown data set {name!r}; known without a file: {known}. For a .npz file give its "
            f"path, or its folder as root (--root, or the variable {ROOT})"
        )
    folder = Path(chosen)
    path = folder / f"{name}.npz"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.npz"))) or "no .npz files"
        raise ValueError(
            f"unknown data set {name!r}; known: {known}, and in {folder}: {there}. Pass another "
            f"folder as root (--root, or the variable {ROOT})"
        )
    return path
