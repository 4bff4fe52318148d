"""What the checks of effort cost, and on which images they tell what."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import pgd
from redoubtable.evaluation import Settings, checks, evaluate
from redoubtable.evaluation.checks import CHECKS
from redoubtable.evaluation.checks.case import Case
from redoubtable.evaluation.plan import Plans
from redoubtable.parts import Part
from redoubtable.threat import Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import blobs, facts
from tests.unit.evaluation.parts import Register

NAMES = ("selection", "report")


def found(model: nn.Module, x: Tensor, y: Tensor, check: str, attacks: Any, **more: Any) -> Any:
    """The evidence of one check, its verdict included, and the evaluation."""
    settings = more.pop("settings", Settings(draws=4))
    threat = more.pop("threat", Linf(0.1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CHECKS", {check: CHECKS[check]})
        e = evaluate(model, x, y, threat, attacks, curve=(), settings=settings, **more)
    (finding,) = e.record["findings"]
    return finding["evidence"] | {"verdict": finding["verdict"]}, e


def test_one_step_belongs_to_the_series_of_steps(net: nn.Module, x: Tensor, y: Tensor) -> None:
    short = "bim:steps=8,step_size=0.001"
    seen, e = found(net, x, y, "more_steps", ["fgsm", short], threat=Linf(0.03))
    single = [e.arrays[k] for k in e.arrays if "adaptive/fgsm" in k and k.endswith("/report")]
    by_hand = np.mean(np.all([answers[:, 0] == y.numpy() for answers in single], axis=0))
    assert seen["steps_x1/8"] == pytest.approx(by_hand)
    assert seen["steps_x1"] > seen["steps_x1/8"], "a test that can't tell"
    seen, _ = found(net, x, y, "more_steps", ["fgsm", "pgd:steps=8", "pgd:steps=4"])
    assert not any("/" in key for key in seen), "there is no single number of steps"
    seen, _ = found(net, x, y, "more_steps", "pgd:steps=8")
    assert not any("/" in key for key in seen)


class Noted:
    """An attack of one loss that notes at which radius it sees how many images."""

    def __init__(self, register: Register, name: str, brings_down: int) -> None:
        self.calls: list[int] = []

        @register(name)
        def attack(
            model: nn.Module,
            x: Images,
            y: Labels,
            threat: ThreatModel,
            *,
            targets: Any = None,
            steps: int = 10,
        ) -> Images:
            """Bring down some of the images, where any change is allowed."""
            if float(threat.eps) < 1:
                return x.clone()
            self.calls.append(len(x))
            x_adv = x.clone()
            x_adv[:brings_down] = pgd(model, x, y, threat, steps=steps)[:brings_down]
            return x_adv


def test_an_unbounded_attack_sees_what_those_before_it_leave(
    register: Register, net: nn.Module, x: Tensor
) -> None:
    with torch.no_grad():
        y = net(x).argmax(1)
    first, second = Noted(register, "first", 20), Noted(register, "second", 10)
    third = Noted(register, "third", 10)
    seen, _ = found(net, x, y, "unbounded", ["first", "second", "third"])
    assert (first.calls, second.calls, third.calls) == ([30], [10], [])
    assert seen["standing"] == 0 and seen["verdict"] == "pass" and seen["n"] == 30
    seen, _ = found(net, x, y, "unbounded", ["first", "third"])
    assert seen["standing"] == 0 and third.calls == [10]
    seen, _ = found(net, x, y, "unbounded", ["third"])
    assert seen["standing"] == pytest.approx(20 / 30) and seen["verdict"] == "fail"


@pytest.mark.parametrize(
    ("answers", "count"),
    [
        # Each half of the draws shows the candidate that is worst on the other one.
        ([([1, 1], [0, 0]), ([0, 0], [1, 1])], 4),
        ([([1, 1], [0, 0]), ([0, 1], [0, 1])], 3),
        ([([0, 1], [1, 1])], 1),
        ([([1, 1], [0, 1])], 1),
        ([([0, 2], [2, 0])], 4),  # a rejection counts for the defender
    ],
)
def test_each_half_of_the_draws_judges_what_the_other_chooses(answers: Any, count: int) -> None:
    data = SimpleNamespace(y=torch.tensor([5, 0]))
    candidates = [
        # Of the image before, and of a third draw, nothing is looked at.
        SimpleNamespace(
            **{k: np.array([[5, 5, 5], [*v, 5]]) for k, v in zip(NAMES, a, strict=True)}
        )
        for a in answers
    ]
    bench: Any = SimpleNamespace(data=data)
    case = Case(bench, Plans([], [], False), [], Linf(0.1), 2)
    assert case.tally(candidates, slice(1, 2), 2).tolist() == [count]  # type: ignore[arg-type]


class Coin(Part):
    """Takes the first value of an image for the probability of answering 0."""

    facts = facts(stochastic=True)

    def forward(self, x: Tensor) -> Tensor:
        right = (torch.rand(len(x)) < x.flatten(1)[:, 0]).to(x)
        return torch.stack([right - 0.5, 0.5 - right], 1) + 0 * x.flatten(1).sum(1, keepdim=True)

    def undefended(self) -> nn.Module:
        return nn.Flatten()


def halves(register: Register, late: float) -> None:
    """An attack that leaves the probability at a half, and lowers it with more steps."""

    @register("halves", access="score")
    def attack(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 10,
    ) -> Images:
        """Lower the first value."""
        x_adv = x.clone()
        x_adv[:, 0, 0, 0] = 0.5 - (late if steps > 10 else 0)
        return x_adv


@pytest.mark.parametrize(("late", "least", "most"), [(0.0, 0, 2), (0.099, 18, 20)])
def test_an_attack_that_has_not_converged_is_caught_on_a_random_model(
    register: Register, late: float, least: int, most: int
) -> None:
    """Of 20 seeds: with nothing left to find 19 pass, with what would be noticed 18 fail."""
    halves(register, late)
    x = torch.full((150, 1, 2, 2), 0.5)
    y = torch.zeros(150, dtype=torch.int64)
    failed = 0
    for seed in range(20):
        seen, _ = found(
            Coin(), x, y, "more_steps", "halves", seed=seed, settings=Settings(draws=10)
        )
        failed += seen["verdict"] == "fail"
        assert late == 0 or seen["notices"] < 0.13
    assert least <= failed <= most


def test_only_the_images_of_a_stage_are_attacked(register: Register, net: nn.Module) -> None:
    """Nothing changes, so fifty images are enough; a second attack sees the same ones."""
    seen: list[int] = []

    @register("noting", access="score")
    def attack(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 10,
    ) -> Images:
        """Do nothing."""
        seen.append(len(x) if steps == 30 else -len(x))
        return x.clone()

    x = blobs(200)
    with torch.no_grad():
        y = net(x).argmax(1)
    e, _ = found(net, x, y, "more_steps", "noting", settings=Settings(chunk=80))
    assert seen == [-80, -80, -40, 50]
    assert (e["n"], e["stages"], e["of_stages"]) == (50, 1, 3)
