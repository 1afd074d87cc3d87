"""A lower bound on a Lipschitz constant by search: it tells how much of an upper bound is slack."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def lower_bound(function: Callable[[Tensor], Tensor], x: Tensor, *, steps: int = 50, rate: float = 0.1) -> Tensor:
    """Search for points where a function has a long gradient, by normalised gradient ascent on that length from each start.

    The length of a gradient at any point is a lower bound on the global Lipschitz constant (Section 5.3 compares it with the
    upper bound).

    Args:
        function: maps (batch, ...) to (batch,), each output depending on its own input alone; a margin y_j - y_i, say.
        x: (batch, ...), the starts.
        steps: of the ascent, >= 0; 0 gives the local constants at the starts.
        rate: length of a step in input units.

    Returns: (batch,), the longest gradient on each path.
    """
    x = x.detach().clone()
    best = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    with torch.enable_grad():
        for step in range(steps + 1):
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
            lengths = gradient.flatten(1).norm(dim=1)
            best = torch.maximum(best, lengths.detach())
            if step == steps or not lengths.requires_grad:
                # Without a second derivative (piecewise linear functions) the ascent goes on at random.
                if step == steps:
                    break
                ascent = torch.randn_like(x)
            else:
                (ascent,) = torch.autograd.grad(lengths.sum(), x, allow_unused=True, materialize_grads=True)
                flat = ascent.flatten(1).norm(dim=1) == 0
                ascent = torch.where(flat.view(-1, *(1,) * (x.dim() - 1)), gradient.detach(), ascent)
            direction = ascent / ascent.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, *(1,) * (x.dim() - 1))
            x = (x + rate * direction).detach()
    return best
