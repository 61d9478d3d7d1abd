"""Test that a card whose claims the measurement contradicts is found out."""

import dataclasses
import hashlib
import json
import math

import pytest
import torch
from test_card import edit_card

from mnist import gate
from mnist.cli import process
from mnist.datasets import Split
from mnist.gate import claims
from mnist.storage import artifacts


@pytest.fixture(scope="module")
def artifact(saved_model):
    """Return a good model with a true card."""
    return artifacts.load(saved_model)


@pytest.fixture(scope="module")
def measured(artifact, subset):
    return gate.evaluate(artifact, subset, gate.load_policy(dataset="subset")).measurement


def forge(artifact, **changes):
    """Replace fields of the card, or of its tables if a value is a dictionary."""
    replaced = {
        name: dataclasses.replace(getattr(artifact.card, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(artifact, card=dataclasses.replace(artifact.card, **replaced))


def test_true_card_is_not_contradicted(artifact, measured, subset):
    assert measured.contradicted_claims == ()
    assert claims.contradicted(artifact, subset, measured) == ()
    assert artifact.card.measured.images == measured.images == len(subset.test)


def test_card_may_describe_the_splits_in_other_words(artifact, measured, subset):
    """Cards of earlier versions say "training part" and "held-out part"."""
    described = {"train": "training part, 4,000 images", "test": "held-out part, 1,000 images"}
    earlier = forge(artifact, dataset=described, measured={"measured_on": described["test"]})
    assert claims.contradicted(earlier, subset, measured) == ()


@pytest.mark.parametrize("value", [0, 15_105, 15_107, 24_999])
def test_forged_number_of_parameters_is_contradicted(artifact, measured, subset, value):
    (message,) = claims.contradicted(forge(artifact, parameters=value), subset, measured)
    assert message == f"parameters: the card says {value:,}, measured: 15,106"


@pytest.mark.parametrize("name", ["multiply_accumulates", "bytes"])
def test_forged_size_is_contradicted(artifact, measured, subset, name):
    value = getattr(artifact.card, name)
    (message,) = claims.contradicted(forge(artifact, **{name: value - 1}), subset, measured)
    assert message == f"{name.replace('_', '-')}: the card says {value - 1:,}, measured: {value:,}"


def test_forged_architecture_of_the_recipe_is_contradicted(artifact, measured, subset):
    (message,) = claims.contradicted(forge(artifact, recipe={"architecture": "fast"}), subset, measured)
    assert message == "architecture of the recipe: the card says fast, measured: cnn"


@pytest.mark.parametrize("change", [-0.02, -0.003, 0.003, 0.015, math.nan])
def test_forged_accuracy_is_contradicted(artifact, measured, subset, change):
    value = artifact.card.measured.accuracy + change
    (message,) = claims.contradicted(forge(artifact, measured={"accuracy": value}), subset, measured)
    assert message == f"accuracy: the card says {value:.2%}, measured: {artifact.card.measured.accuracy:.2%}"


@pytest.mark.parametrize("digit", [0, 8])
@pytest.mark.parametrize("change", [-0.02, math.nan])
def test_forged_accuracy_on_a_digit_is_contradicted(artifact, measured, subset, digit, change):
    per_digit = list(artifact.card.measured.per_digit)
    per_digit[digit] += change
    forged = forge(artifact, measured={"per_digit": tuple(per_digit)})
    (message,) = claims.contradicted(forged, subset, measured)
    assert message.startswith(f"accuracy on digit {digit}: the card says ")


@pytest.mark.parametrize("count", [0, 9, 11])
def test_card_with_another_number_of_classes_is_contradicted(artifact, measured, subset, count):
    per_digit = (*artifact.card.measured.per_digit, 1.0)[:count]
    (message,) = claims.contradicted(forge(artifact, measured={"per_digit": per_digit}), subset, measured)
    assert message == f"accuracy of each class: the card has {count} values, not 10"


@pytest.mark.parametrize("factor", [0.5, 0.985, 1.015, math.nan])
def test_forged_loss_is_contradicted(artifact, measured, subset, factor):
    value = artifact.card.measured.loss * factor
    (message,) = claims.contradicted(forge(artifact, measured={"loss": value}), subset, measured)
    assert message == f"loss: the card says {value:.4f}, measured: {measured.loss:.4f}"


def test_forged_threshold_is_contradicted(artifact, measured, subset):
    true = artifact.card.measured.threshold
    for value in (true - 0.06, 0.0):
        (message,) = claims.contradicted(forge(artifact, measured={"threshold": value}), subset, measured)
        assert message == f"confidence threshold: the card says {value:.3f}, measured: {true:.3f}"


def test_forged_number_of_test_images_is_contradicted(artifact, measured, subset):
    (message,) = claims.contradicted(forge(artifact, measured={"images": 10_000}), subset, measured)
    assert message == "images: the card says 10,000, measured on 1,000"


def test_digest_file_without_some_training_images_is_contradicted(artifact, measured, subset):
    fewer = dataclasses.replace(artifact, digests=artifact.digests[5:])
    (message,) = claims.contradicted(fewer, subset, measured)
    assert message == "training images: 5 of 4,000 are not in the digest file"
    more = dataclasses.replace(artifact, digests=artifact.digests.repeat(2))
    assert claims.contradicted(more, subset, measured) == (), "a fine-tuned model lists others as well"


def test_several_forged_claims_are_all_named(artifact, measured, subset):
    forged = forge(artifact, parameters=1, measured={"accuracy": 1.0, "loss": 0.0})
    found = claims.contradicted(forged, subset, measured)
    assert [message.partition(":")[0] for message in found] == ["parameters", "accuracy", "loss"]


def test_rounding_is_not_contradicted(artifact, measured, subset):
    """Another processor may change the prediction of one image, and the last digits of the other figures."""
    true = artifact.card.measured
    per_digit = (true.per_digit[0] - 0.01, *true.per_digit[1:])
    for sign in (-1, 1):
        rounded = {
            "accuracy": true.accuracy + sign * 0.001,
            "per_digit": per_digit,
            "loss": true.loss * (1 + sign * 0.005),
            "threshold": min(1.0, true.threshold + sign * 0.004),
        }
        assert claims.contradicted(forge(artifact, measured=rounded), subset, measured) == ()


def test_loss_of_zero_is_not_contradicted(artifact, measured, subset):
    flawless = dataclasses.replace(measured, loss=0.0)
    assert not [
        each
        for each in claims.contradicted(forge(artifact, measured={"loss": 0.0}), subset, flawless)
        if "loss" in each
    ]


def test_claims_about_other_data_are_not_compared(artifact, measured, subset):
    """The figures of the card belong to its data; the sizes of network and file do not depend on the data."""
    forged = forge(artifact, parameters=1, measured={"accuracy": 0.5, "threshold": 0.0})
    other = dataclasses.replace(subset, test=Split(subset.test.images[1:], subset.test.labels[1:], "other images"))
    other = dataclasses.replace(other, name="photos")
    assert [message.partition(":")[0] for message in claims.contradicted(forged, other, measured)] == ["parameters"]


def test_forged_digest_of_published_data_is_contradicted(artifact, measured, subset):
    """A published data set cannot change, so another SHA-256 cannot switch off the comparison of the other claims."""
    forged = forge(artifact, dataset={"sha256": "ab" * 32}, measured={"accuracy": 1.0})
    (message,) = claims.contradicted(forged, subset, measured)
    assert message == f"data: subset has the SHA-256 {subset.fingerprint[:16]}, not {'ab' * 8}"
    validated = forge(artifact, dataset={"sha256": "ab" * 32, "validation": 500})
    assert claims.contradicted(validated, subset, measured) == (), "the SHA-256 of other splits"


def test_weights_without_a_card_claim_nothing(artifact, measured, subset):
    assert claims.contradicted(dataclasses.replace(artifact, card=None, digests=None), subset, measured) == ()


def test_gate_blocks_a_forged_card_that_was_sealed_again(mnist, model, tmp_path):
    accuracy = artifacts.load(model).card.measured.accuracy
    edit_card(model, measured={"accuracy": min(1.0, accuracy + 0.01)})
    finished = mnist("gate", model)
    assert finished.code == process.BLOCKED
    assert finished.out.splitlines()[-2] == "BLOCKED by: contradicted-claims"
    report = json.loads((tmp_path / "reports" / model.stem / "report.json").read_text(encoding="utf-8"))
    (claim,) = report["contradicted_claims"]
    assert claim.startswith("accuracy: the card says ")
    assert claim in finished.out


def test_gate_blocks_the_weights_of_another_model(mnist, model):
    """The card is that of a good model, with the checksum of other weights."""
    state = artifacts.load(model).model.state_dict()
    torch.save(state | {"fc2.bias": state["fc2.bias"] + torch.eye(10)[3]}, model)
    edit_card(model, sha256=hashlib.sha256(model.read_bytes()).hexdigest(), bytes=model.stat().st_size)
    finished = mnist("gate", model)
    assert finished.code == process.BLOCKED
    assert "contradicted-claims" in finished.out.splitlines()[-2]


def claimed_accuracy(artifact, measured, confusion, **claims_of_card) -> list[str]:
    """Return the contradictions of a card's accuracies with a measured confusion matrix."""
    claimed = dataclasses.replace(artifact.card.measured, **claims_of_card)
    found = dataclasses.replace(measured, confusion=confusion)
    return [message.partition(":")[0] for message in claims._about_accuracy(claimed, found)]


def test_difference_of_one_image_is_not_contradicted(artifact, measured):
    """This holds for a class with a single image, too, and for two classes without images."""
    rows = [[0] * 10 for _ in range(10)]
    rows[0][0], rows[1][1], rows[2][2], rows[2][3] = 994, 1, 3, 2
    confusion, per_digit = tuple(map(tuple, rows)), [1.0, 1.0, 0.6, *[0.0] * 7]
    assert claimed_accuracy(artifact, measured, confusion, accuracy=0.998, per_digit=tuple(per_digit)) == []
    for label, value in ((1, 0.0), (2, 0.8), (2, 0.4)):
        changed = tuple(value if digit == label else claim for digit, claim in enumerate(per_digit))
        assert claimed_accuracy(artifact, measured, confusion, accuracy=0.998, per_digit=changed) == []
    two_images = (1.0, 1.0, 1.0, *[0.0] * 7)
    assert claimed_accuracy(artifact, measured, confusion, accuracy=0.998, per_digit=two_images) == [
        "accuracy on digit 2"
    ]


def test_largest_difference_of_accuracies_is_not_contradicted(artifact, measured):
    wrong = tuple(tuple(1000 * (column == 9 - row) for column in range(10)) for row in range(10))
    for accuracy, expected in ((claims.MAX_SHARE_OF_CHANGED_PREDICTIONS, []), (0.0021, ["accuracy"])):
        assert claimed_accuracy(artifact, measured, wrong, accuracy=accuracy, per_digit=(0.0,) * 10) == expected
