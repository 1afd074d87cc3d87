"""Kolter and Wong's bound [Wong and Kolter 2018, Wong et al. 2018], a compact l2 version: the ReLUs relaxed, the rest exact.

Where a pre-activation can have either sign, within l < 0 < u, ReLU lies between two lines of slope u / (u - l), one through 0 and
one through (l, 0). The set of outputs becomes a convex one that contains all of the true ones. A lower bound on c . y over it
comes from one pass backwards through the network, which looks like backpropagation with slopes in place of ReLU's derivative:
their dual network. The bounds l and u of each layer come from such passes through the layers before.

Every neuron of every layer is a pass, which is why the method is expensive: time and memory grow with the square of the widths.
Their package convex-adversarial estimates the norms by random projections, in training; here nothing is projected, so that all
of it is proven, and networks have to be small.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite.certificate import Certificate, check_epsilon, joined
from gloro_lite.fit import growing_epsilon, minimise
from gloro_lite.layers import MinMax
from gloro_lite.methods.chain import FLOOR, ROOT, Shape, Stage, certificate, check_search, gamma, proven, read, stages
from gloro_lite.precision import on_cpu

_ACTIVATIONS = {
    nn.ReLU: None,
    MinMax: "its relaxation is of ReLU, and MinMax has two inputs; train a ReLU network, or certify this one as a GloRo Net",
}

SIZE_LIMIT = 4096
"""Most neurons in a layer: the bounds of a layer need a matrix of their number times the layer's before, for each input."""


def chain(network: nn.Module, input_shape: Shape) -> list[Stage]:
    """The layers of a network that the bound can take; ValueError, with the layer and the reason, for another."""
    layers = stages(network, input_shape, "Kolter and Wong's bound", _ACTIVATIONS)
    widest = max(layers, key=lambda stage: stage.size)
    if widest.size > SIZE_LIMIT:
        raise ValueError(
            f"layer {widest.name!r} has {widest.size} neurons, and every one costs a pass for each input: {SIZE_LIMIT} at most. "
            f"Take a smaller network, or convex-adversarial with random projections"
        )
    return layers


