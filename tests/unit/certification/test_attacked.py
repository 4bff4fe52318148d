"""No attack of the library moves a vote within its certified radius; beyond it some do."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS
from redoubtable.certification import ABSTAIN, Ablation, certify
from redoubtable.registry import Entry
from redoubtable.threat import L0
from tests.contract.attacks_parts import run
from tests.unit.certification.enumeration import AllMasks, tiny_net

IMAGES = 150
L0_ATTACKS = [e for e in ATTACKS if L0 in e.facts["threats"]]
LAWS: dict[str, dict[str, Any]] = {
    "rate": {"rate": 0.8},
    "element": {"rate": 0.85, "granularity": "element"},
    "keep": {"keep": 1},
}
SHAPES = {"rate": (1, 2, 3), "element": (2, 1, 3), "keep": (1, 2, 3)}
"""With one channel masks by element are those by pixel."""
every_attack = pytest.mark.parametrize("entry", L0_ATTACKS, ids=lambda e: e.name)
every_law = pytest.mark.parametrize("law", list(LAWS))


class Case:
    """Images of six values, the exact vote on them, and its certificates."""

    def __init__(self, law: str, seed: int = 0, images: int = IMAGES) -> None:
        shape = SHAPES[law]
        self.ablation = ablation = Ablation(**LAWS[law])
        self.net = tiny_net(*shape, seed=seed)
        self.model: nn.Module = AllMasks(self.net, ablation, *shape)
        self.x = torch.rand(images, *shape, generator=torch.Generator().manual_seed(seed))
        chances = self.model.probabilities(self.x)  # type: ignore[operator]
        most = chances.topk(2, 1)
        self.y = most.indices[:, 0]
        # The radius of the true probabilities: no sample, so no slack for an attack to use.
        radii = [ablation.radius(a, b, shape) for a, b in most.values.tolist()]
        self.radii = torch.tensor(radii)

    def moved(self, entry: Entry[Any], eps: Tensor | float) -> Tensor:
        """(N,) whether the attack makes the exact vote another one."""
        x_adv = run(entry, self.model, self.x, self.y, L0(eps))
        changed = (x_adv != self.x).any(1).flatten(1).sum(1)
        assert bool((changed <= eps).all())
        return self.model.probabilities(x_adv).argmax(1) != self.y  # type: ignore[operator]


CASES = {law: Case(law) for law in LAWS}


@every_law
@every_attack
def test_no_attack_moves_a_vote_within_the_radius(entry: Entry[Any], law: str) -> None:
    case = CASES[law]
    assert int((case.radii >= 1).sum()) >= 10
    for pixels in range(1, int(case.radii.max()) + 1):
        within = case.radii >= pixels
        assert not bool((case.moved(entry, float(pixels)) & within).any())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(L0_ATTACKS), st.sampled_from(list(LAWS)), st.integers(1, 2**16))
def test_no_attack_moves_any_networks_vote_within_the_radius(
    entry: Entry[Any], law: str, seed: int
) -> None:
    case = Case(law, seed, images=30)
    assume(bool((case.radii >= 1).any()))
    for pixels in range(1, int(case.radii.max()) + 1):
        within = case.radii >= pixels
        assert not bool((case.moved(entry, float(pixels)) & within).any())


@every_law
def test_sampled_certificates_are_never_larger_than_the_exact_ones(law: str) -> None:
    case = CASES[law]
    sampled = certify(case.net, case.x, case.ablation, n0=50, n=1000, alpha=0.001)
    told = torch.from_numpy(sampled.classes != ABSTAIN)
    assert int(told.sum()) >= 10
    assert torch.equal(torch.from_numpy(sampled.classes)[told], case.y[told])
    assert bool((torch.from_numpy(sampled.radii) <= case.radii).all())
    assert bool((torch.from_numpy(sampled.radii) > 0).any())


@every_law
def test_beyond_the_radius_the_same_attacks_do(law: str) -> None:
    """Else the tests above would say nothing."""
    case = CASES[law]
    movers = [e.name for e in L0_ATTACKS if bool(case.moved(e, case.radii + 2).any())]
    assert len(movers) >= len(L0_ATTACKS) // 2, movers
