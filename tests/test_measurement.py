"""Test what the gate measures of a model."""

import copy
import dataclasses
import math
import time
from types import SimpleNamespace

import judged_models
import pytest
import torch
from hypothesis import given, settings
from strategies import generator, mistakes_from, seeds
from torch import nn
from torchvision.transforms.v2 import functional

from mnist import architecture, gate, metrics, transforms
from mnist.datasets import Split
from mnist.gate import contract, gradients, measurement, performance, probes, sampling, single_images
from mnist.gate.corruptions import CORRUPTIONS


def test_gradients_equal_those_of_backward():
    model = architecture.build("cnn", generator(0)).eval()
    images, labels = torch.randn(250, 1, 28, 28, generator=generator(1)), torch.arange(250) % 10
    found = gradients.compute(model, images, labels)
    assert all(parameter.grad is None for parameter in model.parameters()), "computing gradients must not set .grad"
    nn.functional.cross_entropy(model(images), labels).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


# ---- Measurement -----------------------------------------------------------------------------------------------------


@pytest.fixture
def measure(subset):
    """Measure a model on the test images of the subset, or on a part of them."""

    def run(model, test=subset.test, **options):
        return measurement.measure(
            model, architecture.build("cnn", generator(0)), test, subset.train, bytes=1, **options
        )

    return run


