"""Test the networks, and the counts of their parameters and multiply-accumulates."""

import contextlib
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PATIENCE, architectures, generator, normalized_images, seeds
from torch import nn
from torch.nn import functional as F

from mnist import architecture, operations
from mnist.architecture import ArchitectureError
from mnist.blocks import Conv, LocalContrast, MaxPool
from mnist.gate import gradients


@given(architectures, normalized_images())
def test_network_returns_ten_finite_logits_per_image(name, images):
    logits = architecture.build(name, generator(0)).eval()(images)
    assert logits.shape == (len(images), 10)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@given(architectures, normalized_images(min_batch=1), st.data())
def test_logits_depend_on_their_own_image_only(name, images, data):
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
def test_forward_rejects_a_wrong_shape(name, shape):
    model = architecture.build(name, generator(0))
    with pytest.raises(ValueError, match=r"expected images of shape \[B, 1, 28, 28\], got \["):
        model(torch.zeros(shape))


@given(architectures, st.sampled_from([torch.uint8, torch.float64, torch.float16, torch.int64, torch.bool]))
def test_forward_rejects_a_wrong_dtype(name, dtype):
    model = architecture.build(name, generator(0))
    with pytest.raises(TypeError, match=f"expected float32 images, got {str(dtype).removeprefix('torch.')}"):
        model(torch.zeros(2, 1, 28, 28, dtype=dtype))


