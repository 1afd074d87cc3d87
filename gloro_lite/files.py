"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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
