"""Nobody computes in bfloat16 for long on a device that has to imitate it without being told."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redoubtable import bfloat16
from redoubtable.bfloat16 import has_bfloat16
from redoubtable.gradients import fast_copy
from redoubtable.papers import running
from redoubtable.papers.dropping_pixels.scale import SCALES
from redoubtable.registry import Registry
from redoubtable.training import Settings
from tests.unit.training.parts import fresh, quiet, toy

CPU = torch.device("cpu")
AVX, ARM = "_is_avx512_bf16_supported", "_is_mkldnn_bf16_supported"


def machine(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    for module in (bfloat16, running):
        monkeypatch.setattr(module, "has_bfloat16", lambda device: has)


@pytest.mark.parametrize(
    ("name", "avx", "arm", "has"),
    [
        ("x86_64", True, False, True),
        ("x86_64", False, True, False),
        ("AMD64", False, True, False),
        ("aarch64", False, True, True),
        ("arm64", True, False, False),
    ],
)
def test_a_processor_is_asked_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, name: str, avx: bool, arm: bool, has: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: name)
    monkeypatch.setattr(torch.cpu, AVX, lambda: avx, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, ARM, lambda: arm, raising=False)
    assert has_bfloat16(CPU) is has


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_a_version_that_does_not_tell_is_believed_to_have_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: name)
    monkeypatch.setattr(torch, "cpu", object())
    monkeypatch.setattr(torch, "ops", object())
    assert has_bfloat16(CPU)


def test_a_gpu_that_imitates_it_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported",
        lambda including_emulation: asked.append(including_emulation),
    )
    has_bfloat16(torch.device("cuda"))
    assert asked == [False]
    assert has_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_who_asks_for_it_where_it_is_imitated_is_warned(
    monkeypatch: pytest.MonkeyPatch, has: bool, precision: str
) -> None:
    machine(monkeypatch, has)
    data, model = toy(), fresh()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast_copy(model, data.floats()[0][:2], precision)
        quiet(model, data, "natural", Settings(1, batch_size=16, precision=precision))
    said = [str(w.message) for w in caught if "instructions for bfloat16" in str(w.message)]
    assert len(said) == (0 if has or precision == "fp32" else 2)
    assert all("cpu" in text and "--precision" in text for text in said)


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_paper_is_trained_in_what_the_device_has_and_its_record_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has: bool, precision: str
) -> None:
    machine(monkeypatch, has)
    smoke = SCALES["smoke"]
    scale = replace(smoke, training=replace(smoke.training, epochs=1, precision="bf16"))
    about = replace(running.PAPERS["dropping-pixels"].obj(), scales={"smoke": scale})
    registry = Registry("paper")
    registry.register("mine")(lambda: about)
    monkeypatch.setattr(running, "PAPERS", registry)
    record = running.reproduce("mine", ["figure-2"], out=tmp_path, data="digits", progress=False)
    assert record["scale"]["training"]["precision"] == precision
    assert record["experiments"][0]["training"]["precision"] == precision
    cards = [json.loads(path.read_text()) for path in tmp_path.rglob("card.json")]
    assert cards and {card["settings"]["precision"] for card in cards} == {precision}
