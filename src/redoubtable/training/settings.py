"""How long and how fast to train: every number of a training run beside its data and recipe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

Optimizer = Literal["sgd", "adam", "adadelta"]
Schedule = Literal["one-cycle", "cyclic", "cosine", "steps", "constant"]
Augmentation = Literal["none", "crop", "flip", "crop+flip"]
Precision = Literal["fp32", "bf16", "fp16"]

_WARM_UP = 0.3


@dataclass(frozen=True)
class Settings:
    """The settings of one training run; the defaults are those of He et al. 2016, section 4.2.

    Attributes:
        epochs: passes over the data.
        batch_size: images per step, of all processes together; an epoch is cut into equal batches
            of at most that many.
        lr: the highest learning rate.
        optimizer: "sgd"; "adam" (Kingma & Ba 2015, its default moments); "adadelta" (Zeiler 2012,
            with rho 0.95 and epsilon 1e-8 as in Keras, where PyTorch has 0.9 and 1e-6; its own rate
            is 1).
        momentum: of "sgd", in [0, 1); the others have none.
        weight_decay: L2 penalty on every parameter.
        schedule: how the learning rate goes: "one-cycle" (up for 30% of the steps, then down to 0
            in a half cosine; Smith & Topin 2018: the best for few epochs), "cyclic" (a line up to
            the middle and one down to 0; Wong et al. 2020), "cosine" (down all the way), "steps" (a
            tenth from each milestone on), "constant".
        milestones: epochs after which "steps" goes down, ascending; None for half and three
            quarters of all epochs: the papers' schedule, for 100 epochs and more.
        augment: "crop" shifts by up to 4 pixels over black, "flip" mirrors left to right (not for
            digits or traffic signs), "crop+flip" does both, "none" leaves the images alone.
        precision: "bf16" computes the layers in bfloat16 and keeps the weights in float32: about
            1.6 times as fast on a processor that has it. "fp16" does so in float16 with a scaled
            loss, on CUDA devices only.
        clip: longest norm of the gradient of all parameters together; None for any.
        ema: decay in [0, 1) of a running mean of the weights, which is then what is measured and
            kept; 0 for none. It warms up: at most (1 + step) / (10 + step). At the end its batch
            norms are measured anew on the training data.
        seed: names the order of the images, their augmentation and the recipe's draws. The first
            weights are the caller's.

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "one-cycle"
    milestones: tuple[int, ...] | None = None
    augment: Augmentation = "none"
    precision: Precision = "fp32"
    clip: float | None = None
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what the docstring promises."""
        for name in ("epochs", "batch_size"):
            _check(name, _whole(getattr(self, name), 1), "a whole number of at least 1", self)
        _check("seed", _whole(self.seed, 0), "a whole number of at least 0", self)
        _check("lr", _positive(self.lr), "positive", self)
        _check("clip", self.clip is None or _positive(self.clip), "positive, or None", self)
        _check("weight_decay", _between(self.weight_decay, 0, math.inf), "at least 0", self)
        for name in ("momentum", "ema"):
            _check(name, _between(getattr(self, name), 0, 1), "in [0, 1)", self)
        hints = get_type_hints(Settings)
        for name in ("optimizer", "schedule", "augment", "precision"):
            known = get_args(hints[name])
            _check(name, getattr(self, name) in known, f"one of {', '.join(known)}", self)
        if self.milestones is not None:
            self._check_milestones(self.milestones)

    def _check_milestones(self, given: Sequence[int]) -> None:
        object.__setattr__(self, "milestones", tuple(given))  # a list would not be frozen
        inside = all(_whole(m, 1) and m < self.epochs for m in given)
        ascending = list(given) == sorted(set(given))
        wanted = f"ascending whole numbers from 1 to {self.epochs - 1} (before the last epoch)"
        _check("milestones", inside and ascending, wanted, self)
        if self.schedule != "steps":
            raise ValueError(
                f'`milestones` are those of schedule "steps", not of {self.schedule!r}; leave '
                "them out"
            )


def lr_factor(settings: Settings, step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the highest one, in (0, 1].

    A pure function of the step, so that a resumed run needs no state of it.

    Args:
        settings: of the run; its schedule counts.
        step: counted from 0 over all epochs.
        steps: in all epochs together.
    """
    done = (step + 0.5) / steps  # the middle of the step: neither the first nor the last is 0
    if settings.schedule == "one-cycle":
        if done < _WARM_UP:
            return done / _WARM_UP
        return _half_cosine((done - _WARM_UP) / (1 - _WARM_UP))
    if settings.schedule == "cyclic":
        return 1 - abs(2 * done - 1)
    if settings.schedule == "cosine":
        return _half_cosine(done)
    if settings.schedule == "steps":
        falls: tuple[float, ...] = (0.5, 0.75)
        if settings.milestones is not None:
            falls = tuple(m / settings.epochs for m in settings.milestones)
        return float(0.1 ** sum(done >= fall for fall in falls))
    return 1.0


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _positive(value: Any) -> bool:
    return _between(value, 0, math.inf) and value > 0


def _between(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= value < high


def _check(name: str, good: bool, wanted: str, settings: Settings) -> None:
    if not good:
        raise ValueError(f"`{name}` must be {wanted}, got {getattr(settings, name)!r}")
