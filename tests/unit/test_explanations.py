"""Maps of subsampled images and first-layer filters, against what can be worked out by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.explanations import (
    SubsampledMaps,
    centre_shares,
    concentration,
    even_share,
    first_layer_filters,
    mass_share,
    peak_shares,
    subsampled_maps,
)
from tests.networks import LinearModel, blobs, small_net


class Squares(nn.Module):
    """One class wins always, and its gradient is 2x: it tells at which image it was taken."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.square().sum((1, 2, 3))
        return torch.stack([-1 - total, total, -2 - total], 1)


def test_the_six_columns_by_hand() -> None:
    x = 0.6 + 0.4 * torch.rand(5, 3, 6, 6)
    maps = subsampled_maps(Squares(), x, 0.7, seed=3)
    m = maps.kept.float()
    assert torch.equal(maps.x, x)
    assert torch.equal(maps.x_masked, x * m + 0.5 * (1 - m))
    assert torch.allclose(maps.on_x.values, 2 * x)
    assert torch.allclose(maps.on_masked.values, 2 * x * m + (1 - m))
    assert torch.allclose(maps.on_kept, 2 * x * m)
    assert torch.equal(maps.on_dropped, 1 - m)
    assert maps.on_x.classes.tolist() == maps.on_masked.classes.tolist() == [1] * 5
    kept_mass, dropped = (2 * x * m).sum((1, 2, 3)), (1 - m).sum((1, 2, 3))
    assert torch.allclose(maps.mass_share, (kept_mass / (kept_mass + dropped)).double())
    assert torch.allclose(maps.kept_share, m.mean((1, 2, 3)).double())
    assert maps.kept_share.mean().item() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(("rate", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_at_the_ends_all_or_nothing_is_kept(rate: float, share: float) -> None:
    maps = subsampled_maps(Squares(), torch.rand(3, 1, 4, 4), rate)
    assert maps.mass_share.tolist() == maps.kept_share.tolist() == [share] * 3


def test_granularity_says_what_is_dropped_together() -> None:
    x = torch.rand(4, 3, 8, 8)
    pixel = subsampled_maps(Squares(), x, 0.5, "pixel").kept
    element = subsampled_maps(Squares(), x, 0.5, "element").kept
    assert pixel.shape == element.shape == x.shape
    assert torch.equal(pixel, pixel[:, :1].expand_as(x))
    assert not torch.equal(element, element[:, :1].expand_as(x))


def test_masks_are_named_by_seed_and_number_and_leave_no_trace() -> None:
    x = torch.rand(6, 1, 5, 5)
    state = torch.get_rng_state()
    whole = subsampled_maps(Squares(), x, 0.5, seed=1).kept
    assert torch.equal(torch.get_rng_state(), state)
    part = subsampled_maps(Squares(), x[4:], 0.5, seed=1, first=4).kept
    assert torch.equal(part, whole[4:])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(subsampled_maps(Squares(), x, 0.5, seed=2).kept, whole)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_mass_share_is_the_mean_of_the_maps(batch_size: int) -> None:
    net, x = small_net(), blobs(10)
    maps = subsampled_maps(net, x, 0.6, "pixel", 5)
    found = mass_share(net, x, 0.6, "pixel", 5, batch_size=batch_size)
    assert np.allclose(found.each, maps.mass_share.numpy(), atol=1e-5)
    assert found.mass.value == pytest.approx(maps.mass_share.mean().item(), abs=1e-5)
    assert found.mass.n == 10 and found.mass.low < found.mass.value < found.mass.high
    assert found.kept == pytest.approx(maps.kept_share.mean().item())
    assert torch.equal(found.classes, maps.on_masked.classes)


def test_a_map_that_does_not_see_the_mask_has_the_mass_of_its_number() -> None:
    torch.manual_seed(1)
    model, x = LinearModel(torch.randn(4, 3, 16, 16)), torch.rand(200, 3, 16, 16)
    found = mass_share(model, x, 0.8)
    assert found.mass.low < found.kept < found.mass.high
    assert found.kept == pytest.approx(0.2, abs=0.01)


class Deaf(nn.Module):
    """Looks at bright images only: the gradient of a dark one is 0 everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x - 0.5).relu().sum((1, 2, 3))
        return torch.stack([-total, total], 1)


def test_images_without_a_gradient_do_not_count() -> None:
    x = torch.zeros(4, 1, 4, 4)
    x[0], x[2] = 0.9, 0.8
    found = mass_share(Deaf(), x, 0.5)
    assert np.isnan(found.each).tolist() == [False, True, False, True]
    assert found.mass.n == 2 and found.mass.value == 1
    with pytest.raises(ValueError, match="0 on all images"):
        mass_share(Deaf(), torch.zeros(3, 1, 4, 4), 0.5)


class Lazy:
    """A view of images that are not in memory."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape = x, tuple(x.shape)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice) -> Tensor:
        return self.x[which]


def test_images_may_be_read_as_they_are_needed() -> None:
    net, x = small_net(), blobs(9)
    kept, read = (mass_share(net, i, 0.5, batch_size=4) for i in (x, Lazy(x)))
    assert kept.mass == read.mass and np.array_equal(kept.each, read.each)


def test_bad_arguments_are_named() -> None:
    x = torch.rand(2, 1, 4, 4)
    for make in (subsampled_maps, mass_share):
        with pytest.raises(ValueError, match="`rate`"):
            make(Squares(), x, 1.2)
        with pytest.raises(ValueError, match="`granularity`"):
            make(Squares(), x, 0.5, "row")
        with pytest.raises(ValueError, match="`x` must lie in"):
            make(Squares(), x + 1, 0.5)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        mass_share(Squares(), x, 0.5, batch_size=0)


def test_what_is_found_can_not_be_changed() -> None:
    maps = subsampled_maps(Squares(), torch.rand(1, 1, 2, 2), 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        maps.x = maps.x_masked  # type: ignore[misc]


def test_maps_can_be_kept_and_read_back() -> None:
    net, x = small_net(), blobs(3)
    maps = subsampled_maps(net, x, 0.5)
    arrays = maps.arrays()
    again = SubsampledMaps.of_arrays(arrays)
    assert torch.equal(again.x, maps.x) and torch.equal(again.x_masked, maps.x_masked)
    assert torch.equal(again.kept, maps.kept)
    for a, b in ((again.on_x, maps.on_x), (again.on_masked, maps.on_masked)):
        assert torch.equal(a.values, b.values) and torch.equal(a.classes, b.classes)
    assert all(isinstance(a, np.ndarray) for a in arrays.values())
    assert not torch.equal(again.on_x.values, again.on_masked.values)


# -- first-layer filters -----------------------------------------------------------------------


def test_the_filters_are_those_of_the_first_convolution() -> None:
    net = small_net()
    filters = first_layer_filters(net)
    assert torch.equal(filters, net.conv1.weight) and filters.shape == (6, 3, 3, 3)
    filters.zero_()
    assert net.conv1.weight.abs().min() > 0
    with pytest.raises(ValueError, match=r"the model \(LinearModel\) has no convolution"):
        first_layer_filters(LinearModel(torch.rand(2, 1, 2, 2)))


def filters_of(*kernels: list[list[float]]) -> Tensor:
    return torch.tensor(kernels)[:, None]


def test_concentration_by_hand() -> None:
    spike = [[0.0, 0, 0], [0, -2, 0], [0, 0, 0]]
    flat = [[1.0, -1, 1], [1, 1, 1], [1, 1, 1]]
    corner = [[3.0, 0, 0], [0, 4, 0], [0, 0, 0]]
    filters = filters_of(spike, flat, corner)
    assert centre_shares(filters).tolist() == pytest.approx([1, 1 / 9, 16 / 25])
    assert concentration(filters) == pytest.approx((1 + 1 / 9 + 16 / 25) / 3)
    assert even_share(filters) == pytest.approx(1 / 9)
    two_channels = torch.zeros(1, 2, 3, 3)
    two_channels[0, 0, 1, 1], two_channels[0, 1, 1, 1], two_channels[0, 1, 0, 2] = 1, 2, 2
    assert concentration(two_channels) == pytest.approx(5 / 9)


def test_the_peak_is_the_strongest_tap_over_all_channels() -> None:
    filters = torch.zeros(3, 2, 3, 3)
    filters[0, :, 0, 2], filters[0, 0, 1, 1] = 2, -2.5  # 8 beside 6.25
    filters[1, 1, 2, 0] = -3
    assert peak_shares(filters)[:2].tolist() == pytest.approx([8 / 14.25, 1])
    assert peak_shares(filters)[2].isnan()
    with pytest.raises(ValueError, match="must be"):
        peak_shares(filters[0])


@pytest.mark.parametrize(
    ("shape", "share"),
    [((1, 1), 1), ((2, 2), 1), ((4, 4), 1 / 4), ((3, 5), 1 / 15), ((7, 7), 1 / 49), ((1, 4), 0.5)],
)
def test_the_centre_of_an_even_side_is_two_taps(shape: tuple[int, int], share: float) -> None:
    ones = torch.ones(2, 3, *shape)
    assert concentration(ones) == pytest.approx(share)
    assert even_share(ones) == pytest.approx(share)


def test_where_the_centre_is() -> None:
    for tap, share in [((2, 2), 1), ((1, 2), 0), ((2, 3), 0), ((0, 0), 0)]:
        five = torch.zeros(1, 1, 5, 5)
        five[0, 0, tap[0], tap[1]] = 1
        assert concentration(five) == share, tap
    for tap, share in [((1, 1), 1), ((2, 2), 1), ((1, 2), 1), ((0, 1), 0), ((3, 2), 0)]:
        four = torch.zeros(1, 1, 4, 4)
        four[0, 0, tap[0], tap[1]] = 1
        assert concentration(four) == share, tap


def test_filters_of_zeros_do_not_count() -> None:
    filters = torch.zeros(2, 1, 3, 3)
    filters[0] = 1
    assert concentration(filters) == pytest.approx(1 / 9)
    assert centre_shares(filters).isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match="a weight that is not 0"):
        concentration(torch.zeros(2, 1, 3, 3))
    for bad in (torch.ones(3, 3), torch.ones(0, 1, 3, 3)):
        with pytest.raises(ValueError, match="must be \\(filters, channels"):
            concentration(bad)
