"""The record of certificates: accuracy against the radius, resuming, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from redoubtable.certification import ABSTAIN, Smoothing, certify
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
    assert table[-1]["radius"] == pytest.approx(max(Smoothing(0.1).radius(0.01 ** (1 / 60)), 0))
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
