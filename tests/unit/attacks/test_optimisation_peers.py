"""Carlini and Wagner, JSMA and ZOO against their peers: same model, same budget."""

import time

import pytest
import torch
from torch import Tensor

from redoubtable.attacks import carlini_wagner, jsma, zoo
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L2
from tests.unit.test_peers import WHY, Trained, standing, trained  # noqa: F401 - a fixture

pytestmark = pytest.mark.peer
FREE = L2(torch.inf)


def median(net: torch.nn.Module, x: Tensor, found: Tensor, y: Tensor) -> float:
    """The median length of a change, infinite where it failed."""
    with torch.no_grad():
        stands = net(found).argmax(1) == y
    return FREE.distance(x, found).masked_fill(stands, torch.inf).median().item()


@pytest.mark.parametrize(("const", "steps"), [(1.0, 50), (1.0, 100), (0.1, 100)])
def test_carlini_wagner_goes_no_further_than_torchattacks(
    trained: Trained,  # noqa: F811
    const: float,
    steps: int,
) -> None:
    peers = pytest.importorskip("torchattacks", reason=WHY)
    net, x, y = trained[0], trained[1][:200], trained[2][:200]
    theirs = peers.CW(net, c=const, kappa=0, steps=steps, lr=0.01)(x, y)
    ours = carlini_wagner(net, x, y, FREE, const=const, steps=steps)
    assert standing(net, ours, y) <= standing(net, theirs, y) + 0.005
    assert median(net, x, ours, y) <= 1.05 * median(net, x, theirs, y)


def test_carlini_wagner_goes_no_further_than_foolbox(trained: Trained) -> None:  # noqa: F811
    peers = pytest.importorskip("foolbox", reason=WHY)
    net, x, y = trained[0], trained[1][:100], trained[2][:100]
    wrapped = peers.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = peers.attacks.L2CarliniWagnerAttack(
        binary_search_steps=6, steps=100, stepsize=0.01, initial_const=0.01
    )
    _, theirs, _ = attack(wrapped, x, y, epsilons=None)
    ours = carlini_wagner(net, x, y, FREE, const=0.01, search_steps=6, steps=100)
    assert standing(net, ours, y) <= standing(net, theirs, y) + 0.005
    assert median(net, x, ours, y) <= 1.05 * median(net, x, theirs, y)


def test_jsma_leaves_as_few_as_torchattacks(trained: Trained) -> None:  # noqa: F811
    """Theirs aims at the next class, and takes one pair more where the share is no whole number."""
    peers = pytest.importorskip("torchattacks", reason=WHY)
    net, x, y = trained[0], trained[1][:100], trained[2][:100]
    theirs = peers.JSMA(net, theta=1.0, gamma=0.1)(x, y)
    ours = jsma(net, x, y, L0(torch.inf), targets=(y + 1) % 10, gamma=20 / 196)
    assert 0.02 < standing(net, theirs, y) < 0.95
    assert standing(net, ours, y) <= standing(net, theirs, y) + 0.02


def test_zoo_succeeds_as_often_as_art_in_a_fifth_of_its_time(trained: Trained) -> None:  # noqa: F811
    estimators = pytest.importorskip("art.estimators.classification", reason=WHY)
    attacks = pytest.importorskip("art.attacks.evasion", reason=WHY)
    net, x, y = trained[0], trained[1][:20], trained[2][:20]
    wrapped = estimators.PyTorchClassifier(
        net, torch.nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1)
    )
    attack = attacks.ZooAttack(
        wrapped, max_iter=60, nb_parallel=64, binary_search_steps=1, initial_const=10.0,
        learning_rate=0.05, use_resize=False, use_importance=False, variable_h=1e-3, verbose=False,
    )  # fmt: skip
    start = time.process_time()
    theirs = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
    middle = time.process_time()
    with seeded("zoo"):
        ours = zoo(net, x, y, FREE, steps=60, draws=64, const=10.0, step_size=0.05)
    end = time.process_time()
    assert standing(net, theirs, y) > 0.02 or standing(net, ours, y) == 0
    assert standing(net, ours, y) <= standing(net, theirs, y) + 0.02
    assert middle - start >= 5 * (end - middle)