@given(architectures, seeds)
def test_initial_weights_depend_on_the_generator_only(name, seed):
    first, second = (architecture.build(name, generator(seed)).state_dict() for _ in range(2))
    other = architecture.build(name, generator(seed + 1)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_build_in_two_threads_gives_the_weights_of_their_seeds(monkeypatch):
    """One thread waits for the lock, or draws in the middle of the other's draws if there is no lock."""
    at_the_lock, drawn = threading.Event(), threading.Event()
    lock = threading.Lock()

    class SignallingLock:
        def __enter__(self):
            at_the_lock.set()
            lock.acquire()

        def __exit__(self, *error):
            lock.release()

    def build_while_the_other_waits():
        at_the_lock.clear()
        other.start()
        assert at_the_lock.wait(PATIENCE)
        layer = nn.Linear(3, 2)
        drawn.set()
        return layer

    def build_after_the_other():
        at_the_lock.set()
        assert drawn.wait(PATIENCE)
        return nn.Linear(3, 2)

    monkeypatch.setattr(architecture, "_global_generator", SignallingLock())
    monkeypatch.setitem(architecture.ARCHITECTURES, "first", build_while_the_other_waits)
    monkeypatch.setitem(architecture.ARCHITECTURES, "second", build_after_the_other)
    monkeypatch.setitem(architecture.ARCHITECTURES, "alone", lambda: nn.Linear(3, 2))
    built = {}
    other = threading.Thread(target=lambda: built.update(second=architecture.build("second", generator(2))))
    built["first"] = architecture.build("first", generator(1))
    other.join(PATIENCE)
    for name, seed in (("first", 1), ("second", 2)):
        assert torch.equal(built[name].weight, architecture.build("alone", generator(seed)).weight), name


@given(architectures)
def test_every_architecture_has_fewer_than_25000_parameters(name):
    assert architecture.count_parameters(architecture.build(name, generator(0))) < 25_000


def test_cnn_has_the_documented_layers():
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


def test_count_parameters_includes_all_stored_weights():
    model = nn.Sequential(nn.Linear(3, 2, device="meta"), nn.BatchNorm1d(2))  # 8 + 4 parameters, 4 running statistics
    model[0].bias.requires_grad_(False)
    model[0].register_buffer("projection", torch.zeros(5, 7))
    model[0].register_buffer("constant", torch.zeros(100), persistent=False)
    model[0].register_buffer("indices", torch.zeros(100, dtype=torch.int64))
    model[1].weight = model[0].bias  # a shared tensor counts once
    assert architecture.count_parameters(model) == 8 + 4 - 2 + 5 * 7


def test_evaluation_mode_restores_the_mode_of_each_module():
    model = architecture.build("fast", generator(0)).train()
    first, *_ = model.children()
    first.eval()  # as in fine-tuning with fixed batch-norm statistics
    modes = [module.training for module in model.modules()]
    architecture.predict(model, torch.zeros(1, 1, 28, 28))
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2


@pytest.mark.parametrize("count", [3, 20])
def test_single_shift_is_applied(count):
    model = architecture.build("cnn", generator(0)).eval()
    images = torch.randn(count, 1, 28, 28, generator=generator(1))
    expected = model(images.roll((3, -1), (2, 3)))
    model.shifts = ((3, -1),)
    torch.testing.assert_close(model(images), expected)


def test_multiply_accumulates_equal_a_manual_count():
    by_hand = 28 * 28 * 6 * (3 * 3 * 1) + 14 * 14 * 12 * (3 * 3 * 6) + 588 * 24 + 24 * 10
    model = architecture.build("cnn", generator(0))
    assert operations.count_multiply_accumulates(model) == by_hand
    assert not any(layer._forward_hooks for layer in model.modules()), "hooks must be removed"


def test_pooling_before_relu_does_not_change_the_logits():
    model, images = architecture.build("cnn", generator(0)), torch.randn(5, 1, 28, 28, generator=generator(1))
    x = F.max_pool2d(F.relu(model.conv1(images)), 2)
    x = F.max_pool2d(F.relu(model.conv2(x)), 2)
    torch.testing.assert_close(model(images), model.fc2(F.relu(model.fc1(x.flatten(1)))))


BUDGETS = {f"compact-{k}k": 1000 * k for k in (25, 10, 5, 2, 1)} | {"contrast-25k": 25_000}


@pytest.mark.parametrize(("name", "budget"), BUDGETS.items())
def test_network_stays_within_the_budget_in_its_name(name, budget):
    assert architecture.count_parameters(architecture.build(name, generator(0))) <= budget


@given(seeds, st.integers(1, 4), st.integers(0, 3), st.tuples(st.integers(4, 13), st.integers(4, 13)))
def test_max_pooling_equals_pytorch(seed, side, batch, size):
    images = torch.randn(batch, 3, *size, generator=generator(seed))
    images[images > 2] = torch.nan
    images = images.to(memory_format=torch.channels_last)
    layer, expected = MaxPool(side), F.max_pool2d(images, side)
    with torch.inference_mode():
        torch.testing.assert_close(layer(images), expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(layer(images), expected, rtol=0, atol=0, equal_nan=True)


def local_contrast(images: torch.Tensor, window: int, epsilon: float) -> torch.Tensor:
    """Compute local contrast normalization pixel by pixel, in double precision."""
    result, reach = torch.zeros(len(images), 2, 28, 28, dtype=torch.float64), window // 2
    for row in range(28):
        for column in range(28):
            around = images[:, 0, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            around = around.double().flatten(1)
            deviation = (around.var(1, correction=0) + epsilon).sqrt()
            result[:, 0, row, column] = (images[:, 0, row, column] - around.mean(1)) / deviation
    result[:, 1] = result[:, 0].abs()
    return result


@settings(max_examples=5)
@given(seeds, st.sampled_from([1, 3, 9, 27]))
def test_local_contrast_equals_its_definition(seed, window):
    images = torch.randn(3, 1, 28, 28, generator=generator(seed))
    layer = LocalContrast(window, epsilon=0.2)
    expected = local_contrast(images, window, 0.2)
    torch.testing.assert_close(layer(images).double(), expected, rtol=1e-3, atol=1e-4)


@given(seeds, st.floats(0.2, 5), st.floats(-3, 3))
def test_local_contrast_ignores_brightness_and_contrast(seed, contrast, brightness):
    images = torch.randn(2, 1, 28, 28, generator=generator(seed))
    layer = LocalContrast(epsilon=1e-6)
    expected = layer(images)
    torch.testing.assert_close(layer(images * contrast + brightness), expected, rtol=1e-2, atol=1e-2)
    inverted = layer(brightness - images * contrast)
    torch.testing.assert_close(inverted[:, 0], -expected[:, 0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(inverted[:, 1], expected[:, 1], rtol=1e-2, atol=1e-2)


def test_local_contrast_has_no_parameters():
    assert not LocalContrast().state_dict()
    assert not list(LocalContrast().parameters())


def test_conv_has_its_stated_width_and_side():
    layers = [Conv(4), Conv(5, kernel=5, stride=2), Conv(3, padding=1, pool=2, norm=False), Conv(7, separable=True)]
    for layer in layers:
        with torch.random.fork_rng(devices=[]):
            built = layer.build(2)
        assert built(torch.zeros(2, 2, 28, 28)).shape == (2, layer.width, layer.side(28), layer.side(28))


@given(normalized_images(min_batch=1))
def test_views_are_averaged_in_evaluation_only(images):
    model = architecture.build("fast", generator(0)).eval()
    padded = F.pad(images, (1, 1, 1, 1), mode="circular")
    windows = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    views = [padded[:, :, top : top + 28, left : left + 28] for top, left in windows]
    alone = [model.head(model.features(view).flatten(1)) for view in views]
    torch.testing.assert_close(model(images), sum(alone) / 5, rtol=1e-4, atol=1e-4)
    model.train()
    for module in model.features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.testing.assert_close(model(images), alone[0], rtol=1e-4, atol=1e-4)


def test_multiply_accumulates_include_every_view():
    by_hand = 12 * 12 * 16 * 25 + 12 * 12 * 16 * (16 * 9) + 6 * 6 * 32 * (16 * 9) + 32 * 6 * 6 * 10
    model = architecture.build("fast", generator(0))
    assert operations.count_multiply_accumulates(model) == 5 * by_hand


@pytest.mark.parametrize("training", [True, False])
def test_inspection_leaves_the_model_unchanged(training):
    model = architecture.build("fast", generator(0)).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(3, 1, 28, 28, generator=generator(1))
    operations.count_multiply_accumulates(model)
    architecture.predict(model, images)
    with contextlib.suppress(ZeroDivisionError), architecture.evaluation_mode(model):
        gradients.compute(model, images, torch.arange(3))
        assert not model.training
        raise ZeroDivisionError
    assert model.training == training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_build_rejects_an_unknown_architecture():
    with pytest.raises(ArchitectureError, match=r"no architecture is called 'resnet' .*cnn"):
        architecture.build("resnet", generator(0))


def test_predict_does_not_depend_on_the_batch_size():
    """The mode of the model is restored."""
    model = architecture.build("cnn", generator(0)).train()
    images = torch.randn(10, 1, 28, 28, generator=generator(1))
    expected = torch.cat([architecture.predict(model, image[None]) for image in images])
    for batch_size in (1, 3, 10, 1000):
        torch.testing.assert_close(architecture.predict(model, images, batch_size), expected, rtol=1e-4, atol=1e-4)
    assert model.training


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Recording(architecture.CNN):
    """A network that records the thread of each batch, and the number of threads that compute it."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append((threading.get_ident(), torch.get_num_threads()))
        return super().forward(images)


@pytest.mark.usefixtures("two_threads")
def test_predict_computes_each_batch_in_one_thread():
    model = Recording()
    images = torch.randn(20, 1, 28, 28, generator=generator(1))
    logits = architecture.predict(model, images, 4)
    assert len(model.calls) == 5
    assert threading.get_ident() not in {thread for thread, _ in model.calls}
    assert {threads for _, threads in model.calls} == {1}
    assert torch.get_num_threads() == 2, "the number of threads is restored"
    with torch.inference_mode():
        expected = torch.cat([model.eval()(batch) for batch in images.split(4)])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("two_threads")
def test_predict_restores_the_threads_after_an_error():
    model = architecture.build("cnn", generator(0)).train()
    with pytest.raises(TypeError, match="expected float32 images"):
        architecture.predict(model, torch.zeros(20, 1, 28, 28, dtype=torch.float64), 4)
    assert torch.get_num_threads() == 2
    assert model.training


@pytest.mark.usefixtures("two_threads")
def test_predict_calls_unknown_modules_in_the_current_thread_only():
    """Such a module can have a state, or be a process that answers one request at a time."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.threads = architecture.build("cnn", generator(0)), []

        def forward(self, images):
            self.threads.append(threading.get_ident())
            return self.model(images)

    model = Wrapped()
    architecture.predict(model, torch.zeros(20, 1, 28, 28), 4)
    assert model.threads == [threading.get_ident()] * 5
