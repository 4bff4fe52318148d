"""`redoubt evaluate` on image folders, of models of a user's own, and of many images."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.data import ImageSet, read
from redoubtable.models import load_model
from tests.networks import small_net

SIDE = 12


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def evaluate(*arguments: str) -> dict[str, Any]:
    done = run(
        "evaluate", *arguments, "--threat", "Linf:0.02", "--attack", "fgsm", "--no-check", "--json",
        "--workers", "0",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures of several sizes, in folders by part and class."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 15)):
        for name, low in (("dark", 0), ("bright", 150)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                size = (SIDE + i % 3, SIDE + i % 5, 3)
                pixels = rng.integers(low, low + 100, size, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "net"
    done = run(
        "train", "--out", str(folder), "--data", str(photos), "--image-size", str(SIDE),
        "--model", "small_cnn:width=4", "--epochs", "2", "--workers", "0", "--augment", "none",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def test_a_model_is_evaluated_on_the_folder_that_it_was_trained_on(
    trained: Path, photos: Path
) -> None:
    """Without being told the size again."""
    record = evaluate(str(trained), "--data", str(photos), "--limit", "20")
    assert record["data"]["n"] == 20
    assert record["data"]["shape"] == [3, SIDE, SIDE]
    assert record["model"]["classes"] == 2
    x, y = read(photos, "test", limit=20, size=SIDE).floats()
    with torch.no_grad():
        right = (load_model(trained)(x).argmax(1) == y).double().mean().item()
    assert record["clean"]["accuracy"]["one_shot"]["value"] == pytest.approx(right)


@pytest.mark.parametrize("defense", [[], ["--defense", "reject:level=0.2"]])
def test_images_that_do_not_fit_into_memory_give_the_same_record(
    trained: Path, photos: Path, defense: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(trained), "--data", str(photos), "--chunk", "8", *defense]
    kept = evaluate(*arguments)
    command = importlib.import_module("redoubtable.cli.subject")
    monkeypatch.setattr(command, "free_bytes", lambda device: 0)
    monkeypatch.setattr(ImageSet, "floats", None)  # nobody may ask for all
    assert evaluate(*arguments) == kept


def test_a_threshold_can_be_fitted_to_fewer_images(trained: Path, photos: Path) -> None:
    arguments = [str(trained), "--data", str(photos), "--limit", "4"]
    guard = ["--defense", "reject:rule=fpr,level=0.4"]
    fitted: list[int] = []
    for held_out in ([], ["--held-out", "5"]):
        (told,) = evaluate(*arguments, *guard, *held_out)["model"]["thresholds"]
        limit = 5 if held_out else None
        x, _ = read(photos, "validation", size=SIDE, limit=limit).floats()
        with torch.no_grad():
            doubt = torch.distributions.Categorical(logits=load_model(trained)(x)).entropy()
        expected = doubt.sort(descending=True).values[int(0.4 * len(x))].item()
        assert told["value"] == pytest.approx(expected, rel=1e-4)
        assert told["n"] == len(x)
        fitted.append(len(x))
    assert fitted[0] > fitted[1] == 5


def test_other_radii_can_be_left_out(trained: Path, photos: Path) -> None:
    arguments = [str(trained), "--data", str(photos), "--limit", "4"]
    whole, alone = evaluate(*arguments), evaluate(*arguments, "--no-curve")
    assert whole["curve"] and "curve" not in alone
    assert whole["rows"] == alone["rows"]


def test_other_thresholds_can_be_left_out(trained: Path, photos: Path) -> None:
    arguments = [str(trained), "--data", str(photos), "--limit", "4"]
    guard = [*arguments, "--defense", "reject:level=0.2"]
    whole, alone = evaluate(*guard), evaluate(*guard, "--no-rates")
    assert [point["rate"] for point in whole["rates"]] == [0.01, 0.05]
    assert "rates" not in alone
    assert alone["model"]["thresholds"] == whole["model"]["thresholds"]
    assert alone["rows"] == whole["rows"]
    assert evaluate(*arguments, "--no-rates") == evaluate(*arguments)


def test_only_a_rejection_has_held_out_images(trained: Path, photos: Path) -> None:
    where = [str(trained), "--data", str(photos), "--threat", "Linf:0.1", "--held-out"]
    done = run("evaluate", *where, "5")
    assert done.exit_code == 2 and "a defense that rejects" in done.stderr
    for few in ("0", "1000"):
        done = run("evaluate", *where, few, "--defense", "reject")
        assert done.exit_code == 2 and "`held-out` must be" in done.stderr


def build(channels: int = 3, classes: int = 4) -> torch.nn.Module:
    """A network of a user's own."""
    return small_net(channels, classes, seed=7)


