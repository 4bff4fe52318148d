"""The suites against random subsampling: whom they aim at, and that each line runs and is legal."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS
from redoubtable.defenses import Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import Settings, evaluate
from redoubtable.evaluation.plan import BoundAttack, adaptive_plan, expand, static_plan
from redoubtable.evaluation.suites import Line
from redoubtable.losses import LOSSES
from redoubtable.parts import facts_of
from redoubtable.threat import L0, L2, Linf, ThreatModel
from tests.networks import blobs, small_net

SUBSAMPLED = nn.Sequential(Subsample(rate=0.5), small_net())
MODES: dict[str, nn.Module] = {
    "single": SUBSAMPLED,
    "single+reject": Rejecting(SUBSAMPLED, Entropy(), 1.0),
    "vote": Vote(SUBSAMPLED, draws=3),
    "vote+reject": Rejecting(Vote(SUBSAMPLED, draws=3), Entropy(), 1.0),
}
THREATS = (Linf(0.1), L2(0.8), L0(5.0))
every_threat = pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
every_mode = pytest.mark.parametrize("mode", MODES)


@every_threat
@pytest.mark.parametrize("suite", ["dropping-pixels", "dropping-pixels-gtsrb"])
def test_the_papers_attacks_are_two_losses_towards_and_away(
    suite: str, threat: ThreatModel
) -> None:
    bounds, cascade = expand(suite, threat)
    assert not cascade
    names = {(LOSSES.name_of(b.arguments["loss"]), b.arguments.get("targets")) for b in bounds}
    targets = {None, *(ATTACKS.bind(f"pgd:targets={w}").arguments["targets"] for w in TARGETED)}
    assert names == {(loss, t) for loss in ("cross_entropy", "carlini_wagner") for t in targets}
    assert len(bounds) == 6
    scale = 2 if suite.endswith("gtsrb") else 1
    step = {"Linf": scale / 255, "L2": 8 * scale / 255, "L0": None}[threat.name]
    steps = 60 if threat.name == "L0" else 40
    for bound in bounds:
        assert bound.arguments["eot"] == 10
        assert bound.arguments["steps"] == steps
        assert bound.arguments.get("step_size") == step
        assert bound.arguments.get("momentum", 0) == 0


TARGETED = ("random", "runner_up")


def test_static_attacks_leave_losses_of_a_rejection_out() -> None:
    hinge = "pgd:loss=evasion_hinge_1,steps=3,success=evasion_margin"
    assert [b.text for b in static_plan([hinge], Linf(0.1))] == ["pgd:steps=3,stop=False"]
    # Those that differ in such a loss alone are one attack on the bare model.
    both = [hinge, hinge.replace("hinge_1", "margin"), "pgd:loss=margin,steps=3"]
    assert [b.text for b in static_plan(both, Linf(0.1))] == [
        "pgd:steps=3,stop=False",
        "pgd:loss=margin,steps=3,stop=False",
    ]
    plan = adaptive_plan(MODES["vote+reject"], [hinge], Linf(0.1))
    assert [LOSSES.name_of(b.arguments["loss"]) for b in plan] == ["evasion_hinge_1"]


def test_a_static_attack_averages_over_no_draws() -> None:
    assert [b.text for b in static_plan(["pgd:eot=10,steps=3"], Linf(0.1))] == [
        "pgd:steps=3,stop=False"
    ]


@every_mode
def test_the_strong_attacks_have_a_hundred_passes_a_gradient(mode: str) -> None:
    facts = facts_of(MODES[mode])
    for threat in THREATS:
        bounds, _ = expand("dropping-pixels-strong", threat, facts)
        assert [b.entry.name for b in bounds] == ["pgd"] + ["l0_pgd"] * (threat.name == "L0")
        assert bounds[0].arguments["restarts"] == 10
        assert {b.arguments["eot"] for b in bounds} == {100 // facts.passes}
        assert {b.arguments["steps"] for b in bounds} == {200}


@every_mode
def test_gradients_are_averaged_over_thirty_passes_however_they_are_counted(mode: str) -> None:
    facts = facts_of(MODES[mode])
    for threat in THREATS:
        bounds, _ = expand("dropping-pixels-adaptive", threat, facts)
        climbs = [b for b in bounds if b.entry.facts["access"] == "gradient"]
        assert {b.arguments["eot"] * facts.passes for b in climbs if not _many(b)} == {30}
        many = {b.arguments["eot"] * facts.passes for b in climbs if _many(b)}
        assert many == ({90} if threat.name == "L0" else set())
    line = Line("pgd:steps=3", passes=30, randomness=0.9)
    assert line.on(replace(facts, passes=100)) == "pgd:steps=3,eot=1,randomness=0.9"
    assert line.on(replace(facts, passes=100, adjustable=False)) == "pgd:steps=3,eot=1"
    assert line.on(replace(facts, stochastic=False, adjustable=False)) == "pgd:steps=3"


def test_lines_that_a_models_facts_make_alike_are_one_attack() -> None:
    facts = facts_of(MODES["vote"])
    adjustable, not_so = (
        expand("dropping-pixels-adaptive", L0(3), replace(facts, adjustable=a))[0]
        for a in (True, False)
    )
    assert len(adjustable) == len(not_so) + 1
    assert len({b.text for b in not_so}) == len(not_so)


def test_the_bare_network_has_no_randomness_to_turn_down() -> None:
    assert [b.text for b in static_plan(["pgd:eot=10,randomness=0.5,steps=3"], Linf(0.1))] == [
        "pgd:steps=3,stop=False"
    ]


def _many(bound: BoundAttack) -> bool:
    """Whether thirty passes were measured to be too few for an attack."""
    return (bound.entry.name, bound.arguments["steps"]) == ("pgd", 60)


@every_threat
@every_mode
def test_every_line_runs_and_is_legal(mode: str, threat: ThreatModel, x: Tensor) -> None:
    """The evaluation refuses what is illegal; budgets are cut to what a test can pay."""
    model, few = MODES[mode], blobs(3)
    with torch.no_grad():
        y = small_net()(few).argmax(1)
    bounds, _ = expand("dropping-pixels-adaptive", threat, facts_of(model))
    hinges = [b for b in bounds if "hinge" in b.text]
    assert len(hinges) == (3 if mode.endswith("reject") else 0)
    assert len(bounds) == 3 + len(hinges) + 2 * (threat.name == "L0")
    cheap = {"steps": 2, "queries": 12, "restarts": 1, "draws": 5, "population": 5}
    texts = [
        ATTACKS.text(
            b.entry.name,
            {**b.arguments, **{k: v for k, v in cheap.items() if k in b.entry.obj.__kwdefaults__}},  # type: ignore[attr-defined]
        )
        for b in bounds
    ]
    e = evaluate(
        model, few, y, threat, texts, curve=(), check=False, settings=Settings(draws=3, keep=0)
    )
    assert {r["view"] for r in e.record["rows"]} == {"static", "adaptive"}
    rows = [r["attack"] for r in e.record["rows"] if r["view"] == "adaptive"]
    assert all("evasion_margin" in r for r in rows) == mode.endswith("reject")


@every_mode
@every_threat
def test_the_strongest_alone_are_few_attacks_that_know_all_of_the_guard(
    mode: str, threat: ThreatModel
) -> None:
    facts = facts_of(MODES[mode])
    bounds = expand("dropping-pixels-strongest", threat, facts)[0]
    plan = adaptive_plan(MODES[mode], bounds, threat)
    towards = [threat.name != "L0"]
    if threat.name != "L0" and not facts.abstains:
        towards.append(False)  # without a target, only where nothing is rejected
    assert ["targets" in adapted.arguments for adapted in plan] == towards
    for adapted in plan:
        loss = LOSSES.name_of(adapted.arguments["loss"])
        assert (loss == "evasion_confidence") == facts.abstains
        assert adapted.entry.name == "pgd"
        assert adapted.arguments["eot"] == (90 if threat.name == "L0" else 30) // facts.passes
        assert "randomness" not in adapted.arguments
        success = adapted.arguments.get("success")
        assert (LOSSES.name_of(success) == "evasion_margin") == facts.abstains
