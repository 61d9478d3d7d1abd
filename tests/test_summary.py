"""Test the Markdown report: its sections, its drawing of images, and untrusted text in it."""

import copy
import dataclasses
import html
import re
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judged_models import untrained_model
from markdown_it import MarkdownIt
from strategies import CLOTHES, uint8_images

from mnist import gate, report
from mnist.gate import Outcome, performance
from mnist.report import rendering

# ---- Sections --------------------------------------------------------------------------------------------------------


def section(text: str, title: str) -> str:
    """Return the part of the summary below a heading, or inside the folded section with that title."""
    found = re.search(rf"(### |<summary>){title}.*?\n(.*?)(?=\n### |</details>|<details>|\Z)", text, re.DOTALL)
    return found[2] if found else ""


def rows(text: str) -> list[list[str]]:
    """Return the cells of each table row, without the header."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[2:]


def test_summary_folds_all_criteria_with_the_blocking_ones_first(judged, subset):
    _, verdicts, content = judged(untrained_model())
    shown = rows(section(report.markdown(content, subset.test), f"All {len(verdicts)} criteria"))
    assert sorted(row[1] for row in shown) == sorted(verdict.criterion for verdict in verdicts)
    blocking = [row[0] == "❌" for row in shown]
    assert blocking == sorted(blocking, reverse=True)
    assert sum(blocking) == len(gate.blocked(verdicts))


@pytest.mark.slow
def test_summary_starts_with_the_verdict(judged, good, subset):
    _, verdicts, content = judged(untrained_model())
    lines = report.markdown(content, subset.test).splitlines()
    assert lines[0].startswith("## 🔴 Blocked: ")
    assert lines[2] == f"Blocked by: {', '.join(verdict.criterion for verdict in gate.blocked(verdicts))}."
    assert report.markdown(good.content, subset.test).startswith("## 🟢 Ship: ")


def test_summary_sections_are_in_order(compared, subset):
    text = report.markdown(compared.content, subset.test)
    positions = [
        text.index(title)
        for title in (
            "## 🟢 Ship",
            "### Criteria that do not pass or changed",
            "### Change against the baseline",
            "### Images that only the new model misclassifies",
            f"<summary>All {len(gate.CRITERIA) + len(gate.REGRESSIONS)} criteria</summary>",
            "<summary>Accuracy per class</summary>",
            "<summary>Accuracy on changed images</summary>",
        )
    ]
    assert positions == sorted(positions)


def test_summary_lists_failing_and_changed_criteria_only(compared, subset):
    _, verdicts, content = compared
    shown = rows(section(report.markdown(content, subset.test), "Criteria that do not pass"))
    changed = {change["criterion"]: change["baseline"] for change in content["comparison"]["changed"]}
    failing = [verdict for verdict in verdicts if verdict.outcome is not Outcome.PASS]
    assert {row[1] for row in shown} == set(changed) | {verdict.criterion for verdict in failing}
    for _, criterion, *_, outcome, baseline, _ in shown:
        assert outcome == next(verdict.outcome for verdict in verdicts if verdict.criterion == criterion)
        assert baseline == changed.get(criterion, outcome)


def test_summary_shows_every_figure_against_the_baseline(compared, subset):
    shown = rows(section(report.markdown(compared.content, subset.test), "Change against the baseline"))
    figures = compared.content["comparison"]["figures"]
    assert shown == [[figure["name"], *figure["shown"].values()] for figure in figures]


def test_summary_without_a_baseline(good, subset):
    text = report.markdown(good.content, subset.test)
    assert "\nThere is no model to compare with.\n" in text
    assert not any(word in text for word in ("baseline", "Baseline", "```", "or changed"))


@pytest.mark.slow
def test_summary_with_an_identical_baseline(judged, trained, subset):
    text = report.markdown(judged(previous=trained.model).content, subset.test)
    assert "No criterion changed its outcome." in text
    assert section(text, "Images that only the new model misclassifies").strip() == "None."
    assert "```" not in text


# ---- The drawing -----------------------------------------------------------------------------------------------------


def decode(character: str) -> set[tuple[int, int]]:
    """Return the dots of a braille character as (row, column), from its Unicode name."""
    numbers = unicodedata.name(character).removeprefix("BRAILLE PATTERN ").removeprefix("DOTS-")
    positions = {"1": (0, 0), "2": (1, 0), "3": (2, 0), "4": (0, 1), "5": (1, 1), "6": (2, 1), "7": (3, 0), "8": (3, 1)}
    return set() if numbers == "BLANK" else {positions[number] for number in numbers}


@given(image=uint8_images(min_batch=1, max_batch=1))
def test_braille_sets_a_dot_for_each_bright_pixel(image):
    lines = rendering.braille(image[0, 0])
    assert [len(line) for line in lines] == [14] * 7
    for y in range(28):
        for x in range(28):
            dot = (y % 4, x % 2) in decode(lines[y // 4][x // 2])
            assert dot == (image[0, 0, y, x].item() >= 128)


def test_braille_threshold_is_128():
    image = torch.full((28, 28), 127, dtype=torch.uint8)
    assert rendering.braille(image) == [rendering.BLANK_BRAILLE * 14] * 7
    assert rendering.braille(image + 1) == ["\u28ff" * 14] * 7


@pytest.fixture(scope="module")
def worse(judged, trained):
    """Judge an untrained model with a trained one as the baseline."""
    return judged(untrained_model(), previous=trained.model)


def drawing(text: str) -> list[list[str]]:
    """Return the lines of each row of images in the summary."""
    code = re.search(r"^```text\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)[1]
    return [block.split("\n") for block in code.split("\n\n")]


def test_summary_draws_newly_misclassified_images(worse, trained, subset):
    content = worse.content
    old, new = (
        performance.predict_split(model, subset.test).softmax(1) for model in (trained.model, untrained_model())
    )
    labels = subset.test.labels
    lost = ((old.argmax(1) == labels) & (new.argmax(1) != labels)).nonzero()[:, 0].tolist()
    text = report.markdown(content, subset.test)
    assert f"\n{len(lost)} images, the first 12 of them shown" in text
    blocks = drawing(text)
    assert len(blocks) == 2
    for number, index in enumerate(lost[:12]):
        block, start = blocks[number // 6], 16 * (number % 6)
        caption, *image = (line[start : start + 16].rstrip(rendering.BLANK_BRAILLE) for line in block)
        assert caption == f"{labels[index]} → {new[index].argmax()} ({new[index].max():.0%})"
        assert image == [
            line.rstrip(rendering.BLANK_BRAILLE) for line in rendering.braille(subset.test.images[index, 0])
        ]
    assert {len(line) for block in blocks for line in block} == {6 * 16}


def test_drawing_of_long_class_names_stays_narrow(worse, subset):
    content = copy.deepcopy(worse.content) | {"classes": ["the name of a class " * 100] * 10}
    blocks = drawing(report.markdown(content, subset.test))
    assert sum(line.count(" → ") for block in blocks for line in block[:1]) == rendering.MAX_SUMMARY_IMAGES
    assert max(len(line) for block in blocks for line in block) <= rendering.MAX_SUMMARY_CHARACTERS_PER_ROW


# ---- Untrusted text --------------------------------------------------------------------------------------------------

MARKDOWN = MarkdownIt("commonmark").enable("table")
FRAGMENTS = [
    "|",
    "\\",
    "\n",
    "\r\n\r\n## ",
    "`",
    "\n```\n",
    "<script>alert(1)</script>",
    "</details>",
    "<!-- ",
    "&lt;",
    "&",
    "@octocat",
    "#123",
    "GH-1",
    "https://example.com",
    "www.example.com",
    "<https://example.com>",
    "a@example.com",
    "[text](https://example.com)",
    "![image](x)",
    "[text][1]",
    "*bold*",
    "_x_",
    "__x__",
    "~~x~~",
    "$x$",
    "\u202e",
    "\x00",
    "\ud800",
    "word",
    " ",
]
untrusted_text = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=8).map("".join)


def flat(text: str) -> str:
    """Return the text as a reader sees it: printable, with single spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("\u200b", "")).split())


