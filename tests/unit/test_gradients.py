"""Input gradients on random models of known mean, surrogates, and the copies attacks search on."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from redoubtable.defenses import InputTransform, Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.gradients import (
    FastCopy,
    bpda,
    exact_model,
    fast_copy,
    finite_difference,
    input_gradient,
)
from redoubtable.losses import aim, cross_entropy, margin
from redoubtable.models import create
from redoubtable.parts import Facts, Part, facts_of
from redoubtable.seeding import seeded
from tests.networks import LinearModel, RandomScale, blobs, facts, small_net

# -- gradients -----------------------------------------------------------------------------------


def raw(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the cross-entropy, by plain autograd."""
    images = x.clone().requires_grad_()
    value = nn.functional.cross_entropy(model(images), y, reduction="sum")
    return torch.autograd.grad(value, images)[0]


@pytest.mark.parametrize("batch_size", [None, 1, 3, 8, 100])
def test_on_a_deterministic_model_it_is_autograd_whatever_the_batches(
    net: nn.Module, x: Tensor, y: Tensor, batch_size: int | None
) -> None:
    slope = input_gradient(net, x, aim(cross_entropy, y, None), batch_size=batch_size)
    assert torch.allclose(slope.gradient, raw(net, x, y), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(slope.logits, net(x), atol=1e-5)
        assert torch.allclose(slope.loss, cross_entropy(net(x), y), atol=1e-5)
    assert not slope.gradient.requires_grad
    assert not slope.logits.requires_grad
    assert not slope.loss.requires_grad


def test_more_draws_of_a_deterministic_model_change_nothing(
    net: nn.Module, x: Tensor, y: Tensor
) -> None:
    objective = aim(cross_entropy, y, None)
    one, many = input_gradient(net, x, objective), input_gradient(net, x, objective, eot=5)
    assert torch.allclose(one.gradient, many.gradient, atol=1e-5)
    assert torch.allclose(one.logits, many.logits, atol=1e-5)
    assert torch.allclose(one.loss, many.loss, atol=1e-5)


def scaled_linear() -> tuple[RandomScale, Tensor, Tensor]:
    """A two-class random model: its margin has the gradient factor * (w1 - w0), the mean of which
    is known; the factor of one draw is anything from -1 to 3."""
    torch.manual_seed(5)
    weight = torch.randn(2, 2, 3, 3)
    return RandomScale(LinearModel(weight)), weight[1] - weight[0], blobs(6, 2, 3, 3)


@pytest.mark.parametrize("batch_size", [None, 7, 600])
def test_the_mean_over_draws_approaches_the_truth(batch_size: int | None) -> None:
    model, truth, x = scaled_linear()
    y = torch.zeros(6, dtype=torch.int64)
    draws = 600 if batch_size == 7 else 3000
    slope = input_gradient(model, x, aim(margin, y, None), eot=draws, batch_size=batch_size)
    factor = (slope.gradient * truth).flatten(1).sum(1) / (truth**2).sum()
    # The factor has mean 1 and standard deviation 2 / sqrt(3); five standard errors.
    bound = 5 * 1.155 / draws**0.5
    assert ((factor - 1).abs() < bound).all()
    with torch.no_grad():
        mean = model.model(x)
    assert torch.allclose(slope.logits, mean, atol=bound * mean.abs().max().item())
    expected = mean[:, 1] - mean[:, 0]
    assert torch.allclose(slope.loss, expected, atol=bound * expected.abs().max().item())


def test_each_mean_is_over_all_draws_and_not_the_last_one() -> None:
    """The draws are replayed from the random state, so the mean is known to the last digit."""
    model, truth, x = scaled_linear()
    y = torch.zeros(6, dtype=torch.int64)
    with seeded("draws"):
        slope = input_gradient(model, x, aim(margin, y, None), eot=4)
    with seeded("draws"):
        factors = (1 + 2.0 * (2 * torch.rand(24, 1) - 1)).view(4, 6)
    assert torch.allclose(slope.gradient, factors.mean(0).view(6, 1, 1, 1) * truth, atol=1e-5)
    with torch.no_grad():
        logits = model.model(x)
    assert torch.allclose(slope.logits, factors.mean(0)[:, None] * logits, atol=1e-5)
    values = factors.mean(0) * (logits[:, 1] - logits[:, 0])
    assert torch.allclose(slope.loss, values, atol=1e-5)
    last = factors[-1].view(6, 1, 1, 1) * truth
    assert not torch.allclose(slope.gradient, last, atol=1e-2)


def test_folded_draws_are_worth_as_much_as_a_loop() -> None:
    model, truth, x = scaled_linear()
    objective = aim(margin, torch.zeros(6, dtype=torch.int64), None)
    folded = input_gradient(model, x, objective, eot=2000).gradient
    looped = torch.stack([input_gradient(model, x, objective).gradient for _ in range(2000)])
    spread = 5 * (2**0.5) * looped.std(0).clamp_min(1e-3) / 2000**0.5
    assert ((folded - looped.mean(0)).abs() < spread).all()
    # Images do not share a draw.
    factors = (looped[0] * truth).flatten(1).sum(1) / (truth**2).sum()
    assert factors.std() > 0.1


class Meter(nn.Module):
    """Remembers the sizes of the batches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.model(x)


@pytest.mark.parametrize(("eot", "batch_size"), [(1, 3), (5, 7), (5, 40), (5, 1), (1, 8), (3, 8)])
def test_the_memory_bound_is_kept_and_used(
    net: nn.Module, x: Tensor, y: Tensor, eot: int, batch_size: int
) -> None:
    meter = Meter(net)
    input_gradient(meter, x, aim(margin, y, None), eot=eot, batch_size=batch_size)
    assert max(meter.seen) <= batch_size
    assert sum(meter.seen) == 8 * eot
    assert len(meter.seen) == -(-8 * eot // batch_size)


def test_without_a_bound_all_draws_are_one_pass(net: nn.Module, x: Tensor, y: Tensor) -> None:
    meter = Meter(net)
    input_gradient(meter, x, aim(margin, y, None), eot=5)
    assert meter.seen == [40]


@pytest.mark.parametrize("arguments", [{"eot": 0}, {"eot": -1}, {"batch_size": 0}])
def test_draws_and_batches_must_be_positive(
    net: nn.Module, x: Tensor, y: Tensor, arguments: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        input_gradient(net, x, aim(margin, y, None), **arguments)


class Cut(nn.Module):
    """Breaks the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


@pytest.mark.parametrize("trainable", [False, True])
def test_a_broken_graph_is_said_and_not_taken_for_robustness(
    net: nn.Module, x: Tensor, y: Tensor, trainable: bool
) -> None:
    model = nn.Sequential(Cut(), net.requires_grad_(trainable))
    with pytest.raises(ValueError, match="surrogate"):
        input_gradient(model, x, aim(margin, y, None))


def test_no_grad_is_left_on_the_parameters_or_the_images(
    net: nn.Module, x: Tensor, y: Tensor
) -> None:
    with torch.no_grad():
        input_gradient(net, x, aim(margin, y, None), eot=2)
    assert all(p.grad is None for p in net.parameters())
    assert x.grad is None
    assert not x.requires_grad


def test_finite_differences_of_a_quadratic_are_exact() -> None:
    x, direction = torch.rand(3, 1, 2, 2).double(), torch.randn(3, 1, 2, 2).double()
    got = finite_difference(lambda v: (v**2).flatten(1).sum(1), x, direction, step=0.1)
    assert torch.allclose(got, (2 * x * direction).flatten(1).sum(1))


# -- surrogates ----------------------------------------------------------------------------------


def gradient_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    images = x.clone().requires_grad_()
    return torch.autograd.grad((function(images) ** 2).sum(), images)[0]


def test_the_values_are_exactly_those_of_the_function(x: Tensor) -> None:
    rounded = bpda(lambda v: (v * 4).round() / 4, lambda v: 100 * v)
    assert torch.equal(rounded(x), (x * 4).round() / 4)
    assert torch.equal(rounded(x.clone().requires_grad_()), (x * 4).round() / 4)


def test_the_gradient_is_the_surrogates_alone(x: Tensor) -> None:
    """Not the function's, not the sum of the two, and at the function's value."""
    both = bpda(lambda v: v**3, lambda v: 5 * v)
    # d/dx (f(x))^2 with f's value x^3 and f's slope 5.
    assert torch.allclose(gradient_of(both, x), 2 * x**3 * 5, atol=1e-6)


def test_a_function_as_its_own_surrogate_gives_autograd(x: Tensor) -> None:
    function = torch.sin
    assert torch.allclose(gradient_of(bpda(function, function), x), gradient_of(function, x))


def test_the_identity_gives_another_gradient(x: Tensor) -> None:
    as_identity = gradient_of(bpda(lambda v: v**3, lambda v: v), x)
    assert torch.allclose(as_identity, 2 * x**3, atol=1e-6)
    assert not torch.allclose(as_identity, gradient_of(lambda v: v**3, x), atol=1e-2)


def test_a_function_without_a_gradient_gets_one(x: Tensor) -> None:
    dead = gradient_of(lambda v: (v * 4).round(), x)
    assert (dead == 0).all()
    alive = gradient_of(bpda(lambda v: (v * 4).round(), lambda v: 4 * v), x)
    assert ((alive != 0) | (x < 0.13)).all()
    # Also one that leaves torch altogether.
    outside = bpda(lambda v: torch.from_numpy(v.numpy().round(1)), lambda v: v)
    assert torch.isfinite(gradient_of(outside, x)).all()


def test_parameters_of_the_surrogate_are_reached_but_not_those_of_the_function() -> None:
    inside, stand_in = nn.Linear(3, 3), nn.Linear(3, 3)
    bpda(inside, stand_in)(torch.rand(2, 3)).sum().backward()
    assert inside.weight.grad is None
    assert stand_in.weight.grad is not None


def test_a_surrogate_of_another_shape_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="one shape"):
        bpda(lambda v: v, lambda v: v[:, :1])(x)


