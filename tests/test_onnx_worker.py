"""ONNX models in this process; `test_onnx_models.py` runs them in a process of their own."""

import contextlib
import hashlib
import subprocess
import sys

import foreign
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mnist import architecture, onnx_worker, transforms
from mnist.deploy import export
from mnist.onnx_weights import ModelError, count_parameters
from mnist.onnx_worker import INTEGER_RANGE, LAYOUTS, RANGES, Model
from mnist.storage import artifacts

LOGITS = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])]


@pytest.fixture(scope="module")
def weights(subset):
    return foreign.linear_weights(subset.train)


@pytest.fixture(scope="module")
def pixels(subset):
    return subset.test.images[:50, 0].float().numpy()


def softmax(scores):
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_worker_imports_neither_torch_nor_onnx_before_a_request():
    program = (
        "import sys, mnist.onnx_worker\nprint([name for name in ('torch', 'onnx', 'scipy') if name in sys.modules])"
    )
    run = [sys.executable, "-c", program]
    assert subprocess.run(run, capture_output=True, text=True, encoding="utf-8", check=True).stdout == "[]\n"


@given(
    layout=st.sampled_from(list(LAYOUTS)),
    range=st.sampled_from(list(RANGES)),
    dtype=st.sampled_from(["float32", "float64", "float16"]),
    batch=st.sampled_from([None, 1, 7, 64]),
    output=st.sampled_from(["logits", "probabilities", "label and array", "label and map"]),
)
def test_scores_are_equal_for_every_input_and_output(weights, pixels, layout, range, dtype, batch, output):
    content = foreign.classifier(weights, layout=layout, range=range, dtype=dtype, batch=batch, output=output)
    model = Model(content, folder=".", threads=1)
    assert model.description["layouts"] == [layout]
    assert model.description["ranges"] == list(RANGES)
    assert model.description["batch"] == batch
    expected = pixels.reshape(-1, 784) / 255 @ weights[0] + weights[1]
    expected = expected if output == "logits" else softmax(expected)
    found = model.answer(pixels, layout, range)
    assert found.shape == (50, 10)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < (0.1 if dtype == "float16" else 1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_model_with_integer_pixels_gets_0_to_255(weights, pixels, dtype):
    content = foreign.classifier(weights, range="0-255", dtype=dtype)
    model = Model(content, folder=".", threads=1)
    assert model.description["ranges"] == [INTEGER_RANGE]
    expected = pixels.reshape(-1, 784) / 255 @ weights[0] + weights[1]
    assert np.abs(model.answer(pixels, "[N, 784]", INTEGER_RANGE) - expected).max() < 1e-3


def test_model_of_unknown_shape_offers_every_layout(weights):
    content = onnx.load_model_from_string(foreign.classifier(weights))
    content.graph.input[0].type.tensor_type.ClearField("shape")
    assert Model(content.SerializeToString(), folder=".", threads=1).description["layouts"] == list(LAYOUTS)


def test_scores_are_found_only_where_each_image_has_ten():
    labels = [{str(label): label / 45 for label in reversed(range(10))}] * 3
    assert onnx_worker.to_scores(labels, 3).tolist() == [pytest.approx([label / 45 for label in range(10)])] * 3
    assert onnx_worker.to_scores(np.zeros((3, 10, 1, 1), np.float64), 3).shape == (3, 10)
    wrong = [
        *(np.zeros((3, 10), np.int64), np.zeros((3, 9)), np.zeros((10, 3)), np.zeros(30), np.array(["a"] * 3)),
        *([{"one": 1.0}] * 3, [dict.fromkeys(range(9), 0.1)] * 3, [dict.fromkeys(range(1, 11), 0.1)] * 3, []),
    ]
    assert [onnx_worker.to_scores(output, 3) for output in wrong] == [None] * len(wrong)


# ---- Parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "fast", "compact-1k"])
def test_parameters_agree_with_pytorch(name, tmp_path, saved_model):
    """Batch norms also store their running statistics, and shifts by one pixel need two lists of 28 indices."""
    model = architecture.build(name, transforms.torch.Generator().manual_seed(0)).eval()
    artifact = artifacts.load(saved_model)
    content = export.to_onnx(type(artifact)(**{**vars(artifact), "model": model, "architecture": name, "card": None}))
    statistics = sum(buffer.numel() for key, buffer in model.named_buffers() if "running" in key)
    indices = 2 * 28 if model.views > 1 else 0
    found = count_parameters(onnx.load_model_from_string(content))
    assert found == architecture.count_parameters(model) + statistics + indices


def test_parameters_count_wherever_they_are_hidden():
    numbers = np.arange(100, dtype=np.float32)
    constant = helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(numbers))
    floats = helper.make_node("Constant", [], ["b"], value_floats=numbers.tolist())
    branch = helper.make_graph([], "branch", [], LOGITS, [numpy_helper.from_array(numbers, "y")])
    nested = helper.make_node("If", ["x"], ["c"], then_branch=branch, else_branch=branch)
    integers = np.arange(1000, dtype=np.int64)
    values = numpy_helper.from_array(numbers, "y")
    indices = numpy_helper.from_array(integers[:100], "y_indices")
    sparse = helper.make_graph(
        [], "sparse", [], LOGITS, sparse_initializer=[helper.make_sparse_tensor(values, indices, [1000])]
    )
    for nodes, constants, expected in (
        ([constant], {}, 100),
        ([floats], {}, 100),
        ([nested], {}, 200),
        ([], {"table": integers}, 1000),
        ([], {"shape": integers[:16], "scale": np.float32(2)}, 0),
        ([], {f"shape{number}": integers[:16] for number in range(100)}, 600),
        ([helper.make_node("Constant", [], ["a"], value_string="1.5," * 1000)], {}, 750),
        ([helper.make_node("Constant", [], ["a"], value_strings=["0.25"] * 1000)], {}, 750),
        ([helper.make_node("If", ["x"], ["c"], then_branch=sparse, else_branch=sparse)], {}, 400),
        ([], {"quantized": integers[:100].astype(np.int8)}, 100),
    ):
        model = onnx.load_model_from_string(foreign.build(nodes, [1], LOGITS, constants))
        assert count_parameters(model) == expected


