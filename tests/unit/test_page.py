"""The page says all that is in the record, all of it escaped."""

import re
from pathlib import Path
from typing import Any

import pytest

from redoubtable.reports import write_page
from redoubtable.reports.record import evaluations, interval
from tests.unit.reports_parts import answers, bare, finding, pictures, record, share

HOSTILE = '<script>alert("x")</script>[red]&{{ 7 * 7 }}'


def page(folder: Path, records: Any, images: Any = None, **more: Any) -> str:
    count = len(evaluations(records))
    settings = {"title": "A title", "command": "redoubt evaluate m --threat Linf:0.2", **more}
    file = write_page(folder / "index.html", records, images or [{}] * count, **settings)
    return file.read_text(encoding="utf-8")


def text_of(html: str) -> str:
    """What a reader sees: no style, no tags, single spaces."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def test_the_page_says_it_all_in_order(tmp_path: Path) -> None:
    found = [bare(), record()]
    found[1]["findings"].append(finding(evidence={"steps_x1": 0.5, "steps_x3": 0.25, "n": 80}))
    images = [pictures(), pictures()]
    html = page(tmp_path, found, images, timings={"training": 44.0}, arrays=[{}, answers()])
    text = text_of(html)
    order = ["A title", "looks like 55.0%", "What attacks leave", "Accuracy against eps"]
    order += ["Accuracy against effort", "Rejection", "Attack by attack", "Class by class"]
    order += ["What the images look like", "Checks Tests that", "Reproduce this"]
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
    assert "Checks: 1 failed, 1 passed." in text
    assert "doubted" not in text_of(page(tmp_path, [bare(), record()]))


def test_checks_stand_by_verdict_with_their_evidence_and_their_pages(tmp_path: Path) -> None:
    said = [("pass", "ONE", "one"), ("not run", "TWO", "two"), ("fail", "THREE", "three")]
    found = [finding(v, s, check=c) for v, s, c in said]
    html = page(tmp_path, record(findings=found))
    text = text_of(html[html.index('<h2 id="checks">') :])
    order = ["✗ failed: 1 of 3", "THREE", "✓ passed: 1 of 3", "ONE", "not run: 1 of 3", "TWO"]
    assert [p for p in sorted(order, key=text.index) if text.count(p) == 1] == order
    assert text.count("p 0.125, n 100") == 3
    assert "docs/checks/two.md" in text
    assert ".md" not in "".join(re.findall(r'href="([^"]+)', html))
    (tmp_path / "docs" / "checks").mkdir(parents=True)
    (tmp_path / "docs" / "checks" / "more_steps.md").touch()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    links = re.findall(r'href="([^"#]+)', page(tmp_path / "runs" / "a", record(findings=found)))
    assert links == [f"../../docs/checks/{c}.md" for c in ("three", "one", "two")]


def test_a_page_without_checks_or_adaptive_attacks_says_so(tmp_path: Path) -> None:
    text = text_of(page(tmp_path, record(findings=[], adaptive=None)))
    assert "no check ran" in text
    assert "not run" in text


def test_tables_can_be_read_by_machine_and_keyboard(tmp_path: Path) -> None:
    html = page(tmp_path, [bare(), record()], [pictures(), pictures()])
    tables = re.findall(r"<table.*?</table>", html, re.S)
    assert len(tables) == 10
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
