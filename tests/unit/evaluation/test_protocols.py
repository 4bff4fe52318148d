"""Accuracies by brute force, and the draws that they are of."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from redoubtable.evaluation import Evaluation, Settings
from redoubtable.evaluation.outcomes import accuracy, majority_good, worst_candidate
from redoubtable.parts import Part, facts_of
from redoubtable.threat import Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import LinearModel, blobs, facts
from tests.unit.evaluation.parts import Register, chosen_by_hand, hidden, models, quick, shares

# -- brute force ---------------------------------------------------------------------------------


Rows = list[list[int]]


def assert_accuracy(got: dict[str, Any], answers: Rows, good: list[list[bool]]) -> None:
    """One accuracy of a record against the definitions, image by image."""
    n = len(answers)
    one_shot = sum(shares(good)) / n
    majority = 0
    for row, fine in zip(answers, good, strict=True):
        most = max(row.count(a) for a in row)
        majority += all(f for a, f in zip(row, fine, strict=True) if row.count(a) == most)
    worst = sum(all(row) for row in good)
    assert got["draws"] == len(answers[0])
    for name, value in (("one_shot", one_shot), ("majority", majority / n), ("worst", worst / n)):
        assert got[name]["value"] == pytest.approx(value), name
        assert got[name]["n"] == n
        assert got[name]["low"] <= value <= got[name]["high"]
    interval = stats.binomtest(worst, n).proportion_ci(method="wilson")
    assert (got["worst"]["low"], got["worst"]["high"]) == pytest.approx(
        (interval.low, interval.high)
    )
    assert one_shot >= worst / n - 1e-12


def rows_of(e: Evaluation, prefix: str, which: str) -> Rows:
    return e.arrays[f"{prefix}/{which}"].tolist()


@pytest.mark.parametrize("name", list(models()))
def test_the_record_follows_from_the_answers_of_each_image(name: str, x: Tensor, y: Tensor) -> None:
    model, labels, classes = models()[name], y.tolist(), 4
    stated = facts_of(model)
    settings = Settings(draws=4, chunk=13)
    e = quick(model, x, y, Linf(0.05), ["fgsm", "pgd:steps=3"], settings=settings)
    draws = 4 if stated.stochastic else 1

    def right(answers: Rows) -> list[list[bool]]:
        return [[a == label for a in row] for row, label in zip(answers, labels, strict=True)]

    def stands(answers: Rows) -> list[list[bool]]:
        return [
            [a in (label, classes) for a in row] for row, label in zip(answers, labels, strict=True)
        ]

    prefixes = ["clean"] + [f"{r['view']}/{r['attack']}" for r in e.record["rows"]]
    assert all(e.arrays[f"{p}/{w}"].shape == (30, draws) for p in prefixes
               for w in ("selection", "report"))  # fmt: skip
    clean = rows_of(e, "clean", "report")
    assert_accuracy(e.record["clean"]["accuracy"], clean, right(clean))
    for row in e.record["rows"]:
        answers = rows_of(e, f"{row['view']}/{row['attack']}", "report")
        assert_accuracy(row["accuracy"], answers, stands(answers))
        if stated.abstains:
            assert_accuracy(row["strict"], answers, right(answers))
            rejected = sum(a == classes for r in answers for a in r) / (30 * draws)
            assert row["rejected"]["value"] == pytest.approx(rejected)
    for view in ("adaptive", "static", "robust"):
        group = [p for p in prefixes if view == "robust" or p.split("/")[0] in ("clean", view)]
        if len(group) == 1:  # nothing but the clean images: no defense, static is adaptive
            assert name == "deterministic"
            continue
        for key, rule in (("accuracy", stands), ("strict", right)):
            if key == "strict" and not stated.abstains:
                continue
            worst = chosen_by_hand([rule(rows_of(e, p, "selection")) for p in group])
            answers = [rows_of(e, group[c], "report")[i] for i, c in enumerate(worst)]
            assert_accuracy(e.record[view][key], answers, rule(answers))
            if key == "accuracy":
                counts = [worst.count(k) for k in range(len(group))]
                assert list(e.record[view]["worst_by"].values()) == counts
    assert e.clean_accuracy == e.record["clean"]["accuracy"]["one_shot"]["value"]
    assert e.robust_accuracy == e.record["robust"]["accuracy"]["one_shot"]["value"]
    adaptive = [r for r in e.record["rows"] if r["view"] == "adaptive"]
    pgds = [r for r in adaptive if r["attack"].startswith("pgd")]
    assert e.under["pgd"] == min(r["accuracy"]["one_shot"]["value"] for r in pgds)


def test_a_deterministic_model_is_answered_by_one_look(
    net: nn.Module, x: Tensor, y: Tensor
) -> None:
    e = quick(net, x, y, Linf(0.05), settings=Settings(draws=7))
    found = e.record["robust"]["accuracy"]
    assert found["draws"] == 1
    assert found["one_shot"]["value"] == found["majority"]["value"] == found["worst"]["value"]
    with torch.no_grad():
        assert e.clean_accuracy == pytest.approx((net(x).argmax(1) == y).double().mean().item())


@pytest.mark.parametrize(
    ("answers", "good", "expected"),
    [
        ([0, 0, 1], [1, 1, 0], True),
        ([0, 1, 1], [1, 0, 0], False),
        ([0, 1], [1, 0], False),  # a tie counts against the defender
        ([0, 4], [1, 1], True),  # unless both answers are good ones
        ([4, 4, 1], [1, 1, 0], True),
        ([0, 1, 2], [1, 0, 0], False),
        ([0, 0, 1, 1, 2], [1, 1, 0, 0, 0], False),
    ],
)
def test_majorities_by_hand(answers: list[int], good: list[int], expected: bool) -> None:
    got = majority_good(np.array([answers], dtype=np.int16), np.array([good], dtype=bool))
    assert got.tolist() == [expected]


def test_accuracies_by_hand() -> None:
    answers = np.array([[0, 0], [0, 1], [1, 1], [2, 0]], dtype=np.int16)
    got = accuracy(answers, answers == 0)
    values = got.one_shot.value, got.majority.value, got.worst.value
    assert values == pytest.approx((0.5, 0.25, 0.25))


def test_among_equals_the_stronger_attack_is_shown() -> None:
    weak = np.array([[True], [True], [False], [True]])
    strong = np.array([[False], [True], [False], [False]])
    assert worst_candidate([weak, strong]).tolist() == [1, 1, 1, 1]
    assert worst_candidate([strong, weak]).tolist() == [0, 0, 0, 0]
    one = np.array([[True], [False], [True], [False]])
    assert worst_candidate([weak, one]).tolist()[2] == 0


# -- fresh draws ---------------------------------------------------------------------------------


class Coin(Part):
    """Answers class 0 or 1 by a coin, whatever the image; `turned` by its first value."""

    facts = facts(stochastic=True)

    def __init__(self, turned: bool = False) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.rand(len(x), dtype=x.dtype) < 0.5
        if self.turned:
            heads = heads ^ (x[:, 0, 0, 0] > 0.5)
        sure = torch.where(heads, 1.0, -1.0).to(x)
        return torch.stack([sure, -sure], 1) + 1e-3 * x.flatten(1)[:, :2]

    def undefended(self) -> nn.Module:
        return LinearModel(torch.ones(2, 3, 8, 8))


def test_a_lucky_draw_decides_nothing() -> None:
    """Every attack on a coin leaves it a coin: the worst of many is no worse than one."""
    x, y = blobs(300), torch.zeros(300, dtype=torch.int64)
    attacks = ["fgsm", "fgsm:label=predicted", "pgd:steps=1", "pgd:steps=2", "bim:steps=1"]
    for draws in (1, 4):
        e = quick(Coin(), x, y, Linf(0.1), attacks, settings=Settings(draws=draws))
        bound = 5 * 0.5 / math.sqrt(300 * draws)
        for view in ("robust", "adaptive", "static"):
            found = e.record[view]["accuracy"]["one_shot"]["value"]
            assert found == pytest.approx(0.5, abs=bound), view
        assert e.clean_accuracy == pytest.approx(0.5, abs=bound)


def test_selection_and_report_are_other_draws(x: Tensor, y: Tensor) -> None:
    e = quick(hidden(), x, y, Linf(0.05), settings=Settings(draws=5))
    for prefix in ("clean", f"adaptive/{e.record['rows'][-1]['attack']}"):
        selection, report = e.arrays[f"{prefix}/selection"], e.arrays[f"{prefix}/report"]
        assert not np.array_equal(selection, report)


def test_an_attack_cannot_use_the_draws_it_is_scored_on(register: Register) -> None:
    """An attack that answers its own first draw perfectly gains nothing from it."""
    seen: list[Tensor] = []

    @register("lucky", access="score")
    def lucky(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Turn each image so that the draw just seen is wrong."""
        with torch.no_grad():
            right = model(x).argmax(1) == y
        seen.append(right)
        x_adv = x.clone()
        x_adv[right, 0, 0, 0] = 1 - x_adv[right, 0, 0, 0]
        return x_adv

    x, y = blobs(400), torch.zeros(400, dtype=torch.int64)
    x[:, 0, 0, 0] = 0.2
    e = quick(Coin(turned=True), x, y, Linf(1.0), "lucky", settings=Settings(draws=1))
    assert len({tuple(s.tolist()) for s in seen}) == len(seen)
    row = next(r for r in e.record["rows"] if r["view"] == "adaptive")
    assert row["accuracy"]["one_shot"]["value"] == pytest.approx(0.5, abs=5 * 0.5 / 20)
