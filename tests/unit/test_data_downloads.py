"""The sets that torchvision reads, from small files in their formats."""

import hashlib
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as known
from PIL import Image

from redoubtable.data import DATASETS, load, read

SPLITS = ("train", "validation", "test")


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_mnist(root, n_train=40, n_test=10):
    """Arrays in the idx format: a magic number, the sizes, the bytes."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n in (("train", n_train), ("t10k", n_test)):
        images, labels = pixels(n, 28, 28, seed=n), np.arange(n, dtype=np.uint8) % 10
        head = struct.pack(">IIII", 0x803, n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 0x801, n)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def write_cifar(root, kind, monkeypatch):
    """Pickled batches, whose sums torchvision is told to expect."""
    folder, count = root / kind.base_folder, 10 if kind is known.CIFAR10 else 100
    folder.mkdir(parents=True)
    names = [f"thing{i}" for i in range(count)]
    for attribute in ("train_list", "test_list"):
        sums = []
        for seed, (name, _) in enumerate(getattr(kind, attribute)):
            labels = "labels" if count == 10 else "fine_labels"
            batch = {"data": pixels(2 * count, 3072, seed=seed), labels: [*range(count)] * 2}
            sums.append([name, write_pickle(folder / name, batch)])
        monkeypatch.setattr(kind, attribute, sums)
    name, key = kind.meta["filename"], kind.meta["key"]
    monkeypatch.setattr(
        kind, "meta", kind.meta | {"md5": write_pickle(folder / name, {key: names})}
    )


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_svhn(root, monkeypatch):
    sums = {}
    for split, n in (("train", 40), ("test", 20)):
        path = root / f"{split}_32x32.mat"
        labels = np.arange(n) % 10 + 1  # ten stands for the digit zero
        scipy.io.savemat(path, {"X": pixels(32, 32, 3, n, seed=n), "y": labels[:, None]})
        url = f"http://localhost/{path.name}"
        sums[split] = [url, path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(known.SVHN, "split_list", sums)


def write_gtsrb(root):
    """Three classes of three tracks of four frames, of all sizes, and forty of one image.

    Six test images.
    """
    folder = root / "gtsrb" / "GTSRB"
    sizes = np.random.default_rng(0).integers(15, 80, (50, 2)).tolist()
    for label in range(3):
        (folder / "Training" / f"{label:05}").mkdir(parents=True)
        for track in range(3):
            for frame in range(4):
                path = folder / "Training" / f"{label:05}" / f"{track:05}_{frame:05}.ppm"
                Image.new("RGB", tuple(sizes.pop()), (label, track, frame)).save(path)
    for label in range(3, 43):
        (folder / "Training" / f"{label:05}").mkdir(parents=True)
        image = Image.new("RGB", (20, 20), (label, 0, 0))
        image.save(folder / "Training" / f"{label:05}" / "00000_00000.ppm")
    (folder / "Final_Test" / "Images").mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i in range(6):
        Image.new("RGB", tuple(sizes.pop()), (i, 0, 0)).save(
            folder / "Final_Test" / "Images" / f"{i:05}.ppm"
        )
        lines.append(f"{i:05}.ppm;1;1;0;0;1;1;{i % 3}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(lines))


def test_mnist(tmp_path):
    write_mnist(tmp_path)
    x, y = load("mnist", "test", root=tmp_path)
    assert np.array_equal((x * 255).round().byte()[:, 0], pixels(10, 28, 28, seed=10))
    assert y.tolist() == list(range(10))
    parts = [read("mnist", s, root=tmp_path) for s in SPLITS[:2]]
    assert [torch.bincount(p.labels).tolist() for p in parts] == [[3] * 10, [1] * 10]
    assert [(p.name, p.split) for p in parts] == [("mnist", "train"), ("mnist", "validation")]


def test_a_file_of_the_same_name_goes_first(tmp_path):
    write_mnist(tmp_path)
    whole = {"x_train": pixels(40, 28, 28, seed=40), "y_train": np.arange(40) % 10}
    whole |= {"x_test": pixels(10, 28, 28, seed=10), "y_test": np.arange(10)}
    of_torchvision = [read("mnist", s, root=tmp_path).digest() for s in SPLITS]
    np.savez(tmp_path / "mnist.npz", **whole)
    # The same images are cut the same way, whatever they are read from.
    assert [read("mnist", s, root=tmp_path).digest() for s in SPLITS] == of_torchvision
    np.savez(tmp_path / "mnist.npz", **(whole | {"y_test": np.arange(10)[::-1]}))
    assert read("mnist", "test", root=tmp_path).labels.tolist() == list(range(10))[::-1]


@pytest.mark.parametrize("kind", [known.CIFAR10, known.CIFAR100])
def test_cifar(tmp_path, monkeypatch, kind):
    write_cifar(tmp_path, kind, monkeypatch)
    name, classes = kind.__name__.lower(), 10 if kind is known.CIFAR10 else 100
    data = read(name, "test", root=tmp_path)
    assert (len(data), data.classes, data.shape) == (2 * classes, classes, (3, 32, 32))
    assert np.array_equal(
        data.read(torch.arange(len(data))).reshape(-1, 3072), pixels(2 * classes, 3072)
    )
    assert data.class_names[3] == "thing3"
    few = read(name, "test", root=tmp_path, classes=["thing7", "thing2"])
    assert few.labels.tolist() == [1, 0, 1, 0]


def test_a_changed_cifar_file_is_never_unpickled(tmp_path, monkeypatch):
    write_cifar(tmp_path, known.CIFAR10, monkeypatch)

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    write_pickle(tmp_path / known.CIFAR10.base_folder / "test_batch", Trap())
    with pytest.raises(ValueError, match=r"cifar10 is not in .*, or not whole .*corrupted"):
        read("cifar10", "test", root=tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_svhn(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    data = read("svhn", "test", root=tmp_path)
    expected = pixels(32, 32, 3, 20, seed=20).transpose(3, 2, 0, 1)
    assert np.array_equal(data.read(torch.arange(20)), expected)
    assert data.labels.tolist() == 2 * [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert len(read("svhn", "train", root=tmp_path)) == 30


def test_gtsrb_is_resized_and_no_track_is_cut(tmp_path):
    write_gtsrb(tmp_path)
    train, validation = (read("gtsrb", s, root=tmp_path) for s in SPLITS[:2])
    assert (len(train) + len(validation), len(validation) % 4) == (76, 0) and len(validation)
    assert train.shape == (3, 32, 32) and train.classes == 43
    for data in (train, validation):
        colours = data.read(torch.arange(len(data)))[:, :, 5, 5]
        assert torch.equal(colours[:, 0].long(), data.labels)
        assert torch.equal(colours[:, 1].long(), data.tracks)
    units = [
        set(zip(d.labels.tolist(), d.tracks.tolist(), strict=True)) for d in (train, validation)
    ]
    assert not units[0] & units[1]
    test = read("gtsrb", "test", root=tmp_path)
    assert test.labels.tolist() == [0, 1, 2, 0, 1, 2] and test.tracks is None
    assert test.read(torch.arange(6))[:, 0, 0, 0].tolist() == list(range(6))


NAMES = ("mnist", "cifar10", "cifar100", "svhn", "gtsrb")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_says_the_way_out(tmp_path, monkeypatch, name):
    files = DATASETS[name].facts["files"]
    with pytest.raises(ValueError) as caught:
        read(name, "test", root=tmp_path)
    text = str(caught.value)
    assert f"{name} is not in {tmp_path}" in text and "run again with --download" in text
    assert files in text and f"{name}.npz" in text and "\n" not in text
    monkeypatch.delenv("REDOUBT_DATA", raising=False)
    with pytest.raises(ValueError, match=f"{name} is read from files; name their folder as root"):
        read(name, "test")


def test_downloading_is_opted_into(tmp_path, monkeypatch):
    monkeypatch.setattr(known.MNIST, "download", lambda self: write_mnist(Path(self.root)))
    with pytest.raises(ValueError, match="--download"):
        read("mnist", "test", root=tmp_path)
    assert len(read("mnist", "test", root=tmp_path, download=True)) == 10

    def offline(self):
        raise URLError("no network")

    monkeypatch.setattr(known.SVHN, "download", offline)
    with pytest.raises(
        ValueError, match=r"svhn can't be downloaded .*no network.* place the files"
    ):
        read("svhn", "test", root=tmp_path, download=True)


def test_a_damaged_file_is_refused(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"mnist is not in .*, or not whole"):
        read("mnist", "test", root=tmp_path)


def test_shapes_in_memory_stay(tmp_path):
    write_mnist(tmp_path)
    assert read("mnist", "test", root=tmp_path, size=28, channels=1).shape == (1, 28, 28)
    for wrong in ({"size": 32}, {"channels": 3}):
        with pytest.raises(ValueError, match=r"mnist has images of \(1, 28, 28\).*leave them out"):
            read("mnist", "test", root=tmp_path, **wrong)


def test_few_of_each_class(tmp_path):
    write_mnist(tmp_path)
    data = read("mnist", "train", root=tmp_path, sizes={"train": 20, "validation": 10})
    assert torch.bincount(data.labels).tolist() == [2] * 10
