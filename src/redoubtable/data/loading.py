"""Data sets by name or file, cut into training, validation and test."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from redoubtable.data import digits, downloads  # noqa: F401  (they enter their data sets)
from redoubtable.data.classes import Choice, of_classes
from redoubtable.data.dataset import Dataset, ImageSet, check_split
from redoubtable.data.folder import Damaged, Folder, check_damaged
from redoubtable.data.layout import open_folder
from redoubtable.data.memory import check_room
from redoubtable.data.npz import open_npz
from redoubtable.data.source import DATASETS, Source
from redoubtable.data.splits import generator
from redoubtable.data.workers import all_cores
from redoubtable.types import Images, Labels

ROOT = "REDOUBT_DATA"
"""The environment variable that names the folder of data sets."""


def load(
    name: str | Path,
    split: str,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    channels: int | None = None,
    classes: Choice | None = None,
    sizes: Mapping[str, int] | None = None,
    draw: str = "stratified",
    damaged: Damaged = "refuse",
    download: bool = False,
    workers: int | None = None,
) -> tuple[Images, Labels]:
    """Load one split of a data set as float32 images in [0, 1] and int64 labels.

    The arguments are those of `read`.

    Returns:
        Images (N, C, H, W) in [0, 1] and labels (N,).

    Raises:
        ValueError: as `read`, or the images would not fit into memory.

    Example:
        >>> x, y = load("digits", "test", limit=100)
        >>> tuple(x.shape), tuple(y.shape)
        ((100, 1, 28, 28), (100,))
    """
    data = read(
        name,
        split,
        root=root,
        limit=limit,
        size=size,
        channels=channels,
        classes=classes,
        sizes=sizes,
        draw=draw,
        damaged="unchecked" if damaged == "refuse" else damaged,
        download=download,
        workers=workers,
    )
    check_room(data.what, (len(data), *data.shape))  # before files are checked for nothing
    if isinstance(data, Folder):
        data = data.checked(damaged, _processes(workers))
    return data.floats(_processes(workers))


def read(
    name: str | Path,
    split: str,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    channels: int | None = None,
    classes: Choice | None = None,
    sizes: Mapping[str, int] | None = None,
    draw: str = "stratified",
    damaged: Damaged = "refuse",
    download: bool = False,
    workers: int | None = None,
) -> ImageSet:
    """Read one split of a data set in its 8-bit form.

    Args:
        name: `digits`; the path of a `.npz` file or of an image folder; the name of one in `root`
            (the file without its ending, which goes before all others of that name); or a data set
            that torchvision reads from `root`.
        split: train, validation (if the data set has none: a tenth of its training part, drawn
            class by class and in whole tracks) or test.
        root: folder of data sets; by default the one that `REDOUBT_DATA` names.
        limit: take that many images. They are the first of a fixed random order of the split, so
            a file sorted by class still gives every class, and a larger limit adds to a smaller
            one. Without a limit the images come in the order of the file.
        size: of an image folder, the side of the square that its images are resized and cut to.
            None if all have one size.
        channels: of an image folder, 3 (RGB, the default) or 1 (grey).
        classes: names of classes, a text file with one per line, or a list of `CLASS_LISTS`;
            labels are numbered in its order. Classes without names are called by their numbers.
        sizes: how many images each split gets, as in `{"train": 10854, "validation": 1206, "test":
            2010}`. With `test` they are drawn from all images; without it train and validation are
            drawn from the training part, and test stays as it is.
        draw: `stratified` keeps the classes' shares, `balanced` takes as many of each class,
            `random` looks at no class; always in whole tracks, and named by the data set's name.
        damaged: of an image folder: `refuse` damaged files, `skip` them with a warning, or leave
            them `unchecked`. Otherwise every file of the split is decoded once before this returns;
            with `skip` and `sizes`, every file that is drawn from.
        download: let torchvision download what is not there.
        workers: processes that check an image folder; by default one per core, eight at most.

    Returns:
        A `Dataset` in memory, or a `Folder` whose images are read when they are asked for.

    Raises:
        ValueError: there is no such data set or split, its files can't be used, an argument does
            not fit it, or `limit` is not in 1 to the size of the split.
    """
    check_split(split)
    check_damaged(damaged)
    source = _open(name, root, size, channels, classes, download)

    def skipped(data: ImageSet) -> ImageSet:
        if damaged == "skip" and isinstance(data, Folder):
            return data.checked("skip", _processes(workers))
        return data

    if sizes is None:
        data = skipped(source.split(split))
    else:
        data = skipped(source.drawn(split, sizes, draw, skipped))
    data = data if limit is None else _first(data, limit)
    return data.checked(damaged, _processes(workers)) if isinstance(data, Folder) else data


def _processes(workers: int | None) -> int:
    return all_cores() if workers is None else workers


def _first(data: ImageSet, limit: int) -> ImageSet:
    """So many images, the first of a fixed random order."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= len(data):
        raise ValueError(
            f"`limit` must be a whole number from 1 to {len(data)}, the size of the {data.split} "
            f"split of {data.name}, got {limit!r}"
        )
    order = generator("limit", data.name, data.split).permutation(len(data))
    return data.take(torch.from_numpy(order[:limit]))


