"""Every check has its page and every page its check."""

import re
from pathlib import Path

import pytest

from redoubtable.evaluation.checks import CHECKS

PAGES = Path(__file__).parents[2] / "docs" / "checks"
TITLES = ["How it is measured", "What to do when it fails", "Source"]


def test_every_check_has_its_page_and_every_page_its_check() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*CHECKS, "README"}


@pytest.mark.parametrize("name", CHECKS)
def test_a_page_says_what_is_asked_how_and_what_to_do(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == f"# {name.replace('_', ' ')}"
    assert lines[2].endswith("?")
    assert re.findall(r"^## (.+)$", text, re.M) == TITLES
    assert 20 <= len(lines) <= 50
    assert "Cost: " in text and "arxiv.org" in text


def test_the_list_has_all_of_them_in_their_order() -> None:
    listed = re.findall(r"^\| \[.+?\]\((\w+)\.md\)", (PAGES / "README.md").read_text(), re.M)
    assert listed == list(CHECKS)


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda p: p.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([\w/]+\.md)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target
