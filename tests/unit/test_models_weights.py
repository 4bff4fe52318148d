"""Weights from files of other programs, and what is refused of them."""

import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from redoubtable.models import Card, architecture_of, create, load_model, load_weights, save_model
from redoubtable.seeding import seeded


def network(seed=0, **arguments):
    with seeded("weights", seed):
        return create("small_cnn", **{"width": 3, "classes": 3, **arguments})


def same(model, other):
    mine, its = model.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(v, its[k]) for k, v in mine.items())


@pytest.fixture
def source():
    model = network(1)
    model.train()(torch.rand(4, 1, 8, 8))  # moves the statistics of the batch norms
    return model


def test_safetensors_and_pickles_of_tensors(source, tmp_path):
    state = source.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    for index, kept in enumerate(
        (
            state,
            dict(state),
            {"state_dict": state, "epoch": 3},
            {"model_state_dict": OrderedDict(state), "optimizer": {"lr": 0.1}},
            {"net": {"state_dict": state}, "acc": 0.5},
        )
    ):
        torch.save(kept, tmp_path / f"{index}.pth")
    torch.save(state, tmp_path / "b.pt")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7
    for file in files:
        model = network(2)
        assert not same(model, source)
        assert load_weights(model, file) is model
        assert same(model, source), file


@pytest.mark.parametrize("before", ["module.", "_orig_mod.", "module._orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(source, tmp_path, before):
    state = {before + k: v for k, v in source.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    assert same(load_weights(network(2), tmp_path / "a.pt"), source)


def test_what_data_parallel_and_compile_save_is_loaded(source, tmp_path):
    torch.save(nn.DataParallel(source).state_dict(), tmp_path / "a.pt")
    torch.save(torch.compile(source).state_dict(), tmp_path / "b.pt")
    assert "_orig_mod." in next(iter(torch.load(tmp_path / "b.pt")))
    for file in ("a.pt", "b.pt"):
        assert same(load_weights(network(2), tmp_path / file), source)
    source.features = torch.compile(source.features)
    torch.save(source.state_dict(), tmp_path / "c.pt")
    loaded = load_weights(network(2), tmp_path / "c.pt")
    x = torch.rand(2, 1, 8, 8)
    source.features = source.features._orig_mod
    assert torch.equal(loaded.eval()(x), source.eval()(x))


def test_a_network_whose_own_names_begin_so_keeps_them(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    wrapped = Wrapped()
    torch.save(wrapped.state_dict(), tmp_path / "a.pt")
    torch.save(nn.DataParallel(wrapped).state_dict(), tmp_path / "b.pt")
    for file in ("a.pt", "b.pt"):
        assert same(load_weights(Wrapped(), tmp_path / file), wrapped)


def test_a_compiled_network_that_was_saved_is_loaded(source, tmp_path):
    made = architecture_of(source)
    save_model(tmp_path, torch.compile(source), Card(made.name, made.arguments, classes=3))
    assert same(load_model(tmp_path), source)


def test_old_batch_norms_without_a_count_are_loaded(source, tmp_path):
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "a.pt")
    loaded = load_weights(network(2), tmp_path / "a.pt")
    assert torch.equal(loaded.features[1].running_mean, source.features[1].running_mean)


def changed(state, **edits):
    state = {k: v.clone() for k, v in state.items()}
    for key in edits.get("drop", ()):
        del state[key]
    return {**state, **edits.get("add", {})}


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"drop": ["linear.bias"]}, r"don't fit small_cnn: missing: linear\.bias; build"),
        ({"add": {"extra": torch.ones(1)}}, "not in the network: extra;"),
        (
            {"add": {"linear.bias": torch.ones(4)}},
            r"misshaped: linear\.bias \(4,\) instead of \(3,\);",
        ),
        (
            {"drop": [f"features.{i}.weight" for i in (0, 1, 3, 4, 6)]},
            r"missing: features\.0\.weight, features\.1\.weight, features\.3\.weight and 2 more;",
        ),
    ],
)
def test_other_names_and_shapes_are_named_and_nothing_is_loaded(source, tmp_path, edits, message):
    torch.save(changed(source.state_dict(), **edits), tmp_path / "a.pt")
    model = network(2)
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(model, tmp_path / "a.pt")
    assert "\n" not in str(caught.value)
    assert same(model, network(2))


def test_weights_of_another_architecture(tmp_path):
    save_file(nn.Bilinear(2, 2, 2).state_dict(), tmp_path / "a.safetensors")
    message = "they are of another architecture, with 'bias' where the network has 'normalize.mean'"
    with pytest.raises(ValueError, match=message):
        load_weights(network(), tmp_path / "a.safetensors")


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"linear.bias": Code(str(tmp_path / "ran"))}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="damaged or hold more than tensors") as caught:
        load_weights(network(), tmp_path / "a.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_network_is_refused(source, tmp_path):
    torch.save(source, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"save them with torch\.save\(model\.state_dict\(\), path\)"
    ):
        load_weights(network(), tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("end", [".pt", ".pth", ".safetensors"])
def test_damaged_files(tmp_path, content, end):
    (tmp_path / f"a{end}").write_bytes(content)
    with pytest.raises(ValueError, match="are damaged or hold more than tensors"):
        load_weights(network(), tmp_path / f"a{end}")


@pytest.mark.parametrize("held", [{}, [1, 2], {"epoch": 3}, torch.ones(2), {"state_dict": {}}])
def test_files_without_weights(tmp_path, held):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="has no weights by name"):
        load_weights(network(), tmp_path / "a.pt")


def test_no_file_or_one_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match=r"`weights` must be a file, got .* where there is none"):
        load_weights(network(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="must be a file"):
        load_weights(network(), tmp_path)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.pt or \.pth"):
        load_weights(network(), tmp_path / "a.h5")