def test_the_input_is_not_aliased(x: Tensor) -> None:
    kept = x.clone()
    bpda(lambda v: v, lambda v: v)(x).add_(1)
    assert torch.equal(x, kept)


# -- fast copies ---------------------------------------------------------------------------------


def norms_in(model: nn.Module, x: Tensor) -> int:
    """How many batch norms a pass goes through."""
    passed: list[nn.Module] = []
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(lambda m, *_: passed.append(m)) for m in norms]
    with torch.no_grad(), torch.random.fork_rng():
        model(x)
    for hook in hooks:
        hook.remove()
    return len(passed)


def shake(model: nn.Module) -> nn.Module:
    """Batch norms far from the identity, as after training."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_(0, 0.3, generator=g)
                m.running_var.uniform_(0.5, 2.0, generator=g)
                m.weight.uniform_(0.5, 1.5, generator=g)
                m.bias.normal_(0, 0.3, generator=g)
    return model.eval()


def assert_same_function(model: nn.Module, copy: nn.Module, x: Tensor, atol: float = 1e-4) -> None:
    with torch.no_grad(), seeded("same"):
        expected = model(x)
    with torch.no_grad(), seeded("same"):
        got = copy(x)
    assert got.dtype == expected.dtype
    scale = max(1.0, expected.abs().max().item())
    assert torch.allclose(got, expected, atol=atol * scale)


@pytest.mark.parametrize("train", [False, True])
def test_a_copy_is_the_model_in_eval_mode_folded(x: Tensor, train: bool) -> None:
    net = small_net().train(train)
    quick = fast_copy(net, x)
    assert net.training is train
    assert_same_function(small_net(), quick, blobs(20, seed=9))
    assert norms_in(net, x) == 2
    assert norms_in(quick, x) == 0
    assert exact_model(quick) is net
    assert exact_model(net) is net
    assert not any(p.requires_grad for p in quick.parameters())
    assert not any(m.training for m in quick.modules())


@pytest.mark.parametrize("name", ["resnet20", "small_cnn"])
def test_networks_of_the_package_are_folded(name: str) -> None:
    channels = {"resnet20": 3, "small_cnn": 1}[name]
    with seeded("weights"):
        model = shake(create(name))
    images = blobs(6, channels, 16, 16)
    quick = fast_copy(model, images[:2])
    assert norms_in(model, images) > 0
    assert norms_in(quick, images) == 0
    assert_same_function(model, quick, images)


def guards() -> dict[str, nn.Module]:
    net = small_net()
    return {
        "transform": nn.Sequential(Subsample(rate=0.4), net),
        "vote": Vote(nn.Sequential(Subsample(rate=0.4), net), draws=3),
        "hard vote": Vote(nn.Sequential(Subsample(rate=0.4), net), draws=3, count="labels"),
        "rejecting": Rejecting(net, Entropy(), 0.7),
        "all": Rejecting(Vote(nn.Sequential(Subsample(rate=0.4), net), draws=3), Entropy(), 0.7),
        "scaled": RandomScale(net),
    }


@pytest.mark.parametrize("name", list(guards()))
def test_defenses_are_kept_and_the_networks_inside_folded(name: str, x: Tensor) -> None:
    model = guards()[name]
    quick = fast_copy(model, x)
    assert facts_of(quick) == facts_of(model)
    assert norms_in(quick, x) == 0
    if name != "hard vote":  # rounding may tip a vote
        assert_same_function(model, quick, blobs(12, seed=4))
    with torch.no_grad():
        differs = not torch.equal(quick(x), quick(x))
    assert differs == facts_of(model).stochastic


def test_convolutions_are_stored_channels_last(x: Tensor) -> None:
    quick = fast_copy(small_net(), x)
    weights = [p for p in quick.parameters() if p.ndim == 4]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("name", ["rejecting", "all"])
def test_low_precision_is_of_the_networks_only(name: str, x: Tensor) -> None:
    model = guards()[name]
    quick = fast_copy(model, x, "bf16")
    assert_same_function(model, quick, x, atol=0.05)
    with torch.no_grad(), seeded("same"):
        low = quick(x)
    with torch.no_grad(), seeded("same"):
        exact = model(x)
    assert low.dtype == torch.float32
    assert not torch.allclose(low, exact, atol=1e-6), "nothing is in low precision"
    assert {p.dtype for p in quick.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    slope = input_gradient(quick, x, aim(margin, torch.zeros(8, dtype=torch.int64), None))
    assert slope.gradient.dtype == torch.float32


def test_float64_stays_float64(x: Tensor) -> None:
    model = small_net().double()
    quick = fast_copy(model, x.double())
    assert norms_in(quick, x.double()) == 0
    assert_same_function(model, quick, x.double(), atol=1e-9)


class Untraceable(nn.Module):
    """torch.fx can't follow a branch on values."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.mean() > 0.1 else -self.net(x)


