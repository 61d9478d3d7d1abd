"""Test predictions for users' images, and the public functions of the package."""

import dataclasses
import doctest
import importlib
import io
import math
import pkgutil
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import paper
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judged_models import write_decision
from PIL import Image, ImageDraw, ImageOps
from samples import save_model
from strategies import CLOTHES, printed

import mnist as package
from mnist import preparation
from mnist.deploy import inference
from mnist.deploy.inference import Prediction
from mnist.gate import performance
from mnist.preparation import ImageError, NoDigitError, Reason, finding, search
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact, ArtifactError

README = Path(__file__).parent.parent / "README.md"
NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)


def saved(run, folder: Path, threshold: float, now: datetime = NOON) -> Path:
    return save_model(run.model, folder, measured={"threshold": threshold}, now=now)


@pytest.fixture(scope="module")
def model(trained, subset, tmp_path_factory) -> Artifact:
    """Return a good model with a calibrated threshold."""
    threshold = performance.choose_threshold(trained.model, subset.train, seed=0)
    return artifacts.load(saved(trained, tmp_path_factory.mktemp("models"), threshold))


# ---- One image -------------------------------------------------------------------------------------------------------


def test_predict_accepts_paths_images_and_arrays(model, tmp_path):
    path, image = tmp_path / "seven.png", printed(7).convert("RGB")
    image.save(path)
    expected = inference.predict(model, path)
    assert expected.label == "7"
    for same in (str(path), image, np.asarray(image), printed(7), np.asarray(printed(7))):
        found = inference.predict(model, same)
        assert found == expected
        assert np.array_equal(found.prepared, expected.prepared)
    assert np.array_equal(expected.prepared, preparation.prepare_file(path))


