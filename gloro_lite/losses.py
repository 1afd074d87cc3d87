"""Losses for GloRo Nets. All return a scalar mean over the batch; `outputs` has shape (batch, classes + 1), bottom last."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_lite.bottom import MarginConstants, bottom_logit


def by_name(
    name: str,
    logits: Tensor,
    labels: Tensor,
    constants: MarginConstants | None,
    epsilon: float | Tensor,
    weight: float = 1.0,
    clean_weight: float = 0.0,
) -> Tensor:
    """The loss of one batch by its name, a key of `LOSSES`.

    Args:
        name: "standard" is the cross-entropy of the logits, without bottom; the others are the functions of this file.
        logits: (batch, classes).
        labels: (batch,).
        constants: (classes, classes), see `gloro_lite.bottom.margin_constants`; "standard" does not look at it.
        epsilon: the training epsilon, in input units.
        weight: lambda of "trades" and "trades_ce", q of "gce".
        clean_weight: of the cross-entropy of the logits without bottom, which is added.

    Raises ValueError for another name.
    """
    check(name)
    loss = LOSSES[name](logits, labels, constants, epsilon, weight)
    return loss + clean_weight * F.cross_entropy(logits, labels) if clean_weight else loss


def check(name: str, weight: float = 1.0, clean_weight: float = 0.0) -> None:
    """Raise ValueError unless `by_name` takes this name and these weights."""
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; not {name!r}")
    if not 0 <= weight < math.inf or (name == "gce" and weight > 1):
        raise ValueError(
            "the weight of the loss must be finite and at least 0, and at most 1 where it is the q of the generalised loss; "
            f"not {weight}"
        )
    if not 0 <= clean_weight < math.inf:
        raise ValueError(f"clean_weight must be finite and not negative, not {clean_weight}")


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the classes and bottom, which is never the correct answer (Section 4.1 of the paper)."""
    return F.cross_entropy(outputs, labels)


def generalised_cross_entropy(outputs: Tensor, labels: Tensor, q: float) -> Tensor:
    """(1 - p^q) / q with p the softmax output of the true class, bottom among the others [Zhang, Sabuncu 2018].

    It is the cross-entropy as q goes to 0 and 1 - p at q = 1. Its gradient is the cross-entropy's times p^q: inputs that cannot
    be certified, whose p is small, leave the network's capacity to those that can.

    Args:
        q: in [0, 1]; 0 gives the cross-entropy itself.
    """
    losses = F.cross_entropy(outputs, labels, reduction="none")
    if q > 0:
        losses = -torch.expm1(-q * losses) / q
    return losses.mean()


def trades(outputs: Tensor, labels: Tensor, weight: float, kind: str = "kl") -> Tensor:
    """GloRo-TRADES: cross-entropy of the logits + weight * R, R a divergence of f from f with bottom (the paper's Definition 3).

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


def emma(logits: Tensor, labels: Tensor, constants: MarginConstants, epsilon: float | Tensor) -> Tensor:
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


def _on_outputs(loss: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """A loss of logits, labels, constants, epsilon and weight, from one of outputs, labels and weight."""

    def on_logits(logits: Tensor, labels: Tensor, constants: MarginConstants, epsilon: float | Tensor, weight: float) -> Tensor:
        outputs = torch.cat((logits, bottom_logit(logits, constants, epsilon)[:, None]), dim=1)
        return loss(outputs, labels, weight)

    return on_logits


LOSSES: dict[str, Callable[..., Tensor]] = {
    "standard": lambda logits, labels, constants, epsilon, weight: F.cross_entropy(logits, labels),
    "cross_entropy": _on_outputs(lambda outputs, labels, weight: cross_entropy(outputs, labels)),
    "gce": _on_outputs(generalised_cross_entropy),
    "trades": _on_outputs(trades),
    "trades_ce": _on_outputs(lambda outputs, labels, weight: trades(outputs, labels, weight, "ce")),
    "emma": lambda logits, labels, constants, epsilon, weight: emma(logits, labels, constants, epsilon),
}
"""The losses that `by_name` knows, each a function of logits, labels, constants, epsilon and weight.

:meta hide-value:
"""
