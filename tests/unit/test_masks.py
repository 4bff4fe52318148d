"""Random masks: the two laws, and what is no law."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from redoubtable.masks import random_mask
from redoubtable.seeding import seeded


def images(n: int, channels: int = 3, height: int = 2, width: int = 3) -> Tensor:
    return torch.zeros(n, channels, height, width)


@pytest.mark.parametrize("keep", [0, 1, 4, 5, 9, 17, 18])
def test_exactly_as_many_are_kept(keep: int) -> None:
    masks = random_mask(images(50), granularity="element", keep=keep)
    assert masks.shape == (50, 3, 2, 3)
    assert masks.flatten(1).sum(1).tolist() == [keep] * 50
    if keep <= 6:
        masks = random_mask(images(50), granularity="pixel", keep=keep)
        assert masks.shape == (50, 1, 2, 3)
        assert masks.flatten(1).sum(1).tolist() == [keep] * 50


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5])
def test_every_set_of_pixels_is_kept_equally_often(keep: int) -> None:
    n = 4000
    masks = random_mask(images(n), granularity="pixel", keep=keep).flatten(1)
    sets = Counter(tuple(row.nonzero().flatten().tolist()) for row in masks)
    all_sets = list(itertools.combinations(range(6), keep))
    assert len(all_sets) == math.comb(6, keep)
    assert set(sets) == set(all_sets)
    assert stats.chisquare([sets[s] for s in all_sets]).pvalue > 0.001


def test_equal_draws_favour_no_place_even_where_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a million single-precision numbers 3 in 100 are equal to another, of doubles none."""
    drawn: list[Tensor] = []
    rand = torch.rand

    def kept(*arguments: Any, **named: Any) -> Tensor:
        drawn.append(rand(*arguments, **named))
        return drawn[-1]

    monkeypatch.setattr(torch, "rand", kept)
    random_mask(images(1, 1, 1000, 1000), granularity="pixel", keep=1000)
    assert len(drawn[0].unique()) == 1_000_000


def test_each_image_and_each_call_has_masks_of_its_own() -> None:
    for law in ({"keep": 9}, {"rate": 0.5}):
        first, second = (random_mask(images(2, 3, 8, 8), **law) for _ in range(2))  # type: ignore[arg-type]
        assert not torch.equal(first, second)
        assert not torch.equal(first[0], first[1])


def test_a_seed_fixes_the_masks_of_both_laws() -> None:
    for law in ({"keep": 2}, {"rate": 0.5}):
        drawn = []
        for _ in range(2):
            with seeded("mask"):
                drawn.append(random_mask(images(9), **law))  # type: ignore[arg-type]
        assert torch.equal(*drawn)


def test_the_draws_of_a_rate_are_those_that_records_were_made_with() -> None:
    x = images(3, 3, 4, 4)
    for granularity, shape in (("element", (3, 3, 4, 4)), ("pixel", (3, 1, 4, 4))):
        with seeded("mask"):
            mask = random_mask(x, 0.3, granularity)  # type: ignore[arg-type]
        with seeded("mask"):
            assert torch.equal(mask, torch.rand(shape) >= 0.3)


def test_half_precision_draws_by_the_same_law() -> None:
    """In half precision every number but one in 2,000 of them would be a multiple of 2^-11."""
    with seeded("mask"):
        half = random_mask(images(4, 3, 16, 16).half(), 0.7)
    with seeded("mask"):
        assert torch.equal(half, random_mask(images(4, 3, 16, 16), 0.7))


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ({}, "got neither"),
        ({"rate": 0.5, "keep": 2}, "got both, rate=0.5 and keep=2"),
        ({"rate": 0.0, "keep": 0}, "got both, rate=0.0 and keep=0"),
        ({"keep": -1}, "`keep` must be a whole number of 0 or more, got -1"),
        ({"keep": 2.0}, "`keep` must be a whole number"),
        ({"keep": True}, "`keep` must be a whole number"),
        ({"keep": 19}, "at most the 18 places"),
        ({"keep": 7, "granularity": "pixel"}, "at most the 6 places"),
        ({"rate": 1.1}, "`rate`"),
        ({"rate": float("nan")}, "`rate`"),
        ({"rate": 0.5, "granularity": "block"}, "`granularity`"),
    ],
)
def test_what_is_no_law_is_refused(law: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_mask(images(2), **law)
