import dataclasses
import errno
import json
import math
import os
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import save_model
from strategies import architectures, generator, seeds

from mnist import architecture, files
from mnist.metrics import UNCALIBRATED_THRESHOLD
from mnist.storage import artifacts
from mnist.storage import card as cards
from mnist.storage.artifacts import ArtifactError

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)


def save(folder: Path, *, seed: int = 0, name: str = "cnn", now: datetime = NOON) -> Path:
    model = architecture.build(name, generator(seed))
    return save_model(model, folder, recipe={"architecture": name}, dataset={"name": "none"}, now=now)


@settings(max_examples=20)
@given(architectures, seeds)
def test_what_is_loaded_is_what_was_saved(tmp_path_factory, name, seed):
    path = save(tmp_path_factory.mktemp("models"), seed=seed, name=name)
    loaded = artifacts.load(path).model.state_dict()
    saved = architecture.build(name, generator(seed)).state_dict()
    assert list(loaded) == list(saved)
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_the_weights_are_a_plain_state_dict_that_another_module_of_those_layers_can_load(tmp_path):
    class Script(torch.nn.Module):
        """The network as a script would write it, knowing nothing of this project but the names of the layers."""

        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.Conv2d(6, 12, 3, padding=1)
            self.pool, self.relu = torch.nn.MaxPool2d(2), torch.nn.ReLU()
            self.fc1, self.fc2 = torch.nn.Linear(588, 24), torch.nn.Linear(24, 10)

        def forward(self, x):
            x = self.pool(self.relu(self.conv1(x)))
            x = self.pool(self.relu(self.conv2(x)))
            return self.fc2(self.relu(self.fc1(x.view(-1, 588))))

    path = save(tmp_path)
    with torch.random.fork_rng(devices=[]):
        script = Script()
    script.load_state_dict(torch.load(path, weights_only=True))
    images = torch.randn(8, 1, 28, 28, generator=generator(1))
    torch.testing.assert_close(script(images), artifacts.load(path).model(images))


def test_weights_of_a_script_need_no_card(tmp_path):
    state = architecture.build("cnn", generator(3)).state_dict()
    torch.save(state, tmp_path / "mnist_model_20200101_000000.pth")
    artifact = artifacts.load(tmp_path / "mnist_model_20200101_000000.pth")
    assert artifact.card is None
    assert torch.equal(artifact.model.fc2.bias, state["fc2.bias"])


def test_the_name_is_the_time_in_utc_and_the_card_lies_beside_it(tmp_path):
    path = save(tmp_path / "models", now=NOON.astimezone(timezone(timedelta(hours=5))))
    assert path == tmp_path / "models" / "mnist_model_20260102_120000.pth"
    assert sorted(os.listdir(path.parent)) == ["mnist_model_20260102_120000.json", path.name]


def test_the_card_says_what_the_weights_are(tmp_path):
    path = save(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["weights"] == path.name
    assert card["bytes"] == path.stat().st_size
    assert card["created"] == "2026-01-02T12:00:00+00:00"
    assert card["parameters"] == 15_106
    assert card["multiply_accumulates"] == architecture.count_multiply_accumulates(artifacts.load(path).model)
    assert json.loads(files.to_json(dataclasses.asdict(artifacts.load(path).card))) == card


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=10)
def test_every_save_is_a_file_of_its_own_and_the_newest_is_the_newest(tmp_path_factory, gaps):
    folder, now = tmp_path_factory.mktemp("models"), NOON
    saved = []
    for gap in gaps:
        now += timedelta(seconds=gap)
        saved.append(save(folder, now=now))
        assert artifacts.newest(folder) == saved[-1]
    assert len(set(saved)) == len(gaps)


def test_saves_at_once_are_as_many_files_each_whole(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda seed: save(tmp_path, seed=seed), range(8)))
    assert len(set(saved)) == 8
    for seed, path in enumerate(saved):
        expected = architecture.build("cnn", generator(seed)).state_dict()["fc2.bias"]
        assert torch.equal(artifacts.load(path).model.fc2.bias, expected)


def test_files_that_lie_there_are_never_overwritten(tmp_path):
    stem = tmp_path / "mnist_model_20260102_120000"
    stem.with_suffix(".pth").write_bytes(b"somebody's weights")
    (tmp_path / "mnist_model_20260102_120000_2.json").write_bytes(b"somebody's card")
    assert save(tmp_path).name == "mnist_model_20260102_120000_3.pth"
    assert stem.with_suffix(".pth").read_bytes() == b"somebody's weights"
    assert (tmp_path / "mnist_model_20260102_120000_2.json").read_bytes() == b"somebody's card"


