"""Names for attacks, defenses, models and the rest, and the one reader of `name:key=value,...`."""

import difflib
import inspect
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType, UnionType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered object with the facts stated at its registration.

    Attributes:
        name: what it is called on the command line.
        obj: the function or class itself.
        facts: what is known of it, for listings, checks and plans.
        summary: the first line of its docstring.
    """

    name: str
    obj: T
    facts: Mapping[str, Any]
    summary: str


@dataclass(frozen=True)
class Bound(Generic[T]):
    """An entry with arguments that its signature accepts.

    Attributes:
        entry: what is called.
        arguments: keyword arguments, converted.
        text: the canonical form, `name:key=value,...` with sorted keys.
    """

    entry: Entry[T]
    arguments: Mapping[str, Any]
    text: str


class Registry(Generic[T]):
    """Objects by name.

    Args:
        kind: what the entries are, for messages ("attack").
        vocabularies: for arguments that take a name, the registry that knows the names
            (`{"loss": LOSSES}`).
    """

    def __init__(
        self, kind: str, vocabularies: Mapping[str, "Registry[Any]"] | None = None
    ) -> None:
        self.kind = kind
        self._vocabularies = dict(vocabularies or {})
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[U], U]:
        """Return a decorator that enters an object under `name` with its facts.

        Raises:
            ValueError: the name is taken.
        """

        def enter(obj: U) -> U:
            if name in self._entries:
                raise ValueError(f"there already is a {self.kind} named {name!r}")
            summary = (inspect.getdoc(obj) or "").split("\n", 1)[0]
            entry = Entry(name, obj, MappingProxyType(dict(facts)), summary)
            self._entries[name] = typing.cast(Entry[T], entry)
            return obj

        return enter

    def __iter__(self) -> Iterator[Entry[T]]:
        """Go through the entries in the order of their names."""
        return iter(sorted(self._entries.values(), key=lambda e: e.name))

    def __contains__(self, name: object) -> bool:
        """Whether an entry has this name."""
        return name in self._entries

    def __getitem__(self, name: str) -> Entry[T]:
        """Return the entry of this name.

        Raises:
            ValueError: there is none; close names are suggested.
        """
        if name in self._entries:
            return self._entries[name]
        close = difflib.get_close_matches(name, self._entries, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else ""
        known = f"known: {', '.join(sorted(self._entries))}"
        raise ValueError(f"unknown {self.kind} {name!r}; {hint or known}")

    def name_of(self, obj: object) -> str | None:
        """Return the name an object is registered under, or None."""
        return next((e.name for e in self._entries.values() if e.obj is obj), None)

    def bind(self, text: str) -> Bound[T]:
        """Read `name` or `name:key=value,...` and check it against the object's signature.

        Parameters with a default can be set; their annotations say how to read a
        value. Numbers may be fractions, as in `step_size=2/255`, and where several
        are taken they stand as in `mean=0.5;0.4;0.3`.

        Raises:
            ValueError: the name, an argument or a value is not accepted.
        """
        name, _, rest = text.strip().partition(":")
        entry = self[name]
        known = settable(entry.obj) | self._named(entry.obj)
        arguments = read_arguments(rest, known, self.kind, name, self._vocabularies)
        return Bound(entry, MappingProxyType(arguments), self.text(name, arguments))

    def _named(self, obj: Any) -> dict[str, Any]:
        """Parameters that text can set because a vocabulary has names for their values."""
        if not self._vocabularies:
            return {}
        parameters = inspect.signature(obj).parameters
        return {word: None for word in self._vocabularies if word in parameters}

    def text(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return the canonical text of an entry with arguments."""
        pairs = []
        for key, value in sorted(arguments.items()):
            words = self._vocabularies.get(key)
            shown = words.name_of(value) if words else None
            pairs.append(f"{key}={shown or _written(value)}")
        return name + (":" + ",".join(pairs) if pairs else "")


