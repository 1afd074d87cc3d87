"""What is looked at in every module before it is bounded: PyTorch must compute what the module's type and weights say.

A bound that is read off a layer's weights holds for the layer as PyTorch defines it. Hooks, replaced methods and subclasses can
make a module compute something else; they are refused, since their effect cannot be seen from outside.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _VariableFunctions as _C
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from gloro_lite.lipschitz.errors import NetworkError

_PLAIN = (int, float, str, bool, type(None), torch.dtype)


def _methods(cls: type) -> dict[str, Any]:
    """The methods that a class defines itself, of whatever type, but for those that only build an instance, which torch.compile
    replaces."""
    return {
        name: value
        for name, value in vars(cls).items()
        if (callable(value) or hasattr(value, "__get__")) and name not in ("__init__", "__setstate__")
    }


_ORIGINALS: dict[type, dict[str, Any]] = {}
_UNTOUCHED: dict[type, dict[str, Any]] = {}
"""All that a class held when it was noted: where it still does, there is nothing to look for."""


def remember(cls: type) -> None:
    """Note the methods of a class and its parents as they are now, to notice when one is replaced."""
    for parent in cls.__mro__[:-1]:
        _ORIGINALS.setdefault(parent, _methods(parent))
        _UNTOUCHED.setdefault(parent, dict(vars(parent)))


_FUNCTIONS = {
    home: {name: value for name, value in vars(home).items() if callable(value) and (home is F or hasattr(_C, name))}
    for home in (F, torch)
}
"""The functions that layers and their nodes are made of, as they were when this package was imported."""


def check_process() -> None:
    """Raise NetworkError where something makes every network of this process, or all that this thread computes, another one."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise NetworkError("forward hooks are registered for all modules, and may change what they compute: remove them first")
    for home, functions in _FUNCTIONS.items():
        if list(map(vars(home).get, functions)) != list(functions.values()):
            name = next(name for name, function in functions.items() if vars(home).get(name) is not function)
            raise NetworkError(
                f"the function {home.__name__}.{name} was replaced after gloro_lite was imported: certificates need the original"
            )
    for mode in (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()):
        # PyTorch's own set the device of new tensors, count operations and the like.
        if not type(mode).__module__.startswith("torch."):
            raise NetworkError(
                f"a mode is active, {type(mode).__name__}, that may change what PyTorch computes: leave it before certifying"
            )


def layer_type(module: nn.Module) -> type:
    """The type of a module; parametrizations put a class of their own in front of it."""
    return parametrize.type_before_parametrizations(module)


def _hook_remedy(module: nn.Module, hook: object) -> str:
    kind = type(hook).__name__
    if kind == "WeightNorm":
        return "it has the old torch.nn.utils.weight_norm: call torch.nn.utils.remove_weight_norm(layer)"
    if kind == "SpectralNorm":
        return "it has the old torch.nn.utils.spectral_norm: call torch.nn.utils.remove_spectral_norm(layer)"
    if any(parent.__name__ == "BasePruningMethod" for parent in type(hook).__mro__):
        name = getattr(hook, "_tensor_name", "weight")
        return f"it is being pruned: call torch.nn.utils.prune.remove(layer, {name!r})"
    return "it has a forward hook, which may change what it computes: remove the hook (handle.remove())"


def _replaced_method(cls: type) -> str:
    """Which method of a class or its parents is not the one that was there when this package was imported; empty for none."""
    for parent in cls.__mro__[:-1]:
        if parent not in _ORIGINALS or vars(parent) == _UNTOUCHED[parent]:
            continue
        original, now = _ORIGINALS[parent], _methods(parent)
        if original != now:
            return next(f"{parent.__name__}.{n}" for n in (*original, *now) if original.get(n) is not now.get(n))
    return ""


_RANDOM = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


COMPILED = "it was compiled by torch.compile, whose code cannot be seen: give the module itself (._orig_mod)"
"""Why a module that torch.compile has made is refused."""
_COMPILED_FORWARD = "its forward was compiled by torch.compile, whose code cannot be seen: take that back with `del net.forward`"


def is_random(module: nn.Module) -> bool:
    """Whether a layer of PyTorch is no function of its input alone, as it is now: dropout and batch norm in training mode."""
    return module.training and isinstance(module, _RANDOM)


