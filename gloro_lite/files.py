"""Files that are written whole or not at all, folders that one process at a time works in, and where the project's own lie."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
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


def write_json(path: Path, record: object) -> None:
    """Write a record as indented JSON, as `write_atomically` does."""
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The record in a JSON file. Raises OSError where it cannot be read, and ValueError, which names it, where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or delete it and make it anew") from error


def table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> bytes:
    """A table as CSV, in UTF-8, with lines that end as on Unix."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


@contextlib.contextmanager
def only_one(folder: Path, purpose: str) -> Iterator[None]:
    """Keep other processes, and other threads, from entering such a block for the same folder; made if it is not there.

    The lock is the system's: it goes with the process, however that ends. Raises BlockingIOError, which names the folder, where
    another is in it, and OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    while True:
        file = path.open("ab")
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError) as error:
            file.close()
            raise BlockingIOError(error.errno, f"another process is {purpose} in {folder}: wait for it, or stop it") from None
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
