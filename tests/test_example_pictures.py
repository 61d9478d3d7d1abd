"""Test the pictures in examples/pictures/, and what is found in them without a model."""

import io
import sys
from pathlib import Path

import example_pictures
import numpy as np
import pytest
import strokes
from example_pictures import FOLDER, PICTURES
from PIL import Image, ImageChops, ImageStat

from mnist import preparation
from mnist.deploy import inference
from mnist.deploy.inference import Prediction
from mnist.preparation import NoDigitError, Reason

MAX_BYTES = 30_000
DIGITS = tuple("0123456789")
# In grey levels. Floating-point rounding changes a pixel by one. JPEG decoders round in different ways, and the encoder
# may change a whole block by a quantization step.
MAX_DIFFERENCE = {".png": 1, ".jpg": 24}
MAX_MEAN_DIFFERENCE = 0.5


def decoded(image: Image.Image, name: str) -> Image.Image:
    """Encode a picture as its file is encoded, and decode it."""
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[Path(name).suffix], quality=example_pictures.JPEG_QUALITY)
    return Image.open(buffer)


def predicted(label: str, confidence: float = 0.9) -> Prediction:
    others = (1 - confidence) / 9
    return Prediction(DIGITS, tuple(confidence if each == label else others for each in DIGITS), threshold=0.8)


def refused(reason: Reason) -> Prediction:
    return Prediction(DIGITS, (), threshold=0.8, problem="refused", reason=reason)


parametrized = pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.file)


@pytest.mark.slow
@parametrized
def test_picture_is_as_the_script_draws_it(picture):
    drawn = decoded(picture.draw(), picture.file)
    with Image.open(FOLDER / picture.file) as committed:
        assert (committed.size, committed.mode, committed.format) == (drawn.size, drawn.mode, drawn.format)
        difference = ImageChops.difference(committed, drawn)
    statistics = ImageStat.Stat(difference)
    assert max(high for _, high in statistics.extrema) <= MAX_DIFFERENCE[Path(picture.file).suffix]
    assert max(statistics.mean) <= MAX_MEAN_DIFFERENCE


@parametrized
def test_finder_finds_or_refuses_as_expected(picture):
    reason = None
    try:
        preparation.prepare(FOLDER / picture.file)
    except NoDigitError as error:
        reason = error.reason.value
    assert reason == picture.reason


def test_folder_holds_the_pictures_and_what_is_expected():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {"expected.json", *(picture.file for picture in PICTURES)}
    assert max(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES
    assert (FOLDER / "expected.json").read_bytes() == example_pictures.expected()


def test_pictures_show_all_digits():
    assert {picture.digit for picture in PICTURES} == {None, *DIGITS}
    assert all(picture.standard in (None, picture.digit) for picture in PICTURES)


def test_wrong_digits_and_other_reasons_are_wrong():
    digit = example_pictures.Picture("7.png", "a 7", "7", None, "7", draw=lambda: Image.new("L", (9, 9)))
    assert digit.is_wrong(predicted("1"))
    assert digit.is_wrong(refused(Reason.NOTHING_FOUND))
    assert not digit.is_wrong(predicted("7"))
    assert not digit.is_wrong(predicted("1", confidence=0.7))  # not sure
    blank = example_pictures.Picture("blank.png", "paper", None, "nothing-found", None, draw=digit.draw)
    assert blank.is_wrong(predicted("7"))
    assert blank.is_wrong(refused(Reason.TOO_SMALL))
    assert not blank.is_wrong(refused(Reason.NOTHING_FOUND))
    letter = example_pictures.Picture("k.png", "a letter", None, None, None, draw=digit.draw)
    assert not letter.is_wrong(predicted("4"))


@pytest.mark.parametrize("is_wrong", [False, True])
def test_main_exits_with_1_if_an_answer_is_wrong(is_wrong, monkeypatch, capsys):
    answers = [
        predicted(each.digit or "4") if each.reason is None else refused(Reason(each.reason)) for each in PICTURES
    ]
    if is_wrong:
        answers[1] = predicted("5")
    monkeypatch.setattr(inference, "load", lambda path: None)
    monkeypatch.setattr(inference, "predict_files", lambda model, paths: iter(answers))
    monkeypatch.setattr(sys, "argv", ["example_pictures.py", "--model", "x.pth"])
    with pytest.raises(SystemExit) as exited:
        example_pictures.main()
    assert exited.value.code == int(is_wrong)
    assert ("chalk.jpg: 5 (90.0%; next: 0, 1.1%) WRONG" in capsys.readouterr().out) == is_wrong


def test_draw_covers_a_line_as_wide_as_the_pen():
    covered = strokes.draw((40, 20), [[(10, 10), (30, 10)]], thickness=6)
    assert covered[:, 20].sum() == pytest.approx(6)
    assert covered[10].sum() == pytest.approx(26, abs=0.5)  # the ends of the pen are round


def test_place_rotates_about_the_middle():
    upright, rotated = (np.array(strokes.place("7", 20, 30, 100, degrees)[0]) for degrees in (0, 90))
    x, y = (upright - (70, 80)).T
    assert rotated - (70, 80) == pytest.approx(np.stack([y, -x], axis=1))


def test_smooth_passes_through_its_points():
    points = [(0.1, 0.2), (0.5, 0.9), (0.7, 0.3), (0.2, 0.4)]
    curve = strokes.smooth(*points)
    assert [curve[strokes.STEPS_PER_PIECE * number] for number in range(4)] == [pytest.approx(each) for each in points]