def test_predict_returns_the_probabilities_of_the_network(model):
    found = inference.predict(model, printed(3, degrees=10))
    pixels = (found.prepared / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    logits = model.model(torch.from_numpy(pixels)[None, None])
    assert found.probabilities == pytest.approx(logits.softmax(1)[0].tolist(), abs=1e-5)
    assert sum(found.probabilities) == pytest.approx(1)


@pytest.fixture(scope="module")
def photographed(model, subset) -> tuple[np.ndarray, list[str], list[Prediction]]:
    """Return whether some test images are recognized, their labels, and the predictions for photos of them."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(subset.test), 150, replace=False)
    correct = performance.predict_split(model.model, subset.test).argmax(1) == subset.test.labels
    labels = [str(label) for label in subset.test.labels[chosen].tolist()]
    photos = [paper.photograph(digit, rng) for digit in subset.test.images[chosen, 0].numpy()]
    return correct[chosen].numpy(), labels, [inference.predict(model, photo) for photo in photos]


@pytest.mark.slow
def test_predict_recognizes_digits_on_photos_of_paper(photographed):
    correct_originals, labels, predictions = photographed
    correct_photos = [prediction.best[0] == label for prediction, label in zip(predictions, labels, strict=True)]
    assert np.mean(correct_originals) > 0.9
    assert np.mean(correct_photos) > np.mean(correct_originals) - 0.05


@pytest.mark.slow
def test_predict_is_less_confident_of_mistakes(model, photographed):
    _, labels, predictions = photographed
    correct = np.array([prediction.best[0] == label for prediction, label in zip(predictions, labels, strict=True)])
    sure = np.array([prediction.label is not None for prediction in predictions])
    confidence = np.array([prediction.best[1] for prediction in predictions])
    assert model.threshold >= 0.5
    assert sure.mean() > 0.8
    assert not (~correct).any() or confidence[~correct].mean() < confidence[correct].mean()
    for prediction, is_sure in zip(predictions, sure, strict=True):
        assert is_sure == (prediction.best[1] >= model.threshold and prediction.reason is None)
        assert prediction.label == (prediction.best[0] if is_sure else None)
        assert str(prediction).startswith("not sure: ") == (not is_sure and not prediction.problem)


def numbers(sheet: Image.Image) -> list[tuple[int, int]]:
    """Paste digits on a sheet in two lines; return their positions (x, y) in reading order."""
    positions = [(20, 10), (130, 14), (20, 110), (130, 104), (210, 112)]
    for position, digit in zip(positions, (3, 7, 4, 5, 2), strict=True):
        sheet.paste(printed(digit), position)
    return positions


def test_predict_all_answers_each_digit_in_reading_order(model):
    sheet = Image.new("L", (300, 200), 240)
    positions = numbers(sheet)
    found = inference.predict_all(model, sheet)
    assert [prediction.best[0] for prediction in found] == ["3", "7", "4", "5", "2"]
    for prediction, (x, y) in zip(found, positions, strict=True):
        assert y < prediction.box.top < prediction.box.bottom < y + 64
        assert x < prediction.box.left < prediction.box.right < x + 64
    single = inference.predict(model, sheet)
    assert (single.reason, single.problem.partition(" (")[0]) == (
        Reason.SEVERAL_SHAPES,
        "several separate shapes found",
    )
    (nothing,) = inference.predict_all(model, Image.new("L", (300, 200), 240))
    assert nothing.reason is Reason.NOTHING_FOUND


@given(st.sampled_from([1, 3, 6, 8]), st.integers(0, 200), st.integers(0, 150), st.integers(1, 6))
def test_box_is_in_pixels_of_the_upright_original(orientation, x, y, scale):
    """The image is a JPEG that is decoded at a lower resolution if it is large, and rotated by its EXIF data."""
    image = Image.new("L", (scale * 400, scale * 300), 240)
    image.paste(printed(7).resize((scale * 64, scale * 64)), (scale * x, scale * y))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", exif=exif, quality=95)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(buffer)).convert("L")) < 130
    rows, columns = np.flatnonzero(upright.any(1)), np.flatnonzero(upright.any(0))
    expected = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    found = preparation.find_digit(preparation.to_picture(buffer.getvalue())).box
    assert np.abs(np.array(found) - expected).max() <= max(3, 4 * scale)


def ellipses(*boxes: tuple[int, int, int, int]) -> Image.Image:
    page = Image.new("L", (160, 120), 240)
    for box in boxes:
        ImageDraw.Draw(page).ellipse(box, outline=20, width=7)
    return page


@pytest.mark.parametrize("width", [40, 32])  # the pair is wider, or less wide, than high
def test_shape_that_may_be_two_digits_is_not_sure(model, width):
    found = inference.predict(model, ellipses((30, 20, 30 + width, 90), (28 + width, 20, 28 + 2 * width, 90)))
    assert (found.label, found.reason) == (None, Reason.MAY_BE_TWO_DIGITS)


class _FixedModel:
    """A model with the same confidence for each image of the left, the right or both of two sevens."""

    classes, threshold = ("2", "7"), 0.5

    def __init__(self, whole: float, left: float, right: float):
        self.confidences = [whole, left, right]

    def probabilities(self, images):
        assert len(images) == len(self.confidences)
        return np.array([[1 - each, each] for each in self.confidences], dtype=np.float32)


@pytest.mark.parametrize(
    ("whole", "left", "right", "label"),
    [(0.7, 0.71, 0.8, None), (0.7, 0.9, 0.69, "7"), (0.7, 0.1, 0.2, None), (0.7, 0.7, 0.9, "7"), (0.4, 0.6, 0.6, "2")],
)
def test_shape_whose_halves_are_clearer_is_not_sure(whole, left, right, label):
    sevens = Image.new("L", (160, 120), 240)
    for line in ([(30, 25), (130, 25)], [(75, 25), (75, 95)], [(127, 25), (127, 95)]):
        ImageDraw.Draw(sevens).line(line, fill=20, width=7)
    found = inference.predict(_FixedModel(whole, left, right), sevens)
    assert found.label == label
    assert found.reason == (None if label else Reason.MAY_BE_TWO_DIGITS)
    assert found.probabilities == pytest.approx([1 - whole, whole])


def test_eight_is_one_digit(model):
    assert inference.predict(model, ellipses((60, 20, 95, 57), (55, 53, 100, 100))).best[0] == "8"


def test_predict_reads_the_first_frame_with_a_note(model, tmp_path):
    printed(7).save(tmp_path / "animation.gif", save_all=True, append_images=[printed(2)])
    found = inference.predict(model, tmp_path / "animation.gif")
    assert (found.best[0], found.note) == ("7", "only frame 1 was read")
    with Image.open(tmp_path / "animation.gif") as animation:
        assert inference.predict(model, animation) == found


@pytest.mark.parametrize("tone", [0, 255])
def test_predict_finds_no_digit_on_a_blank_page(model, tone):
    found = inference.predict(model, np.full((60, 80), tone, dtype=np.uint8))
    assert found.problem == str(found) == "no digit found"
    assert (found.label, list(found.probabilities), found.prepared) == (None, [], None)
    assert found.best == found.runner_up == ("", 0.0)


def test_predict_rejects_files_that_are_not_images(model, tmp_path):
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    for bad in (tmp_path / "text.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(ImageError, match=re.escape(str(bad))):
            inference.predict(model, bad)


def test_predict_names_classes_as_the_card_does(model):
    dataset = dataclasses.replace(model.card.dataset, classes=tuple(CLOTHES))
    other = dataclasses.replace(model, card=dataclasses.replace(model.card, dataset=dataset))
    digits, clothes = (inference.predict(known, printed(7)) for known in (model, other))
    assert clothes.label == CLOTHES[int(digits.label)] == "Sneaker"
    assert str(clothes).startswith("Sneaker (")
    assert clothes.runner_up[0] == CLOTHES[int(digits.runner_up[0])]


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10), st.floats(0, 1))
def test_prediction_ranks_the_classes(shares, threshold):
    """The label is the best class if its probability reaches the threshold."""
    found = Prediction(CLOTHES, shares, threshold)
    assert [found.best[1], found.runner_up[1]] == sorted(shares, reverse=True)[:2]
    assert found.best[0] != found.runner_up[0]
    for name, probability in (found.best, found.runner_up):
        assert shares[CLOTHES.index(name)] == probability
    assert found.best[0] == CLOTHES[int(np.argmax(shares))], "the first of equal probabilities"
    assert found.label == (found.best[0] if max(shares) >= threshold else None)
    assert found.best[0] in str(found)
    assert found.runner_up[0] in str(found)


# ---- Several files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_predict_files_keeps_the_order_and_yields_errors(model, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(inference, "IMAGES_PER_BATCH", batch)
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    for digit in (3, 4, 5, 7):
        printed(digit).save(tmp_path / f"{digit}.png")
    names = ["text", "3", "4", "blank", "missing", "5", "text", "blank", "7", "7", "missing"]
    paths = [tmp_path / f"{name}.png" for name in names]
    predictions = list(inference.predict_files(model, iter(paths)))
    assert len(predictions) == len(names)
    for name, path, prediction in zip(names, paths, predictions, strict=True):
        if name in ("text", "missing"):
            assert isinstance(prediction, ImageError)
            assert not isinstance(prediction, NoDigitError)
            assert str(path) in str(prediction)
        elif name == "blank":
            assert (prediction.label, prediction.problem) == (None, "no digit found")
        else:
            alone = inference.predict(model, path)
            assert prediction.label == alone.label == name
            assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_predict_files_reads_files_lazily(model, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "IMAGES_PER_BATCH", 2)
    monkeypatch.setattr(finding, "FILES_READ_AHEAD", 2)
    printed(7).save(tmp_path / "7.png")
    read = []

    def paths():
        for number in range(9):
            read.append(number)
            yield tmp_path / "7.png"

    next(inference.predict_files(model, paths()))
    assert len(read) <= 2 + 2


def test_predict_files_without_files_yields_nothing(model):
    assert list(inference.predict_files(model, [])) == []


# ---- Loading a model -------------------------------------------------------------------------------------------------


def test_load_returns_the_newest_model_that_passed(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    oldest, older, newer = (saved(trained, Path("models"), 0.5, NOON + timedelta(days=day)) for day in range(3))
    with pytest.warns(UserWarning, match=r"no model in models has passed the gate: .* has not been judged"):
        assert inference.load().path == newer
    write_decision(oldest, "ship", Path("reports/1"))
    # The three files have the same weights, so that one report is about all of them.
    assert inference.load().path == newer
    for path in (older, newer):
        torch.save({name: tensor + 1 for name, tensor in trained.model.state_dict().items()}, path)
        path.with_suffix(".json").unlink()
    with pytest.warns(UserWarning, match="is newer, but has not been judged"):
        assert inference.load(models_dir=tmp_path / "models").path == tmp_path / oldest
    assert inference.load(str(older)).path == inference.load(older).path == older


def test_load_replaces_the_threshold(model):
    digit = printed(3)
    confidence = inference.predict(model, digit).best[1]
    assert inference.predict(inference.load(model.path, min_confidence=confidence - 1e-6), digit).label == "3"
    assert inference.predict(inference.load(model.path, min_confidence=confidence + 1e-6), digit).label is None


@pytest.mark.parametrize("confidence", [2, -0.1, math.nan, math.inf])
def test_load_refuses_a_threshold_that_is_no_probability(model, confidence):
    with pytest.raises(ValueError, match=f"minimum confidence must be between 0 and 1, not {confidence}"):
        inference.load(model.path, min_confidence=confidence)


def test_load_without_a_model_says_how_to_train_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"there is no model in models \(train one: make train"):
        inference.load()
    with pytest.raises(ArtifactError, match=r"there is no model at missing\.pth"):
        inference.load("missing.pth")


# ---- The package's public functions ----------------------------------------------------------------------------------


def test_import_of_the_package_loads_no_heavy_modules():
    program = "import sys, mnist\nprint([name for name in ('torch', 'numpy', 'PIL', 'scipy') if name in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert finished.stdout == "[]\n"


def test_package_exports_its_functions_lazily():
    from mnist import Prediction as Same
    from mnist import load, predict

    assert (Same, load, predict) == (inference.Prediction, inference.load, inference.predict)
    assert set(package.__all__) == {"Prediction", "load", "predict", "predict_all"}


def test_package_has_no_other_attributes():
    with pytest.raises(AttributeError, match="module 'mnist' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from mnist import nothing  # noqa: F401


@pytest.fixture
def _example_folder(trained, tmp_path, monkeypatch):
    """Change to a folder with a model and a drawing of a seven."""
    monkeypatch.chdir(tmp_path)
    write_decision(saved(trained, Path("models"), 0.5), "ship")
    drawing = Image.new("RGB", (200, 200), (250, 245, 230))
    ImageDraw.Draw(drawing).line([(60, 45), (140, 45), (95, 160)], fill=(30, 40, 120), width=14, joint="curve")
    drawing.save("seven.png")


@pytest.mark.slow
@pytest.mark.usefixtures("_example_folder")
def test_docstring_examples_are_correct():
    names = ["mnist", *(module.name for module in pkgutil.walk_packages(package.__path__, "mnist."))]
    tried = {name: doctest.testmod(importlib.import_module(name)) for name in names if not name.endswith(".__main__")}
    assert [name for name, result in tried.items() if result.failed] == []
    assert tried["mnist"].attempted > 0
    assert tried["mnist.deploy.inference"].attempted > 3


@pytest.mark.usefixtures("_example_folder")
def test_readme_examples_are_correct():
    assert doctest.testfile(str(README), module_relative=False, encoding="utf-8").failed == 0


def test_crop_stretched_to_a_square_is_read_at_several_aspect_ratios(model):
    """Some data sets stretch each digit to a square. An image with a margin around the digit is not stretched."""
    page = printed(7)
    crop = page.crop(page.point(lambda grey: 255 * (grey < 128)).getbbox()).resize((16, 16), Image.Resampling.NEAREST)
    found = preparation.find_digit(preparation.to_picture(crop))
    views = [found.prepared, *found.narrower]
    assert [np.ptp(np.flatnonzero(view.any(0))) + 1 for view in views] == [20, *(20 * r for r in search.ASPECT_RATIOS)]
    expected = model.probabilities(np.stack(views)).mean(0)
    np.testing.assert_allclose(inference.predict(model, crop).probabilities, expected, atol=1e-6)
    with_margin = ImageOps.expand(crop, 2, fill=240)
    assert not preparation.find_digit(preparation.to_picture(with_margin)).narrower