class Altered(nn.Module):
    """A model that changes the logits of another."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change
        self.eval()

    def forward(self, images):
        return self.change(self.model(images))


@pytest.mark.slow
def test_measurement_equals_a_simple_computation(measure, trained, subset):
    found = measure(trained.model)
    logits = torch.cat([trained.model(image[None]) for image in transforms.prepare(subset.test.images)]).detach()
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-4)
    predictions, labels = logits.argmax(1), subset.test.labels
    assert found.confusion == tuple(map(tuple, metrics.confusion_matrix(labels, predictions, 10).tolist()))
    assert found.accuracy == pytest.approx((predictions == labels).float().mean().item())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    confidence, correct = logits.softmax(1).amax(1), predictions == labels
    assert found.confidence_right.value == pytest.approx(confidence[correct].mean().item(), rel=1e-5)
    assert found.confidence_wrong.value == pytest.approx(confidence[~correct].mean().item(), rel=1e-4)
    assert (found.images, found.measured_on, found.bytes) == (1000, subset.test.description, 1)
    chosen = torch.randperm(len(subset.train), generator=generator(0))[: measurement.TRAINING_SAMPLE]
    sampled = trained.model(transforms.prepare(subset.train.images[chosen])).argmax(1)
    assert found.seen[0] == measurement.TRAINING_SAMPLE
    assert found.seen[1] == pytest.approx(int((sampled == subset.train.labels[chosen]).sum()), abs=1)
    assert 0 < found.latency < 1
    assert found.batch_disagreement < 1e-4


def test_gradient_norms_cover_every_parameter(measure, trained):
    found, names = measure(trained.model), {name for name, _ in trained.model.named_parameters()}
    assert set(found.gradient_norms) == set(found.initial_gradient_norms) == names


def test_probes_cover_every_kind_of_change(measure, trained, subset):
    found = measure(trained.model)
    correct = found.logits.argmax(1) == subset.test.labels
    kinds = [probe.kind for probe in found.probes]
    assert [kinds.count(kind) for kind in dict.fromkeys(kinds)] == [
        1,
        len(probes.PIXEL_NOISE_SIGMAS),
        4,
        2,
        len(CORRUPTIONS),
    ]
    assert [probe.name for probe in found.probes[-len(CORRUPTIONS) :]] == list(CORRUPTIONS)
    for probe in found.probes:
        assert probe.images == 100
        before = probe.right + probe.lost - probe.gained
        assert 0 <= before <= min(100, int(correct.sum()))
        assert probe.sample.shape == (4, 28, 28)
        assert probe.sample.dtype == torch.uint8


def test_sample_of_a_probe_saturates():
    """Noise can make pixels darker than black and brighter than white."""
    changed = torch.tensor([-0.2, 0.0, 1.0, 1.2]).view(4, 1, 1, 1).expand(4, 1, 28, 28)
    nothing = torch.zeros(4, dtype=torch.bool)
    probe = probes.describe(next(iter(probes.kinds())), torch.arange(4), changed, nothing, nothing)
    assert probe.sample[:, 0, 0].tolist() == [0, 0, 255, 255]


def test_probes_count_images_recognized_before_or_after_only(measure, trained, subset):
    """All images are in every probe if there are at most as many as a probe takes."""
    split = Split(subset.test.images[::10], subset.test.labels[::10], "a hundred images")
    found = measure(trained.model, split)
    n_correct = int((found.logits.argmax(1) == split.labels).sum())
    assert all(probe.right + probe.lost - probe.gained == n_correct for probe in found.probes)
    assert sum(probe.lost for probe in found.probes) > sum(probe.gained for probe in found.probes)


def test_changes_have_their_nominal_strength(subset):
    inner = transforms.to_float(subset.test.images[:200])[..., 2:-2, 2:-2]
    pixels = nn.functional.pad(inner, (2, 2, 2, 2))  # so that roll() moves only zeros to the opposite side
    changed = {kind.name: kind.change(pixels, generator(0)) for kind in probes.kinds()}
    for name, shift in {"right": (0, 2), "left": (0, -2), "down": (2, 0), "up": (-2, 0)}.items():
        torch.testing.assert_close(changed[f"2 pixels {name}"], pixels.roll(shift, (2, 3)), rtol=0, atol=1e-5)
    for name, angle in {"right": 10, "left": -10}.items():
        rotated = functional.affine(pixels, angle, [0, 0], 1, [0.0], functional.InterpolationMode.BILINEAR)
        torch.testing.assert_close(changed[f"10° {name}"], rotated, rtol=0, atol=1e-4)
    noise = transforms.normalize(changed["noise, sigma 0.1"]) - transforms.normalize(pixels)
    assert noise.std().item() == pytest.approx(0.1, rel=0.01)
    assert sorted(set(probes.PIXEL_NOISE_SIGMAS)) == list(probes.PIXEL_NOISE_SIGMAS)
    for sigma in probes.PIXEL_NOISE_SIGMAS:
        noisy = changed[f"pixel noise, sigma {sigma:g}"]
        assert 0 <= noisy.min() <= noisy.max() <= 1
        black = noisy[pixels == 0]
        assert black[black > 0].square().mean().sqrt().item() == pytest.approx(sigma, rel=0.03)


def test_more_noise_lowers_the_accuracy(measure, trained):
    noise = [probe.right for probe in measure(trained.model).probes if probe.kind == "pixel noise"]
    assert noise[0] > noise[-1]


@pytest.mark.slow
@settings(max_examples=3)
@given(seeds)
def test_measurement_does_not_depend_on_the_order_of_images(measure, trained, subset, seed):
    order = torch.randperm(300, generator=generator(seed))
    images, labels = subset.test.images[:300], subset.test.labels[:300]
    some, shuffled = (Split(images[o], labels[o], "some") for o in (torch.arange(300), order))
    one, other = (dataclasses.replace(measure(trained.model, split), latency=0) for split in (some, shuffled))
    assert one == other
    assert torch.equal(one.logits[order], other.logits)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_measurement_does_not_depend_on_the_batch_size(measure, trained, subset, batch_size):
    """Figures are equal up to rounding, and the verdicts are the same."""
    some = Split(subset.test.images[:200], subset.test.labels[:200], "some")
    one, other = measure(trained.model, some), measure(trained.model, some, batch_size=batch_size)
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-3)
    policy = gate.load_policy(dataset="subset")
    verdicts = [[verdict.outcome for verdict in gate.judge(measurement, policy)] for measurement in (one, other)]
    assert verdicts[0] == verdicts[1]


@pytest.mark.slow
def test_measure_is_repeatable_and_leaves_the_model_unchanged(measure, trained):
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    one, other = (dataclasses.replace(measure(trained.model), latency=0) for _ in range(2))
    assert one == other
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())
    assert not any(module.training for module in trained.model.modules())


@pytest.mark.slow
def test_measure_uses_evaluation_mode_and_restores_training_mode(measure):
    model = architecture.build("fast", generator(1)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    in_training, in_use = measure(model), measure(architecture.build("fast", generator(1)).eval())
    assert dataclasses.replace(in_training, latency=0) == dataclasses.replace(in_use, latency=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training


@pytest.mark.slow
def test_initial_gradients_are_computed_in_training_mode(subset):
    initial, same = (architecture.build("fast", generator(1)) for _ in range(2))
    test = Split(subset.test.images[:50], subset.test.labels[:50], "some")
    found = measurement.measure(architecture.build("fast", generator(2)), initial.eval(), test, subset.train, bytes=1)
    expected = gradients.compute(same.train(), transforms.prepare(test.images), test.labels)
    assert found.initial_gradient_norms == pytest.approx({n: g.norm().item() for n, g in expected.items()}, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        pytest.param(lambda logits: logits[:, :9], "float32 [0, 9]", id="nine logits"),
        pytest.param(lambda logits: logits.double(), "float64 [0, 10]", id="another dtype"),
        pytest.param(lambda logits: logits * math.nan, "not finite", id="not finite"),
        pytest.param(
            lambda logits: logits if len(logits) else logits.new_zeros(1, 10),
            "for an empty batch",
            id="one row for an empty batch",
        ),
        pytest.param(lambda logits: 1 / 0, "ZeroDivisionError: division by zero", id="exception"),
        pytest.param(lambda logits: logits.log(), "not finite", id="sometimes not finite"),
    ],
)
def test_contract_violation_stops_the_measurement(measure, trained, change, violation):
    found = measure(Altered(trained.model, change))
    assert any(violation in message for message in found.contract_violations), found.contract_violations
    assert (found.confusion, found.probes, found.gradient_norms, len(found.logits)) == ((), (), {}, 0)
    assert math.isnan(found.accuracy)
    assert math.isnan(found.latency)


def test_contract_includes_a_batch_of_64_images(measure, trained):
    fails_for_64 = Altered(trained.model, lambda logits: logits * (math.nan if len(logits) == 64 else 1))
    violations = measure(fails_for_64, batch_size=10).contract_violations
    assert any(violation.startswith("for 64 images a logit is not finite") for violation in violations), violations


def test_nan_for_a_single_image_violates_the_contract(measure, trained, subset):
    darkest = transforms.prepare(subset.test.images).sum((1, 2, 3)).max()

    class NanForOneImage(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = trained.model
            self.eval()

        def forward(self, images):
            return torch.where((images.sum((1, 2, 3)) == darkest)[:, None], math.nan, self.model(images))

    (violation,) = measure(NanForOneImage()).contract_violations
    assert violation.startswith("ValueError: for 1 of 1,000 images (unchanged) a logit is not finite")


def test_batch_disagreement_detects_a_dependence_on_the_batch(measure, trained):
    found = measure(Altered(trained.model, lambda logits: logits - logits.mean(0) if len(logits) else logits))
    assert found.batch_disagreement > 0.01


@pytest.mark.parametrize("size", [2, 7, 100, 256])
def test_batch_disagreement_covers_batches_of_many_sizes(measure, trained, size):
    found = measure(Altered(trained.model, lambda logits: logits.roll(1, 1) if len(logits) == size else logits))
    assert found.batch_disagreement > 0.5


def test_batch_disagreement_is_that_of_the_worst_image(measure, trained, subset):
    """A model that answers otherwise for one of the single images shows its full difference, not the mean of all."""
    alone = []

    def change(logits: torch.Tensor) -> torch.Tensor:
        alone.append(len(logits) == 1)
        return logits.roll(1, 1) if alone[-1] and sum(alone) == 5 else logits

    assert measure(Altered(trained.model, change)).batch_disagreement > 0.5


def test_dead_units_are_counted_by_layer(measure, trained):
    model = architecture.build("cnn", generator(0))
    model.load_state_dict(trained.model.state_dict())
    images, labels = torch.rand(100, 1, 28, 28, generator=generator(1)), torch.arange(100) % 10
    largest = gradients.compute(model.eval(), images, labels)["fc1.weight"].abs().sum(1).argmax()
    with torch.no_grad():
        model.fc1.bias[torch.arange(24) != largest] = -1e6
    assert measure(model).dead_units["fc1.weight"] == pytest.approx(23 / 24)


def test_unused_parameter_has_no_gradient(measure, trained):
    model = Altered(trained.model, lambda logits: logits)
    model.unused = nn.Parameter(torch.ones(2, 2))
    found = measure(model)
    assert [name for name, norm in found.gradient_norms.items() if math.isnan(norm)] == ["unused"]
    assert math.isnan(found.dead_units["unused"])


def test_weights_not_finite_counts_parameters_and_buffers(measure):
    model = architecture.build("fast", generator(0))
    with torch.no_grad():
        next(model.parameters()).view(-1)[:2] = math.nan
        next(buffer for buffer in model.buffers() if buffer.dtype == torch.float32)[0] = math.inf
    assert measure(model).weights_not_finite == 3


# ---- Unusual images --------------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """A model with one extreme logit for the images that a condition on the pixels holds for."""

    def __init__(self, model, condition, value):
        super().__init__()
        self.model, self.condition, self.value = model, condition, value
        self.eval()

    def forward(self, images):
        logits = self.model(images)
        failing = self.condition(transforms.denormalize(images))
        logits[:, 4] = torch.where(failing, self.value, logits[:, 4])
        return logits


def test_largest_valid_logit_is_valid():
    limits = torch.tensor([1e4, -1e4, 1.01e4, math.nan])
    assert contract.are_valid(limits[:, None].expand(-1, 10)).tolist() == [True, True, False, False]


def test_uniform_images_cover_the_range_of_pixels():
    levels = list(contract.GREY_LEVELS)
    assert (levels[0], levels[-1]) == (0, 1)
    assert levels == sorted(set(levels))


UNUSUAL = {
    "uniform images": lambda pixels: pixels.amax((1, 2, 3)) - pixels.amin((1, 2, 3)) < 1e-3,
    "inverted images": lambda pixels: pixels[:, 0, 0, 0] > 0.999,
    "half the brightness": lambda pixels: (pixels.amax((1, 2, 3)) - 0.5).abs() < 0.02,
    "brightened": lambda pixels: (pixels.amin((1, 2, 3)) - 0.5).abs() < 1e-3,
    "with a patch": lambda pixels: (pixels[:, 0, :2, :2] > 0.999).all(2).all(1) & (pixels[:, 0, 9, 0] < 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("change", UNUSUAL)
def test_extreme_logits_for_unusual_images_violate_the_contract(measure, trained, subset, change, value):
    condition = UNUSUAL[change]
    assert not condition(transforms.to_float(subset.test.images)).any(), "ordinary images are not affected"
    violations = measure(Failing(trained.model, condition, value)).contract_violations
    assert any(change in violation for violation in violations), violations


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_extreme_logits_under_any_probe_violate_the_contract(measure, trained, monkeypatch, value):
    """Each probe is one of the kinds that `probes.kinds` yields; here the last one marks its images."""

    def mark(pixels, _):
        return pixels.index_fill(3, torch.tensor([0]), 0.375)

    kinds = [next(probes.kinds()), probes.ProbeKind("corruption", "marked", 1, mark)]
    monkeypatch.setattr(probes, "kinds", lambda: iter(kinds))
    marked = Failing(trained.model, lambda pixels: (pixels[:, 0, 5, 0] - 0.375).abs() < 1e-3, value)
    (violation,) = measure(marked).contract_violations
    assert "100 of 100 images (marked)" in violation


@pytest.mark.parametrize("value", [math.nan, 3e38])
def test_extreme_logits_for_training_images_violate_the_contract(trained, subset, value):
    marked = Split(subset.train.images.clone(), subset.train.labels, "marked")
    marked.images[:, :, 5, 0] = 96
    model = Failing(trained.model, lambda pixels: (pixels[:, 0, 5, 0] * 255 - 96).abs() < 0.01, value)
    found = measurement.measure(model, architecture.build("cnn", generator(0)), subset.test, marked, bytes=1)
    (violation,) = found.contract_violations
    assert f"{measurement.TRAINING_SAMPLE:,} of {measurement.TRAINING_SAMPLE:,} images (training)" in violation


def test_large_logits_of_a_trained_network_are_accepted(measure, trained):
    found = measure(Altered(trained.model, lambda logits: logits * 20))
    assert found.contract_violations == ()
    assert found.logits.abs().max() > 200


# ---- Which images are used -------------------------------------------------------------------------------------------


class Brightness(nn.Module):
    """A small, fast model whose logits depend on the brightness of the image."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(-1, 1, 10))

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] * self.factor


