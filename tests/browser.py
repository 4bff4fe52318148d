"""A page in headless Chromium: what it says, asks for and shows."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
_AGAIN = "; .ci/browser FOLDER fetches one and prints the path for REDOUBT_CHROMIUM"


def executable(own: str) -> str:
    """The browser that REDOUBT_CHROMIUM names, playwright's own, or one of the machine."""
    named = os.environ.get("REDOUBT_CHROMIUM")
    if named and not Path(named).is_file():
        pytest.fail(f"REDOUBT_CHROMIUM names no file: {named}")
    found = [named, own if Path(own).is_file() else None, *map(shutil.which, _NAMES)]
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip(f"no Chromium is installed{_AGAIN}")
    return path


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=executable(driver.chromium.executable_path),
            args=["--no-sandbox", "--headless=shell"],
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, file: Path, width: int, **more: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page at a width, and the list of what it should not do: errors, requests elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **more)
    wrong: list[str] = []
    address = file.resolve().as_uri()

    def asked(request: Any) -> None:
        if not request.url.startswith("data:") and request.url.partition("#")[0] != address:
            wrong.append(f"request {request.url}")

    page.on("console", lambda said: wrong.append(f"console {said.type}: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error {error}"))
    page.on("request", asked)
    page.goto(address)
    try:
        yield page, wrong
    finally:
        page.close()


CONTRAST = """() => {
  // Colours are painted on one pixel, which resolves every way to write them.
  const pixel = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const over = (colour, ground) => {
    pixel.fillStyle = `rgb(${ground.join(' ')})`; pixel.fillRect(0, 0, 1, 1);
    pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1);
    return [...pixel.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = (c) => c.map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => e === null ? [255, 255, 255]
    : over(getComputedStyle(e).backgroundColor, ground(e.parentElement));
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || e.tagName === 'STYLE') continue;
    const behind = ground(e);
    const [a, b] = [light(over(getComputedStyle(e).color, behind)), light(behind)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, walker.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""
"""Contrast of every text with what is behind it (WCAG 2.2, success criterion 1.4.3)."""