def check_module(module: nn.Module, name: str, *, known: bool, trained: bool = False) -> None:
    """Raise NetworkError unless `module` computes what its exact type says.

    Args:
        known: the type is one that this package bounds itself; False for one whose bound the user has registered, whose
            methods are its own affair.
        trained: the module is looked at for the training bound, and may be in training mode.
    """
    kind = type(module).__name__

    def refuse(reason: str) -> None:
        raise NetworkError(reason, name, kind)

    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        refuse("it has no shape yet: run the network on one batch first")
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for hook in hooks.values():
            refuse(_hook_remedy(module, hook))
    if getattr(module, "_compiled_call_impl", None) is not None:
        refuse(
            "it was compiled in place (.compile()), and what the compiled code computes cannot be seen: certify a copy, "
            "copy.deepcopy(net), which is not compiled"
        )
    cls = layer_type(module)
    for attribute in vars(module):
        if attribute == "forward" and getattr(module.forward, "_torchdynamo_orig_callable", None) is not None:
            refuse(COMPILED if hasattr(module, "_orig_mod") else _COMPILED_FORWARD)
        if callable(getattr(cls, attribute, None)):
            refuse(f"its method {attribute!r} was replaced on this instance: give the layer a class of its own, with a bound")
    if known:
        replaced = _replaced_method(cls)
        if replaced:
            refuse(f"the method {replaced} was replaced after gloro_lite was imported: certificates need the original")
        if getattr(module, "inplace", False):
            refuse("it works in place, which changes inputs that other layers may still read: give inplace=False")
    if not trained:
        _check_mode(module, known, refuse)
    for tensor_name, tensor in own_tensors(module):
        _check_tensor(tensor, tensor_name, refuse)


def _check_mode(module: nn.Module, known: bool, refuse: Callable[[str], None]) -> None:
    """Refuse what in training mode is no fixed function. A layer with a registered bound answers for what it is made of."""
    for part in (module,) if known else module.modules():
        if is_random(part) or (part.training and parametrize.is_parametrized(part)):
            refuse("it is in training mode, where it is no fixed function and has no Lipschitz bound: call .eval() first")


def _check_tensor(tensor: Tensor, name: str, refuse) -> None:
    if tensor.device.type == "meta":
        refuse(f"its {name} is on the meta device and has no values: load or initialise the weights first")
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout != torch.strided:
        refuse(f"its {name} is a {type(tensor).__name__} with layout {tensor.layout}: only ordinary dense tensors can be read")
    numbers = isinstance(tensor, nn.Parameter) or tensor.is_floating_point()
    if numbers and tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        refuse(f"its {name} is {tensor.dtype}: only real floating-point numbers of 16, 32 or 64 bits have a bound, float32 say")


def check_network(network: nn.Module, registered: Callable[[nn.Module], object]) -> None:
    """Look at every module of a network again; see `check_module`.

    Args:
        registered: tells whether a module's type has a registered bound (not None).
    """
    check_process()
    own_affair: list[str] = []
    for name, module in network.named_modules():
        known = registered(module) is None and not any(name.startswith(prefix) for prefix in own_affair)
        if not known:
            own_affair.append(f"{name}." if name else "")
        check_module(module, name, known=known)
    if _flushes():  # what parametrizations come to is computed anew for each look at it
        for name, tensor in floating_tensors(network, registered):
            check_flushing(tensor, f"the numbers of {name}")


def check_shape(input_shape: Iterable[int]) -> tuple[int, ...]:
    """The shape of one input as a tuple. Raises TypeError for what is no shape, ValueError for negative sides."""
    meaning = "input_shape is that of one input, without the batch, a tuple of whole numbers as (1, 28, 28) or (784,)"
    try:
        shape = tuple(operator.index(side) for side in input_shape)
    except TypeError:
        raise TypeError(f"{meaning}, not {input_shape!r}") from None
    if any(side < 0 for side in shape):
        raise ValueError(f"{meaning}; not {shape}")
    return shape


def is_count(value: object) -> bool:
    """Whether a value is a number of things, at least one: a whole number, which PyTorch takes for a size."""
    return type(value) is int and value >= 1


