"""Files that are written whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gloro_lite import files
from gloro_lite.files import checkout, home, only_one, replacing, write_atomically


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


def test_one_at_a_time_in_a_folder(tmp_path):
    folder = tmp_path / "run"
    with only_one(folder, "training"):
        with pytest.raises(BlockingIOError, match=r"another process is training in .*run"), only_one(folder, "training"):
            pass
        with only_one(tmp_path / "other", "training"):
            pass
    with only_one(folder, "training"):
        pass
    assert os.listdir(folder) == []


HOLD = """
import sys, time
from pathlib import Path
from gloro_lite.files import only_one
with only_one(Path(sys.argv[1]), "training"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_damaged_json_is_named(tmp_path):
    path = tmp_path / "record.json"
    files.write_json(path, {"a": [1.5, "ε"]})
    assert files.read_json(path) == {"a": [1.5, "ε"]}
    for damaged in (b"", path.read_bytes()[:-3], b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"record\.json is damaged .*: restore it, or delete it and make it anew"):
            files.read_json(path)


def test_a_killed_process_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(BlockingIOError), only_one(tmp_path, "training"):
        pass
    holder.kill()
    holder.communicate()
    with only_one(tmp_path, "training"):
        pass
    assert os.listdir(tmp_path) == []


def test_the_checkout_is_found_and_an_installed_package_has_none(tmp_path, monkeypatch):
    root = Path(__file__).resolve().parents[1]
    assert checkout() == root and home() == root / "data"
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "gloro_lite" / "files.py"))
    monkeypatch.chdir(tmp_path)
    assert checkout() is None and home() == tmp_path
