"""Networks with sampling units: where the units stand, what runs once, and that nothing stays."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.defenses import MVM, SAP, Dropout, Sampled, Vote, insert_units, remove_units
from redoubtable.defenses.sampling.placing import AtFeatureMaps
from redoubtable.defenses.sampling.units import Unit
from redoubtable.gradients import answers, fast_copy, input_gradient, mean_logits
from redoubtable.losses import aim, cross_entropy
from redoubtable.models import create
from redoubtable.parts import bare, facts_of
from redoubtable.seeding import seeded
from tests.networks import blobs, small_net


class Functional(nn.Module):
    """Functions instead of modules, in place and not, with a shortcut over the sampled map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        stem = F.relu(self.stem(x), inplace=True)
        body = torch.relu(self.body(stem))
        body = body + stem
        return self.linear(body.mean((2, 3)))


class Branches(nn.Module):
    """Two branches of the image: the second starts anew from what came before the first unit."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3, padding=1)
        self.right = nn.Conv2d(3, 6, 3, padding=1)
        self.linear = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1
        left = self.left(x).relu()
        right = F.relu(self.right(x))
        both = torch.cat([left, right], 1)
        return self.linear(F.adaptive_avg_pool2d(both, 1).flatten(1).relu())


class Twice(Unit):
    """No randomness: every draw is its number times the map, so draws can be told apart."""

    def probabilities(self, maps: Tensor, places: int) -> Tensor:
        return maps.new_zeros(len(maps), 1)

    def factors(self, probabilities: Tensor, draws: int, shape: torch.Size, places: int) -> Tensor:
        numbers = torch.arange(1.0, draws + 1).view(-1, 1, 1, 1, 1)
        return numbers.expand(draws, shape[0], 1, 1, 1)


def networks() -> dict[str, nn.Module]:
    with seeded("networks"):
        found = {
            "small": small_net(),
            "functional": Functional(),
            "branches": Branches(),
            "resnet20": create("resnet20", classes=4, channels=3),
            "resnet18": create("resnet18", classes=4, channels=3),
            "preact": create("preact_resnet18", classes=4, channels=3),
            "feinman": create("feinman_cifar10", classes=4, channels=3, size=16),
        }
    return {name: net.eval().requires_grad_(False) for name, net in found.items()}


NETWORKS = networks()
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def images(n: int = 3) -> Tensor:
    return blobs(n, height=16, width=16, seed=1)


def by_hand(net: nn.Module, x: Tensor, times: float, first: int = 0) -> Tensor:
    """The network with every ReLU map from `first` on multiplied."""
    with AtFeatureMaps(lambda i, m: m * times if i >= first else m, x), torch.no_grad():
        return net(x)


@every_network
@pytest.mark.parametrize("first", [0, 1])
def test_draws_that_share_the_first_layers_are_those_of_whole_passes(name: str, first: int) -> None:
    net, x = NETWORKS[name], images()
    found = Sampled(net, Twice(), first=first).answers(x, 3)
    for draw in range(3):
        expected = by_hand(net, x, draw + 1.0, first)
        torch.testing.assert_close(found[draw], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1])


def test_draws_at_the_input_are_those_of_whole_passes() -> None:
    net, x = NETWORKS["small"], images()
    found = Sampled(net, Twice(), first=99, at_input=True).answers(x, 2)
    torch.testing.assert_close(found[1], net(2 * x))


def test_the_image_that_is_sampled_stays_as_it_is() -> None:
    x = images()
    kept = x.clone()
    with torch.no_grad():
        Sampled(NETWORKS["small"], MVM(0.2), at_input=True)(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("first", [0, 1])
def test_what_comes_before_the_units_runs_once_for_all_draws(first: int) -> None:
    net, x = copy.deepcopy(NETWORKS["small"]), images(2)
    seen: dict[str, list[int]] = {"conv1": [], "conv2": [], "linear": []}
    for layer, lengths in seen.items():
        module = net.get_submodule(layer)
        module.register_forward_hook(lambda m, a, out, to=lengths: to.append(len(out)))
    Sampled(net, Dropout(), first=first, recompute=True).answers(x, 10)
    assert seen["conv1"] == [2]
    assert seen["conv2"] == [20 if first == 0 else 2]
    assert seen["linear"] == [20]


@every_network
def test_units_change_nothing_in_the_network(name: str) -> None:
    net, x = NETWORKS[name], images()
    state, before = copy.deepcopy(net.state_dict()), net(x)
    hooks = [dict(m._forward_hooks) for m in net.modules()]
    model = insert_units(net, MVM(0.5))
    with seeded("draw"):
        model(x)
    assert remove_units(model) is net and bare(model) is net
    assert torch.equal(net(x), before)
    assert [dict(m._forward_hooks) for m in net.modules()] == hooks
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key])


def test_nothing_stays_after_an_exception() -> None:
    net, x = NETWORKS["small"], images()

    class Broken(Dropout):
        def factors(
            self, probabilities: Tensor, draws: int, shape: torch.Size, places: int
        ) -> Tensor:
            raise RuntimeError("broken")

    before = net(x)
    with pytest.raises(RuntimeError, match="broken"):
        insert_units(net, Broken())(x)
    assert torch.equal(net(x), before)


def test_units_stand_at_feature_maps_and_not_after_flattening() -> None:
    shapes = [p.shape for p in insert_units(NETWORKS["feinman"], SAP()).probabilities(images())]
    # Six convolutions; the two hidden layers have ReLUs, too.
    assert [s[1] for s in shapes] == [32 * 256, 32 * 256, 64 * 64, 64 * 64, 128 * 16, 128 * 16]


def test_first_leaves_out_the_places_before_it() -> None:
    x = images()
    all_of_them = insert_units(NETWORKS["resnet20"], MVM()).probabilities(x)
    last = insert_units(NETWORKS["resnet20"], MVM(), first=13).probabilities(x)
    assert (len(all_of_them), len(last)) == (19, 6)
    torch.testing.assert_close(last[0], all_of_them[13])


def test_probabilities_are_those_of_the_unsampled_pass_unless_recomputed() -> None:
    """A unit whose first factor kills the map: later units still have the map's probabilities."""
    seen: list[Tensor] = []

    class Killing(MVM):
        def factors(
            self, probabilities: Tensor, draws: int, shape: torch.Size, places: int
        ) -> Tensor:
            seen.append(probabilities)
            return torch.zeros(draws, len(probabilities), 1, *shape[2:])

    net, x = NETWORKS["small"], images(1)
    model = Sampled(net, Killing())
    model(x)
    torch.testing.assert_close(seen[1], model.probabilities(x)[1])
    seen.clear()
    Sampled(net, Killing(), recompute=True)(x)
    torch.testing.assert_close(seen[0], model.probabilities(x)[0])
    assert not torch.allclose(seen[1], model.probabilities(x)[1])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("unit", [MVM(0.5), SAP(0.5), Dropout()], ids=lambda u: type(u).__name__)
