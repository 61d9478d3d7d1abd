import contextlib
import dataclasses
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from samples import save_model
from strategies import generator

from mnist import architecture, datasets, recipes, runs
from mnist.runs import Settings, TrainingCallbacks
from mnist.storage import artifacts
from mnist.storage.card import DatasetInfo, NegativesInfo

README = Path(__file__).parent.parent / "README.md"
QUICK = Settings(dataset="subset", overrides={"epochs": 0.5, "seed": 5}, device="cpu")
VALIDATED = dataclasses.replace(QUICK, validation=800)


@contextlib.contextmanager
def stop_after(steps: int):
    """Ask the run to stop after that number of steps."""
    calls = []
    yield TrainingCallbacks(stop=lambda: calls.append(None) or len(calls) == steps)


def state(path: Path) -> dict[str, torch.Tensor]:
    return artifacts.load(path).model.state_dict()


def test_train_saves_what_it_returns(tmp_path):
    reports, contexts = [], []

    @contextlib.contextmanager
    def callbacks(group):
        contexts.append(group.rank)
        yield TrainingCallbacks(report=reports.append)

    result = runs.train(QUICK, callbacks=callbacks)
    card = artifacts.load(result.path).card
    assert result.path.parent == Path("models")
    assert (card.recipe, card.measured) == (result.recipe, result.performance)
    assert (card.training.images, card.training.seconds) == (result.usage.images, result.usage.seconds)
    assert result.recipe.seed == 5
    assert all(torch.equal(tensor, result.model.state_dict()[name]) for name, tensor in state(result.path).items())
    assert reports[-1].step == reports[-1].steps == 32
    assert contexts == [0]
    assert list(Path("checkpoints").iterdir()) == []


@pytest.mark.slow
def test_train_resumes_a_stopped_run_to_the_same_weights(tmp_path):
    complete = state(runs.train(QUICK).path)
    with pytest.raises(runs.RunInterrupted, match="interrupted after 20 of 32 steps; saved in checkpoints"):
        runs.train(QUICK, callbacks=lambda group: stop_after(20))
    lines = []
    resuming = Settings(dataset="subset", overrides={"seed": 5}, device="cpu", resume=True)
    result = runs.train(resuming, notify=lines.append)
    assert lines == []
    assert artifacts.load(result.path).card.training.resumed == 1
    assert all(torch.equal(tensor, complete[name]) for name, tensor in state(result.path).items())


def test_train_scales_the_epochs_to_the_size_of_the_data(monkeypatch):
    monkeypatch.setattr(recipes, "MNIST_TRAINING_IMAGES", 1000)
    result = runs.train(Settings(recipe="baseline", dataset="subset", device="cpu"))
    assert result.recipe.epochs == 0.25
    assert result.usage.images == 1000


def test_train_with_validation_keeps_the_test_images_out(subset, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda *arguments, **options: dataclasses.replace(subset, test=None))
    result = runs.train(VALIDATED)
    card = artifacts.load(result.path).card
    parts = subset.with_validation(800)
    assert card.dataset == DatasetInfo.of(parts)
    assert card.dataset.validation == 800
    assert card.measured.images == 800
    assert card.measured.measured_on == parts.test.description
    assert card.training.images == 1600
    assert result.dataset.fingerprint == parts.fingerprint


def test_train_with_validation_keeps_the_number_of_epochs(monkeypatch):
    monkeypatch.setattr(recipes, "MNIST_TRAINING_IMAGES", 1000)
    result = runs.train(Settings(recipe="baseline", dataset="subset", device="cpu", validation=800))
    assert result.recipe.epochs == 0.25
    assert result.usage.images == 800


@pytest.mark.slow
@pytest.mark.parametrize("validation", [0, 800])
def test_train_resumes_with_the_same_validation_part(validation):
    complete = runs.train(VALIDATED)
    with pytest.raises(runs.RunInterrupted):
        runs.train(VALIDATED, callbacks=lambda group: stop_after(20))
    resuming = Settings(dataset="subset", device="cpu", resume=True, validation=validation)
    resumed = runs.train(resuming)
    card = artifacts.load(resumed.path).card
    assert (card.training.resumed, card.dataset) == (1, artifacts.load(complete.path).card.dataset)
    assert all(torch.equal(tensor, state(complete.path)[name]) for name, tensor in state(resumed.path).items())


@pytest.mark.slow
@pytest.mark.parametrize(("interrupted", "wanted"), [(800, 400), (0, 400)])
def test_train_does_not_resume_with_another_validation_part(interrupted, wanted):
    with pytest.raises(runs.RunInterrupted):
        runs.train(dataclasses.replace(QUICK, validation=interrupted), callbacks=lambda group: stop_after(20))
    lines = []
    result = runs.train(dataclasses.replace(QUICK, validation=wanted, resume=True), notify=lines.append)
    assert lines == ["no interrupted run with these settings is in checkpoints: starting a new one"]
    card = artifacts.load(result.path).card
    assert (card.training.resumed, card.dataset.validation) == (0, wanted)


