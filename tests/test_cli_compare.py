import json

import foreign
import pytest
import torch
from commands import assert_one_clear_line
from PIL import Image
from samples import save_model

from mnist.gate import intervals, performance
from mnist.storage import artifacts


@pytest.fixture
def linear(subset, tmp_path):
    path = tmp_path / "linear.onnx"
    path.write_bytes(foreign.classifier(foreign.linear_weights(subset.train)))
    return path


def test_compare_shows_paired_differences(mnist, model, linear, subset, trained, tmp_path):
    finished = mnist("compare", linear, model, "--json")
    assert finished.code == 0
    found = {each["name"]: each for each in json.loads(finished.out)["figures"]}
    labels = subset.test.labels
    now = performance.predict_split(trained.model, subset.test).argmax(1) == labels
    weights, bias = map(torch.from_numpy, foreign.linear_weights(subset.train))
    before = (subset.test.images.flatten(1).float() / 255 @ weights + bias).argmax(1) == labels
    for name, chosen in {"accuracy": labels >= 0, "digit 7": labels == 7}.items():
        gained, lost = int((now & ~before)[chosen].sum()), int((before & ~now)[chosen].sum())
        expected = intervals.paired_difference(gained, lost, int(chosen.sum()))
        assert found[name]["difference"] == {"value": expected.value, "low": expected.low, "high": expected.high}
        assert found[name]["new"] == pytest.approx(now[chosen].double().mean().item())
    assert found["parameters"]["baseline"] == 7850
    assert found["size on disk"]["baseline"] == linear.stat().st_size / 1000


@pytest.mark.slow
def test_compare_draws_the_images_on_which_they_differ(mnist, model, linear, tmp_path):
    finished = mnist("compare", linear, model)
    assert finished.code == 0
    assert "of 1,000 images: " in finished.out
    with Image.open(tmp_path / "figures" / "differences.png") as picture:
        assert picture.width > 500
    assert not (tmp_path / "reports" / model.stem).exists(), "a comparison is no judgement"


@pytest.mark.slow
def test_compare_with_itself_finds_no_difference(mnist, model, tmp_path):
    finished = mnist("compare", model, model)
    assert finished.code == 0
    assert finished.out.splitlines()[-1] == "the models predict the same digit for all 1,000 images"
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
def test_compare_overlays_the_learning_curves(mnist, trained, model, tmp_path):
    assert f"no learning curves: there is no training log of {model}" in mnist("compare", model, model).out
    logged = save_model(trained.model, tmp_path / "logged", log=trained.log)
    finished = mnist("compare", logged, logged, "--dataset", "subset", "--curves", "curves.png")
    assert "\nlearning curves: curves.png\n" in finished.out
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 500


def test_compare_refuses_bad_input_in_one_line(mnist, model):
    assert_one_clear_line(mnist("compare", model, "missing.onnx"), "there is no model at missing.onnx")
    assert_one_clear_line(mnist("compare", "missing.pth", model), "there is no model at missing.pth")
    assert_one_clear_line(mnist("compare", model, model, "--output", "x.jpg"), "--output must end in .png")


@pytest.mark.slow
def test_gate_takes_the_architecture_of_foreign_weights(mnist, trained, tmp_path):
    state = {f"layer{number}": tensor for number, tensor in enumerate(trained.model.state_dict().values())}
    torch.save(state, tmp_path / "foreign.pth")
    assert_one_clear_line(mnist("gate", "foreign.pth", "--dataset", "subset"), "--architecture")
    finished = mnist("gate", "foreign.pth", "--dataset", "subset", "--architecture", "cnn")
    assert finished.code == 0
    assert "matched the weights with those of cnn" in finished.err


@pytest.mark.slow
def test_gate_compares_with_an_onnx_baseline(mnist, model, linear, tmp_path):
    finished = mnist("gate", model, "--baseline", linear)
    assert finished.code == 0
    assert f"Compared with {linear}: " in finished.out
    written = (tmp_path / "reports" / model.stem / "report.json").read_text(encoding="utf-8")
    assert json.loads(written)["comparison"]["previous"] == str(linear)
    assert artifacts.load(model).card is not None


@pytest.mark.slow
def test_compare_says_that_a_model_cannot_be_compared(mnist, model, tmp_path):
    state = artifacts.load(model).model.state_dict()
    torch.save({name: tensor * float("nan") for name, tensor in state.items()}, tmp_path / "nan.pth")
    finished = mnist("compare", model, "nan.pth", "--dataset", "subset")
    assert finished.code == 0
    assert finished.out.splitlines()[-1].startswith("the predictions cannot be compared")
    assert not (tmp_path / "figures").exists()
