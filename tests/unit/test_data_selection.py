"""Which classes of a data set are used, and parts of stated sizes."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from redoubtable.data import CLASS_LISTS, load, read
from redoubtable.data.classes import choose
from redoubtable.data.memory import free_bytes
from redoubtable.data.splits import draw_sizes

SPLITS = ("train", "validation", "test")


@pytest.fixture
def npz(tmp_path):
    """Five classes of 60, 60, 60, 60 and 10 training images, and 20 test images of each."""
    labels = np.repeat(np.arange(5), (60, 60, 60, 60, 10))
    test = np.repeat(np.arange(5), 20)
    # Each image has its own two numbers; those of the test part come after the others.
    numbers = np.arange(len(labels) + len(test))
    images = np.stack([numbers // 256, numbers % 256], -1).astype(np.uint8).reshape(-1, 1, 2, 1)
    path = tmp_path / "toy.npz"
    np.savez(path, x_train=images[:250], y_train=labels, x_test=images[250:], y_test=test)
    return str(path)


def numbers(data):
    images = data.read(torch.arange(len(data))).long()
    return (256 * images[:, 0, 0, 0] + images[:, 0, 0, 1]).tolist()


def counts(data):
    return torch.bincount(data.labels, minlength=data.classes).tolist()


def test_parts_of_stated_sizes_share_no_image(npz):
    sizes = {"test": 70, "train": 200, "validation": 30}
    parts = {s: read(npz, s, sizes=sizes) for s in SPLITS}
    assert {s: len(d) for s, d in parts.items()} == sizes
    assert {s: d.split for s, d in parts.items()} == {s: s for s in SPLITS}
    everything = [n for d in parts.values() for n in numbers(d)]
    assert len(set(everything)) == 300 and max(everything) > 250  # some were test images
    # 80 of each class and 30 of the last, of 350: the shares are kept.
    assert counts(parts["train"])[4] == pytest.approx(200 * 30 / 350, abs=1)
    assert counts(parts["test"])[4] == pytest.approx(70 * 30 / 350, abs=1)
    again = {s: read(npz, s, sizes=dict(reversed(sizes.items()))) for s in SPLITS}
    assert all(numbers(again[s]) == numbers(parts[s]) for s in SPLITS)


def test_everything_may_be_drawn(npz):
    sizes = {"train": 310, "validation": 20, "test": 20}
    found = [numbers(read(npz, s, sizes=sizes)) for s in SPLITS]
    assert sorted(n for part in found for n in part) == list(range(350))


def test_without_test_in_the_sizes_the_test_part_stays(npz):
    sizes = {"train": 50, "validation": 10}
    assert numbers(read(npz, "test", sizes=sizes)) == list(range(250, 350))
    train = read(npz, "train", sizes=sizes)
    assert max(numbers(train)) < 250 and len(train) == 50
    with pytest.raises(ValueError, match=r"how many images validation gets, .* sizes of train$"):
        read(npz, "validation", sizes={"train": 50})


def test_balanced_takes_as_many_of_each_class(npz):
    assert counts(read(npz, "train", sizes={"train": 25}, draw="balanced")) == [5] * 5
    assert counts(read(npz, "train", sizes={"train": 23}, draw="balanced")) == [5, 5, 5, 4, 4]
    assert counts(read(npz, "train", sizes={"train": 25})) == [6, 6, 6, 6, 1]
    with pytest.raises(
        ValueError, match=r"enough images of each class.* got 10 of 250 where 12 of 60"
    ):
        read(npz, "train", sizes={"train": 60}, draw="balanced")


def test_a_random_draw_looks_at_no_class(npz):
    found = counts(read(npz, "train", sizes={"train": 125}, draw="random"))
    assert sum(found) == 125 and found != counts(read(npz, "train", sizes={"train": 125}))
    labels = torch.tensor([0] * 500 + [1] * 500)
    firsts = [
        int((labels[draw_sizes(labels, {"test": 100}, "random", i)["test"]] == 0).sum())
        for i in range(200)
    ]
    # Hypergeometric: mean 50, standard deviation 4.74; the mean of 200 draws has 0.34.
    assert abs(np.mean(firsts) - 50) < 1.4 and 3.8 < np.std(firsts) < 5.8


def test_no_track_is_in_two_parts():
    labels = torch.arange(400) // 100
    tracks = torch.arange(400) % 100 // 10  # ten tracks of ten in each class
    for draw in ("stratified", "balanced", "random"):
        sizes = {"train": 210, "validation": 45, "test": 60}
        parts = draw_sizes(labels, sizes, draw, "key", tracks=tracks)
        assert {s: len(i) for s, i in parts.items()} == sizes
        units = [set((100 * labels[i] + tracks[i]).tolist()) for i in parts.values()]
        assert not units[0] & units[1] and not units[0] & units[2] and not units[1] & units[2]
    whole = {"train": 205, "validation": 105, "test": 10}
    assert len(draw_sizes(labels, whole, "random", "key", tracks=tracks)["test"]) == 10
    with pytest.raises(ValueError, match="in whole tracks, for test: "):
        draw_sizes(
            labels,
            {"train": 205, "validation": 105, "test": 90},
            "stratified",
            "key",
            tracks=tracks,
        )


def test_tracks_of_a_file_are_heeded(tmp_path):
    labels = np.arange(200) // 100
    content = {"x_train": np.zeros((200, 2, 2), np.uint8), "y_train": labels}
    content |= {"x_test": np.zeros((20, 2, 2), np.uint8), "y_test": np.arange(20) // 10}
    path = tmp_path / "signs.npz"
    np.savez(path, **content, track_train=np.arange(200) % 100 // 5)
    sizes = {"train": 100, "validation": 40, "test": 40}
    parts = [read(path, s, sizes=sizes) for s in SPLITS]
    units = [Counter(zip(d.labels.tolist(), d.tracks.tolist(), strict=True)) for d in parts]
    assert not set(units[0]) & set(units[1]) and not set(units[0]) & set(units[2])
    # A test image has no track; each counts as one of its own.
    own = {t: n for u in units for (_, t), n in u.items() if t >= 20}
    assert own and set(own.values()) == {1}


@pytest.mark.parametrize(
    ("sizes", "draw", "message"),
    [
        ({"train": 300, "test": 51}, "stratified", "add up to at most 350, .* got 351"),
        ({"train": 251}, "stratified", "add up to at most 250, .* got 251"),
        ({"train": 0}, "stratified", "whole numbers of at least 1, got 0 for train"),
        ({"train": 1.5}, "random", "got 1.5 for train"),
        ({"train": 5, "dev": 5}, "random", "train, validation and test, got one of 'dev'"),
        ({"train": 10}, "sorted", "one of stratified, balanced, random, got 'sorted'"),
        ({"train": 4}, "stratified", "train an image of every class, got none of class 4"),
        ({}, "stratified", "sizes of nothing"),
    ],
)
def test_sizes_that_can_not_be_met(npz, sizes, draw, message):
    with pytest.raises(ValueError, match=message):
        read(npz, "train", sizes=sizes, draw=draw)


def test_a_class_without_images_is_named(tmp_path):
    path = tmp_path / "gap.npz"
    x = np.zeros((30, 2, 2), np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(30) % 2 * 2, x_test=x, y_test=np.arange(30) % 2)
    with pytest.raises(ValueError, match=r"every class of .*gap.npz .* got none of class 1"):
        read(path, "train", sizes={"train": 10})
    with pytest.raises(ValueError, match="got none of 1 in the train part of gap"):
        read(path, "train", classes=["0", "1"])
    assert len(read(path, "train", sizes={"train": 30, "test": 20})) == 30


def test_classes_are_numbered_in_the_order_of_the_list(npz, tmp_path):
    data = read(npz, "test", classes=["3", "0"])
    assert data.classes == 2 and data.class_names == ("3", "0")
    assert numbers(data) == [*range(250, 270), *range(310, 330)]
    assert data.labels.tolist() == [1] * 20 + [0] * 20
    names = tmp_path / "names.txt"
    names.write_text("\ufeff3\n\n 0 \n")  # as some editors write it
    for written in (names, str(names)):
        assert read(npz, "test", classes=written).digest() == data.digest()
    few = read(npz, "train", classes=["4", "2"], sizes={"train": 7})
    assert counts(few) == [1, 6]
    x, y = load("digits", "test", classes=["8", "1"], limit=30)
    assert len(x) == 30 and set(y.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["0", "7"], "classes of toy, got 1 others: 7; it has 0, 1, 2, 3, 4"),
        (["0", "0"], "different names, got 0 more than once"),
        (["0"], "two or more different names, got 0"),
        ([], "got none"),
        ("no\0thing", "imagenet-201,"),
        ("nothing.txt", "imagenet-201, imagenet-metzen10.* got 'nothing.txt'"),
        ("imagenet-201", "first of 1000, got a data set of 5"),
    ],
)
def test_classes_that_are_no_choice(npz, classes, message):
    with pytest.raises(ValueError, match=message):
        read(npz, "train", classes=classes)


def test_close_names_are_suggested():
    with pytest.raises(ValueError, match="did you mean goldfish"):
        choose(["goldfsh", "cat"], ["goldfish", "cat"], "pets")


def test_imagenet_201_are_the_first_of_a_thousand(tmp_path):
    names = [f"n{i:08}" for i in range(1000)]
    images = Image.new("RGB", (2, 2))
    for part in ("train", "test"):
        for name in names:
            (tmp_path / "imagenet" / part / name).mkdir(parents=True)
        for name in names[:203]:
            images.save(tmp_path / "imagenet" / part / name / "a.png")
    data = read(tmp_path / "imagenet", "test", classes="imagenet-201", workers=0)
    assert data.classes == 201 and data.class_names == tuple(names[:201]) and len(data) == 201
    # The other folders are not even listed: most are empty, which would be refused.
    (tmp_path / "imagenet" / "train" / names[999]).rmdir()
    (tmp_path / "imagenet" / "test" / names[999]).rmdir()
    with pytest.raises(ValueError, match="first of 1000, got a data set of 999"):
        read(tmp_path / "imagenet", "test", classes="imagenet-201")


def test_metzens_ten_classes():
    found = CLASS_LISTS["imagenet-metzen10"].obj(())
    assert len(set(found)) == 10 and all(len(n) == 9 and n[0] == "n" for n in found)
    with pytest.raises(ValueError, match="n00017222"):
        choose("imagenet-metzen10", [n for n in found if n != "n00017222"], "imagenet")


def test_sizes_of_a_folder_are_drawn_from_all_parts(tmp_path):
    root = tmp_path / "pets"
    for part, n in (("train", 30), ("test", 10)):
        for c, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                colour = (c, i, part == "test")
                Image.new("RGB", (2, 2), colour).save(root / part / name / f"{i}.png")
    sizes = {"train": 50, "validation": 14, "test": 16}
    parts = [read(root, s, sizes=sizes, workers=0) for s in SPLITS]
    assert [counts(p) for p in parts] == [[25, 25], [7, 7], [8, 8]]
    seen = [tuple(i) for p in parts for i in p.read(torch.arange(len(p)))[:, :, 0, 0].tolist()]
    assert len(set(seen)) == 80
    assert all(torch.equal(p.read(torch.arange(len(p)))[:, 0, 0, 0], p.labels) for p in parts)
    # Damaged files are left out before anything is drawn, so the sizes hold.
    (root / "train" / "cat" / "3.png").write_bytes(b"")
    sizes["train"] = 48
    with pytest.warns(UserWarning, match="left out 1 damaged of 80"):
        assert len(read(root, "train", sizes=sizes, damaged="skip", workers=0)) == 48


def test_a_limit_on_the_process_is_heeded(monkeypatch):
    resource = pytest.importorskip("resource")
    gib = 2**30
    free = free_bytes("cpu")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10**6 * gib, 10**6 * gib))
    assert free_bytes("cpu") == pytest.approx(free, rel=0.2)  # a limit far away changes nothing
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1, 1))
    assert free_bytes("cpu") == 0
