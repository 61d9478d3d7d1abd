import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist import files


@given(st.binary(), st.binary())
def test_a_file_holds_what_was_written_last_and_nothing_lies_beside_it(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("files")
    for content in (first, second):
        files.write_atomically(folder / "file", content)
        assert (folder / "file").read_bytes() == content
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch, step, fault):
    def fail(*arguments):
        raise fault

    path = tmp_path / "file"
    files.write_atomically(path, b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(fault)):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_content_is_flushed_to_the_device_and_then_the_rename(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    files.write_atomically(tmp_path / "file", b"content")
    assert flushed == ([False] if os.name == "nt" else [False, True])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_file_is_readable_by_those_whom_the_umask_admits(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_of_many_that_want_a_name_exactly_one_gets_it(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(files.take_name, [tmp_path / "name"] * 8))
    assert taken.count(True) == 1
