"""Radii of threats, and how threats are read and written."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redoubtable.threat import L0, L1, L2, THREATS, L0Values, Linf, ThreatModel, parse_threat
from tests.unit.threat_parts import every_kind, images

# -- radii ---------------------------------------------------------------------------------------


@every_kind
def test_select_scale_and_unbounded(kind: type[ThreatModel]) -> None:
    x = images(0)
    eps = torch.tensor([1.0, 2.0, 3.0, 4.0])
    picked = kind(eps).select(torch.tensor([3, 1]))
    assert isinstance(picked, kind)
    assert picked.eps.tolist() == [4.0, 2.0]  # type: ignore[union-attr]
    assert kind(2).select(torch.tensor([3, 1])).eps == 2.0
    assert kind(2).scaled(3).eps == 6.0
    assert kind(eps).scaled(2).eps.tolist() == [2.0, 4.0, 6.0, 8.0]  # type: ignore[union-attr]
    whole = kind(1).unbounded(x)
    assert isinstance(whole, kind)
    assert whole.contains((x < 0.5).to(x), x).all()
    assert kind(eps).unbounded(x).contains(1 - x, x).all()


def test_the_default_step_is_two_and_a_half_radii_over_the_steps() -> None:
    assert Linf(0.1).default_step(10) == pytest.approx(0.025)
    steps = L2(torch.tensor([1.0, 2.0])).default_step(5)
    assert steps.tolist() == pytest.approx([0.5, 1.0])  # type: ignore[union-attr]
    # Pixels go by at least an eighth of them: single exchanges stop too early.
    assert L0(16).default_step(100) == pytest.approx(2)
    assert L0(16).default_step(10) == pytest.approx(4)
    with pytest.raises(ValueError, match="step_size"):
        Linf(math.inf).default_step(10)
    with pytest.raises(ValueError, match="step_size"):
        L2(torch.tensor([1.0, math.inf])).default_step(10)


@every_kind
@pytest.mark.parametrize("eps", [-1.0, -1e-9, math.nan, torch.tensor([1.0, -1.0])])
def test_radii_must_not_be_negative_or_nan(kind: type[ThreatModel], eps: Any) -> None:
    with pytest.raises(ValueError, match="`eps`"):
        kind(eps)


def test_other_radii_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="`eps`"):
        Linf(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="floating point"):
        Linf(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="floating point"):
        Linf(torch.ones(2, 1))
    with pytest.raises(TypeError, match="`eps`"):
        Linf("0.1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`eps`"):
        Linf(True)
    with pytest.raises(TypeError, match="`eps`"):
        Linf(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [0.5, 2.0001, torch.tensor([1.0, 1.5])])
@pytest.mark.parametrize("kind", [L0, L0Values])
def test_half_pixels_are_refused(kind: type[ThreatModel], eps: Any) -> None:
    with pytest.raises(ValueError, match="whole"):
        kind(eps)


@every_kind
def test_as_many_radii_as_images(kind: type[ThreatModel]) -> None:
    x = images(0)
    with pytest.raises(ValueError, match="3 radii for 4 images"):
        kind(torch.ones(3)).project(x, x)


def test_threats_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Linf(0.1).eps = 0.2  # type: ignore[misc]


def test_the_abstract_threat_can_not_be_built() -> None:
    with pytest.raises(TypeError):
        ThreatModel(0.1)  # type: ignore[abstract]


def test_keys_tell_different_threats_apart() -> None:
    threats = [
        Linf(0.1), Linf(0.1 + 1e-12), L2(0.1), Linf(torch.tensor([0.1])),
        Linf(torch.tensor([0.1, 0.2])), Linf(torch.tensor([0.2, 0.1])), Linf(math.inf),
    ]  # fmt: skip
    assert len({t.key for t in threats}) == len(threats)
    assert Linf(0.1).key == Linf(0.1).key
    assert Linf(torch.tensor([0.1, 0.2])).key == Linf(torch.tensor([0.1, 0.2])).key


# -- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "eps"),
    [
        ("Linf:8/255", Linf, 8 / 255),
        ("linf:0.2", Linf, 0.2),
        (" L2:0.5 ", L2, 0.5),
        ("L1:12", L1, 12.0),
        ("L0:30", L0, 30.0),
        ("l0:inf", L0, math.inf),
        ("Linf:0", Linf, 0.0),
        ("L2:1e-3", L2, 1e-3),
    ],
)
def test_threats_are_read(text: str, kind: type[ThreatModel], eps: float) -> None:
    threat = parse_threat(text)
    assert type(threat) is kind
    assert threat.eps == eps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("L3:0.1", "unknown threat 'L3'"),
        ("8/255", "unknown threat"),
        ("", "unknown threat"),
        ("Linf", "no radius"),
        ("Linf:", "no radius"),
        ("Linf:big", "no radius"),
        ("Linf:1/0", "no radius"),
        ("Linf:nan", "no radius"),
        ("Linf:-0.1", "at least 0"),
        ("L0:0.5", "whole"),
    ],
)
def test_unreadable_threats_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_threat(text)


@settings(max_examples=150)
@given(
    kind=st.sampled_from([Linf, L2, L1]),
    eps=st.one_of(
        st.floats(0, 1e4, allow_subnormal=False),
        st.integers(0, 255).map(lambda n: n / 255),
        st.just(math.inf),
    ),
)
def test_text_reads_back_as_the_same_threat(kind: type[ThreatModel], eps: float) -> None:
    back = parse_threat(str(kind(eps)))
    assert type(back) is kind
    assert back.eps == pytest.approx(eps, rel=1e-5)


@settings(max_examples=50)
@given(pixels=st.integers(0, 50_000_000))
def test_counts_of_pixels_read_back_exactly(pixels: int) -> None:
    assert parse_threat(str(L0(pixels))).eps == pixels


@pytest.mark.parametrize("n", range(1, 65))
def test_eight_bit_steps_read_back_exactly(n: int) -> None:
    assert parse_threat(str(Linf(n / 255))).eps == pytest.approx(n / 255, rel=1e-12)


def test_text_is_short() -> None:
    assert str(Linf(8 / 255)) == "Linf:8/255"
    assert str(Linf(0.2)) == "Linf:0.2"
    assert str(L0(30)) == "L0:30"
    assert str(L2(math.inf)) == "L2:inf"
    assert str(L2(torch.ones(2))) == "L2:per-image"


def test_the_norms_are_known_by_name() -> None:
    known = {"Linf": Linf, "L2": L2, "L1": L1, "L0": L0, "L0values": L0Values}
    assert known == THREATS
    assert isinstance(parse_threat("l0VALUES:92"), L0Values)
    assert str(parse_threat("L0values:92")) == "L0values:92"
    with pytest.raises(ValueError, match="Linf, L2, L1, L0, L0values:eps"):
        parse_threat("L3:1")
