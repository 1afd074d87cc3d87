"""A network read from its notation and its tensors, and its value in float64 with a bound on what rounding did to it.

`c32k4s2` is a convolution with 32 channels, kernel 4, stride 2 and zero padding 1; dense layers follow a bar. After each of them
comes an activation: MinMax (channels k and k + c/2 become their minimum and maximum), GroupSort of 4 (channels k, k + c/4,
k + c/2 and k + 3c/4 are sorted), ReLU, or the absolute value; last come the logits. A first word `p2` is a layer before all of
them: sums over windows of 2 x 2 pixels that do not overlap, halved.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

NAMED = {
    "2C2F": "c16k4s2 c32k4s2 | 100",
    "4C3F": "c32k3 c32k4s2 c64k3 c64k4s2 | 512 512",
    "6C2F": "c32k3 c32k3 c32k4s2 c64k3 c64k3 c64k4s2 | 512",
    "8C2F": "c64k3 c64k3 c64k4s2 c128k3 c128k3 c128k4s2 c256k3 c256k4s2 | 256",
    "8C2F-half": "p2 c64k3 c64k3 c64k4s2 c128k3 c128k3 c128k4s2 c256k3 c256k4s2 | 256",
}

SORTED = {"minmax": 2, "groupsort4": 4}  # channels in a group
ACTIVATIONS = (*SORTED, "relu", "abs")

UNIT = 2.0**-53  # unit roundoff of float64
HAIR = 1 + 2.0**-30  # covers the rounding of every norm and sum of numbers >= 0 that an error bound is made of
TINY = 1e-300  # covers underflow: far more than the smallest float64 times the terms of any sum


def gamma(n: int) -> float:
    """A sum of n products in float64, in any order, fused or not, errs by at most this times the sum of their sizes [Higham]."""
    return n * UNIT / (1 - n * UNIT) * (1 + 4 * UNIT)


@dataclass(frozen=True, eq=False)
class Layer:
    """An affine layer: a convolution (weight of four dimensions, shapes (channels, height, width)) or a dense one ((n,))."""

    name: str
    weight: np.ndarray
    bias: np.ndarray
    stride: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def is_convolution(self) -> bool:
        return self.weight.ndim == 4


@dataclass(frozen=True)
class Plan:
    """What the notation says of one affine layer: its name, the shape of its weight (None: any), stride, input, output."""

    name: str
    weight: tuple[int | None, ...]
    stride: int
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]


def is_pooled(notation: str) -> bool:
    """Whether the first layer is that of `pooled`."""
    return NAMED.get(notation, notation).split()[:1] == ["p2"]


def pooled(images: np.ndarray) -> np.ndarray:
    """Sums over windows of 2 x 2 pixels, halved: from (n, channels, height, width) float32 to half the sides, in float64.

    Exact for what the networks see, whole numbers up to 255 divided by 255 and rounded to float32: the sum of four has 34 bits.
    The map's rows are orthonormal, so that it shortens or keeps every distance, and a layer behind it has the norm of both.
    """
    height, width = (side // 2 * 2 for side in images.shape[2:])
    x = images[:, :, :height, :width].astype(np.float64)
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 2


def plan(notation: str, activation: str, image: tuple[int, int, int]) -> list[Plan]:
    """Affine layers as a torch.nn.Sequential numbers them: pooling, activations and the flattening take numbers too.

    Raises ValueError.
    """
    convolutions, bar, dense = NAMED.get(notation, notation).partition("|")
    first = int(is_pooled(notation))
    words = [re.fullmatch(r"c(\d+)k(\d+)(?:s(\d+))?", word, re.ASCII) for word in convolutions.split()[first:]]
    if not bar or not all(words) or not all(re.fullmatch(r"\d+", word, re.ASCII) for word in dense.split()):
        raise ValueError(f"{notation!r} is not the notation of a network")
    if activation not in ACTIVATIONS:
        raise ValueError(f"the activation {activation!r} is not known here")
    layers: list[Plan] = []
    shape: tuple[int, ...] = (image[0], image[1] // 2, image[2] // 2) if first else image
    for word in words:
        channels, kernel, stride = int(word[1]), int(word[2]), int(word[3] or 1)
        if min(channels, kernel, stride) < 1:
            raise ValueError(f"{word[0]} in {notation!r}")
        sides = [(side + 2 - kernel) // stride + 1 for side in shape[1:]]
        if min(sides) < 1:
            raise ValueError(f"images of {image} are too small for {notation!r}")
        outputs = (channels, *sides)
        layers.append(Plan(str(first + 2 * len(layers)), (channels, shape[0], kernel, kernel), stride, shape, outputs))
        shape = outputs
    number = first + 2 * len(layers) + 1
    shape = (math.prod(shape),)
    for word in dense.split():
        layers.append(Plan(str(number), (int(word), *shape), 0, shape, (int(word),)))
        number, shape = number + 2, (int(word),)
    if activation in SORTED:
        for layer in layers:
            if layer.outputs[0] % SORTED[activation]:
                raise ValueError(
                    f"layer {layer.name} has {layer.outputs[0]} outputs, and {activation} sorts groups of {SORTED[activation]}"
                )
    layers.append(Plan(str(number), (None, *shape), 0, shape, (None,)))
    return layers


def assemble(plans: list[Plan], tensors: dict[str, np.ndarray]) -> tuple[list[Layer], list[str]]:
    """The layers, and what is wrong with the tensors, a sentence each; layers are of use only where nothing is."""
    wrong, layers, used = [], [], set()
    for planned in plans:
        names = [f"network.{planned.name}.{part}" for part in ("weight", "bias")]
        used.update(names)
        missing = [name for name in names if name not in tensors]
        wrong += [f"{name} is missing" for name in missing]
        if missing:
            continue
        weight, bias = (tensors[name] for name in names)
        rows = weight.shape[0] if weight.ndim else 0
        expected = (planned.weight[0] or rows, *planned.weight[1:])
        for name, tensor, shape in ((names[0], weight, expected), (names[1], bias, expected[:1])):
            if tensor.shape != shape:
                wrong.append(f"{name} has the shape {tensor.shape}, and the notation says {shape}")
            elif not np.isfinite(tensor).all():
                wrong.append(f"{name} holds NaN or infinity")
        outputs = (expected[0],) if planned.outputs[0] is None else planned.outputs
        layers.append(Layer(planned.name, weight, bias, planned.stride, planned.inputs, outputs))
    for name in tensors:
        if name not in used and not re.fullmatch(r"training_bound\.iterate_\d+", name, re.ASCII):
            wrong.append(f"{name} belongs to no layer")
    if not wrong and layers[-1].outputs[0] < 2:
        wrong.append(f"network.{plans[-1].name}.weight gives one logit; there must be two")
    return layers, wrong


def absolute_norm(layer: Layer) -> float:
    """A bound on the l2 norm of the layer's linear map with every weight replaced by its absolute value.

    On a torus that map's norm is the norm at frequency zero, where all taps that meet the same phase of the stride add up: sizes
    at other frequencies are no larger, entry by entry. For B >= 0 and any v > 0 the largest eigenvalue of B'B is at most the
    largest of (B'Bv)_i / v_i [Collatz, Wielandt].
    """
    taps = np.abs(layer.weight.astype(np.float64))
    if layer.is_convolution:
        stride, kernel = layer.stride, taps.shape[2]
        b = np.zeros((*taps.shape[:2], stride, stride))
        for y in range(kernel):
            for x in range(kernel):
                b[:, :, y % stride, x % stride] += taps[:, :, y, x]
        taps = b.reshape(len(b), -1)
    v = np.ones(taps.shape[1])
    for _ in range(20):
        v = taps.T @ (taps @ v)
        if not v.max() > 0:
            break
        v = v / v.max() + 1e-3  # away from zero, so that the quotient below stays small
    v = np.maximum(v, TINY)
    return math.sqrt(float((taps.T @ (taps @ v) / v).max())) * HAIR


def activate(x: np.ndarray, activation: str, axis: int) -> np.ndarray:
    """An activation, along the axis of the channels. It rounds nothing and is 1-Lipschitz."""
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "abs":
        return np.abs(x)
    parts = np.split(x, SORTED[activation], axis)
    if len(parts) == 2:
        return np.concatenate((np.minimum(*parts), np.maximum(*parts)), axis)
    return np.concatenate(np.sort(np.stack(parts), 0), axis)


_CHUNK = 128  # terms of one matrix product; a long sum that is made of short ones errs less


class _Evaluated:
    """A layer made ready for batches: `apply` gives its value, `rounding` a factor on |input| and a constant."""

    def __init__(self, layer: Layer):
        weight = layer.weight.astype(np.float64)
        self.layer = layer
        self.bias = layer.bias.astype(np.float64)
        if layer.is_convolution:
            out, channels, kernel, _ = weight.shape
            # A row of the kernel at a time where there are many channels, the whole kernel where there are few.
            self.rows = 1 if kernel * channels >= 64 else kernel
            parts = -(-kernel // self.rows)
            self.matrices = [
                weight[:, :, part * self.rows : (part + 1) * self.rows].transpose(2, 3, 1, 0).reshape(-1, out)
                for part in range(parts)
            ]
            longest, positions = self.rows * kernel * channels, math.prod(layer.outputs[1:])
        else:
            self.matrices = [weight[:, at : at + _CHUNK].T for at in range(0, weight.shape[1], _CHUNK)]
            longest, positions = min(_CHUNK, weight.shape[1]), 1
        self.terms = longest + len(self.matrices) + 1
        self.factor = gamma(self.terms) * absolute_norm(layer) * HAIR
        self.constant = gamma(self.terms) * math.sqrt(positions) * float(np.linalg.norm(self.bias)) * HAIR + TINY

    def apply(self, x: np.ndarray) -> np.ndarray:
        """From (n, height, width, channels) or (n, features) to the same."""
        layer = self.layer
        if not layer.is_convolution:
            y = x[:, :_CHUNK] @ self.matrices[0]
            for part, matrix in enumerate(self.matrices[1:], 1):
                y += x[:, part * _CHUNK : (part + 1) * _CHUNK] @ matrix
            return y + self.bias
        kernel, stride = layer.weight.shape[2], layer.stride
        _, height, width = layer.outputs
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2))[:, ::stride, ::stride]
        windows = windows.transpose(0, 1, 2, 4, 5, 3)  # (n, height, width, kernel, kernel, channels)
        y = None
        for part, matrix in enumerate(self.matrices):
            patch = windows[:, :, :, part * self.rows : (part + 1) * self.rows].reshape(len(x) * height * width, -1)
            product = patch @ matrix
            y = product if y is None else np.add(y, product, out=y)
        return (y + self.bias).reshape(len(x), height, width, -1)


class Network:
    """The whole network in float64.

    Args:
        layers: affine layers in order, the head last.
        activation: one of `ACTIVATIONS`.
        norms: a true upper bound on the l2 norm of each layer but the head.
    """

    def __init__(self, layers: list[Layer], activation: str, norms: list[float]):
        self.body = [_Evaluated(layer) for layer in layers[:-1]]
        self.head = layers[-1]
        self.activation = activation
        self.norms = norms

    def logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits (n, classes) of images (n, channels, height, width), and what bounds the error of their differences.

        Images come pooled where the network pools first.

        Returns (y, deviation, local): the computed y_j - y_i, before it is rounded itself, is off by at most
        deviation ||w_j - w_i|| + local_j + local_i, with deviation (n,) and local (n, classes).
        """
        x, deviation = self.read(images, len(self.body))
        weight, bias = self.head.weight.astype(np.float64), self.head.bias.astype(np.float64)
        local = gamma(weight.shape[1] + 1) * (np.abs(x) @ np.abs(weight).T + np.abs(bias)) * HAIR + TINY
        return x @ weight.T + bias, deviation, local

    def read(self, images: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """What a dense layer behind `depth` others reads, (n, features), and how far that is off at most in l2, (n,)."""
        x = np.ascontiguousarray(images.transpose(0, 2, 3, 1), dtype=np.float64)
        deviation = np.zeros(len(x))
        spatial = True
        for layer, norm in zip(self.body[:depth], self.norms[:depth], strict=True):
            if spatial and not layer.layer.is_convolution:
                x, spatial = _flatten(x), False
            size = np.sqrt(np.einsum("ni,ni->n", x.reshape(len(x), -1), x.reshape(len(x), -1)))
            # The exact layer stretches the error so far by at most its norm; its own rounding comes on top.
            deviation = (norm * deviation + layer.factor * size + layer.constant) * HAIR
            x = activate(layer.apply(x), self.activation, axis=-1)
        return (_flatten(x) if spatial else x), deviation


def _flatten(x: np.ndarray) -> np.ndarray:
    """(n, height, width, channels) to (n, features), in the order channels, height, width."""
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def margins(
    y: np.ndarray, deviation: np.ndarray, local: np.ndarray, distances: np.ndarray, slack: float, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Margins (n, classes) of the predictions over each class, from what `Network.logits` gives, and how far they are off.

    `distances` (n, classes) are those of the head's rows from the predicted one, within a factor of `slack`.
    """
    rows = np.arange(len(y))
    found = y[rows, predictions][:, None] - y
    own = local[rows, predictions][:, None]
    return found, (distances * slack * deviation[:, None] + local + own + np.abs(found) * 2 * UNIT) * HAIR


def row_distances(weight: np.ndarray) -> tuple[np.ndarray, float]:
    """The l2 distance of each pair of rows, (classes, classes) float64, and a factor > 1 that covers how far off they are."""
    weight = weight.astype(np.float64)
    distances = np.stack([np.sqrt(np.square(weight - row).sum(1)) for row in weight])
    return distances, 1 + 2 * gamma(weight.shape[1] + 8)
