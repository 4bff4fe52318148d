"""Experiments run, are kept, and say what was published."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.cli.reproduce import default_folder
from redoubtable.papers import reproduce, running
from redoubtable.papers.dropping_pixels.scale import masked
from redoubtable.papers.frame import PAPERS, Experiment, Paper, Published, Row, Scale
from redoubtable.papers.lab import Lab
from redoubtable.registry import Registry
from redoubtable.statistics import wilson
from redoubtable.threat import Linf
from redoubtable.training import Settings as Training

SCALE = Scale(
    data=("digits",),
    networks=("small_cnn",),
    arguments={"width": 4},
    training=Training(1, batch_size=64, lr=0.1),
    images=12,
    clean=50,
    held_out=30,
    draws=2,
)
RUNS: list[str] = []


def table(lab: Lab[Scale]) -> Iterator[Row]:
    RUNS.append(lab.data)
    yield Row("small_cnn, original", "accuracy", "clean", lab.accuracy(lab.network("natural")))


def never(lab: Lab[Scale]) -> Iterator[Row]:
    raise RuntimeError("killed")
    yield


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> str:
    """A paper of its own, in a registry of its own."""
    registry: Registry[Any] = Registry("paper")
    published = (Published("small_cnn, original", 0.99, "digits", "Table 1"),)
    experiments = (
        Experiment("table-1", "Accuracy", table, published=published),
        Experiment("figure-1", "Nothing to measure", lambda lab: []),
        Experiment("figure-9", "Nothing", never, data=("gtsrb",)),
        Experiment("figure-2", "Killed", never),
    )
    registry.register("mine")(lambda: Paper("Mine", "https://", experiments, {"smoke": SCALE}))
    monkeypatch.setattr("redoubtable.papers.running.PAPERS", registry)
    RUNS.clear()
    return "mine"


def test_a_record_has_published_beside_measured(paper: str, tmp_path: Path) -> None:
    record = reproduce(paper, ["table-1"], out=tmp_path, progress=False)
    (experiment,) = record["experiments"]
    (row,) = experiment["rows"]
    assert row["published"] == 0.99
    assert row["found"]["n"] == 50
    assert 0 < row["found"]["low"] <= row["found"]["value"] <= row["found"]["high"] < 1
    assert json.loads((tmp_path / "record.json").read_text()) == record


def test_what_was_finished_is_written_before_the_next_begins(paper: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        reproduce(paper, ["table-1", "figure-2"], out=tmp_path, progress=False)
    kept = json.loads((tmp_path / "record.json").read_text())
    assert [e["name"] for e in kept["experiments"]] == ["table-1"]


def test_a_second_run_gives_the_same_record(paper: str, tmp_path: Path) -> None:
    first = reproduce(paper, ["table-1"], out=tmp_path, progress=False)
    again = reproduce(paper, ["table-1"], out=tmp_path, progress=False)
    assert first == again


def test_a_folder_keeps_what_ran_in_it_before(paper: str, tmp_path: Path) -> None:
    first = reproduce(paper, ["table-1"], out=tmp_path, progress=False, command="one")
    both = reproduce(paper, ["figure-1"], out=tmp_path, progress=False, command="two")
    names = [(e["name"], e["command"]) for e in both["experiments"]]
    assert names == [("table-1", "one"), ("figure-1", "two")]
    assert both["experiments"][0] == first["experiments"][0]
    again = reproduce(paper, ["table-1"], out=tmp_path, progress=False, command="three")
    names = [(e["name"], e["command"]) for e in again["experiments"]]
    assert names == [("figure-1", "two"), ("table-1", "three")]


def test_a_folder_of_another_seed_is_refused(paper: str, tmp_path: Path) -> None:
    reproduce(paper, ["figure-1"], out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="another seed"):
        reproduce(paper, ["figure-1"], out=tmp_path, seed=1, progress=False)


def test_a_network_is_trained_once_and_then_read(tmp_path: Path) -> None:
    lab = Lab(SCALE, "digits", None, tmp_path, progress=False)
    other = Lab(SCALE, "digits", None, tmp_path, progress=False)
    one, two = lab.network("natural"), other.network("natural")
    assert lab.network("natural") is one
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not any(p.requires_grad for p in one.parameters()) and not one.training


def test_accuracy_is_that_of_the_test_images(tmp_path: Path) -> None:
    lab = Lab(SCALE, "digits", None, tmp_path, progress=False)
    network = lab.network("natural")
    x, y = lab.tensors("test", SCALE.clean)
    with torch.no_grad():
        right = int((network(x).argmax(1) == y).sum())
    assert lab.accuracy(network) == wilson(right, 50)


def test_an_evaluation_is_of_the_scales_images(tmp_path: Path) -> None:
    lab = Lab(SCALE, "digits", None, tmp_path, progress=False)
    done = lab.evaluation("bare", lab.network("natural"), Linf(0.2), ["fgsm"])
    assert done.record["data"]["n"] == SCALE.images
    assert (tmp_path / "digits" / "evaluations" / "bare-Linf-0.2" / "record.json").exists()
    assert not done.record["cascade"]
    few = Lab(replace(SCALE, cascade=True, draws=19), "digits", None, tmp_path, progress=False)
    hidden = masked(few.network("natural"), 0.5)
    assert not few.evaluation("few", hidden, Linf(0.2), ["fgsm"]).record["cascade"]
    steep = Lab(replace(SCALE, cascade=True, draws=20), "digits", None, tmp_path, progress=False)
    done = steep.evaluation("steep", steep.network("natural"), Linf(0.2), ["fgsm"])
    assert done.record["cascade"]


def test_pictures_are_named_by_where_they_lie(tmp_path: Path) -> None:
    lab = Lab(SCALE, "digits", None, tmp_path, progress=False)
    lab.picture("maps", {"x": np.zeros(3)})
    assert lab.pictures == ["digits/pictures/maps.npz"]
    assert (tmp_path / lab.pictures[0]).exists()


@pytest.mark.parametrize(
    ("names", "more", "said"),
    [
        (["table-7"], {}, "no experiment 'table-7'; there are table-1"),
        ([], {"scale": "huge"}, "`scale` must be one of smoke, got 'huge'"),
        (["figure-9"], {"data": "cifar10"}, "figure-9 is not about cifar10"),
    ],
)
def test_what_there_is_not_is_refused(
    paper: str, tmp_path: Path, names: list[str], more: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        reproduce(paper, names, out=tmp_path, progress=False, **more)  # type: ignore[arg-type]


def test_a_data_set_that_is_not_there_is_missed_before_another_is_measured(
    paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = replace(SCALE, data=("digits", "nowhere"))
    about = replace(running.PAPERS[paper].obj(), scales={"smoke": both})
    registry: Registry[Any] = Registry("paper")
    registry.register("mine")(lambda: about)
    monkeypatch.setattr("redoubtable.papers.running.PAPERS", registry)
    with pytest.raises(ValueError, match="nowhere"):
        reproduce(paper, ["table-1"], out=tmp_path, progress=False)
    assert not RUNS
    reproduce(paper, ["figure-1"], data="digits", out=tmp_path, progress=False)


def test_runs_that_may_not_share_a_folder_have_others_by_default() -> None:
    folders = {
        default_folder("p", scale, precision, seed)
        for scale in ("cpu", "cpu:norms=L2", "cpu:rates=0;0.9", "full")
        for precision in ("fp32", "bf16")
        for seed in (0, 1)
    }
    assert len(folders) == 16
    assert default_folder("p", "cpu:rates=0;0.9", "fp32", 0) == Path("reproduced/p-cpu-rates=0-0.9")


def test_help_names_what_no_paper_numbers() -> None:
    said = " ".join(CliRunner().invoke(app, ["reproduce", "--help"]).output.split())
    for name in ("certificate", "masks", "steps", "adaptive"):
        assert name in said


def test_every_paper_declares_its_three_scales_and_unique_experiments() -> None:
    for entry in PAPERS:
        paper = entry.obj()
        assert list(paper.scales) == ["smoke", "cpu", "full"]
        names = [e.name for e in paper.experiments]
        assert len(set(names)) == len(names)


def test_a_seed_names_the_order_of_training(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 1):
        lab = Lab(SCALE, "digits", None, tmp_path / str(seed), seed, progress=False)
        lab.network("natural")
        card = json.loads(next(tmp_path.glob(f"{seed}/digits/models/*/card.json")).read_text())
        seeds.append(card["settings"]["seed"])
    assert seeds == [0, 1]


def test_two_networks_have_two_accuracies(tmp_path: Path) -> None:
    lab = Lab(SCALE, "digits", None, tmp_path, progress=False)
    trained = lab.network("natural")
    constant = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    torch.nn.init.zeros_(constant[1].weight)
    first, second = lab.accuracy(trained), lab.accuracy(constant.eval())
    x, y = lab.tensors("test", SCALE.clean)
    with torch.no_grad():
        assert second.value == (constant(x).argmax(1) == y).double().mean().item()
    assert first != second


def test_a_seed_names_the_first_weights(tmp_path: Path) -> None:
    still = replace(SCALE, training=Training(1, batch_size=64, lr=1e-12, weight_decay=0.0))
    made = [
        next(
            Lab(still, "digits", None, tmp_path / str(s), s, progress=False)
            .network("natural")
            .parameters()
        )
        for s in (0, 1)
    ]
    assert (made[0] - made[1]).abs().max() > 0.01


def test_records_of_evaluations_and_certificates_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(lab: Lab[Scale]) -> Iterator[Row]:
        network = lab.network("natural")
        lab.evaluation("bare", network, Linf(0.1), ["fgsm"])
        lab.certificate("bare", network, "ablation:rate=0.9", 2, n0=2, n=60)
        yield Row("done", "accuracy", "clean", lab.accuracy(network))

    registry: Registry[Any] = Registry("paper")
    about = Paper("Mine", "https://", (Experiment("table-1", "Both", both),), {"smoke": SCALE})
    registry.register("mine")(lambda: about)
    monkeypatch.setattr("redoubtable.papers.running.PAPERS", registry)
    reproduce("mine", out=tmp_path, command="redoubt reproduce mine", progress=False)
    records = [
        p
        for kind in ("evaluations", "certificates")
        for p in tmp_path.rglob(f"{kind}/*/record.json")
    ]
    assert len(records) == 2
    assert {json.loads(p.read_text())["command"] for p in records} == {"redoubt reproduce mine"}
