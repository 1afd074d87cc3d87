"""A network as one immutable program: what is bounded is what is evaluated.

A program is made from a frozen copy of a network, in float64, with its weights as they were at that moment. Its nodes give the
bound, and the same nodes compute the logits of a certificate, with a bound on their rounding. The network's own forward pass
is compared with them on the batch that is certified.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gloro_lite.lipschitz.affine import Convolution
from gloro_lite.lipschitz.checks import check_network, check_shape, check_types, floating_tensors, own_tensors, settings
from gloro_lite.lipschitz.errors import MismatchError, NetworkError, said
from gloro_lite.lipschitz.nodes import Constants, Deviation, Node, Sequence, Shape, Track, lengths
from gloro_lite.lipschitz.norms import Proven
from gloro_lite.lipschitz.rounding import Format, Upper, number_format
from gloro_lite.lipschitz.walk import Registered, copied, registered, walk

_LOCK = threading.RLock()
"""One network is read at a time."""
_ATTEMPTS = 1000
_BYTES = 2**23
"""Windows of a convolution that are laid out as a matrix at a time: more would not stay in a processor's cache."""
_COMPARED = 4
"""Inputs of a batch on which the network itself is run beside the program."""


class _Snapshot:
    """All that a network computes with, as it is at one moment.

    Attributes:
        complete: False where a module has an attribute that cannot be compared, and so may change unseen.
    """

    def __init__(self, network: nn.Module, input_shape: Shape):
        self.description: list[Any] = [input_shape]
        self.tensors: list[Tensor] = []
        self.complete = True
        # What a frozen copy has too: the settings of layers that this package knows, and the places of tensors in the list. What
        # is behind parametrizations is left out.
        self._settings: list[dict[str, str]] = []
        self._places: list[int] = []
        hidden = _hidden(network)
        number = {id(module): place for place, module in enumerate(network.modules())}  # each once, also where it is used twice
        for module in network.modules():
            children = [(name, number.get(id(child))) for name, child in module._modules.items()]
            plain, complete = settings(module)
            self.complete &= complete
            self.description.append((type(module), registered(module), plain, children))
            tensors = list(own_tensors(module))
            if id(module) not in hidden:
                self._settings.append(plain if registered(module) is None else {})
                self._places += range(len(self.tensors), len(self.tensors) + len(tensors))
            for name, tensor in tensors:
                self.description.append((name, tensor.dtype, tensor.device, tuple(tensor.shape)))
                self.tensors.append(tensor.detach())

    def kept(self) -> _Snapshot:
        """The same with copies of the tensors, which nobody changes."""
        self.tensors = [tensor.clone() for tensor in self.tensors]
        return self

    def equals(self, other: _Snapshot) -> bool:
        return self.description == other.description and all(map(torch.equal, self.tensors, other.tensors))

    def is_kept_by(self, frozen: _Snapshot) -> bool:
        """Whether a frozen copy computes with the same."""
        tensors = [self.tensors[place] for place in self._places]
        return (
            self._settings == frozen._settings
            and [tensor.dtype for tensor in tensors] == [tensor.dtype for tensor in frozen.tensors]
            and all(map(torch.equal, tensors, frozen.tensors))
        )


def _hidden(network: nn.Module) -> set[int]:
    """The modules behind parametrizations, by their ids."""
    parametrized = (module for module in network.modules() if parametrize.is_parametrized(module))
    return {id(child) for module in parametrized for child in module.parametrizations.modules()}


def _check_values(network: nn.Module) -> None:
    """Raise NetworkError, with the tensor's name, unless all weights are finite, real, and of one floating-point type."""
    for name, tensor in floating_tensors(network, registered):
        if not tensor.isfinite().all():
            raise NetworkError(f"{name} holds NaN or infinite values: no certificate can be given for this network")
    check_types(network, registered)


