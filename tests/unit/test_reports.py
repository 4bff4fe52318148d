"""Reports are functions of records: what they say must be in the record, all of it escaped."""

import base64
import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from redoubtable.evaluation.evaluate import SCHEMA
from redoubtable.reports import plots, read_record, show, verdict, write_page
from redoubtable.reports.record import evaluations, in_words, interval, number, with_interval
from redoubtable.reports.sheets import sheet
from redoubtable.statistics import auc, wilson

N = 300
HOSTILE = '<script>alert("x")</script>[red]&{{ 7 * 7 }}'


def share(value: float, n: int = N) -> dict[str, Any]:
    return wilson(value * n, n).__dict__


def accuracies(value: float, draws: int) -> dict[str, Any]:
    rules = {"one_shot": value, "majority": value / 2, "worst": value / 4}
    if draws == 1:
        rules = dict.fromkeys(rules, value)
    return {**{k: share(v) for k, v in rules.items()}, "draws": draws}


def numbers(value: float, draws: int, abstains: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"accuracy": accuracies(value, draws)}
    if abstains:
        found |= {"strict": accuracies(value * 0.75, draws), "rejected": share(value * 0.25)}
    return found


def finding(verdict: str = "pass", says: str = "all is well", **more: Any) -> dict[str, Any]:
    base = {"check": "more_steps", "qualifies": "adaptive", "evidence": {"p": 0.125, "n": 100}}
    return {**base, "verdict": verdict, "says": says, **more}


def record(
    name: str = "guard",
    threat: str = "Linf:51/255",
    *,
    clean: float = 0.98,
    static: float | None = 0.55,
    adaptive: float | None = 0.02,
    random: bool = True,
    abstains: bool = True,
    findings: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A record as `evaluate` gives it; `static=None` is a bare model, whose static is a copy."""
    draws = 10 if random else 1
    rows = [("static", "fgsm", static), ("adaptive", "pgd:loss=margin,steps=20", adaptive)]
    views: dict[str, Any] = {"clean": numbers(clean, draws, abstains)}
    for view, text, value in rows:
        worst = {"worst_by": {"clean": 6, f"{view} {text}": N - 6}}
        views[view] = None if value is None else numbers(value, draws, abstains) | worst
    if static is None and views["adaptive"]:
        views["static"] = {**views["adaptive"], "note": "no defense: static is adaptive"}
    lowest = min(v for v in (static, adaptive, clean) if v is not None)
    found = {
        "schema": SCHEMA,
        "kind": "evaluation",
        "name": name,
        "threat": threat,
        "attacks": ["fgsm", "pgd:steps=20"],
        "settings": {
            "seed": 31,
            "draws": draws,
            "chunk": 250,
            "batch_size": 512,
            "precision": "fp32",
        },
        "model": {
            "structure": "Net(\n  <conv>\n)",
            "digest": "0123456789abcdef",
            "parameters": 103146,
            "classes": 10,
            "facts": {
                "stochastic": random,
                "differentiable": True,
                "batch_dependent": False,
                "abstains": abstains,
                "passes": 1,
            },
        },
        "data": {"n": N, "shape": [1, 8, 8], "chunks": 2},
        **views,
        "rows": [
            {"view": view, "attack": text, **numbers(value, draws, abstains)}
            | {"passes": {"forward": 4 * N, "backward": 3 * N}, "passes_per_image": 7.25}
            | {"distance": {"median": 0.1875, "max": 0.2}}
            for view, text, value in rows
            if value is not None
        ],
        "robust": numbers(lowest, draws, abstains) | {"worst_by": {}},
        "curve": [
            {"eps": eps, "static": share(0.9 - eps, 100), "adaptive": share(0.9 - 4 * eps, 100)}
            for eps in (0.0, 0.1, 0.2)
        ],
        "findings": [finding()] if findings is None else findings,
        "environment": {"redoubtable": "9.8.7", "packages": {"torch": "6.5.4"}, "cpu": "abacus"},
    }
    if abstains:
        scores = np.arange(20.0)
        area = auc(scores, scores + 5).__dict__
        roc = {"fpr": [0.0, 0.25, 1.0], "tpr": [0.0, 0.75, 1.0]}
        found["detection"] = {"auc": area, "roc": roc, "note": "made for its own threshold"}
        point = {"rate": 0.05, "threshold": 1.375, "held_out": 200, "static": None}
        at = numbers(0.07, draws, True)
        detection = {"auc": area, "roc": roc, "note": ""}
        found["rates"] = [{**point, "clean": at, "adaptive": at, "detection": detection}]
    return found


def bare(name: str = "natural", adaptive: float | None = 0.0, **more: Any) -> dict[str, Any]:
    return record(name, static=None, adaptive=adaptive, random=False, abstains=False, **more)


def saved(folder: Path, value: Any) -> Path:
    path = folder / "record.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def printed(records: Any, width: int = 80, **more: Any) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    show(records, console, **more)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def pictures(images: int = 3, channels: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.25, 0.75, (images, channels, 8, 8)).astype(np.float32)
    keys = ("static/fgsm", "adaptive/pgd:loss=margin,steps=20")
    return {"clean": clean, **{k: clean + np.float32(0.1875) for k in keys}}


def page(folder: Path, records: Any, images: Any = None, **more: Any) -> str:
    count = len(evaluations(records))
    settings = {"title": "A title", "command": "redoubt evaluate m --threat Linf:0.2", **more}
    file = write_page(folder / "index.html", records, images or [{}] * count, **settings)
    return file.read_text(encoding="utf-8")


def text_of(html: str) -> str:
    """What a reader sees: no style, no tags, single spaces."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


# -- reading records ---------------------------------------------------------------------------


def test_a_record_comes_back_from_its_file_and_from_its_folder(tmp_path: Path) -> None:
    path = saved(tmp_path, record())
    assert read_record(path) == read_record(tmp_path) == record()


def test_a_demo_record_comes_back_with_its_evaluations(tmp_path: Path) -> None:
    demo = {"schema": 1, "kind": "demo", "command": "c", "evaluations": [bare(), record()]}
    found = read_record(saved(tmp_path, demo))
    assert [e["name"] for e in evaluations(found)] == ["natural", "guard"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": SCHEMA + 1}, f"has schema {SCHEMA + 1}.*upgrade redoubtable"),
        ({"schema": 0}, "evaluate again with this version"),
        ({"kind": "poem"}, "of kind 'poem'"),
        ({"rows": None}, "no list 'rows'"),
        ({"clean": {"value": 1.5, "n": 3, "low": 0.1, "high": 0.2}}, "interval at clean"),
        ({"clean": {"value": "x", "n": 3, "low": 0.1, "high": 0.2}}, "interval at clean"),
    ],
)
def test_what_no_report_can_be_made_of_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says) as error:
        read_record(saved(tmp_path, record() | change))
    assert "\n" not in str(error.value)


