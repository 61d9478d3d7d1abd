import errno
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
from mnist.errors import MnistError
from mnist.storage import artifacts, state_dicts
from mnist.storage.artifacts import ArtifactError

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)


def save(folder: Path, *, seed: int = 0, name: str = "cnn", now: datetime = NOON) -> Path:
    model = architecture.build(name, generator(seed))
    return save_model(model, folder, recipe={"architecture": name}, dataset={"name": "none"}, now=now)


@settings(max_examples=20)
@given(architectures, seeds)
def test_load_returns_the_weights_that_were_saved(tmp_path_factory, name, seed):
    path = save(tmp_path_factory.mktemp("models"), seed=seed, name=name)
    loaded = artifacts.load(path).model.state_dict()
    saved = architecture.build(name, generator(seed)).state_dict()
    assert list(loaded) == list(saved)
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_weights_are_a_plain_state_dict(tmp_path):
    """Another program with the same layer names can load them."""

    class Script(torch.nn.Module):
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


def test_load_weights_without_a_card(tmp_path):
    state = architecture.build("cnn", generator(3)).state_dict()
    torch.save(state, tmp_path / "mnist_model_20200101_000000.pth")
    artifact = artifacts.load(tmp_path / "mnist_model_20200101_000000.pth")
    assert artifact.card is None
    assert torch.equal(artifact.model.fc2.bias, state["fc2.bias"])


def test_save_names_files_by_time_in_utc(tmp_path):
    path = save(tmp_path / "models", now=NOON.astimezone(timezone(timedelta(hours=5))))
    assert path == tmp_path / "models" / "mnist_model_20260102_120000.pth"
    assert sorted(os.listdir(path.parent)) == ["mnist_model_20260102_120000.json", path.name]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=10)
def test_save_makes_a_new_file_that_is_the_newest(tmp_path_factory, gaps):
    folder, now = tmp_path_factory.mktemp("models"), NOON
    saved = []
    for gap in gaps:
        now += timedelta(seconds=gap)
        saved.append(save(folder, now=now))
        assert artifacts.newest(folder) == saved[-1]
    assert len(set(saved)) == len(gaps)


def test_concurrent_saves_write_complete_files(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda seed: save(tmp_path, seed=seed), range(8)))
    assert len(set(saved)) == 8
    for seed, path in enumerate(saved):
        expected = architecture.build("cnn", generator(seed)).state_dict()["fc2.bias"]
        assert torch.equal(artifacts.load(path).model.fc2.bias, expected)


def test_save_never_overwrites_a_file(tmp_path):
    stem = tmp_path / "mnist_model_20260102_120000"
    stem.with_suffix(".pth").write_bytes(b"another user's weights")
    (tmp_path / "mnist_model_20260102_120000_2.json").write_bytes(b"another user's card")
    assert save(tmp_path).name == "mnist_model_20260102_120000_3.pth"
    assert stem.with_suffix(".pth").read_bytes() == b"another user's weights"
    assert (tmp_path / "mnist_model_20260102_120000_2.json").read_bytes() == b"another user's card"


def test_newest_ignores_other_files(tmp_path):
    for name in ("other.pth", "mnist_model_20990101_000000.json", "mnist_model_2099.pth"):
        (tmp_path / name).touch()
    assert artifacts.newest(tmp_path) is None
    assert artifacts.newest(tmp_path / "nowhere") is None
    assert artifacts.newest(save(tmp_path).parent) is not None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("write", [1, 2])
def test_failed_save_leaves_the_folder_unchanged(tmp_path, monkeypatch, code, write):
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


# ---- Bad files -------------------------------------------------------------------------------------------------------


class Canary:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("save_with", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_load_refuses_a_pickle_without_running_it(tmp_path, save_with):
    path, canary = tmp_path / "model.pth", tmp_path / "canary"
    save_with({"conv1.weight": Canary(canary)}, path)
    with pytest.raises(ArtifactError, match="could run code"):
        artifacts.load(path)
    assert not canary.exists()


def test_load_refuses_missing_files_folders_and_huge_files(tmp_path):
    with pytest.raises(ArtifactError, match="there is no model at"):
        artifacts.load(tmp_path / "missing.pth")
    with pytest.raises(ArtifactError, match="is a folder"):
        artifacts.load(tmp_path)
    with (tmp_path / "huge.pth").open("wb") as file:
        file.truncate(state_dicts.MAX_WEIGHTS_BYTES + 1)
    with pytest.raises(ArtifactError, match="more than the limit of 10,000,000"):
        artifacts.load(tmp_path / "huge.pth")


@settings(max_examples=30)
@given(st.data())
def test_load_refuses_truncated_weights(tmp_path_factory, data):
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
def test_load_detects_a_flipped_bit(tmp_path_factory, suffix, data):
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
def test_load_refuses_other_values_than_known_weights(tmp_path, value, complaint):
    torch.save(value, tmp_path / "model.pth")
    with pytest.raises(ArtifactError, match=complaint):
        artifacts.load(tmp_path / "model.pth")


def test_load_refuses_weights_of_another_shape(tmp_path):
    state = architecture.build("cnn", generator(0)).state_dict()
    state["fc1.weight"] = torch.zeros(24, 12)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ArtifactError, match=r"another architecture \(tried: cnn, fast, "):
        artifacts.load(tmp_path / "model.pth")


