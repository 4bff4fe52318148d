"""What every attack keeps, under every threat it states; a new one is tested without a change."""

import inspect
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
from redoubtable.threat import THREATS, ThreatModel
from tests.contract.attacks_parts import NEEDS, REDUCED, every_attack, every_case, run, takes
from tests.networks import RandomScale, blobs, small_net


def sizes(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> np.ndarray:
    """Distances by formulas of our own, in float64."""
    delta = x_adv.double().numpy() - x.double().numpy()
    flat = delta.reshape(len(delta), -1)
    return {
        "Linf": np.abs(flat).max(1),
        "L2": np.sqrt((flat**2).sum(1)),
        "L1": np.abs(flat).sum(1),
        "L0": (np.abs(delta).max(1) > 0).reshape(len(delta), -1).sum(1),
        "L0values": (flat != 0).sum(1),
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
        norm = clip = noise = ascent = dual = fill = diameter = None  # type: ignore[assignment]

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
        given = NEEDS[entry.name](net) if entry.name in NEEDS else {}
        given |= REDUCED.get(entry.name, {})
        x_adv = entry.obj(net, x[:3], y[:3], threat, **given)
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
    eps = eps.ceil() if threat.whole else eps
    ball = type(threat)(eps)
    # An attack that changes one pixel after another may stop before it has used many.
    on = {"stop": False} if entry.obj.__kwdefaults__.get("stop") is True else {}
    x_adv = run(entry, net, x, y, ball, **on)
    assert_legal(ball, x, x_adv)
    moved = sizes(ball, x, x_adv)
    assert ((moved > 1e-4) == (eps.numpy() > 0)).all()
    if not entry.facts.get("minimal"):  # the smallest change may be smaller than any radius
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
        "guarded vote": Rejecting(
            Vote(nn.Sequential(Subsample(rate=0.5), small_net()), draws=2), Entropy(), 1.0
        ),
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


@every_case
def test_fast_copies(entry: Entry[Any], threat: ThreatModel, x: Tensor, y: Tensor) -> None:
    net = small_net()
    for precision in ("fp32", "bf16"):
        assert_legal(threat, x, run(entry, fast_copy(net, x, precision), x, y, threat))  # type: ignore[arg-type]
