"""Test the examples in the way that a reader runs them."""

import importlib.util
import random
import re
import sys
from pathlib import Path

import pytest
from judged_models import write_decision
from samples import save_model

from mnist import datasets, preparation
from mnist.gate import performance
from mnist.storage import artifacts

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def printed_digits():
    """Import the example as a module."""
    spec = importlib.util.spec_from_file_location("printed_digits", EXAMPLES / "printed_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(printed_digits, trained, tmp_path, monkeypatch) -> Path:
    """Save a model in the working folder, and let the example draw few images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(printed_digits, "IMAGES_PER_FONT", 1)
    monkeypatch.setattr(printed_digits, "TRAIN_FONTS", printed_digits.TRAIN_FONTS[:6])
    monkeypatch.setattr(printed_digits, "TEST_FONTS", printed_digits.TEST_FONTS[:3])
    path = save_model(trained.model, Path("models"))
    write_decision(path, "ship")
    return path


@pytest.mark.slow
def test_printed_digits_improves_the_model(printed_digits, model, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["printed_digits.py", "--epochs", "20", "--no-gate", "--device", "cpu"])
    printed_digits.main()
    tuned = artifacts.newest(Path("models"))
    assert tuned != model
    assert artifacts.load(tuned).card.training.init.weights == model.name
    test = datasets.load_folder(Path("data/printed")).test
    assert test.description == f"{Path('data/printed/test')}, 30 images"
    before, after = (performance.evaluate(artifacts.load(path).model, test).accuracy for path in (model, tuned))
    assert after > before
    shown = capfd.readouterr().out
    # On Windows, the output of a child process is not UTF-8, so that rich draws tables with | and -.
    assert re.search(rf"starting from[ |]+{re.escape(model.name)}", shown)
    assert shown.splitlines()[-2:] == [
        f"before: {before:.1%} of {test.description}",
        f"after: {after:.1%} of {test.description}",
    ]


@pytest.mark.slow
def test_printed_digits_exits_with_the_code_of_training(printed_digits, model, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["printed_digits.py", "--recipe", "nope"])
    with pytest.raises(SystemExit, match="2"):
        printed_digits.main()
    assert "no recipe is called 'nope'" in capfd.readouterr().err
    assert artifacts.newest(Path("models")) == model


def test_draw_is_reproducible(printed_digits):
    for font in (*printed_digits.TRAIN_FONTS, *printed_digits.TEST_FONTS):
        one, same, other = (printed_digits.draw(4, font, random.Random(seed)) for seed in (0, 0, 1))
        assert one.tobytes() == same.tobytes() != other.tobytes()
        assert preparation.prepare(one).any()


def test_fonts_exist_and_are_in_one_part_only(printed_digits):
    train, test = printed_digits.TRAIN_FONTS, printed_digits.TEST_FONTS
    assert not set(train) & set(test)
    assert all((printed_digits.FONTS / f"{font}.ttf").is_file() for font in (*train, *test))
