"""Losses for GloRo Nets. All return a scalar mean over the batch; `outputs` has shape (batch, classes + 1), bottom last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the classes and bottom, which is never the correct answer (Section 2.3)."""
    return F.cross_entropy(outputs, labels)


def trades(outputs: Tensor, labels: Tensor, weight: float, kind: str = "kl") -> Tensor:
    """GloRo-TRADES: cross-entropy of the logits + weight * R (Section 5.1), R a divergence between f and f with bottom.

    Args:
        weight: lambda, >= 0.
        kind: "kl" for KL(softmax f, with a zero for bottom || softmax of f with bottom), which equals
            softplus(y_bottom - logsumexp y) (the paper prints its arguments the other way round, where it is infinite); "ce" for
            the cross-entropy between the same two, which adds the entropy of softmax f.

    Raises ValueError for another kind.
    """
    logits, bottom = outputs[:, :-1], outputs[:, -1]
    divergence = F.softplus(bottom - logits.logsumexp(dim=1))
    if kind == "ce":
        log_p = logits.log_softmax(dim=1)
        divergence = divergence - (log_p.exp() * log_p).sum(dim=1)
    elif kind != "kl":
        raise ValueError(f"kind must be 'kl' or 'ce', not {kind!r}")
    return F.cross_entropy(logits, labels) + weight * divergence.mean()


def emma(logits: Tensor, labels: Tensor, constants: Tensor, epsilon: float | Tensor) -> Tensor:
    """Efficient margin maximisation [Hu et al. 2023]: cross-entropy after adding epsilon_i K_yi to each wrong logit y_i.

    epsilon_i is the radius at which class i overtakes the true class y, clipped into [0.01, 1] epsilon and not differentiated,
    so that each rival is moved just as far as the input could be.

    Args:
        logits: (batch, classes), without bottom.
        constants: (classes, classes), see `gloro_lite.bottom.margin_constants`.
    """
    own = constants[labels]  # (batch, classes); 0 at the true class in the tight form
    with torch.no_grad():
        margins = logits.gather(1, labels[:, None]) - logits
        radii = (margins / own.clamp_min(torch.finfo(own.dtype).tiny)).clamp(0.01 * epsilon, epsilon)
        radii.scatter_(1, labels[:, None], 0.0)
    return F.cross_entropy(logits + radii * own, labels)
