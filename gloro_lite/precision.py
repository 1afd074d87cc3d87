"""float32 that is float32: as PyTorch is set, products and convolutions may keep only ten bits (TF32) or seven (bfloat16)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_BACKENDS = (torch.backends.cudnn.conv, torch.backends.cuda.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the tensors, without autocast, whatever is set outside: for norms and certificates."""
    saved = [backend.fp32_precision for backend in _BACKENDS]
    try:
        for backend in _BACKENDS:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(_BACKENDS, saved, strict=True):
            backend.fp32_precision = precision