def test_draws_and_images_differ_and_a_seed_repeats_them(unit: Unit, recompute: bool) -> None:
    x = images(1).repeat(2, 1, 1, 1)
    model = insert_units(NETWORKS["resnet20"], unit, recompute=recompute)

    def look() -> Tensor:
        with seeded("look"):
            return model.answers(x, 3)

    found = look()
    assert torch.equal(found, look())
    flat = found.flatten(0, 1)
    assert len({tuple(row.tolist()) for row in flat}) == 6


def test_the_mean_of_a_linear_rest_is_the_network() -> None:
    """With one unit and nothing but linear layers after it, the mean logits are the network's."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    x = images(2)
    with seeded("weights"):
        net(x)
    for unit in (MVM(0.5), SAP(0.5), Dropout(0.3)):
        with seeded("mean"), torch.no_grad():
            found = insert_units(net, unit).answers(x, 4000)
        error = (found.mean(0) - net(x)) / (found.std(0) / 4000**0.5)
        assert error.abs().max() < 4.5


def test_the_identity_lets_gradients_pass_as_if_nothing_were_sampled() -> None:
    """Of a linear rest: exactly the gradient of the network without units."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    x, y = images(2), torch.tensor([0, 1])
    with seeded("weights"):
        net(x)
    objective = aim(lambda z, labels: z[:, 0] * 3 - z[:, 1], y, None)
    plain = input_gradient(net, x, objective)
    identity = insert_units(net, MVM(0.5), derivative="identity")
    fixed = insert_units(net, MVM(0.5))
    with seeded("draw"):
        found = input_gradient(identity, x, objective)
        other = input_gradient(fixed, x, objective)
        mean = input_gradient(fixed, x, objective, eot=3000)
    torch.testing.assert_close(found.gradient, plain.gradient)
    assert not torch.allclose(found.logits, plain.logits)
    assert not torch.allclose(other.gradient, plain.gradient)
    off = (mean.gradient - plain.gradient).norm() / plain.gradient.norm()
    assert off < 0.1 < (other.gradient - plain.gradient).norm() / plain.gradient.norm()


def test_the_implicit_derivative_also_goes_through_the_probabilities() -> None:
    net, x = NETWORKS["small"], images(2)
    objective = aim(cross_entropy, torch.tensor([0, 1]), None)
    found = {}
    for derivative in ("fixed", "implicit"):
        with seeded("draw"):
            model = insert_units(net, MVM(0.5, law="bernoulli"), derivative=derivative)
            found[derivative] = input_gradient(model, x, objective)
    torch.testing.assert_close(found["fixed"].logits, found["implicit"].logits)
    assert not torch.allclose(found["fixed"].gradient, found["implicit"].gradient)
    assert found["implicit"].gradient.isfinite().all()


def test_gradients_over_draws_share_the_unsampled_pass() -> None:
    net, x = copy.deepcopy(NETWORKS["small"]), images(2)
    lengths: list[int] = []
    net.register_forward_hook(lambda m, a, out: lengths.append(len(out)))
    objective = aim(cross_entropy, torch.tensor([0, 1]), None)
    input_gradient(insert_units(net, MVM()), x, objective, eot=5)
    assert sum(lengths) == 2 + 10
    lengths.clear()
    Vote(insert_units(net, MVM()), draws=5)(x)
    assert sum(lengths) == 2 + 10
    assert facts_of(Vote(insert_units(net, MVM()), draws=5)).passes == 6