def check_tensor(x: object) -> None:
    """Raise TypeError for inputs that are no tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"inputs must be a torch.Tensor, not {type(x).__name__}: torch.as_tensor(x) makes one")


def _flushes() -> bool:
    """Whether this thread takes subnormal numbers for 0."""
    return sys.float_info.min / 2 == 0


def check_flushing(tensor: Tensor, name: str) -> None:
    """Raise NetworkError for subnormal numbers in a tensor where this thread takes them for 0 (`torch.set_flush_denormal`)."""
    if not _flushes() or tensor.dtype not in _WHOLE:
        return
    # As bits, without the sign: arithmetic does not see them.
    bits = tensor.detach().contiguous().view(_WHOLE[tensor.dtype]) & torch.iinfo(_WHOLE[tensor.dtype]).max
    normal = torch.full((), torch.finfo(tensor.dtype).tiny, dtype=tensor.dtype, device="cpu").view(bits.dtype).item()
    if ((bits > 0) & (bits < normal)).any():
        raise NetworkError(
            f"{name} hold some so near 0, below {torch.finfo(tensor.dtype).tiny:.2g}, that this process takes them for 0: call "
            "torch.set_flush_denormal(False) before certifying"
        )


_WHOLE = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}
"""Whole numbers of as many bits. What is subnormal in float16 is not in float32, in which it is computed with."""


def check_batch(x: Tensor, input_shape: tuple[int, ...]) -> None:
    """Raise TypeError for inputs that are no tensor, ValueError for another shape than ``(batch, *input_shape)``."""
    check_tensor(x)
    if x.layout != torch.strided or x.device.type == "meta" or x.is_nested:
        kind = "are nested" if x.is_nested else f"have layout {x.layout} on device {x.device}"
        raise TypeError(f"inputs must be dense and hold values; these {kind}")
    if x.dim() != len(input_shape) + 1 or tuple(x.shape[1:]) != input_shape:
        hint = "; add a batch dimension with x[None]" if tuple(x.shape) == input_shape else ""
        raise ValueError(f"inputs must have shape (batch, {', '.join(map(str, input_shape))}), not {tuple(x.shape)}{hint}")


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module itself holds: parameters, buffers, plain attributes, and what its parametrizations come to."""
    # What is parametrized stands last among the parameters, as in a frozen copy, whose order must be the same.
    parametrized = module.parametrizations if parametrize.is_parametrized(module) else ()
    evaluated = ((name, getattr(module, name)) for name in parametrized)
    for name, value in (*module._parameters.items(), *evaluated, *module._buffers.items(), *vars(module).items()):
        if isinstance(value, Tensor):
            yield name, value


_EVERY_MODULE_S = frozenset(vars(nn.Module()))


def settings(module: nn.Module) -> tuple[dict[str, str], bool]:
    """What a module is configured by, apart from its tensors and children, and whether that is all that can be seen of it."""
    plain, complete = {}, True
    for name, value in vars(module).items():
        if name in _EVERY_MODULE_S:  # tensors, children and hooks; the training mode is looked at each time
            continue
        if isinstance(value, Tensor):  # one of the module's own tensors
            continue
        if _is_plain(value):
            plain[name] = repr(value)  # NaN equals nothing, its text does
        else:
            complete = False
    return plain, complete


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def floating_tensors(network: nn.Module, registered: Callable[[nn.Module], object]) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors that a network computes with, by their dotted names: see `own_tensors`.

    Args:
        registered: see `check_network`; a layer of one's own may keep what it likes as plain attributes, an activation, say.
    """
    for name, module in network.named_modules():
        own_affair = vars(module) if registered(module) is not None else ()
        for key, tensor in own_tensors(module):
            if tensor.is_floating_point() and key not in own_affair:
                yield f"{name}.{key}" if name else key, tensor


def check_types(network: nn.Module, registered: Callable[[nn.Module], object]) -> None:
    """Raise NetworkError unless all floating-point tensors of a network are of one type."""
    dtypes = {tensor.dtype for _, tensor in floating_tensors(network, registered)}
    if len(dtypes) > 1:
        raise NetworkError(f"its weights are of several types, {', '.join(sorted(map(str, dtypes)))}: convert them to one")