def test_require_newest_says_how_to_train_a_model(tmp_path):
    with pytest.raises(ArtifactError, match=re.escape(f"there is no model in {tmp_path} (train one: make train")):
        artifacts.require_newest(tmp_path)
    path = save(tmp_path)
    assert artifacts.require_newest(tmp_path) == path


@pytest.mark.parametrize("seed", [7, 0, None])
def test_initial_model_has_the_weights_of_the_seed(tmp_path, seed):
    """Without a card, the seed is 0."""
    model = architecture.build("cnn", generator(1))
    path = save_model(model, tmp_path, recipe={"architecture": "cnn", "seed": seed or 0})
    if seed is None:
        path.with_suffix(".json").unlink()
    initial = artifacts.load(path).initial_model().state_dict()
    expected = architecture.build("cnn", generator(seed or 0)).state_dict()
    assert all(torch.equal(initial[name], expected[name]) for name in expected)


def test_interrupted_save_keeps_the_card_of_written_weights(tmp_path, monkeypatch):
    def interrupt(path, content):
        path.write_bytes(content)
        if path.suffix == ".pth":
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_atomically", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path)
    assert artifacts.load(artifacts.newest(tmp_path)).card is not None


def test_load_a_renamed_model_with_its_card(tmp_path):
    path = save(tmp_path)
    for suffix in (".pth", ".json"):
        shutil.copy(path.with_suffix(suffix), tmp_path / f"released{suffix}")
    artifact = artifacts.load(tmp_path / "released.pth")
    assert artifact.card is not None
    assert architecture.predict(artifact.model, torch.zeros(1, 1, 28, 28)).shape == (1, 10)


# ---- Weights of other programs ---------------------------------------------------------------------------------------

REFUSED_DTYPES = (
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


def state_of(name: str = "cnn", seed: int = 1) -> dict[str, torch.Tensor]:
    return architecture.build(name, generator(seed)).state_dict()


def load_state(folder: Path, state: object) -> artifacts.Artifact:
    torch.save(state, folder / "model.pth")
    return artifacts.load(folder / "model.pth")


@pytest.mark.parametrize("name", ["cnn", "fast", "compact-1k"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 0.0), (torch.float16, 0.01), (torch.bfloat16, 0.1)], ids=str
)
def test_load_converts_other_floating_point_types(tmp_path, name, dtype, tolerance):
    """Counters of batch norm stay integers, and the predictions change by no more than rounding."""
    state = state_of(name)
    stored = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    artifact = load_state(tmp_path, stored)
    assert artifact.architecture == name
    assert {key: tensor.dtype for key, tensor in artifact.model.state_dict().items()} == {
        key: tensor.dtype for key, tensor in state.items()
    }
    assert artifact.notices == (f"model.pth: converted {str(dtype).removeprefix('torch.')} weights to float32",)
    images = torch.randn(16, 1, 28, 28, generator=generator(2))
    expected = architecture.predict(architecture.build(name, generator(1)), images)
    torch.testing.assert_close(architecture.predict(artifact.model, images), expected, rtol=0, atol=tolerance or 1e-6)


def test_load_of_float32_weights_changes_nothing(tmp_path):
    artifact = load_state(tmp_path, state_of())
    assert artifact.notices == ()
    assert all(torch.equal(tensor, state_of()[key]) for key, tensor in artifact.model.state_dict().items())


@settings(max_examples=30)
@given(name=architectures, dtype=st.sampled_from(REFUSED_DTYPES), data=st.data())
def test_load_refuses_weights_that_are_not_floating_point(tmp_path_factory, name, dtype, data):
    """One tensor is sufficient."""
    state = state_of(name)
    key = data.draw(st.sampled_from(sorted(key for key, tensor in state.items() if tensor.is_floating_point())))
    state[key] = state[key].to(dtype)
    with pytest.raises(ArtifactError, match=rf"'{re.escape(key)}' as {str(dtype).removeprefix('torch.')} "):
        load_state(tmp_path_factory.mktemp("models"), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool], ids=str)
