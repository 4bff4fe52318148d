"""Training on the answers of other networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from redoubtable.models import load_model
from redoubtable.training import RECIPES, distilled
from tests.unit.training.parts import SETTINGS, Killed, fresh, quiet, same, state, toy

LONG = replace(SETTINGS, epochs=15, augment="none")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("teachers")
    for seed, name in enumerate("ab"):
        quiet(fresh(seed, width=4), toy(), "natural", LONG, out=out / name)
    return [str(out / name) for name in "ab"]


@pytest.mark.parametrize(("temperature", "labels"), [(1.0, 0.0), (3.0, 0.0), (2.0, 0.25)])
def test_the_target_is_the_mean_answer(
    teachers: list[str], temperature: float, labels: float
) -> None:
    (x, y), model = toy().floats(), fresh(7).eval()
    recipe = distilled(teachers=teachers, temperature=temperature, labels=labels)
    with torch.no_grad():
        a, b = (load_model(t)(x).double() for t in teachers)
        z = model(x).double()
    target = ((a / temperature).softmax(1) + (b / temperature).softmax(1)) / 2
    soft = -(temperature**2) * (target * (z / temperature).log_softmax(1)).sum(1).mean()
    hard = -z.log_softmax(1)[range(len(y)), y].mean()
    expected = (1 - labels) * soft + labels * hard
    assert recipe(model, x, y).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_network_that_answers_like_its_teacher_is_left_alone(teachers: list[str]) -> None:
    """And another one is not, by labels that say nothing to the teacher."""
    (x, y), recipe = toy().floats(), distilled(teachers=teachers[:1], temperature=4.0)
    for folder, still in zip(teachers, (True, False), strict=True):
        model = load_model(folder)
        recipe(model, x, (y + 1) % 3).backward()
        largest = max(p.grad.abs().max().item() for p in model.parameters())
        assert (largest < 1e-6) == still


def test_teachers_stay_as_they_are(teachers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []

    def spied(folder: str) -> nn.Module:
        seen.append(load_model(folder))
        return seen[-1]

    monkeypatch.setattr("redoubtable.training.distilling.load_model", spied)
    (x, y), recipe, model = toy().floats(), distilled(teachers=teachers), fresh(5).train()
    before = [state(t) for t in seen]
    recipe(model, x, y).backward()
    assert model.training and all(not t.training for t in seen)
    assert all(same(state(t), b) for t, b in zip(seen, before, strict=True))
    assert all(p.grad is None for t in seen for p in t.parameters())


def test_a_student_learns_what_its_teachers_know(teachers: list[str], tmp_path: Path) -> None:
    text = f"distilled:teachers={teachers[0]};{teachers[1]},temperature=2"
    mislabelled = toy()
    mislabelled.labels.copy_((mislabelled.labels + 1) % 3)
    done = quiet(fresh(3), mislabelled, text, LONG, out=tmp_path / "student")
    x, y = toy(split="test").floats()
    with torch.no_grad():
        right = (done.model.eval()(x).argmax(1) == y).double().mean().item()
        taught = [(load_model(t)(x).argmax(1) == y).double().mean().item() for t in teachers]
    assert min(taught) > 0.9 and right > 0.9


def test_a_run_goes_on_with_the_teachers_it_began_with(
    teachers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tmp_path / "teacher"
    quiet(fresh(1, width=4), toy(), "natural", SETTINGS, out=teacher)
    text = f"distilled:teachers={teacher}"
    plain, calls = F.cross_entropy, 0

    def dying(*given: object, **more: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 7:
            raise Killed
        return plain(*given, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(F, "cross_entropy", dying)
        quiet(fresh(3), toy(), text, SETTINGS, out=tmp_path / "killed")
    whole = quiet(fresh(3), toy(), text, SETTINGS, out=tmp_path / "whole")
    resumed = quiet(fresh(3), toy(), text, SETTINGS, out=tmp_path / "killed")
    assert same(state(whole.model), state(resumed.model))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        calls = 0
        patch.setattr(F, "cross_entropy", dying)
        quiet(fresh(3), toy(), text, SETTINGS, out=tmp_path / "other")
    for name in ("card.json", "model.safetensors"):
        (teacher / name).write_bytes((Path(teachers[0]) / name).read_bytes())
    with pytest.raises(ValueError, match="not those that this run began with"):
        quiet(fresh(3), toy(), text, SETTINGS, out=tmp_path / "other")


def test_what_is_refused(teachers: list[str], tmp_path: Path) -> None:
    for bad in ("distilled", "distilled:teachers="):
        bound = RECIPES.bind(bad)
        with pytest.raises(ValueError, match="`teachers` must name folders"):
            bound.entry.obj(**bound.arguments)
    with pytest.raises(ValueError, match="`teachers` must name folders"):
        distilled(teachers=teachers[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing"):
        distilled(teachers=[str(tmp_path / "nothing")])
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`temperature`"):
            distilled(teachers=teachers, temperature=temperature)
    for labels in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`labels`"):
            distilled(teachers=teachers, labels=labels)
    with pytest.raises(ValueError, match="as many classes"):
        distilled(teachers=teachers)(fresh(classes=4), *toy().floats())
    with pytest.raises(ValueError, match="images of 3 channels, got one for 1"):
        distilled(teachers=teachers)(fresh(channels=3), *toy(channels=3).floats())
