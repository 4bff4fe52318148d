"""What the networks look at, and their first filters: figures 3 and 4."""

from collections.abc import Iterator

from redoubtable.explanations import (
    centre_shares,
    even_share,
    first_layer_filters,
    mass_share,
    subsampled_maps,
)
from redoubtable.papers.dropping_pixels.accuracies import clean
from redoubtable.papers.dropping_pixels.scale import (
    NATURAL,
    RATE,
    UNIFORM,
    VARIANTS,
    Dropping,
    masked,
)
from redoubtable.papers.frame import Row
from redoubtable.papers.lab import Lab
from redoubtable.statistics import mean_share

SHOWN = 4
"""Images of the picture."""


def figure_3(lab: Lab[Dropping]) -> Iterator[Row]:
    """Which share of the maps of subsampled images lies on kept values.

    The networks that map something to uniform (section 3.3) have their accuracies beside it.
    """
    networks = {UNIFORM: "r ~ U[0, 1]", **VARIANTS}
    x, y = lab.tensors("test", lab.scale.maps)
    for recipe, name in networks.items():
        network = lab.network(recipe)
        found = mass_share(network, x, RATE, seed=lab.seed)
        maps = subsampled_maps(network, x[:SHOWN].to(lab.device), RATE, seed=lab.seed)
        lab.picture(f"maps of {name}", {**maps.arrays(), "y": y[:SHOWN].numpy()})
        note = f"kept are {found.kept:.1%} of the values"
        yield Row(name, "mass on kept values", "none", found.mass, note=note)
        if recipe in VARIANTS:
            largest = lab.scale.networks[-1]  # the paper's numbers are of its deepest network
            model = masked(lab.network(recipe, largest), RATE)
            yield clean(lab, f"{largest}, {name}", model)


def figure_4(lab: Lab[Dropping]) -> Iterator[Row]:
    """Which share of the first filters' squares lies at their centre; intervals are of filters."""
    fixed = f"subsampled:rate={RATE:g},granularity=element"
    networks = {NATURAL: "original", fixed: f"r = {RATE:g}", UNIFORM: "r ~ U[0, 1]"}
    for recipe, name in networks.items():
        filters = first_layer_filters(lab.network(recipe))
        lab.picture(f"filters of {name}", {"filters": filters.numpy()})
        shares = centre_shares(filters).numpy()
        note = f"{even_share(filters):.3f} where all weights are equal"
        yield Row(name, "centre of the filters", "none", mean_share(shares), note=note)