def test_a_factory_with_weights_is_evaluated(photos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    net = small_net(3, 2, seed=1)
    save_file(net.state_dict(), weights)
    record = evaluate(
        f"{__name__}:build", "--weights", str(weights), "--data", str(photos),
        "--image-size", str(SIDE),
    )  # fmt: skip
    assert record["name"] == f"{__name__}:build"
    assert record["model"]["classes"] == 2
    x, y = read(photos, "test", size=SIDE).floats()
    with torch.no_grad():
        right = (net(x).argmax(1) == y).double().mean().item()
    assert record["clean"]["accuracy"]["one_shot"]["value"] == pytest.approx(right)


def test_code_is_imported_for_a_folder_only_when_it_is_named(photos: Path, tmp_path: Path) -> None:
    folder, factory = tmp_path / "own", f"{__name__}:build"
    done = run(
        "train", "--out", str(folder), "--data", str(photos), "--image-size", str(SIDE),
        "--model", factory, "--epochs", "1", "--workers", "0", "--augment", "none",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    arguments = [str(folder), "--data", str(photos), "--limit", "10"]
    refused = run("evaluate", *arguments, "--threat", "Linf:0.1")
    assert refused.exit_code == 2
    assert "factory" in refused.stderr
    assert evaluate(*arguments, "--factory", factory)["name"] == "own"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runs/nothing"], "give --data"),
        (["small_cnn"], "give --data"),
        (["small_cnn", "--data", "digits"], "small_cnn has random weights; give --weights"),
        (["small_cnn", "--data", "digits", "--weights", "nothing.safetensors"], "nothing"),
        (["no.such.module:build", "--data", "digits"], "PYTHONPATH"),
    ],
)
def test_models_that_are_not_there_are_refused_in_one_line(arguments: list[str], says: str) -> None:
    done = run("evaluate", *arguments, "--threat", "Linf:0.1")
    assert done.exit_code == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("redoubt: ")]
    assert len(lines) == 1
    assert says in lines[0]


def test_pictures_of_several_sizes_need_one_that_somebody_says(photos: Path) -> None:
    """A model without a card knows none."""
    done = run("evaluate", f"{__name__}:build", "--data", str(photos), "--threat", "Linf:0.1")
    assert done.exit_code == 2
    assert "size" in done.stderr


def test_what_is_not_said_again_is_read_as_in_training(photos: Path, tmp_path: Path) -> None:
    """Classes in their order, and sizes: else labels would mean others, and images be known."""
    folder = tmp_path / "net"
    sizes = {"train": 40, "validation": 10, "test": 24}
    done = run(
        "train", "--out", str(folder), "--data", str(photos), "--image-size", str(SIDE),
        "--classes", "dark, bright", "--sizes", ",".join(f"{k}={v}" for k, v in sizes.items()),
        "--draw", "random", "--model", "small_cnn:width=4", "--epochs", "1", "--workers", "0",
        "--augment", "none",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = evaluate(str(folder), "--data", str(photos))
    data = read(photos, "test", size=SIDE, classes=["dark", "bright"], sizes=sizes, draw="random")
    x, y = data.floats()
    with torch.no_grad():
        right = (load_model(folder)(x).argmax(1) == y).double().mean().item()
    assert record["data"]["n"] == 24
    assert record["clean"]["accuracy"]["one_shot"]["value"] == pytest.approx(right)
    elsewhere = tmp_path / "others"
    elsewhere.symlink_to(photos)  # a name is what a link leads to
    assert evaluate(str(folder), "--data", str(elsewhere))["data"]["n"] == 24
    other = tmp_path / "pictures"
    shutil.copytree(photos, other)
    assert evaluate(str(folder), "--data", str(other))["data"]["n"] == 30
    given = evaluate(str(folder), "--data", str(photos), "--sizes", "test=6", "--draw", "balanced")
    assert given["data"]["n"] == 6


def test_labels_that_mean_other_classes_are_refused(trained: Path, photos: Path) -> None:
    more = shutil.copytree(photos, trained.parent / "more")
    for part in ("train", "test"):
        shutil.copytree(more / part / "dark", more / part / "aardvark")
    done = run("evaluate", str(trained), "--data", str(more), "--threat", "Linf:0.1")
    assert done.exit_code == 2
    assert "has 2 classes and more has 3" in done.stderr


def test_notes_on_reading_that_are_damaged_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "net")
    card = json.loads((folder / "card.json").read_text())
    for bad in ("nothing", {"sizes": 3}):
        card["notes"]["reading"] = bad
        (folder / "card.json").write_text(json.dumps(card))
        done = run("evaluate", str(folder), "--threat", "Linf:0.1")
        assert done.exit_code == 2
        assert "notes on reading" in done.stderr


def test_a_folder_of_test_images_is_enough_without_calibration(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos / "test", tmp_path / "only" / "test")
    arguments = [str(trained), "--data", str(tmp_path / "only"), "--limit", "5"]
    assert evaluate(*arguments, "--defense", "subsample:rate=0.9")["data"]["n"] == 5
    done = run("evaluate", *arguments, "--threat", "Linf:0.1", "--defense", "reject")
    assert done.exit_code == 2
    assert "validation split" in done.stderr


def test_stored_images_are_no_part_of_the_data_set_that_is_evaluated(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "net")
    card = json.loads((folder / "card.json").read_text())
    card["data"]["name"] = "photos+photos-fgsm+photos-pgd"
    card["notes"]["stored images"] = [{}, {}]
    (folder / "card.json").write_text(json.dumps(card))
    assert evaluate(str(folder), "--root", str(photos.parent), "--limit", "5")["data"]["n"] == 5
