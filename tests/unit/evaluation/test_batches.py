"""Models whose answer depends on the batch: who the neighbours are, and what it is worth."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import Evaluation, Settings
from redoubtable.parts import Part
from redoubtable.threat import Linf
from tests.networks import blobs, facts, small_net
from tests.unit.evaluation.parts import assert_equal, quick

SIZE = 8


class AboveMean(Part):
    """Class 1 where a value is above the batch's mean less 0.05; notes what it is shown."""

    facts = facts(batch_dependent=True)
    seen: ClassVar[list[Tensor]] = []

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < self.least:
            raise ValueError("expected more than one value per channel")
        AboveMean.seen.append(x.detach().clone())
        value = x.flatten(1)[:, 0]
        above = value - value.mean() + 0.05
        return torch.stack([torch.zeros_like(above), above], 1)

    def undefended(self) -> nn.Module:
        return Absolute()


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.full_like(x[:, :1], 0.45), x[:, :1]], 1).flatten(1)


def grey(n: int = 2 * SIZE) -> tuple[Tensor, Tensor]:
    """Equal images, all of class 1 by 0.05."""
    AboveMean.seen.clear()
    return torch.full((n, 1, 1, 1), 0.5), torch.ones(n, dtype=torch.int64)


def measured(model: nn.Module, eps: float, **arguments: Any) -> Evaluation:
    x, y = grey()
    settings = Settings(chunk=SIZE, **arguments)
    return quick(model, x, y, Linf(eps), "fgsm:loss=margin", settings=settings)


def standing(e: Evaluation, view: str = "adaptive") -> dict[str, float]:
    batches = e.record["batches"]
    names = ("alone", "mixed", "all")
    return {n: batches[n][view]["accuracy"]["one_shot"]["value"] for n in names}


@pytest.mark.parametrize(("eps", "mixed"), [(0.09, 1.0), (0.11, 0.0), (0.2, 0.0)])
def test_each_setting_has_the_value_that_follows_by_hand(eps: float, mixed: float) -> None:
    """All together move their mean along; half of them moves it by half, and 0.05 is to be lost."""
    e = measured(AboveMean(), eps)
    assert standing(e) == {"alone": 1.0, "mixed": mixed, "all": 1.0}
    assert e.robust_accuracy == mixed
    assert e.record["batches"]["size"] == SIZE
    assert e.record["batches"]["smallest"] == 1
    for view in ("clean", "static", "adaptive", "robust"):
        assert e.record["batches"]["all"][view] == e.record[view]
    assert all(e.record["batches"][s]["clean"]["accuracy"]["one_shot"]["value"] == 1
               for s in ("alone", "mixed", "all"))  # fmt: skip


def test_static_attacks_are_shown_to_the_model_in_each_setting() -> None:
    """The bare model falls to a change by 0.05; images that all went down are as before."""
    e = measured(AboveMean(), 0.2)
    assert standing(e, "static") == {"alone": 1.0, "mixed": 0.0, "all": 1.0}


