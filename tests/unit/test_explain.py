"""`redoubt explain`: pictures, arrays and a record that say the same."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.data import load
from redoubtable.explanations import (
    SubsampledMaps,
    concentration,
    first_layer_filters,
    mass_share,
    peak_shares,
    subsampled_maps,
)
from redoubtable.models import load_model
from redoubtable.reports.explanations import (
    filters_picture,
    maps_picture,
    panels,
    reading_of,
    show_explanation,
)
from redoubtable.saliency import Saliency
from tests.networks import small_net

DIGITS = str(Path(__file__).parents[2] / "zoo" / "digits-cnn")


def run(*arguments: str) -> Any:
    given = ("explain", DIGITS, "--limit", "12", "--show", "3", "--device", "cpu")
    return CliRunner().invoke(app, [*given, *arguments])


def test_the_folder_holds_what_the_functions_give(tmp_path: Path) -> None:
    done = run("--rate", "0.7", "--seed", "4", "--out", str(tmp_path), "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "record.json").read_text())
    model, (x, y) = load_model(DIGITS), load("digits", "test", limit=12)
    found = mass_share(model, x, 0.7, "element", 4)
    assert record["kind"] == "explanation" and record["name"] == "digits-cnn"
    assert record["settings"] == {
        "rate": 0.7, "granularity": "element", "seed": 4, "draws": 1, "shown": 3, "batch_size": 64
    }  # fmt: skip
    assert record["mass_share"]["value"] == pytest.approx(found.mass.value)
    assert record["mass_share"]["n"] == record["accuracy"]["n"] == record["data"]["n"] == 12
    assert record["kept_share"] == pytest.approx(found.kept)
    assert record["accuracy"]["value"] == pytest.approx((found.classes == y).double().mean().item())
    filters = first_layer_filters(model)
    assert record["filters"]["shape"] == [32, 1, 3, 3]
    assert record["filters"]["concentration"] == pytest.approx(concentration(filters))
    assert np.mean(record["filters"]["each"]) == pytest.approx(concentration(filters))
    assert record["filters"]["peaks"] == pytest.approx(peak_shares(filters).tolist())
    assert record["filters"]["peak"] == pytest.approx(np.mean(record["filters"]["peaks"]))
    maps = subsampled_maps(model, x[:3], 0.7, "element", 4)
    with np.load(tmp_path / "maps.npz") as kept:
        assert np.array_equal(kept["x_masked"], maps.x_masked)
        assert np.array_equal(kept["kept"], maps.kept)
        assert np.allclose(kept["on_masked"], maps.on_masked.values, atol=1e-5)
        assert np.allclose(kept["on_x"], maps.on_x.values, atol=1e-5)
        assert np.array_equal(kept["filters"], filters)
        assert np.allclose(kept["mass_share"], found.each, atol=1e-6)
    for name in ("explanation", "filters"):
        assert imread(tmp_path / f"{name}.png").std() > 0.1
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")


def test_the_table_says_what_was_found(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path), "--granularity", "pixel", "--rate", "0.5")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "rate=0.5, pixel masks" in text
    assert "mass of E(X') on them" in text and "One mask per image, seed 0" in text
    assert "centre of first filters" in text and "32 of 1x3x3" in text
    assert "explanation.png" in text and "filters.png" in text and "record.json" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "1.5"), "`rate` is the share of dropped"),
        (("--granularity", "row"), "`granularity` must be"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
    ],
)
def test_bad_options_end_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("--out", str(tmp_path / "out"), *arguments)
    assert done.exit_code == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_network_without_weights_is_refused(tmp_path: Path) -> None:
    given = ["explain", "small_cnn", "--data", "digits", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2 and "random weights" in done.stderr


def linear(classes: int, channels: int) -> torch.nn.Module:
    """A user's own network, without a convolution."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784 * channels, classes))


def explain_own(folder: Path, model: torch.nn.Module, *arguments: str) -> Any:
    """Explain a linear network of a user's own; return what the command did and its record."""
    save_file(model.state_dict(), folder / "own.safetensors")
    given = ["explain", "tests.unit.test_explain:linear", "--limit", "4", *arguments]
    more = ["--weights", str(folder / "own.safetensors"), "--out", str(folder / "out")]
    with pytest.warns(UserWarning, match="no convolution"):
        done = CliRunner().invoke(app, [*given, *more])
    assert done.exit_code == 0, done.output
    return done, json.loads((folder / "out" / "record.json").read_text())


def test_masks_of_whole_pixels_in_colour(tmp_path: Path) -> None:
    model, pixels = linear(4, 3), torch.randint(256, (4, 28, 28, 3), dtype=torch.uint8)
    np.savez(tmp_path / "own.npz", x_test=pixels, y_test=np.arange(4))
    given = ("--data", str(tmp_path / "own.npz"), "--rate", "0.5", "--granularity", "pixel")
    _, record = explain_own(tmp_path, model, *given)
    with np.load(tmp_path / "out" / "maps.npz") as kept:
        assert (kept["kept"] == kept["kept"][:, :1]).all()
    x = pixels.permute(0, 3, 1, 2) / 255
    expected = mass_share(model, x, 0.5, "pixel").mass
    assert record["mass_share"]["value"] == pytest.approx(expected.value)
    assert record["settings"]["granularity"] == "pixel"


