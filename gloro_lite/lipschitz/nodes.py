"""The nodes of a program: what one layer computes, how much it can stretch a distance, and how far its rounding can be off.

A network is walked once into a tree of nodes (see `program.py`). A node reads its layer's weights each time it is asked, so
that the same classes serve the live network in training and the frozen copy that is certified.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import index
from typing import Protocol

import torch
from torch import Tensor, nn

from gloro_lite.lipschitz.rounding import DOUBLE, Format, Upper, length_up, raised

Shape = tuple[int, ...]
Bound = Tensor | float


def per_axis(value: int | tuple[int, ...], count: int) -> tuple[int, ...]:
    """A setting that PyTorch takes as one number, a sequence of one, or a number for each axis, numpy's included: `count` ints.

    Raises ValueError for another length.
    """
    numbers = tuple(index(v) for v in (value if isinstance(value, tuple | list) else (value,)))
    if len(numbers) not in (1, count):
        raise ValueError(
            f"its setting {value} has {len(numbers)} numbers: one for each of {count} axes is needed, or one for all"
        )
    return numbers * (count // len(numbers))


class Norms(Protocol):
    """Where a walk over the nodes gets its numbers from: proofs for a certificate, estimates for a training step."""

    def operator(self, node: Affine) -> Bound:
        """The l2 norm of the linear part of a node, or a bound on it."""

    def constant(self, value: Bound) -> Bound:
        """A Lipschitz constant that is known in closed form."""


@dataclass(frozen=True)
class Deviation:
    """How far a computed activation can be from the exact one, in l2: at + slope r at any point within r of the input.

    Attributes:
        at: (batch,) float64.
        slope: per unit of the ball's radius.
    """

    at: Tensor
    slope: float


@dataclass(frozen=True)
class Track:
    """What is known of an activation as a batch passes through a program.

    Attributes:
        value: the computed activation, (batch, ...).
        length: (batch,) float64, at least the l2 lengths of the exact activation and of the computed one.
        lipschitz: bound on the Lipschitz constant of the exact activation as a function of the network's input.
        own: how far `value` is off; the ball has no part in it.
        deployed: the same for the network in another format, at each point of a ball; None where that is not asked for.
        largest: numbers a and b such that no intermediate result of the other format passes a + b r, (batch,) and a float.
    """

    value: Tensor
    length: Tensor
    lipschitz: Upper
    own: Tensor
    deployed: Deviation | None
    largest: tuple[Tensor, float]


@dataclass(frozen=True)
class Rounding:
    """A layer's own rounding: it errs by at most gain times the length of its input, plus constant, in l2.

    Attributes:
        peak, peak_constant: no intermediate result is, before it is rounded, larger than `peak` times that length plus
            `peak_constant`; what the layer's own bound and offset say already may be left out.
    """

    gain: float
    constant: float
    peak: float = 0.0
    peak_constant: float = 0.0


class Node:
    """One layer at the shape of input that reaches it.

    Attributes:
        name: the layer's dotted name in the network.
        layer: the module.
        input_shape, output_shape: without the batch dimension.
    """

    def __init__(self, layer: nn.Module, input_shape: Shape, output_shape: Shape, name: str):
        self.layer, self.name = layer, name
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)

    def apply(self, x: Tensor) -> Tensor:
        """What the layer computes of x, ``(batch, *input_shape)``, in x's precision."""
        raise NotImplementedError

    def bound(self, norms: Norms) -> Bound:
        """Its l2 Lipschitz constant, or a bound on it."""
        raise NotImplementedError

    def rounding(self, number: Format, bound: float) -> Rounding:
        """How far its result can be off in a floating-point format, given its proven Lipschitz constant."""
        raise NotImplementedError

    def affine(self) -> Affine | None:
        """The node as one affine map; None where it is none."""
        return None

    def leaves(self) -> Iterator[Node]:
        """The nodes of single layers, in order."""
        yield self

    def follow(self, track: Track, constants: Constants) -> Track:
        """Apply the node to a track: value, length, and how far both formats can be off."""
        value = self.apply(track.value)
        lipschitz = constants.bound(self)
        own = lipschitz * track.own + _error(constants.rounding(self, constants.own), track.length)
        length = lengths(value.detach(), constants.own) + own
        deployed, largest = track.deployed, track.largest
        if deployed is not None and constants.deployed is not None:
            rounding = constants.rounding(self, constants.deployed)
            reach, slope = track.length + deployed.at, track.lipschitz + deployed.slope
            # An offset is no longer than the result and what the input makes of it together.
            offset = length + lipschitz * track.length + rounding.peak_constant
            peak = Upper(max(lipschitz, rounding.peak))
            largest = (
                torch.maximum(largest[0], 2 * (peak * reach + _error(rounding, reach) + offset)),
                max(largest[1], 2 * (peak + rounding.gain) * slope),
            )
            deployed = Deviation(
                _up(lipschitz * deployed.at + _error(rounding, reach)),
                float(lipschitz * deployed.slope + rounding.gain * slope),
            )
        return replace(
            track,
            value=value,
            length=_up(length),
            lipschitz=lipschitz * track.lipschitz,
            own=_up(own),
            deployed=deployed,
            largest=largest,
        )