def _frozen(network: nn.Module) -> nn.Module:
    """A copy of a network, its parametrizations evaluated once."""
    frozen = copied(network)
    for module, twin in list(zip(network.modules(), frozen.modules(), strict=True)):
        if parametrize.is_parametrized(module):
            del twin._modules["parametrizations"]
            twin.__class__ = parametrize.type_before_parametrizations(module)
            for name in module.parametrizations:
                # What the module computes with now is what the copy keeps; evaluated anew it might be something else.
                twin.register_parameter(name, nn.Parameter(getattr(module, name).detach().clone(), requires_grad=False))
    return frozen


def converted(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network, changed in place, with all floating-point numbers in `dtype`, its tensors that are plain attributes, too."""
    for module in network.modules():
        # Not nn.Module.to, which leaves plain attributes alone and cannot be called inside of torch.func's transforms.
        for own in (module._parameters, module._buffers, vars(module)):
            for name, value in own.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    values = value.detach().to(dtype)
                    own[name] = nn.Parameter(values, requires_grad=False) if isinstance(value, nn.Parameter) else values
    return network


class Result(NamedTuple):
    """What a program computes of a batch up to a node.

    Attributes:
        value: (batch, ...).
        length, own, at, slope, largest: see `nodes.Track`; the deviation of the deployed network is at + slope r.
        lipschitz: of the nodes together.
    """

    value: Tensor
    length: Tensor
    lipschitz: Upper
    own: Tensor
    at: Tensor
    slope: float
    largest: Tensor
    growth: float


class Program:
    """A network at one moment, frozen: its nodes, its proven bound, and its own evaluation with counted rounding.

    Args:
        network: any nesting of nn.Sequential, `gloro_lite.Residual` and layers with a bound.
        input_shape: of one input, without the batch dimension.

    Attributes:
        network: the frozen copy, in float64.
        root: the node of the whole network.
        nodes: the layers in order, nested nn.Sequential opened.
        dtype: of the original's weights.

    Raises NetworkError for what cannot be bounded, and where the weights keep changing while they are read.
    """

    def __init__(self, network: nn.Module, input_shape: Shape):
        self.input_shape = check_shape(input_shape)
        # Tensors that are made in inference mode could not be used outside of it.
        with _LOCK, torch.inference_mode(False), torch.no_grad():
            check_network(network, registered)
            _check_values(network)
            frozen, self._snapshot = self._copy(network)
            tensors = [tensor for module in frozen.modules() for _, tensor in own_tensors(module)]
            self.dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float64)
            walk(frozen, self.input_shape)  # in the network's own precision, in which it is used
            self.device = next((t.device for t in tensors), torch.device("cpu"))
            if self.device.type == "mps":  # Apple's GPUs have no float64
                frozen, self.device = frozen.cpu(), torch.device("cpu")
            self.network = converted(frozen, torch.float64).eval()
            self.root = walk(self.network, self.input_shape)
            self.nodes = _flat(self.root)
            # By the nodes themselves, of which a copy of the program has its own.
            self._values = {node: float(node.value()) for node in self._registered_nodes()}
        self.output_shape = self.root.output_shape
        self._proven = Proven()
        self._bounds: dict[Node, Upper] = {}
        self._roundings: dict[tuple[Node, Format], Any] = {}

    def _copy(self, network: nn.Module) -> tuple[nn.Module, _Snapshot]:
        """A frozen copy, and the snapshot that it agrees with."""
        # Another thread may change weights or settings meanwhile: what was read before, with and after the copy must agree.
        for _ in range(_ATTEMPTS):
            snapshot = _Snapshot(network, self.input_shape).kept()
            try:
                frozen = _frozen(network)
            except (TypeError, RuntimeError, AttributeError) as error:
                raise NetworkError(f"the network cannot be copied, and so not be frozen: {error}") from error
            kept = snapshot.is_kept_by(_Snapshot(frozen, self.input_shape))
            if kept and snapshot.equals(_Snapshot(network, self.input_shape)):
                return frozen, snapshot
        raise NetworkError(
            "its weights keep changing while they are read, by training in another thread or by a parametrization that gives "
            "another value each time: certify a copy that stands still"
        )

    def _registered_nodes(self) -> list[Registered]:
        return [leaf for node in self.nodes for leaf in node.leaves() if isinstance(leaf, Registered)]

    def is_current(self, network: nn.Module, input_shape: Shape) -> bool:
        """Whether `network` is still what this program was made from. Raises NetworkError for what is refused now."""
        with _LOCK, torch.no_grad():
            check_network(network, registered)
            if not self._snapshot.complete or not self._snapshot.equals(_Snapshot(network, tuple(input_shape))):
                return False
            return self.keeps_bounds()

    def keeps_bounds(self) -> bool:
        """Whether registered bounds say what they said: they, and their layers, may read what is not in the frozen copy."""
        with torch.inference_mode(False), torch.no_grad():
            return all(float(node.value()) == value for node, value in self._values.items())

    @property
    def complete(self) -> bool:
        """Whether `is_current` can tell: False where a module has an attribute that cannot be compared."""
        return self._snapshot.complete

    @property
    def norms(self) -> dict[str, float]:
        """The proven l2 norm of each linear operator, by its layer's dotted name; known once a bound was asked for."""
        return dict(self._proven.norms)

    def bound(self, nodes: list[Node] | None = None) -> Upper:
        """A true upper bound on the l2 Lipschitz constant of some nodes in a row, by default of all of them.

        Raises NetworkError if it overflows.
        """
        with _LOCK, torch.inference_mode(False), torch.no_grad():
            constants = self._constants(torch.float64, None)
            bound = Upper(1.0)
            for node in self.nodes if nodes is None else nodes:
                bound = bound * constants.bound(node)
                if not math.isfinite(bound):
                    reason = (
                        "the Lipschitz bound overflows with it: its weights, or those before it, are too large to be certified"
                    )
                    raise NetworkError(reason, node.name, type(node.layer).__name__)
        return bound

    def _constants(self, dtype: torch.dtype, deployed: torch.dtype | None) -> Constants:
        return Constants(
            self._proven,
            number_format(dtype),
            None if deployed is None else number_format(deployed),
            self._bounds,
            self._roundings,
        )

    def run(
        self, x: Tensor, nodes: list[Node], *, dtype: torch.dtype = torch.float64, deployed: torch.dtype | None = None
    ) -> Result:
        """Evaluate some of the first nodes on x, ``(batch, *input_shape)``, exact inputs, in `dtype`, and bound the rounding.

        Args:
            deployed: the type of the network whose rounding over a ball is asked for beside the program's own.
        """
        constants = self._constants(dtype, deployed)
        # Convolutions see parts of a batch that fit into the processor's cache; a dense layer's matrix is then read once for all.
        windows = [_windows(node) for node in nodes]
        first = max((k + 1 for k, count in enumerate(windows) if count), default=0)
        size = max(1, _BYTES // (8 * max(windows))) if first and dtype == torch.float64 else 4096
        with torch.autocast(x.device.type, enabled=False):
            parts = x.split(size)
            track = _joined([_follow(nodes[:first], _start(part, dtype, constants), constants) for part in parts])
            track = _follow(nodes[first:], track, constants)
        deviation = track.deployed or Deviation(torch.zeros_like(track.own), 0.0)
        return Result(track.value, track.length, track.lipschitz, track.own, deviation.at, deviation.slope, *track.largest)

    def compare(self, x: Tensor, logits: Tensor, tolerance: Tensor, network: Callable[[Tensor], Tensor] | None = None) -> None:
        """Run a network on some of the inputs x, see `few`, and compare with the program's logits, (batch, ...).

        Args:
            tolerance: of the shape of `logits`: how far both may be off by rounding.
            network: what is run, in the precision of x; by default the frozen copy, in float64.

        Raises MismatchError where they differ by more.
        """
        rows = few(x)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            try:
                own = self.network(x[rows].double()) if network is None else network(x[rows])
            except Exception as error:
                raise MismatchError(
                    f"the network itself fails on inputs that its layers should take ({said(error)}): a setting of a layer was "
                    "changed after it was built, or a layer of your own fails. Nothing can be certified"
                ) from error
        own, rows = own.detach().to(logits.device, torch.float64), rows.to(logits.device)
        computed, allowed = logits.detach()[rows], tolerance[rows]
        if own.shape == computed.shape:
            unlike = (own - computed).abs() > allowed
            # Where either has overflowed there is nothing to compare, and nothing is certified.
            if not (unlike & own.isfinite() & computed.isfinite()).any():
                return
        raise MismatchError(
            "the network computes something else than what was bounded: a function or method was replaced, or the forward "
            "pass of a layer with a registered bound is no fixed function, or works in place on what other layers read. Nothing "
            "can be certified"
        )


def _windows(node: Node) -> int:
    """How many numbers the windows of an image hold that a convolution of the node multiplies, at most; 0 where there is none."""
    convolutions = (leaf for leaf in node.leaves() if isinstance(leaf, Convolution))
    return max((math.prod((*c.output_shape[1:], *c.kernel, c.layer.in_channels)) for c in convolutions), default=0)


def _start(x: Tensor, dtype: torch.dtype, constants: Constants) -> Track:
    length = lengths(x.detach().double(), number_format(torch.float64))
    nothing = torch.zeros_like(length)
    deviation = None if constants.deployed is None else Deviation(nothing, 0.0)
    return Track(x.to(dtype), length, Upper(1.0), nothing, deviation, (length, 1.0))


def _follow(nodes: list[Node], track: Track, constants: Constants) -> Track:
    for node in nodes:
        track = node.follow(track, constants)
    return track


def _joined(tracks: list[Track]) -> Track:
    """The tracks of a batch's parts as one; what does not depend on the input is the same in each."""
    first = tracks[0]
    if len(tracks) == 1:
        return first
    deviations = [track.deployed for track in tracks if track.deployed is not None]
    return Track(
        torch.cat([track.value for track in tracks]),
        torch.cat([track.length for track in tracks]),
        first.lipschitz,
        torch.cat([track.own for track in tracks]),
        Deviation(torch.cat([deviation.at for deviation in deviations]), deviations[0].slope) if deviations else None,
        (torch.cat([track.largest[0] for track in tracks]), first.largest[1]),
    )


def few(x: Tensor) -> Tensor:
    """The rows of a batch on which the network itself is run: up to four, spread over the batch."""
    count = min(len(x), _COMPARED)
    rows = (
        torch.linspace(0, len(x) - 1, count, dtype=torch.float64, device="cpu").round().long()
        if count
        else torch.zeros(0, dtype=torch.int64, device="cpu")
    )
    return rows.to(x.device)


def _flat(node: Node) -> list[Node]:
    return [leaf for child in node.children for leaf in _flat(child)] if isinstance(node, Sequence) else [node]


def upper_bound(module: nn.Module, input_shape: Shape) -> float:
    """A true upper bound on the l2 Lipschitz constant of `module`: the product over its layers (Equation 2 of the paper).

    Args:
        module: any nesting of nn.Sequential, `gloro_lite.Residual` and layers with a bound.
        input_shape: the shape of one input, without the batch dimension; it decides a convolution's norm.

    Returns: output units per input unit (float).

    Raises:
        UnknownLayerError: a layer without a bound; says which and how to register one.
        NetworkError: a ValueError; weights that are not finite, a layer in training mode that is then no fixed function, a wrong
            shape, a hook or a replaced method.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"a torch.nn.Module is needed, not {type(module).__name__}")
    return float(Program(module, input_shape).bound())
