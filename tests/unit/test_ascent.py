"""The step that raises a linear function the most, against brute force and linear programs."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from redoubtable.threat import L0, L1, L2, Linf, ThreatModel
from tests.unit.threat_parts import SHAPE, anything, every_kind, images, radius, seeds, size_of


def gain(gradient: Tensor, step: Tensor) -> Tensor:
    return (gradient * step).flatten(1).sum(1)


def stuck(gradient: Tensor, x_adv: Tensor) -> Tensor:
    """Coordinates that can't move the way they should."""
    return ((x_adv <= 0) & (gradient < 0)) | ((x_adv >= 1) & (gradient > 0))


@settings(max_examples=60)
@given(kind=st.sampled_from([Linf, L2, L1]), share=st.floats(1e-3, 0.3), seed=seeds)
def test_no_direction_of_the_same_size_gains_more(
    kind: type[ThreatModel], share: float, seed: int
) -> None:
    x, gradient = images(seed), anything(seed + 1, scale=2.0) - 0.5
    size = radius(kind, share)
    step = kind(size).ascent(gradient, x, x, size)
    free = ~stuck(gradient, x)
    if kind is Linf:  # signs may point out of the box; the projection takes that back
        step = step * free
    best = gain(gradient, step)
    assert (size_of(kind, step) <= size * (1 + 1e-5)).all()
    g = torch.Generator().manual_seed(seed)
    for _ in range(30):
        rival = torch.randn(x.shape, generator=g) * (10 ** (2 * torch.rand(x.shape, generator=g)))
        rival = torch.where(torch.rand(x.shape, generator=g) < 0.5, rival, rival.sign())
        rival = rival.abs() * gradient.sign() * free
        if kind is L1:  # what L1 can spend is bounded by the box
            rival = torch.minimum(torch.maximum(rival, -x), 1 - x)
        rival = rival * torch.from_numpy(
            size / np.maximum(size_of(kind, rival), 1e-12)
        ).float().view(-1, 1, 1, 1)
        inside = ((x + rival >= -1e-6) & (x + rival <= 1 + 1e-6)).flatten(1).all(1)
        counts = inside if kind is L1 else torch.ones_like(inside)
        assert (gain(gradient, rival)[counts] <= best[counts] * (1 + 1e-4) + 1e-5).all()


@pytest.mark.parametrize(("kind", "dual"), [(Linf, 1), (L2, 2)])
def test_ascent_gains_the_dual_norm_where_the_box_is_far(
    kind: type[ThreatModel], dual: int
) -> None:
    x, gradient = torch.full((3, *SHAPE), 0.5), anything(2, n=3) - 0.5
    step = kind(1).ascent(gradient, x, x, 0.03)
    expected = 0.03 * torch.linalg.vector_norm(gradient.flatten(1), dual, dim=1)
    assert torch.allclose(gain(gradient, step), expected, rtol=1e-5)
    assert np.allclose(size_of(kind, step), 0.03, rtol=1e-5)
    sizes = torch.tensor([0.01, 0.0, 0.2])
    step = kind(1).ascent(gradient, x, x, sizes)
    assert np.allclose(size_of(kind, step), sizes, rtol=1e-5)


@settings(max_examples=60)
@given(size=st.floats(0.01, 20.0), seed=seeds)
def test_l1_ascent_is_the_solution_of_its_linear_program(size: float, seed: int) -> None:
    """Most of <gradient, s> over |s|_1 <= size and 0 <= x_adv + s <= 1."""
    x, x_adv = images(seed, n=1), images(seed + 1, n=1)
    gradient = anything(seed + 2, n=1) - 0.5
    step = L1(2.0).ascent(gradient, x_adv, x, size)
    assert (x_adv + step).min() >= -1e-6
    assert (x_adv + step).max() <= 1 + 1e-6
    assert step.abs().sum() <= size * (1 + 1e-5)
    g, now = gradient.numpy().ravel(), x_adv.numpy().ravel().astype(float)
    n = len(g)
    # s = up - down, both nonnegative.
    answer = linprog(
        np.concatenate([-g, g]),
        A_ub=np.ones((1, 2 * n)),
        b_ub=[size],
        bounds=[(0, 1 - v) for v in now] + [(0, v) for v in now],
    )
    assert gain(gradient, step).item() == pytest.approx(-answer.fun, rel=1e-4, abs=1e-5)


