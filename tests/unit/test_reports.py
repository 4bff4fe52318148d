"""Reports are functions of records: reading records, and what the terminal shows."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from redoubtable.evaluation.evaluate import SCHEMA
from redoubtable.reports import read_record, show, verdict
from redoubtable.reports.record import evaluations, in_words, number, with_interval
from tests.unit.reports_parts import bare, finding, record, share


def saved(folder: Path, value: Any) -> Path:
    path = folder / "record.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def printed(records: Any, width: int = 80, **more: Any) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    show(records, console, **more)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


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
