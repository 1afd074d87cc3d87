"""Checkpoints that survive whatever stops a run: written whole or not at all, and known to be intact when read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch

from gloro_lite.files import write_atomically
from gloro_lite.stored import completed


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or one that belongs to another run."""


def save(path: Path, state: dict) -> None:
    """Write a dict of tensors and plain values, with its digest in front."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomically(path, hashlib.sha256(payload).digest() + payload)


def load(path: Path, run: dict) -> dict:
    """Read what `save` wrote; its `run` entry must be `run`, what decides the run. Raises CheckpointError otherwise."""
    data = path.read_bytes()
    digest, payload = data[:32], data[32:]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(f"{path} is damaged: delete it to train from the start")
    try:
        state = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        run, found = completed(run), completed(state["run"])  # a run that began under other names goes on
        different = sorted(key for key in run.keys() | found.keys() if run.get(key) != found.get(key))
    except Exception as error:  # a file with a digest that is not ours: pickle's and torch's errors are many
        raise CheckpointError(f"{path} is no checkpoint ({error!r:.200}): delete it to train from the start") from error
    if different:
        raise CheckpointError(
            f"{path} is of another run (it differs in {', '.join(different)}): delete it or give another folder"
        )
    return state
