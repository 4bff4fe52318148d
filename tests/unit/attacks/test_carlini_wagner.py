"""The attack of Carlini and Wagner finds the smallest change of a linear model, and no larger."""

import types
from typing import Any

import pytest
import torch
from torch import Tensor

from redoubtable.attacks import carlini_wagner
from redoubtable.attacks.carlini_wagner import _bisect_const
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf
from tests.networks import LinearModel, RandomScale
from tests.unit.attacks.targets_parts import behind
from tests.unit.test_oracle import answers, oracle

FREE = L2(torch.inf)
X = torch.zeros(1, 1, 1, 1)
SHORT: dict[type, dict[str, Any]] = {L2: {}, Linf: {"const": 0.01, "search_steps": 20}}
"""Where the constant of 1e-5 that the authors double from would take most of the time."""


@pytest.mark.parametrize("targeted", [False, True])
def test_the_smallest_l2_change_of_a_linear_model(targeted: bool) -> None:
    model, (x, y, distance) = oracle(L2)
    targets = 1 - y if targeted else None
    found = carlini_wagner(model, x, y, FREE, steps=100, targets=targets)
    ratio = FREE.distance(x, found) / distance
    assert torch.equal(answers(model, found), 1 - y)
    assert ratio.min() >= 1
    assert ratio.max() < 1.02


def test_the_smallest_linf_change_of_a_linear_model() -> None:
    model, (x, y, distance) = oracle(Linf)
    free = Linf(torch.inf)
    found = carlini_wagner(model, x, y, free, steps=100, step_size=0.002, **SHORT[Linf])
    ratio = free.distance(x, found) / distance
    assert torch.equal(answers(model, found), 1 - y)
    assert ratio.min() >= 1
    assert ratio.max() < 1.15  # the limit falls by tenths


def test_a_constant_too_small_to_pay_for_the_way_finds_nothing() -> None:
    """Along a linear margin of slope |w|, crossing pays only if const * |w| > 2 * distance."""
    model, (x, y, distance) = oracle(L2)
    slope = (model.weight[1] - model.weight[0]).norm().item()
    enough = 2 * distance / slope
    for factor, pays in ((0.8, False), (1.25, True)):
        for i in range(4):
            part = slice(i, i + 1)
            found = carlini_wagner(
                model, x[part], y[part], FREE, const=factor * enough[i].item(), steps=300
            )
            assert (answers(model, found) != y[part]).item() == pays


def test_a_search_from_a_constant_finds_one_that_is_far_off() -> None:
    model, (x, y, distance) = oracle(L2)
    slope = (model.weight[1] - model.weight[0]).norm().item()
    for const in (0.01 * 2 * 0.05 / slope, 1000 * 2 * 0.15 / slope):
        found = carlini_wagner(model, x, y, FREE, const=const, search_steps=9, steps=60)
        assert torch.equal(answers(model, found), 1 - y)
        assert (FREE.distance(x, found) / distance).max() < 1.1


class Scripted:
    """Rounds that succeed from a constant of 3.3 on, and remember what they were given."""

    def __init__(self) -> None:
        self.near, self.everyone = types.SimpleNamespace(x=X, look=lambda x: x), torch.arange(1)
        self.given: list[float] = []

    def offer(self, *_: Tensor) -> None:
        pass

    def open(self) -> Tensor:
        return self.everyone

    def run(self, index: Tensor, start: Tensor, const: Tensor, limit: Tensor) -> Any:
        self.given.append(const.item())
        return const >= 3.3, start


def test_constants_are_sought_by_tens_and_then_by_halves() -> None:
    rounds = Scripted()
    _bisect_const(rounds, 1.0, 6)  # type: ignore[arg-type]
    assert rounds.given == [1.0, 10.0, 5.5, 3.25, 4.375, 3.8125]


