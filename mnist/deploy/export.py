"""The model for elsewhere: an ONNX file, uint8 images in, probabilities and digit out, that answers as PyTorch does.

The graph is written from :meth:`Classifier.layers`, which is all there is to a network. PyTorch's own exporter knows
more kinds of layers, but its releases fit few of onnxscript's, and it writes versions and this machine's paths into the
file. Written like this, an artifact is the same bytes everywhere. That they do what the network does is not believed
but checked, on every image, before the file is kept.
"""

import dataclasses
import importlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnist import __version__, architecture, files, metrics, transforms
from mnist.architecture import CLASSES, IMAGE_SIDE, Classifier
from mnist.deploy import layers
from mnist.deploy.layers import Layer, Weight
from mnist.errors import MnistError, first_line
from mnist.storage.artifacts import Artifact

OPSET, IR_VERSION = 17, 8  # those of ONNX 1.12, of 2022: older runtimes know them, too
LARGEST_DIFFERENCE = 1e-5  # of a probability, between ONNX Runtime and PyTorch
TIMED_BATCHES = (1, 1000)
TIMINGS, TIMING_SECONDS = 1000, 2.0  # of each batch: so many rounds, or until that is over, but at least 3

Answer = tuple[Tensor, Tensor]  # probabilities, float32 [B, 10], and digits, int64 [B]


class ExportError(MnistError):
    """A model that cannot be exported, or an exported one that must not be kept."""


def _package(name: str) -> ModuleType:
    """A package that only exporting needs, imported when it does."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            "exporting needs the packages onnx and onnxruntime (python -m pip install 'mnist[export]'): "
            + first_line(error)
        ) from error


# ---- The file --------------------------------------------------------------------------------------------------------


def to_onnx(artifact: Artifact) -> bytes:
    """The content of an ONNX file that answers as the model does in evaluation mode; it prepares the images itself.

    Input ``images``: uint8 [batch, 1, 28, 28], batch from 0. Outputs ``probabilities``: float32 [batch, 10], and
    ``digit``: int64 [batch], the index of the most probable class. Metadata: ``classes``, their names, a JSON list;
    ``weights_sha256``, of the weights file; ``card``, the model card, JSON, where there is one. The same artifact gives
    the same bytes.

    Raises:
        ExportError: a package is missing, or the network does not become valid ONNX.
        LayerError: the network has a layer that is not supported.
    """
    onnx = _package("onnx")
    _package("onnxruntime")  # without it nothing can be checked: better said now
    graph = _translate(artifact.model)
    describe, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(node.operator, node.inputs, [node.output], **node.settings) for node in graph.nodes],
            artifact.architecture,
            [describe("images", types.UINT8, ["batch", 1, IMAGE_SIDE, IMAGE_SIDE], "pixels, 0 (background) to 255")],
            [
                describe("probabilities", types.FLOAT, ["batch", CLASSES], "of the classes that the metadata names"),
                describe("digit", types.INT64, ["batch"], "index of the most probable class"),
            ],
            [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mnist",
        producer_version=__version__,
        doc_string="images, uint8 [batch, 1, 28, 28], prepared inside, to probabilities, float32 [batch, 10], and to "
        "digit, int64 [batch], the index of the most probable class",
    )
    onnx.helper.set_model_props(model, _metadata(artifact))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{artifact.architecture} does not become valid ONNX: {first_line(error)}") from error
    return bytes(model.SerializeToString(deterministic=True))


def _metadata(artifact: Artifact) -> dict[str, str]:
    metadata = {"classes": json.dumps(artifact.classes), "weights_sha256": artifact.sha256}
    if artifact.card:
        metadata["card"] = files.to_json(dataclasses.asdict(artifact.card)).decode()
    return metadata


# ---- The graph -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    output: str
    settings: dict[str, Any]


@dataclass
class _Graph:
    """Nodes, each after those whose output it takes, and the constants that they take, by name."""

    nodes: list[_Node] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, output: str = "", **settings: Any) -> str:
        """Add a node; the name of its output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(_Node(operator, inputs, output, settings))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> str:
        """Add a constant; its name."""
        self.constants[name] = np.asarray(value)
        return name


def _translate(model: Classifier) -> _Graph:
    """What :func:`transforms.prepare` and :meth:`Classifier.forward` do in evaluation mode, and the answer from logits.

    Raises:
        LayerError: the network has a layer that is not supported.
    """
    graph = _Graph()
    x = graph.add("Cast", "images", to=1)  # to float32
    x = graph.add("Div", x, graph.constant("white", np.float32(255)))
    x = graph.add("Sub", x, graph.constant("mean", np.float32(transforms.MEAN)))
    x = graph.add("Div", x, graph.constant("std", np.float32(transforms.STD)))
    if model.views > 1:
        x = graph.add("Concat", *[_shift(graph, x, shift) for shift in model.shifts], axis=0)
    for layer in layers.describe(model):
        x = _add_layer(graph, x, layer)
    if model.views > 1:
        x = graph.add("Reshape", x, graph.constant("by_view", np.array([model.views, -1, CLASSES], np.int64)))
        x = graph.add("ReduceMean", x, axes=[0], keepdims=0)
    graph.add("Softmax", x, axis=1, output="probabilities")
    graph.add("ArgMax", x, axis=1, keepdims=0, output="digit")
    return graph


def _shift(graph: _Graph, x: str, shift: tuple[int, int]) -> str:
    """Shift images so many pixels down and to the right, and round: ONNX has no roll, but takes rows in any order."""
    for axis, pixels in zip((2, 3), shift, strict=True):
        if pixels:
            order = graph.constant(f"shifted_by_{pixels}", np.roll(np.arange(IMAGE_SIDE, dtype=np.int64), pixels))
            x = graph.add("Gather", x, order, axis=axis)
    return x


