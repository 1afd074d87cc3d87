"""Where figures come from, for the record: versions, commit, machine, and digests of weights and data."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from gloro_lite.files import checkout


def versions(*packages: str) -> dict[str, str | None]:
    """The versions of this package, of torch, of `packages` and of Python, by name, and the commit."""
    # A checkout runs without an install, whose metadata would say it too. Imports point down, and the package is there by now.
    own = sys.modules["gloro_lite"].__version__
    named = {name: version(name) for name in ("torch", *packages)}
    return {"gloro-lite": own, **named, "python": platform.python_version(), "commit": commit()}


def commit() -> str | None:
    """The commit of the checkout that runs, with a + where its files differ from it; None without git or a checkout."""
    root = checkout()
    if root is None or not (root / ".git").exists():
        return None  # git would tell of whatever repository is around
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude", "*"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine(device: torch.device) -> dict[str, object]:
    """What figures that are no run's results were measured on."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def device_name(device: torch.device) -> str:
    """The processor's or GPU's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores seen)"
    return platform.processor() or platform.machine()


def weights_digest(folder: Path) -> str:
    """The SHA-256 of the weights in a run's folder."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def data_digest(x: Tensor, y: Tensor) -> str:
    """The SHA-256 of a split: its images x as uint8, image by image, (channels, height, width) each, then its labels y as
    little-endian int64."""
    digest = hashlib.sha256(x.cpu().contiguous().numpy().tobytes())
    digest.update(y.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()
