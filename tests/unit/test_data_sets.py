"""Sets of images wherever they are: in memory, mapped, joined, read in batches."""

import gc
import os
import pickle
import signal
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

from redoubtable.data import Dataset, ImageSet, Joined, Mapped, memory, open_mapped
from redoubtable.data import dataset as dataset_module


def toy(n=20, classes=4, seed=0, channels=3, tracks=False) -> Dataset:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, channels, 5, 6), generator=random, dtype=torch.uint8)
    numbers = torch.arange(n)
    return Dataset(
        "toy", "train", images, numbers % classes, classes, numbers // 5 if tracks else None
    )


def stored(folder: Path, data: Dataset) -> Mapped:
    folder.mkdir()
    np.save(folder / "images.npy", data.images.permute(0, 2, 3, 1).numpy())
    np.save(folder / "labels.npy", data.labels.numpy().astype(np.uint8))
    return open_mapped(folder, "train", name="toy", classes=data.classes)


def kinds(folder: Path) -> dict[str, ImageSet]:
    """The same twenty images in every kind of set."""
    data = toy()
    low, high = data.take(torch.arange(8)), data.take(torch.arange(8, 20))
    return {
        "Dataset": data,
        "Mapped": stored(folder / "stored", data),
        "Joined": Joined("toy", "train", (low, high)),
        "mixed": Joined("toy", "train", (stored(folder / "low", low), high)),
    }


@pytest.fixture
def sets(tmp_path):
    return kinds(tmp_path)


