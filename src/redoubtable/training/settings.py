"""How long and how fast to train: every number of a training run beside its data and recipe."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

Schedule = Literal["one-cycle", "cosine", "steps", "constant"]
Augmentation = Literal["none", "crop", "crop+flip"]
Precision = Literal["fp32", "bf16"]

_WARM_UP = 0.3


@dataclass(frozen=True)
class Settings:
    """The settings of one training run; the defaults are those of He et al. 2016, section 4.2.

    Attributes:
        epochs: passes over the data.
        batch_size: images per step; an epoch is cut into equal batches of at most that many.
        lr: the highest learning rate of stochastic gradient descent.
        momentum: of the descent, in [0, 1).
        weight_decay: L2 penalty on every parameter.
        schedule: how the learning rate goes: "one-cycle" (up for 30% of the steps, then down to 0
            in a half cosine; Smith & Topin 2018: the best for few epochs), "cosine" (down all the
            way), "steps" (a tenth from half of the steps on, a hundredth from three quarters: the
            papers' schedule, for 100 epochs and more), "constant".
        augment: "crop" shifts by up to 4 pixels over black, "crop+flip" also mirrors left to right
            (not for digits or traffic signs), "none" leaves the images alone.
        precision: "bf16" computes the layers in bfloat16 and keeps the weights in float32: about
            1.6 times as fast on a processor that has it.
        seed: names the order of the images, their augmentation and the recipe's draws. The first
            weights are the caller's.

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "one-cycle"
    augment: Augmentation = "none"
    precision: Precision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what the docstring promises."""
        for name in ("epochs", "batch_size"):
            _check(name, _whole(getattr(self, name), 1), "a whole number of at least 1", self)
        _check("seed", _whole(self.seed, 0), "a whole number of at least 0", self)
        _check("lr", _between(self.lr, 0, math.inf) and self.lr > 0, "positive", self)
        _check("momentum", _between(self.momentum, 0, 1), "in [0, 1)", self)
        _check("weight_decay", _between(self.weight_decay, 0, math.inf), "at least 0", self)
        hints = get_type_hints(Settings)
        for name in ("schedule", "augment", "precision"):
            known = get_args(hints[name])
            _check(name, getattr(self, name) in known, f"one of {', '.join(known)}", self)


def lr_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the highest one, in (0, 1].

    A pure function of the step, so that a resumed run needs no state of it.

    Args:
        schedule: see `Settings`.
        step: counted from 0 over all epochs.
        steps: in all epochs together.
    """
    done = (step + 0.5) / steps  # the middle of the step: neither the first nor the last is 0
    if schedule == "one-cycle":
        if done < _WARM_UP:
            return done / _WARM_UP
        return _half_cosine((done - _WARM_UP) / (1 - _WARM_UP))
    if schedule == "cosine":
        return _half_cosine(done)
    if schedule == "steps":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    return 1.0


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _between(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= value < high


def _check(name: str, good: bool, wanted: str, settings: Settings) -> None:
    if not good:
        raise ValueError(f"`{name}` must be {wanted}, got {getattr(settings, name)!r}")
