"""DeepFool and FAB: the smallest change, where it is known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import deepfool, fab, fab_targeted
from redoubtable.attacks.boundary import nearest_boundary
from redoubtable.attacks.rivals import leads_of
from redoubtable.gradients import FastCopy
from redoubtable.losses import Objective, margin
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf, ThreatModel
from tests.networks import LinearModel, RandomScale, blobs, small_net
from tests.unit.attacks.linear_parts import KINDS, SHAPE, answers, distances, linear

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
Attack = Callable[..., Tensor]
every_attack = pytest.mark.parametrize("attack", [deepfool, fab, fab_targeted])


# -- linear models ---------------------------------------------------------------------------------


@every_kind
def test_deepfool_goes_two_hundredths_beyond_the_nearest_boundary(
    kind: type[ThreatModel],
) -> None:
    """On a linear model one step does it, and a second one is not taken."""
    model, x, y = linear(5)
    expected = 1.02 * distances(model, x, y, kind).amin(1)
    for steps in (1, 50):
        found = deepfool(model, x, y, kind(torch.inf), steps=steps)
        assert (answers(model, found) != y).all()
        assert torch.allclose(kind(0.0).distance(x, found), expected, rtol=1e-6)


@every_kind
@pytest.mark.parametrize("attack", [fab, fab_targeted])
def test_fab_ends_next_to_the_nearest_boundary(attack: Attack, kind: type[ThreatModel]) -> None:
    model, x, y = linear(5)
    found = attack(model, x, y, kind(torch.inf), steps=10)
    assert (answers(model, found) != y).all()
    far = kind(0.0).distance(x, found) / distances(model, x, y, kind).amin(1)
    assert (far >= 1).all()
    assert (far < 1.001).all()


@every_kind
def test_without_the_last_search_fab_stays_where_its_steps_end(kind: type[ThreatModel]) -> None:
    model, x, y = linear(5)
    found = fab(model, x, y, kind(torch.inf), steps=1, search_steps=0)
    far = kind(0.0).distance(x, found) / distances(model, x, y, kind).amin(1)
    assert torch.allclose(far, torch.full_like(far, 1.05), rtol=1e-6)


@every_kind
@every_attack
def test_towards_targets_the_change_is_that_of_the_target(
    attack: Attack, kind: type[ThreatModel]
) -> None:
    model, x, y = linear(2)
    found = attack(model, x, y, kind(torch.inf), targets=1 - y)
    far = kind(0.0).distance(x, found) / distances(model, x, y, kind).amin(1)
    assert (answers(model, found) == 1 - y).all()
    assert (far < 1.03).all()
    stays = attack(model, x, y, kind(torch.inf), targets=y)
    assert torch.equal(stays, x)


@every_kind
@pytest.mark.parametrize(("attack", "count"), [(deepfool, 2), (fab, 1), (fab_targeted, 1)])
def test_with_few_classes_only_the_likeliest_is_looked_at(
    attack: Attack, count: int, kind: type[ThreatModel]
) -> None:
    model, x, y = linear(5, n=80)
    far = distances(model, x, y, kind)
    with torch.no_grad():
        likeliest = model(x).topk(2).indices[:, 1]
    other = far.argmin(1) != likeliest
    assert other.sum() >= 5
    found = attack(model, x[other], y[other], kind(torch.inf), classes=count, steps=10)
    got = kind(0.0).distance(x[other], found)
    assert (got > 1.06 * far[other].amin(1)).any()
    bound = far.gather(1, likeliest[:, None])[:, 0][other]
    assert (got <= 1.03 * bound).all()


@every_attack
def test_the_box_is_part_of_the_problem(attack: Attack) -> None:
    """Most of the slope is on values that can't move: the rest must, and no one else's formula."""
    weight = torch.tensor([1.0, 5.0, 5.0, 5.0, 1.0, 2.0]).view(1, 1, 2, 3)
    model = LinearModel(torch.cat([0 * weight, weight]), torch.tensor([0.0, -18.0]))
    x = torch.tensor([0.5, 1.0, 1.0, 1.0, 0.5, 0.5]).view(1, 1, 2, 3)
    y = torch.zeros(1, dtype=torch.long)
    # z_1 = 15 + 2 - 18 = -1; movable slopes are (1, 1, 2): the L2 step is (1, 1, 2) / 6.
    found = attack(model, x, y, L2(torch.inf))
    assert answers(model, found).item() == 1
    assert L2(0.0).distance(x, found).item() == pytest.approx(1 / 6**0.5, rel=0.03)


# -- curved boundaries -----------------------------------------------------------------------------


class Ball(nn.Module):
    """Class 1 outside of a sphere around the middle of the box; logits grow with a power."""

    def __init__(self, radius: float, power: int) -> None:
        super().__init__()
        self.radius, self.power = radius, power

    def forward(self, x: Tensor) -> Tensor:
        out = (x - 0.5).flatten(1).norm(dim=1) ** self.power - self.radius**self.power
        return torch.stack([torch.zeros_like(out), out], 1)


@pytest.mark.parametrize(("attack", "power", "slack"), [(deepfool, 1, 1.03), (fab, 2, 1.002)])
def test_the_nearest_point_of_a_sphere(attack: Attack, power: int, slack: float) -> None:
    """DeepFool steps too far where the logits are convex, FAB comes back."""
    g = torch.Generator().manual_seed(0)
    away = torch.randn(8, *SHAPE, generator=g, dtype=torch.float64)
    length = 0.1 + 0.5 * torch.rand(8, generator=g, dtype=torch.float64)
    x = 0.5 + away * (length / away.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    model, y = Ball(0.9, power), torch.zeros(8, dtype=torch.long)
    found = attack(model, x, y, L2(torch.inf))
    assert (answers(model, found) == 1).all()
    ratio = L2(0.0).distance(x, found) / (0.9 - length)
    assert (ratio >= 1).all()
    assert (ratio < slack).all()


@every_kind
def test_fab_finds_no_larger_changes_than_deepfool(kind: type[ThreatModel]) -> None:
    net, x = small_net(smooth=True), blobs(8)
    y = answers(net, x)
    sizes = {}
    for attack in (deepfool, fab, fab_targeted):
        found = attack(net, x, y, kind(torch.inf), steps=25)
        assert (answers(net, found) != y).all()
        sizes[attack] = kind(0.0).distance(x, found)
    assert (sizes[fab] <= sizes[deepfool] * 1.001).float().mean() >= 0.9
    assert sizes[fab].median() < 0.99 * sizes[deepfool].median()
    assert sizes[fab_targeted].median() < 0.99 * sizes[deepfool].median()


class Hidden(nn.Module):
    """Where the image stands only the boundary 0.1 away shows, not that at 0.04."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x - 0.5).flatten(1).unbind(1)
        lead = torch.maximum(10 * first - 1, 30 * second - 1.2)
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize("attack", [fab, fab_targeted])
def test_a_restart_finds_a_boundary_that_the_image_hides(attack: Attack) -> None:
    x, y = torch.full((12, 1, 1, 2), 0.5), torch.zeros(12, dtype=torch.long)
    for restarts, size in ((1, 0.1), (8, 0.04)):
        with seeded("restarts"):
            found = attack(Hidden(), x, y, L2(torch.inf), steps=10, restarts=restarts)
        assert torch.allclose(L2(0.0).distance(x, found), torch.tensor(size), rtol=0.03)


