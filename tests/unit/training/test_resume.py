import dataclasses
import errno
import functools
import io
import os

import pytest
import torch
import torch.nn.functional as F

from redoubtable.files import read_sealed, write_sealed
from redoubtable.models import load_model, read_card
from redoubtable.training import RECIPES, Recipe, Settings
from tests.unit.training.parts import (
    SETTINGS,
    Killed,
    dying,
    fresh,
    quiet,
    rows,
    same,
    state,
    toy,
)

FILES = ["card.json", "checkpoint.bin", "model.safetensors", "train.jsonl"]


def test_killed_and_resumed_is_bit_identical(tmp_path):
    data, validation = toy(), toy(30, "validation")
    steps = 5  # of 70 images in batches of at most 16

    def run(recipe, name, settings=SETTINGS):
        return quiet(fresh(), data, recipe, settings, validation=validation, out=tmp_path / name)

    whole = run("subsampled", "whole")
    for attempt in range(3):  # dies in the middle of epoch 1, then of 2, then of 4
        with pytest.raises(Killed):
            run(dying([2, steps + 3, 2 * steps + 1][attempt]), "cut")
    assert [r["epoch"] for r in rows(tmp_path / "cut")] == [1, 2, 3]
    assert not (tmp_path / "cut" / "card.json").exists()
    torch.rand(3)  # the caller's random state plays no part
    cut = run("subsampled", "cut")
    assert same(state(whole.model), state(cut.model))
    for a, b in zip(whole.rows, cut.rows, strict=True):
        assert (a.epoch, a.loss, a.lr, a.validation_accuracy) == (
            b.epoch,
            b.loss,
            b.lr,
            b.validation_accuracy,
        )
    assert [r["epoch"] for r in rows(tmp_path / "cut")] == [1, 2, 3, 4]
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == FILES
    assert not same(state(whole.model), state(fresh()))


