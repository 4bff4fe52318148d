"""Random noise keeps its best draw, and fails where there is nothing to find."""

import torch
from torch import Tensor

from redoubtable.attacks import noise
from redoubtable.gradients import mean_logits
from redoubtable.losses import margin
from redoubtable.seeding import seeded
from redoubtable.threat import Linf
from tests.networks import LinearModel, RandomScale

BALL = Linf(0.1)


def problem(width: int = 2) -> tuple[LinearModel, Tensor, Tensor]:
    """Class 1 where the sum of `width` values is above 0.04 of the middle, one by one."""
    slope = torch.ones(1, 1, width)
    model = LinearModel(torch.stack([-slope, slope]), torch.tensor([0.5, -0.5]) * (width + 0.08))
    return model, torch.full((64, 1, 1, width), 0.5), torch.zeros(64, dtype=torch.long)


def chance(draws: int) -> float:
    """How often one of `draws` sums of two uniforms in [-0.1, 0.1] is above 0.04, by geometry."""
    one = 0.5 * (0.2 - 0.04) ** 2 / 0.2**2
    return 1 - (1 - one) ** draws


def test_more_draws_succeed_as_often_as_chance_says() -> None:
    model, x, y = problem()
    for draws in (1, 3, 20):
        with seeded("noise", draws), torch.no_grad():
            share = (model(noise(model, x, y, BALL, draws=draws)).argmax(1) == 1).float().mean()
        assert abs(share - chance(draws)) < 0.15


def test_without_a_stop_the_strongest_draw_is_kept() -> None:
    model, x, y = problem()
    with seeded("noise"):
        draws = torch.stack([BALL.sample(x) for _ in range(10)])
    with seeded("noise"):
        found = noise(model, x, y, BALL, draws=10, stop=False)
    with torch.no_grad():
        best = torch.stack([margin(model(d), y) for d in draws]).amax(0)
        assert torch.allclose(margin(model(found), y), best)


def test_towards_a_target_the_other_way_is_worth_nothing() -> None:
    model, x, y = problem()
    with seeded("noise"):
        found = noise(model, x, y, BALL, targets=y, draws=10, stop=False)
    assert (found.flatten(1).sum(1) < x.flatten(1).sum(1)).all()


def test_on_a_random_model_draws_are_compared_by_their_means() -> None:
    model, x, y = problem()
    coin = RandomScale(model, spread=4.0)

    def reached(eot: int) -> float:
        with seeded("noise"):
            found = noise(coin, x, y, BALL, draws=20, eot=eot)
        return margin(mean_logits(model, found), y).mean().item()

    assert reached(50) > reached(1)
