"""Networks that start from torchvision's weights, without ever asking the network for them."""

import os
import urllib.error

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights

from redoubtable.models import Card, architecture_of, create, imagenet, load_model, save_model

TINY = SqueezeNet1_1_Weights.IMAGENET1K_V1


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Torch's cache, empty, and no network."""

    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["resnet101", "vgg16"])
def test_no_network_no_weights_but_a_way_out(cache, name):
    with pytest.raises(ValueError, match="cannot get the pretrained weights https://") as caught:
        create(name, pretrained=True)
    message = str(caught.value)
    assert "no route to host" in message and "pretrained=False" in message
    file = {"resnet101": "resnet101-63fe2227.pth", "vgg16": "vgg16-397923af.pth"}[name]
    assert str(cache / file) in message and "\n" not in message


def test_weights_in_the_cache_are_used(cache):
    state = {"a": torch.rand(3), "b": torch.rand(2, 2)}
    torch.save(state, cache / TINY.url.rsplit("/", 1)[-1])
    found = imagenet.pretrained_state(TINY)
    assert found.keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in found.items())


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_in_the_cache_runs_no_code(cache, tmp_path):
    torch.save({"a": Code(str(tmp_path / "ran"))}, cache / TINY.url.rsplit("/", 1)[-1])
    with pytest.raises(ValueError, match="cannot get the pretrained weights"):
        imagenet.pretrained_state(TINY)
    assert not (tmp_path / "ran").exists()


def test_wider_filters():
    weight = torch.rand(4, 3, 3, 3)
    assert torch.equal(imagenet.wider_filters(weight, 3), weight)
    wide = imagenet.wider_filters(weight, 6)
    assert torch.equal(wide[:, :3], weight)
    torch.testing.assert_close(wide[:, 3:], weight / 10)
    with pytest.raises(ValueError, match="`channels` must be 3 or 6 with pretrained=True, got 4"):
        imagenet.wider_filters(weight, 4)


def test_hidden_units_are_those_of_the_weights(cache):
    with pytest.raises(ValueError, match="`hidden` must be 4096 with pretrained=True, got 8"):
        create("vgg16", pretrained=True, hidden=8)


def same_features(ours, theirs, x, body):
    """Whether ours, on images in [0, 1], is theirs on images normalised by torchvision."""
    preset = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), body(theirs, preset(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_resnet101_is_torchvisions_but_for_the_head_and_comes_back_offline(tmp_path, monkeypatch):
    theirs = torchvision.models.resnet101(weights=None).eval()
    monkeypatch.setattr(imagenet, "pretrained_state", lambda _: dict(theirs.state_dict()))
    model = create("resnet101", pretrained=True, classes=3).eval()
    x = torch.rand(2, 3, 40, 40)
    made = architecture_of(model)
    save_model(tmp_path, model, Card(made.name, made.arguments, classes=3))

    def offline(_):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(imagenet, "pretrained_state", offline)
    loaded = load_model(tmp_path)
    assert architecture_of(loaded).arguments["pretrained"] is True
    assert torch.equal(loaded(x), model(x))
    assert loaded(x).shape == (2, 3)
    loaded.network.fc = theirs.fc = nn.Identity()
    same_features(loaded, theirs, x, lambda net, y: net(y))


@pytest.mark.slow
def test_vgg16_is_torchvisions_but_for_the_head(monkeypatch):
    theirs = torchvision.models.vgg16(weights=None).eval()
    monkeypatch.setattr(imagenet, "pretrained_state", lambda _: dict(theirs.state_dict()))
    model = create("vgg16", pretrained=True, classes=3).eval()
    x = torch.rand(2, 3, 40, 40)
    assert model(x).shape == (2, 3)
    model.classifier[6] = theirs.classifier[6] = nn.Identity()
    same_features(model, theirs, x, lambda net, y: net(y))
    wide = create("vgg16", pretrained=True, classes=1, channels=6).eval()
    six = torch.cat((x, torch.zeros_like(x)), 1)
    wide.classifier[6] = nn.Identity()
    same_features(lambda images: wide(six), theirs, x, lambda net, y: net(y))
