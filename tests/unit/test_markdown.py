"""report.md says what the page says, and nothing in a record is markup in it."""

from pathlib import Path

import pytest

from redoubtable.reports import write_report
from redoubtable.reports.markdown import as_markdown, code, fenced, table, text
from redoubtable.reports.record import with_interval
from tests.unit.reports_parts import answers, bare, finding, pictures, record, share

STEPS = finding("fail", "THE STEPS", evidence={"steps_x1": 0.5, "steps_x3": 0.25, "n": 80})


def written(folder: Path) -> str:
    found = [bare(), record(findings=[finding(), STEPS])]
    command = "redoubt evaluate m"
    page = write_report(
        folder,
        found,
        [pictures()] * 2,
        title="A title",
        command=command,
        timings={"training": 44.0, "guard under Linf:51/255": 12.0},
        arrays=[{}, answers()],
    )
    assert page == folder / "index.html"
    return (folder / "report.md").read_text(encoding="utf-8")


def test_the_folder_has_both_pages_and_they_say_it_all_in_order(tmp_path: Path) -> None:
    said = written(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"index.html", "report.md"}
    order = ["# A title", "looks like 55.0%", "## Linf:51/255", "Accuracy against eps"]
    order += ["## guard under", "Attack by attack", "fixed false positive", "all of 4 answers"]
    order += ["Class by class", "### Checks\n\nFailed, 1 of 2", "THE STEPS", "Passed, 1 of 2"]
    order += ["## Reproduce", "redoubt evaluate m", "training: 44 s", "redoubtable 9.8.7"]
    start = 0
    for part in order:
        assert part in said[start:], part
        start = said.index(part, start)
    for value, n in ((0.98, 300), (0.55, 300), (0.02 * 0.75, 300), (0.07, 300), (0.25, 80)):
        assert with_interval(share(value, n)) in said
    assert f"{with_interval(share(0.02))} (doubted)" in said
    assert "7.25 | 0.188 | 294 |" in said
    assert "| 12 |" in said.replace("`0123456789abcdef` | 12", "| 12 |")


def test_every_row_of_a_table_has_all_its_cells(tmp_path: Path) -> None:
    blocks = [b for b in written(tmp_path).split("\n\n") if b.startswith("|")]
    assert len(blocks) == 9
    for block in blocks:
        counts = {line.replace(r"\|", "").count("|") for line in block.splitlines()}
        assert len(counts) == 1


def test_nothing_in_a_record_is_markup() -> None:
    hostile = "<b>x</b> | `a` *b* [c](d)\n# e"
    found = record(hostile, findings=[finding("fail", hostile)])
    said = as_markdown(found, title=hostile, command="a\n```\n# b")
    assert hostile.splitlines()[0] not in said.replace("\\", "\\\\")
    assert "\n# e" not in said
    assert "````\na\n```\n# b\n````" in said
    assert text("a|b<c>") == r"a\|b\<c\>"
    assert code("a|`b`") == r"`a\|'b'`"
    assert fenced("x") == "```\nx\n```"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| :-- | --: |\n| 1 | 2 |"


def test_what_was_not_measured_is_said() -> None:
    said = as_markdown(record(findings=[], adaptive=None), title="t", command="c")
    assert "No check ran" in said
    assert "| not run |" in said
    assert "as adaptive" in as_markdown(bare(), title="t", command="c")


def test_the_same_arguments_give_the_same_text(tmp_path: Path) -> None:
    assert written(tmp_path) == written(tmp_path)
    with pytest.raises(ValueError, match="zip"):
        as_markdown([bare(), record()], title="t", command="c", arrays=[{}])


def test_a_model_that_depends_on_its_batch_is_told_in_every_setting(tmp_path: Path) -> None:
    found = record()
    settings = {}
    for setting, value in (("alone", 0.5), ("mixed", 0.25), ("all", 0.125)):
        blocks = {v: {"accuracy": {"one_shot": share(value)}} for v in ("clean", "adaptive")}
        settings[setting] = {**blocks, "static": None}
    found["batches"] = {"size": 32, "smallest": 2, **settings}
    write_report(tmp_path, found, [{}], title="t", command="c")
    said = (tmp_path / "report.md").read_text()
    half = with_interval(share(0.25))
    assert f"| half clean | {half} | not run | {half} |" in said
    html = (tmp_path / "index.html").read_text()
    assert "in batches of 32 images; “alone” is a batch of 2 times" in html
    assert html.index("all adversarial") < html.index("12.5%") < html.index("one image alone")
