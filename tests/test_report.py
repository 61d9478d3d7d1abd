"""Test the content of report.json, and the HTML report."""

import base64
import copy
import dataclasses
import errno
import io
import json
import math
import os
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from judged_models import broken_model, untrained_model
from PIL import Image
from strategies import CLOTHES

from mnist import files, gate, report
from mnist.gate import intervals, performance
from mnist.report import card_values, rendering
from mnist.report import content as contents

SCHEMA = json.loads(Path(report.__file__).with_name("report.schema.json").read_text(encoding="utf-8"))


def test_report_validates_against_the_schema(judged, good, compared):
    for _, _, content in (
        good,
        compared,
        judged(untrained_model()),
        judged(broken_model()),
        judged(broken_model(), previous=untrained_model()),
    ):
        jsonschema.validate(json.loads(json.dumps(content, allow_nan=False)), SCHEMA)


def test_schema_is_valid_and_rejects_unknown_values(good):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for change in (
        {"schema": report.SCHEMA_VERSION + 1},
        {"classes": [*"012345678"]},
        {"decision": "maybe"},
        {"more": 1},
        {"verdicts": []},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good.content | change, SCHEMA)


def test_decision_follows_the_verdicts(judged, good):
    assert good.content["decision"] == "ship"
    assert judged(untrained_model()).content["decision"] == "block"


def test_report_has_the_figures_of_the_measurement(good, subset):
    measurement, verdicts, content = good
    assert [verdict["criterion"] for verdict in content["verdicts"]] == [verdict.criterion for verdict in verdicts]
    assert sum(digit["value"] for digit in content["digits"]) / 10 == pytest.approx(measurement.accuracy)
    assert sum(bin["images"] for bin in content["calibration"]) == len(subset.test)
    assert len(content["probes"]) == len(measurement.probes)


