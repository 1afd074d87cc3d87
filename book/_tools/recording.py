"""What a notebook reads: loaded in its kernel by execute.py, before the first cell.

Files are seen as Python opens them, lists their folder or asks whether they are there. (A library that reads past Python is seen
where its caller asks first, as `gloro_lite.serialization` does.)
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys

_seen: dict[tuple[str, str], None] = {}
_roots: tuple[str, ...] = ()


def start(*roots: str) -> None:
    """Note from now on what is read within these folders."""
    global _roots
    _roots = tuple(os.path.join(os.path.abspath(root), "") for root in roots)
    sys.addaudithook(_hear)
    os.stat, os.lstat = _noted(os.stat), _noted(os.lstat)


def report() -> str:
    """As JSON: under "seen" a list of [kind, path], kind "read", "list" or "ask", where modules are named by their source; under
    "versions" those of Python and of PyTorch, if the notebook has imported it."""
    torch = sys.modules.get("torch")
    versions = {"Python": platform.python_version()} | (
        {"PyTorch": str(torch.__version__)} if torch else {}
    )
    return json.dumps({"seen": list(_seen), "versions": versions})


def _note(kind: str, path) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return  # a number of an open file
    try:
        full = os.path.abspath(os.fsdecode(path))
    except (OSError, ValueError):
        return  # whoever asked will be told
    if full.startswith(_roots):
        if full.endswith(".pyc"):
            full = importlib.util.source_from_cache(full)
        _seen[kind, full] = None


def _hear(event: str, arguments: tuple) -> None:
    if event == "open":
        path, mode, flags = arguments
        writes = set(mode) & set("wax") if mode else flags & (os.O_WRONLY | os.O_RDWR)
        if not writes:
            _note("read", path)
    elif event in ("os.listdir", "os.scandir"):
        _note("list", "." if arguments[0] is None else arguments[0])


def _noted(function):
    def noted(path, *arguments, **options):
        try:
            found = function(path, *arguments, **options)
        except (FileNotFoundError, NotADirectoryError):
            _note("ask", path)
            raise
        # Any other error: no path at all. IPython asks of a whole page whether it is a file's name.
        _note("ask", path)
        return found

    for able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if function in able:  # shutil asks
            able.add(noted)
    return noted