def best_l0_gain(gradient: Tensor, x: Tensor, pixels: int) -> float:
    """The most that <gradient, x' - x> can be with so many pixels, by enumeration."""
    places = list(itertools.product(range(x.shape[1]), range(x.shape[2])))
    corner = (gradient > 0).to(x)
    worth = {p: (gradient[:, *p] * (corner[:, *p] - x[:, *p])).sum().item() for p in places}
    return max(
        sum(worth[p] for p in chosen)
        for k in range(pixels + 1)
        for chosen in itertools.combinations(places, k)
    )


@settings(max_examples=40)
@given(pixels=st.integers(0, 6), seed=seeds)
def test_l0_ascent_from_the_image_is_the_best_of_all_sets_of_pixels(pixels: int, seed: int) -> None:
    x, gradient = images(seed, n=1, shape=(2, 2, 3)), anything(seed + 1, 1, (2, 2, 3)) - 0.5
    step = L0(pixels).ascent(gradient, x, x, float(pixels))
    assert (size_of(L0, step) <= pixels).all()
    expected = best_l0_gain(gradient[0], x[0], pixels)
    assert gain(gradient, step).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=60)
@given(pixels=st.integers(1, 5), size=st.integers(1, 3), seed=seeds)
def test_an_l0_step_is_legal_and_never_loses(pixels: int, size: int, seed: int) -> None:
    x, gradient = images(seed, shape=(2, 2, 3)), anything(seed + 1, 4, (2, 2, 3)) - 0.5
    torch.manual_seed(seed)
    threat = L0(pixels)
    x_adv = threat.sample(x)
    step = threat.ascent(gradient, x_adv, x, float(size))
    # A freed pixel may be off by rounding; the projection drops it.
    after = threat.project(x_adv + step, x)
    assert torch.allclose(after, x_adv + step, atol=1e-6)
    assert threat.contains(after, x).all()
    assert (gain(gradient, after - x) >= gain(gradient, x_adv - x) - 1e-5).all()


@settings(max_examples=60)
@given(pixels=st.integers(1, 5), seed=seeds)
def test_repeated_l0_steps_of_one_pixel_end_at_the_best_set(pixels: int, seed: int) -> None:
    """A random start with the wrong pixels, or half-set right ones, must not be a dead end."""
    x, gradient = images(seed, n=1, shape=(2, 2, 3)), anything(seed + 1, 1, (2, 2, 3)) - 0.5
    torch.manual_seed(seed)
    threat = L0(pixels)
    x_adv = threat.sample(x)
    for _ in range(30):
        x_adv = threat.project(x_adv + threat.ascent(gradient, x_adv, x, 1.0), x)
    expected = best_l0_gain(gradient[0], x[0], pixels)
    assert gain(gradient, x_adv - x).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_l0_step_sizes_are_rounded_up_to_whole_pixels() -> None:
    x, gradient = images(0, n=3), anything(1, n=3) - 0.5
    moved = L0(12).ascent(gradient, x, x, torch.tensor([0.2, 1.0, 2.1]))
    assert size_of(L0, moved).tolist() == [1, 1, 3]


@every_kind
def test_zero_gradients_and_zero_sizes_give_no_step_and_no_nan(kind: type[ThreatModel]) -> None:
    x = images(0)
    nothing = kind(3).ascent(torch.zeros_like(x), x, x, 1.0)
    assert (nothing == 0).all()
    still = kind(3).ascent(anything(1), x, x, 0.0)
    assert (still == 0).all()


@every_kind
@pytest.mark.parametrize("eps", [2.0, math.inf])
@pytest.mark.parametrize("size", [1, 1.0, "tensor"], ids=str)
def test_a_step_size_may_be_whole_a_float_or_one_per_image(
    kind: type[ThreatModel], eps: float, size: Any
) -> None:
    x, gradient = images(0), anything(1) - 0.5
    length = torch.ones(4) if size == "tensor" else size
    step = kind(eps).ascent(gradient, x, x, length)
    assert torch.isfinite(step).all()
    assert np.allclose(size_of(kind, step), 1, atol=1e-5)
