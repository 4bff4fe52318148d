"""Attacks against linear models, where the distance to the boundary is known in closed form.

The weights are random and of very different sizes, so that a step in the wrong norm falls short.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from redoubtable.attacks import ATTACKS
from redoubtable.gradients import fast_copy
from redoubtable.losses import LOSSES
from redoubtable.registry import Entry, settable
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L1, L2, Linf, ThreatModel
from tests.contract.attacks_parts import REDUCED
from tests.networks import LinearModel, RandomScale

SHAPE = (3, 4, 5)
DUAL: dict[type[ThreatModel], Callable[[Tensor], Tensor]] = {
    Linf: lambda w: w.abs().sum(),
    L2: lambda w: (w**2).sum().sqrt(),
    L1: lambda w: w.abs().max(),
}
"""What a unit ball gains at most on a linear function, by norm."""
RANGE = {Linf: (0.005, 0.02), L2: (0.05, 0.15), L1: (0.08, 0.25)}
"""Distances that keep the nearest point of the boundary well inside the box."""

REACH: dict[tuple[str, type[ThreatModel]], float] = {
    ("carlini_wagner", Linf): 1.5,  # its limit falls by tenths, its steps are half of the distance
    ("hop_skip_jump", L2): 1.15,  # a fifth of the queries
    ("hop_skip_jump", Linf): 1.5,
    ("nes", L2): 2.5,  # estimates of twenty draws, 38 times
    ("nes", Linf): 2.5,
    ("noise", L1): 40.0,  # the best of a hundred, far from the best there is
    ("noise", L2): 8.0,
    ("noise", Linf): 8.0,
    ("spsa", L2): 2.0,  # like nes
    ("spsa", Linf): 2.0,
    ("zoo", L2): 1.2,  # forty steps of half of the values
    ("square", L2): 2.2,  # its windows have a smooth shape, which random weights have not
}
"""At how many times the true distance an attack must succeed; 1.05 where nothing is said."""


def reach(entry: Entry[Any], kind: type[ThreatModel]) -> float:
    return REACH.get((entry.name, kind), 1.05)


def oracle(kind: type[ThreatModel], n: int = 16, seed: int = 0) -> tuple[LinearModel, Any]:
    """A two-class linear model, images at known distances of its boundary, both classes."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(SHAPE, generator=g) * torch.randn(SHAPE, generator=g).mul(1.2).exp()
    common = torch.randn(SHAPE, generator=g)  # moves both logits alike
    low, high = RANGE[kind]
    distance = low + (high - low) * torch.rand(n, generator=g)
    side = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    noise = 0.1 * (torch.rand(n, *SHAPE, generator=g) - 0.5)
    along = (noise * w).flatten(1).sum(1) / (w**2).sum()
    wanted = side * distance * DUAL[kind](w) / (w**2).sum()
    x = 0.5 + noise + (wanted - along).view(-1, 1, 1, 1) * w
    assert x.min() > 0.15
    assert x.max() < 0.85
    # Logits: class 1 where w (x - 0.5) is positive.
    weight = torch.stack([common, common + w])
    model = LinearModel(weight, torch.stack([torch.tensor(0.0), -0.5 * w.sum()]))
    y = (side > 0).long()
    with torch.no_grad():
        out = model.double()(x.double())
    margin = (out[:, 1] - out[:, 0]).abs()
    assert torch.equal(out.argmax(1), y)
    assert torch.allclose(margin / DUAL[kind](w.double()), distance.double(), rtol=1e-3)
    return model.double(), (x.double(), y, distance.double())


def attack(entry: Entry[Any], *arguments: Any, seed: int = 0, **named: Any) -> Tensor:
    given = {k: v for k, v in named.items() if k != "loss" or k in settable(entry.obj)}
    if "surrogates" in settable(entry.obj):
        given["surrogates"] = arguments[:1]
    with seeded("oracle", seed):
        return entry.obj(*arguments, **(REDUCED.get(entry.name, {}) | given))


def answers(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


CASES = [
    pytest.param(entry, kind, id=f"{entry.name}-{kind.name}")
    for entry in ATTACKS
    for kind in entry.facts["threats"]
    if kind in DUAL
]
ADAM = {"carlini_wagner", "zoo"}
"""Attacks whose step size is Adam's: no length, and too long for distances of thousandths."""
STEPPING = [
    c
    for c in CASES
    if {"steps", "step_size"} <= settable(c.values[0].obj).keys()  # type: ignore[attr-defined]
    and c.values[0].name not in ADAM  # type: ignore[attr-defined]
]
targeted_too = pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])


