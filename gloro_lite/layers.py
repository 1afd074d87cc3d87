"""Layers that certified networks use and PyTorch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _SortHalves(torch.autograd.Function):
    """MinMax with one saved mask: without a compiler, a third of the time of autograd's own minimum and maximum."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, dim=1)
        return min_max(x), first > second

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        swapped = output[1]
        ctx.mark_non_differentiable(swapped)
        ctx.save_for_backward(swapped)
        ctx.save_for_forward(swapped)

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> Tensor:
        return _sort(grad, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> tuple[Tensor, None]:
        return _sort(tangent, *ctx.saved_tensors), None


def _sort(x: Tensor, swapped: Tensor) -> Tensor:
    """The permutation that MinMax made, and its own inverse."""
    first, second = x.chunk(2, dim=1)
    difference = (second - first) * swapped
    return torch.cat((first + difference, second - difference), dim=1)


def min_max(x: Tensor) -> Tensor:
    """What `MinMax` computes, of (batch, channels, ...)."""
    first, second = x.chunk(2, dim=1)
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), dim=1)


class MinMax(nn.Module):
    """Sort channels in pairs: of c channels, (k, k + c / 2) become (min, max) [Anil et al. 2019, GroupSort of size 2].

    It permutes its input, so it is 1-Lipschitz and, unlike ReLU, loses no gradient norm. Training is indifferent to which
    channels make a pair; halves lie together in memory, neighbours do not.

    Shapes: (batch, channels, ...) to the same, with an even number of channels. Raises ValueError otherwise.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] % 2:
            raise ValueError(f"MinMax sorts pairs of channels: dimension 1 of {tuple(x.shape)} must be even")
        # A compiler writes its own backward pass, in one loop with the forward pass's neighbours.
        return min_max(x) if torch.compiler.is_compiling() else _SortHalves.apply(x)[0]


class GroupSort(nn.Module):
    """Sort channels in groups [Anil et al. 2019]: of c channels, k, k + c / size, k + 2 c / size, ... are put in ascending order.

    It permutes its input, so it is 1-Lipschitz and loses no gradient norm. `MinMax` is GroupSort of 2, and faster.

    Shapes: (batch, channels, ...) to the same, with channels a multiple of `size`. Raises ValueError otherwise, and for a size
    below 2.
    """

    def __init__(self, size: int):
        super().__init__()
        if not isinstance(size, int) or size < 2:
            raise ValueError(f"GroupSort sorts groups of at least 2 channels, a whole number; not {size!r}")
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] % self.size:
            raise ValueError(f"GroupSort({self.size}): dimension 1 of {tuple(x.shape)} must be a multiple of {self.size}")
        return x.unflatten(1, (self.size, -1)).sort(dim=1).values.flatten(1, 2)

    def extra_repr(self) -> str:
        return str(self.size)


class Absolute(nn.Module):
    """The absolute value of each number. It is 1-Lipschitz and, unlike ReLU, its slope is -1 or 1 everywhere but at 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Residual(nn.Module):
    """The skip connection `x -> branch(x) + shortcut(x)`; the shortcut is the identity unless given.

    Its Lipschitz bound is the sum of the bounds of both paths, or the norm of the merged operator where both are linear.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None):
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


class Normalize(nn.Module):
    """`(x - mean) / std` per channel, as a layer, so that radii stay in the units of the raw input.

    It is 1 / min(std)-Lipschitz. Shapes: (batch, channels, ...) to the same; `mean` and `std` hold one number per channel.
    Raises ValueError unless every std is positive and both are finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean, std):
        super().__init__()
        mean, std = (
            torch.as_tensor(mean, dtype=torch.get_default_dtype()),
            torch.as_tensor(std, dtype=torch.get_default_dtype()),
        )
        if mean.dim() != 1 or mean.shape != std.shape:
            raise ValueError("mean and std must be sequences of one number per channel, of the same length")
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise ValueError("mean and std must be finite, and every std greater than 0")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        channels = (-1,) + (1,) * (x.dim() - 2)
        return (x - self.mean.view(channels)) / self.std.view(channels)
