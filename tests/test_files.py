"""Files that are written whole or not at all."""

import errno
import os

import pytest

from gloro_lite.files import replacing, write_atomically


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "weights"
    write_atomically(path, b"old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"  # until the block ends
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["weights"]


def test_two_writers_do_not_share_a_part(tmp_path):
    path = tmp_path / "weights"
    with replacing(path) as first:
        first.write(b"first")
        with replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"


def test_an_error_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"weights could not be written \(No space left on device\)"):
        write_atomically(tmp_path / "weights", b"new")
    assert os.listdir(tmp_path) == []
