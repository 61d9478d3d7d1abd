"""Several models in one table."""

import csv
import dataclasses
import errno
import io
import json
import os
import tempfile
from types import SimpleNamespace

import foreign
import pytest
import torch
from commands import assert_one_clear_line
from strategies import generator

from mnist import architecture, gate, report
from mnist.cli import process
from mnist.gate import candidates, onnx_models, ranking
from mnist.gate.ranking import Row
from mnist.gate.verdicts import Outcome


@pytest.fixture
def hand_ins(model, subset, tmp_path):
    """A folder with a good model, a weak ONNX classifier, an untrained network, and a file that is no model."""
    folder = tmp_path / "hand-ins"
    (folder / "bob").mkdir(parents=True)
    for path in model.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "bob" / "linear.onnx").write_bytes(foreign.classifier(foreign.linear_weights(subset.train)))
    torch.save(architecture.build("cnn", generator(0)).state_dict(), folder / "untrained.pth")
    (folder / "broken.onnx").write_bytes(b"nonsense")
    (folder / "notes.txt").write_text("no model", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_gate_ranks_a_folder_the_worst_first(mnist, hand_ins, model, tmp_path):
    finished = mnist("gate", "hand-ins", "--dataset", "subset")
    assert finished.code == process.BLOCKED
    lines = finished.out.splitlines()
    assert lines[-1] == "BLOCKED: 3 of 4 models"
    verdicts = [
        line.split()[0] for line in lines if line.strip().startswith(("unreadable", "block", "warning", "ship"))
    ]
    assert verdicts[:4] == ["unreadable", "block", "block", "ship"]
    assert "broken.onnx cannot be judged" in finished.out
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [
        "earlier",
        "linear",
        model.stem,
        "untrained",
    ]


@pytest.mark.slow
def test_ranking_is_equal_as_json_and_csv(mnist, hand_ins):
    found = json.loads(mnist("gate", "hand-ins", "--dataset", "subset", "--json").out)
    rows = list(csv.DictReader(io.StringIO(mnist("gate", "hand-ins", "--dataset", "subset", "--csv").out)))
    assert found["measured_on"] == "offline subset, test split, 1,000 images"
    assert [each["model"] for each in found["models"]] == [row["model"] for row in rows]
    assert [each["decision"] for each in found["models"]] == [row["decision"] for row in rows]
    unreadable, *judged = found["models"]
    assert (unreadable["accuracy"], rows[0]["accuracy"]) == (None, "")
    assert [each["accuracy"] for each in judged] == [float(row["accuracy"]) for row in rows[1:]]
    assert [each["blocked_by"] for each in judged] == [row["blocked_by"].split() for row in rows[1:]]


def test_gate_prints_the_report_of_one_model_as_json(mnist, model, tmp_path):
    finished = mnist("gate", "--json")
    assert finished.code == 0
    written = (tmp_path / "reports" / model.stem / "report.json").read_text(encoding="utf-8")
    assert json.loads(finished.out) == json.loads(written)


@pytest.mark.slow
def test_gate_ships_several_good_models(mnist, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in model.parent.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    finished = mnist("gate", model, other / model.name)
    assert (finished.code, finished.out.splitlines()[-1]) == (0, "SHIP: all 2 models")
    reports = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert reports == ["earlier", model.stem, f"{model.stem}_2"]


def test_gate_refuses_a_folder_without_models(mnist, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_one_clear_line(mnist("gate", "empty"), "there is no model in empty")
    assert_one_clear_line(mnist("gate", "x.pth", "--json", "--csv"), "--json and --csv cannot be combined (choose one)")


def test_row_holds_the_figures_of_the_verdicts(good, tmp_path):
    candidate = SimpleNamespace(path=tmp_path / "model.pth", sha256="0" * 64, description="a network")
    figures = {verdict.criterion: verdict.figure for verdict in good.verdicts}
    row = ranking.describe(SimpleNamespace(candidate=candidate, verdicts=good.verdicts, figures=figures), report=None)
    names = {"accuracy": "accuracy", "worst_digit": "digit-accuracy", "corruption_mean": "corruption-mean"}
    names |= {"parameters": "parameters", "kilobytes": "size-on-disk", "latency_ms": "latency"}
    assert {field: getattr(row, field) for field in names} == {field: figures[name] for field, name in names.items()}
    assert (row.model, row.sha256, row.description) == (str(candidate.path), "0" * 64, "a network")


def test_row_names_the_report_and_what_blocks(good, tmp_path):
    passing = good.verdicts[0]
    bad, unsure = (
        dataclasses.replace(passing, criterion=name, outcome=outcome, blocks=blocks)
        for name, outcome, blocks in (("shift", Outcome.BLOCK, True), ("accuracy", Outcome.UNDECIDED, False))
    )
    candidate = SimpleNamespace(path=tmp_path / "model.pth", sha256="0" * 64, description="a network")
    figures = {verdict.criterion: verdict.figure for verdict in good.verdicts}
    rows = [
        ranking.describe(SimpleNamespace(candidate=candidate, verdicts=verdicts, figures=figures), report)
        for verdicts, report in (
            ([passing, bad, unsure], tmp_path / "report.html"),
            ([unsure], None),
            ([passing], None),
        )
    ]
    assert [row.report for row in rows] == [str(tmp_path / "report.html"), "", ""]
    assert [row.decision for row in rows] == [ranking.BLOCK, ranking.WARN, ranking.SHIP]
    assert [row.reason for row in rows] == ["blocked by shift", "warnings: accuracy", ""]
    assert [row.blocks for row in rows] == [True, False, False]
    assert ranking.unreadable(tmp_path / "x.pth", "no model").reason == "no model"


def test_warnings_are_counted_by_kind(good):
    passing = good.verdicts[0]
    warnings = [
        dataclasses.replace(passing, outcome=outcome, blocks=False)
        for outcome in (Outcome.UNDECIDED, Outcome.UNMEASURABLE, Outcome.UNDECIDED)
    ]
    blocking = dataclasses.replace(passing, outcome=Outcome.BLOCK, blocks=True)
    assert ranking.describe_warnings([passing, blocking]) == ""
    assert ranking.describe_warnings([passing, *warnings]) == "3 of 4 criteria undecided or not measurable"


def test_rows_are_sorted_by_decision_then_accuracy():
    rows = [
        Row("e", ranking.SHIP, accuracy=0.98),
        Row("c", ranking.BLOCK, accuracy=0.9),
        Row("f", ranking.SHIP, accuracy=0.99),
        Row("d", ranking.WARN, accuracy=0.999),
        Row("b", ranking.BLOCK),
        Row("a", ranking.UNREADABLE),
    ]
    assert [row.model for row in ranking.worst_first(rows)] == list("abcdef")
    assert [row.blocks for row in ranking.worst_first(rows)] == [True] * 3 + [False] * 3


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows allows no line breaks in names")
def test_gate_prints_hostile_names_on_one_line(mnist, tmp_path):
    (tmp_path / "a\n::error::b.onnx").write_bytes(b"nonsense")
    (tmp_path / "[red]c[bold].onnx").write_bytes(b"nonsense")
    for option in ([], ["--csv"], ["--json"]):
        finished = mnist("gate", ".", "--dataset", "subset", *option)
        assert finished.code == process.BLOCKED
        assert not any(line.startswith("::") for line in (finished.out + finished.err).splitlines())
        assert "[red]c[bold].onnx" in finished.out


def test_internal_error_loses_no_other_result(mnist, model, tmp_path, monkeypatch):
    (tmp_path / "bad.onnx").write_bytes(b"")

    def fail(*arguments):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(onnx_models, "load", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    finished = mnist("gate", "bad.onnx", model)
    assert finished.code == process.INTERNAL_ERROR
    assert "internal error: ZeroDivisionError: a defect" in finished.out
    assert "\n  ship " in finished.out


@pytest.mark.parametrize(
    "options", [("--device", "nonsense"), ("--architecture", "nonsense"), ("--baseline", "typo.onnx")]
)
def test_wrong_option_is_bad_input_and_no_verdict(mnist, model, options):
    assert_one_clear_line(mnist("gate", model, model.parent, *options), options[1])


@pytest.mark.slow
def test_lost_report_of_several_models_is_reported(mnist, model, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "reports")

    monkeypatch.setattr(report, "write", fail)
    finished = mnist("gate", model.parent)
    assert finished.code == process.BAD_INPUT
    assert "error: the report could not be written: reports: No space left" in finished.err
    assert "SHIP: all 1 models" in finished.out


@pytest.mark.slow
def test_baseline_is_measured_once_for_all_models(mnist, model, monkeypatch):
    measured = []
    measure = gate.measure

    def count(*arguments, **options):
        measured.append(arguments[0])
        return measure(*arguments, **options)

    monkeypatch.setattr(gate, "measure", count)
    other = model.with_name("other.pth")
    other.write_bytes(model.read_bytes())
    finished = mnist("gate", model, other, "--baseline", model, "--dataset", "subset")
    assert finished.code == 0
    assert len(measured) == 3


def test_empty_path_is_bad_input(mnist):
    """An unset variable of a shell must not stand for the current folder."""
    assert_one_clear_line(mnist("gate", ""), "the path is empty")
    assert_one_clear_line(mnist("verify", ""), "the path is empty")
    assert_one_clear_line(mnist("models", "--models-dir", ""), "the path is empty")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows allows no line breaks in names")
def test_report_of_a_hostile_name_has_a_printable_folder(mnist, model, tmp_path):
    model.rename(model.with_name("a\nb.pth"))
    mnist("gate", model.with_name("a\nb.pth"), "--dataset", "subset")
    assert [path.name for path in (tmp_path / "reports").iterdir() if path.name != "earlier"] == [r"a\u000ab"]


def test_hidden_files_and_folders_are_not_judged(tmp_path):
    for name in (".venv/lib/distutils.pth", ".hidden.onnx", "a/.cache/b.onnx", "a/b.onnx", "c.pth", "d.PT", "e.txt"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = candidates.find([tmp_path / "folder"])
    assert [path.relative_to(tmp_path / "folder").as_posix() for path in found] == ["a/b.onnx", "c.pth", "d.PT"]


@pytest.mark.slow
def test_lost_report_is_reported_beside_json(mnist, model, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "reports")

    monkeypatch.setattr(report, "write", fail)
    finished = mnist("gate", model, "--json")
    assert finished.code == process.BAD_INPUT
    assert json.loads(finished.out)["decision"] == "ship"
    assert "error: the report could not be written: reports: No space left" in finished.err


@pytest.mark.slow
def test_cards_choose_the_data_of_several_models(mnist, model, tmp_path):
    """Both models were trained on the subset, so no other data set is loaded."""
    other = tmp_path / "other"
    other.mkdir()
    for path in model.parent.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    finished = mnist("gate", model.parent, other)
    assert finished.code == 0
    assert "Measured on: offline subset" in finished.out
    assert "download" not in finished.err