def assert_inert(text: str) -> None:
    """Assert that GitHub would not turn any part of the text into a mention, a reference or a link."""
    shown = html.unescape(text)
    assert not re.search(r"[@#][0-9A-Za-z]|\bgh-\d", shown, re.IGNORECASE)
    assert not re.search(r"://|www\.", text, re.IGNORECASE)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_escape_markdown_leaves_no_markup(fragment):
    assert_shown_literally(fragment)
    assert_shown_literally(f"a {fragment}b{fragment} c")


@given(text=untrusted_text)
def test_escape_markdown_shows_text_literally(text):
    assert_shown_literally(text)


def assert_shown_literally(text):
    escaped = rendering.escape_markdown(text)
    assert_inert(escaped)
    assert not set(escaped) & set("|\n\r`<>*[]\\")
    tokens = MARKDOWN.parse(f"| a | b |\n| --- | --- |\n| x{escaped}x | y |\n")
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    assert {child.type for child in cells[2].children} <= {"text", "text_special"}
    assert flat("".join(child.content for child in cells[2].children)) == flat(f"x{text.replace(chr(0x200B), ' ')}x")
    assert flat(cells[3].content) == "y"


def test_escape_markdown_keeps_ordinary_names():
    for name in ("models/mnist_model_20261124_225854.pth", "digit 7: 20 lost, 0 gained", *CLOTHES):
        assert rendering.escape_markdown(name) == name


