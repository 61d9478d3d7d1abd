"""ONNX files and their agreement with PyTorch."""

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
from samples import save_model
from strategies import generator, generators, uint8_images
from torch import nn

from mnist import architecture, transforms
from mnist.architecture import ARCHITECTURES, CNN, Classifier
from mnist.deploy import export, onnx_check
from mnist.deploy.export import ExportError
from mnist.deploy.layers import LayerError
from mnist.storage import artifacts
from mnist.storage.artifacts import Artifact

CHECKOUT = Path(__file__).parent.parent

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def model_of(name: str) -> Classifier:
    """Return a network in evaluation mode whose batch norms have random statistics, and scales of either sign."""
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
    """Return an artifact of the model, without a card."""
    path = folder / "model.pth"
    path.write_bytes(b"the weights")
    return Artifact(path, path.stat().st_size, "0" * 64, "network", model, None)


def noise(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator(count))


def outputs_of(content: bytes, images: torch.Tensor) -> list[np.ndarray]:
    """Return the outputs of the file, as a program sees them that uses ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> dict[str, tuple[Classifier, bytes]]:
    """For every architecture a network and its ONNX file."""
    folder = tmp_path_factory.mktemp("exported")
    models = {name: model_of(name) for name in ARCHITECTURES}
    return {name: (model, export.to_onnx(artifact_of(model, folder))) for name, model in models.items()}


@pytest.fixture
def cnn(exported) -> tuple[Classifier, bytes]:
    return exported["cnn"]


@pytest.fixture(scope="session")
def carded(tmp_path_factory) -> Artifact:
    """An artifact with a card."""
    path = save_model(
        model_of("compact-1k"),
        tmp_path_factory.mktemp("models"),
        recipe={"architecture": "compact-1k", "seed": 3},
        dataset={"name": "Ziffern für alle"},
        measured={"accuracy": 0.1 + 0.2},
    )
    return artifacts.load(path)


# ---- Agreement with PyTorch ------------------------------------------------------------------------------------------


@every_architecture
@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_to_onnx_computes_the_same_for_any_batch_size(exported, name, count):
    model, content = exported[name]
    images = noise(count)
    probabilities, digit = outputs_of(content, images)
    with torch.inference_mode():
        logits = model(transforms.prepare(images))
    assert probabilities.dtype == np.float32
    assert digit.dtype == np.int64
    assert probabilities.shape == (count, 10)
    assert digit.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(probabilities, logits.softmax(1).numpy(), rtol=0, atol=1e-5)


@pytest.mark.slow
@every_architecture
@settings(max_examples=10)
@given(uint8_images(min_batch=1))
def test_check_agrees_on_blank_white_and_drawn_images(exported, name, images):
    model, content = exported[name]
    agreement = onnx_check.check(content, model, images)
    assert agreement.images == agreement.same_digit == len(images)
    assert agreement.difference <= 1e-5


def test_check_agrees_on_every_held_out_image(trained, subset, tmp_path):
    content = export.to_onnx(artifact_of(trained.model, tmp_path))
    agreement = onnx_check.check(content, trained.model, subset.test.images)
    assert agreement.images == agreement.same_digit == len(subset.test)
    assert agreement.difference <= 1e-5
    correct = torch.from_numpy(outputs_of(content, subset.test.images)[1]) == subset.test.labels
    assert correct.float().mean() > 0.9, "the file normalizes the images"


class Stack(Classifier):
    """The given layers and a linear layer of matching size."""

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
    """Draw networks of the supported layers, with settings that no architecture uses."""
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


@pytest.mark.slow
@settings(max_examples=30)
@given(stacks(), generators)
def test_to_onnx_keeps_the_settings_of_every_layer(tmp_path_factory, model, g):
    content = export.to_onnx(artifact_of(model, tmp_path_factory.mktemp("stack")))
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8, generator=g)
    assert onnx_check.check(content, model, images).holds


# ---- Content of the file ---------------------------------------------------------------------------------------------


@every_architecture
def test_to_onnx_declares_its_inputs_and_outputs(exported, name):
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


def test_to_onnx_names_weights_as_the_state_dict_does(cnn):
    model, content = cnn
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(content).graph.initializer
    }
    for name, weights in model.state_dict().items():
        np.testing.assert_array_equal(constants[name], weights.numpy())


def test_to_onnx_writes_versions_for_older_runtimes(cnn):
    model = onnx.load_from_string(cnn[1])
    assert (model.ir_version, [(opset.domain, opset.version) for opset in model.opset_import]) == (8, [("", 17)])


def metadata(content: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}


def test_to_onnx_metadata_with_a_card(carded):
    found = metadata(export.to_onnx(carded))
    assert found.keys() == {"card", "classes", "weights_sha256"}
    assert found["card"] == carded.path.with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(found["classes"]) == list(carded.classes)
    assert found["weights_sha256"] == hashlib.sha256(carded.path.read_bytes()).hexdigest()


def test_to_onnx_metadata_without_a_card(carded):
    found = metadata(export.to_onnx(dataclasses.replace(carded, card=None)))
    assert found.keys() == {"classes", "weights_sha256"}
    assert found["weights_sha256"] == carded.card.sha256


def test_to_onnx_bytes_do_not_depend_on_memory_format(carded):
    content = export.to_onnx(carded)
    assert export.to_onnx(artifacts.load(carded.path)) == content
    copy = dataclasses.replace(
        carded, model=artifacts.load(carded.path).model.to(memory_format=torch.contiguous_format)
    )
    assert export.to_onnx(copy) == content


@pytest.mark.slow
def test_to_onnx_in_another_process_gives_the_same_bytes(carded):
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
def test_to_onnx_contains_no_local_path(exported, carded, name):
    for content in (exported[name][1], export.to_onnx(carded)):
        for path in (CHECKOUT, carded.path.parent, "/site-packages/"):
            assert str(path).encode() not in content


@every_architecture
@pytest.mark.parametrize("training", [True, False])
def test_to_onnx_and_check_leave_the_model_unchanged(exported, tmp_path, name, training):
    model = model_of(name).train(training)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    content = export.to_onnx(artifact_of(model, tmp_path))
    assert content == exported[name][1], "the file must hold the model in evaluation mode"
    onnx_check.check(content, model, noise(2))
    assert all(module.training == training for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- Errors ----------------------------------------------------------------------------------------------------------


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
    ("kind", "error", "message"),
    [
        (Swish, LayerError, r"do not support the layer Hardswish\(\)"),
        (Same, LayerError, r"do not support the layer Conv2d\(1, 6, .*padding=same\)"),
        (Misfit, ExportError, "network cannot be converted to valid ONNX: "),
    ],
)
def test_to_onnx_refuses_unsupported_network(tmp_path, kind, error, message):
    with pytest.raises(error, match=message) as refused:
        export.to_onnx(artifact_of(unregistered(kind), tmp_path))
    assert "\n" not in str(refused.value)


def test_check_detects_a_forward_beyond_the_layers(tmp_path):
    model = unregistered(Sharper)
    with pytest.raises(ExportError, match="must not be used"):
        onnx_check.check(export.to_onnx(artifact_of(model, tmp_path)), model, noise(5))


def tampered(content: bytes, name: str, index: int, amount: float) -> bytes:
    """Return the file with ``amount`` added to one value of a weight."""
    model = onnx.load_from_string(content)
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[index] += amount
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return model.SerializeToString()


@pytest.mark.slow
@every_architecture
def test_check_detects_a_weight_that_changes_digits(exported, name):
    model, content = exported[name]
    images = noise(100)
    another_digit = 9 - outputs_of(content, images)[1][0]
    bad = tampered(content, "fc2.bias" if name == "cnn" else "head.bias", another_digit, 1000)
    with pytest.raises(ExportError, match=r"must not be used: .* the same digit on \d?\d of 100 images, .* differ"):
        onnx_check.check(bad, model, images)


@pytest.mark.parametrize(("amount", "shown"), [(1e-3, r"\de-0\d"), (float("nan"), "nan")])
def test_check_detects_a_weight_that_changes_probabilities(cnn, amount, shown):
    with pytest.raises(ExportError, match=rf"differ by up to .*{shown} \(at most 1e-05 is allowed\)"):
        onnx_check.check(tampered(cnn[1], "conv1.bias", 0, amount), cnn[0], noise(100))


@pytest.mark.parametrize(("same_digit", "difference"), [(9, 0.0), (10, 1.1e-5), (10, float("nan")), (0, 0.0)])
def test_agreement_holds_only_if_every_image_agrees(same_digit, difference):
    assert onnx_check.Agreement(10, 10, 1e-5).holds
    assert not onnx_check.Agreement(10, same_digit, difference).holds
    assert not onnx_check.Agreement(0, 0, 0.0).holds


def test_check_refuses_to_run_without_images(cnn):
    with pytest.raises(ExportError, match="there are no images"):
        onnx_check.check(cnn[1], cnn[0], noise(0))


def changed(content: bytes, change) -> bytes:
    model = onnx.load_from_string(content)
    change(model.graph)
    return model.SerializeToString()


def require_float_input(graph):
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def keep_digit_dimension(graph):
    (node,) = [node for node in graph.node if node.op_type == "ArgMax"]
    (keep,) = [setting for setting in node.attribute if setting.name == "keepdims"]
    keep.i = 1
    graph.output[1].type.tensor_type.shape.dim.add().dim_value = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "cannot run the file: "),
        (lambda content: b"no ONNX", "cannot run the file: "),
        (lambda content: content[: len(content) // 2], "cannot run the file: "),
        (lambda content: changed(content, require_float_input), "cannot run the file: "),
        (
            lambda content: changed(content, keep_digit_dimension),
            r"outputs are .*int64 \[2, 1\], not .*int64 \[2\]$",
        ),
    ],
)
def test_check_refuses_invalid_file(cnn, capfd, change, message):
    with pytest.raises(ExportError, match=message) as refused:
        onnx_check.check(change(cnn[1]), cnn[0], noise(2))
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package_is_reported_with_a_hint(cnn, carded, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = r"^exporting needs the packages onnx and onnxruntime \(python -m pip install 'mnist\[export\]'\): .*$"
    with pytest.raises(ExportError, match=line):
        export.to_onnx(carded)
    if package == "onnxruntime":
        for use in (lambda: onnx_check.check(cnn[1], cnn[0], noise(1)), lambda: onnx_check.latencies(cnn[1], cnn[0])):
            with pytest.raises(ExportError, match=line):
                use()


# ---- Latency ---------------------------------------------------------------------------------------------------------


def test_latencies_of_1_and_1000_images(cnn, monkeypatch):
    monkeypatch.setattr(onnx_check, "TIMING_SECONDS", 0.01)
    model, content = cnn
    model.train()
    try:
        timed = onnx_check.latencies(content, model)
        assert model.training
    finally:
        model.eval()
    assert [latency.batch for latency in timed] == [1, 1000]
    assert all(0 < seconds < 60 for latency in timed for seconds in (latency.onnx, latency.torch))


def test_check_uses_as_many_threads_as_pytorch(cnn, monkeypatch):
    options = []
    real = onnxruntime.InferenceSession

    def note(content, given, **others):
        options.append(given)
        return real(content, given, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    onnx_check.check(cnn[1], cnn[0], noise(1))
    assert [given.intra_op_num_threads for given in options] == [3]
