import dataclasses
import doctest
import importlib
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
from PIL import Image, ImageDraw
from samples import save_model
from strategies import CLOTHES, printed

import mnist as package
from mnist import preparation
from mnist.deploy import inference
from mnist.deploy.inference import Prediction
from mnist.gate import measurement
from mnist.preparation import ImageError, NoDigitError
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact, ArtifactError

README = Path(__file__).parent.parent / "README.md"
NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)


def saved(run, folder: Path, threshold: float, now: datetime = NOON) -> Path:
    return save_model(run.model, folder, measured={"threshold": threshold}, now=now)


@pytest.fixture(scope="module")
def model(trained, subset, tmp_path_factory) -> Artifact:
    """A good model, with the threshold that training finds for it."""
    threshold = measurement.calibrate(trained.model, subset.train, seed=0)
    return artifacts.load(saved(trained, tmp_path_factory.mktemp("models"), threshold))


# ---- One image -------------------------------------------------------------------------------------------------------


def test_a_path_an_opened_image_and_an_array_are_the_same_image(model, tmp_path):
    path, image = tmp_path / "seven.png", printed(7).convert("RGB")
    image.save(path)
    expected = inference.predict(model, path)
    assert expected.label == "7"
    for same in (str(path), image, np.asarray(image), printed(7), np.asarray(printed(7))):
        found = inference.predict(model, same)
        assert found == expected
        assert np.array_equal(found.prepared, expected.prepared)
    assert np.array_equal(expected.prepared, preparation.prepare_file(path))


