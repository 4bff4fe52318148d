"""Fixtures that all tests share."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from tests.networks import RandomScale, blobs, small_net

# Small networks gain nothing from a second thread, and the tests run in one process per core.
torch.set_num_threads(1)

# The same examples on every run: a failure must be there again when it is looked for.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random state, whichever tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real image sets where there are none."""
    folder = os.environ.get("REDOUBT_DATA")
    if folder and Path(folder).is_dir():
        return
    reason = "REDOUBT_DATA names no folder with the real image sets"
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def data_folder() -> Path:
    """The folder of the real image sets; for tests marked `data`."""
    return Path(os.environ["REDOUBT_DATA"])


@pytest.fixture
def net() -> nn.Module:
    """A small random network with batch norm in eval mode, 3 channels, 4 classes."""
    return small_net()


@pytest.fixture
def x() -> torch.Tensor:
    """Eight 3x8x8 images; some values are exactly 0 and 1."""
    return blobs(8)


@pytest.fixture
def y(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What `net` answers to `x`."""
    with torch.no_grad():
        return net(x).argmax(1)


@pytest.fixture
def random_model(net: nn.Module) -> nn.Module:
    """A random model that says so, with the network's logits as its mean."""
    return RandomScale(net)
