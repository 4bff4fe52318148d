"""In a cascade later attacks see only what stands, and nothing of the verdict changes by it."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS, fgsm, pgd
from redoubtable.data import load
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import SUITES, Settings, Suite, candidates, evaluate, outcomes
from redoubtable.evaluation.plan import expand
from redoubtable.evaluation.suites import Line
from redoubtable.gradients import FastCopy
from redoubtable.models import create, load_model
from redoubtable.parts import PLAIN
from redoubtable.threat import L0, L1, L2, THREATS, Linf
from redoubtable.types import Images, Labels
from tests.unit.evaluation.parts import Register, assert_equal, guard, hidden, quick
from tests.unit.evaluation.test_batches import AboveMean

ALL = (Linf, L2, L1, L0)


@pytest.fixture
def cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite of three attacks of growing strength."""
    lines = tuple(Line(a, ALL) for a in ("fgsm:loss=margin", "seen", "pgd:loss=margin,steps=20"))
    known = dict(SUITES) | {"steps": Suite(lines, True, "Three.")}
    for place in ("plan", "suites"):
        monkeypatch.setattr(f"redoubtable.evaluation.{place}.SUITES", known)


@pytest.fixture
def seen(register: Register) -> list[int]:
    counts: list[int] = []

    @register("seen")
    def seen(model: nn.Module, x: Images, y: Labels, threat: Any, *, targets: Any = None) -> Images:
        """Note how many images come, and do a little."""
        counts.append(len(x))
        return pgd(model, x, y, threat, steps=2)

    return counts


@pytest.mark.usefixtures("cascade")
def test_later_attacks_see_what_stands(
    net: nn.Module, x: Tensor, y: Tensor, seen: list[int]
) -> None:
    e = quick(net, x, y, Linf(0.06), "steps", settings=Settings(chunk=11))
    assert e.record["cascade"]
    with torch.no_grad():
        standing = net(fgsm(net, x, y, Linf(0.06))).argmax(1) == y
        standing &= net(x).argmax(1) == y
    assert 0 < sum(seen) < 30
    assert abs(sum(seen) - int(standing.sum())) <= 1  # the loss of the suite is another one
    values = [r["accuracy"]["one_shot"]["value"] for r in e.record["rows"]]
    assert values == sorted(values, reverse=True)
    assert e.robust_accuracy == values[-1] < values[0] < e.clean_accuracy


def test_a_cascade_on_a_random_model_sees_what_stands_in_any_draw(
    x: Tensor, y: Tensor, seen: list[int]
) -> None:
    model = hidden()
    attacks = ["pgd:steps=10", "seen"]
    settings = Settings(draws=20, chunk=11)
    whole = quick(model, x, y, Linf(0.1), attacks, settings=settings)
    assert not whole.record["cascade"] and sum(seen) == 2 * len(x)  # static and adaptive
    seen.clear()
    e = quick(model, x, y, Linf(0.1), attacks, cascade=True, settings=settings)
    assert e.record["cascade"]
    last = {
        view: [a for a in e.arrays if a.startswith(f"{view}/pgd") and a.endswith("selection")][-1]
        for view in ("static", "adaptive")
    }
    right = {view: e.arrays[name] == e.arrays["y"][:, None] for view, name in last.items()}
    assert sum(seen) == sum(int(one.any(1).sum()) for one in right.values())
    fallen = ~right["adaptive"].any(1)
    assert 0 < int(fallen.sum()) < len(x)
    some = right["adaptive"].mean(1)
    assert bool(((some > 0) & (some <= 0.5)).any())  # a majority of draws does not spare an image
    later = e.arrays["adaptive/seen/selection"]
    assert np.array_equal(later[fallen], e.arrays[last["adaptive"]][fallen])
    assert e.robust_accuracy == pytest.approx(whole.robust_accuracy, abs=0.1)