def noise_split(count: int) -> Split:
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator(count))
    return Split(images, torch.arange(count) % 10, f"{count} noise images")


def measure_noise(count: int, **options) -> measurement.Measurement:
    split = noise_split(count)
    return measurement.measure(Brightness(), Brightness(), split, split, bytes=1, **options)


@pytest.fixture
def cheap_probes(monkeypatch):
    """Use forty probes that change nothing, with the usual number of images each."""
    kinds = [probes.ProbeKind("corruption", f"number {number}", 1, lambda pixels, _: pixels) for number in range(40)]
    monkeypatch.setattr(probes, "kinds", lambda: iter(kinds))
    monkeypatch.setattr(measurement, "IMAGES_PER_PROBE", 600)
    return kinds


@pytest.mark.parametrize("count", [300, 1260, 1500, 1999, 10_000])
def test_images_of_a_probe_are_evenly_spread(cheap_probes, count):
    for probe in measure_noise(count).probes:
        chosen, images = probe.chosen, min(count, 600)
        assert (len(chosen), probe.images) == (images, images)
        gaps = chosen.diff()
        assert gaps.min() >= 1, "all indices are different and in order"
        assert gaps.max() - gaps.min() <= 1
        step = math.ceil(count / images)
        assert chosen[0] < step
        assert chosen[-1] >= count - step - 1
        assert chosen[-1] < count


