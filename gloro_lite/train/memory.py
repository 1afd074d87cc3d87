"""How much memory was in use at the most: of tensors on a GPU, of the whole process on a CPU."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def peak(device: torch.device) -> int:
    """Bytes in use at the most since `reset_peak`, or since the process began where that cannot be reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if (_PROCESS / "status").exists():
        # Not getrusage, whose peak a child process inherits from its parent.
        status = (_PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def reset_peak(device: torch.device) -> None:
    """Let the peak begin anew at what is in use now, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")


def is_exhausted(error: RuntimeError) -> bool:
    """Whether an error says that there is no memory left."""
    # On a CPU it is a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
