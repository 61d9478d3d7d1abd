"""A headless browser for tests of pages, and measurements that several tests use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import headless
import pytest
from playwright.sync_api import Browser, expect
from strategies import PATIENCE

WIDTHS = (390, 768, 1280)  # pixels: a phone, a tablet, a desktop

# JavaScript that returns the lowest contrast (WCAG 2) between a text in <main> and its background, and that text.
# Translucent colours are blended with what lies behind them.
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

# JavaScript that returns the elements that extend beyond the window, or whose content scrolls horizontally.
OUTSIDE = """() => {
  const clipped = each => each && (getComputedStyle(each).clipPath !== 'none' || clipped(each.parentElement));
  return [...document.querySelectorAll('body *')].filter(each => {
    const box = each.getBoundingClientRect();
    const scrolls = getComputedStyle(each).overflowX !== 'visible' && each.scrollWidth > each.clientWidth + 1;
    return box.width && !clipped(each) && (box.left < -1 || box.right > innerWidth + 1 || scrolls);
  }).map(each => each.outerHTML.slice(0, 80));
}"""


@contextmanager
def launched() -> Iterator[Browser]:
    """Start a headless browser. If none is installed, skip the test, or let it fail if `REQUIRE_BROWSER` is set."""
    expect.set_options(timeout=1000 * PATIENCE)
    try:
        with headless.launched(PATIENCE) as browser:
            yield browser
    except headless.NoBrowserError as error:
        if os.environ.get("REQUIRE_BROWSER"):
            raise
        pytest.skip(f"no browser to test the page with: {error}")