def test_batches_are_whole_and_the_clean_half_is_held_fixed() -> None:
    e = measured(AboveMean(), 0.2, batch_size=3)
    # Two images when the classes are counted and copies made for speed, then beside half a batch.
    odd = [len(x) for x in AboveMean.seen if len(x) not in (1, SIZE)]
    assert set(odd) == {2, 2 + SIZE // 2}
    assert len(odd) <= 10
    mixed = [x for x in AboveMean.seen if len(x) == SIZE and len(x.unique()) == 2]
    assert mixed
    assert all((x[SIZE // 2 :] == 0.5).all() and (x[: SIZE // 2] != 0.5).all() for x in mixed)
    key = next(k for k in e.arrays if k.startswith("mixed/adaptive") and k.endswith("/distance"))
    assert np.allclose(e.arrays[key], 0.2), "each image is adversarial once"
    assert e.record["batches"] == measured(AboveMean(), 0.2).record["batches"]


def test_who_is_in_the_clean_half_is_drawn_by_the_seed() -> None:
    """Images that differ tell which of them stood beside which."""
    x = torch.linspace(0.3, 0.6, SIZE).view(-1, 1, 1, 1)
    y, found = torch.ones(SIZE, dtype=torch.int64), []
    for seed in (0, 0, 1):
        AboveMean.seen.clear()
        settings = Settings(chunk=SIZE)
        quick(AboveMean(), x, y, Linf(0.01), "fgsm:loss=margin", settings=settings, seed=seed)
        first = [b for b in AboveMean.seen if len(b) == SIZE]
        found.append({tuple(b[SIZE // 2 :].flatten().tolist()) for b in first})
    assert found[0] == found[1] != found[2]


def test_alone_is_the_smallest_batch_filled_with_the_image() -> None:
    e = measured(AboveMean(least=2), 0.2)
    assert e.record["batches"]["smallest"] == 2
    pairs = [x for x in AboveMean.seen if len(x) == 2]
    assert len(pairs) > 2 * SIZE
    assert all(x[0] == x[1] for x in pairs)
    assert standing(e)["alone"] == 1.0


def batch_norm(**arguments: Any) -> nn.Module:
    class OfTheBatch(Part):
        facts = facts(batch_dependent=True)

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3, **arguments)
            self.net = small_net()

        def forward(self, x: Tensor) -> Tensor:
            self.norm.train(self.norm.track_running_stats)
            out: Tensor = self.net(self.norm(x).sigmoid())
            return out

        def undefended(self) -> nn.Module:
            return self.net

    return OfTheBatch()


def test_statistics_of_the_batch_stay_on_in_eval_mode() -> None:
    x = 0.1 * blobs(SIZE) + torch.linspace(0, 0.9, SIZE).view(-1, 1, 1, 1)
    model = batch_norm(track_running_stats=False).eval()
    with torch.no_grad():
        y = model(x).argmax(1)
        alone = torch.cat([model(one).argmax(1) for one in x.split(1)])
    assert not torch.equal(alone, y), "a test that can't tell"
    e = quick(model, x, y, Linf(0.02), "fgsm", settings=Settings(chunk=SIZE))
    assert e.arrays["clean/report"][:, 0].tolist() == y.tolist()
    assert e.arrays["mixed/clean/report"][:, 0].tolist() == y.tolist()
    assert e.arrays["alone/clean/report"][:, 0].tolist() == alone.tolist()


def test_a_model_that_changes_as_it_answers_is_refused() -> None:
    x, y = blobs(SIZE), torch.zeros(SIZE, dtype=torch.int64)
    with pytest.raises(ValueError, match="track_running_stats=False"):
        quick(batch_norm(), x, y, Linf(0.02), "fgsm", settings=Settings(chunk=SIZE))


@pytest.mark.parametrize(("n", "chunk", "message"), [(12, 8, "take 8 images"), (1, 8, "at least 2"),
                                                     (4, 1, "at least 2")])  # fmt: skip
def test_batches_must_be_whole(n: int, chunk: int, message: str) -> None:
    x, y = grey(n)
    with pytest.raises(ValueError, match=message):
        quick(AboveMean(), x, y, Linf(0.1), "fgsm", settings=Settings(chunk=chunk))
    assert not AboveMean.seen


def test_checks_and_curve_see_whole_batches() -> None:
    x, y = grey(5 * 30)
    settings = Settings(chunk=30)
    arguments: dict[str, Any] = {"check": True, "curve": (0.5, 1), "settings": settings}
    e = quick(AboveMean(), x, y, Linf(0.1), "pgd:steps=2,loss=margin", **arguments)
    assert len(e.record["curve"]) == 3
    assert {f["check"] for f in e.record["findings"]} > {"more_steps", "unbounded"}
    assert {len(b) for b in AboveMean.seen} - {30} <= {1, 2, 17, 100}  # looks, not verdicts
    half = [len(b) for b in AboveMean.seen if len(b) == 10]
    assert not half, "100 images are no whole number of batches of 30"


@pytest.mark.parametrize(("eps", "verdict"), [(0.09, "pass"), (0.2, "fail")])
def test_neighbours_that_would_leave_less_are_found(eps: float, verdict: str) -> None:
    """Whole batches move their mean along and stand; with half of it held fixed all fall."""
    x, y = grey()
    settings = Settings(chunk=SIZE)
    e = quick(AboveMean(), x, y, Linf(eps), "fgsm:loss=margin", check=True, settings=settings)
    (found,) = (f for f in e.record["findings"] if f["check"] == "neighbours")
    assert found["verdict"] == verdict
    left = {k: found["evidence"][k] for k in ("alone", "mixed", "all")}
    assert left == standing(e)
    assert found["evidence"]["p_alone"] == 1
    assert found["evidence"]["p_mixed"] == (2.0**-16 if verdict == "fail" else 1)
    assert ("is that of mixed" in found["says"]) == (verdict == "fail")


def abstaining() -> Rejecting:
    return Rejecting(batch_norm(track_running_stats=False), Entropy(), 1.0)


def test_thresholds_of_a_guard_are_fitted_on_whole_batches() -> None:
    x, held_out, settings = blobs(8), blobs(16, seed=3), Settings(chunk=4, batch_size=3)
    y, model = torch.zeros(8, dtype=torch.int64), abstaining().eval()
    e = quick(model, x, y, Linf(0.02), "fgsm", held_out=held_out, settings=settings)
    with torch.no_grad():
        scores = torch.cat([model.score(b, model.model(b)) for b in held_out.split(4)])
    assert e.record["rates"][0]["threshold"] == pytest.approx(scores.max().item())
    with pytest.raises(ValueError, match="give 12"):
        quick(model, x, y, Linf(0.02), "fgsm", held_out=held_out[:15], settings=settings)


def test_fewer_images_than_a_chunk_are_one_batch() -> None:
    x, y = grey(5)
    e = quick(AboveMean(), x, y, Linf(0.2), "fgsm:loss=margin")
    assert e.record["batches"]["size"] == 5
    assert e.record["batches"]["mixed"]["clean"]["accuracy"]["one_shot"]["n"] == 5


def test_a_run_that_goes_on_has_the_same_batches(tmp_path: Path) -> None:
    x, y = blobs(SIZE), torch.arange(SIZE) % 4
    runs = [
        quick(batch_norm(track_running_stats=False), x, y, Linf(0.05), "pgd:steps=2", out=out,
              settings=Settings(chunk=4))
        for out in (tmp_path, tmp_path, None)
    ]  # fmt: skip
    assert_equal(runs[0], runs[1])
    assert_equal(runs[0], runs[2])
