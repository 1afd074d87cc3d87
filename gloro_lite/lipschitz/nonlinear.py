"""Layers that are not linear, as nodes: activations, sorting, and pooling by maxima, with their Lipschitz constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite.layers import Absolute, GroupSort, MinMax
from gloro_lite.lipschitz.errors import NetworkError
from gloro_lite.lipschitz.nodes import Bound, Node, Norms, Rounding, Shape, per_axis
from gloro_lite.lipschitz.rounding import Format


class Activation(Node):
    """A function of each number alone.

    Its constant is the largest slope of the function. Functions that are not built from comparisons and single products are
    taken to be evaluated to within 16 units of roundoff of 1 + |x|, as PyTorch's kernels are (with the threshold of softplus
    besides).
    """

    def __init__(self, layer: nn.Module, input_shape: Shape, name: str):
        super().__init__(layer, input_shape, input_shape, name)
        for setting in ("negative_slope", "alpha", "beta", "threshold"):
            value = getattr(layer, setting, 0.0)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise NetworkError(f"its {setting} is {value}: it must be a finite number", kind=type(layer).__name__)
        if isinstance(layer, nn.Softplus):
            if layer.beta == 0:
                raise NetworkError("its beta is 0, and it divides by it", kind="Softplus")
            if layer.threshold < 20:
                raise NetworkError(
                    f"PyTorch replaces softplus by the identity where beta x passes its threshold, {layer.threshold}; below 20 "
                    "that is a jump, and no function with a jump has a Lipschitz constant: give a threshold of 20 or more",
                    kind="Softplus",
                )
            if layer.threshold > 80:
                raise NetworkError(
                    f"its threshold is {layer.threshold}: up to it PyTorch computes exp(beta x), which overflows in float32 "
                    "beyond 88; give a threshold from 20 to 80",
                    kind="Softplus",
                )
        if isinstance(layer, nn.PReLU):
            count = layer.weight.numel()
            if layer.weight.dim() != 1 or (count > 1 and (not input_shape or input_shape[0] != count)):
                raise NetworkError(f"it has {count} slopes; inputs of shape {input_shape} reach it", kind="PReLU")
        if isinstance(layer, nn.GELU) and layer.approximate not in ("none", "tanh"):
            raise NetworkError(f"its approximation {layer.approximate!r} is not known", kind="GELU")

    def apply(self, x: Tensor) -> Tensor:
        return _ACTIVATIONS[type(self.layer)][0](self.layer, x)

    def bound(self, norms: Norms) -> Bound:
        return norms.constant(_ACTIVATIONS[type(self.layer)][1](self.layer))

    def rounding(self, number: Format, bound: float) -> Rounding:
        layer = self.layer
        size = math.sqrt(math.prod(self.input_shape))
        if isinstance(layer, nn.ReLU | Absolute):
            return Rounding(0.0, 0.0)
        slope = float(_ACTIVATIONS[type(layer)][1](layer))
        if isinstance(layer, nn.LeakyReLU | nn.PReLU):  # a single product
            return Rounding(2 * number.unit * slope, number.tiny * size)
        constant = 16 * number.unit * max(1.0, slope)
        if isinstance(layer, nn.Softplus):
            constant = constant * (1 + 1 / abs(layer.beta)) + math.exp(-layer.threshold) / abs(layer.beta)
        return Rounding(16 * number.unit * max(1.0, slope), (constant + 16 * number.tiny) * size)


def _softplus(layer: nn.Softplus, x: Tensor) -> Tensor:
    # Without the threshold, beyond which PyTorch returns x itself.
    return torch.logaddexp(torch.zeros((), dtype=x.dtype, device=x.device), layer.beta * x) / layer.beta


def _prelu(layer: nn.PReLU, x: Tensor) -> Tensor:
    slope = layer.weight.to(x)
    return torch.where(x > 0, x, (slope.view(-1, *(1,) * (x.dim() - 2)) if slope.numel() > 1 else slope) * x)


# What each computes, and its largest slope. 1.129 and 1.09984: the maxima of the derivatives, rounded up; see the tests.
_ACTIVATIONS: dict[type, tuple[Callable[..., Tensor], Callable[..., Bound]]] = {
    nn.ReLU: (lambda layer, x: x.clamp_min(0), lambda layer: 1.0),
    Absolute: (lambda layer, x: x.abs(), lambda layer: 1.0),
    nn.LeakyReLU: (
        lambda layer, x: torch.where(x > 0, x, layer.negative_slope * x),
        lambda layer: max(1.0, abs(layer.negative_slope)),
    ),
    nn.PReLU: (_prelu, lambda layer: layer.weight.abs().max().clamp_min(1.0)),
    nn.ELU: (
        lambda layer, x: torch.where(x > 0, x, layer.alpha * torch.expm1(x.clamp_max(0))),
        lambda layer: max(1.0, abs(layer.alpha)),
    ),
    nn.Tanh: (lambda layer, x: x.tanh(), lambda layer: 1.0),
    nn.Sigmoid: (lambda layer, x: x.sigmoid(), lambda layer: 0.25),
    nn.Softplus: (_softplus, lambda layer: 1.0),
    nn.GELU: (lambda layer, x: F.gelu(x, approximate=layer.approximate), lambda layer: 1.129),
    nn.SiLU: (lambda layer, x: x * x.sigmoid(), lambda layer: 1.09984),
}


class SortPairs(Node):
    """`gloro_lite.MinMax`: it permutes numbers, so it keeps lengths, its constant is 1, and it rounds nothing.

    What it computes is written down here once more, as of every layer: the program is compared with the layers themselves.
    """

    def __init__(self, layer: MinMax, input_shape: Shape, name: str):
        if not input_shape or input_shape[0] % 2:
            channels = input_shape[0] if input_shape else 0
            raise NetworkError(f"it sorts pairs of channels: their number must be even, not {channels}", kind="MinMax")
        super().__init__(layer, input_shape, input_shape, name)

    def apply(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), dim=1)

    def bound(self, norms: Norms) -> Bound:
        return norms.constant(1.0)

    def rounding(self, number: Format, bound: float) -> Rounding:
        return Rounding(0.0, 0.0)


class SortGroups(Node):
    """`gloro_lite.layers.GroupSort`: a permutation at each point, as `SortPairs`. That sorting is 1-Lipschitz across the points
    where the permutation changes is the rearrangement inequality: sorted sequences are no farther apart than any others."""

    def __init__(self, layer: GroupSort, input_shape: Shape, name: str):
        if type(layer.size) is not int or layer.size < 2:
            raise NetworkError(f"its size is {layer.size!r}: it must be a whole number from 2", kind="GroupSort")
        if not input_shape or input_shape[0] % layer.size:
            channels = input_shape[0] if input_shape else 0
            raise NetworkError(
                f"it sorts groups of {layer.size} channels: their number must be a multiple of it, not {channels}",
                kind="GroupSort",
            )
        super().__init__(layer, input_shape, input_shape, name)

    def apply(self, x: Tensor) -> Tensor:
        return torch.stack(x.chunk(self.layer.size, dim=1), dim=1).sort(dim=1).values.flatten(1, 2)

    def bound(self, norms: Norms) -> Bound:
        return norms.constant(1.0)

    def rounding(self, number: Format, bound: float) -> Rounding:
        return Rounding(0.0, 0.0)


class MaxPool(Node):
    """nn.MaxPool2d."""

    def __init__(self, layer: nn.MaxPool2d, input_shape: Shape, name: str):
        if layer.return_indices:
            raise NetworkError("it returns indices beside its output: give return_indices=False", kind="MaxPool2d")
        if len(input_shape) != 3:
            raise NetworkError(f"it takes (channels, height, width); inputs of shape {input_shape} reach it", kind="MaxPool2d")
        try:
            output = tuple(layer(torch.zeros(1, *input_shape, device="cpu")).shape[1:])
        except RuntimeError as error:
            raise NetworkError(f"it does not take inputs of shape {input_shape}: {error}", kind="MaxPool2d") from None
        super().__init__(layer, input_shape, output, name)
        pairs = (per_axis(v, 2) for v in (layer.kernel_size, layer.stride, layer.dilation))
        self._windows = math.prod(min(k, -(-(d * (k - 1) + 1) // s)) for k, s, d in zip(*pairs, strict=True))

    def apply(self, x: Tensor) -> Tensor:
        layer = self.layer
        return F.max_pool2d(x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)

    def bound(self, norms: Norms) -> Bound:
        # Each output moves by at most the largest change in its window, so the squared constant is the number of windows that
        # one input can be in: 1 where they do not overlap.
        windows, root = self._windows, math.isqrt(self._windows)
        return norms.constant(float(root) if root * root == windows else math.nextafter(math.sqrt(windows), math.inf))

    def rounding(self, number: Format, bound: float) -> Rounding:
        return Rounding(0.0, 0.0)


NONLINEAR: dict[type, type[Node]] = {
    MinMax: SortPairs,
    GroupSort: SortGroups,
    nn.MaxPool2d: MaxPool,
    **dict.fromkeys(_ACTIVATIONS, Activation),
}
"""The node of each layer that is not linear, by its exact type."""

_DIVIDES = (
    "it divides by the spread of its own input, which only its eps keeps from 0: its Lipschitz constant is 1 / sqrt(eps), some "
    "hundreds, and leaves nothing to certify; use another layer"
)
_ATTENDS = "dot-product attention has no global Lipschitz constant, as its slope grows with its input; use another layer"
_PROBABILITIES = (
    "it makes probabilities of logits, and logits are what is certified: leave it to the loss, nn.CrossEntropyLoss say"
)
REFUSED: dict[type, str] = {
    nn.LayerNorm: _DIVIDES,
    nn.GroupNorm: _DIVIDES,
    nn.InstanceNorm1d: _DIVIDES,
    nn.InstanceNorm2d: _DIVIDES,
    nn.RMSNorm: _DIVIDES,
    nn.MultiheadAttention: _ATTENDS,
    nn.TransformerEncoderLayer: _ATTENDS,
    nn.Softmax: _PROBABILITIES,
    nn.LogSoftmax: _PROBABILITIES,
}
"""Layers that are refused with a reason of their own, and what to do."""
