"""The reproduction of MVM sampling at its smallest scale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from redoubtable.defenses import MVM, Sampled, mvm_probabilities
from redoubtable.files import read_json
from redoubtable.papers import PAPERS, reproduce
from redoubtable.papers.frame import scaled
from redoubtable.papers.lab import Lab
from redoubtable.papers.mvm import beyond
from redoubtable.papers.mvm.adaptive import guard, targets
from redoubtable.papers.mvm.beyond import SameDraws, suppress
from redoubtable.papers.mvm.protocol import _draws_for_draws, adversarial, correct, detectors
from redoubtable.papers.mvm.scale import EPS, SCALES, SETTINGS, attacks_of, sampled, threat_of
from redoubtable.reports import write_reproduction
from redoubtable.seeding import seeded
from redoubtable.threat import Linf

NAMES = ["table-1", "table-2", "table-3", "figure-1", "figure-3", "adaptive", "false-alarms"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mvm")
    reproduce("mvm", NAMES, out=out, progress=False)
    return out


@pytest.fixture(scope="module")
def lab(folder: Path) -> Lab[Any]:
    return Lab(SCALES["smoke"], "digits", None, folder, progress=False)


@pytest.fixture(scope="module")
def experiments(folder: Path) -> dict[str, Any]:
    record = reproduce("mvm", NAMES, out=folder, progress=False)  # all of it is there
    return {e["name"]: e for e in record["experiments"]}


def value(experiment: dict[str, Any], series: str, view: str, measure: str = "accuracy") -> float:
    found = [
        r["found"]["value"]
        for r in experiment["rows"]
        if (r["series"], r["view"], r["measure"]) == (series, view, measure)
    ]
    assert len(found) == 1, f"{series}, {view}, {measure}"
    return found[0]


def test_the_network_falls_to_the_papers_attacks(experiments: dict[str, Any]) -> None:
    assert value(experiments["table-2"], "clean", "clean") > 0.85
    for attack in ("FGSM", "BIM-A", "BIM-B", "JSMA"):
        assert value(experiments["table-2"], attack, "static") < 0.5


def test_every_row_of_table_3_is_there_under_every_attack(experiments: dict[str, Any]) -> None:
    rows = {r["series"]: r for r in experiments["table-3"]["rows"]}
    for name in SETTINGS:
        for attack in ("FGSM", "BIM-A", "JSMA", "BIM-B"):
            found = rows[f"{attack}, {name}"]
            assert found["view"] == "static" and found["draws"] == SCALES["smoke"].passes
        assert f"noise, {name}" in rows
    for share in ("0.5N", "N", "2N"):
        assert f"FGSM, MVM c = {share} of each layer" in rows
    # The first misclassified iterate is close to the boundary, where labels of draws differ.
    assert rows["BIM-A, MVM c = 0.5N"]["found"]["value"] > 0.7


def test_published_numbers_stand_beside_what_they_are_of() -> None:
    tables = {e.name: e for e in PAPERS["mvm"].obj().experiments}
    known = {(p.series, p.data): p.value for p in tables["table-3"].published}
    assert known["FGSM, MVM c = 0.5N", "mnist"] == 0.947
    assert known["JSMA, MVM c = 2N", "svhn"] == 0.934
    assert known["BIM-A, SAP 50%", "cifar10"] == 0.785
    assert known["JSMA, dropout p = 0.5", "cifar10"] == 0.710
    assert len(known) == 63
    clean = {(p.series, p.data): p.value for p in tables["table-2"].published}
    assert clean["clean", "mnist"] == 0.987
    assert clean["BIM-A", "cifar10"] == 0.0057
    assert len(clean) == 12


def test_attacks_that_know_the_detector_leave_little(experiments: dict[str, Any]) -> None:
    found = experiments["adaptive"]
    for name in SCALES["smoke"].attacked_settings:
        at = f"{name}, 5% false positives"
        assert value(found, at, "adaptive") <= 0.25
        assert value(found, at, "adaptive", "strict accuracy") <= value(found, at, "adaptive")
        assert value(found, at, "clean") >= 0.5
        static = {r["series"]: r["found"]["value"] for r in experiments["table-3"]["rows"]}
        assert value(found, name, "adaptive", "AUC") < static[f"BIM-A, {name}"]


def test_each_guard_is_shown_all_that_was_made_and_attacked_itself(
    folder: Path, experiments: dict[str, Any]
) -> None:
    shown = {}
    for rate in ("0.05", "0.01"):
        record = read_json(
            folder / "digits" / "evaluations" / f"MVM-c-=-0.5N-at-{rate}-Linf-0.3" / "record.json",
            "record",
        )
        shown[rate] = {r["attack"] for r in record["rows"] if r["view"] == "adaptive"}
    own = {name for name in shown["0.05"] if name.startswith("pgd:")}
    made = shown["0.05"] - own
    assert len(own) == 1
    assert sum("the network without units" in name for name in made) == 2
    assert sum("one draw, pgd" in name for name in made) == 2
    assert sum("one draw, through p" in name for name in made) == 1
    assert shown["0.01"] == made | {f"against the guard at 0.05, {name}" for name in own}


def test_mvm_needs_a_fraction_of_the_draws_of_sap(experiments: dict[str, Any]) -> None:
    for row in experiments["table-1"]["rows"]:
        assert 0 < row["found"]["value"] < 0.5  # the first maps have 8 channels


def test_draws_for_draws_of_channels_that_are_alike_is_one_over_their_number() -> None:
    """Of maps whose channels are all alike a place of MVM is p values of SAP at once."""
    with seeded("maps"):
        maps = torch.rand(4, 1, 6, 6).expand(4, 8, 6, 6)
    found = _draws_for_draws(maps, 0.5)
    assert found.value == pytest.approx(1 / 8, rel=0.25)


def test_noise_of_one_size_is_drawn_from_uniformly(experiments: dict[str, Any]) -> None:
    for share in ("0.5", "1", "2"):
        rows = {
            r["series"]: r["found"]["value"]
            for r in experiments["figure-1"]["rows"]
            if r["series"].endswith(f"c = {share}N")
        }
        assert rows[f"noise without the box, c = {share}N"] == pytest.approx(0, abs=1e-6)
        assert 0.01 < rows[f"FGSM, c = {share}N"] < 0.9
        assert 0.01 < rows[f"FGSM's noise, c = {share}N"] < 0.9  # the box cuts half of it off


def test_false_alarms_are_counted_at_each_budget(experiments: dict[str, Any]) -> None:
    rows = experiments["false-alarms"]["rows"]
    points = {r["at"]: r["found"]["value"] for r in rows}
    assert set(points) == {0.0, 0.1, 0.25, 0.5}
    # Clean images: the threshold was chosen for 5% of others. Few fall: that sampling is noisier
    # (below) does not yet make a label another one; so which budget has more is chance.
    assert all(0.5 < accepted <= 1 for accepted in points.values())
    notes = {r["at"]: r["note"] for r in rows}
    assert notes[0.0] == "the network without units is right on 100.0%"


def test_a_false_alarm_is_an_image_that_the_guard_refuses(
    lab: Lab[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that refuses bright images, by an eleventh class, and takes the others for a 0."""
    x, _ = targets(lab)
    light = x.mean((1, 2, 3))
    bright = light.median()

    seen: list[torch.Tensor] = []

    def judged(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.eye(11)[(images.mean((1, 2, 3)) > bright).long() * 10]

    monkeypatch.setattr(beyond, "guard", lambda *_: judged)
    rows = list(beyond.false_alarms(lab))
    assert [r.at for r in rows] == [0.0, 0.1, 0.25, 0.5] and len(seen) == 4
    assert (light <= bright).double().mean() < 1
    for row, images in zip(rows, seen, strict=True):
        assert row.found is not None and row.found.n == len(x)
        accepted = (images.mean((1, 2, 3)) <= bright).double().mean().item()
        assert row.found.value == accepted
        moved, budget = (images - x).abs().max().item(), row.at * float(threat_of(lab.data).eps)
        assert 0.9 * budget <= moved <= budget + 1e-6


def test_suppression_makes_sampling_noisier_within_the_budget(lab: Lab[Any]) -> None:
    x, _ = targets(lab)
    model, threat = sampled(lab, SETTINGS["MVM c = 0.5N"]), Linf(0.05)
    x_adv = suppress(model, x, threat, 5)
    assert threat.contains(x_adv, x).all()

    def noise(images: torch.Tensor) -> torch.Tensor:
        from redoubtable.defenses.mvm import variance
        from redoubtable.defenses.sampling import feature_maps

        total = torch.zeros(len(images))
        for maps in feature_maps(lab.network("natural"), images):
            energies = maps.square().sum(1).flatten(1)
            p = mvm_probabilities(energies, 392)
            total += variance(energies, p, 392) / energies.sum(1)
        return total

    assert (noise(x_adv) > noise(x)).all()


def test_the_pictures_are_drawn(folder: Path, experiments: dict[str, Any]) -> None:
    write_reproduction(folder)
    page = (folder / "index.html").read_text()
    assert "ROC under JSMA" in page and "probabilities at c = 0.1N" in page
    drawn = sorted(p.stem for p in folder.glob("digits/pictures/*.svg"))
    assert len([d for d in drawn if d.startswith("ROC")]) == 4
    assert len([d for d in drawn if d.startswith("probabilities")]) == 4


def test_attacks_are_those_of_the_paper(lab: Lab[Any]) -> None:
    found = attacks_of(Lab(SCALES["smoke"], "digits", None, lab.out))
    assert str(found["FGSM"][0]) == "Linf:0.3"
    assert found["BIM-A"][1] == "bim:loss=cross_entropy,steps=50,step_size=1/100,stop=first"
    assert found["JSMA"][1] == "jsma:gamma=0.1,theta=1"
    assert {k: float(v) for k, v in EPS.items()} == {
        "mnist": 0.3, "digits": 0.3, "cifar10": 0.05, "svhn": 0.13,
    }  # fmt: skip
    x, _ = lab.attacked
    moved = (adversarial(lab, "FGSM") - x).abs().amax((1, 2, 3))
    assert moved.max() <= 0.3 + 1e-6 < 0.31 and moved.min() > 0.29


def test_the_rows_that_are_attacked_can_be_chosen() -> None:
    some = scaled(SCALES, "cpu:attacked_settings=SAP 100%;dropout p = 0.5").attacked_settings
    assert some == ("SAP 100%", "dropout p = 0.5")
    with pytest.raises(ValueError, match="`attacked_settings` are rows of table 3"):
        scaled(SCALES, "cpu:attacked_settings=SAP")


def test_mvm_is_attacked_where_its_paper_has_it_best() -> None:
    scale = SCALES["cpu"]
    for data, column in {"mnist": "mnist", "svhn": "svhn", "cifar10-jpeg": "cifar10"}.items():
        rows = next(p for p in PAPERS["mvm"].obj().experiments if p.name == "table-3").published
        best = [
            max((p for p in rows if p.data == column and p.series.startswith(f"{a}, MVM")),
                key=lambda p: p.value).series.split(", ")[1]
            for a in ("FGSM", "BIM-A", "JSMA")
        ]  # fmt: skip
        assert best.count(scale.attacked_on(data)[0]) >= 2
        assert scale.attacked_on(data)[1:] == ("SAP 100%", "dropout p = 0.5")


def test_networks_are_those_of_feinman_where_there_is_one() -> None:
    scale = SCALES["cpu"]
    assert scale.networks_on("cifar10-jpeg") == ("feinman_cifar10",)
    assert scale.networks_on("mnist") == ("feinman_mnist",)
    assert scale.training_on("mnist").epochs == 10
    assert scale.training_on("cifar10-jpeg").epochs == 25
    assert SCALES["full"].training_on("cifar10").epochs == 60
    longer = scaled(SCALES, "cpu:epochs=33")
    assert [longer.training_on(d).epochs for d in ("mnist", "cifar10", "digits")] == [33, 33, 33]
    assert scale.training_on("mnist").optimizer == "adadelta"


def test_units_of_a_comparison_all_draw_with_one_passes_probabilities(lab: Lab[Any]) -> None:
    for name, text in SETTINGS.items():
        model = sampled(lab, text)
        assert isinstance(model, Sampled)
        assert model.recompute == (name.startswith("dropout"))  # which needs none


def test_scores_are_entropies_of_the_labels_of_that_many_draws(lab: Lab[Any]) -> None:
    found = detectors(lab)[0].scores(lab, "clean")
    passes = SCALES["smoke"].passes
    possible = {round(-sum(c / passes * np.log(c / passes) for c in cs if c), 6)
                for cs in _histograms(passes, 4)}  # fmt: skip
    assert all(round(v, 6) in possible for v in found.tolist() if v < 1.2)


def _histograms(total: int, most: int) -> list[tuple[int, ...]]:
    if most == 1:
        return [(total,)]
    return [(k, *rest) for k in range(total + 1) for rest in _histograms(total - k, most - 1)]


def test_a_guards_threshold_keeps_its_false_positives(lab: Lab[Any]) -> None:
    model = guard(lab, sampled(lab, SETTINGS["MVM c = 0.5N"]), 0.05)
    assert model.threshold.rejected <= 0.05
    assert model.threshold.n == SCALES["smoke"].held_out
    assert model.model.draws == model.score.votes == SCALES["smoke"].passes


def test_only_images_that_the_plain_network_gets_right_are_scored_and_attacked(
    lab: Lab[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = lab.attacked
    wrong = torch.arange(len(y)) % 4 == 1
    told = {lab.scale.images: (x, torch.where(wrong, (y + 1) % 10, y))}
    monkeypatch.setattr(Lab, "tensors", lambda self, split, limit: told[limit])
    with torch.no_grad():
        right = lab.network("natural")(x).argmax(1) == told[len(y)][1]
    assert 0 < right.sum() < len(y)
    assert torch.equal(correct(lab), right.nonzero().flatten())
    assert torch.equal(targets(lab)[0], x[right][: lab.scale.adaptive_images])
    assert len(detectors(lab)[-1].scores(lab, "clean")) == right.sum()


def test_known_draws_are_the_same_whatever_stands_beside_an_image(lab: Lab[Any]) -> None:
    x, _ = targets(lab)
    model = SameDraws(Sampled(lab.network("natural"), MVM(0.5)), 3)
    with torch.no_grad():
        found = model(x)
        assert torch.equal(found, model(x))
        assert torch.equal(found[2:3], model(x[2:3]))
        assert not torch.equal(found, SameDraws(model.model, 4)(x))
