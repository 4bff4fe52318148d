"""`redoubt store` on the images that a model was trained on, read as they were then."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.data import read
from redoubtable.models import load_model
from redoubtable.training import read_stored

SIDE = 12
SIZES = {"train": 30, "validation": 10, "test": 20}
READING: dict[str, Any] = {"size": SIDE, "classes": ["dark", "bright"], "draw": "random"}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures of several sizes."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 15)):
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
    """A network that knows the classes in another order than the alphabet's."""
    folder = tmp_path_factory.mktemp("model") / "net"
    done = run(
        "train", "--out", str(folder), "--data", str(photos), "--image-size", str(SIDE),
        "--classes", "dark, bright", "--sizes", ",".join(f"{k}={v}" for k, v in SIZES.items()),
        "--draw", "random", "--model", "small_cnn:width=4", "--epochs", "2", "--workers", "0",
        "--augment", "none",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def store(model: Path, out: Path, *more: str) -> Any:
    return run(
        "store", str(model), "--threat", "Linf:0.05", "--attack", "fgsm", "--out", str(out),
        "--workers", "0", *more,
    )  # fmt: skip


@pytest.mark.parametrize("split", ["train", "validation"])
def test_what_is_not_said_again_is_read_as_in_training(
    trained: Path, photos: Path, tmp_path: Path, split: str
) -> None:
    """Else labels meant other classes, and images of the test were among those to train on."""
    done = store(trained, tmp_path, "--data", str(photos), "--split", split)
    assert done.exit_code == 0, done.output
    data = read(photos, split, sizes=SIZES, **READING)
    x, y = data.floats()
    found = read_stored(tmp_path)
    assert found.card["data"]["digest"] == data.digest()
    images, labels = found.images().floats()
    assert len(images) == SIZES[split] and torch.equal(labels, y)
    assert (images - x).abs().amax() <= 0.05 + 1e-6
    with torch.no_grad():
        right = (load_model(trained)(x).argmax(1) == y).double().mean().item()
    assert found.card["accuracy of the attacked model"]["clean"] == pytest.approx(right)


def test_the_set_has_its_name_without_stored_images_beside_it(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "net")
    card = json.loads((folder / "card.json").read_text())
    card["data"]["name"] = "photos+photos-fgsm"
    card["notes"]["stored images"] = [{}]
    (folder / "card.json").write_text(json.dumps(card))
    done = store(folder, tmp_path / "out", "--root", str(photos.parent))
    assert done.exit_code == 0, done.output
    assert read_stored(tmp_path / "out").card["data"]["images"] == SIZES["train"]


def test_what_is_said_goes_before_the_card(trained: Path, photos: Path, tmp_path: Path) -> None:
    more = ["--sizes", "train=8,test=2", "--draw", "balanced"]
    done = store(trained, tmp_path, "--data", str(photos), *more)
    assert done.exit_code == 0, done.output
    data = read(
        photos, "train", **{**READING, "draw": "balanced", "sizes": {"train": 8, "test": 2}}
    )
    assert read_stored(tmp_path).card["data"]["digest"] == data.digest()


def test_labels_that_mean_other_classes_are_refused(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    more = shutil.copytree(photos, tmp_path / "more")
    for part in ("train", "test"):
        shutil.copytree(more / part / "dark", more / part / "grey")
    arguments = ["--data", str(more), "--classes", "dark, bright, grey"]
    done = store(trained, tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert "has 2 classes and more has 3" in done.stderr
    assert not (tmp_path / "out").exists()
