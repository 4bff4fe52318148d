"""The zoo: every network loads, fits its card and record, and all of it stays small."""

import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from redoubtable.data import read, to_unit
from redoubtable.models import load_model, read_card

ROOT = Path(__file__).parents[2]
MODELS = sorted(p.parent for p in (ROOT / "zoo").glob("*/card.json"))


def record_of(folder):
    return json.loads((ROOT / "results" / "zoo" / f"{folder.name}.json").read_text())


def test_there_is_a_zoo_of_at_most_eight_megabytes():
    assert len(MODELS) >= 4
    assert sum(f.stat().st_size for m in MODELS for f in m.iterdir()) < 8e6


@pytest.mark.parametrize("folder", MODELS, ids=lambda f: f.name)
def test_every_network_loads_in_single_precision_and_fits_its_record(folder):
    card, record, model = read_card(folder), record_of(folder), load_model(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    assert record["model"]["sha256"] == card.sha256
    assert record["trained by"] == card.notes["command"]
    assert card.metrics["test_accuracy"] == record["accuracy"]["value"]
    with torch.no_grad():
        out = model(torch.rand(2, *card.data["shape"]))
    assert out.shape == (2, card.classes) and out.isfinite().all()


def test_the_digits_network_is_as_right_as_its_record_says():
    folder = ROOT / "zoo" / "digits-cnn"
    x, y = read("digits", "test").floats()
    with torch.no_grad():
        share = (load_model(folder)(x).argmax(1) == y).float().mean().item()
    assert share == pytest.approx(record_of(folder)["accuracy"]["value"], abs=0.003)


@pytest.mark.data
@pytest.mark.parametrize("folder", MODELS, ids=lambda f: f.name)
def test_a_thousand_real_images_agree_with_the_record(folder, data_folder):
    record = record_of(folder)
    name = record["data"]["name"]
    if name != "digits" and not (data_folder / f"{name}.npz").is_file():
        pytest.skip(f"no {name}.npz in REDOUBT_DATA")
    data = read(name, "test", root=data_folder, limit=500 if name == "digits" else 1000)
    with torch.no_grad():
        answers = load_model(folder)(to_unit(data.images)).argmax(1)
    share = (answers == data.labels).float().mean().item()
    value = record["accuracy"]["value"]
    spread = (value * (1 - value) / len(data)) ** 0.5
    assert abs(share - value) < 4 * spread + 1e-6


def script():
    """zoo/make.py, as a module."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "zoo" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make


def test_the_readme_has_the_table_of_cards_and_records():
    make = script()
    assert make.table() in (ROOT / "zoo" / "README.md").read_text()


def test_the_record_has_every_flag_of_the_command(tmp_path, monkeypatch):
    """Those that are given, and none that says where data lie on this machine."""
    make = script()
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "README.md").write_text("<!-- table -->\n<!-- /table -->\n")
    monkeypatch.setattr(make, "HOME", tmp_path / "zoo")
    monkeypatch.setattr(make, "RECORDS", tmp_path / "records")
    run = shutil.copytree(ROOT / "zoo" / "digits-cnn", tmp_path / "run")
    card = json.loads((run / "card.json").read_text())
    del card["notes"]["command"]
    (run / "card.json").write_text(json.dumps(card))
    flags = ["--data", "digits", "--defense", "subsample:rate=0.5", "--note", "an odd, long one"]
    flags += ["--trained-by", "redoubt train --out it"]
    root = ["--root", str(tmp_path)]
    for more, shown in ((root, ["--root", "DATA"]), ([], [])):
        monkeypatch.setattr(sys, "argv", ["make.py", str(run), "mine", *flags, *more])
        make.main()
        record = json.loads((tmp_path / "records" / "mine.json").read_text())
        words = shlex.split(record["command"])
        assert words[:4] == ["python", "zoo/make.py", "RUN", "mine"]
        assert sorted(words[4:]) == sorted([*flags, *shown])
        assert record["trained by"] == "redoubt train --out it"