def test_a_missing_block_names_the_evaluation_of_the_demo(tmp_path: Path) -> None:
    broken = record()
    del broken["adaptive"]
    demo = {"schema": SCHEMA, "kind": "demo", "evaluations": [bare(), broken]}
    with pytest.raises(ValueError, match="evaluation 1 has no 'adaptive'"):
        read_record(saved(tmp_path, demo))


@pytest.mark.parametrize("value", [[], {}, 3, {"schema": SCHEMA}])
def test_other_json_is_no_record(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="no redoubtable record"):
        read_record(saved(tmp_path, value))


def test_numbers_are_written_one_way() -> None:
    assert with_interval(share(0.5)) == "50.0% [44.4, 55.6]"
    assert [number(v) for v in (2.0, 6.6066, 103146, 0.30000000000000004)] == [
        "2",
        "6.61",
        "103,146",
        "0.3",
    ]
    assert in_words("L0:20") == "at most 20 pixels change, by any amount"
    assert in_words("Wasserstein:1") == ""


# -- the verdict -------------------------------------------------------------------------------


def test_a_defense_that_falls_is_said_to_fall() -> None:
    said = verdict(record(static=0.55, adaptive=0.02))
    assert "looks like 55.0% under static attacks" in said
    assert f"adaptive ones leave {with_interval(share(0.02))}" in said
    assert said.endswith("The defense of guard falls once the attacker knows it.")


def test_a_defense_that_falls_without_knowledge_is_said_to_fall_so() -> None:
    assert "even to attackers who do not know it" in verdict(record(static=0.1, adaptive=0.02))


def test_a_bare_model_that_falls_is_not_said_to_have_a_defense() -> None:
    said = verdict(bare())
    assert "falls to 0.0% [0.0, 1.3] under attack at Linf:51/255" in said
    assert "cannot be relied on" in said
    assert "defense" not in said


def test_what_stands_is_an_upper_bound_and_never_called_robust() -> None:
    said = verdict(record(static=0.9, adaptive=0.8))
    assert "upper bound" in said
    assert "robust" not in said


def test_adaptive_that_is_not_much_lower_is_said_so() -> None:
    assert "not clearly less than the 82.0% of static ones" in verdict(
        record(static=0.82, adaptive=0.8)
    )


