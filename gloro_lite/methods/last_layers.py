"""A local bound of a GloRo Net's last layers, behind the global bound of all that comes before: for a net of any size.

The paper leaves a local bound open as a fall-back (its Section 7). To bound every layer anew for each input is expensive (see
`gloro_lite.methods.local`). The last hidden layer alone costs a few products with its matrix, and much is fixed there: within
epsilon of x, what it reads, u, moves by at most r = K epsilon, with K the global bound of the layers before, and most of its
units keep their sign.

ReLU, MinMax and the absolute value are linear up to absolute values of units t = D u + b; of a MinMax pair, t is the difference.
So the margin of a class over a rival is a linear function of u, a constant, and a sum of terms ``e_k |t_k|``. While u moves by d,
t_k moves by s = D_k . d, and

- where e_k >= 0, ``|t + s| - |t| >= sign(t) s``, as the absolute value is convex;
- where e_k < 0, ``|t + s| - |t| <= v sign(t) s + (1 - v) |s|`` with ``v = min(1, |t| / (r ||D_k||))``, for all s that there may
  be: v is 1 where the unit cannot change its sign, and 0 where t is 0.

With c the gradient that these slopes give, and h_k = -e_k (1 - v_k) for e_k < 0 and else 0, the margin falls by no more than the
largest of ``-c . d + sum_k h_k |D_k . d|``. Over all signs of the second part, this is at most r times the root of::

    ||c||^2 + 2 sum_k h_k |D_k . c| + min(||D||^2 ||h||^2, h^T |D D^T| h)

and a rival with a larger margin cannot win. A unit that can only help the margin costs nothing, another only as far as it can
turn.

All of it holds for a smaller v, too. And t, as computed, may be off. Where e_k >= 0, ``|t + s|`` is at least the computed ``|t|``
plus sign(t) s, less that error, even if the sign is wrong; where e_k < 0, v is taken for the smallest ``|t|`` that there may be.
The error is a part of that of the logits, and counted with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gloro_lite.certificate import Certificate
from gloro_lite.layers import Absolute, MinMax
from gloro_lite.lipschitz.checks import layer_type
from gloro_lite.lipschitz.rounding import length_up
from gloro_lite.lipschitz.walk import registered
from gloro_lite.methods.chain import FLOOR, ROOT, gamma, proven
from gloro_lite.methods.local import Robust, fall_back, spectral_norms
from gloro_lite.net import GloroNet, State
from gloro_lite.precision import on_cpu

_PAIRS = 2048
"""Pairs of an input and a rival that are looked at together: a gradient is kept for each."""

COMPARED = {nn.ReLU: 1.0, MinMax: 2.0, Absolute: 1.0}
"""The activations that the bound knows, and the square of the norm of what takes a layer's outputs, with each, to the units."""


