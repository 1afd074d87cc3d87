"""Files that are written whole or not at all, folders that one process at a time works in, and where the project's own lie."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


def checkout() -> Path | None:
    """The checkout of the project that this package is imported from; None where it is installed."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "book").is_dir() else None


def home() -> Path:
    """Where data and results belong: `data` of the checkout, else the working folder."""
    root = checkout()
    return root / "data" if root else Path.cwd()


def expanded(path: str | Path) -> Path:
    """A path that a user has named, with ~ for the home folder, which a shell leaves alone behind an equals sign. The home of a
    user who is not there stays as it is written, and is then not found."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes the place of `path` when the block ends; whatever stops it, a full disk too, the file
    there is the old one or the new one. Raises OSError, which names `path`, where it cannot be written.
    """
    # A name of its own, since two processes may write the same file.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"{path} could not be written ({reason}); what was there before is kept") from error
    finally:
        with contextlib.suppress(OSError):  # gone already, or in a folder that cannot be written
            part.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


def check_free(folder: Path) -> None:
    """Raise ValueError where a folder holds a run's results or weights: another run would write over them."""
    held = [name for name in ("result.json", "model.safetensors") if (folder / name).exists()]
    if held:
        raise ValueError(f"{folder} holds {' and '.join(held)}: give another folder with --output, or move them away")


def parts(path: Path) -> list[Path]:
    """What writers of `path` that were killed have left beside it, see `replacing`."""
    return sorted(path.parent.glob(f"{path.name}.{8 * '[0-9a-f]'}.part"))


def write_json(path: Path, record: object) -> None:
    """Write a record as indented JSON in UTF-8, as `write_atomically` does."""
    write_atomically(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The record in a JSON file. Raises OSError where it cannot be read, and ValueError, which names it, where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or delete it and make it anew") from error


def recorded(path: Path) -> dict[str, Any]:
    """The record in a JSON file, empty where there is none yet. Raises as `read_json` does."""
    return dict(read_json(path)) if path.is_file() else {}


def update_json(
    path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    read: Callable[[Path], dict[str, Any]] = recorded,
    write: Callable[[Path, dict[str, Any]], None] = write_json,
) -> dict[str, Any]:
    """Put what `change` makes of a file's record in its place, and return that. Of processes that do so at once, each reads what
    the one before has written.
    """
    with _locked(path.with_name(f".{path.name}.lock")):
        record = change(read(path))
        write(path, record)
    return record


def add_row(
    path: Path,
    row: dict[str, Any],
    keys: Iterable[str],
    *,
    read: Callable[[Path], dict[str, Any]],
    write: Callable[[Path, dict[str, Any]], None] = write_json,
) -> dict[str, Any]:
    """Add a row to the list `runs` of a file's record, as `update_json` does; it replaces one that is alike in all `keys`."""
    same = {key: row[key] for key in keys}

    def change(record: dict[str, Any]) -> dict[str, Any]:
        others = [known for known in record["runs"] if any(known[key] != value for key, value in same.items())]
        return {**record, "runs": [*others, row]}

    return update_json(path, change, read=read, write=write)


def table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> bytes:
    """A table as CSV, in UTF-8, with lines that end as on Unix."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


@contextlib.contextmanager
def only_one(folder: Path, purpose: str) -> Iterator[None]:
    """Keep other processes, and other threads, from entering such a block for the same folder, which is made if it is
    not there, and taken away again where nothing was put into it.

    The lock is the system's: it goes with the process, however that ends. Raises BlockingIOError, which names the folder, where
    another is in it, and OSError where the folder cannot be written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / ".lock", f"another process is {purpose} in {folder}: wait for it, or stop it"):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def _locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock by the name of a file, which is there meanwhile. Where another has it: wait, or raise BlockingIOError if there
    is something to say, `busy`."""
    while True:
        file = path.open("ab")
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError) as error:
            file.close()
            if busy:
                raise BlockingIOError(error.errno, busy) from None
            time.sleep(0.01)
            continue
        except OSError:
            pass  # a file system without locks, as some networks have
        # Whoever had it may have removed the file after it was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove what is open
            path.unlink()
        file.close()


def _lock(descriptor: int) -> None:
    """Lock an open file for this process alone. Raises OSError at once where another has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
