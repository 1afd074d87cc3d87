"""Two-dimensional points with labels, to draw decision boundaries with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _check(n: int) -> None:
    if n < 2:
        raise ValueError(f"n must be at least 2, one point for each class; got {n}")


def moons(n: int = 200, noise: float = 0.08, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles of radius 1.

    Returns: points (n, 2) float32 and labels (n,) int64 in {0, 1}. Raises ValueError for fewer points than classes.
    """
    _check(n)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    angles = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack((angles.cos(), angles.sin()), dim=1)
    lower = torch.stack((1 - angles.cos(), 0.5 - angles.sin()), dim=1)
    x = torch.where(labels[:, None] == 0, upper, lower)
    return x + noise * torch.randn(n, 2, generator=generator), labels


def rings(n: int = 200, noise: float = 0.05, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two concentric circles of radius 0.5 and 1. Returns and raises as `moons` does."""
    _check(n)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    angles = 2 * math.pi * torch.rand(n, generator=generator)
    radii = 0.5 + 0.5 * labels
    x = torch.stack((radii * angles.cos(), radii * angles.sin()), dim=1)
    return x + noise * torch.randn(n, 2, generator=generator), labels
