"""Downloads of MNIST's archives from mirrors that work and mirrors that fail."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from strategies import PATIENCE, archives_of, tiny_mnist

from mnist import datasets
from mnist.datasets import DatasetError, UnavailableError, mirrors

pytestmark = pytest.mark.usefixtures("public_mirrors")

ARCHIVES, FILES = archives_of(tiny_mnist())


def load(data_dir: Path, **options) -> datasets.Dataset:
    return datasets.load_mnist(data_dir, archives=ARCHIVES, **options)


def test_mirror_url_is_asked_once_for_each_file(tmp_path, serve):
    server = serve(FILES)
    first = load(tmp_path, mirror=server.url)
    second = load(tmp_path, mirror=server.url)
    assert first.fingerprint == second.fingerprint
    assert server.requests == dict.fromkeys(FILES, 1)


def test_public_mirrors_are_the_default(tmp_path, serve, public_mirrors):
    public_mirrors.append(serve(FILES).url + "/")
    assert len(load(tmp_path).train) == 20


@pytest.mark.parametrize("fault", ["error", "silent", "slow", "dripping"])
def test_failing_mirror_is_skipped_from_then_on(tmp_path, serve, public_mirrors, monkeypatch, fault):
    monkeypatch.setattr(mirrors, "ANSWER_TIMEOUT_SECONDS", 1.0)
    bad, good = serve(FILES, fault), serve(FILES)
    public_mirrors.append(good.url + "/")
    lines = []
    dataset = load(tmp_path, mirror=bad.url, notify=lines.append)
    assert len(dataset.train) == 20
    assert sum(bad.requests.values()) == 1
    assert good.requests == dict.fromkeys(FILES, 1)
    assert any(line.startswith(f"download from {bad.url}/ failed: ") for line in lines)


def test_name_lookup_that_hangs_times_out(tmp_path, monkeypatch, public_mirrors):
    hang = threading.Event()
    monkeypatch.setattr(mirrors, "ANSWER_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(mirrors.urllib.request, "urlopen", lambda url, timeout: hang.wait(PATIENCE) and io.BytesIO())
    public_mirrors.append("http://127.0.0.1/")
    lines = []
    with pytest.raises(UnavailableError):
        load(tmp_path, notify=lines.append)
    hang.set()
    assert any("no answer within" in line for line in lines)


@pytest.mark.parametrize("fault", ["none", "truncated"])
def test_damaged_download_is_not_stored(tmp_path, serve, public_mirrors, fault):
    damaged = {name: packed[:-1] + bytes([packed[-1] ^ 1]) for name, packed in FILES.items()}
    bad, good = serve(damaged if fault == "none" else FILES, fault), serve(FILES)
    with pytest.raises(UnavailableError):
        load(tmp_path, mirror=bad.url)
    assert [path.name for path in (tmp_path / "MNIST" / "raw").iterdir() if path.name != ".lock"] == []
    public_mirrors.append(good.url + "/")
    assert len(load(tmp_path, mirror=bad.url).train) == 20


def test_download_stops_at_the_size_limit(tmp_path, serve):
    server = serve({name: bytes(200_000) for name in FILES})
    lines = []
    with pytest.raises(UnavailableError):
        load(tmp_path, mirror=server.url, notify=lines.append)
    assert any("more than" in line for line in lines)


def test_mirror_must_be_a_url_or_a_folder(tmp_path):
    with pytest.raises(DatasetError, match=r"MNIST_MIRROR=.*nowhere is neither a URL nor a folder"):
        load(tmp_path, mirror=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("mirror", ["http://[::1", "http://127.0.0.1:1/ü", "http://127.0.0.1:nought/", "https://"])
def test_malformed_mirror_url_is_skipped(tmp_path, mirror):
    lines = []
    with pytest.raises(UnavailableError):
        load(tmp_path, mirror=mirror, notify=lines.append)
    assert any(line.startswith("download from ") and " failed: " in line for line in lines)


def test_mirror_url_with_a_password_is_refused(tmp_path):
    """The password does not appear in the message."""
    with pytest.raises(DatasetError, match="user name or a password") as refusal:
        load(tmp_path, mirror="https://me:secret@127.0.0.1/")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("mirror", "url"),
    [
        ("https://host/user/mnist@main/raw", "https://host/user/mnist@main/raw/"),
        ("http://host:80/ü/", "http://host:80/%C3%BC/"),
    ],
)
def test_mirror_url_is_quoted(mirror, url):
    assert mirrors._mirror_url(mirror) == url


@pytest.mark.parametrize("mirror", ["https://host/folder?token=1", "https://host/#part"])
def test_mirror_url_with_a_query_is_refused(mirror):
    with pytest.raises(DatasetError, match=r"must be the URL of a folder"):
        mirrors._mirror_url(mirror)


def test_concurrent_loads_download_once(tmp_path, serve):
    server = serve(FILES)
    with ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(lambda _: load(tmp_path, mirror=server.url).fingerprint, range(6)))
    assert len(set(loaded)) == 1
    assert server.requests == dict.fromkeys(FILES, 1)