def test_a_network_without_a_convolution_has_maps_and_no_filters(tmp_path: Path) -> None:
    done, record = explain_own(tmp_path, linear(10, 1), "--data", "digits")
    assert record["filters"] is None and record["mass_share"]["n"] == 4
    assert (tmp_path / "out" / "explanation.png").exists()
    assert not (tmp_path / "out" / "filters.png").exists()
    assert "filters" not in done.stdout


# -- pictures ----------------------------------------------------------------------------------


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(imread(io.BytesIO(content)))[..., :3]


def test_a_picture_is_the_same_bytes_and_follows_its_arrays() -> None:
    net, x = small_net(), torch.rand(2, 3, 8, 8)
    maps = subsampled_maps(net, x, 0.5)
    for kind in ("png", "svg"):
        first = maps_picture(maps, ["label 1", "label 2"], kind)
        assert first == maps_picture(maps, ["label 1", "label 2"], kind)
        assert first != maps_picture(maps, ["label 1", "label 3"], kind)
    assert pixels(maps_picture(maps, ["a", "b"])).shape[1] > 600


def maps_of(x: Tensor, kept: Tensor, on_x: Tensor, on_masked: Tensor) -> SubsampledMaps:
    zero = torch.zeros(len(x), dtype=torch.int64)
    masked = torch.where(kept, x, 0.5)
    return SubsampledMaps(x, masked, kept, Saliency(on_x, zero), Saliency(on_masked, zero))


def test_the_panels_by_hand() -> None:
    """Nine tenths of the mass on dropped values: the kept part must look that much darker."""
    x = torch.rand(2, 3, 20, 20)
    kept = torch.zeros(2, 3, 20, 20, dtype=torch.bool)
    kept[..., :10] = True
    on_x = torch.rand(2, 3, 20, 20)
    on_x[0, 0, 0, 0] = 1000
    found = panels(maps_of(x, kept, on_x, torch.where(kept, 0.1, 0.9)))
    assert [p.shape for p in found] == [(6, 3, 20, 20)] * 2
    for k, six in enumerate(found):
        assert np.array_equal(six[0], x[k]) and np.array_equal(six[1][:, :, :10], x[k, :, :, :10])
        assert (six[1][:, :, 10:] == 0.5).all()
        summed = on_x[k].sum(0).numpy()
        white = np.percentile(summed, 99)
        assert white < 3.1  # one huge point does not darken all others
        assert np.allclose(six[2], (summed / white).clip(0, 1))
        assert np.allclose(six[3][..., :10], 1 / 9) and np.allclose(six[3][..., 10:], 1)
        assert np.allclose(six[4][..., :10], 1 / 9) and (six[4][..., 10:] == 0).all()
        assert (six[5][..., :10] == 0).all() and np.allclose(six[5][..., 10:], 1)


def test_maps_of_zeros_and_of_single_points_can_be_drawn() -> None:
    x, kept = torch.rand(1, 1, 20, 20), torch.ones(1, 1, 20, 20, dtype=torch.bool)
    point = torch.zeros(1, 1, 20, 20)
    point[0, 0, 3, 4] = 0.2
    (six,) = panels(maps_of(x, kept, point, torch.zeros_like(x)))
    assert six[2, 0, 3, 4] == 1 and six[2].sum() == 1
    assert not six[3:].any()
    assert maps_picture(maps_of(x, kept, point, torch.zeros_like(x)), ["label 1"])


def test_filters_are_drawn_eight_in_a_row_with_their_scores() -> None:
    one, many = (filters_picture(torch.randn(n, 3, 3, 3)) for n in (4, 17))
    assert pixels(many).shape[0] > 2 * pixels(one).shape[0]
    assert filters_picture(torch.ones(2, 2, 5, 5)) and filters_picture(torch.zeros(3, 1, 1, 1) + 1)
    with_zero = torch.randn(3, 1, 3, 3)
    with_zero[1] = 0
    assert b"svg" in filters_picture(with_zero, "svg")


@pytest.mark.parametrize(
    ("mass", "kept", "says"),
    [
        ((0.3, 0.28, 0.32), 0.1, "on dropped values; kept ones have 3.0 times as much"),
        ((0.05, 0.04, 0.06), 0.1, "on dropped values; kept ones have 0.5 times as much"),
        ((0.7, 0.6, 0.8), 0.5, "on kept values; kept ones have 1.4 times as much"),
        ((0.1, 0.09, 0.11), 0.1, "on dropped values; kept ones have as much of it"),
        ((0.0, 0.0, 0.0), 0.0, "on dropped values; kept ones have as much of it"),
    ],
)
def test_the_sentence_follows_the_numbers(
    mass: tuple[float, float, float], kept: float, says: str
) -> None:
    value, low, high = mass
    share = {"value": value, "n": 9, "low": low, "high": high}
    record = {
        "name": "net", "mass_share": share, "kept_share": kept, "filters": None,
        "accuracy": {"value": 0.5, "n": 9, "low": 0.2, "high": 0.8}, "data": {"n": 9},
        "settings": {"rate": 1 - kept, "granularity": "element", "seed": 7},
    }  # fmt: skip
    assert says in reading_of(record)
    text = io.StringIO()
    show_explanation(record, Console(file=text, width=120))
    assert f"{value:.1%}" in text.getvalue() and "seed 7" in text.getvalue()
    assert "filters" not in text.getvalue()
