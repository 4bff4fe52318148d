"""What every registered network must do, whatever it is."""

import functools
import inspect

import pytest
import torch
from torch import fx, nn

from redoubtable.gradients import fast_copy
from redoubtable.models import (
    MODELS,
    Card,
    architecture_of,
    create,
    load_model,
    save_model,
)
from redoubtable.seeding import seeded

NAMES = [entry.name for entry in MODELS]

# Published counts: of the papers and their public code, or of the specs, which derived them by
# hand; tests/unit/test_models_nets.py adds up others.
PUBLISHED = {
    "carlini_wagner_cifar10": 1_147_978,
    "carlini_wagner_mnist": 312_202,
    "dunet": 11_033_984,
    "feinman_cifar10": 2_915_114,
    "feinman_mnist": 1_218_634,
    "feinman_svhn": 6_528_714,
    "resnet18": 11_173_962,
    "resnet20": 269_722,
    "resnet50": 23_520_842,
    "wrn_28_10": 36_479_194,
    "wrn_34_10": 46_160_474,
    "wrn_32_10": 46_160_474,
    # torchvision states 44,549,160 and 138,357,544 with 1000 classes.
    "resnet101": 44_549_160 - 2049 * (1000 - 201),
    "vgg16": 138_357_544 - 4097 * (1000 - 10),
}

# The same networks with fewer channels or units, where they would be too slow for a test.
SMALLER = {
    **{n: {"width": 4} for n in ("resnet18", "resnet50", "preact_resnet18", "dunet", "dae")},
    **{n: {"width": 1} for n in ("wrn_28_10", "wrn_34_10", "wrn_32_10")},
    "vgg16": {"hidden": 16},
}
ODD, EVEN = (35, 33), (32, 36)


def takes(name):
    return inspect.signature(MODELS[name].obj).parameters


@functools.cache
def built(name, size=None, **arguments):
    """A network in eval mode whose batch norms have seen images; not to be changed."""
    if size and "size" in takes(name):
        arguments["size"] = size
    with seeded("built", name):
        model = create(name, **SMALLER.get(name, {}), **arguments)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 0.5  # half of the statistics at the start: no variance is almost 0
            nn.init.uniform_(norm.weight, 0.8, 1.2)
            nn.init.normal_(norm.bias, 0, 0.1)
        if norms:
            with torch.no_grad():
                channels = arguments.get("channels", MODELS[name].facts["input"][0])
                model.train()(torch.rand(8, channels, *(size or EVEN)))
    return model.eval()


def images(name, size, n=2, dtype=torch.float32):
    with seeded("images"):
        return torch.rand(n, MODELS[name].facts["input"][0], *size, dtype=torch.float64).to(dtype)


def expected_shape(model, x):
    made = architecture_of(model)
    if MODELS[made.name].facts["output"] == "images":
        return x.shape
    return (len(x), made.arguments["classes"])


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_stated(name):
    facts = MODELS[name].facts
    assert {"paper", "input", "output", "parameters"} <= set(facts)
    assert facts["output"] in ("logits", "images")
    assert ("classes" in takes(name)) == (facts["output"] == "logits")
    assert "channels" in takes(name)
    assert takes(name)["channels"].default == facts["input"][0]
    assert all(p.kind is p.KEYWORD_ONLY for p in takes(name).values())
    assert "million parameters" in MODELS[name].summary
    alias = facts.get("alias", name)
    assert MODELS[alias].obj is MODELS[name].obj


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name):
    with torch.device("meta"):
        count = sum(p.numel() for p in create(name).parameters())
    assert count == MODELS[name].facts["parameters"]
    assert count == PUBLISHED.get(name, count)
    told = MODELS[name].summary.split(":")[-1].split()[0]
    assert told == f"{count / 1e6:.{len(told.partition('.')[2])}f}"


