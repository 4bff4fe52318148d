import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from redoubtable.models import (
    MODELS,
    Card,
    Normalize,
    architecture_of,
    create,
    load_model,
    read_card,
    save_model,
)
from redoubtable.seeding import seeded

SHALLOW = ["small_cnn", "resnet20"]


def build(name, **arguments):
    with seeded("test", name):
        return create(name, **arguments)


def images(model_name, n=4, size=(20, 20)):
    channels = MODELS[model_name].facts["input"][0]
    with seeded("images"):
        return torch.rand(n, channels, *size)


def unsettle(model):
    """Give batch norm statistics that differ from its start, so that mistakes show."""
    with seeded("unsettle"):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


# Option-A networks: 9 weights per kernel, two numbers per batch-norm channel, a linear layer.
@pytest.mark.parametrize(
    ("name", "blocks", "count"),
    [("resnet20", 3, 269_722), ("resnet56", 9, 853_018), ("resnet110", 18, 1_727_962)],
)
def test_parameter_counts_of_the_paper(name, blocks, count):
    convolutions = 9 * (3 * 16 + 16 * 16 * 2 * blocks)
    norms = 2 * 16 * (1 + 2 * blocks)
    for width in (32, 64):
        convolutions += 9 * (width // 2 * width + width * width * (2 * blocks - 1))
        norms += 2 * width * 2 * blocks
    assert convolutions + norms + 64 * 10 + 10 == count
    assert sum(p.numel() for p in create(name).parameters()) == count


def test_small_cnn_is_small():
    assert sum(p.numel() for p in create("small_cnn").parameters()) == 66_154


@pytest.mark.parametrize("name", SHALLOW)
@pytest.mark.parametrize("size", [(28, 28), (7, 5), (33, 1)])
def test_any_size_and_number_of_classes(name, size):
    model = build(name, classes=43).eval()
    assert model(images(name, 2, size)).shape == (2, 43)


@pytest.mark.parametrize("name", SHALLOW)
def test_prediction_does_not_depend_on_the_batch(name):
    model, x = unsettle(build(name)), images(name, 5)
    together = model(x)
    alone = torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert together.std(0).max() > 1e-3  # the images do matter


@pytest.mark.parametrize("name", SHALLOW)
def test_every_batch_norm_folds_into_its_convolution(name):
    model, x = unsettle(build(name)), images(name, 2)
    folded = fuse(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-3, atol=1e-3)


def test_shortcut_is_slicing_and_zero_channels():
    block = build("resnet20").blocks[3]
    x = torch.rand(1, 16, 5, 5)
    out = block.shortcut(x)
    assert out.shape == (1, 32, 3, 3)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()
    assert not list(block.shortcut.parameters())


def test_weights_are_drawn_as_in_the_paper():
    for name, module in build("resnet56").named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = 9 * module.in_channels
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.12), name
            # Normal, not uniform: some weights lie beyond the reach of a uniform of this spread.
            assert module.weight.abs().max() > 2.2 * module.weight.std(), name


def test_grey_becomes_zero_and_channels_have_their_own_numbers():
    assert torch.equal(
        Normalize()(torch.tensor([0, 0.5, 1]).reshape(1, 1, 1, 3)).flatten(),
        torch.tensor([-1.0, 0.0, 1.0]),
    )
    out = Normalize((0.0, 0.5), (1.0, 0.25))(torch.ones(1, 2, 1, 1))
    assert out.flatten().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "`classes` must be a whole number of at least 1, got 0"),
        ({"channels": 1.5}, "`channels`"),
        ({"clases": 3}, "did you mean classes?"),
        ({"std": 0.0}, "`std` must be positive"),
        ({"std": (1.0, 1.0), "mean": (1.0, 1.0, 1.0)}, "as many channels, got 3 and 2"),
        ({"mean": "dark"}, "`mean` must be a number"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        create("resnet20", **arguments)


def test_unknown_model_suggests_a_close_name():
    with pytest.raises(ValueError, match="did you mean resnet20"):
        create("resnet2")


def test_created_model_knows_all_its_arguments():
    made = architecture_of(create("small_cnn", width=4))
    assert made.text == "small_cnn:channels=1,classes=10,mean=0.5,std=0.5,width=4"
    assert architecture_of(nn.Identity()) is None


@pytest.fixture
def saved(tmp_path):
    model = unsettle(build("small_cnn", width=4, mean=[0.3], classes=3))
    model = model.to(memory_format=torch.channels_last)
    made = architecture_of(model)
    card = Card(made.name, made.arguments, classes=3, recipe="natural", metrics={"loss": 0.5})
    return tmp_path / "kept", model, save_model(tmp_path / "kept", model, card)


@pytest.mark.parametrize(
    ("kind", "loaded"), [(torch.float64, torch.float64), (torch.float16, torch.float32)]
)
def test_no_bit_of_another_precision_is_lost(tmp_path, kind, loaded):
    """A half is read as a single, which holds it exactly and runs on any processor."""
    model = build("small_cnn").to(kind)
    save_model(tmp_path, model, Card("small_cnn", {}, 10))
    state = load_model(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert state[name].dtype == loaded and torch.equal(state[name], value.to(loaded))


class Mixed(nn.Module):
    """A network in single precision with a buffer in double."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("steps", torch.full((), 0.1, dtype=torch.float64))


def test_mixed_precision_stays_as_it_is_built(tmp_path):
    name, model = f"{__name__}:Mixed", Mixed()
    save_model(tmp_path, model, Card(name, {}, 2))
    state = load_model(tmp_path, factory=name).state_dict()
    for key, value in model.state_dict().items():
        assert state[key].dtype == value.dtype and torch.equal(state[key], value)


def test_round_trip_is_exact(saved):
    folder, model, card = saved
    loaded = load_model(folder)
    assert not loaded.training
    assert architecture_of(loaded) == architecture_of(model)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert read_card(folder) == card
    assert card.versions["torch"] == torch.__version__
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "model.safetensors"]


def test_no_model_there(tmp_path):
    with pytest.raises(ValueError, match=r"no model in .*: it has no card\.json"):
        load_model(tmp_path)


def test_weights_missing_damaged_or_of_another_model(saved, tmp_path):
    folder, model, card = saved
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged, or not those"):
            load_model(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="cannot read the weights"):
        load_model(folder)
    # The right digest, but of weights that don't fit the architecture.
    wrong = dataclasses.replace(card, arguments={**card.arguments, "width": 5})
    save_model(tmp_path / "wrong", model, wrong)
    with pytest.raises(ValueError, match=r"don't fit small_cnn") as caught:
        load_model(tmp_path / "wrong")
    assert "\n" not in str(caught.value)


def test_killed_between_weights_and_card(saved, monkeypatch):
    folder, model, card = saved

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("redoubtable.models.cards.write_json", killed)
    with torch.no_grad():
        model.linear.bias += 1
    with pytest.raises(KeyboardInterrupt):
        save_model(folder, model, card)
    with pytest.raises(ValueError, match=r"not those that card\.json describes"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(schema=99), "newer than 1; upgrade redoubtable"),
        (lambda card: card.pop("schema"), "no model card"),
        (lambda card: card.pop("arguments"), "no valid 'arguments'"),
        (lambda card: card.update(classes="ten"), "no valid 'classes'"),
        (lambda card: card.update(architecture="resnet_of_mine"), "unknown model"),
    ],
)
def test_damaged_card(saved, change, message):
    folder, _, _ = saved
    path = folder / "card.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        load_model(folder)
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_model(folder)
