"""Square attack and HopSkipJump: what they propose, what they see, and what luck does to them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import (
    ATTACKS,
    corner_search,
    hop_skip_jump,
    l0_pgd,
    one_pixel,
    pgd0,
    sparse_rs,
    square,
)
from redoubtable.attacks.random_search import other_signs, random_search
from redoubtable.attacks.search import FRESH, RIVALS, Search
from redoubtable.attacks.square import _side
from redoubtable.attacks.square_windows import _move_mass, _recolour, _shape
from redoubtable.losses import margin
from redoubtable.parts import Facts, Part
from redoubtable.registry import Entry, settable
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L2, Linf, ThreatModel
from tests.contract.attacks_parts import EPS
from tests.networks import RandomScale, blobs, facts, small_net
from tests.unit.attacks.linear_parts import answers, distances, linear

BLIND = [e for e in ATTACKS if e.facts["access"] in ("score", "label")]


class NoGradients(nn.Module):
    """A network that refuses to be differentiated, and to look beyond the box."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.net, self.low, self.high = small_net(), low, high

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled(), "an attack without gradients recorded some"
        assert self.low <= x.min()
        assert x.max() <= self.high
        return self.net(x)


@pytest.mark.parametrize("entry", BLIND, ids=lambda e: e.name)
def test_no_gradient_is_asked_for_and_nothing_beyond_the_box(entry: Entry[Any]) -> None:
    cheap = {"steps": 3, "queries": 80, "population": 10, "draws": 10}
    given = {k: v for k, v in cheap.items() if k in settable(entry.obj)}
    kind = entry.facts["threats"][0]
    # Differences of values around an image go beyond it.
    model = NoGradients(-1, 2) if entry.name in ("nes", "spsa", "zoo") else NoGradients()
    entry.obj(model, blobs(2), torch.tensor([0, 1]), kind(EPS[kind]), **given)


