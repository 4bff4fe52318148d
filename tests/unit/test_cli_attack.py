"""`redoubt attack` writes images that fool the model, legal and readable as data again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.data import load
from redoubtable.models import load_model

ZOO = str(Path(__file__).parents[2] / "zoo" / "digits-cnn")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def attacked(out: Path, *more: str) -> Any:
    arguments = ["--threat", "Linf:0.2", "--limit", "24", "--attack", "pgd:steps=10"]
    done = run("attack", ZOO, *arguments, "--out", str(out), *more)
    assert done.exit_code == 0, done.output
    return done


def test_images_are_legal_fool_the_model_and_can_be_read_as_data(tmp_path: Path) -> None:
    attacked(tmp_path)
    with np.load(tmp_path / "adversarial.npz") as file:
        kept = {name: file[name] for name in file.files}
    assert kept["x_test"].dtype == np.uint8 and kept["x_test"].shape == (24, 28, 28, 1)
    x, y = load("digits", "test", limit=24)
    assert np.array_equal(kept["y_test"], y.numpy())
    again, labels = load(str(tmp_path / "adversarial.npz"), "test")
    assert torch.equal(labels, y)
    # Half a step of 8 bits: the digits are no 8-bit images, and unchanged values are rounded too.
    assert (again - x).abs().max() <= 0.2 + 0.5 / 255 + 1e-6
    with torch.no_grad():
        answers = load_model(ZOO).eval()(again).argmax(1)
    assert (answers == y).float().mean() <= 0.1
    agree = answers.numpy() == kept["answers"][:, 0]
    assert agree.mean() > 0.9
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["data"]["n"] == 24 and record["settings"]["eight_bit"]
    robust = record["robust"]["accuracy"]["one_shot"]["value"]
    assert robust == pytest.approx((kept["answers"][:, 0] == y.numpy()).mean())
    assert kept["distance"].max() <= 0.2 + 1e-5


def test_the_worst_of_several_attacks_is_written(tmp_path: Path) -> None:
    attacked(tmp_path, "--attack", "fgsm", "--no-eight-bit")
    with np.load(tmp_path / "adversarial.npz") as file:
        x_adv, y, answers = file["x_adv"], file["y_test"], file["answers"]
    assert x_adv.dtype == np.float32 and x_adv.shape == (24, 1, 28, 28)
    with torch.no_grad():
        said = load_model(ZOO).eval()(torch.from_numpy(x_adv)).argmax(1).numpy()
    assert np.array_equal(said, answers[:, 0])
    record = json.loads((tmp_path / "record.json").read_text())
    rows = [r["accuracy"]["one_shot"]["value"] for r in record["rows"]]
    assert (said == y).mean() <= min(rows)


def test_the_picture_shows_the_first_images(tmp_path: Path) -> None:
    said = attacked(tmp_path).output
    assert "sheet.png" in said and "adversarial.npz" in said
    pixels = imread(tmp_path / "sheet.png")
    assert pixels.shape[0] > 300 and pixels.shape[1] > 900
    assert pixels[..., :3].std() > 0.1


def test_an_attack_that_was_killed_goes_on(tmp_path: Path) -> None:
    first = attacked(tmp_path, "--chunk", "8", "--json").stdout
    images = (tmp_path / "adversarial.npz").read_bytes()
    for cell in sorted((tmp_path / "journal").glob("*.cell"))[::2]:
        cell.unlink()
    (tmp_path / "adversarial.npz").unlink()
    assert attacked(tmp_path, "--chunk", "8", "--json").stdout == first
    assert (tmp_path / "adversarial.npz").read_bytes() == images


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--threat", "L7:1"], "unknown threat"),
        (["--threat", "Linf:0.1", "--attack", "pgdd"], "did you mean pgd"),
        (["--threat", "Linf:8"], "did you mean Linf:8/255"),
        (["--threat", "Linf:0.1", "--data", "nowhere.npz"], "nowhere.npz"),
        (["--threat", "Linf:0.1", "--limit", "0"], "limit"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    done = run("attack", ZOO, "--out", str(tmp_path / "out"), *options)
    assert done.exit_code == 2
    assert says in done.stderr and done.stderr.count("\n") == 1