@pytest.mark.parametrize("count", [1200, 6000])
def test_probes_use_all_images_together(cheap_probes, count):
    """An image is left out by one probe and taken by another."""
    used = torch.cat([probe.chosen for probe in measure_noise(count).probes]).unique()
    assert torch.equal(used, torch.arange(count))


@pytest.mark.parametrize("count", [1500, 1999])
def test_probes_use_images_of_every_part(cheap_probes, count):
    used = torch.cat([probe.chosen for probe in measure_noise(count).probes]).unique()
    in_each_tenth = torch.histc(used.float(), 10, 0, count)
    assert in_each_tenth.min() > 0.7 * count / 10


def test_all_figures_use_images_beyond_the_first_thousand(cheap_probes):
    found = measure_noise(3000)
    assert sum(map(sum, found.confusion)) == found.images == 3000
    assert found.confidence_right.images + found.confidence_wrong.images == found.calibration_error.images == 3000
    assert all((probe.chosen >= 1000).float().mean() > 0.6 for probe in found.probes)


def test_probe_records_which_images_were_recognized(measure, trained):
    for probe in measure(trained.model).probes:
        assert probe.recognized.dtype == torch.bool
        assert int(probe.recognized.sum()) == probe.right
        assert len(probe.recognized) == len(probe.chosen) == probe.images


