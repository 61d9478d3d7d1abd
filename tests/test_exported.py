"""Test predictions with ONNX files that `mnist export` wrote, without PyTorch."""

import configparser
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import foreign
import numpy as np
import onnx
import pytest
from commands import assert_one_clear_line
from packaging.requirements import Requirement
from PIL import Image, ImageDraw
from samples import save_model
from strategies import CLOTHES, printed

from mnist.confidence import UNCALIBRATED_THRESHOLD
from mnist.deploy import export, exported, inference
from mnist.deploy.exported import ExportedModelError
from mnist.preparation import ImageError
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

CHECKOUT = Path(__file__).parent.parent
REQUIREMENTS = CHECKOUT / "requirements-predict.txt"


def write_both(artifact: Artifact) -> Path:
    """Write the ONNX file of a model beside its weights."""
    path = artifact.path.with_suffix(".onnx")
    path.write_bytes(export.to_onnx(artifact))
    return path


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory) -> Path:
    """Save a model, and its ONNX file beside it; return the path of the weights."""
    folder = tmp_path_factory.mktemp("models")
    path = save_model(
        trained.model, folder, measured={"threshold": 0.75}, dataset={"name": "x", "train": "x, 9 images"}
    )
    write_both(artifacts.load(path))
    return path


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Write images of one digit, of several, of none, and a file that is no image."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for digit in range(10):
        printed(digit, degrees=3 * digit).save(folder / f"{digit}.png")
    printed(7).save(folder / "animation.gif", save_all=True, append_images=[printed(2)])
    sheet = Image.new("L", (200, 64), 240)
    sheet.paste(printed(3), (0, 0))
    sheet.paste(printed(7), (120, 0))
    sheet.save(folder / "sheet.png")
    pair = Image.new("L", (160, 120), 240)
    for left in (30, 68):
        ImageDraw.Draw(pair).ellipse((left, 20, left + 40, 90), outline=20, width=7)
    pair.save(folder / "pair.png")
    Image.new("L", (50, 50), 255).save(folder / "blank.png")
    (folder / "text.png").write_text("no image", encoding="utf-8")
    return folder


PROBABILITIES = ("confidence", "runner_up_confidence", "probabilities")


def without_probabilities(lines: str) -> list[dict]:
    """Return the objects that `predict --json` prints, without their probabilities."""
    return [
        {name: value for name, value in json.loads(line).items() if name not in PROBABILITIES}
        for line in lines.splitlines()
    ]


def probabilities(lines: str) -> np.ndarray:
    """Return the probabilities in the objects that `predict --json` prints, [N, 12]."""
    found = [json.loads(line) for line in lines.splitlines()]
    rows = [[*each["probabilities"].values(), each["confidence"], each["runner_up_confidence"]] for each in found]
    return np.array([row for row in rows if len(row) > 2])


# ---- The same predictions --------------------------------------------------------------------------------------------


