"""How bounds of layers compose into a bound of a network; one walk that serves the certified and the training bound.

A network is walked once, at its true input shape, into an expression of products, sums and operator norms. The two bounds differ
only in the function that they give for the norm of a linear operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from gloro_lite.layers import MinMax, Normalize, Residual
from gloro_lite.lipschitz.operators import LinearOperator, Shape, diagonal, linear_operator

Bound = Tensor | float
Norm = Callable[[str, LinearOperator], Bound]
"""Maps the dotted name of a layer and its operator to (a bound on) the operator's l2 norm."""


class UnknownLayerError(ValueError):
    """The network holds a layer that nobody has registered a Lipschitz bound for."""


@singledispatch
def layer_bound(layer: nn.Module, input_shape: Shape) -> Bound:
    """The l2 Lipschitz constant of a layer that is no linear operator with weights, for inputs of `input_shape`.

    Register a bound for a layer of your own; it must be a true upper bound, and holds in training and in certification::

        @layer_bound.register
        def _(layer: MyLayer, input_shape):
            return 1.0

    An affine layer is better registered with `linear_operator`, which gives it both kinds of bound.
    """
    raise UnknownLayerError(
        f"{type(layer).__module__}.{type(layer).__qualname__} has no Lipschitz bound. "
        f"Register a true upper bound with gloro_lite.lipschitz.layer_bound.register, or use another layer."
    )


@layer_bound.register(MinMax)
@layer_bound.register(nn.ReLU)
@layer_bound.register(nn.LeakyReLU)
@layer_bound.register(nn.Tanh)
@layer_bound.register(nn.Identity)
@layer_bound.register(nn.Flatten)
@layer_bound.register(nn.Unflatten)
def _one(layer: nn.Module, input_shape: Shape) -> float:
    if isinstance(layer, nn.LeakyReLU) and abs(layer.negative_slope) > 1:
        return abs(layer.negative_slope)
    return 1.0