def _error(rounding: Rounding, length: Tensor) -> Tensor:
    return rounding.gain * length + rounding.constant


def _up(x: Tensor) -> Tensor:
    """Covers the rounding of the few operations, on numbers that are not negative, that made x."""
    return x * (1 + 16 * DOUBLE.unit)


def lengths(x: Tensor, number: Format) -> Tensor:
    """Upper bounds on the l2 lengths of x, (batch, ...), as float64 (batch,)."""
    x = x[:, None] if x.dim() == 1 else x  # a single number each
    count = math.prod(x.shape[1:])
    # Over all dimensions at once: flattened, images with channels last would have to be copied.
    computed = torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim()))).double()
    if number == DOUBLE and len(computed) and computed.min() < 1e-140:
        return length_up(x.flatten(1))  # whose squares do not underflow
    # What underflows when it is squared is below the root of the smallest number.
    return computed * (1 + number.gamma(count + 8)) + math.sqrt(count * number.tiny)


class Constants:
    """The numbers of each node that do not depend on the input, computed once for a program.

    Attributes:
        own: the format that values are computed in.
        deployed: the format of the network that is deployed, where its rounding is asked for.
    """

    def __init__(self, norms: Norms, own: Format, deployed: Format | None, bounds: dict, roundings: dict):
        self.own, self.deployed = own, deployed
        self._norms, self._bounds, self._roundings = norms, bounds, roundings

    def bound(self, node: Node) -> Upper:
        """The node's proven Lipschitz constant."""
        if node not in self._bounds:
            self._bounds[node] = Upper(node.bound(self._norms))
        return self._bounds[node]

    def rounding(self, node: Node, number: Format) -> Rounding:
        """The node's rounding in a format."""
        key = (node, number)
        if key not in self._roundings:
            self._roundings[key] = node.rounding(number, self.bound(node))
        return self._roundings[key]


class Sequence(Node):
    """nn.Sequential: its children one after the other."""

    def __init__(self, layer: nn.Module, input_shape: Shape, name: str, children: list[Node]):
        super().__init__(layer, input_shape, children[-1].output_shape if children else input_shape, name)
        self.children = children

    def apply(self, x: Tensor) -> Tensor:
        for child in self.children:
            x = child.apply(x)
        return x

    def bound(self, norms: Norms) -> Bound:
        return math.prod((child.bound(norms) for child in self.children), start=norms.constant(1.0))

    def affine(self) -> Affine | None:
        parts = [child.affine() for child in self.children]
        if any(part is None for part in parts):
            return None
        return Chain(self.layer, self.input_shape, self.output_shape, self.name, parts)  # type: ignore[arg-type]

    def leaves(self) -> Iterator[Node]:
        for child in self.children:
            yield from child.leaves()

    def follow(self, track: Track, constants: Constants) -> Track:
        for child in self.children:
            track = child.follow(track, constants)
        return track


class Sum(Node):
    """`gloro_lite.Residual`: branch(x) + shortcut(x)."""

    def __init__(self, layer: nn.Module, input_shape: Shape, name: str, branch: Node, shortcut: Node):
        super().__init__(layer, input_shape, branch.output_shape, name)
        self.branch, self.shortcut = branch, shortcut
        # Where both paths are linear their sum is one operator, whose norm may be far below the sum of the norms.
        parts = branch.affine(), shortcut.affine()
        self._merged = None if None in parts else Parallel(layer, input_shape, self.output_shape, name, list(parts))

    def apply(self, x: Tensor) -> Tensor:
        return self.branch.apply(x) + self.shortcut.apply(x)

    def bound(self, norms: Norms) -> Bound:
        if self._merged is not None:
            return norms.operator(self._merged)
        return self.branch.bound(norms) + self.shortcut.bound(norms)

    def affine(self) -> Affine | None:
        return self._merged

    def leaves(self) -> Iterator[Node]:
        # Its paths' leaves are merged into one operator, where they can be.
        if self._merged is not None:
            yield self
        else:
            yield from self.branch.leaves()
            yield from self.shortcut.leaves()

    def follow(self, track: Track, constants: Constants) -> Track:
        a, b = self.branch.follow(track, constants), self.shortcut.follow(track, constants)
        value = a.value + b.value
        # Rounding takes each path by itself: in the sum of the operators it need not cancel.
        own = a.own + b.own + 2 * constants.own.unit * (a.length + b.length)
        deployed, largest = None, track.largest
        if a.deployed is not None and b.deployed is not None and constants.deployed is not None:
            unit = 2 * constants.deployed.unit
            at, slope = a.deployed.at + b.deployed.at, Upper(a.deployed.slope) + b.deployed.slope
            sums = a.length + b.length + at, a.lipschitz + b.lipschitz + slope
            deployed = Deviation(_up(at + unit * sums[0]), float(slope + unit * sums[1]))
            largest = (
                torch.maximum(torch.maximum(a.largest[0], b.largest[0]), 2 * sums[0]),
                max(a.largest[1], b.largest[1], 2 * sums[1]),
            )
        lipschitz = constants.bound(self) * track.lipschitz
        return Track(value, _up(lengths(value.detach(), constants.own) + own), lipschitz, _up(own), deployed, largest)