def test_parameters_count_in_functions_and_dimensions():
    numbers = np.arange(100, dtype=np.float32)
    default = helper.make_attribute("table", numbers.tolist())
    function = helper.make_function("own", "F", ["a"], ["b"], [], foreign.OPSETS)
    function.attribute_proto.append(default)
    model = onnx.load_model_from_string(foreign.build([], [1], LOGITS, {}))
    model.functions.append(function)
    assert count_parameters(model) == 100
    empty = TensorProto(name="empty", data_type=TensorProto.FLOAT, dims=[0, *range(1, 2000)])
    model.graph.initializer.append(empty)
    assert count_parameters(model) == 100 + 2000
    empty.dims[0] = -1
    model.graph.initializer.append(empty)
    with pytest.raises(ModelError, match="negative dimension"):
        count_parameters(model)


@pytest.mark.parametrize(
    ("dtype", "value", "each"),
    [
        ("int64", 2**31 - 1, 1),
        ("int64", -(2**31), 1),
        ("int64", -(2**31) - 1, 2),
        ("int64", -(2**63), 2),
        ("uint64", 2**32, 2),
        ("uint64", 2**32 - 1, 1),
    ],
)
def test_large_integers_count_twice(dtype, value, each):
    """They can hold two numbers of 32 bits."""
    tables = {"table": np.full(100, value, np.dtype(dtype))}
    assert count_parameters(onnx.load_model_from_string(foreign.build([], [1], LOGITS, tables))) == 100 * each
    if dtype == "int64":
        nodes = [helper.make_node("Constant", [], ["a"], value_ints=[value] * 100)]
        assert count_parameters(onnx.load_model_from_string(foreign.build(nodes, [1], LOGITS, {}))) == 100 * each


def test_attributes_of_many_nodes_are_settings():
    """An operation that has one attribute counts as one number, of which the first 1,000 are not counted."""
    nodes = [helper.make_node("Cast", ["x"], [f"y{number}"], to=1) for number in range(4000)]
    assert count_parameters(onnx.load_model_from_string(foreign.build(nodes, [1], LOGITS, {}))) == 3000


@pytest.mark.parametrize("nested", [False, True])
def test_random_operators_are_refused(nested):
    """They keep a state between calls, even with a fixed seed."""
    node = helper.make_node("RandomUniform", [], ["y"], shape=[1, 10], seed=1.0)
    if nested:
        branch = helper.make_graph([node], "branch", [], LOGITS)
        node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(ModelError, match="RandomUniform, which draws random numbers"):
        Model(foreign.build([node], [1], LOGITS, {}), ".", 1)


