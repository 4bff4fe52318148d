"""What a search returns on a random model: the best by fresh draws, not the luckiest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from redoubtable.attacks import pgd
from redoubtable.attacks.search import FRESH, RIVALS, Search
from redoubtable.losses import margin
from redoubtable.parts import Facts, Part
from redoubtable.seeding import seeded
from redoubtable.threat import Linf
from tests.networks import facts


class Level(Part):
    """Two classes; the margin of class 0 is the first value of the image, plus noise."""

    def __init__(self, noise: float = 0.0, random: bool = True) -> None:
        super().__init__()
        self.noise, self.random, self.shown = noise, random, 0

    @property
    def facts(self) -> Facts:
        return facts(stochastic=self.random)

    def forward(self, x: Tensor) -> Tensor:
        self.shown += len(x)
        level = x.flatten(1)[:, 0] + self.noise * torch.randn(len(x))
        return torch.stack([torch.zeros_like(level), level], 1)

    def undefended(self) -> nn.Module:
        return nn.Identity()


def search(model: nn.Module, n: int = 1) -> Search:
    return Search(model, torch.zeros(n, 1, 1, 2), torch.zeros(n).long(), None, margin, True)


def offer(s: Search, index: Tensor, level: Tensor, seems: Tensor) -> None:
    """Candidates of a level that draws have let seem another one."""
    images = torch.zeros(len(index), 1, 1, 2)
    images[:, 0, 0, 0] = level
    s.offer(index, images, torch.stack([torch.zeros_like(seems), seems], 1))


def levels(x: Tensor) -> list[float]:
    return [round(v, 4) for v in x[:, 0, 0, 0].tolist()]


@given(st.permutations(range(9)), st.integers(1, 9))
def test_the_images_of_largest_value_are_kept(order: list[int], count: int) -> None:
    s = search(Level(), 2)
    for seems in order[:count]:
        offer(s, torch.tensor([1]), torch.tensor([seems / 10]), torch.tensor([float(seems)]))
    kept = [(s.best, s.value), *s._rivals]
    found = sorted((v[1].item() for _, v in kept), reverse=True)
    wanted = sorted(map(float, order[:count]), reverse=True)[: 1 + RIVALS]
    assert found == wanted + [-torch.inf] * (1 + RIVALS - len(wanted))
    # Each value stands beside the image that it is of.
    for images, values in kept:
        if values[1].isfinite():
            assert images[1, 0, 0, 0].item() == pytest.approx(values[1].item() / 10)
    assert all(v[0] == -torch.inf for _, v in kept)  # nothing was offered of the other example


def test_fresh_draws_choose_among_them() -> None:
    s = search(Level(), 3)
    looks = [([0, 1], 0.2, 0.1), ([1, 2], 0.1, 0.9), ([0, 2], 0.3, 0.5), ([0], 0.9, 0.0)]
    for index, level, seems in looks:
        n = len(index)
        offer(s, torch.tensor(index), torch.full((n,), level), torch.full((n,), seems))
    # Of the levels that each was offered the largest, whatever they seemed.
    assert levels(s.strongest(1)) == [0.9, 0.2, 0.3]


def test_each_example_is_judged_by_its_own_label() -> None:
    """Of label 0 the high levels are strong, of label 1 the low ones."""
    y = torch.tensor([0, 1])
    s = Search(Level(), torch.zeros(2, 1, 1, 2), y, None, margin, True)
    for level in (0.3, 0.6, 0.1):
        offer(s, torch.arange(2), torch.full((2,), level), torch.zeros(2))
    assert levels(s.strongest(1)) == [0.6, 0.1]


def test_the_best_of_more_than_are_kept_may_be_missed_and_the_clean_image_is_none_of_them() -> None:
    s = search(Level())
    offer(s, torch.tensor([0]), torch.tensor([-0.4]), torch.tensor([5.0]))
    assert levels(s.strongest(1)) == [-0.4]
    one = torch.tensor([0])
    for number in range(1 + RIVALS):
        offer(s, one, torch.tensor([0.01 * number]), torch.tensor([6.0]))
    offer(s, one, torch.tensor([0.9]), torch.tensor([-1.0]))
    assert levels(s.strongest(1)) == [0.01 * RIVALS]


def test_it_takes_three_times_the_draws_for_each_of_them_and_nothing_without_randomness() -> None:
    model = Level()
    s = search(model, 5)
    s.strongest(2)
    assert model.shown == 5 * (1 + RIVALS) * FRESH * 2
    model = Level(random=False)
    s = search(model, 5)
    offer(s, torch.arange(5), torch.full((5,), 0.2), torch.full((5,), 0.4))
    assert levels(s.strongest(2)) == [0.2] * 5
    assert model.shown == 0


def test_a_lucky_image_is_less_often_returned() -> None:
    """One of thirty images is better by the noise of a look; how much of that is returned."""
    with seeded("luck"):
        s, n = search(Level(noise=0.2), 500), 500
        lead = torch.randint(30, (n,))
        for number in range(30):
            level = torch.where(lead == number, 0.7, 0.5)
            offer(s, torch.arange(n), level, level + 0.2 * torch.randn(n))
        luckiest = s.best[:, 0, 0, 0].mean().item()
        found = s.strongest(1)[:, 0, 0, 0].mean().item()
    assert luckiest < 0.56  # of the 0.2 between them, 0.05
    assert found > luckiest + 0.03


def test_attacks_return_what_fresh_draws_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is as good as the one before; the images kept differ in their second value."""
    asked: list[int] = []
    honest = Search.strongest

    def strongest(self: Search, eot: int) -> Tensor:
        asked.append(eot)
        return honest(self, eot)

    monkeypatch.setattr(Search, "strongest", strongest)
    x = torch.full((3, 1, 1, 2), 0.5)
    pgd(Level(noise=0.1), x, torch.zeros(3).long(), Linf(0.1), steps=3, eot=4)
    assert asked == [4]
