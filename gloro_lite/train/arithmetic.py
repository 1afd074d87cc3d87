"""In which precision a run computes: bfloat16 where it is measured to be faster on this machine, float32 everywhere else.

Names of processors and their instructions do not tell: a library may be told to leave an instruction alone, or a network may be
too small to gain. So a run that is left the choice takes a moment to time what it is going to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gloro_lite.train.muon import orthogonalise

_GAIN = 0.9
"""bfloat16 must take less than this part of the time, so that noise does not decide between equals."""

_SECONDS = 1.0
"""What one comparison takes at the most, roughly, after its first rounds."""


class Arithmetic(NamedTuple):
    """The precision of a run's products, "float32" or "bfloat16"; everything else is computed in float32 or float64.

    Attributes:
        network: of the network's forward and backward pass in training.
        orthogonalisation: of Muon's, see `gloro_lite.train.muon`.
    """

    network: str
    orthogonalisation: str

    def dtype(self, part: str) -> torch.dtype:
        """The torch.dtype of one of the fields."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[getattr(self, part)]


def choose(precision: str, network: nn.Module, images: Tensor, matrices: Sequence[Tensor]) -> Arithmetic:
    """The precision that a recipe asks for; where that is "auto", what is measured to be faster here.

    Args:
        precision: "auto", "float32" or "bfloat16".
        network: what is trained; it is run on `images`, and none of its tensors is changed.
        images: a small batch, where the network is.
        matrices: what Muon moves; empty where nothing is.
    """
    if precision != "auto":
        return Arithmetic(precision, precision)
    # Emulated products are slower by orders of magnitude: a small one tells, and costs no second.
    if not _faster(*_small_products(images.device), images.device):
        return Arithmetic("float32", "float32")
    parameters = list(network.parameters())

    def train(reduced: bool) -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=reduced):
            logits = network(images)
        torch.autograd.grad(logits.float().square().sum(), parameters)

    def move(precision: torch.dtype) -> None:
        for matrix in matrices:
            orthogonalise(matrix.detach(), precision)

    network_gains = _faster(lambda: train(False), lambda: train(True), images.device)
    muon_gains = matrices and _faster(lambda: move(torch.float32), lambda: move(torch.bfloat16), images.device)
    return Arithmetic("bfloat16" if network_gains else "float32", "bfloat16" if muon_gains else "float32")


def _small_products(device: torch.device) -> tuple[Callable[[], object], Callable[[], object]]:
    exact = torch.ones(128, 512, device=device)
    reduced = exact.bfloat16()
    return lambda: exact @ exact.T, lambda: reduced @ reduced.T


def _faster(usual: Callable[[], object], reduced: Callable[[], object], device: torch.device) -> bool:
    """Whether the second takes less time than the first by a margin; in turns, and by the shortest of each: others may compute
    here too."""

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        return time.perf_counter() - start

    try:
        for function in (usual, reduced):
            seconds(function)  # the first call warms up
        began = time.perf_counter()
        times: list[tuple[float, float]] = []
        while len(times) < 3 or (len(times) < 20 and time.perf_counter() - began < _SECONDS):
            times.append((seconds(usual), seconds(reduced)))
    except RuntimeError:  # a device without bfloat16, or without the memory, which training itself will tell
        return False
    return min(reduced for _, reduced in times) < _GAIN * min(usual for usual, _ in times)