def test_what_is_no_artifact_is_not_the_newest(tmp_path):
    for name in ("other.pth", "mnist_model_20990101_000000.json", "mnist_model_2099.pth"):
        (tmp_path / name).touch()
    assert artifacts.newest(tmp_path) is None
    assert artifacts.newest(tmp_path / "nowhere") is None
    assert artifacts.newest(save(tmp_path).parent) is not None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("write", [1, 2])
def test_a_save_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, code, write):
    before = save(tmp_path)
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    real, writes = files.write_atomically, []

    def fail(path, content):
        writes.append(path)
        if len(writes) == write:
            raise OSError(code, os.strerror(code), str(path))
        real(path, content)

    monkeypatch.setattr(files, "write_atomically", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        save(tmp_path, now=NOON + timedelta(seconds=1))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert artifacts.newest(tmp_path) == before


def edit_card(path: Path, **changes) -> None:
    """Replace values of a card, in its tables single fields, and seal it again."""
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


# ---- Bad files -------------------------------------------------------------------------------------------------------


class Canary:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("save_with", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, save_with):
    path, canary = tmp_path / "model.pth", tmp_path / "canary"
    save_with({"conv1.weight": Canary(canary)}, path)
    with pytest.raises(ArtifactError, match="could run code"):
        artifacts.load(path)
    assert not canary.exists()


def test_a_file_that_is_missing_or_a_folder_or_huge_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="there is no model at"):
        artifacts.load(tmp_path / "missing.pth")
    with pytest.raises(ArtifactError, match="is a folder"):
        artifacts.load(tmp_path)
    with (tmp_path / "huge.pth").open("wb") as file:
        file.truncate(artifacts.MAX_WEIGHTS_BYTES + 1)
    with pytest.raises(ArtifactError, match="more than the 10,000,000 it may have"):
        artifacts.load(tmp_path / "huge.pth")


@settings(max_examples=30)
@given(st.data())
def test_a_truncated_weights_file_is_refused_with_or_without_its_card(tmp_path_factory, data):
    path = save(tmp_path_factory.mktemp("models"))
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ArtifactError, match="damaged"):
        artifacts.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ArtifactError, match=r"damaged|empty|could run code"):
        artifacts.load(path)


@pytest.mark.parametrize("suffix", [".pth", ".json"])
@settings(max_examples=50)
@given(st.data())
def test_a_flipped_bit_in_the_weights_or_the_card_is_found(tmp_path_factory, suffix, data):
    path = save(tmp_path_factory.mktemp("models"))
    content = bytearray(path.with_suffix(suffix).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.with_suffix(suffix).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is damaged|is not a model card|of schema"):
        artifacts.load(path)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([1, 2], "not a state_dict"),
        ({"conv1.weight": 3}, "not a state_dict"),
        ({}, "another architecture"),
        ({1: torch.zeros(3)}, "not a state_dict"),
        ({"fc.weight": torch.zeros(10, 784)}, "another architecture"),
        (torch.zeros(3), "not a state_dict"),
    ],
)
def test_what_is_not_the_weights_of_a_known_network_is_refused(tmp_path, value, complaint):
    torch.save(value, tmp_path / "model.pth")
    with pytest.raises(ArtifactError, match=complaint):
        artifacts.load(tmp_path / "model.pth")