@pytest.fixture
def letters(tmp_path) -> Path:
    """Return a folder with pictures of letters."""
    folder = tmp_path / "letters"
    folder.mkdir()
    for name in "AEH":
        image = Image.new("L", (64, 64), 255)
        ImageDraw.Draw(image).text((18, 10), name, font_size=44, fill=0)
        image.save(folder / f"{name}.png")
    return folder


@pytest.mark.slow
def test_train_records_negatives_and_resumes_with_them(letters):
    chosen = dataclasses.replace(QUICK, negatives=str(letters))
    complete = runs.train(chosen)
    expected = datasets.load_negatives(str(letters), Path("data"))
    recorded = artifacts.load(complete.path).card.dataset.negatives
    assert recorded == NegativesInfo(str(letters), f"{letters}, 3 images", expected.fingerprint)
    assert not all(
        torch.equal(tensor, state(complete.path)[name]) for name, tensor in state(runs.train(QUICK).path).items()
    )
    with pytest.raises(runs.RunInterrupted):
        runs.train(chosen, callbacks=lambda group: stop_after(20))
    resumed = runs.train(dataclasses.replace(QUICK, resume=True))
    assert artifacts.load(resumed.path).card.training.resumed == 1
    assert all(torch.equal(tensor, state(complete.path)[name]) for name, tensor in state(resumed.path).items())


@pytest.mark.slow
def test_train_does_not_resume_with_other_negatives(letters, tmp_path):
    with pytest.raises(runs.RunInterrupted):
        runs.train(dataclasses.replace(QUICK, negatives=str(letters)), callbacks=lambda group: stop_after(20))
    other = shutil.copytree(letters, tmp_path / "other")
    for negatives, resumed in ((str(other), 0), (f"{letters}{os.sep}", 1)):
        result = runs.train(dataclasses.replace(QUICK, negatives=negatives, resume=True))
        assert artifacts.load(result.path).card.training.resumed == resumed


@pytest.mark.slow
def test_train_resumes_only_with_the_same_recipe_file(tmp_path):
    path = tmp_path / "mine.toml"
    chosen = dataclasses.replace(QUICK, recipe=str(path), resume=True)
    path.write_text("learning_rate = 0.01", encoding="utf-8")
    with pytest.raises(runs.RunInterrupted):
        runs.train(chosen, callbacks=lambda group: stop_after(20))
    for learning_rate, resumed in ((0.002, 0), (0.01, 1)):
        path.write_text(f"learning_rate = {learning_rate}", encoding="utf-8")
        card = artifacts.load(runs.train(chosen).path).card
        assert (card.recipe.learning_rate, card.training.resumed) == (learning_rate, resumed)


@pytest.mark.slow
def test_train_resumes_only_with_the_same_initial_model(tmp_path):
    initial, other = (
        save_model(architecture.build("cnn", generator(seed)), tmp_path / name) for seed, name in ((0, "a"), (1, "b"))
    )
    with pytest.raises(runs.RunInterrupted):
        runs.train(dataclasses.replace(QUICK, init=initial), callbacks=lambda group: stop_after(20))
    for init, resumed in ((other, 0), (initial, 1)):
        result = runs.train(dataclasses.replace(QUICK, init=init, resume=True))
        assert artifacts.load(result.path).card.training.resumed == resumed


def test_train_does_not_resume_with_changed_negatives(letters):
    chosen = dataclasses.replace(QUICK, negatives=str(letters))
    with pytest.raises(runs.RunInterrupted):
        runs.train(chosen, callbacks=lambda group: stop_after(20))
    (letters / "A.png").unlink()
    with pytest.raises(runs.RunError, match="the data has changed since the run was interrupted"):
        runs.train(dataclasses.replace(QUICK, resume=True))


def test_train_refuses_an_unwritable_folder_before_it_loads_data(tmp_path):
    Path("models").write_text("a file", encoding="utf-8")
    lines = []
    with pytest.raises(FileExistsError):
        runs.train(QUICK, notify=lines.append)
    assert lines == []


@pytest.mark.slow
def test_readme_example_trains_a_model(capsys):
    (snippet,) = re.findall(r"```python\n(from mnist import runs.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(snippet, {})
    path, accuracy = capsys.readouterr().out.split()
    assert artifacts.load(Path(path)).card.recipe.name == "fast"
    assert float(accuracy.removesuffix("%")) > 80