def test_adaptive_attacks_that_are_weaker_than_static_ones_are_said_so() -> None:
    said = verdict(record(static=0.6, adaptive=0.9, findings=[finding("fail")]))
    assert "more than the 60.0% of static ones, which knew less" in said


def test_a_weak_adaptive_attack_does_not_hide_a_fall_under_static_ones() -> None:
    said = verdict(record(static=0.2, adaptive=0.9))
    assert "falls even to attackers who do not know it" in said
    assert "upper bound" not in said


def test_a_failed_check_forbids_reading_the_number_as_robustness() -> None:
    said = verdict(record(static=0.9, adaptive=0.9, findings=[finding("fail"), finding()]))
    assert 'must not be read as robustness: the check "more steps" failed' in said
    assert "upper bound" not in said


def test_a_failed_check_beside_a_fall_says_that_less_may_be_left() -> None:
    said = verdict(record(findings=[finding("fail")]))
    assert "falls once the attacker knows it" in said
    assert 'the check "more steps" failed, so less may be left' in said


@pytest.mark.parametrize("findings", [[], [finding("not run")]])
def test_without_checks_there_is_no_claim(findings: list[dict[str, Any]]) -> None:
    said = verdict(record(static=0.9, adaptive=0.9, findings=findings))
    assert "no check of it ran" in said


def test_without_adaptive_attacks_there_is_no_claim() -> None:
    said = verdict(record(static=0.9, adaptive=None))
    assert "no adaptive attack ran" in said
    assert "claim no robustness" in said


def test_without_any_attack_there_is_no_claim() -> None:
    said = verdict(bare(adaptive=None))
    assert "was unattacked" in said
    assert "claim no robustness" in said


def test_a_demo_is_told_in_two_sentences_with_every_number() -> None:
    models = [("natural", bare), ("guard", record)]
    found = [
        make(name, threat=t, adaptive=a)
        for t, a in (("Linf:51/255", 0.02), ("L0:20", 0.1))
        for name, make in models
    ]
    said = verdict({"schema": SCHEMA, "kind": "demo", "evaluations": found})
    assert len(re.findall(r"\.(?= [A-Z]|$)", said)) == 2
    assert said.count(with_interval(share(0.02))) == 2
    assert said.count(with_interval(share(0.1))) == 2
    # All results of a model agree, so its threats need not be named again.
    assert said.endswith(
        "Under attack natural cannot be relied on; "
        "the defense of guard falls once the attacker knows it."
    )


def test_a_clause_names_the_threat_where_a_model_has_other_results() -> None:
    said = verdict([record(adaptive=0.02), record(threat="L0:20", static=0.9, adaptive=0.8)])
    assert "The defense of guard at Linf:51/255 falls" in said
    assert "what guard at L0:20 keeps" in said


def test_no_evaluation_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="at least one evaluation"):
        verdict([])


# -- the terminal ------------------------------------------------------------------------------


def test_the_key_table_keeps_every_number_whole_at_80_columns() -> None:
    shown = printed([bare(clean=1.0, adaptive=1.0), record(clean=1.0, static=1.0, adaptive=1.0)])
    table = shown.split("natural: deterministic")[0].splitlines()
    whole = with_interval(share(1.0))
    assert whole == "100.0% [98.7, 100.0]"
    guard = next(line for line in table if line.startswith("guard"))
    assert guard.count(whole) == 3
    majority = next(line for line in table if line.startswith("majority of 10"))
    assert majority.count(with_interval(share(0.5))) == 3
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in "".join(table)


@pytest.mark.parametrize("width", [80, 120])
def test_everything_measured_is_shown(width: int) -> None:
    shown = printed([bare(), record()], width, timings={"training": 44.2, "guard under x": 1.0})
    for value in (0.98, 0.55, 0.02):
        assert with_interval(share(value)) in shown
    assert with_interval(share(0.02 * 0.75)) in shown  # strict
    assert with_interval(share(0.07)) in shown  # at 5% false positives
    assert "300 images, 10 draws, seed 31" in shown
    assert "7.25" in shown and "0.188" in shown  # passes per image, median change
    assert "training: 44 s" in shown
    assert verdict([bare(), record()]).split()[-1] in shown.split("Verdict")[1]


def test_seconds_stand_with_their_evaluation() -> None:
    assert "seed 31, 12 s" in printed(record(), timings={"guard under Linf:51/255": 12.3})


