"""The checks that doubt a robust accuracy find what they are there for."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import pgd
from redoubtable.defenses import InputTransform
from redoubtable.evaluation import Evaluation, Settings, evaluate
from redoubtable.evaluation.candidates import Bench
from redoubtable.evaluation.checks import CHEAP, CHECKS
from redoubtable.parts import facts_of
from redoubtable.threat import Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import RandomScale, facts, small_net
from tests.unit.evaluation.parts import Register, models, quick, verdicts


def checked(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attacks: Any = "pgd:steps=20",
    threat: ThreatModel = Linf(0.1),  # noqa: B008 - it is frozen
) -> Evaluation:
    return evaluate(model, x, y, threat, attacks, curve=(), settings=Settings(draws=4))


@pytest.mark.parametrize("name", ["deterministic", "random", "abstaining"])
def test_an_honest_model_passes_every_check(name: str, x: Tensor, y: Tensor) -> None:
    e = checked(models()[name], x, y)
    found = verdicts(e)
    assert list(found) == list(CHECKS)
    random, defended = facts_of(models()[name]).stochastic, name != "deterministic"
    # Draws are nothing to check where every answer is alike, nor a defense where there is none.
    assert (found["more_draws"] != "not run") == random == (found["fixed_randomness"] != "not run")
    for check in ("adaptive_is_stronger", "transfer_is_weaker"):
        assert (found[check] != "not run") == defended
    assert found["neighbours"] == "not run"
    always = {"randomness", "gradients", "uphill", "logits", "inner_gradients", "more_steps"}
    always |= {"unbounded", "iterative_is_stronger", "black_box_is_weaker", "monotone_in_eps"}
    assert {found[check] for check in always} == {"pass"}
    assert "fail" not in found.values(), e.record["findings"]
    assert all(f["says"] for f in e.record["findings"])


def test_undeclared_randomness_is_found(x: Tensor, y: Tensor) -> None:
    e = checked(RandomScale(small_net(), states=False), x, y)
    assert verdicts(e)["randomness"] == "fail"
    finding = next(f for f in e.record["findings"] if f["check"] == "randomness")
    assert finding["evidence"]["differing"] == 1.0
    assert "stochastic=True" in finding["says"]


def test_declared_randomness_that_is_not_there_is_found(x: Tensor, y: Tensor) -> None:
    e = checked(RandomScale(small_net(), spread=0.0), x, y)
    assert verdicts(e)["randomness"] == "fail"


class Steps(nn.Module):
    """Rounds the image to eighths and does not say so: a gradient of zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return (8 * x).round() / 8


def test_killed_gradients_are_found(x: Tensor, y: Tensor) -> None:
    e = checked(nn.Sequential(Steps(), small_net()), x, y)
    assert verdicts(e)["gradients"] == "fail"
    finding = next(f for f in e.record["findings"] if f["check"] == "gradients")
    assert finding["evidence"]["zero"] == 1.0


class Saturated(nn.Module):
    """Logits so large that the cross-entropy of a right answer has no gradient left."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.net(x)


def test_saturated_losses_are_found_and_another_loss_helps(x: Tensor, y: Tensor) -> None:
    blind = checked(Saturated(), x, y, "pgd:steps=5,loss=cross_entropy")
    assert verdicts(blind)["gradients"] == "fail"
    seeing = checked(Saturated(), x, y, "pgd:steps=20")
    assert verdicts(seeing)["gradients"] == "pass"
    assert seeing.robust_accuracy < 0.5 < blind.robust_accuracy


class Hides(InputTransform):
    """Rounds to halves with a surrogate that points nowhere: masked, although it names one."""

    facts = facts(differentiable=False)

    def transform(self, x: Tensor) -> Tensor:
        return (x * 16).round() / 16

    def surrogate(self, x: Tensor) -> Tensor:
        return 0 * x + x.detach()


def test_masked_gradients_are_found_where_the_static_attack_does_better(x: Tensor) -> None:
    model = nn.Sequential(Hides(), small_net())
    with torch.no_grad():
        y = model(x).argmax(1)
    e = checked(model, x, y)
    assert e.static_accuracy < 0.3
    assert e.record["adaptive"]["accuracy"]["one_shot"]["value"] > 0.6
    assert e.robust_accuracy <= e.static_accuracy
    assert verdicts(e)["adaptive_is_stronger"] == "fail"
    assert verdicts(e)["gradients"] == "fail"


def test_an_attack_that_fails_where_success_is_certain_is_found(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    @register("lazy")
    def lazy(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Do nothing."""
        return x.clone()

    e = checked(net, x, y, "lazy")
    assert verdicts(e)["unbounded"] == "fail"
    assert verdicts(e)["more_steps"] == "not run"


