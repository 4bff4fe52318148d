"""A training that goes on with other code than it was begun with says so."""

import dataclasses
import importlib
import io
import sys
import warnings

import pytest
import torch

from redoubtable.files import read_sealed, write_sealed
from redoubtable.models import open_model, read_card
from redoubtable.registry import Registry
from redoubtable.training import Settings
from tests.unit.training.parts import Killed, dying, fresh, quiet, same, state, toy

TWO = Settings(epochs=2, batch_size=16)
RECIPE = """
import torch.nn.functional as F
from redoubtable.training import Recipe

def scaled(logits):
    return FACTOR * logits

def factory():
    def loss(model, x, y):
        return F.cross_entropy(scaled(model(x)), y)
    return Recipe(loss)
"""
NETWORK = """
from torch import nn

class Base(nn.Module):
    def forward(self, x):
        return FACTOR * self.linear(x.flatten(1))

class Net(Base):
    def __init__(self, classes=3, channels=1):
        super().__init__()
        self.linear = nn.Linear(81 * channels, classes)

build = Net
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module anew and imports it, as the next process would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = []

    def anew(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        written.append(name)
        return importlib.import_module(name)

    yield anew
    for name in written:
        sys.modules.pop(name, None)


def bound(module):
    own = Registry("recipe")
    own.register("own")(module.factory)
    return own.bind("own")


def cut(recipe, steps):
    """The recipe until the process dies in a step."""
    inner, count = recipe.entry.obj(), 0

    def loss(model, x, y):
        nonlocal count
        count += 1
        if count > steps:
            raise Killed
        return inner(model, x, y)

    def factory():
        return dataclasses.replace(inner, loss=loss)

    factory.__module__ = recipe.entry.obj.__module__
    return dataclasses.replace(recipe, entry=dataclasses.replace(recipe.entry, obj=factory))


def silent(*arguments, **more):
    """A training that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return quiet(*arguments, **more)


def test_a_changed_helper_of_the_recipe_is_noted(write, tmp_path):
    out = tmp_path / "run"
    old = RECIPE.replace("FACTOR", "1")
    with pytest.raises(Killed):
        silent(fresh(), toy(), cut(bound(write("own_recipe", old)), 7), TWO, out=out)
    new = bound(write("own_recipe", RECIPE.replace("FACTOR", "3")))
    said = "the code of the recipe was changed after epoch 1 of the training in"
    with pytest.warns(UserWarning, match=said), pytest.raises(Killed):
        quiet(fresh(), toy(), cut(new, 2), TWO, out=out)
    with pytest.warns(UserWarning, match=said):  # nothing was kept since
        quiet(fresh(), toy(), new, TWO, out=out, notes={"command": "train"})
    notes = read_card(out).notes
    assert notes["changed code"] == ["the code of the recipe was changed after epoch 1"]
    assert notes["command"] == "train"


def test_the_same_code_in_a_file_written_anew_is_the_same(write, tmp_path):
    out, text = tmp_path / "run", RECIPE.replace("FACTOR", "1")
    with pytest.raises(Killed):
        silent(fresh(), toy(), cut(bound(write("own_recipe", text)), 7), TWO, out=out)
    done = silent(fresh(), toy(), bound(write("own_recipe", text)), TWO, out=out)
    whole = silent(fresh(), toy(), "natural", TWO)
    assert same(state(done.model), state(whole.model))
    assert "changed code" not in read_card(out).notes


def test_a_changed_base_class_of_the_network_is_noted_and_stays_on_the_card(write, tmp_path):
    """Each change at its place, over several calls; a finished run is left alone."""
    out, three = tmp_path / "run", dataclasses.replace(TWO, epochs=3)

    def network(factor):
        write("own_net", NETWORK.replace("FACTOR", factor))
        return open_model("own_net:build", classes=3, channels=1, size=(9, 9))

    with pytest.raises(Killed):
        silent(network("1"), toy(), dying(7, "natural"), three, out=out)
    with (
        pytest.warns(UserWarning, match="code of the network was changed after epoch 1"),
        pytest.raises(Killed),
    ):
        quiet(network("2"), toy(), dying(7, "natural"), three, out=out)
    with pytest.warns(UserWarning, match="code of the network was changed after epoch 2"):
        quiet(network("3"), toy(), "natural", three, out=out)
    card = read_card(out)
    assert card.notes["changed code"] == [
        f"the code of the network was changed after epoch {n}" for n in (1, 2)
    ]
    silent(network("3"), toy(), "natural", three, out=out)
    silent(network("4"), toy(), dying(0, "natural"), three, out=out)


def test_a_checkpoint_from_before_code_was_noted_goes_on(tmp_path):
    with pytest.raises(Killed):
        silent(fresh(), toy(), dying(7, "natural"), TWO, out=tmp_path)
    path = tmp_path / "checkpoint.bin"
    content = torch.load(io.BytesIO(read_sealed(path, "checkpoint")), weights_only=True)
    assert len(content.pop("code")) == 2
    del content["changes"]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_sealed(path, buffer.getvalue())
    silent(fresh(), toy(), "natural", TWO, out=tmp_path)
