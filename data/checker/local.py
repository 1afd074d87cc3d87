"""Local certificates, proven anew: of images that the global bound leaves, by what the last hidden layer does near each of them.

While an image moves by at most epsilon, what the last hidden layer reads moves by some d with |d| <= r, for r epsilon times the
norms of the layers before. The layer's activation, MinMax, ReLU or the absolute value, is linear but for the sizes of `units`
t = D u + offset: D is the layer's weight, and for MinMax the first half of its rows less the second. So twice a margin is linear
but for a sum of terms b_k |t_k|, and t_k moves by s = D_k d. Slopes g_k take the place of the sizes:

- Where b_k >= 0, any g with |g| <= 1. As |t + s| >= g (t + s), |t + s| - |t| is at least g s less |t| - g t, which is 0 for the
  sign of t.
- Where b_k < 0, any g with |g| <= 1, |g| r |D_k| <= |t| and g t >= 0. Then |t + s| - |t| <= g s + (1 - |g|) |s|: where s has the
  sign of t, both are |s|. Where not, the right side is (1 - 2 |g|) |s|. That is at least -|s|, and since |g s| <= |t| at least
  |s| - 2 |t|, and the left side is the larger of these two.

Let c be the gradient that belongs to the slopes, and h_k = |b_k| (1 - |g_k|) where b_k < 0, else 0. Twice the margin falls by at
most -c d + sum of h_k |D_k d|. With the right signs z this is (D'(h z) - c) d, at most r times the length of the bracket, whose
square is at most |c|^2 + 2 sum of h_k |D_k c| + |D'(h z)|^2; and the last part is at most |D|^2 |h|^2, and at most h' |DD'| h.

Slopes are proposed by float64, which proves with them what it can, its rounding counted. Exact arithmetic does the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import network
import numpy as np
from exact import ExactNetwork, Scaled, squared_distances
from network import HAIR, TINY, UNIT, Layer, absolute_norm, gamma

ACTIVATIONS = ("minmax", "relu", "abs")


def obstacle(layers: list[Layer], activation: str) -> str | None:
    """Why a network can have no such certificates, or None."""
    if len(layers) < 2 or layers[-2].is_convolution:
        return "a network whose last layers are not two dense ones has none"
    return None if activation in ACTIVATIONS else f"with the activation {activation} there are none"


def units(values: np.ndarray, activation: str) -> np.ndarray:
    """The activation's inputs, in the last dimension, to what it takes the size of."""
    if activation != "minmax":
        return values
    first, second = np.split(values, 2, -1)
    return first - second


def sums(sizes: np.ndarray, activation: str) -> np.ndarray:
    """Numbers >= 0, one for each of the activation's inputs or outputs, added up for each unit."""
    return sum(np.split(sizes, 2, -1)) if activation == "minmax" else sizes


