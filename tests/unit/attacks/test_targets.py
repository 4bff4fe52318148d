"""Targets that are chosen by name: who is aimed at, and that attacks get there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS, TARGETS, chosen, pgd
from redoubtable.attacks.targets import random_targets, runner_up
from redoubtable.data import read
from redoubtable.defenses import Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import Settings, evaluate
from redoubtable.evaluation.plan import adaptive_plan
from redoubtable.parts import Part
from redoubtable.seeding import seeded
from redoubtable.threat import Linf
from redoubtable.training.stored import store
from tests.networks import LinearModel, blobs, facts, small_net
from tests.unit.attacks.targets_parts import behind


class Coin(Part):
    """In four passes of five class 0 is the likeliest and class 1 the next, else class 2 is sure.

    Class 1 is the runner-up of most passes and of the mean logits, class 2 of the mean probability.
    """

    facts = facts(stochastic=True)

    def forward(self, x: Tensor) -> Tensor:
        usual = torch.tensor([3.0, 1.0, -1.0, -9.0])
        rare = torch.tensor([0.0, 0.0, 5.0, -9.0])
        return torch.where(torch.rand(len(x), 1) < 0.8, usual, rare) + 0 * x.sum()

    def undefended(self) -> nn.Module:
        return nn.Identity()


def test_a_random_target_is_any_other_class_and_a_seed_names_it() -> None:
    y = torch.arange(4000) % 4
    model = LinearModel(torch.randn(4, 1, 1, 2))
    with seeded("targets"):
        targets = random_targets(model, torch.rand(4000, 1, 1, 2), y, None)
    assert not bool((targets == y).any())
    counts = torch.zeros(4, 4).index_put_((y, targets), torch.ones(4000), accumulate=True)
    off = counts[~torch.eye(4, dtype=torch.bool)]
    assert bool(((off > 260) & (off < 410)).all())  # a third of 1,000 each
    with seeded("targets"):
        assert torch.equal(targets, random_targets(model, torch.rand(4000, 1, 1, 2), y, None))
    with pytest.raises(ValueError, match="at least two classes"):
        random_targets(LinearModel(torch.ones(1, 1, 1, 2)), torch.rand(1, 1, 1, 2), y[:1], None)


def test_the_runner_up_is_the_likeliest_other_class() -> None:
    net, x = small_net(), blobs(20)
    with torch.no_grad():
        ranked = net(x).argsort(1, descending=True)
    assert torch.equal(runner_up(net, x, ranked[:, 0], None), ranked[:, 1])
    assert torch.equal(runner_up(net, x, ranked[:, 2], None), ranked[:, 0])
    # A rejection is no class, however large.
    guard = Rejecting(net, Entropy(), -5.0)
    with torch.no_grad():
        assert bool((guard(x).argmax(1) == 4).all())
    assert torch.equal(runner_up(guard, x, ranked[:, 0], None), ranked[:, 1])


def test_of_a_random_model_it_is_that_of_the_mean_probability() -> None:
    y = torch.zeros(30).long()
    for model in (Coin(), Vote(Coin(), draws=5)):
        with seeded("runner-up"):
            targets = runner_up(model, torch.rand(30, 1, 1, 2), y, None)
        assert (targets == 2).float().mean() > 0.7


@pytest.mark.parametrize("name", [entry.name for entry in TARGETS])
def test_text_names_them_for_every_attack(name: str) -> None:
    for entry in ATTACKS:
        bound = ATTACKS.bind(f"{entry.name}:targets={name}")
        assert bound.arguments["targets"] is TARGETS[name].obj
        assert ATTACKS.bind(bound.text) == bound
        assert bound.text == f"{entry.name}:targets={name}"
    with pytest.raises(ValueError, match="did you mean runner_up"):
        ATTACKS.bind("pgd:targets=runnerup")


def test_only_a_choice_is_replaced() -> None:
    model, x, y, targets = behind()
    given = {"steps": 3, "targets": targets}
    assert chosen(given, model, x, y) == given
    assert chosen({"steps": 3}, model, x, y) == {"steps": 3}
    named = {"steps": 3, "targets": runner_up}
    assert chosen(named, model, x, y)["targets"].tolist() == [3, 3]
    assert named["targets"] is runner_up


def test_an_evaluation_aims_at_them_and_counts_any_wrong_answer() -> None:
    """The nearest other class is 3; class 2 lies behind class 1, and whoever aims at it gets there.

    At 0.15 only the corner of class 3 is left for an attack that aims at 2 to be wrong at all.
    """
    model, x, y, _ = behind()
    x, y = x.repeat(4, 1, 1, 1), y.repeat(4)
    attacks = ["pgd:stop=False,targets=random", "pgd:targets=runner_up"]
    e = evaluate(model, x, y, Linf(0.3), attacks, curve=(), check=False, settings=Settings(chunk=4))
    assert e.robust_accuracy == 0
    answers = {r: e.arrays[f"adaptive/{r}/report"][:, 0] for r in e.under if ":" in r}
    random = np.concatenate([v for k, v in answers.items() if "targets=random" in k])
    assert set(random) == {1, 2, 3}  # over 16 draws of three classes
    second = np.concatenate([v for k, v in answers.items() if "runner_up" in k])
    assert set(second) == {3}


def test_every_chunk_has_targets_of_its_own() -> None:
    """What one chunk was aimed at must not stay for the next: of another size it would break."""
    model, x, y, _ = behind()
    x, y = torch.cat([x, x, x[:1]]), torch.cat([y, y, y[:1]])
    e = evaluate(
        model, x, y, Linf(0.3), "pgd:targets=random", curve=(), check=False,
        settings=Settings(chunk=2),
    )  # fmt: skip
    assert e.robust_accuracy == 0


def test_a_plan_adapts_a_targeted_attack() -> None:
    guard = Rejecting(small_net(), Entropy(), 1.0)
    plan = adaptive_plan(guard, ["pgd:loss=cross_entropy,targets=runner_up"], Linf(0.1))
    assert [b.text for b in plan] == [
        "pgd:loss=cross_entropy,success=evasion_margin,targets=runner_up"
    ]


def test_checks_run_beside_targeted_attacks() -> None:
    x = blobs(24)
    net = small_net()
    with torch.no_grad():
        y = net(x).argmax(1)
    e = evaluate(net, x, y, Linf(0.01), "pgd:steps=4,targets=random", curve=())
    assert {f["check"]: f["verdict"] for f in e.record["findings"]}["uphill"] in ("pass", "fail")


def test_checks_repeat_targeted_attacks_where_there_are_no_others() -> None:
    model, x = nn.Sequential(Subsample(rate=0.3), small_net()), blobs(24)
    with torch.no_grad():
        y = small_net()(x).argmax(1)
    towards, away = (f"pgd:steps=4,eot=1,loss=margin{t}" for t in (",targets=runner_up", ""))
    checks = ["fixed_randomness", "monotone_in_eps", "more_restarts"]
    for attacks, targeted in (([towards], True), ([towards, away], False)):
        e = evaluate(
            model, x, y, Linf(0.05), attacks, curve=(), check=checks, settings=Settings(draws=2)
        )
        found = {f["check"]: f for f in e.record["findings"] if f["check"] in checks}
        assert {f["verdict"] for f in found.values()} <= {"pass", "fail"}, found
        assert ("targets=runner_up" in found["monotone_in_eps"]["says"]) == targeted


def test_images_are_stored_towards_them(tmp_path: Path) -> None:
    data = read("digits", "test", limit=6)
    seen: list[int] = []

    class Seer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return small_net(1, 10)(x)

    store(Seer(), data, "pgd:steps=2,targets=runner_up", Linf(0.1), tmp_path / "stored")
    assert seen


def test_towards_the_targets_the_image_is_ranked_by_them() -> None:
    model, x, y, targets = behind()
    given = chosen({"targets": lambda *_: targets}, model, x, y)
    x_adv = pgd(model, x, y, Linf(0.3), **given)
    with torch.no_grad():
        assert torch.equal(model(x_adv).argmax(1), targets)
