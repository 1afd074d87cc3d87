"""float32 that is float32: autocast and some libraries' defaults keep only ten bits (TF32) or seven (bfloat16) of 23."""

from __future__ import annotations

import contextlib

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors, without autocast, whatever this thread has set outside: for norms and logits.

    What PyTorch keeps for the whole process stays as it is, since other threads may compute at the same time: see
    `exact_float32`.
    """
    with torch.autocast(device.type, enabled=False):
        yield


def exact_float32() -> None:
    """Have this process compute float32 products and convolutions in float32. For a program to call once, at its start."""
    backends = torch.backends
    for backend in (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul):
        backend.fp32_precision = "ieee"