def test_killed_between_the_last_checkpoint_and_its_log(tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    once = Settings(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("redoubtable.training.checkpoint.write_log", killed)
        with pytest.raises(Killed):
            quiet(fresh(), toy(), "natural", once, out=tmp_path)
    done = quiet(fresh(), toy(), dying(0, "natural"), once, out=tmp_path)
    assert [r["loss"] for r in rows(tmp_path)] == [done.rows[0].loss]


def test_a_folder_in_use_is_refused_until_the_run_there_has_ended(tmp_path):
    seen = []

    def second(epochs):
        model, weights = fresh(1), state(fresh(1))
        with pytest.raises(ValueError, match=r"in use by the training .*choose another --out"):
            quiet(model, toy(), "natural", Settings(epochs=epochs), out=tmp_path)
        seen.append(same(weights, state(model)))

    def loss(model, x, y):
        if not seen:
            second(1)
        return F.cross_entropy(model(x), y)

    bound = RECIPES.bind("natural")
    entry = dataclasses.replace(bound.entry, obj=lambda: Recipe(loss))
    quiet(fresh(), toy(), dataclasses.replace(bound, entry=entry), Settings(epochs=1), out=tmp_path)
    assert seen == [True]
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    quiet(fresh(), toy(), dying(0, "natural"), Settings(epochs=1), out=tmp_path)


def test_finished_run_returns_at_once(tmp_path):
    first = quiet(fresh(), toy(), "natural", SETTINGS, out=tmp_path)
    written = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = fresh(seed=1)
    again = quiet(other, toy(), dying(0, "natural"), SETTINGS, out=tmp_path)
    assert again.rows == first.rows and again.model is other and not other.training
    assert same(state(other), state(first.model))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == written


def test_killed_before_the_model_is_saved(tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("redoubtable.training.trainer.save_model", killed)
        with pytest.raises(Killed):
            quiet(fresh(), toy(), "natural", SETTINGS, out=tmp_path)
    assert not (tmp_path / "card.json").exists()
    done = quiet(fresh(), toy(), dying(0, "natural"), SETTINGS, out=tmp_path)
    assert same(state(load_model(tmp_path)), state(done.model))


def test_saved_model_and_card(tmp_path):
    data, validation = toy(), toy(30, "validation")
    done = quiet(
        fresh(),
        data,
        "subsampled:rate=0.25",
        SETTINGS,
        validation=validation,
        out=tmp_path / "new",
        notes={"command": "redoubt train"},
    )
    loaded, card = load_model(done.folder), read_card(done.folder)
    assert same(state(loaded), state(done.model))
    assert (card.architecture, card.classes, card.arguments["width"]) == ("small_cnn", 3, 3)
    assert card.recipe == "subsampled:rate=0.25"
    assert card.data == {
        "name": "toy",
        "split": "train",
        "images": 70,
        "shape": [1, 9, 9],
        "digest": data.digest(),
    }
    assert card.settings["epochs"] == 4 and card.settings["seed"] == 5
    x, y = validation.floats()
    assert card.metrics["validation_accuracy"] == pytest.approx(
        (loaded(x).argmax(1) == y).float().mean().item()
    )
    assert card.metrics["loss"] == done.rows[-1].loss
    assert card.notes == {"command": "redoubt train"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": Settings(epochs=5, batch_size=16, augment="crop+flip", seed=5)}, "epochs"),
        ({"settings": Settings(epochs=4, batch_size=16, augment="crop+flip", seed=6)}, "seed"),
        ({"recipe": "subsampled:rate=0.5"}, "recipe is natural, not subsampled:rate=0.5"),
        ({"data": toy(69)}, "data is toy train"),
        ({"validation": toy(10, "validation")}, "validation data is none"),
        ({"model": fresh(width=4)}, "architecture"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path, change, named):
    arguments = {"model": fresh(), "data": toy(), "recipe": "natural", "settings": SETTINGS}
    quiet(**arguments, out=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"holds another training run: its .*{named}"):
        quiet(**{**arguments, **change}, out=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_damaged_last_checkpoint_gives_way_to_the_one_before(tmp_path):
    whole = quiet(fresh(), toy(), "natural", SETTINGS, out=tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(Killed):
        quiet(fresh(), toy(), dying(17, "natural"), SETTINGS, out=folder)  # in epoch 4
    path, previous = folder / "checkpoint.bin", folder / "checkpoint.previous.bin"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    used = r"damaged.*one before it is used instead, after epoch 2"
    with pytest.warns(UserWarning, match=used), pytest.raises(Killed):
        quiet(fresh(), toy(), dying(0, "natural"), SETTINGS, out=folder)
    assert not previous.exists()  # it stands in the damaged one's place
    path.rename(previous)  # as a kill between the two renames of a write leaves it
    with pytest.warns(UserWarning, match="one before it is used instead, after epoch 2"):
        done = quiet(fresh(), toy(), "natural", SETTINGS, out=folder)
    assert same(state(done.model), state(whole.model)) and done.rows[1].loss == whole.rows[1].loss
    assert sorted(p.name for p in folder.iterdir()) == FILES


def test_full_disk_ends_no_training_and_loses_no_checkpoint(tmp_path, monkeypatch):
    whole = quiet(fresh(), toy(), "natural", SETTINGS)
    from redoubtable.training import checkpoint

    write, calls = checkpoint.write_sealed, []

    def full(path, content):
        calls.append(path)
        if len(calls) in (2, 3):
            path.write_bytes(content[:100])  # what fitted
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_sealed", full)
    said = r"no checkpoint after epoch [23] .*No space left"
    with pytest.warns(UserWarning, match=said) as every, pytest.raises(Killed):
        quiet(fresh(), toy(), dying(16, "natural"), SETTINGS, out=tmp_path)
    assert len(every) == 2
    assert [r["epoch"] for r in rows(tmp_path)] == [1]
    done = quiet(fresh(), toy(), "natural", SETTINGS, out=tmp_path)  # goes on after epoch 1
    assert len(calls) == 6
    assert same(state(done.model), state(whole.model))


def test_checkpoint_within_an_epoch(tmp_path, monkeypatch):
    """With no time between checkpoints there is one at each look at the loss."""
    monkeypatch.setattr("redoubtable.training.trainer._MINUTES", -1)
    monkeypatch.setattr("redoubtable.training.run._LOOK", 2)
    settings = dataclasses.replace(SETTINGS, ema=0.9)
    for text in ("subsampled", "free:replays=3"):
        folder = tmp_path / text
        whole = quiet(fresh(), toy(), text, settings)
        replays = 3 if "free" in text else 1
        with pytest.raises(Killed):  # in the fourth of five steps of the second epoch
            quiet(fresh(), toy(), dying(8 * replays, text), settings, out=folder)
        kept = read_checkpoint_of(folder)
        assert len(kept["rows"]) == 1 and kept["begun"][0] == 2
        seen = []
        again = dying(10**6, text)
        inner = again.entry.obj(**again.arguments)
        counted = dataclasses.replace(
            inner, loss=lambda *a, inner=inner, seen=seen: (seen.append(1), inner.loss(*a))[1]
        )
        factory = functools.wraps(again.entry.obj)(lambda counted=counted, **_: counted)
        bound = dataclasses.replace(again, entry=dataclasses.replace(again.entry, obj=factory))
        done = quiet(fresh(), toy(), bound, settings, out=folder)
        assert len(seen) == (20 - 7) * replays  # of four epochs of five steps, seven were kept
        assert same(state(done.model), state(whole.model))
        assert [r.loss for r in done.rows] == [r.loss for r in whole.rows]


def test_another_network_of_the_same_name_is_refused(tmp_path):
    """As code that was changed between two calls gives it."""
    quiet(fresh(), toy(), "natural", SETTINGS, out=tmp_path)
    larger, frozen = fresh(), fresh()
    larger.added = torch.nn.Linear(1, 1)
    frozen.linear.bias.requires_grad_(False)
    for model in (larger, frozen):
        with pytest.raises(ValueError, match="holds the training of another network of the same"):
            quiet(model, toy(), "natural", SETTINGS, out=tmp_path)


def test_what_a_kill_left_half_written_goes(tmp_path):
    left = tmp_path / "..checkpoint.bin.new.x1y2z3"  # a temporary file of a temporary file
    left.write_bytes(b"half")
    quiet(fresh(), toy(), "natural", Settings(epochs=1), out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES


def test_a_log_that_finds_no_room_is_said_to_be_the_log(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    once = Settings(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("redoubtable.training.checkpoint.write_log", full)
        with pytest.warns(UserWarning, match=r"the log .* could not be written .*No space left"):
            quiet(fresh(), toy(), "natural", once, out=tmp_path)
    done = quiet(fresh(), toy(), dying(0, "natural"), once, out=tmp_path)  # nothing is lost
    assert [r["loss"] for r in rows(tmp_path)] == [done.rows[0].loss]


def read_checkpoint_of(folder):
    content = read_sealed(folder / "checkpoint.bin", "checkpoint")
    return torch.load(io.BytesIO(content), weights_only=True)


def test_damaged_checkpoint_is_named(tmp_path):
    quiet(fresh(), toy(), "natural", Settings(epochs=1), out=tmp_path)
    path = tmp_path / "checkpoint.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(ValueError, match=r"checkpoint\.bin is damaged; delete it"):
        quiet(fresh(), toy(), "natural", Settings(epochs=1), out=tmp_path)
    foreign = io.BytesIO()
    torch.save({"rows": 1}, foreign)
    for content in (b"sealed, but no checkpoint", foreign.getvalue()):
        write_sealed(path, content)
        with pytest.raises(ValueError, match=r"checkpoint\.bin can't be read .*; delete it"):
            quiet(fresh(), toy(), "natural", Settings(epochs=1), out=tmp_path)