class Affine(Node):
    """An affine map: forward, the linear part; adjoint, its transpose; an offset; and the same with absolute weights.

    Attributes:
        terms: an upper bound on the number of products that are summed in one number of `forward` or `adjoint`.
    """

    terms: int = 1

    def forward(self, x: Tensor) -> Tensor:
        """The linear part of x, ``(batch, *input_shape)``."""
        raise NotImplementedError

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of y, ``(batch, *output_shape)``; without gradient."""
        return self._transpose(self.forward, y)

    def _transpose(self, forward, y: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(len(y), *self.input_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            # A clone, as y may have been made in inference mode, where autograd cannot use it.
            (transposed,) = torch.autograd.grad(forward(x), x, y.clone())
        return transposed

    def absolute(self) -> Affine:
        """The map with the absolute values of its weights and no offset: rounding errors are bounded by it."""
        raise NotImplementedError

    def offset_length(self) -> float:
        """At least the l2 length of the offset, over the whole output."""
        return 0.0

    def weights(self) -> list[Tensor]:
        """The tensors that `forward` reads."""
        return []

    def affine(self) -> Affine:
        return self

    def core(self) -> Affine:
        """A smaller operator of the same norm, where there is one: of one channel, where all are alike."""
        return self

    def apply(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bound(self, norms: Norms) -> Bound:
        return norms.operator(self)

    def matrix(self) -> Tensor:
        """The linear part as a float64 matrix, (output size, input size): row-major over both shapes. For small ones only."""
        size = math.prod(self.input_shape)
        with torch.no_grad():
            columns = self.forward(torch.eye(size, dtype=torch.float64, device="cpu").view(size, *self.input_shape))
        return columns.reshape(size, -1).T


class SumsOfProducts(Affine):
    """An affine layer that computes each number of its result as one sum of products.

    Attributes:
        fan_in: an upper bound on the number of products in such a sum.
    """

    fan_in: int

    def rounding(self, number: Format, bound: float) -> Rounding:
        from gloro_lite.lipschitz.norms import absolute_norm

        of_terms, of_sum = number.sum_errors(self.fan_in)
        size = math.prod(self.output_shape)
        # Of each term its product and its addition, where subnormal numbers are flushed; doubled for what the sum makes of them.
        underflow = (4 * self.fan_in + 2) * number.tiny * math.sqrt(size)
        # The offset is one of the terms; the exact sum is no longer than what the input can be stretched to, and the offset.
        absolute = absolute_norm(self)
        gain = Upper(of_terms) * absolute + Upper(of_sum) * bound
        offset = (Upper(of_terms) + of_sum) * self.offset_length()
        # Weights that meet one number of the input, as where padding repeats it, cancel in the bound but not on the way.
        return Rounding(float(raised(gain)), float(raised(offset + underflow)), float(absolute))


class Chain(Affine):
    """Affine maps one after the other, as one operator."""

    def __init__(self, layer: nn.Module, input_shape: Shape, output_shape: Shape, name: str, parts: list[Affine]):
        super().__init__(layer, input_shape, output_shape, name)
        self.parts = parts
        self.terms = sum(part.terms for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.forward(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for part in reversed(self.parts):
            y = part.adjoint(y)
        return y

    def absolute(self) -> Affine:
        return Chain(self.layer, self.input_shape, self.output_shape, self.name, [part.absolute() for part in self.parts])

    def weights(self) -> list[Tensor]:
        return [weight for part in self.parts for weight in part.weights()]


class Parallel(Affine):
    """Affine maps of the same input, summed, as one operator."""

    def __init__(self, layer: nn.Module, input_shape: Shape, output_shape: Shape, name: str, parts: list[Affine]):
        super().__init__(layer, input_shape, output_shape, name)
        self.parts = parts
        self.terms = sum(part.terms for part in parts) + len(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([part.forward(x) for part in self.parts]).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.stack([part.adjoint(y) for part in self.parts]).sum(0)

    def absolute(self) -> Affine:
        return Parallel(self.layer, self.input_shape, self.output_shape, self.name, [part.absolute() for part in self.parts])

    def weights(self) -> list[Tensor]:
        return [weight for part in self.parts for weight in part.weights()]