def bends(rows: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Twice rows . outputs as its linear part, a number for each unit, and the b_k of |t_k|.

    MinMax puts out (a + b -+ |a - b|) / 2, ReLU (a + |a|) / 2.
    """
    if activation == "minmax":
        low, high = np.split(rows, 2, -1)
        return low + high, high - low
    return (rows, rows) if activation == "relu" else (0 * rows, 2 * rows)


def gradient(linear: np.ndarray, bent: np.ndarray, activation: str) -> np.ndarray:
    """Of linear . m + bent . t, with m what a unit's inputs add up to, by the activation's inputs."""
    return np.concatenate((linear + bent, linear - bent), -1) if activation == "minmax" else linear + bent


def matrix(layer: Layer, activation: str) -> Layer:
    """D as a layer, in float64: each number of it is rounded once at most."""
    weight = units(layer.weight.astype(np.float64).T, activation).T
    return replace(layer, name="units", weight=weight, bias=np.zeros(len(weight)), outputs=weight.shape[:1])


def _length(x: np.ndarray) -> np.ndarray:
    """An upper bound on the l2 norm, over the last dimension."""
    return np.sqrt((x * x).sum(-1) + TINY) * HAIR


@dataclass(frozen=True)
class Found:
    """What float64 makes of a batch of images.

    Attributes:
        verdicts: (n,), 1 where a certificate is proven, -1 where this bound proves none, 0 where rounding leaves it open.
        margins, errors: (n, classes), of the prediction over each class, and how far they are off at most.
        falls: (n, classes), by how much a margin can fall at most, -inf for the prediction's own.
        below, above: (n, units), slopes where b_k >= 0 and where b_k < 0.
    """

    verdicts: np.ndarray
    margins: np.ndarray
    errors: np.ndarray
    falls: np.ndarray
    below: np.ndarray
    above: np.ndarray


class Prover:
    """What does not depend on the image.

    Args:
        net: a network without an `obstacle`.
        epsilon: the radius to prove.
        norm: an upper bound on the l2 norm of `matrix`, which is D but for rounding.
    """

    def __init__(self, net: network.Network, epsilon: float, norm: float):
        self.net, self.activation = net, net.activation
        layer = net.body[-1].layer
        self.reach = math.prod(map(Fraction, net.norms[:-1]), start=Fraction(epsilon))
        # Far from where float64 ends its products neither over- nor underflow; beyond that all is left open.
        self.rounded = float(self.reach) * HAIR if Fraction(1, 10**200) < self.reach < 10**200 else math.nan
        self.weight, self.head = layer.weight.astype(np.float64), net.head.weight.astype(np.float64)
        self.absolute = absolute_norm(layer)
        rounded = matrix(layer, self.activation)
        self.norm = (norm + 2 * UNIT * absolute_norm(rounded)) * HAIR
        # Of D's rows, from above: their lengths, what those are made of, and the sizes of their products with each other.
        self.lengths = _length(rounded.weight)
        self.sizes = sums(_length(self.weight), self.activation)
        self.offsets = sums(np.abs(layer.bias.astype(np.float64)), self.activation)
        off = gamma(self.weight.shape[1] + 8) * self.lengths[:, None] * self.lengths
        self.gram = (np.abs(rounded.weight @ rounded.weight.T) + off) * HAIR + TINY
        self.distances, self.slack = network.row_distances(net.head.weight)

    def slopes(self, t: np.ndarray, off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For units t that are off by at most so much, slopes where b_k >= 0 and where b_k < 0."""
        sign = np.sign(t)
        share = (np.abs(t) - off) / (self.rounded * self.lengths * HAIR)
        return np.nan_to_num(sign), np.nan_to_num(sign * np.clip(share, 0, 1))

    def prove(self, images: np.ndarray, predictions: np.ndarray) -> Found:
        """Images (n, channels, height, width), pooled where the network pools first, by float64 with its rounding counted."""
        net, rows = self.net, np.arange(len(images))
        distances = self.distances[predictions]
        margins, errors = network.margins(*net.logits(images), distances, self.slack, predictions)
        # The layer's own norm is enough for most rivals.
        falls = self.rounded * net.norms[-1] * distances * self.slack * HAIR + TINY
        falls[rows, predictions] = -np.inf
        x, deviation = net.read(images, len(net.body) - 1)
        last = net.body[-1]
        t = units(last.apply(x), self.activation)
        own = gamma(last.terms + 8) * (self.sizes * _length(x)[:, None] + self.offsets)
        off = (self.sizes * deviation[:, None] + own) * HAIR + TINY
        below, above = self.slopes(t, off)
        lost = np.zeros_like(margins)
        at, rivals = np.nonzero(~(margins - errors > falls))
        local, lost[at, rivals] = self.fall(predictions[at], rivals, below[at], above[at], off[at])
        falls[at, rivals] = np.fmin(falls[at, rivals], local)
        holds = margins - errors > falls
        # Rounding alone may have refused what is closer than this.
        fails = margins + errors + 4 * lost < falls / HAIR**8
        verdicts = np.where(holds.all(1), 1, np.where(fails.any(1), -1, 0))
        return Found(verdicts, margins, errors, falls, below, above)

    def fall(self, predictions, rivals, below, above, off) -> tuple[np.ndarray, np.ndarray]:
        """For pairs of an image and a rival: by how much the margin can fall at most, and how much of it is for rounding of t."""
        activation, (outputs, inputs) = self.activation, self.weight.shape
        linear, b = bends(self.head[predictions] - self.head[rivals], activation)
        # Twice what the numbers of both rows come to: each of `linear` and `b` is off by a few units of this.
        strength = 2 * sums(np.abs(self.head[predictions]) + np.abs(self.head[rivals]), activation)
        slopes = np.where(b >= 0, below, above)
        c = gradient(linear, b * slopes, activation) @ self.weight
        length = _length(c)
        turn = np.abs(units(c @ self.weight.T, activation)) + gamma(inputs + 8) * self.sizes * length[:, None] + TINY
        # An error e of b_k changes its term by |e s| at most: as a part of h_k.
        h = np.where(b < 0, np.abs(b) * (1 - np.abs(slopes)), 0.0) * HAIR + gamma(8) * strength + TINY
        second = np.minimum((self.norm * _length(h)) ** 2, ((h @ self.gram) * h).sum(1))
        square = length**2 + 2 * (h * turn).sum(1) + second
        own = gamma(outputs + 32) * self.absolute * 2 * _length(strength) + TINY  # of c
        # With a wrong sign for its slope |t| - g t is twice |t|, which is then within its error.
        lost = (np.maximum(b, 0) * off).sum(1) * HAIR
        return (self.rounded * (np.sqrt(square + TINY) * HAIR + own) / 2 + lost) * HAIR + TINY, (strength * off).sum(1)

    # In exact arithmetic.

    @cached_property
    def exact_network(self) -> ExactNetwork:
        return ExactNetwork([part.layer for part in self.net.body] + [self.net.head], self.activation)

    @cached_property
    def _gram(self) -> Scaled:
        return Scaled.of(self.gram)

    @cached_property
    def _squares(self) -> np.ndarray:
        """|D_k|^2, as integers with twice the exponent of the layer's weight."""
        rows = units(self.exact_network.weights[-2].integers.T, self.activation).T
        return (rows * rows).sum(1)

    def exactly(self, values: list[Scaled], prediction: int, slopes: tuple[np.ndarray, np.ndarray] | None = None) -> int | None:
        """The class whose margin may fall to 0, or None where the certificate is proven, of an image's exact `values`.

        By the slopes that are given, where b_k >= 0 and where b_k < 0, or by its own.
        """
        t = Scaled(units(values[-2].integers, self.activation), values[-2].exponent)
        if slopes is None:
            near = np.array([float(min(max(number, -(10**300)), 10**300)) for number in t.fractions()])
            slopes = self.slopes(near, 4 * UNIT * np.abs(near) + TINY)
        below, above = slopes
        self._check_slopes(t, below, above)
        logits = values[-1].fractions()
        stretch = (self.reach * Fraction(self.net.norms[-1])) ** 2
        for rival, square in enumerate(squared_distances(self.net.head.weight, prediction)):
            margin = logits[prediction] - logits[rival]
            known = margin > 0 and margin**2 > stretch * square
            if rival != prediction and not known and not self._outlasts(margin, t, prediction, rival, below, above):
                return rival
        return None

    def _check_slopes(self, t: Scaled, below: np.ndarray, above: np.ndarray) -> None:
        """Of the conditions on slopes, those that hold whatever the rival."""
        scale = (self.reach * Fraction(2) ** self.exact_network.weights[-2].exponent) ** 2
        for number, square, low, high in zip(t.fractions(), self._squares, below.tolist(), above.tolist(), strict=True):
            agrees = high == 0 or (high > 0) == (number > 0)
            if not (agrees and Fraction(high) ** 2 * scale * square <= number**2 and abs(low) <= 1 and abs(high) <= 1):
                raise AssertionError("a slope is steeper than it may be; the checker is at fault")

    def _outlasts(self, margin: Fraction, t: Scaled, prediction: int, rival: int, below: np.ndarray, above: np.ndarray) -> bool:
        """Whether a margin is larger than all that it can fall."""
        weight, head = self.exact_network.weights[-2:]
        linear, b = bends(head.integers[prediction] - head.integers[rival], self.activation)
        slopes = Scaled.of(np.where(b >= 0, below, above))
        one, g = 1 << -slopes.exponent, slopes.integers
        # All of these have the exponent of the head's weight and that of the slopes.
        c = gradient(linear * one, b * g, self.activation).dot(weight.integers)
        h = np.where(b < 0, abs(b) * (one - abs(g)), 0)
        lost = (np.where(b >= 0, b, 0) * (abs(t.integers) * one - t.integers * g)).sum()
        turn = abs(units(weight.integers.dot(c), self.activation))
        across = int(h.dot(self._gram.integers).dot(h)) * Fraction(2) ** self._gram.exponent
        scale = Fraction(2) ** (head.exponent + slopes.exponent)
        known = int((c * c).sum() + 2 * (h * turn).sum()) * Fraction(2) ** (2 * weight.exponent)
        square = (known + min(Fraction(self.norm) ** 2 * int((h * h).sum()), across)) * scale**2
        rest = 2 * margin - int(lost) * scale * Fraction(2) ** t.exponent
        return rest > 0 and rest**2 > self.reach**2 * square
