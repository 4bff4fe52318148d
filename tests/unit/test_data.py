import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from redoubtable.data import DATASETS, Dataset, load, read
from redoubtable.data.splits import draw_part

SPLITS = ("train", "validation", "test")


def arrays(n_train=200, n_test=40, classes=4, channels=3, seed=0):
    """A file's content, sorted by class; the first pixel numbers the training images."""
    random = np.random.default_rng(seed)
    shape = (6, 5, channels) if channels else (6, 5)
    found = {}
    for part, n in (("train", n_train), ("test", n_test)):
        found[f"x_{part}"] = random.integers(0, 256, (n, *shape), dtype=np.uint8)
        found[f"y_{part}"] = np.sort(np.arange(n) % classes).astype(np.uint8)
    found["x_train"].reshape(n_train, -1)[:, 0] = np.arange(n_train) % 256
    return found


def write(path, **content):
    np.savez(path, **content)
    return str(path)


@pytest.fixture
def npz(tmp_path):
    return write(tmp_path / "toy.npz", **arrays())


def test_digits_have_the_stated_splits():
    facts = DATASETS["digits"].facts
    parts = {split: read("digits", split) for split in SPLITS}
    assert {s: len(d) for s, d in parts.items()} == facts["sizes"]
    assert facts["sizes"] == {"train": 997, "validation": 300, "test": 500}
    whole = load_digits()
    for data in parts.values():
        assert (data.shape, data.classes) == (facts["shape"], facts["classes"])
        shares = torch.bincount(data.labels) / len(data)
        assert (shares - torch.from_numpy(np.bincount(whole.target) / 1797)).abs().max() < 0.005
    # Together they are all digits: the enlarging merges none, and no split lacks any.
    together = torch.cat([d.images for d in parts.values()]).unique(dim=0)
    assert len(together) == len(np.unique(whole.images, axis=0))


def test_digits_are_the_bilinear_enlargement():
    whole = torch.from_numpy(load_digits().images)[:, None] / 16
    wanted = F.interpolate(whole, (28, 28), mode="bilinear", align_corners=False)
    rows = {bytes(image): i for i, image in enumerate((wanted * 255).round().byte().numpy())}
    x, y = load("digits", "test")
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    assert x.min() == 0 and x.max() == 1 and x.shape[1:] == (1, 28, 28)
    target = load_digits().target
    found = 0
    for image, label in zip(x, y, strict=True):
        assert torch.equal((image * 255).round() / 255, image)
        index = rows.get(bytes((image * 255).round().byte().numpy()))
        if index is not None:  # floats may round an exact half to the other side
            found += 1
            assert target[index] == label
    assert found > 300


def test_digits_never_move():
    assert read("digits", "test").digest() == "5cd06925ca5cb583"
    assert read("digits", "train").digest() == "105f75b56a7c6fb4"
    assert read("digits", "validation").digest() == "bba026138d872057"


def test_limited_digits_never_move():
    data = read("digits", "test", limit=12)
    assert data.labels.tolist() == [0, 5, 7, 6, 6, 2, 3, 3, 6, 0, 7, 0]


def test_npz_is_read_as_it_is(npz):
    content = arrays()
    x, y = load(npz, "test")
    assert x.is_contiguous() and x.dtype == torch.float32
    assert np.array_equal((x * 255).round().byte().permute(0, 2, 3, 1), content["x_test"])
    assert np.array_equal(y, content["y_test"])


def test_grey_npz_gets_a_channel(tmp_path):
    path = write(tmp_path / "grey.npz", **arrays(channels=0))
    assert read(path, "train").shape == (1, 6, 5)


def test_classes_are_those_of_all_splits(tmp_path):
    content = arrays(classes=4)
    content["y_test"][-1] = 6
    path = write(tmp_path / "open.npz", **content)
    assert read(path, "test").classes == 7


