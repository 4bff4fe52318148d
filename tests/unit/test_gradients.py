"""Input gradients on random models of known mean, and surrogates."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks.boundary import nearest_boundary
from redoubtable.gradients import (
    CPU_PIECE,
    bpda,
    finite_difference,
    input_gradient,
    mean_logits,
)
from redoubtable.losses import aim, cross_entropy, margin
from redoubtable.parts import Part
from redoubtable.seeding import seeded
from redoubtable.threat import Linf
from tests.networks import LinearModel, RandomScale, blobs, facts

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


@pytest.mark.parametrize("look", ["gradient", "boundary", "logits"])
@pytest.mark.parametrize(("n", "batch_size"), [(8, 3), (CPU_PIECE + 5, None)])
def test_a_model_that_depends_on_its_batch_sees_all_of_it(
    net: nn.Module, look: str, n: int, batch_size: int | None
) -> None:
    meter = Meter(nn.Sequential(Centred(), net))
    x, y = torch.rand(n, 3, 8, 8), torch.zeros(n, dtype=torch.long)
    lead, other = aim(margin, y, None), aim(cross_entropy, y, None)
    if look == "gradient":
        input_gradient(meter, x, lead, eot=3, batch_size=batch_size)
    elif look == "boundary":
        nearest_boundary(meter, x, [lead, other], Linf(0.1), eot=3, batch_size=batch_size)
    else:
        mean_logits(meter, x, eot=3, batch_size=batch_size)
    assert meter.seen == [n] * 3


class Centred(Part):
    facts = facts(batch_dependent=True)

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)

    def undefended(self) -> nn.Module:
        return nn.Identity()


def test_long_looks_are_cut_into_pieces_that_fit_a_processors_cache(net: nn.Module) -> None:
    meter = Meter(net)
    mean_logits(meter, torch.rand(CPU_PIECE + 5, 3, 8, 8))
    assert meter.seen == [CPU_PIECE, 5]


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
