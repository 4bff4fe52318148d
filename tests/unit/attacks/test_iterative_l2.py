"""The iterative L2 method against its formula, written out."""

import pytest
import torch
from torch import Tensor

from redoubtable.attacks import iterative_l2
from redoubtable.threat import L2
from tests.networks import small_net

EPS = 0.6


def by_hand(model: torch.nn.Module, x: Tensor, y: Tensor, sign: int, steps: int) -> Tensor:
    """One image at a time: a quarter of the radius along g / |g|, then back into the ball."""
    found = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        here = image.clone()
        for _ in range(steps):
            here.requires_grad_()
            loss = sign * torch.nn.functional.cross_entropy(model(here), label)
            (g,) = torch.autograd.grad(loss, here)
            delta = here.detach() + 0.25 * EPS * g / g.norm() - image
            here = image + delta * min(1.0, EPS / delta.norm().item())
        found.append(here.clamp(0, 1).detach())
    return torch.cat(found)


@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_the_formula_and_the_last_iterate(targeted: bool) -> None:
    model = small_net(smooth=True)
    x = 0.3 + 0.4 * torch.rand(6, 3, 8, 8)  # the ball stays inside of the box
    with torch.no_grad():
        y = model(x).argmax(1)
    targets = (y + 1) % 4 if targeted else None
    found = iterative_l2(model, x, y, L2(EPS), targets=targets)
    goal, sign = (y, 1) if targets is None else (targets, -1)
    assert torch.allclose(found, by_hand(model, x, goal, sign, 10), atol=1e-5)
    assert not torch.allclose(found, by_hand(model, x, goal, sign, 9), atol=1e-3)


def test_no_value_leaves_the_box() -> None:
    model, x = small_net(smooth=True), torch.ones(4, 3, 8, 8)
    y = torch.zeros(4, dtype=torch.long)
    found = iterative_l2(model, x, y, L2(2.0))
    assert found.max() <= 1
    assert (found < 1).flatten(1).any(1).all()