def test_a_class_that_nobody_would_learn_is_refused(tmp_path):
    content = arrays(classes=4)
    content["y_test"][-1] = 6
    path = write(tmp_path / "open.npz", **content)
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match=r"every class of .*open\.npz .* none of class 4; add"):
            read(path, split)
    assert read(path, "train", classes=["0", "1", "2", "3"]).classes == 4


def test_validation_is_a_stratified_tenth_and_disjoint(npz):
    train, validation = read(npz, "train"), read(npz, "validation")
    assert torch.bincount(validation.labels).tolist() == [5, 5, 5, 5]
    assert torch.bincount(train.labels).tolist() == [45, 45, 45, 45]
    numbers = [d.images[:, 0, 0, 0].tolist() for d in (train, validation)]
    assert sorted(numbers[0] + numbers[1]) == list(range(200))
    assert numbers[0] == sorted(numbers[0])  # without a limit, the order of the file
    assert numbers[1] != list(range(0, 200, 10))


def test_split_is_named_by_the_file_not_its_folder(tmp_path, npz):
    other = tmp_path / "elsewhere"
    other.mkdir()
    write(other / "toy.npz", **arrays())
    write(other / "joy.npz", **arrays())
    here = read(npz, "validation").digest()
    assert read("toy", "validation", root=other).digest() == here
    assert read("joy", "validation", root=other).digest() != here


def test_no_track_is_cut(tmp_path):
    content = arrays(n_train=600, classes=5)
    # Track numbers begin again in each class, as in GTSRB; ten images to a track, class 0 has one.
    content["track_train"] = (np.arange(600) % 120 // 10).astype(np.uint16)
    content["track_train"][:120] = 0
    path = write(tmp_path / "tracks.npz", **content)
    train, validation = read(path, "train"), read(path, "validation")
    units = [
        set(zip(d.labels.tolist(), d.tracks.tolist(), strict=True)) for d in (train, validation)
    ]
    assert not units[0] & units[1]
    assert len(train) + len(validation) == 600
    # 49 units: a tenth is five, one from each class but that of a single track.
    assert sorted(label for label, _ in units[1]) in ([1, 2, 3, 4], [1, 1, 2, 3, 4])
    assert len(validation) == 10 * len(units[1])
    plain = write(tmp_path / "plain.npz", **arrays(n_train=600, classes=5))
    assert read(plain, "validation").tracks is None


def test_draw_part_gives_each_class_its_share():
    labels = torch.tensor([0] * 95 + [1] * 5 + [2] * 2 + [3])
    drawn = draw_part(labels, 0.1, "a")
    assert torch.bincount(labels[drawn], minlength=4).tolist() in ([9, 1, 1, 0], [10, 1, 1, 0])
    assert torch.equal(drawn, draw_part(labels, 0.1, "a"))
    assert not torch.equal(drawn, draw_part(labels, 0.1, "b"))


def test_limit_mixes_classes_and_grows(npz):
    few, more = read(npz, "train", limit=12), read(npz, "train", limit=60)
    assert torch.equal(few.images, more.images[:12])
    assert len(few.labels.unique()) == 4
    everything = read(npz, "train", limit=180)
    assert torch.equal(everything.labels.sort().values, read(npz, "train").labels.sort().values)
    assert torch.equal(load(npz, "train", limit=12)[1], few.labels)


@pytest.mark.parametrize("limit", [0, -1, 41, 1.5, True])
def test_bad_limit_names_the_size(npz, limit):
    with pytest.raises(ValueError, match="from 1 to 40, the size of the test split of toy"):
        load(npz, "test", limit=limit)


def test_bad_split(npz):
    with pytest.raises(ValueError, match="one of train, validation, test, got 'val'"):
        load(npz, "val")


def test_unknown_names(tmp_path, monkeypatch, npz):
    monkeypatch.delenv("REDOUBT_DATA", raising=False)
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'; .*digits.*REDOUBT_DATA"):
        load("cifar", "test")
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'.*: toy\. Pass another"):
        load("cifar", "test", root=tmp_path)
    monkeypatch.setenv("REDOUBT_DATA", str(tmp_path))
    assert len(load("toy", "test")[0]) == 40
    assert len(load(Path(npz), "test")[0]) == 40
    with pytest.raises(ValueError, match="no data set at"):
        load(str(tmp_path / "gone.npz"), "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("y_train"), "lacks y_train .*it has"),
        (lambda a: a.update(x_train=a["x_train"] / 255), "x_train in .* must be uint8"),
        (lambda a: a.update(x_train=a["x_train"][:, 0, 0]), r"must be non-empty \(N, H, W, C\)"),
        (lambda a: a.update(x_train=a["x_train"][:0]), "must be non-empty"),
        (lambda a: a.update(x_train=a["x_train"].transpose(0, 3, 1, 2)), "channels first"),
        (lambda a: a.update(y_train=a["y_train"][:-1]), "differ in length: 200 and 199"),
        (lambda a: a.update(y_train=a["y_train"][:, None]), "flatten it"),
        (lambda a: a.update(y_train=a["y_train"] / 2), "must be whole numbers"),
        (lambda a: a.update(y_train=a["y_train"].astype(int) - 1), "must not be negative"),
        (lambda a: a.update(track_train=np.arange(3)), "track_train and y_train .* 3 and 200"),
        (lambda a: a.update(y_train=np.array([{}] * 200)), "y_train in .* can't be read"),
        (lambda a: a.update(x_test=a["x_test"][:, 1:]), r"one shape, got \(6, 5, 3\) and \(5, 5,"),
        (lambda a: a.update(x_train=a["x_train"][:4], y_train=np.arange(4)), "too few training"),
    ],
)
def test_files_that_are_no_data_set(tmp_path, change, message):
    content = arrays()
    change(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(write(tmp_path / "bad.npz", **content), "train")
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path, npz):
    whole = Path(npz).read_bytes()
    middle = bytearray(whole)
    middle[500] ^= 255  # inside the first array: the archive's checksum notices
    bare = tmp_path / "bare.npy"
    np.save(bare, np.zeros(3))
    head = bytearray(whole)
    head[whole.index(b"x_test.npy") - 30] ^= 255  # the other part, of which the shape is read
    for content in (whole[:300], b"", b"no archive", bytes(middle), bytes(head), bare.read_bytes()):
        path = tmp_path / "damaged.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.npz"):
            read(str(path), "train")
    with pytest.raises(ValueError, match="no readable"):
        (tmp_path / "folder.npz").mkdir()
        read(str(tmp_path / "folder.npz"), "train")


