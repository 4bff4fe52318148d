"""What every attack keeps, under every threat it states; a new one is tested without a change."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import ARGUMENTS, ATTACKS, check_threat
from redoubtable.defenses import Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.gradients import fast_copy
from redoubtable.registry import Entry, settable
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L1, L2, THREATS, Linf, ThreatModel
from tests.networks import RandomScale, blobs, small_net

ENTRIES = list(ATTACKS)
EPS = {Linf: 0.1, L2: 0.8, L1: 4.0, L0: 5.0}
CASES = [
    pytest.param(entry, kind(EPS[kind]), id=f"{entry.name}-{kind.name}")
    for entry in ENTRIES
    for kind in entry.facts["threats"]
]
every_attack = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
every_case = pytest.mark.parametrize(("entry", "threat"), CASES)


def run(
    entry: Entry[Any],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    **arguments: Any,
) -> Tensor:
    """Run an attack under a fixed random state, cheaply where it says how."""
    takes = settable(entry.obj)
    cheap = {"steps": 4, "queries": 30, "restarts": 2}
    given = {k: v for k, v in cheap.items() if k in takes} | arguments
    with seeded("contract", seed):
        return entry.obj(model, x, y, threat, **given)


def sizes(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> np.ndarray:
    """Distances by formulas of our own, in float64."""
    delta = x_adv.double().numpy() - x.double().numpy()
    flat = delta.reshape(len(delta), -1)
    return {
        "Linf": np.abs(flat).max(1),
        "L2": np.sqrt((flat**2).sum(1)),
        "L1": np.abs(flat).sum(1),
        "L0": (np.abs(delta).max(1) > 0).reshape(len(delta), -1).sum(1),
    }[threat.name]


def assert_legal(threat: ThreatModel, x: Tensor, x_adv: Any) -> None:
    assert isinstance(x_adv, Tensor)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert x_adv.device == x.device
    values = x_adv.detach().numpy()
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= 1
    eps = threat.radius(x).double().numpy()
    assert (sizes(threat, x, x_adv.detach()) <= eps * (1 + 2e-5) + 2e-5).all()
    assert threat.contains(x_adv, x).all()


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


# -- the form ------------------------------------------------------------------------------------


@every_attack
def test_arguments_are_the_agreed_ones_and_keyword_only(entry: Entry[Any]) -> None:
    parameters = list(inspect.signature(entry.obj).parameters.values())
    assert [p.name for p in parameters[:4]] == ["model", "x", "y", "threat"]
    rest = parameters[4:]
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)
    assert {p.name for p in rest} <= ARGUMENTS
    assert all(p.default is not p.empty for p in rest)
    assert {p.name: p.default for p in rest}["targets"] is None


@every_attack
def test_facts_and_summary_are_stated(entry: Entry[Any]) -> None:
    assert entry.summary.strip()
    assert entry.summary.rstrip().endswith(".")
    assert entry.facts["access"] in {"gradient", "score", "label", "transfer"}
    assert entry.facts["threats"]
    assert set(entry.facts["threats"]) <= set(THREATS.values())


@every_attack
def test_each_default_is_what_the_text_form_reads_back(entry: Entry[Any]) -> None:
    defaults = entry.obj.__kwdefaults__
    for name in settable(entry.obj):
        text = ATTACKS.text(entry.name, {name: defaults[name]})
        assert ATTACKS.bind(text).arguments[name] == defaults[name]


@every_attack
def test_an_unsupported_threat_is_refused_by_name(entry: Entry[Any]) -> None:
    class Strange(ThreatModel):
        name = "Strange"
        norm = clip = noise = ascent = diameter = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match=f"{entry.name}.*not under Strange"):
        check_threat(entry.name, Strange(0.1))
    for kind in THREATS.values():
        if kind in entry.facts["threats"]:
            check_threat(entry.name, kind(1))
        else:
            with pytest.raises(ValueError, match=f"not under {kind.name}"):
                check_threat(entry.name, kind(1))


# -- the result ----------------------------------------------------------------------------------


@every_case
def test_result_is_legal(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    x_adv = run(entry, net, x, y, threat)
    assert_legal(threat, x, x_adv)
    assert not x_adv.requires_grad
    assert bool((x_adv != x).flatten(1).any(1).all()), "the attack did nothing"


@every_case
def test_result_is_legal_with_the_published_defaults(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    with seeded("defaults"):
        x_adv = entry.obj(net, x[:3], y[:3], threat)
    assert_legal(threat, x[:3], x_adv)


@every_case
def test_same_seed_gives_the_same_images(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    first = run(entry, net, x, y, threat, seed=1)
    torch.rand(17)
    assert torch.equal(first, run(entry, net, x, y, threat, seed=1))


@every_case
def test_a_single_image(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    assert_legal(threat, x[:1], run(entry, net, x[:1], y[:1], threat))


@every_case
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 7, 5), (2, 1, 6)], ids=str)
def test_odd_sizes(entry: Entry[Any], threat: ThreatModel, shape: tuple[int, int, int]) -> None:
    net, x = small_net(channels=shape[0]), blobs(3, *shape)
    with torch.no_grad():
        y = net(x).argmax(1)
    assert_legal(threat, x, run(entry, net, x, y, threat))


@every_case
def test_float64(entry: Entry[Any], threat: ThreatModel, x: Tensor, y: Tensor) -> None:
    x_adv = run(entry, small_net().double(), x.double(), y, threat)
    assert_legal(threat, x.double(), x_adv)


@every_case
def test_one_radius_per_image(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    eps = (torch.tensor([0.0, 1.0, 0.4, 2.0, 0.0, 0.2, 1.6, 1.0]) * float(threat.eps)).round(
        decimals=2
    )
    eps = eps.ceil() if isinstance(threat, L0) else eps
    ball = type(threat)(eps)
    x_adv = run(entry, net, x, y, ball)
    assert_legal(ball, x, x_adv)
    moved = sizes(ball, x, x_adv)
    assert ((moved > 1e-4) == (eps.numpy() > 0)).all()
    assert moved[3] > eps[5].item(), "the large radius was not used"


@every_case
def test_radius_zero_returns_the_images(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    nothing = type(threat)(0.0)
    x_adv = run(entry, net, x, y, nothing)
    assert_legal(nothing, x, x_adv)
    assert torch.allclose(x_adv, x, atol=1e-5)


@every_case
def test_targeted(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    targets = (y + 1) % 4
    x_adv = run(entry, net, x, y, threat, targets=targets)
    assert_legal(threat, x, x_adv)
    with torch.no_grad():
        before = net(x).log_softmax(1).gather(1, targets[:, None])
        after = net(x_adv).log_softmax(1).gather(1, targets[:, None])
    assert after.mean() > before.mean(), "the targets became less likely"


@every_case
def test_untargeted_lowers_the_true_class(
    entry: Entry[Any], threat: ThreatModel, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    x_adv = run(entry, net, x, y, threat)
    with torch.no_grad():
        before = net(x).log_softmax(1).gather(1, y[:, None])
        after = net(x_adv).log_softmax(1).gather(1, y[:, None])
    assert after.mean() < before.mean()


def random_models() -> dict[str, nn.Module]:
    return {
        "scaled": RandomScale(small_net()),
        "subsampled": nn.Sequential(Subsample(rate=0.5), small_net()),
        "vote": Vote(nn.Sequential(Subsample(rate=0.5), small_net()), draws=3),
    }


@every_case
@pytest.mark.parametrize("name", list(random_models()))
def test_random_models(
    entry: Entry[Any], threat: ThreatModel, name: str, x: Tensor, y: Tensor
) -> None:
    model = random_models()[name]
    extra = {"eot": 3} if "eot" in settable(entry.obj) else {}
    first = run(entry, model, x, y, threat, **extra)
    assert_legal(threat, x, first)
    assert torch.equal(first, run(entry, model, x, y, threat, **extra))


@every_case
@pytest.mark.parametrize("threshold", [0.0, 1.0, 1e6])
def test_models_that_may_abstain(
    entry: Entry[Any], threat: ThreatModel, threshold: float, x: Tensor, y: Tensor
) -> None:
    guard = Rejecting(small_net(), Entropy(), threshold)
    assert_legal(threat, x, run(entry, guard, x, y, threat))
    for objective in guard.objectives():
        bound = ATTACKS.bind(
            entry.name + ":" + ",".join(p for p in objective.split(",") if takes(entry, p))
        )
        assert_legal(threat, x, run(entry, guard, x, y, threat, **bound.arguments))


def takes(entry: Entry[Any], pair: str) -> bool:
    return pair.split("=")[0] in settable(entry.obj)


@every_case
def test_fast_copies(entry: Entry[Any], threat: ThreatModel, x: Tensor, y: Tensor) -> None:
    net = small_net()
    for precision in ("fp32", "bf16"):
        assert_legal(threat, x, run(entry, fast_copy(net, x, precision), x, y, threat))  # type: ignore[arg-type]


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
