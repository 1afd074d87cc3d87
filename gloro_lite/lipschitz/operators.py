"""The linear part of a layer as an operator on inputs of one fixed shape, with its adjoint.

An operator reads the layer's weights each time it is applied, in the precision and on the device of what it is applied to:
the same object serves float32 power iteration in training and float64 certification after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite.layers import Normalize, Residual

Shape = tuple[int, ...]


class LinearOperator:
    """A linear map between arrays, x of shape ``(batch, *input_shape)`` to ``(batch, *output_shape)``.

    Attributes:
        forward: the map.
        adjoint: its transpose, from ``(batch, *output_shape)`` to ``(batch, *input_shape)``.
        terms: an upper bound on the number of products that are summed in one output of `forward` or `adjoint`; rounding
            error grows with it.
        weights: the tensors that the operator reads.
    """

    def __init__(
        self,
        input_shape: Shape,
        output_shape: Shape,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        *,
        terms: int,
        weights: Callable[[], list[Tensor]],
        convolution: nn.Conv2d | None = None,
    ):
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        self.forward, self.adjoint = forward, adjoint
        self.terms = terms
        self.weights = weights
        self.convolution = convolution

    def matrix(self) -> Tensor:
        """The operator as a float64 matrix, (output size, input size): row-major over both shapes. For small ones only."""
        size = math.prod(self.input_shape)
        with torch.no_grad():
            columns = self.forward(torch.eye(size, dtype=torch.float64).view(size, *self.input_shape))
        return columns.reshape(size, -1).T


@singledispatch
def linear_operator(layer: nn.Module, input_shape: Shape) -> LinearOperator | None:
    """The linear part of `layer` (its bias left out) on inputs of `input_shape` (no batch dimension).

    Returns None for a layer that is not affine. Teach it a new affine layer with `linear_operator.register`.
    """
    return None


@linear_operator.register
def _linear(layer: nn.Linear, input_shape: Shape) -> LinearOperator:
    return LinearOperator(
        input_shape,
        (*input_shape[:-1], layer.out_features),
        lambda x: F.linear(x, layer.weight.to(x)),
        lambda y: F.linear(y, layer.weight.to(y).T),
        terms=max(layer.in_features, layer.out_features),
        weights=lambda: [layer.weight],
    )


def conv_padding(layer: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after each axis: ((top, bottom), (left, right)); `padding="same"` may differ on the two sides."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    return (top, bottom), (left, right)


@linear_operator.register
def _conv2d(layer: nn.Conv2d, input_shape: Shape) -> LinearOperator:
    if layer.padding_mode != "zeros":
        raise ValueError(f"Conv2d with padding_mode={layer.padding_mode!r} has no bound here: use padding_mode='zeros'")
    channels, *sides = input_shape
    padding = conv_padding(layer)
    padded = [side + sum(pad) for side, pad in zip(sides, padding, strict=True)]
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    outputs = [(n - span) // stride + 1 for n, span, stride in zip(padded, spans, layer.stride, strict=True)]
    (top, bottom), (left, right) = padding

    def forward(x: Tensor) -> Tensor:
        if top == bottom and left == right:
            return F.conv2d(x, layer.weight.to(x), None, layer.stride, (top, left), layer.dilation, layer.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, layer.weight.to(x), None, layer.stride, 0, layer.dilation, layer.groups)

    def adjoint(y: Tensor) -> Tensor:
        weight = layer.weight.to(y)
        size = (y.shape[0], channels, *padded)
        x = torch.nn.grad.conv2d_input(size, weight, y, layer.stride, 0, layer.dilation, layer.groups)
        return x[:, :, top : top + sides[0], left : left + sides[1]]

    return LinearOperator(
        input_shape,
        (layer.out_channels, *outputs),
        forward,
        adjoint,
        terms=math.prod(layer.kernel_size) * max(layer.in_channels, layer.out_channels) // layer.groups,
        weights=lambda: [layer.weight],
        convolution=layer,
    )


def diagonal(layer: nn.Module) -> Tensor:
    """The factor per channel of `Normalize` or of batch norm in eval mode, (channels,), in float32 or more."""
    if isinstance(layer, Normalize):
        return 1 / _at_least_float32(layer.std)
    scale = _at_least_float32(layer.running_var).add(layer.eps).rsqrt()
    return scale if layer.weight is None else scale * layer.weight


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@linear_operator.register(Normalize)
@linear_operator.register(nn.BatchNorm1d)
@linear_operator.register(nn.BatchNorm2d)
@linear_operator.register(nn.BatchNorm3d)
def _diagonal(layer: nn.Module, input_shape: Shape) -> LinearOperator:
    def scale(x: Tensor) -> Tensor:
        return x * diagonal(layer).to(x).view(-1, *(1,) * (x.dim() - 2))

    return LinearOperator(input_shape, input_shape, scale, scale, terms=1, weights=lambda: [diagonal(layer)])


@linear_operator.register(nn.Identity)
@linear_operator.register(nn.Dropout)
@linear_operator.register(nn.Dropout2d)
def _identity(layer: nn.Module, input_shape: Shape) -> LinearOperator:
    return LinearOperator(input_shape, input_shape, lambda x: x, lambda y: y, terms=1, weights=list)


@linear_operator.register
def _flatten(layer: nn.Flatten, input_shape: Shape) -> LinearOperator:
    output_shape = tuple(layer(torch.empty(1, *input_shape, device="meta")).shape[1:])
    return LinearOperator(
        input_shape,
        output_shape,
        lambda x: x.reshape(-1, *output_shape),
        lambda y: y.reshape(-1, *input_shape),
        terms=1,
        weights=list,
    )


@linear_operator.register
def _sequential(layers: nn.Sequential, input_shape: Shape) -> LinearOperator | None:
    parts: list[LinearOperator] = []
    shape = input_shape
    for layer in layers:
        part = linear_operator(layer, shape)
        if part is None:
            return None
        parts.append(part)
        shape = part.output_shape

    def forward(x: Tensor) -> Tensor:
        for part in parts:
            x = part.forward(x)
        return x

    def adjoint(y: Tensor) -> Tensor:
        for part in reversed(parts):
            y = part.adjoint(y)
        return y

    return LinearOperator(
        input_shape,
        shape,
        forward,
        adjoint,
        terms=sum(part.terms for part in parts),
        weights=lambda: [w for part in parts for w in part.weights()],
    )


@linear_operator.register
def _residual(block: Residual, input_shape: Shape) -> LinearOperator | None:
    branch, shortcut = linear_operator(block.branch, input_shape), linear_operator(block.shortcut, input_shape)
    if branch is None or shortcut is None:
        return None
    return LinearOperator(
        input_shape,
        branch.output_shape,
        lambda x: branch.forward(x) + shortcut.forward(x),
        lambda y: branch.adjoint(y) + shortcut.adjoint(y),
        terms=branch.terms + shortcut.terms + 1,
        weights=lambda: branch.weights() + shortcut.weights(),
    )
