"""Randomised ablation: the radius of spec 000, section 5.6, and that it holds for exact votes."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from redoubtable.certification import CERTIFICATES, Ablation, certify, largest_radius
from tests.networks import blobs, small_net
from tests.unit.certification.enumeration import GREY, AllMasks, tiny_net

CIFAR = (3, 32, 32)


def most(law: Ablation, shape: tuple[int, int, int] = CIFAR) -> int:
    """The most pixels that can ever be certified."""
    return int(law.radius(1.0, 0.0, shape))


# -- the radius ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "pixels"), [(0.8, 3), (0.9, 6), (0.95, 13), (0.97, 22), (0.98, 34), (0.99, 68)]
)
def test_the_most_pixels_of_each_rate(rate: float, pixels: int) -> None:
    assert most(Ablation(rate)) == pixels


@pytest.mark.parametrize(("rate", "pixels"), [(0.9, 2), (0.95, 4), (0.99, 22)])
def test_the_most_pixels_of_each_rate_by_element(rate: float, pixels: int) -> None:
    assert most(Ablation(rate, "element")) == pixels


@pytest.mark.parametrize(
    ("keep", "pixels"), [(205, 3), (102, 6), (51, 13), (31, 22), (20, 34), (10, 68), (75, 9)]
)
def test_the_most_pixels_of_each_number_kept(keep: int, pixels: int) -> None:
    """As many kept of 1,024 as the rates above keep on average; 75 are the paper's for CIFAR."""
    assert most(Ablation(keep=keep)) == pixels


def test_vectors_of_the_specification() -> None:
    law = Ablation(0.9)
    assert law.seen(6, CIFAR) == pytest.approx(0.468559, abs=1e-12)
    assert law.seen(7, CIFAR) == pytest.approx(0.5217, abs=5e-5)
    assert law.radius(1.0, 0.0, CIFAR) == 6


def test_a_lead_that_can_just_be_taken_is_no_proof() -> None:
    """One of six kept: a changed pixel moves a sixth, and two sixths of lead may be gone."""
    law = Ablation(keep=1)
    assert law.radius(4 / 6, 2 / 6, (1, 2, 3)) == 0
    assert law.radius(4 / 6 + 1e-9, 2 / 6, (1, 2, 3)) == 1


def test_the_papers_thirty_pixels_need_a_rate_above_2_to_the_minus_thirtieth() -> None:
    bound = 2 ** (-1 / 30)
    assert bound == pytest.approx(0.9772, abs=5e-5)
    assert most(Ablation(bound + 1e-9)) == 30
    assert most(Ablation(bound - 1e-9)) == 29


@pytest.mark.parametrize("granularity", ["pixel", "element"])
@pytest.mark.parametrize(("shape", "keep"), [(CIFAR, 75), ((1, 2, 3), 2), ((2, 3, 3), 4)])
def test_what_is_seen_is_one_minus_a_quotient_of_binomials(
    granularity: str, shape: tuple[int, int, int], keep: int
) -> None:
    law = Ablation(keep=keep, granularity=granularity)  # type: ignore[arg-type]
    depth = shape[0] if granularity == "element" else 1
    places = depth * shape[1] * shape[2]
    for pixels in (0, 1, 2, shape[1] * shape[2]):
        unseen = Fraction(1)
        for k in range(depth * pixels):  # the next of them is none of the kept
            unseen *= Fraction(max(places - keep - k, 0), places - k)
        assert law.seen(pixels, shape) == pytest.approx(float(1 - unseen), abs=1e-14)


def test_huge_images_are_no_overflow() -> None:
    law = Ablation(keep=1000)
    assert law.seen(1, (3, 224, 224)) == pytest.approx(1000 / 224**2)
    assert law.seen(224**2, (3, 224, 224)) == 1


