"""Clean accuracies: table 1 and figure 2."""

from collections.abc import Iterator

from torch import nn

from redoubtable.masks import Granularity
from redoubtable.papers.dropping_pixels.scale import (
    NATURAL,
    PIXELS,
    RATE,
    UNIFORM,
    Dropping,
    masked,
)
from redoubtable.papers.frame import Row
from redoubtable.papers.lab import Lab


def table_1(lab: Lab[Dropping]) -> Iterator[Row]:
    """Clean accuracy of networks trained in several ways, at the drop rate of the paper."""
    at, grey = f"r = {RATE:g}", lab.images("test", 1).shape[0] == 1
    for name in lab.scale.networks:
        yield clean(lab, f"{name}, original", lab.network(NATURAL, name))
        grains: tuple[Granularity, ...] = ("element", "pixel")
        for grain in grains[:1] if grey else grains:  # of grey images they are the same
            tail = "" if grain == "element" else ", masks per pixel"
            fixed = lab.network(f"subsampled:rate={RATE:g},granularity={grain}", name)
            uniform = lab.network(UNIFORM if grain == "element" else PIXELS, name)
            yield clean(lab, f"{name}, {at}{tail}", masked(fixed, RATE, grain))
            yield clean(lab, f"{name}, r ~ U[0, 1]{tail}", masked(uniform, RATE, grain))


def figure_2(lab: Lab[Dropping]) -> Iterator[Row]:
    """Clean accuracy against the drop rate, a network for each."""
    for rate in lab.scale.train_rates:
        recipe = f"subsampled:rate={rate:g},granularity=element" if rate else NATURAL
        yield clean(lab, lab.scale.networks[0], masked(lab.network(recipe), rate), at=rate)


def clean(lab: Lab[Dropping], series: str, model: nn.Module, at: float | None = None) -> Row:
    """The accuracy of a network on clean test images."""
    return Row(series, "accuracy", "clean", lab.accuracy(model), at)
