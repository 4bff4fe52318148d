"""Folders of image files: `train/<class>/*`, `test/<class>/*`, or the classes alone."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redoubtable.data.classes import Choice, choose
from redoubtable.data.dataset import ImageSet
from redoubtable.data.decoding import ENDINGS, Look, measure, shown
from redoubtable.data.folder import Folder, Paths
from redoubtable.data.source import Source

_PARTS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


def open_folder(
    folder: Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    classes: Choice | None = None,
) -> Source:
    """Return a folder of image files as a data set.

    Below `train`, `test` and, if there, `validation` or `val`, each folder is a class, and its
    images may lie in folders of their own; links are followed, but not around in a circle. Without
    any of the three, the folder's own folders are the classes, and splits are drawn with sizes.
    Labels number the class folders in the order of their names' bytes. Every part must have the
    same classes, of those that are used: a class without test images would count as one that is
    never wrong. Hidden files, and those whose names are not of images, are passed over and counted.

    Args:
        folder: where it is. Its name is the data set's.
        size: side of the square that images are resized and cut to; see `decode`. None if all have
            the size of the first training image.
        channels: 3 (RGB, the default) or 1 (grey).
        classes: which class folders, in what order; by default all.

    Raises:
        ValueError: there are no class folders, one is empty, the parts differ in their classes, or
            an argument is out of range.
    """
    parts = _parts(folder)
    names = {part: _folders(path) for part, path in parts.items()}
    first = "train" if "train" in parts else next(iter(parts))
    known = names[first]
    if not known:
        raise ValueError(
            f"{shown(parts[first])} has no class folders; an image folder has train/<class>/* and "
            "test/<class>/*"
        )
    chosen = known
    if classes is not None:
        chosen = [known[i] for i in choose(classes, known, shown(folder))]
    for part in parts:
        _same_classes(chosen, names[part], parts[first], parts[part], classes is not None)
    look = _look(parts[first], chosen, size, channels)
    name = folder.resolve().name
    readers = {
        part: partial(_list, name, part, folder, path, chosen, look) for part, path in parts.items()
    }
    return Source(name, shown(folder), readers, _pool)


def _parts(folder: Path) -> dict[str, Path]:
    """The folders of the splits that are there; the folder itself as `all` if none is."""
    found: dict[str, Path] = {}
    for part, names in _PARTS.items():
        there = [folder / n for n in names if (folder / n).is_dir()]
        if len(there) > 1:
            raise ValueError(
                f"{shown(folder)} must have one folder for {part}, got {' and '.join(names)}; "
                "rename one"
            )
        if there:
            found[part] = there[0]
    return found or {"all": folder}


def _folders(path: Path) -> list[str]:
    """Names of the class folders, in the order of their bytes."""
    with os.scandir(path) as entries:
        found = [e.name for e in entries if _is_folder(e) and not e.name.startswith(".")]
    return sorted(found, key=os.fsencode)


def _same_classes(
    chosen: Sequence[str], names: Sequence[str], first: Path, other: Path, some: bool
) -> None:
    lacking = [n for n in chosen if n not in set(names)]
    extra = [] if some else [n for n in names if n not in set(chosen)]
    if lacking or extra:
        where, name = (other, lacking[0]) if lacking else (first, extra[0])
        raise ValueError(
            f"{shown(first)} and {shown(other)} must have the same class folders, but "
            f"{len(lacking) + len(extra)} are in one only: {shown(where)} lacks {name!r}; add it, "
            "or choose from those in both with classes"
        )


def _look(path: Path, names: Sequence[str], size: int | None, channels: int | None) -> Look:
    """The shape that is asked for, or that of the first image that can be read."""
    channels = 3 if channels is None else channels
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 3 (RGB) or 1 (grey), got {channels!r}")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"`size` must be a whole number of at least 1, got {size!r}")
        return Look(channels, size, size, True)
    for name in names:
        for file in sorted(f for f in _walk(path / name, path) if f is not None):
            try:
                height, width = measure(os.path.join(os.fsencode(path / name), file))
            except ValueError:
                continue
            return Look(channels, height, width, False)
    raise ValueError(f"{shown(path)} has no image that can be read; name another folder")


def _list(
    name: str, part: str, folder: Path, path: Path, names: Sequence[str], look: Look
) -> Folder:
    """One part with all its files; they are not opened."""
    split = "train" if part == "all" else part
    files: list[bytes] = []
    counts: list[int] = []
    with os.scandir(path) as entries:
        ignored = sum(not _is_folder(e) for e in entries)
    for one in names:
        inside = os.fsencode((path / one).relative_to(folder))
        found = list(_walk(path / one, path))
        images = sorted(os.path.join(inside, f) for f in found if f is not None)
        if not images:
            raise ValueError(
                f"the class folder {shown(path / one)} has no images, and {len(found)} other "
                "files; fill it, or leave it out with classes"
            )
        files += images
        counts.append(len(images))
        ignored += len(found) - len(images)
    labels = torch.repeat_interleave(torch.arange(len(names)), torch.tensor(counts))
    return Folder(
        name, split, folder, Paths.of(files), labels, len(names), look, tuple(names), ignored
    )


def _walk(path: Path, root: Path) -> Iterator[bytes | None]:
    """Image files below a folder, relative to it, and None for each other file.

    A folder that is reached a second time, or that holds the class folder itself, is a link in a
    circle and is not entered.
    """
    seen = {_identity(os.fsencode(p)) for p in (root, root.parent)}
    waiting = [b""]
    while waiting:
        inner = waiting.pop()
        whole = os.path.join(os.fsencode(path), inner)
        if _identity(whole) in seen:
            continue
        seen.add(_identity(whole))
        with os.scandir(whole) as entries:
            for entry in entries:
                hidden = entry.name.startswith(b".")
                if _is_folder(entry):
                    waiting += [] if hidden else [os.path.join(inner, entry.name)]
                elif hidden or not entry.name.lower().endswith(ENDINGS) or _blocks(entry):
                    yield None
                else:
                    yield os.path.join(inner, entry.name)


def _is_folder(entry: os.DirEntry[Any]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _blocks(entry: os.DirEntry[bytes]) -> bool:
    """Whether it is a pipe or a device, which may keep a reader waiting forever."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def _identity(path: bytes) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino


def _pool(parts: Sequence[ImageSet]) -> Folder:
    """The files of several parts of one folder as one set."""
    sets = [p for p in parts if isinstance(p, Folder)]
    first = sets[0]
    offsets = np.cumsum([0, *(len(d.paths.text) for d in sets[:-1])])
    paths = Paths(
        b"".join(d.paths.text for d in sets),
        np.concatenate([d.paths.starts + o for d, o in zip(sets, offsets, strict=True)]),
        np.concatenate([d.paths.ends + o for d, o in zip(sets, offsets, strict=True)]),
    )
    return Folder(
        first.name,
        first.split,
        first.root,
        paths,
        torch.cat([d.labels for d in sets]),
        first.classes,
        first.look,
        first.class_names,
        sum(d.ignored for d in sets),
    )