def test_what_torch_fx_cannot_read_is_kept_as_it_is(x: Tensor) -> None:
    model = Untraceable()
    quick = fast_copy(model, x)
    assert_same_function(model, quick, x)
    assert_same_function(model, quick, 0.05 * x)
    assert norms_in(quick, x) == 2


class Joined(nn.Module):
    """A network with a function of the test's own behind it."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = small_net()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(x))


def _like(z: Tensor) -> Tensor:
    return z + 0.3 * torch.rand_like(z)


def _fixed_shape(z: Tensor) -> Tensor:
    return z + 0.3 * torch.randn(1, 4)


def _coin(z: Tensor) -> Tensor:
    return z if torch.rand(()) < 0.8 else -z


def _python_coin(z: Tensor) -> Tensor:
    return z if random.random() < 0.8 else -z


def _dropout(z: Tensor) -> Tensor:
    return nn.functional.dropout(z, 0.2, training=True)


@pytest.mark.parametrize(
    "noise", [_like, _fixed_shape, _coin, _python_coin, _dropout], ids=lambda f: f.__name__
)
def test_randomness_that_a_network_does_not_state_is_never_frozen(
    noise: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    for seed in range(6):
        with seeded("noise", seed):
            quick = fast_copy(Joined(noise), x)
            with torch.no_grad():
                looks = torch.stack([quick(x) for _ in range(40)])
        assert (looks != looks[0]).any(), "the copy answers every time alike"


def test_a_copy_leaves_the_random_state_alone(x: Tensor) -> None:
    for model in (small_net(), guards()["all"], Joined(_like), Joined(_coin)):
        before, python = torch.random.get_rng_state(), random.getstate()
        fast_copy(model, x)
        assert torch.equal(before, torch.random.get_rng_state())
        assert python == random.getstate()


def test_hooks_still_act_in_the_copy(x: Tensor) -> None:
    net = small_net()
    net.conv2.register_forward_hook(lambda module, arguments, out: 2 * out)
    assert_same_function(net, fast_copy(net, x), x)
    plain = small_net()
    with torch.no_grad():
        assert not torch.allclose(net(x), plain(x), atol=1e-3)


class StaysInTraining(nn.Sequential):
    """Batch statistics are this network's defense: it refuses eval mode."""

    def train(self, mode: bool = True) -> "StaysInTraining":
        super().train(True)
        return self


