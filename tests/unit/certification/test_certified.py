"""The record of certificates: accuracy against the radius, resuming, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from redoubtable.certification import ABSTAIN, Smoothing, certify
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import certified
from redoubtable.statistics import wilson
from tests.networks import blobs, small_net


@pytest.fixture
def images() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model, x = small_net(), blobs(12)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 4
    return model, x, y


def test_the_table_follows_from_each_certificate(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    model, x, y = images
    done = certified(model, x, y, "smoothing:noise=0.1", n0=10, n=60, alpha=0.01, chunk=5)
    by_hand = certify(model, x, Smoothing(0.1), n0=10, n=60, alpha=0.01)
    assert np.array_equal(done.arrays["radii"], by_hand.radii)
    assert np.array_equal(done.arrays["classes"], by_hand.classes)
    pairs = list(zip(by_hand.classes.tolist(), by_hand.radii.tolist(), y.tolist(), strict=True))
    table = done.record["certified"]
    assert [p["radius"] for p in table] == sorted(p["radius"] for p in table)
    sure = 0.01 ** (1 / 60)
    assert table[-1]["radius"] == pytest.approx(Smoothing(0.1).radius(sure, 1 - sure, x.shape[1:]))
    shares = set()
    for point in table:
        hits = sum(c == label and r >= point["radius"] for c, r, label in pairs)
        assert point["accuracy"] == vars(wilson(hits, 12))
        assert done.accuracy(point["radius"]) == hits / 12
        shares.add(hits)
    assert len(shares) > 1
    abstained = sum(c == ABSTAIN for c, _, _ in pairs)
    assert done.record["abstained"]["value"] == abstained / 12
    mean = sum(r for c, r, label in pairs if c == label) / 12
    assert done.record["mean_radius"] == pytest.approx(mean)
    assert done.record["norm"] == "L2"
    assert "0.1 is the same" in done.record["guarantee"]


def test_a_folder_given_again_goes_on(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x, y = images
    calls = []
    module = "redoubtable.evaluation.certify.certify"

    def counted(*arguments: object, **named: object) -> object:
        calls.append(named["first"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return certify(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, counted)
    settings = {"n0": 5, "n": 30, "chunk": 4}
    with pytest.raises(KeyboardInterrupt):
        certified(model, x, y, **settings, out=tmp_path)  # type: ignore[arg-type]
    done = certified(model, x, y, **settings, out=tmp_path)  # type: ignore[arg-type]
    assert calls == [0, 4, 4, 8]
    monkeypatch.setattr(module, certify)
    whole = certified(model, x, y, **{**settings, "chunk": 12})  # type: ignore[arg-type]
    assert whole.record == done.record
    assert json.loads((tmp_path / "record.json").read_text()) == done.record
    with np.load(tmp_path / "examples.npz", allow_pickle=False) as kept:
        assert np.array_equal(kept["radii"], done.arrays["radii"])
    other = certified(model, x, y, **settings, seed=1, out=tmp_path)  # type: ignore[arg-type]
    assert not np.array_equal(other.arrays["hits"], done.arrays["hits"])


def test_what_cannot_be_certified_is_refused(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    model, x, y = images
    with pytest.raises(ValueError, match="did you mean smoothing"):
        certified(model, x, y, "smothing")
    with pytest.raises(ValueError, match="radii"):
        certified(model, x, y, radii=[-1.0])
    with pytest.raises(ValueError, match="label"):
        certified(model, x, y + 4)


def test_the_radii_of_pixels_are_whole_numbers(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    model, x, y = images
    done = certified(model, x, y, "ablation:rate=0.95", n0=10, n=200, alpha=0.05)
    assert done.record["norm"] == "L0"
    assert done.record["largest_radius"] == 12  # 200 samples do not reach the 13 of a sure vote
    assert [p["radius"] for p in done.record["certified"]] == [0, 3, 6, 9, 12]
    curve = done.record["curve"]
    assert [p["radius"] for p in curve] == list(range(13))
    right = done.arrays["classes"] == done.arrays["y"]
    for point in curve:
        hits = int((right & (done.arrays["radii"] >= point["radius"])).sum())
        assert point["accuracy"] == vars(wilson(hits, 12))
    assert len({p["accuracy"]["value"] for p in curve}) > 1
    asked = certified(model, x, y, "ablation:rate=0.95", n0=10, n=200, alpha=0.05, radii=[3, 1])
    assert [p["radius"] for p in asked.record["certified"]] == [1, 3]
    assert asked.record["curve"] == curve


def test_many_radii_are_thinned_out_and_few_are_all_there(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    model, x, y = images
    few = certified(model, x[:2], y[:2], "ablation:rate=0.8", n0=5, n=100, alpha=0.05)
    assert [p["radius"] for p in few.record["certified"]] == [0, 1, 2]
    smooth = certified(model, x[:2], y[:2], "smoothing:noise=0.1", n0=5, n=100)
    radii = [p["radius"] for p in smooth.record["curve"]]
    assert len(radii) == 101
    assert (radii[0], radii[-1]) == (0, smooth.record["largest_radius"])
    wide = torch.zeros(2, 3, 40, 40)
    many = certified(model, wide, y[:2], "ablation:rate=0.999", n0=5, n=500, alpha=0.05)
    radii = [p["radius"] for p in many.record["curve"]]
    assert len(radii) == 101
    assert radii[-1] == many.record["largest_radius"] > 500
    assert all(r == int(r) for r in radii)


def test_a_guard_is_certified_for_its_classes(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor],
) -> None:
    """A rejection on top leaves the vote's class as it is, so the certificate is the network's."""
    model, x, y = images
    settings = {"n0": 10, "n": 100, "alpha": 0.05}
    plain = certified(model, x, y, "ablation:rate=0.9", **settings)  # type: ignore[arg-type]
    strict = Rejecting(model, Entropy(), 0.0)  # rejects everything
    guard = certified(strict, x, y, "ablation:rate=0.9", **settings)  # type: ignore[arg-type]
    for name in ("classes", "radii", "lower", "upper", "hits"):
        assert np.array_equal(plain.arrays[name], guard.arrays[name])
    assert "not another class, but perhaps rejected" in guard.record["guarantee"]
    assert "reject" not in plain.record["guarantee"]


def test_bounding_the_others_is_said_and_kept_apart(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model, x, y = images
    one = certified(model, x, y, "ablation:rate=0.9", n0=9, n=200, alpha=0.05, out=tmp_path)
    two = certified(
        model, x, y, "ablation:rate=0.9", n0=9, n=200, alpha=0.05, runner_up=True, out=tmp_path
    )
    assert (one.record["settings"]["runner_up"], two.record["settings"]["runner_up"]) == (0, 1)
    assert np.array_equal(one.arrays["hits"], two.arrays["hits"])
    assert not np.array_equal(one.arrays["upper"], two.arrays["upper"])


def test_nothing_to_certify_is_an_error_before_any_work(
    images: tuple[nn.Module, torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    model, x, y = images
    with pytest.raises(ValueError, match="no number of samples"):
        certified(model, x, y, "ablation:rate=0.4", out=tmp_path)
    assert not list(tmp_path.iterdir())