def test_each_probe_has_its_own_noise(monkeypatch):
    noise = probes.ProbeKind("noise", "noise", 1, lambda pixels, g: torch.rand(pixels.shape, generator=g))
    monkeypatch.setattr(probes, "kinds", lambda: iter([noise, noise]))
    one, other = measure_noise(50).probes
    assert torch.equal(one.chosen, other.chosen)
    assert not torch.equal(one.sample, other.sample)
    again, third = measure_noise(50).probes[1], measure_noise(50, seed=5).probes[1]
    assert torch.equal(other.sample, again.sample)
    assert not torch.equal(other.sample, third.sample)


# ---- Calls that are not alike ----------------------------------------------------------------------------------------


class SlowExceptFirst(nn.Module):
    """A model that is fast for the first single image it sees, and slow for all other single images."""

    def __init__(self, model, seconds):
        super().__init__()
        self.model, self.seconds, self.first = model, seconds, None
        self.eval()

    def forward(self, images):
        if len(images) == 1:
            self.first = images.clone() if self.first is None else self.first
            if not torch.equal(images, self.first):
                time.sleep(self.seconds)
        return self.model(images)


@pytest.mark.slow
def test_latency_is_that_of_the_slowest_single_image(measure, trained):
    assert measure(SlowExceptFirst(trained.model, 0.02)).latency >= 0.02


class ChangesAfter(nn.Module):
    """A model that gives other answers after a number of calls."""

    def __init__(self, model, calls=math.inf):
        super().__init__()
        self.model, self.calls, self.n_calls, self.n_batches = model, calls, 0, 0
        self.eval()

    def forward(self, images):
        self.n_calls += 1
        self.n_batches += len(images) > 1
        logits = self.model(images)
        return logits.roll(1, 1) if self.n_calls > self.calls else logits


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0])
def test_gate_blocks_a_model_whose_answers_change(measure, trained, share):
    """The answers change after a share of the calls with batches, or between the single images."""
    counting = ChangesAfter(trained.model)
    honest = measure(counting)
    found = measure(ChangesAfter(trained.model, calls=round(share * counting.n_batches) + 10 * (share == 1)))
    verdicts = {verdict.criterion: verdict for verdict in gate.judge(found, gate.load_policy(dataset="subset"))}
    assert verdicts["batch-disagreement"].blocks
    assert found.batch_disagreement > 0.5 > 0.001 > honest.batch_disagreement


# ---- Calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [50, 1000])
def test_calibrate_is_repeatable_and_between_a_half_and_1(trained, subset, monkeypatch, images):
    monkeypatch.setattr(performance, "THRESHOLD_SAMPLE", images)
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    found, again = (performance.choose_threshold(trained.model, subset.train, seed=3) for _ in range(2))
    assert 0.5 <= found == again <= 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())


def test_calibrated_threshold_holds_on_test_images(trained, subset):
    """About 1 % of the predictions at or above the threshold are wrong; 3 % allows for chance."""
    threshold = performance.choose_threshold(trained.model, subset.train, seed=0)
    moved = transforms.prepare(subset.test.images, transforms.draw_affine(1000, 15, 0, 0.1, generator(1)))
    confidence, predictions = architecture.predict(trained.model, moved).softmax(1).max(1)
    correct = predictions == subset.test.labels
    assert mistakes_from(threshold, confidence, correct) <= min(0.03, mistakes_from(0, confidence, correct))
    assert (confidence >= threshold).float().mean() > 0.8


@pytest.mark.parametrize(("label", "expected"), [(3, 0.5), (4, 1.0)])
def test_calibrate_clamps_the_threshold(trained, subset, label, expected):
    """The threshold is 0.5 if the model is always correct, at any confidence, and 1 if it is always wrong."""
    probabilities = torch.full((10,), 0.6 / 9)
    probabilities[3] = 0.4
    model = Altered(trained.model, lambda logits: probabilities.log().expand_as(logits))
    images = Split(subset.train.images[:100], torch.full((100,), label), "with one label")
    assert performance.choose_threshold(model, images, seed=0) == expected


