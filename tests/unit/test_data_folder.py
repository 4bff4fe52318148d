"""Folders of image files: what is read, what is refused, what is left out."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from redoubtable.data import Folder, load, memory, read
from redoubtable.data import folder as folder_module

SPLITS = ("train", "validation", "test")


def paint(path, number, size=(6, 5)):
    """An image whose first pixel says which one it is; (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (number % 256, 7, 9))
    image.save(path)


def fill(root, parts=(("train", 20), ("test", 3)), classes=("cat", "dog"), size=(6, 5)):
    """A folder with numbered images; (class, number) of each in the expected order."""
    for part, n in parts:
        number = 0
        for name in classes:
            for i in range(n):
                paint(root / part / name / f"{i:03}.png", number, size)
                number += 1
    return root


def numbers(data):
    return data.read(torch.arange(len(data)))[:, 0, 0, 0].tolist()


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "pets")


def test_a_folder_is_read_in_order(root):
    data = read(root, "test", workers=0)
    assert isinstance(data, Folder) and (data.name, data.split) == ("pets", "test")
    assert data.class_names == ("cat", "dog") and data.classes == 2 and data.tracks is None
    assert data.shape == (3, 5, 6) and data.labels.tolist() == [0] * 3 + [1] * 3
    assert numbers(data) == list(range(6))
    x, y = load(str(root), "test", workers=0)
    assert x.shape == (6, 3, 5, 6) and torch.equal(x[:, 1], torch.full((6, 5, 6), 7 / 255))
    assert torch.equal(y, data.labels)


def test_validation_is_a_tenth_of_each_class_by_the_name_of_the_folder(tmp_path, root):
    train, validation = (read(root, s, workers=0) for s in SPLITS[:2])
    assert torch.bincount(validation.labels).tolist() == [2, 2]
    assert sorted(numbers(train) + numbers(validation)) == list(range(40))
    other = fill(tmp_path / "elsewhere" / "pets")
    assert numbers(read(other, "validation", workers=0)) == numbers(validation)
    assert numbers(read("pets", "validation", root=tmp_path, workers=0)) == numbers(validation)


@pytest.mark.parametrize("name", ["validation", "val"])
def test_a_validation_folder_is_used(root, name):
    fill(root, [(name, 4)])
    assert len(read(root, "validation", workers=0)) == 8
    assert len(read(root, "train", workers=0)) == 40


def test_images_are_resized_and_may_be_grey(root):
    paint(root / "train" / "cat" / "large.png", 0, (60, 80))
    with pytest.raises(ValueError, match=r"large\.png has 80x60 pixels .* 5x6; say with size="):
        read(root, "train", workers=0)
    data = read(root, "train", size=4, channels=1, workers=0)
    assert data.shape == (1, 4, 4) and data.read(torch.arange(3)).shape == (3, 1, 4, 4)
    with pytest.raises(ValueError, match=r"has 5x6 pixels .* 3x3"):
        paint(root / "train" / "cat" / "000.png", 0, (3, 3))
        read(root, "test", workers=0)  # one shape for all splits: that of the training images


def test_what_does_not_fit_is_refused_before_it_is_checked(root, monkeypatch):
    (root / "train" / "cat" / "000.png").write_bytes(b"damaged")
    needed = 4 * 36 * 3 * 5 * 5
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed - 1)
    with pytest.raises(ValueError, match=r"train split of pets needs .* with a limit"):
        load(root, "train", workers=0, size=5)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed)
    with pytest.raises(ValueError, match=r"1 of 36 images in .* are damaged"):
        load(root, "train", workers=0, size=5)


