"""An l2 attack, to try to break certificates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gloro_lite.evaluate import check_labels
from gloro_lite.lipschitz.checks import check_tensor, is_count
from gloro_lite.net import check_logits


@torch.inference_mode(False)  # in which there are no gradients
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
        x: (batch, ...), floating point.
        labels: (batch,) int64, the labels to leave.
        radius: l2 radius in input units; one number or one for each input, (batch,).
        steps: of length 2.5 radius / steps.
        restarts: the first starts at x, later ones at random points of the ball.
        bounds: the smallest and largest value of an input, if the attack must respect them.

    Returns: (batch, ...): a point of another label where one was found, else the last one tried. Each is within the radius of x
    in exact arithmetic, rounding included, and within the bounds.

    A gradient that is NaN or infinite is taken for 0: the attack knows no way there.

    Raises ValueError for labels or radii of a wrong shape, a radius that is not finite or negative, less than one step or
    restart, logits of another shape or without a gradient, inputs that are not finite, and inputs outside the bounds: clamping
    those would leave the ball. TypeError for a GloRo Net itself, whose outputs have bottom among them.
    """
    check_logits(logits)
    ball = Ball(x, radius, bounds)
    if not (is_count(steps) and is_count(restarts)):
        raise ValueError(f"steps and restarts must be whole numbers, at least 1, not {steps!r} and {restarts!r}")
    check_labels(labels, len(x))
    x, labels = (part.clone() if part.is_inference() else part for part in (x, labels.long()))
    shape = (-1,) + (1,) * (x.dim() - 1)
    length = ball.radius.to(x).view(shape)
    generator = torch.Generator(device=x.device).manual_seed(seed)
    found = x.clone()
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for restart in range(restarts):
        point = x
        if restart:
            point = ball.project(torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) * length)
        for step in range(steps + 1):
            point = point.detach().requires_grad_()
            with torch.enable_grad():
                outputs = logits(point)
                if outputs.dim() != 2:
                    raise ValueError(f"logits must give (batch, classes), not {tuple(outputs.shape)}")
                check_labels(labels, len(x), outputs.shape[1])
                if not outputs.requires_grad:
                    raise ValueError(
                        "the logits have no gradient: they must be computed by PyTorch from the inputs they are given, without "
                        "detach() or torch.no_grad()"
                    )
                # The margin, not the cross-entropy, whose gradient vanishes where the net is sure.
                (gradient,) = torch.autograd.grad(-margin(outputs, labels).sum(), point)
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            now = (outputs.argmax(dim=1) != labels) & ~broken
            found[now] = point.detach()[now]
            found[~broken & ~now] = point.detach()[~broken & ~now]
            broken |= now
            if broken.all() or step == steps:
                break
            norm = gradient.flatten(1).norm(dim=1).view(shape).clamp_min(torch.finfo(x.dtype).tiny)
            point = ball.project(point.detach() - x + 2.5 / steps * length * gradient / norm)
    return found


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the logit of each label lies above the largest other, (batch,); negative where another class wins.

    Args:
        logits: (batch, classes). labels: (batch,).
    """
    return logits.gather(1, labels[:, None])[:, 0] - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


class Ball:
    """The l2 balls around a batch of inputs, and within bounds."""

    def __init__(self, x: Tensor, radius: float | Tensor, bounds: tuple[float, float] | None):
        check_tensor(x)
        if not x.is_floating_point():
            raise ValueError(f"inputs must be floating point, in the units of the radius; got {x.dtype}")
        if not x.isfinite().all():
            raise ValueError("inputs must be finite, and these hold NaN or infinite values")
        self._x, self._bounds = x, bounds
        self._exact = _double(x)
        try:
            self.radius = torch.as_tensor(radius, dtype=torch.float64, device=self._exact.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"radius must be a number, or one for each input, not {type(radius).__name__}") from None
        if self.radius.dim() and self.radius.shape != (len(x),):
            raise ValueError(f"radius must be one number or one for each of {len(x)} inputs, not {tuple(self.radius.shape)}")
        if not (self.radius.isfinite() & (self.radius >= 0)).all():
            raise ValueError("radius must be finite and not negative")
        self.radius = self.radius.expand(len(x))
        if bounds is not None and not (isinstance(bounds, tuple | list) and len(bounds) == 2):
            raise TypeError(f"bounds are the smallest and the largest value of an input, (0, 1) say, not {bounds!r}")
        if bounds is not None and not ((x >= bounds[0]) & (x <= bounds[1])).all():
            raise ValueError(f"inputs lie outside the bounds {bounds}: no point within both the bounds and the ball may be there")

    def project(self, delta: Tensor) -> Tensor:
        """The point x + delta, moved towards x until it lies in the ball, its coordinates rounded as they are.

        What is NaN or infinite in delta is no way to go: 0 there.
        """
        delta = delta.nan_to_num(0.0, 0.0, 0.0)
        shape = (-1,) + (1,) * (delta.dim() - 1)
        slack = 0.0
        while True:
            point = self._x + delta
            if self._bounds is not None:
                point = point.clamp(*self._bounds)  # towards x, which is within
            # The margin covers the rounding of this distance itself.
            distance = (_double(point) - self._exact).flatten(1).norm(dim=1) * (1 + 1e-12)
            if not (outside := distance > self.radius).any():
                return point
            # Rounding may leave a point outside again: shrink by ever more, at last to x itself.
            scale = (self.radius / distance * (1 - slack)).where(outside, 1.0)
            delta = delta * scale.to(delta).view(shape)
            slack = min(1.0, max(2 * slack, 2.0**-24))


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64


def accuracy_under_attack(logits: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, radius: float, **kwargs) -> float:
    """The fraction of inputs that are classified correctly and stay so under `pgd`: an upper bound on robust accuracy.

    Raises ValueError for no inputs, and what `pgd` raises.
    """
    check_tensor(x)
    if not len(x):
        raise ValueError("there are no inputs to attack")
    moved = pgd(logits, x, labels, radius, **kwargs)
    with torch.no_grad():
        right = (logits(x).argmax(dim=1) == labels) & (logits(moved).argmax(dim=1) == labels)
    return right.double().mean().item()  # as VRA is, so that equal counts are equal
