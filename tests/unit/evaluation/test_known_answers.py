"""Random and abstaining models whose numbers can be computed by hand, and evaluators that err."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from redoubtable.detectors import Rejecting, Score, Threshold
from redoubtable.evaluation import Evaluation, Settings
from redoubtable.evaluation.candidates import Bench
from redoubtable.evaluation.outcomes import Look
from redoubtable.parts import Part
from redoubtable.statistics import clopper_pearson
from redoubtable.threat import Linf
from tests.networks import LinearModel, blobs, facts
from tests.unit.evaluation.parts import guard, quick

# -- a model that answers at random --------------------------------------------------------------

RIGHT, DRAWS, IMAGES = 0.7, 5, 1500


class Biased(Part):
    """Answers 0 with a known probability, whatever the image, else 1 or 2 alike."""

    facts = facts(stochastic=True)

    def forward(self, x: Tensor) -> Tensor:
        draw = torch.rand(len(x), dtype=x.dtype)
        answer = (draw > RIGHT).long() + (draw > (1 + RIGHT) / 2).long()
        return nn.functional.one_hot(answer, 3).to(x) + 1e-3 * x.flatten(1)[:, :3]

    def undefended(self) -> nn.Module:
        return LinearModel(torch.ones(3, 3, 2, 2))


def by_hand() -> dict[str, float]:
    """One answer; the commonest of five, ties lost; all of five."""
    majority = 0.0
    other = (1 - RIGHT) / 2
    for zeros in range(DRAWS + 1):
        for ones in range(DRAWS - zeros + 1):
            twos = DRAWS - zeros - ones
            if zeros > max(ones, twos):
                counts = (zeros, ones, twos)
                majority += stats.multinomial.pmf(counts, DRAWS, (RIGHT, other, other))
    return {"one_shot": RIGHT, "majority": majority, "worst": RIGHT**DRAWS}


def assert_by_hand(e: Evaluation) -> None:
    """Every number of the record against the value that follows, within an exact 99.9% interval."""
    for view in ("clean", "static", "adaptive", "robust"):
        for rule, truth in by_hand().items():
            share = e.record[view]["accuracy"][rule]
            # The answers of an image are independent here, so a mean is of as many coins.
            coins = IMAGES * DRAWS if rule == "one_shot" else IMAGES
            exact = clopper_pearson(round(share["value"] * coins), coins, 0.999)
            assert exact.low <= truth <= exact.high, (view, rule, share["value"], truth)
            assert share["low"] - 0.02 <= truth <= share["high"] + 0.02
    assert e.record["clean"]["accuracy"]["one_shot"]["high"] - RIGHT < 0.03


def measured() -> Evaluation:
    x, y = blobs(IMAGES, height=2, width=2), torch.zeros(IMAGES, dtype=torch.int64)
    attacks = ["fgsm", "bim:steps=1", "bim:steps=2"]
    return quick(Biased(), x, y, Linf(0.1), attacks, settings=Settings(draws=DRAWS))


def test_all_three_protocols_report_what_follows_by_hand() -> None:
    assert_by_hand(measured())


def test_an_evaluator_that_decides_by_one_draw_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees one answer and takes it for all: majority and worst are then those of one."""
    look = Bench._look

    def lucky(self: Bench, *arguments: Any) -> Look:
        seen = look(self, *arguments)
        return Look(np.repeat(seen.answers[:, :1], DRAWS, 1), seen.suspicion)

    monkeypatch.setattr(Bench, "_look", lucky)
    with pytest.raises(AssertionError):
        assert_by_hand(measured())


