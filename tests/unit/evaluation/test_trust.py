"""The evaluator trusts no attack, no caller and no model, and leaves no trace."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import pgd
from redoubtable.defenses import Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import Settings, evaluate
from redoubtable.threat import L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import blobs, small_net
from tests.unit.evaluation.parts import Register, count, hidden, quick


def _far(x: Tensor) -> Any:
    return (x + 0.3).clamp(0, 1)


def _outside(x: Tensor) -> Any:
    return x + 0.05


def _one_nan(x: Tensor) -> Any:
    x_adv = x.clone()
    x_adv[-1, 0, 0, 0] = math.nan
    return x_adv


def _one_far(x: Tensor) -> Any:
    x_adv = x.clone()
    x_adv[-1, 0, 0, 0] = 1 - x_adv[-1, 0, 0, 0].round()
    return x_adv


def _nothing(x: Tensor) -> Any:
    return None


def _fewer(x: Tensor) -> Any:
    return x[:-1]


def _other_shape(x: Tensor) -> Any:
    return x.flatten(1)


def _numpy(x: Tensor) -> Any:
    return x.numpy()


def _in_place(x: Tensor) -> Any:
    return x.clamp_(0.4, 0.6)


BAD = [_far, _outside, _one_nan, _one_far, _nothing, _fewer, _other_shape, _numpy, _in_place]


@pytest.mark.parametrize("bad", BAD, ids=lambda f: f.__name__)
def test_illegal_or_missing_images_are_refused(
    register: Register, net: nn.Module, x: Tensor, y: Tensor, bad: Any, tmp_path: Path
) -> None:
    """Also in one image of a later chunk, and where an attack writes into the images it gets."""

    @register("cheat")
    def cheat(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Any:
        """Behave for the first chunk."""
        calls.append(1)
        return x.clone() if len(calls) == 1 else bad(x)

    calls: list[int] = []
    kept = x.clone()
    with pytest.raises(ValueError, match="'cheat'") as caught:
        quick(net, x, y, Linf(0.1), "cheat", settings=Settings(chunk=15), out=tmp_path)
    assert "\n" not in str(caught.value)
    assert torch.equal(x, kept)
    assert not (tmp_path / "record.json").exists()


def test_an_attack_that_writes_into_its_images_changes_nothing_else(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    @register("scribble")
    def scribble(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Return legal images, but destroy images and labels on the way."""
        x_adv = x.clone()
        x.zero_()
        y.zero_()
        return x_adv

    kept, labels = x.clone(), y.clone()
    e = quick(net, x, y, Linf(0.1), "scribble")
    assert torch.equal(x, kept)
    assert torch.equal(y, labels)
    assert e.robust_accuracy == e.clean_accuracy