@pytest.mark.parametrize("size", [ODD, EVEN])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_at_odd_and_even_sizes(name, size):
    model, x = built(name, size), images(name, size)
    with torch.no_grad():
        out = model(x)
    assert out.shape == expected_shape(model, x)
    assert out.isfinite().all()
    assert (out[0] - out[1]).abs().max() > 1e-7 * out.abs().max()  # the images do matter


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_and_channels(name):
    arguments = {"channels": 2, "classes": 7} if "classes" in takes(name) else {"channels": 2}
    model, x = built(name, EVEN, **arguments), torch.rand(1, 2, *EVEN)
    with torch.no_grad():
        assert model(x).shape == ((1, 7) if "classes" in takes(name) else x.shape)


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_from_the_global_generator_alone(name):
    if name == "resnet101":
        pytest.skip("drawn by torchvision, in seconds")
    arguments = SMALLER.get(name, {})
    states = []
    for seed in (0, 0, 1):
        with seeded("draw", seed):
            states.append(create(name, **arguments).state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert any(not torch.equal(v, states[2][k]) for k, v in states[0].items())


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_bit_identical(name, tmp_path):
    model, x = built(name, EVEN), images(name, EVEN)
    made = architecture_of(model)
    save_model(tmp_path / "kept", model, Card(made.name, made.arguments, classes=1))
    loaded = load_model(tmp_path / "kept")
    assert architecture_of(loaded) == made
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_one_image_is_answered_alike_alone_and_in_a_batch_of_any_precision(name):
    model, x = built(name, ODD), images(name, ODD, n=3, dtype=torch.float64)
    # A copy in double precision: rounding is then far below what any mistake would show.
    double = load_like(model).double()
    with torch.no_grad():
        together = double(x)
        alone = torch.cat([double(one[None]) for one in x])
        single = model(x.float())
    assert together.dtype == torch.float64
    scale = together.abs().max()
    torch.testing.assert_close(alone / scale, together / scale, rtol=0, atol=1e-10)
    torch.testing.assert_close(single.double() / scale, together / scale, rtol=0, atol=1e-4)


def load_like(model):
    made = architecture_of(model)
    copied = create(made.name, **made.arguments)
    copied.load_state_dict(model.state_dict())
    return copied.eval()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_channel_of_the_image(name):
    model, x = built(name, EVEN), images(name, EVEN).requires_grad_()
    with seeded("weights"):
        out = model(x)
        (slope,) = torch.autograd.grad((out * torch.rand_like(out)).sum(), x)
    assert slope.isfinite().all()
    assert (slope.abs().amax((2, 3)) > 0).all()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_used(name):
    model, x = built(name, EVEN), images(name, EVEN)
    out = model(x)
    slopes = torch.autograd.grad(out.square().sum(), list(model.parameters()), allow_unused=True)
    unused = [n for (n, _), s in zip(model.named_parameters(), slopes, strict=True) if s is None]
    assert not unused


@pytest.mark.parametrize("name", NAMES)
def test_traced_by_fx_in_both_modes(name):
    model, x = built(name, EVEN), images(name, EVEN)
    traced = fx.symbolic_trace(model)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x))
    if name != "resnet101":  # drawn by torchvision, in seconds
        fresh = create(name, **SMALLER.get(name, {}))
        assert isinstance(fx.symbolic_trace(fresh.train()), fx.GraphModule)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "resnet101")) for n in NAMES]
)
def test_fast_copy_is_folded_and_gives_the_same(name):
    # In double precision: in a deep network of random weights rounding can tip a ReLU.
    model, x = load_like(built(name, EVEN)).double(), images(name, EVEN, dtype=torch.float64)
    quick = fast_copy(model, x)
    assert isinstance(quick.searched, fx.GraphModule)
    with torch.no_grad():
        out = model(x)
        torch.testing.assert_close(quick(x), out, rtol=0, atol=1e-9 * out.abs().max().item())
    parts = dict(quick.searched.named_modules())
    called = [parts.get(str(node.target)) for node in quick.searched.graph.nodes]
    left = sum(isinstance(m, nn.BatchNorm2d) for m in called)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    # Where they come first, one of the two in each block has no convolution to be joined with, nor
    # has the last.
    assert left == (norms // 2 + 1 if "preact" in name or "wrn" in name else 0)


@pytest.mark.parametrize("name", NAMES)
def test_bad_sizes_are_refused(name):
    sizes = [k for k in ("classes", "channels", "width", "hidden", "size") if k in takes(name)]
    for argument in sizes:
        for bad in (0, -1, 2.5, True, "3", None):
            with pytest.raises(ValueError, match=f"`{argument}` must be"):
                create(name, **{argument: bad})
    for argument in {"dropout", "momentum"} & set(takes(name)):
        for bad in (-0.1, 1.0, "half"):
            with pytest.raises(ValueError, match=f"`{argument}` must be at least 0 and below 1"):
                create(name, **{argument: bad})
