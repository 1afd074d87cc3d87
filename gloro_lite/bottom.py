"""The bottom class (Section 2.2 of the paper): margin constants and the bottom logit.

Shapes: `batch` inputs, `classes` logits. A table of margin constants has shape (classes, classes): entry (j, i) bounds the
l2 Lipschitz constant of y_j - y_i, in logits per unit of input distance.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class MarginConstants(Protocol):
    """A table of margin constants, or what stands for one where each input of a batch has its own."""

    def __getitem__(self, classes: Tensor, /) -> Tensor:
        """For the predicted class of each input, (batch,), its constants against every class: (batch, classes)."""
        ...


def margin_constants(rows: Tensor, body: Tensor | float, *, tight: bool = True) -> Tensor:
    """Bound the Lipschitz constants of all margins y_j - y_i, for y = W h(x) + b.

    With tight, K_ij = ||w_j - w_i|| K (Appendix A.2 of the paper); otherwise K_i + K_j with K_i = ||w_i|| K,
    the form of Section 2.2, which is never smaller.

    Args:
        rows: W, (classes, features).
        body: K, a bound on the Lipschitz constant of h.

    Returns: (classes, classes), symmetric, differentiable in both arguments; in float32 for rows of fewer bits.
    """
    if rows.dtype in (torch.float16, torch.bfloat16):  # in which PyTorch computes no distances
        rows = rows.float()
    # Squares of rows near 1 neither overflow nor underflow.
    size = rows.detach().abs().amax().clamp_min(torch.finfo(rows.dtype).tiny)
    rows = rows / size
    if tight:
        # Differences, not a Gram matrix: ||a||^2 + ||b||^2 - 2ab cancels when two rows are close.
        if rows.device.type == "mps":  # where cdist has no gradient
            return _distances(rows) * size * body
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") * size * body
    norms = rows.norm(dim=1) * size * body
    return norms[:, None] + norms[None, :]


def _distances(rows: Tensor) -> Tensor:
    """||w_j - w_i|| for all pairs of rows, with more memory than cdist; as there, its gradient is 0 where two rows are equal."""
    return torch.linalg.vector_norm(rows[:, None] - rows, dim=2)


def bottom_logit(logits: Tensor, constants: MarginConstants, epsilon: float | Tensor) -> Tensor:
    """The logit of the bottom class: max over i != j of y_i + epsilon K_ij, with j the predicted class (Section 2.2).

    Args:
        logits: (batch, classes).
        constants: (classes, classes), see `margin_constants`; or a class's row for each input.
        epsilon: l2 radius.

    Returns: (batch,). NaN where a logit is NaN.
    """
    predicted = logits.argmax(dim=1, keepdim=True)
    # The predicted class leaves by its index: by its value, a tie for the top would leave too and be certified.
    rivals = (logits + epsilon * constants[predicted.squeeze(1)]).scatter(1, predicted, -torch.inf)
    return rivals.amax(dim=1)
