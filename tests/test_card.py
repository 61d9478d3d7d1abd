"""The model card: what it says, and which cards are refused."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from samples import save_model
from strategies import generator
from test_artifacts import save

from mnist import architecture, files, operations
from mnist.confidence import UNCALIBRATED_THRESHOLD
from mnist.storage import artifacts
from mnist.storage import card as cards
from mnist.storage.artifacts import ArtifactError
from mnist.storage.card import DatasetInfo, Origin


def test_card_describes_the_weights(tmp_path):
    path = save(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["weights"] == path.name
    assert card["bytes"] == path.stat().st_size
    assert card["created"] == "2026-01-02T12:00:00+00:00"
    assert card["parameters"] == 15_106
    assert card["multiply_accumulates"] == operations.count_multiply_accumulates(artifacts.load(path).model)
    assert json.loads(files.to_json(dataclasses.asdict(artifacts.load(path).card))) == card


def edit_card(path: Path, **changes) -> None:
    """Replace values in a card and seal it again. A dictionary replaces single fields of a table."""
    card = path.with_suffix(".json")
    values = json.loads(card.read_text(encoding="utf-8"))
    for name, value in changes.items():
        replaced = values.get(name)
        values[name] = replaced | value if isinstance(replaced, dict) and isinstance(value, dict) else value
    values["card_sha256"] = "0" * 64
    card.write_bytes(cards.seal(json.dumps(values).encode()))


def drop_fields(path: Path, **names: list[str]) -> None:
    """Remove fields from the tables of a card, as in a card of an early version, and seal it again."""
    card = path.with_suffix(".json")
    values = json.loads(card.read_text(encoding="utf-8")) | {"card_sha256": "0" * 64}
    for table, fields in names.items():
        for field in fields:
            del values[table][field]
    card.write_bytes(cards.seal(json.dumps(values).encode()))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", '{"schema": 2}', '{"unknown": 1}', "\udcff", "[" * 100_000, "{}"]
)
def test_load_refuses_an_invalid_card(tmp_path, content):
    path = save(tmp_path)
    path.with_suffix(".json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match="is not a model card"):
        artifacts.load(path)


def test_load_refuses_another_schema_or_architecture(tmp_path):
    path = save(tmp_path)
    for changed, complaint in (({"schema": 1}, "schema 1"), ({"architecture": "nope"}, "no architecture is called")):
        edit_card(path, **{"schema": cards.CARD_SCHEMA, **changed})
        with pytest.raises((ArtifactError, architecture.ArchitectureError), match=complaint):
            artifacts.load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": []},
        {"dataset": None},
        {"dataset": "subset"},
        {"architecture": []},
        {"recipe": []},
        {"training": 3},
        {"measured": None},
        {"environment": "here"},
        {"sha256": 7},
        {"bytes": "many"},
        {"parameters": 1.5},
        {"dataset": {"name": []}},
        {"measured": {"loss": json.loads("[" * 50 + "]" * 50)}},
        {"measured": {"unknown": 1}},
        {"measured": {"images": True}},
        {"training": {"seconds": 10**400}},
        {"recipe": {"epochs": -1}},
        {"recipe": {"seed": -1}},
        {"recipe": {"seed": 2**70}},
        {"recipe": {"seed": "7"}},
        {"recipe": {"seed": None}},
        {"unknown": 1},
        {"dataset": {"classes": "0123456789"}},
        {"dataset": {"classes": [*"012345678"]}},
        {"dataset": {"classes": [*range(10)]}},
        {"dataset": {"classes": None}},
        {"dataset": {"validation": -1}},
        {"dataset": {"validation": "800"}},
        {"measured": {"threshold": "0.9"}},
        {"measured": {"threshold": None}},
        {"measured": {"threshold": 1.01}},
        {"measured": {"threshold": -0.01}},
        {"measured": {"threshold": math.nan}},
        {"training": {"init": "models/a.pth"}},
        {"training": {"init": ["mnist"]}},
        {"training": {"init": {"trained_on": "mnist"}}},
        {"training": {"init": {"trained_on": [1]}}},
        {"training": {"init": {"trained_on": None}}},
    ],
    ids=repr,
)
def test_load_refuses_a_card_with_values_of_wrong_types(tmp_path, changed):
    path = save(tmp_path)
    edit_card(path, **changed)
    with pytest.raises(ArtifactError, match="is not a model card"):
        artifacts.load(path)


def test_default_classes_threshold_and_training_data(tmp_path):
    """They hold for a card without these fields, and for weights without a card."""
    path = save(tmp_path)
    drop_fields(path, dataset=["classes", "validation"], measured=["threshold"])
    early = artifacts.load(path)
    path.with_suffix(".json").unlink()
    for artifact in (early, artifacts.load(path)):
        assert artifact.classes == tuple("0123456789")
        assert artifact.threshold == UNCALIBRATED_THRESHOLD
    assert early.trained_on == {"none"}
    assert artifacts.load(path).trained_on == {"mnist"}, "weights without a card are assumed to be trained on MNIST"


def test_load_reads_a_card_of_an_early_version(tmp_path):
    """The first cards of schema 2 lacked these fields."""
    path = save(tmp_path)
    early = {
        "training": ["threads", "processes", "init", "resumed"],
        "dataset": ["classes", "validation"],
        "measured": ["threshold"],
    }
    drop_fields(path, **early)
    card = artifacts.load(path).card
    assert (card.training.threads, card.training.init, card.training.resumed) == (None, None, 0)
    assert card.dataset.validation == 0


def remove_seal(path: Path, schema: int) -> None:
    """Remove the card's own SHA-256, as whoever edits a card could do."""
    card = path.with_suffix(".json")
    values = json.loads(card.read_text(encoding="utf-8")) | {"schema": schema}
    del values["card_sha256"]
    card.write_text(json.dumps(values), encoding="utf-8")


