"""Files that are written whole or not at all."""

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
    assert os.listdir(tmp_path) == [], "nothing was put into them"
    with only_one(folder, "training"):
        (folder / "result").touch()
    assert os.listdir(folder) == ["result"]


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


def test_of_writers_at_once_none_loses_what_another_has_written(tmp_path):
    path = tmp_path / "record.json"

    def count(name):
        def change(record):
            found = record.get(name, 0)
            time.sleep(0.002)  # so that others come between
            return {**record, name: found + 1}

        for _ in range(10):
            files.update_json(path, change)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, "abab"))
    assert files.read_json(path) == {"a": 20, "b": 20} and os.listdir(tmp_path) == ["record.json"]
    with pytest.raises(KeyError):
        files.update_json(path, lambda record: record["c"])
    assert files.read_json(path) == {"a": 20, "b": 20} and os.listdir(tmp_path) == ["record.json"]


def test_a_row_takes_the_place_of_its_like(tmp_path):
    path = tmp_path / "record.json"
    files.write_json(path, {"about": "x", "runs": [{"kind": "a", "seed": 0, "vra": 1}, {"kind": "a", "seed": 1, "vra": 2}]})
    for row in ({"kind": "a", "seed": 0, "vra": 3}, {"kind": "b", "seed": 0, "vra": 4}):
        record = files.add_row(path, row, ("kind", "seed"), read=files.read_json)
    rows = [("a", 1, 2), ("a", 0, 3), ("b", 0, 4)]
    assert record == files.read_json(path) and record["about"] == "x"
    assert [tuple(row.values()) for row in record["runs"]] == rows


def test_what_killed_writers_left_is_known_by_its_name(tmp_path):
    path = tmp_path / "weights"
    with replacing(path) as file:
        assert files.parts(path) == [Path(file.name)]
    for name in (
        "weights.part",
        "weights.0123456.part",
        "weights.01234567.part.gz",
        "other.01234567.part",
        "weights.0123456x.part",
    ):
        (tmp_path / name).touch()
    assert files.parts(path) == []


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
