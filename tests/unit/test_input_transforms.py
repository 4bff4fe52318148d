"""Input transforms and the temperature against other people's code and by hand."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import median_filter
from torch import Tensor

from redoubtable.defenses import (
    JPEG,
    BitDepth,
    GaussianNoise,
    MedianFilter,
    RandomResizePad,
    Temperature,
)
from redoubtable.parts import facts_of
from redoubtable.seeding import seeded
from tests.networks import blobs, small_net


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(1, [0.0, 0.0, 1.0, 1.0]), (2, [0, 1 / 3, 2 / 3, 1]), (3, [0, 3 / 7, 4 / 7, 1])],
)
def test_bits_are_levels(bits: int, expected: list[float]) -> None:
    x = torch.tensor([0.0, 0.4, 0.6, 1.0]).view(1, 1, 2, 2)
    assert torch.allclose(BitDepth(bits)(x).flatten(), torch.tensor(expected))


def test_rounding_moves_a_value_by_half_a_level_at_most_and_its_surrogate_is_the_image() -> None:
    x = blobs(4).requires_grad_()
    out = BitDepth(3)(x)
    assert (out - x).abs().max() <= 0.5 / 7 + 1e-6
    assert len(out.unique()) == 8
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(slope, torch.ones_like(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_makes_of_the_image(channels: int) -> None:
    x = blobs(3, channels, 12, 20)
    coarse, fine = JPEG(10)(x), JPEG(95)(x)
    assert (coarse - x).abs().mean() > 1.2 * (fine - x).abs().mean() > 0
    pixels = (255 * x[1]).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(file, "JPEG", quality=10)
    by_hand = np.asarray(Image.open(file)).reshape(12, 20, channels)
    assert np.array_equal((255 * coarse[1]).round().permute(1, 2, 0).numpy(), by_hand)


def test_jpeg_refuses_images_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        JPEG()(blobs(2, channels=2))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_median_is_scipys(size: int) -> None:
    x = blobs(2, height=9, width=7)
    expected = median_filter(x.numpy(), size=(1, 1, size, size), mode="nearest")
    assert np.allclose(MedianFilter(size)(x).numpy(), expected)


def test_without_ties_the_median_has_its_own_derivative() -> None:
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64).requires_grad_()
    weight = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    (slope,) = torch.autograd.grad((MedianFilter(3)(x) * weight).sum(), x)
    direction = torch.randn_like(x)
    with torch.no_grad():
        ends = [(MedianFilter(3)(x + s * direction) * weight).sum() for s in (1e-7, -1e-7)]
    assert ((slope * direction).sum() - (ends[0] - ends[1]) / 2e-7).abs() < 1e-5


def test_equal_values_share_the_slope_of_their_median() -> None:
    x = torch.zeros(1, 1, 3, 3).requires_grad_()
    (slope,) = torch.autograd.grad(MedianFilter(3)(x)[0, 0, 1, 1], x)
    assert torch.allclose(slope, torch.full_like(x, 1 / 9))


def test_noise_has_its_deviation_and_is_fresh_for_every_value() -> None:
    noise = GaussianNoise(0.3)(torch.full((50, 3, 20, 20), 0.5)) - 0.5
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert len(noise.unique()) > 0.9 * noise.numel()
    assert not facts_of(GaussianNoise(0.0)).stochastic


# -- random size and place -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "low", "whole"), [(299, 310, 331), (32, 34, 35), (28, 30, 31), (8, 9, 10)]
)
def test_sides_are_those_of_the_paper_scaled(side: int, low: int, whole: int) -> None:
    """Spec 001, section 1.8: 310 to 330 in 331, and for CIFAR-10 34 in 35."""
    assert RandomResizePad().sides(side) == (low, whole)
    out = RandomResizePad()(torch.rand(2, 1, side, side))
    assert out.shape == (2, 1, whole, whole)


def placed(x: Tensor, size: int, mode: str, whole: int) -> list[Tensor]:
    """Every picture of one size, at every place."""
    picture = F.interpolate(x, size=(size, size), mode=mode)
    room = whole - size
    return [
        F.pad(picture, (left, room - left, top, room - top), value=0.5)
        for top in range(room + 1)
        for left in range(room + 1)
    ]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_each_image_is_resized_as_torch_does_it_and_put_at_some_place(mode: str) -> None:
    x = torch.rand(1, 2, 10, 10)
    defense = RandomResizePad(1.2, 1.5, mode)  # type: ignore[arg-type]
    possible = [p for size in (12, 13, 14) for p in placed(x, size, mode, 15)]
    out = defense(x.expand(400, -1, -1, -1))
    which = [[torch.allclose(o, p[0], atol=1e-5) for p in possible].index(True) for o in out]
    # 16 + 9 + 4 places; every one of them is met, and each size a third of the time.
    assert set(which) == set(range(29))
    shares = np.bincount(np.digitize(which, [16, 25]), minlength=3) / 400
    assert np.allclose(shares, 1 / 3, atol=0.08)


def test_a_picture_may_shrink_and_keep_the_side() -> None:
    defense = RandomResizePad(0.8, 1.0)
    assert defense.sides(28) == (23, 28)
    out = defense(torch.ones(64, 1, 28, 28))
    assert out.shape == (64, 1, 28, 28)
    sides = {int((o == 1).any(2).sum()) for o in out}
    assert sides == {23, 24, 25, 26, 27}


@pytest.mark.parametrize("temperature", [1e-4, 0.5, 1e4])
def test_a_temperature_divides_the_logits(temperature: float) -> None:
    net, x = small_net(), blobs(5)
    out = Temperature(net, temperature=temperature)(x)
    assert torch.allclose(out * temperature, net(x), rtol=1e-4)


def test_the_same_seed_draws_alike_whatever_the_order_in_memory() -> None:
    x = blobs(4)
    for defense in (GaussianNoise(0.2), RandomResizePad()):
        with seeded("a"):
            one = defense(x)
        with seeded("a"):
            other = defense(x.contiguous(memory_format=torch.channels_last))
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: BitDepth(0), "`bits` must lie in 1 to 8, got 0"),
        (lambda: JPEG(101), "`quality` must lie in 1 to 100"),
        (lambda: MedianFilter(4), "`size` must be odd and positive, got 4"),
        (lambda: GaussianNoise(-0.1), "`sigma` must be 0 or more"),
        (lambda: RandomResizePad(1.2, 1.1), "`least` must be positive and at most `most`"),
        (lambda: RandomResizePad(mode="cubic"), "`mode` must be"),  # type: ignore[arg-type]
        (lambda: Temperature(small_net(), temperature=0.0), "`temperature` must be positive"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(build: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()  # type: ignore[operator]