def test_limit_is_the_same_whatever_is_checked(root):
    few, more = (read(root, "train", limit=n, workers=0) for n in (5, 12))
    assert numbers(more)[:5] == numbers(few) and len(set(few.labels.tolist())) == 2
    # Only what is used is checked.
    left_out = (set(range(40)) - set(numbers(read(root, "train", limit=35, workers=0)))).pop()
    path = root / "train" / ("cat", "dog")[left_out // 20] / f"{left_out % 20:03}.png"
    path.write_bytes(b"damaged")
    assert len(read(root, "train", limit=35, workers=0)) == 35


def damage(root, n=3):
    for i in range(n):
        path = root / "train" / "dog" / f"{i:03}.png"
        path.write_bytes(path.read_bytes()[:-30] if i else b"")  # some lack only their tail


def test_damaged_files_are_refused_by_name(root):
    damage(root, 12)
    with pytest.raises(ValueError, match=r"(1[012]) of 3\d images .* damaged: .*damaged='skip'"):
        read(root, "train", workers=0)
    (root / "train" / "dog" / "000.png").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        read(root, "train", sizes={"train": 40}, workers=0)
    text = str(caught.value)
    assert text.startswith("12 of 40 images") and "and 2 more" in text and "\n" not in text
    assert text.count("can't read") == 10 and "dog/000.png (no image" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_files_are_left_out_with_one_warning(root, monkeypatch, workers):
    monkeypatch.setattr(folder_module, "_FEW", 10)
    before = {s: set(numbers(read(root, s, workers=0))) for s in SPLITS}
    damage(root)
    bad = {20, 21, 22}
    for split in SPLITS:
        hit = split != "test" and bad & before[split]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = read(root, split, damaged="skip", workers=workers)
        # PyTorch has a warning of its own for more workers than there are cores.
        told = [t for w in caught if "worker processes" not in (t := str(w.message))]
        assert [f"left out {len(hit)} damaged" in t for t in told] == ([True] if hit else [])
        # Nothing else moves from one split to another, and the length is known.
        expected = before[split] - (bad if hit else set())
        assert set(numbers(data)) == expected and len(data) == len(expected)


def test_more_damaged_files_than_are_named_are_left_out(root):
    damage(root, 12)
    with pytest.warns(UserWarning, match="left out 12 damaged of 40 .* and 2 more"):
        data = read(root, "train", damaged="skip", sizes={"train": 28}, workers=0)
    assert set(numbers(data)) == {*range(20), *range(32, 40)}


def test_a_class_is_not_lost_to_damage(root):
    for path in (root / "test" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"all test images of the class 'dog' .* are damaged"):
        read(root, "test", damaged="skip", workers=0)


def test_unchecked_damage_is_an_error_when_it_is_read(root):
    damage(root)
    data = read(root, "train", damaged="unchecked", sizes={"train": 40})
    assert len(data) == 40
    batches = list(torch.arange(40).split(7))
    for workers in (0, 2):
        reading = data.batches(batches, "cpu", workers)
        assert next(reading)[0].shape == (7, 3, 5, 6)
        with pytest.raises(ValueError, match=r"^can't read .*dog.000\.png \(no image.*\)$"):
            list(reading)
    with pytest.raises(ValueError, match="one of refuse, skip, unchecked, got 'ignore'"):
        read(root, "train", damaged="ignore")


def test_digest_is_that_of_files_labels_and_shape(tmp_path, root):
    data = read(root, "train", workers=0)
    assert data.digest() == read(root, "train", damaged="unchecked").digest()
    assert data.digest() != read(root, "train", size=5, workers=0).digest()
    assert data.digest() != read(root, "train", classes=["dog", "cat"], workers=0).digest()
    other = fill(tmp_path / "moved" / "pets")
    assert read(other, "train", workers=0).digest() == data.digest()
    index = int(data.labels.nonzero()[0])
    Image.new("RGB", (6, 5), "red").save(os.fsdecode(data.path(index)))
    assert read(root, "train", workers=0).digest() != data.digest()
    reverse = torch.arange(len(data)).flip(0)
    assert data.take(reverse).digest() != data.digest() == data.take(reverse).take(reverse).digest()
    part = torch.tensor([2, 0, 1])
    unchecked = read(root, "train", damaged="unchecked")
    assert data.take(part).digest() == unchecked.take(part).digest()
    assert data.take(part).digest() != data.take(part.flip(0)).digest()  # of one class


def test_other_files_are_passed_over_and_counted(root):
    for name in (".hidden.png", "Thumbs.db", "notes.txt", "no_ending"):
        (root / "train" / "cat" / name).write_bytes(b"")
    (root / "train" / ".git").mkdir()
    (root / "train" / "cat" / ".cache").mkdir()
    (root / "train" / "readme.md").write_bytes(b"")
    assert read(root, "train", workers=0).ignored == 5
    assert len(read(root, "train", sizes={"train": 40}, workers=0)) == 40


def test_images_lie_in_inner_folders_and_behind_links(tmp_path, root):
    paint(root / "test" / "cat" / "deep" / "er" / "x.JPEG", 200)
    paint(tmp_path / "shared" / "y.png", 201)
    cat = root / "test" / "cat"
    (cat / "linked").symlink_to(tmp_path / "shared", target_is_directory=True)
    (cat / "z.png").symlink_to(tmp_path / "shared" / "y.png")
    for name, target in (("up", ".."), ("self", "."), ("round", "round"), ("top", "../..")):
        (cat / name).symlink_to(target, target_is_directory=True)
    (root / "test" / "cat" / "deep" / "back").symlink_to("../deep")
    data = read(root, "test", workers=0)
    assert len(data) == 6 + 3
    assert sorted(data.take(data.labels == 0).paths[i] for i in range(6))[3:] == [
        b"test/cat/deep/er/x.JPEG",
        b"test/cat/linked/y.png",
        b"test/cat/z.png",
    ]


def test_a_link_to_nowhere_is_a_damaged_image(root):
    (root / "test" / "cat" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"1 of 7 images .*gone\.png \(No such file"):
        read(root, "test", workers=0)


def test_what_would_block_or_lead_in_a_circle_is_passed_over(root):
    os.mkfifo(root / "test" / "cat" / "pipe.png")
    (root / "test" / "dog" / "null.png").symlink_to("/dev/null")
    for part in ("train", "test"):
        (root / part / "self").symlink_to("self")
    data = read(root, "test", workers=0)
    assert len(data) == 6
    assert data.ignored == 3  # the two, and the link that is no class
    assert data.class_names == ("cat", "dog")


def test_names_may_have_any_characters(root):
    odd = ["ä ö.png", "a\nb.png", "-x.png", "%s{}.png", "#'\".png", "日本.png"]
    for i, name in enumerate(odd):
        paint(root / "test" / "cat" / name, 100 + i)
    raw = os.path.join(os.fsencode(root), b"test", b"cat", b"\xff\xfe.png")
    try:
        Path(os.fsdecode(raw)).write_bytes((root / "test" / "cat" / "000.png").read_bytes())
        odd.append("")
    except OSError:
        pass  # some file systems take only text
    data = read(root, "test", workers=0)
    assert len(data) == 6 + len(odd) and {100, 102, 105} <= set(numbers(data))
    with open(raw if len(odd) == 7 else os.path.join(root, "test", "cat", odd[0]), "wb"):
        pass
    with pytest.raises(ValueError) as caught:
        read(root, "test", workers=0)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_the_classes_of_all_parts_must_agree(root):
    fill(root, [("test", 1)], ["zebra"])
    with pytest.raises(ValueError, match=r"same class folders, but 1 .*train lacks 'zebra'; add"):
        read(root, "train", workers=0)
    assert len(read(root, "test", classes=["dog", "cat"], workers=0)) == 6
    fill(root, [("train", 2)], ["zebra", "gnu"])
    with pytest.raises(ValueError, match=r"test lacks 'gnu'"):
        read(root, "test", workers=0)
    assert read(root, "test", classes=["zebra", "cat"], workers=0).labels.tolist() == [0, 1, 1, 1]


def test_empty_folders_are_named(tmp_path, root):
    (root / "train" / "cow").mkdir()
    (root / "train" / "cow" / "a.txt").touch()
    paint(root / "test" / "cow" / "a.png", 1)
    with pytest.raises(ValueError, match=r"class folder .*cow has no images, and 1 other"):
        read(root, "train", workers=0)
    assert len(read(root, "train", classes=["cat", "dog"], workers=0)) == 36
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty has no class folders; an image folder has train/"):
        read(empty, "train")
    with pytest.raises(ValueError, match=r"unknown data set '.*gone'"):
        read(str(tmp_path / "gone"), "train")


def test_splits_that_are_not_there(tmp_path, root):
    bare = root / "train"
    with pytest.raises(ValueError, match=r"comes from a train part, .* has one part only; .*sizes"):
        read(bare, "train", workers=0)
    sizes = {"train": 20, "validation": 10, "test": 10}
    parts = [read(bare, s, sizes=sizes, workers=0) for s in SPLITS]
    assert [len(p) for p in parts] == [20, 10, 10] and [p.split for p in parts] == list(SPLITS)
    only = fill(tmp_path / "only", [("test", 2)])
    assert len(read(only, "test", workers=0)) == 4
    with pytest.raises(ValueError, match=r"train split comes from a train part, .* has test"):
        read(only, "train", workers=0)
    fill(root, [("val", 2), ("validation", 2)])
    with pytest.raises(ValueError, match="one folder for validation"):
        read(root, "train", workers=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "`size` must be a whole number of at least 1, got 0"),
        ({"size": 1.5}, "`size`"),
        ({"channels": 4}, r"`channels` must be 3 \(RGB\) or 1 \(grey\), got 4"),
    ],
)
def test_bad_arguments(root, wrong, message):
    with pytest.raises(ValueError, match=message):
        read(root, "train", **wrong)