@given(
    lower=st.floats(0.501, 1),
    rate=st.floats(0.51, 0.995),
    element=st.booleans(),
    deep=st.booleans(),
)
def test_the_radius_is_the_last_that_satisfies_the_papers_inequality(
    lower: float, rate: float, element: bool, deep: bool
) -> None:
    shape = (3 if deep else 1, 32, 32)
    law = Ablation(rate, "element" if element else "pixel")
    radius = int(law.radius(lower, 1 - lower, shape))
    per = shape[0] if element else 1
    assert radius == 0 or lower - (1 - rate ** (per * radius)) > 0.5 - 1e-12
    assert radius == 1024 or lower - (1 - rate ** (per * (radius + 1))) <= 0.5 + 1e-12


def test_a_small_image_is_certified_up_to_all_its_pixels() -> None:
    assert Ablation(0.99).radius(1.0, 0.0, (3, 2, 3)) == 6


# -- exact votes ---------------------------------------------------------------------------------

LAWS = [
    *({"rate": r, "granularity": g} for r in (0.55, 0.8, 0.9) for g in ("pixel", "element")),
    *({"keep": k, "granularity": g} for k in (1, 2, 3) for g in ("pixel", "element")),
]


def changed(x: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Images that differ in as many random pixels, to corners of the box and within it."""
    places = torch.rand(x[:, 0].flatten(1).shape, generator=generator).argsort(1)
    which = (places < pixels).view_as(x[:, :1])
    new = torch.rand(x.shape, generator=generator)
    new = torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, new.round(), new)
    return torch.where(which, new, x)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: "-".join(map(str, law.values())))
@given(seed=st.integers(0, 10_000), pixels=st.integers(1, 6))
def test_no_probability_differs_by_more_than_what_is_seen(
    law: dict[str, Any], seed: int, pixels: int
) -> None:
    """The inequality behind every certificate, without any sampling: all masks of 2x3 pixels."""
    shape = (1 if law["granularity"] == "element" else 3, 2, 3)
    ablation = Ablation(**law)
    exact = AllMasks(tiny_net(*shape, seed=seed), ablation, *shape)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(16, *shape, generator=generator)
    there = exact.probabilities(x)
    assert torch.allclose(there.sum(1), torch.ones(16).double())
    off = (there - exact.probabilities(changed(x, pixels, generator))).abs().max().item()
    assert off <= ablation.seen(pixels, shape) + 1e-9


class SeesChange(nn.Module):
    """Class 1 wherever it sees any value above 0.9, else class 0: the worst that there can be."""

    def forward(self, x: Tensor) -> Tensor:
        seen = (x > 0.9).flatten(1).any(1).to(x)
        return torch.stack([0.5 - seen, seen - 0.5], 1)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: "-".join(map(str, law.values())))
@pytest.mark.parametrize("pixels", [1, 2, 4, 6])
def test_there_is_a_network_whose_votes_differ_by_just_that(
    law: dict[str, Any], pixels: int
) -> None:
    """So no larger radius would be true, and no smaller one is all that can be said."""
    shape = (2, 2, 3)
    ablation = Ablation(**law)
    exact = AllMasks(SeesChange(), ablation, *shape)
    x = torch.full((1, *shape), 0.2)
    x_adv = x.clone()
    x_adv.flatten(2)[:, :, :pixels] = 1.0
    before, after = exact.probabilities(x)[0], exact.probabilities(x_adv)[0]
    assert (after - before)[1].item() == pytest.approx(ablation.seen(pixels, shape), abs=1e-12)
    stands = (after[0] - after[1]).item() > 1e-12  # a tie is no vote for either
    assert stands == (pixels <= ablation.radius(1.0, 0.0, shape))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: "-".join(map(str, law.values())))
def test_samples_follow_the_law_that_the_radius_is_of(law: dict[str, Any]) -> None:
    shape = (2, 2, 3)
    ablation = Ablation(**law)
    net = tiny_net(*shape, seed=4)
    x = blobs(1, *shape, seed=3)
    expected = AllMasks(net, ablation, *shape).probabilities(x)[0]
    n = 20_000
    with torch.no_grad():
        answers = net(ablation.sample(x.expand(n, *shape))).argmax(1)
    shares = torch.bincount(answers, minlength=3) / n
    error = (expected * (1 - expected) / n).sqrt()
    assert bool(((shares - expected).abs() <= 4.5 * error + 1e-9).all())


# -- in the frame --------------------------------------------------------------------------------


def test_samples_leave_the_image_as_it_is() -> None:
    x = blobs(1).expand(40, -1, -1, -1)
    before = x.clone()
    for law in (Ablation(0.5), Ablation(keep=5, granularity="element")):
        out = law.sample(x)
        assert torch.equal(x, before)
        assert bool(((out == x) | (out == GREY)).all())
        assert not torch.equal(out[0], out[1])


def test_certified_pixels_of_a_network_that_is_always_right() -> None:
    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen = (x - 0.5).flatten(1).sum(1)
            return torch.stack([-seen, seen], 1)

    x = torch.full((3, 1, 16, 16), 0.8)
    got = certify(Bright(), x, Ablation(0.9), n=2000)
    assert got.classes.tolist() == [1, 1, 1]
    assert got.radii.tolist() == [6.0, 6.0, 6.0]  # the largest for a drop rate of 0.9
    assert certify(Bright(), x, Ablation(keep=26), n=2000).radii.tolist() == [6.0] * 3


@pytest.mark.parametrize(
    ("law", "n", "message"),
    [
        ({"rate": 0.4}, 1000, r"no number of samples .* 3x8x8; randomise more: .*probability 0\.4"),
        ({"rate": 0.5}, 1000, "no number of samples"),
        ({"rate": 0.79, "granularity": "element"}, 1000, "no number of samples"),
        ({"keep": 32}, 1000, "no number of samples"),
        ({"rate": 0.6}, 20, "`n`=20 .* alpha=0.05; take more samples"),
        ({"rate": 0.9}, 4, "more than 4"),
        ({"keep": 65}, 1000, "`keep` must be at most the 64 places, got 65"),
    ],
)
def test_where_nothing_can_be_certified_it_is_said(
    law: dict[str, Any], n: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        largest_radius(Ablation(**law), (3, 8, 8), n, 0.05)
    with pytest.raises(ValueError, match=message):
        certify(small_net(), blobs(1), Ablation(**law), n=n, alpha=0.05)


def test_the_least_rates_that_certify_anything() -> None:
    assert largest_radius(Ablation(0.51), (3, 8, 8), 1000, 0.05) == 1
    assert largest_radius(Ablation(0.51, "element"), (1, 8, 8), 1000, 0.05) == 1
    assert largest_radius(Ablation(0.8, "element"), (3, 8, 8), 1000, 0.05) == 1
    assert largest_radius(Ablation(keep=31), (3, 8, 8), 1000, 0.05) == 1


@pytest.mark.parametrize("law", [{}, {"rate": 0.9, "keep": 3}, {"rate": 2}, {"keep": -1}])
def test_what_is_no_law_is_refused(law: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rate|keep"):
        Ablation(**law)


def test_it_is_registered_as_pixels() -> None:
    bound = CERTIFICATES.bind("ablation:keep=75")
    law = bound.entry.obj(**bound.arguments)
    assert (law.keep, law.rate, law.granularity) == (75, None, "pixel")  # type: ignore[attr-defined]
    assert (bound.entry.facts["norm"], bound.entry.facts["whole"]) == ("L0", True)


def test_the_guarantee_names_the_law() -> None:
    assert "of the pixels is made grey with probability 0.95" in Ablation(0.95).guarantee()
    assert (
        "all values (each channel by itself) but 75 random ones"
        in Ablation(keep=75, granularity="element").guarantee()
    )
    said = {Ablation(**law).guarantee() for law in LAWS}
    assert len(said) == len(LAWS), "samples are named by it"
