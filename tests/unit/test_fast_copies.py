"""The copies that attacks search on: folded, of the same function, without a trace."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from redoubtable.defenses import InputTransform, Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.gradients import FastCopy, exact_model, fast_copies, fast_copy, input_gradient
from redoubtable.gradients.rectified import Rectified, add_into
from redoubtable.losses import aim, cross_entropy, margin
from redoubtable.models import create
from redoubtable.parts import facts_of
from redoubtable.seeding import seeded
from tests.networks import RandomScale, blobs, facts, small_net
from tests.unit.gradients_parts import assert_same_function, norms_in, shake


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


class Branches(nn.Module):
    """Outputs of convolutions that are read once or twice, or added to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(6))
        self.relu = nn.ReLU()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = (conv(x) for conv in self.convs[:5])
        once = self.relu(a) + 1.0
        twice = b + self.relu(b)
        doubled = self.relu(c + c)
        other = nn.functional.relu(x + d) + d.mean((2, 3), keepdim=True)
        added = torch.relu(self.relu(x) + e)
        wide = self.convs[5](x.mean((2, 3), keepdim=True)) + x  # the sum is larger than its place
        return self.head((once + twice + doubled + other + added + wide).mean((2, 3)))


def test_only_what_nothing_else_reads_is_written_over() -> None:
    with seeded("branches"):
        model = Branches().eval()
    images = blobs(6)
    before = images.clone()
    quick = fast_copy(model, images[:2])
    assert isinstance(quick.searched, torch.fx.GraphModule)
    targets = [n.target for n in quick.searched.graph.nodes]
    calls = [m for m in quick.modules() if isinstance(m, Rectified)]
    assert len(calls) == 2  # what is added to itself is read twice
    assert targets.count(add_into) == 3 and targets.count(torch.relu_) == 1
    assert_same_function(model, quick, images)
    with torch.no_grad():
        assert torch.equal(quick(images), quick(images))
    assert torch.equal(images, before)


def test_residual_networks_are_rectified_in_place() -> None:
    quick = fast_copy(create("resnet20").eval(), blobs(2, 3, 8, 8))
    targets = [n.target for n in quick.searched.graph.nodes]  # type: ignore[union-attr]
    assert torch.relu_ not in targets and add_into not in targets
    assert sum(isinstance(m, Rectified) for m in quick.modules()) == 19


def test_deep_networks_are_folded_although_rounding_tips_their_slopes() -> None:
    with seeded("deep", 3):  # one whose slopes differ by more than rounding in single precision
        model = create("resnet110").eval()
    images = blobs(2, 3, 32, 32)
    quick = fast_copy(model, images)
    assert norms_in(model, images) == 109
    assert norms_in(quick, images) == 0
    assert_same_function(model, quick, images)
    assert {p.dtype for p in quick.parameters()} == {torch.float32}


@pytest.mark.parametrize("shift", [0.0, 1e-6])
def test_double_precision_has_the_last_word(
    x: Tensor, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another processor other slopes tip; and what differs by more than rounding is refused."""
    same, join = fast_copies._same, fast_copies._joined
    monkeypatch.setattr(
        fast_copies, "_same", lambda a, b, x, **k: x.dtype == torch.float64 and same(a, b, x, **k)
    )

    def joined(network: nn.Module) -> nn.Module:
        traced = join(network)
        next(p for p in traced.parameters() if p.ndim == 4).data += shift  # joined, so not shared
        return traced

    monkeypatch.setattr(fast_copies, "_joined", joined)
    net = shake(small_net())
    quick = fast_copy(net, x)
    assert norms_in(quick, x) == (2 if shift else 0)
    assert_same_function(net, quick, x)


def test_what_only_double_precision_can_hold_is_not_folded(x: Tensor) -> None:
    """Joined, the weights would be 3e39, past single precision; apart they are not."""
    first, second = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(2))
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        first.weight.fill_(1e-12)
        second.weight.fill_(100.0)
        norm.running_var.zero_()
        norm.weight.fill_(1e35)
    net = nn.Sequential(first, second, norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    quick = fast_copy(net, x)
    assert net(x).isfinite().all()
    assert torch.allclose(quick(x), net(x), rtol=1e-4)


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
