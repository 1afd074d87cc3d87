"""The one walk over a network: from modules to nodes, with every module checked on the way."""

from __future__ import annotations

import copy
from functools import singledispatch
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from gloro_lite.layers import Residual
from gloro_lite.lipschitz.affine import AFFINE
from gloro_lite.lipschitz.checks import COMPILED, check_module, check_process, check_shape, layer_type, own_tensors, remember
from gloro_lite.lipschitz.errors import NetworkError, UnknownLayerError, said
from gloro_lite.lipschitz.nodes import Affine, Bound, Node, Norms, Rounding, Sequence, Shape, Sum
from gloro_lite.lipschitz.nonlinear import NONLINEAR, REFUSED
from gloro_lite.lipschitz.norms import check_provable
from gloro_lite.lipschitz.rounding import Format

_REGISTER = "register a true upper bound with gloro_lite.lipschitz.layer_bound.register, or use another layer"


@singledispatch
def layer_bound(layer: nn.Module, input_shape: Shape) -> Bound:
    """The registered l2 Lipschitz constant of a layer of your own, for inputs of `input_shape`.

    Register a bound for a type of layer; it must be a true upper bound, and holds in training and in certification::

        @layer_bound.register
        def _(layer: MyLayer, input_shape):
            return 1.0

    It holds for layers of exactly that type, and comes before whatever the type inherits. Its forward pass is taken to be
    evaluated to within 1024 units of roundoff of its input's and output's size, as its rounding cannot be seen.
    """
    raise UnknownLayerError(f"it has no Lipschitz bound: {_REGISTER}", kind=_kind(layer))


def _kind(layer: nn.Module) -> str:
    cls = layer_type(layer)
    return cls.__qualname__ if cls.__module__.startswith("torch.nn") else f"{cls.__module__}.{cls.__qualname__}"


def registered(layer: nn.Module):
    """The bound that was registered for exactly this type of layer; None without one."""
    cls = layer_type(layer)
    return None if cls is nn.Module or cls is object else layer_bound.registry.get(cls)


class Registered(Node):
    """A layer whose bound the user has registered; what it computes is what its forward pass does."""

    def __init__(self, layer: nn.Module, input_shape: Shape, name: str):
        super().__init__(layer, input_shape, _output_shape(layer, input_shape), name)
        self.value()  # fails here, with the layer's name, rather than later

    def value(self) -> Bound:
        """What the function that is registered now says now."""
        function = registered(self.layer)
        assert function is not None
        try:
            value = function(self.layer, self.input_shape)
        except Exception as error:
            raise NetworkError(f"its registered bound fails ({said(error)})", self.name, _kind(self.layer)) from error
        number = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex())
        if not number or not float(value.detach() if isinstance(value, Tensor) else value) >= 0:
            raise NetworkError(
                f"its registered bound is {value!r}: it must be a number that is not negative", self.name, _kind(self.layer)
            )
        return value

    def apply(self, x: Tensor) -> Tensor:
        try:
            # A copy: others may read x too, the other path of a Residual, say, and the layer may work in place.
            y = self.layer(x.clone())
        except Exception as error:
            reason = (
                f"it fails on the inputs ({said(error)}): it is run in float64 too, for which its tensors must be parameters, "
                "buffers or attributes, not in lists"
            )
            raise NetworkError(reason, self.name, _kind(self.layer)) from error
        if not isinstance(y, Tensor) or tuple(y.shape) != (len(x), *self.output_shape):
            raise NetworkError(f"it does not give outputs of shape {self.output_shape}", self.name, _kind(self.layer))
        if y.dtype != x.dtype:
            reason = f"it gives {y.dtype} for inputs of {x.dtype}: it must keep their type"
            raise NetworkError(reason, self.name, _kind(self.layer))
        return y

    def bound(self, norms: Norms) -> Bound:
        return norms.constant(self.value())

    def rounding(self, number: Format, bound: float) -> Rounding:
        with torch.no_grad():
            like = _like(self.layer).device
            at_zero = self.layer(torch.zeros(1, *self.input_shape, dtype=torch.float64, device=like)).norm().item()
        unit = 1024 * number.unit
        return Rounding(unit * (1 + float(bound)), unit * (1 + at_zero))


def _output_shape(layer: nn.Module, input_shape: Shape) -> Shape:
    """The shape that a layer gives for one input, both without a batch dimension, from a run of a copy on zeros.

    The layer itself may learn from what it sees, as batch norm does, or draw random numbers while it is trained.
    """
    like = _like(layer)
    with torch.no_grad():
        output = copied(layer).eval()(torch.zeros(2, *input_shape, dtype=like.dtype, device=like.device))
    if not isinstance(output, Tensor) or output.dim() < 1 or len(output) != 2:
        raise NetworkError(
            f"for a batch of 2 it returns {_described(output)}: one tensor with the batch first is needed", kind=_kind(layer)
        )
    return tuple(output.shape[1:])


def _like(layer: nn.Module) -> Tensor:
    """A tensor of the type and on the device that a layer computes with."""
    tensors = (tensor for module in layer.modules() for _, tensor in own_tensors(module) if tensor.is_floating_point())
    return next(tensors, torch.empty(0))


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network; its tensors may be of any kind, also ones that have a history, which the copy's have not.

    Raises NetworkError where the copy is not one of its own.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(tensor, Tensor):
                clone = tensor.detach().clone()
                memo[id(tensor)] = nn.Parameter(clone, requires_grad=False) if isinstance(tensor, nn.Parameter) else clone
    twin = copy.deepcopy(network, memo)
    shared = set(network.modules()) & set(twin.modules())
    if shared:
        kinds = ", ".join(sorted({type(module).__name__ for module in shared}))
        raise NetworkError(f"the network cannot be copied, and so not be frozen: a copy of it has the same {kinds} in it")
    return twin


