"""The description of a network's layers."""

import pytest
import torch
from strategies import generator
from torch import nn

from mnist import architecture
from mnist.architecture import ARCHITECTURES, CNN
from mnist.blocks import LocalContrast
from mnist.deploy import layers
from mnist.deploy.layers import (
    AveragePooling,
    Contrast,
    Convolution,
    Flatten,
    LayerError,
    Linear,
    MaxPooling,
    Normalization,
    ReLU,
    Weight,
)


def with_layers(*added: nn.Module) -> CNN:
    """Return a network of these layers alone, registered as its submodules."""
    model = architecture.build("cnn", generator(0))
    model.added = nn.Sequential(*added)
    model.layers = lambda: [model.added]
    return model


def test_describe_reads_every_setting():
    convolution = nn.utils.skip_init(
        nn.Conv2d, 4, 6, (3, 5), stride=(2, 1), padding=(3, 1), dilation=(1, 2), groups=2, bias=False
    )
    first, second, third = layers.describe(
        with_layers(convolution, nn.MaxPool2d(3, stride=2), nn.AvgPool2d((2, 3), stride=(1, 2)))
    )
    assert isinstance(first, Convolution)
    assert (first.stride, first.padding, first.dilation, first.groups) == ((2, 1), (3, 1), (1, 2), 2)
    assert (first.weight.name, first.bias) == ("added.0.weight", None)
    assert second == MaxPooling((3, 3), (2, 2))
    assert third == AveragePooling((2, 3), (1, 2))


def test_describe_local_contrast():
    assert layers.describe(with_layers(LocalContrast(5, epsilon=0.5))) == [Contrast(5, 0.5)]


def test_describe_removes_nesting_and_identities():
    nested = nn.Sequential(nn.Identity(), nn.Sequential(nn.ReLU(), nn.AvgPool2d(1)), nn.Flatten())
    assert layers.describe(with_layers(nested)) == [ReLU(), Flatten()]


def test_describe_batch_norm_without_affine_has_neutral_scale():
    (layer,) = layers.describe(with_layers(nn.BatchNorm2d(3, eps=0.1, affine=False)))
    assert isinstance(layer, Normalization)
    assert layer.epsilon == 0.1
    assert torch.equal(layer.scale.value, torch.ones(3))
    assert torch.equal(layer.shift.value, torch.zeros(3))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_describe_covers_every_weight_under_its_name(name):
    model = architecture.build(name, generator(0))
    described = {
        weight.name: weight.value
        for layer in layers.describe(model)
        for weight in vars(layer).values()
        if isinstance(weight, Weight)
    }
    expected = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert described.keys() == expected.keys()
    assert all(torch.equal(described[key], expected[key]) for key in expected)
    assert not any(value.requires_grad for value in described.values())
    assert isinstance(layers.describe(model)[-1], Linear)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Tanh(),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AvgPool2d(1, divisor_override=2),
        nn.BatchNorm2d(1, track_running_stats=False),
        nn.Flatten(2),
        nn.Sequential(nn.Sequential(nn.Softmax(1))),
    ],
    ids=str,
)
def test_describe_refuses_unsupported_layer(layer):
    with pytest.raises(LayerError, match=r"do not support the layer \w+\(.*\) \(add support for it in") as refused:
        layers.describe(with_layers(layer))
    assert "\n" not in str(refused.value)
