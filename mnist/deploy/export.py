"""Export a model as an ONNX file.

The graph is built from :func:`mnist.deploy.layers.describe`, not by PyTorch's exporter, which requires a matching
release of onnxscript and writes version numbers and local paths into the file. For a given artifact, the graph built
here is byte-identical on every machine. :mod:`mnist.deploy.onnx_check` compares the file with the network.
"""

import dataclasses
import importlib
import json
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist import __version__, files
from mnist.architecture import Classifier
from mnist.deploy import layers
from mnist.deploy.layers import Layer, Weight
from mnist.errors import MnistError, first_line
from mnist.shapes import CLASSES, IMAGE_SIDE, MEAN, STD
from mnist.storage.artifacts import Artifact

OPSET = 17  # the opset of ONNX 1.12 (2022), which older runtimes can also read
IR_VERSION = 8


class ExportError(MnistError):
    """The export failed, or the exported model differs from the original."""


def import_package(name: str) -> ModuleType:
    """Import an optional package that the extra ``export`` installs.

    Raises:
        ExportError: if the package is missing or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            "exporting needs the packages onnx and onnxruntime (python -m pip install 'mnist[export]'): "
            + first_line(error)
        ) from error


def to_onnx(artifact: Artifact) -> bytes:
    """Return the bytes of an ONNX file that is equivalent to the model in evaluation mode.

    Input: ``images``, uint8 [batch, 1, 28, 28], which the graph normalizes; the batch size may be 0. Outputs:
    ``probabilities``, float32 [batch, 10], and ``digit``, int64 [batch], the index of the most probable class.
    Metadata: ``classes``, the class names as a JSON list; ``weights_sha256``, the SHA-256 of the weights file; and
    ``card``, the model card as JSON, if there is one.

    Raises:
        ExportError: if a package is missing, or the graph is not valid ONNX.
        LayerError: if a layer of the network is not supported.
    """
    onnx = import_package("onnx")
    import_package("onnxruntime")  # onnx_check.check() needs it; fail early if it is missing
    graph = _translate(artifact.model)
    describe, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(node.operator, node.inputs, [node.output], **node.settings) for node in graph.nodes],
            artifact.architecture,
            [describe("images", types.UINT8, ["batch", 1, IMAGE_SIDE, IMAGE_SIDE], "pixels, 0 (background) to 255")],
            [
                describe("probabilities", types.FLOAT, ["batch", CLASSES], "probability of each class"),
                describe("digit", types.INT64, ["batch"], "index of the most probable class"),
            ],
            [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mnist",
        producer_version=__version__,
        doc_string="Maps images (uint8 [batch, 1, 28, 28], normalized in the graph) to probabilities (float32 "
        "[batch, 10]) and digit (int64 [batch], the index of the most probable class)",
    )
    onnx.helper.set_model_props(model, _metadata(artifact))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{artifact.architecture} cannot be converted to valid ONNX: {first_line(error)}") from error
    return bytes(model.SerializeToString(deterministic=True))


def _metadata(artifact: Artifact) -> dict[str, str]:
    metadata = {"classes": json.dumps(artifact.classes), "weights_sha256": artifact.sha256}
    if artifact.card:
        metadata["card"] = files.to_json(dataclasses.asdict(artifact.card)).decode()
    return metadata


# ---- The graph -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Node:
    """An operation of the graph."""

    operator: str  # name of the ONNX operator
    inputs: tuple[str, ...]  # names of constants and of the outputs of other nodes
    output: str
    settings: dict[str, Any]  # ONNX attributes


@dataclass
class _Graph:
    """An ONNX graph under construction."""

    nodes: list[_Node] = field(default_factory=list)  # in topological order
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)  # keyed by name

    def add(self, operator: str, *inputs: str, output: str = "", **settings: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(_Node(operator, inputs, output, settings))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> str:
        """Add a constant and return its name."""
        self.constants[name] = np.asarray(value)
        return name


def _translate(model: Classifier) -> _Graph:
    """Build the graph: :func:`transforms.prepare`, the network in evaluation mode, softmax and argmax.

    Raises:
        LayerError: if a layer of the network is not supported.
    """
    graph = _Graph()
    x = graph.add("Cast", "images", to=1)  # to float32
    x = graph.add("Div", x, graph.constant("white", np.float32(255)))
    x = graph.add("Sub", x, graph.constant("mean", np.float32(MEAN)))
    x = graph.add("Div", x, graph.constant("std", np.float32(STD)))
    if model.is_shifted:
        x = graph.add("Concat", *[_shift(graph, x, shift) for shift in model.shifts], axis=0)
    for layer in layers.describe(model):
        x = _add_layer(graph, x, layer)
    if model.is_shifted:
        x = graph.add("Reshape", x, graph.constant("by_view", np.array([model.views, -1, CLASSES], np.int64)))
        x = graph.add("ReduceMean", x, axes=[0], keepdims=0)
    graph.add("Softmax", x, axis=1, output="probabilities")
    graph.add("ArgMax", x, axis=1, keepdims=0, output="digit")
    return graph


def _shift(graph: _Graph, x: str, shift: tuple[int, int]) -> str:
    """Shift images down and to the right with wrap-around. ONNX has no roll, so rows and columns are gathered."""
    for axis, pixels in zip((2, 3), shift, strict=True):
        if pixels:
            order = graph.constant(f"shifted_by_{pixels}", np.roll(np.arange(IMAGE_SIDE, dtype=np.int64), pixels))
            x = graph.add("Gather", x, order, axis=axis)
    return x


def _add_layer(graph: _Graph, x: str, layer: Layer) -> str:
    """Add a layer whose input is ``x``, and return the name of its output."""

    def constants(*weights: Weight | None) -> list[str]:
        return [graph.constant(weight.name, weight.value.numpy()) for weight in weights if weight is not None]

    match layer:
        case layers.Contrast():
            return _add_contrast(graph, x, layer)
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


def _add_contrast(graph: _Graph, x: str, layer: layers.Contrast) -> str:
    padding = [layer.window // 2] * 4
    window: dict[str, Any] = {"kernel_shape": [layer.window] * 2, "pads": padding, "count_include_pad": 0}
    mean = graph.add("AveragePool", x, **window)
    square = graph.add("AveragePool", graph.add("Mul", x, x), **window)
    variance = graph.add("Relu", graph.add("Sub", square, graph.add("Mul", mean, mean)))
    epsilon = graph.constant(f"epsilon_{len(graph.nodes)}", np.float32(layer.epsilon))
    deviation = graph.add("Sqrt", graph.add("Add", variance, epsilon))
    contrast = graph.add("Div", graph.add("Sub", x, mean), deviation)
    return graph.add("Concat", contrast, graph.add("Abs", contrast), axis=1)
