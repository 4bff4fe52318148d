"""APGD and the attacks that aim at one class after another."""

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import apgd, apgd_targeted, multi_targeted, pgd
from redoubtable.attacks.apgd_rules import Halving, Sparsity
from redoubtable.attacks.rivals import duel, rivals_of
from redoubtable.gradients import Slope
from redoubtable.losses import cross_entropy, dlr, evasion_margin, margin
from redoubtable.seeding import seeded
from redoubtable.threat import L1, L2, Linf, ThreatModel
from tests.networks import LinearModel, RandomScale, blobs, small_net
from tests.unit.attacks.linear_parts import SHAPE, answers, distances, linear

# -- the rules -------------------------------------------------------------------------------------


def test_checkpoints_are_those_of_the_paper() -> None:
    """p_1 = 0.22, and each span is 0.03 shorter than the one before, at least 0.06."""
    assert list(Halving.checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert Halving.checkpoints(100)[57] == 16
    assert list(Sparsity.checkpoints(100))[:4] == [4, 8, 12, 16]
    assert set(Halving.checkpoints(1)) == set(Sparsity.checkpoints(1)) == {1}


def seen(track: Halving, losses: list[list[float]]) -> None:
    """Let a track see losses, one list per iterate; the iterate is marked by its number."""
    for number, values in enumerate(losses):
        track.here = torch.full_like(track.here, 0.01 * number)
        gradient = torch.full_like(track.here, float(number))
        track.see(Slope(gradient, torch.tensor(values), torch.zeros(len(values), 2)))


def test_a_step_is_halved_where_too_few_steps_rose_and_goes_on_from_the_best() -> None:
    clean, ball = torch.zeros(2, 1, 1, 1), Linf(torch.tensor([0.1, 0.3]))
    track = Halving.begin(clean, clean, ball.radius(clean))
    assert track.size.tolist() == pytest.approx([0.2, 0.6])
    # The first rises in three of four steps, which is not more than three quarters.
    seen(track, [[0, 0], [1, 1], [3, 2], [4, 3], [2, 4]])
    track.check(clean, ball, 4)
    assert track.size.tolist() == pytest.approx([0.1, 0.6])
    assert track.here.flatten().tolist() == pytest.approx([0.03, 0.04])
    assert track.gradient.flatten().tolist() == [3, 4]
    assert track.peak_loss.tolist() == [4, 4]


def test_a_step_that_was_kept_and_brought_nothing_is_halved() -> None:
    clean, ball = torch.zeros(2, 1, 1, 1), Linf(1.0)
    track = Halving.begin(clean, clean, ball.radius(clean))
    seen(track, [[0, 0], [1, 1], [2, 2], [3, 3], [4, 4]])
    track.check(clean, ball, 4)
    assert track.size.tolist() == [2, 2]
    # From here on all steps rise, but only the second example gets above its record of 4.
    seen(track, [[-9, -9], [-3, 1], [-2, 3], [-1, 5], [0, 6]])
    track.rises = torch.tensor([4.0, 4.0])
    track.check(clean, ball, 4)
    assert track.size.tolist() == [1, 2]


def test_a_step_has_momentum() -> None:
    """z = P(x + eta s), then x + alpha (z - x) + (1 - alpha) (x - before)."""
    clean = torch.full((1, 1, 1, 1), 0.5)
    track = Halving.begin(clean, clean, torch.tensor([0.2]))
    track.here, track.before = clean + 0.04, clean + 0.02
    track.gradient, track.size = torch.ones_like(clean), torch.tensor([0.08])
    track.move(clean, Linf(0.2), 0.75)
    assert track.here.item() == pytest.approx(0.54 + 0.75 * 0.08 + 0.25 * 0.02)
    assert track.before.item() == pytest.approx(0.54)


def test_a_sparse_step_moves_the_values_of_largest_slope_alike() -> None:
    clean = torch.full((2, 1, 2, 5), 0.5)
    ball = L1(torch.tensor([1.0, 0.4]))
    track = Sparsity.begin(clean, clean, ball.radius(clean))
    track.count = torch.tensor([2.0, 2.0])
    slope = torch.tensor([3.0, -9, 1, 0.5, -7, 2, 0.1, 0, 1, -0.2])
    track.gradient = torch.stack([slope, slope]).view_as(clean)
    track.move(clean, ball, 0.75)
    delta = (track.here - clean).flatten(1)
    # Two values, and a step of the whole radius.
    assert torch.allclose(delta[0, [1, 4]], torch.tensor([-0.5, -0.5]))
    assert torch.allclose(delta[1, [1, 4]], torch.tensor([-0.2, -0.2]))
    assert (delta != 0).sum(1).tolist() == [2, 2]


def test_sparsity_follows_the_best_iterate() -> None:
    clean = torch.full((2, 1, 2, 5), 0.5)
    ball = L1(1.0)
    track = Sparsity.begin(clean, clean, ball.radius(clean))
    track.spread = torch.tensor([10.0, 3.0])
    track.peak = clean.clone()
    track.peak[:, 0, 0, :3] += 0.1
    track.size = torch.tensor([0.5, 0.6])
    track.check(clean, ball, 4)
    # The first got sparser: full step, back to the best. The second did not: a shorter step.
    assert track.count.tolist() == [2, 2]
    assert track.size.tolist() == pytest.approx([1.0, 0.4])
    assert torch.equal(track.here[0], track.peak[0])
    assert torch.equal(track.here[1], clean[1])
    track.size = torch.tensor([0.101, 0.101])
    track.check(clean, ball, 4)
    assert track.size.tolist() == pytest.approx([0.1, 0.1])


# -- the attack ------------------------------------------------------------------------------------


class Spot(nn.Module):
    """Class 1 only within a distance of one point: a step that is never shortened jumps over it."""

    def __init__(self, centre: Tensor, size: float) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        near = self.size**2 - ((x - self.centre) ** 2).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(near), near], 1)


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.6)], ids=str)
def test_a_small_target_is_hit_because_steps_get_shorter(threat: ThreatModel) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.full((6, *SHAPE), 0.5)
    centre = 0.5 + 0.05 * (2 * torch.rand(1, *SHAPE, generator=g) - 1)
    model, y = Spot(centre, 0.02), torch.zeros(6, dtype=torch.long)
    with seeded("spot"):
        found = apgd(model, x, y, threat)
    assert (answers(model, found) == 1).all()
    with seeded("spot"):
        jumps = pgd(model, x, y, threat, steps=100, step_size=2 * float(threat.eps))
    assert (answers(model, jumps) == 0).all(), "the task is too easy to show anything"


