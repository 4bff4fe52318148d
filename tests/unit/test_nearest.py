"""The nearest success is kept, legal, and one on the exact model."""

import torch
from torch import Tensor, nn

from redoubtable.attacks.nearest import Nearest
from redoubtable.gradients import FastCopy
from redoubtable.losses import margin
from redoubtable.threat import L2, Linf


class Threshold(nn.Module):
    """Class 1 where the mean value is above `at`."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        high = x.flatten(1).mean(1) - self.at
        return torch.stack([-high, high], 1)


X, Y = torch.full((3, 1, 2, 2), 0.25), torch.zeros(3, dtype=torch.long)


def searched(model: nn.Module, radius: float, *values: float) -> tuple[Nearest, Tensor]:
    nearest = Nearest(model, X, Y, None, margin, Linf(radius))
    for value in values:
        images, index = torch.full((2, 1, 2, 2), value), torch.tensor([0, 2])
        nearest.offer(index, images, nearest.look(images))
    return nearest, nearest.result()


def test_the_nearest_success_is_kept_whatever_the_order() -> None:
    nearest, found = searched(Threshold(0.5), torch.inf, 0.9, 0.625, 0.75, 0.375)
    assert found.flatten(1).amax(1).tolist() == [0.625, 0.25, 0.625]
    assert nearest.distance.tolist() == [0.375, torch.inf, 0.375]
    assert nearest.found.tolist() == [True, False, True]


def test_a_success_beyond_the_radius_is_projected() -> None:
    _, found = searched(Threshold(0.5), 0.125, 0.75)
    assert torch.allclose(found[0], torch.tensor(0.375))
    assert torch.equal(found[1], X[1])


def test_what_succeeded_nowhere_shows_what_is_given() -> None:
    nearest, _ = searched(Threshold(0.5), 0.25, 0.75)
    other = torch.full_like(X, 1.0)
    assert torch.allclose(nearest.result(other)[1], torch.tensor(0.5))


def test_a_boundary_that_the_copy_has_moved_is_crossed_on_the_exact_model() -> None:
    copy = FastCopy(Threshold(0.5), Threshold(0.501))
    nearest, found = searched(copy, torch.inf, 0.5005)
    assert (Threshold(0.501)(found[:1]).argmax(1) == 1).all()
    assert nearest.distance[0] < 0.256


def test_what_never_fools_the_exact_model_is_no_success() -> None:
    nearest, found = searched(FastCopy(Threshold(0.3), Threshold(0.9)), torch.inf, 0.5)
    assert not nearest.found.any()
    assert torch.equal(found, X)


def test_a_target_must_be_reached() -> None:
    nearest = Nearest(Threshold(0.5), X, Y, torch.zeros_like(Y), margin, L2(torch.inf))
    images = torch.full_like(X, 0.9)
    assert not nearest.offer(torch.arange(3), images, nearest.look(images)).any()
