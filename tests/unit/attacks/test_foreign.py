"""Attacks of other libraries are called as they are, and leave nothing behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import foreign
from redoubtable.threat import Linf
from tests.contract.test_attack_traces import assert_same_state, state_of, with_history
from tests.networks import blobs, small_net
from tests.unit.test_oracle import answers, oracle

WHY = "peers are compared where they are installed: pip install -e '.[peers]'"
BALL = Linf(0.1)


class Stub:
    """What torchattacks' objects do to a model, without torchattacks."""

    def __init__(self, model: nn.Module, fails: bool = False) -> None:
        self.model, self.fails, self.mode = model, fails, "default"
        self._attacks: dict[str, Any] = {}

    def set_model(self, model: nn.Module) -> None:
        self.model = model

    def set_mode_targeted_by_label(self, quiet: bool) -> None:
        self.mode = "targeted"

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        x.requires_grad_()
        self.model.train()
        out = self.model(x)
        out.gather(1, labels[:, None]).sum().backward()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        if self.fails:
            raise RuntimeError("it broke")
        assert x.grad is not None
        sign = 1 if self.mode == "targeted" else -1
        return (x + sign * 0.1 * x.grad.sign()).clamp(0, 1)


Stub.__module__ = "torchattacks.attacks.stub"


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_as_before_also_after_an_error(fails: bool) -> None:
    model, x = with_history(), blobs(4)
    made_with = small_net()
    attack = Stub(made_with, fails)
    # Batch norms without running values: the stub trains the model, whose buffers are its own.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    before, kept = state_of(model), x.clone()
    try:
        foreign(attack)(model, x, torch.zeros(4, dtype=torch.long), BALL)
    except RuntimeError as error:
        assert fails and "it broke" in str(error)
    after = state_of(model)
    for state in (before["values"], after["values"]):
        for name in [n for n in state if "num_batches" in n]:
            del state[name]
    assert_same_state(before, after)
    assert torch.equal(x, kept)
    assert attack.model is made_with
    assert attack.mode == "default"


@pytest.mark.parametrize("targeted", [False, True])
def test_the_given_model_is_attacked_not_the_one_it_was_made_with(targeted: bool) -> None:
    model, (x, y, _) = oracle(Linf)
    wrong = oracle(Linf, seed=5)[0]
    targets = 1 - y if targeted else None
    found = foreign(Stub(wrong))(model, x, y, BALL, targets=targets)
    assert torch.equal(answers(model, found), 1 - y)
    assert not found.requires_grad


def test_a_result_outside_of_the_threat_is_not_hidden() -> None:
    model, (x, y, _) = oracle(Linf)
    found = foreign(Stub(model))(model, x, y, Linf(0.01))
    assert not Linf(0.01).contains(found, x).any()


def test_what_is_of_no_known_library_is_refused() -> None:
    with pytest.raises(TypeError, match="torchattacks, foolbox, art"):
        foreign(object())


class Estimator:
    """ART's wrapper of a network."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


class Art:
    """An attack as ART has them: arrays in, arrays out, its own network."""

    def __init__(self, model: nn.Module, targeted: bool) -> None:
        self.estimator, self.targeted = Estimator(model), targeted

    def generate(self, x: Any, y: Any) -> Any:
        found = Stub(self.estimator.model)
        found.mode = "targeted" if self.targeted else "default"
        return found(torch.from_numpy(x), torch.from_numpy(y)).detach().numpy()


Art.__module__ = "art.attacks.stub"


@pytest.mark.parametrize("targeted", [False, True])
def test_arrays_become_tensors_and_targets_must_agree(targeted: bool) -> None:
    model, (x, y, _) = oracle(Linf)
    targets = 1 - y if targeted else None
    found = foreign(Art(model, targeted))(model, x, y, BALL, targets=targets)
    assert torch.equal(answers(model, found), 1 - y)
    assert model.weight.requires_grad
    with pytest.raises(ValueError, match="disagree"):
        foreign(Art(model, not targeted))(model, x, y, BALL, targets=targets)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["PGD", "FGSM", "CW", "AutoAttack"])
def test_torchattacks_as_they_are(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    peers = pytest.importorskip("torchattacks", reason=WHY)
    model, x = small_net(), blobs(8)
    y = answers(model, x)
    small = {} if name == "CW" else {"eps": 0.1}
    extra = {"n_classes": 4, "version": "standard"} if name == "AutoAttack" else {}
    attack = getattr(peers, name)(small_net(seed=1), **small, **extra)
    before = state_of(model)
    found = foreign(attack)(model, x, y, BALL)
    assert_same_state(before, state_of(model))
    assert (answers(model, found) != y).sum() >= 4


@pytest.mark.peer
@pytest.mark.parametrize("targeted", [False, True])
def test_foolbox_is_told_each_radius(targeted: bool) -> None:
    peers = pytest.importorskip("foolbox", reason=WHY)
    model, (x, y, distance) = oracle(Linf)
    model, x, distance = model.float(), x.float(), distance.float()
    model.train()
    before = state_of(model)
    attack = foreign(peers.attacks.LinfPGD(rel_stepsize=0.25, steps=20))
    targets = 1 - y if targeted else None
    near = attack(model, x, y, Linf(0.95 * distance), targets=targets)
    far = attack(model, x, y, Linf(1.05 * distance), targets=targets)
    assert_same_state(before, state_of(model))
    assert torch.equal(answers(model, near), y)
    assert torch.equal(answers(model, far), 1 - y)