def stepping(register: Register, succeeds: Callable[[int], bool]) -> None:
    @register("stepping")
    def stepping(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 10,
    ) -> Images:
        """Succeed at some numbers of steps only."""
        x_adv = pgd(model, x, y, threat, steps=20)
        return x_adv if succeeds(steps) else x.clone()


def test_steps_that_help_the_defender_are_found(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    stepping(register, lambda steps: steps <= 10)
    e = checked(net, x, y, "stepping")
    assert verdicts(e)["more_steps"] == "fail"
    finding = next(f for f in e.record["findings"] if f["check"] == "more_steps")
    assert "more steps help the defender" in finding["says"]
    assert finding["evidence"]["steps_x3"] > finding["evidence"]["steps_x1"]


def test_an_attack_that_has_not_converged_is_found(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    stepping(register, lambda steps: steps >= 30)
    e = checked(net, x, y, "stepping")
    assert verdicts(e)["more_steps"] == "fail"
    finding = next(f for f in e.record["findings"] if f["check"] == "more_steps")
    assert "had not converged" in finding["says"]


class Bright(nn.Module):
    """Class 0 where an image's first value is above a half, else class 1."""

    def forward(self, v: Tensor) -> Tensor:
        sure = v.flatten(1)[:, 0] - 0.5
        return torch.stack([sure, -sure], 1)


@pytest.mark.parametrize(
    ("late", "lucky", "verdict"),
    [
        (range(0, 150, 23), (), "fail"),  # 7 of 150
        (range(0, 150, 30), (), "pass"),  # 5 of 150, more than 2%, may be chance at 1.6%
        # As many rise as fall: another try, no more.
        (range(0, 150, 23), range(1, 150, 23), "pass"),
        ((), range(0, 150, 23), "fail"),  # more steps help the defender
    ],
)
def test_a_few_images_that_fall_later_are_enough(
    register: Register, late: Any, lucky: Any, verdict: str
) -> None:
    """Six changes in one direction are significant in the end: 1/64; five are not: 1/32."""

    @register("late", access="score")
    def late_attack(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 10,
    ) -> Images:
        """Turn dark after as many steps as an image's second value says, or before them."""
        needs = 100 * x[:, 0, 0, 1]
        turns = torch.where(x[:, 0, 1, 1] > 0.5, needs > steps, needs <= steps)
        x_adv = x.clone()
        x_adv[turns, 0, 0, 0] = 0.4
        return x_adv

    x = torch.full((150, 1, 2, 2), 0.9)
    x[:, 0, 1, 1] = 0.0
    x[list(late), 0, 0, 1] = 0.2
    x[list(lucky), 0, 0, 1] = 0.2
    x[list(lucky), 0, 1, 1] = 1.0
    e = checked(Bright(), x, torch.zeros(150, dtype=torch.int64), "late", Linf(0.5))
    finding = next(f for f in e.record["findings"] if f["check"] == "more_steps")
    n = 50 if late and lucky else 150
    assert finding["evidence"]["n"] == n
    assert finding["verdict"] == verdict, finding["says"]
    fall, rise = (sum(i < n for i in group) for group in (late, lucky))
    assert finding["evidence"]["steps_x3"] - finding["evidence"]["steps_x1"] == pytest.approx(
        (rise - fall) / n
    )
    tied = 0.5 + math.comb(6, 3) / 2**7  # three heads or more in six throws
    expected = tied if fall and rise else 0.5 ** (fall + rise)
    assert finding["evidence"]["p"] == pytest.approx(expected)
    assert f"level {'0.3' if n == 50 else '1.6'}%" in finding["says"]


def test_an_attack_that_starts_from_few_steps_has_not_converged(x: Tensor) -> None:
    net = small_net()
    with torch.no_grad():
        y = net(x).argmax(1)
    e = evaluate(net, x, y, Linf(0.03), "bim:steps=1,step_size=0.005", curve=())
    assert verdicts(e)["more_steps"] == "fail"


def test_a_constant_model_keeps_its_accuracy_and_the_checks_say_why(x: Tensor) -> None:
    """Robust, useless, and rightly not attackable."""

    class Constant(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).to(v) + 0 * v.flatten(1).sum(1, keepdim=True)

    labels = torch.arange(30) % 2
    e = checked(Constant(), x, labels)
    assert e.clean_accuracy == e.robust_accuracy == 0.5
    assert verdicts(e)["gradients"] == "fail"
    assert verdicts(e)["unbounded"] == "fail"


def test_a_broken_graph_says_what_to_do(x: Tensor, y: Tensor) -> None:
    class Cut(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return v.detach()

    with pytest.raises(ValueError, match="surrogate") as caught:
        evaluate(nn.Sequential(Cut(), small_net()), x, y, Linf(0.1), "pgd:steps=2")
    assert "\n" not in str(caught.value)


def test_checks_can_be_left_out(net: nn.Module, x: Tensor, y: Tensor) -> None:
    assert quick(net, x, y, Linf(0.1)).record["findings"] == []


def test_only_the_named_checks_run_and_the_others_say_so(
    net: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    for name, check in CHECKS.items():
        monkeypatch.setitem(
            CHECKS,  # type: ignore[arg-type]  # a mapping that is a dict
            name,
            lambda case, check=check, name=name: ran.append(name) or check(case),
        )
    e = quick(net, x, y, Linf(0.1), check=("noise", "logits"))
    assert sorted(ran) == ["logits", "noise"]
    found = {f["check"]: f for f in e.record["findings"]}
    assert list(found) == list(CHECKS)
    for name, finding in found.items():
        asked = name in ("logits", "noise")
        assert (finding["says"] != "not asked for here") == asked
        assert asked or (finding["verdict"], finding["evidence"]) == ("not run", {})
    one = quick(net, x, y, Linf(0.1), check="logits").record["findings"]
    assert [f["check"] for f in one if f["says"] != "not asked for here"] == ["logits"]
    with pytest.raises(ValueError, match="no check 'loud'; there are randomness"):
        quick(net, x, y, Linf(0.1), check=["loud"])


def test_cheap_checks_attack_nothing_anew(
    net: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = ["pgd:steps=5", "square:queries=20"]
    asked: list[str] = []
    whole = Bench.attacked

    def attacked(self: Bench, view: Any, bound: Any, *rest: Any) -> Any:
        asked.append(bound.text)
        return whole(self, view, bound, *rest)

    monkeypatch.setattr(Bench, "attacked", attacked)
    bare = quick(net, x, y, Linf(0.02), attacks, check=False)
    assert bare.robust_accuracy > 0  # or there were nothing to attack
    without, asked[:] = sorted(set(asked)), []
    e = quick(net, x, y, Linf(0.02), attacks, check=CHEAP)
    assert sorted(set(asked)) == without
    ran = {f["check"] for f in e.record["findings"] if f["says"] != "not asked for here"}
    assert ran == set(CHEAP)
    assert e.record["rows"] == bare.record["rows"]
