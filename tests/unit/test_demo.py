"""The demo, made so small that its parts can be looked at."""

import importlib
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from redoubtable import demo as module
from redoubtable.cli import app
from redoubtable.demo import demo, train_networks
from redoubtable.models import load_model
from redoubtable.threat import Linf
from redoubtable.training import Settings


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "ATTACKS": ((Linf(0.2), ("fgsm",)),),
        "NETWORKS": {name: (recipe, 1) for name, (recipe, _) in module.NETWORKS.items()},
        "NETWORK": {"width": 2},
        "IMAGES": 6,
        "DETECTED": 2,
        "CURVE": (),
        "CERTIFIED": 3,
        "SAMPLES": (5, 40),
        "RATE_IMAGES": 1,
    }
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)


def test_it_attacks_and_certifies_the_networks_of_its_folder(tmp_path: Path) -> None:
    train_networks(tmp_path, progress=False)
    whole = demo(tmp_path, progress=False)
    assert [e["name"] for e in whole.record["evaluations"]] == ["natural", "guard", "MVM detector"]
    assert [c["name"] for c in whole.record["certificates"]] == ["subsampled"]
    assert (tmp_path / "record.json").exists()
    structures = [e["model"]["structure"] for e in whole.record["evaluations"]]
    assert ["Subsample" in s for s in structures] == [False, True, False]


def test_networks_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    train_networks(tmp_path, progress=False)
    before = {name: load_model(tmp_path / name).state_dict() for name in module.NETWORKS}
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    train_networks(tmp_path, progress=False)
    for name, state in before.items():
        again = load_model(tmp_path / name).state_dict()
        assert all(torch.equal(again[k], v) for k, v in state.items())
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    with pytest.raises(ValueError, match="seed"):
        train_networks(tmp_path, seed=1, progress=False)


def test_a_seed_names_the_first_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = partial(Settings, 1, batch_size=64, lr=1e-12)
    monkeypatch.setattr(module, "TrainingSettings", lambda epochs, *, seed, **kw: still(seed=seed))
    for seed in (0, 1):
        train_networks(tmp_path / str(seed), seed=seed, progress=False)
    first, second = (load_model(tmp_path / s / "natural").parameters() for s in "01")
    assert (next(first) - next(second)).abs().max() > 0.01


def test_of_several_processes_the_first_writes_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_networks(tmp_path, progress=False)
    monkeypatch.setenv("RANK", "1")
    demo(tmp_path, progress=False)
    assert not (tmp_path / "record.json").exists()


def test_without_networks_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="natural"):
        demo(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("given", "launched", "expected"),
    [([], False, 2), ([], True, 1), (["--processes", "3"], False, 3)],
)
def test_two_processes_share_it_unless_others_were_launched(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: list[str],
    launched: bool,
    expected: int,
) -> None:
    asked: list[object] = []
    command = importlib.import_module("redoubtable.cli.demo")  # its name is also the command's

    def together(processes: int) -> None:
        asked.append(processes)
        raise ValueError("far enough")

    monkeypatch.setattr(command, "train_networks", lambda out, seed: asked.append("trained"))
    monkeypatch.setattr(command, "together", together)
    if launched:
        monkeypatch.setenv("WORLD_SIZE", "4")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), *given])
    assert "far enough" in result.output
    assert asked == ["trained", expected]