@pytest.mark.parametrize(("entry", "kind"), CASES)
@targeted_too
def test_succeeds_just_outside_the_distance_and_fails_just_inside(
    entry: Entry[Any], kind: type[ThreatModel], targeted: bool
) -> None:
    model, (x, y, distance) = oracle(kind)
    targets = 1 - y if targeted else None
    near = attack(entry, model, x, y, kind(0.95 * distance), targets=targets)
    assert torch.equal(answers(model, near), y), "succeeded where no attack can"
    far = attack(entry, model, x, y, kind(reach(entry, kind) * distance), targets=targets)
    assert torch.equal(answers(model, far), 1 - y), "failed where success is certain"


@pytest.mark.parametrize(("entry", "kind"), CASES)
def test_one_radius_for_all_images(entry: Entry[Any], kind: type[ThreatModel]) -> None:
    model, (x, y, distance) = oracle(kind)
    eps = distance.median().item()
    broken = answers(model, attack(entry, model, x, y, kind(eps))) != y
    assert broken[eps > reach(entry, kind) * distance].all()
    assert not broken[eps < 0.95 * distance].any()


FULL_STEP = {Linf: 2.0, L2: 200.0, L1: 2.0}
"""Step sizes in radii that lead from any point of the ball to its best one in one step.

Under L2 the start fades against a long step; under L1 a longer one would fill a second coordinate.
"""


@pytest.mark.parametrize(("entry", "kind"), STEPPING)
@targeted_too
def test_a_single_step_counts(entry: Entry[Any], kind: type[ThreatModel], targeted: bool) -> None:
    model, (x, y, distance) = oracle(kind)
    targets = 1 - y if targeted else None
    for i in range(len(x)):
        ball = kind(1.05 * distance[i].item())
        goal = targets[i : i + 1] if targets is not None else None
        length = FULL_STEP[kind] * float(ball.eps)
        far = attack(
            entry, model, x[i : i + 1], y[i : i + 1], ball, targets=goal, steps=1, step_size=length
        )
        assert answers(model, far) != y[i]


@pytest.mark.parametrize("kind", list(DUAL), ids=lambda k: k.name)
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr", "carlini_wagner"])
@targeted_too
def test_every_loss_leads_across_the_boundary(
    kind: type[ThreatModel], loss: str, targeted: bool
) -> None:
    """Two classes compete; two more with constant logits stand far below, for the ratio's sake."""
    two, (x, y, distance) = oracle(kind)
    flat = torch.zeros(2, *SHAPE, dtype=torch.float64)
    level = answers_level(two, x)
    model = LinearModel(
        torch.cat([two.weight.data, flat]),
        torch.cat([two.bias.data, torch.tensor([level - 9.0, level - 10.0])]),
    )
    targets = 1 - y if targeted else None
    pgd, objective = ATTACKS["pgd"], LOSSES[loss].obj
    near = attack(pgd, model, x, y, kind(0.95 * distance), targets=targets, loss=objective)
    assert torch.equal(answers(model, near), y)
    far = attack(pgd, model, x, y, kind(1.05 * distance), targets=targets, loss=objective)
    assert torch.equal(answers(model, far), 1 - y)


