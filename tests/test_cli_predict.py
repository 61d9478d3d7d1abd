import errno
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from commands import assert_one_clear_line
from judged_models import write_decision
from PIL import Image
from samples import save_model
from strategies import printed
from test_reading import icon_of

from mnist import drawings, files
from mnist.cli import display, process
from mnist.deploy import inference
from mnist.preparation import finding


@pytest.fixture
def model(trained, tmp_path) -> Path:
    """Save a good model in models/, with a threshold of 0: it is sure of every digit."""
    path = save_model(trained.model, tmp_path / "models", measured={"threshold": 0})
    write_decision(path, "ship")
    return path


@pytest.fixture
def scans(tmp_path) -> Path:
    """A folder of drawings, a blank sheet and something else, in the current one."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for digit in (3, 5, 7):
        printed(digit).save(folder / f"{digit}.png")
    Image.new("L", (60, 60), 255).save(folder / "blank.png")
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return folder


def expected(model: Path, *paths: str) -> str:
    """The lines that are to be printed."""
    artifact = inference.load(model)
    return "".join(f"{Path(path)}: {inference.predict(artifact, path)}\n" for path in paths)


def test_predict_prints_the_digit_and_the_model(mnist, model, scans):
    finished = mnist("predict", "scans/7.png")
    assert (finished.code, finished.out) == (0, expected(model, "scans/7.png"))
    assert finished.out.startswith(f"{Path('scans/7.png')}: 7 (")
    assert finished.err == f"model: {Path('models') / model.name}, trained on training split, 4,000 images\n"


def test_predict_accepts_files_folders_and_patterns(mnist, model, scans):
    (scans / "deeper").mkdir()
    printed(4).save(scans / "deeper" / "4.jpg")
    finished = mnist("predict", "scans/5.png", "scans", "scans/[37].png", "scans/**/4.*")
    in_folder = ["scans/3.png", "scans/5.png", "scans/7.png", "scans/blank.png", "scans/deeper/4.jpg"]
    names = ["scans/5.png", *in_folder, "scans/3.png", "scans/7.png", "scans/deeper/4.jpg"]
    assert (finished.code, finished.out) == (0, expected(model, *names))
    assert "of 9 images recognized; 1 uncertain or without a digit" in finished.err


def test_predict_prints_no_warning_of_pillow(mnist, model, scans):
    (scans / "icon.ico").write_bytes(icon_of("ico", side=600))
    finished = mnist("predict", "scans/icon.ico")
    assert (finished.code, finished.err.count("\n")) == (0, 1), finished


def test_predict_prefers_a_file_over_a_pattern(mnist, model, scans):
    (scans / "7.png").rename(scans / "[7].png")
    assert mnist("predict", "scans/[7].png").out == expected(model, "scans/[7].png")


def test_predict_reports_bad_files_and_predicts_the_others(mnist, model, scans):
    finished = mnist("predict", "scans/3.png", "missing.png", "scans/notes.txt", "scans/blank.png", "scans/7.png")
    assert finished.code == process.BAD_INPUT
    assert finished.out == expected(model, "scans/3.png", "scans/blank.png", "scans/7.png")
    assert f"{Path('scans/blank.png')}: no digit found" in finished.out
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: there is no image at missing.png",
        f"error: {Path('scans/notes.txt')} is not an image that can be read (save it as PNG or JPEG)",
    ]
    assert "2 of 5 images recognized; 1 uncertain or without a digit" in finished.err


def test_predict_reports_unreadable_files(mnist, model, scans, monkeypatch):
    read = files.read

    def refuse(path, limit):
        if path.name == "5.png":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path, limit)

    wanted = expected(model, "scans/3.png", "scans/7.png")
    monkeypatch.setattr(files, "read", refuse)
    finished = mnist("predict", "scans/3.png", "scans/5.png", "scans/7.png")
    assert (finished.code, finished.out) == (process.BAD_INPUT, wanted)
    assert f"error: {Path('scans/5.png')} cannot be read: Permission denied" in finished.err.splitlines()


def strict(line: str) -> dict:
    """The object in a line of JSON, which has no NaN."""
    return json.loads(line, parse_constant=pytest.fail)


def test_predict_json_prints_one_object_per_line(mnist, model, scans):
    finished = mnist("predict", "--json", "scans", "missing.png")
    assert finished.code == process.BAD_INPUT
    answers = [strict(line) for line in finished.out.splitlines()]
    assert [Path(answer["image"]).name for answer in answers] == ["3.png", "5.png", "7.png", "blank.png"]
    artifact = inference.load(model)
    for answer in answers[:3]:
        same = inference.predict(artifact, answer["image"])
        assert answer == {
            "image": answer["image"],
            "outcome": "sure" if same.label else "not sure",
            "label": same.label,
            "best": same.best[0],
            "confidence": pytest.approx(same.best[1], abs=1e-6),
            "runner_up": same.runner_up[0],
            "runner_up_confidence": pytest.approx(same.runner_up[1], abs=1e-6),
            "probabilities": pytest.approx(dict(zip("0123456789", same.probabilities, strict=True)), abs=1e-6),
            "problem": None,
            "reason": None,
            "box": dict(zip(("top", "left", "bottom", "right"), same.box, strict=True)),
            "note": None,
        }
    assert answers[3] == {
        "image": answers[3]["image"],
        "outcome": "not found",
        "label": None,
        "best": None,
        "confidence": 0,
        "runner_up": None,
        "runner_up_confidence": 0,
        "probabilities": {},
        "problem": "no digit found",
        "reason": "nothing-found",
        "box": None,
        "note": None,
    }


def test_predict_is_not_sure_if_probabilities_are_nan(mnist, trained, scans, tmp_path):
    torch.save(trained.model.state_dict() | {"fc2.bias": torch.full((10,), math.nan)}, tmp_path / "nan.pth")
    finished = mnist("predict", "--json", "scans/7.png", "--model", "nan.pth")
    answer = strict(finished.out)
    assert (answer["outcome"], answer["label"], answer["confidence"]) == ("not sure", None, None)
    assert "trained on unknown data (the model has no card)" in finished.err


def test_predict_show_draws_the_network_input(mnist, model, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("mnist.cli.predict.MAX_DRAWN_IMAGES", 2)
    drawn = []
    monkeypatch.setattr(drawings, "draw_inputs", lambda *arguments: drawn.append(arguments))
    finished = mnist("predict", "scans", "--show")
    assert f"drawn: {Path('figures/seen.png')}" in finished.err
    (seen, path), artifact = drawn[0], inference.load(model)
    assert path == Path("figures/seen.png")
    assert len(seen) == 2
    for (image, title), name in zip(seen, ("3.png", "5.png"), strict=True):
        same = inference.predict(artifact, scans / name)
        assert np.array_equal(image, same.prepared)
        doubt = "" if same.label else "not sure: "
        first, second, third = title.splitlines()
        assert (first, second.startswith(f"{doubt}{same.best[0]}, ")) == (name, True)
        assert third.startswith(f"next: {same.runner_up[0]}, ")


def test_predict_show_never_overwrites_an_image(mnist, model, scans, tmp_path):
    assert mnist("predict", "scans", "--show", "seen.png").code == 0
    for _ in range(2):
        assert mnist("predict", "scans/3.png", "--show").code == 0
    for path in ("seen.png", "figures/seen.png"):
        with Image.open(tmp_path / path) as picture:
            assert picture.format == "PNG"
    before = (scans / "3.png").read_bytes()
    assert_one_clear_line(mnist("predict", "--show", "scans/3.png", "scans/5.png"), "3.png exists")
    assert (scans / "3.png").read_bytes() == before
    assert mnist("predict", "scans/blank.png", "--show", "nothing.png").code == 0
    assert not (tmp_path / "nothing.png").exists(), "there was nothing to draw"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file cannot be called that")
def test_predict_accepts_any_file_name(mnist, model, scans, tmp_path):
    names = [b"costs $5^$.png", b"\xff\xfe.png", b"two\nlines.png", b"%s [bold]{x}.png"]
    for name in names:
        shutil.copy(scans / "7.png", os.fsencode(scans) + b"/" + name)
    finished = mnist("predict", "scans", "--show", "seen.png")
    assert finished.code == 0
    assert finished.out.count(": 7 (") == len(names) + 1
    assert (tmp_path / "seen.png").exists()


def test_predict_warns_of_other_classes_and_names_them(mnist, trained, scans, tmp_path):
    clothes = torchvision.datasets.FashionMNIST.classes
    dataset = {"name": "fashion-mnist", "train": "clothes", "classes": clothes}
    path = save_model(trained.model, tmp_path / "models", dataset=dataset)
    finished = mnist("predict", "scans/7.png")
    assert finished.code == 0
    assert f"model: {Path('models') / path.name}, trained on clothes\n" in finished.err
    assert f"WARNING: the classes are not digits but {', '.join(clothes)}; " in finished.err
    assert finished.out.startswith(f"{Path('scans/7.png')}: Sneaker (")


def test_predict_is_not_sure_below_the_threshold(mnist, trained, scans, tmp_path):
    save_model(trained.model, tmp_path / "models", measured={"threshold": 1})
    finished = mnist("predict", "scans/3.png", "scans/7.png")
    assert finished.code == 0, "an honest answer"
    assert [line.partition(": ")[2][:10] for line in finished.out.splitlines()] == ["not sure: "] * 2
    assert "0 of 2 images recognized; 2 uncertain or without a digit" in finished.err


def test_predict_min_confidence_replaces_the_threshold(mnist, model, scans):
    line = json.loads(mnist("predict", scans / "3.png", "--model", model, "--json").out)
    confidence = line["confidence"]
    for minimum, outcome in ((confidence - 1e-6, "sure"), (confidence + (1 - confidence) / 2, "not sure")):
        found = mnist("predict", scans / "3.png", "--model", model, "--json", "--min-confidence", str(minimum)).out
        assert json.loads(found)["outcome"] == outcome


@pytest.mark.parametrize("command", [("predict", "scans/3.png"), ("demo",)])
@pytest.mark.parametrize("value", ["1.5", "-1", "nan", "inf"])
def test_confidence_that_is_no_probability_is_refused(mnist, model, scans, command, value):
    finished = mnist(*command, "--min-confidence", value)
    assert_one_clear_line(finished, "minimum confidence must be between 0 and 1", value)


def test_predict_split_answers_each_digit_with_its_box(mnist, model, scans):
    sheet = Image.new("L", (200, 64), 240)
    sheet.paste(printed(3), (0, 0))
    sheet.paste(printed(7), (120, 0))
    sheet.save("sheet.png")
    whole = mnist("predict", "sheet.png")
    assert (whole.code, whole.out.partition(": ")[2][:29]) == (0, "several separate shapes found")
    finished = mnist("predict", "--split", "--json", "sheet.png")
    three, seven = (strict(line) for line in finished.out.splitlines())
    assert (three["best"], seven["best"]) == ("3", "7")
    assert three["box"]["right"] < 64 < 120 < seven["box"]["left"]
    plain = mnist("predict", "--split", "sheet.png").out.splitlines()
    assert plain[1].endswith(f" at x {seven['box']['left']}, y {seven['box']['top']}")


def test_predict_keeps_the_order_of_many_images(mnist, model, scans, monkeypatch):
    monkeypatch.setattr(inference, "IMAGES_PER_BATCH", 7)
    monkeypatch.setattr(finding, "FILES_READ_AHEAD", 5)
    names = [str(Path(f"scans/{(3, 5, 7)[number % 3]}.png")) for number in range(display.MIN_FILES_FOR_BAR + 1)]
    finished = mnist("predict", *names)
    assert [line.partition(": ")[0] for line in finished.out.splitlines()] == names
    assert "\x1b" not in finished.out + finished.err, "a bar is for a terminal"
