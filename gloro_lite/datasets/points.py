"""Two-dimensional points with labels, to draw decision boundaries with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _check(n: int, classes: int) -> None:
    if n < classes:
        raise ValueError(f"n must be at least {classes}, one point for each class; got {n}")


def moons(n: int = 200, noise: float = 0.08, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles of radius 1.

    Returns: points (n, 2) float32 and labels (n,) int64 in {0, 1}. Raises ValueError for fewer points than classes.
    """
    _check(n, 2)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    angles = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack((angles.cos(), angles.sin()), dim=1)
    lower = torch.stack((1 - angles.cos(), 0.5 - angles.sin()), dim=1)
    x = torch.where(labels[:, None] == 0, upper, lower)
    return x + noise * torch.randn(n, 2, generator=generator), labels


def rings(n: int = 200, noise: float = 0.05, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two concentric circles of radius 0.5 and 1. Returns and raises as `moons` does."""
    _check(n, 2)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    angles = 2 * math.pi * torch.rand(n, generator=generator)
    radii = 0.5 + 0.5 * labels
    x = torch.stack((radii * angles.cos(), radii * angles.sin()), dim=1)
    return x + noise * torch.randn(n, 2, generator=generator), labels


def blobs(n: int = 210, classes: int = 3, noise: float = 0.25, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian clouds around `classes` centres, evenly spaced on the unit circle. Labels lie in {0, ..., classes - 1}.

    Returns and raises as `moons` does, and ValueError for less than one class.
    """
    if classes < 1:
        raise ValueError(f"classes must be at least 1, not {classes}")
    _check(n, classes)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    angles = 2 * math.pi * labels / classes + math.pi / 2
    x = torch.stack((angles.cos(), angles.sin()), dim=1)
    return x + noise * torch.randn(n, 2, generator=generator), labels
