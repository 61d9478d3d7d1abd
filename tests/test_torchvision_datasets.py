"""The data sets of torchvision: Fashion-MNIST, KMNIST, EMNIST's digits and QMNIST."""

import errno
import gc
import gzip
import hashlib
import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torchvision
from strategies import idx_of_integers, raw_files, tiny_mnist, write_raw

from mnist import datasets
from mnist.datasets import DIGITS, DatasetError, UnavailableError, mirrors

pytestmark = pytest.mark.usefixtures("public_mirrors")

every_dataset = pytest.mark.parametrize(("name", "kind"), datasets.TORCHVISION_DATASETS.items())


def entries(data_dir: Path) -> list[str]:
    """Return the names of the files and folders in a data folder, except lock files."""
    return [entry.name for entry in data_dir.iterdir() if not entry.name.endswith(".lock")]


@every_dataset
def test_load_reads_the_files_of_torchvision(tmp_path, name, kind):
    write_raw(tmp_path, kind)
    expected = [datasets.parse_idx(content, "tiny") for content in tiny_mnist()]
    loaded = datasets.load(name, tmp_path)
    assert loaded.name == loaded.kind == name
    for split, pixels, labels in ((loaded.train, *expected[:2]), (loaded.test, *expected[2:])):
        assert torch.equal(split.images[:, 0], pixels.transpose(1, 2) if name == "emnist-digits" else pixels)
        assert split.images.is_contiguous()
        assert torch.equal(split.labels, labels.long())
        assert split.classes == loaded.train.classes
    assert loaded.train.description == f"{kind} training set, 20 images"
    assert loaded.test.description == f"{kind} test set, 10 images"
    assert loaded.fingerprint == datasets.load(name, tmp_path).fingerprint


def test_load_sets_the_class_names(tmp_path):
    classes = {}
    for name, kind in datasets.TORCHVISION_DATASETS.items():
        write_raw(tmp_path, kind)
        classes[name] = datasets.load(name, tmp_path).test.classes
    assert classes["emnist-digits"] == classes["qmnist"] == DIGITS
    assert classes["fashion-mnist"][0] == "T-shirt/top"
    assert classes["kmnist"][:2] == ("o", "ki")
    assert {len(names) for names in classes.values()} == {10}


# Each function damages an IDX file: byte 2 is the type, byte 3 the number of dimensions.
DAMAGE = {
    "truncated": lambda content: content[:-5],
    "empty": lambda content: b"",
    "half a header": lambda content: content[:6],
    "another type": lambda content: content[:2] + b"\x09" + content[3:],
    "unknown type": lambda content: content[:2] + b"\x0a" + content[3:],
    "another number of dimensions": lambda content: content[:3] + bytes([content[3] % 3 + 1]) + content[4:],
    "no values": lambda content: content[: 4 + 4 * content[3]],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("part", [0, 3])
@every_dataset
def test_load_names_the_folder_of_a_damaged_file(tmp_path, name, kind, part, damage):
    folder = write_raw(tmp_path, kind)
    path = folder / list(raw_files(kind, tiny_mnist()))[part]
    damaged = DAMAGE[damage](path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DatasetError) as error:
        datasets.load(name, tmp_path)
    assert str(tmp_path / kind) in str(error.value) or str(error.value).startswith(f"{kind} "), error.value
    assert "\n" not in str(error.value)
    assert path.read_bytes() == damaged


@every_dataset
def test_load_says_what_to_do_about_a_missing_file(tmp_path, name, kind):
    folder = write_raw(tmp_path, kind)
    next(folder.iterdir()).unlink()
    with pytest.raises(DatasetError, match=f"{kind} is incomplete or damaged .remove it to download it again"):
        datasets.load(name, tmp_path)


@pytest.mark.parametrize("label", [10, -1, -(2**31)])
def test_load_refuses_a_label_out_of_range(tmp_path, label):
    folder = write_raw(tmp_path, "QMNIST")
    labels = torch.arange(10, dtype=torch.int32)[:, None].repeat(1, 8)
    labels[4, 0] = label
    (folder / "qmnist-test-labels-idx2-int").write_bytes(idx_of_integers(labels))
    with pytest.raises(DatasetError, match=f"QMNIST test set: a label is {label}, but"):
        datasets.load("qmnist", tmp_path)


def test_load_passes_a_read_error_on(tmp_path, monkeypatch):
    """A file that cannot be read is not reported as damaged."""
    write_raw(tmp_path, "KMNIST")

    def fail(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "raw")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "_load_data", fail)
    with pytest.raises(PermissionError):
        datasets.load("kmnist", tmp_path)


