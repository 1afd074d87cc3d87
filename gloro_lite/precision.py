"""float32 that is float32: as PyTorch is set, products and convolutions may keep only ten bits (TF32) or seven (bfloat16).
And proofs on the CPU, wherever PyTorch is set to make tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")

_BACKENDS = (torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul)


def full_precision(device: torch.device) -> torch.autocast:
    """Compute in the precision of the tensors, without autocast, in this thread.

    What a process has set for all its threads is left alone: another thread may rely on it. See `sums_products`.
    """
    return torch.autocast(device.type, enabled=False)


def sums_products(device: torch.device) -> bool:
    """Whether float32 products and convolutions on a device are sums of products of float32 numbers, in whatever order.

    So they are on a CPU, unless the process lets it compute products with fewer bits, or convolve by Winograd's or Fourier's
    transforms, which err by more: NNPACK does so where oneDNN is missing or switched off, and Arm's Compute Library may.
    """
    onednn = torch.backends.mkldnn
    if device.type != "cpu" or any(backend.fp32_precision not in ("none", "ieee") for backend in _BACKENDS):
        return False
    if onednn.is_available() and onednn.enabled:
        return not onednn.is_acl_available()
    return not torch.backends.nnpack.is_available()


def exact_float32() -> None:
    """Have this process compute float32 products and convolutions in float32. For a program to call once, at its start."""
    for backend in _BACKENDS:
        backend.fp32_precision = "ieee"
    # By their older names: where the newer ones are set, PyTorch refuses to read the older ones, and torch.export reads them.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def on_cpu(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with its own tensors on the CPU, whatever `torch.set_default_device` says: in this thread, while it runs."""

    @functools.wraps(function)
    def within(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        # Within a device's context every call of PyTorch goes through Python, which takes small tensors longer than the work.
        if torch.get_default_device().type == "cpu":
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return within
