"""The geometry of threats, against formulas, brute force and linear programs of the tests' own."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog
from torch import Tensor

from redoubtable.threat import L0, L1, L2, THREATS, Linf, ThreatModel, parse_threat
from tests.networks import blobs

KINDS = [Linf, L2, L1, L0]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
SHAPE = (2, 3, 4)


def size_of(kind: type[ThreatModel], delta: Tensor) -> np.ndarray:
    """The norm, by a formula of our own."""
    d = delta.double().numpy()
    flat = d.reshape(len(d), -1)
    if kind is Linf:
        return np.abs(flat).max(1)
    if kind is L2:
        return np.sqrt((flat**2).sum(1))
    if kind is L1:
        return np.abs(flat).sum(1)
    return np.abs(d).max(1).reshape(len(d), -1).astype(bool).sum(1)


def images(seed: int, n: int = 4, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return blobs(n, *shape, seed=seed)


def anything(seed: int, n: int = 4, shape: tuple[int, ...] = SHAPE, scale: float = 1.0) -> Tensor:
    """Values that leave the box."""
    g = torch.Generator().manual_seed(seed)
    return 0.5 + scale * torch.randn(n, *shape, generator=g)


def radius(kind: type[ThreatModel], share: float) -> float:
    """A radius that is this share of the largest distance, whole for pixels."""
    eps = share * kind(0.0).diameter(images(0))
    return float(round(eps)) if kind is L0 else eps


seeds = st.integers(0, 10_000)
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


# -- ascent --------------------------------------------------------------------------------------


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
    eps = {Linf: 0.0999, L2: 0.0999, L1: 0.2, L0: 2.0}[kind]
    expected = {Linf: [1, 0, 0], L2: [1, 0, 0], L1: [1, 1, 0], L0: [1, 1, 0]}[kind]
    assert kind(eps).contains(x + delta, x).tolist() == [bool(e) for e in expected]


@every_kind
def test_rounding_is_forgiven_and_no_more(kind: type[ThreatModel]) -> None:
    x = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)
    delta = torch.zeros_like(x)
    if kind is L0:
        delta[:, 0, 0, 0] = 1e-9
        assert not L0(0).contains(x + delta, x).any()
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
def test_half_pixels_are_refused(eps: Any) -> None:
    with pytest.raises(ValueError, match="whole"):
        L0(eps)


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


def test_the_four_norms_are_known_by_name() -> None:
    assert {"Linf": Linf, "L2": L2, "L1": L1, "L0": L0} == THREATS
