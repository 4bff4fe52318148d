import pytest
import torch
import torch.nn.functional as F
from torch import nn

from redoubtable.data import read
from redoubtable.models import create
from redoubtable.seeding import seeded
from redoubtable.threat import parse_threat
from redoubtable.training import RECIPES, Settings, fast, free, pgd, trades
from redoubtable.training.adversarial import _climb
from tests.unit.training.parts import fresh, quiet, same, state, toy

ONLINE = ["pgd:steps=2", "fast", "free:replays=2", "trades:steps=2"]


def recipe(text):
    bound = RECIPES.bind(text)
    return bound.entry.obj(**bound.arguments)


class Linear(nn.Module):
    """Logits (0, w.x) in closed form; keeps what it sees and in which mode."""

    def __init__(self, channels=1, side=4):
        super().__init__()
        with seeded("linear"):
            self.weight = nn.Parameter(torch.randn(channels * side * side))
        self.seen, self.modes = [], []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        self.modes.append(self.training)
        value = x.flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(value), value], 1)


@pytest.fixture
def batch():
    with seeded("batch"):
        return 0.3 + 0.4 * torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1, 0])


def worst(model, x, y, eps):
    """The image that raises the cross-entropy of a linear model most, in closed form."""
    sign = torch.where(y == 0, 1.0, -1.0)[:, None, None, None]
    return x + eps * sign * model.weight.detach().sign().view(1, 1, 4, 4)


def test_pgd_trains_on_the_worst_image_of_a_linear_model(batch):
    x, y = batch
    model = Linear().train()
    loss = pgd(threat="Linf:0.1", steps=5)(model, x, y)
    x_adv = worst(model, x, y, 0.1)
    torch.testing.assert_close(model.seen[-1], x_adv)
    assert model.modes == [False] * 5 + [True] and model.training
    start = (model.seen[0] - x).abs()
    assert start.max() <= 0.1 + 1e-6 and 0.03 < start.mean() < 0.07  # anywhere in the ball
    assert loss.item() == pytest.approx(F.cross_entropy(model(x_adv), y).item())
    loss.backward()
    slope = model.weight.grad.clone()
    model.weight.grad = None
    F.cross_entropy(model(x_adv), y).backward()
    torch.testing.assert_close(slope, model.weight.grad)  # and nothing of the search in it


def test_fast_takes_one_step_of_one_and_a_quarter_eps_from_a_random_start(batch):
    x, y = batch
    model = Linear().train()
    fast(threat="Linf:0.1")(model, x, y)
    start, x_adv = model.seen
    assert (start - x).abs().max() <= 0.1 + 1e-6 and (start - x).abs().mean() > 0.03
    direction = worst(model, x, y, 1.0) - x
    expected = torch.minimum(torch.maximum(start + 0.125 * direction, x - 0.1), x + 0.1)
    torch.testing.assert_close(x_adv, expected)
    assert model.modes == [True, True]


def test_trades_is_cross_entropy_and_beta_times_the_divergence(batch):
    x, y = batch
    model = Linear().train()
    loss = trades(threat="Linf:0.05", beta=3.0, steps=4, step_size=None)(model, x, y)
    x_adv = model.seen[-1]
    assert (x_adv - x).abs().max() <= 0.05 + 1e-6
    clean, moved = model(x), model(x_adv)
    p, q = clean.softmax(1), moved.softmax(1)
    apart = (p * (p / q).log()).sum(1).mean()
    expected = F.cross_entropy(clean, y) + 3 * apart
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(v, model.weight)[0] for v in (loss, expected))
    torch.testing.assert_close(ours, theirs)  # through the clean answer too
    # The divergence of a linear model grows with |w.delta|: every pixel goes one way, to the edge.
    move = ((x_adv - x).sign() * model.weight.sign().view(1, 1, 4, 4)).flatten(1)
    assert (move == move[:, :1]).all() and torch.allclose((x_adv - x).abs(), torch.tensor(0.05))
    # The first look of the search is at the clean image, without a gradient, in evaluation mode.
    assert torch.equal(model.seen[0], x) and model.modes[:5] == [False] * 5
    assert model.modes[5:7] == [True, True]
    assert 0 < (model.seen[1] - x).abs().mean() < 0.002


def test_trades_is_finite_where_a_class_is_beyond_all_doubt(batch):
    """Logits 300 apart, whose smaller probability is 0 in float32."""
    x, y = batch
    model = Linear().train()
    with torch.no_grad():
        model.weight.mul_(300 / (x.flatten(1) @ model.weight).abs().max())
    loss = trades(threat="Linf:0.01", steps=2)(model, x, y)
    loss.backward()
    assert (model(x).softmax(1) == 0).any()  # or this test could not fail
    assert loss.isfinite() and model.weight.grad.isfinite().all() and model.weight.grad.any()


@pytest.mark.parametrize("text", ONLINE)
def test_no_pass_is_without_gradients(text, batch):
    """Autocast of torch before 2.10 keeps such a pass's weights for those that train."""
    seen = []

    class Watched(Linear):
        def forward(self, x):
            seen.append(torch.is_grad_enabled())
            return super().forward(x)

    recipe(text)(Watched().train(), *batch)
    assert all(seen)


def test_fast_sees_the_statistics_of_the_whole_batch():
    """129 images, the last of which would be alone in pieces of 128."""
    sizes = []
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2)).train()
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    fast(threat="Linf:0.1")(model, torch.rand(129, 1, 4, 4), torch.arange(129) % 2)
    assert sizes == [129, 129]


