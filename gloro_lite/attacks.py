"""An l2 attack, to try to break certificates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pgd(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    radius: float | Tensor,
    *,
    steps: int = 50,
    restarts: int = 1,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Search the l2 ball around each input for a point of another label, by projected gradient ascent [Madry et al. 2018].

    Args:
        logits: maps (batch, ...) to (batch, classes); not the outputs with bottom.
        x: (batch, ...).
        labels: (batch,) int64, the labels to leave.
        radius: l2 radius in input units; one number or one for each input, (batch,).
        steps: of length 2.5 radius / steps.
        restarts: the first starts at x, later ones at random points of the ball.
        bounds: the smallest and largest value of an input, if the attack must respect them.

    Returns: (batch, ...), within the radius of x: a point of another label where one was found, else the last one tried.
    """
    shape = (-1,) + (1,) * (x.dim() - 1)
    radius = torch.as_tensor(radius, dtype=x.dtype, device=x.device).expand(len(x)).view(shape)
    generator = torch.Generator(device=x.device).manual_seed(seed)

    def project(delta: Tensor) -> Tensor:
        length = delta.flatten(1).norm(dim=1).view(shape).clamp_min(torch.finfo(x.dtype).tiny)
        delta = delta * (radius / length).clamp(max=1.0)
        return delta if bounds is None else (x + delta).clamp(*bounds) - x

    found = x.clone()
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for restart in range(restarts):
        delta = torch.zeros_like(x)
        if restart:
            delta = project(torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) * radius)
        for step in range(steps + 1):
            point = (x + delta).detach().requires_grad_()
            with torch.enable_grad():
                outputs = logits(point)
                # The margin, not the cross-entropy, whose gradient vanishes where the net is sure.
                rivals = outputs.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
                loss = (rivals - outputs.gather(1, labels[:, None])[:, 0]).sum()
                (gradient,) = torch.autograd.grad(loss, point)
            now = (outputs.argmax(dim=1) != labels) & ~broken
            found[now] = point.detach()[now]
            found[~broken & ~now] = point.detach()[~broken & ~now]
            broken |= now
            if broken.all() or step == steps:
                break
            length = gradient.flatten(1).norm(dim=1).view(shape).clamp_min(torch.finfo(x.dtype).tiny)
            delta = project(delta + 2.5 / steps * radius * gradient / length)
    return found


def accuracy_under_attack(logits: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, radius: float, **kwargs) -> float:
    """The fraction of inputs that are classified rightly and stay so under `pgd`: an upper bound on robust accuracy."""
    moved = pgd(logits, x, labels, radius, **kwargs)
    with torch.no_grad():
        right = (logits(x).argmax(dim=1) == labels) & (logits(moved).argmax(dim=1) == labels)
    return right.float().mean().item()
