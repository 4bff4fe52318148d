"""The data sets that torchvision reads, and downloads where it is told to."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from redoubtable.data.dataset import Dataset
from redoubtable.data.source import DATASETS, Source, pool_in_memory

_SIDE = 32  # of a traffic sign: most are about as small


@DATASETS.register(
    "mnist",
    shape=(1, 28, 28),
    classes=10,
    sizes={"train": 54_000, "validation": 6_000, "test": 10_000},
    files="MNIST/raw",
    source="torchvision; LeCun et al. 1998, http://yann.lecun.com/exdb/mnist",
)
def open_mnist(root: Path | None, download: bool) -> Source:
    """Handwritten digits (LeCun et al. 1998)."""
    return _open("mnist", root, download, _mnist)


@DATASETS.register(
    "cifar10",
    shape=(3, 32, 32),
    classes=10,
    sizes={"train": 45_000, "validation": 5_000, "test": 10_000},
    files="cifar-10-batches-py",
    source="torchvision; Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
)
def open_cifar10(root: Path | None, download: bool) -> Source:
    """Small photographs of 10 kinds of things (Krizhevsky 2009).

    Its files are pickles. torchvision unpickles them only after their MD5 sums were found to be
    those of the published ones.
    """
    return _open("cifar10", root, download, partial(_cifar, "CIFAR10"))


@DATASETS.register(
    "cifar100",
    shape=(3, 32, 32),
    classes=100,
    sizes={"train": 45_000, "validation": 5_000, "test": 10_000},
    files="cifar-100-python",
    source="torchvision; Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
)
def open_cifar100(root: Path | None, download: bool) -> Source:
    """Small photographs of 100 kinds of things (Krizhevsky 2009).

    Its files are pickles. torchvision unpickles them only after their MD5 sums were found to be
    those of the published ones.
    """
    return _open("cifar100", root, download, partial(_cifar, "CIFAR100"))


@DATASETS.register(
    "svhn",
    shape=(3, 32, 32),
    classes=10,
    sizes={"train": 65_931, "validation": 7_326, "test": 26_032},
    files="train_32x32.mat, test_32x32.mat",
    source="torchvision; Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers",
)
def open_svhn(root: Path | None, download: bool) -> Source:
    """House numbers seen from the street (Netzer et al. 2011), without the extra images."""
    return _open("svhn", root, download, _svhn)


@DATASETS.register(
    "gtsrb",
    shape=(3, _SIDE, _SIDE),
    classes=43,
    sizes={"train": 35_279, "validation": 3_930, "test": 12_630},
    files="gtsrb/GTSRB",
    source="torchvision; Stallkamp et al. 2012, https://benchmark.ini.rub.de",
)
def open_gtsrb(root: Path | None, download: bool) -> Source:
    """German traffic signs (Stallkamp et al. 2012), each whole image resized to 32x32.

    Training images come in tracks of about thirty, one drive past one sign; none is cut by a split.
    """
    return _open("gtsrb", root, download, _gtsrb)


def _open(
    name: str, root: Path | None, download: bool, reader: Callable[[Path, str, bool], Dataset]
) -> Source:
    """A data set of two parts; errors of torchvision and of the network become ours."""
    if root is None:
        raise ValueError(
            f"{name} is read from files; name their folder as root (--root, or the variable "
            "REDOUBT_DATA)"
        )
    parts = {p: partial(_named, name, root, download, reader, p) for p in ("train", "test")}
    return Source(name, name, parts, pool_in_memory)


def _named(
    name: str,
    root: Path,
    download: bool,
    reader: Callable[[Path, str, bool], Dataset],
    part: str,
) -> Dataset:
    try:
        return reader(root, part, download)
    except Exception as error:  # torchvision looks at little before it reads
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        if download:
            raise ValueError(
                f"{name} can't be downloaded to {root} ({reason}); place {_files(name)} there, or "
                f"{name}.npz"
            ) from None
        raise ValueError(
            f"{name} is not in {root}, or not whole ({reason}); run again with --download "
            f"(download=True), or place {_files(name)} there, or {name}.npz"
        ) from None


def _files(name: str) -> str:
    return f"the files that torchvision reads ({DATASETS[name].facts['files']})"


def _dataset(
    name: str,
    part: str,
    rows: Any,
    labels: Any,
    classes: int,
    tracks: Any = None,
    class_names: tuple[str, ...] | None = None,
) -> Dataset:
    """A data set of (N, H, W, C) rows; numbers of any kind become int64."""
    images = torch.from_numpy(np.ascontiguousarray(rows)).permute(0, 3, 1, 2)
    y = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
    t = None if tracks is None else torch.as_tensor(tracks, dtype=torch.int64)
    return Dataset(name, part, images, y, classes, t, class_names)


def _mnist(root: Path, part: str, download: bool) -> Dataset:
    from torchvision.datasets import MNIST

    found = MNIST(root, train=part == "train", download=download)
    return _dataset("mnist", part, found.data.numpy()[..., None], found.targets, 10)


def _cifar(kind: str, root: Path, part: str, download: bool) -> Dataset:
    from torchvision import datasets

    found = getattr(datasets, kind)(root, train=part == "train", download=download)
    names = tuple(found.classes)
    return _dataset(kind.lower(), part, found.data, found.targets, len(names), None, names)


def _svhn(root: Path, part: str, download: bool) -> Dataset:
    from torchvision.datasets import SVHN

    found = SVHN(root, split=part, download=download)
    return _dataset("svhn", part, found.data.transpose(0, 2, 3, 1), found.labels, 10)


def _gtsrb(root: Path, part: str, download: bool) -> Dataset:
    from torchvision.datasets import GTSRB

    found = GTSRB(root, split=part, download=download)
    bilinear = Image.Resampling.BILINEAR
    rows = np.stack([np.asarray(image.resize((_SIDE, _SIDE), bilinear)) for image, _ in found])
    labels = [label for _, label in found._samples]
    # 00012_00029.ppm is frame 29 of track 12.
    paths = [Path(path) for path, _ in found._samples]
    tracks = [int(p.stem.split("_")[0]) for p in paths] if part == "train" else None
    return _dataset("gtsrb", part, rows, labels, 43, tracks)