def test_it_says_what_the_network_says_of_the_prepared_image(model):
    found = inference.predict(model, printed(3, degrees=10))
    pixels = (found.prepared / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    logits = model.model(torch.from_numpy(pixels)[None, None])
    assert found.probabilities == pytest.approx(logits.softmax(1)[0].tolist(), abs=1e-5)
    assert sum(found.probabilities) == pytest.approx(1)


@pytest.fixture(scope="module")
def photographed(model, subset) -> tuple[np.ndarray, list[str], list[Prediction]]:
    """Of held-out digits: whether they are recognized as they are, what they are, and the answers to photos of them."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(subset.test), 150, replace=False)
    right = measurement.predict_split(model.model, subset.test).argmax(1) == subset.test.labels
    labels = [str(label) for label in subset.test.labels[chosen].tolist()]
    photos = [paper.photograph(digit, rng) for digit in subset.test.images[chosen, 0].numpy()]
    return right[chosen].numpy(), labels, [inference.predict(model, photo) for photo in photos]


def test_digits_on_photos_of_paper_are_recognized_about_as_well_as_the_originals(photographed):
    right, labels, answers = photographed
    still = [answer.best[0] == label for answer, label in zip(answers, labels, strict=True)]
    assert np.mean(right) > 0.9
    assert np.mean(still) > np.mean(right) - 0.05


def test_predict_is_less_confident_of_mistakes(model, photographed):
    _, labels, answers = photographed
    right = np.array([answer.best[0] == label for answer, label in zip(answers, labels, strict=True)])
    sure = np.array([answer.label is not None for answer in answers])
    confidence = np.array([answer.best[1] for answer in answers])
    assert model.threshold >= 0.5
    assert sure.mean() > 0.8
    assert not (~right).any() or confidence[~right].mean() < confidence[right].mean()
    for answer, is_sure in zip(answers, sure, strict=True):
        assert is_sure == (answer.best[1] >= model.threshold)
        assert answer.label == (answer.best[0] if is_sure else None)
        assert str(answer).startswith("not sure: ") == (not is_sure and not answer.problem)


@pytest.mark.parametrize("tone", [0, 255])
def test_on_a_blank_page_nothing_is_found_and_nothing_guessed(model, tone):
    found = inference.predict(model, np.full((60, 80), tone, dtype=np.uint8))
    assert found.problem == str(found) == "no digit found"
    assert (found.label, list(found.probabilities), found.prepared) == (None, [], None)
    assert found.best == found.runner_up == ("", 0.0)


def test_what_is_no_image_is_an_error_and_no_prediction(model, tmp_path):
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    for bad in (tmp_path / "text.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(ImageError, match=re.escape(str(bad))):
            inference.predict(model, bad)
    printed(1).save(tmp_path / "moving.gif", save_all=True, append_images=[printed(2)])
    with Image.open(tmp_path / "moving.gif") as moving, pytest.raises(ImageError, match="2 frames"):
        inference.predict(model, moving)


def test_classes_are_called_what_the_card_calls_them(model):
    dataset = dataclasses.replace(model.card.dataset, classes=tuple(CLOTHES))
    other = dataclasses.replace(model, card=dataclasses.replace(model.card, dataset=dataset))
    digits, clothes = (inference.predict(known, printed(7)) for known in (model, other))
    assert clothes.label == CLOTHES[int(digits.label)] == "Sneaker"
    assert str(clothes).startswith("Sneaker (")
    assert clothes.runner_up[0] == CLOTHES[int(digits.runner_up[0])]


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10), st.floats(0, 1))
def test_the_best_and_the_next_are_the_two_most_probable_and_the_label_is_the_best_if_it_is_enough(shares, threshold):
    found = Prediction(CLOTHES, shares, threshold)
    assert [found.best[1], found.runner_up[1]] == sorted(shares, reverse=True)[:2]
    assert found.best[0] != found.runner_up[0]
    for name, probability in (found.best, found.runner_up):
        assert shares[CLOTHES.index(name)] == probability
    assert found.best[0] == CLOTHES[int(np.argmax(shares))], "of equals the first, as everywhere else"
    assert found.label == (found.best[0] if max(shares) >= threshold else None)
    assert found.best[0] in str(found)
    assert found.runner_up[0] in str(found)


# ---- Many ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_answers_to_files_come_in_their_order_with_errors_in_their_places(model, tmp_path, monkeypatch, batch):
    monkeypatch.setattr(inference, "IMAGES_READ_AHEAD", batch)
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    for digit in (3, 4, 5, 7):
        printed(digit).save(tmp_path / f"{digit}.png")
    names = ["text", "3", "4", "blank", "missing", "5", "text", "blank", "7", "7", "missing"]
    paths = [tmp_path / f"{name}.png" for name in names]
    answers = list(inference.predict_files(model, iter(paths)))
    assert len(answers) == len(names)
    for name, path, answer in zip(names, paths, answers, strict=True):
        if name in ("text", "missing"):
            assert isinstance(answer, ImageError)
            assert not isinstance(answer, NoDigitError)
            assert str(path) in str(answer)
        elif name == "blank":
            assert (answer.label, answer.problem) == (None, "no digit found")
        else:
            alone = inference.predict(model, path)
            assert answer.label == alone.label == name
            assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_files_are_read_as_answers_are_asked_for(model, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "IMAGES_READ_AHEAD", 2)
    printed(7).save(tmp_path / "7.png")
    read = []

    def paths():
        for number in range(5):
            read.append(number)
            yield tmp_path / "7.png"

    next(inference.predict_files(model, paths()))
    assert read == [0, 1]


def test_of_no_files_there_are_no_answers(model):
    assert list(inference.predict_files(model, [])) == []


# ---- The model -------------------------------------------------------------------------------------------------------


def test_the_model_that_is_loaded_is_the_newest_unless_another_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    older, newer = (saved(trained, Path("models"), 0.5, NOON + timedelta(days=day)) for day in (0, 1))
    assert inference.load().path == newer
    assert inference.load(models_dir=tmp_path / "models").path == tmp_path / newer
    assert inference.load(str(older)).path == inference.load(older).path == older


def test_where_there_is_no_model_that_is_said_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"there is no model in models \(train one: make train"):
        inference.load()
    with pytest.raises(ArtifactError, match=r"there is no model at missing\.pth"):
        inference.load("missing.pth")


# ---- The package -----------------------------------------------------------------------------------------------------


def test_importing_the_package_costs_next_to_nothing():
    program = "import sys, mnist\nprint([name for name in ('torch', 'numpy', 'PIL', 'scipy') if name in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert finished.stdout == "[]\n"


def test_what_the_package_offers_comes_when_it_is_asked_for():
    from mnist import Prediction as Same
    from mnist import load, predict

    assert (Same, load, predict) == (inference.Prediction, inference.load, inference.predict)
    assert set(package.__all__) == {"Prediction", "load", "predict"}


def test_the_package_has_nothing_else():
    with pytest.raises(AttributeError, match="module 'mnist' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from mnist import nothing  # noqa: F401


@pytest.fixture
def _at_home(trained, tmp_path, monkeypatch):
    """In a folder with a model, and a drawing of a seven."""
    monkeypatch.chdir(tmp_path)
    saved(trained, Path("models"), 0.5)
    drawing = Image.new("RGB", (200, 200), (250, 245, 230))
    ImageDraw.Draw(drawing).line([(60, 45), (140, 45), (95, 160)], fill=(30, 40, 120), width=14, joint="curve")
    drawing.save("seven.png")


@pytest.mark.usefixtures("_at_home")
def test_the_examples_in_docstrings_are_true():
    names = ["mnist", *(module.name for module in pkgutil.walk_packages(package.__path__, "mnist."))]
    tried = {name: doctest.testmod(importlib.import_module(name)) for name in names if not name.endswith(".__main__")}
    assert [name for name, result in tried.items() if result.failed] == []
    assert tried["mnist"].attempted > 0
    assert tried["mnist.deploy.inference"].attempted > 3


@pytest.mark.usefixtures("_at_home")
def test_the_python_examples_in_the_readme_are_true():
    assert doctest.testfile(str(README), module_relative=False, encoding="utf-8").failed == 0
