"""PGD against that of torchattacks and foolbox: same model, same budget, same robust accuracy.

Half a point of 500 images may be lost to chance; a peer that leaves less accuracy than that is the
stronger attack.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import pgd
from redoubtable.data import load
from redoubtable.gradients import fast_copy
from redoubtable.models import create
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf, ThreatModel

pytestmark = pytest.mark.peer
WHY = "peers are compared where they are installed: pip install -e '.[peers]'"
STEPS = 40


Trained = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A small network trained on the digits at half their size, and 500 test images."""
    images, labels = load("digits", "train")
    images = nn.functional.avg_pool2d(images, 2)
    with seeded("peers"):
        net = create("small_cnn", width=16)
        optimiser = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(10):
            for part in torch.randperm(len(images)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
                optimiser.step()
    x, y = load("digits", "test", limit=500)
    x = nn.functional.avg_pool2d(x, 2)
    net.eval()
    assert len(x) == 500
    assert standing(net, x, y) > 0.97
    return net, x, y


def torchattacks_pgd(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    peers = pytest.importorskip("torchattacks", reason=WHY)
    eps = float(threat.eps)
    kind = peers.PGD if isinstance(threat, Linf) else peers.PGDL2
    found: Tensor = kind(model, eps=eps, alpha=2.5 * eps / STEPS, steps=STEPS)(x, y)
    return found


def foolbox_pgd(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    peers = pytest.importorskip("foolbox", reason=WHY)
    kind = peers.attacks.LinfPGD if isinstance(threat, Linf) else peers.attacks.L2PGD
    eps = float(threat.eps)
    wrapped = peers.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = kind(abs_stepsize=2.5 * eps / STEPS, steps=STEPS, random_start=True)
    _, found, _ = attack(wrapped, x, y, epsilons=eps)
    images: Tensor = found
    return images


def standing(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


PEERS: dict[str, Callable[..., Tensor]] = {
    "torchattacks": torchattacks_pgd,
    "foolbox": foolbox_pgd,
}
THREATS = [Linf(0.03), Linf(0.04), L2(0.3), L2(0.4)]
"""Radii at which about two thirds and about a quarter of the images stand."""
SEEDS = 2


def mean(model: nn.Module, attack: Callable[[], Tensor], x: Tensor, y: Tensor) -> float:
    """Robust accuracy, averaged over random starts."""
    total = 0.0
    for seed in range(SEEDS):
        with seeded("start", seed):
            total += standing(model, attack().detach(), y)
    return total / SEEDS


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("peer", list(PEERS))
def test_pgd_leaves_no_more_accuracy_than_a_peer(
    trained: Trained, peer: str, threat: ThreatModel
) -> None:
    net, x, y = trained
    with seeded("legal"):
        example = PEERS[peer](net, x[:50], y[:50], threat).detach()
    assert threat.contains(example, x[:50]).all(), "the peer has another budget"
    theirs = mean(net, lambda: PEERS[peer](net, x, y, threat), x, y)
    ours = mean(net, lambda: pgd(net, x, y, threat, steps=STEPS), x, y)
    assert 0.05 < theirs < 0.95, "the comparison says nothing at this eps"
    assert ours <= theirs + 0.005
    assert ours >= theirs - 0.03, "far stronger at one budget: is it the same budget?"


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pgd_on_a_fast_copy_leaves_no_more_than_on_the_model(
    trained: Trained, precision: Any, threat: ThreatModel
) -> None:
    net, x, y = trained
    quick = fast_copy(net, x, precision)
    copied = mean(net, lambda: pgd(quick, x, y, threat, steps=STEPS), x, y)
    exact = mean(net, lambda: pgd(net, x, y, threat, steps=STEPS), x, y)
    assert copied <= exact + {"fp32": 0.005, "bf16": 0.03}[precision]
