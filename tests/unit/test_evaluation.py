"""The evaluator: its protocols by brute force, its trust in nobody, its journal, its findings."""

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS, pgd
from redoubtable.defenses import InputTransform, Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting, Threshold, calibrate
from redoubtable.evaluation import Evaluation, Settings, evaluate, guarded
from redoubtable.evaluation.outcomes import accuracy, majority_good, worst_candidate
from redoubtable.evaluation.plan import adaptive_plan, expand, static_plan
from redoubtable.files import read_json
from redoubtable.parts import Facts, Part, facts_of
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import LinearModel, RandomScale, blobs, facts, small_net

Register = Callable[..., Any]


@pytest.fixture
def register() -> Iterator[Register]:
    """Register attacks for one test."""
    names: list[str] = []

    def enter(name: str, **stated: Any) -> Callable[[Any], Any]:
        names.append(name)
        stated = {"threats": (Linf, L2, L1, L0), "access": "gradient"} | stated
        return ATTACKS.register(name, **stated)

    yield enter
    for name in names:
        ATTACKS._entries.pop(name, None)


@pytest.fixture
def x() -> Tensor:
    return blobs(30)


@pytest.fixture
def y(net: nn.Module, x: Tensor) -> Tensor:
    """What the network answers, a tenth of it turned wrong."""
    with torch.no_grad():
        labels = net(x).argmax(1)
    labels[::10] = (labels[::10] + 1) % 4
    return labels


def quick(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    attacks: Any = "pgd:steps=3",
    **arguments: Any,
) -> Evaluation:
    """An evaluation of the attacks alone."""
    return evaluate(model, x, y, threat, attacks, **{"curve": (), "check": False} | arguments)


def hidden(seed: int = 0) -> nn.Module:
    return nn.Sequential(Subsample(rate=0.3), small_net(seed=seed))


def guard(threshold: float = 0.9) -> nn.Module:
    return Rejecting(small_net(), Entropy(), threshold)


# -- brute force ---------------------------------------------------------------------------------

Rows = list[list[int]]


def shares(good: list[list[bool]]) -> list[float]:
    return [sum(row) / len(row) for row in good]


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


def chosen_by_hand(tables: list[list[list[bool]]]) -> list[int]:
    """The candidate with the fewest survived selection draws; half a draw's weight of its mean."""
    means = [sum(shares(t)) / len(t) for t in tables]
    worst = []
    for i in range(len(tables[0])):
        scores = [sum(t[i]) + 0.5 * mean for t, mean in zip(tables, means, strict=True)]
        worst.append(scores.index(min(scores)))
    return worst


def models() -> dict[str, nn.Module]:
    return {
        "deterministic": small_net(),
        "random": hidden(),
        "vote": Vote(hidden(), draws=3),
        "abstaining": guard(),
        "random and abstaining": Rejecting(Vote(hidden(), draws=2), Entropy(), 1.1),
    }


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


# -- abstention ----------------------------------------------------------------------------------


class Written(Part):
    """Answers what is written in an image's first value: 0.1, 0.3, 0.5 for 0, 1, rejection."""

    facts = facts(abstains=True)

    def forward(self, x: Tensor) -> Tensor:
        answer = ((x[:, 0, 0, 0] * 10 - 1) / 2).round().long().clamp(0, 2)
        return nn.functional.one_hot(answer, 3).to(x) + 0 * x.sum((1, 2, 3))[:, None]

    def undefended(self) -> nn.Module:
        return LinearModel(torch.ones(2, 1, 2, 2))