class Decision(nn.Module):
    """The same answers, and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits)


@pytest.mark.parametrize("entry", [e for e in BLIND if e.facts["access"] == "label"])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_label_attack_sees_labels_only(entry: Entry[Any], targeted: bool) -> None:
    net, x = small_net(), blobs(6)
    y = answers(net, x)
    targets = (y + 1) % 4 if targeted else None
    found = []
    for model in (net, Decision(net)):
        with seeded("labels"):
            found.append(entry.obj(model, x, y, L2(torch.inf), targets=targets, queries=300))
    assert torch.equal(*found)
    assert not torch.equal(found[0], x)


BUDGETS: dict[str, tuple[ThreatModel, dict[str, Any]]] = {
    "square": (Linf(0.5), {"queries": 300}),
    "sparse_rs": (L0(16), {"queries": 300}),
    "hop_skip_jump": (L2(torch.inf), {"queries": 300}),
    "one_pixel": (L0(8), {"steps": 20, "population": 40}),
    "corner_search": (L0(16), {"steps": 4, "draws": 100, "population": 20}),
    "l0_pgd": (L0(16), {}),
    "pgd0": (L0(8), {"restarts": 1}),
}


@pytest.mark.parametrize("name", list(BUDGETS))
def test_a_target_is_reached_that_is_not_the_next_class(name: str) -> None:
    """Of five classes the one that was third: going away from the true one ends elsewhere."""
    model, x, y = linear(5)
    with torch.no_grad():
        targets = model(x).argsort(1, descending=True)[:, 2]
    threat, given = BUDGETS[name]
    reached = []
    for goal in (targets, None):
        with seeded("target"):
            found = ATTACKS[name].obj(model, x, y, threat, targets=goal, **given)
        reached.append((answers(model, found) == targets).double().mean().item())
    assert reached[0] >= 0.9
    assert reached[1] <= 0.6


# -- Square attack ---------------------------------------------------------------------------------


def test_square_starts_with_stripes() -> None:
    x = 0.3 + 0.4 * torch.rand(3, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    delta = square(small_net(), x, torch.tensor([0, 1, 2]), Linf(0.1), queries=1) - x
    assert torch.allclose(delta.abs(), torch.full_like(x, 0.1))
    signs = delta.sign()
    assert torch.equal(signs, signs[:, :, :1].expand_as(signs))
    assert signs[:, :, 0].unique().tolist() == [-1, 1]


def test_square_windows_get_smaller_as_published() -> None:
    """Sides are sqrt(p h w); p starts at 0.8 and is halved at nine places of 10,000 queries."""
    x = torch.zeros(1, 3, 32, 32)
    after = [0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    sides = [29, 29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert [_side(0.8, q / 10_000, 1, x) for q in after] == sides
    assert [_side(0.8, q / 500, 1, x) for q in (0, 60, 450)] == [29, 5, 1]
    assert [_side(0.8, q / 10_000, 3, x) for q in after] == [29, 29, 21, 15, 11, 7, 5, 5, 3, 3, 3]
    assert _side(0.8, 0.0, 3, torch.zeros(1, 1, 2, 9)) == 2


def test_a_proposal_sets_one_window_to_another_corner_of_the_ball() -> None:
    x = blobs(40)
    threat = Linf(0.1)
    corner = (x + 0.1 * torch.sign(torch.rand_like(x) - 0.5)).clamp(0, 1)
    for side in (1, 3):
        new = _recolour(corner, x, threat, side)
        changed = (new != corner).any(1)
        assert changed.flatten(1).any(1).all()
        rows, columns = changed.any(2), changed.any(1)
        for lines in (rows, columns):
            span = [row.nonzero().squeeze(1) for row in lines]
            assert max((s.max() - s.min() + 1).item() for s in span) <= side
        at_the_edge = ((new - x).abs() - 0.1).abs() < 1e-6
        assert (at_the_edge | (new == 0) | (new == 1)).all()
        assert torch.equal(new, Linf(0.1 + 1e-6).project(new, x))


def test_the_windows_of_two_images_differ_and_reach_every_place() -> None:
    x = torch.full((300, 1, 4, 5), 0.5)
    new = _recolour(x - 0.1, x, Linf(0.1), 2)
    hit = (new != x - 0.1).squeeze(1)
    assert hit.any(0).all()
    assert len({tuple(h.flatten().tolist()) for h in hit}) == 12


def test_the_shape_under_l2_is_that_of_equation_2() -> None:
    upper = torch.tensor([[0.25, 1.25, 0.25]])
    lower = torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    expected = torch.cat([upper / upper.norm(), -lower / lower.norm()])
    assert torch.allclose(_shape(3, upper), expected / expected.norm())
    # Five rows: the rectangles 1, 3 and 5 wide, of weights 1, 1/4 and 1/9.
    middle = _shape(5, upper)[1]
    ratio = torch.tensor([1 / 9, 1 / 4 + 1 / 9, 1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9])
    assert torch.allclose(middle / middle.sum(), ratio / ratio.sum())


def test_mass_moves_between_two_windows_and_the_rest_keeps_its_ratios() -> None:
    torch.manual_seed(1)
    x = torch.full((50, 2, 12, 12), 0.5, dtype=torch.float64)
    kept = x + 0.02 * torch.randn_like(x)
    far = L2(1.0).distance(x, kept)
    new = _move_mass(kept, x, L2(far), 3)
    assert torch.allclose(L2(1.0).distance(x, new), far)
    ratio = (new - x) / (kept - x)
    same = (ratio - ratio.flatten(1).median(1).values.view(-1, 1, 1, 1)).abs() < 1e-9
    outside = (~same).any(1).flatten(1).sum(1)
    assert (outside <= 18).all()
    assert (outside >= 9).all()
    emptied = (new == x).all(1).flatten(1).sum(1)
    assert ((emptied > 0) & (emptied <= 9)).float().mean() > 0.9


def test_square_uses_the_whole_ball_under_l2() -> None:
    x = torch.full((4, 3, 10, 10), 0.5)
    y = answers(small_net(), x)
    found = square(small_net(), x, y, L2(0.7), queries=40, stop=False)
    assert torch.allclose(L2(1.0).distance(x, found), torch.full((4,), 0.7))


def test_signs_that_are_refused_are_turned() -> None:
    signs = torch.ones(1000, 3, 1, 1)
    refused = torch.arange(1000).view(-1, 1, 1, 1) < 800
    turned = other_signs(signs, refused)
    assert (turned[:800] < 0).any(1).all()
    assert torch.equal(turned[800:], signs[800:])
    assert len({tuple(t.flatten().tolist()) for t in turned[:800]}) == 7


# -- random models ---------------------------------------------------------------------------------


def test_square_with_eot_beats_square_without_on_a_random_model() -> None:
    """On equal numbers of queries, judged by the mean answer of the model, which is known."""
    model, x, y = linear(2)
    coin = RandomScale(model, spread=4.0)

    def reached(eot: int) -> float:
        total = 0.0
        for seed in range(3):
            with seeded("eot", seed):
                found = square(coin, x, y, Linf(0.03), queries=100, eot=eot)
            with torch.no_grad():
                total += margin(model(found), y).mean().item()
        return total / 3

    with torch.no_grad():
        clean = margin(model(x), y).mean().item()
    one, many = reached(1), reached(30)
    assert many > one
    assert many - clean > 1.3 * (one - clean)


class Beginners(Part):
    """Class 1 by the mean value; the first few passes see a success whatever is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    @property
    def facts(self) -> Facts:
        return facts(stochastic=True)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        value = x.flatten(1).mean(1) + (100.0 if self.passes <= 5 else 0.0)
        return torch.stack([torch.full_like(value, 0.5), value], 1)

    def undefended(self) -> nn.Module:
        return nn.Identity()


