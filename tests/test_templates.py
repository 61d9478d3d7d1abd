"""The stylesheets and scripts of the pages. Their effect is tested with the pages."""

import re
from pathlib import Path

import pytest

from mnist import templates

FOLDER = Path(templates.__file__).parent
STYLED = {"demo.css": "demo.html.jinja", "report.css": "report.html.jinja"}


def read(*names: str) -> str:
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


MODULES = re.findall(r'"(\w+\.js)"', read("demo.html.jinja"))  # in the order in which the page joins them


def properties(css: str) -> set[str]:
    return set(re.findall(r"(--[a-z-]+):", css))


@pytest.mark.parametrize("name", STYLED)
def test_stylesheet_uses_only_defined_properties(name):
    defined = properties(read("palette.css", name, STYLED[name]))
    if name == "demo.css":
        defined |= set(re.findall(r'setProperty\("(--[a-z-]+)"', read("demo.js")))
    assert set(re.findall(r"var\((--[a-z-]+)", read(name))) <= defined


@pytest.mark.parametrize("name", STYLED)
def test_stylesheet_has_no_colour_outside_the_palette(name):
    assert re.findall(r"#[0-9a-f]{3,8}\b|\brgba?\(\d", read(name).replace("#000", "")) == []


@pytest.mark.parametrize("name", ["palette.css", "base.css", *STYLED])
def test_stylesheet_declarations_are_valid(browser, name):
    """The formatter accepts a misspelt property or value; the browser, which ignores it, does not."""
    css = read(name).replace(" !important", "")
    declarations = re.findall(r"^ +([a-z][a-z-]*): ([^;]+);", css, re.MULTILINE)
    tab = browser.new_page()
    unknown = tab.evaluate("pairs => pairs.filter(([name, value]) => !CSS.supports(name, value))", declarations)
    tab.close()
    assert [pair for pair in unknown if not pair[0].startswith("-webkit-")] == []


def test_palette_defines_every_colour_for_light_and_dark():
    light, dark = read("palette.css").split("@media")
    assert properties(light) == properties(dark)


def test_palette_has_no_unused_colour():
    used = set(re.findall(r"var\((--[a-z-]+)", read("base.css", *STYLED)))
    assert properties(read("palette.css")) <= used


def test_script_joins_modules_into_one():
    joined = templates.script(*MODULES)
    assert not re.search(r"^(import|export)\b", joined, re.MULTILINE)
    named = re.findall(r"^(?:const|let|function) (\w+)", joined, re.MULTILINE)
    assert len(named) == len(set(named))
    assert {"MODEL", "fit", "logits", "strokes", "update"} <= set(named)


def test_script_puts_every_module_after_its_imports():
    for index, name in enumerate(MODULES):
        assert set(re.findall(r'from "\./(.*)"', read(name))) <= set(MODULES[:index])


@pytest.mark.parametrize("name", [*MODULES, "palette.css", "base.css", *STYLED])
def test_inlined_file_cannot_end_its_element(name):
    assert "</" not in read(name)