def test_weights_with_the_right_names_and_wrong_shapes_are_refused(tmp_path):
    state = architecture.build("cnn", generator(0)).state_dict()
    state["fc1.weight"] = torch.zeros(24, 12)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ArtifactError, match=r"another architecture \(known: cnn, fast, "):
        artifacts.load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", '{"schema": 2}', '{"unknown": 1}', "\udcff", "[" * 100_000, "{}"]
)
def test_a_card_that_is_no_card_is_refused(tmp_path, content):
    path = save(tmp_path)
    path.with_suffix(".json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match="is not a model card"):
        artifacts.load(path)


def test_a_card_of_another_schema_or_for_an_unknown_architecture_is_refused(tmp_path):
    path = save(tmp_path)
    for changed, complaint in (({"schema": 1}, "schema 1"), ({"architecture": "nope"}, "no architecture is called")):
        edit_card(path, **{"schema": cards.SCHEMA, **changed})
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
def test_a_card_with_values_of_another_kind_is_refused(tmp_path, changed):
    path = save(tmp_path)
    edit_card(path, **changed)
    with pytest.raises(ArtifactError, match="is not a model card"):
        artifacts.load(path)


def test_a_card_that_does_not_say_it_is_of_one_who_knows_digits_and_needs_to_be_rather_sure(tmp_path):
    path = save(tmp_path)
    drop_fields(path, dataset=["classes"], measured=["threshold"])
    silent = artifacts.load(path)
    path.with_suffix(".json").unlink()
    for artifact in (silent, artifacts.load(path)):
        assert artifact.classes == tuple("0123456789")
        assert artifact.threshold == UNCALIBRATED_THRESHOLD
    assert silent.trained_on == {"none"}
    assert artifacts.load(path).trained_on == {"mnist"}, "of weights that say nothing the worst is supposed"


def test_load_reads_a_card_of_an_early_version(tmp_path):
    """The first cards of schema 2 had no threshold, class names, threads, processes, origin or count of resumptions."""
    path = save(tmp_path)
    early = {"training": ["threads", "processes", "init", "resumed"], "dataset": ["classes"], "measured": ["threshold"]}
    drop_fields(path, **early)
    card = artifacts.load(path).card
    assert (card.training.threads, card.training.init, card.training.resumed) == (None, None, 0)


@pytest.mark.parametrize(
    "lacking", [{"dataset": ["sha256"]}, {"measured": ["accuracy"]}, {"recipe": ["name"]}], ids=repr
)
def test_load_refuses_a_card_that_lacks_a_field(tmp_path, lacking):
    path = save(tmp_path)
    drop_fields(path, **lacking)
    with pytest.raises(ArtifactError, match="lacks the field"):
        artifacts.load(path)


def test_the_card_names_the_classes_and_the_threshold(tmp_path):
    path, names = save(tmp_path), [f"class {number}" for number in range(10)]
    for threshold in (0, 0.625, 1):
        edit_card(path, dataset={"classes": names}, measured={"threshold": threshold})
        assert artifacts.load(path).classes == tuple(names)
        assert artifacts.load(path).threshold == threshold


def test_what_a_model_has_learned_from_is_remembered_however_often_it_is_trained_on(tmp_path):
    """Each card takes over what the one before it says, as training writes it."""
    path, seen = save(tmp_path), {"none"}
    for number, name in enumerate(["mnist", "photos", "subset", "photos"], start=1):
        origin = artifacts.load(path)
        path = save(tmp_path, seed=number)
        init = {"weights": origin.path.name, "sha256": origin.sha256, "trained_on": sorted(origin.trained_on)}
        edit_card(path, dataset={"name": name}, training={"init": init})
        seen.add(name)
        assert artifacts.load(path).trained_on == seen
    edit_card(path, dataset={"name": "kmnist"}, training={"init": None})
    assert artifacts.load(path).trained_on == {"kmnist"}


def test_where_there_must_be_a_model_and_is_none_the_way_to_one_is_said(tmp_path):
    with pytest.raises(ArtifactError, match=re.escape(f"there is no model in {tmp_path} (train one: make train")):
        artifacts.require_newest(tmp_path)
    path = save(tmp_path)
    assert artifacts.require_newest(tmp_path) == path


@pytest.mark.parametrize("seed", [7, 0, None])
def test_initial_model_has_the_weights_of_the_seed(tmp_path, seed):
    """Without a card, the seed is 0."""
    path = save(tmp_path)
    if seed is None:
        path.with_suffix(".json").unlink()
    else:
        edit_card(path, recipe={"seed": seed})
    initial = artifacts.load(path).initial_model().state_dict()
    expected = architecture.build("cnn", generator(seed or 0)).state_dict()
    assert all(torch.equal(initial[name], expected[name]) for name in expected)


def test_a_figure_that_could_not_be_measured_is_null_on_the_card(tmp_path):
    model = architecture.build("cnn", generator(0))
    path = save_model(model, tmp_path, measured={"loss": math.nan, "per_digit": (1.0, math.inf)})
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    measured = json.loads(text, parse_constant=pytest.fail)["measured"]
    assert (measured["loss"], measured["per_digit"]) == (None, [1.0, None])
    assert math.isnan(artifacts.load(path).card.measured.loss)


def test_an_interruption_after_the_weights_are_there_leaves_them_their_card(tmp_path, monkeypatch):
    def interrupt(path, content):
        path.write_bytes(content)
        if path.suffix == ".pth":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_atomically", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path)
    assert artifacts.load(artifacts.newest(tmp_path)).card is not None


def test_a_model_that_was_copied_elsewhere_loads_with_its_card(tmp_path):
    path = save(tmp_path)
    for suffix in (".pth", ".json"):
        shutil.copy(path.with_suffix(suffix), tmp_path / f"released{suffix}")
    artifact = artifacts.load(tmp_path / "released.pth")
    assert artifact.card is not None
    assert architecture.predict(artifact.model, torch.zeros(1, 1, 28, 28)).shape == (1, 10)