@pytest.mark.parametrize("threat", ["Linf:0.1", "L2:0.5"])
def test_free_keeps_its_noise_where_the_gradient_overflowed(threat, batch):
    x, y = batch
    model, rule = Linear().train(), free(threat=threat)
    rule(model, x, y).backward()
    rule.settle()
    before = rule.state["noise"].clone()
    (rule(model, x, y) * torch.inf).backward()
    rule.settle()
    assert before.any() and torch.equal(rule.state["noise"], before)


@pytest.mark.parametrize("text", ["natural", *ONLINE])
def test_smoothing_spreads_a_share_of_each_label_over_all_classes(text, batch):
    x, y = batch
    model = Linear().train()
    more = "beta=0," if "trades" in text else ""
    loss = recipe(f"{text}{',' if ':' in text else ':'}{more}smoothing=0.25")(model, x, y)
    logs = model(x if "trades" in text else model.seen[-1]).log_softmax(1)
    each = 0.75 * logs.gather(1, y[:, None])[:, 0] + 0.25 * logs.mean(1)
    torch.testing.assert_close(loss, -each.mean())


def test_free_moves_weights_and_noise_by_the_same_gradient(batch):
    x, y = batch
    model, rule = Linear().train(), free(threat="Linf:0.1", replays=3)
    assert rule.replays == 3
    for step in range(3):
        model.zero_grad()
        rule(model, x, y).backward()
        moved = worst(model, x, y, 0.1) - x
        torch.testing.assert_close(model.seen[step], x if step == 0 else x + moved)
    assert len(model.seen) == 3  # one pass each: the attack costs nothing more
    rule.settle()
    torch.testing.assert_close(rule.state["noise"], moved)
    rule(model, x[:2], y[:2]).backward()  # it goes on to the next batch, which may be smaller
    torch.testing.assert_close(model.seen[-1], x[:2] + moved[:2])


@pytest.mark.parametrize("text", ONLINE)
@pytest.mark.parametrize("threat", ["Linf:8/255", "L2:0.5"])
def test_attacked_images_stay_inside_the_threat_and_the_box(text, threat):
    name, _, more = text.partition(":")
    rule = recipe(f"{name}:threat={threat}" + (f",{more}" if more else ""))
    model, ball = Linear(3, 8).train(), parse_threat(threat)
    x, y = torch.rand(5, 3, 8, 8).round(), torch.randint(2, (5,))  # black and white: the box bites
    for _ in range(3):
        rule(model, x, y).backward()
        assert ball.contains(model.seen[-1], x).all()
        assert model.seen[-1].min() >= 0 and model.seen[-1].max() <= 1


@pytest.mark.parametrize("text", ONLINE)
def test_the_search_leaves_no_gradient_and_every_mode_as_it_was(text):
    model = fresh(classes=3).train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    x, y = toy(12).floats()
    recipe(text)(model, x, y)
    assert model.training and not frozen.training
    assert all(p.grad is None for p in model.parameters())


def test_the_last_iterate_counts_not_the_best():
    """An objective that falls in the second step is followed all the same."""
    ball, x = parse_threat("Linf:0.5"), torch.full((1, 1, 1, 1), 0.5)

    class Hill(nn.Module):
        def forward(self, x):
            top = -(x.flatten(1) - 0.6).abs()
            return torch.cat([top, -top], 1)

    last = _climb(Hill(), x, x, lambda z, i: z[:, 0], ball, 2, 0.2)
    assert last.item() == pytest.approx(0.5)


@pytest.mark.parametrize("text", ONLINE)
def test_killed_and_resumed_is_bit_identical(text, tmp_path):
    from tests.unit.training.parts import Killed, dying

    settings = Settings(epochs=3, batch_size=16, seed=2)
    whole = quiet(fresh(), toy(), text, settings, out=tmp_path / "whole")
    with pytest.raises(Killed):
        quiet(fresh(), toy(), dying(13, text), settings, out=tmp_path / "cut")
    cut = quiet(fresh(), toy(), text, settings, out=tmp_path / "cut")
    assert same(state(whole.model), state(cut.model))


def test_training_on_attacked_images_makes_a_network_harder_to_attack():
    from redoubtable.attacks import pgd as attack

    x, y = read("digits", "test", limit=200).floats()
    right = {}
    for text in ("natural", "pgd:threat=Linf:0.15,steps=4"):
        with seeded("init", 0):
            model = create("small_cnn", width=12)
        quiet(model, read("digits", "train"), text, Settings(epochs=6))
        with seeded("attack"):
            x_adv = attack(model, x, y, parse_threat("Linf:0.15"), steps=20)
        right[text] = (model(x_adv).argmax(1) == y).float().mean().item()
    assert right["pgd:threat=Linf:0.15,steps=4"] > right["natural"] + 0.3


@pytest.mark.parametrize(
    ("factory", "bad", "message"),
    [
        (pgd, {"steps": 0}, "`steps` must be a whole number"),
        (pgd, {"step_size": -1.0}, "`step_size` must be positive"),
        (pgd, {"threat": "Linf"}, "Linf"),
        (fast, {"threat": "Linf:inf"}, "`threat` must have a finite eps"),
        (free, {"threat": "Linf:inf"}, "`threat` must have a finite eps"),
        (fast, {"smoothing": 1.0}, "`smoothing` must lie in"),
        (free, {"replays": 0}, "`replays` must be a whole number"),
        (trades, {"beta": -1.0}, "`beta` must be at least 0"),
    ],
)
def test_recipes_refuse(factory, bad, message):
    with pytest.raises(ValueError, match=message):
        factory(**bad)
