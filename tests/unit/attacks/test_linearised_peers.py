"""APGD, FAB and DeepFool against those of torchattacks and foolbox, on a small trained network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import apgd, apgd_targeted, deepfool, fab, fab_targeted
from redoubtable.losses import Loss, cross_entropy, dlr
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf, ThreatModel
from tests.unit.test_peers import WHY, Trained, standing, trained  # noqa: F401 - a fixture

pytestmark = pytest.mark.peer
N, SEEDS = 200, 3
THREATS = [Linf(0.035), L2(0.35)]


def theirs(
    name: str, net: nn.Module, x: Tensor, y: Tensor, ball: ThreatModel, **more: object
) -> Tensor:
    peers = pytest.importorskip("torchattacks", reason=WHY)
    eps = float(ball.eps)
    with torch.no_grad():
        found: Tensor = getattr(peers, name)(net, norm=ball.name, eps=eps, n_restarts=1, **more)(
            x, y
        )
    return found


def compare(net: nn.Module, x: Tensor, y: Tensor, ours: Tensor, peer: Tensor) -> None:
    left, right = standing(net, ours, y), standing(net, peer, y)
    assert 0.05 < right < 0.95, "the comparison says nothing at this eps"
    assert left <= right + 0.005
    assert left >= right - 0.05, "far stronger at one budget: is it the same budget?"


@pytest.mark.parametrize("ball", THREATS, ids=str)
@pytest.mark.parametrize(("loss", "name"), [(cross_entropy, "ce"), (dlr, "dlr")])
def test_apgd(trained: Trained, ball: ThreatModel, loss: Loss, name: str) -> None:  # noqa: F811
    """A start at random moves a robust accuracy by a point: the mean of several is compared."""
    net, x, y = trained
    ours, peer = 0.0, 0.0
    for seed in range(SEEDS):
        with seeded("start", seed):
            ours += standing(net, apgd(net, x, y, ball, steps=50, loss=loss), y) / SEEDS
        found = theirs("APGD", net, x, y, ball, steps=50, loss=name, seed=seed)
        peer += standing(net, found, y) / SEEDS
    assert 0.05 < peer < 0.95, "the comparison says nothing at this eps"
    assert peer - 0.05 <= ours <= peer + 0.005


@pytest.mark.parametrize("ball", THREATS, ids=str)
def test_apgd_targeted(trained: Trained, ball: ThreatModel) -> None:  # noqa: F811
    net, x, y = trained[0], trained[1][:N], trained[2][:N]
    with seeded("ours"):
        ours = apgd_targeted(net, x, y, ball, steps=20)
    compare(net, x, y, ours, theirs("APGDT", net, x, y, ball, steps=20))


@pytest.mark.parametrize("ball", THREATS, ids=str)
@pytest.mark.parametrize("targeted", [False, True])
def test_fab(trained: Trained, ball: ThreatModel, targeted: bool) -> None:  # noqa: F811
    net, x, y = trained[0], trained[1][:N], trained[2][:N]
    ours = (fab_targeted if targeted else fab)(net, x, y, ball, steps=20)
    compare(net, x, y, ours, theirs("FAB", net, x, y, ball, steps=20, multi_targeted=targeted))


def median(net: nn.Module, x: Tensor, y: Tensor, kind: type[ThreatModel], found: Tensor) -> float:
    """The median change, infinite where it does not fool the network."""
    with torch.no_grad():
        right, fooled = net(x).argmax(1) == y, net(found).argmax(1) != y
    size = kind(0.0).distance(x, found).masked_fill(~fooled, torch.inf)
    return size[right].median().item()


def foolbox_deepfool(net: nn.Module, x: Tensor, y: Tensor, kind: type[ThreatModel]) -> Tensor:
    peers = pytest.importorskip("foolbox", reason=WHY)
    attack = {L2: peers.attacks.L2DeepFoolAttack, Linf: peers.attacks.LinfDeepFoolAttack}[kind]
    wrapped = peers.PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, found, _ = attack(steps=50, candidates=10, overshoot=0.02)(wrapped, x, y, epsilons=None)
    images: Tensor = found
    return images


def torchattacks_deepfool(net: nn.Module, x: Tensor, y: Tensor, kind: type[ThreatModel]) -> Tensor:
    if kind is not L2:
        pytest.skip("torchattacks has it under L2 only")
    peers = pytest.importorskip("torchattacks", reason=WHY)
    found: Tensor = peers.DeepFool(net, steps=50, overshoot=0.02)(x, y)
    return found


@pytest.mark.parametrize("kind", [Linf, L2], ids=lambda k: k.name)
@pytest.mark.parametrize("peer", [foolbox_deepfool, torchattacks_deepfool])
def test_deepfool_finds_changes_no_larger(
    trained: Trained,  # noqa: F811
    kind: type[ThreatModel],
    peer: Callable[..., Tensor],
) -> None:
    # One of the peers goes through the images one by one.
    net, x, y = trained[0], trained[1][:60], trained[2][:60]
    ours = median(net, x, y, kind, deepfool(net, x, y, kind(torch.inf)))
    other = median(net, x, y, kind, peer(net, x, y, kind).detach())
    assert torch.isfinite(torch.tensor([ours, other])).all()
    assert ours <= 1.05 * other
    if peer is foolbox_deepfool:  # the other one adds up the overshoot of its steps
        assert ours >= 0.9 * other
