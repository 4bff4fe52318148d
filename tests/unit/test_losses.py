"""Losses against hand computations, and the one place where a targeted attack changes a sign."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from redoubtable.detectors import Entropy, Rejecting
from redoubtable.losses import (
    BETAS,
    CONFIDENCES,
    LOSSES,
    SLACK,
    aim,
    carlini_wagner,
    cross_entropy,
    dlr,
    evasion_confidence,
    evasion_margin,
    margin,
)
from redoubtable.registry import Entry
from redoubtable.types import Loss
from tests.networks import blobs, small_net

every_loss = pytest.mark.parametrize("entry", list(LOSSES), ids=lambda e: e.name)
ABSTAINING = {entry.name for entry in LOSSES if entry.facts["abstains"]}
"""Losses of K + 1 logits with the rejection last."""


def test_hand_values() -> None:
    z = torch.tensor([[1.0, 3.0, -1.0, 0.0]], dtype=torch.float64)
    total = math.log(math.e + math.e**3 + math.exp(-1) + 1)

    def of(loss: Loss, label: int) -> float:
        return loss(z, torch.tensor([label])).item()

    assert of(cross_entropy, 1) == pytest.approx(total - 3)
    assert of(cross_entropy, 2) == pytest.approx(total + 1)
    assert of(margin, 1) == pytest.approx(1 - 3)
    assert of(margin, 0) == pytest.approx(3 - 1)
    assert of(margin, 2) == pytest.approx(3 + 1)
    # The gap of the first and the third logit is 3 - 0.
    assert of(dlr, 1) == pytest.approx(-2 / 3)
    assert of(dlr, 0) == pytest.approx(2 / 3)
    assert of(dlr, 2) == pytest.approx(4 / 3)
    assert of(carlini_wagner, 1) == pytest.approx(-2)
    assert of(carlini_wagner, 2) == 0


def test_hand_values_with_a_rejection() -> None:
    z = torch.tensor([[1.0, 3.0, -1.0, 2.0]], dtype=torch.float64)  # classes 0, 1, 2; rejection
    total = math.log(math.e + math.e**3 + math.exp(-1))

    def of(loss: Loss, label: int) -> float:
        return loss(z, torch.tensor([label])).item()

    assert of(evasion_margin, 1) == pytest.approx(1 - 3)
    assert of(evasion_margin, 0) == pytest.approx(3 - 2)
    assert of(evasion_margin, 2) == pytest.approx(3 - 2)
    assert of(evasion_confidence, 1) == pytest.approx(1 - total)
    assert of(evasion_confidence, 0) == pytest.approx(3 - total)
    # Whatever the rejection says, this loss does not look at it.
    other = z.clone()
    other[0, 3] = 50.0
    assert evasion_confidence(other, torch.tensor([0])).item() == pytest.approx(3 - total)


@pytest.mark.parametrize("beta", BETAS)
def test_hand_values_with_a_score_above_its_threshold(beta: float) -> None:
    """Log-probabilities of 0.2, 0.7, 0.1, whose score is 0.5 above, a little below, far below."""
    log_p = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64).log()
    loss = LOSSES[f"evasion_hinge_{beta:g}"].obj
    for excess, counted in ((0.5, 0.6), (0.0, 0.1), (-0.04, 0.06), (-0.1, 0.0), (-3.0, 0.0)):
        z = torch.cat([log_p, log_p.amax()[None] + excess])[None]

        def of(label: int, target: int | None = None, z: Tensor = z) -> float:
            goal = None if target is None else torch.tensor([target])
            return aim(loss, torch.tensor([label]), goal)(z, torch.tensor([0])).item()

        assert of(1) == pytest.approx(math.log(0.2) - beta * counted)
        assert of(0) == pytest.approx(math.log(0.7) - beta * counted)
        assert of(1, 2) == pytest.approx(math.log(0.1) - beta * counted)
        assert of(2, 0) == pytest.approx(math.log(0.2) - beta * counted)


def test_the_excess_is_that_of_the_entropy_behind_a_guard() -> None:
    """What the loss takes off is the entropy less its threshold, by formulas of our own."""
    net, x, y = small_net(), blobs(12), torch.arange(12) % 4
    threshold = 0.9
    guard = Rejecting(net, Entropy(), threshold)
    with torch.no_grad():
        p = net(x).softmax(1)
        z = guard(x)
    entropy = -(p * p.log()).sum(1)
    assert bool((entropy > threshold).any())
    assert bool((entropy < threshold - 0.1).any())
    wrong = p.scatter(1, y[:, None], 0).amax(1).log()
    for beta in BETAS:
        off = wrong - LOSSES[f"evasion_hinge_{beta:g}"].obj(z, y)
        expected = beta * (entropy - threshold + SLACK).clamp_min(0)
        assert torch.allclose(off, expected, atol=beta * 2e-5)


def test_the_difference_of_logits_ratio_ignores_scale_and_shift() -> None:
    z = torch.randn(20, 6, dtype=torch.float64)
    y = torch.randint(6, (20,))
    assert torch.allclose(dlr(z, y), dlr(7 * z + 3, y))


@every_loss
def test_one_value_per_image_each_of_its_own(entry: Entry[Loss]) -> None:
    z, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    together = entry.obj(z, y)
    assert together.shape == (5,)
    alone = torch.cat([entry.obj(z[i : i + 1], y[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone)
    assert entry.obj(z.double(), y).dtype == torch.float64


@every_loss
def test_inputs_are_not_changed(entry: Entry[Loss]) -> None:
    z, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    kept = z.clone()
    entry.obj(z, y)
    aim(entry.obj, y, (y + 1) % 3)(z, torch.arange(5))
    assert torch.equal(z, kept)


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=5), st.integers(0, 3))
def test_evasion_margin_is_positive_exactly_at_an_accepted_wrong_answer(
    logits: list[float], label: int
) -> None:
    z = torch.tensor([logits], dtype=torch.float64)
    answer = z.argmax(1).item()
    unique = (z == z.max()).sum() == 1
    evaded = answer not in (label, 4)
    value = evasion_margin(z, torch.tensor([label])).item()
    if unique:
        assert (value > 0) == evaded
    else:
        assert value <= 0 or evaded


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=5), st.integers(0, 4))
def test_margin_is_positive_exactly_at_a_wrong_answer(logits: list[float], label: int) -> None:
    z = torch.tensor([logits], dtype=torch.float64)
    value = margin(z, torch.tensor([label])).item()
    if (z == z.max()).sum() == 1:
        assert (value > 0) == (z.argmax(1).item() != label)


# -- what the attacker raises --------------------------------------------------------------------


def success_and_failure(targeted: bool, abstains: bool) -> tuple[Tensor, Tensor]:
    """Logits with true class 0 and target 1: a clear success, then a clear failure."""
    good, bad = [0.0, 6.0, -1.0, 0.5], [6.0, 0.0, -1.0, 0.5]
    if not targeted and not abstains:
        good = [0.0, -1.0, 6.0, 0.5]  # any other class will do
    rest = [-3.0] if abstains else []
    return torch.tensor([good + rest]), torch.tensor([bad + rest])


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
def test_a_success_has_the_larger_objective(entry: Entry[Loss], targeted: bool) -> None:
    good, bad = success_and_failure(targeted, entry.name in ABSTAINING)
    y, targets = torch.tensor([0]), torch.tensor([1]) if targeted else None
    objective = aim(entry.obj, y, targets)
    assert objective(good, torch.tensor([0])) > objective(bad, torch.tensor([0]))


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("goal", [1, 2, 3])
def test_a_small_step_up_the_objective_helps_the_attacker(
    entry: Entry[Loss], targeted: bool, goal: int
) -> None:
    """Before its success, wherever the goal ranks among the classes, the attack sees a slope.

    It must raise the goal's logit over the true one's; a gradient of zero is a blind attack.
    """
    rest = [-3.0] if entry.name in ABSTAINING else []
    z = torch.tensor([[3.0, 1.5, 0.5, -0.5, *rest]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0])
    objective = aim(entry.obj, y, torch.tensor([goal]) if targeted else None)
    (slope,) = torch.autograd.grad(objective(z, torch.tensor([0])).sum(), z)
    toward = slope[0, goal if targeted else 1] - slope[0, 0]
    assert toward > 0.01


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
def test_following_the_objective_succeeds(entry: Entry[Loss], targeted: bool) -> None:
    """Plain ascent on the logits themselves, from random ones, for every true class and goal."""
    g = torch.Generator().manual_seed(0)
    rest = int(entry.name in ABSTAINING)
    pairs = [p for p in itertools.product(range(4), repeat=2) if p[0] != p[1]] * 4
    y, goal = (torch.tensor([p[i] for p in pairs]) for i in (0, 1))
    z = torch.randn(len(pairs), 4 + rest, generator=g, dtype=torch.float64)
    z = z.scatter_add(1, y[:, None], torch.full((len(pairs), 1), 2.0, dtype=torch.float64))
    objective = aim(entry.obj, y, goal if targeted else None)
    for _ in range(200):
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(objective(z, torch.arange(len(pairs))).sum(), z)
        z = z + 0.1 * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-9)
    answers = z[:, :4].argmax(1)
    if targeted and entry.obj is dlr:  # equation 7 only asks for the target above the true class
        assert bool((z.gather(1, goal[:, None]) > z.gather(1, y[:, None])).all())
    else:
        assert torch.equal(answers, goal) if targeted else bool((answers != y).all())


@every_loss
def test_the_index_says_whose_logits_they_are(entry: Entry[Loss]) -> None:
    z, y, targets = torch.randn(4, 5), torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0])
    index = torch.tensor([2, 0, 2])
    untargeted = aim(entry.obj, y, None)(z[index], index)
    assert torch.allclose(untargeted, aim(entry.obj, y, None)(z, torch.arange(4))[index])
    targeted = aim(entry.obj, y, targets)(z[index], index)
    assert torch.allclose(targeted, aim(entry.obj, y, targets)(z, torch.arange(4))[index])


def test_untargeted_is_the_loss_itself() -> None:
    z, y = torch.randn(6, 5), torch.randint(4, (6,))
    for entry in LOSSES:
        assert torch.equal(aim(entry.obj, y, None)(z, torch.arange(6)), entry.obj(z, y))


def test_targeted_cross_entropy_and_margin_are_minus_those_of_the_target() -> None:
    z, y, t = torch.randn(6, 5), torch.randint(5, (6,)), torch.randint(5, (6,))
    index = torch.arange(6)
    assert torch.allclose(aim(cross_entropy, y, t)(z, index), -cross_entropy(z, t))
    assert torch.allclose(aim(margin, y, t)(z, index), -margin(z, t))


def test_a_target_has_to_beat_the_rejection_too() -> None:
    accepted = torch.tensor([[0.0, 5.0, 1.0, 4.0]])
    rejected = torch.tensor([[0.0, 5.0, 1.0, 6.0]])
    objective = aim(evasion_margin, torch.tensor([0]), torch.tensor([1]))
    assert objective(accepted, torch.tensor([0])).item() == pytest.approx(1.0)
    assert objective(rejected, torch.tensor([0])).item() == pytest.approx(-1.0)
    confidence = aim(evasion_confidence, torch.tensor([0]), torch.tensor([1]))
    expected = accepted[:, :3].log_softmax(1)[0, 1].item()
    assert confidence(accepted, torch.tensor([0])).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["margin", "evasion_margin"])
def test_a_ranking_is_positive_exactly_where_the_attack_succeeded(name: str) -> None:
    """`success` of an attack: with targets it is positive only at the target itself."""
    g = torch.Generator().manual_seed(1)
    z, y = torch.randn(300, 5, generator=g), torch.randint(4, (300,), generator=g)
    targets = (y + torch.randint(1, 4, (300,), generator=g)) % 4
    rank, answers, index = LOSSES[name].obj, z.argmax(1), torch.arange(300)
    assert torch.equal(aim(rank, y, targets)(z, index) > 0, answers == targets)
    wrong = (answers != y) & (answers != 4) if name == "evasion_margin" else answers != y
    assert torch.equal(aim(rank, y, None)(z, index) > 0, wrong)


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
def test_gradients_are_true(entry: Entry[Loss], targeted: bool) -> None:
    g = torch.Generator().manual_seed(2)
    z = torch.randn(6, 5, generator=g, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, (6,), generator=g)
    objective = aim(entry.obj, y, (y + 1) % 4 if targeted else None)
    assert torch.autograd.gradcheck(lambda v: objective(v, torch.arange(6)), (z,))


@every_loss
def test_large_logits_give_finite_values_and_gradients(entry: Entry[Loss]) -> None:
    z = torch.tensor([[1e4, -1e4, 0.0, 5.0], [2.0, 2.0, 2.0, 2.0]], requires_grad=True)
    value = entry.obj(z, torch.tensor([0, 1]))
    (slope,) = torch.autograd.grad(value.sum(), z)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()


def test_two_classes_are_enough_or_refused() -> None:
    """With two classes, too, an attack must not be blind; the ratio of dlr is constant there."""
    two = torch.tensor([[2.0, 0.5]])
    with pytest.raises(ValueError, match="three classes"):
        aim(dlr, torch.tensor([0]), None)(two, torch.tensor([0]))
    with pytest.raises(ValueError, match="four classes"):
        aim(dlr, torch.tensor([0]), torch.tensor([1]))(torch.zeros(1, 3), torch.tensor([0]))
    for entry in LOSSES:
        if entry.name in ABSTAINING or entry.obj is dlr:
            continue
        z = torch.tensor([[2.0, 0.5]], requires_grad=True)
        value = aim(entry.obj, torch.tensor([0]), None)(z, torch.tensor([0]))
        (slope,) = torch.autograd.grad(value.sum(), z)
        assert slope[0, 1] - slope[0, 0] > 0.01, f"{entry.name} has no slope with two classes"


@pytest.mark.parametrize("kappa", CONFIDENCES)
def test_a_margin_with_room_to_spare_stops_growing_there(kappa: float) -> None:
    loss = LOSSES[f"carlini_wagner_{kappa:g}"].obj
    z = torch.tensor([[3.0, 0.0, 2.0, -50.0]], dtype=torch.float64)

    def of(label: int, target: int | None = None) -> float:
        goal = None if target is None else torch.tensor([target])
        return aim(loss, torch.tensor([label]), goal)(z, torch.tensor([0])).item()

    assert of(0) == pytest.approx(-1)  # 2 - 3, not yet wrong
    assert of(2) == pytest.approx(min(1.0, kappa))
    assert of(3) == pytest.approx(kappa)
    assert of(1, 0) == pytest.approx(min(0.0, 1 - kappa))  # 1 above the next, of kappa
    assert of(0, 2) == pytest.approx(-(1 + kappa))
    assert of(1, 3) == pytest.approx(-(53 + kappa))
