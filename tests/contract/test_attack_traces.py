"""No attack leaves a trace, and each keeps its memory bound; a new one is tested unasked."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.gradients import fast_copy
from redoubtable.registry import Entry, settable
from redoubtable.threat import ThreatModel
from tests.contract.attacks_parts import CASES, EPS, every_attack, every_case, run
from tests.networks import RandomScale, blobs, small_net


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that an attack might leave a trace in."""
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_state_dict_hooks",
    )
    return {
        "values": {k: v.clone() for k, v in model.state_dict().items()},
        "modules": {n: id(m) for n, m in model.named_modules()},
        "training": {n: m.training for n, m in model.named_modules()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "grad": {
            n: p.grad if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
        "hooks": {n: [len(getattr(m, h)) for h in hooks] for n, m in model.named_modules()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
    }


def assert_same_state(before: Any, after: Any) -> None:
    assert type(before) is type(after)
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same_state(before[key], after[key])
    elif isinstance(before, Tensor):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
    else:
        assert before == after


def with_history() -> nn.Module:
    """A network whose flags, gradients and hooks are a mixture, so that a reset of them shows."""
    model = nn.Sequential(nn.Identity(), small_net(), nn.Identity())
    model.eval()
    model[2].training = True
    parameters = dict(model.named_parameters())
    parameters["1.conv1.weight"].requires_grad_(False)
    parameters["1.linear.bias"].grad = torch.full_like(parameters["1.linear.bias"], 3.0)
    model[1].linear.register_forward_hook(lambda *_: None)
    return model


# -- no trace ------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("targeted", [False, True])
def test_nothing_is_touched(
    entry: Entry[Any],
    threat: ThreatModel,
    targeted: bool,
    x: Tensor,
    y: Tensor,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = with_history()
    eps = threat.radius(x).clone()
    ball = type(threat)(eps)
    targets = (y + 1) % 4 if targeted else None
    kept = [t.clone() for t in (x, y, eps, *([targets] if targets is not None else []))]
    before = state_of(model)
    run(entry, model, x, y, ball, targets=targets)
    assert_same_state(before, state_of(model))
    now = (x, y, eps, *([targets] if targets is not None else []))
    for old, new in zip(kept, now, strict=True):
        assert torch.equal(old, new)
    assert x.grad is None
    assert not x.requires_grad
    assert torch.is_grad_enabled()
    assert capfd.readouterr() == ("", "")


class Failing(nn.Module):
    """Raises on one of its passes."""

    def __init__(self, on: int) -> None:
        super().__init__()
        self.on = on
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        object.__setattr__(self, "passes", self.passes + 1)
        if self.passes == self.on:
            raise RuntimeError("the model broke")
        return x


@every_case
@pytest.mark.parametrize("on", [1, 2, 4])
def test_nothing_is_touched_when_the_model_raises(
    entry: Entry[Any], threat: ThreatModel, on: int, x: Tensor, y: Tensor
) -> None:
    model = nn.Sequential(with_history(), Failing(on))
    model[1].eval()
    before, kept = state_of(model), x.clone()
    try:
        run(entry, model, x, y, threat)
    except RuntimeError as error:
        assert "the model broke" in str(error)  # not swallowed, not replaced
    else:
        assert model[1].passes < on, "the model's error was swallowed"
    assert_same_state(before, state_of(model))
    assert torch.equal(kept, x)
    assert x.grad is None
    assert torch.is_grad_enabled()


@every_attack
def test_images_that_carry_a_graph_get_none_in_return(
    entry: Entry[Any], net: nn.Module, x: Tensor, y: Tensor
) -> None:
    kind = entry.facts["threats"][0]
    threat, tracked = kind(EPS[kind]), x.clone().requires_grad_()
    x_adv = run(entry, net, tracked, y, threat)
    assert tracked.grad is None
    assert not x_adv.requires_grad


@every_case
def test_attacks_work_where_gradients_are_switched_off(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    expected = run(entry, net, x, y, threat)
    with torch.no_grad():
        got = run(entry, net, x, y, threat)
        assert not torch.is_grad_enabled()
    assert torch.equal(got, expected)


# -- the memory bound ----------------------------------------------------------------------------


class Meter(nn.Module):
    """Remembers the largest batch that came through."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.model(x)


BOUNDED = [case for case in CASES if "batch_size" in settable(case.values[0].obj)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("entry", "threat"), BOUNDED)
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda m: m, id="plain"),
        pytest.param(RandomScale, id="random"),
        pytest.param(lambda m: fast_copy(m, blobs(2)), id="fast copy"),
    ],
)
def test_no_pass_is_larger_than_the_batch_size(
    entry: Entry[Any],
    threat: ThreatModel,
    wrap: Callable[[nn.Module], nn.Module],
    x: Tensor,
    y: Tensor,
) -> None:
    meter = Meter(small_net())
    model = wrap(meter)
    meter.seen.clear()
    extra = {"eot": 2} if "eot" in settable(entry.obj) else {}
    meters = [meter, *(m for m in model.modules() if isinstance(m, Meter))]
    # An easy task, so that many images succeed at once and have to be confirmed.
    run(entry, model, x, (y + 1) % 4, threat, batch_size=3, **extra)
    assert max(n for m in meters for n in m.seen) <= 3
