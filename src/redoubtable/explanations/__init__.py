"""Explanations: what a network looks at, as arrays to be drawn and numbers to be compared."""

from redoubtable.explanations.filters import (
    centre_shares,
    concentration,
    even_share,
    first_layer_filters,
    peak_shares,
)
from redoubtable.explanations.subsampled import (
    MassShare,
    SubsampledMaps,
    mass_share,
    subsampled_maps,
)

__all__ = [
    "MassShare",
    "SubsampledMaps",
    "centre_shares",
    "concentration",
    "even_share",
    "first_layer_filters",
    "mass_share",
    "peak_shares",
    "subsampled_maps",
]