def test_load_refuses_a_card_of_schema_3_without_its_own_digest(tmp_path):
    path = save(tmp_path)
    remove_seal(path, schema=cards.CARD_SCHEMA)
    with pytest.raises(ArtifactError, match="lacks card_sha256"):
        artifacts.load(path)


def test_load_reads_a_card_of_schema_2_with_or_without_its_digest(tmp_path):
    path = save(tmp_path)
    edit_card(path, schema=2)
    assert artifacts.load(path).card.schema == 2
    remove_seal(path, schema=2)
    assert artifacts.load(path).card.schema == 2


@pytest.mark.parametrize(
    "lacking", [{"dataset": ["sha256"]}, {"measured": ["accuracy"]}, {"recipe": ["name"]}], ids=repr
)
def test_load_refuses_a_card_that_lacks_a_field(tmp_path, lacking):
    path = save(tmp_path)
    drop_fields(path, **lacking)
    with pytest.raises(ArtifactError, match="lacks the field"):
        artifacts.load(path)


def test_load_takes_classes_and_threshold_from_the_card(tmp_path):
    path, names = save(tmp_path), [f"class {number}" for number in range(10)]
    for threshold in (0, 0.625, 1):
        edit_card(path, dataset={"classes": names}, measured={"threshold": threshold})
        assert artifacts.load(path).classes == tuple(names)
        assert artifacts.load(path).threshold == threshold


def test_overlapping_data_of_a_validation_part(tmp_path, subset):
    """Only a model that was trained on the same two parts has not been trained on the validation part."""
    divided = subset.with_validation(800)

    def overlapping(dataset, *trained_on):
        init = Origin("older.pth", "0" * 64, trained_on) if trained_on else None
        path = save_model(architecture.build("cnn", generator(0)), tmp_path, dataset=dataset, init=init)
        return artifacts.load(path).overlapping_data(divided)

    same_parts = vars(DatasetInfo.of(divided))
    assert overlapping(same_parts) == set()
    assert overlapping(same_parts, "kmnist") == set()
    assert overlapping(same_parts, "kmnist", "mnist") == {"mnist"}
    assert overlapping(vars(DatasetInfo.of(subset))) == {"subset"}
    assert overlapping(vars(DatasetInfo.of(subset.with_validation(400)))) == {"subset"}
    assert overlapping({"name": "photos"}) == set()


def test_trained_on_accumulates_over_repeated_training(tmp_path):
    """Each card names the data sets of the model that training started from, as a training run writes it."""
    path = save(tmp_path)
    seen = {"none"}
    for number, name in enumerate(["mnist", "photos", "subset", "photos"], start=1):
        origin = artifacts.load(path)
        path = save(tmp_path, seed=number)
        init = {"weights": origin.path.name, "sha256": origin.sha256, "trained_on": sorted(origin.trained_on)}
        edit_card(path, dataset={"name": name}, training={"init": init})
        seen.add(name)
        assert artifacts.load(path).trained_on == seen
    edit_card(path, dataset={"name": "kmnist"}, training={"init": None})
    assert artifacts.load(path).trained_on == {"kmnist"}


def test_card_has_null_for_values_that_are_not_finite(tmp_path):
    model = architecture.build("cnn", generator(0))
    path = save_model(model, tmp_path, measured={"loss": math.nan, "per_digit": (1.0, math.inf)})
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    measured = json.loads(text, parse_constant=pytest.fail)["measured"]
    assert (measured["loss"], measured["per_digit"]) == (None, [1.0, None])
    assert math.isnan(artifacts.load(path).card.measured.loss)


def test_seal_replaces_only_the_cards_own_digest(tmp_path):
    """Another digest on the card may equal the placeholder."""
    model = architecture.build("cnn", generator(0))
    path = save_model(model, tmp_path, dataset={"sha256": "0" * 64})
    assert artifacts.load(path).card.dataset.sha256 == "0" * 64
