import base64
import copy
import dataclasses
import errno
import html
import io
import json
import math
import os
import re
import unicodedata
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from samples import save_model
from strategies import CLOTHES, generator, uint8_images

from mnist import architecture, files, gate, report
from mnist.gate import Outcome, intervals, measurement
from mnist.report import content as contents
from mnist.report import rendering
from mnist.storage import artifacts

SCHEMA = json.loads(Path(report.__file__).with_name("report.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def judged(trained, subset, tmp_path_factory):
    """Judge a model, by default a good one, against another or none: measurement, verdicts and the report."""

    def saved(model):
        return artifacts.load(save_model(model, tmp_path_factory.mktemp("models")))

    def judge(model=trained.model, previous=None, test=subset.test):
        evaluation = gate.evaluate(
            saved(model),
            dataclasses.replace(subset, test=test),
            gate.load_policy(dataset="subset"),
            saved(previous) if previous else None,
        )
        return evaluation.measurement, evaluation.verdicts, report.build(evaluation, test)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "IMAGES_PER_PROBE", 100)
        patch.setattr(measurement, "TRAINING_SAMPLE", 200)
        yield judge


@pytest.fixture(scope="module")
def untrained():
    return architecture.build("cnn", generator(0))


@pytest.fixture(scope="module")
def broken():
    model = architecture.build("cnn", generator(0))
    torch.nn.init.constant_(model.fc2.bias, math.nan)
    return model


@pytest.fixture(scope="module")
def good(judged):
    return judged()


@pytest.fixture(scope="module")
def compared(judged, untrained):
    return judged(previous=untrained)


def test_every_report_keeps_to_the_schema(judged, good, compared, untrained, broken):
    for _, _, content in (good, compared, judged(untrained), judged(broken), judged(broken, previous=untrained)):
        jsonschema.validate(json.loads(json.dumps(content, allow_nan=False)), SCHEMA)


def test_the_schema_is_a_schema_and_refuses_what_it_does_not_know(good):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for change in (
        {"schema": report.SCHEMA_VERSION + 1},
        {"classes": [*"012345678"]},
        {"decision": "maybe"},
        {"more": 1},
        {"verdicts": []},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good[2] | change, SCHEMA)


def test_the_decision_is_that_of_the_verdicts(judged, good, untrained):
    assert good[2]["decision"] == "ship"
    assert judged(untrained)[2]["decision"] == "block"


def test_figures_are_those_of_the_measurement(good, subset):
    measurement, verdicts, content = good
    assert [verdict["criterion"] for verdict in content["verdicts"]] == [verdict.criterion for verdict in verdicts]
    assert sum(digit["value"] for digit in content["digits"]) / 10 == pytest.approx(measurement.accuracy)
    assert sum(bin["images"] for bin in content["calibration"]) == len(subset.test)
    assert len(content["probes"]) == len(measurement.probes)


def test_mistakes_are_mistakes_and_the_surest_come_first(good, subset):
    measurement, _, content = good
    wrong = measurement.logits.argmax(1) != subset.test.labels
    assert len(content["mistakes"]) == min(contents.MAX_MISTAKES_LISTED, int(wrong.sum())) > 5
    for mistake in content["mistakes"]:
        assert mistake["label"] == subset.test.labels[mistake["index"]] != mistake["prediction"]
    confidences = [mistake["confidence"] for mistake in content["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] == pytest.approx(measurement.logits.softmax(1).amax(1)[wrong].max().item())


def test_of_a_model_that_breaks_the_contract_the_report_says_so_and_leaves_out_the_rest(judged, broken):
    content = judged(broken)[2]
    assert content["contract_violations"]
    assert content["confusion"] == content["probes"] == content["mistakes"] == content["calibration"] == []
    accuracy = next(verdict for verdict in content["verdicts"] if verdict["criterion"] == "accuracy")
    assert (accuracy["value"], accuracy["shown"]["figure"], accuracy["blocks"]) == (None, "not measured", True)


def test_a_comparison_counts_every_flipped_digit(compared, untrained, subset):
    measured, _, content = compared
    found = content["comparison"]
    before, labels = measurement.predict_split(untrained, subset.test).argmax(1), subset.test.labels
    now = measured.logits.argmax(1)
    assert (
        found["gained_per_digit"] == torch.bincount(labels[(now == labels) & (before != labels)], minlength=10).tolist()
    )
    assert sum(found["lost_per_digit"]) == int(((now != labels) & (before == labels)).sum())
    assert all(flip["label"] == flip["prediction"] for flip in found["gained"])
    assert all(flip["label"] != flip["prediction"] for flip in found["lost"])


def test_json_and_page_are_written_and_are_what_was_built(good, subset, tmp_path):
    measurement, _, content = good
    page = report.write(content, subset.test, measurement, tmp_path / "new" / "folder")
    assert json.loads(page.with_name("report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(content))
    assert page.read_text(encoding="utf-8") == report.html(content, subset.test, measurement)
    summary = page.with_name("summary.md").read_text(encoding="utf-8")
    assert summary == report.markdown(content, subset.test)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_report_that_cannot_be_written_leaves_the_one_before(good, subset, tmp_path, monkeypatch, written):
    measurement, _, content = good
    names = ("report.json", "summary.md", "report.html")
    for name in names:
        (tmp_path / name).write_text("before", encoding="utf-8")
    fine = iter([True] * written)  # and then the disk is full

    def flush(descriptor):
        if not next(fine, False):
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(files, "flush_folder", lambda folder: None)
    with pytest.raises(OSError, match="no space"):
        report.write(content, subset.test, measurement, tmp_path)
    kept = [(tmp_path / name).read_text(encoding="utf-8") == "before" for name in names]
    assert kept == [number >= written for number in range(3)]
    assert len(list(tmp_path.iterdir())) == 3


def test_the_page_needs_nothing_from_elsewhere_and_is_small(good, subset):
    page = report.html(good[2], subset.test, good[0])
    for way_out in ('src="http', "src='http", 'href="http', "@import", "url(http", "<script"):
        assert way_out not in page
    assert len(page) < 500_000


def test_images_are_pngs_of_the_same_pixels(subset):
    image = subset.test.images[0, 0]
    head, _, content = rendering.data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert np.array_equal(np.asarray(picture), image.numpy())


# ---- Against a baseline ----------------------------------------------------------------------------------------------


def figures_of(content):
    return {figure["name"]: figure for figure in content["comparison"]["figures"]}


def test_comparison_lists_both_models_and_the_paired_difference(compared, untrained, subset):
    measured, _, content = compared
    labels = subset.test.labels
    now = measured.logits.argmax(1) == labels
    before = measurement.predict_split(untrained, subset.test).argmax(1) == labels
    figures = figures_of(content)
    chosen = {"accuracy": labels >= 0} | {f"digit {digit}": labels == digit for digit in range(10)}
    for name, images in chosen.items():
        new, old = now[images], before[images]
        better, worse = int((new & ~old).sum()), int((old & ~new).sum())
        expected = intervals.paired_difference(better, worse, int(images.sum()))
        assert figures[name]["new"] == pytest.approx(new.double().mean().item())
        assert figures[name]["baseline"] == pytest.approx(old.double().mean().item())
        assert figures[name]["difference"] == {
            "value": expected.value,
            "low": expected.low,
            "high": expected.high,
        }
        assert expected.value == pytest.approx(figures[name]["new"] - figures[name]["baseline"])
    assert figures["accuracy"]["difference"]["low"] > 0.5, "the new model is the better one"
    assert list(figures) == [*chosen, "latency", "size on disk", "parameters"]


def test_comparison_shows_units_and_no_interval_for_exact_figures(compared):
    figures = figures_of(compared[2])
    assert figures["parameters"]["shown"] == {
        "new": "15,106",
        "baseline": "15,106",
        "difference": "+0",
        "interval": "",
    }
    assert re.fullmatch(r"\d+\.\d kB", figures["size on disk"]["shown"]["new"])
    assert re.fullmatch(r"\d+\.\d\d ms", figures["latency"]["shown"]["baseline"])
    assert re.fullmatch(r"[+-]\d+\.\d\d ms", figures["latency"]["shown"]["difference"])
    assert figures["latency"]["shown"]["interval"] == ""
    for name in ("latency", "size on disk", "parameters"):
        figure = figures[name]
        assert figure["difference"]["value"] == figure["new"] - figure["baseline"]
    accuracy = figures["accuracy"]["shown"]
    assert accuracy["new"] == f"{100 * figures['accuracy']['new']:.2f} %"
    assert accuracy["difference"] == f"{100 * figures['accuracy']['difference']['value']:+.2f} points"
    assert re.fullmatch(r"\+\d+\.\d\d to \+\d+\.\d\d points", accuracy["interval"])


@pytest.mark.parametrize(
    ("value", "unit", "sign", "shown"),
    [
        (0.98765, "fraction", "", "98.77 %"),
        (0.0012, "fraction", "+", "+0.12 points"),
        (-0.00001, "fraction", "+", "+0.00 points"),
        (-0.001, "ms", "+", "+0.00 ms"),
        (-0.01, "ms", "+", "-0.01 ms"),
        (1234.56, "kB", "", "1,234.6 kB"),
        (-15_106, "", "+", "-15,106"),
        (math.nan, "ms", "+", "not measured"),
    ],
)
def test_figure_is_shown_with_its_unit(value, unit, sign, shown):
    assert contents.format_figure(value, unit, sign) == shown


def test_changed_criteria_are_those_with_another_outcome(judged, compared, untrained):
    _, verdicts, content = compared
    baseline = {verdict.criterion: verdict.outcome for verdict in judged(untrained)[1]}
    assert content["comparison"]["changed"] == [
        {
            "criterion": verdict.criterion,
            "baseline": baseline[verdict.criterion].value,
            "new": verdict.outcome.value,
        }
        for verdict in verdicts
        if baseline.get(verdict.criterion, verdict.outcome) is not verdict.outcome
    ]
    assert {"criterion": "accuracy", "baseline": "block", "new": "pass"} in content["comparison"]["changed"]


def test_comparison_with_a_broken_baseline_has_no_figures(judged, broken, subset):
    measurement, verdicts, content = judged(previous=broken)
    jsonschema.validate(json.loads(json.dumps(content, allow_nan=False)), SCHEMA)
    accuracy = figures_of(content)["accuracy"]
    assert (accuracy["new"], accuracy["baseline"]) == (measurement.accuracy, None)
    assert accuracy["difference"] == {"value": None, "low": None, "high": None}
    assert (accuracy["shown"]["baseline"], accuracy["shown"]["interval"]) == ("not measured", "")
    assert "The two models could not be compared." in report.markdown(content, subset.test)
    assert {verdict.criterion for verdict in gate.blocked(verdicts)} == {"regression", "digit-regression"}


def test_schema_accepts_reports_without_the_new_values(compared):
    older = copy.deepcopy(compared[2])
    del older["comparison"]["figures"], older["comparison"]["changed"]
    jsonschema.validate(older, SCHEMA)


def test_page_shows_the_figures_of_both_models(compared, subset):
    measurement, _, content = compared
    page = report.html(content, subset.test, measurement)
    for figure in content["comparison"]["figures"]:
        cells = "".join(f'<td class="figure">{value}</td>' for value in figure["shown"].values())
        assert f'<tr><th scope="row">{figure["name"]}</th>{cells}</tr>' in page


# ---- The summary -----------------------------------------------------------------------------------------------------


def section(text: str, title: str) -> str:
    """The part of the summary below a heading, or inside the folded part of that title."""
    found = re.search(rf"(### |<summary>){title}.*?\n(.*?)(?=\n### |</details>|<details>|\Z)", text, re.DOTALL)
    return found[2] if found else ""


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, without the header."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[2:]


def test_summary_folds_all_criteria_with_the_blocking_ones_first(judged, untrained, subset):
    _, verdicts, content = judged(untrained)
    shown = rows(section(report.markdown(content, subset.test), "All 25 criteria"))
    assert sorted(row[1] for row in shown) == sorted(verdict.criterion for verdict in verdicts)
    blocking = [row[0] == "❌" for row in shown]
    assert blocking == sorted(blocking, reverse=True)
    assert sum(blocking) == len(gate.blocked(verdicts))


def test_summary_starts_with_the_verdict(judged, good, untrained, subset):
    _, verdicts, content = judged(untrained)
    lines = report.markdown(content, subset.test).splitlines()
    assert lines[0].startswith("## 🔴 Blocked: ")
    assert lines[2] == f"Blocked by: {', '.join(verdict.criterion for verdict in gate.blocked(verdicts))}."
    assert report.markdown(good[2], subset.test).startswith("## 🟢 Ship: ")


def test_summary_sections_are_in_order(compared, subset):
    text = report.markdown(compared[2], subset.test)
    places = [
        text.index(words)
        for words in (
            "## 🟢 Ship",
            "### Criteria that do not pass or changed",
            "### Change against the baseline",
            "### Images that only the new model misclassifies",
            "<summary>All 27 criteria</summary>",
            "<summary>Accuracy per class</summary>",
            "<summary>Accuracy on changed images</summary>",
        )
    ]
    assert places == sorted(places)


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
    shown = rows(section(report.markdown(compared[2], subset.test), "Change against the baseline"))
    figures = compared[2]["comparison"]["figures"]
    assert shown == [[figure["name"], *figure["shown"].values()] for figure in figures]


def test_summary_without_a_baseline_says_so(good, subset):
    text = report.markdown(good[2], subset.test)
    assert "\nThere is no model to compare with.\n" in text
    assert not any(word in text for word in ("baseline", "Baseline", "```", "or changed"))


def test_summary_against_an_equal_model_has_nothing_to_show(judged, trained, subset):
    text = report.markdown(judged(previous=trained.model)[2], subset.test)
    assert "No criterion changed its outcome." in text
    assert section(text, "Images that only the new model misclassifies").strip() == "None."
    assert "```" not in text


# ---- The drawing -----------------------------------------------------------------------------------------------------


def decode(character: str) -> set[tuple[int, int]]:
    """The dots of a braille character as (row, column), read off its Unicode name."""
    numbers = unicodedata.name(character).removeprefix("BRAILLE PATTERN ").removeprefix("DOTS-")
    places = {"1": (0, 0), "2": (1, 0), "3": (2, 0), "4": (0, 1), "5": (1, 1), "6": (2, 1), "7": (3, 0), "8": (3, 1)}
    return set() if numbers == "BLANK" else {places[number] for number in numbers}


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
def worse(judged, trained, untrained):
    """Judge an untrained model against a trained one."""
    return judged(untrained, previous=trained.model)


def drawing(text: str) -> list[list[str]]:
    """The lines of each row of images in the summary."""
    code = re.search(r"^```text\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)[1]
    return [block.split("\n") for block in code.split("\n\n")]


def test_summary_draws_images_that_only_the_new_model_misses(worse, trained, untrained, subset):
    content = worse[2]
    old, new = (measurement.predict_split(model, subset.test).softmax(1) for model in (trained.model, untrained))
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
        assert image == [line.rstrip(rendering.BLANK_BRAILLE) for line in rendering.braille(subset.test.images[index, 0])]
    assert {len(line) for block in blocks for line in block} == {6 * 16}


def test_drawing_of_long_class_names_stays_narrow(worse, subset):
    content = copy.deepcopy(worse[2]) | {"classes": ["the name of a class " * 100] * 10}
    blocks = drawing(report.markdown(content, subset.test))
    assert sum(line.count(" → ") for block in blocks for line in block[:1]) == rendering.MAX_IMAGES_DRAWN
    assert max(len(line) for block in blocks for line in block) <= rendering.MAX_CHARACTERS_PER_ROW


# ---- Text of others --------------------------------------------------------------------------------------------------

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
hostile = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=8).map("".join)


def flat(text: str) -> str:
    """Text as a reader sees it: printable, with single spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("\u200b", "")).split())


def assert_inert(text: str) -> None:
    """No mention, reference or address that GitHub would turn into a link."""
    shown = html.unescape(text)
    assert not re.search(r"[@#][0-9A-Za-z]|\bgh-\d", shown, re.IGNORECASE)
    assert not re.search(r"://|www\.", text, re.IGNORECASE)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_literal_text_cannot_become_markup(fragment):
    assert_shown_as_it_is(fragment)
    assert_shown_as_it_is(f"a {fragment}b{fragment} c")


@given(text=hostile)
def test_literal_text_is_shown_as_it_is(text):
    assert_shown_as_it_is(text)


def assert_shown_as_it_is(text):
    escaped = rendering.escape_markdown(text)
    assert_inert(escaped)
    assert not set(escaped) & set("|\n\r`<>*[]\\")
    tokens = MARKDOWN.parse(f"| a | b |\n| --- | --- |\n| x{escaped}x | y |\n")
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    assert {child.type for child in cells[2].children} <= {"text", "text_special"}
    assert flat("".join(child.content for child in cells[2].children)) == flat(f"x{text.replace(chr(0x200B), ' ')}x")
    assert flat(cells[3].content) == "y"


def test_literal_keeps_ordinary_names_readable():
    for name in ("models/mnist_model_20261124_225854.pth", "digit 7: 20 lost, 0 gained", *CLOTHES):
        assert rendering.escape_markdown(name) == name


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_markup_in_names_does_not_change_the_summary(worse, subset, fragment):
    assert_summary_keeps_its_structure(worse, subset, f"{fragment}a{fragment}")


@given(text=hostile)
def test_hostile_text_does_not_change_the_summary(worse, subset, text):
    assert_summary_keeps_its_structure(worse, subset, text)


def assert_summary_keeps_its_structure(worse, subset, text):
    content = copy.deepcopy(worse[2])
    plain = MARKDOWN.parse(report.markdown(content, subset.test))
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


# ---- Classes that are no digits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clothes(subset):
    return dataclasses.replace(subset.test, classes=CLOTHES)


@pytest.fixture(scope="module")
def of_clothes(judged, untrained, clothes):
    return judged(previous=untrained, test=clothes)


def test_the_report_names_the_classes_and_keeps_to_the_schema(good, of_clothes):
    jsonschema.validate(json.loads(json.dumps(of_clothes[2], allow_nan=False)), SCHEMA)
    assert of_clothes[2]["classes"] == list(CLOTHES)
    assert good[2]["classes"] == list("0123456789")
    assert of_clothes[2]["confusion"] == good[2]["confusion"], "what is measured is the same"


def test_the_page_shows_classes_by_their_names_and_speaks_of_no_digit(compared, of_clothes, subset, clothes):
    measurement, _, content = of_clothes
    page = report.html(content, clothes, measurement)
    for name in CLOTHES:
        assert f'<span class="name">{name}</span>' in page
        assert f'<th scope="col">{name}</th>' in page
        assert f'<th scope="row">{name}</th>' in page
    mistake = content["mistakes"][0]
    assert f'alt="image {mistake["index"]}, a {CLOTHES[mistake["label"]]}"' in page
    gained = zip(CLOTHES, content["comparison"]["gained_per_digit"], strict=True)
    assert all(f"{count} of {name}</span>" in page for name, count in gained if count)
    assert "Accuracy by class" in page
    assert not re.search(r"digit \d|Digits|each digit|worst digit", page)
    of_digits = report.html(compared[2], subset.test, compared[0])
    assert all(words in of_digits for words in ("Accuracy by digit", "worst digit", ">digit 7<", "of digit 7<"))


def test_the_summary_shows_how_well_each_class_is_recognized(good, of_clothes, subset):
    for (_, _, content), names in ((good, "0123456789"), (of_clothes, CLOTHES)):
        lines = section(report.markdown(content, subset.test), "Accuracy per class").splitlines()
        for name, digit in zip(names, content["digits"], strict=True):
            row = next(line for line in lines if line.startswith(f"| {name} |"))
            assert f"| {100 * digit['value']:.2f} % | {100 * digit['low']:.2f} to {100 * digit['high']:.2f} % |" in row