def test_a_failing_check_is_told_in_full_below_its_number_which_is_marked() -> None:
    says = "with three times the steps 14.0% of 100 images stand, " * 3 + "THE END"
    shown = printed(record(findings=[finding(), finding("fail", says)]))
    marked = f"!{with_interval(share(0.02))}"
    assert marked in shown
    checked = shown.split(", checked")[1]
    assert checked.index(f"adaptive {with_interval(share(0.02))}") < checked.index("FAIL")
    assert checked.index("FAIL") < checked.index("pass more steps")
    assert "THE END" in checked
    assert "!" not in printed(record())


def test_a_passing_check_takes_one_line() -> None:
    shown = printed(record(findings=[finding(says="word " * 60)]))
    assert sum("word" in line for line in shown.splitlines()) == 1


def test_a_bare_model_has_no_second_number_for_static() -> None:
    line = next(x for x in printed(bare()).splitlines() if x.startswith("natural"))
    assert "as adaptive" in line
    assert line.count("[") == 2


def test_what_did_not_run_is_said() -> None:
    assert "not run" in printed(record(adaptive=None))
    assert "no check ran" in printed(record(findings=[]))


def test_a_name_cannot_command_the_terminal() -> None:
    shown = printed(record("[bold]x[/bold]\x1b[2J"))
    assert "\x1b" not in shown
    assert "[bold]x[/bold]" in shown


# -- pictures ----------------------------------------------------------------------------------


def test_pictures_are_the_same_bytes_and_leave_matplotlib_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    found = [bare(), record()]
    for draw in (plots.curve, plots.roc):
        first = draw(found)
        assert first is not None
        assert first.startswith("data:image/svg+xml;base64,")
        assert first == draw(copy.deepcopy(found))
    assert dict(mpl.rcParams) == before


def test_a_picture_follows_the_record() -> None:
    other = record()
    other["curve"][1]["adaptive"] = share(0.1, 100)
    assert plots.curve([other]) != plots.curve([record()])


def test_nothing_is_drawn_where_nothing_was_measured() -> None:
    without = bare()
    del without["curve"]
    assert plots.curve([without]) is None
    assert plots.roc([without]) is None


def test_a_name_with_a_dollar_is_no_mathematics() -> None:
    assert plots.curve([record("$x_{$"), record("_hidden")]) is not None


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_an_image_keeps_its_values(channels: int) -> None:
    from matplotlib.image import imread

    image = np.zeros((channels, 2, 3), np.float32)
    image[:, 0, 2] = 1
    content = base64.b64decode(plots.picture(image).partition(",")[2])
    pixels = imread(io.BytesIO(content))[..., :3]
    assert pixels.shape == (2, 3, 3)
    assert pixels[0, 2].min() == 1
    assert pixels.sum() == 3


def test_changes_are_amplified_by_a_round_factor_that_keeps_them_in_range() -> None:
    changes = [np.full((1, 2, 2), 0.19, np.float32), np.full((1, 2, 2), -0.2, np.float32)]
    assert plots.amplification(changes) == 5
    assert plots.amplification([np.full((1, 1), 8 / 255)]) == 20
    assert plots.amplification([np.ones((1, 1))]) == plots.amplification([]) == 1


def test_a_change_is_grey_where_there_is_none_and_as_much_lighter_as_it_says() -> None:
    from matplotlib.image import imread

    clean = np.full((1, 1, 2), 0.5, np.float32)
    image = clean + np.array([[[0, 0.1]]], np.float32)
    content = base64.b64decode(plots.difference(image, clean, 5).partition(",")[2])
    assert imread(io.BytesIO(content))[0, :, 0] == pytest.approx([0.5, 0.75], abs=1 / 255)


def test_a_sheet_shows_the_strongest_attack_with_labels_and_answers() -> None:
    arrays = {
        "y": np.array([7, 5, 1]),
        "adaptive/pgd:loss=margin,steps=20/report": np.array([[2, 2], [10, 5], [1, 1]]),
    }
    two = record()
    weaker = two["rows"][1] | numbers(0.5, 10, True) | {"attack": "square"}
    two["rows"].append(weaker)
    images = pictures()
    images["adaptive/square"] = images["clean"]
    found = sheet("guard", two, images, arrays)
    assert found is not None
    assert found.heads == ("label 7", "label 5", "label 1")
    assert [r.heading for r in found.rows] == ["clean", "static", "change", "adaptive", "change"]
    adaptive = found.rows[3]
    assert adaptive.note == "pgd:loss=margin,steps=20"
    assert [(p.says, p.wrong) for p in adaptive.pictures] == [
        ("2", True),
        ("5 (1\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}2)", False),
        ("1", False),
    ]
    assert found.factor == 5


