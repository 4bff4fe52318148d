"""Fast copies of networks that are built as few networks are, and of such as chance builds."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from redoubtable.gradients import fast_copy, input_gradient
from redoubtable.losses import aim, cross_entropy, margin
from redoubtable.parts import Facts, Part
from tests.networks import blobs, facts, small_net
from tests.unit.gradients_parts import assert_same_function, norms_in, shake

# -- fast copies ---------------------------------------------------------------------------------


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
