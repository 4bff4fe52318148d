"""NES, SPSA and ZOO: gradients from answers alone, against slopes that are known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import nes, spsa, zoo
from redoubtable.attacks.nes import estimate
from redoubtable.attacks.search import Search
from redoubtable.attacks.spsa import _corners
from redoubtable.gradients import mean_logits
from redoubtable.losses import aim, margin
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf
from tests.networks import LinearModel, RandomScale
from tests.unit.attacks.targets_parts import behind
from tests.unit.test_oracle import answers, oracle


class Blind(LinearModel):
    """A model whose answers carry no gradient, and that counts the images it is asked about."""

    def __init__(self, model: LinearModel) -> None:
        super().__init__(model.weight.data, model.bias.data)
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        object.__setattr__(self, "asked", self.asked + len(x))
        with torch.no_grad():
            return super().forward(x)


@pytest.mark.parametrize("directions", [torch.randn_like, _corners], ids=["gaussian", "corners"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_estimate_is_the_slope_and_its_error_falls(directions: object, sign: int) -> None:
    model, (x, y, _) = oracle(Linf)
    targets = None if sign > 0 else y
    search = Search(model, x, y, targets, margin, stop=False)
    side = torch.where(y == 1, -1.0, 1.0).view(-1, 1, 1, 1)
    slope = sign * side * (model.weight[1] - model.weight[0]).detach()
    errors = []
    for draws in (200, 3200):
        with seeded("estimate"):
            got = estimate(
                search,
                torch.arange(len(x)),
                x,
                aim(margin, y, targets),
                directions,
                draws,
                0.01,
                1,  # type: ignore[arg-type]
            )
        errors.append(((got - slope).flatten(1).norm(dim=1) / slope.flatten(1).norm(dim=1)).mean())
    assert errors[1] < 0.3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)  # like 1 / sqrt(draws)


def test_estimates_do_not_depend_on_how_many_are_made_at_a_time() -> None:
    model, (x, y, _) = oracle(L2)
    found = []
    for batch_size in (7, 64, None):
        search = Search(model, x, y, None, margin, stop=False, batch_size=batch_size)
        with seeded("estimate"):
            found.append(
                estimate(
                    search, torch.arange(16), x, aim(margin, y, None), torch.randn_like, 30, 0.01, 1
                )
            )
    assert torch.allclose(found[0], found[1])
    assert torch.allclose(found[0], found[2])


@pytest.mark.parametrize("attack", [nes, spsa])
@pytest.mark.parametrize("kind", [Linf, L2])
def test_a_model_without_gradients_falls_close_to_its_boundary(
    attack: object, kind: type[Linf] | type[L2]
) -> None:
    model, (x, y, distance) = oracle(kind)
    step = {} if attack is nes else {"step_size": 0.002 if kind is Linf else 0.01}
    # Adam's steps are of equal length for all values, which suits Linf alone.
    reach = 1.25 if attack is nes or kind is Linf else 2.0
    with seeded("score"):
        near = attack(Blind(model), x, y, kind(0.98 * distance), queries=6000, draws=200, **step)  # type: ignore[operator]
        far = attack(Blind(model), x, y, kind(reach * distance), queries=6000, draws=200, **step)  # type: ignore[operator]
    assert torch.equal(answers(model, near), y)
    assert (answers(model, far) != y).float().mean() > 0.9


@pytest.mark.parametrize("attack", [nes, spsa, zoo])
def test_a_target_behind_another_class_is_reached(attack: object) -> None:
    model, x, y, targets = behind()
    budget = {"steps": 60, "const": 1.0, "step_size": 0.05} if attack is zoo else {"queries": 1300}
    found = attack(model, x, y, L2(0.4), targets=targets, draws=20, **budget)  # type: ignore[operator]
    assert answers(model, found).tolist() == [1, 2]


def test_estimates_average_over_the_draws_of_a_random_model() -> None:
    model, (x, y, _) = oracle(Linf)
    coin = RandomScale(model, spread=1.0)
    search = Search(coin, x, y, None, margin, stop=False)
    side = torch.where(y == 1, -1.0, 1.0).view(-1, 1, 1, 1)
    slope = side * (model.weight[1] - model.weight[0]).detach()
    errors = []
    for eot in (1, 64):
        with seeded("estimate"):
            got = estimate(
                search, torch.arange(len(x)), x, aim(margin, y, None), torch.randn_like, 100,
                0.001, eot,
            )  # fmt: skip
        errors.append((got - slope).flatten(1).norm(dim=1).mean().item())
    assert errors[1] < errors[0] / 1.5


def test_the_first_step_of_spsa_is_that_of_adam() -> None:
    model, (x, y, _) = oracle(Linf)
    ball = Linf(0.2)
    with seeded("adam"):
        start = ball.sample(x)
    with seeded("adam"):
        found = spsa(model, x, y, ball, queries=22, draws=20, step_size=0.003, stop=False)
    length = (found - start).abs()
    moved = (length.flatten(1) > 1e-9).any(1)  # the others were strongest where they began
    assert moved.sum() >= 8
    at_limit = ((found - x).abs() > 0.2 - 1e-6)[moved]
    assert torch.allclose(length[moved][~at_limit], torch.tensor(0.003).double(), rtol=1e-4)


@pytest.mark.parametrize("attack", [nes, spsa])
@pytest.mark.parametrize("queries", [22, 42, 64, 500])
def test_no_more_queries_are_spent_than_given(attack: object, queries: int) -> None:
    model, (x, y, distance) = oracle(Linf)
    blind = Blind(model)
    attack(blind, x, y, Linf(0.5 * distance), queries=queries, draws=20)  # type: ignore[operator]
    spent = blind.asked / len(x)
    assert queries - 21 < spent <= queries


@pytest.mark.parametrize("attack", [nes, spsa])
def test_the_last_step_counts(attack: object) -> None:
    """The queries last for one step, and it alone leads across."""
    model, (x, y, distance) = oracle(Linf)
    length = 2 * distance.max().item() if attack is nes else 0.05
    found = attack(  # type: ignore[operator]
        model, x, y, Linf(1.5 * distance), queries=1002, draws=1000, step_size=length
    )
    assert (answers(model, found) != y).float().mean() > 0.9


@pytest.mark.parametrize("attack", [nes, spsa])
def test_draws_of_a_random_model_are_averaged(attack: object) -> None:
    model, (x, y, distance) = oracle(Linf)
    coin = RandomScale(model, spread=4.0)

    def reached(eot: int) -> float:
        with seeded("score"):
            found = attack(coin, x, y, Linf(distance), queries=210, draws=20, eot=eot)  # type: ignore[operator]
        return margin(mean_logits(model, found), y).mean().item()

    assert reached(30) > reached(1)


@pytest.mark.parametrize("attack", [nes, spsa])
@pytest.mark.parametrize(
    "wrong", [{"draws": 3}, {"draws": 0}, {"sigma": 0.0}, {"queries": 10, "draws": 10}]
)
def test_what_makes_no_sense_is_refused(attack: object, wrong: dict[str, float]) -> None:
    model, (x, y, _) = oracle(Linf)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        attack(model, x, y, Linf(0.1), **wrong)  # type: ignore[operator]


# -- ZOO -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
def test_zoo_finds_the_smallest_change_of_a_linear_model(targeted: bool) -> None:
    model, (x, y, distance) = oracle(L2)
    free = L2(torch.inf)
    with seeded("zoo"):
        found = zoo(
            Blind(model), x, y, free, targets=1 - y if targeted else None,
            steps=80, draws=40, search_steps=5,
        )  # fmt: skip
    ratio = free.distance(x, found) / distance
    assert torch.equal(answers(model, found), 1 - y)
    assert ratio.min() >= 1
    assert ratio.max() < 1.1


def test_zoo_moves_the_coordinates_it_has_drawn() -> None:
    """After one step of eight coordinates no more than eight values have left."""
    model, (x, y, _) = oracle(L2)
    blind = Blind(model)
    found = zoo(blind, x, y, L2(torch.inf), steps=1, draws=8, const=1.0)
    moved = ((found - x).abs() > 1e-4).flatten(1).sum(1)
    assert moved.tolist() == [8] * len(x)
    assert blind.asked == len(x) * (1 + 2 * 8 + 1)


def test_zoo_moves_black_and_white_pixels_only_without_tanh() -> None:
    """On a tanh they lie so far out that a hundred steps hardly move them."""
    x, y = torch.tensor([0.0, 1.0]).repeat(1, 3, 4, 2), torch.zeros(1, dtype=torch.long)
    moved = {}
    for tanh in (True, False):
        with seeded("zoo"):
            found = zoo(
                Linear2(x),
                x,
                y,
                L2(torch.inf),
                steps=40,
                draws=96,
                const=50.0,
                step_size=0.01,
                tanh=tanh,
            )
        moved[tanh] = float((found - x).abs().amax())
        assert bool((found >= 0).all() and (found <= 1).all())
    assert moved[True] < 0.01 < 0.05 < moved[False]


def test_zoo_asks_only_for_pixels_inside_the_box() -> None:
    """A class that only whiter images would reach pulls the pixels no further than to white."""
    asked: list[Tensor] = []

    def whiter(images: Tensor) -> Tensor:
        asked.append(images.detach())
        bright = images.flatten(1).mean(1)
        return torch.stack([2 - bright, bright], 1)

    x, y = torch.full((2, 3, 4, 4), 0.98), torch.zeros(2, dtype=torch.long)
    zoo(Answers(whiter), x, y, L2(torch.inf), steps=10, draws=48, const=50.0)
    assert torch.cat(asked).max() > 1 - 1e-6
    assert torch.cat(asked).max() < 1 + 2e-4  # a difference reaches 1e-4 further


class Answers(nn.Module):
    """A function as a model."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = answer  # type: ignore[method-assign]


class Linear2(nn.Module):
    """Two classes by a plane that lies at some distance from an image."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.weight, self.middle = 1 - 2 * x, x

    def forward(self, images: Tensor) -> Tensor:
        """Class 0 until the pixels have moved inwards by a tenth in the mean."""
        moved = (self.weight * (images - self.middle)).flatten(1).mean(1)
        return torch.stack([0.1 - moved, moved - 0.1], 1)


def test_zoo_asks_for_no_more_images_at_once_than_it_may() -> None:
    model, (x, y, _) = oracle(L2)
    results = []
    for batch_size in (16, 128, None):
        with seeded("zoo"):
            results.append(
                zoo(model, x, y, L2(torch.inf), steps=5, draws=20, const=1.0, batch_size=batch_size)
            )
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert torch.allclose(results[0], results[2], atol=1e-6)