def test_a_rejection_is_an_error_on_clean_images_and_defends_against_attacks(
    register: Register,
) -> None:
    written = {0: 0.1, 1: 0.3, "reject": 0.5}
    labels = [0, 0, 0, 0, 0, 1, 1, 1]
    before = [0, 0, 1, "reject", 0, 1, 1, "reject"]
    after = [0, 1, 1, "reject", "reject", 0, 1, 0]
    x = torch.full((8, 1, 2, 2), 0.9)
    x_adv = x.clone()
    x[:, 0, 0, 0] = torch.tensor([written[b] for b in before])
    x_adv[:, 0, 0, 0] = torch.tensor([written[a] for a in after])

    @register("writer")
    def writer(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Write other answers."""
        return x_adv.clone()

    e = quick(Written(), x, torch.tensor(labels), Linf(0.5), "writer")
    assert e.clean_accuracy == 5 / 8
    assert e.record["clean"]["rejected"]["value"] == 2 / 8
    row = next(r for r in e.record["rows"] if r["view"] == "adaptive")
    assert row["accuracy"]["one_shot"]["value"] == 4 / 8  # right at 0 and 6, rejected at 3 and 4
    assert row["strict"]["one_shot"]["value"] == 2 / 8
    assert row["rejected"]["value"] == 2 / 8
    # The worst of the clean image and the attack: image 7 was rejected, image 2 was wrong anyway.
    assert e.robust_accuracy == 4 / 8
    assert e.record["robust"]["strict"]["one_shot"]["value"] == 2 / 8


def test_detection_is_of_clean_against_adversarial_images(x: Tensor, y: Tensor) -> None:
    e = quick(guard(), x, y, Linf(0.05), "pgd:steps=3,loss=cross_entropy")
    clean, attacked = e.arrays["clean/suspicion"][:, 0], None
    rows = [f"{r['view']}/{r['attack']}" for r in e.record["rows"]]
    labels = y.numpy()
    tables = [
        ((e.arrays[f"{p}/selection"] == labels[:, None]) | (e.arrays[f"{p}/selection"] == 4))
        for p in rows
    ]
    worst = chosen_by_hand([t.tolist() for t in tables])
    attacked = np.array([e.arrays[f"{rows[c]}/suspicion"][i, 0] for i, c in enumerate(worst)])
    pairs = (attacked[:, None] > clean).mean() + 0.5 * (attacked[:, None] == clean).mean()
    assert e.record["detection"]["auc"]["value"] == pytest.approx(pairs)
    roc = e.record["detection"]["roc"]
    assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(roc["fpr"]) >= 0)
    assert np.all(np.diff(roc["tpr"]) >= 0)


def test_suspicion_is_above_zero_exactly_where_the_image_is_rejected(x: Tensor, y: Tensor) -> None:
    e = quick(guard(), x, y, Linf(0.05))
    assert ((e.arrays["clean/suspicion"] > 0) == (e.arrays["clean/report"] == 4)).all()
    assert (e.arrays["clean/report"] == 4).any()


@pytest.mark.parametrize("threshold", [0.4, 0.9, 1.3])
def test_false_positive_rates_hold_on_the_held_out_images(
    threshold: float, x: Tensor, y: Tensor
) -> None:
    """The thresholds at 1% and 5%, used on the very images they were fitted on."""
    held_out, model = blobs(200, seed=9), guard(threshold)
    e = quick(model, x, y, Linf(0.02), "fgsm", held_out=held_out)
    assert [p["rate"] for p in e.record["rates"]] == [0.01, 0.05]
    for point in e.record["rates"]:
        again = model.at(Threshold(point["threshold"], "fpr", point["rate"], 0.0, 200))  # type: ignore[operator]
        with torch.no_grad():
            rejected = int((again(held_out).argmax(1) == 4).sum())
        assert rejected == round(point["rate"] * 200), "not the rate that the record states"
        assert point["held_out"] == 200
        clean = quick(again, x, y, Linf(0.02), "fgsm").record["clean"]
        assert point["clean"]["accuracy"]["one_shot"] == clean["accuracy"]["one_shot"]


def test_a_guard_falls_to_attacks_that_look_for_accepted_images() -> None:
    """Ranked by the plain margin, images that the guard rejects would be taken for successes."""
    model, x = guard(0.7), blobs(60)
    with torch.no_grad():
        y = model.model(x).argmax(1)  # type: ignore[operator, union-attr]
    e = quick(model, x, y, Linf(0.2), "pgd:steps=20")
    assert e.robust_accuracy < 0.1
    row = next(r for r in e.record["rows"] if r["view"] == "adaptive")
    assert row["rejected"]["value"] < 0.1


# -- what an attack sees -------------------------------------------------------------------------


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
    assert expand("quick") == ("fgsm", "pgd:steps=10")
    assert expand(["fgsm", "quick"]) == ("fgsm", "fgsm", "pgd:steps=10")
    assert expand("pgd: steps=5") == ("pgd:steps=5",)
    with pytest.raises(ValueError, match="unknown attack"):
        expand("pdg")
    with pytest.raises(ValueError, match="at least one"):
        expand([])


def test_passes_are_counted(x: Tensor, y: Tensor) -> None:
    attack = "pgd:steps=5,stop=False,loss=margin"
    for model, cost in ((small_net(), 1), (Vote(hidden(), draws=3), 3)):
        eot = max(1, 10 // cost) if facts_of(model).stochastic else 1
        e = quick(model, x, y, Linf(0.05), attack, settings=Settings(chunk=11))
        row = next(r for r in e.record["rows"] if r["view"] == "adaptive")
        assert row["passes"] == {"forward": 30 * 6 * cost * eot, "backward": 30 * 5 * cost * eot}
        assert row["passes_per_image"] == 11 * cost * eot


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


# -- trust ---------------------------------------------------------------------------------------


def _far(x: Tensor) -> Any:
    return (x + 0.3).clamp(0, 1)


def _outside(x: Tensor) -> Any:
    return x + 0.05


def _one_nan(x: Tensor) -> Any:
    x_adv = x.clone()
    x_adv[-1, 0, 0, 0] = math.nan
    return x_adv


def _one_far(x: Tensor) -> Any:
    x_adv = x.clone()
    x_adv[-1, 0, 0, 0] = 1 - x_adv[-1, 0, 0, 0].round()
    return x_adv


def _nothing(x: Tensor) -> Any:
    return None


def _fewer(x: Tensor) -> Any:
    return x[:-1]


def _other_shape(x: Tensor) -> Any:
    return x.flatten(1)


def _numpy(x: Tensor) -> Any:
    return x.numpy()


def _in_place(x: Tensor) -> Any:
    return x.clamp_(0.4, 0.6)


BAD = [_far, _outside, _one_nan, _one_far, _nothing, _fewer, _other_shape, _numpy, _in_place]


@pytest.mark.parametrize("bad", BAD, ids=lambda f: f.__name__)
def test_illegal_or_missing_images_are_refused(
    register: Register, net: nn.Module, x: Tensor, y: Tensor, bad: Any, tmp_path: Path
) -> None:
    """Also in one image of a later chunk, and where an attack writes into the images it gets."""

    @register("cheat")
    def cheat(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Any:
        """Behave for the first chunk."""
        calls.append(1)
        return x.clone() if len(calls) == 1 else bad(x)

    calls: list[int] = []
    kept = x.clone()
    with pytest.raises(ValueError, match="'cheat'") as caught:
        quick(net, x, y, Linf(0.1), "cheat", settings=Settings(chunk=15), out=tmp_path)
    assert "\n" not in str(caught.value)
    assert torch.equal(x, kept)
    assert not (tmp_path / "record.json").exists()


def test_an_attack_that_writes_into_its_images_changes_nothing_else(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    @register("scribble")
    def scribble(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Return legal images, but destroy images and labels on the way."""
        x_adv = x.clone()
        x.zero_()
        y.zero_()
        return x_adv

    kept, labels = x.clone(), y.clone()
    e = quick(net, x, y, Linf(0.1), "scribble")
    assert torch.equal(x, kept)
    assert torch.equal(y, labels)
    assert e.robust_accuracy == e.clean_accuracy


def test_an_attacks_own_error_is_passed_on(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    @register("broken")
    def broken(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Break."""
        raise ZeroDivisionError("in the attack")

    with pytest.raises(ZeroDivisionError, match="in the attack"):
        quick(net, x, y, Linf(0.1), "broken")


def test_distances_are_those_of_the_images(x: Tensor, y: Tensor) -> None:
    for threat, order in ((Linf(0.05), math.inf), (L2(0.4), 2), (L1(2.0), 1)):
        e = quick(small_net(), x, y, threat)
        prefix = f"adaptive/{e.record['rows'][0]['attack']}"
        delta = (e.images[prefix] - e.images["clean"]).reshape(12, -1).astype(np.float64)
        expected = np.linalg.norm(delta, order, axis=1)
        assert np.allclose(e.arrays[f"{prefix}/distance"][:12], expected, atol=1e-5)
        assert e.record["rows"][0]["distance"]["max"] <= float(threat.eps) * (1 + 2e-5) + 2e-5


def test_every_image_is_held_to_its_own_radius(net: nn.Module, x: Tensor, y: Tensor) -> None:
    eps = torch.linspace(0, 0.1, 30)
    settings = Settings(chunk=7)
    e = evaluate(net, x, y, Linf(eps), "pgd:steps=3,stop=False", settings=settings)
    prefix = f"adaptive/{e.record['rows'][0]['attack']}"
    distance = e.arrays[f"{prefix}/distance"]
    assert (distance <= eps.numpy() + 1e-5).all()
    assert np.allclose(distance, eps.numpy(), atol=0.02)
    assert json.dumps(e.record)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": "pdg"}, "unknown attack 'pdg'; did you mean pgd"),
        ({"attacks": ["fgsm", "pgd:stepz=4"]}, "no argument 'stepz'; did you mean steps"),
        ({"attacks": "pgd:steps=four"}, "whole number"),
        ({"attacks": []}, "at least one attack"),
        ({"y": torch.full((30,), 4)}, "label 4, but the model has 4 classes"),
        ({"y": torch.full((30,), -1)}, "negative"),
        ({"y": torch.zeros(29, dtype=torch.int64)}, r"shape \(30,\)"),
        ({"x": torch.full((30, 3, 8, 8), math.nan)}, "NaN"),
        ({"x": torch.full((30, 3, 8, 8), 2.0)}, r"\[0, 1\]"),
        ({"x": torch.zeros(30, 1, 8, 8)}, r"does not take images of shape \(1, 8, 8\)"),
        ({"x": torch.zeros(0, 3, 8, 8)}, "non-empty"),
        ({"threat": Linf(torch.ones(29))}, "29 radii for 30 images"),
    ],
)
def test_wrong_questions_are_refused_in_one_line(
    net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    given = {"x": x, "y": y, "threat": Linf(0.1), "attacks": "pgd:steps=2"} | arguments
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message) as caught:
        quick(net, given["x"], given["y"], given["threat"], given["attacks"], out=out)
    assert "\n" not in str(caught.value)
    assert not (out / "record.json").exists()


def test_an_attack_under_a_threat_that_it_does_not_know_is_refused(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    register("narrow", threats=(L2,))(pgd)
    with pytest.raises(ValueError, match="'narrow' works under L2, not under Linf"):
        quick(net, x, y, Linf(0.1), ["fgsm", "narrow"])


@pytest.mark.parametrize(
    "bad", [{"draws": 0}, {"chunk": 0}, {"batch_size": -1}, {"precision": "fp8"}]
)
def test_settings_that_cannot_be_meant_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    register: Register, net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path
) -> None:
    calls = count(register)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot write"):
        quick(net, x, y, Linf(0.1), "counted", out=tmp_path / "file" / "run")
    assert calls == []


def test_no_trace_is_left_on_the_model_and_the_random_state(x: Tensor, y: Tensor) -> None:
    model = Rejecting(Vote(hidden(), draws=2), Entropy(), 1.0)
    model.train()
    model.model.model[1].bn1.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = {n: m.training for n, m in model.named_modules()}
    kept, random_state = x.clone(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    evaluate(model, x, y, Linf(0.05), "pgd:steps=2", curve=(0.5,), held_out=blobs(20, seed=3))
    assert {n: m.training for n, m in model.named_modules()} == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(x, kept)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[arg-type, index]


def test_no_trace_is_left_after_an_exception(register: Register, x: Tensor, y: Tensor) -> None:
    @register("broken")
    def broken(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Any:
        """Return nothing."""
        torch.rand(3)

    model = hidden().train()
    random_state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="NoneType"):
        quick(model, x, y, Linf(0.05), "broken")
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_a_model_in_training_mode_is_evaluated_in_eval_mode(x: Tensor, y: Tensor) -> None:
    one = quick(small_net().train(), x, y, Linf(0.05))
    other = quick(small_net().eval(), x, y, Linf(0.05))
    assert one.robust_accuracy == other.robust_accuracy
    assert one.record["rows"] == other.record["rows"]


def test_float64(x: Tensor, y: Tensor) -> None:
    e = evaluate(
        Rejecting(small_net().double(), Entropy(), 1.0), x.double(), y, Linf(0.05), "pgd:steps=2"
    )
    assert e.clean_accuracy > 0


# -- repeating -----------------------------------------------------------------------------------


def assert_equal(a: Evaluation, b: Evaluation) -> None:
    assert a.record == b.record
    assert json.dumps(a.record) == json.dumps(b.record)
    for one, other in ((a.arrays, b.arrays), (a.images, b.images)):
        assert list(one) == list(other)
        assert all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", list(models()))
def test_the_same_seed_gives_the_same_record_bit_for_bit(name: str, x: Tensor, y: Tensor) -> None:
    def run(seed: int) -> Evaluation:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever happened before
        settings = Settings(draws=3, chunk=13)
        return evaluate(
            models()[name], x, y, Linf(0.05), ["fgsm", "pgd:steps=2"], seed=seed,
            settings=settings, curve=(0.5, 1.0), held_out=blobs(40, seed=4),
        )  # fmt: skip

    first = run(0)
    assert_equal(first, run(0))
    if name != "deterministic":
        other = run(1)
        assert any(not np.array_equal(first.arrays[k], other.arrays[k]) for k in first.arrays)
    assert first.record["settings"]["seed"] == 0


def test_an_attacks_result_does_not_depend_on_its_company(x: Tensor, y: Tensor) -> None:
    alone = quick(hidden(), x, y, Linf(0.05), "pgd:steps=2,loss=margin")
    others = quick(hidden(), x, y, Linf(0.05), ["fgsm", "bim:steps=2", "pgd:steps=2,loss=margin"])
    prefix = f"adaptive/{alone.record['rows'][-1]['attack']}"
    assert np.array_equal(alone.arrays[f"{prefix}/report"], others.arrays[f"{prefix}/report"])


def test_accuracy_never_rises_with_more_attacks(net: nn.Module, x: Tensor, y: Tensor) -> None:
    attacks = ["fgsm", "bim:steps=3", "pgd:steps=3", "pgd:steps=3,restarts=2"]
    found = [quick(net, x, y, Linf(0.03), attacks[: k + 1]).robust_accuracy for k in range(4)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("name", ["deterministic", "random", "abstaining"])
def test_the_curve_starts_at_the_clean_images_and_never_rises(
    name: str, x: Tensor, y: Tensor
) -> None:
    model = models()[name]
    settings = Settings(draws=20)
    e = quick(model, x, y, Linf(0.04), "pgd:steps=2", curve=(2.0, 0.5, 1.0), settings=settings)
    points = e.record["curve"]
    assert [p["eps"] for p in points] == pytest.approx([0, 0.02, 0.04, 0.08])
    values = [p["adaptive"]["value"] for p in points]
    noise = 0.08 if facts_of(model).stochastic else 1e-12
    assert all(later <= earlier + noise for earlier, later in itertools.pairwise(values))
    assert values[-1] < values[0]
    if not facts_of(model).abstains:
        assert values[0] == pytest.approx(e.clean_accuracy, abs=max(noise, 1e-9))


def test_the_curve_of_pixels_has_whole_radii(net: nn.Module, x: Tensor, y: Tensor) -> None:
    e = quick(net, x, y, L0(3), "pgd:steps=2", curve=(0.1, 0.25, 0.5, 1.0, 2.0))
    assert [p["eps"] for p in e.record["curve"]] == [0, 1, 2, 3, 6]


@pytest.mark.parametrize("threat", [Linf(0.012), L2(0.12)], ids=str)
def test_verdicts_do_not_depend_on_the_batch_size(threat: ThreatModel) -> None:
    net, x = small_net(), blobs(250)
    with torch.no_grad():
        y = net(x).argmax(1)
    found: list[NDArray[Any]] = []
    for batch_size in (1, 7, 256):
        e = quick(
            net, x, y, threat, "pgd:steps=4,loss=margin", settings=Settings(batch_size=batch_size)
        )
        assert 0.2 < e.robust_accuracy < 0.8, "an intermediate eps, so that something can tip"
        prefix = f"adaptive/{e.record['rows'][0]['attack']}"
        found.append(e.arrays[f"{prefix}/report"][:, 0])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] == found[other]).mean() >= 0.995


# -- the journal ---------------------------------------------------------------------------------


def count(register: Register, stop_at: int | None = None) -> list[tuple[Any, ...]]:
    """Register an attack that notes each call and is interrupted at one of them."""
    calls: list[tuple[Any, ...]] = []

    @register("counted")
    def counted(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 2,
    ) -> Images:
        """Note the call and do as PGD does."""
        if stop_at is not None and len(calls) == stop_at:
            calls.append(("killed",))
            raise KeyboardInterrupt
        calls.append((steps, threat.key, len(x), x.sum().item(), facts_of(model).stochastic))
        return pgd(model, x, y, threat, steps=steps)

    return calls


@pytest.mark.parametrize("name", ["deterministic", "random and abstaining"])
@pytest.mark.parametrize("stop_at", [0, 1, 4, 9])
def test_an_interrupted_run_goes_on_to_the_same_record(
    name: str, stop_at: int, x: Tensor, y: Tensor, tmp_path: Path
) -> None:
    def run(out: Path | None) -> Evaluation:
        return evaluate(
            models()[name], x, y, Linf(0.05), "counted", settings=Settings(draws=3, chunk=12),
            curve=(0.5, 1.0), held_out=blobs(30, seed=4), out=out,
        )  # fmt: skip

    def with_attack(stop: int | None, out: Path | None) -> tuple[list[Any], Evaluation | None]:
        names: list[str] = []

        def enter(name: str, **stated: Any) -> Any:
            names.append(name)
            return ATTACKS.register(name, threats=(Linf,), access="gradient", **stated)

        calls = count(enter, stop)
        try:
            return calls, run(out)
        except KeyboardInterrupt:
            return calls, None
        finally:
            for n in names:
                ATTACKS._entries.pop(n)

    all_calls, whole = with_attack(None, tmp_path / "whole")
    assert whole is not None
    assert len(all_calls) > 9
    done, nothing = with_attack(stop_at, tmp_path / "run")
    assert nothing is None
    assert not (tmp_path / "run" / "record.json").exists()
    rest, resumed = with_attack(None, tmp_path / "run")
    assert resumed is not None
    assert_equal(whole, resumed)
    assert done[:-1] + rest == all_calls, "finished chunks were computed again, or left out"
    again, third = with_attack(None, tmp_path / "run")
    assert again == []
    assert third is not None
    assert_equal(whole, third)
    _, memory_only = with_attack(None, None)
    assert memory_only is not None
    assert_equal(whole, memory_only)


def test_what_is_kept_is_what_was_returned(x: Tensor, y: Tensor, tmp_path: Path) -> None:
    e = quick(guard(), x, y, Linf(0.05), out=tmp_path)
    assert read_json(tmp_path / "record.json", "record") == json.loads(json.dumps(e.record))
    with np.load(tmp_path / "examples.npz", allow_pickle=False) as kept:
        assert set(kept.files) == set(e.arrays)
        assert all(np.array_equal(kept[k], e.arrays[k]) for k in kept.files)
    with np.load(tmp_path / "images.npz", allow_pickle=False) as kept:
        assert all(np.array_equal(kept[k], e.images[k]) for k in kept.files)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cell_is_named_and_not_used(
    net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path, damage: str
) -> None:
    quick(net, x, y, Linf(0.05), out=tmp_path)
    cells = sorted((tmp_path / "journal").glob("*.cell"))
    assert cells
    raw = bytearray(cells[0].read_bytes())
    raw[len(raw) // 2] ^= 1
    content = {"flip": bytes(raw), "cut": bytes(raw[: len(raw) // 2]), "empty": b""}[damage]
    cells[0].write_bytes(content)
    with pytest.raises(ValueError, match=f"{cells[0].name} is damaged") as caught:
        quick(net, x, y, Linf(0.05), out=tmp_path)
    assert "\n" not in str(caught.value)
    cells[0].unlink()
    quick(net, x, y, Linf(0.05), out=tmp_path)


class Scaled(nn.Module):
    """Keeps its setting where neither the weights nor the text show it, as many modules do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.net = small_net()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.net(x)


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "draws": {"settings": Settings(draws=5, chunk=15)},
    "chunk": {"settings": Settings(draws=4, chunk=10)},
    "batch size": {"settings": Settings(draws=4, chunk=15, batch_size=8)},
    "precision": {"settings": Settings(draws=4, chunk=15, precision="bf16")},
    "threat": {"threat": Linf(0.1)},
    "norm": {"threat": L2(0.05)},
    "radii": {"threat": Linf(torch.linspace(0, 0.05, 30))},
    "steps": {"attacks": "pgd:steps=1"},
    "images": {"x": blobs(30, seed=6)},
    "labels": {"y": torch.zeros(30, dtype=torch.int64)},
    "weights": {"model": hidden(seed=3)},
    "rate": {"model": nn.Sequential(Subsample(rate=0.31), small_net())},
    "threshold": {"model": Rejecting(hidden(), Entropy(), 0.8)},
    "plain setting": {"model": nn.Sequential(Subsample(rate=0.3), Scaled(-1.0))},
}


@pytest.mark.parametrize("change", list(OTHERS))
def test_a_folder_never_serves_another_question(
    change: str, x: Tensor, y: Tensor, tmp_path: Path
) -> None:
    base: dict[str, Any] = {
        "model": hidden(), "x": x, "y": y, "threat": Linf(0.05), "attacks": "pgd:steps=2",
        "settings": Settings(draws=4, chunk=15),
    }  # fmt: skip
    if change == "threshold":
        base["model"] = Rejecting(hidden(), Entropy(), 0.7)
    if change == "plain setting":
        base["model"] = nn.Sequential(Subsample(rate=0.3), Scaled(1.0))
    quick(**base, out=tmp_path)
    other = base | OTHERS[change]
    assert_equal(quick(**other), quick(**other, out=tmp_path))


# -- findings ------------------------------------------------------------------------------------


def verdicts(e: Evaluation) -> dict[str, str]:
    return {f["check"]: f["verdict"] for f in e.record["findings"]}


def checked(model: nn.Module, x: Tensor, y: Tensor, attacks: Any = "pgd:steps=20") -> Evaluation:
    return evaluate(model, x, y, Linf(0.1), attacks, curve=(), settings=Settings(draws=4))


@pytest.mark.parametrize("name", ["deterministic", "random", "abstaining"])
def test_an_honest_model_passes_every_check(name: str, x: Tensor, y: Tensor) -> None:
    e = checked(models()[name], x, y)
    expected = {"randomness", "gradients", "more_steps", "more_draws", "unbounded"}
    if name != "deterministic":
        expected.add("adaptive_is_stronger")
    found = verdicts(e)
    assert set(found) == expected
    # Draws are nothing to check where every answer is alike.
    random = facts_of(models()[name]).stochastic
    assert found.pop("more_draws") == ("pass" if random else "not run")
    assert set(found.values()) == {"pass"}, e.record["findings"]
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


# -- guards from their description ---------------------------------------------------------------


def test_defenses_are_put_around_a_network_in_their_order() -> None:
    net, x = small_net(), blobs(60, seed=2)
    with torch.no_grad():
        y = net(x).argmax(1)
    texts = ["subsample:rate=0.2", "vote:draws=4", "reject:rule=fpr,level=0.1"]
    model = guarded(net, texts, (x, y))
    assert isinstance(model, Rejecting)
    assert isinstance(model.model, Vote)
    assert model.model.draws == 4
    stated = facts_of(model)
    assert (stated.stochastic, stated.abstains, stated.passes) == (True, True, 4)
    assert model.threshold.rejected == pytest.approx(0.1)
    again = guarded(copy.deepcopy(net), texts, (x, y))
    assert isinstance(again, Rejecting)
    assert again.threshold == model.threshold
    other = guarded(net, texts, (x, y), seed=1)
    assert isinstance(other, Rejecting)
    assert other.threshold != model.threshold


def test_the_reference_of_a_guarded_vote_is_a_single_pass() -> None:
    net, x = small_net(), blobs(200, seed=2)
    with torch.no_grad():
        y = net(x).argmax(1)
    model = guarded(net, ["subsample:rate=0.4", "vote:draws=8", "reject:level=0.02"], (x, y))
    assert isinstance(model, Rejecting)
    single = nn.Sequential(Subsample(rate=0.4), net)
    with torch.no_grad(), seeded("look"):
        one = (single(x).argmax(1) == y).double().mean().item()
        voted = (Vote(single, draws=8)(x).argmax(1) == y).double().mean().item()
        kept = (model(x).argmax(1) == y).double().mean().item()
    assert voted > one + 0.03
    assert kept == pytest.approx(one - 0.02, abs=0.05)


@pytest.mark.parametrize(
    ("texts", "held_out", "message"),
    [
        (["subsampel"], True, "did you mean subsample"),
        (["subsample:rat=0.5"], True, "did you mean rate"),
        (["subsample:rate=2"], True, "rate"),
        (["reject"], False, "held-out"),
        (["reject", "reject"], True, "another rejection"),
        (["reject:score=entropi"], True, "unknown score"),
        (["reject:rule=best"], True, "rule"),
    ],
)
def test_defenses_that_cannot_be_built_are_refused(
    texts: list[str], held_out: bool, message: str
) -> None:
    x = blobs(20)
    y = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        guarded(small_net(), texts, (x, y) if held_out else None)


def test_calibration_leaves_the_networks_alone() -> None:
    net, x = small_net(), blobs(40)
    y = torch.zeros(40, dtype=torch.int64)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    calibrate(net, Entropy(), x, y, rule="fpr", level=0.1)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert isinstance(facts_of(net), Facts)
