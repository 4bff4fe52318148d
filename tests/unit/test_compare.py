"""Two runs are compared image by image, and only where they are of the same images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.evaluation.suites import SUITES
from redoubtable.parts import PLAIN
from redoubtable.reports.compare import compare, comparison_markdown
from redoubtable.reports.export import robustbench
from redoubtable.reports.runs import Run, read_run
from redoubtable.statistics import mcnemar
from redoubtable.threat import Linf
from tests.unit.reports_parts import bare, finding

N = 40


def run(folder: Path, name: str, stands: Any, draws: int = 1, clean: int = N, **more: Any) -> Path:
    """A run of N images: `stands` of them (or which draws of which) survive the attack."""
    y = np.arange(N) % 4
    good = np.zeros((N, draws), bool)
    good[stands] = True
    right = np.repeat((np.arange(N) < clean)[:, None], draws, 1)
    said = {"clean": np.where(right, y[:, None], 9), "adaptive/pgd": np.where(good, y[:, None], 9)}
    arrays = {"y": y, "eps": np.full(N, 0.2), "robust/chosen": np.ones(N, int)}
    for key, answers in said.items():
        arrays |= {f"{key}/selection": answers, f"{key}/report": answers}
    record = bare(name) | more
    record["settings"] = record["settings"] | {"draws": draws}
    record["data"] = {"name": "d, test", "n": N, "shape": [1, 8, 8], "digest": "aa"}
    record["data"] |= more.get("data", {})
    path = folder / name
    path.mkdir(parents=True)
    (path / "record.json").write_text(json.dumps(record))
    np.savez(path / "examples.npz", **arrays)
    return path


def test_the_difference_is_paired_by_image(tmp_path: Path) -> None:
    a = read_run(run(tmp_path, "a", slice(0, 30)))
    b = read_run(run(tmp_path, "b", slice(25, 37), clean=38))
    found = {d["number"]: d for d in compare([a, b])["differences"]}
    adaptive = found["adaptive"]
    assert adaptive["value"] == pytest.approx(18 / 40)
    assert adaptive["low"] < 18 / 40 < adaptive["high"]
    counts = [adaptive[k] for k in ("both", "only_first", "only_second", "neither")]
    assert counts == [5, 25, 7, 3]
    stands = [np.isin(np.arange(N), np.arange(*limits)) for limits in ((0, 30), (25, 37))]
    assert adaptive["p"] == pytest.approx(mcnemar(*stands))
    assert found["clean"]["only_first"] == 2 and found["clean"]["only_second"] == 0
    assert found["robust"]["value"] == adaptive["value"]
    back = compare([b, a])["differences"]
    assert back[1]["value"] == -adaptive["value"] and back[1]["only_first"] == 7


def test_a_random_model_counts_by_its_draws(tmp_path: Path) -> None:
    one = read_run(run(tmp_path, "one", slice(0, 30)))
    three = read_run(run(tmp_path, "three", (slice(0, 30), slice(0, 2)), draws=3))
    found = compare([one, three])["differences"][1]
    assert found["value"] == pytest.approx(30 / 40 / 3)
    assert (found["both"], found["better"]) == (30, 30)
    two = read_run(run(tmp_path, "two", (slice(0, 30), slice(0, 1)), draws=2))
    assert compare([one, two])["differences"][1]["only_first"] == 30  # half is no majority


def test_every_pair_is_compared_and_what_spoils_it_is_said(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, "a", slice(0, 30)),
        run(tmp_path / "x", "a", slice(0, 20), findings=[finding("fail")]),
        run(tmp_path, "c", slice(0, 10), attacks=["fgsm"], findings=[]),
    ]
    found = compare([read_run(r) for r in runs])
    pairs = [(d["first"], d["second"]) for d in found["differences"] if d["number"] == "robust"]
    names = [f"a ({runs[0]})", f"a ({runs[1]})", "c"]
    assert pairs == [(names[0], names[1]), (names[0], "c"), (names[1], "c")]
    notes = " ".join(found["notes"])
    for said in ("different attacks", "checks failed: more_steps", "no check ran", "3 pairs"):
        assert said in notes
    said = comparison_markdown(found)
    assert "+25.0 [" in said and "| 10 | 20 | 0 | 10 |" in said
    assert compare([read_run(runs[0])] * 2)["notes"] == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"data": {"digest": "bb"}}, "digest: aa and bb.*--limit"),
        ({"data": {"n": 39}}, "of 39 images"),
        ({"data": {"digest": None}}, "digest"),
        ({"threat": "Linf:0.1"}, "other threats"),
    ],
)
def test_runs_of_other_examples_are_refused(tmp_path: Path, more: Any, says: str) -> None:
    paths = [run(tmp_path, "a", slice(0, 9)), run(tmp_path, "b", slice(0, 9), **more)]
    with pytest.raises(ValueError, match=says):
        compare([read_run(path) for path in paths])
    done = CliRunner().invoke(app, ["compare", *map(str, paths)])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_other_labels_and_too_few_runs_are_refused(tmp_path: Path) -> None:
    a = read_run(run(tmp_path, "a", slice(0, 9)))
    b = Run(a.folder, a.record, {**a.arrays, "y": a.arrays["y"][::-1]})
    with pytest.raises(ValueError, match="values of 'y'"):
        compare([a, b])
    with pytest.raises(ValueError, match="two runs"):
        compare([a])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    path = run(tmp_path, "a", slice(0, 9))
    (path / "examples.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"examples\.npz can't be read"):
        read_run(path)
    (path / "examples.npz").unlink()
    with pytest.raises(ValueError, match=r"examples\.npz can't be read"):
        read_run(path)
    with pytest.raises(ValueError, match="no run folder"):
        read_run(tmp_path / "nothing")
    demo = {"schema": 1, "kind": "demo", "evaluations": [bare()]}
    (path / "record.json").write_text(json.dumps(demo))
    with pytest.raises(ValueError, match="several evaluations"):
        read_run(path)


def test_the_command_prints_and_writes_both_forms(tmp_path: Path) -> None:
    paths = [str(run(tmp_path, n, slice(0, k))) for n, k in (("a", 9), ("b", 19))]
    out = tmp_path / "c.json"
    done = CliRunner().invoke(app, ["compare", *paths, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# Comparison")
    as_json = CliRunner().invoke(app, ["compare", *paths, "--json"])
    assert json.loads(as_json.stdout) == json.loads(out.read_text())
    assert CliRunner().invoke(app, ["compare", *paths, "--out", "x.txt"]).exit_code == 2


# -- export ------------------------------------------------------------------------------------


def standard(**more: Any) -> dict[str, Any]:
    attacks = list(SUITES["standard"].against(PLAIN, Linf(0.2)))
    found = bare(adaptive=0.4567) | {"attacks": attacks, "cascade": True, "threat": "Linf:8/255"}
    found["data"] = {"name": "cifar10, test", "n": 300, "shape": [3, 32, 32]}
    return found | more


def test_a_card_of_robustbench_has_its_fields() -> None:
    card = robustbench(standard())
    fields = "link name authors additional_data number_forward_passes dataset venue architecture"
    fields += " eps clean_acc reported footnote autoattack_acc"
    assert list(card) == fields.split()
    assert card["autoattack_acc"] == "45.67"
    assert card["clean_acc"] == "98.00"
    assert (card["dataset"], card["eps"], card["architecture"]) == ("cifar10", "8/255", "Net")
    assert card["number_forward_passes"] == 1
    assert [k for k, v in card.items() if v is None] == [
        "link", "authors", "additional_data", "venue", "reported",
    ]  # fmt: skip
    assert "300 images" in card["footnote"]


@pytest.mark.parametrize(
    "change",
    [{"attacks": ["pgd"]}, {"cascade": False}, {"threat": "L0:8"}, {"model": "random"}],
)
def test_no_other_number_is_called_autoattack(change: dict[str, Any]) -> None:
    found = standard(**change)
    if change.get("model"):
        model = standard()["model"]
        found["model"] = model | {"facts": model["facts"] | {"stochastic": True}}
    card = robustbench(found)
    assert card["autoattack_acc"] is None
    assert "left out" in card["footnote"]


def test_a_failed_check_stands_in_the_card() -> None:
    card = robustbench(standard(findings=[finding("fail")]))
    assert "checks failed: more_steps" in card["footnote"]


def test_the_command_writes_the_card(tmp_path: Path) -> None:
    path = run(tmp_path, "a", slice(0, 9), cascade=False)
    out = tmp_path / "card.json"
    assert CliRunner().invoke(app, ["export", str(path), "--out", str(out)]).exit_code == 0
    done = CliRunner().invoke(app, ["export", str(path)])
    assert json.loads(done.stdout) == json.loads(out.read_text())
    bad = CliRunner().invoke(app, ["export", str(path), "--format", "xml"])
    assert bad.exit_code == 2 and "robustbench" in bad.stderr