# -- who is looked at ------------------------------------------------------------------------------


class Counted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        object.__setattr__(self, "images", self.images + len(x))
        return self.model(x)


def looks(attack: Attack, model: nn.Module, *arguments: Any, **named: Any) -> int:
    counted = Counted(model)
    attack(counted, *arguments, **named)
    return counted.images


def test_deepfool_stops_at_the_first_success() -> None:
    """One look to rank the classes, one for the step, one that finds it done."""
    model, x, y = linear(5)
    assert looks(deepfool, model, x, y, L2(torch.inf)) == 3 * len(x)


@pytest.mark.parametrize("attack", [fab, fab_targeted])
def test_fab_lets_examples_leave_within_a_finite_radius_only(attack: Attack) -> None:
    model, x, y = linear(3)
    near = L2(1.3 * distances(model, x, y, L2).amin(1))
    few = looks(attack, model, x, y, near, steps=20, search_steps=0)
    assert few < 8 * len(x)
    for threat, stop in ((near, False), (L2(torch.inf), True)):
        many = looks(attack, model, x, y, threat, steps=20, search_steps=0, stop=stop)
        assert many >= 40 * len(x)


@every_attack
def test_the_last_image_counts_and_is_taken_across_the_exact_boundary(attack: Attack) -> None:
    """Of a copy whose boundaries are nearer than those of the model it stands for."""
    model, x, y = linear(2)
    with torch.no_grad():
        lead = model(x).diff(dim=1)
    x, y = x[lead[:, 0] < 0], y[lead[:, 0] < 0]
    exact = LinearModel(model.weight.data, model.bias.data.clone())
    # 6% of the smallest lead: further than the attacks go beyond the boundary in one step.
    exact.bias.data[1] -= 0.06 * lead[lead < 0].abs().min()
    found = attack(FastCopy(model, exact), x, y, L2(torch.inf), steps=1)
    near = distances(exact, x, y, L2).amin(1)
    assert (answers(exact, found) == 1).all()
    assert (L2(0.0).distance(x, found) < 1.12 * near).all()