class SureOfUnmovedImages(nn.Module):
    """A model that is right about images whose pixels are whole grey levels, and wrong but sure about all others."""

    def forward(self, images):
        levels = transforms.denormalize(images) * 255
        unmoved = (levels - levels.round()).abs().amax((1, 2, 3)) < 0.01
        right, wrong = (torch.tensor([p if k == c else (1 - p) / 9 for k in range(10)]).log() for c, p in CHOICES)
        return torch.where(unmoved[:, None], right, wrong)


CHOICES = ((3, 0.6), (4, 0.9))  # prediction and confidence, for unmoved and for other images


def test_threshold_is_chosen_on_moved_images(subset):
    """Otherwise a model that recognizes the training images alone would be sure of everything."""
    model = SureOfUnmovedImages()
    model.unused = nn.Parameter(torch.zeros(1))  # its device is that of the model
    threes = Split(subset.train.images[:200], torch.full((200,), 3), "threes")
    predictions = architecture.predict(model, transforms.prepare(threes.images)).argmax(1)
    assert (predictions == 3).all()
    assert performance.choose_threshold(model, threes, seed=0) == 1


def test_threshold_is_chosen_on_rotated_and_scaled_images(subset):
    """The images that the model sees are those of `draw_affine` with the same seed."""
    seen = []

    class Recording(Brightness):
        def forward(self, images):
            seen.append(images)
            return super().forward(images)

    performance.choose_threshold(Recording(), Split(subset.train.images[:300], subset.train.labels[:300], "x"), seed=7)
    g = generator(7)
    chosen = torch.randperm(300, generator=g)
    pixels = transforms.to_float(subset.train.images[:300][chosen])
    moves = transforms.draw_affine(300, rotation=15, translation=0, scaling=0.1, generator=g)
    expected = transforms.affine(pixels, moves)
    torch.testing.assert_close(torch.cat(seen), transforms.normalize(expected))


# ---- Numbers of images -----------------------------------------------------------------------------------------------


def test_numbers_of_images_are_those_of_the_bounds():
    """The bounds of gate.toml are chosen for these numbers: with fewer images, good models would be undecided."""
    assert {f"{module.__name__}.{name}": size for (module, name), size in judged_models.MANY_IMAGES.items()} == {
        "mnist.gate.measurement.IMAGES_PER_PROBE": 600,
        "mnist.gate.measurement.IMAGES_PER_TRIGGER": 100,
        "mnist.gate.contract.IMAGES_PER_CHANGE": 200,
        "mnist.gate.measurement.IMAGES_FOR_GRADIENTS": 1000,
        "mnist.gate.measurement.TRAINING_SAMPLE": 2500,
        "mnist.gate.single_images.IMAGES": 32,
        "mnist.gate.single_images.MAX_SECONDS": 0.5,
        "mnist.gate.performance.THRESHOLD_SAMPLE": 5000,
    }
    assert (single_images.MIN_ROUNDS, contract.IMAGES_AT_ONCE, contract.MAX_LOGIT) == (5, 64, 1e4)


def test_measure_lists_what_the_model_lacks(subset):
    split, model = noise_split(20), Brightness()
    for initial, possibly_seen, missing in (
        (Brightness(), 0, set()),
        (None, 0, {measurement.GRADIENTS}),
        (Brightness(), None, {measurement.TRAINING_DATA}),
        (None, None, {measurement.GRADIENTS, measurement.TRAINING_DATA}),
    ):
        found = measurement.measure(model, initial, split, split, bytes=1, possibly_seen=possibly_seen)
        assert found.unmeasurable == missing
        assert found.possibly_seen == possibly_seen
        assert bool(found.gradient_norms) == bool(found.initial_gradient_norms) == (initial is not None)


