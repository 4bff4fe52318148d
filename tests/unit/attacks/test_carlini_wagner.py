"""The attack of Carlini and Wagner finds the smallest change of a linear model, and no larger."""

import pytest
import torch

from redoubtable.attacks import carlini_wagner
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf
from tests.networks import LinearModel, RandomScale
from tests.unit.test_oracle import answers, oracle

FREE = L2(torch.inf)


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
    found = carlini_wagner(model, x, y, free, steps=100, step_size=0.002)
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


@pytest.mark.parametrize("kind", [L2, Linf])
def test_confidence_is_the_margin_that_is_passed(kind: type[L2] | type[Linf]) -> None:
    model, (x, y, _) = oracle(kind)
    with torch.no_grad():
        before = model(x)
    rows = torch.arange(len(y))
    kappa = (before[rows, y] - before[rows, 1 - y]).median().item()
    found = carlini_wagner(
        model, x, y, kind(torch.inf), steps=100, step_size=0.002, confidence=kappa
    )
    with torch.no_grad():
        after = model(found)
    margin = after[rows, 1 - y] - after[rows, y]
    assert (margin > kappa).all()
    assert (margin < 1.5 * kappa).all()


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


def test_values_at_the_box_can_leave_it() -> None:
    """tanh of an infinite variable has no slope: 0 and 1 are drawn in a little."""
    model = LinearModel(torch.tensor([[[[1.0]]], [[[-1.0]]]]), torch.tensor([0.0, 1.9]))
    x, y = torch.ones(1, 1, 1, 1), torch.zeros(1, dtype=torch.long)
    found = carlini_wagner(model, x, y, FREE, steps=600, const=10.0)
    assert 0.90 < found.item() < 0.95


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
