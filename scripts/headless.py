"""Start a headless browser with the same fonts on every machine, for tests and for screenshots of pages."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
from playwright.sync_api import Browser, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS_BROWSER = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")

# Pages use matplotlib's fonts, so that text has the same layout on every Linux machine, even if no fonts are installed.
FONTS = f"""<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir>{escape(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf"))}</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
  <alias><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


class NoBrowserError(Exception):
    """No browser is installed."""


@contextmanager
def launched(timeout_seconds: float = 60) -> Iterator[Browser]:
    """Start a browser.

    Raises:
        NoBrowserError: if no browser is installed; the message names the programs that were looked for.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), str(MACOS_BROWSER) if MACOS_BROWSER.exists() else None)
    if not found:
        raise NoBrowserError(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        (Path(home) / "fonts.conf").write_text(FONTS, encoding="utf-8")
        variables = {"FONTCONFIG_FILE": f"{home}/fonts.conf", "XDG_CACHE_HOME": home, "HOME": home}
        browser = playwright.chromium.launch(
            executable_path=found, args=FLAGS, env=os.environ | variables, timeout=1000 * timeout_seconds
        )
        try:
            yield browser
        finally:
            browser.close()
