"""Names, and the one reader of `name:key=value,...`."""

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from redoubtable.registry import Registry, read_number, settable


def double(v: float) -> float:
    """Twice the value."""
    return 2 * v


def half(v: float) -> float:
    """Half of the value."""
    return v / 2


def make() -> Registry[Callable[..., Any]]:
    words: Registry[Any] = Registry("word")
    words.register("double")(double)
    words.register("half")(half)
    things: Registry[Callable[..., Any]] = Registry("thing", {"how": words})

    @things.register("sander", size=3)
    def sander(
        model: object,
        *,
        targets: Tensor | None = None,
        steps: int = 10,
        step_size: float | None = None,
        how: Callable[[float], float] = double,
        stop: Literal["first", "last"] = "last",
        fast: bool = False,
        label: str = "x",
        mixed: Literal["auto"] | int = "auto",
    ) -> None:
        """Sand something down.

        More of it.
        """

    things.register("Zebra")(lambda *, n=1: None)
    return things


def test_entries_keep_the_object_its_facts_and_its_first_line() -> None:
    entry = make()["sander"]
    assert entry.name == "sander"
    assert entry.facts == {"size": 3}
    assert entry.summary == "Sand something down."
    with pytest.raises(TypeError):
        entry.facts["size"] = 4  # type: ignore[index]


def test_a_registry_is_sorted_and_knows_its_names() -> None:
    things = make()
    assert [e.name for e in things] == ["Zebra", "sander"]
    assert "sander" in things
    assert "sandpaper" not in things
    assert things.name_of(things["sander"].obj) == "sander"
    assert things.name_of(double) is None


def test_a_name_is_taken_once() -> None:
    things = make()
    with pytest.raises(ValueError, match="already is a thing named 'sander'"):
        things.register("sander")(double)


def test_registering_returns_the_object_itself() -> None:
    assert Registry[Any]("thing").register("double")(double) is double


@pytest.mark.parametrize("name", ["sandr", "sanders"])
def test_close_names_are_suggested(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown thing '{name}'; did you mean sander"):
        make()[name]


def test_without_a_close_name_all_are_listed() -> None:
    with pytest.raises(ValueError, match="known: Zebra, sander"):
        make()["qqq"]


def test_settable_are_the_keyword_arguments_that_text_can_say() -> None:
    assert set(settable(make()["sander"].obj)) == {
        "steps", "step_size", "how", "stop", "fast", "label", "mixed",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sander", {}),
        (" sander: ", {}),
        ("sander:steps=5", {"steps": 5}),
        ("sander:steps=1e2", {"steps": 100}),
        ("sander:step_size=2/255", {"step_size": 2 / 255}),
        ("sander:step_size=1", {"step_size": 1.0}),
        ("sander:step_size=none", {"step_size": None}),
        ("sander:how=half", {"how": half}),
        ("sander:stop=first , steps = 3", {"stop": "first", "steps": 3}),
        ("sander:fast=true", {"fast": True}),
        ("sander:fast=False", {"fast": False}),
        ("sander:label=a b", {"label": "a b"}),
        ("sander:mixed=auto", {"mixed": "auto"}),
        ("sander:mixed=4", {"mixed": 4}),
    ],
)
def test_texts_are_read(text: str, expected: dict[str, Any]) -> None:
    bound = make().bind(text)
    assert bound.entry.name == "sander"
    assert dict(bound.arguments) == expected
    assert all(type(bound.arguments[k]) is type(v) for k, v in expected.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sander:step=5", "no argument 'step'; did you mean steps"),
        ("sander:targets=1", "no argument 'targets'"),
        ("sander:model=1", "no argument 'model'"),
        ("sander:steps", "key=value, got 'steps'"),
        ("sander:steps=5,steps=6", "'steps' is given twice"),
        ("sander:steps=2.5", "sander:steps must be a whole number, got '2.5'"),
        ("sander:steps=many", "must be a whole number, got 'many'"),
        ("sander:steps=", "must be a whole number, got ''"),
        ("sander:steps=nan", "must be a whole number"),
        ("sander:steps=inf", "must be a whole number"),
        ("sander:step_size=fast", "must be a number or none, got 'fast'"),
        ("sander:fast=1", "must be true or false, got '1'"),
        ("sander:stop=middle", "must be 'first' or 'last', got 'middle'"),
        ("sander:how=third", "unknown word 'third'"),
        ("sander:how=doubl", "did you mean double"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().bind(text)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(-5, 10**6),
            "step_size": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            "how": st.sampled_from([double, half]),
            "stop": st.sampled_from(["first", "last"]),
            "fast": st.booleans(),
            "mixed": st.one_of(st.just("auto"), st.integers(0, 9)),
        },
    )
)
def test_canonical_text_reads_back_exactly(arguments: dict[str, Any]) -> None:
    things = make()
    text = things.text("sander", arguments)
    bound = things.bind(text)
    assert dict(bound.arguments) == arguments
    assert bound.text == text
    keys = [p.split("=")[0] for p in text.partition(":")[2].split(",") if p]
    assert keys == sorted(arguments)


def test_one_meaning_has_one_canonical_text() -> None:
    things = make()
    one = things.bind("sander:steps=5,step_size=0.5").text
    assert things.bind(" sander : step_size=1/2 , steps=5".replace(" :", ":")).text == one


@pytest.mark.parametrize(
    ("raw", "value"), [("8/255", 8 / 255), ("-1.5", -1.5), ("1e-3", 1e-3), (" 3 / 4 ", 0.75)]
)
def test_numbers_and_fractions_are_read(raw: str, value: float) -> None:
    assert read_number(raw) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("raw", ["", "a", "1/0", "1/2/3", "nan", "inf", "1e999", "/", "0/0"])
def test_what_is_no_finite_number_is_none(raw: str) -> None:
    assert read_number(raw) is None


def test_read_numbers_are_floats() -> None:
    number = read_number("3")
    assert number is not None
    assert math.isfinite(number)
    assert isinstance(number, float)