def read_arguments(
    text: str,
    known: Mapping[str, Any],
    kind: str,
    name: str,
    vocabularies: Mapping[str, "Registry[Any]"] = MappingProxyType({}),
) -> dict[str, Any]:
    """Read `key=value,key=value`.

    Args:
        text: what is read; empty for none.
        known: what can be set, with the annotation that says how to read it.
        kind: of what it is for, such as "attack".
        name: of what it is for.
        vocabularies: by argument, the registry whose names are its values.

    Raises:
        ValueError: a key or a value is not accepted, or a key is given twice.
    """
    arguments: dict[str, Any] = {}
    for pair in filter(None, (p.strip() for p in text.split(","))):
        key, equals, raw = pair.partition("=")
        key = key.strip()
        if not equals:
            raise ValueError(f"{kind} {name!r}: write arguments as key=value, got {pair!r}")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known)}"
            raise ValueError(f"{kind} {name!r} has no argument {key!r}; {hint}")
        if key in arguments:
            raise ValueError(f"{kind} {name!r}: {key!r} is given twice")
        if key in vocabularies:
            arguments[key] = vocabularies[key][raw.strip()].obj
        else:
            arguments[key] = _read(raw.strip(), known[key], f"{name}:{key}")
    return arguments


def _written(value: Any) -> str:
    """A value as `_read` reads it."""
    return ";".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def settable_fields(kind: type) -> dict[str, Any]:
    """Return which fields of a dataclass can be set in text, by name, with their annotation."""
    hints = typing.get_type_hints(kind)
    plain = (int, float, bool, str, type(None), Sequence[float], Sequence[str])
    return {
        f.name: hints[f.name]
        for f in fields(kind)
        if all(o in plain or isinstance(o, str | bool) for o in _options(hints[f.name]))
    }


def settable(obj: Any) -> dict[str, Any]:
    """Return what can be set in text: parameters with a default, by name, with their annotation."""
    target = obj.__init__ if inspect.isclass(obj) else obj
    hints = typing.get_type_hints(target)
    parameters = inspect.signature(target).parameters.values()
    annotated = {
        p.name: hints.get(p.name, _type_of(p.default))
        for p in parameters
        if p.default is not p.empty
    }
    return {name: annotation for name, annotation in annotated.items() if _readable(annotation)}


def _type_of(default: Any) -> Any:
    """What a parameter takes that does not say it: what its default is."""
    return Callable[..., Any] if callable(default) else type(default)


def _options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation: members of a union, values of a literal."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, UnionType):
        return tuple(o for a in typing.get_args(annotation) for o in _options(a))
    if origin is typing.Literal:
        return typing.get_args(annotation)
    return (annotation,)


def _readable(annotation: Any) -> bool:
    """Whether a value can be written as text at all (a tensor of targets can't)."""
    options = _options(annotation)
    callables = any(typing.get_origin(o) is not None for o in options)  # Loss: by its vocabulary
    values = any(o in (int, float, bool, str) or isinstance(o, str | bool) for o in options)
    return callables or values


def _read(raw: str, annotation: Any, where: str) -> Any:
    """One value, as the annotation wants it."""
    options = _options(annotation)
    if type(None) in options and raw.lower() == "none":
        return None
    literal = [o for o in options if isinstance(o, str | bool)]
    if raw in literal:
        return raw
    truth = bool in options or True in literal or False in literal
    if truth and raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    if Sequence[str] in options:
        return tuple(part.strip() for part in raw.split(";"))
    numbers = [read_number(part) for part in raw.split(";")]
    sequences = any(typing.get_origin(o) is Sequence for o in options)
    # Of one number, `mean=0.5`, a plain one is made where that is taken too.
    several = sequences and (len(numbers) > 1 or not {int, float} & set(options))
    if several and None not in numbers:
        return tuple(numbers)
    number = read_number(raw)
    if number is not None:
        if int in options and number == int(number):
            return int(number)
        if float in options:
            return float(number)
    if str in options:
        return raw
    names = {
        int: "a whole number", float: "a number", bool: "true or false", type(None): "none",
        Sequence[float]: "numbers with a semicolon between them",
    }  # fmt: skip
    wanted = " or ".join(names.get(o, repr(o)) for o in dict.fromkeys(options))
    raise ValueError(f"{where} must be {wanted}, got {raw!r}")


def read_number(raw: str) -> float | None:
    """Read a number or a fraction of two numbers; None if it is neither or not finite."""
    above, slash, below = raw.partition("/")
    try:
        number = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None