def test_output_named_probabilities_is_preferred(weights, pixels):
    """`mnist predict` uses this output."""
    model = onnx.load_model_from_string(foreign.classifier(weights, output="probabilities"))
    model.graph.node.append(helper.make_node("Neg", ["logits"], ["other"]))
    model.graph.output.insert(0, helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 10]))
    found = Model(model.SerializeToString(), ".", 1).answer(pixels, "[N, 784]", "0-1")
    expected = Model(foreign.classifier(weights), ".", 1).answer(pixels, "[N, 784]", "0-1")
    np.testing.assert_allclose(found, softmax(expected), atol=1e-6)


@pytest.mark.parametrize(("operator", "refused"), [("ArgMax", False), ("ArgMin", True)])
def test_output_named_digit_must_be_the_best_class(weights, pixels, operator, refused):
    model = onnx.load_model_from_string(foreign.classifier(weights))
    model.graph.node.append(helper.make_node(operator, ["logits"], ["digit"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("digit", TensorProto.INT64, ["N"]))
    loaded = Model(model.SerializeToString(), ".", 1)
    with pytest.raises(ModelError, match='"digit" is not always') if refused else contextlib.nullcontext():
        loaded.answer(pixels, "[N, 784]", "0-1")


def test_numbers_that_are_not_finite_are_counted(weights):
    matrix, bias = weights[0].copy(), weights[1].copy()
    matrix[0, :3], bias[0] = np.nan, np.inf
    assert Model(foreign.classifier((matrix, bias)), ".", 1).description["weights_not_finite"] == 4
    assert Model(foreign.classifier(weights), ".", 1).description["weights_not_finite"] == 0


# ---- Refused files ---------------------------------------------------------------------------------------------------


def test_external_weights_in_the_folder_are_read(weights, pixels, tmp_path):
    content = foreign.with_external_weights(foreign.classifier(weights), tmp_path, "weights.bin")
    model = Model(content, str(tmp_path), threads=1)
    assert model.description["external_bytes"] == 784 * 10 * 4
    assert model.description["external_sha256"] == hashlib.sha256((tmp_path / "weights.bin").read_bytes()).hexdigest()
    expected = pixels.reshape(-1, 784) / 255 @ weights[0] + weights[1]
    assert np.abs(model.answer(pixels, "[N, 784]", "0-1") - expected).max() < 1e-3


@pytest.mark.parametrize(
    "location", ["../weights.bin", "{absolute}", "sub/../../weights.bin", "..\\weights.bin", "", "link"]
)
def test_external_weights_elsewhere_are_refused(weights, tmp_path, location):
    content = foreign.classifier(weights)
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    location = location.replace("{absolute}", str(tmp_path / "weights.bin"))
    if location == "link":
        try:
            (folder / "link").symlink_to(tmp_path / "weights.bin")
        except OSError:
            pytest.skip("this account may not create links")
    content = foreign.with_external_weights(content, tmp_path, location or "weights.bin")
    if not location:
        content = content.replace(b"weights.bin", b"")
    with pytest.raises(Exception, match=r"not in the model's folder|not an ONNX file"):
        Model(content, str(folder), threads=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an ONNX file|it has 0 inputs|graph"),
        (b"\x00" * 100, "not an ONNX file"),
        (foreign.build([helper.make_node("Identity", ["x"], ["y"])], ["N", 3, 28, 28], LOGITS, {}), "shape"),
        (
            foreign.build([helper.make_node("Identity", ["x"], ["y"])], ["N", 784], LOGITS, {}, TensorProto.STRING),
            "tensor.string|Type",
        ),
        (
            foreign.build([helper.make_node("Backdoor", ["x"], ["y"], domain="evil")], ["N", 784], LOGITS, {}),
            "Backdoor|evil",
        ),
    ],
)
def test_other_onnx_files_are_refused(content, message):
    with pytest.raises(Exception, match=message):
        Model(content, folder=".", threads=1)


def test_outputs_without_ten_scores_are_refused(pixels):
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 784])]
    content = foreign.build([helper.make_node("Identity", ["x"], ["y"])], ["N", 784], outputs, {})
    with pytest.raises(ModelError, match=r"no output has 10 scores for each image .* \[50, 784\]"):
        Model(content, folder=".", threads=1).answer(pixels, "[N, 784]", "0-1")
