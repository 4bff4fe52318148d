"""Which classes of a data set to use: lists in Python, in text files, or known by a name."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from redoubtable.data.dataset import Dataset
from redoubtable.registry import Registry

Choice = Sequence[str] | str | Path
"""Names of classes; or the name of a list, or of a text file with one class per line."""

CLASS_LISTS: Registry[Callable[[Sequence[str]], Sequence[str]]] = Registry("list of classes")
"""Lists by name; each is a function of all class names, sorted, that returns those it takes."""

_METZEN = {
    "n02137549": "mongoose",
    "n00017222": "plant, flora, plant life",
    "n04612504": "yawl",
    "n02114367": "timber wolf",
    "n02074367": "dugong",
    "n03481172": "hammer",
    "n04356056": "sunglasses",
    "n04505470": "typewriter keyboard",
    "n04486054": "triumphal arch",
    "n07734744": "mushroom",
}


@CLASS_LISTS.register("imagenet-201", classes=201)
def imagenet_201(names: Sequence[str]) -> Sequence[str]:
    """The first 201 of ImageNet's 1000 classes in the order of their synsets.

    Raises:
        ValueError: there are not 1000 classes to begin with.
    """
    if len(names) != 1000:
        raise ValueError(
            f"the classes imagenet-201 are the first of 1000, got a data set of {len(names)}; name "
            "a folder with all of ImageNet's classes, or a list of your own"
        )
    return names[:201]


@CLASS_LISTS.register("imagenet-metzen10", classes=10)
def imagenet_metzen10(names: Sequence[str]) -> Sequence[str]:
    """Ten classes of ImageNet (Metzen et al. 2017, https://arxiv.org/abs/1702.04267, section 4).

    One of them, n00017222 (plant, flora, plant life), is not among the 1000 of ILSVRC-2012: its
    folder has to be added.
    """
    return tuple(_METZEN)


def choose(classes: Choice, known: Sequence[str], where: str) -> tuple[int, ...]:
    """Return the positions in `known` of the classes that are asked for, in the order of the list.

    Args:
        classes: names; or the name of a registered list, or the path of a text file with one name
            per line.
        known: what the classes of the data set are called.
        where: what the data set is called, for messages.

    Raises:
        ValueError: a name is unknown or comes twice, or there are fewer than two.
    """
    names = _names(classes, known)
    position = {name: i for i, name in enumerate(known)}
    unknown = [n for n in names if n not in position]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {_few(known)}"
        raise ValueError(
            f"`classes` must be classes of {where}, got {len(unknown)} others: {_few(unknown)}; "
            f"{hint}"
        )
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or len(names) < 2:
        raise ValueError(
            "`classes` must be two or more different names, got "
            + (f"{_few(twice)} more than once" if twice else _few(names) or "none")
        )
    return tuple(position[n] for n in names)


def names_of(data: Dataset) -> tuple[str, ...]:
    """Return what the classes of a set are called; where it does not say so, their numbers."""
    return data.class_names or tuple(str(i) for i in range(data.classes))


def of_classes(data: Dataset, classes: Choice) -> Dataset:
    """Return the images of some classes, the labels numbered anew in the order of the list.

    Raises:
        ValueError: the classes are no choice among those of the set, or one has no images.
    """
    known = names_of(data)
    chosen = choose(classes, known, data.name)
    number = torch.full((data.classes,), -1, dtype=torch.int64)
    number[list(chosen)] = torch.arange(len(chosen))
    labels = number[data.labels]
    counts = torch.bincount(labels[labels >= 0], minlength=len(chosen))
    empty = [known[c] for c, n in zip(chosen, counts.tolist(), strict=True) if not n]
    if empty:
        raise ValueError(
            f"`classes` must have images, got none of {_few(empty)} in the {data.split} part of "
            f"{data.name}; leave them out"
        )
    taken = data.take(labels >= 0)
    kept = labels[labels >= 0]
    names = tuple(known[c] for c in chosen)
    return replace(taken, labels=kept, classes=len(chosen), class_names=names)


def _names(classes: Choice, known: Sequence[str]) -> list[str]:
    if not isinstance(classes, str | Path):
        return [str(n) for n in classes]
    if classes in CLASS_LISTS:
        return list(CLASS_LISTS[str(classes)].obj(known))
    try:
        lines = Path(classes).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError):  # no such file, or no name of one, or no text
        lists = ", ".join(e.name for e in CLASS_LISTS)
        raise ValueError(
            f"`classes` must be names, a list ({lists}) or a text file with one name per line, got "
            f"{str(classes)!r}"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _few(names: Sequence[str]) -> str:
    """The first names and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
