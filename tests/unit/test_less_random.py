"""Randomness that has a size can be turned down for gradients, and only for those."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import l0_pgd, pgd
from redoubtable.attacks.search import FRESH, RIVALS
from redoubtable.defenses import GaussianNoise, Subsample, Vote
from redoubtable.files import digest_model
from redoubtable.gradients import fast_copy
from redoubtable.parts import facts_of, less_random
from redoubtable.threat import L0, Linf
from tests.networks import RandomScale, small_net

IMAGES = torch.zeros(20, 3, 16, 16)


def dropped(part: nn.Module) -> float:
    return float((part(IMAGES) == 0.5).float().mean())


def test_a_lower_share_drops_less_and_is_gone_after_the_block() -> None:
    part = Subsample(0.9)
    before = digest_model(part)
    with less_random(part, 0.5):
        assert dropped(part) == pytest.approx(0.45, abs=0.02)
        with less_random(part, 0.5):
            assert dropped(part) == pytest.approx(0.225, abs=0.02)
        assert dropped(part) == pytest.approx(0.45, abs=0.02)
    assert dropped(part) == pytest.approx(0.9, abs=0.02)
    assert digest_model(part) == before


def test_an_error_in_the_block_leaves_the_model_as_it_was() -> None:
    part = Subsample(0.9)
    with pytest.raises(KeyError), less_random(part, 0.5):
        raise KeyError
    assert part.randomness == 1


def test_exactly_as_many_fewer_are_dropped() -> None:
    part = Subsample(keep=68)  # 700 of 768 are dropped
    with less_random(part, 0.5):
        assert (part(IMAGES) != 0.5).flatten(1).sum(1).tolist() == [418] * 20
    with less_random(part, 0.999):
        assert facts_of(part).stochastic and (part(IMAGES) != 0.5).sum() == 68 * 20


@pytest.mark.parametrize("part", [Subsample(1.0), Subsample(keep=0), Subsample(0.0)])
def test_what_is_not_random_stays_as_it_is(part: Subsample) -> None:
    before = part(IMAGES)
    with less_random(part, 0.5):
        assert torch.equal(part(IMAGES), before)
    assert not facts_of(part).adjustable


def test_masks_per_pixel_and_inner_parts_heed_it() -> None:
    part = Subsample(0.8, "pixel")
    with less_random(Vote(nn.Sequential(part, small_net())), 0.5):
        assert dropped(part) == pytest.approx(0.4, abs=0.03)
        assert bool(((part(IMAGES) == 0.5).sum(1) % 3 == 0).all())


def test_noise_has_a_size_too() -> None:
    noise = GaussianNoise(0.4)
    with less_random(noise, 0.25):
        assert float(noise(IMAGES).std()) == pytest.approx(0.1, rel=0.05)
    assert float(noise(IMAGES).std()) == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with (
        pytest.raises(ValueError, match=r"must lie in \(0, 1\]"),
        less_random(Subsample(0.9), share),
    ):
        pass


def test_randomness_without_a_size_is_named() -> None:
    model = RandomScale(small_net())
    with pytest.raises(ValueError, match="RandomScale has no size"), less_random(model, 0.5):
        pass
    with less_random(model, 1.0), less_random(small_net(), 0.5):
        pass  # nothing is asked for, and nothing is random


class Spied(Subsample):
    """Remembers under which share each pass ran, and whether it was for a gradient."""

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self.seen: list[Any] = []

    def transform(self, x: Tensor) -> Tensor:
        self.seen.append((self.randomness, torch.is_grad_enabled(), len(x)))
        return super().transform(x)


@pytest.mark.parametrize("attack, threat", [(pgd, Linf(0.1)), (l0_pgd, L0(3)), (pgd, L0(3))])
def test_climbing_is_less_random_and_the_true_model_chooses(attack: Any, threat: Any) -> None:
    spy = Spied(0.5)
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4).long()
    model = nn.Sequential(spy, nn.Flatten(), nn.Linear(64, 3)).eval()
    copy = fast_copy(model, x)
    (inner,) = [m for m in copy.modules() if isinstance(m, Spied)]
    for searched, seen in ((model, spy.seen), (copy, inner.seen)):
        seen.clear()
        attack(searched, x, y, threat, steps=5, eot=2, randomness=0.7)
        looks = (RIVALS + 1) * FRESH * 2 * len(x)
        counts = {share: sum(n for s, _, n in seen if s == share) for share in (0.7, 1.0)}
        assert counts == {0.7: (5 + 1) * 2 * len(x), 1.0: looks}
        assert {share for share, slope, _ in seen if slope} == {0.7}


def test_attacks_take_all_of_the_randomness_unless_told() -> None:
    model = nn.Sequential(Subsample(0.5), nn.Flatten(), nn.Linear(64, 3)).eval()
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4).long()

    def found(**options: Any) -> Tensor:
        torch.manual_seed(0)
        return pgd(model, x, y, Linf(0.1), steps=5, **options)

    assert torch.equal(found(), found(randomness=1.0))
    assert not torch.equal(found(), found(randomness=0.5))