def test_dataset_refuses_what_it_does_not_promise():
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2])
    with pytest.raises(TypeError, match="must be uint8"):
        Dataset("a", "test", images.float(), labels, 3)
    with pytest.raises(ValueError, match="non-empty"):
        Dataset("a", "test", images[0], labels, 3)
    with pytest.raises(ValueError, match="`labels` has the label 2"):
        Dataset("a", "test", images, labels, 2)
    with pytest.raises(ValueError, match="`tracks`"):
        Dataset("a", "test", images, labels, 3, torch.zeros(2))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [
        ("mnist", (54_000, 6_000, 10_000), 10),
        ("gtsrb", None, 43),
        ("cifar10", (45_000, 5_000, 10_000), 10),
    ],
)
def test_real_files(name, sizes, classes):
    root = os.environ.get("REDOUBT_DATA")
    if root is None or not (Path(root) / f"{name}.npz").is_file():
        pytest.skip(f"set REDOUBT_DATA to a folder with {name}.npz")
    parts = [read(name, split) for split in SPLITS]
    assert all(p.classes == classes and len(p.labels.unique()) == classes for p in parts)
    if sizes:
        assert tuple(len(p) for p in parts) == sizes
    train, validation, _ = parts
    assert 0.08 < len(validation) / (len(train) + len(validation)) < 0.12
    if train.tracks is not None:
        keys = [set((1000 * d.labels + d.tracks).tolist()) for d in (train, validation)]
        assert not keys[0] & keys[1]
