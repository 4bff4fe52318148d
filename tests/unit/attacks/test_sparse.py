"""Attacks on few pixels: the sets and colours that they choose, against sums done by hand."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import corner_search, l0_pgd, one_pixel, pgd0, sparse_rs
from redoubtable.attacks.corner_search import _drawn, _sizes
from redoubtable.attacks.one_pixel import _children
from redoubtable.attacks.sparse_rs import _divisor, _exchange
from redoubtable.losses import margin
from redoubtable.parts import Facts, Part
from redoubtable.seeding import seeded
from redoubtable.threat import L0
from tests.networks import LinearModel, RandomScale, blobs, facts, small_net
from tests.unit.attacks.linear_parts import answers, linear

TARGETED = pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
Example = tuple[LinearModel, Tensor, Tensor, Tensor, Tensor]


def example(shape: tuple[int, int, int] = (3, 3, 4), n: int = 6) -> Example:
    """A linear model of two classes, out of reach, and what each pixel gains; no gain is lost.

    Returns:
        The model, images, labels, (N, H * W) gains of the best corners, and those corners.
    """
    g = torch.Generator().manual_seed(2)
    w = torch.randn(shape, generator=g).double()
    x = torch.rand(n, *shape, generator=g).double() * 0.8 + 0.1
    y = torch.arange(n) % 2
    model = LinearModel(torch.stack([-w, w]) / 2)
    slope = w * (1 - 2 * y.view(-1, 1, 1, 1))
    corner = (slope > 0).double()
    return model, x, y, (slope * (corner - x)).sum(1).flatten(1), corner


def gained(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return margin(model(x_adv), y) - margin(model(x), y)


def changed(x: Tensor, x_adv: Tensor) -> Tensor:
    return (x != x_adv).any(1).flatten(1)


# -- geometry --------------------------------------------------------------------------------------


def test_the_nearest_image_of_the_ball_is_that_of_all_sets_of_pixels() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(20, 2, 2, 3, generator=g)
    far = x + 1.5 * torch.randn(x.shape, generator=g)
    for count in (1, 2, 4):
        found = L0(count).nearest(far, x)
        assert L0(count).contains(found, x).all()
        ours = (found - far).square().flatten(1).sum(1)
        for pixels in itertools.combinations(range(6), count):
            mask = torch.zeros(6).index_fill(0, torch.tensor(pixels), 1).view(2, 3)
            other = torch.where(mask > 0, far.clamp(0, 1), x)
            assert (ours <= (other - far).square().flatten(1).sum(1) + 1e-5).all()


def test_an_exchange_adds_the_best_pixel_and_drops_the_worst() -> None:
    x = torch.full((1, 1, 1, 5), 0.5)
    gradient = torch.tensor([[[[3.0, -4.0, 1.0, 0.5, 2.0]]]])
    one = L0(2).exchange(gradient, x, x)
    assert one.flatten().tolist() == [0.5, 0.0, 0.5, 0.5, 0.5]
    two = L0(2).exchange(gradient, one, x)
    assert two.flatten().tolist() == [1.0, 0.0, 0.5, 0.5, 0.5]
    # The budget is full: pixel 4 comes for pixel 0, though that is worth more.
    three = L0(2).exchange(gradient, two, x)
    assert three.flatten().tolist() == [0.5, 0.0, 0.5, 0.5, 1.0]
    assert torch.equal(L0(0).exchange(gradient, x, x), x)
    full = L0(9).exchange(gradient, 1 - torch.rand(1, 1, 1, 5), x)
    assert full.shape == x.shape


# -- with gradients --------------------------------------------------------------------------------


@TARGETED
def test_the_greedy_attack_changes_one_pixel_a_step_and_the_best_first(targeted: bool) -> None:
    model, x, y, gains, corner = example()
    goal = 1 - y if targeted else None
    for steps in (1, 2, 5):
        found = l0_pgd(model, x, y, L0(6), targets=goal, steps=steps, stop=False)
        best = torch.zeros_like(gains, dtype=torch.bool)
        best.scatter_(1, gains.topk(steps, 1).indices, True)
        assert torch.equal(changed(x, found), best)
        where = best.view(len(x), 1, 3, 4).expand_as(x)
        assert torch.equal(found[where], corner[where])
    # After the budget is full the best set is kept, whatever the exchanges lead to.
    found = l0_pgd(model, x, y, L0(4), targets=goal, steps=9, stop=False)
    assert torch.allclose(gained(model, x, found, y), gains.topk(4, 1).values.sum(1))


@TARGETED
def test_a_long_step_of_pgd0_takes_the_best_pixels(targeted: bool) -> None:
    model, x, y, gains, _ = example()
    goal = 1 - y if targeted else None
    found = pgd0(
        model,
        x,
        y,
        L0(4),
        targets=goal,
        steps=1,
        step_size=1e7,
        restarts=1,
        loss=margin,
        stop=False,
    )
    assert torch.allclose(gained(model, x, found, y), gains.topk(4, 1).values.sum(1))


def test_the_default_step_of_pgd0_is_that_of_the_authors() -> None:
    """120,000 / 255 on CIFAR-10, up to two percent."""
    model, x, y, *_ = example((3, 32, 32), n=2)
    outcomes = []
    for step in (None, 0.15 * 3072, 0.05 * 3072):
        with seeded("step"):
            outcomes.append(pgd0(model, x, y, L0(9), steps=2, restarts=1, step_size=step))
    assert abs(0.15 * 3072 / (120_000 / 255) - 1) < 0.025
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


# -- Sparse-RS -------------------------------------------------------------------------------------


def test_the_share_of_exchanged_pixels_follows_the_published_schedule() -> None:
    queries = [0, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8001]
    divided = [1, 2, 4, 4, 5, 6, 8, 10, 12, 15, 20]
    assert [_divisor(q / 10_000) for q in queries] == divided


@pytest.mark.parametrize("queries", [1, 40])
def test_always_eps_pixels_stand_at_corners_that_are_not_the_clean_ones(queries: int) -> None:
    x = blobs(6)
    x[0] = 1.0
    x[1] = (x[1] > 0.5).float()
    y = answers(small_net(), x)
    eps = torch.tensor([3.0, 9.0, 64.0, 1.0, 0.0, 200.0])
    found = sparse_rs(small_net(), x, y, L0(eps), queries=queries, stop=False)
    assert changed(x, found).sum(1).tolist() == [3, 9, 64, 1, 0, 64]
    new = found[(found != x).any(1, keepdim=True).expand_as(x)]
    assert set(new.tolist()) == {0.0, 1.0}


def test_an_exchange_gives_back_as_many_pixels_as_it_takes() -> None:
    x = torch.full((400, 1, 4, 4), 0.5)
    kept = x.clone()
    kept[:, :, 0] = 1.0
    new = _exchange(kept, x, torch.full((400,), 2.0), 2)
    back = (new == x)[:, 0, 0].sum(1)
    fresh = (new != x)[:, 0, 1:].flatten(1).sum(1)
    assert torch.equal(back, fresh)
    assert back.max() == 2
    assert (back.float().mean() - 2 * (1 - 2 / 14)).abs() < 0.1  # 2 of 14 places are their own
    everywhere = (new != kept).flatten(1).any(0)
    assert everywhere.all()


# -- one pixel -------------------------------------------------------------------------------------


def test_a_child_is_one_parent_plus_half_the_difference_of_two_others() -> None:
    """Four parents of colours 0, 0.1, 0.3 and 0.7: each child comes of the three others."""
    colours = [0.0, 0.1, 0.3, 0.7]
    parents = torch.tensor(colours, dtype=torch.float64).view(1, 4, 1, 1).expand(500, 4, 1, 3)
    children = _children(parents)
    for own in range(4):
        others = [c for i, c in enumerate(colours) if i != own]
        expected = {
            round(min(max(a + 0.5 * (b - c), 0), 1), 6)
            for a, b, c in itertools.permutations(others)
        }
        assert {round(v, 6) for v in children[:, own, 0, 2].tolist()} == expected
    places = children[..., :2]
    assert ((places >= 0) & (places < 1)).all()


@TARGETED
def test_the_evolution_finds_the_pixel_that_gains_most(targeted: bool) -> None:
    model, x, y, gains, _ = example()
    goal = 1 - y if targeted else None
    with seeded("evolution"):
        found = one_pixel(model, x, y, L0(1), targets=goal, steps=25, population=400, stop=False)
    assert (changed(x, found).sum(1) == 1).all()
    assert (gained(model, x, found, y) > 0.97 * gains.amax(1)).all()


def test_generations_improve_on_the_first_one() -> None:
    model, x, y, gains, _ = example()
    reached = []
    for steps in (1, 6, 30):
        with seeded("generations"):
            found = one_pixel(model, x, y, L0(3), steps=steps, population=20, stop=False)
        reached.append(gained(model, x, found, y).mean().item())
    assert reached[0] < reached[1] < reached[2] <= gains.topk(3, 1).values.sum(1).mean().item()


def test_pixels_beyond_the_radius_of_an_image_are_not_set() -> None:
    _, x, y, *_ = example()
    eps = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 1.0])
    model = example()[0]
    with seeded("radius"):
        found = one_pixel(model, x, y, L0(eps), steps=5, population=30, stop=False)
    count = changed(x, found).sum(1)
    assert (count <= eps).all()
    assert (count[1:] >= 1).all()
    assert count[4] > 2


class Beginners(Part):
    """Class 1 by the largest value; the first pass sees a success whatever is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    @property
    def facts(self) -> Facts:
        return facts(stochastic=True)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        value = x.flatten(1).sum(1) + (100.0 if self.passes == 1 else 0.0)
        return torch.stack([torch.full_like(value, 5.0), value], 1)

    def undefended(self) -> nn.Module:
        return nn.Identity()


