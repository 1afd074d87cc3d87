"""The bottom class (Section 2.2 of the paper): margin constants, the bottom logit and the certified radius.

Shapes: `batch` inputs, `classes` logits. A table of margin constants has shape (classes, classes): entry (j, i) bounds the
l2 Lipschitz constant of y_j - y_i, in logits per unit of input distance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BOTTOM = -1
"""Stands for the bottom class among labels; no certificate is given."""


def check_epsilon(epsilon: float) -> float:
    """Return epsilon, an l2 radius in input units, as a float. Raises ValueError unless it is finite and positive."""
    epsilon = float(epsilon)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon is an l2 radius: it must be a finite number greater than 0, not {epsilon}")
    return epsilon


def margin_constants(rows: Tensor, body: Tensor | float, *, tight: bool = True) -> Tensor:
    """Bound the Lipschitz constants of all margins y_j - y_i, for y = W h(x) + b.

    With tight, K_ij = ||w_j - w_i|| K (Section 2.2's remark on the final layer); otherwise K_i + K_j with K_i = ||w_i|| K,
    the form of Equation 1, which is never smaller.

    Args:
        rows: W, (classes, features).
        body: K, a bound on the Lipschitz constant of h.

    Returns: (classes, classes), symmetric, differentiable in both arguments.
    """
    if tight:
        # Differences, not a Gram matrix: ||a||^2 + ||b||^2 - 2ab cancels when two rows are close.
        if rows.device.type == "mps":  # where cdist has no gradient
            return _distances(rows) * body
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") * body
    norms = rows.norm(dim=1) * body
    return norms[:, None] + norms[None, :]


def _distances(rows: Tensor) -> Tensor:
    """||w_j - w_i|| for all pairs of rows, with more memory than cdist; as there, its gradient is 0 where two rows are equal."""
    return torch.linalg.vector_norm(rows[:, None] - rows, dim=2)


def bottom_logit(logits: Tensor, constants: Tensor, epsilon: float | Tensor) -> Tensor:
    """The logit of the bottom class: max over i != j of y_i + epsilon K_ij, with j the predicted class (Equation 1).

    Args:
        logits: (batch, classes).
        constants: (classes, classes), see `margin_constants`.
        epsilon: l2 radius.

    Returns: (batch,). NaN where a logit is NaN.
    """
    predicted = logits.argmax(dim=1, keepdim=True)
    # The predicted class leaves by its index: by its value, a tie for the top would leave too and be certified.
    rivals = (logits + epsilon * constants[predicted.squeeze(1)]).scatter(1, predicted, -torch.inf)
    return rivals.amax(dim=1)


def certified_radius(logits: Tensor, constants: Tensor) -> Tensor:
    """The largest l2 radius within which the prediction is proven not to change: min over i != j of (y_j - y_i) / K_ij.

    Computed in float64 and rounded down. It is 0 for a tie and wherever a logit is not finite. The predicted class beats the
    bottom class at epsilon exactly where the radius is strictly greater than epsilon.

    Args:
        logits: (batch, classes).
        constants: (classes, classes) of true upper bounds, see `margin_constants`.

    Returns: (batch,) float64, >= 0, in input units.
    """
    logits, constants = logits.double(), constants.double()
    predicted = logits.argmax(dim=1, keepdim=True)
    margins = logits.gather(1, predicted) - logits
    # Difference and quotient are each rounded by at most one part in 2^53; four of them make sure of rounding down.
    radii = margins / constants[predicted.squeeze(1)] * (1 - 4 * 2.0**-53)
    # No margin, no radius, also where K_ij is 0 and the quotient undefined.
    radii = radii.where(margins > 0, 0.0).scatter(1, predicted, torch.inf)
    return radii.amin(dim=1).where(logits.isfinite().all(dim=1), 0.0)