class Tail(NamedTuple):
    """The last hidden layer, its activation, and the layer of the logits, float64.

    Attributes:
        weight, bias: of the hidden layer, (outputs, inputs) and (outputs,).
        activation: one of `COMPARED`.
        head, head_bias: of the logits, (classes, outputs) and (classes,).
    """

    weight: Tensor
    bias: Tensor
    activation: type[nn.Module]
    head: Tensor
    head_bias: Tensor

    def units(self, values: Tensor) -> Tensor:
        """What the absolute values are taken of, from the activation's inputs, in the first dimension: (outputs, ...)."""
        if self.activation is not MinMax:
            return values
        first, second = values.chunk(2)
        return first - second

    def means(self, values: Tensor) -> Tensor:
        """Of the same, the linear part of the activation: one row for each unit."""
        if self.activation is MinMax:
            first, second = values.chunk(2)
            return (first + second) / 2
        return values / 2 if self.activation is nn.ReLU else torch.zeros_like(values)

    def sums(self, values: Tensor) -> Tensor:
        """Of numbers >= 0 for each of the activation's inputs, or outputs, their sum for each unit, in the first dimension."""
        return torch.stack(values.chunk(2)).sum(0) if self.activation is MinMax else values

    def coefficients(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """How `means` and the absolute values enter rows . outputs: (pairs, outputs) to two of (pairs, units)."""
        if self.activation is MinMax:
            first, second = rows.chunk(2, dim=1)
            return first + second, (second - first) / 2
        return rows, rows / 2 if self.activation is nn.ReLU else rows

    def activate(self, z: Tensor) -> Tensor:
        """The activation, (batch, outputs)."""
        return self.activation()(z)


def last_types(layers: Iterable[nn.Module]) -> list[type[nn.Module]]:
    """The types of a network's last three layers. Raises ValueError unless these are Linear, one of `COMPARED`, and Linear."""
    kinds = [layer_type(layer) for layer in layers]
    if len(kinds) < 3 or kinds[0] is not nn.Linear or kinds[1] not in COMPARED or kinds[2] is not nn.Linear:
        known, found = (", ".join(kind.__name__ for kind in some) for some in (COMPARED, kinds))
        raise ValueError(
            f"the local bound of the last layers needs a network that ends in Linear, one of {known}, and Linear; "
            f"this one ends in {found}"
        )
    return kinds


def tail(state: State) -> Tail:
    """The last layers of a net's state. Raises ValueError as `last_types` does, and for layers with a registered bound."""
    layers = [node.layer for node in state.program.nodes[-3:]]
    kinds = last_types(layers)
    for kind, layer in zip(kinds, layers, strict=True):
        if registered(layer) is not None:  # its forward pass is its own affair then
            raise ValueError(f"the local bound of the last layers needs to know them, and {kind.__name__} has a registered bound")
    hidden, head = layers[0], layers[2]
    biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in (hidden, head)]
    parts = (part.detach().to("cpu", torch.float64) for part in (hidden.weight, biases[0], head.weight, biases[1]))
    weight, bias, head_weight, head_bias = parts
    return Tail(weight, bias, kinds[1], head_weight, head_bias)


