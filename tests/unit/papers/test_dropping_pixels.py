"""Every experiment of the paper, on real digits at the smallest scale, from the command line."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from redoubtable.attacks import ATTACKS
from redoubtable.cli import app
from redoubtable.evaluation import Settings, evaluate
from redoubtable.papers import PAPERS
from redoubtable.papers.dropping_pixels import attacks, beyond
from redoubtable.papers.dropping_pixels.attacks import paper_attacks
from redoubtable.papers.dropping_pixels.scale import (
    SCALES,
    UNIFORM,
    budget_of,
    masked,
    threat_of,
)
from redoubtable.papers.frame import scaled
from redoubtable.papers.lab import Lab

NAMES = [e.name for e in PAPERS["dropping-pixels"].obj().experiments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reproduced")
    done = CliRunner().invoke(app, ["reproduce", "dropping-pixels", "--out", str(out)])
    assert done.exit_code == 0, done.output
    for name in NAMES:
        assert f"{name}, digits" in " ".join(done.stdout.split())
    return out


@pytest.fixture(scope="module")
def experiments(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "record.json").read_text())
    return {e["name"]: e for e in record["experiments"]}


def value(experiment: Any, series: str, view: str, at: float | None = None) -> float:
    (row,) = (
        r
        for r in experiment["rows"]
        if (r["series"], r["view"], r["at"], r["measure"]) == (series, view, at, "accuracy")
    )
    return float(row["found"]["value"])


def test_all_experiments_are_there_in_their_order(experiments: dict[str, Any]) -> None:
    assert list(experiments) == NAMES


def test_networks_have_learned_and_masks_cost_accuracy(experiments: dict[str, Any]) -> None:
    natural = value(experiments["table-1"], "small_cnn, original", "clean")
    masked = value(experiments["table-1"], "small_cnn, r = 0.9", "clean")
    assert natural > 0.9
    assert 0.5 < masked < natural


def test_variants_have_their_accuracies_beside_their_maps(experiments: dict[str, Any]) -> None:
    for variant in ("originals to uniform (V1)", "noisy to uniform (V2)"):
        assert 0.5 < value(experiments["figure-3"], f"small_cnn, {variant}", "clean") < 1


def test_published_numbers_stand_where_the_paper_has_them() -> None:
    published = {
        e.name: [p.value for p in e.published] for e in PAPERS["dropping-pixels"].obj().experiments
    }
    assert published["table-1"] == [0.939, 0.752, 0.794, 0.811, 0.830]
    assert published["figure-3"] == [0.789, 0.809]


@pytest.mark.parametrize("name", ["figure-5", "figure-6"])
def test_no_attack_that_knows_all_leaves_more_than_the_papers(
    experiments: dict[str, Any], name: str
) -> None:
    rows = experiments[name]["rows"]
    pairs = {(r["series"], r["at"]) for r in rows if r["view"] == "static"}
    assert len(pairs) >= 6
    for series, at in pairs:
        static = value(experiments[name], series, "static", at)
        assert value(experiments[name], series, "adaptive", at) <= static + 1e-9


def test_every_guard_is_shown_what_was_made_against_the_others(folder: Path) -> None:
    def shown(guard: str) -> set[str]:
        (place,) = (folder / "digits" / "evaluations").glob(f"{guard}-0.9-Linf*")
        rows = json.loads((place / "record.json").read_text())["rows"]
        start = "worst against "
        return {r["attack"].removeprefix(start) for r in rows if r["attack"].startswith(start)}

    order = ["the natural network", "the network without masks", "one mask", "ten masks"]
    assert shown("one-mask") == set(order[:2])
    assert shown("ten-masks") == set(order[:3])
    assert shown("one-mask--rejecting") == set(order)
    assert shown("ten-masks--rejecting") == {*order, "one mask, rejecting"}


def test_what_is_shown_to_others_was_attacked_for_all_of_its_steps(folder: Path) -> None:
    for place in ("natural-Linf*", "one-mask-0-Linf*"):
        (record,) = (folder / "digits" / "evaluations").glob(f"{place}/record.json")
        told = json.loads(record.read_text())
        rows = [r for r in told["rows"] if "stop=False" in r["attack"]]
        assert len(rows) == 2
        assert all(r["passes"]["backward"] == told["data"]["n"] * 5 for r in rows)


def test_without_rate_0_attacks_still_transfer_from_the_network_without_masks(
    tmp_path: Path,
) -> None:
    choice = ["--figure", "5", "--scale", "smoke:rates=0.9", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["reproduce", "dropping-pixels", *choice])
    assert done.exit_code == 0, done.output
    (experiment,) = json.loads((tmp_path / "record.json").read_text())["experiments"]
    masked = [r["at"] for r in experiment["rows"] if "natural" not in r["series"]]
    assert masked and set(masked) == {0.9}
    (record,) = tmp_path.glob("digits/evaluations/ten-masks-0.9-*/record.json")
    assert "worst against the network without masks" in record.read_text()


def test_masks_do_not_make_a_network_look_robust_that_is_not(folder: Path) -> None:
    """Section 5.7: any change at all leaves nothing, and fixed masks are no harder than fresh."""
    lab = Lab(SCALES["smoke"], "digits", None, folder, progress=False)
    model = masked(lab.network(UNIFORM), 0.9)
    checks, settings = ["unbounded", "fixed_randomness"], Settings(draws=4)
    attack, threat = "pgd:steps=20,eot=10", threat_of(lab, "Linf")
    done = evaluate(model, *lab.attacked, threat, attack, check=checks, curve=(), settings=settings)
    found = {f["check"]: f for f in done.record["findings"] if f["check"] in checks}
    assert [found[check]["verdict"] for check in checks] == ["pass", "pass"]
    assert found["fixed_randomness"]["evidence"]["fixed"] < 0.5


def test_the_natural_network_falls(experiments: dict[str, Any]) -> None:
    for name, norm in (("figure-6", "L2"), ("figure-6", "Linf")):
        assert value(experiments[name], f"{norm}, natural network", "adaptive", 0.0) <= 0.05


def test_less_is_proved_of_more_pixels_and_nothing_where_nothing_can_be(
    experiments: dict[str, Any],
) -> None:
    certificate = experiments["certificate"]
    proved = [value(certificate, "r = 0.9", "certified", k) for k in (0, 1, 3, 6, 13)]
    assert proved == sorted(proved, reverse=True)
    assert proved[1] > 0 and proved[-1] == 0  # more than 6 pixels can't be certified at 0.9
    assert value(certificate, "r = 0.9", "adaptive", 1) > 0


def test_more_masks_are_no_worse_an_attack(experiments: dict[str, Any]) -> None:
    masks = experiments["masks"]
    one, hundred = (value(masks, "Linf, one mask", "static", k) for k in (1, 100))
    assert hundred < one


def test_the_guard_is_attacked_with_as_much_as_a_row_says(
    folder: Path, experiments: dict[str, Any]
) -> None:
    efforts = {"masks": [(1, 5), (3, 5), (9, 5)], "steps": [(3, 5), (3, 10), (3, 20)]}
    for name, points in efforts.items():
        for votes, steps in points:
            where = f"ten-masks--rejecting-0.9--{votes}-votes--{steps}-steps-Linf-0.2"
            record = json.loads((folder / f"digits/evaluations/{where}/record.json").read_text())
            (row,) = (r for r in record["rows"] if r["view"] == "adaptive")
            words = {f"pgd:eot={votes}", "loss=evasion_confidence", f"steps={steps}"}
            assert words | {"targets=runner_up"} < set(row["attack"].split(","))
            at = 10 * votes if name == "masks" else steps
            shown = value(experiments[name], "Linf, ten masks, rejecting", "adaptive", at)
            assert shown == row["accuracy"]["one_shot"]["value"]


@pytest.mark.parametrize(
    ("guard", "rates"), [(0.9, (0.5, 0.7, 0.8, 0.9)), (0.95, (0.8, 0.9, 0.95))]
)
def test_gradients_are_taken_at_the_drop_rate_that_a_row_says(
    folder: Path, experiments: dict[str, Any], guard: float, rates: tuple[float, ...]
) -> None:
    for rate in rates:
        name = f"ten-masks--rejecting-{guard:g}--3-votes--5-steps--gradients-at-{rate:g}-Linf-0.2"
        record = json.loads((folder / f"digits/evaluations/{name}/record.json").read_text())
        (row,) = (r for r in record["rows"] if r["view"] == "adaptive")
        share = ATTACKS.bind(row["attack"]).arguments["randomness"]
        assert guard * share == pytest.approx(rate, abs=1e-3)
        series = f"Linf, ten masks, rejecting at {guard:g}"
        shown = value(experiments["gradients"], series, "adaptive", rate)
        assert shown == row["accuracy"]["one_shot"]["value"]


def test_the_guard_is_given_more_under_the_norms_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(beyond, "_point", lambda *rest: None)
    monkeypatch.setattr(
        beyond, "_against_guard", lambda lab, norm, at, votes, steps: asked.append((norm, steps))
    )
    lab = Lab(scaled(SCALES, "cpu:guard_norms=L2;L0"), "gtsrb", None, tmp_path)
    list(beyond.steps(lab))
    assert asked == [(norm, k * n) for norm, n in (("L2", 40), ("L0", 60)) for k in (1, 2, 4)]
    for wrong in ("L1", ""):
        with pytest.raises(ValueError, match=f"`guard_norms` are L0, Linf and L2, got {wrong}"):
            scaled(SCALES, f"cpu:guard_norms={wrong}")


@pytest.mark.parametrize(("eps_scale", "times"), [("centred", 1), ("unit", 2)])
def test_budgets_are_half_of_what_the_paper_says_of_its_scale(
    tmp_path: Path, eps_scale: str, times: int
) -> None:
    scale = scaled(SCALES, f"cpu:eps_scale={eps_scale}")
    for data, linf, l2 in (("gtsrb", 16, 256), ("cifar10-jpeg", 8, 127.5)):
        lab = Lab(scale, data, None, tmp_path)
        assert threat_of(lab, "Linf").eps == pytest.approx(times * linf / 255)
        assert threat_of(lab, "L2").eps == pytest.approx(times * l2 / 255)
        assert budget_of(lab, "Linf").step * 255 == times * linf / 8
        assert budget_of(lab, "L2").step * 255 == times * (16 if data == "gtsrb" else 8)


def test_the_papers_attacks_are_two_losses_away_and_towards_each_target() -> None:
    lab = Lab(SCALES["cpu"], "gtsrb", None, Path("unused"))
    texts = paper_attacks(lab, "Linf")
    assert len(set(texts)) == 6
    assert sum("targets" in t for t in texts) == 4
    assert all("eot=10" in t and "step_size=2/255" in t and "steps=40" in t for t in texts)
    assert "targets=runner_up" in texts[0]  # the strongest leaves the others little to do
    assert all("stop=False" in t for t in [*texts, *paper_attacks(lab, "L0")])
    assert all("eot=1," in t for t in paper_attacks(lab, "L0", masks=1))


def test_the_l0_budget_counts_pixels_or_values(monkeypatch: pytest.MonkeyPatch) -> None:
    told = SimpleNamespace(shape=(3, 32, 32))
    monkeypatch.setattr(Lab, "images", lambda self, split, limit: told)
    for unit, text in (("pixel", "L0:30"), ("element", "L0values:92")):  # A4
        lab = Lab(scaled(SCALES, f"cpu:l0_unit={unit}"), "cifar10-jpeg", None, Path("unused"))
        assert str(threat_of(lab, "L0")) == text


def test_figure_6_runs_under_one_norm_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "_attacked", lambda lab, norms: list(norms))
    for text, norms in (("cpu", ["Linf", "L2"]), ("cpu:norms=L2", ["L2"])):
        lab = Lab(scaled(SCALES, text), "gtsrb", None, Path("unused"))
        assert list(attacks.figure_6(lab)) == norms
    for wrong in ("L0", "Linf;l2", ""):
        with pytest.raises(ValueError, match="`norms` of figure 6 are Linf and L2, got"):
            scaled(SCALES, f"cpu:norms={wrong}")


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ("rates=1.5", r"`rates` are drop rates in \[0, 1\), got 1.5"),
        ("train_rates=0.5;1", r"`train_rates` are drop rates in \[0, 1\), got 1"),
        ("certify_rates=0.9;0.4", "`certify_rates` are drop rates between 0.5 and 1, got 0.4"),
        ("certify_rates=0.5", "`certify_rates` are drop rates between 0.5 and 1, got 0.5"),
    ],
)
def test_rates_that_are_none_are_refused_before_anything_is_trained(rates: str, said: str) -> None:
    assert list(scaled(SCALES, "cpu:rates=0;0.5").rates) == [0, 0.5]
    with pytest.raises(ValueError, match=said):
        scaled(SCALES, f"cpu:{rates}")


def test_on_data_that_the_paper_does_not_have_its_radii_are_those_of_cifar_with_a_warning() -> None:
    lab = Lab(SCALES["cpu"], "mnist", None, Path("unused"))
    with pytest.warns(UserWarning, match="the paper has no radii for mnist"):
        assert threat_of(lab, "Linf").eps == pytest.approx(8 / 255)


def test_three_hundredths_of_the_pixels_are_rounded_down() -> None:
    lab = Lab(SCALES["smoke"], "digits", None, Path("unused"))
    assert threat_of(lab, "L0").eps == 23  # 0.03 x 784 = 23.52