def _open(
    name: str | Path,
    root: str | Path | None,
    size: int | None,
    channels: int | None,
    classes: Choice | None,
    download: bool,
) -> Source:
    """What a name stands for, its images of the classes and the shape that are asked for."""
    chosen = root if root is not None else os.environ.get(ROOT)
    folder = None if chosen is None else Path(chosen)
    found = _find(str(name), folder, isinstance(name, Path))
    if found is not None and found.is_dir() and found.suffix != ".npz":
        return open_folder(found, size=size, channels=channels, classes=classes)
    source = DATASETS[str(name)].obj(folder, download) if found is None else open_npz(found)

    def fitted(part: str) -> Dataset:
        data = cast(Dataset, source.parts[part]())  # of files and names in memory
        _check_shape(data, size, channels)
        return data if classes is None else of_classes(data, classes)

    parts = {part: lambda p=part: fitted(p) for part in source.parts}
    return Source(source.name, source.where, parts, source.pool)


def _find(name: str, root: Path | None, is_path: bool) -> Path | None:
    """The file or folder that a name stands for; None for one of `DATASETS`."""
    if name.endswith(".npz"):
        return Path(name)
    if (is_path or os.sep in name or name == ".") and Path(name).is_dir():
        return Path(name)
    embedded = name in DATASETS and "files" not in DATASETS[name].facts
    if root is not None and not embedded and (root / f"{name}.npz").is_file():
        return root / f"{name}.npz"
    if name in DATASETS:
        return None
    for folder in ([] if root is None else [root / name]) + [Path(name)]:
        if folder.is_dir():
            return folder
    raise ValueError(_unknown(name, root))


def _unknown(name: str, root: Path | None) -> str:
    known = ", ".join(e.name for e in DATASETS)
    if root is None:
        return (
            f"unknown data set {name!r}; known: {known}. For a .npz file or an image folder give "
            f"its path, or the folder it is in as root (--root, or the variable {ROOT})"
        )
    there = ", ".join(sorted(p.stem for p in root.glob("*.npz"))) or "no .npz files"
    return (
        f"unknown data set {name!r}; known: {known}, and in {root}: {there}. Pass another folder "
        f"as root (--root, or the variable {ROOT}), or the path of an image folder"
    )


def _check_shape(data: Dataset, size: int | None, channels: int | None) -> None:
    """Refuse to change the shape of what is in memory."""
    wanted = (channels or data.shape[0], size or data.shape[1], size or data.shape[2])
    if wanted != data.shape:
        raise ValueError(
            f"`size` and `channels` are of image folders, and {data.name} has images of "
            f"{data.shape}, got size={size} and channels={channels}; leave them out"
        )