@pytest.mark.parametrize("threat", [Linf(1.0), L2(1.0)], ids=lambda t: t.name)
def test_the_last_iterate_counts(threat: ThreatModel) -> None:
    """One step of twice the radius gets almost all the way on a linear model."""
    model, x, y = linear(2)
    ball = type(threat)(1.25 * distances(model, x, y, type(threat)).amin(1))
    with seeded("one step"):
        found = apgd(model, x, y, ball, steps=1)
    assert (answers(model, found) != y).all()


@pytest.mark.parametrize("attack", [apgd, apgd_targeted, multi_targeted])
def test_finished_examples_leave_the_batch(attack: object) -> None:
    model, x, y = linear(3)
    eps = 1.2 * distances(model, x, y, Linf).amin(1)
    eps[-1] = 0.0

    class Counted(nn.Module):
        images = 0

        def forward(self, images: Tensor) -> Tensor:
            Counted.images += len(images)
            return model(images)

    attack(Counted(), x, y, Linf(eps), steps=20)  # type: ignore[operator]
    leaving, Counted.images = Counted.images, 0
    attack(Counted(), x, y, Linf(eps), steps=20, stop=False)  # type: ignore[operator]
    assert leaving < Counted.images / 2


@pytest.mark.parametrize("attack", [apgd, apgd_targeted, multi_targeted])
def test_every_look_is_averaged_over_all_draws(attack: object) -> None:
    model, x, y = linear(3)

    class Counted(nn.Module):
        images = 0

        def forward(self, images: Tensor) -> Tensor:
            Counted.images += len(images)
            return model(images)

    seen = []
    for eot in (1, 7):
        Counted.images = 0
        attack(RandomScale(Counted()), x, y, L2(0.1), steps=5, eot=eot)  # type: ignore[operator]
        seen.append(Counted.images)
    assert seen[1] == 7 * seen[0]


def test_restarts_never_weaken() -> None:
    net, x = small_net(), blobs(8)
    y = answers(net, x)
    values = []
    for restarts in (1, 4):
        with seeded("restarts"):
            found = apgd(net, x, y, L1(1.5), steps=8, restarts=restarts, stop=False)
        with torch.no_grad():
            values.append(margin(net(found), y))
    assert (values[1] >= values[0] - 1e-5).all()
    assert (values[1] > values[0] + 1e-5).any()


def test_a_sparse_climb_begins_with_two_thirds_of_the_values_that_its_start_changes() -> None:
    clean = torch.full((1, 1, 2, 5), 0.5)
    start = clean.clone()
    start[..., :3] = 0.6
    track = Sparsity.begin(start, clean, torch.tensor([1.0]))
    assert track.spread.tolist() == [6] and track.count.tolist() == [4]


