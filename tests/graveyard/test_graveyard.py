"""The default suite brings down what is known to be broken, and nothing else.

At a budget where the bare network keeps nothing, a defense that is worth nothing must keep nothing,
while a constant model and an adversarially trained one must not fall.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from redoubtable.data import load, read
from redoubtable.defenses import (
    JPEG,
    SAP,
    BitDepth,
    GaussianNoise,
    MedianFilter,
    RandomResizePad,
    Temperature,
    insert_units,
)
from redoubtable.evaluation import Evaluation, Settings, evaluate
from redoubtable.evaluation.plan import expand
from redoubtable.models import create, load_model
from redoubtable.parts import facts_of
from redoubtable.seeding import seeded
from redoubtable.threat import Linf
from redoubtable.training import Settings as TrainingSettings
from redoubtable.training import train
from tests.graveyard.traps import KillsGradients, LooksAtBrightness, RoundsUnstated
from tests.unit.evaluation.parts import verdicts

BUDGET = Linf(0.15)
BROKEN = 0.03
"""At most this is left of what is broken."""


@cache
def network() -> nn.Module:
    return load_model(Path(__file__).parents[2] / "zoo" / "digits-cnn").eval()


def brightness() -> nn.Module:
    """The detector accepts nine in ten of the clean images."""
    means = load("digits", "validation")[0].flatten(1).mean(1)
    low, high = means.quantile(torch.tensor([0.05, 0.95])).tolist()
    return LooksAtBrightness(network(), low, high)


GRAVEYARD: dict[str, Callable[[], nn.Module]] = {
    "bit depth": lambda: nn.Sequential(BitDepth(3), network()),
    "one bit": lambda: nn.Sequential(BitDepth(1), network()),
    "jpeg": lambda: nn.Sequential(JPEG(75), network()),
    "median filter": lambda: nn.Sequential(MedianFilter(3), network()),
    "low temperature": lambda: Temperature(network(), temperature=1e-3),
    "high temperature": lambda: Temperature(network(), temperature=1e3),
    "gaussian noise": lambda: nn.Sequential(GaussianNoise(0.1), network()),
    "random resize and pad": lambda: nn.Sequential(RandomResizePad(0.8, 1.0), network()),
    "killed gradients": lambda: nn.Sequential(KillsGradients(), network()),
    "killed gradients, unstated": lambda: nn.Sequential(RoundsUnstated(), network()),
    "brightness": brightness,
}

HIDDEN = ("median filter", "brightness")
"""Keep something where the attacker does not know them: why adaptive attacks are asked for."""


def attacked(model: nn.Module, n: int) -> Evaluation:
    x, y = load("digits", "test", limit=n)
    return evaluate(model, x, y, BUDGET, curve=(), check=False, settings=Settings(draws=5))


def adaptive(e: Evaluation) -> float:
    return float(e.record["adaptive"]["accuracy"]["one_shot"]["value"])


def test_the_bare_network_keeps_nothing() -> None:
    e = attacked(network().eval(), 40)
    assert e.clean_accuracy > 0.9
    assert e.robust_accuracy == 0


@pytest.mark.parametrize("name", GRAVEYARD)
def test_what_is_broken_falls_to_attacks_that_see_it(name: str) -> None:
    model = GRAVEYARD[name]().eval()
    random = facts_of(model).stochastic
    e = attacked(model, 12 if random else 30)
    assert e.clean_accuracy > 0.5
    # Not the robust accuracy, which the static attacks share: whoever sees all must do it alone.
    assert adaptive(e) <= BROKEN, e.under
    if name in HIDDEN:
        assert e.static_accuracy > BROKEN


def test_stochastic_activation_pruning_falls_to_averaged_gradients() -> None:
    """Athalye et al. 2018, section 5.3.1; of the suite only PGD, whose draws take long enough."""
    model = insert_units(network(), SAP(1.0, "bernoulli"), recompute=True).eval()
    x, y = load("digits", "test", limit=12)
    e = evaluate(
        model, x, y, BUDGET, "pgd:restarts=2", curve=(), check=False, settings=Settings(draws=5)
    )
    assert e.clean_accuracy > 0.9
    assert adaptive(e) <= BROKEN, e.under


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(10)[3].to(x) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_a_constant_model_does_not_fall() -> None:
    e = attacked(Constant(), 100)
    assert e.clean_accuracy == adaptive(e) == e.robust_accuracy > 0.05


def test_an_adversarially_trained_network_does_not_fall() -> None:
    with seeded("graveyard"):
        fresh = create("small_cnn", width=8)
    settings = TrainingSettings(12, batch_size=32, lr=0.1)
    recipe = f"fast:threat={BUDGET}"
    trained = train(fresh, read("digits", "train"), recipe, settings, progress=False).model
    e = attacked(trained.eval(), 40)
    assert e.clean_accuracy > 0.8
    assert adaptive(e) > 0.4


def test_a_lie_behind_noise_is_told_by_the_checks() -> None:
    """Averaged gradients are believed where noise is stated; a short search shows that they lie."""
    model = nn.Sequential(GaussianNoise(0.02), RoundsUnstated(), network()).eval()
    plan, _ = expand("adaptive", BUDGET, facts_of(model))
    assert [b.text for b in plan if b.entry.facts["access"] == "score"] == ["square:queries=100"]
    x, y = load("digits", "test", limit=12)
    told = ("gradients", "black_box_is_weaker")
    e = evaluate(model, x, y, BUDGET, curve=(), check=told, settings=Settings(draws=5))
    assert [verdicts(e)[name] for name in told] == ["fail", "fail"]
    assert e.under["square"] < e.under["pgd"]
