import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from redoubtable.data import Dataset, read
from redoubtable.models import create
from redoubtable.registry import Registry
from redoubtable.seeding import seeded
from redoubtable.training import Recipe, Settings, natural, train
from redoubtable.training.run import Run
from tests.unit.training.parts import SETTINGS, fresh, quiet, same, state, toy


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


def test_same_seed_same_weights_other_seed_other_weights():
    def weights(seed):
        settings = Settings(epochs=1, batch_size=16, seed=seed)
        return state(quiet(fresh(), toy(), "natural", settings).model)

    before = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, weights(0))
    assert not same(first, weights(1))


def test_draws_of_a_recipe_are_new_at_every_step_and_for_every_seed():
    def draws(seed):
        drawn = []

        def loss(model, x, y):
            drawn.append(torch.rand(()).item())
            return F.cross_entropy(model(x), y)

        own = Registry("recipe")
        own.register("drawing")(lambda: Recipe(loss, replays=2))
        quiet(fresh(), toy(), own.bind("drawing"), Settings(epochs=2, batch_size=35, seed=seed))
        return drawn

    first, again, other = draws(0), draws(0), draws(1)
    assert first == again and len({*first, *other}) == 16


def test_every_epoch_sees_each_image_once_in_a_new_order():
    data = toy()
    seen = []

    def watching():
        def loss(model, x, y):
            seen.append(x.flatten(1).mul(255).round())
            assert x.shape[0] == 14 and x.min() >= 0 and x.max() <= 1
            return F.cross_entropy(model(x), y)

        return Recipe(loss)

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


def test_weights_that_the_last_step_destroyed_are_not_kept(tmp_path):
    def loss(model, x, y):
        return F.cross_entropy(model(x), y) + (0 * model.linear.bias.sum()).sqrt()  # slope 0 * inf

    own = Registry("recipe")
    own.register("destroying")(lambda: Recipe(loss))
    with pytest.raises(ValueError, match="the loss became nan in epoch 1"):
        quiet(fresh(), toy(8), own.bind("destroying"), Settings(epochs=1), out=tmp_path)
    assert not (tmp_path / "checkpoint.bin").exists()


class Foreign(nn.Module):
    """A network whose answer is what `finish` makes of the logits."""

    def __init__(self, finish):
        super().__init__()
        self.linear, self.finish = nn.Linear(81, 3), finish

    def forward(self, x):
        return self.finish(self.linear(x.flatten(1)))


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
    with pytest.raises(ValueError, match=r"can't take the images of toy.*no such part"):
        quiet(Foreign(lambda z: {}["no such part"]), toy(), "natural", SETTINGS)
    with pytest.raises(ValueError, match=r"must give a tensor of logits .* got tuple"):
        quiet(Foreign(lambda z: (z, z)), toy(), "natural", SETTINGS)
    with pytest.raises(ValueError, match="did you mean natural"):
        quiet(fresh(), toy(), "naturl", SETTINGS)


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


def moved(**settings):
    """How one step on eight images moves the weights, and the gradient there."""
    model, data = fresh(), toy(8)
    start = state(model)
    x, y = data.floats()
    F.cross_entropy(model.train()(x), y).backward()
    gradient = {k: p.grad for k, p in model.named_parameters()}
    plain = {"momentum": 0, "weight_decay": 0, "schedule": "constant", **settings}
    after = state(quiet(fresh(), data, "natural", Settings(epochs=1, **plain)).model)
    return {k: after[k] - start[k] for k in gradient}, gradient


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    steps, gradient = moved(lr=1.0, clip=0.01)
    norm = torch.cat([g.flatten() for g in gradient.values()]).norm()
    assert norm > 0.02
    for name, step in steps.items():
        torch.testing.assert_close(step, -gradient[name] * 0.01 / norm, rtol=1e-3, atol=1e-7)


def test_a_scaled_loss_gives_the_same_step_and_its_scale_is_kept():
    """The scaler of fp16, which torch has on a processor too."""

    def stepped(scale, clip):
        data, settings = toy(8), Settings(epochs=1, lr=1.0, clip=clip, weight_decay=0)
        run = Run(fresh(), data, None, natural(), settings)
        run.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        run.epoch(1, lambda *_: None)
        return run

    for clip in (None, 0.01):
        plain, scaled = stepped(1, clip), stepped(4096, clip)
        for name, value in state(plain.model).items():
            torch.testing.assert_close(state(scaled.model)[name], value, rtol=1e-4, atol=1e-6)
    later = stepped(8, None)
    later.load_state(scaled.state())
    assert later.scaler.get_scale() == 4096


def test_adam_and_adadelta_take_the_first_steps_of_their_papers():
    steps, gradient = moved(lr=0.1, optimizer="adam")
    large = {k: g.abs() > 1e-4 for k, g in gradient.items()}
    for name, step in steps.items():  # m / sqrt(v) is a sign at first
        its = large[name]
        torch.testing.assert_close(step[its], -0.1 * gradient[name][its].sign(), rtol=1e-3, atol=0)
    steps, gradient = moved(lr=1.0, optimizer="adadelta")
    for name, step in steps.items():  # sqrt(eps) / sqrt(0.05 g^2 + eps) times g, eps 1e-8
        g = gradient[name]
        expected = -g * 1e-4 / (0.05 * g.square() + 1e-8).sqrt()
        torch.testing.assert_close(step, expected, rtol=1e-2, atol=1e-7)


