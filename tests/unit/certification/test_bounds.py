"""The bounds of the class and of every other one, on models whose probabilities are known."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from redoubtable.certification import ABSTAIN, Ablation, Certificate, certify, guarantee, predict
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.parts import Part
from redoubtable.seeding import seeded
from tests.networks import blobs, facts, small_net

LAW = Ablation(0.95)


class Faces(Part):
    """Answers class k with a probability given, whatever it is shown."""

    facts = facts(stochastic=True)

    def __init__(self, chances: list[float]) -> None:
        super().__init__()
        self.chances = torch.tensor(chances)

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.multinomial(self.chances, len(x), replacement=True)
        return nn.functional.one_hot(drawn, len(self.chances)).to(x) + 0 * x.flatten(1)[:, :1]

    def undefended(self) -> nn.Module:
        return small_net()


def dice(chances: list[float], images: int, runner_up: bool, alpha: float = 0.05) -> Certificate:
    """Certificates of one face, again and again."""
    x = torch.zeros(images, 1, 8, 8)
    return certify(Faces(chances), x, LAW, n0=50, n=300, alpha=alpha, runner_up=runner_up)


def counted(chances: list[float], number: int) -> Tensor:
    """The votes that bound an image's certificate, drawn again."""
    with seeded("certify bound", 0, LAW.guarantee(), number):
        LAW.sample(torch.zeros(300, 1, 8, 8))
        return torch.bincount(Faces(chances)(torch.zeros(300, 1)).argmax(1), minlength=4)


def test_each_other_class_is_bounded_at_its_part_of_alpha() -> None:
    chances, alpha = [0.4, 0.25, 0.2, 0.15], 0.05
    got = dice(chances, 8, True, alpha)
    for number, hits in enumerate(got.hits.tolist()):
        votes = sorted(counted(chances, number).tolist())
        votes.remove(hits)  # what is left are the others
        above = stats.binomtest(hits, 300, alternative="greater").proportion_ci(1 - alpha / 2)
        below = stats.binomtest(votes[-1], 300, alternative="less").proportion_ci(1 - alpha / 6)
        assert got.lower[number] == pytest.approx(above.low, abs=1e-9)
        assert got.upper[number] == pytest.approx(below.high, abs=1e-9)
        told = above.low > below.high
        assert (got.classes[number] != ABSTAIN) == told
        assert got.radii[number] == (LAW.radius(above.low, below.high, (1, 8, 8)) if told else 0)


def test_without_it_what_the_class_leaves_bounds_the_others() -> None:
    got = dice([0.7, 0.2, 0.1], 8, False)
    assert np.array_equal(got.upper, 1 - got.lower)
    above = stats.binomtest(int(got.hits[0]), 300, alternative="greater").proportion_ci(0.95)
    assert got.lower[0] == pytest.approx(above.low, abs=1e-9)


def test_it_tells_where_the_others_are_spread_and_less_than_half_agree() -> None:
    spread = [0.45, *[0.11] * 5]
    assert np.all(dice(spread, 10, False).classes == ABSTAIN)
    both = dice(spread, 10, True)
    assert np.all(both.classes == 0)
    assert np.all(both.radii >= 1)


@pytest.mark.parametrize("chances", [[0.8, 0.2], [0.8, 0.2, 0.0, 0.0]])
def test_where_one_other_has_all_other_votes_it_gains_nothing(chances: list[float]) -> None:
    one, two = dice(chances, 10, False), dice(chances, 10, True)
    assert np.all(two.lower < one.lower)
    assert np.all(two.upper <= 1 - two.lower)
    assert np.all(two.radii <= one.radii)


def test_both_bounds_hold_together_as_often_as_alpha_says() -> None:
    chances, alpha, images = [0.6, 0.25, 0.15], 0.2, 300
    got = dice(chances, images, True, alpha)
    right = got.hits > 130  # the first vote chose class 0; for others the bounds are of others
    wrong = (got.lower > 0.6) | (got.upper < 0.25)
    failures, cases = int((wrong & right).sum()), int(right.sum())
    assert cases > 290
    assert stats.binomtest(failures, cases, alpha, alternative="greater").pvalue > 0.01
    # The second largest is one of two classes, so about 3/4 of alpha is used.
    assert failures > 0.4 * alpha * cases


def test_one_class_alone_is_certain() -> None:
    got = dice([1.0], 2, True)
    assert got.classes.tolist() == [0, 0]


def test_a_processor_sees_few_copies_at_a_time_and_every_one_counts() -> None:
    seen: list[int] = []
    net = small_net()
    net.register_forward_hook(lambda module, arguments, out: seen.append(len(out)))
    got = certify(net, blobs(1), LAW, n0=70, n=150, alpha=0.05, batch_size=140)
    assert seen == [64, 6, 64, 64, 12, 10]
    with seeded("certify bound", 0, LAW.guarantee(), 0), torch.no_grad():
        copies = [LAW.sample(blobs(1).expand(n, -1, -1, -1)) for n in (140, 10)]
        votes = torch.bincount(net(torch.cat(copies)).argmax(1), minlength=4)
    assert got.hits[0] in votes.tolist() and got.hits[0] == votes.max()


def test_a_rejection_is_no_vote() -> None:
    net, x = small_net(), blobs(6)
    guard = Rejecting(net, Entropy(), 0.6)
    with torch.no_grad():
        rejected = (guard(LAW.sample(x)).argmax(1) == 4).float().mean().item()
    assert rejected > 0.1
    plain = certify(net, x, LAW, n0=20, n=300, alpha=0.05)
    guarded = certify(guard, x, LAW, n0=20, n=300, alpha=0.05)
    assert np.array_equal(plain.hits, guarded.hits)
    assert np.array_equal(plain.classes, guarded.classes)
    settings = {"n": 300, "alpha": 0.05}
    assert np.array_equal(predict(net, x, LAW, **settings), predict(guard, x, LAW, **settings))  # type: ignore[arg-type]
    assert guarantee(net, LAW) == LAW.guarantee()
    assert guarantee(guard, LAW).endswith("not another class, but perhaps rejected")
