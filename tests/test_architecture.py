import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, generator, normalized_images, seeds
from torch import nn

from mnist import architecture
from mnist.architecture import ArchitectureError


@given(architectures, normalized_images())
def test_any_batch_of_finite_images_gives_ten_finite_logits_each(name, images):
    logits = architecture.build(name, generator(0)).eval()(images)
    assert logits.shape == (len(images), 10)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@given(architectures, normalized_images(min_batch=1), st.data())
def test_a_row_of_logits_depends_on_its_own_image_alone(name, images, data):
    model = architecture.build(name, generator(0)).eval()
    row = data.draw(st.integers(0, len(images) - 1))
    others_changed = torch.randn(images.shape, generator=generator(1))
    others_changed[row] = images[row]
    torch.testing.assert_close(model(images)[row], model(others_changed)[row], rtol=1e-4, atol=1e-4)


@given(architectures, normalized_images())
def test_memory_layout_does_not_change_the_logits(name, images):
    model = architecture.build(name, generator(0)).eval()
    other = architecture.build(name, generator(0)).eval().to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.contiguous()), other(images), rtol=1e-4, atol=1e-4)


@given(
    architectures,
    st.lists(st.integers(0, 4) | st.just(28), min_size=0, max_size=5).filter(lambda s: s[1:] != [1, 28, 28]),
)
def test_a_wrong_shape_is_refused_with_the_shape_expected(name, shape):
    model = architecture.build(name, generator(0))
    with pytest.raises(ValueError, match=r"expected images of shape \[B, 1, 28, 28\], got \["):
        model(torch.zeros(shape))


@given(architectures, st.sampled_from([torch.uint8, torch.float64, torch.float16, torch.int64, torch.bool]))
def test_a_wrong_dtype_is_refused_with_the_dtype_expected(name, dtype):
    model = architecture.build(name, generator(0))
    with pytest.raises(TypeError, match=f"expected float32 images, got {str(dtype).removeprefix('torch.')}"):
        model(torch.zeros(2, 1, 28, 28, dtype=dtype))


@given(architectures, seeds)
def test_the_generator_alone_decides_the_initial_weights(name, seed):
    first, second = (architecture.build(name, generator(seed)).state_dict() for _ in range(2))
    other = architecture.build(name, generator(seed + 1)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@given(architectures)
def test_every_architecture_stays_under_25000_parameters(name):
    assert architecture.count_parameters(architecture.build(name, generator(0))) < 25_000


def test_the_cnn_has_the_layers_of_its_description():
    state = architecture.build("cnn", generator(0)).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {
        "conv1.weight": [6, 1, 3, 3],
        "conv1.bias": [6],
        "conv2.weight": [12, 6, 3, 3],
        "conv2.bias": [12],
        "fc1.weight": [24, 588],
        "fc1.bias": [24],
        "fc2.weight": [10, 24],
        "fc2.bias": [10],
    }


def test_frozen_parameters_are_not_counted():
    layer = nn.Linear(3, 2, device="meta")
    layer.bias.requires_grad_(False)
    assert architecture.count_parameters(layer) == 6


def test_multiply_accumulates_are_those_of_every_product_written_out():
    by_hand = 28 * 28 * 6 * (3 * 3 * 1) + 14 * 14 * 12 * (3 * 3 * 6) + 588 * 24 + 24 * 10
    model = architecture.build("cnn", generator(0))
    assert architecture.count_multiply_accumulates(model) == by_hand
    assert not any(layer._forward_hooks for layer in model.modules()), "counting leaves no hook behind"


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ArchitectureError, match=r"no architecture is called 'resnet' .*cnn"):
        architecture.build("resnet", generator(0))
