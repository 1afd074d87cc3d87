"""Decoded images on disk, as tensors that are mapped into memory: what is not used takes no room there.

Opening a file reads all of it once, to compare checksums: damaged images would go unnoticed.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from gloro_lite.files import replacing


def save(path: Path, key: dict, tensors: dict[str, Tensor]) -> None:
    """Write tensors with a key, plain values that say what they are; whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        try:
            torch.save({"key": key, "tensors": tensors}, file)
        except RuntimeError as error:
            # After a failed write torch complains that its archive is unfinished; the reason is behind that.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path, key: dict) -> dict[str, Tensor] | None:
    """The tensors that `save` wrote, mapped: changing them does not change the file.

    Returns None where there is no such file, where it was saved with another key, and, with a warning, where it is damaged.
    """
    try:
        # The file is a zip archive with a CRC-32 for each tensor, which torch.load does not compare.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} differs")
        saved = torch.load(path, mmap=True, weights_only=True)
        return saved["tensors"] if saved["key"] == key else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damage shows as any of zipfile's, pickle's and torch's errors
        warnings.warn(f"{path} is damaged or cannot be read ({error}): the published files are decoded anew", stacklevel=3)
        return None