@pytest.fixture(scope="module")
def plain(worse, subset):
    return MARKDOWN.parse(report.markdown(worse.content, subset.test))


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_markup_in_names_does_not_change_the_summary(worse, plain, subset, fragment):
    assert_summary_keeps_its_structure(worse, plain, subset, f"{fragment}a{fragment}")


@pytest.mark.slow
@given(text=untrusted_text)
def test_untrusted_text_does_not_change_the_summary(worse, plain, subset, text):
    assert_summary_keeps_its_structure(worse, plain, subset, text)


def assert_summary_keeps_its_structure(worse, plain, subset, text):
    content = copy.deepcopy(worse.content)
    content |= {"model": text, "measured_on": text, "classes": [text] * 10}
    content["comparison"]["previous"] = text
    for verdict in content["verdicts"]:
        verdict["what"] = verdict["reason"] = text
    for figure in content["comparison"]["figures"]:
        figure["name"] = text
    for probe in content["probes"]:
        probe["name"] = text
    rendered = report.markdown(content, subset.test)
    rendered.encode()
    tokens = MARKDOWN.parse(rendered)
    assert [token.type for token in tokens] == [token.type for token in plain]
    assert [token.content for token in tokens if token.type == "html_block"] == [
        token.content for token in plain if token.type == "html_block"
    ]
    inline = [child for token in tokens if token.type == "inline" for child in token.children]
    assert {child.type for child in inline} <= {"text", "text_special", "softbreak"}
    assert_inert("".join(token.content for token in tokens if token.type == "inline"))


def test_summary_shows_the_accuracy_of_each_class(judged, good, subset):
    of_clothes = judged(test=dataclasses.replace(subset.test, classes=CLOTHES))
    for (_, _, content), names in ((good, "0123456789"), (of_clothes, CLOTHES)):
        lines = section(report.markdown(content, subset.test), "Accuracy per class").splitlines()
        for name, digit in zip(names, content["digits"], strict=True):
            row = next(line for line in lines if line.startswith(f"| {name} |"))
            assert f"| {100 * digit['value']:.2f} % | {100 * digit['low']:.2f} to {100 * digit['high']:.2f} % |" in row
