"""`redoubt certify`, from a model's folder to the table and the record."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redoubtable.cli import app

DIGITS = str(Path(__file__).parents[2] / "zoo" / "digits-cnn")
FEW = ("--limit", "4", "--n0", "5", "--n", "20", "--device", "cpu", "--workers", "0")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["certify", DIGITS, *FEW, *arguments])


def test_the_record_is_of_what_was_asked(tmp_path: Path) -> None:
    done = run("--noise", "0.5", "--alpha", "0.01", "--radius", "0.2", "--radius", "0", "--json",
               "--seed", "3", "--out", str(tmp_path))  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "record.json").read_text())
    assert record["kind"] == "certificate"
    assert record["certificate"] == "smoothing:noise=0.5"
    assert record["settings"] == {
        "n0": 5, "n": 20, "alpha": 0.01, "runner_up": False, "seed": 3, "batch_size": 512
    }  # fmt: skip
    assert [p["radius"] for p in record["certified"]] == [0.0, 0.2]
    assert record["data"]["n"] == 4


def test_the_table_says_what_is_guaranteed() -> None:
    done = run("--certificate", "smoothing:noise=0.1")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "standard deviation 0.1 is the same" in text
    assert "probability of at most 0.001" in text
    assert "4 images, 5 + 20 samples each, seed 0" in text
    assert "abstained" in text


def test_pixels_are_certified_and_counted_whole() -> None:
    done = run("--certificate", "ablation:rate=0.9,granularity=pixel", "--radius", "1",
               "--radius", "2", "--runner-up", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["certificate"] == "ablation:granularity=pixel,rate=0.9"
    assert (record["norm"], record["settings"]["runner_up"]) == ("L0", True)
    assert [p["radius"] for p in record["certified"]] == [1, 2]
    shown = run("--certificate", "ablation:keep=78")
    assert shown.exit_code == 0, shown.output
    rows = [line.split()[0] for line in shown.stdout.splitlines() if "%" in line]
    assert rows == ["0", "1", "2", "abstained"], "20 samples certify two pixels at most"
    text = " ".join(shown.stdout.split())
    assert "radius (L0)" in text
    assert "all pixels but 78 random ones are made grey" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--noise", "0"), "noise"),
        (("--certificate", "smoothin"), "did you mean smoothing"),
        (("--noise", "0.1", "--certificate", "smoothing:noise=0.2"), "--noise is short"),
        (("--alpha", "1e-9"), "more than"),
        (("--certificate", "ablation"), "give `rate`"),
        (("--certificate", "ablation:rate=0.9,keep=3"), "give `rate`"),
        (("--certificate", "ablation:rate=0.4"), "no number of samples"),
        (("--certificate", "ablation:keep=1000"), "at most the 784 places"),
        (("--certificate", "ablation:keep=700"), "no number of samples"),
        (("--certificate", "ablation:rate=0.9,granularity=block"), "granularity"),
    ],
)
def test_bad_options_end_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
