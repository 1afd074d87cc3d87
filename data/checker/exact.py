"""The network in exact arithmetic: a float32 number is an integer times a power of two, and Python's integers have no end.

Slow (seconds an image for a network of ten million products), and nothing is left to judge: it decides what float64 cannot.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from network import Layer, activate


class Scaled:
    """An array of numbers `integers * 2**exponent`; `integers` is a numpy array of Python's int."""

    def __init__(self, integers: np.ndarray, exponent: int):
        self.integers = integers
        self.exponent = exponent

    @classmethod
    def of(cls, values: np.ndarray) -> Scaled:
        """Of finite float32 or float64 numbers, exactly."""
        mantissas, exponents = np.frexp(values.astype(np.float64))
        whole = np.ldexp(mantissas, 53).astype(np.int64)
        exponents = exponents.astype(np.int64) - 53
        # Without the zeros at their end the integers, and all that is computed from them, stay short.
        zeros = np.where(whole == 0, 0, np.log2(np.maximum(whole & -whole, 1).astype(np.float64)).astype(np.int64))
        whole, exponents = whole >> zeros, exponents + zeros
        used = exponents[whole != 0]
        lowest = int(used.min()) if used.size else 0
        integers = np.empty(whole.size, object)
        pairs = zip(whole.ravel().tolist(), exponents.ravel().tolist(), strict=True)
        integers[:] = [n << (e - lowest) if n else 0 for n, e in pairs]
        return cls(integers.reshape(whole.shape), lowest)

    def at(self, exponent: int) -> np.ndarray:
        """The integers that go with a smaller exponent."""
        return self.integers * (1 << (self.exponent - exponent))

    def fractions(self) -> list[Fraction]:
        scale = Fraction(2) ** self.exponent
        return [int(n) * scale for n in self.integers.ravel()]


class ExactNetwork:
    """The layers of a network, the head last, for one image at a time."""

    def __init__(self, layers: list[Layer], activation: str):
        self.layers = layers
        self.activation = activation
        self.weights = [Scaled.of(layer.weight.reshape(len(layer.weight), -1)) for layer in layers]
        self.biases = [Scaled.of(layer.bias) for layer in layers]

    def logits(self, image: np.ndarray) -> list[Fraction]:
        """The logits of one image (channels, height, width), pooled where the network pools first."""
        return self.values(image)[-1].fractions()

    def values(self, image: np.ndarray) -> list[Scaled]:
        """What each layer gives for it, before any activation; the logits last."""
        x, found = Scaled.of(image), []
        for layer, weight, bias in zip(self.layers, self.weights, self.biases, strict=True):
            if layer.is_convolution:
                kernel, (_, height, width) = layer.weight.shape[2], layer.outputs
                padded = np.full([side + 2 * (axis > 0) for axis, side in enumerate(layer.inputs)], 0, object)
                padded[:, 1:-1, 1:-1] = x.integers
                windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))
                windows = windows[:, :: layer.stride, :: layer.stride]
                columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, height * width)
            else:
                columns = x.integers.reshape(-1, 1)
            product = Scaled(weight.integers.dot(columns), weight.exponent + x.exponent)
            exponent = min(product.exponent, bias.exponent)
            y = (product.at(exponent) + bias.at(exponent)[:, None]).reshape(layer.outputs)
            found.append(Scaled(y, exponent))
            if layer is not self.layers[-1]:
                x = Scaled(activate(y, self.activation, axis=0), exponent)
        return found


def squared_distances(weight: np.ndarray, row: int) -> list[Fraction]:
    """||w_i - w_row||^2 for each row i of the head's weight."""
    whole = Scaled.of(weight)
    differences = whole.integers - whole.integers[row]
    return Scaled((differences * differences).sum(1), 2 * whole.exponent).fractions()


def supports(logits: list[Fraction], prediction: int, radius: float, product: Fraction, squares: list[Fraction]) -> int | None:
    """The class that refutes a certificate, or None where it holds.

    It holds if radius ||w_j - w_i|| product <= y_j - y_i, and 0 < y_j - y_i where the radius is positive, for j the prediction
    and every other i; `squares` are the ||w_j - w_i||^2. A radius of 0 says that no class has a larger logit.
    """
    for i, logit in enumerate(logits):
        if i == prediction:
            continue
        margin, stretch = logits[prediction] - logit, squares[i] * product**2
        if margin < 0 or (radius > 0 and margin == 0):
            return i
        if math.isinf(radius):
            if stretch:
                return i
        elif Fraction(radius) ** 2 * stretch > margin**2:
            return i
    return None
