"""A reproduction in a terminal, as Markdown, as a page, and as a command."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from redoubtable.cli import app
from redoubtable.files import write_npz
from redoubtable.papers import Row
from redoubtable.reports import show_reproduction, write_reproduction
from redoubtable.reports.panels import drawn
from redoubtable.reports.reproduction import as_markdown, cells
from redoubtable.statistics import wilson
from tests.browser import chromium, opened

TABLE = [
    Row("resnet20, r = 0.9", "accuracy", "clean", wilson(70, 100), published=0.752),
    Row("resnet110, original", "accuracy", "clean", None, published=0.939, note="not measured"),
    Row("maps", "mass on kept values", "none", wilson(9, 100)),
]
CURVE = [
    Row("one mask", "accuracy", "adaptive", wilson(5, 50), 0.9, 5),
    Row("one mask", "accuracy", "clean", wilson(45, 50), 0.5, 5, published=0.8),
    Row("one mask", "accuracy", "static", wilson(30, 50), 0.9, 5),
    Row("one mask", "strict accuracy", "adaptive", wilson(1, 50), 0.9, 5),
    Row("ten masks", "accuracy", "clean", wilson(40, 50), 0.9, 5),
]


def experiment(name: str, rows: list[Row], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "title": f"The title of {name}",
        "axis": None,
        "claim": "It <b>stays</b> high.",
        "data": "digits",
        "rows": json.loads(json.dumps([asdict(r) for r in rows])),
        "pictures": [],
        "command": "redoubt reproduce mine --table 1",
        "environment": {"device": "cpu"},
        **more,
    }


def record() -> dict[str, Any]:
    training = {"epochs": 3, "schedule": "one-cycle"}
    return {
        "schema": 1,
        "kind": "reproduction",
        "title": "A paper (Somebody 2019)",
        "url": "https://example.org",
        "scale": {"name": "smoke", "training": training, "images": 50, "draws": 5},
        "seed": 3,
        "precision": "fp32",
        "experiments": [
            experiment("table-1", TABLE),
            experiment("figure-5", CURVE, axis="drop rate"),
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = record()
    filters = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    write_npz(tmp_path / "filters.npz", {"filters": filters})
    content["experiments"][0]["pictures"] = ["filters.npz"]
    (tmp_path / "record.json").write_text(json.dumps(content))
    return tmp_path


def shown(what: Mapping[str, Any], width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show_reproduction(what, console)
    return console.export_text()


def test_published_stands_beside_measured_with_the_difference() -> None:
    head, rows = cells(record()["experiments"][0])
    assert head == ["what", "measured", "published", "difference", "n"]
    assert rows[0] == ["resnet20, r = 0.9", str(wilson(70, 100)), "75.2%", "-5.2", "100"]
    assert rows[1] == ["resnet110, original", "not measured", "93.9%", "", ""]
    assert rows[2][0] == "maps: mass on kept values"


def test_views_stand_side_by_side_in_one_order_and_places_ascend() -> None:
    head, rows = cells(record()["experiments"][1])
    assert head == ["", "drop rate", "clean", "static", "adaptive", "adaptive, strict"]
    assert rows[0] == ["one mask", "0.5", str(wilson(45, 50)), "", "", ""]
    assert rows[1][:3] == ["", "0.9", ""]
    assert rows[1][3:] == [str(wilson(k, 50)) for k in (30, 5, 1)]
    assert rows[2][:2] == ["ten masks", "0.9"]


def test_names_keep_their_words_beside_five_columns() -> None:
    what = record()
    for row in what["experiments"][1]["rows"]:
        row["series"] = f"Linf, {row['series']}, rejecting"
        row["found"] = wilson(190, 500).__dict__  # as long as intervals get
    words = shown(what, 80).split()
    assert words.count("rejecting") == 2 and words.count("masks,") == 1
    assert words.count("38.0%") == len(what["experiments"][1]["rows"])


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_shows_every_number_whole(width: int) -> None:
    text = shown(record(), width)
    assert "…" not in text
    for row in (r for e in record()["experiments"] for r in e["rows"] if r["found"]):
        assert f"{100 * row['found']['value']:.1f}%" in text
    assert "3 epochs" in text and "seed 3" in text


def test_markdown_has_every_row() -> None:
    text = as_markdown(record())
    assert "| resnet20, r = 0.9 | 70.0% [60.4, 78.1] | 75.2% | -5.2 | 100 |" in text
    assert text.count("\n| ") == 2 * 2 + 3 + 3


def test_a_page_is_quiet_and_escapes(folder: Path) -> None:
    file = write_reproduction(folder)
    text = file.read_text()
    assert "&lt;b&gt;stays" in text and "<b>stays" not in text
    said = (folder / "report.md").read_text()
    plain = as_markdown(json.loads((folder / "record.json").read_text()))
    links = re.findall(r"!\[[^\]]+\]\((\S+\.svg)\)", said)
    assert len(links) == text.count("<img ") == 2
    assert all(b"<svg" in (folder / unquote(link)).read_bytes() for link in links)
    left = "\n\n".join(part for part in said.split("\n\n") if not part.startswith("!["))
    assert left == plain
    with chromium() as browser:
        for width in (400, 1400):
            with opened(browser, file, width) as (page, wrong):
                images = page.query_selector_all("img")
                assert len(images) == 2
                assert all(i.evaluate("e => e.complete && e.naturalWidth > 1") for i in images)
                scrolls = "document.documentElement.scrollWidth - innerWidth"
                assert page.evaluate(scrolls) <= 0
                assert wrong == []


def test_a_folder_without_a_reproduction_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"kind": "demo"}')
    with pytest.raises(ValueError, match="no reproduction"):
        write_reproduction(tmp_path)


def test_arrays_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"y": np.zeros(2)})
    with pytest.raises(ValueError, match="holds y, of which no picture is drawn"):
        drawn(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="can't be read"):
        drawn(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["another-paper"], "another-paper"),
        (["dropping-pixels", "--table", "9"], "no experiment 'table-9'; there are table-1"),
        (["dropping-pixels", "--scale", "huge"], "`scale` must be one of smoke, cpu, full"),
        (["dropping-pixels", "--table", "1", "--data", "nothing"], "nothing"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["reproduce", *words, "--out", str(tmp_path / "r")])
    assert done.exit_code == 2
    assert said in done.stderr and done.stderr.count("\n") == 1