def _add_layer(graph: _Graph, x: str, layer: Layer) -> str:
    """Add what a layer does to ``x``; the name of the result."""

    def constants(*weights: Weight | None) -> list[str]:
        return [graph.constant(weight.name, weight.value.numpy()) for weight in weights if weight is not None]

    match layer:
        case layers.Convolution():
            placing: dict[str, Any] = {"strides": layer.stride, "pads": layer.padding * 2, "dilations": layer.dilation}
            return graph.add("Conv", x, *constants(layer.weight, layer.bias), group=layer.groups, **placing)
        case layers.MaxPooling():
            return graph.add("MaxPool", x, kernel_shape=layer.kernel, strides=layer.stride)
        case layers.AveragePooling():
            return graph.add("AveragePool", x, kernel_shape=layer.kernel, strides=layer.stride)
        case layers.Normalization():
            moments = constants(layer.scale, layer.shift, layer.mean, layer.variance)
            return graph.add("BatchNormalization", x, *moments, epsilon=layer.epsilon)
        case layers.ReLU():
            return graph.add("Relu", x)
        case layers.Flatten():
            return graph.add("Flatten", x)
        case layers.Linear():
            return graph.add("Gemm", x, *constants(layer.weight, layer.bias), transB=1)


# ---- Its answers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How far ONNX Runtime and PyTorch agree.

    same_digit: images for which both find the same digit; difference: the largest, of a probability.
    """

    images: int
    same_digit: int
    difference: float

    @property
    def holds(self) -> bool:
        """The same digit on every image, of at least one, and no probability more than 1e-5 (or NaN) apart."""
        return self.images > 0 and self.same_digit == self.images and self.difference <= LARGEST_DIFFERENCE


def check(content: bytes, model: Classifier, images: Tensor) -> Agreement:
    """Show every image to the ONNX file, under ONNX Runtime, and to the model, under PyTorch on the CPU.

    Args:
        content: of the file.
        model: what it was made from; it stays as it is.
        images: uint8 [N, 1, 28, 28].

    Raises:
        ExportError: they do not agree, there is no image to tell by, the file cannot be run, or a package is missing.
    """
    if not len(images):
        raise ExportError("the ONNX file cannot be checked: there are no images")
    run = _open(content)
    same_digit, difference = 0, torch.zeros(())
    with torch.inference_mode(), architecture.evaluation_mode(model):
        for batch in images.split(metrics.BATCH):
            expected, answer = _ask(model, batch), run(batch)
            if [(a.dtype, a.shape) for a in answer] != [(e.dtype, e.shape) for e in expected]:
                raise ExportError(f"the ONNX file answers in another form: {_form(answer)}, not {_form(expected)}")
            same_digit += int((answer[1] == expected[1]).sum())
            difference = torch.maximum(difference, (answer[0] - expected[0]).abs().max())  # NaN stays NaN
    agreement = Agreement(len(images), same_digit, difference.item())
    if not agreement.holds:
        raise ExportError(
            f"the ONNX file must not be used: ONNX Runtime and PyTorch find the same digit on {same_digit:,} of "
            f"{len(images):,} images, and probabilities up to {agreement.difference:.1e} apart "
            f"(at most {LARGEST_DIFFERENCE:.0e})"
        )
    return agreement


@dataclass(frozen=True)
class Latency:
    """Median seconds for a batch of so many images, uint8 in, probabilities and digits out."""

    batch: int
    onnx: float
    torch: float


def latencies(content: bytes, model: Classifier) -> list[Latency]:
    """How long one image and 1000 take: the file under ONNX Runtime, and the model under eager PyTorch.

    They take turns, so that whatever else the machine does hits both, and have as many threads as PyTorch is set to.

    Raises:
        ExportError: the file cannot be run, or a package is missing.
    """
    run, timed = _open(content), []
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), architecture.evaluation_mode(model):
        for batch in TIMED_BATCHES:
            images = torch.randint(256, (batch, 1, IMAGE_SIDE, IMAGE_SIDE), dtype=torch.uint8, generator=generator)
            asked: list[Callable[[Tensor], Answer]] = [run, lambda images: _ask(model, images)]
            rounds = [[_seconds(ask, images) for ask in asked]]  # the first is a warm-up
            end = time.perf_counter() + TIMING_SECONDS
            while len(rounds) <= 3 or (len(rounds) <= TIMINGS and time.perf_counter() < end):
                rounds.append([_seconds(ask, images) for ask in asked])
            timed.append(Latency(batch, *(statistics.median(column) for column in zip(*rounds[1:], strict=True))))
    return timed


def _seconds(ask: Callable[[Tensor], Answer], images: Tensor) -> float:
    started = time.perf_counter()
    ask(images)
    return time.perf_counter() - started


def _ask(model: Classifier, images: Tensor) -> Answer:
    logits = model(transforms.prepare(images))
    return logits.softmax(1), logits.argmax(1)


def _open(content: bytes) -> Callable[[Tensor], Answer]:
    """The file under ONNX Runtime, on as many threads as PyTorch: uint8 [B, 1, 28, 28] to its answer."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: what they say is in the exception, too
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it takes PyTorch's turns from it
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has no class of error of its own
        raise _cannot_run(error) from error

    def run(images: Tensor) -> Answer:
        try:
            probabilities, digit = session.run(["probabilities", "digit"], {"images": images.numpy()})
        except Exception as error:
            raise _cannot_run(error) from error
        return torch.from_numpy(probabilities), torch.from_numpy(digit)

    return run


def _cannot_run(error: Exception) -> ExportError:
    return ExportError(f"ONNX Runtime cannot run the file: {first_line(error)}")


def _form(answer: Answer) -> str:
    return ", ".join(f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}" for part in answer)