def test_predictions_are_those_of_pytorch(weights, pictures):
    light, complete = inference.load(weights.with_suffix(".onnx")), inference.load(weights)
    assert (light.classes, light.threshold, light.training_data) == (complete.classes, 0.75, "x, 9 images")
    paths = sorted(pictures.iterdir())
    for found, expected in zip(
        inference.predict_all_in_files(light, paths), inference.predict_all_in_files(complete, paths), strict=True
    ):
        if isinstance(expected, ImageError):
            assert str(found) == str(expected)
            continue
        for one, other in zip(found, expected, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
            assert (one.label, one.problem, one.reason, one.box, one.note, one.classes, one.threshold) == (
                *(other.label, other.problem, other.reason, other.box, other.note, other.classes, other.threshold),
            )


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--split",), ("--min-confidence", "0.99999")])
def test_command_prints_the_same_with_both_files(mnist, weights, pictures, options):
    light, complete = (
        mnist("predict", pictures, "--model", path, "--json", *options)
        for path in (weights.with_suffix(".onnx"), weights)
    )
    assert light.code == complete.code == 2, "one file is no image"
    assert light.err.replace(".onnx", ".pth").splitlines()[:-1] == complete.err.splitlines()[:-1]
    assert without_probabilities(light.out) == without_probabilities(complete.out)
    assert probabilities(light.out) == pytest.approx(probabilities(complete.out), abs=1e-5)
    assert len(probabilities(light.out)) > 10


def test_many_images_are_predicted_in_parts(weights, subset, monkeypatch):
    images = subset.test.images[:50, 0].numpy()
    light, complete = exported.load(weights.with_suffix(".onnx")), artifacts.load(weights)
    monkeypatch.setattr(exported, "IMAGES_PER_RUN", 7)
    assert light.probabilities(images) == pytest.approx(complete.probabilities(images), abs=1e-5)
    assert light.probabilities(images[:0]).shape == (0, 10)


def test_show_draws_the_inputs(mnist, weights, pictures, tmp_path):
    finished = mnist("predict", pictures / "7.png", "--model", weights.with_suffix(".onnx"), "--show", "inputs.png")
    assert (finished.code, (tmp_path / "inputs.png").exists()) == (0, True)


def test_model_without_card_has_the_general_threshold(mnist, weights, tmp_path, pictures):
    bare = tmp_path / "bare.pth"
    bare.write_bytes(weights.read_bytes())
    path = write_both(artifacts.load(bare))
    assert inference.load(path).threshold == inference.load(bare).threshold == UNCALIBRATED_THRESHOLD
    err = mnist("predict", pictures / "7.png", "--model", path).err
    assert "trained on unknown data (the model has no card)" in err


def test_other_classes_are_named_with_a_warning(mnist, trained, tmp_path, pictures):
    dataset = {"name": "fashion-mnist", "train": "clothes", "classes": CLOTHES}
    path = write_both(artifacts.load(save_model(trained.model, tmp_path, dataset=dataset, measured={"threshold": 0})))
    finished = mnist("predict", pictures / "7.png", "--model", path)
    assert "WARNING: the classes are not digits but T-shirt/top, Trouser" in finished.err
    assert ": Sneaker (" in finished.out


@pytest.mark.parametrize("value", [2, float("nan")])
def test_load_refuses_a_threshold_that_is_no_probability(weights, value):
    with pytest.raises(ValueError, match="minimum confidence must be between 0 and 1"):
        inference.load(weights.with_suffix(".onnx"), min_confidence=value)


# ---- Files that cannot be used ---------------------------------------------------------------------------------------


def changed(content: bytes, *, rename: tuple[str, str] = ("", ""), batch: int | None = None, **metadata) -> bytes:
    """Return an ONNX file with another name of a value, a fixed batch, or other metadata; None removes them."""
    model = onnx.load_model_from_string(content)
    kept = {each.key: each.value for each in model.metadata_props} | metadata
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in kept.items() if value is not None})
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [rename[1] if name == rename[0] else name for name in names]
    for value in (*model.graph.input, *model.graph.output):
        value.name = rename[1] if value.name == rename[0] else value.name
    if batch:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return model.SerializeToString()


def card(threshold: object = 0.5, train: object = "data") -> str:
    return json.dumps({"measured": {"threshold": threshold}, "dataset": {"train": train}})


