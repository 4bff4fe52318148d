"""An audit says first how long it takes, does all that fits, and says what it cut."""

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.cli.together import share_cores
from redoubtable.evaluation import Settings, estimate
from redoubtable.evaluation.checks import CHEAP, CHECKS
from redoubtable.evaluation.estimate import Kinds, Pace, images_within, pace, sort_images
from redoubtable.evaluation.suites import SUITES, Line, Suite
from redoubtable.parts import PLAIN, Part
from redoubtable.threat import Linf
from tests.networks import facts

N = 24
ZOO = Path(__file__).parents[2] / "zoo"
module = importlib.import_module("redoubtable.cli.audit")  # its name is also the command's


class Brightness(nn.Module):
    """Two classes, dark and bright; how far an image is from the middle decides its fate."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x: Tensor) -> Tensor:
        light = (x.flatten(1).mean(1) - 0.5) * self.scale
        return torch.stack([-light, light], 1)


def build(channels: int = 3, classes: int = 2) -> nn.Module:
    return Brightness()


def images() -> tuple[Tensor, Tensor]:
    """A third within 0.1 of the boundary, in no order."""
    levels = [0.45, 0.2, 0.8] * (N // 3)
    x = torch.tensor(levels)[:, None, None, None].expand(N, 3, 6, 6).clone()
    return x, (x.mean((1, 2, 3)) > 0.5).long()


class Clock:
    """In the place of `time` in a module: goes on when it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    monkeypatch.setattr(estimate, "time", ticking)
    return ticking


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites and evaluations that take no time."""
    for name in ("adaptive", "standard", "lean"):
        monkeypatch.setitem(SUITES, name, Suite((Line("fgsm"),), False, "One step."))
    monkeypatch.setattr(module, "_checks", lambda suite: False)
    monkeypatch.setattr(module, "pace", lambda *a, **k: Pace(0.5, 0))


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    x, y = images()
    pixels = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
    arrays = {f"x_{p}": pixels for p in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, **{f"y_{p}": y.numpy() for p in ("train", "test")})
    torch.save(build().state_dict(), tmp_path / "net.pt")
    return [
        "audit", f"{__name__}:build", "--weights", str(tmp_path / "net.pt"), "--data",
        str(tmp_path / "d.npz"), "--threat", "Linf:0.1", "--out", str(tmp_path / "out"),
        "--workers", "0", "--device", "cpu",
    ]  # fmt: skip


def test_images_are_sorted_by_what_a_quick_attack_makes_of_them() -> None:
    x, y = images()
    kinds = sort_images(build(), x, y, Linf(0.1), Settings())
    assert kinds.standing == pytest.approx(2 / 3)
    (standing, far, _), (fallen, near, labels) = kinds.groups
    assert (standing, fallen) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert len(far) == len(near) == len(labels) == estimate.TRIED
    assert bool((near < 0.5).all() & (near > 0.4).all())
    assert bool(((far - 0.5).abs() > 0.2).all())
    assert kinds.speed >= 1
    all_stand = sort_images(build(), x, y, Linf(0.001), Settings())
    assert all_stand.standing == 1 and len(all_stand.groups) == 1


def test_a_pace_weighs_the_kinds_of_images(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Each kind costs what it does, by its share; doubts come on top."""
    y = images()[1]
    calls: list[tuple[int, bool, int]] = []

    def evaluated(model: Any, x: Tensor, y: Tensor, *_: Any, curve: Any, **more: Any) -> None:
        calls.append((len(x), more["check"], len(curve)))
        clock.now += 0.2 if more["check"] else 0.1 if x[0, 0, 0, 0] < 0.3 else 0.3

    monkeypatch.setattr(estimate, "evaluate", evaluated)
    dark, grey = (torch.full((n, 3, 6, 6), v) for n, v in ((4, 0.2), (2, 0.45)))
    kinds = Kinds(0.75, ((0.75, dark, y[:4]), (0.25, grey, y[:2])), 2.0)
    how: dict[str, Any] = {"settings": Settings(), "curve": (1.0,), "check": True}
    found = pace(nn.Identity(), kinds, Linf(0.1), "pgd", **how, again=1)
    attacks = (0.75 * 0.1 / 4 + 0.25 * 0.3 / 2) * 2 / 2
    assert found.attacks == pytest.approx(attacks)
    assert found.doubts == pytest.approx((0.75 * 0.2 / 4 + 0.25 * 0.2 / 2) / 2)
    assert calls == [(4, False, 0), (4, True, 1), (2, False, 0), (2, True, 1)]