class Watched(nn.Module):
    """Remembers how far from the clean images it was asked for."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model, self.x = model, x
        self.far: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.far.append(L1(1.0).distance(self.x, x.detach()).max().item())
        return self.model(x)


def test_under_l1_larger_balls_are_climbed_in_first() -> None:
    x = blobs(8)
    net = Watched(small_net(), x)
    y = answers(net.model, x)
    ball = L1(torch.full((8,), 1.5))
    found = apgd(net, x, y, ball, steps=20, stop=False)
    stages = net.far[:6], net.far[6:12], net.far[12:]
    assert len(net.far) == 21  # the last iterate is looked at too
    for factor, far in zip((3, 2, 1), stages, strict=True):
        assert 0.9 * factor * 1.5 < max(far) <= factor * 1.5 * (1 + 1e-4)
    assert ball.contains(found, x).all()
    net.far.clear()
    apgd(net, x, y, ball, steps=2, stop=False)
    assert len(net.far) == 3 and max(net.far) <= 1.5 * (1 + 1e-4)


def test_l1_changes_few_values() -> None:
    net, x = small_net(), blobs(8)
    y = answers(net, x)
    found = apgd(net, x, y, L1(1.0), stop=False)
    assert ((found - x).abs() > 1e-6).flatten(1).sum(1).float().mean() < 0.1 * x[0].numel()


@pytest.mark.parametrize("loss", [cross_entropy, dlr])
@pytest.mark.parametrize("bad", [{"steps": 0}, {"restarts": 0}, {"alpha": 0.0}, {"alpha": 1.5}])
def test_arguments_out_of_range_are_refused(loss: object, bad: dict[str, float]) -> None:
    net, x = small_net(), blobs(2)
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"`{name}`.*got {value}"):
        apgd(net, x, answers(net, x), Linf(0.1), loss=loss, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite `eps`"):
        apgd(net, x, answers(net, x), Linf(torch.inf), loss=loss)  # type: ignore[arg-type]


# -- one class after another -----------------------------------------------------------------------


class Decoy(nn.Module):
    """Class 1 is close behind and never gets ahead; class 2 can be reached, 3 is far."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = LinearModel(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        lead = self.inner(x - 0.5)[:, 0]
        one = torch.ones_like(lead)
        return torch.stack([one, 0.99 * one, lead - 1, -9 * one], 1)


@pytest.mark.parametrize("attack", [apgd_targeted, multi_targeted])
@pytest.mark.parametrize("kind", [Linf, L2, L1], ids=lambda k: k.name)
def test_a_class_behind_the_runner_up_is_found(attack: object, kind: type[ThreatModel]) -> None:
    model, x, y = Decoy(), torch.full((4, *SHAPE), 0.5), torch.zeros(4, dtype=torch.long)
    dual = {Linf: 1, L2: 2, L1: torch.inf}[kind]
    enough = 1.1 * 2 / torch.linalg.vector_norm(model.inner.weight.flatten(), dual).item()
    ball = kind(enough)
    # The ratio would be raised by class 2 as well.
    plain = {"loss": margin} if attack is apgd_targeted else {}
    few = attack(model, x, y, ball, classes=1, steps=30, **plain)  # type: ignore[operator]
    assert (answers(model, few) == 0).all()
    for classes in (2, 9):
        found = attack(model, x, y, ball, classes=classes, steps=30)  # type: ignore[operator]
        assert (answers(model, found) == 2).all()


def test_three_classes_are_enough_for_the_targeted_attack() -> None:
    model, x, y = linear(3)
    found = apgd_targeted(model, x, y, L2(1.1 * distances(model, x, y, L2).amin(1)))
    assert (answers(model, found) != y).all()


LOGITS = torch.tensor([[3.0, 1.0, 2.0, 5.0], [0.0, 4.0, 2.0, 1.0]])
LABELS = torch.tensor([0, 2])


def test_rivals_are_the_likeliest_other_classes() -> None:
    assert rivals_of(LOGITS, LABELS, None, False).tolist() == [[3, 2, 1], [1, 3, 0]]
    assert rivals_of(LOGITS, LABELS, 2, False).tolist() == [[3, 2], [1, 3]]
    assert rivals_of(LOGITS, LABELS, 9, True).tolist() == [[2, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"`classes`.*got 0"):
        rivals_of(LOGITS, LABELS, 0, False)
    with pytest.raises(ValueError, match="two classes"):
        rivals_of(LOGITS[:, :2], LABELS * 0, 1, True)


def test_a_duel_is_between_two_classes_and_the_rejection() -> None:
    rivals, index = torch.tensor([1, 1]), torch.tensor([1, 0])
    lead = duel(margin, LABELS, rivals, False)
    assert lead(LOGITS[index], index).tolist() == [2.0, -2.0]
    # z_1 - max(z_y, z_3)
    guarded = duel(evasion_margin, LABELS, rivals, True)
    assert guarded(LOGITS[index], index).tolist() == [2.0, -4.0]