BAD = {
    "empty": (lambda content: b"", "is not an ONNX file, or is damaged"),
    "text": (lambda content: b"no model", "is not an ONNX file, or is damaged"),
    "truncated": (lambda content: content[: len(content) // 2], "is not an ONNX file, or is damaged"),
    "operator that is not UTF-8": (lambda content: content.replace(b"Softmax", b"Softm\xffx"), "is not an ONNX file"),
    "other program": (
        lambda content: foreign.classifier((np.zeros((784, 10), np.float32), np.zeros(10, np.float32))),
        r"not .* mnist export wrote: its inputs are .*mnist gate and mnist compare",
    ),
    "other input": (lambda content: changed(content, rename=("images", "image")), "its inputs are .*'image'"),
    "other output": (lambda content: changed(content, rename=("probabilities", "p")), "its outputs are .*'p'"),
    "fixed batch": (lambda content: changed(content, batch=1), r"its inputs are .*\(1, 1, 28, 28\)"),
    "no classes": (lambda content: changed(content, classes=None), "no metadata entry 'classes'"),
    "nine classes": (lambda content: changed(content, classes=json.dumps(["a"] * 9)), "is not a list of 10 names"),
    "classes of numbers": (lambda content: changed(content, classes=json.dumps([1] * 10)), "is not a list of 10 names"),
    "classes of text": (lambda content: changed(content, classes="digits"), "mnist export wrote"),
    "nested classes": (lambda content: changed(content, classes="[" * 100_000), "mnist export wrote"),
    "card of text": (lambda content: changed(content, card="card"), "mnist export wrote"),
    "card of a list": (lambda content: changed(content, card="[]"), "'card' is not a model card"),
    "empty card": (lambda content: changed(content, card="{}"), "'card' is not a model card"),
    "high threshold": (lambda content: changed(content, card=card(1.5)), "must be between 0 and 1, not 1.5"),
    "threshold NaN": (lambda content: changed(content, card=card(float("nan"))), "must be between 0 and 1, not nan"),
    "threshold of text": (lambda content: changed(content, card=card("high")), "a value of the wrong type"),
    "threshold null": (lambda content: changed(content, card=card(None)), "a value of the wrong type"),
    "data of a number": (lambda content: changed(content, card=card(train=7)), "a value of the wrong type"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_in_one_line(weights, tmp_path, capfd, name):
    make, complaint = BAD[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make(weights.with_suffix(".onnx").read_bytes()))
    with pytest.raises(ExportedModelError, match=complaint) as error:
        inference.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_missing_and_large_files_are_refused(mnist, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "MAX_ONNX_BYTES", 10)
    (tmp_path / "large.onnx").write_bytes(bytes(11))
    (tmp_path / "folder.onnx").mkdir()
    for name, complaint in (("missing", "there is no model"), ("large", "11 bytes"), ("folder", "is a folder")):
        assert_one_clear_line(mnist("predict", "pictures", "--model", f"{name}.onnx"), f"{name}.onnx", complaint)


def test_output_that_is_no_probability_is_refused(weights, pictures, tmp_path):
    model = onnx.load(weights.with_suffix(".onnx"))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Identity"
    del softmax.attribute[:]
    onnx.save(model, tmp_path / "logits.onnx")
    with pytest.raises(ExportedModelError, match="the outputs are not probabilities that sum to 1"):
        inference.predict(inference.load(tmp_path / "logits.onnx"), pictures / "7.png")


@pytest.mark.parametrize(("scale", "shift"), [(2, 0), (3, -0.2), (0, 1), (np.nan, 0), (0, 0)])
def test_changed_probabilities_are_refused(weights, pictures, tmp_path, scale, shift):
    """With (3, -0.2), the outputs sum to 1, but some are negative."""
    model = onnx.load(weights.with_suffix(".onnx"))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.output[0] = "original"
    constants = {"scale": scale, "shift": shift}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.float32(constants[name]), name) for name in constants
    )
    model.graph.node.append(onnx.helper.make_node("Mul", ["original", "scale"], ["scaled"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["scaled", "shift"], ["probabilities"]))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ExportedModelError, match="the outputs are not probabilities that sum to 1"):
        inference.predict(inference.load(tmp_path / "changed.onnx"), pictures / "7.png")


def test_missing_runtime_is_named(mnist, weights, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finished = mnist("predict", pictures / "7.png", "--model", weights.with_suffix(".onnx"))
    assert_one_clear_line(finished, "an ONNX file needs the package onnxruntime (python -m pip install onnxruntime)")


# ---- Without PyTorch -------------------------------------------------------------------------------------------------


def requirements(lines: str) -> dict[str, str]:
    """Return the version specifier of each required package."""
    words = [line.split("#")[0].split(";")[0].split() for line in lines.splitlines()]
    return {name: " ".join(rest) for name, *rest in filter(None, words)}


def test_requirements_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    known = requirements(setup["options"]["install_requires"]) | requirements(setup["options.extras_require"]["export"])
    wanted = requirements(REQUIREMENTS.read_text(encoding="utf-8"))
    assert wanted == {name: known[name] for name in wanted}
    assert not {"torch", "torchvision", "onnx"} & set(wanted)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_by(names: list[str]) -> set[str]:
    """Return the normalized names of packages and of all that they require on this platform, without extras."""
    waiting, found = list(names), set()
    while waiting:
        name = normalized(waiting.pop())
        if name not in found:
            found.add(name)
            required = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


RESTRICTED = """
import sys
blocked = sys.argv.pop(1).split(",")

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(scope="module")
def run_restricted():
    """Return a function that runs a program which finds only the packages in requirements-predict.txt."""
    found = installed_by(list(requirements(REQUIREMENTS.read_text(encoding="utf-8"))))
    blocked = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if module != "mnist" and not found & {normalized(owner) for owner in owners}
    ]
    assert {"torch", "torchvision", "matplotlib", "psutil"} <= set(blocked)

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", RESTRICTED + program, ",".join(blocked), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"})

    return run


@pytest.mark.slow
def test_command_needs_only_the_listed_packages(mnist, weights, pictures, run_restricted):
    arguments = ["predict", "pictures", "--split", "--json", "--model", weights.with_suffix(".onnx")]
    light, complete = run_restricted("from mnist.cli import main; main()", *arguments), mnist(*arguments)
    assert light.returncode == complete.code == 2
    assert without_probabilities(light.stdout) == without_probabilities(complete.out)
    assert probabilities(light.stdout) == pytest.approx(probabilities(complete.out), abs=1e-5)


def test_functions_need_only_the_listed_packages(weights, pictures, run_restricted):
    program = "import mnist; print(mnist.predict(mnist.load(sys.argv[1], min_confidence=0), sys.argv[2]).label)"
    found = run_restricted(program, weights.with_suffix(".onnx"), pictures / "7.png")
    assert (found.stdout, found.stderr) == ("7\n", "")


COMMANDS = """
from mnist.cli import main
for arguments in sys.argv[1:]:
    try:
        main(arguments.split())
    except SystemExit as exited:
        print(exited.code, end=" ")
"""


def test_other_commands_say_what_is_missing(run_restricted, weights, pictures):
    needs_torch = [
        "predict x.png",
        "train",
        "gate",
        "compare a b",
        "models",
        "export",
        "demo",
        "data",
        "augment",
        "verify",
    ]
    finished = run_restricted(COMMANDS, *needs_torch, f"predict x.png --show --model {weights.with_suffix('.onnx')}")
    assert finished.stdout.split() == ["2"] * (len(needs_torch) + 1)
    *errors, last = finished.stderr.splitlines()
    assert {error.partition(";")[0] for error in errors} == {"error: PyTorch is not installed"}
    assert len(errors) == len(needs_torch)
    assert last == "error: --show needs the package matplotlib (python -m pip install matplotlib)"


def test_prediction_imports_no_slow_modules(weights, pictures):
    """Each takes as long to import as the prediction takes, or longer."""
    program = """
import sys
from mnist.cli import main
try:
    main()
except SystemExit:
    slow = {"torch", "rich", "psutil", "mnist.storage", "mnist.cli.train", "PIL.PdfImagePlugin"}
    print(sorted(slow & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, "predict", pictures / "7.png", "--model", weights.with_suffix(".onnx")]
    finished = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert finished.stdout.splitlines()[-1] == "[]"
