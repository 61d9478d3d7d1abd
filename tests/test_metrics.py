import math
import warnings

import pytest
import sklearn.metrics
import torch
from hypothesis import given
from strategies import generator, labels_and_predictions
from torch import nn

from mnist import architecture, metrics, transforms
from mnist.datasets import Split


@given(labels_and_predictions(min_size=1))
def test_accuracy_equals_scikit_learns(pair):
    labels, predictions = pair
    assert metrics.accuracy(labels, predictions) == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))


def test_accuracy_on_no_images_is_not_a_number():
    assert math.isnan(metrics.accuracy(torch.tensor([]), torch.tensor([])))


@given(labels_and_predictions(min_size=1))
def test_confusion_matrix_equals_scikit_learns(pair):
    labels, predictions = pair
    expected = sklearn.metrics.confusion_matrix(labels, predictions, labels=range(10))
    assert metrics.confusion_matrix(labels, predictions, 10).tolist() == expected.tolist()


@given(labels_and_predictions(min_size=1))
def test_per_class_accuracy_is_scikit_learns_recall_and_nan_for_an_empty_class(pair):
    labels, predictions = pair
    ours = metrics.per_class_accuracy(metrics.confusion_matrix(labels, predictions, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of empty classes, which is what this is about
        expected = sklearn.metrics.recall_score(
            labels, predictions, labels=range(10), average=None, zero_division=math.nan
        )
    torch.testing.assert_close(ours, torch.from_numpy(expected), equal_nan=True)


def test_without_images_every_class_is_empty():
    nothing = torch.tensor([], dtype=torch.int64)
    assert metrics.per_class_accuracy(metrics.confusion_matrix(nothing, nothing, 10)).isnan().all()


def test_predictions_do_not_depend_on_the_batch_size_and_leave_the_mode_as_it_was():
    model = architecture.build("cnn", generator(0)).train()
    images = torch.randn(10, 1, 28, 28, generator=generator(1))
    expected = torch.cat([metrics.predict(model, image[None]) for image in images])
    for batch_size in (1, 3, 10, 1000):
        torch.testing.assert_close(metrics.predict(model, images, batch_size), expected, rtol=1e-4, atol=1e-4)
    assert model.training


def test_gradient_norms_equal_those_of_backward():
    model = architecture.build("cnn", generator(0))
    images, labels = torch.randn(8, 1, 28, 28, generator=generator(1)), torch.arange(8)
    norms = metrics.gradient_norms(model, images, labels)
    assert all(parameter.grad is None for parameter in model.parameters()), "measuring leaves no gradient behind"
    nn.functional.cross_entropy(model(images), labels).backward()
    assert norms == pytest.approx({name: p.grad.norm().item() for name, p in model.named_parameters()})


def test_a_parameter_that_the_loss_does_not_reach_has_no_gradient_norm(monkeypatch):
    class Detached(architecture.CNN):
        def logits(self, images):
            return super().logits(images).detach() + self.fc2.bias

    monkeypatch.setitem(architecture.ARCHITECTURES, "detached", Detached)
    model = architecture.build("detached", generator(0))
    norms = metrics.gradient_norms(model, torch.zeros(2, 1, 28, 28), torch.tensor([0, 1]))
    assert [name for name, norm in norms.items() if not math.isnan(norm)] == ["fc2.bias"]


class Answers(nn.Module):
    """A model that answers as a function says."""

    def __init__(self, answer):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.answer = answer

    def forward(self, images):
        return self.answer(images.flatten(1)[:, :10]) * self.scale


@pytest.mark.parametrize(
    ("answer", "violations"),
    [
        pytest.param(lambda rows: rows, 0, id="as agreed"),
        pytest.param(lambda rows: rows[:, :9], 4, id="nine logits"),
        pytest.param(lambda rows: rows * math.nan, 3, id="not finite"),
        pytest.param(lambda rows: rows - rows.mean(0), 1, id="depends on the rest of the batch"),
        pytest.param(lambda rows: rows if len(rows) else rows.new_zeros(1, 10), 1, id="not empty for no images"),
    ],
)
def test_contract_violations_are_counted(answer, violations):
    images = torch.rand(64, 1, 28, 28, generator=generator(0))
    assert metrics.contract_violations(Answers(answer), images) == violations


def test_a_model_that_copies_the_label_from_the_image_is_measured_as_perfect():
    labels = torch.arange(40) % 10
    images = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    images[torch.arange(40), 0, 0, labels] = 255
    measurement = metrics.measure(
        Answers(lambda rows: rows * 10), Split(images, labels, "codes, 40 images"), generator(0)
    )
    assert measurement.measured_on == "codes, 40 images"
    assert (measurement.images, measurement.parameters, measurement.mistakes) == (40, 1, 0)
    assert measurement.accuracy == 1
    assert measurement.per_digit == (1,) * 10
    assert measurement.spread == measurement.noise_cost == 0
    assert measurement.confidence_right > 0.99
    assert math.isnan(measurement.confidence_wrong)


def test_the_cost_of_noise_is_the_accuracy_that_noise_takes():
    labels = torch.zeros(1000, dtype=torch.int64)
    images = torch.zeros(1000, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 0, 0] = 1  # right by so little that nine rivals with noise of sigma 0.1 win nine times in ten
    measurement = metrics.measure(Answers(lambda rows: rows), Split(images, labels, "zeros"), generator(0))
    assert measurement.accuracy == 1
    assert measurement.noise_cost == pytest.approx(0.9, abs=0.04)


def test_confidence_is_split_by_whether_the_answer_is_right():
    labels = torch.tensor([0] * 5 + [1] * 5)
    images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 0, 0] = 255  # every image is taken for a 0, with the same confidence
    split = Split(images, labels, "zeros and ones")
    measurement = metrics.measure(Answers(lambda rows: rows), split, generator(0))
    expected = transforms.prepare(images[:1]).flatten()[:10].softmax(0).max().item()
    assert measurement.accuracy == 0.5
    assert measurement.confidence_right == pytest.approx(expected)
    assert measurement.confidence_wrong == pytest.approx(expected)
    assert measurement.per_digit[:2] == (1, 0)
    assert all(math.isnan(accuracy) for accuracy in measurement.per_digit[2:])
    assert math.isnan(measurement.spread)