def test_of_what_an_attack_leaves_more_of_no_more_draws_are_made(
    net: nn.Module, x: Tensor, y: Tensor, seen: list[int], register: Register,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pieces: list[tuple[Any, ...]] = []

    def noted(bench: Any, piece: Any, x: Tensor, y: Any, name: Any) -> Any:
        found = looks(bench, piece, x, y, name)
        pieces.append((piece, y, *found))
        return found

    @register("still")
    def still(model: nn.Module, x: Images, y: Labels, threat: Any) -> Images:
        """Leave more than the attack before it."""
        return x

    def shown(bench: Any, purpose: str, model: nn.Module, *rest: Any) -> Any:
        copies.append((purpose, isinstance(model, FastCopy)))
        return look(bench, purpose, model, *rest)

    copies: list[tuple[str, bool]] = []
    looks, look = candidates.Bench._looks, candidates.Bench._look
    monkeypatch.setattr(candidates.Bench, "_looks", noted)
    monkeypatch.setattr(candidates.Bench, "_look", shown)
    model, settings = Rejecting(hidden(), Entropy(), 1.1), Settings(draws=20, chunk=30, keep=30)
    attacks = ["pgd:steps=10,loss=evasion_margin", "still", "seen"]
    e = quick(model, x, y, Linf(0.1), attacks, cascade=True, settings=settings)
    names = ["clean", *(f"adaptive/{r['attack']}" for r in e.record["rows"][len(attacks) :])]
    labels, saved, afresh = e.arrays["y"], 0, 0
    good = [outcomes.defended(e.arrays[f"{n}/selection"], labels, 4).sum(1) for n in names]
    right = [outcomes.correct(e.arrays[f"{n}/selection"], labels).sum(1) for n in names]
    those = [found for found in pieces if found[0].view == "adaptive"]
    for i, (piece, own, selection, report, beaten) in enumerate(those, 1):
        opened, before, mine = piece.open, names[i - 1], names[i]
        if i == 1:
            assert piece.bar is None and not beaten.any()  # clean images are no attack's
            assert not (report.answers == selection.answers).all()
            continue
        least, least_right = np.min(good[1:i], 0)[opened], np.min(right[1:i], 0)[opened]
        assert (least > 0).all() and (np.min(good[:i], 0) > 0).sum() == len(opened)
        assert piece.bar.good.tolist() == least.tolist()
        assert piece.bar.right.tolist() == least_right.tolist()
        counts = outcomes.Bar.of(selection.answers, own, 4)
        asked = (selection.answers >= 0).sum(1)
        assert np.array_equal(beaten, (counts.good > least) & (counts.right >= least_right))
        assert (asked[~beaten] == 20).all()
        # What the draw before the last had not settled: one answer more than the least.
        assert (counts.good[beaten] == least[beaten] + 1).any()
        saved += int((20 - asked).sum())
        kept = opened[beaten]
        for what in ("selection", "report", "suspicion"):
            theirs, ours = e.arrays[f"{before}/{what}"], e.arrays[f"{mine}/{what}"]
            assert np.array_equal(theirs[kept], ours[kept])
        assert (report.suspicion[beaten] == 0).all()  # not looked at again
        assert (report.suspicion[~beaten] != 0).all()
        assert np.array_equal(e.arrays[f"{mine}/report"][opened[~beaten]], report.answers[~beaten])
        afresh += int((report.answers != selection.answers)[~beaten].sum())
        assert (report.answers[~beaten] >= 0).all()
        if mine == "adaptive/still":  # image and distance are its own
            assert beaten.any() and np.array_equal(e.images[mine][kept], x.numpy()[kept])
            assert (e.arrays[f"{mine}/distance"][kept] == 0).all()
    assert saved > 20 and afresh > 0
    makers = [list(e.images)[i] for i in e.arrays["robust/chosen"]]
    for (piece, *_, beaten), name in zip(those, names[1:], strict=True):
        mine = {k for k, maker in enumerate(makers) if maker == name}
        assert mine <= set(piece.open[~beaten].tolist())  # nobody shows what leaves more
        assert e.record["robust"]["worst_by"][name.replace("/", " ", 1)] == len(mine)
    # Chosen on the copy that attacks search on, reported by the model itself.
    assert copies == [("selection", True), ("report", False)] * len(pieces)
    pieces.clear()
    copies.clear()
    quick(net, x, y, Linf(0.1), "fgsm")
    assert copies and not any(on_copy for _, on_copy in copies)  # it answers every time alike
    assert all(found[0].bar is None for found in pieces)


def test_rows_of_a_cascade_are_what_stands_after_them(x: Tensor, y: Tensor) -> None:
    attacks = ["pgd:steps=10,loss=evasion_margin", "fgsm:loss=margin", "noise"]
    model, settings = Rejecting(hidden(), Entropy(), 1.1), Settings(draws=20, chunk=30)
    e = quick(model, x, y, Linf(0.1), attacks, cascade=True, settings=settings)
    for view in ("static", "adaptive"):
        rows = [r for r in e.record["rows"] if r["view"] == view]
        for number in ("accuracy", "strict"):
            values = [r[number]["one_shot"]["value"] for r in rows]
            assert all(b <= a + 0.05 for a, b in itertools.pairwise(values))  # on fresh draws
            assert e.record[view][number]["one_shot"]["value"] <= values[-1] + 0.05
        assert "worst_by" not in rows[0]
    # After the first, fgsm and noise are weak: alone they would leave much more.
    alone = quick(model, x, y, Linf(0.1), attacks, cascade=False, settings=settings)
    assert alone.under["noise"] > e.under["noise"] + 0.1


def test_a_curve_of_a_random_model_shows_every_attack_all_images(
    x: Tensor, y: Tensor, seen: list[int]
) -> None:
    arguments: dict[str, Any] = {"cascade": True, "settings": Settings(draws=20, chunk=11)}
    quick(hidden(), x, y, Linf(0.1), ["pgd:steps=10", "seen"], **arguments)
    before = sum(seen)
    seen.clear()
    quick(hidden(), x, y, Linf(0.1), ["pgd:steps=10", "seen"], curve=(1.0, 2.0), **arguments)
    assert sum(seen) - before == 2 * 2 * len(x)  # radii and views; part_of looks at ten draws


def test_a_cascade_that_could_not_know_what_has_fallen_is_refused(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"at least 20 draws .* got 19"):
        quick(hidden(), x, y, Linf(0.1), cascade=True, settings=Settings(draws=19))
    with pytest.raises(ValueError, match="depends on its batch"):
        quick(AboveMean(), x, y, Linf(0.1), cascade=True, settings=Settings(chunk=15))
    for odd in (replace(PLAIN, stochastic=True), replace(PLAIN, batch_dependent=True)):
        assert not expand("standard", Linf(0.1), odd)[1]


def test_a_suite_can_be_kept_from_its_cascade(net: nn.Module, x: Tensor, y: Tensor) -> None:
    assert quick(net, x, y, Linf(0.06), "lean").record["cascade"]
    e = quick(net, x, y, Linf(0.06), "lean", cascade=False)
    assert not e.record["cascade"]
    assert all(r["passes"]["forward"] >= len(x) for r in e.record["rows"])


@pytest.mark.usefixtures("cascade", "seen")
@pytest.mark.parametrize("threat", [Linf(0.06), L2(torch.linspace(0.1, 0.8, 30))], ids=str)
def test_the_verdict_is_that_of_all_attacks_on_all_images(
    net: nn.Module, x: Tensor, y: Tensor, threat: Any
) -> None:
    one = quick(net, x, y, threat, "steps", settings=Settings(chunk=11))
    lines = [line.text for line in expand_lines()]
    other = quick(net, x, y, threat, lines, settings=Settings(chunk=11))
    assert not other.record["cascade"]
    # Each attack draws its starts for the images it sees: single borderline ones may differ.
    assert abs(one.robust_accuracy - other.robust_accuracy) <= 1 / 30
    assert sum(r["passes"]["forward"] for r in one.record["rows"]) < sum(
        r["passes"]["forward"] for r in other.record["rows"]
    )


def expand_lines() -> Any:
    from redoubtable.evaluation import plan

    return plan.SUITES["steps"].lines


@pytest.mark.usefixtures("cascade")
def test_what_fell_is_carried_along_with_its_image(
    net: nn.Module, x: Tensor, y: Tensor, seen: list[int]
) -> None:
    e = quick(net, x, y, Linf(0.06), "steps", settings=Settings(keep=30))
    first, last = "adaptive/fgsm:loss=margin", "adaptive/pgd:loss=margin,steps=20"
    fell = e.arrays[f"{first}/selection"][:, 0] != e.arrays["y"]
    assert 0 < fell.sum() < 30
    assert np.array_equal(e.images[first][fell], e.images[last][fell])
    assert np.array_equal(e.arrays[f"{first}/distance"][fell], e.arrays[f"{last}/distance"][fell])
    with torch.no_grad():
        again = net(torch.from_numpy(e.images[last])).argmax(1).numpy()
    assert np.array_equal(again, e.arrays[f"{last}/report"][:, 0])
    by = e.record["robust"]["worst_by"]
    wrong = int((e.arrays["clean/selection"][:, 0] != e.arrays["y"]).sum())
    assert by["clean"] == wrong
    assert by["adaptive fgsm:loss=margin"] == fell.sum() - wrong
    assert sum(by.values()) == 30


@pytest.mark.usefixtures("cascade")
def test_a_random_model_has_no_cascade(x: Tensor, y: Tensor, seen: list[int]) -> None:
    quick(hidden(), x, y, Linf(0.06), "steps", settings=Settings(draws=2))
    assert seen == [30, 30]  # static and adaptive


@pytest.mark.usefixtures("cascade", "seen")
def test_a_cascade_resumes_with_nothing_counted_twice(
    net: nn.Module, x: Tensor, y: Tensor, tmp_path: Any, register: Register
) -> None:
    whole = quick(net, x, y, Linf(0.06), "steps", settings=Settings(chunk=7), out=tmp_path)
    for cell in sorted((tmp_path / "journal").glob("*.cell"))[::3]:
        cell.unlink()
    assert_equal(
        whole, quick(net, x, y, Linf(0.06), "steps", settings=Settings(chunk=7), out=tmp_path)
    )


@pytest.mark.usefixtures("cascade", "seen")
def test_curve_checks_and_rates_of_a_cascade(x: Tensor, y: Tensor) -> None:
    e = evaluate(
        guard(), x, y, Linf(0.05), "steps", curve=(0.5, 1.0), held_out=x.flip(3),
        settings=Settings(draws=2),
    )  # fmt: skip
    heights = [p["adaptive"]["value"] for p in e.record["curve"]]
    assert heights == sorted(heights, reverse=True)
    assert len(e.record["rates"]) == 2
    assert {f["check"] for f in e.record["findings"]} >= {"more_steps", "unbounded"}


def test_a_function_is_run_as_an_attack(net: nn.Module, x: Tensor, y: Tensor) -> None:
    def mine(model: nn.Module, x: Images, y: Labels, threat: Any) -> Images:
        return threat.project(x + 1.0, x)

    e = quick(net, x, y, Linf(0.06), [mine, "fgsm:loss=margin"])
    assert [r["attack"] for r in e.record["rows"]] == ["mine", "fgsm:loss=margin"]
    assert e.record["rows"][0]["distance"]["max"] == pytest.approx(0.06, rel=1e-4)
    with pytest.raises(ValueError, match="illegal"):
        quick(net, x, y, Linf(0.06), lambda model, x, y, threat: (x + 0.2).clamp(0, 1))


def test_functions_are_told_apart_and_run_anew(
    net: nn.Module, x: Tensor, y: Tensor, tmp_path: Any
) -> None:
    def strength(size: float) -> Any:
        def pgd(
            model: nn.Module, x: Images, y: Labels, threat: Any, *, stop: bool = True
        ) -> Images:
            return threat.project(x + size, x)

        return pgd

    def run(*sizes: float) -> Any:
        return quick(net, x, y, Linf(0.06), [strength(s) for s in sizes], out=tmp_path)

    e = run(0.01, 0.05)
    assert [r["attack"] for r in e.record["rows"]] == ["pgd#2", "pgd#3"]
    assert [r["distance"]["max"] for r in e.record["rows"]] == pytest.approx([0.01, 0.05], rel=1e-3)
    again = run(0.02, 0.05)
    assert again.record["rows"][0]["distance"]["max"] == pytest.approx(0.02, rel=1e-3)


def test_images_of_other_networks_are_named_by_folder(tmp_path: Any) -> None:
    folder = Path(__file__).parents[3] / "zoo" / "digits-cnn"
    data, labels = load("digits", "test", limit=20)
    other = create("small_cnn", width=4)
    text = [f"transfer:surrogates={folder},steps=3", "fgsm"]
    with pytest.raises(ValueError, match="never see the model"):
        quick(other, data, labels, Linf(0.1), text[0])
    e = quick(other, data, labels, Linf(0.1), text, out=tmp_path, settings=Settings(keep=20))
    kept = torch.from_numpy(e.images[f"adaptive/{e.record['rows'][0]['attack']}"])
    with torch.no_grad():
        assert (load_model(folder)(kept).argmax(1) == labels).float().mean() < 0.8
    assert_equal(
        e, quick(other, data, labels, Linf(0.1), text, out=tmp_path, settings=Settings(keep=20))
    )


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_run(name: str) -> None:
    suite = SUITES[name]
    kinds = [kind for kind in THREATS.values() if suite.against(PLAIN, kind(4.0))]
    assert kinds
    for kind in kinds:
        bounds, _ = expand(name, kind(4.0))
        assert [b.entry.name for b in bounds] == [
            t.partition(":")[0] for t in suite.against(PLAIN, kind(4.0))
        ]
        assert all(b.entry.name in ATTACKS for b in bounds)
    for kind in set(THREATS.values()) - set(kinds):
        with pytest.raises(ValueError, match=f"no attack under {kind.name}"):
            expand(name, kind(4.0))


def test_rounding_keeps_images_legal_and_8_bit(net: nn.Module, x: Tensor, y: Tensor) -> None:
    whole = (x * 255).round() / 255
    for threat in (Linf(0.05), L2(0.4), L1(3.0), L0(5)):
        for clean in (whole, x):
            e = quick(net, clean, y, threat, "pgd:steps=5",
                      settings=Settings(eight_bit=True, keep=30))  # fmt: skip
            name = next(k for k in e.images if k.startswith("adaptive"))
            x_adv = torch.from_numpy(e.images[name])
            steps = x_adv * 255
            kept = x_adv == clean
            assert ((steps - steps.round()).abs()[~kept] < 1e-3).all()
            assert threat.contains(x_adv, clean).all()
            assert not kept.all()
    free = quick(net, whole, y, Linf(0.05), "pgd:steps=5", settings=Settings(keep=30))
    name = next(k for k in free.images if k.startswith("adaptive"))
    steps = torch.from_numpy(free.images[name]) * 255
    assert ((steps - steps.round()).abs() > 0.01).any()