def test_the_luck_of_the_first_generation_is_forgotten() -> None:
    """Nothing was better than the first look; the best are three white pixels, 4.2 in all."""
    x, y, total = torch.full((1, 1, 3, 3), 0.2), torch.tensor([0]), 0.0
    for seed in range(3):
        with seeded("luck", seed):
            found = one_pixel(Beginners(), x, y, L0(3), steps=40, population=20, batch_size=20)
        total += found.sum().item() / 3
    assert total > 3.95


def test_the_evolution_goes_to_its_target() -> None:
    """Not only away from the true class: nearly as far as the best three pixels, with six."""
    model, x, y = linear(5)
    with torch.no_grad():
        targets = model(x).argsort(1, descending=True)[:, 2]
        clean = margin(model(x), targets)

    def nearer(found: Tensor) -> Tensor:
        with torch.no_grad():
            return clean - margin(model(found), targets)

    given = {"targets": targets, "stop": False, "population": 20}
    with seeded("target"):
        found = one_pixel(model, x, y, L0(6), steps=40, **given)  # type: ignore[arg-type]
        best = corner_search(model, x, y, L0(3), **given)  # type: ignore[arg-type]
    assert (nearer(found) / nearer(best)).mean() > 0.77


# -- CornerSearch ----------------------------------------------------------------------------------