def test_batch_norms_in_training_mode_are_not_folded() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.0), nn.ReLU(), nn.Flatten()]
    model = StaysInTraining(*layers, nn.Linear(4 * 36, 3))
    x = blobs(6)
    quick = fast_copy(model, x)
    assert norms_in(quick, x) == 1
    assert_same_function(model, quick, x)
    with torch.no_grad():
        assert not torch.allclose(quick(x)[:2], quick(x[:2]), atol=1e-3)


def test_batch_norms_without_running_statistics_are_not_folded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )  # fmt: skip
    x = blobs(6)
    quick = fast_copy(model.eval(), x)
    assert norms_in(quick, x) == 1
    assert_same_function(model, quick, x)


class Twisted(nn.Module):
    """Convolutions and batch norms that don't stand in simple pairs."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "one convolution, two norms":
            x = self.bn2(self.conv(self.bn1(self.conv(x))))
        elif self.form == "one convolution, one norm, twice":
            x = self.bn1(self.conv(self.bn1(self.conv(x))))
        elif self.form == "used before its norm":
            z = self.conv(x)
            x = self.bn1(z) + z
        elif self.form == "norm first":
            x = self.conv(self.bn1(x))
        elif self.form == "two norms in a row":
            x = self.bn2(self.bn1(self.conv(x)))
        elif self.form == "no norm on the second use":
            x = self.conv(self.bn1(self.conv(x)))
        return self.linear(x.mean((2, 3)))


FORMS = [
    "one convolution, two norms",
    "one convolution, one norm, twice",
    "used before its norm",
    "norm first",
    "two norms in a row",
    "no norm on the second use",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_never_another_function(form: str, x: Tensor) -> None:
    torch.manual_seed(0)
    model = shake(Twisted(form))
    assert_same_function(model, fast_copy(model, x), blobs(10, seed=3))


class Both(Part):
    """One network under two names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.first, self.second = net, net

    @property
    def facts(self) -> Facts:
        return facts(passes=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(1 - x)

    def undefended(self) -> nn.Module:
        return self.first


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_that_stands_at_two_places_is_exchanged_at_both(
    precision: Any, x: Tensor
) -> None:
    model = Both(small_net())
    quick = fast_copy(model, x, precision)
    assert_same_function(model, quick, x, atol=1e-4 if precision == "fp32" else 0.1)
    assert norms_in(quick, x) == 0


class TwoHeads(nn.Module):
    """A network that returns features beside its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.net(x)
        return z, z.exp()


class TakesLogits(Part):
    """A part around a network of another form."""

    facts = facts()

    def __init__(self) -> None:
        super().__init__()
        self.heads = TwoHeads()

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(x)[0]

    def undefended(self) -> nn.Module:
        return nn.Identity()


def test_a_network_with_several_outputs_is_copied_as_it_is(x: Tensor) -> None:
    assert_same_function(TakesLogits(), fast_copy(TakesLogits(), x), x)


class Quantise(InputTransform):
    """Rounds to quarters; the identity stands in, since rounding moves a value by an eighth."""

    facts = facts(differentiable=False)

    def transform(self, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    def surrogate(self, x: Tensor) -> Tensor:
        return x


def test_surrogates_live_on_in_the_copy(x: Tensor, y: Tensor) -> None:
    model = nn.Sequential(Quantise(), small_net())
    slope = input_gradient(model, x, aim(cross_entropy, y, None))
    quick = input_gradient(fast_copy(model, x), x, aim(cross_entropy, y, None))
    assert (slope.gradient != 0).any()
    assert torch.allclose(slope.gradient, quick.gradient, atol=1e-4)


def test_the_model_is_left_as_it_was(x: Tensor) -> None:
    model = guards()["all"].train()
    model.model.model[1].bn1.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = {n: m.training for n, m in model.named_modules()}
    for precision in ("fp32", "bf16"):
        quick = fast_copy(model, x, precision)  # type: ignore[arg-type]
        with torch.no_grad():
            quick(x)
    assert {n: m.training for n, m in model.named_modules()} == flags
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in quick.parameters()}
    assert not shared


def test_the_exact_model_is_no_submodule_of_the_copy(net: nn.Module, x: Tensor) -> None:
    quick = fast_copy(net, x)
    assert isinstance(quick, FastCopy)
    assert not any(m is net for m in quick.modules())


# -- random networks -----------------------------------------------------------------------------


class Program(nn.Module):
    """A network written by chance: convolutions, norms, ReLUs (one of them shared), sums, branches.

    All intermediate values have one shape; some are used several times and some never.
    """

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.front = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList()
        self.shared = nn.ReLU()
        self.twice = nn.Conv2d(4, 4, 1)
        for kind, _, _ in steps:
            made = {
                "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
                "norm": lambda: nn.BatchNorm2d(4),
                "relu": nn.ReLU,
                "relu in place": lambda: nn.ReLU(inplace=True),
            }.get(kind, nn.Identity)()
            self.layers.append(made)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.front(x)]
        for layer, (kind, a, b) in zip(self.layers, self.steps, strict=True):
            first, second = values[a % len(values)], values[b % len(values)]
            if kind == "shared relu":
                values.append(self.shared(first))
            elif kind == "shared conv":
                values.append(self.twice(first))
            elif kind == "sum":
                values.append(first + second)
            elif kind == "product":
                values.append(first * second.sigmoid())
            elif kind == "sigmoid":
                values.append(first.sigmoid())
            elif kind == "relu in place":
                values.append(layer(first + 0))
            else:
                values.append(layer(first))
        return self.linear(values[-1].mean((2, 3)))


KINDS = (
    "conv", "norm", "relu", "relu in place", "shared relu", "shared conv", "sum", "product",
    "sigmoid",
)  # fmt: skip


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(-3, 8), st.integers(-3, 8)),
        min_size=1,
        max_size=9,
    ),
    st.integers(0, 1000),
)
def test_a_copy_of_any_network_gives_its_logits_and_gradients(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    torch.manual_seed(seed)
    model, x = shake(Program(steps)), blobs(4, 3, 5, 5, seed=seed)
    y, kept = torch.tensor([0, 1, 2, 0]), x.clone()
    quick = fast_copy(model, x)
    assert_same_function(model, quick, x)
    for loss in (cross_entropy, margin):
        for _ in range(2):  # a second look finds what the first one may have overwritten
            expected = input_gradient(model, x, aim(loss, y, None)).gradient
            got = input_gradient(quick, x, aim(loss, y, None)).gradient
            assert torch.allclose(got, expected, atol=1e-4 * max(1, expected.abs().max().item()))
    assert torch.equal(x, kept)


class ReadsTheImageTwice(nn.Module):
    """One ReLU stands behind a convolution and on the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.conv(x)) + self.relu(x)
        return self.linear(inner.mean((2, 3)))


