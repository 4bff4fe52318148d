"""The same seed gives the same result, also after an interruption."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS, pgd
from redoubtable.defenses import Subsample
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import Evaluation, Settings, evaluate
from redoubtable.files import read_json
from redoubtable.parts import facts_of
from redoubtable.threat import L0, L2, Linf, ThreatModel
from tests.networks import blobs, small_net
from tests.unit.evaluation.parts import (
    Register,
    assert_equal,
    count,
    guard,
    hidden,
    models,
    quick,
)

# -- repeating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(models()))
def test_the_same_seed_gives_the_same_record_bit_for_bit(name: str, x: Tensor, y: Tensor) -> None:
    def run(seed: int, check: bool = True) -> Evaluation:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever happened before
        settings = Settings(draws=3, chunk=13)
        return evaluate(
            models()[name], x, y, Linf(0.05), ["fgsm", "pgd:steps=2"], seed=seed, check=check,
            settings=settings, curve=(0.5, 1.0), held_out=blobs(40, seed=4),
        )  # fmt: skip

    first = run(0)
    assert_equal(first, run(0))
    if name != "deterministic":
        other = run(1, check=False)  # they add no arrays
        assert any(not np.array_equal(first.arrays[k], other.arrays[k]) for k in first.arrays)
    assert first.record["settings"]["seed"] == 0


def test_an_attacks_result_does_not_depend_on_its_company(x: Tensor, y: Tensor) -> None:
    alone = quick(hidden(), x, y, Linf(0.05), "pgd:steps=2,loss=margin")
    others = quick(hidden(), x, y, Linf(0.05), ["fgsm", "bim:steps=2", "pgd:steps=2,loss=margin"])
    prefix = f"adaptive/{alone.record['rows'][-1]['attack']}"
    assert np.array_equal(alone.arrays[f"{prefix}/report"], others.arrays[f"{prefix}/report"])


def test_accuracy_never_rises_with_more_attacks(net: nn.Module, x: Tensor, y: Tensor) -> None:
    attacks = ["fgsm", "bim:steps=3", "pgd:steps=3", "pgd:steps=3,restarts=2"]
    found = [quick(net, x, y, Linf(0.03), attacks[: k + 1]).robust_accuracy for k in range(4)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("name", ["deterministic", "random", "abstaining"])
def test_the_curve_starts_at_the_clean_images_and_never_rises(
    name: str, x: Tensor, y: Tensor
) -> None:
    model = models()[name]
    settings = Settings(draws=20)
    e = quick(model, x, y, Linf(0.04), "pgd:steps=2", curve=(2.0, 0.5, 1.0), settings=settings)
    points = e.record["curve"]
    assert [p["eps"] for p in points] == pytest.approx([0, 0.02, 0.04, 0.08])
    values = [p["adaptive"]["value"] for p in points]
    noise = 0.08 if facts_of(model).stochastic else 1e-12
    assert all(later <= earlier + noise for earlier, later in itertools.pairwise(values))
    assert values[-1] < values[0]
    if not facts_of(model).abstains:
        assert values[0] == pytest.approx(e.clean_accuracy, abs=max(noise, 1e-9))


def test_the_curve_keeps_what_a_smaller_radius_found(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    @register("timid")
    def timid(model: nn.Module, x: Any, y: Any, threat: ThreatModel, *, targets: Any = None) -> Any:
        """Give up where there is room."""
        return pgd(model, x, y, threat, steps=3) if float(threat.eps) < 0.05 else x

    e = quick(net, x, y, Linf(0.04), "timid", curve=(1.0, 2.0))
    values = [p["adaptive"]["value"] for p in e.record["curve"]]
    assert values[0] > values[1] == values[2]


def test_the_curve_of_pixels_has_whole_radii(net: nn.Module, x: Tensor, y: Tensor) -> None:
    e = quick(net, x, y, L0(3), "pgd:steps=2", curve=(0.1, 0.25, 0.5, 1.0, 2.0))
    assert [p["eps"] for p in e.record["curve"]] == [0, 1, 2, 3, 6]


@pytest.mark.parametrize("threat", [Linf(0.012), L2(0.12)], ids=str)
def test_verdicts_do_not_depend_on_the_batch_size(threat: ThreatModel) -> None:
    net, x = small_net(), blobs(250)
    with torch.no_grad():
        y = net(x).argmax(1)
    found: list[NDArray[Any]] = []
    for batch_size in (1, 7, 256):
        e = quick(
            net, x, y, threat, "pgd:steps=4,loss=margin", settings=Settings(batch_size=batch_size)
        )
        assert 0.2 < e.robust_accuracy < 0.8, "an intermediate eps, so that something can tip"
        prefix = f"adaptive/{e.record['rows'][0]['attack']}"
        found.append(e.arrays[f"{prefix}/report"][:, 0])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] == found[other]).mean() >= 0.995


# -- the journal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deterministic", "random and abstaining"])
def test_an_interrupted_run_goes_on_to_the_same_record(
    name: str, x: Tensor, y: Tensor, tmp_path: Path
) -> None:
    def run(out: Path | None) -> Evaluation:
        return evaluate(
            models()[name], x, y, Linf(0.05), "counted", settings=Settings(draws=3, chunk=12),
            curve=(0.5, 1.0), held_out=blobs(30, seed=4), out=out,
        )  # fmt: skip

    def with_attack(stop: int | None, out: Path | None) -> tuple[list[Any], Evaluation | None]:
        names: list[str] = []

        def enter(name: str, **stated: Any) -> Any:
            names.append(name)
            return ATTACKS.register(name, threats=(Linf,), access="gradient", **stated)

        calls = count(enter, stop)
        try:
            return calls, run(out)
        except KeyboardInterrupt:
            return calls, None
        finally:
            for n in names:
                ATTACKS._entries.pop(n)

    all_calls, whole = with_attack(None, tmp_path / "whole")
    assert whole is not None
    assert len(all_calls) > 9
    for stop_at in (0, 4, 9):
        out = tmp_path / f"stopped at {stop_at}"
        done, nothing = with_attack(stop_at, out)
        assert nothing is None
        assert not (out / "record.json").exists()
        rest, resumed = with_attack(None, out)
        assert resumed is not None
        assert_equal(whole, resumed)
        assert done[:-1] + rest == all_calls, "finished chunks were computed again, or left out"
    again, third = with_attack(None, out)
    assert again == []
    assert third is not None
    assert_equal(whole, third)
    _, memory_only = with_attack(None, None)
    assert memory_only is not None
    assert_equal(whole, memory_only)


def test_what_is_kept_is_what_was_returned(x: Tensor, y: Tensor, tmp_path: Path) -> None:
    e = quick(guard(), x, y, Linf(0.05), out=tmp_path)
    assert read_json(tmp_path / "record.json", "record") == json.loads(json.dumps(e.record))
    with np.load(tmp_path / "examples.npz", allow_pickle=False) as kept:
        assert set(kept.files) == set(e.arrays)
        assert all(np.array_equal(kept[k], e.arrays[k]) for k in kept.files)
    with np.load(tmp_path / "images.npz", allow_pickle=False) as kept:
        assert all(np.array_equal(kept[k], e.images[k]) for k in kept.files)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cell_is_named_and_alone_computed_again(
    net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path, damage: str
) -> None:
    whole = quick(net, x, y, Linf(0.05), settings=Settings(chunk=7), out=tmp_path)
    cells = sorted((tmp_path / "journal").glob("*.cell"))
    assert len(cells) == 15  # five chunks, clean and under two losses
    before = {cell: cell.read_bytes() for cell in cells}
    raw = bytearray(cells[0].read_bytes())
    raw[len(raw) // 2] ^= 1
    content = {"flip": bytes(raw), "cut": bytes(raw[: len(raw) // 2]), "empty": b""}[damage]
    cells[0].write_bytes(content)
    times = {cell: cell.stat().st_mtime_ns for cell in cells}
    with pytest.warns(UserWarning, match=f"{cells[0].name} is damaged") as caught:
        again = quick(net, x, y, Linf(0.05), settings=Settings(chunk=7), out=tmp_path)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert_equal(whole, again)
    assert {cell: cell.read_bytes() for cell in cells} == before
    assert [c for c in cells if c.stat().st_mtime_ns != times[c]] == cells[:1]


class Scaled(nn.Module):
    """Keeps its setting where neither the weights nor the text show it, as many modules do."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.net = small_net()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.net(x)


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "draws": {"settings": Settings(draws=5, chunk=15)},
    "chunk": {"settings": Settings(draws=4, chunk=10)},
    "batch size": {"settings": Settings(draws=4, chunk=15, batch_size=8)},
    "precision": {"settings": Settings(draws=4, chunk=15, precision="bf16")},
    "threat": {"threat": Linf(0.1)},
    "norm": {"threat": L2(0.05)},
    "radii": {"threat": Linf(torch.linspace(0, 0.05, 30))},
    "steps": {"attacks": "pgd:steps=1"},
    "images": {"x": blobs(30, seed=6)},
    "labels": {"y": torch.zeros(30, dtype=torch.int64)},
    "weights": {"model": hidden(seed=3)},
    "rate": {"model": nn.Sequential(Subsample(rate=0.31), small_net())},
    "threshold": {"model": Rejecting(hidden(), Entropy(), 0.8)},
    "plain setting": {"model": nn.Sequential(Subsample(rate=0.3), Scaled(-1.0))},
}


@pytest.mark.parametrize("change", list(OTHERS))
def test_a_folder_never_serves_another_question(
    change: str, x: Tensor, y: Tensor, tmp_path: Path
) -> None:
    base: dict[str, Any] = {
        "model": hidden(), "x": x, "y": y, "threat": Linf(0.05), "attacks": "pgd:steps=2",
        "settings": Settings(draws=4, chunk=15),
    }  # fmt: skip
    if change == "threshold":
        base["model"] = Rejecting(hidden(), Entropy(), 0.7)
    if change == "plain setting":
        base["model"] = nn.Sequential(Subsample(rate=0.3), Scaled(1.0))
    quick(**base, out=tmp_path)
    other = base | OTHERS[change]
    assert_equal(quick(**other), quick(**other, out=tmp_path))