@TARGETED
def test_one_pixel_is_chosen_among_all_corners(targeted: bool) -> None:
    """On a network that is not linear, against trying everything."""
    net, x = small_net().double(), blobs(2, 3, 4, 5).double()
    y = answers(net, x)
    goal = (y + 1) % 4 if targeted else None
    found = corner_search(net, x, y, L0(1), targets=goal, stop=False, batch_size=50)
    for i in range(len(x)):
        best = -torch.inf
        for row, column in itertools.product(range(4), range(5)):
            for colour in itertools.product([0.0, 1.0], repeat=3):
                tried = x[i : i + 1].clone()
                tried[0, :, row, column] = torch.tensor(colour).double()
                with torch.no_grad():
                    logits = net(tried)
                value = (
                    margin(logits, y[i : i + 1])
                    if goal is None
                    else -margin(logits, goal[i : i + 1])
                )
                best = max(best, value.item())
        with torch.no_grad():
            logits = net(found[i : i + 1])
        value = margin(logits, y[i : i + 1]) if goal is None else -margin(logits, goal[i : i + 1])
        assert value.item() == pytest.approx(best)


def test_better_changes_are_drawn_more_often_as_published() -> None:
    """The i-th of n with probability (2 n - 2 i + 1) / n^2."""
    drawn = _drawn(torch.arange(4).view(1, 4), 20_000, 2)
    share = torch.bincount(drawn.flatten(), minlength=4) / 40_000
    assert torch.allclose(share, torch.tensor([7.0, 5.0, 3.0, 1.0]) / 16, atol=0.01)


def test_small_sets_come_first() -> None:
    assert _sizes(8, 10) == [2, 3, 4, 5, 6, 7, 8]
    assert _sizes(30, 3) == [2, 16, 30]
    assert _sizes(1, 5) == []
    model, x, y, gains, _ = example()
    with torch.no_grad():
        level = -margin(model(x), y)
    # Out of reach for the best pixel, within reach of the two best.
    shift = gains.topk(2, 1).values.sum(1) * 0.98 - level
    for i in range(len(x)):
        bias = (2 * y[i] - 1) * shift[i] / 2
        near = LinearModel(model.weight.data, torch.stack([-bias, bias]))
        if gains[i].amax() > level[i] + shift[i]:
            continue
        found = corner_search(near, x[i : i + 1], y[i : i + 1], L0(8), draws=300, population=12)
        assert answers(near, found) != y[i]
        assert changed(x[i : i + 1], found).sum() == 2


# -- random models ---------------------------------------------------------------------------------


def test_sparse_rs_with_eot_beats_that_without_on_a_random_model() -> None:
    model, x, y, *_ = example()
    coin = RandomScale(model, spread=4.0)

    def reached(eot: int) -> float:
        total = 0.0
        for seed in range(3):
            with seeded("eot", seed):
                found = sparse_rs(coin, x, y, L0(4), queries=60, eot=eot)
            total += gained(model, x, found, y).mean().item()
        return total

    assert reached(20) > 1.2 * reached(1)


@pytest.mark.parametrize("attack", [l0_pgd, pgd0])
def test_the_gradient_attacks_average_over_draws(attack: Callable[..., Tensor]) -> None:
    """One draw of a coin-flipping model points the wrong way once in three times."""
    model, x, y, gains, _ = example()
    coin, best = RandomScale(model, spread=3.0), gains.topk(3, 1).values.sum(1)
    reached = {1: 0.0, 40: 0.0}
    for eot, seed in itertools.product(reached, range(3)):
        with seeded("draws", seed):
            found = attack(coin, x, y, L0(3), steps=4, loss=margin, eot=eot)
        reached[eot] += (gained(model, x, found, y) / best).mean().item() / 3
    assert reached[40] > 1.5 * reached[1]
    assert reached[40] > 0.45
