"""JSMA takes the pair that its paper takes, found by trying all of them."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import jsma
from redoubtable.threat import L0
from tests.networks import LinearModel, RandomScale, blobs, small_net

FREE = L0(torch.inf)


def slopes(model: nn.Module, x: Tensor, target: int, probabilities: bool) -> tuple[Tensor, Tensor]:
    """The whole Jacobian of one image, and from it the target's row and the sum of the others."""

    def scores(flat: Tensor) -> Tensor:
        out = model(flat.view(1, *x.shape))[0]
        return out.softmax(0) if probabilities else out

    jacobian = torch.autograd.functional.jacobian(scores, x.flatten())
    assert isinstance(jacobian, Tensor)
    return jacobian[target], jacobian.sum(0) - jacobian[target]


def best_pair(
    x: Tensor, own: Tensor, rest: Tensor, theta: float, fits: list[set[int]] | None = None
) -> set[int]:
    """By trying every pair (Papernot et al. 2016, algorithm 3)."""
    sign = 1.0 if theta > 0 else -1.0
    free = [i for i, v in enumerate(x.flatten().tolist()) if (v < 0.99 if theta > 0 else v > 0.01)]
    best, found = 0.0, set()
    for i, j in itertools.combinations(free, 2):
        a, b = (own[i] + own[j]).item(), (rest[i] + rest[j]).item()
        allowed = fits is None or {i, j} in fits
        if allowed and sign * a > 0 and sign * b < 0 and -a * b > best:
            best, found = -a * b, {i, j}
    return found


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("on", ["logits", "probabilities"])
def test_the_first_pair_is_the_best_of_all(theta: float, on: str) -> None:
    model, x = small_net(smooth=True), blobs(4, 3, 5, 5)
    with torch.no_grad():
        y = model(x).argmax(1)
    targets = (y + 1) % 4
    found = jsma(
        model,
        x,
        y,
        FREE,
        targets=targets,
        theta=theta,
        on=on,
        gamma=0.03,
        stop=False,  # type: ignore[arg-type]
    )
    compared = 0
    for n in range(len(x)):
        own, rest = slopes(model, x[n], int(targets[n]), on == "probabilities")
        pair = best_pair(x[n], own, rest, theta)
        moved = set((found[n] != x[n]).flatten().nonzero().flatten().tolist())
        if pair and moved:  # nothing moved: the clean image came closer to the target
            assert moved == pair
            ahead = (x[n].flatten() + theta).clamp(0, 1)
            assert torch.allclose(found[n].flatten()[list(pair)], ahead[list(pair)])
            compared += 1
    assert compared >= 2


def two_classes(slope: Tensor, bias: float) -> LinearModel:
    """Class 1 where `slope x` is above `bias`."""
    return LinearModel(torch.stack([-slope, slope]), torch.tensor([bias, -bias]))


def images(value: float, n: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    return torch.full((n, *shape), value), torch.zeros(n, dtype=torch.long)


def test_the_steepest_features_go_first_and_no_more_than_it_takes() -> None:
    slope = torch.tensor([1.0, 8, 3, 5, 2, 7, 4, 6]).view(1, 2, 4)
    model = two_classes(slope, bias=17.9)  # at 0.5 it is 18 - 17.9 once two more are taken off
    x, y = images(0.0, 1, (1, 2, 4))
    found = jsma(model, x, y, FREE, gamma=1.0)
    assert found.flatten().tolist() == [0, 1, 0, 1, 0, 1, 0, 1]  # 8 + 7, then 6 + 5
    single = jsma(model, x, y, FREE, gamma=1.0, pairs=False)
    assert single.flatten().tolist() == [0, 1, 0, 0, 0, 1, 0, 1]  # 8 + 7 + 6 are enough


def test_a_feature_that_is_all_but_full_takes_no_place_of_another() -> None:
    slope = torch.tensor([1.0, 8, 3, 5]).view(1, 2, 2)
    x, y = images(0.0, 1, (1, 2, 2))
    x[0, 0, 0, 1] = 0.996
    found = jsma(two_classes(slope, bias=20.0), x, y, FREE, gamma=0.5)
    assert torch.allclose(found.flatten(), torch.tensor([0, 0.996, 1, 1]))


def test_theta_below_zero_empties_features() -> None:
    slope = -torch.tensor([1.0, 8, 3, 5]).view(1, 2, 2)
    model = two_classes(slope, bias=-4.5)  # class 1 once 8 and 5 are gone
    x, y = images(1.0, 1, (1, 2, 2))
    assert jsma(model, x, y, FREE, theta=-1.0, gamma=1.0).flatten().tolist() == [1, 0, 1, 0]
    assert torch.equal(jsma(model, x, y, FREE, theta=1.0, gamma=1.0), x)


def test_gamma_is_the_share_of_features() -> None:
    model = two_classes(torch.ones(3, 4, 4), bias=1e3)
    x, y = images(0.25, 1, (3, 4, 4))
    for gamma, changed in ((0.1, 4), (0.25, 12), (1.0, 48)):
        found = jsma(model, x, y, FREE, gamma=gamma)
        assert (found != x).sum() == changed


@pytest.mark.parametrize("eps", [1, 2, 3])
@pytest.mark.parametrize("pairs", [True, False])
def test_the_last_pixel_of_the_budget_is_used_in_all_its_channels(eps: int, pairs: bool) -> None:
    slope = torch.linspace(1, 2, 48).view(3, 4, 4)
    x, y = images(0.0, 2, (3, 4, 4))
    found = jsma(two_classes(slope, bias=1e3), x, y, L0(float(eps)), gamma=1.0, pairs=pairs)
    changed = (found != x).any(1).flatten(1).sum(1)
    assert changed.tolist() == [eps, eps]
    assert (found != x).flatten(1).sum(1).tolist() == [3 * eps, 3 * eps]


def test_targets_are_reached_where_another_class_is_nearer() -> None:
    g = torch.Generator().manual_seed(0)
    model = LinearModel(torch.randn(5, 1, 6, 6, generator=g))
    x = 0.3 * torch.rand(8, 1, 6, 6, generator=g)
    with torch.no_grad():
        order = model(x).argsort(1, descending=True)
    found = jsma(model, x, order[:, 0], FREE, targets=order[:, 2], gamma=1.0)
    with torch.no_grad():
        assert (model(found).argmax(1) == order[:, 2]).float().mean() >= 0.75


def test_more_classes_leave_no_more_standing() -> None:
    model, x = small_net(), blobs(8)
    with torch.no_grad():
        y = model(x).argmax(1)
        standing = [
            (model(jsma(model, x, y, L0(4.0), classes=k)).argmax(1) == y).sum().item()
            for k in (1, 3)
        ]
    assert standing[1] <= standing[0] < len(x)


def test_a_map_of_a_random_model_is_a_mean() -> None:
    """With logits of random sign a single draw goes the wrong way half of the time."""
    slope = torch.linspace(1, 2, 16).view(1, 4, 4)
    model = RandomScale(two_classes(slope, bias=8.0), spread=3.0)
    x, y = images(0.0, 16, (1, 4, 4))
    found = jsma(model, x, y, FREE, gamma=1.0, eot=200)
    with torch.no_grad():
        assert (model.model(found).argmax(1) == 1).float().mean() >= 0.9


@pytest.mark.parametrize("wrong", [{"theta": 0.0}, {"gamma": 0.0}, {"gamma": 1.5}, {"classes": 0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    model, (x, y) = two_classes(torch.ones(1, 2, 2), 1.0), images(0.0, 1, (1, 2, 2))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        jsma(model, x, y, FREE, **wrong)  # type: ignore[arg-type]
