import io
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from redoubtable.data import Dataset, read
from redoubtable.defenses.subsampling import subsample
from redoubtable.files import write_sealed
from redoubtable.models import create, load_model, read_card
from redoubtable.registry import Registry
from redoubtable.seeding import seeded
from redoubtable.training import RECIPES, Settings, natural, subsampled, train
from redoubtable.training.augmentation import augment
from redoubtable.training.run import Run
from redoubtable.training.settings import lr_factor

FILES = ["card.json", "checkpoint.bin", "model.safetensors", "train.jsonl"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These batches are so small that threads cost more than they give, above all when busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toy(n=70, split="train", classes=3, channels=1):
    """Images whose class is where the light is."""
    with seeded("toy", split, channels):
        labels = torch.arange(n) % classes
        images = torch.randint(0, 60, (n, channels, 9, 9), dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 3 * label : 3 * label + 3] += 150
    return Dataset("toy", split, images, labels, classes)


def fresh(seed=0, **arguments):
    with seeded("init", seed):
        return create("small_cnn", **{"width": 3, "classes": 3, **arguments})


def quiet(model, data, recipe, settings, **more):
    return train(model, data, recipe, settings, progress=False, **more)


SETTINGS = Settings(epochs=4, batch_size=16, augment="crop+flip", seed=5)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


class Killed(BaseException):
    pass


def dying(steps, recipe="subsampled"):
    """A recipe that is `recipe`, by name too, until the process dies in the given step."""
    inner = RECIPES[recipe].obj()
    count = 0

    def loss(model, x, y):
        nonlocal count
        count += 1
        if count > steps:
            raise Killed
        return inner(model, x, y)

    own = Registry("recipe")
    own.register(recipe)(lambda: loss)
    return own.bind(recipe)


def rows(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_learns_digits_within_a_few_epochs():
    with seeded("init", 0):
        model = create("small_cnn", width=16)
    done = quiet(model, read("digits", "train"), "natural", Settings(epochs=5))
    assert done.model is model and not model.training
    x, y = read("digits", "test").floats()
    with torch.no_grad():
        assert (model(x).argmax(1) == y).float().mean() > 0.93
    assert done.rows[-1].loss < 0.3 < done.rows[0].loss
    assert done.validation_accuracy is None and done.folder is None


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
        fresh(), data, "subsampled:rate=0.25", SETTINGS, validation=validation, out=tmp_path / "new"
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


def test_same_seed_same_weights_other_seed_other_weights():
    def weights(seed):
        settings = Settings(epochs=1, batch_size=16, seed=seed)
        return state(quiet(fresh(), toy(), "natural", settings).model)

    before = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, weights(0))
    assert not same(first, weights(1))


def test_every_epoch_sees_each_image_once_in_a_new_order():
    data = toy()
    seen = []

    def watching():
        def loss(model, x, y):
            seen.append(x.flatten(1).mul(255).round())
            assert x.shape[0] == 14 and x.min() >= 0 and x.max() <= 1
            return F.cross_entropy(model(x), y)

        return loss

    own = Registry("recipe")
    own.register("watching")(watching)
    quiet(fresh(), data, own.bind("watching"), Settings(epochs=2, batch_size=16))
    epochs = torch.cat(seen[:5]), torch.cat(seen[5:])
    for epoch in epochs:
        assert torch.equal(epoch.unique(dim=0), data.images.flatten(1).float().unique(dim=0))
    assert not torch.equal(*epochs)


def test_bf16_keeps_float_weights_and_learns():
    settings = Settings(epochs=6, batch_size=16, precision="bf16")
    done = quiet(fresh(width=8), toy(), "natural", settings, validation=toy(30, "validation"))
    assert {p.dtype for p in done.model.parameters()} == {torch.float32}
    assert done.validation_accuracy > 0.9
    plain = quiet(fresh(width=8), toy(), "natural", Settings(epochs=6, batch_size=16))
    assert not same(state(done.model), state(plain.model))


def test_diverged_training_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"the loss became nan in epoch \d; .* lower lr"):
        quiet(fresh(), toy(), "natural", Settings(epochs=9, lr=1e30), out=tmp_path)
    assert not (tmp_path / "card.json").exists()


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can't take the images of toy"):
        quiet(fresh(channels=3), toy(), "natural", SETTINGS)
    with pytest.raises(ValueError, match="build it with classes=3"):
        quiet(fresh(classes=2), toy(), "natural", SETTINGS)
    with pytest.raises(ValueError, match=r"`validation` must have images like `data`"):
        quiet(fresh(), toy(), "natural", SETTINGS, validation=toy(9, channels=3))
    with pytest.raises(ValueError, match=r"must come from `redoubtable\.models\.create`"):
        quiet(nn.Sequential(fresh()), toy(), "natural", SETTINGS, out=tmp_path)
    with pytest.raises(ValueError, match="must have parameters"):
        quiet(nn.Flatten(), toy(), "natural", SETTINGS)
    with pytest.raises(ValueError, match="did you mean natural"):
        quiet(fresh(), toy(), "naturl", SETTINGS)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"schedule": "linear"},
        {"augment": "flip"},
        {"precision": "fp16"},
        {"seed": -1},
    ],
)
def test_settings_refuse(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Settings(**{"epochs": 1, **bad})


def test_schedules():
    def factors(schedule):
        return [lr_factor(schedule, step, 100) for step in range(100)]

    up = factors("one-cycle")
    assert up.index(max(up)) in (29, 30) and max(up) > 0.98
    assert up[:30] == sorted(up[:30]) and up[30:] == sorted(up[30:], reverse=True)
    assert 0 < up[0] < 0.02 and 0 < up[-1] < 0.001
    assert factors("cosine") == sorted(factors("cosine"), reverse=True)
    steps = factors("steps")
    assert [steps[i] for i in (0, 49, 50, 74, 75, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert set(factors("constant")) == {1}


def test_lr_of_the_schedule_reaches_the_weights():
    """One step of plain descent moves the weights by the scheduled rate times the gradient."""
    model, data = fresh(), toy(8)
    start = state(model)
    model.train()
    x, y = data.floats()
    F.cross_entropy(model(x), y).backward()
    grad = model.linear.weight.grad.clone()
    model = fresh()
    settings = Settings(epochs=1, lr=0.5, momentum=0, weight_decay=0, schedule="cosine")
    done = quiet(model, data, "natural", settings)
    assert done.rows[0].lr == pytest.approx(0.25)
    moved = start["linear.weight"] - model.linear.weight.detach()
    torch.testing.assert_close(moved, 0.25 * grad, rtol=1e-3, atol=1e-5)


def test_schedule_goes_over_all_epochs():
    settings = Settings(epochs=3, batch_size=16, schedule="steps", lr=0.2)
    done = quiet(fresh(), toy(), "natural", settings)  # five steps each, of fifteen
    assert [row.lr for row in done.rows] == pytest.approx([0.2, 0.02, 0.002])


def test_validation_is_in_evaluation_mode_and_does_not_train():
    hard = toy(150, "validation")
    with seeded("hard"):
        labels = torch.randint(0, 3, (150,))
    hard = Dataset("hard", "validation", hard.images, labels, 3)
    done = quiet(fresh(), toy(), "natural", SETTINGS, validation=hard)
    x, y = hard.floats()
    accuracy = (done.model(x).argmax(1) == y).float().mean().item()
    assert done.validation_accuracy == pytest.approx(accuracy)
    assert same(state(done.model), state(quiet(fresh(), toy(), "natural", SETTINGS).model))
    modes = []
    hook = done.model.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    quiet(done.model, toy(), "natural", Settings(epochs=1), validation=hard)
    hook.remove()
    assert modes == [False, False, True, False]  # two tries, one step, one validation


def test_shown_loss_is_the_mean_so_far():
    shown = []
    constant = Run(
        fresh(),
        toy(),
        None,
        lambda model, x, y: model(x).sum() * 0 + 3,
        Settings(epochs=1, batch_size=2),
    )
    row = constant.epoch(1, lambda *what: shown.append(what))
    assert shown == [(1, 16, 3, None), (1, 32, 3, None), (1, 35, 3, None), (1, 35, 3, None)]
    assert row.loss == 3 and row.epoch == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_is_a_shift_over_black_and_flip_a_mirror(channels):
    with seeded("augment"):
        images = torch.randint(1, 256, (1500, channels, 9, 7), dtype=torch.uint8)
        shifted, mirrored = augment(images, "crop"), augment(images, "crop+flip")
    assert augment(images, "none") is images or torch.equal(augment(images, "none"), images)
    for out in (shifted, mirrored):
        assert out.shape == images.shape and out.dtype == torch.uint8
        assert out.is_contiguous(memory_format=torch.channels_last)

    padded = F.pad(images, (4, 4, 4, 4))
    windows = {(r, c): padded[:, :, r : r + 9, c : c + 7] for r in range(9) for c in range(9)}

    def matches(out, flip):
        """Which of the 81 windows each image is."""
        source = {k: w.flip(3) if flip else w for k, w in windows.items()}
        return torch.stack([(out == w).flatten(1).all(1) for w in source.values()])

    assert matches(shifted, False).any(0).all()
    assert matches(shifted, False).any(1).all()  # every shift occurs among 1500 images
    plain, turned = matches(mirrored, False).any(0), matches(mirrored, True).any(0)
    assert (plain | turned).all() and 650 < turned.sum() < 850


class Spy(nn.Module):
    """Keeps what it sees."""

    def forward(self, x):
        self.x = x
        return x.flatten(1)[:, :3]


def test_natural_is_cross_entropy():
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(natural()(Spy(), x, y), F.cross_entropy(x.flatten(1)[:, :3], y))


def test_subsampled_at_a_fixed_rate():
    x, y, spy = torch.zeros(40, 3, 16, 16), torch.zeros(40, dtype=torch.int64), Spy()
    with seeded("mask"):
        loss = subsampled(rate=0.9)(spy, x, y)
    dropped = spy.x == 0.5
    assert torch.equal(spy.x[~dropped], torch.zeros(int((~dropped).sum())))
    assert dropped.float().mean().item() == pytest.approx(0.9, abs=0.01)
    assert dropped.float().mean((1, 2, 3)).std() < 0.05
    with seeded("mask"):
        kept = subsample(x, 0.9)
    assert torch.equal(spy.x, kept) and torch.equal(loss, F.cross_entropy(Spy()(kept), y))


def test_subsampled_uniformly_draws_a_rate_per_image_anew():
    x, y, spy = torch.zeros(400, 3, 12, 12), torch.zeros(400, dtype=torch.int64), Spy()
    recipe = subsampled()
    with seeded("mask"):
        recipe(spy, x, y)
        first = spy.x
        recipe(spy, x, y)
    rates = (first == 0.5).float().mean((1, 2, 3))
    counts = torch.histc(rates, 4, 0, 1)
    assert counts.min() > 70 and counts.max() < 130
    assert not torch.equal(first, spy.x)


def test_granularity_of_the_mask():
    x, y, spy = torch.zeros(20, 3, 12, 12), torch.zeros(20, dtype=torch.int64), Spy()
    subsampled(rate=0.5, granularity="pixel")(spy, x, y)
    assert torch.equal(spy.x, spy.x[:, :1].expand_as(x))
    subsampled(rate=0.5)(spy, x, y)
    assert not torch.equal(spy.x, spy.x[:, :1].expand_as(x))


def test_recipes_from_text():
    assert RECIPES.bind("subsampled:rate=0.9").arguments == {"rate": 0.9}
    assert RECIPES.bind("subsampled:rate=uniform,granularity=pixel").arguments == {
        "rate": "uniform",
        "granularity": "pixel",
    }
    with pytest.raises(ValueError, match="subsampled:rate must be"):
        RECIPES.bind("subsampled:rate=often")
    with pytest.raises(ValueError, match="`rate`"):
        subsampled(rate=1.5)


def test_progress_bar_is_on_standard_error_and_can_be_off(capsys):
    train(fresh(), toy(), "natural", Settings(epochs=1), validation=toy(9, "validation"))
    shown = capsys.readouterr()
    assert "epoch 1/1" in shown.err and "validation" in shown.err and not shown.out
    quiet(fresh(), toy(), "natural", Settings(epochs=1))
    shown = capsys.readouterr()
    assert not shown.err and not shown.out