@every_dataset
def test_load_without_network_leaves_nothing_behind(tmp_path, name, kind):
    lines = []
    with pytest.raises(UnavailableError, match=f"could not download {kind} .check the network, or copy"):
        datasets.load(name, tmp_path / "data", notify=lines.append)
    assert entries(tmp_path / "data") == []
    assert lines == [f"downloading {kind}"]


@pytest.fixture
def offer(serve, monkeypatch):
    """Return a function that starts a server with a data set, from which torchvision downloads it."""

    def start(kind: str, fault: str = "none"):
        files = raw_files(kind, tiny_mnist())
        packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
        if kind == "EMNIST":
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as file:
                for name, content in packed.items():
                    file.writestr(f"gzip/{name}", content)
            packed = {"gzip.zip": archive.getvalue()}
        server = serve(packed, fault)
        digests = [(name, hashlib.md5(content, usedforsecurity=False).hexdigest()) for name, content in packed.items()]
        known = getattr(torchvision.datasets, kind)
        if kind == "EMNIST":
            monkeypatch.setattr(known, "url", f"{server.url}/gzip.zip")
            monkeypatch.setattr(known, "md5", digests[0][1])
        elif kind == "QMNIST":
            urls = [(f"{server.url}/{name}", digest) for name, digest in digests]
            monkeypatch.setattr(known, "resources", {"train": urls[:2], "test": urls[2:]})
        else:
            monkeypatch.setattr(known, "mirrors", [f"{server.url}/"])
            monkeypatch.setattr(known, "resources", digests)
        return server

    return start


@every_dataset
def test_load_downloads_once(tmp_path, offer, capsys, name, kind):
    server = offer(kind)
    lines = []
    write_raw(tmp_path / "expected", kind)
    first = datasets.load(name, tmp_path / "data", notify=lines.append)
    requests = dict(server.requests)
    assert set(requests) >= set(server.files)
    assert first.fingerprint == datasets.load(name, tmp_path / "expected").fingerprint
    assert datasets.load(name, tmp_path / "data", notify=lines.append).fingerprint == first.fingerprint
    assert server.requests == requests, "the second load downloads nothing"
    assert entries(tmp_path / "data") == [kind]
    assert lines == [f"downloading {kind}"]
    assert capsys.readouterr().out == "", "standard output is for results"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision does not close its socket
@pytest.mark.parametrize("fault", ["error", "truncated", "damaged", "silent"])
@every_dataset
def test_failed_download_leaves_nothing_and_can_be_repeated(tmp_path, offer, monkeypatch, name, kind, fault):
    monkeypatch.setattr(mirrors, "ANSWER_TIMEOUT_SECONDS", 0.2)
    server = offer(kind, "none" if fault == "damaged" else fault)
    intact = dict(server.files)
    if fault == "damaged":
        last = list(intact)[-1]
        server.files[last] = intact[last][:-9] + bytes([intact[last][-9] ^ 1]) + intact[last][-8:]
    with pytest.raises(UnavailableError, match=f"could not download {kind}"):
        datasets.load(name, tmp_path)
    assert entries(tmp_path) == []
    server.fault, server.files = "none", intact
    monkeypatch.setattr(mirrors, "ANSWER_TIMEOUT_SECONDS", 5)
    assert len(datasets.load(name, tmp_path).train) == 20
    gc.collect()  # otherwise another test would fail because of the open socket


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_download_leaves_nothing_behind(tmp_path, offer, monkeypatch, interruption):
    """The interruption, or the error of a full disk, is passed on."""
    offer("FashionMNIST")
    real = torchvision.datasets.mnist.download_and_extract_archive
    downloaded = []

    def stop(url, *arguments, **options):
        if len(downloaded) == 2:
            raise interruption
        downloaded.append(url)
        real(url, *arguments, **options)

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", stop)
    with pytest.raises(type(interruption)):
        datasets.load("fashion-mnist", tmp_path)
    assert entries(tmp_path) == []
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", real)
    assert len(datasets.load("fashion-mnist", tmp_path).test) == 10


def test_concurrent_loads_download_once(tmp_path, offer):
    server = offer("KMNIST")
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: datasets.load("kmnist", tmp_path).fingerprint, range(4)))
    assert len(set(loaded)) == 1
    assert server.requests == dict.fromkeys(server.files, 2), "torchvision first checks for a redirect"