KINDS = ("Dataset", "Mapped", "Joined", "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_images(sets, kind):
    whole, data = toy(), sets[kind]
    assert (len(data), data.shape, data.classes) == (20, (3, 5, 6), 4)
    index = torch.tensor([19, 0, 7, 8, 8])
    assert torch.equal(data.read(index), whole.images[index])
    x, y = data.floats()
    assert torch.equal(x, whole.images / 255) and torch.equal(y, whole.labels)
    assert x.is_contiguous() and x.dtype == torch.float32
    view = data.lazy()
    assert view.shape == (20, 3, 5, 6) and len(view) == 20
    assert torch.equal(view[3:11], x[3:11]) and torch.equal(view[index], x[index])
    assert torch.equal(view[-2:], x[-2:]) and view[3:11].is_contiguous()
    with pytest.raises(TypeError, match="view\\[i : i \\+ 1\\]"):
        view[3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [torch.tensor([9, 2, 7, 15]), torch.arange(20) % 3 == 1])
def test_every_kind_takes_a_part_of_a_part(sets, kind, which):
    part = sets[kind].take(which, "validation")
    assert type(part) is type(sets[kind]) and part.split == "validation"
    twice = part.take(torch.tensor([2, 0]))
    expected = toy().images[which][[2, 0]]
    assert twice.split == "validation" and torch.equal(twice.labels, toy().labels[which][[2, 0]])
    assert torch.equal(twice.read(torch.arange(2)), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_order_whatever_reads_them(sets, kind, workers):
    data, state = sets[kind], torch.get_rng_state()
    batches = list(torch.randperm(20, generator=torch.Generator().manual_seed(1)).split(6))
    batches.insert(1, torch.empty(0, dtype=torch.int64))
    found = list(ImageSet.batches(data, batches, "cpu", workers))
    direct = list(data.batches(batches, torch.device("cpu"), workers))
    assert len(found) == len(batches) == len(direct)
    for index, (images, labels), (same, _) in zip(batches, found, direct, strict=True):
        assert torch.equal(images, toy().images[index]) and torch.equal(labels, index % 4)
        assert images.dtype == torch.uint8 and torch.equal(images, same)
        if len(index):  # nothing has no layout
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert same.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_end_when_nobody_listens():
    data, batches = toy(200), list(torch.arange(200).split(2))
    reading = ImageSet.batches(data, batches, "cpu", 2)
    next(reading)
    assert len(active_children()) == 2
    reading.close()
    assert not active_children()
    for _ in ImageSet.batches(data, batches, "cpu", 1):
        assert len(active_children()) == 1
        break  # dropped without being closed
    gc.collect()
    assert not active_children()


def test_workers_read_ahead_but_not_far(tmp_path):
    class Counting:
        def __len__(self):
            return 50

        def __getitem__(self, number):
            (tmp_path / str(number)).touch()
            return number

    reading = dataset_module.in_order(Counting(), 2)
    assert next(reading) == 0
    time.sleep(0.3)
    done = len(list(tmp_path.iterdir()))
    reading.close()
    assert 1 <= done <= 6


class Dying:
    """A worker that is killed, as by a machine without memory."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_named_with_the_way_out():
    with pytest.raises(ValueError, match=r"was killed .* use fewer `workers`, or 0"):
        list(dataset_module.in_order(Dying(), 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_keeps_its_words(workers):
    class Failing:
        def __len__(self):
            return 3

        def __getitem__(self, number):
            if number == 1:
                raise ValueError("`x` is bad; mend it")
            return number

    reading = dataset_module.in_order(Failing(), workers)
    assert next(reading) == 0
    with pytest.raises(ValueError, match=r"^`x` is bad; mend it$"):
        next(reading)
    with pytest.raises(ValueError, match=r"`workers` must be .* got -1"):
        next(dataset_module.in_order(Failing(), -1))


def test_digest_is_that_of_the_content(sets):
    whole = toy()
    assert sets["Mapped"].digest() == whole.digest() == ImageSet.digest(whole)
    changed = Dataset("toy", "train", whole.images.clone(), whole.labels, 4)
    changed.images[19, 2, 4, 5] ^= 1
    assert changed.digest() != whole.digest()
    assert Dataset("toy", "train", whole.images, 3 - whole.labels, 4).digest() != whole.digest()
    joined = sets["Joined"]
    order = torch.arange(20).roll(1)
    assert joined.take(order).digest() != joined.digest() == sets["mixed"].digest()


def test_joined_keeps_tracks_only_of_all():
    one, two = toy(tracks=True), toy(seed=1, tracks=True)
    both = Joined("both", "train", (one, two))
    assert both.tracks is not None and both.tracks.tolist() == 2 * one.tracks.tolist()
    assert both.take(torch.tensor([39, 0])).tracks.tolist() == [3, 0]
    assert Joined("both", "train", (one, toy())).tracks is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (toy(channels=1), r"agree in shape, got \(3, 5, 6\) and \(1, 5, 6\)"),
        (toy(classes=5), "agree in classes, got 4 and 5"),
    ],
)
def test_joined_refuses_what_does_not_fit(other, message):
    with pytest.raises(ValueError, match=message):
        Joined("both", "train", (toy(), other))
    with pytest.raises(ValueError, match="at least one"):
        Joined("none", "train", ())


def test_mapped_is_sent_without_its_content(tmp_path):
    data = stored(tmp_path / "stored", toy(5000))
    data.read(torch.arange(2))
    sent = pickle.dumps(data)
    assert len(sent) < 5000 * 3 * 5 * 6 / 2 + 100_000  # labels and order: 16 bytes an image
    assert torch.equal(pickle.loads(sent).read(torch.tensor([4])), toy(5000).images[4:5])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 2, 2, 1)), np.arange(3), "must hold uint8 images"),
        (np.zeros((3, 2, 2), np.uint8), np.arange(3), "must hold uint8 images"),
        (np.zeros((3, 2, 2, 1), np.uint8), np.arange(2), "must be 3 whole numbers"),
        (np.zeros((3, 2, 2, 1), np.uint8), np.arange(3) / 2, "must be 3 whole numbers"),
        (np.zeros((3, 2, 2, 1), np.uint8), np.arange(3) - 1, "must not be negative"),
        (np.zeros((0, 2, 2, 1), np.uint8), np.arange(0), "must not be empty"),
        (np.array([{}, {}]), np.arange(2), "no readable .npy"),
    ],
)
def test_mapped_refuses_other_arrays(tmp_path, images, labels, message):
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=message):
        open_mapped(tmp_path, "train")
    with pytest.raises(ValueError, match=r"no array at .*gone"):
        open_mapped(tmp_path / "gone", "train")


def test_floats_refuse_to_fill_the_memory(monkeypatch):
    data = toy()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * 20 * 90 - 1)
    with pytest.raises(ValueError, match=r"train split of toy needs 0\.0 GiB .*limit=9 "):
        data.floats()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * 20 * 90)
    assert len(data.floats()[0]) == 20


def test_free_memory_is_what_the_machine_and_the_container_leave(monkeypatch, tmp_path):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**26 < memory.free_bytes("cpu") < whole
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory.free_bytes("cpu") == 3000
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_anon 9\ninactive_file 1200\n")
    assert memory.free_bytes("cpu") == 4200  # files that were read give way
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes("cpu") > 5000


def test_sets_refuse_tracks_and_names_that_do_not_fit():
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="`class_names` must be 2 names, one per class, got 1"):
        Dataset("a", "test", images, labels, 2, None, ("one",))
    named = Dataset("a", "test", images, labels, 2, None, ("one", "two"))
    assert named.take(torch.tensor([1])).class_names == ("one", "two")


def test_a_set_goes_to_a_device_once_if_it_is_small(monkeypatch):
    data, bytes_ = toy(), 20 * 90
    # The device `meta` has shapes but no values, and stands in for one with memory of its own.
    monkeypatch.setattr(dataset_module, "free_bytes", lambda device: 4 * bytes_)
    for _ in range(2):
        images, labels = next(data.batches([torch.arange(3)], "meta"))
        assert images.shape == (3, 3, 5, 6) and images.is_meta and labels.is_meta
    (held,) = data._held.values()
    assert held.is_contiguous(memory_format=torch.channels_last)
    sent = pickle.loads(pickle.dumps(data))
    assert sent._held == {} and torch.equal(sent.images, data.images)
    assert data.take(torch.arange(2))._held == {}


def test_batches_cost_no_more_than_plain_indexing():
    images = torch.zeros(20_000, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    data = Dataset("zeros", "train", images, torch.zeros(20_000, dtype=torch.int64), 2)
    batches = torch.randperm(20_000).split(500)

    def seconds(work):
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    ours = min(seconds(lambda: list(data.batches(batches, "cpu"))) for _ in range(5))
    plain = min(seconds(lambda: [(images[b], data.labels[b]) for b in batches]) for _ in range(5))
    assert ours < plain  # measured: a tenth


@pytest.mark.gpu
@pytest.mark.parametrize("free", [2**30, 0])
def test_batches_on_a_gpu(monkeypatch, tmp_path, free):
    monkeypatch.setattr(dataset_module, "free_bytes", lambda device: free)
    batches = list(torch.randperm(20).split(6))
    for data in kinds(tmp_path).values():
        for workers in (0, 2):
            found = list(data.batches(batches, "cuda", workers))
            for index, (images, labels) in zip(batches, found, strict=True):
                assert images.is_cuda and labels.is_cuda
                assert images.is_contiguous(memory_format=torch.channels_last)
                assert torch.equal(images.cpu(), toy().images[index])
                assert torch.equal(labels.cpu(), index % 4)
        if isinstance(data, Dataset):
            assert bool(data._held) == bool(free)
