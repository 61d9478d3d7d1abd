import math
import warnings

import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import confidences, labels_and_predictions, mistakes_from

from mnist import metrics


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


@given(confidences())
def test_calibration_bins_hold_every_image_once_and_equally_many_each(pair):
    confidence, right = pair
    bins = metrics.calibration_bins(confidence, right)
    counts = bins[:, 2]
    assert counts.sum() == len(confidence)
    assert counts.max() - counts.min() <= 1
    assert (bins[:, 0] * counts).sum().item() == pytest.approx(confidence.double().sum().item())
    assert (bins[:, 1] * counts).sum().item() == pytest.approx(right.sum().item())
    assert bins[:, 0].tolist() == sorted(bins[:, 0].tolist())


# ---- From which confidence on to answer ------------------------------------------------------------------------------

risks = st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0])


@given(confidences(), risks)
def test_the_threshold_is_the_least_confidence_from_which_on_few_enough_answers_are_wrong(pair, risk):
    enough = [value for value in pair[0].tolist() if mistakes_from(value, *pair) <= risk]
    assert metrics.confidence_threshold(*pair, risk) == min(enough, default=1.0)


@given(confidences(), risks, risks)
def test_who_may_err_more_may_answer_more(pair, one, other):
    strict, lenient = (metrics.confidence_threshold(*pair, risk) for risk in sorted((one, other)))
    assert strict >= lenient


@given(confidences())
def test_it_does_not_depend_on_the_order_of_the_images(pair):
    backwards = [values.flip(0) for values in pair]
    assert metrics.confidence_threshold(*pair, 0.1) == metrics.confidence_threshold(*backwards, 0.1)


def test_where_nothing_is_good_enough_it_is_1():
    assert metrics.confidence_threshold(torch.tensor([0.9, 0.8]), torch.tensor([False, True]), 0.1) == 1
    assert metrics.confidence_threshold(torch.tensor([]), torch.tensor([], dtype=torch.bool), 0.1) == 1
