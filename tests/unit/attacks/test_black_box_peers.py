"""Square attack, the one-pixel attack and HopSkipJump against their peers, query for query."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import hop_skip_jump, one_pixel, square
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L2, Linf, ThreatModel
from tests.unit.test_peers import WHY, Trained, standing, trained  # noqa: F401 - a fixture

pytestmark = pytest.mark.peer
N = 200
QUERIES = 400


def mean(net: nn.Module, attack: Callable[[], Tensor], y: Tensor, seeds: int = 2) -> float:
    total = 0.0
    for seed in range(seeds):
        with seeded("peer", seed):
            total += standing(net, attack(), y) / seeds
    return total


@pytest.mark.parametrize("threat", [Linf(0.06), L2(0.5)], ids=str)
def test_square_leaves_no_more_accuracy_than_torchattacks(
    trained: Trained,  # noqa: F811
    threat: ThreatModel,
) -> None:
    peers = pytest.importorskip("torchattacks", reason=WHY)
    net, x, y = trained
    # Theirs takes no height of 14 under L2, since five tiles do not fit.
    x, y = nn.functional.pad(x[:N], (0, 1, 0, 1), "replicate").contiguous(), y[:N]
    eps = float(threat.eps)
    peer = peers.Square(net, norm=threat.name, eps=eps, n_queries=QUERIES)
    theirs = mean(net, lambda: peer(x, y), y)
    ours = mean(net, lambda: square(net, x, y, threat, queries=QUERIES), y)
    assert 0.05 < theirs < 0.95, "the comparison says nothing at this eps"
    assert ours <= theirs + 0.005


def test_one_pixel_succeeds_as_often_as_torchattacks(trained: Trained) -> None:  # noqa: F811
    """The paper's population and as many generations.

    Theirs follows its best candidate, which pays with small populations.
    """
    peers = pytest.importorskip("torchattacks", reason=WHY)
    net, x, y = trained
    x, y = x[:40], y[:40]
    peer = peers.OnePixel(net, pixels=3, steps=10, popsize=400)
    theirs = mean(net, lambda: peer(x, y), y, seeds=1)
    ours = mean(net, lambda: one_pixel(net, x, y, L0(3), steps=10, population=400), y)
    assert 0.05 < theirs < 0.98, "the comparison says nothing at this number of pixels"
    assert ours <= theirs + 0.02


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


@pytest.mark.parametrize("kind", [L2, Linf], ids=lambda k: k.name)
def test_hop_skip_jump_comes_as_near_as_that_of_foolbox(trained: Trained, kind: Any) -> None:  # noqa: F811
    """Their number of queries, ours for ours; theirs is given images of other classes to start."""
    peers = pytest.importorskip("foolbox", reason=WHY)
    net, x, y = trained
    x, y = x[:40], y[:40]
    other = torch.stack([x[(y != label).nonzero()[0, 0]] for label in y])
    counter = Counting(net).eval()
    peer = peers.attacks.HopSkipJumpAttack(steps=8, constraint=kind.name.lower())
    wrapped = peers.PyTorchModel(counter, bounds=(0, 1), device="cpu")
    with seeded("hop"):
        _, theirs, _ = peer(wrapped, x, y, epsilons=None, starting_points=other)
        queries = counter.images // len(x)
        ours = hop_skip_jump(net, x, y, kind(torch.inf), queries=queries)
    assert standing(net, ours, y) == 0
    assert kind(1.0).distance(x, ours).median() <= 1.05 * kind(1.0).distance(x, theirs).median()
