"""Box constraint propagation [Lee, Lee, Park 2020], a compact version of our own: a ball and a box walk through a ReLU network.

The ball holds what the Lipschitz constants say: around each layer's value at x, its radius grows by the layer's norm. The box
holds intervals for each neuron, by interval arithmetic or by the ball, whichever is smaller; behind a ReLU, a neuron that is off
everywhere has an interval of width 0. The hidden values of all points within epsilon lie in both, and the last layer's margins
are minimised over the intersection. That is where a local bound is gained: the ball alone gives the global one.

The largest value of w . d over a ball and a box has a dual that is easy to bound. Split w = a + b in any way: the ball bounds
a . d, the box b . d. Every split gives a bound, and the best one gives the maximum itself; `support` gets there in a few steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite.certificate import Certificate, check_epsilon
from gloro_lite.fit import growing_epsilon, minimise
from gloro_lite.layers import MinMax
from gloro_lite.lipschitz import TrainingBound
from gloro_lite.methods.chain import FLOOR, ROOT, Shape, Stage, certificate, check_search, gamma, proven, read, stages
from gloro_lite.precision import on_cpu

_ACTIVATIONS = {
    nn.ReLU: None,
    MinMax: "its boxes follow one neuron at a time, MinMax mixes two; train a ReLU network, or certify this one as a GloRo Net",
}


def chain(network: nn.Module, input_shape: Shape) -> list[Stage]:
    """The layers of a network that BCP can take; ValueError, with the layer and the reason, for another."""
    return stages(network, input_shape, "BCP", _ACTIVATIONS)


def propagate(
    chain: list[Stage], norms: Sequence[float | Tensor], x: Tensor, radius: Tensor, *, rounding: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Walk the ball and the box of all points within `radius` of x up to the last layer.

    Args:
        chain: see `chain`.
        norms: of each layer's matrix; for a certificate, upper bounds.
        x: (batch, inputs).
        radius: (batch,).
        rounding: enlarge ball and box by what rounding can have cost, in float64.

    Returns: the ball's centre (batch, hidden) and radius (batch,), the box's lower and upper ends (batch, hidden).
    """
    centre, ball = x, radius
    low, high = centre - radius[:, None], centre + radius[:, None]
    if rounding:
        slack = gamma(1) * (centre.abs() + radius[:, None]) + FLOOR
        low, high = low - slack, high + slack
    for stage, norm in zip(chain[:-1], norms[:-1], strict=True):
        middle, half = (low + high) / 2, (high - low) / 2
        bias = stage.bias(x)
        spread = ball[:, None] * stage.row_norms(x)
        value, box = stage.linear(centre) + bias, stage.linear(middle) + bias
        width = stage.linear(half, stage.layer.weight.abs())
        ball = ball * norm
        if rounding:
            slack = gamma(stage.terms) * stage.magnitude(centre) + FLOOR
            spread = spread * (1 + gamma(stage.terms)) + slack
            width = width + gamma(stage.terms) * stage.magnitude(middle.abs() + half) + FLOOR
            ball = ball * (1 + gamma(stage.terms)) + slack.norm(dim=1) + ROOT
        low, high = torch.maximum(box - width, value - spread), torch.minimum(box + width, value + spread)
        centre, low, high = stage.activate(value), stage.activate(low), stage.activate(high)
    return centre, ball, low, high


_T = (1e-18, 1e18)
"""Between these neither t nor 1 / t times a weight overflows in float32; a row of zeros would have the t of infinity."""


