import pytest

from redoubtable.models import MODELS
from redoubtable.training import PRESETS, RECIPES


def preset(name):
    return PRESETS[name].obj()


@pytest.mark.parametrize("entry", list(PRESETS), ids=lambda e: e.name)
def test_every_preset_names_what_there_is(entry):
    plan = entry.obj()
    RECIPES.bind(plan.recipe)
    text = MODELS.text(plan.model, plan.arguments)
    assert dict(MODELS.bind(text).arguments) == dict(plan.arguments)


def test_settings_of_the_papers():
    """Spec 004 section 1.7 and spec 002 section 1.8."""
    trades, fast, free = (preset(f"{n}-cifar10") for n in ("trades", "fast", "free"))
    rule = RECIPES.bind("trades").entry.obj.__kwdefaults__
    assert (rule["beta"], rule["steps"], rule["step_size"]) == (6.0, 10, 0.007)
    assert rule["threat"] == "Linf:0.031"
    s = trades.settings
    assert (s.epochs, s.batch_size, s.lr, s.momentum) == (76, 128, 0.1, 0.9)
    assert (s.weight_decay, s.milestones, s.augment) == (2e-4, (74,), "crop+flip")
    assert trades.arguments == {"mean": 0.0, "std": 1.0}
    s = fast.settings
    assert (fast.model, s.epochs, s.lr, s.schedule) == ("preact_resnet18", 15, 0.2, "cyclic")
    assert s.weight_decay == 5e-4 and fast.arguments["mean"] == (0.4914, 0.4822, 0.4465)
    s = free.settings
    steps = 391 * 8  # an epoch of 50,000 images in batches of 128, each replayed 8 times
    assert free.recipe == "free:replays=8" and s.weight_decay == 2e-4
    assert abs(s.epochs * steps - 80_000) < steps
    assert [round(m * steps, -4) for m in s.milestones] == [40_000, 60_000]
    for name, epochs in (("mnist", 10), ("cifar10", 60), ("svhn", 60)):
        s = preset(f"feinman-{name}").settings
        assert (s.epochs, s.optimizer, s.lr, s.batch_size) == (epochs, "adadelta", 1.0, 128)
        assert s.augment == "none"
