"""Networks by text, and those of a user's own."""

import json
import sys

import pytest
import torch
from torch import nn

from redoubtable.models import Card, architecture_of, create, load_model, open_model, save_model
from redoubtable.seeding import seeded

CODE = """
from pathlib import Path
import torch
from torch import nn

Path(__file__).with_suffix(".ran").touch()

class Net(nn.Module):
    def __init__(self, classes=2, *, width: int = 3, act=nn.ReLU, sides=(1, 2)):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), act(), nn.Flatten())
        self.linear = nn.LazyLinear(classes) if width == 99 else nn.Linear(width * 16, classes)

    def forward(self, x):
        return self.linear(self.body(x))

def factory(classes=2, channels=1, size=4, scale=1.0, quick=False, kind="plain"):
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))
    net.told = dict(classes=classes, channels=channels, size=size, scale=scale, quick=quick,
                    kind=kind)
    return net

def needs(classes, depth: "int" = 1): return factory(classes)
def odd(a: "Missing" = 1): return factory(a)
def one_of_two(*, pretrained=False):
    if pretrained: raise RuntimeError("no\\nnetwork")
    return nn.Linear(2, 2)
def anything(**kwargs):
    net = nn.Linear(2, 2); net.told = kwargs; return net
def broken(): raise RuntimeError("a reason\\nin two lines")
def number(): return 3
def taken():
    net = nn.Linear(2, 2); net.architecture = "mine"; return net
class holder:
    make = staticmethod(lambda classes=2: factory(classes))
ready = nn.Linear(2, 2)
value = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of a user's package, on the path."""
    package = tmp_path / "code" / "my_nets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(CODE)
    (package / "fails.py").write_text("raise OSError('no such disk')")
    (package / "lacks.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield package
    for name in [n for n in sys.modules if n.split(".")[0] == "my_nets"]:
        del sys.modules[name]


def test_registered_names_with_arguments():
    model = open_model("small_cnn:width=4,classes=7", classes=3, channels=2, size=9)
    assert architecture_of(model).text == (
        "small_cnn:channels=2,classes=7,mean=0.5,std=0.5,width=4"
    )
    assert model.training
    assert open_model("feinman_mnist", size=(12, 9)).shape == (1, 12, 9)
    assert (
        architecture_of(open_model("dunet_small:width=2", classes=3, channels=1)).arguments[
            "channels"
        ]
        == 1
    )
    assert open_model("feinman_mnist:size=12;9").shape == (1, 12, 9)
    with pytest.raises(ValueError, match="did you mean resnet20"):
        open_model("resnet2")
    with pytest.raises(ValueError, match="did you mean classes"):
        open_model("resnet20:clases=2")


def test_folders_of_saved_models(tmp_path, monkeypatch):
    model = create("small_cnn", width=2)
    made = architecture_of(model)
    save_model(tmp_path / "resnet20", model, Card(made.name, made.arguments, classes=10))
    monkeypatch.chdir(tmp_path)
    loaded = open_model("./resnet20", classes=3)
    assert architecture_of(loaded) == made and not loaded.training
    assert architecture_of(open_model("resnet20")).name == "resnet20"  # a model's name comes first
    with pytest.raises(ValueError, match=r"no model in .*: it has no card\.json"):
        open_model(str(tmp_path))
    with pytest.raises(ValueError, match="`weights` must be None with the saved model"):
        open_model("./resnet20", weights=tmp_path / "resnet20" / "model.safetensors")
    with pytest.raises(ValueError, match="`factory` must be None unless a folder"):
        open_model("resnet20", factory="resnet20")


def test_weights_of_a_registered_network(tmp_path):
    source = create("small_cnn", width=2)
    torch.save({"module." + k: v for k, v in source.state_dict().items()}, tmp_path / "a.pth")
    model = open_model("small_cnn:width=2", weights=tmp_path / "a.pth")
    x = torch.rand(2, 1, 9, 9)
    assert not model.training and torch.equal(model(x), source.eval()(x))


def test_factories_and_classes_of_a_user(mine):
    model = open_model("my_nets.nets:Net:width=5", classes=4, channels=1, size=4)
    assert model(torch.rand(2, 1, 4, 4)).shape == (2, 4)
    assert architecture_of(model).name == "my_nets.nets:Net"
    # A class as a default stays the factory's own: no card can hold it.
    assert architecture_of(model).arguments == {"classes": 4, "width": 5, "sides": [1, 2]}
    assert architecture_of(model).text == "my_nets.nets:Net:classes=4,sides=1;2,width=5"
    assert open_model("my_nets.nets:holder.make", classes=5)[1].out_features == 5


def test_arguments_are_read_as_defaults_and_annotations_say(mine):
    text = "my_nets.nets:factory:scale=1/4,quick=true,kind=wide,classes=3"
    told = open_model(text, classes=9, channels=2, size=8).told
    assert told == dict(classes=3, channels=2, size=8, scale=0.25, quick=True, kind="wide")
    # An argument without a default is one, too; what says nothing of its type may be anything.
    model = open_model("my_nets.nets:needs:classes=6,depth=2")
    assert architecture_of(model).arguments == {"classes": 6, "depth": 2}
    assert open_model("my_nets.nets:odd:a=4")[1].out_features == 4
    assert open_model("my_nets.nets:anything", classes=3).told == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "no_such.module:make",
            "cannot import the module 'no_such.module' .*: none is found; inst",
        ),
        ("my_nets.nothing:make", "'my_nets.nothing' of .*: none is found"),
        ("my_nets.lacks:make", "it needs 'not_there_at_all', which is not installed"),
        ("my_nets.fails:make", "cannot import the module 'my_nets.fails' .* OSError: no such disk"),
        ("resnet_20:make", r"did you mean the model resnet20\? Else install it"),
        ("my_nets.nets:factori", r"has no 'factori'; did you mean factory\?"),
        ("my_nets.nets:holder.nope", r"has no 'holder.nope'"),
        ("my_nets.nets:ready", "must be a function or class .*, got a network itself"),
        ("my_nets.nets:value", "got an object of type int;"),
        ("my_nets.nets:number", r"must return a torch\.nn\.Module, got int"),
        (
            "my_nets.nets:broken",
            "cannot build 'my_nets.nets:broken': RuntimeError: a reason in two",
        ),
        (
            "my_nets.nets:needs",
            "missing a required argument: 'classes'; write it as my_nets.nets:ne",
        ),
        ("my_nets.nets:taken", "must leave the attribute `architecture` to us"),
        ("my_nets.nets:factory:wide=3", "no argument 'wide'"),
        ("my_nets.nets:factory:quick=7", "quick must be true or false, got '7'"),
        ("my_nets.nets:factory:size", "write arguments as key=value, got 'size'"),
        ("my_nets.nets:anything:a=1", "no argument 'a'"),
        ("not a name", "unknown model 'not a name'"),
        ("", "unknown model ''"),
    ],
)
def test_bad_texts(mine, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_model(text)
    assert "\n" not in str(caught.value)


def test_weights_of_a_users_network(mine, tmp_path):
    source = open_model("my_nets.nets:Net:width=5")
    torch.save(source.state_dict(), tmp_path / "a.pt")
    model = open_model("my_nets.nets:Net:width=5", weights=tmp_path / "a.pt")
    assert torch.equal(model.linear.weight, source.linear.weight) and not model.training
    with pytest.raises(
        ValueError, match=r"don't fit my_nets\.nets:Net: misshaped: body\.0\.weight"
    ):
        open_model("my_nets.nets:Net:width=4", weights=tmp_path / "a.pt")


@pytest.fixture
def saved(mine, tmp_path):
    with seeded("mine"):
        model = open_model("my_nets.nets:Net:width=5", classes=4)
    made = architecture_of(model)
    save_model(tmp_path / "kept", model, Card(made.name, made.arguments, classes=4))
    del sys.modules["my_nets.nets"]
    ran = mine / "nets.ran"
    ran.unlink()
    return tmp_path / "kept", model, ran


def test_a_saved_network_of_a_user_comes_back_when_its_factory_is_named(saved):
    folder, model, ran = saved
    for loaded in (
        load_model(folder, factory="my_nets.nets:Net"),
        open_model(str(folder), factory="my_nets.nets:Net"),
    ):
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
        assert architecture_of(loaded) == architecture_of(model)
    assert ran.exists()


@pytest.mark.parametrize("factory", [None, "my_nets.nets:factory", "my_nets.nets:Net:width=5", ""])
def test_a_card_alone_imports_nothing(saved, factory):
    folder, _, ran = saved
    for opened in (load_model, lambda f, factory: open_model(str(f), factory=factory)):
        with pytest.raises(ValueError, match=r"pass factory='my_nets\.nets:Net' if you trust"):
            opened(folder, factory=factory)
    assert not ran.exists() and "my_nets.nets" not in sys.modules


def test_a_card_that_names_any_code_imports_nothing(tmp_path):
    model = create("small_cnn", width=2)
    made = architecture_of(model)
    save_model(tmp_path, model, Card(made.name, made.arguments, classes=10))
    assert (
        load_model(tmp_path, factory="small_cnn").state_dict().keys() == model.state_dict().keys()
    )
    with pytest.raises(
        ValueError, match="is built by 'small_cnn', and `factory` must name the same"
    ):
        load_model(tmp_path, factory="antigravity:make")
    card = json.loads((tmp_path / "card.json").read_text())
    for name in ("antigravity:fly", "antigravity:", ":", "antigravity.py"):
        (tmp_path / "card.json").write_text(json.dumps({**card, "architecture": name}))
        with pytest.raises(ValueError, match=r"must name the same|unknown model"):
            load_model(tmp_path)
    assert "antigravity" not in sys.modules


def test_a_saved_network_that_had_been_downloaded_asks_for_no_network(mine, tmp_path):
    name = "my_nets.nets:one_of_two"
    with pytest.raises(ValueError, match="RuntimeError: no network"):
        open_model(name + ":pretrained=true")
    model = nn.Linear(2, 2)
    save_model(tmp_path / "kept", model, Card(name, {"pretrained": True}, classes=2))
    loaded = load_model(tmp_path / "kept", factory=name)
    assert torch.equal(loaded.weight, model.weight)
    assert architecture_of(loaded).arguments == {"pretrained": True}