def test_mean_logits_are_means_over_all_draws() -> None:
    model, x = insert_units(NETWORKS["small"], MVM(0.3, "layer")), images(4)
    with seeded("mean"):
        found = mean_logits(model, x, eot=6)
    with seeded("mean"), torch.no_grad():
        torch.testing.assert_close(found, model.answers(x, 6).mean(0))
    assert not torch.allclose(found, model(x))


def test_draws_are_cut_too_where_memory_bounds_a_pass() -> None:
    net, x = copy.deepcopy(NETWORKS["small"]), images(2)
    lengths: list[int] = []
    net.register_forward_hook(lambda m, a, out: lengths.append(len(out)))
    model, objective = insert_units(net, Twice()), aim(cross_entropy, torch.tensor([0, 1]), None)
    whole = {n: (input_gradient(model, x, objective, eot=n), model.answers(x, n)) for n in (4, 2)}
    lengths.clear()
    found = input_gradient(model, x, objective, eot=10, batch_size=4)
    mean = mean_logits(model, x, eot=10, batch_size=4)
    assert max(lengths) == 4 and sum(lengths) == 2 * 20 + 2 * 2 * 3  # and the unsampled passes
    # Turns of 4, 4 and 2 draws, in each of which this unit counts from 1.
    for key in ("gradient", "loss", "logits"):
        four, two = getattr(whole[4][0], key), getattr(whole[2][0], key)
        torch.testing.assert_close(getattr(found, key), 0.8 * four + 0.2 * two)
    torch.testing.assert_close(mean, found.logits)


def test_a_batch_is_cut_but_answers_keep_their_order() -> None:
    net, x = NETWORKS["small"], images(150)
    found = insert_units(net, Twice()).answers(x, 2)
    torch.testing.assert_close(found[1], by_hand(net, x, 2.0), rtol=1e-4, atol=1e-4)
    assert answers(insert_units(net, Twice()), x[:0], 2).shape == (2, 0, 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["small", "functional", "resnet20", "feinman"])
def test_a_fast_copy_samples_the_same_places(name: str, precision: str) -> None:
    net, x = NETWORKS[name], images()
    model = insert_units(net, Twice())
    copied, close = fast_copy(model, x, precision), 1e-4 if precision == "fp32" else 0.05
    with torch.no_grad():
        found, exact = answers(copied, x, 2), answers(model, x, 2)
    assert (found - exact).abs().max() < close * exact.abs().max()
    assert (exact[0] - exact[1]).abs().max() > 0.1 * exact.abs().max()  # of the units, not the net
    random = fast_copy(insert_units(net, MVM(0.5)), x, precision)
    with seeded("one"):
        one = random(x)
    assert one.shape == exact[0].shape and not torch.equal(one, random(x))


def test_networks_without_a_place_and_networks_with_units_are_refused() -> None:
    x = images()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="no ReLU before flattening"):
        insert_units(flat, MVM())(x)
    with pytest.raises(ValueError, match="no ReLU before flattening"):
        insert_units(flat, SAP(), recompute=True)(x)
    insert_units(flat, MVM(), at_input=True)(x)
    with pytest.raises(ValueError, match="2 ReLUs before flattening"):
        insert_units(NETWORKS["small"], MVM(), first=2)(x)
    with pytest.raises(ValueError, match="has sampling units already"):
        insert_units(nn.Sequential(insert_units(NETWORKS["small"], MVM())), Dropout())
    with pytest.raises(TypeError, match="must be a Unit"):
        insert_units(NETWORKS["small"], nn.ReLU())
    with pytest.raises(ValueError, match="`first`"):
        insert_units(NETWORKS["small"], MVM(), first=-1)
    with pytest.raises(ValueError, match="`derivative`"):
        insert_units(NETWORKS["small"], MVM(), derivative="exact")


def test_a_network_that_mixes_its_batch_is_refused() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x).mean((0, 2, 3))[None]

    with pytest.raises(ValueError, match="one answer to each image"):
        insert_units(Mixing(), MVM()).answers(images(), 2)


@pytest.mark.parametrize(
    ("first", "recompute", "calls"), [(0, False, 4), (1, False, 2), (1, True, 4)]
)
def test_later_maps_are_drawn_for_more_images_at_a_time(
    first: int, recompute: bool, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor takes 64 whole images; maps of a quarter of the places are half as large."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip
    model = insert_units(net.eval(), MVM(0.5), first=first, recompute=recompute)
    sizes: list[int] = []
    draw = Sampled.draw

    def spied(self: Sampled, x: Tensor, *given: object) -> Tensor:
        sizes.append(len(x))
        return draw(self, x, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Sampled, "draw", spied)
    with torch.no_grad():
        assert model.answers(torch.rand(16, 3, 8, 8), 16).shape == (16, 16, 3)
    assert len(sizes) == calls and sum(sizes) == 16