def answers_level(model: torch.nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return model(x).min().item()


@pytest.mark.parametrize(("entry", "kind"), CASES)
def test_the_nearest_of_several_boundaries(entry: Entry[Any], kind: type[ThreatModel]) -> None:
    """Five classes: no attack gets across before the closest boundary.

    Behind it all do, where it is also the runner-up's and no other is near: the margin of several
    classes has local maxima.
    """
    g = torch.Generator().manual_seed(3)
    weight = torch.randn(5, *SHAPE, generator=g, dtype=torch.float64)
    weight = weight * torch.randn(5, *SHAPE, generator=g, dtype=torch.float64).exp()
    model = LinearModel(weight, -0.5 * weight.flatten(1).sum(1))
    x = 0.5 + 0.02 * torch.randn(200, *SHAPE, generator=g, dtype=torch.float64).clamp(-2, 2)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = torch.stack(
        [torch.stack([DUAL[kind](weight[j] - weight[i]) for j in range(5)]) for i in range(5)]
    )
    distance = (gaps / slopes[y]).masked_fill(gaps == 0, math.inf)
    nearest, runner_up = distance.argmin(1), logits.topk(2).indices[:, 1]
    inside = distance.amin(1) < RANGE[kind][1]
    x, y, distance = x[inside], y[inside], distance[inside]
    loss = LOSSES["margin"].obj
    near = attack(entry, model, x, y, kind(0.95 * distance.amin(1)), loss=loss)
    assert torch.equal(answers(model, near), y)
    second = distance.kthvalue(2, dim=1).values
    alone = (nearest == runner_up)[inside] & (second > 2 * distance.amin(1))
    assert alone.sum() >= 10
    ball = kind(reach(entry, kind) * distance[alone].amin(1))
    far = attack(entry, model, x[alone], y[alone], ball, loss=loss)
    lost = {*ADAM, "hop_skip_jump"}  # it follows the boundary that it met first
    assert (answers(model, far) != y[alone]).all() or entry.name in lost


@pytest.mark.parametrize(("entry", "kind"), CASES)
def test_targets_further_than_another_class_are_not_reached_too_early(
    entry: Entry[Any], kind: type[ThreatModel]
) -> None:
    """An image is taken for its target only behind every boundary between the two."""
    g = torch.Generator().manual_seed(4)
    weight = torch.randn(5, *SHAPE, generator=g, dtype=torch.float64)
    model = LinearModel(weight, -0.5 * weight.flatten(1).sum(1))
    x = 0.5 + 0.02 * torch.randn(12, *SHAPE, generator=g, dtype=torch.float64).clamp(-2, 2)
    with torch.no_grad():
        logits = model(x)
    order = logits.argsort(1, descending=True)
    y, targets = order[:, 0], order[:, 2]
    bounds = torch.stack(
        [
            torch.stack(
                [
                    (logits[n, j] - logits[n, t])
                    / DUAL[kind](weight[t] - weight[j]).clamp_min(1e-9)
                    for j in range(5)
                    if j != t
                ]
            ).max()
            for n, t in enumerate(targets)
        ]
    )
    near = attack(entry, model, x, y, kind(0.95 * bounds), targets=targets)
    assert (answers(model, near) != targets).all()
    if "steps" in settable(entry.obj):
        loss = {"loss": LOSSES["margin"].obj}
        far = attack(entry, model, x, y, kind(4 * bounds), targets=targets, steps=100, **loss)
        assert (answers(model, far) == targets).float().mean() >= 0.9


@pytest.mark.parametrize("kind", list(DUAL), ids=lambda k: k.name)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_fast_copy_finds_is_confirmed(kind: type[ThreatModel], precision: Any) -> None:
    """Close to the boundary a copy in low precision is often wrong; its claims must not count."""
    model, (x, y, distance) = oracle(kind)
    model, x, distance = model.float(), x.float(), distance.float()
    quick = fast_copy(model, x, precision)
    pgd = ATTACKS["pgd"]
    near = attack(pgd, quick, x, y, kind(0.95 * distance))
    assert torch.equal(answers(model, near), y)
    far = attack(pgd, quick, x, y, kind(1.1 * distance), steps=100)
    assert (answers(model, far) != y).float().mean() >= 0.9


MOMENTUM = [c for c in STEPPING if "momentum" in settable(c.values[0].obj)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("entry", "kind"), MOMENTUM)
def test_momentum_changes_nothing_where_the_gradient_is_constant(
    entry: Entry[Any], kind: type[ThreatModel]
) -> None:
    model, (x, y, distance) = oracle(kind)
    near = attack(entry, model, x, y, kind(0.95 * distance), momentum=0.9)
    assert torch.equal(answers(model, near), y)
    far = attack(entry, model, x, y, kind(1.05 * distance), momentum=0.9)
    assert torch.equal(answers(model, far), 1 - y)
    plain = attack(entry, model, x, y, kind(1.05 * distance))
    assert torch.allclose(far, plain, atol=1e-6)


@pytest.mark.parametrize("kind", list(DUAL), ids=lambda k: k.name)
def test_momentum_averages_over_the_draws_of_earlier_steps(kind: type[ThreatModel]) -> None:
    """A single draw's gradient points the wrong way almost half of the time, a sum less often.

    BIM returns its last iterate; PGD would pick one by its own noisy look at it.
    """
    entry = ATTACKS["bim"]
    model, (x, y, distance) = oracle(kind)
    coin = RandomScale(model, spread=8.0)
    margin = LOSSES["margin"].obj

    def reached(momentum: float) -> float:
        found = [
            attack(
                entry, coin, x, y, kind(distance), seed=s, loss=margin, steps=30, momentum=momentum
            )
            for s in range(5)
        ]
        with torch.no_grad():
            return sum(margin(model(f), y).mean().item() for f in found)

    assert reached(0.95) > reached(0.0)


# -- L0: pixels, counted ---------------------------------------------------------------------------


def pixel_gains(w: Tensor, x: Tensor) -> list[float]:
    """What each pixel gains at most on `w x`, its channels going to 0 or 1; descending."""
    gains = []
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            total = 0.0
            for c in range(x.shape[0]):
                slope, value = w[c, row, column].item(), x[c, row, column].item()
                total += max(slope * (1 - value), slope * (0 - value))
            gains.append(total)
    return sorted(gains, reverse=True)


def pixel_oracle(seed: int, n: int = 10) -> tuple[LinearModel, Tensor, Tensor, list[int]]:
    """A two-class linear model and images that need known numbers of pixels, 2 to 9."""
    g = torch.Generator().manual_seed(seed)
    double = {"generator": g, "dtype": torch.float64}
    w = torch.randn(SHAPE, **double) * torch.randn(SHAPE, **double).exp()
    model = LinearModel(torch.stack([-w / 2, w / 2]), torch.tensor([0.0, -0.5 * w.sum()]).double())
    kept, labels, needed = [], [], []
    while len(kept) < n:
        noise = 0.3 * (torch.rand(SHAPE, **double) - 0.5)
        side = torch.sign(torch.randn((), **double)) * torch.sign(w)
        x = 0.5 + noise + 0.3 * torch.rand((), **double) * side
        margin = (w * (x - 0.5)).sum().item()
        y = int(margin > 0)
        gains = pixel_gains(w if y == 0 else -w, x)
        count = next(k for k in range(1, len(gains)) if sum(gains[:k]) > abs(margin))
        # Far enough from both sides that rounding can't decide.
        clear = sum(gains[:count]) > 1.01 * abs(margin) > 1.02 * sum(gains[: count - 1])
        if clear and 2 <= count <= 9:
            kept.append(x)
            labels.append(y)
            needed.append(count)
    return model, torch.stack(kept), torch.tensor(labels), needed


ONE_WAY = {"jsma", "noise"}  # raises values only, by its nature; does not look where it goes
PIXEL_ATTACKS = [e for e in ATTACKS if L0 in e.facts["threats"] and e.name not in ONE_WAY]

MORE_PIXELS = {"one_pixel": 6, "pgd0": 1, "sparse_rs": 1}
"""How many pixels more than the fewest an attack may need: a search at random is not exact."""


@pytest.mark.parametrize("entry", PIXEL_ATTACKS, ids=lambda e: e.name)
@pytest.mark.parametrize("seed", range(4))
@targeted_too
def test_finds_the_fewest_pixels(entry: Entry[Any], seed: int, targeted: bool) -> None:
    model, x, y, needed = pixel_oracle(seed)
    assert len(set(y.tolist())) == 2
    targets = 1 - y if targeted else None
    counts = torch.tensor(needed, dtype=torch.float64)
    near = attack(entry, model, x, y, L0(counts - 1), targets=targets)
    assert torch.equal(answers(model, near), y), "succeeded with too few pixels"
    enough = counts + MORE_PIXELS.get(entry.name, 0)
    far = attack(entry, model, x, y, L0(enough), targets=targets)
    assert torch.equal(answers(model, far), 1 - y), "failed with enough pixels"


FULL_L0_STEP = {"pgd0": 1e6}  # an L1 length, so long that a start at random does not count


@pytest.mark.parametrize(
    "entry", [e for e in PIXEL_ATTACKS if "step_size" in settable(e.obj)], ids=lambda e: e.name
)
@targeted_too
def test_one_step_sets_all_pixels(entry: Entry[Any], targeted: bool) -> None:
    model, x, y, needed = pixel_oracle(9)
    for i, count in enumerate(needed):
        goal = 1 - y[i : i + 1] if targeted else None
        # Twice as many, so that pixels of a bad random start can't stand in the way.
        far = attack(
            entry, model, x[i : i + 1], y[i : i + 1], L0(count),
            targets=goal, steps=1, step_size=FULL_L0_STEP.get(entry.name, 2.0 * count),
        )  # fmt: skip
        assert answers(model, far) != y[i]