@every_attack
def test_what_is_misclassified_already_needs_no_change(attack: Attack) -> None:
    model, x, y = linear(3)
    found = attack(model, x, (y + 1) % 3, Linf(torch.inf))
    assert torch.equal(found, x)


@every_attack
def test_on_a_random_model_answers_are_means_over_the_draws(attack: Attack) -> None:
    """The factor of the logits is negative in 45% of the draws: one alone decides nothing."""
    model, x, y = linear(3)
    coin = RandomScale(model, spread=10.0)
    with seeded("draws"):
        found = attack(coin, x, y, L2(torch.inf), steps=5, eot=300)
    far = L2(0.0).distance(x, found) / distances(model, x, y, L2).amin(1)
    assert (far > 0.8).all()
    assert (far < 1.3).all()


# -- the linearised model --------------------------------------------------------------------------


def by_hand(model: nn.Module, x: Tensor, leads: list[Objective], order: float) -> Any:
    """The nearest lead of each image, by a Jacobian of its own; (values, gradients)."""
    chosen = []
    for i in range(len(x)):
        index = torch.tensor([i])
        rows = []
        for lead in leads:
            image = x[i : i + 1].clone().requires_grad_()
            value = lead(model(image), index)
            (slope,) = torch.autograd.grad(value.sum(), image)
            rows.append((value.item(), slope[0]))
        far = [abs(v) / torch.linalg.vector_norm(s.flatten(), order).item() for v, s in rows]
        chosen.append(rows[far.index(min(far))])
    return torch.tensor([v for v, _ in chosen]), torch.stack([s for _, s in chosen])


@every_kind
@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_nearest_boundary_is_that_of_the_dual_norm(
    kind: type[ThreatModel], batch_size: int | None
) -> None:
    net, x = small_net(), blobs(8)
    y = answers(net, x)
    with torch.no_grad():
        leads = leads_of(net(x), y, None, margin, None, False)
    slope = nearest_boundary(net, x, leads, kind(1.0), batch_size=batch_size)
    order = {"Linf": 1, "L2": 2, "L1": torch.inf}[kind.name]
    values, gradients = by_hand(net, x, leads, order)
    assert torch.allclose(slope.loss, values, atol=1e-5)
    assert torch.allclose(slope.gradient, gradients, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(slope.logits, net(x), atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 24])
def test_the_nearest_boundary_of_a_random_model_is_that_of_its_mean(
    batch_size: int | None,
) -> None:
    model, x, y = linear(4, n=6)
    with torch.no_grad():
        leads = leads_of(model(x), y, None, margin, None, False)
    slope = nearest_boundary(
        RandomScale(model, spread=1.0), x, leads, L2(1.0), eot=1000, batch_size=batch_size
    )
    exact = nearest_boundary(model, x, leads, L2(1.0))
    assert torch.allclose(slope.loss, exact.loss, rtol=0.1)
    assert torch.allclose(slope.gradient, exact.gradient, rtol=0.1)
    assert torch.allclose(slope.logits, exact.logits, rtol=0.1)