def test_of_a_long_search_a_part_is_tried_where_images_stand(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A search of 5,000 queries is paced by 500; the others, and what falls, by all of it."""
    asked: list[tuple[int, tuple[str, ...], bool | None]] = []

    def evaluated(
        model: Any, x: Tensor, y: Tensor, ball: Any, attacks: list[str], **more: Any
    ) -> None:
        asked.append((len(x), tuple(attacks), more["cascade"]))
        clock.now += 0.05 * sum("square" in text for text in attacks)

    monkeypatch.setattr(estimate, "evaluate", evaluated)
    y = images()[1]
    dark, grey = (torch.full((n, 3, 6, 6), v) for n, v in ((4, 0.2), (2, 0.45)))
    how: dict[str, Any] = {"settings": Settings(), "curve": (), "check": False}
    groups = ((0.5, dark, y[:4]), (0.5, grey, y[:2]))
    found = pace(nn.Identity(), Kinds(0.5, groups, 1.0), Linf(0.1), "standard", **how)
    (first, alone, fallen) = asked
    assert first[0] == alone[0] == 4 and fallen[0] == 2
    assert first[1][-1] == alone[1][0] == "square:queries=500" and len(first[1]) == 4
    assert alone[1] == ("square:queries=500",) and fallen[1][-1] == "square"
    assert first[2] is fallen[2] is True
    assert found.attacks == pytest.approx(0.5 * 0.5 / 4 + 0.5 * 0.05 / 2)
    asked.clear()
    pace(nn.Identity(), Kinds(0.0, groups[1:], 1.0), Linf(0.1), "standard", **how)
    assert [texts[-1] for _, texts, _ in asked] == ["square"]
    asked.clear()
    pace(nn.Identity(), Kinds(1.0, groups[:1], 1.0), Linf(0.1), ["square:queries=999"], **how)
    assert [texts for _, texts, _ in asked] == [("square:queries=999",)]


def test_seconds_grow_with_images_and_doubts_only_to_the_first() -> None:
    one = Pace(0.5, 0.25)
    assert one.seconds(40) == 30
    assert one.seconds(300) == 150 + estimate.LOOKED_AT * 0.25
    assert images_within(30, [one], 500) == 40
    assert images_within(60, [one, one], 30) == 30
    assert images_within(0.1, [one], 500) == 0
    assert one.seconds(40, 2) == pytest.approx(30 / (2 * estimate.SHARED))
    assert one.seconds(40, 9) == one.seconds(40, 4)  # there are no more chunks
    assert images_within(30 / (2 * estimate.SHARED) + 1e-6, [one], 500, 2) == 40


def test_chunks_are_enough_to_share_and_not_too_short() -> None:
    lengths = [estimate.chunk_for(n, 250) for n in (5000, 1000, 500, 100, 10)]
    assert lengths == [250, 250, 125, 25, 25]
    assert estimate.chunk_for(500, 10) == 10


def test_what_standard_does_at_length_is_not_done_before_it() -> None:
    ball = Linf(0.1)
    both = module._attacks(("adaptive", "standard"), PLAIN, ball)
    assert both == {"adaptive": ["fgsm", "pgd:restarts=2"], "standard": "standard"}
    assert module._attacks(("adaptive", "lean"), PLAIN, ball)["adaptive"] == "adaptive"
    assert module._attacks(("adaptive",), PLAIN, ball) == {"adaptive": "adaptive"}
    assert module._checks("adaptive") is True
    assert set(module._checks("standard")) == set(CHEAP) < set(CHECKS)


@pytest.mark.parametrize(
    ("attacks", "minutes", "suites", "n", "cut"),
    [
        (0.01, None, ("adaptive", "standard"), 400, ()),
        (0.01, 1.0, ("adaptive", "standard"), 400, ()),
        (0.2, 1.0, ("adaptive", "standard"), 149, ("149 images instead of 400",)),
        (0.6, 1.0, ("adaptive", "lean"), 99, None),
        (90.0, 1.0, ("adaptive", "lean"), 10, None),
    ],
)
def test_a_budget_cuts_images_first_then_the_suite(
    attacks: float,
    minutes: float | None,
    suites: tuple[str, ...],
    n: int,
    cut: tuple[str, ...] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds = {"adaptive": 1.0, "standard": 1.0, "lean": 0.0}

    def paced(m: Any, k: Any, b: Any, asked: str | list[str], **_: Any) -> Pace:
        return Pace(attacks * speeds[asked if isinstance(asked, str) else "adaptive"], 0)

    monkeypatch.setattr(module, "pace", paced)
    target = module.Subject(build(), torch.zeros(400, 3, 6, 6), torch.zeros(400), None, "m", "d")
    kinds = Kinds(0.5, (), 1.0)
    plan = module._plan(target, Linf(0.1), Settings(), kinds, 1, minutes, time.perf_counter())
    assert plan.suites == suites
    assert plan.n == pytest.approx(n, abs=1)
    assert plan.seconds == pytest.approx(plan.n * attacks * sum(speeds[s] for s in suites))
    if cut == ():
        assert plan.cut == ()
    else:
        said = ", ".join(plan.cut)
        assert ("lean instead of standard" in said) == ("lean" in suites)
        assert f"{plan.n} images instead of 400" in said
        assert ("more time than the budget" in said) == (attacks > 50)


@pytest.mark.slow
def test_the_whole_audit_in_one_command(arguments: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "estimate: " in done.stderr and "67% stand under a quick PGD" in done.stderr
    assert "upper bound" in done.stdout or "must not be read" in done.stdout
    assert "Took " in done.stdout
    out = tmp_path / "out"
    page = (out / "index.html").read_text()
    said = (out / "report.md").read_text()
    assert "estimated: " in said and "taken: " in said
    for suite in ("adaptive", "standard"):
        assert f"suite {suite}" in page
        record = json.loads((out / suite / "record.json").read_text())
        assert record["data"]["n"] == N
        assert record["adaptive"]["accuracy"]["one_shot"]["value"] == pytest.approx(2 / 3)
        ran = {f["check"] for f in record["findings"] if f["says"] != "not asked for here"}
        assert ran == (set(CHECKS) if suite == "adaptive" else set(CHEAP))
        assert record["settings"]["chunk"] == 25
    assert "cut to fit" not in said
    assert "taking the first" not in done.stderr


def test_few_of_many_images_are_taken_and_that_is_said(
    arguments: list[str], short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "USUAL", 12)
    done = CliRunner().invoke(app, [*arguments, "--json", "--budget", "0.0001"])
    assert "taking the first 12 of 24 images" in done.stderr
    assert [r["data"]["n"] for r in json.loads(done.stdout)] == [10, 10]
    assert {r["settings"]["chunk"] for r in json.loads(done.stdout)} == {25}


def test_what_a_budget_cuts_stands_in_the_report(
    arguments: list[str], short: None, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, [*arguments, "--budget", "0.0001"])
    assert done.exit_code == 0, done.output
    assert "cut to fit the budget: the suite lean instead of standard, 10 images" in done.stderr
    assert "more time than the budget" in done.stderr
    assert "10 images instead of 24" in (tmp_path / "out" / "report.md").read_text()
    record = json.loads((tmp_path / "out" / "lean" / "record.json").read_text())
    assert record["data"]["n"] == 10
    assert CliRunner().invoke(app, [*arguments, "--budget", "0"]).exit_code == 2


def test_a_fellow_takes_the_plan_of_the_first(
    arguments: list[str], short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CliRunner().invoke(app, [*arguments, "--limit", "11"]).exit_code == 0
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["n"] == 11 and plan["suites"] == ["adaptive", "standard"]
    (tmp_path / "out" / "plan.json").write_text(json.dumps({**plan, "n": 7, "suites": ["lean"]}))
    monkeypatch.setattr(module, "is_fellow", lambda: True)
    done = CliRunner().invoke(app, [*arguments, "--limit", "11", "--json"])
    assert [r["data"]["n"] for r in json.loads(done.stdout)] == [7]
    assert "estimate" not in done.stderr


def test_an_audit_is_not_started_by_torchrun(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and "--processes" in done.output


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(["--budget", "nan"], "budget"), (["--processes", "0"], "processes")],
)
def test_bad_arguments_are_refused_before_anything_is_tried(
    arguments: list[str], tmp_path: Path, wrong: list[str], said: str
) -> None:
    done = CliRunner().invoke(app, [*arguments, *wrong])
    assert done.exit_code == 2 and said in done.output
    assert not (tmp_path / "out").exists()


def test_images_that_the_model_does_not_take_are_refused(tmp_path: Path) -> None:
    for command in (["audit", "--threat", "Linf:0.1"], ["certify", "--n", "20"]):
        words = [command[0], str(ZOO / "cifar10-resnet20-pgd"), *command[1:], "--data", "digits"]
        done = CliRunner().invoke(app, [*words, "--limit", "4", "--out", str(tmp_path / "o")])
        assert done.exit_code == 2, done.output
        assert "does not take images of shape (1, 28, 28)" in done.output.replace("\n", " ")


def test_cores_are_shared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: given[-1] if given else 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that what it was comes back afterwards
    monkeypatch.delenv("OMP_NUM_THREADS")
    share_cores(1)
    assert not given and "OMP_NUM_THREADS" not in os.environ
    share_cores(3)
    share_cores(3)
    assert given == [2] and os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    share_cores(2)
    assert given == [2]


def test_an_audit_tries_as_it_will_run(
    arguments: list[str], short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    whole = module.sort_images

    def sorted_(*given: Any) -> Kinds:
        seen.append(("sorted", given[-1].chunk))
        return whole(*given)

    monkeypatch.setattr(module, "share_cores", lambda n: seen.append(("shared", n)))
    monkeypatch.setattr(module, "sort_images", sorted_)
    assert CliRunner().invoke(app, [*arguments, "--chunk", "7"]).exit_code == 0
    assert seen == [("shared", 1), ("sorted", 7)]


def test_batches_of_models_that_depend_on_them_stay_whole() -> None:
    class Alike(Part):
        facts = facts(batch_dependent=True)

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] - x.mean()

        def undefended(self) -> nn.Module:
            return nn.Identity()

    x, y = images()
    for model, chunk in ((Alike(), 250), (build(), 25)):
        target = module.Subject(model, x, y, None, "m", "d")
        assert module._cut(Settings(chunk=250), target).chunk == chunk