def test_an_attacks_own_error_is_passed_on(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    @register("broken")
    def broken(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Break."""
        raise ZeroDivisionError("in the attack")

    with pytest.raises(ZeroDivisionError, match="in the attack"):
        quick(net, x, y, Linf(0.1), "broken")


def test_distances_are_those_of_the_images(x: Tensor, y: Tensor) -> None:
    for threat, order in ((Linf(0.05), math.inf), (L2(0.4), 2), (L1(2.0), 1)):
        e = quick(small_net(), x, y, threat)
        prefix = f"adaptive/{e.record['rows'][0]['attack']}"
        delta = (e.images[prefix] - e.images["clean"]).reshape(12, -1).astype(np.float64)
        expected = np.linalg.norm(delta, order, axis=1)
        assert np.allclose(e.arrays[f"{prefix}/distance"][:12], expected, atol=1e-5)
        assert e.record["rows"][0]["distance"]["max"] <= float(threat.eps) * (1 + 2e-5) + 2e-5


def test_every_image_is_held_to_its_own_radius(net: nn.Module, x: Tensor, y: Tensor) -> None:
    eps = torch.linspace(0, 0.1, 30)
    settings = Settings(chunk=7)
    e = evaluate(net, x, y, Linf(eps), "pgd:steps=3,stop=False", settings=settings)
    prefix = f"adaptive/{e.record['rows'][0]['attack']}"
    distance = e.arrays[f"{prefix}/distance"]
    assert (distance <= eps.numpy() + 1e-5).all()
    assert np.allclose(distance, eps.numpy(), atol=0.02)
    assert json.dumps(e.record)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": "pdg"}, "unknown attack 'pdg'; did you mean pgd"),
        ({"attacks": ["fgsm", "pgd:stepz=4"]}, "no argument 'stepz'; did you mean steps"),
        ({"attacks": "pgd:steps=four"}, "whole number"),
        ({"attacks": []}, "at least one attack"),
        ({"y": torch.full((30,), 4)}, "label 4, but the model has 4 classes"),
        ({"y": torch.full((30,), -1)}, "negative"),
        ({"y": torch.zeros(29, dtype=torch.int64)}, r"shape \(30,\)"),
        ({"x": torch.full((30, 3, 8, 8), math.nan)}, "NaN"),
        ({"x": torch.full((30, 3, 8, 8), 2.0)}, r"\[0, 1\]"),
        ({"x": torch.zeros(30, 1, 8, 8)}, r"does not take images of shape \(1, 8, 8\)"),
        ({"x": torch.zeros(0, 3, 8, 8)}, "non-empty"),
        ({"threat": Linf(torch.ones(29))}, "29 radii for 30 images"),
    ],
)
def test_wrong_questions_are_refused_in_one_line(
    net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    given = {"x": x, "y": y, "threat": Linf(0.1), "attacks": "pgd:steps=2"} | arguments
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message) as caught:
        quick(net, given["x"], given["y"], given["threat"], given["attacks"], out=out)
    assert "\n" not in str(caught.value)
    assert not (out / "record.json").exists()


def test_an_attack_under_a_threat_that_it_does_not_know_is_refused(
    register: Register, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    register("narrow", threats=(L2,))(pgd)
    with pytest.raises(ValueError, match="'narrow' works under L2, not under Linf"):
        quick(net, x, y, Linf(0.1), ["fgsm", "narrow"])


@pytest.mark.parametrize(
    "bad", [{"draws": 0}, {"chunk": 0}, {"batch_size": -1}, {"precision": "fp8"}]
)
def test_settings_that_cannot_be_meant_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    register: Register, net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path
) -> None:
    calls = count(register)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot write"):
        quick(net, x, y, Linf(0.1), "counted", out=tmp_path / "file" / "run")
    assert calls == []


def test_no_trace_is_left_on_the_model_and_the_random_state(x: Tensor, y: Tensor) -> None:
    model = Rejecting(Vote(hidden(), draws=2), Entropy(), 1.0)
    model.train()
    model.model.model[1].bn1.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = {n: m.training for n, m in model.named_modules()}
    kept, random_state = x.clone(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    evaluate(model, x, y, Linf(0.05), "pgd:steps=2", curve=(0.5,), held_out=blobs(20, seed=3))
    assert {n: m.training for n, m in model.named_modules()} == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(x, kept)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[arg-type, index]


def test_no_trace_is_left_after_an_exception(register: Register, x: Tensor, y: Tensor) -> None:
    @register("broken")
    def broken(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Any:
        """Return nothing."""
        torch.rand(3)

    model = hidden().train()
    random_state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="NoneType"):
        quick(model, x, y, Linf(0.05), "broken")
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_a_model_in_training_mode_is_evaluated_in_eval_mode(x: Tensor, y: Tensor) -> None:
    one = quick(small_net().train(), x, y, Linf(0.05))
    other = quick(small_net().eval(), x, y, Linf(0.05))
    assert one.robust_accuracy == other.robust_accuracy
    assert one.record["rows"] == other.record["rows"]


def test_float64(x: Tensor, y: Tensor) -> None:
    e = evaluate(
        Rejecting(small_net().double(), Entropy(), 1.0), x.double(), y, Linf(0.05), "pgd:steps=2"
    )
    assert e.clean_accuracy > 0
