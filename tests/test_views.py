"""Test that layers give the same output for shifted copies of images whether or not the copies share computations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator
from torch import nn

from mnist import views
from mnist.blocks import LocalContrast, MaxPool

# Layers for inputs with 2 channels. The second group computes windows differently at their borders.
SHARED = {
    "convolution": lambda: nn.Conv2d(2, 2, 3),
    "convolution with stride": lambda: nn.Conv2d(2, 2, 5, stride=2),
    "convolution with stride 3": lambda: nn.Conv2d(2, 2, 2, stride=3, bias=False),
    "dilated convolution": lambda: nn.Conv2d(2, 2, 3, dilation=2),
    "depthwise convolution": lambda: nn.Conv2d(2, 2, (1, 3), groups=2),
    "max-pooling": lambda: MaxPool(2),
    "max-pooling, windows of 3": lambda: MaxPool(3),
    "batch norm": lambda: nn.BatchNorm2d(2),
    "ReLU": lambda: nn.ReLU(inplace=True),
    "block": lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.Identity(), nn.Sequential(MaxPool(2), nn.ReLU(inplace=True))),
}
NOT_SHARED = {
    "padded convolution": lambda: nn.Conv2d(2, 2, 3, padding=1),
    "convolution of the same size": lambda: nn.Conv2d(2, 2, 3, padding="same"),
    "convolution with two strides": lambda: nn.Conv2d(2, 2, 3, stride=(1, 2)),
    "batch norm of the batch": lambda: nn.BatchNorm2d(2, track_running_stats=False),
    "instance norm": lambda: nn.InstanceNorm2d(2),
    "average pooling": lambda: nn.AvgPool2d(2, padding=1),
    "flatten": nn.Flatten,
}
kinds = st.lists(st.sampled_from([*SHARED, *NOT_SHARED]).filter("flatten".__ne__), max_size=5)
shifts = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=6)


def build(kinds):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [(SHARED | NOT_SHARED)[kind]() for kind in kinds]


def images(count):
    return torch.rand(count, 2, 28, 28, generator=generator(0))


def apply_to_rolled_copies(layers, images, shifts):
    copies = torch.cat([images.roll(shift, (2, 3)) for shift in shifts])
    return nn.Sequential(*layers).eval()(copies)


@given(kinds, shifts, st.sampled_from([1, views.MIN_IMAGES - 1, views.MIN_IMAGES, views.MIN_IMAGES + 5]))
def test_views_equal_the_outputs_for_rolled_copies(kinds, shifts, count):
    layers = build(kinds)
    try:
        expected = apply_to_rolled_copies(layers, images(count), shifts)
    except RuntimeError:
        return  # the features are too small for the last layers
    torch.testing.assert_close(views.apply(layers, images(count), shifts), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NOT_SHARED)
def test_layers_that_depend_on_the_border_are_not_shared(kind):
    layers, shifts = build(["convolution", kind]), [(0, 0), (2, -1), (0, 1)]
    count = views.MIN_IMAGES
    expected = apply_to_rolled_copies(layers, images(count), shifts)
    torch.testing.assert_close(views.apply(layers, images(count), shifts), expected, rtol=1e-4, atol=1e-4)


def test_local_contrast_is_not_shared():
    layers, shifts = [LocalContrast()], [(0, 0), (1, 0), (-1, 0)]
    one_channel = images(views.MIN_IMAGES)[:, :1]
    expected = apply_to_rolled_copies(layers, one_channel, shifts)
    torch.testing.assert_close(views.apply(layers, one_channel, shifts), expected, rtol=1e-4, atol=1e-4)


def test_shared_layers_run_once_per_group_of_windows():
    runs = []
    layers = build(["convolution", "max-pooling", "convolution", "max-pooling", "convolution"])
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, number=number: runs.append(number))
    views.apply(layers, images(views.MIN_IMAGES), [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
    # Shifts by 1 and -1 have the same remainder at the first pooling, but not at the second, which pools 13 of them.
    assert [runs.count(number) for number in range(5)] == [1, 3, 3, 5, 1]


@pytest.mark.parametrize("count", [0, 1, views.MIN_IMAGES])
def test_views_of_any_number_of_images(count):
    layers, shifts = build(["convolution", "max-pooling"]), [(0, 0), (0, 1)]
    assert views.apply(layers, images(count), shifts).shape == (2 * count, 2, 13, 13)
