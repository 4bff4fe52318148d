"""Fixtures of the evaluator's tests: more images, and attacks of one test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS
from redoubtable.threat import L0, L1, L2, Linf
from tests.networks import blobs
from tests.unit.evaluation.parts import Register


@pytest.fixture
def register() -> Iterator[Register]:
    """Register attacks for one test."""
    names: list[str] = []

    def enter(name: str, **stated: Any) -> Callable[[Any], Any]:
        names.append(name)
        stated = {"threats": (Linf, L2, L1, L0), "access": "gradient"} | stated
        return ATTACKS.register(name, **stated)

    yield enter
    for name in names:
        ATTACKS._entries.pop(name, None)


@pytest.fixture
def x() -> Tensor:
    return blobs(30)


@pytest.fixture
def y(net: nn.Module, x: Tensor) -> Tensor:
    """What the network answers, a tenth of it turned wrong."""
    with torch.no_grad():
        labels = net(x).argmax(1)
    labels[::10] = (labels[::10] + 1) % 4
    return labels
