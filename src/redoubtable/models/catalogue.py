"""Networks by name: the registry, and the one way to build from it."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from redoubtable.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
"""Factories with keyword-only arguments.

Facts: `paper`; `input`, the (C, H, W) that the defaults are made for; `output`, "logits" of a
classifier or detector, or "images" of a denoiser; `parameters`, their number at the defaults; and
`alias`, the entry's usual name where it has two.
"""


@dataclass(frozen=True)
class Architecture:
    """What `create` was asked for: enough to build the same network again.

    Attributes:
        name: the name in `MODELS`.
        arguments: every argument of the factory, defaults included, so that a saved model does not
            change when a default does.
    """

    name: str
    arguments: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The canonical form, `name:key=value,...`."""
        return MODELS.text(self.name, self.arguments)


def create(name: str, **arguments: Any) -> nn.Module:
    """Build a network with freshly drawn weights, in training mode, on the CPU in float32.

    The weights are drawn from torch's global generator; call inside `seeded(...)` to repeat them.

    Args:
        name: a name in `MODELS`.
        arguments: keyword arguments of its factory, as `classes=43`.

    Raises:
        ValueError: no model has this name, or the model has no such argument or value.
    """
    factory = MODELS[name].obj
    parameters = inspect.signature(factory).parameters
    for key in arguments:
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(parameters)}"
            raise ValueError(f"model {name!r} has no argument {key!r}; {hint}")
    model = factory(**arguments)
    defaults = {p.name: p.default for p in parameters.values()}
    return remember(model, Architecture(name, as_json({**defaults, **arguments})))


def as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as a card gives them back: a list where there was a tuple."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}


def remember(model: nn.Module, architecture: Architecture) -> nn.Module:
    """Write into a network what it was built from, for `architecture_of`; return the network."""
    model.architecture = architecture  # type: ignore[assignment]
    return model


def architecture_of(model: nn.Module) -> Architecture | None:
    """Return what `create` built this network from, or None if it was made in another way."""
    found = getattr(model, "architecture", None)
    return found if isinstance(found, Architecture) else None


def check_sizes(**sizes: int) -> None:
    """Refuse sizes of a network, given by name, that are not whole numbers from 1 up.

    Raises:
        ValueError: one is not.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {size!r}")


def check_rates(**rates: float) -> None:
    """Refuse shares, given by name, that are not in [0, 1).

    Raises:
        ValueError: one is not.
    """
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ValueError(f"`{name}` must be at least 0 and below 1, got {rate!r}")