def test_an_evaluator_that_reports_the_draws_it_selects_by_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worst of many attacks is then the unluckiest of many draws."""
    look = Bench._look

    def same(self: Bench, purpose: str, *arguments: Any) -> Look:
        return look(self, "report", *arguments)

    monkeypatch.setattr(Bench, "_look", same)
    with pytest.raises(AssertionError):
        assert_by_hand(measured())


# -- a detector in the loss ----------------------------------------------------------------------


class Brightness(Score):
    """How bright the left half of an image is."""

    facts = facts()

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return x[..., :2].mean((1, 2, 3))


def guarded(n: int = 12) -> tuple[Rejecting, Tensor, Tensor]:
    """Class 0 of a sum of eight left and eight right values below a bound; a bright left rejects.

    At 0.3 everywhere the class changes where the sum rises by 0.8: by 0.05 in every value, or by
    0.1 in the right ones alone. The detector rejects where the left ones rise by 0.02.
    """
    weight = torch.stack([-torch.ones(1, 4, 4), torch.ones(1, 4, 4)])
    bias = torch.tensor([4.8 + 0.8, -(4.8 + 0.8)])
    model = Rejecting(LinearModel(weight, bias), Brightness(), 0.32)
    return model, torch.full((n, 1, 4, 4), 0.3), torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize(
    ("eps", "bare", "joint"),
    [
        (0.04, 1.0, 1.0),  # the class can't change at all
        (0.07, 1.0, 1.0),  # it can, but not unseen: 8 * 0.07 + 8 * 0.02 < 0.8
        (0.12, 1.0, 0.0),  # unseen by the right half: 8 * 0.12 + 8 * 0.02 > 0.8
    ],
)
def test_the_joint_attack_evades_the_detector_that_an_attack_on_the_network_wakes(
    eps: float, bare: float, joint: float
) -> None:
    model, x, y = guarded()
    e = quick(model, x, y, Linf(eps), "pgd:steps=60,restarts=2")
    assert e.clean_accuracy == 1.0
    assert e.record["static"]["accuracy"]["one_shot"]["value"] == bare
    assert e.record["adaptive"]["accuracy"]["one_shot"]["value"] == joint
    if eps == 0.12:
        rows = {v: [r for r in e.record["rows"] if r["view"] == v] for v in ("static", "adaptive")}
        strict = e.record["static"]["strict"]["one_shot"]["value"]
        assert strict == 0.0, "the attack on the network alone did not even fool the network"
        views = e.record["detection"]["views"]
        assert views["static"]["auc"]["value"] == 1.0
        assert views["static"]["attacks"] == [f"static {r['attack']}" for r in rows["static"]]
        assert all(r["rejected"]["value"] == 1.0 for r in rows["static"])
        assert min(r["rejected"]["value"] for r in rows["adaptive"]) == 0.0


# -- coverage ------------------------------------------------------------------------------------


def test_coverage_is_of_the_images_that_get_an_answer(x: Tensor, y: Tensor) -> None:
    e = quick(guard(), x, y, Linf(0.05), "pgd:steps=3")
    prefixes = {f"{r['view']}/{r['attack']}": r for r in e.record["rows"]}
    for prefix, numbers in {**prefixes, "clean": e.record["clean"]}.items():
        answers = e.arrays[f"{prefix}/report"][:, 0].tolist()
        answered = [(a, label) for a, label in zip(answers, y.tolist(), strict=True) if a != 4]
        coverage = numbers["coverage"]
        assert coverage["answered"]["value"] == pytest.approx(len(answered) / 30)
        assert coverage["answered"]["value"] == pytest.approx(1 - numbers["rejected"]["value"])
        right = sum(a == label for a, label in answered)
        assert coverage["accuracy"]["value"] == pytest.approx(right / len(answered))
        assert coverage["accuracy"]["n"] == len(answered) < 30


def test_a_model_that_rejects_everything_has_no_accuracy_on_what_it_answers() -> None:
    model, x, y = guarded()
    shut = model.at(Threshold(-1.0, "given", 0, 0, 0))
    e = quick(shut, x, y, Linf(0.04))
    assert e.record["clean"]["coverage"]["accuracy"] is None
    assert e.record["clean"]["coverage"]["answered"]["value"] == 0