def test_names_take_little_memory():
    names = [b"train/n01440764/n01440764_%06d.JPEG" % i for i in range(100_000)]
    packed = folder_module.Paths.of(names)
    assert len(packed) == 100_000 and packed[77_777] == names[77_777]
    taken = packed.take(torch.tensor([5, 99_999, 5]))
    assert [taken[i] for i in range(3)] == [names[5], names[99_999], names[5]]
    size = len(packed.text) + packed.starts.nbytes + packed.ends.nbytes
    assert size < 100_000 * (len(names[0]) + 17)


def test_a_bar_is_shown_when_it_takes_long(root, monkeypatch, capsys):
    monkeypatch.setattr(folder_module, "_PATIENCE", 0.0)
    read(root, "train", workers=0)
    assert "checking pets train" in capsys.readouterr().err
    monkeypatch.setattr(folder_module, "_PATIENCE", 60.0)
    read(root, "train", workers=0)
    assert capsys.readouterr().err == ""


def test_reading_is_the_same_in_any_number_of_workers(root):
    data = read(root, "train", size=4, workers=2)
    batches = list(torch.randperm(len(data)).split(5))
    found = [[x.clone() for x, _ in data.batches(batches, "cpu", w)] for w in (0, 1, 2)]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert np.array_equal(torch.cat(found[0])[:, 1, 0, 0], np.full(36, 7))