def support(w: Tensor, ball: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
    """An upper bound on the largest w . d over ||d|| <= ball and low <= d <= high, (batch, rows).

    The maximum lies at d = clip(t w, low, high) for the t at which |d| is the ball's radius; t grows towards it from where no
    coordinate is clipped. With any t, a = d / t and b = w - a make a split.

    Args:
        w: (batch, rows, n). ball: (batch,). low, high: (batch, n), with low <= 0 <= high.
    """
    low, high, ball = low[:, None], high[:, None], ball[:, None]
    tiny = torch.finfo(w.dtype).tiny

    def box(v: Tensor) -> Tensor:
        return (v.clamp_min(0) * high + v.clamp_max(0) * low).sum(dim=2)

    with torch.no_grad():
        t = (ball / w.norm(dim=2).clamp_min(tiny)).clamp(*_T)
        for _ in range(steps):
            d = (t[..., None] * w).clamp(low, high)
            free = (d == t[..., None] * w) * w
            rest = (ball.square() - ((d - t[..., None] * free).square()).sum(dim=2)).clamp_min(0)
            longer = (rest / free.square().sum(dim=2).clamp_min(tiny)).sqrt()
            t = torch.maximum(t, longer.where(free.abs().amax(dim=2) > 0, t)).clamp(*_T)
    t = t[..., None]
    a = (t * w).clamp(low, high) / t
    best = (a.norm(dim=2) + ROOT) * ball + box(w - a)
    return torch.minimum(torch.minimum(best, (w.norm(dim=2) + ROOT) * ball), box(w))


def margins(
    chain: list[Stage],
    norms: Sequence[float | Tensor],
    x: Tensor,
    labels: Tensor,
    radius: Tensor,
    *,
    rounding: bool = False,
    steps: int = 10,
) -> Tensor:
    """A lower bound on y_label - y_i over all points within `radius` of x, (batch, classes); 0 at the label itself.

    Args:
        chain, norms, x, radius, rounding: see `propagate`.
        labels: (batch,).
        steps: towards the best split of ball and box; more are tighter.
    """
    centre, ball, low, high = propagate(chain, norms, x, radius, rounding=rounding)
    last = chain[-1]
    weight, bias = last.layer.weight.to(x), last.bias(x)
    rows = weight[labels][:, None] - weight  # (batch, classes, hidden)
    offset = bias[labels][:, None] - bias
    low, high = (low - centre).clamp_max(0), (high - centre).clamp_min(0)
    bound = torch.einsum("brn,bn->br", rows, centre) + offset
    lost = support(-rows, ball, low, high, steps)
    if rounding:
        slack = 4 * gamma(last.terms)
        reach = torch.maximum(high, -low)
        size = torch.einsum("brn,bn->br", rows.abs(), centre.abs() + reach) + offset.abs() + rows.norm(dim=2) * ball[:, None]
        lost = lost + slack * size + FLOOR
    return (bound - lost).scatter(1, labels[:, None], 0.0)


def loss(chain: list[Stage], norms: list[Tensor], x: Tensor, labels: Tensor, epsilon: float, weight: float = 1.0) -> Tensor:
    """The cross-entropy of the worst logits within epsilon, mixed with that of the logits: a scalar mean over the batch.

    Args:
        norms: of each layer's matrix, differentiable: `TrainingBound.norms`.
        x: (batch, ...).
        weight: of the worst logits; 1 - weight is that of the logits (their kappa).
    """
    x = x.flatten(1)
    worst = -margins(chain, norms, x, labels, x.new_full((len(x),), epsilon))
    value = weight * F.cross_entropy(worst, labels)
    if weight < 1:
        h = x
        for stage in chain:
            h = stage.activate(stage.linear(h) + stage.bias(h))
        value = value + (1 - weight) * F.cross_entropy(h, labels)
    return value


@torch.no_grad()
@on_cpu
def certify(
    network: nn.Sequential, input_shape: Shape, x: Tensor, epsilon: float | None = None, *, steps: int = 20
) -> Certificate:
    """Certify each input of a batch: the network with exactly these weights in real arithmetic, rounding counted.

    Args:
        network: Linear, Conv2d, Flatten and ReLU.
        x: ``(batch, *input_shape)``.
        epsilon: the l2 radius that a label needs; any radius above 0 by default.
        steps: radii that are tried for each input, epsilon first; each costs a forward pass with ball and box.

    Raises ValueError for a network that BCP cannot take, with the layer and the reason, for inputs of another shape or not
    finite, and for steps below 1; TypeError for inputs of another type.
    """
    check_search(steps)
    layers, points, logits = read(network, input_shape, x, chain)
    norms = [stage.norm() for stage in layers]
    return certificate(
        lambda radius, labels: proven(margins(layers, norms, points, labels, radius, rounding=True), labels),
        logits.argmax(dim=1),
        epsilon,
        steps,
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
    power_iterations: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Train with `loss`, by Adam, a warm-up and cosine rate; epsilon and the weight of the worst logits grow over the first half.

    Args:
        train: inputs ``(n, *input_shape)`` and labels (n,).
        epsilon: the training epsilon, at the end.
        power_iterations: for each step.
        progress: show it, as `gloro_lite.progress` does.

    Returns: the mean loss of each epoch. Raises ValueError as `gloro_lite.fit.minimise` does.
    """
    epsilon = check_epsilon(epsilon)
    layers = chain(network, input_shape)
    bound = TrainingBound(network, input_shape)

    def of_batch(x: Tensor, y: Tensor, done: float, _: torch.Generator) -> Tensor:
        norms = bound.norms(power_iterations)
        now = [norms[stage.name] for stage in layers]
        return loss(layers, now, x, y, epsilon * growing_epsilon(done), min(1.0, 2 * done))

    epoch_losses = minimise(
        of_batch,
        network,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        classes=layers[-1].size,
        input_shape=input_shape,
        before_epoch=bound.converge,
        progress=progress,
    )
    return list(epoch_losses)
