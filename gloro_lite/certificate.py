"""What a certificate is, and what one number it rests on: the certified radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

BOTTOM = -1
"""Stands for the bottom class among labels; no certificate is given."""

Guarantee = Literal["exact", "deployed"]
GUARANTEES: tuple[Guarantee, ...] = ("exact", "deployed")
"""Whose prediction does not change within the radius.

- "exact": that of the network in real arithmetic, with exactly these weights, from exactly this input.
- "deployed": that of the network as PyTorch runs it on a CPU in its own precision, at this input and at every input within the
  radius that is a number of that precision. Sums may be taken in any order, with fused multiply-adds or without; no Winograd or
  Fourier transforms, no products of reduced precision. It implies "exact".
"""


class Certificate(NamedTuple):
    """What is proven of each input of a batch.

    Attributes:
        label: (batch,) int64, the class that every point within epsilon has, or -1 (bottom) where that is not proven.
        radius: (batch,) float64, the l2 radius within which the prediction is proven not to change; 0 where there is none.
        prediction: (batch,) int64, the class with the largest logit, certified or not.
        guarantee: what is promised, one of `GUARANTEES`; for methods that may err, with what probability they do not.
    """

    label: Tensor
    radius: Tensor
    prediction: Tensor
    guarantee: str = "exact"


def check_epsilon(epsilon: float) -> float:
    """Return epsilon, an l2 radius in input units, as a float.

    Raises TypeError for what is no single number, and ValueError unless it is finite and positive.
    """
    if isinstance(epsilon, bool) or str(getattr(epsilon, "dtype", "")) in ("bool", "torch.bool"):
        raise TypeError("epsilon must be a number, not a truth value")
    if isinstance(epsilon, Tensor):
        if epsilon.numel() != 1:
            raise TypeError(
                f"epsilon must be one number, not a tensor of shape {tuple(epsilon.shape)}: compare certificate.radius with each"
            )
        epsilon = epsilon.detach()
    try:
        if not hasattr(epsilon, "__float__"):  # a text, which float would read
            raise TypeError
        epsilon = float(epsilon)
    except (TypeError, ValueError, RuntimeError):  # a tensor without values, or of a complex number
        raise TypeError(f"epsilon must be a number, not {type(epsilon).__name__}") from None
    except OverflowError:
        epsilon = math.inf
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon is an l2 radius: it must be a finite number greater than 0, not {epsilon}")
    return epsilon


def certificate(prediction: Tensor, radius: Tensor, epsilon: float, guarantee: str = "exact") -> Certificate:
    """Compare radii with epsilon. Strictly: at radius = epsilon some point at distance epsilon may tie."""
    return Certificate(prediction.where(radius > check_epsilon(epsilon), BOTTOM), radius, prediction, guarantee)


def joined(parts: Sequence[Certificate]) -> Certificate:
    """The certificates of a batch that was certified in parts, one at least, by one guarantee."""
    return Certificate(
        label=torch.cat([part.label for part in parts]),
        radius=torch.cat([part.radius for part in parts]),
        prediction=torch.cat([part.prediction for part in parts]),
        guarantee=parts[0].guarantee,
    )


def certified_radius(logits: Tensor, constants: Tensor, error: Tensor | float = 0.0, growth: Tensor | float = 0.0) -> Tensor:
    """The largest l2 radius within which the prediction is proven not to change: min over i != j of (y_j - y_i - e) / (K_ij + g).

    Computed in float64 and rounded down. It is 0 for a tie and wherever a logit is not finite. Without errors, the predicted
    class beats the bottom class at epsilon exactly where the radius is strictly greater than epsilon.

    Args:
        logits: (batch, classes).
        constants: (classes, classes) of true upper bounds, see `gloro_lite.bottom.margin_constants`.
        error: e, how far each margin y_j - y_i, j the predicted class, may be off: (batch, classes), or one number.
        growth: g, how much that grows with the radius: of the same shape.

    Returns: (batch,) float64, >= 0, in input units.
    """
    logits, constants = logits.double(), constants.double()
    predicted = logits.argmax(dim=1, keepdim=True)
    margins = logits.gather(1, predicted) - logits
    # A difference is rounded by at most one part in 2^53; a few of them make sure of rounding down.
    down = 1 - 4 * 2.0**-53
    margins = margins * down - error / down
    radii = margins / ((constants[predicted.squeeze(1)] + growth) / down) * down
    # No margin, no radius, also where K_ij is 0 and the quotient undefined; and none of logits whose difference is not finite.
    radii = radii.where((margins > 0) & margins.isfinite() & (radii > 0), 0.0).scatter(1, predicted, torch.inf)
    return radii.amin(dim=1)