def test_load_refuses_a_counter_that_is_no_int64(tmp_path, dtype):
    state = state_of("compact-1k")
    key = next(key for key in state if key.endswith("num_batches_tracked"))
    with pytest.raises(ArtifactError, match=re.escape(repr(key))):
        load_state(tmp_path, state | {key: state[key].to(dtype)})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_load_strips_the_prefixes_of_wrappers(tmp_path, prefix):
    """DistributedDataParallel and torch.compile add them."""
    artifact = load_state(tmp_path, {prefix + key: tensor for key, tensor in state_of("fast").items()})
    assert artifact.architecture == "fast"
    assert all(torch.equal(tensor, state_of("fast")[key]) for key, tensor in artifact.model.state_dict().items())
    assert len(artifact.notices) == prefix.count(".")
    assert all("removed the prefix" in notice for notice in artifact.notices)


@pytest.mark.parametrize("prefix", ["model.", "Module.", "module.model."])
def test_load_refuses_other_prefixes(tmp_path, prefix):
    with pytest.raises(ArtifactError, match="another architecture"):
        load_state(tmp_path, {prefix + key: tensor for key, tensor in state_of().items()})


def test_load_refuses_a_prefix_of_some_names_only(tmp_path):
    state = state_of()
    state["module.fc2.bias"] = state.pop("fc2.bias")
    with pytest.raises(ArtifactError, match="another architecture"):
        load_state(tmp_path, state)


@pytest.mark.parametrize(
    "metadata", [[1], "text", 3, {"": 3}, {"fc2": [1]}, {"": None}, {"": {"version": 1}, "fc2": "2"}], ids=repr
)
def test_load_refuses_metadata_of_another_form(tmp_path, metadata):
    """PyTorch stores the versions of the modules there, and would raise an error of its own."""
    state = state_of()
    state._metadata = metadata
    with pytest.raises(ArtifactError, match="_metadata has another form"):
        load_state(tmp_path, state)


@pytest.mark.parametrize("metadata", [{}, {"": {"version": 1}}, {"elsewhere": {}}], ids=repr)
def test_load_accepts_metadata_of_any_content(tmp_path, metadata):
    state = state_of()
    state._metadata = metadata
    assert load_state(tmp_path, state).architecture == "cnn"


# ---- Weights from other programs -------------------------------------------------------------------------------------


@given(name=st.sampled_from(list(architecture.ARCHITECTURES)), seed=st.integers(0, 9))
def test_weights_with_other_names_are_matched_by_order_and_shape(tmp_path, name, seed):
    original = architecture.build(name, generator(seed)).eval()
    path = tmp_path / "elsewhere.pth"
    torch.save({f"layer{number}": tensor for number, tensor in enumerate(original.state_dict().values())}, path)
    for other in {"cnn", None} - {name}:
        with pytest.raises(ArtifactError, match=r"another architecture|must be floating-point"):
            artifacts.load(path, architecture=other)
    found = artifacts.load(path, architecture=name)
    assert found.architecture == name
    assert found.notices == (f"elsewhere.pth: matched the weights with those of {name} by their order and shapes",)
    assert all(map(torch.equal, found.model.state_dict().values(), original.state_dict().values()))


def test_weights_with_other_names_need_an_architecture(tmp_path):
    state = architecture.build("cnn", generator(0)).state_dict()
    torch.save({f"layer{number}": tensor for number, tensor in enumerate(state.values())}, tmp_path / "model.pth")
    with pytest.raises(ArtifactError, match="--architecture matches weights by their order and shapes"):
        artifacts.load(tmp_path / "model.pth")


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_weights_inside_a_training_checkpoint_are_found(tmp_path, key):
    model = architecture.build("cnn", generator(0))
    optimizer = torch.optim.Adam(model.parameters())
    content = {"epoch": 3, key: model.state_dict(), "optimizer": optimizer.state_dict(), "loss": 0.1}
    torch.save(content, tmp_path / "checkpoint.pth")
    found = artifacts.load(tmp_path / "checkpoint.pth")
    assert torch.equal(found.model.state_dict()["conv1.weight"], model.state_dict()["conv1.weight"])
    assert found.notices == (f"checkpoint.pth: used the weights under {key!r}",)


def test_architecture_that_does_not_exist_is_refused(tmp_path):
    path = save(tmp_path)
    with pytest.raises(MnistError, match="nothing"):
        artifacts.load(path, architecture="nothing")
    with pytest.raises(ArtifactError, match="another architecture"):
        artifacts.load(path, architecture="fast")


def test_load_refuses_a_small_file_of_many_numbers(tmp_path):
    """A tensor that repeats one number takes no space in the file, but would take memory when it is converted."""
    state = architecture.build("cnn", generator(0)).state_dict()
    state["conv1.weight"] = torch.zeros(1, dtype=torch.half).expand(10**12)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ArtifactError, match="holds more numbers than fit into"):
        artifacts.load(tmp_path / "model.pth")


def test_load_names_the_commands_for_onnx_files(tmp_path):
    with pytest.raises(ArtifactError, match=r"name a \.pth file; mnist predict, gate and compare accept both"):
        artifacts.load(tmp_path / "model.onnx")
