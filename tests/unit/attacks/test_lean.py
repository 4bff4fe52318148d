"""Lean finds what long searches find, and spends little where nothing is to be found."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from redoubtable import losses
from redoubtable.attacks import lean, pgd
from redoubtable.attacks.lean import _next_goal
from redoubtable.data import load
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation.passes import counted
from redoubtable.losses import evasion_margin
from redoubtable.models import load_model
from redoubtable.seeding import seeded
from redoubtable.threat import Linf

Digits = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Digits:
    x, y = load("digits", "test", limit=60)
    return load_model(Path(__file__).parents[3] / "zoo" / "digits-cnn").eval(), x, y


def standing(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


def test_it_finds_what_a_long_search_finds_for_less(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    net, x, y = digits
    threat = Linf(0.03)
    found, passes = [], []
    for attack, options in (
        (lean, {"steps": 10, "restarts": 6}),
        (pgd, {"steps": 50, "restarts": 4}),
    ):
        with seeded("lean"), counted(net) as cost:
            found.append(standing(net, attack(net, x, y, threat, **options), y))
        passes.append(cost.forward)
    assert 10 < found[1].sum() < 50, "neither all nor none, or nothing is compared"
    assert found[0].sum() <= found[1].sum() + 1
    assert passes[0] < passes[1] / 3


class Far(nn.Module):
    """Two classes by the mean value: dark images are class 0, bright ones class 1."""

    def forward(self, x: Tensor) -> Tensor:
        mean = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-mean, mean], 1)


def test_hopeless_examples_are_left_and_near_ones_kept() -> None:
    x = torch.linspace(0.0, 0.36, 16).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    y = torch.zeros(16, dtype=torch.long)
    sizes: list[int] = []

    class Counting(Far):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return super().forward(images)

    x_adv = lean(Counting(), x, y, Linf(0.1), steps=2, restarts=4)
    assert standing(Far(), x_adv, y).all()
    assert sizes[0] == 16
    gradients = [n for n in sizes if n < 16]
    assert gradients == sorted(gradients, reverse=True)
    assert gradients[-1] == 9  # 16, then 3/4 of 16, then 3/4 of 12
    assert (x_adv - x).abs().amax() == pytest.approx(0.1, abs=1e-6)


def test_nothing_is_left_on_request() -> None:
    x, y = torch.full((8, 1, 4, 4), 0.2), torch.zeros(8, dtype=torch.long)
    with counted(net := Far()) as cost:
        lean(net, x, y, Linf(0.1), steps=3, restarts=4, stop=False)
    assert cost.backward == 8 * 3 * 4


def test_the_next_goal_is_where_others_of_the_label_fell() -> None:
    answers = torch.tensor([[5.0, 0.2, 0.0, 0.1], [0.0, 1.0, 5.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    y = torch.tensor([0, 0, 0])
    finished = torch.tensor([False, True, False])
    goal = _next_goal(answers, y, finished, torch.zeros(3, 4))
    assert goal.tolist() == [2, 2, 2]
    # What was aimed at comes last; the true class never.
    aimed = torch.zeros(3, 4)
    aimed[:, 2] = 1
    assert _next_goal(answers, y, finished, aimed).tolist()[0] == 1
    aimed[:, 1:] = torch.tensor([2.0, 1.0, 1.0])
    assert 0 not in _next_goal(answers, y, finished, aimed)
    none = torch.zeros(3, dtype=torch.bool)
    assert _next_goal(answers, y, none, torch.zeros(3, 4)).tolist()[:2] == [1, 2]


def test_a_rejection_is_never_aimed_at() -> None:
    """The image is doubtful, so the rejection is its likeliest answer beside the true class."""
    net, asked = Rejecting(Three(), Entropy(), 0.3), []

    def watching(logits: Tensor, y: Tensor) -> Tensor:
        return evasion_margin(logits, y)

    form = losses._TARGETED[evasion_margin]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            losses._TARGETED, watching, lambda z, y, t: (asked.extend(t.tolist()), form(z, y, t))[1]
        )
        x, y = torch.full((4, 1, 4, 4), 0.4), torch.zeros(4, dtype=torch.long)
        lean(net, x, y, Linf(0.01), steps=2, restarts=4, success=watching)
    assert set(asked) == {1, 2}


class Three(nn.Module):
    """Three classes that the mean value hardly tells apart."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([1 - mean, mean, 0.5 * mean], 1)


def test_bad_counts_and_radii_are_refused() -> None:
    x, y = torch.full((2, 1, 4, 4), 0.2), torch.zeros(2, dtype=torch.long)
    for options in ({"steps": 0}, {"restarts": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            lean(Far(), x, y, Linf(0.1), **options)
    with pytest.raises(ValueError, match="inf"):
        lean(Far(), x, y, Linf(torch.inf))
