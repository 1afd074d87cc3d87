"""Affine layers as nodes: dense, convolutions, pooling by averages, normalisation, and what only moves numbers about."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite.layers import Normalize
from gloro_lite.lipschitz.errors import NetworkError
from gloro_lite.lipschitz.nodes import Affine, Bound, Norms, Rounding, Shape, SumsOfProducts, per_axis
from gloro_lite.lipschitz.rounding import Format, length_up, raised


def _refuse(layer: nn.Module, reason: str) -> None:
    raise NetworkError(reason, kind=type(layer).__name__)


def _length(bias: Tensor | None) -> float:
    return 0.0 if bias is None else length_up(bias.detach().to("cpu", torch.float64).view(1, -1)).item()


class Dense(SumsOfProducts):
    """nn.Linear on the last axis."""

    def __init__(self, layer: nn.Linear, input_shape: Shape, name: str):
        if tuple(layer.weight.shape) != (layer.out_features, layer.in_features):
            _refuse(layer, f"its weight has shape {tuple(layer.weight.shape)}, and its features say otherwise")
        if layer.bias is not None and tuple(layer.bias.shape) != (layer.out_features,):
            _refuse(layer, f"its bias has shape {tuple(layer.bias.shape)}: ({layer.out_features},) is needed")
        if not input_shape or input_shape[-1] != layer.in_features:
            _refuse(layer, f"it takes {layer.in_features} features; inputs of shape {input_shape} reach it")
        super().__init__(layer, input_shape, (*input_shape[:-1], layer.out_features), name)
        self.terms, self.fan_in = max(layer.in_features, layer.out_features), layer.in_features

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.layer.weight.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.layer.weight.to(y)

    def apply(self, x: Tensor) -> Tensor:
        if self.layer.bias is None:
            return self.forward(x)
        if x.dim() == 2:
            return torch.addmm(self.layer.bias.to(x), x, self.layer.weight.to(x).mT)
        return self.forward(x) + self.layer.bias.to(x)

    def absolute(self) -> Affine:
        return _Absolute(self)

    def weights(self) -> list[Tensor]:
        return [self.layer.weight]

    def offset_length(self) -> float:
        return _length(self.layer.bias) * math.sqrt(math.prod(self.input_shape[:-1])) * (1 + 1e-12)

    def core(self) -> Affine:
        # The same matrix for each token.
        return self if len(self.input_shape) == 1 else Dense(self.layer, self.input_shape[-1:], self.name)


class _Absolute(Affine):
    """A dense layer or convolution with the absolute values of its weights."""

    def __init__(self, operator: Dense | Convolution):
        super().__init__(operator.layer, operator.input_shape, operator.output_shape, operator.name)
        self.terms = operator.terms
        self._operator = operator

    def _weight(self, x: Tensor) -> Tensor:
        return self._operator.layer.weight.to(x).abs()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self._operator, Convolution):
            return self._operator.convolve(x, self._weight(x))
        return x @ self._weight(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        if isinstance(self._operator, Convolution):
            return self._operator.transposed(y, self._weight(y))
        return y @ self._weight(y)

    def absolute(self) -> Affine:
        return self

    def weights(self) -> list[Tensor]:
        return [self._operator.layer.weight]


_CONVOLVE = {1: F.conv1d, 2: F.conv2d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


class Convolution(SumsOfProducts):
    """nn.Conv1d and nn.Conv2d with any padding.

    Attributes:
        kernel, stride, dilation: a number for each axis.
        on_torus: the torus bound holds for it.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, input_shape: Shape, name: str):
        self.axes = 1 if isinstance(layer, nn.Conv1d) else 2
        self.kernel, self.stride, self.dilation = (
            per_axis(value, self.axes) for value in (layer.kernel_size, layer.stride, layer.dilation)
        )
        self.groups = layer.groups
        _check_steps(layer, self.axes)
        _check_kernel(layer, (layer.out_channels, layer.in_channels // layer.groups, *self.kernel))
        if len(input_shape) != self.axes + 1 or input_shape[0] != layer.in_channels:
            axes = ", ".join(("height", "width")[-self.axes :])
            _refuse(layer, f"it takes inputs of shape ({layer.in_channels}, {axes}); {input_shape} reaches it")
        # As PyTorch lists it: before and after the last axis first.
        self.padding = _padding(layer, self.axes, self.kernel, self.dilation)
        pairs = list(zip(self.padding[::2], self.padding[1::2], strict=True))[::-1]
        padded = [side + sum(pair) for side, pair in zip(input_shape[1:], pairs, strict=True)]
        self._padded_shape = (input_shape[0], *padded)
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        outputs = [(n - span) // s + 1 for n, span, s in zip(padded, spans, self.stride, strict=True)]
        if min(outputs) < 1:
            _refuse(layer, f"inputs of shape {input_shape} are smaller than its kernel")
        most = {"circular": 0, "reflect": -1}.get(layer.padding_mode)  # a side can be repeated once, reflected without its edge
        sides = zip(pairs, input_shape[1:], strict=True)
        if most is not None and any(p > n + most for pair, n in sides for p in pair):
            _refuse(layer, f"its padding of mode {layer.padding_mode!r} is larger than inputs of shape {input_shape} allow")
        super().__init__(layer, input_shape, (layer.out_channels, *outputs), name)
        # A padded input may be read several times over where the padding repeats the image.
        repeats = 1 if layer.padding_mode == "zeros" else math.prod(1 + sum(pair) for pair in pairs)
        self.terms = repeats * math.prod(self.kernel) * max(layer.in_channels, layer.out_channels) // layer.groups
        self.fan_in = math.prod(self.kernel) * layer.in_channels // layer.groups
        self.on_torus = layer.padding_mode == "zeros" and self.axes == 2

    @property
    def weight(self) -> Tensor:
        """(out channels, in channels / groups, ``*kernel``)."""
        return self.layer.weight

    def _padded(self, x: Tensor) -> Tensor:
        if not any(self.padding):
            return x
        mode = self.layer.padding_mode
        return F.pad(x, self.padding) if mode == "zeros" else F.pad(x, self.padding, mode=mode)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x, ``(batch, *input_shape)``, with another kernel of the same shape."""
        first, last = self.padding[::2], self.padding[1::2]
        if self.layer.padding_mode == "zeros" and first == last:
            return _CONVOLVE[self.axes](x, weight, bias, self.stride, first[::-1], self.dilation, self.groups)
        return _CONVOLVE[self.axes](self._padded(x), weight, bias, self.stride, 0, self.dilation, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight.to(x))

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """The transpose of `convolve`, of y, ``(batch, *output_shape)``."""
        first, last = self.padding[::2], self.padding[1::2]
        gradient = torch.nn.grad.conv1d_input if self.axes == 1 else torch.nn.grad.conv2d_input
        if self.layer.padding_mode == "zeros" and first == last:
            return gradient((len(y), *self.input_shape), weight, y, self.stride, first[::-1], self.dilation, self.groups)
        # Autograd for the padding alone: what it keeps of a weight, hooks for saved tensors may change.
        padded = gradient((len(y), *self._padded_shape), weight, y, self.stride, 0, self.dilation, self.groups)
        return self._transpose(self._padded, padded)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.transposed(y, self.weight.to(y))

    def apply(self, x: Tensor) -> Tensor:
        bias = None if self.layer.bias is None else self.layer.bias.to(x)
        if x.dtype != torch.float64:
            return self.convolve(x, self.weight.to(x), bias)
        # As a product of matrices on any device, since it must be a sum of products: cuDNN may transform what it convolves. On a
        # CPU it takes as long as PyTorch's own. Windows as columns: each group's weights are few rows, and long rows are fast.
        x = self._padded(x).contiguous()
        steps = x.stride()[2:]
        strides = (
            *x.stride()[:2],
            *(step * d for step, d in zip(steps, self.dilation, strict=True)),
            *(step * s for step, s in zip(steps, self.stride, strict=True)),
        )
        windows = x.as_strided((*x.shape[:2], *self.kernel, *self.output_shape[1:]), strides, x.storage_offset())
        windows = windows.reshape(len(x), self.groups, self.fan_in, math.prod(self.output_shape[1:]))
        result = (self.weight.to(x).reshape(self.groups, -1, windows.shape[2]) @ windows).view(len(x), *self.output_shape)
        return result if bias is None else result + bias.view(-1, *(1,) * self.axes)

    def absolute(self) -> Affine:
        return _Absolute(self)

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def offset_length(self) -> float:
        return _length(self.layer.bias) * math.sqrt(math.prod(self.output_shape[1:])) * (1 + 1e-12)


def _check_steps(layer: nn.Module, axes: int) -> None:
    """Settings that PyTorch takes when a layer is built, or that were changed since, and that it fails on when it runs."""
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    modes = ("zeros",) if transposed else ("zeros", "circular", "reflect", "replicate")
    if layer.padding_mode not in modes:
        _refuse(layer, f"its padding_mode is {layer.padding_mode!r}, and must be one of {', '.join(modes)}")
    if isinstance(layer.padding, str) and (transposed or layer.padding not in ("same", "valid")):
        _refuse(layer, f"its padding is {layer.padding!r}: give numbers{'' if transposed else ', same or valid'}")
    if layer.padding == "same" and max(per_axis(layer.stride, axes)) > 1:
        _refuse(layer, f"its padding is 'same', which PyTorch has for strides of 1 alone, not {layer.stride}")
    if not isinstance(layer.groups, int) or layer.groups < 1:
        _refuse(layer, f"its groups are {layer.groups!r}: a whole number from 1 is needed")
    for setting, least in (("stride", 1), ("dilation", 1), ("padding", 0), ("output_padding", 0)):
        value = getattr(layer, setting)
        if not isinstance(value, str) and min(per_axis(value, axes)) < least:
            _refuse(layer, f"its {setting} is {value}, and must be at least {least}: build the layer anew")


def _check_kernel(layer: nn.Module, shape: Shape) -> None:
    if tuple(layer.weight.shape) != tuple(shape):
        _refuse(layer, f"its weight has shape {tuple(layer.weight.shape)}, and its settings say {tuple(shape)}")
    if layer.bias is not None and tuple(layer.bias.shape) != (layer.out_channels,):
        _refuse(layer, f"its bias has shape {tuple(layer.bias.shape)}: ({layer.out_channels},) is needed")


def _padding(layer: nn.Module, axes: int, kernel: Shape, dilation: Shape) -> tuple[int, ...]:
    """What `F.pad` takes: before and after each axis, the last axis first."""
    if isinstance(layer.padding, str):
        total = [d * (k - 1) if layer.padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        expected = [number for t in reversed(total) for number in (t // 2, t - t // 2)]
    else:
        expected = [number for p in reversed(per_axis(layer.padding, axes)) for number in (p, p)]
    if layer.padding_mode != "zeros" and list(layer._reversed_padding_repeated_twice) != expected:
        _refuse(layer, "its padding was changed after it was built: build the layer anew")
    return tuple(expected)


class TransposedConvolution(SumsOfProducts):
    """nn.ConvTranspose1d and nn.ConvTranspose2d."""

    def __init__(self, layer: nn.ConvTranspose1d | nn.ConvTranspose2d, input_shape: Shape, name: str):
        self.axes = 1 if isinstance(layer, nn.ConvTranspose1d) else 2
        self.kernel = per_axis(layer.kernel_size, self.axes)
        _check_steps(layer, self.axes)
        _check_kernel(layer, (layer.in_channels, layer.out_channels // layer.groups, *self.kernel))
        if len(input_shape) != self.axes + 1 or input_shape[0] != layer.in_channels:
            _refuse(layer, f"it takes {layer.in_channels} channels and {self.axes} axes; inputs of shape {input_shape} reach it")
        settings = [per_axis(v, self.axes) for v in (layer.stride, layer.padding, layer.dilation, layer.output_padding)]
        if any(o >= max(s, d) for s, _, d, o in zip(*settings, strict=True)):
            _refuse(layer, f"its output_padding is {layer.output_padding}, and must be less than its stride or dilation")
        outputs = [
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            for n, k, s, p, d, o in zip(input_shape[1:], self.kernel, *settings, strict=True)
        ]
        if min(outputs) < 1:
            _refuse(layer, f"nothing is left of inputs of shape {input_shape}")
        super().__init__(layer, input_shape, (layer.out_channels, *outputs), name)
        self.terms = math.prod(self.kernel) * max(layer.in_channels, layer.out_channels) // layer.groups
        self.fan_in = math.prod(self.kernel) * layer.in_channels // layer.groups

    def _map(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layer = self.layer
        return _TRANSPOSED[self.axes](
            x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )

    def transposed(self, y: Tensor, weight: Tensor) -> Tensor:
        """The transpose of the linear part with some weight, of y, ``(batch, *output_shape)``: a convolution."""
        layer = self.layer
        x = _CONVOLVE[self.axes](y, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        # Of an output_padding as large as the stride it makes more.
        return x[(..., *map(slice, self.input_shape[1:]))]

    def forward(self, x: Tensor) -> Tensor:
        return self._map(x, self.layer.weight.to(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.transposed(y, self.layer.weight.to(y))

    def apply(self, x: Tensor) -> Tensor:
        return self._map(x, self.layer.weight.to(x), None if self.layer.bias is None else self.layer.bias.to(x))

    def absolute(self) -> Affine:
        return _AbsoluteTransposed(self)

    def weights(self) -> list[Tensor]:
        return [self.layer.weight]

    def offset_length(self) -> float:
        return _length(self.layer.bias) * math.sqrt(math.prod(self.output_shape[1:])) * (1 + 1e-12)


class _AbsoluteTransposed(Affine):
    def __init__(self, operator: TransposedConvolution):
        super().__init__(operator.layer, operator.input_shape, operator.output_shape, operator.name)
        self.terms, self._operator = operator.terms, operator

    def forward(self, x: Tensor) -> Tensor:
        return self._operator._map(x, self.layer.weight.to(x).abs())

    def adjoint(self, y: Tensor) -> Tensor:
        return self._operator.transposed(y, self.layer.weight.to(y).abs())

    def absolute(self) -> Affine:
        return self

    def weights(self) -> list[Tensor]:
        return [self.layer.weight]


class AveragePool(SumsOfProducts):
    """nn.AvgPool2d and nn.AdaptiveAvgPool2d: a linear map whose entries all have one sign."""

    def __init__(self, layer: nn.AvgPool2d | nn.AdaptiveAvgPool2d, input_shape: Shape, name: str):
        if len(input_shape) != 3:
            _refuse(layer, f"it takes inputs of shape (channels, height, width); {input_shape} reaches it")
        try:
            output = tuple(layer(torch.zeros(1, *input_shape, dtype=torch.float64, device="cpu")).shape[1:])
        except RuntimeError as error:
            _refuse(layer, f"it does not take inputs of shape {input_shape}: {error}")
        super().__init__(layer, input_shape, output, name)
        self.terms = 2 * math.prod(input_shape[1:])
        adaptive = isinstance(layer, nn.AdaptiveAvgPool2d)
        # Two more for the division, which may be a product with a reciprocal.
        self.fan_in = math.prod(input_shape[1:] if adaptive else per_axis(layer.kernel_size, 2)) + 2

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            return F.adaptive_avg_pool2d(x, layer.output_size)
        return F.avg_pool2d(
            x, layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad, layer.divisor_override
        )

    def rounding(self, number: Format, bound: float) -> Rounding:
        whole = super().rounding(number, bound)
        divisor = abs(getattr(self.layer, "divisor_override", None) or 0)
        return replace(whole, peak=float(raised(whole.peak * max(self.fan_in, divisor))))  # the sum, which is then divided

    def core(self) -> AveragePool:
        return AveragePool(self.layer, (1, *self.input_shape[1:]), self.name) if self.input_shape[0] > 1 else self

    def absolute(self) -> Affine:
        return _AbsolutePool(self)

    def bound(self, norms: Norms) -> Bound:
        return norms.constant(self._norm)

    @functools.cached_property
    def _norm(self) -> Bound:
        # It has no weights that training could change, and is asked for in each step.
        from gloro_lite.lipschitz.norms import UNROLLED_LIMIT, absolute_norm, unrolled_norm

        core = self.core()
        side = min(math.prod(core.input_shape), math.prod(core.output_shape))
        return unrolled_norm(core) if side <= UNROLLED_LIMIT else absolute_norm(core, 100)


class _AbsolutePool(Affine):
    def __init__(self, pool: AveragePool):
        super().__init__(pool.layer, pool.input_shape, pool.output_shape, pool.name)
        self.terms, self._pool = pool.terms, pool

    def forward(self, x: Tensor) -> Tensor:
        image = self._pool.forward(x)
        divisor = getattr(self.layer, "divisor_override", None)
        return -image if divisor is not None and divisor < 0 else image

    def absolute(self) -> Affine:
        return self


class Diagonal(Affine):
    """A factor and an offset for each channel: `Normalize`, and batch norm in eval mode."""

    def __init__(self, layer: nn.Module, input_shape: Shape, name: str):
        super().__init__(layer, input_shape, input_shape, name)
        if isinstance(layer, Normalize):
            count, what = len(layer.std), "mean and std"
            if (layer.std == 0).any():
                _refuse(layer, "its std holds zeros, by which nothing can be divided: leave out channels that never change")
        else:
            if layer.running_var is None or layer.running_mean is None:
                _refuse(layer, "with track_running_stats=False it is no fixed function: it has no Lipschitz bound")
            if (layer.running_var < 0).any():
                _refuse(layer, "its running_var holds negative numbers, which no variance is")
            if layer.eps < 0:
                _refuse(layer, f"its eps is {layer.eps}: PyTorch takes none below 0")
            if not (layer.running_var + layer.eps > 0).all():
                _refuse(layer, f"its running_var and its eps, {layer.eps}, must be above 0 together: it divides by their root")
            count, what = layer.num_features, "features"
            axes = {nn.BatchNorm1d: (1, 2), nn.BatchNorm2d: (3,), nn.BatchNorm3d: (4,)}[type(layer)]
            if len(input_shape) not in axes:
                _refuse(layer, f"it does not take inputs of shape {input_shape}")
        if not input_shape or input_shape[0] != count:
            _refuse(layer, f"it has {count} {what}, one for each channel; inputs of shape {input_shape} reach it")
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.dim() and not tensor.is_floating_point():
                _refuse(layer, f"it holds a tensor of {tensor.dtype}: floating-point numbers are needed, tensor.float() say")
            if tensor.dim() and tuple(tensor.shape) != (count,):
                _refuse(layer, f"it holds a tensor of shape {tuple(tensor.shape)}: ({count},) is needed")
        self.terms = 4

    def scale(self) -> Tensor:
        """The factor of each channel, (channels,), in float32 or more."""
        if isinstance(self.layer, Normalize):
            return 1 / _at_least_float32(self.layer.std)
        scale = _at_least_float32(self.layer.running_var).add(self.layer.eps).rsqrt()
        return scale if self.layer.weight is None else scale * self.layer.weight

    def _shaped(self, channels: Tensor, x: Tensor) -> Tensor:
        return channels.to(x).view(-1, *(1,) * (x.dim() - 2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self._shaped(self.scale(), x)

    adjoint = forward

    def apply(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, Normalize):
            return (x - self._shaped(layer.mean, x)) / self._shaped(layer.std, x)
        centred = (x - self._shaped(layer.running_mean, x)) * self._shaped(self.scale(), x)
        return centred if layer.bias is None else centred + self._shaped(layer.bias, x)

    def bound(self, norms: Norms) -> Bound:
        return norms.constant(self.scale().abs().max())

    def rounding(self, number: Format, bound: float) -> Rounding:
        largest, area = self.scale().abs().max().item(), math.sqrt(math.prod(self.input_shape[1:]))
        if isinstance(self.layer, Normalize):
            offset, mean = _length(self.layer.mean * self.scale()), _length(self.layer.mean)
        else:
            # PyTorch multiplies by the factor, a number that may itself overflow.
            mean = _length(self.layer.running_mean) + largest
            offset = 2 * _length(self.layer.running_mean * self.scale()) + _length(self.layer.bias)
        underflow = 8 * number.tiny * math.sqrt(math.prod(self.input_shape)) * (1 + largest)
        constant = float(raised(16 * number.unit * offset * area + underflow))
        # The mean is taken off before anything is scaled.
        return Rounding(float(raised(16 * number.unit * largest)), constant, 1.0, float(raised(mean * area)))

    def absolute(self) -> Affine:
        return _AbsoluteDiagonal(self)

    def weights(self) -> list[Tensor]:
        return [self.scale()]


class _AbsoluteDiagonal(Affine):
    def __init__(self, diagonal: Diagonal):
        super().__init__(diagonal.layer, diagonal.input_shape, diagonal.output_shape, diagonal.name)
        self.terms, self._diagonal = diagonal.terms, diagonal

    def forward(self, x: Tensor) -> Tensor:
        return x * self._diagonal._shaped(self._diagonal.scale().abs(), x)

    adjoint = forward

    def absolute(self) -> Affine:
        return self

    def weights(self) -> list[Tensor]:
        return self._diagonal.weights()


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Reshape(Affine):
    """What moves numbers about and changes none: nn.Identity, nn.Flatten, nn.Unflatten, dropout in eval mode."""

    def __init__(self, layer: nn.Module, input_shape: Shape, name: str):
        if isinstance(layer, nn.Flatten | nn.Unflatten):
            start = layer.start_dim if isinstance(layer, nn.Flatten) else layer.dim
            if not isinstance(start, int) or start in (0, -len(input_shape) - 1):
                _refuse(layer, "it must leave the batch dimension alone, and name dimensions by number")
            try:
                output = tuple(layer(torch.empty(2, *input_shape, device="meta")).shape[1:])
            except (RuntimeError, IndexError) as error:
                _refuse(layer, f"it does not take inputs of shape {input_shape}: {error}")
        else:
            if isinstance(layer, nn.Dropout1d) and len(input_shape) > 2:
                _refuse(layer, f"it takes inputs of shape (channels, length); {input_shape} reaches it: use nn.Dropout2d")
            output = input_shape
        super().__init__(layer, input_shape, output, name)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.output_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return y.reshape(-1, *self.input_shape)

    def absolute(self) -> Affine:
        return self

    def bound(self, norms: Norms) -> Bound:
        return norms.constant(1.0)

    def rounding(self, number: Format, bound: float) -> Rounding:
        return Rounding(0.0, 0.0)


AFFINE: dict[type, type[Affine]] = {
    nn.Linear: Dense,
    nn.Conv1d: Convolution,
    nn.Conv2d: Convolution,
    nn.ConvTranspose1d: TransposedConvolution,
    nn.ConvTranspose2d: TransposedConvolution,
    nn.AvgPool2d: AveragePool,
    nn.AdaptiveAvgPool2d: AveragePool,
    nn.BatchNorm1d: Diagonal,
    nn.BatchNorm2d: Diagonal,
    nn.BatchNorm3d: Diagonal,
    Normalize: Diagonal,
    nn.Identity: Reshape,
    nn.Flatten: Reshape,
    nn.Unflatten: Reshape,
    nn.Dropout: Reshape,
    nn.Dropout1d: Reshape,
    nn.Dropout2d: Reshape,
}
"""The node of each affine layer, by its exact type."""