def matrices(chain: list[Stage], like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each layer as a matrix (size, inputs) and a bias (size,), differentiable in the weights, in the precision of `like`."""
    result = []
    for stage in chain:
        columns = stage.linear(torch.eye(math.prod(stage.input_shape), dtype=like.dtype, device=like.device))
        result.append((columns.T, stage.bias(like)))
    return result


def lower_bound(
    rows: Tensor,
    layers: list[tuple[Tensor, Tensor]],
    boxes: list[tuple[Tensor, Tensor] | None],
    x: Tensor,
    radius: Tensor,
    *,
    rounding: bool = False,
) -> Tensor:
    """A lower bound on rows . z over all points within `radius` of x, with z the value of the last of `layers`: (batch, rows).

    Args:
        rows: (batch or 1, rows, size), the directions c.
        layers: matrices and biases of the layers up to z.
        boxes: l and u of each layer but the last, (batch, size) each; None where no ReLU follows.
        x: (batch, inputs).
        radius: (batch,).
        rounding: subtract what rounding can have cost, in float64.
    """
    c, value = rows, rows.new_zeros(len(x), rows.shape[1])
    # The same pass over absolute values measures rounding.
    size, magnitude, terms = rows.abs(), torch.zeros_like(value), 2
    for (weight, bias), box in zip(reversed(layers), reversed([*boxes, None]), strict=True):
        if rounding:
            size = size + FLOOR
        if box is not None:
            low, high = box
            width = high - low
            # Rounded up: a slope between u / (u - l) and 1 is right for both lines, a smaller one is not. So 1 where the quotient
            # may have lost too much, and no slope at all, NaN, where a bound has overflowed.
            slope = (
                (high / width.clamp_min(torch.finfo(low.dtype).tiny) * (1 + 2.0**-50)).clamp(FLOOR, 1.0).where(width > FLOOR, 1.0)
            )
            crossing = (low < 0) & (high > 0)
            slope = slope.where(crossing, (low >= 0).to(slope)).where(width.isfinite(), torch.nan)[:, None]
            drop = slope * low[:, None].where(crossing[:, None], 0.0)
            value = value - (c.clamp_max(0) * drop).sum(dim=2)
            c = c * slope
            if rounding:
                magnitude = magnitude + (size * (drop.abs() + FLOOR)).sum(dim=2)
        value = value + c @ bias
        c = c @ weight
        if rounding:
            magnitude = magnitude + size @ bias.abs()
            size = size @ weight.abs()
            terms += sum(weight.shape) + 8
    value = value + torch.einsum("brn,bn->br", c, x) - radius[:, None] * (c.norm(dim=2) + ROOT)
    if rounding:
        size = size + FLOOR
        magnitude = magnitude + torch.einsum("brn,bn->br", size, x.abs()) + radius[:, None] * (size.norm(dim=2) + ROOT) + FLOOR
        value = value - gamma(terms + x.shape[1]) * magnitude
    return value


def margins(chain: list[Stage], x: Tensor, labels: Tensor, radius: Tensor, *, rounding: bool = False) -> Tensor:
    """A lower bound on y_label - y_i over all points within `radius` of x, (batch, classes); 0 at the label itself.

    Args:
        chain: see `chain`.
        x: (batch, inputs). labels: (batch,). radius: (batch,).
        rounding: see `lower_bound`.
    """
    layers = matrices(chain, x)
    boxes = bounds(chain, layers, x, radius, rounding=rounding)
    identity = torch.eye(chain[-1].size, dtype=x.dtype, device=x.device)
    rows = identity[labels][:, None] - identity
    return lower_bound(rows, layers, boxes, x, radius, rounding=rounding).scatter(1, labels[:, None], 0.0)


def bounds(
    chain: list[Stage], layers: list[tuple[Tensor, Tensor]], x: Tensor, radius: Tensor, *, rounding: bool = False
) -> list[tuple[Tensor, Tensor] | None]:
    """l and u of every layer but the last, (batch, size) each, from the layers before it; None where no ReLU follows."""
    boxes: list[tuple[Tensor, Tensor] | None] = []
    for depth, stage in enumerate(chain[:-1], start=1):
        if stage.activation is None:
            boxes.append(None)
            continue
        identity = torch.eye(stage.size, dtype=x.dtype, device=x.device)
        rows = torch.cat((identity, -identity))[None]
        low, high = lower_bound(rows, layers[:depth], boxes, x, radius, rounding=rounding).chunk(2, dim=1)
        boxes.append((low, -high))
    return boxes


def loss(chain: list[Stage], x: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The cross-entropy of the worst logits within epsilon: a scalar mean over the batch.

    Args:
        x: (batch, ...).
    """
    x = x.flatten(1)
    return F.cross_entropy(-margins(chain, x, labels, x.new_full((len(x),), epsilon)), labels)


@torch.no_grad()
@on_cpu
def certify(
    network: nn.Sequential,
    input_shape: Shape,
    x: Tensor,
    epsilon: float | None = None,
    *,
    steps: int = 20,
    batch_size: int = 64,
) -> Certificate:
    """Certify each input of a batch: the network with exactly these weights in real arithmetic, rounding counted.

    Args:
        network: Linear, Conv2d, Flatten and ReLU.
        x: ``(batch, *input_shape)``.
        epsilon: the l2 radius that a label needs; any radius above 0 by default.
        steps: radii that are tried for each input, epsilon first.
        batch_size: inputs at a time; memory grows with it.

    Raises ValueError for a network that the bound cannot take, with the layer and the reason, for inputs of another shape or not
    finite, and steps or a batch_size below 1; TypeError for inputs of another type.
    """
    check_search(steps, batch_size)
    layers, points, logits = read(network, input_shape, x, chain)
    parts = zip(points.split(batch_size), logits.split(batch_size), strict=True)
    return joined([_certify(layers, part, of_part.argmax(dim=1), epsilon, steps) for part, of_part in parts])


def _certify(layers: list[Stage], points: Tensor, prediction: Tensor, epsilon: float | None, steps: int) -> Certificate:
    return certificate(
        lambda radius, labels: proven(margins(layers, points, labels, radius, rounding=True), labels), prediction, epsilon, steps
    )


def fit(
    network: nn.Sequential,
    input_shape: Shape,
    train: tuple[Tensor, Tensor],
    epsilon: float,
    *,
    epochs: int = 50,
    learning_rate: float = 5e-3,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Train with `loss`, by Adam, a warm-up and cosine rate, and an epsilon that grows over the first half.

    Args:
        train: inputs ``(n, *input_shape)`` and labels (n,).
        epsilon: the training epsilon, at the end.
        progress: show it, as `gloro_lite.progress` does.

    Returns: the mean loss of each epoch. Raises ValueError as `gloro_lite.fit.minimise` does.
    """
    epsilon = check_epsilon(epsilon)
    layers = chain(network, input_shape)
    epoch_losses = minimise(
        lambda x, y, done, _: loss(layers, x, y, epsilon * growing_epsilon(done)),
        network,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        classes=layers[-1].size,
        input_shape=input_shape,
        progress=progress,
    )
    return list(epoch_losses)
