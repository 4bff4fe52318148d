"""The data set that comes with the package: real handwritten digits, for tests and examples."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from redoubtable.data.dataset import Dataset
from redoubtable.data.source import DATASETS, Source, pool_in_memory
from redoubtable.data.splits import draw_part

_SIDE, _STORED = 28, 8
_TEST, _VALIDATION = 500, 300


@DATASETS.register(
    "digits",
    shape=(1, 28, 28),
    classes=10,
    sizes={"train": 997, "validation": 300, "test": 500},
    source="scikit-learn; Alpaydin and Kaynak 1998, https://archive.ics.uci.edu/dataset/80",
)
def open_digits(root: Path | None, download: bool) -> Source:
    """Scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998); they need no file.

    The 8x8 images with 17 grey levels are resized bilinearly to 28x28 and rounded to 8 bits. 997
    images are for training, 300 for validation, 500 for testing, each with the classes' shares.
    """
    parts = {split: partial(_read, split) for split in ("train", "validation", "test")}
    return Source("digits", "digits", parts, pool_in_memory)


def _read(split: str) -> Dataset:
    images, labels = _everything()
    test = draw_part(labels, _TEST / len(labels), "split", "digits", "test")
    rest = torch.nonzero(~test).flatten()
    inner = draw_part(labels[rest], _VALIDATION / len(rest), "split", "digits", "validation")
    indices = {
        "train": rest[~inner],
        "validation": rest[inner],
        "test": torch.nonzero(test).flatten(),
    }
    return Dataset("digits", split, images, labels, 10).take(indices[split])


@cache
def _everything() -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels, in scikit-learn's order."""
    from sklearn.datasets import load_digits  # slow to import

    stored = load_digits()
    images = _resize(stored.images.astype(np.int64))
    return torch.from_numpy(images)[:, None], torch.from_numpy(stored.target.astype(np.int64))


def _resize(images: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Enlarge (N, 8, 8) images with values 0 to 16 bilinearly, pixel centres aligned.

    In whole numbers, since a stored 8 is exactly 127.5 of 255: floats would round it by the
    processor's mood.
    """
    # Row i of 28 lies at (i + 1/2) * 8 / 28 - 1/2 = (4 i - 5) / 14 of 8, held inside.
    place = np.clip(4 * np.arange(_SIDE) - 5, 0, 14 * (_STORED - 1))
    first, rest = place // 14, place % 14
    weights = np.zeros((_SIDE, _STORED), dtype=np.int64)
    weights[np.arange(_SIDE), first] += 14 - rest
    weights[np.arange(_SIDE), np.minimum(first + 1, _STORED - 1)] += rest
    total = weights @ images @ weights.T
    whole = 16 * 14 * 14
    return ((2 * 255 * total + whole) // (2 * whole)).astype(np.uint8)
