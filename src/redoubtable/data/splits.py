"""Splits that are the same on every machine, keep the classes' shares and never cut a track."""

from collections.abc import Mapping

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


def draw_sizes(
    labels: Labels,
    sizes: Mapping[str, int],
    draw: str,
    *key: object,
    tracks: Tensor | None = None,
) -> dict[str, Tensor]:
    """Draw parts of stated sizes that share no image, and no track where there are any.

    Args:
        labels: (N,) classes, each of them there.
        sizes: how many images each part gets.
        draw: `stratified` keeps the classes' shares in each part, `balanced` takes as many of each
            class, `random` looks at no class.
        key: names the randomness.
        tracks: (N,) whole numbers that say which images of a class belong together, or None. What
            is left of a track when a part is full goes to no other part.

    Returns:
        For each part the indices of its images, ascending.

    Raises:
        ValueError: there are too few images, of a class or of whole tracks, or the part `train`
            would lack a class.
    """
    wanted, there = sum(sizes.values()), len(labels)
    if wanted > there:
        raise ValueError(
            f"`sizes` must add up to at most {there}, the number of images to draw from, got "
            f"{wanted}; ask for fewer"
        )
    classes = labels.numpy()
    own = np.arange(there) if tracks is None else tracks.numpy()
    _, unit_of = np.unique(np.stack([classes, own]), axis=1, return_inverse=True)
    # Whole units in random order, their images in that of the set.
    place = generator(*key).permutation(int(unit_of.max()) + 1)[unit_of.reshape(-1)]
    order = np.argsort(place, kind="stable")
    group = np.zeros_like(classes) if draw == "random" else classes
    group_of = group[order]
    left = {g: order[group_of == g] for g in np.unique(group)}
    found: dict[str, Tensor] = {}
    for part, size in sizes.items():
        quotas = _quotas(np.array([len(rest) for rest in left.values()]), size, draw, part)
        taken = []
        for g, quota in zip(left, quotas, strict=True):
            taken.append(left[g][:quota])
            after = left[g][quota:]
            left[g] = after[place[after] != place[taken[-1][-1]]] if quota else after
        found[part] = torch.from_numpy(np.sort(np.concatenate(taken)))
    trained = classes[found["train"]] if "train" in found else classes
    lacking = set(classes.tolist()) - set(trained.tolist())
    if lacking:
        raise ValueError(
            f"`sizes` must give train an image of every class, got none of class {min(lacking)} "
            f"with {sizes['train']}; ask for more, or draw balanced"
        )
    return found


def _quotas(
    counts: npt.NDArray[np.int64], size: int, draw: str, part: str
) -> npt.NDArray[np.int64]:
    """How many images of each group a part gets; no more than the group has left."""
    if draw == "balanced":
        quotas = size // len(counts) + (np.arange(len(counts)) < size % len(counts))
    else:
        quotas = _apportion(counts, size / max(1, int(counts.sum())))
    short = np.flatnonzero(quotas > counts)
    if len(short) or size > counts.sum():
        least = int(short[0]) if len(short) else 0
        raise ValueError(
            f"`sizes` must leave enough images of each class, in whole tracks, for {part}: got "
            f"{counts[least]} of {int(counts.sum())} where {max(1, quotas[least])} of {size} are "
            "asked for; ask for fewer"
        )
    return quotas


def _apportion(counts: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """Whole numbers near `share * counts` whose sum is that of `counts`, by largest remainder."""
    exact = share * counts
    whole: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = round(share * int(counts.sum())) - int(whole.sum())
    largest = np.argsort(whole - exact, kind="stable")[:missing]
    whole[largest] += 1
    return whole