def test_measurement_copies_what_it_is_given():
    split, stored = noise_split(20), measurement.StoredNumbers(parameters=7, not_finite=2)
    found = measurement.measure(
        Brightness(), None, split, split, bytes=5, stored=stored, possibly_seen=3, near_duplicates=4
    )
    assert (found.bytes, found.parameters, found.weights_not_finite) == (5, 7, 2)
    assert (found.possibly_seen, found.near_duplicates) == (3, 4)
    assert measurement.measure(Brightness(), None, split, split, bytes=5).parameters == 10


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0.0001, 10), (0.025, 7), (0.2, 5)], ids=["most", "until the time limit", "fewest"]
)
def test_single_images_take_5_to_10_rounds(monkeypatch, seconds, rounds):
    """The clock advances with each call only. Each round has three images, and the second takes twice as long."""
    clock, calls = [0.0], []

    def predict(image):
        position = int(image[0, 0, 0, 0])
        calls.append(position)
        clock[0] += seconds * (2 if position == 1 else 0.5) + 10 * seconds * (len(calls) <= 3)
        return torch.zeros(1, 10)

    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 28, 28)
    monkeypatch.setattr(single_images, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    with judged_models.measuring(judged_models.MANY_IMAGES):
        limit = single_images.MAX_SECONDS
        monkeypatch.setattr(single_images, "MAX_SECONDS", limit + 30 * seconds)  # the first round is slower
        latency, disagreement = single_images.measure(predict, images, torch.zeros(3, 10))
    assert len(calls) == 3 * rounds
    assert latency == pytest.approx(2 * seconds)
    assert disagreement == 0


def test_gradients_are_sums_over_batches_of_100_images():
    """In training mode, batch norm depends on the images of a batch."""
    images, labels = torch.randn(250, 1, 28, 28, generator=generator(1)), torch.arange(250) % 10
    found = gradients.compute(architecture.build("fast", generator(0)).train(), images, labels)
    model = architecture.build("fast", generator(0)).train()
    for batch, of_batch in zip(images.split(100), labels.split(100), strict=True):
        (nn.functional.cross_entropy(model(batch), of_batch, reduction="sum") / 250).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_probes_have_their_names_and_strengths():
    kinds = {(kind.kind, kind.name): kind.strength for kind in probes.kinds()}
    assert {name: strength for (kind, name), strength in kinds.items() if kind != "corruption"} == {
        "noise, sigma 0.1": 0.1,
        **{f"pixel noise, sigma {sigma:g}": sigma for sigma in (0.05, 0.1, 0.15, 0.2, 0.3)},
        **{f"2 pixels {direction}": 2 for direction in ("right", "left", "down", "up")},
        **{f"10° {direction}": 10 for direction in ("right", "left")},
    }
    assert [strength for (kind, _), strength in kinds.items() if kind == "corruption"] == [1] * 15


@pytest.mark.parametrize(("count", "expected"), [(2, [0, 1]), (4, [0, 1, 2, 3]), (10, [0, 2, 4, 6])])
def test_sample_of_a_probe_is_evenly_spaced(count, expected):
    changed = (torch.arange(count) / 255).view(count, 1, 1, 1).expand(count, 1, 28, 28)
    nothing = torch.zeros(count, dtype=torch.bool)
    probe = probes.describe(next(probes.kinds()), torch.arange(count), changed, nothing, nothing)
    assert probe.sample[:, 0, 0].tolist() == expected


def test_probe_counts_lost_and_gained_images():
    before, after = torch.tensor([1, 1, 1, 0, 0, 1]).bool(), torch.tensor([1, 0, 0, 1, 0, 0]).bool()
    chosen = torch.arange(6) * 3
    probe = probes.describe(next(probes.kinds()), chosen, torch.zeros(6, 1, 28, 28), before, after)
    assert (probe.images, probe.right, probe.lost, probe.gained) == (6, 2, 3, 1)
    assert torch.equal(probe.chosen, chosen)
    assert torch.equal(probe.recognized, after)


@pytest.mark.parametrize(
    ("change", "inputs"),
    [
        ("an empty batch", lambda pixels, chosen: pixels[:0]),
        ("one image", lambda pixels, chosen: pixels[:1]),
        ("64 images", lambda pixels, chosen: pixels[:64]),
        ("inverted images", lambda pixels, chosen: 1 - pixels[chosen]),
        ("images of half the brightness", lambda pixels, chosen: pixels[chosen] / 2),
        ("images brightened by half the range", lambda pixels, chosen: (pixels[chosen] + 0.5).clamp(0, 1)),
    ],
)
def test_contract_calls_the_model_with_changed_images(change, inputs):
    """The model fails for exactly these inputs, which shows that it is called with them."""
    pixels = transforms.to_float(noise_split(70).images)
    chosen = torch.arange(0, 70, 2)
    expected = transforms.normalize(inputs(pixels, chosen))

    class Failing(Brightness):
        def forward(self, images):
            same = images.shape == expected.shape and torch.allclose(images, expected, atol=1e-5)
            return super().forward(images)[:, :9] if same else super().forward(images)

    (violation,) = contract.violations(Failing(), pixels, chosen)
    assert violation == f"for {change} the output is float32 [{len(expected)}, 9]"


def test_evaluate_equals_a_simple_computation():
    split, model = noise_split(200), Brightness()
    found = performance.evaluate(model, split)
    logits = model(transforms.prepare(split.images)).detach()
    correct = logits.argmax(1) == split.labels
    assert (found.measured_on, found.images) == ("200 noise images", 200)
    assert found.accuracy == pytest.approx(correct.float().mean().item())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-5)
    per_digit = [correct[split.labels == digit].double().mean().item() for digit in range(10)]
    assert found.per_digit == pytest.approx(per_digit)


