"""Images that are read when they are asked for: the same results, never more than a chunk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from redoubtable.detectors import Entropy, Rejecting, calibrate
from redoubtable.evaluation import Settings, candidates, evaluate, guarded
from redoubtable.parts import bare
from redoubtable.seeding import seeded
from redoubtable.threat import L2, Linf
from tests.networks import blobs, small_net
from tests.unit.evaluation.parts import Register, assert_equal, count, hidden, models, quick


class View:
    """A view of images that notes how many it is asked for at a time."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.asked: list[int] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        part = self.images[which].clone()
        self.asked.append(len(part))
        return part


@pytest.mark.parametrize(
    ("name", "threat"),
    [("deterministic", L2(torch.linspace(0.1, 0.4, 30))), ("random and abstaining", Linf(0.05))],
)
def test_a_view_gives_the_result_of_the_tensor_bit_for_bit(
    name: str, threat: Any, x: Tensor, y: Tensor
) -> None:
    def run(images: Any, held_out: Any) -> Any:
        return evaluate(
            models()[name], images, y, threat, ["fgsm", "pgd:steps=2"], curve=(0.5,),
            settings=Settings(draws=2, chunk=13), held_out=held_out,
        )  # fmt: skip

    held_out = blobs(40, seed=4)
    assert_equal(run(x, held_out), run(View(x), View(held_out)))


def test_no_chunk_stays_in_memory() -> None:
    """What is kept of a chunk holds its own memory, not that of all the chunk's images."""
    seen: list[Tensor] = []
    stored: list[dict[str, Any]] = []

    class Watching(candidates.Journal):
        def cell(self, key: Any, make: Any) -> Any:
            stored.append(make())
            return stored[-1]

    labels = torch.zeros(30, dtype=torch.int64)
    data = candidates.Chunks(View(blobs(30)), labels, 15)
    bench = candidates.Bench(small_net(), data, Settings(chunk=15, keep=18), Watching(None))
    bench._candidate("clean", None, None, lambda x, y, _: seen.append(x) or x)
    assert [len(cell["images"]) for cell in stored] == [15, 3]
    for cell, x in zip(stored, seen, strict=True):
        assert torch.from_numpy(cell["images"]).data_ptr() != x.data_ptr()


def test_the_layout_of_a_tensor_changes_nothing(x: Tensor, y: Tensor) -> None:
    turned = x.to(memory_format=torch.channels_last)
    assert turned.stride() != x.stride()
    straight = quick(small_net(), x, y, Linf(0.05), "pgd:steps=5")
    assert_equal(straight, quick(small_net(), turned, y, Linf(0.05), "pgd:steps=5"))


@pytest.mark.parametrize("chunk", [20, 170])
def test_no_more_than_a_chunk_is_ever_asked_for(chunk: int) -> None:
    """With checks, curve and rates."""
    x, held_out = View(blobs(230)), View(blobs(220, seed=4))
    model = Rejecting(small_net(), Entropy(), 0.9)
    settings = Settings(chunk=chunk, batch_size=50)
    with torch.no_grad():
        y = model.model(x.images).argmax(1)
    evaluate(model, x, y, Linf(0.05), "fgsm", settings=settings, held_out=held_out, curve=(0.5,))
    assert max(x.asked) == chunk
    assert max(held_out.asked) == settings.batch_size


def test_a_view_goes_on_where_the_tensor_stood_and_only_with_its_images(
    register: Register, net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path
) -> None:
    calls = count(register)
    settings = Settings(chunk=10)
    first = quick(net, x, y, Linf(0.05), "counted", settings=settings, out=tmp_path)
    chunks = len(calls)
    assert chunks == 3
    again = quick(net, View(x), y, Linf(0.05), "counted", settings=settings, out=tmp_path)  # type: ignore[arg-type]
    assert_equal(first, again)
    assert len(calls) == chunks, "finished chunks were computed again"
    other = x.clone()
    other[15] = 1 - other[15]
    quick(net, View(other), y, Linf(0.05), "counted", settings=settings, out=tmp_path)  # type: ignore[arg-type]
    assert len(calls) == chunks + 1, "just the chunk with another image is another question"


class Restless(View):
    """Gives other images after a while, as one with random changes would."""

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        part = super().__getitem__(which)
        return part if len(self.asked) < 6 else (part + 0.01).clamp(0, 1)


class Short(View):
    """Leaves out an image, as a folder with a damaged file might."""

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        part = super().__getitem__(which)
        return part[:-1] if len(part) > 5 else part


def bad(place: int, value: float) -> Tensor:
    x = blobs(30)
    x[place, 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (View(bad(25, float("nan"))), r"`x\[20:30\]` has NaN or infinite values in 1 of 10"),
        (View(bad(11, 1.5)), r"`x\[10:20\]` must lie in \[0, 1\]"),
        (View((255 * blobs(30)).to(torch.uint8)), r"`x\[0:1\]` must be a float32 or float64"),
        (View(blobs(30).flatten(1)), r"non-empty \(N, C, H, W\)"),
        (View(blobs(30)[:0]), r"non-empty \(N, C, H, W\)"),
        (Short(blobs(30)), r"`x\[0:10\]` must be \(10, 3, 8, 8\).* got \(9, 3, 8, 8\)"),
        (Restless(blobs(30)), r"gave other images than before"),
        (list(blobs(30)), "torch.stack"),
    ],
)
def test_views_that_give_what_they_should_not_are_refused_before_a_verdict(
    given: Any, message: str, net: nn.Module, y: Tensor, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        quick(net, given, y, Linf(0.05), settings=Settings(chunk=10), out=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "record.json").exists()


def test_held_out_images_are_looked_at_before_any_attack(
    register: Register, x: Tensor, y: Tensor
) -> None:
    calls = count(register)
    model = Rejecting(small_net(), Entropy(), 0.9)
    settings = Settings(batch_size=10)
    with pytest.raises(ValueError, match=r"`held_out\[10:20\]`"):
        quick(model, x, y, Linf(0.05), "counted", held_out=View(bad(15, 2.0)), settings=settings)
    assert calls == []


@pytest.mark.parametrize("rule", ["accuracy", "fpr"])
def test_a_guard_is_calibrated_on_a_view_as_on_the_tensor(rule: Any) -> None:
    """And as `calibrate` does it, batch by batch."""
    x, model = blobs(600, seed=5), hidden()
    with torch.no_grad():
        y = small_net()(x).argmax(1)
    text = f"reject:level=0.1,rule={rule}"
    view = View(x)
    lazy, eager = guarded(model, [text], (view, y)), guarded(model, [text], (x, y))
    assert isinstance(lazy, Rejecting)
    assert isinstance(eager, Rejecting)
    single = bare(model, lambda part: part.facts.passes > 1)
    with seeded("calibrate", 0, text):
        expected = calibrate(model, Entropy(), x, y, rule=rule, level=0.1, single=single)
    assert lazy.threshold == eager.threshold == expected.threshold
    assert max(view.asked) == 256