def test_mistakes_are_sorted_by_confidence(good, subset):
    measurement, _, content = good
    wrong = measurement.logits.argmax(1) != subset.test.labels
    assert len(content["mistakes"]) == min(contents.MAX_MISTAKES_LISTED, int(wrong.sum())) > 5
    for mistake in content["mistakes"]:
        assert mistake["label"] == subset.test.labels[mistake["index"]] != mistake["prediction"]
    confidences = [mistake["confidence"] for mistake in content["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] == pytest.approx(measurement.logits.softmax(1).amax(1)[wrong].max().item())


def test_report_of_a_broken_model_has_its_contract_violations(judged):
    content = judged(broken_model()).content
    assert content["contract_violations"]
    assert content["confusion"] == content["probes"] == content["mistakes"] == content["calibration"] == []
    accuracy = next(verdict for verdict in content["verdicts"] if verdict["criterion"] == "accuracy")
    assert (accuracy["value"], accuracy["shown"]["figure"], accuracy["blocks"]) == (None, "not measured", True)


def test_comparison_counts_every_flip(compared, subset):
    measured, _, content = compared
    found = content["comparison"]
    before, labels = performance.predict_split(untrained_model(), subset.test).argmax(1), subset.test.labels
    now = measured.logits.argmax(1)
    assert (
        found["gained_per_digit"] == torch.bincount(labels[(now == labels) & (before != labels)], minlength=10).tolist()
    )
    assert sum(found["lost_per_digit"]) == int(((now != labels) & (before == labels)).sum())
    assert all(flip["label"] == flip["prediction"] for flip in found["gained"])
    assert all(flip["label"] != flip["prediction"] for flip in found["lost"])


def test_write_writes_all_three_files(good, subset, tmp_path):
    measurement, _, content = good
    page = report.write(content, subset.test, measurement, tmp_path / "new" / "folder")
    assert json.loads(page.with_name("report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(content))
    assert page.read_text(encoding="utf-8") == report.html(content, subset.test, measurement)
    summary = page.with_name("summary.md").read_text(encoding="utf-8")
    assert summary == report.markdown(content, subset.test)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_failed_write_leaves_no_partial_file(good, subset, tmp_path, monkeypatch, written):
    measurement, _, content = good
    succeeds = iter([True] * written)  # afterwards the disk is full

    def flush(descriptor):
        if not next(succeeds, False):
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(files, "flush_folder", lambda folder: None)
    with pytest.raises(OSError, match="no space"):
        report.write(content, subset.test, measurement, tmp_path)
    (folder,) = tmp_path.iterdir()
    names = ["report.json", "summary.md", "report.html"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names[:written])


def test_report_never_overwrites_another_one(good, subset, tmp_path):
    measurement, _, content = good
    pages = [report.write(content, subset.test, measurement, tmp_path) for _ in range(3)]
    stem = Path(content["model"]).stem
    assert [page.parent for page in pages] == [tmp_path / f"{stem}{number}" for number in ("", "_2", "_3")]


def test_page_is_self_contained_and_small(good, subset):
    page = report.html(good.content, subset.test, good.measurement)
    for reference in ('src="http', "src='http", 'href="http', "@import", "url(http", "<script"):
        assert reference not in page
    assert len(page) < 500_000


def test_page_shows_what_the_card_says_about_the_environment(good, subset):
    """It leaves out what the card does not say, such as the commit of a package that is not in a source tree."""
    content = copy.deepcopy(good.content)
    environment = content["card"]["environment"]
    environment.update(commit="0123abc", clean=False, processor="Fast CPU", scipy=None)
    page = report.html(content, subset.test, good.measurement)
    shown = {"processor": "Fast CPU", "commit": "0123abc", "unchanged since the commit": "no"}
    for name, value in {**shown, "torchvision": environment["torchvision"]}.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert "<dt>scipy</dt>" not in page


def test_card_is_shown_with_units():
    card = {
        **dict.fromkeys(("weights", "sha256", "architecture", "card_sha256"), "x"),
        **{"bytes": 63_456, "created": "2026-01-02T03:04:05+00:00", "parameters": 15106, "multiply_accumulates": 1},
        "recipe": {"rotation": 15.0, "translation": 0.1, "scaling": 0.1, "warmup": 0.3, "learning_rate": 0.01},
        "dataset": {"classes": [*"01"], "validation": 0, "negatives": {"name": "n", "description": "3 letters"}},
        "training": {"seconds": 8.51, "peak_memory_bytes": 2**29, "images_per_second": 7224.4, "init": None},
        "environment": {"clean": True},
    }
    shown = card_values.describe(card)
    assert shown["model"]["size"] == "63.5 kB"
    assert (shown["model"]["created"], shown["model"]["parameters"]) == ("2026-01-02 03:04:05 UTC", "15,106")
    assert shown["recipe"] == {
        **{"rotation": "±15°", "translation": "±0.1 of the side", "scaling": "±10 %"},
        **{"warmup": "30 % of the steps", "learning rate": "0.01"},
    }
    assert shown["dataset"] == {"classes": "0, 1", "validation images": "0", "negatives": "3 letters"}
    assert shown["training"] == {"time": "8.5 s", "peak memory": "512 MiB", "speed": "7,224 images/s"}
    assert shown["environment"] == {"unchanged since the commit": "yes"}


def test_data_uri_is_a_png_of_the_same_pixels(subset):
    image = subset.test.images[0, 0]
    head, _, content = rendering.data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert np.array_equal(np.asarray(picture), image.numpy())


# ---- Comparison with a baseline --------------------------------------------------------------------------------------


def figures_of(content):
    return {figure["name"]: figure for figure in content["comparison"]["figures"]}


def test_comparison_lists_both_models_and_the_paired_difference(compared, subset):
    measured, _, content = compared
    labels = subset.test.labels
    now = measured.logits.argmax(1) == labels
    before = performance.predict_split(untrained_model(), subset.test).argmax(1) == labels
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
    robustness = ["slice-accuracy", "pixel-noise", "corruption-mean", "corruption-worst", "calibration-error"]
    assert list(figures) == [*chosen, "latency", "size on disk", "parameters", *robustness]


def test_comparison_shows_units_and_no_interval_for_exact_figures(compared):
    figures = figures_of(compared.content)
    assert figures["parameters"]["shown"] == {
        "new": "15,106",
        "baseline": "15,106",
        "difference": "+0",
        "interval": "exact",
    }
    assert re.fullmatch(r"\d+\.\d kB", figures["size on disk"]["shown"]["new"])
    assert re.fullmatch(r"\d+\.\d\d ms", figures["latency"]["shown"]["baseline"])
    assert re.fullmatch(r"[+-]\d+\.\d\d ms", figures["latency"]["shown"]["difference"])
    assert figures["size on disk"]["shown"]["interval"] == "exact"
    for name in ("latency", *contents.COMPARED_CRITERIA):
        assert figures[name]["shown"]["interval"] == "not computed"
        assert figures[name]["difference"]["low"] is None
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
def test_format_figure_adds_the_unit(value, unit, sign, shown):
    assert contents.format_figure(value, unit, sign) == shown


def test_changed_criteria_are_those_with_another_outcome(judged, compared):
    _, verdicts, content = compared
    baseline = {verdict.criterion: verdict.outcome for verdict in judged(untrained_model()).verdicts}
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


@pytest.mark.slow
def test_comparison_with_a_broken_baseline_has_no_figures(judged, subset):
    measurement, verdicts, content = judged(previous=broken_model())
    jsonschema.validate(json.loads(json.dumps(content, allow_nan=False)), SCHEMA)
    accuracy = figures_of(content)["accuracy"]
    assert (accuracy["new"], accuracy["baseline"]) == (measurement.accuracy, None)
    assert accuracy["difference"] == {"value": None, "low": None, "high": None}
    assert (accuracy["shown"]["baseline"], accuracy["shown"]["interval"]) == ("not measured", "")
    assert "The two models could not be compared." in report.markdown(content, subset.test)
    assert {verdict.criterion for verdict in gate.blocked(verdicts)} == {rule.name for rule in gate.REGRESSIONS}


def test_schema_accepts_earlier_reports(compared):
    earlier = copy.deepcopy(compared.content)
    del earlier["comparison"]["figures"], earlier["comparison"]["changed"]
    jsonschema.validate(earlier, SCHEMA)


def test_page_shows_the_figures_of_both_models(compared, subset):
    measurement, _, content = compared
    page = report.html(content, subset.test, measurement)
    for figure in content["comparison"]["figures"]:
        cells = "".join(
            f'<td class="figure" data-label="{column}">{value}</td>' for column, value in figure["shown"].items()
        )
        assert f'<tr><th scope="row">{figure["name"]}</th>{cells}</tr>' in page


# ---- Classes that are not digits -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clothes(subset):
    """Return the test images with class names that are not digits."""
    return dataclasses.replace(subset.test, classes=CLOTHES)


@pytest.fixture(scope="module")
def of_clothes(judged, clothes):
    return judged(previous=untrained_model(), test=clothes)


def test_report_names_the_classes(good, of_clothes):
    jsonschema.validate(json.loads(json.dumps(of_clothes.content, allow_nan=False)), SCHEMA)
    assert of_clothes.content["classes"] == list(CLOTHES)
    assert good.content["classes"] == list("0123456789")
    assert of_clothes.content["confusion"] == good.content["confusion"], "the measurement is the same"


def test_page_names_classes_that_are_not_digits(compared, of_clothes, subset, clothes):
    measurement, _, content = of_clothes
    page = report.html(content, clothes, measurement)
    for name in CLOTHES:
        assert f'<span class="name">{name}</span>' in page
        assert f'<th scope="col"><span>{name}</span></th>' in page
        assert f'<th scope="row">{name}</th>' in page
    mistake = content["mistakes"][0]
    assert f'alt="image {mistake["index"]}, a {CLOTHES[mistake["label"]]}"' in page
    gained = zip(CLOTHES, content["comparison"]["gained_per_digit"], strict=True)
    assert all(f"{count} of {name}</span>" in page for name, count in gained if count)
    assert "Accuracy by class" in page
    assert not re.search(r"digit \d|Digits|each digit|worst digit", page)
    of_digits = report.html(compared.content, subset.test, compared.measurement)
    assert all(words in of_digits for words in ("Accuracy by digit", "worst digit", ">digit 7<", "of digit 7<"))
