"""What static and adaptive attacks see, and which of them are planned."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks.search import FRESH, RIVALS
from redoubtable.defenses import InputTransform, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import Settings, evaluate
from redoubtable.evaluation.plan import adaptive_plan, expand, static_plan
from redoubtable.parts import facts_of
from redoubtable.threat import Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import blobs, facts, small_net
from tests.unit.evaluation.parts import Register, guard, hidden, quick, verdicts


class Negative(InputTransform):
    """Shows the network the negative of the image: nothing for those who know it."""

    facts = facts()

    def transform(self, x: Tensor) -> Tensor:
        return 1 - x

    @classmethod
    def around(cls) -> tuple[nn.Module, Tensor, Tensor]:
        x = blobs(60)
        model = nn.Sequential(cls(), small_net())
        with torch.no_grad():
            return model, x, model(x).argmax(1)


def test_what_fools_only_those_who_do_not_know_it_falls_to_the_adaptive_attack() -> None:
    model, x, y = Negative.around()
    e = evaluate(model, x, y, Linf(0.06), "pgd:steps=5", curve=())
    assert e.clean_accuracy == 1
    assert e.static_accuracy > 0.6
    assert e.record["adaptive"]["accuracy"]["one_shot"]["value"] < 0.2
    assert e.robust_accuracy < 0.2
    assert verdicts(e)["adaptive_is_stronger"] == "pass"


def test_static_attacks_see_the_bare_model_and_adaptive_ones_all_of_it(
    register: Register, x: Tensor, y: Tensor
) -> None:
    seen: list[tuple[bool, bool]] = []

    @register("looker")
    def looker(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Look at the model and do nothing."""
        stated = facts_of(model)
        seen.append((stated.stochastic, stated.abstains))
        return x.clone()

    model = Rejecting(hidden(), Entropy(), 1.0)
    e = quick(model, x, y, Linf(0.1), "looker")
    assert seen == [(False, False), (True, True)]
    assert [r["view"] for r in e.record["rows"]] == ["static", "adaptive"]


def test_without_a_defense_static_is_adaptive(net: nn.Module, x: Tensor, y: Tensor) -> None:
    e = quick(net, x, y, Linf(0.05))
    assert {r["view"] for r in e.record["rows"]} == {"adaptive"}
    assert e.static_accuracy == e.record["adaptive"]["accuracy"]["one_shot"]["value"]
    assert "note" in e.record["static"]


def test_the_plan_adapts_to_facts_and_objectives() -> None:
    def texts(model: nn.Module, *attacks: str) -> list[str]:
        return [b.text for b in adaptive_plan(model, attacks, Linf(0.1))]

    assert texts(small_net(), "pgd") == ["pgd:loss=cross_entropy", "pgd:loss=margin"]
    assert texts(small_net(), "pgd:loss=margin") == ["pgd:loss=margin"]
    assert texts(hidden(), "pgd") == [
        "pgd:eot=10,loss=cross_entropy,momentum=0.9",
        "pgd:eot=10,loss=margin,momentum=0.9",
    ]
    for model, draws in ((Vote(hidden(), draws=5), 2), (Vote(hidden(), draws=50), 1)):
        assert texts(model, "pgd:loss=margin") == [f"pgd:eot={draws},loss=margin,momentum=0.9"]
    own = "pgd:eot=3,loss=margin,momentum=0.0"
    assert texts(hidden(), own) == [own]
    assert texts(guard(), "pgd") == [
        "pgd:loss=evasion_margin,success=evasion_margin",
        "pgd:loss=evasion_confidence,success=evasion_margin",
    ]
    # The user's loss stands, but an image is a success only if the guard accepts it.
    assert texts(guard(), "pgd:loss=cross_entropy") == [
        "pgd:loss=cross_entropy,success=evasion_margin"
    ]
    assert texts(guard(), "fgsm") == ["fgsm:loss=evasion_margin", "fgsm:loss=evasion_confidence"]


def test_static_attacks_take_all_their_steps() -> None:
    """Just across the bare model's boundary is not yet across the defended one's."""
    assert [b.text for b in static_plan(["pgd", "bim"], Linf(0.1))] == ["pgd:stop=False", "bim"]
    assert [b.text for b in static_plan(["pgd:stop=true"], Linf(0.1))] == ["pgd:stop=True"]


def test_suites_and_lists_are_read() -> None:
    def texts(attacks: Any) -> list[str]:
        return [b.text for b in expand(attacks, Linf(0.1))[0]]

    assert texts("quick") == ["fgsm", "pgd:steps=10"]
    assert texts(["fgsm", "quick"]) == ["fgsm", "fgsm", "pgd:steps=10"]
    assert texts("pgd: steps=5") == ["pgd:steps=5"]
    with pytest.raises(ValueError, match="did you mean pgd"):
        texts("pdg")
    with pytest.raises(ValueError, match="at least one"):
        texts([])


def test_passes_are_counted(x: Tensor, y: Tensor) -> None:
    attack = "pgd:steps=5,stop=False,loss=margin"
    for model, cost in ((small_net(), 1), (Vote(hidden(), draws=3), 3)):
        random = facts_of(model).stochastic
        eot = max(1, 10 // cost) if random else 1
        again = (1 + RIVALS) * FRESH if random else 0  # the kept images, on fresh draws
        e = quick(model, x, y, Linf(0.05), attack, settings=Settings(chunk=11))
        row = next(r for r in e.record["rows"] if r["view"] == "adaptive")
        passes = {"forward": 30 * (6 + again) * cost * eot, "backward": 30 * 5 * cost * eot}
        assert row["passes"] == passes
        assert row["passes_per_image"] == (11 + again) * cost * eot


def test_what_a_low_precision_copy_claims_is_looked_at_by_the_model(
    net: nn.Module, x: Tensor, y: Tensor
) -> None:
    fp32 = quick(net, x, y, Linf(0.03), "pgd:steps=10")
    bf16 = quick(net, x, y, Linf(0.03), "pgd:steps=10", settings=Settings(precision="bf16"))
    assert bf16.record["settings"]["precision"] == "bf16"
    assert bf16.robust_accuracy == pytest.approx(fp32.robust_accuracy, abs=0.1)
    prefix = f"adaptive/{bf16.record['rows'][0]['attack']}"
    with torch.no_grad():
        answers = net(torch.from_numpy(bf16.images[prefix])).argmax(1)
    assert answers.tolist() == bf16.arrays[f"{prefix}/report"][:12, 0].tolist()