def test_average_of_weights_is_what_is_kept_and_measured():
    kept = []

    def keeping():
        inner = natural()

        def loss(model, x, y):
            kept.append({k: v.clone() for k, v in model.state_dict().items()})
            return inner(model, x, y)

        return Recipe(loss)

    own = Registry("recipe")
    own.register("keeping")(keeping)
    settings = Settings(epochs=2, batch_size=16, ema=0.6)
    held = toy(30, "validation")
    done = quiet(fresh(), toy(), own.bind("keeping"), settings, validation=held)
    plain = quiet(fresh(), toy(), "natural", Settings(epochs=2, batch_size=16))
    name = "linear.weight"
    mean = kept[0][name]
    for step, now in enumerate([*(k[name] for k in kept[1:]), state(plain.model)[name]]):
        decay = min(0.6, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * now
    torch.testing.assert_close(state(done.model)[name], mean)
    assert not torch.equal(state(plain.model)[name], state(done.model)[name])
    x, y = held.floats()
    accuracy = (done.model(x).argmax(1) == y).float().mean().item()
    assert done.validation_accuracy == pytest.approx(accuracy)
    run = Run(fresh(), toy(), None, natural(), settings)
    with torch.no_grad():
        run.model.linear.bias[0] = run.average.model.linear.bias[1] = 1e6
    assert run._accuracy(toy(70)) == 23 / 70  # of class 1; 24 are of class 0


def test_statistics_of_mean_weights_are_measured_anew():
    """The mean over the training data of what the first norm sees, moves included."""
    for augment, expected in (("none", True), ("crop+flip", False)):
        with seeded("init", 0):
            net = create("resnet20", classes=3, channels=1)
        settings = Settings(epochs=2, batch_size=16, ema=0.8, augment=augment)
        done = quiet(net, toy(48), "natural", settings, validation=toy(30, "validation"))
        first, x = done.model.bn, toy(48).floats()[0]
        with torch.no_grad():
            seen = done.model.conv(done.model.normalize(x))
        right = torch.allclose(first.running_mean, seen.mean((0, 2, 3)), atol=1e-4)
        assert right == expected
        assert first.momentum == 0.1 and not any(m.training for m in done.model.modules())
        held, labels = toy(30, "validation").floats()
        accuracy = (done.model(held).argmax(1) == labels).float().mean().item()
        assert done.validation_accuracy == pytest.approx(accuracy)


def test_penalty_that_a_network_names_is_part_of_every_recipe():
    """One step at rate 1: the named layer also goes down by 2 c W."""

    def weights(penalised):
        model = fresh()
        if penalised:
            model.penalised = {"linear": 0.01}
        settings = Settings(epochs=1, lr=1.0, momentum=0, weight_decay=0, schedule="constant")
        return state(quiet(model, toy(8), "natural", settings).model)

    start, plain, down = state(fresh()), weights(False), weights(True)
    for name in ("linear.weight", "linear.bias"):
        torch.testing.assert_close(down[name], plain[name] - 0.02 * start[name])
    others = [k for k in plain if not k.startswith("linear")]
    assert all(torch.equal(down[k], plain[k]) for k in others)


def test_half_precision_of_graphics_processors_is_refused_elsewhere():
    with pytest.raises(ValueError, match=r"fp16 needs a CUDA device.*bf16 or fp32"):
        quiet(fresh(), toy(), "natural", Settings(epochs=1, precision="fp16"))


def test_log_for_tensorboard(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    held = toy(30, "validation")
    done = quiet(
        fresh(), toy(), "natural", SETTINGS, validation=held, out=tmp_path, tensorboard=True
    )
    board = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = [(e.step, e.value) for e in board.Scalars("validation_accuracy")]
    assert shown == [(r.epoch, pytest.approx(r.validation_accuracy)) for r in done.rows]
    with pytest.raises(ValueError, match="`tensorboard` needs `out`"):
        quiet(fresh(), toy(), "natural", SETTINGS, tensorboard=True)


def test_schedule_goes_over_all_epochs():
    settings = Settings(epochs=3, batch_size=16, schedule="steps", lr=0.2)
    done = quiet(fresh(), toy(), "natural", settings)  # five steps each, of fifteen
    assert [row.lr for row in done.rows] == pytest.approx([0.2, 0.02, 0.002])
    done = quiet(fresh(), toy(), "free:replays=3", settings)  # a replay is a step
    assert [row.lr for row in done.rows] == pytest.approx([0.2, 0.02, 0.002])
    once = Settings(epochs=1, schedule="cosine", lr=1.0)
    done = quiet(fresh(), toy(), "free:replays=2", once)  # of two steps, at 1/4 and 3/4 of the way
    assert done.rows[0].lr == pytest.approx(0.5 - math.sqrt(0.125))


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
        Recipe(lambda model, x, y: model(x).sum() * 0 + 3),
        Settings(epochs=1, batch_size=2),
    )
    row = constant.epoch(1, lambda *what: shown.append(what))
    assert shown == [(1, 16, 3, None), (1, 32, 3, None), (1, 35, 3, None), (1, 35, 3, None)]
    assert row.loss == 3 and row.epoch == 1


def test_progress_bar_is_on_standard_error_and_can_be_off(capsys):
    train(fresh(), toy(), "natural", Settings(epochs=1), validation=toy(9, "validation"))
    shown = capsys.readouterr()
    assert "epoch 1/1" in shown.err and "validation" in shown.err and not shown.out
    quiet(fresh(), toy(), "natural", Settings(epochs=1))
    shown = capsys.readouterr()
    assert not shown.err and not shown.out
