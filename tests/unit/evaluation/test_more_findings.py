"""Each of the published checks fails for its reason and passes without it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import fgsm, pgd
from redoubtable.evaluation import Settings, checks, evaluate
from redoubtable.evaluation.checks import CHECKS
from redoubtable.losses import cross_entropy
from redoubtable.parts import Part
from redoubtable.threat import L0, L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import RandomScale, blobs, facts, small_net
from tests.unit.evaluation.parts import Register
from tests.unit.evaluation.test_findings import Steps


def doubted(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    check: str,
    attacks: Any = "pgd:steps=10",
    threat: ThreatModel = Linf(0.1),  # noqa: B008 - it is frozen
) -> dict[str, Any]:
    """One finding of an evaluation; no other check is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "CHECKS", {check: CHECKS[check]})
        e = evaluate(model, x, y, threat, attacks, curve=(), settings=Settings(draws=4))
    (found,) = e.record["findings"]
    return found


@pytest.fixture
def answers(net: nn.Module, x: Tensor) -> Tensor:
    """What the network answers: all of it stands before an attack."""
    with torch.no_grad():
        return net(x).argmax(1)


# -- the model -----------------------------------------------------------------------------------


class Ripples(nn.Module):
    """Fine waves on the image: a gradient everywhere, and none that points anywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 2e-3 * torch.sin(1e5 * x)


def test_gradients_that_point_nowhere_are_found(net: nn.Module, x: Tensor, answers: Tensor) -> None:
    found = doubted(nn.Sequential(Ripples(), net), x, answers, "uphill")
    assert found["verdict"] == "fail" and "shattered" in found["says"]
    assert 0.2 < found["evidence"]["rising"] < 0.7 and found["evidence"]["n"] == len(x)
    found = doubted(net, x, answers, "uphill")
    assert found["verdict"] == "pass" and found["evidence"]["rising"] > 0.95


def test_a_gradient_that_points_downhill_is_found(
    net: nn.Module, x: Tensor, answers: Tensor
) -> None:
    class Liar(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, v: Tensor) -> Tensor:
            return v.clone()

        @staticmethod
        def backward(ctx: Any, *slopes: Tensor) -> Tensor:
            return -slopes[0]

    class Turned(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            turned: Tensor = Liar.apply(v)
            return turned

    found = doubted(nn.Sequential(Turned(), net), x, answers, "uphill")
    assert found["verdict"] == "fail" and found["evidence"]["rising"] < 0.05


@pytest.mark.parametrize(
    ("last", "verdict", "word"),
    [
        (nn.Softmax(1), "fail", "return logits"),
        (nn.LogSoftmax(1), "pass", "no probabilities"),
        (nn.Identity(), "pass", "no probabilities"),
    ],
)
def test_probabilities_in_place_of_logits_are_found(
    net: nn.Module, x: Tensor, answers: Tensor, last: nn.Module, verdict: str, word: str
) -> None:
    found = doubted(nn.Sequential(net, last), x, answers, "logits")
    assert found["verdict"] == verdict and word in found["says"]


class Lifted(nn.Module):
    def __init__(self, net: nn.Module, scale: float, constant: float) -> None:
        super().__init__()
        self.net, self.scale, self.constant = net, scale, constant

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x) + self.constant


@pytest.mark.parametrize(
    ("scale", "constant", "verdict"), [(1e-6, 0, "pass"), (1e-4, 1, "fail"), (1e3, 1, "pass")]
)
def test_logits_that_rounding_makes_alike_are_found(
    net: nn.Module, x: Tensor, answers: Tensor, scale: float, constant: float, verdict: str
) -> None:
    found = doubted(Lifted(net, scale, constant), x, answers, "logits")
    assert found["verdict"] == verdict and not found["evidence"]["probabilities"]


class Purifies(nn.Module):
    """Moves the image by its own gradient before it answers, and hides that from the attack."""

    def __init__(self, net: nn.Module, through: bool) -> None:
        super().__init__()
        self.net, self.through = net, through

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = x if x.requires_grad else x.detach().requires_grad_()
            value = self.net(moved).logsumexp(1).sum()
            (slope,) = torch.autograd.grad(value, moved, create_graph=self.through)
        near = moved - 1e-3 * slope if self.through else (8 * moved).round() / 8
        return self.net(near)


def test_gradients_at_test_time_are_found_where_attacks_do_not_see_through(
    x: Tensor, answers: Tensor
) -> None:
    net = small_net(smooth=True)
    hidden = doubted(Purifies(net, through=False), x, answers, "inner_gradients")
    assert hidden["verdict"] == "fail" and hidden["evidence"]["kept"] > 0
    through = doubted(Purifies(net, through=True), x, answers, "inner_gradients")
    assert through["verdict"] == "pass" and through["evidence"]["kept"] > 0
    plain = doubted(net, x, answers, "inner_gradients")
    assert plain["verdict"] == "pass" and plain["evidence"]["kept"] == 0


class Switches(Part):
    """A random model that shatters where the same draw is asked for twice."""

    facts = facts(stochastic=True)

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.last = net, -1.0

    def forward(self, x: Tensor) -> Tensor:
        draw = torch.rand(()).item()
        twice, self.last = draw == self.last, draw
        out = self.net((64 * x).round() / 64) if twice else self.net(x)
        return out * (1 + 0.01 * draw)

    def undefended(self) -> nn.Module:
        return self.net


def test_fixed_draws_that_are_harder_are_found(net: nn.Module, x: Tensor, answers: Tensor) -> None:
    plain = "pgd:momentum=0,steps=40"  # momentum would go on from the first, true gradient
    found = doubted(Switches(net), x, answers, "fixed_randomness", plain, Linf(0.06))
    assert found["verdict"] == "fail"
    assert found["evidence"]["fixed"] - found["evidence"]["fresh"] > 0.2
    found = doubted(RandomScale(net, 0.5), x, answers, "fixed_randomness")
    assert found["verdict"] == "pass" and found["evidence"]["fixed"] < 0.1
    assert found["evidence"]["passes"] >= 2 * 10 * len(x)


# -- the attack's path ---------------------------------------------------------------------------


def climb(register: Register, name: str, returns: str, steps: int = 20) -> None:
    """An attack that climbs and returns the first, the last or the best of what it saw."""

    @register(name)
    def attack(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = steps,
    ) -> Images:
        """Climb."""
        x_adv = pgd(model, x, y, threat, steps=steps)
        return x.clone() if returns == "first" else x_adv


def test_an_attack_that_throws_away_what_it_finds_is_found(
    register: Register, net: nn.Module, x: Tensor, answers: Tensor
) -> None:
    climb(register, "forgetful", "first")
    found = doubted(net, x, answers, "silent_success", "forgetful")
    assert found["verdict"] == "fail" and found["evidence"] == found["evidence"] | {
        "missed": 8,
        "n": 8,
    }
    small = Linf(0.02)
    found = doubted(net, x, answers, "silent_success", "pgd:steps=10", small)
    assert found["verdict"] == "pass" and found["evidence"]["n"] > 0


def test_an_attack_that_stops_too_early_is_found(
    net: nn.Module, x: Tensor, answers: Tensor
) -> None:
    early = "bim:loss=margin,steps=20,step_size=0.0004"
    found = doubted(net, x, answers, "incomplete_optimisation", early, Linf(0.03))
    assert found["verdict"] == "fail" and 0.05 < found["evidence"]["median_late_share"] < 0.2
    found = doubted(net, x, answers, "incomplete_optimisation", "pgd:steps=40", Linf(0.01))
    assert found["verdict"] == "pass" and found["evidence"]["n"] > 2


# -- effort --------------------------------------------------------------------------------------


def lucky(register: Register, needs: int) -> None:
    """An attack that succeeds from so many starts on."""

    @register("lucky")
    def attack(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 10,
        restarts: int = 2,
    ) -> Images:
        """Wait for luck."""
        x_adv = pgd(model, x, y, threat, steps=steps)
        return x_adv if restarts >= needs else x.clone()


@pytest.mark.parametrize(("needs", "verdict"), [(1, "pass"), (6, "fail"), (7, "pass")])
def test_starts_that_decide_are_found(
    register: Register, net: nn.Module, x: Tensor, answers: Tensor, needs: int, verdict: str
) -> None:
    """Three times two starts are six: where seven are needed none of them helps."""
    lucky(register, needs)
    found = doubted(net, x, answers, "more_restarts", "lucky")
    assert found["verdict"] == verdict
    assert (found["evidence"]["found"] > 2) == (verdict == "fail")


def reaching(register: Register, least: float, most: float) -> None:
    """An attack that works at some radii only."""

    @register("reaching")
    def attack(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 10,
    ) -> Images:
        """Work at some radii."""
        works = least <= float(threat.eps) <= most
        return pgd(model, x, y, threat, steps=steps) if works else x.clone()


@pytest.mark.parametrize(
    ("least", "most", "verdict"), [(0, 0.07, "fail"), (0, 1, "pass"), (0, 0.04, "pass")]
)
def test_a_radius_at_which_the_attack_gets_lost_is_found(
    register: Register,
    net: nn.Module,
    x: Tensor,
    answers: Tensor,
    least: float,
    most: float,
    verdict: str,
) -> None:
    """Of 0.1 the half is 0.05: an attack that works up to 0.07 only is caught there."""
    reaching(register, least, most)
    found = doubted(net, x, answers, "monotone_in_eps", "reaching")
    assert found["verdict"] == verdict
    assert found["evidence"]["standing"] == (0 if most == 1 else len(x))


def test_half_of_a_count_of_pixels_is_a_count(net: nn.Module, x: Tensor, answers: Tensor) -> None:
    for pixels, expected in ((3, "pass"), (1, "not run")):
        found = doubted(net, x, answers, "monotone_in_eps", "pgd:steps=5", L0(pixels))
        assert found["verdict"] == expected


# -- rivals --------------------------------------------------------------------------------------


def test_many_steps_that_lose_what_one_finds_are_found(
    register: Register, net: nn.Module, x: Tensor, answers: Tensor
) -> None:
    climb(register, "lost", "first")
    found = doubted(net, x, answers, "iterative_is_stronger", "lost")
    with torch.no_grad():
        one = fgsm(net, x, answers, Linf(0.1), loss=cross_entropy)
        fallen = int((net(one).argmax(1) != answers).sum())
    assert found["verdict"] == "fail" and found["evidence"]["only"] >= fallen > 2
    assert doubted(net, x, answers, "iterative_is_stronger")["verdict"] == "pass"


@pytest.mark.parametrize("attacks", ["pgd:steps=5", ["pgd:steps=5", "square:queries=100"]])
def test_searches_that_find_more_than_gradients_are_found(
    net: nn.Module, x: Tensor, answers: Tensor, attacks: Any
) -> None:
    masked = nn.Sequential(Steps(), net)
    with torch.no_grad():
        y = masked(x).argmax(1)
    found = doubted(masked, x, y, "black_box_is_weaker", attacks, Linf(0.15))
    assert found["verdict"] == "fail" and found["evidence"]["only"] > 10
    # Where no such attack was asked for, the check brings its own, and says what it cost.
    assert (found["evidence"]["passes"] > 0) == isinstance(attacks, str)
    found = doubted(net, x, answers, "black_box_is_weaker", attacks, Linf(0.15))
    assert found["verdict"] == "pass" and found["evidence"]["only"] <= 2


@pytest.mark.parametrize("threat", [L2(0.5), L1(3.0), L0(3)])
def test_a_search_is_found_for_every_norm(
    net: nn.Module, x: Tensor, answers: Tensor, threat: ThreatModel
) -> None:
    found = doubted(net, x, answers, "black_box_is_weaker", "pgd:steps=10", threat)
    assert found["verdict"] == "pass"


def test_what_a_cascade_carries_along_is_not_the_searchs(
    net: nn.Module, x: Tensor, answers: Tensor
) -> None:
    found = doubted(net, x, answers, "black_box_is_weaker", "lean")
    assert found["verdict"] == "pass" and found["evidence"]["only"] == 0


class Masks(Part):
    """Kills gradients and can be taken out: images made without it fool it."""

    facts = facts()

    def forward(self, x: Tensor) -> Tensor:
        return (16 * x).round() / 16

    def undefended(self) -> nn.Module:
        return nn.Identity()


def test_images_made_without_the_model_that_fool_it_are_found(x: Tensor) -> None:
    masked = nn.Sequential(Masks(), small_net())
    with torch.no_grad():
        y = masked(x).argmax(1)
    found = doubted(masked, x, y, "transfer_is_weaker")
    assert found["verdict"] == "fail" and found["evidence"]["only"] > 10
    honest = RandomScale(small_net(), 0.5)
    assert doubted(honest, x, y, "transfer_is_weaker")["verdict"] == "pass"
    assert doubted(small_net(), x, y, "transfer_is_weaker")["verdict"] == "not run"


def test_noise_that_finds_more_than_the_attacks_is_found(
    register: Register, net: nn.Module, answers: Tensor
) -> None:
    x = blobs(30, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    climb(register, "idle", "first")
    found = doubted(net, x, y, "noise", "idle", Linf(0.3))
    assert found["verdict"] == "fail" and found["evidence"]["found"] > 2
    assert found["evidence"]["draws"] == 1000
    found = doubted(net, x, y, "noise", "pgd:steps=10", Linf(0.02))
    assert found["verdict"] == "pass" and found["evidence"]["n"] > 2
    assert found["evidence"]["passes"] == 1000 * found["evidence"]["n"]
