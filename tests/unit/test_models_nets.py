"""The networks of the papers, piece by piece."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from redoubtable.models import MODELS, create, weight_penalty
from redoubtable.models.resnet import ResidualBlock
from redoubtable.seeding import seeded


def build(name, **arguments):
    with seeded("nets", name):
        return create(name, **arguments)


def on_meta(name, **arguments):
    with torch.device("meta"):
        return create(name, **arguments).eval()


def shapes_of(modules, run):
    """Heights and widths that modules give out while something runs."""
    seen = []
    hooks = [
        m.register_forward_hook(lambda *a: seen.append(tuple(a[2].shape[2:]))) for m in modules
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def conv(before, width, side=3):
    return before * width * side * side + 2 * width  # without bias, with batch norm


def test_counts_that_no_paper_states():
    # Two poolings leave 7x7 of 28x28; with bias, without batch norm.
    small = (9 * 1 + 1) * 16 + (9 * 16 + 1) * 32 + (32 * 7 * 7 + 1) * 64 + 65
    # 32 -> 32 -> 30 -> 15 -> 15 -> 13 -> 6.
    gong = (27 + 1) * 32 + (288 + 1) * 32 + (288 + 1) * 64 + (576 + 1) * 64
    gong += (64 * 6 * 6 + 1) * 256 + 257
    # A decoder block that sees no lateral features has that many weights less in its first unit.
    dae = 11_033_984 - 9 * (256 * 256 + 256 * 256 + 128 * 128 + 64 * 64)
    unet = conv(3, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64) + conv(64, 128) + conv(128, 128)
    unet += conv(128 + 64, 64) + conv(64, 64) + conv(64 + 32, 32) + conv(32, 32) + 32 * 3
    # He et al.: a norm before each convolution, one after the last, 1x1 shortcuts without norm.
    preact = 27 * 64 + 4 * (9 * 64 * 64 + 2 * 64)
    for width in (128, 256, 512):
        half = width // 2
        preact += 9 * half * width + 3 * 9 * width * width + half * width + 2 * half + 3 * 2 * width
    preact += 2 * 512 + 5130
    counts = {"detector_small": small, "detector_gong": gong, "dae": dae, "dunet_small": unet}
    for name, count in {**counts, "preact_resnet18": preact}.items():
        assert MODELS[name].facts["parameters"] == count, name


# -- plain networks ------------------------------------------------------------------------------


def spelled(model):
    """The layers of a plain network in the order they are run in, in the words of the papers."""
    words = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.kernel_size == (3, 3) and module.stride == (1, 1)
            words.append(f"{'same' if module.padding == (1, 1) else 'valid'}{module.out_channels}")
        elif isinstance(module, nn.MaxPool2d):
            words.append(f"MP{module.kernel_size}")
        elif isinstance(module, nn.Dropout):
            words.append(f"D{module.p}")
        elif isinstance(module, nn.Linear):
            words.append(f"FC{module.out_features}")
        elif isinstance(module, nn.ReLU):
            words[-1] += "+"
    return " ".join(words)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("feinman_mnist", "valid64+ valid64+ MP2 D0.5 FC128+ D0.5 FC10"),
        (
            "feinman_cifar10",
            "same32+ same32+ MP2 same64+ same64+ MP2 same128+ same128+ MP2 D0.5 FC1024+ D0.5 "
            "FC512+ D0.5 FC10",
        ),
        ("feinman_svhn", "valid64+ valid64+ MP2 D0.5 FC512+ D0.5 FC128+ D0.5 FC10"),
        (
            "carlini_wagner_mnist",
            "valid32+ valid32+ MP2 valid64+ valid64+ MP2 FC200+ D0.5 FC200+ FC10",
        ),
        (
            "carlini_wagner_cifar10",
            "valid64+ valid64+ MP2 valid128+ valid128+ MP2 FC256+ D0.5 FC256+ FC10",
        ),
        ("detector_small", "same16+ MP2 same32+ MP2 FC64+ FC1"),
        ("detector_gong", "same32+ valid32+ MP2 D0.2 same64+ valid64+ MP2 FC256+ D0.5 FC1"),
    ],
)
def test_layers_are_those_of_the_papers(name, layers):
    model = on_meta(name)
    assert spelled(model) == layers
    # In `modules` they stand in the order of their making; this is the order in which they run.
    order = list(dict.fromkeys(m for m in model.modules() if not list(m.children())))
    ran = []
    for module in order:
        module.register_forward_hook(lambda m, *_: ran.append(m))
    model(torch.empty(1, *MODELS[name].facts["input"], device="meta"))
    assert ran == order


def test_images_of_another_shape_are_refused_by_name():
    model = build("carlini_wagner_mnist").eval()
    message = r"built for images of shape \(1, 28, 28\), got a batch of shape \(2, 3, 32, 32\)"
    with pytest.raises(ValueError, match=message):
        model(torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match="channels=1, size="):
        model(torch.rand(1, 28, 28))
    other = build("carlini_wagner_mnist", size=(20, 31)).eval()
    assert other(torch.rand(2, 1, 20, 31)).shape == (2, 10)
    with pytest.raises(ValueError, match="built for images"):
        other(torch.rand(2, 1, 31, 20))


@pytest.mark.parametrize("size", [(28,), (28, 28, 1), [], "28", (28, 0)])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="`size` must be"):
        create("feinman_mnist", size=size)


def test_the_smallest_images_that_leave_something():
    # Twice two convolutions of 3x3 and a pooling: 16 -> 14 -> 12 -> 6 -> 4 -> 2 -> 1.
    assert build("carlini_wagner_mnist", size=16).eval()(torch.rand(1, 1, 16, 16)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"after 2 poolings, got \(15, 15\); take larger"):
        create("carlini_wagner_mnist", size=15)
    assert build("feinman_cifar10", size=8).eval()(torch.rand(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(ValueError, match="after 3 poolings"):
        create("feinman_cifar10", size=7)


def test_sizes_are_read_from_text():
    bound = MODELS.bind("feinman_mnist:size=20,classes=5")
    assert dict(bound.arguments) == {"size": 20, "classes": 5}


@pytest.mark.parametrize(
    ("name", "grey"), [("feinman_cifar10", 0.5), ("carlini_wagner_mnist", 0.0)]
)
def test_what_the_published_networks_see(name, grey):
    x = torch.tensor([0.5, 1.0, 0.0]).reshape(3, 1, 1, 1)
    assert build(name).normalize(x).flatten().tolist() == [grey, grey + 0.5, grey - 0.5]


def test_weights_are_drawn_as_in_keras():
    for module in build("feinman_cifar10").modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            area = module.weight[0, 0].numel()
            fans = area * (module.weight.shape[0] + module.weight.shape[1])
            bound = math.sqrt(6 / fans)
            assert module.weight.abs().max() <= bound
            assert module.weight.abs().max() > 0.98 * bound
            assert not module.bias.any()


def test_penalty_of_feinman_cifar10():
    model = build("feinman_cifar10", size=8)
    with torch.no_grad():
        for module in model.hidden:
            if isinstance(module, nn.Linear):
                module.bias.fill_(0.5)
    first, second = (m for m in model.modules() if isinstance(m, nn.Linear) and len(m.bias) > 10)
    squares = [p.detach().double().square().sum().item() for p in first.parameters()]
    squares += [p.detach().double().square().sum().item() for p in second.parameters()]
    assert (len(first.bias), len(second.bias)) == (1024, 512)
    assert squares[1] == 256  # 1024 biases of 0.5
    penalty = weight_penalty(nn.Sequential(nn.Identity(), model))
    assert penalty.item() == pytest.approx(0.01 * sum(squares), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(second.bias.grad, torch.full((512,), 0.01))
    assert model.linear.weight.grad is None and model.features[0].weight.grad is None


def test_penalty_of_others_is_zero_and_wrong_names_are_refused():
    assert weight_penalty(build("feinman_mnist", size=8)).item() == 0
    model = nn.Sequential(nn.Linear(2, 2))
    model.penalised = {"1": 0.1}
    with pytest.raises(ValueError, match="`penalised` must name layers of Sequential, got '1'"):
        weight_penalty(model)


def test_dropout_is_there_in_training_only():
    x = torch.rand(4, 1, 28, 28)
    for name in ("feinman_mnist", "carlini_wagner_mnist"):
        model = build(name)
        assert not torch.equal(model(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


# -- residual networks ---------------------------------------------------------------------------


def test_preact_block_is_that_of_the_paper():
    block = build("wrn_28_10", width=1).stages[1][0]
    nn.init.normal_(block.bn1.weight)
    nn.init.normal_(block.bn2.bias)
    x = torch.randn(3, 16, 7, 6)
    block.eval()
    first = F.relu(x / math.sqrt(1 + 1e-5) * block.bn1.weight[:, None, None])
    inner = F.conv2d(first, block.conv1.weight, stride=2, padding=1) / math.sqrt(1 + 1e-5)
    inner = F.conv2d(F.relu(inner + block.bn2.bias[:, None, None]), block.conv2.weight, padding=1)
    short = F.conv2d(first, block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), inner + short, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_residual_blocks_are_those_of_torchvision(bottleneck, stride):
    kind = (
        torchvision.models.resnet.Bottleneck if bottleneck else torchvision.models.resnet.BasicBlock
    )
    width = 4 * kind.expansion
    short = nn.Sequential(nn.Conv2d(6, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    theirs = kind(6, 4, stride, short)
    ours = ResidualBlock(6, 4, stride, bottleneck)
    pairs = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(pairs))
    x = torch.randn(3, 6, 7, 6)
    torch.testing.assert_close(ours(x), theirs(x))  # in training: batch norms do change values


def test_wide_networks_are_drawn_by_the_fan_out_and_may_drop():
    model = build("wrn_28_10", width=2)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.weight[:, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(model(x), model(x))
    dropping = build("wrn_28_10", width=1, dropout=0.3)
    assert not torch.equal(dropping(x), dropping(x))


def test_depths():
    # Convolutions in the main path, and the linear layer, as depths are counted.
    for name, depth in {"resnet18": 18, "resnet50": 50, "preact_resnet18": 18}.items():
        parts = on_meta(name).named_modules()
        convs = [n for n, m in parts if isinstance(m, nn.Conv2d) and "shortcut" not in n]
        assert len(convs) + 1 == depth, name
    for name, depth in {"wrn_28_10": 28, "wrn_34_10": 34, "wrn_32_10": 34}.items():
        # Wide ResNets count one of the 1x1 shortcuts per stage too.
        convs = [m for m in on_meta(name).modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == depth, name


def test_resnet_stages_halve_the_image_three_times():
    model = on_meta("resnet18")
    x = torch.empty(1, 3, 33, 32, device="meta")
    sizes = shapes_of(model.stages, lambda: model(x))
    assert sizes == [(33, 32), (17, 16), (9, 8), (5, 4)]


# -- networks of torchvision ---------------------------------------------------------------------


@pytest.mark.parametrize(("side", "last"), [(224, 7), (299, 10), (331, 11)])
def test_last_map_of_resnet101(side, last):
    model = on_meta("resnet101")
    x = torch.empty(1, 3, side, side, device="meta")
    assert shapes_of([model.network.layer4], lambda: model(x)) == [(last, last)]


def test_vgg16_is_that_of_torchvision():
    ours = on_meta("vgg16", classes=1000)
    with torch.device("meta"):
        theirs = torchvision.models.vgg16(weights=None)
    assert repr(ours.features) == repr(theirs.features).replace("inplace=True", "")
    shapes = {k: v.shape for k, v in ours.state_dict().items() if not k.startswith("normalize")}
    assert shapes == {k: v.shape for k, v in theirs.state_dict().items()}
    widths = {6: 128, 18: 512, 30: 512}  # relu2_1, relu4_1, pool5
    kinds = {6: nn.ReLU, 18: nn.ReLU, 30: nn.MaxPool2d}
    sizes = {6: (112, 112), 18: (28, 28), 30: (7, 7)}
    x = torch.empty(1, 3, 224, 224, device="meta")
    for index, kind in kinds.items():
        assert isinstance(ours.features[index], kind)
        assert shapes_of([ours.features[index]], lambda: ours(x)) == [sizes[index]]
        assert ours.features[: index + 1](x).shape[1] == widths[index]


def test_imagenet_numbers_for_images_and_none_for_maps_beside_them():
    for channels, rest in ((3, 0), (6, 3)):
        normalize = build("vgg16", channels=channels, hidden=1).normalize
        assert normalize.mean.flatten().tolist() == pytest.approx(
            [0.485, 0.456, 0.406] + [0] * rest
        )
        assert normalize.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225] + [1] * rest)
    assert build("vgg16", channels=1, hidden=1, mean=0.1, std=0.2).normalize.std.item() == (
        pytest.approx(0.2)
    )


# -- denoisers -----------------------------------------------------------------------------------


def test_pyramid_of_the_denoiser():
    model = on_meta("dunet")
    x = torch.empty(1, 3, 299, 299, device="meta")
    sizes = shapes_of([*model.encoder, *model.decoder], lambda: model(x))
    assert [s[0] for s in sizes] == [299, 150, 75, 38, 19, 38, 75, 150, 299]
    assert model(x).shape == (1, 3, 299, 299)


@pytest.mark.parametrize("size", [(75, 75), (1, 1), (7, 2)])
def test_denoisers_give_back_the_size(size):
    x = torch.rand(2, 3, *size)
    for name in ("dunet", "dae", "dunet_small"):
        assert build(name, width=2).eval()(x).shape == x.shape


def test_denoisers_enlarge_corners_onto_corners():
    model, seen = build("dunet_small", width=4, lateral=False).eval(), {}
    model.encoder[-1].register_forward_hook(lambda m, i, out: seen.update(small=out))
    model.decoder[0].register_forward_pre_hook(lambda m, i: seen.update(large=i[0]))
    with torch.no_grad():
        model(torch.linspace(0, 1, 3 * 13 * 9).view(1, 3, 13, 9))
    assert seen["small"].shape[2:] == (4, 3) and seen["large"].shape[2:] == (7, 5)
    for part in (0, -1):
        assert torch.allclose(seen["large"][..., part, [0, -1]], seen["small"][..., part, [0, -1]])
    middle = (seen["small"][..., 0, :-1] + seen["small"][..., 0, 1:]) / 2
    assert torch.allclose(seen["large"][..., 0, 1::2], middle, atol=1e-6)


@pytest.mark.parametrize("name", ["dunet", "dae", "dunet_small"])
def test_residual_is_what_the_flag_says(name):
    x = torch.rand(2, 3, 9, 9)
    for residual in (True, False):
        model = build(name, width=2, residual=residual).eval()
        nn.init.zeros_(model.head.weight)
        assert torch.equal(model(x), x if residual else torch.zeros_like(x))


def test_lateral_features_reach_the_output():
    x = torch.rand(1, 3, 16, 16)
    for lateral in (True, False):
        model = build("dunet_small", width=4, lateral=lateral, residual=False).eval()
        # Without its deepest block only what comes from the side can depend on the image.
        model.encoder[2].register_forward_hook(lambda *a: torch.zeros_like(a[2]))
        same = torch.equal(model(x), model(1 - x))
        assert same is not lateral


def test_momentum_of_the_batch_norms():
    norms = [m for m in build("dunet", width=2, momentum=0.01).modules() if hasattr(m, "momentum")]
    assert len(norms) == 14 + 11 and {m.momentum for m in norms} == {0.01}
