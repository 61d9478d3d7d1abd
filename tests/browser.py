"""What the tests of pages share: a real browser, and what they measure in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ON_A_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
WIDTHS = (360, 1280)  # pixels: a phone, a desktop

# The least contrast of any text in the page with what lies behind it, by WCAG 2: colours are blended down to the page.
CONTRAST = """() => {
  const parse = colour => { const n = colour.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const behind = element => element === null ? [255, 255, 255]
    : over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const linear = c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = colour => colour.map(c => linear(c / 255)).reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const texts = [...document.querySelectorAll('main *')].filter(element => !element.closest('svg')
    && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
  return texts.map(element => {
    const below = behind(element), a = light(below), b = light(over(parse(getComputedStyle(element).color), below));
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), element.textContent.trim().slice(0, 40)];
  }).sort((x, y) => x[0] - y[0])[0];
}"""


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window; where none is installed the test is skipped."""
    found = next(filter(None, map(shutil.which, BROWSERS)), str(ON_A_MAC) if ON_A_MAC.exists() else None)
    if not found:
        pytest.skip(f"no browser to look at the page with: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()
