"""Formulas and strategies that the tests of threats share."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from tests.networks import blobs

KINDS = [Linf, L2, L1, L0, L0Values]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
SHAPE = (2, 3, 4)


def size_of(kind: type[ThreatModel], delta: Tensor) -> np.ndarray:
    """The norm, by a formula of our own."""
    d = delta.double().numpy()
    flat = d.reshape(len(d), -1)
    if kind is Linf:
        return np.abs(flat).max(1)
    if kind is L2:
        return np.sqrt((flat**2).sum(1))
    if kind is L1:
        return np.abs(flat).sum(1)
    if kind is L0Values:
        return (flat != 0).sum(1)
    return np.abs(d).max(1).reshape(len(d), -1).astype(bool).sum(1)


def images(seed: int, n: int = 4, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return blobs(n, *shape, seed=seed)


def anything(seed: int, n: int = 4, shape: tuple[int, ...] = SHAPE, scale: float = 1.0) -> Tensor:
    """Values that leave the box."""
    g = torch.Generator().manual_seed(seed)
    return 0.5 + scale * torch.randn(n, *shape, generator=g)


def radius(kind: type[ThreatModel], share: float) -> float:
    """A radius that is this share of the largest distance, whole for pixels."""
    eps = share * kind(0.0).diameter(images(0))
    return float(round(eps)) if kind.whole else eps


seeds = st.integers(0, 10_000)
