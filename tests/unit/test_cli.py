"""The command line: what it prints, and one line with exit code 2 for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.cli.catalogue import REGISTRIES, markdown
from redoubtable.cli.errors import one_line_errors
from redoubtable.evaluation import SUITES

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "digits"
    done = run("train", "--out", str(folder), "--model", "small_cnn:width=8", "--epochs", "3")
    assert done.exit_code == 0, done.output
    return folder


def evaluate(model: Path, *more: str):
    return run("evaluate", str(model), "--limit", "24", "--no-check", *more)


def test_train_writes_a_model_and_says_its_accuracy(model: Path) -> None:
    card = json.loads((model / "card.json").read_text())
    assert card["architecture"] == "small_cnn" and card["arguments"]["width"] == 8
    again = run("train", "--out", str(model), "--model", "small_cnn:width=8", "--epochs", "3")
    assert again.exit_code == 0 and "accuracy" in again.output


def test_evaluate_prints_both_views_and_writes_record_and_page(model: Path, tmp_path: Path) -> None:
    done = evaluate(
        model, "--threat", "Linf:0.1", "--attack", "pgd:steps=3", "--draws", "2",
        "--defense", "subsample:rate=0.5", "--defense", "vote:draws=2", "--defense", "reject",
        "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert {r["view"] for r in record["rows"]} == {"static", "adaptive"}
    assert record["data"]["n"] == 24 and record["threat"] == "Linf:0.1"
    assert record["command"].startswith("redoubt")
    page = (tmp_path / "run" / "index.html").read_text()
    assert "static" in page and "adaptive" in page
    assert "adaptive" in done.output


def test_json_is_the_record_and_nothing_else(model: Path) -> None:
    command = [sys.executable, "-c", "from redoubtable.cli import main; main()"]
    arguments = ["evaluate", str(model), "--threat", "Linf:0.1", "--attack", "fgsm", "--json"]
    more = ["--limit", "8", "--no-check"]
    done = subprocess.run([*command, *arguments, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "evaluation"


BAD = {
    "unknown attack": (["--attack", "pdg"], "pgd"),
    "unknown argument": (["--attack", "pgd:step=3"], "steps"),
    "argument of the wrong kind": (["--attack", "pgd:steps=many"], "whole number"),
    "unknown loss": (["--attack", "pgd:loss=margn"], "margin"),
    "unknown threat": (["--threat", "L3:1"], "Linf"),
    "threat without a radius": (["--threat", "Linf"], "Linf:8/255"),
    "negative radius": (["--threat", "Linf:-1"], "at least 0"),
    "half a pixel": (["--threat", "L0:2.5"], "whole"),
    "unknown defense": (["--defense", "subsampel"], "subsample"),
    "rate outside [0, 1]": (["--defense", "subsample:rate=2"], "[0, 1]"),
    "unknown data": (["--data", "mnits"], "mnits"),
    "too many images": (["--limit", "501"], "500"),
    "no draws": (["--draws", "0"], "draws"),
    "unknown precision": (["--precision", "fp8"], "bf16"),
    "unknown device": (["--device", "gpu"], "cpu"),
    "no steps": (["--attack", "pgd:steps=0"], "steps"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_and_exit_code_2(model: Path, tmp_path: Path, case: str) -> None:
    extra, says = BAD[case]
    out = tmp_path / "run"
    threat = [] if "--threat" in extra else ["--threat", "Linf:0.1"]
    attack = [] if "--attack" in extra else ["--attack", "fgsm"]
    limit = [] if "--limit" in extra else ["--limit", "8"]
    done = run("evaluate", str(model), *threat, *attack, *limit, *extra, "--out", str(out))
    assert done.exit_code == 2, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("redoubt: ")]
    assert len(lines) == 1 and says in lines[0]
    assert "Traceback" not in done.output
    assert not (out / "record.json").exists()


def save_npz(path: Path, shape: tuple[int, ...], labels: int) -> Path:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
    y = np.arange(40) % labels
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


def test_images_of_another_shape_are_refused(model: Path, tmp_path: Path) -> None:
    data = save_npz(tmp_path / "colour.npz", (28, 28, 3), 10)
    done = evaluate(model, "--threat", "Linf:0.1", "--data", str(data))
    assert done.exit_code == 2 and "(3, 28, 28)" in done.stderr


def test_labels_outside_the_classes_are_refused(model: Path, tmp_path: Path) -> None:
    data = save_npz(tmp_path / "more.npz", (28, 28), 12)
    done = evaluate(model, "--threat", "Linf:0.1", "--data", str(data))
    assert done.exit_code == 2 and "10 classes" in done.stderr


def test_a_missing_or_damaged_model_is_refused(model: Path, tmp_path: Path) -> None:
    gone = evaluate(tmp_path / "nothing", "--threat", "Linf:0.1")
    assert gone.exit_code == 2 and "nothing" in gone.stderr
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("card.json", "model.safetensors"):
        (copy / name).write_bytes((model / name).read_bytes())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    damaged = evaluate(copy, "--threat", "Linf:0.1")
    assert damaged.exit_code == 2 and "model.safetensors" in damaged.stderr


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    arguments = ("train", "--out", str(tmp_path), "--model", "small_cnn:width=4", "--epochs", "1")
    assert run(*arguments).exit_code == 0
    (checkpoint,) = tmp_path.glob("*checkpoint*")
    raw = bytearray(checkpoint.read_bytes())
    raw[len(raw) // 2] ^= 1
    checkpoint.write_bytes(bytes(raw))
    done = run(*arguments)
    assert done.exit_code == 2 and checkpoint.name in done.stderr


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, model: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for command in (
        ["demo", "--out", str(blocked / "demo")],
        ["train", "--out", str(blocked / "model"), "--epochs", "1"],
        ["evaluate", str(model), "--threat", "Linf:0.1", "--out", str(blocked / "run")],
    ):
        done = run(*command)
        assert done.exit_code == 2 and "file" in done.stderr, command
    assert blocked.read_text() == "in the way"


def test_list_knows_everything_that_is_registered() -> None:
    done = run("list", "--json")
    listed = json.loads(done.stdout)
    assert set(listed) == {*REGISTRIES, "suites"}
    assert [row["name"] for row in listed["suites"]] == list(SUITES)
    for kind, registry in REGISTRIES.items():
        assert [row["name"] for row in listed[kind]] == [e.name for e in registry]
        assert all(row["what it is"] for row in listed[kind]), kind
    facts = {row["name"]: row["facts"] for row in listed["attacks"]}
    assert "Linf, L2, L1, L0" in facts["pgd"] and "label" in facts["hop_skip_jump"]


def test_the_tables_of_the_readme_are_those_of_the_registries() -> None:
    text = (ROOT / "README.md").read_text()
    for kind in ("attacks", "suites", "defenses", "models", "recipes", "presets", "data"):
        assert markdown(kind) in text, f"redoubt list {kind} --markdown"


def test_help_shows_examples() -> None:
    for command in ("demo", "train", "store", "evaluate", "list", "env"):
        done = run(command, "--help")
        assert done.exit_code == 0 and f"redoubt {command}" in done.output, command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 2),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2),
        (MemoryError(), 2),
        (RuntimeError("a bug"), None),
    ],
)
def test_too_little_memory_is_one_line_and_a_bug_is_none(capsys, error, code) -> None:
    @one_line_errors
    def command() -> None:
        raise error

    with pytest.raises(RuntimeError if code is None else typer.Exit) as raised:
        command()
    said = capsys.readouterr().err
    assert code is None or (raised.value.exit_code == code and "smaller --batch-size" in said)


def test_env_names_torch() -> None:
    assert json.loads(run("env", "--json").stdout)["packages"]["torch"] == torch.__version__
