import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import generator, generators, uint8_images
from torch import nn

from mnist import architecture, transforms
from mnist.architecture import ARCHITECTURES, CNN, Classifier
from mnist.deploy import export
from mnist.deploy.export import ExportError
from mnist.deploy.layers import LayerError
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

CHECKOUT = Path(__file__).parent.parent

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def model_of(name: str) -> Classifier:
    """A network in evaluation mode, whose batch norms have seen something (and have scales of either sign)."""
    model = architecture.build(name, generator(0)).eval()
    g = generator(1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.running_mean, layer.weight, layer.bias):
                    tensor.copy_(torch.randn(tensor.shape, generator=g))
                layer.running_var.copy_(0.5 + torch.rand(layer.running_var.shape, generator=g))
    return model


def artifact_of(model: Classifier, folder: Path) -> Artifact:
    """A model without a card."""
    path = folder / "model.pth"
    path.write_bytes(b"the weights")
    return Artifact(path, path.stat().st_size, "0" * 64, "network", model, None)


def noise(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator(count))


def answers(content: bytes, images: torch.Tensor) -> list[np.ndarray]:
    """What the file answers, as a program would ask that has nothing but ONNX Runtime."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> dict[str, tuple[Classifier, bytes]]:
    """Of every architecture a network and its file."""
    folder = tmp_path_factory.mktemp("exported")
    models = {name: model_of(name) for name in ARCHITECTURES}
    return {name: (model, export.to_onnx(artifact_of(model, folder))) for name, model in models.items()}


@pytest.fixture
def cnn(exported) -> tuple[Classifier, bytes]:
    return exported["cnn"]


@pytest.fixture(scope="session")
def carded(tmp_path_factory) -> Artifact:
    """A model with a card."""
    path = artifacts.save(
        model_of("compact-1k"),
        tmp_path_factory.mktemp("models"),
        recipe={"architecture": "compact-1k", "seed": 3},
        dataset={"name": "Ziffern für alle"},
        training={},
        measured={"accuracy": 0.1 + 0.2},
    )
    return artifacts.load(path)


# ---- The same function -----------------------------------------------------------------------------------------------


@every_architecture
@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_the_file_answers_as_the_model_does_for_any_number_of_images(exported, name, count):
    model, content = exported[name]
    images = noise(count)
    probabilities, digit = answers(content, images)
    with torch.inference_mode():
        logits = model(transforms.prepare(images))
    assert probabilities.dtype == np.float32
    assert digit.dtype == np.int64
    assert probabilities.shape == (count, 10)
    assert digit.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(probabilities, logits.softmax(1).numpy(), rtol=0, atol=1e-5)


@every_architecture
@settings(max_examples=10)
@given(uint8_images(min_batch=1))
def test_they_agree_on_blank_and_white_images_and_strokes(exported, name, images):
    model, content = exported[name]
    agreement = export.check(content, model, images)
    assert agreement.images == agreement.same_digit == len(images)
    assert agreement.difference <= 1e-5


def test_a_trained_model_and_its_file_agree_on_every_held_out_image(trained, subset, tmp_path):
    content = export.to_onnx(artifact_of(trained.model, tmp_path))
    agreement = export.check(content, trained.model, subset.test.images)
    assert agreement.images == agreement.same_digit == len(subset.test)
    assert agreement.difference <= 1e-5
    right = torch.from_numpy(answers(content, subset.test.images)[1]) == subset.test.labels
    assert right.float().mean() > 0.9, "the images are prepared in the file"


class Stack(Classifier):
    """Any layers, then a linear one, that fits."""

    def __init__(self, shifts, layers) -> None:
        super().__init__()
        self.shifts, self.stack = shifts, nn.Sequential(*layers)
        self.eval()
        with torch.no_grad():
            self.head = nn.Linear(self.stack(torch.zeros(1, 1, 28, 28)).numel(), 10)

    def layers(self):
        return self.stack, nn.Flatten(), self.head


@st.composite
def stacks(draw) -> Classifier:
    """Networks of the layers that are known, with settings that no architecture has."""
    small = st.integers(1, 3)
    channels, layers, seed = 1, [], draw(st.integers(0, 99))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(draw(small)):
            width, groups = channels * draw(small), draw(st.sampled_from([1, channels]))
            kernel, stride = (draw(small), draw(small)), (draw(st.integers(1, 2)), 1)
            padding, dilation = (draw(st.integers(0, 2)), draw(st.integers(0, 2))), draw(st.integers(1, 2))
            layers += [nn.Conv2d(channels, width, kernel, stride, padding, dilation, groups, draw(st.booleans()))]
            layers += draw(
                st.sampled_from(
                    [[nn.ReLU()], [nn.MaxPool2d(2, 1)], [nn.AvgPool2d((1, 2))], [nn.BatchNorm2d(width, eps=0.1)], []]
                )
            )
            channels = width
        return Stack(draw(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=3)), layers)


@settings(max_examples=30)
@given(stacks(), generators)
def test_layers_have_their_settings_in_the_file(tmp_path_factory, model, g):
    content = export.to_onnx(artifact_of(model, tmp_path_factory.mktemp("stack")))
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8, generator=g)
    assert export.check(content, model, images).holds


# ---- What is in the file ---------------------------------------------------------------------------------------------


@every_architecture
def test_uint8_images_go_in_and_nothing_else_and_the_batch_is_free(exported, name):
    graph = onnx.load_from_string(exported[name][1]).graph

    def shape(value):
        return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]

    described = {value.name: (value.type.tensor_type.elem_type, shape(value)) for value in graph.input}
    assert described == {"images": (onnx.TensorProto.UINT8, ["batch", 1, 28, 28])}
    assert [(value.name, shape(value)) for value in graph.output] == [
        ("probabilities", ["batch", 10]),
        ("digit", ["batch"]),
    ]
    assert all(value.doc_string for value in (*graph.input, *graph.output))


def test_weights_bear_the_names_of_the_state_dict(cnn):
    model, content = cnn
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer
    }
    for name, weights in model.state_dict().items():
        np.testing.assert_array_equal(constants[name], weights.numpy())


def test_an_older_runtime_can_read_it(cnn):
    model = onnx.load_from_string(cnn[1])
    assert (model.ir_version, [(opset.domain, opset.version) for opset in model.opset_import]) == (8, [("", 17)])


def metadata(content: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}


def test_the_card_the_classes_and_the_weights_are_named_in_the_file(carded):
    found = metadata(export.to_onnx(carded))
    assert found.keys() == {"card", "classes", "weights_sha256"}
    assert found["card"] == carded.path.with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(found["classes"]) == list(carded.classes)
    assert found["weights_sha256"] == hashlib.sha256(carded.path.read_bytes()).hexdigest()


def test_without_a_card_the_file_still_names_its_weights(carded):
    found = metadata(export.to_onnx(dataclasses.replace(carded, card=None)))
    assert found.keys() == {"classes", "weights_sha256"}
    assert found["weights_sha256"] == carded.card.sha256


def test_the_same_artifact_is_the_same_bytes_however_its_weights_lie_in_memory(carded):
    content = export.to_onnx(carded)
    assert export.to_onnx(artifacts.load(carded.path)) == content
    copy = dataclasses.replace(
        carded, model=artifacts.load(carded.path).model.to(memory_format=torch.contiguous_format)
    )
    assert export.to_onnx(copy) == content


def test_another_process_makes_the_same_bytes_and_does_not_import_the_packages_before_it_must(carded):
    program = (
        "import hashlib, sys; from pathlib import Path; from mnist.deploy import export; "
        "from mnist.storage import artifacts; "
        "assert not {'onnx', 'onnxruntime'} & set(sys.modules); "
        "content = export.to_onnx(artifacts.load(Path(sys.argv[1]))); "
        "print(hashlib.sha256(content).hexdigest())"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(carded.path)],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert finished.stdout.strip() == hashlib.sha256(export.to_onnx(carded)).hexdigest()


@every_architecture
def test_no_path_of_this_machine_is_in_the_file(exported, carded, name):
    for content in (exported[name][1], export.to_onnx(carded)):
        for path in (CHECKOUT, carded.path.parent, "/site-packages/"):
            assert str(path).encode() not in content


@every_architecture
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(exported, tmp_path, name, training):
    model = model_of(name).train(training)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    content = export.to_onnx(artifact_of(model, tmp_path))
    assert content == exported[name][1], "it is the model in evaluation mode"
    export.check(content, model, noise(2))
    assert all(module.training == training for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- What is refused -------------------------------------------------------------------------------------------------


class Swish(CNN):
    def layers(self):
        return *super().layers()[:-1], nn.Hardswish(), self.fc2


class Same(CNN):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding="same")


class Misfit(CNN):
    def layers(self):
        return super().layers()[:-1]


class Sharper(CNN):
    def forward(self, images):
        return super().forward(images) * 1.01


def unregistered(kind: type[CNN]) -> CNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


@pytest.mark.parametrize(
    ("kind", "error", "complaint"),
    [
        (Swish, LayerError, r"do not support the layer Hardswish\(\)"),
        (Same, LayerError, r"do not support the layer Conv2d\(1, 6, .*padding=same\)"),
        (Misfit, ExportError, "network does not become valid ONNX: "),
    ],
)
def test_a_network_that_cannot_be_written_is_refused_in_one_line(tmp_path, kind, error, complaint):
    with pytest.raises(error, match=complaint) as refused:
        export.to_onnx(artifact_of(unregistered(kind), tmp_path))
    assert "\n" not in str(refused.value)


def test_a_network_that_does_more_than_its_layers_is_found_out(tmp_path):
    model = unregistered(Sharper)
    with pytest.raises(ExportError, match="must not be used"):
        export.check(export.to_onnx(artifact_of(model, tmp_path)), model, noise(5))


def tampered(content: bytes, name: str, index: int, amount: float) -> bytes:
    """The file with that amount added to one of its weights."""
    model = onnx.load_from_string(content)
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[index] += amount
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return model.SerializeToString()


@every_architecture
def test_a_changed_weight_is_noticed_in_the_digits(exported, name):
    model, content = exported[name]
    images = noise(100)
    another_digit = 9 - answers(content, images)[1][0]
    bad = tampered(content, "fc2.bias" if name == "cnn" else "head.bias", another_digit, 1000)
    with pytest.raises(ExportError, match=r"must not be used: .* the same digit on \d?\d of 100 images, .* apart"):
        export.check(bad, model, images)


@pytest.mark.parametrize(("amount", "shown"), [(1e-3, r"\de-0\d"), (float("nan"), "nan")])
def test_a_weight_changed_too_little_for_another_digit_is_noticed_in_the_probabilities(cnn, amount, shown):
    with pytest.raises(ExportError, match=rf"probabilities up to .*{shown} apart \(at most 1e-05\)"):
        export.check(tampered(cnn[1], "conv1.bias", 0, amount), cnn[0], noise(100))


@pytest.mark.parametrize(("same_digit", "difference"), [(9, 0.0), (10, 1.1e-5), (10, float("nan")), (0, 0.0)])
def test_what_does_not_agree_on_every_image_does_not_hold(same_digit, difference):
    assert export.Agreement(10, 10, 1e-5).holds
    assert not export.Agreement(10, same_digit, difference).holds
    assert not export.Agreement(0, 0, 0.0).holds


def test_without_images_nothing_is_proven(cnn):
    with pytest.raises(ExportError, match="there are no images"):
        export.check(cnn[1], cnn[0], noise(0))


def changed(content: bytes, change) -> bytes:
    model = onnx.load_from_string(content)
    change(model.graph)
    return model.SerializeToString()


def ask_for_floats(graph):
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def answer_in_a_column(graph):
    (node,) = [node for node in graph.node if node.op_type == "ArgMax"]
    (keep,) = [setting for setting in node.attribute if setting.name == "keepdims"]
    keep.i = 1
    graph.output[1].type.tensor_type.shape.dim.add().dim_value = 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda content: b"", "cannot run the file: "),
        (lambda content: b"no ONNX", "cannot run the file: "),
        (lambda content: content[: len(content) // 2], "cannot run the file: "),
        (lambda content: changed(content, ask_for_floats), "cannot run the file: "),
        (
            lambda content: changed(content, answer_in_a_column),
            r"in another form: .*int64 \[2, 1\], not .*int64 \[2\]$",
        ),
    ],
)
def test_what_cannot_be_asked_or_answers_otherwise_is_refused_in_one_line(cnn, capfd, change, complaint):
    with pytest.raises(ExportError, match=complaint) as refused:
        export.check(change(cnn[1]), cnn[0], noise(2))
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_packages_one_line_says_how_to_get_them(cnn, carded, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = r"^exporting needs the packages onnx and onnxruntime \(python -m pip install 'mnist\[export\]'\): .*$"
    with pytest.raises(ExportError, match=line):
        export.to_onnx(carded)
    if package == "onnxruntime":
        for use in (lambda: export.check(cnn[1], cnn[0], noise(1)), lambda: export.latencies(cnn[1], cnn[0])):
            with pytest.raises(ExportError, match=line):
                use()


# ---- Latency ---------------------------------------------------------------------------------------------------------


def test_both_are_timed_on_one_image_and_on_a_thousand(cnn, monkeypatch):
    monkeypatch.setattr(export, "TIMING_SECONDS", 0.01)
    model, content = cnn
    model.train()
    try:
        timed = export.latencies(content, model)
        assert model.training
    finally:
        model.eval()
    assert [latency.batch for latency in timed] == [1, 1000]
    assert all(0 < seconds < 60 for latency in timed for seconds in (latency.onnx, latency.torch))


def test_both_have_as_many_threads(cnn, monkeypatch):
    options = []
    real = onnxruntime.InferenceSession

    def note(content, given, **others):
        options.append(given)
        return real(content, given, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    export.check(cnn[1], cnn[0], noise(1))
    assert [given.intra_op_num_threads for given in options] == [3]
