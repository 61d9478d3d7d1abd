"""Test the metrics against scikit-learn and simple definitions."""

import math
import warnings

import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import confidences, labels_and_predictions, mistakes_from

from mnist import metrics
from mnist.report import risk_coverage


@given(labels_and_predictions(min_size=1))
def test_accuracy_equals_scikit_learn(pair):
    labels, predictions = pair
    assert metrics.accuracy(labels, predictions) == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))


def test_accuracy_of_no_images_is_nan():
    assert math.isnan(metrics.accuracy(torch.tensor([]), torch.tensor([])))


@given(labels_and_predictions(min_size=1))
def test_confusion_matrix_equals_scikit_learn(pair):
    labels, predictions = pair
    expected = sklearn.metrics.confusion_matrix(labels, predictions, labels=range(10))
    assert metrics.confusion_matrix(labels, predictions, 10).tolist() == expected.tolist()


@given(labels_and_predictions(min_size=1))
def test_per_class_accuracy_equals_scikit_learn_recall(pair):
    """The accuracy of a class without images is NaN."""
    labels, predictions = pair
    ours = metrics.per_class_accuracy(metrics.confusion_matrix(labels, predictions, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of empty classes, which this test needs
        expected = sklearn.metrics.recall_score(
            labels, predictions, labels=range(10), average=None, zero_division=math.nan
        )
    torch.testing.assert_close(ours, torch.from_numpy(expected), equal_nan=True)


def test_per_class_accuracy_of_no_images_is_nan():
    nothing = torch.tensor([], dtype=torch.int64)
    assert metrics.per_class_accuracy(metrics.confusion_matrix(nothing, nothing, 10)).isnan().all()


@given(confidences())
def test_calibration_bins_divide_the_images_evenly(pair):
    confidence, correct = pair
    bins = metrics.calibration_bins(confidence, correct)
    counts = bins[:, 2]
    assert counts.sum() == len(confidence)
    assert counts.max() - counts.min() <= 1
    assert (bins[:, 0] * counts).sum().item() == pytest.approx(confidence.double().sum().item())
    assert (bins[:, 1] * counts).sum().item() == pytest.approx(correct.sum().item())
    assert bins[:, 0].tolist() == sorted(bins[:, 0].tolist())


@given(confidences(), st.integers(1, 20))
def test_risk_coverage_equals_counting_at_each_threshold(pair, points):
    confidence, correct = pair
    rows = risk_coverage.curve(confidence, correct, points).tolist()
    assert len(rows) <= points
    assert [threshold for threshold, *_ in rows] == sorted({threshold for threshold, *_ in rows}, reverse=True)
    for threshold, coverage, risk in rows:
        answered = [
            right for value, right in zip(confidence.tolist(), correct.tolist(), strict=True) if value >= threshold
        ]
        assert coverage == pytest.approx(len(answered) / len(confidence))
        assert risk == pytest.approx(answered.count(False) / len(answered))
    assert not rows or rows[-1][1] == 1, "the last threshold is that of all images"


# ---- Confidence threshold --------------------------------------------------------------------------------------------

error_rates = st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0])


@given(confidences(), error_rates)
def test_confidence_threshold_is_the_lowest_sufficient_one(pair, error_rate):
    sufficient = [value for value in pair[0].tolist() if mistakes_from(value, *pair) <= error_rate]
    assert metrics.confidence_threshold(*pair, error_rate) == min(sufficient, default=1.0)


@given(confidences(), error_rates, error_rates)
def test_confidence_threshold_falls_with_the_allowed_error_rate(pair, one, other):
    strict, lenient = (metrics.confidence_threshold(*pair, rate) for rate in sorted((one, other)))
    assert strict >= lenient


@given(confidences())
def test_confidence_threshold_does_not_depend_on_the_order(pair):
    reverse = [values.flip(0) for values in pair]
    assert metrics.confidence_threshold(*pair, 0.1) == metrics.confidence_threshold(*reverse, 0.1)


def test_confidence_threshold_is_1_if_none_is_sufficient():
    assert metrics.confidence_threshold(torch.tensor([0.9, 0.8]), torch.tensor([False, True]), 0.1) == 1
    assert metrics.confidence_threshold(torch.tensor([]), torch.tensor([], dtype=torch.bool), 0.1) == 1


def test_calibration_has_15_bins():
    bins = metrics.calibration_bins(torch.linspace(0, 1, 150), torch.ones(150, dtype=torch.bool))
    assert bins[:, 2].tolist() == [10.0] * 15
    assert bins.dtype == torch.float64


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_performance_accepts_thresholds_between_0_and_1(threshold):
    assert metrics.Performance("x", 1, 0.0, 1.0, (), threshold).threshold == threshold


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan])
def test_performance_refuses_other_thresholds(threshold):
    with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
        metrics.Performance("x", 1, 0.0, 1.0, (), threshold)


def test_risk_coverage_curve_of_one_image_and_of_none():
    one = risk_coverage.curve(torch.tensor([0.75]), torch.tensor([False]), 5)
    assert one.tolist() == [[0.75, 1.0, 1.0]]
    assert risk_coverage.curve(torch.tensor([]), torch.tensor([], dtype=torch.bool), 5).shape == (0, 3)