class Bound:
    """The bound for a tail, with what does not depend on the input."""

    def __init__(self, tail: Tail):
        self.tail = tail
        self.units, self.means = tail.units(tail.weight), tail.means(tail.weight)
        self.rows = length_up(tail.weight)
        # Up to rounding, at least the lengths of D_k and of what it is made of. FLOOR, here and below, is for differences so near
        # 0 that a process may take them for it.
        self.sizes = tail.sums(self.rows) + FLOOR
        self.lengths = length_up(self.units) + FLOOR
        n = tail.weight.shape[1]
        self.gram = (self.units @ self.units.mT).abs() + gamma(n) * self.sizes[:, None] * self.sizes + FLOOR
        # The computed units err by a unit roundoff, so their norm by that of Frobenius' norm.
        self.norm = spectral_norms(self.units[None])[0] + gamma(1) * (self.sizes.norm() + ROOT)
        self.entering = tail.sums(tail.head.abs().mT).mT + FLOOR  # (classes, units): how strongly a unit can enter a logit

    def logits(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of u, (batch, inputs), taken as it is: the logits and units' values, (batch, classes) and (batch, units), and with
        each how far it is off, in the order logits, error, values, error."""
        tail, n = self.tail, self.tail.weight.shape
        z = u @ tail.weight.mT + tail.bias
        off = gamma(n[1]) * (self.rows * length_up(u)[:, None] + tail.bias.abs()) + FLOOR
        t, t_off = tail.units(z.mT).mT, tail.sums(off.mT).mT
        out = tail.activate(z)
        logits = out @ tail.head.mT + tail.head_bias
        # An output of a pair is off by no more than both inputs together.
        logits_off = gamma(n[0]) * (out.abs() @ tail.head.abs().mT + tail.head_bias.abs()) + t_off @ self.entering.mT
        # What these sums lose, t's difference, and that of two logits, is far less than half of gamma, which is spare.
        return logits, logits_off + FLOOR, t, t_off

    def fall(self, rows: Tensor, strength: Tensor, t: Tensor, off: Tensor, reach: Tensor) -> Tensor:
        """How far rows . outputs can fall at most while u moves by `reach`, beyond what `logits` says they may be off: (pairs,).

        Args:
            rows: (pairs, outputs), differences of two rows of the head. strength: (pairs, units), the sum of how strongly a unit
                can enter either of them.
            t: (pairs, units), the units' values. off: of the same shape, how far they may be off.
            reach: (pairs,).
        """
        n, count = self.units.shape[1], len(self.units)
        linear, e = self.tail.coefficients(rows)
        room = reach[:, None] * self.lengths + FLOOR
        v = ((t.abs() - off) / room).clamp(0, 1).where(e < 0, 1.0)
        h = -e * (1 - v)
        c = linear @ self.means + (e * v * t.sign()) @ self.units
        # c's sums; and what the few operations on D, rows, e, v and h lose is a part of the strength, times a move of t.
        c_off = gamma(2 * count) * (strength @ self.sizes)
        length = length_up(c)
        turning = (c @ self.units.mT).abs() + gamma(n) * self.sizes * length[:, None]
        # Not the squares of both factors: those of h may underflow where the norm is large.
        second = torch.minimum((self.norm * h).square().sum(dim=1), ((h @ self.gram) * h).sum(dim=1))
        square = length.square() + 2 * (h * turning).sum(dim=1) + second
        return reach * (square.sqrt() + c_off + ROOT) * (1 + gamma(2 * count)) + FLOOR


def robust(bound: Bound, state: State, u: Tensor, own: Tensor, radius: Tensor, labels: Tensor) -> Tensor:
    """Whether the label of each x is proven within its radius, (batch,) bool.

    Args:
        u: (batch, inputs) float64, what the last hidden layer reads at x. own: (batch,), how far that is off, in l2.
        radius: (batch,). labels: (batch,).
    """
    nodes = state.program.nodes
    # The ball about x goes into one about the exact u, and that into one about the computed u, which is taken as it is.
    reach = (radius * float(state.program.bound(nodes[:-3])) + own + FLOOR) * (1 + gamma(2))
    logits, off, t, t_off = bound.logits(u)
    margins = logits.gather(1, labels[:, None]) - logits - (off + off.gather(1, labels[:, None]))
    # The last hidden layer's global bound is enough for most rivals. What underflows in it is less than the FLOOR in `off`.
    hidden = float(state.program.bound(nodes[-3:-1]))
    falls = hidden * reach[:, None] * state.head.distances.cpu()[labels] * (1 + gamma(2))
    near = ~(margins > falls).scatter(1, labels[:, None], True)
    for pairs in near.nonzero().split(_PAIRS):
        rows, rivals = pairs.unbind(1)
        differences = bound.tail.head[labels[rows]] - bound.tail.head[rivals]
        strength = bound.entering[labels[rows]] + bound.entering[rivals]
        local = bound.fall(differences, strength, t[rows], t_off[rows], reach[rows])
        falls[rows, rivals] = torch.minimum(local, falls[rows, rivals])
    return proven(margins - falls, labels)


@torch.no_grad()
@on_cpu
def certify(net: GloroNet, x: Tensor, epsilon: float | None = None, *, steps: int = 1, batch_size: int = 250) -> Certificate:
    """Certify each input by the global bound, and by a local one of the last layers where that is not enough.

    The guarantee is "exact": the real-arithmetic network with exactly these weights on exactly this input; rounding is counted.

    Args:
        net: a GloRo Net whose last layers are Linear, one of ReLU, MinMax and Absolute, and Linear.
        x: ``(batch, *net.input_shape)``.
        epsilon: the l2 radius that a label needs; the net's own by default.
        steps: radii that are tried for each input that the global bound leaves at bottom, epsilon first; 1 settles epsilon alone.
        batch_size: inputs at a time; memory grows with it.

    Returns: the larger of both radii, and the labels that follow from it. Inputs that the global bound certifies keep its radius.

    Raises ValueError for other last layers, and for steps or a batch_size below 1; TypeError for what is no GloRo Net; what
    `GloroNet.certify` raises.
    """

    def prepare(state: State) -> Callable[[Tensor], Robust]:
        bound, program = Bound(tail(state)), state.program

        def at(points: Tensor) -> Robust:
            read = program.run(points.to(program.device), program.nodes[:-3])
            u, own = read.value.flatten(1).cpu(), read.own.cpu()
            return lambda radius, labels: robust(bound, state, u, own, radius, labels)

        return at

    return fall_back(net, x, epsilon, prepare, steps=steps, batch_size=batch_size)
