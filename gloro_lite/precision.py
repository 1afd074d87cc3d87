"""float32 that is float32: as PyTorch is set, products and convolutions may keep only ten bits (TF32) or seven (bfloat16)."""

from __future__ import annotations

import torch

_BACKENDS = (torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul)


def full_precision(device: torch.device) -> torch.autocast:
    """Compute in the precision of the tensors, without autocast, in this thread.

    What a process has set for all its threads is left alone: another thread may rely on it. See `has_reduced_products`.
    """
    return torch.autocast(device.type, enabled=False)


def has_reduced_products() -> bool:
    """Whether the process lets a CPU compute products of float32 numbers with fewer bits."""
    return any(backend.fp32_precision not in ("none", "ieee") for backend in _BACKENDS)


def exact_float32() -> None:
    """Have this process compute float32 products and convolutions in float32. For a program to call once, at its start."""
    for backend in (*_BACKENDS, torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        backend.fp32_precision = "ieee"
