import base64
import dataclasses
import errno
import io
import json
import math
import os
import re

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from strategies import CLOTHES, generator

from mnist import architecture, artifacts, files, gate, metrics, report

SCHEMA = json.loads(gate.POLICY.with_name("report.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def judged(trained, subset, tmp_path_factory):
    """Judge a model, by default a good one, against another or none: measurement, verdicts and the report."""

    def judge(model=trained.model, previous=None, test=subset.test):
        said = {"recipe": {"architecture": "cnn"}, "dataset": {"name": "subset"}, "training": {}, "measured": {}}
        artifact = artifacts.load(artifacts.save(model, tmp_path_factory.mktemp("models"), **said))
        measurement = metrics.measure(
            artifact.model, artifact.initial_model(), test, subset.train, bytes=artifact.bytes
        )
        comparison = None
        if previous:
            before = metrics.predict_split(previous, test)
            comparison = gate.compare(test.labels, measurement.logits, before, test.classes)
        verdicts = gate.judge(measurement, gate.load_policy(dataset="subset"), comparison)
        content = report.build(artifact, test, measurement, verdicts, artifact.path if previous else None, comparison)
        return measurement, verdicts, content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "PROBED", 100)
        patch.setattr(metrics, "SEEN", 200)
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
        {"schema": report.SCHEMA + 1},
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
    assert len(content["mistakes"]) == min(report.MISTAKES, int(wrong.sum())) > 5
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
    measurement, _, content = compared
    found = content["comparison"]
    before, labels = metrics.predict_split(untrained, subset.test).argmax(1), subset.test.labels
    now = measurement.logits.argmax(1)
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


@pytest.mark.parametrize("written", [0, 1])
def test_a_report_that_cannot_be_written_leaves_the_one_before(good, subset, tmp_path, monkeypatch, written):
    measurement, _, content = good
    names = ("report.json", "report.html")
    for name in names:
        (tmp_path / name).write_text("before", encoding="utf-8")
    fine = iter([True] * written)  # and then the disk is full

    def flush(descriptor):
        if not next(fine, False):
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(files, "_flush_folder", lambda folder: None)
    with pytest.raises(OSError, match="no space"):
        report.write(content, subset.test, measurement, tmp_path)
    assert [(tmp_path / name).read_text(encoding="utf-8") == "before" for name in names] == [written == 0, True]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_page_needs_nothing_from_elsewhere_and_is_small(good, subset):
    page = report.html(good[2], subset.test, good[0])
    for way_out in ('src="http', "src='http", 'href="http', "@import", "url(http", "<script"):
        assert way_out not in page
    assert len(page) < 500_000


def test_images_are_pngs_of_the_same_pixels(subset):
    image = subset.test.images[0, 0]
    head, _, content = report._data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert np.array_equal(np.asarray(picture), image.numpy())


def test_the_summary_shows_every_verdict_and_first_what_blocks(judged, untrained):
    _, verdicts, content = judged(untrained)
    rows = [line for line in report.markdown(content).splitlines() if line.startswith(("| ❌", "| ✅", "| ⚠️"))]
    assert len(rows) == len(verdicts)
    blocking = [row.startswith("| ❌") for row in rows]
    assert blocking == sorted(blocking, reverse=True)
    assert sum(blocking) == len(gate.blocked(verdicts))


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
    assert "Recognized of each class" in page
    assert not re.search(r"digit \d|Digits|each digit|worst digit", page)
    of_digits = report.html(compared[2], subset.test, compared[0])
    assert all(words in of_digits for words in ("Recognized of each digit", "worst digit", ">digit 7<", "of digit 7<"))


def test_the_summary_shows_how_well_each_class_is_recognized(good, of_clothes):
    for (_, _, content), names in ((good, "0123456789"), (of_clothes, CLOTHES)):
        lines = report.markdown(content).splitlines()
        for name, digit in zip(names, content["digits"], strict=True):
            row = next(line for line in lines if line.startswith(f"| {name} |"))
            assert f"| {100 * digit['value']:.2f} % | {100 * digit['low']:.2f} to {100 * digit['high']:.2f} % |" in row
