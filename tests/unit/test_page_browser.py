"""The page in a real browser: quiet, alone, whole at every width, and usable without a mouse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redoubtable.reports import write_page
from tests.browser import CONTRAST, chromium, opened
from tests.unit.reports_parts import answers, bare, finding, pictures, record

WIDTHS = (400, 1400)
SEEN = "e => { const b = e.getBoundingClientRect(); return b.width > 20 && b.height > 20 }"
SCROLLS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: failing, passing and missing checks, long names, a guard."""
    steps = {"steps_x1": 0.5, "steps_x3": 0.25, "p": 0.5, "n": 80}
    found = [finding("fail", evidence=steps), finding(), finding("not run", "not asked for")]
    long = "guard-" + "w" * 60
    records = [bare(), record(long, findings=found), record("other", adaptive=None, findings=[])]
    return write_page(
        tmp_path_factory.mktemp("page"),
        records,
        [pictures()] * 3,
        title="A guard",
        command="redoubt evaluate " + "m" * 90,
        timings={"training": 44.0, f"{long} under Linf:51/255": 12.0},
        arrays=[{}, answers(), {}],
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_quiet_alone_and_whole(browser: Any, file: Path, width: int) -> None:
    with opened(browser, file, width) as (page, wrong):
        assert page.evaluate(SCROLLS) == 0
        tables = page.query_selector_all("table")
        assert len(tables) == file.read_text().count("<table") > 12
        assert all(t.evaluate(SEEN) for t in tables)
        images = page.query_selector_all("img")
        assert len(images) == file.read_text().count("<img") > 30
        assert all(i.evaluate("e => e.complete && e.naturalWidth > 1") for i in images)
        assert all(i.evaluate(SEEN) for i in images)
        right = "es => Math.max(...es.map(e => e.getBoundingClientRect().right))"
        assert page.eval_on_selector_all(".box, figure, p, h3", right) <= width
        assert wrong == []


def test_what_a_page_must_not_do_is_seen(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        "<body style='color:#aaa'>pale<img src='http://127.0.0.1:9/x.png'>"
        "<div style='width:2000px'>wide</div><script>undefined.x</script>"
    )
    with opened(browser, file, 400) as (page, wrong):
        assert any(w.startswith("request http://127.0.0.1:9/") for w in wrong)
        assert any(w.startswith("error") for w in wrong)
        assert page.evaluate(SCROLLS) > 1000
        assert not page.query_selector("img").evaluate("e => e.complete && e.naturalWidth > 1")
        assert min(page.evaluate(CONTRAST))[0] == pytest.approx(2.32, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(
    browser: Any, file: Path, scheme: str
) -> None:
    with opened(browser, file, 1400, color_scheme=scheme) as (page, _):
        found = page.evaluate(CONTRAST)
        assert len(found) > 300
        assert [text for ratio, text in found if ratio < 4.5] == []


def test_the_keyboard_reaches_everything_in_order(browser: Any, file: Path) -> None:
    with opened(browser, file, 400) as (page, _):
        # What a closed block hides comes after it is opened.
        which = "a, summary, [tabindex]:not(details *)"
        count = page.evaluate(f"() => document.querySelectorAll('{which}').length")
        told = "() => { const e = document.activeElement; const b = e.getBoundingClientRect();"
        told += " return [e.tagName, b.top + scrollY, getComputedStyle(e).outlineStyle] }"
        stops = []
        for _ in range(count):
            page.keyboard.press("Tab")
            stops.append(page.evaluate(told))
        assert stops[0][0] == "A"  # past the head of the page
        assert all(outline != "none" for _, _, outline in stops)
        tops = [top for _, top, _ in stops[1:]]
        assert tops == sorted(tops)
        assert {tag for tag, _, _ in stops} >= {"A", "DIV", "SUMMARY"}


def test_a_screen_reader_finds_landmarks_tables_and_pictures_by_name(
    browser: Any, file: Path
) -> None:
    with opened(browser, file, 1400) as (page, _):
        assert page.get_by_role("main").count() == 1
        for name in ("What attacks leave", "Class by class", "Checks", "Reproduce this"):
            assert page.get_by_role("region", name=name, exact=True).count() == 1
            assert page.get_by_role("heading", name=name, level=2).count() == 1
        assert page.get_by_role("table", name="Images by true class").count() == 1
        assert page.get_by_role("rowheader", name="static fgsm").count() >= 1
        unnamed = "es => es.filter(e => !e.alt).length"
        assert page.eval_on_selector_all("img", unnamed) == 0


def test_paper_shows_it_all(browser: Any, file: Path) -> None:
    with opened(browser, file, 700, color_scheme="dark") as (page, _):
        page.emulate_media(media="print")
        ground = "() => getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        hidden = "es => es.filter(e => getComputedStyle(e).overflowX !== 'visible').length"
        assert page.eval_on_selector_all(".box", hidden) == 0
        assert page.query_selector("details pre").evaluate(SEEN)
        assert len(page.pdf()) > 10_000
