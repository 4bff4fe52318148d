"""The geometry of threats, against formulas and brute force of the tests' own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from tests.unit.threat_parts import (
    KINDS,
    SHAPE,
    anything,
    every_kind,
    images,
    radius,
    seeds,
    size_of,
)

shares = st.one_of(st.just(0.0), st.floats(1e-3, 1.0))
kinds = st.sampled_from(KINDS)


# -- norms ---------------------------------------------------------------------------------------


@every_kind
def test_distance_is_the_norm_of_the_difference(kind: type[ThreatModel]) -> None:
    x, x_adv = images(0), images(1)
    x_adv[1] = x[1]
    x_adv[2, :, 0] = x[2, :, 0]
    assert np.allclose(kind(1).distance(x, x_adv).numpy(), size_of(kind, x_adv - x), rtol=1e-5)
    assert kind(1).distance(x, x).tolist() == [0, 0, 0, 0]


def test_a_pixel_counts_once_however_many_channels_change() -> None:
    delta = torch.zeros(1, 3, 2, 2)
    delta[0, :, 1, 0] = torch.tensor([1e-6, -1.0, 0.0])
    delta[0, 2, 0, 1] = -1e-7
    assert L0(1).norm(delta).item() == 2


def test_values_count_one_by_one_and_move_one_by_one() -> None:
    x = images(0)
    delta = torch.zeros_like(x)
    delta[:, :, 1, 0] = 0.5
    assert L0Values(1).norm(delta).tolist() == [2.0] * 4  # two channels
    gradient = torch.arange(1.0, 1 + x[0].numel()).view(1, *SHAPE).expand(4, *SHAPE)
    step = L0Values(1).ascent(gradient, x, x, 1.0)
    best = (gradient * (1 - x)).flatten(1).argmax(1)
    assert (step != 0).flatten(1).sum(1).tolist() == [1] * 4
    assert torch.equal(step.flatten(1).abs().argmax(1), best)
    pixel = L0(1).ascent(gradient, x, x, 1.0)
    assert (pixel != 0).flatten(1).sum(1).tolist() == [2] * 4


@every_kind
def test_diameter_is_the_distance_of_black_and_white(kind: type[ThreatModel]) -> None:
    x = torch.zeros(1, *SHAPE)
    assert kind(0).diameter(x) == pytest.approx(kind(0).distance(x, x + 1).item())


# -- projection ----------------------------------------------------------------------------------


@settings(max_examples=150)
@given(kind=kinds, share=shares, seed=seeds, scale=st.sampled_from([1e-3, 0.3, 3.0]))
def test_projection_is_legal_and_idempotent(
    kind: type[ThreatModel], share: float, seed: int, scale: float
) -> None:
    x, far = images(seed), anything(seed + 1, scale=scale)
    threat = kind(radius(kind, share))
    once = threat.project(far, x)
    assert once.min() >= 0
    assert once.max() <= 1
    assert (size_of(kind, once - x) <= float(threat.eps) * (1 + 1e-5) + 1e-5).all()
    assert threat.contains(once, x).all()
    assert torch.allclose(threat.project(once, x), once, atol=2e-6)


@settings(max_examples=80)
@given(kind=kinds, seed=seeds, per_image=st.lists(shares, min_size=4, max_size=4))
def test_projection_takes_one_radius_per_image(
    kind: type[ThreatModel], seed: int, per_image: list[float]
) -> None:
    x, far = images(seed), anything(seed + 1)
    eps = torch.tensor([radius(kind, s) for s in per_image])
    together = kind(eps).project(far, x)
    assert kind(eps).contains(together, x).all()
    for i, e in enumerate(eps.tolist()):
        alone = kind(e).project(far[i : i + 1], x[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


@settings(max_examples=80)
@given(kind=kinds, share=st.floats(0.05, 0.9), seed=seeds)
def test_projection_leaves_legal_images_alone(
    kind: type[ThreatModel], share: float, seed: int
) -> None:
    x = images(seed)
    legal = kind(radius(kind, share)).sample(x)
    assert torch.allclose(kind(radius(kind, share)).project(legal, x), legal, atol=2e-6)
    assert torch.allclose(kind(math.inf).project(legal, x), legal, atol=2e-6)


@every_kind
def test_projection_clips_to_the_box_also_with_a_huge_radius(kind: type[ThreatModel]) -> None:
    x, far = images(0), anything(1, scale=5.0)
    assert far.min() < -1
    assert far.max() > 2
    for eps in (kind(0).diameter(x) * 10, math.inf):
        eps = float(math.ceil(eps)) if math.isfinite(eps) else eps
        assert torch.allclose(kind(eps).project(far, x), far.clamp(0, 1), atol=2e-6)


@settings(max_examples=60)
@given(share=st.floats(0.01, 1.2), seed=seeds)
def test_l1_clip_is_the_nearest_point_of_the_ball(share: float, seed: int) -> None:
    delta = anything(seed, n=1).double() - 0.5
    eps = share * delta.abs().sum().item()
    got = L1(eps).clip(delta).numpy().ravel()
    # Bisection on the threshold, an independent way to the same point.
    d = delta.numpy().ravel()
    low, high = 0.0, np.abs(d).max()
    for _ in range(200):
        middle = (low + high) / 2
        if np.maximum(np.abs(d) - middle, 0).sum() > eps:
            low = middle
        else:
            high = middle
    expected = np.sign(d) * np.maximum(np.abs(d) - high, 0) if np.abs(d).sum() > eps else d
    assert np.allclose(got, expected, atol=1e-9)


@settings(max_examples=40)
@given(kind=st.sampled_from([Linf, L2, L1]), share=st.floats(0.01, 0.8), seed=seeds)
def test_clip_is_nearer_than_any_other_point_of_the_ball(
    kind: type[ThreatModel], share: float, seed: int
) -> None:
    delta = anything(seed, n=1).double() - 0.5
    threat = kind(share * float(size_of(kind, delta)[0]))
    nearest = threat.clip(delta)
    best = (nearest - delta).norm()
    g = torch.Generator().manual_seed(seed)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        step = scale * torch.randn(20, *SHAPE, generator=g, dtype=torch.float64)
        others = threat.clip(nearest + step)
        assert ((others - delta).flatten(1).norm(dim=1) >= best - 1e-9).all()


def test_l0_clip_keeps_the_largest_pixels() -> None:
    delta = torch.zeros(1, 2, 2, 2)
    delta[0, :, 0, 0] = torch.tensor([0.5, -0.4])
    delta[0, :, 0, 1] = torch.tensor([0.6, 0.0])
    delta[0, :, 1, 1] = torch.tensor([0.1, 0.1])
    kept = L0(2).clip(delta)
    delta[0, :, 1, 1] = 0
    assert torch.equal(kept, delta)


# -- samples -------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(kind=kinds, share=st.floats(0.05, 1.0), seed=seeds)
def test_samples_are_legal_and_differ(kind: type[ThreatModel], share: float, seed: int) -> None:
    threat, x = kind(radius(kind, share)), images(seed)
    torch.manual_seed(seed)
    first, second = threat.sample(x), threat.sample(x)
    assert threat.contains(first, x).all()
    assert threat.contains(second, x).all()
    if threat.eps:
        assert (first != second).flatten(1).any(1).all()
        assert (first != x).flatten(1).any(1).all()


@every_kind
def test_samples_with_an_infinite_radius_are_legal(kind: type[ThreatModel]) -> None:
    x = images(0)
    drawn = kind(math.inf).sample(x)
    assert kind(math.inf).contains(drawn, x).all()
    assert (drawn != x).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", [Linf, L2, L1], ids=lambda k: k.name)
def test_noise_is_uniform_in_the_ball(kind: type[ThreatModel]) -> None:
    """The share of the ball's volume inside the sample's own sphere is uniform in [0, 1]."""
    x = torch.full((4000, 1, 2, 2), 0.5)
    delta = kind(0.3).noise(x)
    volume = (size_of(kind, delta) / 0.3) ** 4
    assert stats.kstest(volume, "uniform").pvalue > 1e-3
    # And no direction is preferred: signs and coordinates are alike.
    flat = delta.flatten(1).double()
    assert (flat.mean(0).abs() < 5 * flat.std(0) / math.sqrt(4000)).all()
    assert torch.allclose(flat.abs().mean(0), flat.abs().mean().expand(4), rtol=0.08)
    assert stats.kstest(flat[:, 0].numpy(), flat[:, 3].numpy()).pvalue > 1e-3


def test_l0_noise_changes_just_so_many_pixels_anywhere() -> None:
    x = torch.full((3000, 2, 2, 3), 0.5)
    changed = (L0(2).noise(x) != 0).any(1).flatten(1)
    assert (changed.sum(1) == 2).all()
    assert torch.allclose(changed.double().mean(0), torch.full((6,), 1 / 3).double(), atol=0.05)


# -- legality ------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("bad", [-1e-6, 1 + 1e-6, math.nan, math.inf, -math.inf])
def test_one_value_outside_the_box_is_illegal(kind: type[ThreatModel], bad: float) -> None:
    x = images(0)
    x_adv = x.clone()
    x_adv[2, 1, 0, 0] = bad
    legal = kind(math.inf).contains(x_adv, x)
    assert legal.tolist() == [True, True, False, True]
    assert not kind(kind(0).diameter(x)).contains(x_adv, x)[2]


@every_kind
def test_a_change_above_eps_is_illegal(kind: type[ThreatModel]) -> None:
    x = torch.full((3, *SHAPE), 0.5)
    delta = torch.zeros_like(x)
    delta[1, 0, 0, 0] = 0.1
    delta[2, 0, 0, :3] = 0.1
    eps = {Linf: 0.0999, L2: 0.0999, L1: 0.2, L0: 2.0, L0Values: 2.0}[kind]
    expected = [1, 0, 0] if kind in (Linf, L2) else [1, 1, 0]
    assert kind(eps).contains(x + delta, x).tolist() == [bool(e) for e in expected]


@every_kind
def test_rounding_is_forgiven_and_no_more(kind: type[ThreatModel]) -> None:
    x = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)
    delta = torch.zeros_like(x)
    if kind.whole:
        delta[:, 0, 0, 0] = 1e-9
        assert not kind(0).contains(x + delta, x).any()
        return
    delta[0, 0, 0, 0] = 0.1 * (1 + 5e-6)
    delta[1, 0, 0, 0] = 0.1 * (1 + 5e-4)
    assert kind(0.1).contains(x + delta, x).tolist() == [True, False]


@every_kind
def test_each_image_is_held_to_its_own_radius(kind: type[ThreatModel]) -> None:
    x = torch.full((2, *SHAPE), 0.5)
    x_adv = x.clone()
    x_adv[:, 0, 0, 0] += 0.3
    eps = torch.tensor([1.0, 0.0])
    assert kind(eps).contains(x_adv, x).tolist() == [True, False]
    assert kind(eps.flip(0)).contains(x_adv, x).tolist() == [False, True]