def test_a_rejection_is_named_and_no_error() -> None:
    key = "adaptive/pgd:loss=margin,steps=20/report"
    arrays = {"y": np.array([7, 5, 1]), key: np.full((3, 4), 10)}
    found = sheet("guard", record(), pictures(), arrays)
    assert found is not None
    assert {(p.says, p.wrong) for p in found.rows[3].pictures} == {("rejected", False)}


# -- the page ----------------------------------------------------------------------------------


def test_the_page_says_it_all_in_order(tmp_path: Path) -> None:
    found = [bare(), record()]
    html = page(tmp_path, found, [pictures(), pictures()], timings={"training": 44.0})
    text = text_of(html)
    order = ["A title", "looks like 55.0%", "What attacks leave", "more steps", "Accuracy against"]
    order += ["Rejection", "Attack by attack", "What the images look like", "Reproduce this"]
    order += ["redoubt evaluate m --threat Linf:0.2", "9.8.7", "How to read this"]
    places = [text.index(part, text.index("Redoubtable:")) for part in order]
    assert places == sorted(places)
    for part in ("55.0% [49.3, 60.5]", "7.25", "44", "abacus", "0123456789abcdef", "1.38"):
        assert part in text
    assert f"2.0%{interval(share(0.02))}" in text


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    html = page(tmp_path, [bare(), record()], [pictures(), pictures()])
    outside = re.sub(r"data:image/[\w+]+;base64,[\w+/=]+", "", html)
    assert not re.search(r"(?:https?:)?//\w", outside)
    assert "<script" not in html
    assert not re.search(r"@import|url\(|<link|<iframe", html)
    assert all(src.startswith("data:image/") for src in re.findall(r'src="([^"]*)', html))
    assert html.count("<img") == 2 + (3 + 5) * 3  # two charts; three images a row


def test_every_value_is_escaped(tmp_path: Path) -> None:
    hostile = record(
        HOSTILE, HOSTILE, findings=[finding("fail", HOSTILE), finding("pass", HOSTILE)]
    )
    hostile["environment"] = {"cpu": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    hostile["attacks"] = [HOSTILE]
    hostile["rows"][1]["attack"] = HOSTILE
    hostile["model"]["structure"] = HOSTILE
    html = page(
        tmp_path, hostile, [pictures()], title=HOSTILE, command=HOSTILE, timings={HOSTILE: 1.0}
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 10
    assert "{{ 7 * 7 }}" in html and "&amp;49" not in html


def test_a_failing_check_stands_with_its_number(tmp_path: Path) -> None:
    findings = [finding("fail", "EVIDENCE AGAINST"), finding(says="EVIDENCE FOR")]
    html = page(tmp_path, [bare(), record(findings=findings)])
    block = next(b for b in html.split("<tbody>") if "EVIDENCE AGAINST" in b)
    text = text_of(block.split("</tbody>")[0])
    assert text.index("2.0%") < text.index("doubted") < text.index("EVIDENCE AGAINST")
    assert text.index("EVIDENCE AGAINST") < text.index("EVIDENCE FOR")
    assert "p 0.125, n 100" in text
    assert "doubted" not in text_of(page(tmp_path, [bare(), record()]))


def test_a_page_without_checks_or_adaptive_attacks_says_so(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, record(findings=[], adaptive=None)))
    assert "no check ran" in text
    assert "not run" in text


def test_tables_can_be_read_by_machine_and_keyboard(tmp_path: Path) -> None:
    html = page(tmp_path, [bare(), record()], [pictures(), pictures()])
    tables = re.findall(r"<table.*?</table>", html, re.S)
    assert len(tables) == 8
    assert all("<caption>" in t for t in tables)
    heads = [h for t in tables for h in re.findall(r"<th\b[^>]*>", t)]
    assert all("scope=" in h for h in heads)
    assert all(re.search(r'alt="[^"]+"', i) for i in re.findall(r"<img[^>]*>", html))
    assert html.count('class="box" role="region" tabindex="0" aria-label=') == len(tables)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert re.findall(r"<h(\d)", html)[:3] == ["1", "2", "3"]


def test_the_same_arguments_give_the_same_page(tmp_path: Path) -> None:
    first = page(tmp_path, [bare(), record()], [pictures(), pictures()])
    assert first == page(tmp_path, [bare(), record()], [pictures(), pictures()])


def test_a_folder_gets_an_index(tmp_path: Path) -> None:
    assert write_page(tmp_path, bare(), [{}], title="t", command="c") == tmp_path / "index.html"
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("given", [{"images": []}, {"images": [{}], "arrays": [{}, {}]}])
def test_images_must_match_the_evaluations(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one mapping for each of 1 evaluations"):
        write_page(tmp_path / "x.html", [bare()], title="t", command="c", **given)
