import errno
import json
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist import files


@given(st.binary(), st.binary())
def test_write_atomically_replaces_the_content(tmp_path_factory, first, second):
    """No temporary file is left."""
    folder = tmp_path_factory.mktemp("files")
    for content in (first, second):
        files.write_atomically(folder / "file", content)
        assert (folder / "file").read_bytes() == content
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_leaves_the_old_content_alone(tmp_path, monkeypatch, step, fault):
    def fail(*arguments):
        raise fault

    path = tmp_path / "file"
    files.write_atomically(path, b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(fault)):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomically_flushes_file_and_folder(tmp_path, monkeypatch):
    """The file is flushed first, and its folder after the rename."""
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    files.write_atomically(tmp_path / "file", b"content")
    assert flushed == ([False] if os.name == "nt" else [False, True])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_written_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_reserve_name_succeeds_for_exactly_one_thread(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        reserved = list(pool.map(files.reserve_name, [tmp_path / "name"] * 8))
    assert reserved.count(True) == 1


def test_write_new_leaves_an_identical_file_alone(tmp_path):
    path = tmp_path / "file"
    assert files.write_new(path, b"content")
    before = path.stat()
    assert not files.write_new(path, b"content")
    assert path.read_bytes() == b"content"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert path.stat().st_nlink == 1
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("existing", [b"", b"other", b"content and more"])
def test_write_new_never_overwrites_another_file(tmp_path, monkeypatch, links, existing):
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    path = tmp_path / "file"
    path.write_bytes(existing)
    with pytest.raises(files.TakenError, match=r"file already exists and is another file \(remove it, "):
        files.write_new(path, b"content")
    assert path.read_bytes() == existing
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_write_new_refuses_a_folder_and_a_broken_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nothing")
    for name in ("folder", "link"):
        with pytest.raises(files.TakenError, match="is another file"):
            files.write_new(tmp_path / name, b"content")
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


def refuse_links(*arguments, **options):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_write_new_works_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_links)
    path = tmp_path / "file"
    assert files.write_new(path, b"content")
    assert not files.write_new(path, b"content")
    assert path.read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def test_concurrent_write_new_succeeds_for_one_thread(tmp_path):
    path = tmp_path / "file"

    def write(content: bytes) -> bytes | None:
        try:
            return content if files.write_new(path, content) else None
        except files.TakenError:
            return None

    with ThreadPoolExecutor(8) as pool:
        written = [content for content in pool.map(write, [bytes([number]) * 1000 for number in range(8)]) if content]
    assert written == [path.read_bytes()]
    assert os.listdir(tmp_path) == ["file"]


def refuse_twice(monkeypatch, name):
    """Make a function of `os` fail twice, as it does on Windows while another process uses the file."""
    real, refusals = getattr(os, name), [PermissionError(errno.EACCES, "Permission denied") for _ in range(2)]

    def call(*arguments):
        if refusals:
            raise refusals.pop()
        return real(*arguments)

    monkeypatch.setattr(os, name, call)
    monkeypatch.setattr(files, "_MAX_ATTEMPTS", 3)


def test_read_retries_while_the_file_is_in_use(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    refuse_twice(monkeypatch, "open")
    assert files.read(tmp_path / "file", 7) == b"content"


@pytest.mark.parametrize("step", ["replace", "unlink"])
def test_write_new_retries_while_a_file_is_in_use(tmp_path, monkeypatch, step):
    refuse_twice(monkeypatch, step)
    assert files.write_new(tmp_path / "file", b"content")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace", "link"])
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device", "a .part"), KeyboardInterrupt()])
def test_failed_write_new_leaves_nothing_behind(tmp_path, monkeypatch, step, fault):
    def fail(*arguments, **options):
        raise fault

    replaced = []
    real = os.replace
    monkeypatch.setattr(os, step, fail)
    if step == "link":  # write_new then tries to rename, which must fail for the same reason
        monkeypatch.setattr(os, "replace", lambda *paths: fail() if replaced else replaced.append(real(*paths)))
    with pytest.raises(type(fault)) as failed:
        files.write_new(tmp_path / "file", b"content")
    assert os.listdir(tmp_path) == []
    if isinstance(fault, OSError):
        assert failed.value.filename == str(tmp_path / "file")


def test_to_json_writes_null_for_nan_and_infinity():
    value = {"a": [1.5, math.nan, {"b": -math.inf}], "c": "two\nlines"}
    for indent, lines in ((2, 10), (None, 1)):
        content = files.to_json(value, indent)
        assert content.count(b"\n") == lines
        assert json.loads(content, parse_constant=pytest.fail) == {"a": [1.5, None, {"b": None}], "c": "two\nlines"}


def test_check_writable_creates_the_folder_and_leaves_it_empty(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_check_writable_raises_if_no_file_can_be_created(tmp_path, monkeypatch):
    def refuse(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(options["dir"]))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Read-only") as raised:
        files.check_writable(tmp_path)
    assert files.explain(raised.value).endswith("(choose a folder that can be written to)")


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_check_writable_finds_a_full_disk(tmp_path, monkeypatch, step):
    """A file system may report it when the file is written, or when it is flushed."""
    real, free = getattr(os, step), [files.MIN_FREE_BYTES - 1]

    def fill(descriptor, *content):
        free[0] -= len(content[0]) if content else files.MIN_FREE_BYTES
        if free[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, *content)

    monkeypatch.setattr(os, step, fill)
    with pytest.raises(OSError, match="No space left") as raised:
        files.check_writable(tmp_path)
    assert raised.value.filename == str(tmp_path)
    assert os.listdir(tmp_path) == []
