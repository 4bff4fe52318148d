import errno
import json
import os

import numpy as np
import pytest
import torch

from redoubtable.attacks import fgsm
from redoubtable.data import Joined
from redoubtable.files import locked
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf
from redoubtable.training import Settings, read_stored, store
from redoubtable.training import stored as module
from redoubtable.training.stored import to_8_bit
from tests.unit.training.parts import fresh, quiet, toy

EPS = Linf(100 / 255)


@pytest.fixture
def model():
    return quiet(fresh(), toy(), "natural", Settings(epochs=2, batch_size=16)).model


def make(model, out, attack="fgsm", threat=EPS, data=None, **more):
    return store(model, data or toy(), attack, threat, out, progress=False, **more)


def test_stored_images_are_those_of_the_attack(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 20)
    data = toy()
    found = make(model, tmp_path, model_name="net", command="redoubt store net")
    x, y = data.floats()
    expected = fgsm(model, x, y, EPS)
    images, labels = found.images().floats()
    torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)  # multiples of 1/255 stay
    assert torch.equal(labels, y) and found.images().classes == 3
    assert found.images().name == "toy-fgsm" and found.images().split == "train"
    card = json.loads((tmp_path / "stored.json").read_text())
    assert card["attack"] == "fgsm" and card["threat"] == str(EPS)
    assert card["eps scale"] == "images in [0, 1]" and card["label"] == "true"
    assert card["access"] == "white box" and card["attacked model"]["name"] == "net"
    assert card["data"]["digest"] == data.digest() and card["seed"] == 0
    with torch.no_grad():
        shares = [(model(i).argmax(1) == y).float().mean().item() for i in (x, expected)]
    kept = card["accuracy of the attacked model"]
    assert kept == {"n": 70, "clean": pytest.approx(shares[0]), "stored": pytest.approx(shares[1])}
    assert kept["stored"] < kept["clean"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npy", "labels.npy", "stored.json"]


def test_predicted_labels_attack_what_the_model_says(model, tmp_path):
    data = toy()
    wrong = toy()
    wrong.labels.copy_((data.labels + 1) % 3)  # the model says otherwise
    found = make(model, tmp_path, data=wrong, label="predicted", transfer_to="another")
    x, _ = data.floats()
    with torch.no_grad():
        said = model(x).argmax(1)
    images, labels = found.images().floats()
    torch.testing.assert_close(images, fgsm(model, x, said, EPS), atol=1e-6, rtol=0)
    assert torch.equal(labels, wrong.labels) and found.card["access"] == "transfer to another"


@pytest.mark.parametrize("threat", [Linf(0.0301), L2(0.4)])
def test_rounding_never_leaves_the_threat(threat):
    with seeded("rounding"):
        x = torch.randint(0, 256, (300, 1, 4, 4)) / 255
        x_adv = threat.project(x + 0.2 * torch.randn(300, 1, 4, 4), x)
    stored = to_8_bit(x_adv, x, threat)
    assert threat.contains(stored / 255, x).all()
    assert ((stored / 255 - x_adv).abs() <= 1 / 255 + 1e-6).all()
    plain = (x_adv * 255).round() / 255
    assert not threat.contains(plain, x).all()  # or this test could not fail
    kept = threat.contains(plain, x)
    assert torch.equal(stored[kept] / 255, plain[kept])
    with pytest.raises(ValueError, match="outside"):
        to_8_bit((x + 0.5).clamp(0, 1), x, threat)


def test_stopped_and_called_again_gives_the_same_bytes(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 20)
    attack = "pgd:steps=2"
    whole = make(model, tmp_path / "whole", attack)
    calls, inner = [], module.to_8_bit

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(module, "to_8_bit", dying)
    with pytest.raises(KeyboardInterrupt):
        make(model, tmp_path / "cut", attack)
    with pytest.raises(ValueError, match="not finished; give the same `redoubt store` again"):
        read_stored(tmp_path / "cut")
    cut = make(model, tmp_path / "cut", attack)
    assert len(calls) == 3 + 2  # of four chunks two were kept
    assert cut.card == whole.card
    for name in ("images.npy", "labels.npy"):
        files = [(tmp_path / run / name).read_bytes() for run in ("whole", "cut")]
        assert files[0] == files[1]
    make(model, tmp_path / "cut", attack)
    assert len(calls) == 5
    with pytest.raises(ValueError, match=r"holds other stored images: their attack is pgd:steps=2"):
        make(model, tmp_path / "cut", "pgd:steps=3")


def test_full_disk_and_cut_file_are_named_and_the_run_goes_on(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 20)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    make(model, whole)
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(os.readlink(f"/proc/self/fd/{handle}"))
        if [c.endswith("images.npy") for c in calls].count(True) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"cannot write to .*images\.npy \(No space left"):
            make(model, cut)
    images = cut / "images.npy"
    content = images.read_bytes()
    images.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"images\.npy is missing or cut short; delete"):
        make(model, cut)
    images.write_bytes(content)
    make(model, cut)
    assert images.read_bytes() == (whole / "images.npy").read_bytes()