@layer_bound.register(nn.Dropout)
@layer_bound.register(nn.Dropout2d)
def _dropout(layer: nn.Module, input_shape: Shape) -> float:
    return 1.0  # of the layer in eval mode; certification refuses training mode, see `check_deterministic`


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@layer_bound.register
def _max_pool(layer: nn.MaxPool2d, input_shape: Shape) -> float:
    # Each output moves by at most the largest change in its window, so the squared constant is the number of windows that
    # one input can be in: 1 where they do not overlap.
    sizes = zip(_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation), strict=True)
    return math.sqrt(math.prod(min(k, -(-(d * (k - 1) + 1) // s)) for k, s, d in sizes))


@layer_bound.register(nn.AvgPool2d)
@layer_bound.register(nn.AdaptiveAvgPool2d)
def _average_pool(layer: nn.Module, input_shape: Shape) -> float:
    # Schur's test for a matrix without negative entries: norm^2 <= largest row sum x largest column sum; equality where the
    # windows tile the image. One channel suffices, all are alike.
    with torch.enable_grad():
        x = torch.ones(1, 1, *input_shape[1:], dtype=torch.float64, requires_grad=True)
        rows = layer(x)
        (columns,) = torch.autograd.grad(rows.sum(), x)
    return math.sqrt(rows.max().item() * columns.max().item()) * (1 + 1e-12)


@layer_bound.register(Normalize)
@layer_bound.register(nn.BatchNorm1d)
@layer_bound.register(nn.BatchNorm2d)
@layer_bound.register(nn.BatchNorm3d)
def _diagonal_bound(layer: nn.Module, input_shape: Shape) -> Tensor:
    if getattr(layer, "running_var", True) is None:
        raise ValueError("batch norm with track_running_stats=False is no fixed function: it has no Lipschitz bound")
    # float32 rounds the factor by less than one part in 10^6.
    return diagonal(layer).abs().max() * (1 + 1e-6)


@dataclass(frozen=True)
class _Layer:
    """A layer with a closed form; evaluated anew each time, its weights may have moved."""

    layer: nn.Module
    input_shape: Shape

    def bound(self, norm: Norm) -> Bound:
        return layer_bound(self.layer, self.input_shape)


@dataclass(frozen=True)
class _Operator:
    name: str
    operator: LinearOperator

    def bound(self, norm: Norm) -> Bound:
        return norm(self.name, self.operator)


@dataclass(frozen=True)
class _Product:
    factors: tuple

    def bound(self, norm: Norm) -> Bound:
        return math.prod((factor.bound(norm) for factor in self.factors), start=1.0)


@dataclass(frozen=True)
class _Sum:
    terms: tuple

    def bound(self, norm: Norm) -> Bound:
        return sum(term.bound(norm) for term in self.terms)


Expression = _Layer | _Operator | _Product | _Sum


def output_shape(layer: nn.Module, input_shape: Shape) -> Shape:
    """The shape that `layer` gives for one input of `input_shape`, both without a batch dimension."""
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    batch = torch.empty(2, *input_shape, device="meta", dtype=dtype)  # two: batch norm refuses one in training mode
    with torch.no_grad():
        return tuple(torch.func.functional_call(layer, on_meta, (batch,)).shape[1:])


def _check_forward(module: nn.Module) -> None:
    """Raise UnknownLayerError for a subclass of a known layer that computes something else: its parent's bound is not its own."""
    known = {nn.Sequential, *layer_bound.registry, *linear_operator.registry} - {object}
    parent = next((cls for cls in type(module).__mro__ if cls in known), None)
    if parent is not None and type(module).forward is not parent.forward:
        raise UnknownLayerError(
            f"{type(module).__module__}.{type(module).__qualname__} inherits from {parent.__name__} but has a forward of its "
            f"own, so that {parent.__name__}'s bound does not hold for it. "
            f"Register a true upper bound with gloro_lite.lipschitz.layer_bound.register."
        )


def expression(module: nn.Module, input_shape: Shape, name: str = "") -> tuple[Expression, Shape]:
    """Walk `module` at `input_shape` (no batch dimension): its bound as an expression, and its output shape.

    Raises UnknownLayerError, with the layer's dotted name, for a layer without a bound, and ValueError where a layer does not
    accept the shape that reaches it.
    """
    input_shape = tuple(input_shape)
    try:
        _check_forward(module)
    except UnknownLayerError as error:
        raise UnknownLayerError(f"layer {name!r}: {error}" if name else str(error)) from None
    if isinstance(module, nn.Sequential):
        factors, shape = [], input_shape
        for child_name, child in module._modules.items():  # named_children leaves out a layer that is used twice
            factor, shape = expression(child, shape, f"{name}.{child_name}".lstrip("."))
            factors.append(factor)
        return _Product(tuple(factors)), shape
    try:
        shape = output_shape(module, input_shape)
        # Layers with a closed form have no need of an operator norm.
        if layer_bound.dispatch(type(module)) is not layer_bound.dispatch(object):
            layer_bound(module, input_shape)  # fails here, with the layer's name, rather than later
            return _Layer(module, input_shape), shape
        operator = linear_operator(module, input_shape)
        if operator is not None:
            return _Operator(name, operator), shape
        if isinstance(module, Residual):
            branch, _ = expression(module.branch, input_shape, f"{name}.branch".lstrip("."))
            shortcut, _ = expression(module.shortcut, input_shape, f"{name}.shortcut".lstrip("."))
            return _Sum((branch, shortcut)), shape
        layer_bound(module, input_shape)
    except UnknownLayerError as error:
        where = f"layer {name!r}: " if name and not str(error).startswith("layer ") else ""
        raise UnknownLayerError(f"{where}{error}") from None
    except (RuntimeError, ValueError) as error:
        if str(error).startswith("layer "):
            raise
        raise ValueError(f"layer {name!r} ({type(module).__name__}) on an input of shape {input_shape}: {error}") from error
    raise AssertionError("unreachable: layer_bound raises for a layer that it does not know")


def check_deterministic(module: nn.Module) -> None:
    """Raise ValueError if a layer of `module` behaves in training mode as no fixed function does (batch norm, dropout)."""
    random = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for name, layer in module.named_modules():
        if isinstance(layer, random) and layer.training:
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) is in training mode, where it is no fixed function and has no "
                f"Lipschitz bound: call .eval() first"
            )


def check_finite(module: nn.Module) -> None:
    """Raise ValueError, with the tensor's name, if a weight or buffer of `module` is NaN or infinite."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values: no certificate can be given for this network")