class HasAnIdleBranch(nn.Module):
    """Computes features that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
        self.idle, self.rest = nn.Conv2d(3, 3, 1), nn.ReLU()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.conv(x))
        self.rest(self.idle(features))
        return self.linear(features.mean((2, 3)))


class HasNoGradient(nn.Module):
    """Its answer is a step function; an attack will say so, the copy need not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.detach())


@pytest.mark.parametrize("form", [ReadsTheImageTwice, HasAnIdleBranch, HasNoGradient])
def test_unusual_networks_can_be_copied(form: type[nn.Module], x: Tensor) -> None:
    torch.manual_seed(0)
    model, kept = form().eval(), x.clone()
    quick = fast_copy(model, x)
    assert_same_function(model, quick, x)
    assert torch.equal(x, kept)


def test_a_copy_can_be_differentiated_twice(x: Tensor, y: Tensor) -> None:
    """As input-gradient penalties and saliency need it."""
    model = small_net()
    quick = fast_copy(model, x)

    def second(network: nn.Module) -> Tensor:
        images = x.clone().requires_grad_()
        value = cross_entropy(network(images), y).sum()
        (slope,) = torch.autograd.grad(value, images, create_graph=True)
        return torch.autograd.grad((slope**2).sum(), images)[0]

    assert torch.allclose(second(model), second(quick), atol=1e-4)


def test_images_shown_to_a_copy_are_not_written_to(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    quick, images = fast_copy(model, x), x - 0.5
    kept = images.clone()
    with torch.no_grad():
        quick(images)
    assert torch.equal(images, kept)
