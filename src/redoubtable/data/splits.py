"""Splits that are the same on every machine, keep the classes' shares and never cut a track."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from redoubtable.seeding import derive_seed
from redoubtable.types import Labels


def generator(*key: object) -> np.random.RandomState:
    """Return the generator named by `key`.

    It is numpy's legacy one, because its stream is frozen: a new version can't move a split.
    """
    return np.random.RandomState(derive_seed(*key) % 2**32)


def draw_part(labels: Labels, share: float, *key: object, tracks: Tensor | None = None) -> Tensor:
    """Draw a part of a data set, class by class.

    What is drawn are whole units: single images, or all images of one class and track. Each class
    gives its share of its units, rounded so that the total is right; a class of two units or more
    gives at least one and keeps at least one.

    Args:
        labels: (N,) classes.
        share: part of the units to draw, in (0, 1).
        key: names the randomness.
        tracks: (N,) whole numbers that say which images of a class belong together, or None.

    Returns:
        (N,) booleans, True where an image is drawn.
    """
    classes = labels.numpy()
    own = np.arange(len(classes)) if tracks is None else tracks.numpy()
    pairs, unit_of = np.unique(np.stack([classes, own]), axis=1, return_inverse=True)
    class_of_unit = pairs[0]
    counts = np.bincount(class_of_unit)
    quotas = np.clip(_apportion(counts, share), np.minimum(counts - 1, 1), counts - 1)
    random = generator(*key)
    drawn = np.zeros(len(class_of_unit), dtype=bool)
    for label in np.flatnonzero(counts):
        units = np.flatnonzero(class_of_unit == label)
        drawn[random.permutation(units)[: quotas[label]]] = True
    return torch.from_numpy(drawn[unit_of.reshape(-1)])


def _apportion(counts: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """Whole numbers near `share * counts` whose sum is that of `counts`, by largest remainder."""
    exact = share * counts
    whole: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = round(share * int(counts.sum())) - int(whole.sum())
    largest = np.argsort(whole - exact, kind="stable")[:missing]
    whole[largest] += 1
    return whole
