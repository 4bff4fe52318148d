"""Networks of a user's own: `package.module:factory`, imported because the user says so."""

import difflib
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from redoubtable.models.catalogue import MODELS, Architecture, as_json, remember
from redoubtable.registry import Registry

_TEXT = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*:[A-Za-z_]\w*(?:\.\w+)*)(?::(.*))?", re.ASCII)
_UNSAID = bool | int | float | str
"""What is read for an argument without an annotation and without a default that tells."""


def is_foreign(name: str) -> bool:
    """Whether the name of an architecture is that of a factory outside this package."""
    return ":" in name


def split_factory(text: str) -> tuple[str, str] | None:
    """Split `package.module:factory:key=value,...` after the factory; None if it is not such."""
    found = _TEXT.fullmatch(text.strip())
    return (found[1], found[2] or "") if found else None


def find_factory(name: str) -> Callable[..., Any]:
    """Import the module of `package.module:factory` and return the factory.

    This runs the module's code: call it only with what the user wrote, never with what a file says.

    Raises:
        ValueError: there is no such module or attribute, the import fails, or it is no factory.
    """
    place, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        inside = not (place + ".").startswith(f"{error.name}.")
        reason = f"it needs {error.name!r}, which is not installed" if inside else "none is found"
        close = difflib.get_close_matches(place, [e.name for e in MODELS], n=1)
        hint = f"did you mean the model {close[0]}? Else " if close and not inside else ""
        raise ValueError(
            f"cannot import the module {place!r} of {name!r}: {reason}; {hint}install it, or put "
            "its folder on PYTHONPATH"
        ) from None
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"cannot import the module {place!r} of {name!r}: {_told(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            close = difflib.get_close_matches(part, public, n=1)
            hint = f"did you mean {close[0]}?" if close else "name a function that it defines"
            raise ValueError(f"module {place!r} has no {attribute!r}; {hint}")
        found = getattr(found, part)
    if isinstance(found, nn.Module) or not callable(found):
        built = isinstance(found, nn.Module)
        kind = "a network itself" if built else f"an object of type {type(found).__name__}"
        raise ValueError(
            f"{name!r} must be a function or class that builds a network, got {kind}; write a "
            "function that returns one"
        )
    return typing.cast(Callable[..., Any], found)


def accepted(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the arguments that a factory takes by keyword, by name."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some built-in callables have no signature to read
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in parameters.items() if p.kind in named}


def read_arguments(name: str, factory: Callable[..., Any], text: str) -> dict[str, Any]:
    """Read `key=value,...` as the factory's annotations and defaults want it.

    Unlike with a registered name, arguments without a default can be given too.

    Raises:
        ValueError: the factory has no such argument, or it does not take the value.
    """
    if not text.strip():
        return {}
    try:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except Exception:  # annotations may name what only a type checker imports; defaults tell too
        hints = {}

    def reader() -> None: ...

    known = []
    for key, parameter in accepted(factory).items():
        given = parameter.default is not parameter.empty
        default = parameter.default if given else None
        hints.setdefault(key, type(default) if default is not None else _UNSAID | None)
        known.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default))
    reader.__signature__ = inspect.Signature(known)  # type: ignore[attr-defined]
    reader.__annotations__ = {p.name: hints[p.name] for p in known}
    factories: Registry[Callable[..., Any]] = Registry("factory")
    factories.register("factory")(reader)
    try:
        return dict(factories.bind(f"factory:{text}").arguments)
    except ValueError as error:
        raise ValueError(f"cannot read the arguments of {name!r}: {error}") from None


def build(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    """Call a user's factory; the network knows what it was built from.

    Raises:
        ValueError: an argument is missing or unknown, the factory fails, or what it returns is no
            network, or one whose attribute `architecture` is its own.
    """
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"cannot build {name!r}: {error}; write it as {name}:key=value,..."
        ) from None
    except ValueError:  # no signature to read
        pass
    try:
        model = factory(**arguments)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"cannot build {name!r}: {_told(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name!r} must return a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(getattr(model, "architecture", None), Architecture | None):
        raise ValueError(
            f"the network that {name!r} returns must leave the attribute `architecture` to us, for "
            f"its card, got {type(model.architecture).__name__}; give it another name"
        )
    defaults = {k: p.default for k, p in accepted(factory).items() if _plain(p.default)}
    return remember(model, Architecture(name, as_json({**defaults, **arguments})))


def _plain(value: Any) -> bool:
    """Whether a default can be written into a card; others stay the factory's own."""
    if isinstance(value, tuple | list):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