@pytest.mark.parametrize("kind", [L2, Linf])
def test_confidence_is_the_margin_that_is_passed(kind: type[L2] | type[Linf]) -> None:
    model, (x, y, _) = oracle(kind)
    with torch.no_grad():
        before = model(x)
    rows = torch.arange(len(y))
    kappa = (before[rows, y] - before[rows, 1 - y]).median().item()
    found = carlini_wagner(
        model, x, y, kind(torch.inf), steps=100, step_size=0.002, confidence=kappa, **SHORT[kind]
    )
    with torch.no_grad():
        after = model(found)
    margin = after[rows, 1 - y] - after[rows, y]
    assert (margin > kappa).all()
    assert (margin < 1.5 * kappa).all()


@pytest.mark.parametrize("kind", [L2, Linf])
def test_a_target_behind_another_class_is_reached(kind: type[L2] | type[Linf]) -> None:
    model, x, y, targets = behind()
    found = carlini_wagner(
        model, x, y, kind(torch.inf), targets=targets, steps=60, step_size=0.02,
        **SHORT[kind],
    )  # fmt: skip
    assert answers(model, found).tolist() == [1, 2]
    reach = kind(torch.inf).distance(x, found)
    assert 0.1 <= reach[0] < 0.13
    assert 0.2 <= reach[1] < 0.25
    free = carlini_wagner(model, x, y, kind(torch.inf), steps=60, step_size=0.02, **SHORT[kind])
    assert answers(model, free).tolist() == [3, 3]


def test_images_with_large_gradients_are_not_left_while_they_overshoot() -> None:
    """A large constant throws an image far over the boundary; fifty steps bring it back."""
    model, (x, y, distance) = oracle(L2)
    found = carlini_wagner(model, x, y, FREE, steps=100, const=0.1)
    assert (FREE.distance(x, found) / distance).max() < 1.1


def test_the_last_step_counts() -> None:
    """One step that is long enough leads across; only a look after it can tell."""
    model, (x, y, _) = oracle(L2)
    found = carlini_wagner(model, x, y, FREE, steps=1, step_size=0.5, const=1e3)
    assert torch.equal(answers(model, found), 1 - y)


def test_what_is_wrong_from_the_start_stays_as_it_is() -> None:
    model, (x, y, _) = oracle(L2)
    wrong = torch.where(torch.arange(len(y)) < 3, 1 - y, y)
    found = carlini_wagner(model, x, wrong, FREE, steps=30, const=1.0)
    still = (found == x).flatten(1).all(1)
    assert still.tolist() == [i < 3 for i in range(len(y))]


@pytest.mark.parametrize("kind", [L2, Linf])
def test_values_at_the_box_can_leave_it(kind: type[L2] | type[Linf]) -> None:
    """tanh of an infinite variable has no slope: 0 and 1 are drawn in a little."""
    model = LinearModel(torch.tensor([[[[1.0]]], [[[-1.0]]]]), torch.tensor([0.0, 1.9]))
    x, y = torch.ones(1, 1, 1, 1), torch.zeros(1, dtype=torch.long)
    given = {"const": 10.0} if kind is L2 else SHORT[kind]
    found = carlini_wagner(model, x, y, kind(torch.inf), steps=600, **given)
    assert 0.85 < found.item() < 0.95


def test_a_random_model_is_ranked_by_the_mean_of_its_draws() -> None:
    """The signs of its logits flip from draw to draw; many draws find the mean's boundary."""
    model, (x, y, _) = oracle(L2)
    coin = RandomScale(model, spread=2.0)
    with seeded("draws"):
        found = carlini_wagner(coin, x, y, FREE, steps=40, const=1.0, eot=100)
    assert (answers(model, found) != y).float().mean() > 0.9


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"step_size": 0.0}, {"const": 0.0}, {"search_steps": 0}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    model, (x, y, _) = oracle(L2)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        carlini_wagner(model, x, y, FREE, **wrong)  # type: ignore[arg-type]