def test_a_lucky_draw_does_not_stay_for_ever() -> None:
    x, y = torch.full((2, 1, 2, 2), 0.2), torch.tensor([0, 0])
    search = Search(Beginners(), x, y, None, margin, True)
    steps = []

    def propose(query: int, index: Tensor, kept: Tensor) -> Tensor:
        steps.append(len(index))
        return torch.full_like(kept, 0.3 if query < 6 else 0.4)

    random_search(search, x, propose, 25, 1)
    assert torch.equal(search.best, torch.full_like(x, 0.4))
    assert steps == [2] * 22, "on a random model nobody leaves; two queries look again"


# -- HopSkipJump -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "limit"), [(L2, 1.06), (Linf, 1.35)], ids=["L2", "Linf"])
def test_it_comes_close_to_the_nearest_point_of_a_hyperplane(
    kind: type[ThreatModel], limit: float
) -> None:
    model, x, y = linear(2)
    expected = distances(model, x, y, kind).amin(1)
    for targets in (None, 1 - y):
        with seeded("hyperplane"):
            found = hop_skip_jump(model, x, y, kind(torch.inf), targets=targets, queries=2500)
        assert (answers(model, found) != y).all()
        ratio = kind(1.0).distance(x, found) / expected
        assert ratio.median() < limit
        assert (ratio >= 1 - 1e-9).all()


def test_it_follows_the_boundary_of_its_target() -> None:
    """Of five classes; the half-space of the target against the true class is a lower bound."""
    model, x, y = linear(5)
    with torch.no_grad():
        targets = model(x).argsort(1, descending=True)[:, 2]
    bound = distances(model, x, y, L2).gather(1, targets[:, None]).squeeze(1)
    with seeded("target"):
        found = hop_skip_jump(model, x, y, L2(torch.inf), targets=targets, queries=1000)
    assert torch.equal(answers(model, found), targets)
    ratio = L2(1.0).distance(x, found) / bound
    assert ratio.min() >= 1
    assert ratio.max() < 1.8


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


@pytest.mark.parametrize("queries", [1, 30, 300])
def test_the_budget_of_queries_is_kept(queries: int) -> None:
    x = blobs(4)
    y = answers(small_net(), x)
    for attack, threat in ((hop_skip_jump, L2(torch.inf)), (square, Linf(0.001))):
        counter = Counting(small_net())
        attack(counter, x, y, threat, queries=queries)  # type: ignore[operator]
        assert counter.images <= 4 * queries
        assert queries == 30 or counter.images >= 0.7 * 4 * queries


@pytest.mark.parametrize(
    "attack", [square, sparse_rs, hop_skip_jump, one_pixel, corner_search, l0_pgd, pgd0]
)
def test_every_answer_is_a_mean_over_the_draws(attack: Any) -> None:
    """Three draws cost three times as many passes as one; so many queries, and the fresh looks."""
    x = blobs(3, 1, 3, 4)
    y = answers(small_net(1), x)
    cheap = {"steps": 2, "queries": 45, "population": 6, "draws": 8}
    given = {k: v for k, v in cheap.items() if k in ATTACKS[attack.__name__].obj.__kwdefaults__}
    threat = Linf(0.001) if attack in (square, hop_skip_jump) else L0(2)
    passes = []
    for eot in (1, 3):
        counter = Counting(small_net(1))
        attack(RandomScale(counter, spread=0.0), x, y, threat, eot=eot, **given)
        passes.append(counter.images)
    assert passes[1] == 3 * passes[0]
    if "queries" in given and attack is not hop_skip_jump:
        in_the_end = (1 + RIVALS) * FRESH  # looks at the kept images of a random model
        assert passes[0] == 3 * (45 + in_the_end)


class Prototypes(nn.Module):
    """The class of the nearest of three images; noise is nearest to the grey one."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([0.5, 0.0, 1.0])
        return -(x.flatten(1)[:, None] - levels[:, None]).square().mean(2)


def test_a_target_that_noise_never_is_starts_from_an_image_of_the_batch() -> None:
    x = torch.stack([torch.full((1, 5, 5), v) for v in (0.5, 0.0, 1.0, 0.45)])
    y = answers(Prototypes(), x)
    assert y.tolist() == [0, 1, 2, 0]
    targets = torch.tensor([1, 2, 1, 2])
    threat = L2(torch.inf)
    found = hop_skip_jump(Prototypes(), x, y, threat, targets=targets, queries=400)
    assert torch.equal(answers(Prototypes(), found), targets)
    # Between 0.5 and 0 the boundary is at 0.25, five pixels squared: at the distance 1.25.
    assert 1.25 <= threat.distance(x, found)[0] < 1.27
    alone = hop_skip_jump(Prototypes(), x[:1], y[:1], L2(0.5), targets=targets[:1], queries=200)
    assert answers(Prototypes(), alone).tolist() == [0]
    assert L2(0.5).contains(alone, x[:1]).all()
