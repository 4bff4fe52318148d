"""The smallest step to a hyperplane inside the box, and the projection onto both ball and box."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from torch import Tensor

from redoubtable.threat import L0, L1, L2, Linf, ThreatModel
from redoubtable.threat.base import _rising_level, _sorted_level
from tests.unit.threat_parts import SHAPE, anything, every_kind, images, seeds, size_of

convex = st.sampled_from([Linf, L2, L1])


def flat(values: Tensor) -> np.ndarray:
    return values.double().numpy().ravel()


def most(gradient: Tensor, x: Tensor, sign: float) -> float:
    """How far the box lets a linear function move in one direction."""
    g, now = sign * flat(gradient), flat(x)
    return float((g * np.where(g > 0, 1 - now, -now)).sum())


def smallest(kind: type[ThreatModel], g: np.ndarray, now: np.ndarray, gap: float) -> float:
    """The length of the smallest step with <g, step> = gap in the box, by standard solvers."""
    n, box = len(g), [(-v, 1 - v) for v in now]
    if kind is Linf:  # least r with |s_i| <= r
        rows = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        goal, more = np.append(np.zeros(n), 1), [(0, None)]
        equal = np.append(g, 0)[None]
        return linprog(goal, rows, np.zeros(2 * n), equal, [gap], box + more).fun
    if kind is L1:  # s = up - down
        bounds = [(0, 1 - v) for v in now] + [(0, v) for v in now]
        return linprog(
            np.ones(2 * n), A_eq=np.concatenate([g, -g])[None], b_eq=[gap], bounds=bounds
        ).fun
    low, high = np.array(box).T

    def excess(multiplier: float) -> float:
        return float((g * np.clip(multiplier * g, low, high)).sum()) - gap

    multiplier = brentq(excess, -1e6, 1e6, xtol=1e-14, rtol=1e-14, maxiter=1000)
    return float(np.linalg.norm(np.clip(multiplier * g, low, high)))


@settings(max_examples=120)
@given(kind=convex, share=st.floats(0.01, 0.97), sign=st.sampled_from([-1.0, 1.0]), seed=seeds)
def test_no_step_to_the_hyperplane_is_smaller(
    kind: type[ThreatModel], share: float, sign: float, seed: int
) -> None:
    x, gradient = images(seed, n=1).double(), anything(seed + 1, n=1).double() - 0.5
    gradient[0, :, 0, 0] = 0
    gap = sign * share * most(gradient, x, sign)
    step = kind(math.inf).reach(gradient, torch.tensor([gap], dtype=torch.float64), x)
    assert (gradient * step).sum().item() == pytest.approx(gap, rel=1e-6)
    assert (x + step).min() >= -1e-9
    assert (x + step).max() <= 1 + 1e-9
    expected = smallest(kind, flat(gradient), flat(x), gap)
    assert size_of(kind, step)[0] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@settings(max_examples=40)
@given(share=st.floats(0.05, 0.97), seed=seeds)
def test_no_fewer_pixels_reach_the_hyperplane(share: float, seed: int) -> None:
    x, gradient = images(seed, 1, (2, 2, 3)).double(), anything(seed + 1, 1, (2, 2, 3)).double()
    gradient = gradient - 0.5
    gap = share * most(gradient, x, 1.0)
    step = L0(math.inf).reach(gradient, torch.tensor([gap], dtype=torch.float64), x)
    assert (gradient * step).sum().item() == pytest.approx(gap, rel=1e-6)
    assert (x + step).min() >= -1e-9
    assert (x + step).max() <= 1 + 1e-9
    worth = (gradient * (gradient.gt(0).to(x) - x))[0].sum(0).flatten().tolist()
    count = int(size_of(L0, step)[0])
    fewer = itertools.combinations(worth, count - 1)
    assert max(sum(chosen) for chosen in fewer) < gap * (1 + 1e-9)


@every_kind
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_what_the_box_forbids_ends_in_its_best_corner(kind: type[ThreatModel], sign: float) -> None:
    x, gradient = images(3), anything(4) - 0.5
    gap = torch.tensor([sign * 1.5 * most(g, i, sign) for g, i in zip(gradient, x, strict=True)])
    there = x + kind(1).reach(gradient, gap, x)
    assert torch.allclose(there, (sign * gradient > 0).to(x), atol=1e-6)


@every_kind
def test_each_image_has_its_own_hyperplane(kind: type[ThreatModel]) -> None:
    x, gradient = images(5), anything(6) - 0.5
    gap = torch.tensor([0.3, -0.2, 0.0, 0.9])
    together = kind(1).reach(gradient, gap, x)
    for i in range(4):
        one = slice(i, i + 1)
        assert torch.allclose(
            together[one], kind(1).reach(gradient[one], gap[one], x[one]), atol=1e-6
        )
    assert (together[2] == 0).all()


@every_kind
def test_without_a_gradient_there_is_no_step(kind: type[ThreatModel]) -> None:
    x = images(0)
    step = kind(1).reach(torch.zeros_like(x), torch.tensor([1.0, -1.0, 0.0, 2.0]), x)
    assert (step == 0).all()


@pytest.mark.parametrize("kind", [Linf, L2, L1], ids=lambda k: k.name)
def test_far_from_the_box_a_hyperplane_is_as_far_as_the_dual_norm_says(
    kind: type[ThreatModel],
) -> None:
    x, gradient = torch.full((4, *SHAPE), 0.5), anything(7) - 0.5
    gap = torch.tensor([0.01, -0.02, 0.05, 0.1])
    dual = np.linalg.norm(gradient.flatten(1).numpy(), {Linf: 1, L2: 2, L1: np.inf}[kind], axis=1)
    assert np.allclose(kind(1).dual(gradient).numpy(), dual, rtol=1e-5)
    step = kind(1).reach(gradient, gap, x)
    assert np.allclose(size_of(kind, step), np.abs(gap.numpy()) / dual, rtol=1e-5)


def test_a_pixel_gains_what_all_its_channels_gain() -> None:
    gradient = torch.zeros(1, 3, 2, 2)
    gradient[0, :, 0, 1] = torch.tensor([1.0, -2.0, 0.5])
    gradient[0, 0, 1, 1] = 3.25
    assert L0(1).dual(gradient).item() == 3.5


# -- the ball and the box at once ------------------------------------------------------------------


@settings(max_examples=80)
@given(share=st.floats(0.01, 1.1), scale=st.sampled_from([0.1, 0.5, 3.0]), seed=seeds)
def test_l1_projection_is_the_nearest_legal_image(share: float, scale: float, seed: int) -> None:
    """Against bisection on the one multiplier of the ball: each value is cut by the box alone."""
    x, far = images(seed, n=1).double(), anything(seed + 1, n=1, scale=scale).double()
    eps = share * float(size_of(L1, far.clamp(0, 1) - x)[0])
    got = flat(L1(eps).project(far, x))
    now, wanted = flat(x), flat(far)

    def cut(threshold: float) -> np.ndarray:
        delta = wanted - now
        return np.clip(now + np.sign(delta) * np.maximum(np.abs(delta) - threshold, 0), 0, 1)

    low, high = 0.0, float(np.abs(wanted - now).max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(cut(middle) - now).sum() > eps else (low, middle)
    expected = cut(0.0) if np.abs(cut(0.0) - now).sum() <= eps else cut(high)
    assert np.allclose(got, expected, atol=1e-9)


@settings(max_examples=40)
@given(kind=st.sampled_from([Linf, L1]), share=st.floats(0.02, 0.9), seed=seeds)
def test_no_other_legal_image_is_nearer(kind: type[ThreatModel], share: float, seed: int) -> None:
    x, far = images(seed, n=1).double(), anything(seed + 1, n=1).double()
    threat = kind(share * float(size_of(kind, far - x)[0]))
    best = (threat.project(far, x) - far).norm()
    g = torch.Generator().manual_seed(seed)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        step = scale * torch.randn(20, *SHAPE, generator=g, dtype=torch.float64)
        others = threat.project(threat.project(far, x) + step, x.expand(20, -1, -1, -1))
        assert ((others - far).flatten(1).norm(dim=1) >= best - 1e-9).all()


def test_l1_projection_spends_the_budget_that_the_box_cuts_off() -> None:
    x = torch.tensor([[[[0.9, 0.5]]]])
    got = L1(0.4).project(x + torch.tensor([[[[0.6, 0.5]]]]), x)
    assert torch.allclose(got, torch.tensor([[[[1.0, 0.8]]]]))


@every_kind
def test_no_images_are_no_trouble(kind: type[ThreatModel]) -> None:
    """A batch from which every example has left is empty."""
    none = torch.zeros(0, *SHAPE)
    assert kind(1).project(none, none).shape == none.shape
    assert kind(1).sample(none).shape == none.shape
    assert kind(1).reach(none, torch.zeros(0), none).shape == none.shape


@pytest.mark.parametrize("seed", range(30))
def test_both_ways_to_a_water_level_fill_alike(seed: int) -> None:
    """Limits that are equal, zero or far apart; needs of nothing, of all there is, and of more."""
    torch.manual_seed(seed)
    size = (1, 2, 5, 50, 500)[seed % 5]
    weight = torch.rand(7, size, dtype=torch.float64) * (torch.rand(7, size) > 0.2)
    limit = torch.rand(7, size, dtype=torch.float64) ** (1, 4, 20)[seed % 3]
    limit = limit if seed % 2 else (limit * 4).round() / 4
    whole = (weight * limit).sum(1)
    need = whole * torch.tensor([0, 0.01, 0.3, 0.7, 0.999, 1, 1.5], dtype=torch.float64)
    filled = [
        (weight * torch.minimum(level(weight, limit, need[:, None]), limit)).sum(1)
        for level in (_rising_level, _sorted_level)
    ]
    torch.testing.assert_close(filled[0], torch.minimum(need, whole), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(filled[1], filled[0], rtol=1e-9, atol=1e-12)


def test_a_limit_may_be_infinite() -> None:
    weight, limit = torch.ones(1, 2), torch.tensor([[torch.inf, 0.5]])
    level = _rising_level(weight, limit, torch.tensor([[2.0]]))
    assert level.item() == pytest.approx(1.5)
