import json
import sys
from pathlib import Path

import pictures
import pytest
from PIL import Image
from strategies import printed

LABELS = (
    {"file": "a/7.png", "kind": "printed", "label": 7},
    {"file": "a/3.png", "kind": "photo", "label": 4},  # a wrong label
    {"file": "a/blank.png", "kind": "notdigit", "label": None},
    {"file": "a/l.png", "kind": "notdigit", "label": None, "looks_like_a_digit": True},
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for digit in (3, 7):
        printed(digit).save(tmp_path / "a" / f"{digit}.png")
    Image.new("L", (60, 60), 255).save(tmp_path / "a" / "blank.png")
    lines = [json.dumps({"detail": "", "looks_like_a_digit": False, **label}) for label in LABELS]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_table_counts_correct_and_wrong_answers(folder, model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pictures.py", "--pictures", str(folder), "--models", str(model), "--mistakes"])
    pictures.main()
    out = capsys.readouterr().out
    rows = {
        line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:] for line in out.splitlines() if line.startswith("| a:")
    }
    assert list(rows) == ["a: all digits", "a: no digit", "a: photo", "a: printed"]
    assert rows["a: printed"][1].startswith("1 (100.0 %;")
    assert rows["a: photo"][1].startswith("0 (0.0 %;")
    assert rows["a: all digits"][:1] == ["2"]
    assert rows["a: no digit"][2].startswith("0 (0.0 %;")
    assert ("3.png: 4, answered 3" in out) == rows["a: photo"][3].startswith("1 ")


def test_threshold_table_counts_answers_at_each_confidence():
    def answer(label: str | None, best: str, confidence: float) -> pictures.Answer:
        return pictures.Answer(pictures.Picture(Path("x.png"), "a: photo", label), best, None, confidence)

    answers = [answer("1", "1", 0.99), answer("2", "3", 0.85), answer(None, "4", 0.75), answer(None, "", 0.0)]
    table = pictures._threshold_table(answers, 0.7)
    rows = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:] for line in table.splitlines()[2:]}
    counts = {name: [cell.split(" ")[0] for cell in cells] for name, cells in rows.items()}
    assert counts["0.70 (the model's)"] == ["2", "1", "1"]
    assert counts["0.80"] == ["2", "1", "0"]
    assert counts["0.95"] == ["1", "0", "0"]


def test_sets_restrict_the_pictures(folder, model, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["x", "--pictures", str(folder), "--models", str(model), "--sets", "b", "--thresholds"]
    )
    pictures.main()
    assert "| a:" not in capsys.readouterr().out


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_generated_requires_a_positive_number(count, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pictures.py", "--generated", count, "--models", "x.pth"])
    with pytest.raises(SystemExit) as exited:
        pictures.main()
    assert exited.value.code == 2
    assert f"--generated: must be a whole number above 0, not '{count}'" in capsys.readouterr().err


def test_halves_divide_the_pictures(folder):
    first, second, both = (pictures.read_labels(folder, half) for half in ("first", "second", None))
    assert sorted(each.path for each in first + second) == sorted(each.path for each in both)
    assert len(both) == 3