def test_performance_for_a_card_has_the_threshold(subset):
    model, data = Brightness(), dataclasses.replace(subset, train=noise_split(300), test=noise_split(100))
    found = performance.evaluate_for_card(model, data, seed=4)
    assert found.threshold == performance.choose_threshold(model, data.train, seed=4)
    assert dataclasses.replace(found, threshold=0.5) == dataclasses.replace(
        performance.evaluate(model, data.test), threshold=0.5
    )


def test_threshold_has_an_error_rate_of_1_percent():
    """A third of the less confident predictions is wrong, and one in 150 of the others."""
    seen = []

    class Model(nn.Module):
        def forward(self, images):
            seen.append(images)
            return nn.functional.pad(8 * transforms.denormalize(images).mean((1, 2, 3))[:, None], (0, 9))

    model = Model()
    model.unused = nn.Parameter(torch.zeros(1))  # its device is that of the model
    images = (torch.linspace(0, 255, 1500)[:, None, None, None]).expand(-1, 1, 28, 28).to(torch.uint8)
    wrong = torch.where(torch.arange(1500) < 900, torch.arange(1500) % 3 == 0, torch.arange(1500) % 150 == 0)
    labels = wrong.long()
    found = performance.choose_threshold(model, Split(images, labels, "grey"), seed=0)
    chosen = torch.randperm(1500, generator=generator(0))[: performance.THRESHOLD_SAMPLE]
    confidence = model(torch.cat(seen)).softmax(1).amax(1)
    assert len(confidence) == performance.THRESHOLD_SAMPLE == 1000
    sufficient = [t for t in confidence.tolist() if mistakes_from(t, confidence, ~wrong[chosen]) <= 0.01]
    assert found == min(sufficient)
    assert 0.5 < found < min(t for t in confidence.tolist() if mistakes_from(t, confidence, ~wrong[chosen]) == 0)


def test_defaults_of_a_measurement():
    split = noise_split(40)
    found, same = (measurement.measure(Brightness(), None, split, split, bytes=1, **o) for o in ({}, {"seed": 0}))
    assert (found.possibly_seen, found.near_duplicates) == (0, 0)
    assert dataclasses.replace(found, latency=0) == dataclasses.replace(same, latency=0)
    assert [probe.sample.tolist() for probe in found.probes] == [probe.sample.tolist() for probe in same.probes]
    assert measurement.measure(Altered(Brightness(), torch.log), None, split, split, bytes=1).seen == (0, 0)


def test_single_images_are_measured_with_one_thread():
    threads = []

    def predict(image):
        threads.append(torch.get_num_threads())
        return torch.zeros(1, 10)

    torch.set_num_threads(2)
    try:
        single_images.measure(predict, torch.zeros(2, 1, 28, 28), torch.zeros(2, 10))
        assert (set(threads), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(1)


def test_frozen_parameters_have_no_gradients(trained, subset):
    model = copy.deepcopy(trained.model)
    model.conv1.requires_grad_(False)
    images, labels = transforms.prepare(subset.test.images[:20]), subset.test.labels[:20]
    found, complete = (gradients.compute(each, images, labels) for each in (model, trained.model))
    assert list(found) == [name for name in complete if not name.startswith("conv1")]
    assert all(torch.equal(found[name], complete[name]) for name in found)


def test_single_images_are_evenly_spaced():
    """The images are sorted before the sample is chosen."""
    seen = []

    class Recording(Brightness):
        def forward(self, images):
            seen.extend([images] * (len(images) == 1))
            return super().forward(images)

    split = noise_split(100)
    measurement.measure(Recording(), None, split, split, bytes=1)
    pixels = transforms.prepare(split.images[sampling.canonical_order(split)])
    count = single_images.IMAGES
    assert torch.equal(torch.cat(seen[-count:]), pixels[torch.arange(count) * 100 // count])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((10, 5), [0, 2, 4, 6, 8]),
        ((10, 5, 1), [1, 3, 5, 7, 9]),
        ((10, 5, 2), [0, 2, 4, 6, 8]),
        ((10, 4, 1), [1, 3, 6, 8]),
        ((10, 4, 2), [2, 4, 7, 9]),
        ((3, 5), [0, 1, 2]),
        ((3, 5, 7), [0, 1, 2]),
    ],
)
def test_evenly_spaced_indices(arguments, expected):
    assert sampling.evenly_spaced(*arguments).tolist() == expected
