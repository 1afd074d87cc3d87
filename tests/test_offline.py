"""What the book's pages take from npm: fetched once, also by builds that run at once."""

import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("offline", Path(__file__).resolve().parents[1] / "book" / "_ext" / "offline.py")
offline = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = offline  # where dataclasses look
spec.loader.exec_module(offline)


def copy(package, target):
    (target / "script.js").write_bytes((package / "script.js").read_bytes())


@pytest.fixture
def npm(monkeypatch):
    def fetch(package, folder):
        (folder / "package").mkdir()
        (folder / "package" / "script.js").write_text("1")
        return folder / "package"

    monkeypatch.setattr(offline, "fetch", fetch)
    return fetch


def test_of_two_builds_both_have_what_is_needed(tmp_path, npm, monkeypatch):
    target = tmp_path / "assets" / "axe"

    def slow(package, folder):
        fetched = npm(package, folder)
        if not target.exists():  # another build begins and ends meanwhile
            monkeypatch.setattr(offline, "fetch", npm)
            assert offline.provide(target, offline.AXE, copy)
        return fetched

    monkeypatch.setattr(offline, "fetch", slow)
    assert offline.provide(target, offline.AXE, copy)
    assert (target / "script.js").read_text() == "1" and list(target.parent.iterdir()) == [target]


def test_without_npm_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(offline.shutil, "which", lambda name: None)
    assert not offline.provide(tmp_path / "assets" / "axe", offline.AXE, copy)
    assert list((tmp_path / "assets").iterdir()) == []
