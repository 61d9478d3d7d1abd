"""ONNX classifiers as other programs write them, built node by node."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from mnist import onnx_worker
from mnist.datasets import Split

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
TYPES = {
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}


def linear_weights(train: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [784, 10] and biases [10] of a linear classifier of pixels between 0 and 1, by least squares."""
    pixels = torch.cat([train.images.flatten(1).double() / 255, torch.ones(len(train), 1).double()], 1)
    targets = F.one_hot(train.labels, 10).double()
    solution = torch.linalg.solve(pixels.T @ pixels + torch.eye(785).double(), pixels.T @ targets) * 10
    return solution[:-1].numpy().astype(np.float32), solution[-1].numpy().astype(np.float32)


def to_unit_range(name: str) -> tuple[float, float]:
    """Return the factor and the offset that convert pixels of a range to those between 0 and 1."""
    return {
        "0-1": (1.0, 0.0),
        "0-255": (1 / 255, 0.0),
        "normalized": (onnx_worker.STD, onnx_worker.MEAN),
        "-1-1": (0.5, 0.5),
    }[name]


def classifier(
    weights: tuple[np.ndarray, np.ndarray],
    *,
    layout: str = "[N, 784]",
    range: str = "0-1",
    dtype: str = "float32",
    batch: int | None = None,
    output: str = "logits",
) -> bytes:
    """Return a linear classifier as an ONNX file.

    Args:
        weights: those of :func:`linear_weights`.
        layout: a key of `onnx_worker.LAYOUTS`.
        range: the pixels that it expects, a key of `onnx_worker.RANGES`.
        dtype: of the input, a key of TYPES.
        batch: number of images; None: any.
        output: "logits", "probabilities", "label and array" or "label and map".
    """
    factor, offset = to_unit_range(range)
    matrix, bias = weights
    size = "N" if batch is None else batch
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat"], ["rows"]),
        helper.make_node("Mul", ["rows", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["pixels"]),
        helper.make_node("Gemm", ["pixels", "matrix", "bias"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size, 10])]
    if output != "logits":
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
        outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [size, 10])]
    if output.startswith("label"):
        nodes.append(helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0))
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [size]))
    if output == "label and map":
        labels = list(np.arange(10))
        nodes.append(
            helper.make_node("ZipMap", ["probabilities"], ["map"], domain="ai.onnx.ml", classlabels_int64s=labels)
        )
        kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        outputs[1] = helper.make_value_info("map", helper.make_sequence_type_proto(kind))
    constants = {
        "flat": np.array([batch or -1, 784], np.int64),
        "factor": np.float32(factor),
        "offset": np.float32(offset),
        "matrix": matrix,
        "bias": bias,
    }
    return build(nodes, [size, *onnx_worker.LAYOUTS[layout]], outputs, constants, TYPES[dtype])


def build(nodes, shape, outputs, constants, kind=TensorProto.FLOAT) -> bytes:
    """Return an ONNX file with the input ``x``."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8).SerializeToString()


def endless() -> bytes:
    """Return a model that adds 0 to its logits in an endless loop."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("Add", ["sum", "zero"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [None, 10]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [None, 10]),
        ],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "matrix"], ["logits"]),
        helper.make_node("Loop", ["", "true", "logits"], ["y"], body=body),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])]
    return build(nodes, ["N", 784], outputs, {"matrix": np.zeros((784, 10), np.float32), "true": np.bool_(True)})


def huge(numbers: int) -> bytes:
    """Return a model that needs an array of this many numbers."""
    one = numpy_helper.from_array(np.ones(1, np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "matrix"], ["logits"]),
        helper.make_node("Constant", [], ["shape"], value_ints=[numbers]),
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=one),
        helper.make_node("ReduceMax", ["ones"], ["largest"], keepdims=0),
        helper.make_node("Add", ["logits", "largest"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])]
    return build(nodes, ["N", 784], outputs, {"matrix": np.zeros((784, 10), np.float32)})


def with_external_weights(content: bytes, folder: Path, location: str) -> bytes:
    """Return a model whose weight matrix is declared as stored in another file."""
    model = onnx.load_model_from_string(content)
    (matrix,) = (tensor for tensor in model.graph.initializer if tensor.name == "matrix")
    raw = numpy_helper.to_array(matrix).tobytes()
    onnx.external_data_helper.set_external_data(matrix, location, offset=0, length=len(raw))
    matrix.ClearField("raw_data")
    (folder / "weights.bin").write_bytes(raw)
    return model.SerializeToString()