def test_a_model_of_other_images_or_classes_is_refused_before_anything_is_written(tmp_path):
    for other, message in (
        (fresh(channels=3), "can't take the images of toy"),
        (fresh(classes=2), "build it with classes=3"),
    ):
        other.train()
        with pytest.raises(ValueError, match=message):
            make(other, tmp_path / "none")
        assert other.training and not (tmp_path / "none").exists()


def test_a_folder_in_use_is_refused_and_left_as_it_is(model, tmp_path):
    with (
        locked(tmp_path, "storing"),
        pytest.raises(ValueError, match="in use by the storing of process"),
    ):
        make(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_made_of_a_test_split_are_not_trained_on(model, tmp_path):
    from typer.testing import CliRunner

    from redoubtable.cli import app

    make(model, tmp_path / "stored", data=toy(split="test"))
    command = ["train", "--out", str(tmp_path / "run"), "--stored", str(tmp_path / "stored")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and not (tmp_path / "run").exists()
    assert "must be made of training images" in done.stderr and done.stderr.count("\n") == 1


def test_seed_names_the_draws_of_the_attack(model, tmp_path):
    def images(name, seed):
        return make(model, tmp_path / name, "pgd:steps=1", seed=seed).images().floats()[0]

    first = images("a", 0)
    assert torch.equal(first, images("b", 0)) and not torch.equal(first, images("c", 1))


def test_mode_and_gradients_of_the_model_stay(model, tmp_path):
    model.train()
    make(model, tmp_path)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_training_on_clean_and_stored_images_sees_both_halves(model, tmp_path):
    found = make(model, tmp_path, "pgd:steps=3")
    both = Joined("toy+toy-pgd", "train", (toy(), found.images()))
    seen = []
    hook = model.register_forward_pre_hook(lambda m, a: seen.append((m.training, a[0])))
    quiet(model, both, "natural", Settings(epochs=1, batch_size=16))
    hook.remove()
    images = torch.cat([x for training, x in seen if training]).mul(255).round().to(torch.uint8)
    stored = torch.from_numpy(np.load(tmp_path / "images.npy")).permute(0, 3, 1, 2)
    expected = torch.cat([toy().images, stored]).flatten(1)
    assert len(images) == 140
    rows = [sorted(map(tuple, r.flatten(1).tolist())) for r in (images, expected)]
    assert rows[0] == rows[1]
    shares = [(~(x[:, None] == expected[None, :70]).all(2).any(1)).float().mean() for x in
              [images.flatten(1)[:70]]]  # fmt: skip
    assert 0.2 < shares[0] < 0.8  # the halves are mixed, not one after the other


def test_store_refuses(model, tmp_path):
    with pytest.raises(ValueError, match="`label` must be one of true, predicted"):
        make(model, tmp_path, label="wrong")
    with pytest.raises(ValueError, match="did you mean fgsm"):
        make(model, tmp_path, "fgs")
    with pytest.raises(ValueError, match="no stored images in"):
        read_stored(tmp_path / "nowhere")