def _described(output: object) -> str:
    return f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"


def named_layers(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """The layers of nested nn.Sequential in order, with their dotted names."""
    if type(module) is not nn.Sequential or registered(module) is not None:
        return [(name, module)]
    # Not named_children, which leaves out a layer that is used twice.
    children = module._modules.items()
    return [layer for key, child in children for layer in named_layers(child, f"{name}.{key}" if name else key)]


def walk(module: nn.Module, input_shape: Shape, name: str = "", *, trained: bool = False) -> Node:
    """Walk a module at the shape of one input: its node.

    Args:
        trained: the bound is for training, where layers may be in training mode.

    Raises NetworkError, or UnknownLayerError, with the layer's dotted name, for what cannot be bounded.
    """
    check_process()
    return _walk(module, check_shape(input_shape), name, (), trained)


def _walk(module: nn.Module, shape: Shape, name: str, above: tuple[int, ...], trained: bool) -> Node:
    if not isinstance(module, nn.Module):
        raise NetworkError(f"a layer is needed here, not {type(module).__name__}", name)
    if id(module) in above:
        raise NetworkError("it contains itself", name, type(module).__name__)
    above = (*above, id(module))
    try:
        node = _node(module, shape, name, above, trained)
        if 0 in (*shape, *node.output_shape):
            raise NetworkError(f"nothing is left: it takes inputs of shape {shape} to {node.output_shape}")
        return node
    except UnknownLayerError as error:
        if error.layer:
            raise
        raise UnknownLayerError(error.reason, name, _kind(module)) from None
    except NetworkError as error:
        if error.layer:
            raise
        raise NetworkError(error.reason, name, _kind(module), shape) from None
    except Exception as error:
        # Settings of types that PyTorch itself would fail on, and whatever a layer with a registered bound may raise.
        reason = f"it fails ({said(error)})"
        if registered(module) is None:
            reason = f"a setting or tensor of it is not as PyTorch makes them ({said(error)}): build the layer anew"
        raise NetworkError(reason, name, _kind(module), shape) from error


def _node(module: nn.Module, shape: Shape, name: str, above: tuple[int, ...], trained: bool) -> Node:
    cls = layer_type(module)
    own_bound = registered(module) is not None
    known = cls in AFFINE or cls in NONLINEAR or cls in (nn.Sequential, Residual)
    if not own_bound and not known and not isinstance(module, nn.modules.lazy.LazyModuleMixin):
        _refuse_unknown(module)
    check_module(module, name, known=not own_bound, trained=trained)
    if own_bound:
        return Registered(module, shape, name)
    if cls is nn.Sequential:
        children: list[Node] = []
        for child_name, child in module._modules.items():  # named_children leaves out a layer that is used twice
            children.append(
                _walk(child, children[-1].output_shape if children else shape, _join(name, child_name), above, trained)
            )
        return Sequence(module, shape, name, children)
    if cls is Residual:
        branch = _walk(module.branch, shape, _join(name, "branch"), above, trained)
        shortcut = _walk(module.shortcut, shape, _join(name, "shortcut"), above, trained)
        if branch.output_shape != shortcut.output_shape:
            raise NetworkError(
                f"its branch gives {branch.output_shape} and its shortcut {shortcut.output_shape}: they must be equal to be added"
            )
        node: Node = Sum(module, shape, name, branch, shortcut)
        merged = node.affine()
        if merged is not None:
            check_provable(merged)
        return node
    node = (AFFINE.get(cls) or NONLINEAR[cls])(module, shape, name)
    if isinstance(node, Affine) and type(node).bound is Affine.bound:
        check_provable(node)
    return node


def _join(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


def _refuse_unknown(module: nn.Module) -> None:
    cls = layer_type(module)
    reason = next((text for kind, text in REFUSED.items() if cls is kind), None)
    if reason is not None:
        raise UnknownLayerError(reason, kind=_kind(module))
    if hasattr(module, "_orig_mod"):
        raise UnknownLayerError(COMPILED, kind=_kind(module))
    if isinstance(module, torch.jit.ScriptModule):
        reason = "its code was compiled by torch.jit and cannot be seen: give the module that it was made from"
        raise UnknownLayerError(reason, kind=_kind(module))
    known = {nn.Sequential, Residual, *AFFINE, *NONLINEAR, *layer_bound.registry} - {object, nn.Module}
    parent = next((parent for parent in cls.__mro__[1:] if parent in known), None)
    if parent is not None:
        raise UnknownLayerError(
            f"{cls.__name__} inherits from {parent.__name__}, whose bound need not hold for it: use {parent.__name__} itself, or "
            f"register a true upper bound for it with gloro_lite.lipschitz.layer_bound.register",
            kind=_kind(module),
        )
    if any(True for _ in module.children()):
        raise UnknownLayerError(
            "what its forward pass makes of its layers cannot be seen: write it as nn.Sequential, with gloro_lite.Residual for "
            f"skip connections; or, as one layer, {_REGISTER}",
            kind=_kind(module),
        )
    raise UnknownLayerError(f"it has no Lipschitz bound: {_REGISTER}", kind=_kind(module))


def linear_operator(layer: nn.Module, input_shape: Shape) -> Affine | None:
    """The linear part of `layer` (its bias left out) on inputs of `input_shape` (no batch dimension).

    Returns None for a layer that is not affine. Raises NetworkError for what cannot be bounded.
    """
    return walk(layer, input_shape, trained=True).affine()


for _cls in (nn.Sequential, Residual, *AFFINE, *NONLINEAR):
    remember(_cls)
del _cls
