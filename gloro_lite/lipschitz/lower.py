"""A lower bound on a Lipschitz constant by search: it tells how much of an upper bound is slack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gloro_lite.lipschitz.checks import check_tensor


class Pairs(NamedTuple):
    """Pairs of points, and how much a function changes between them.

    Attributes:
        a: (batch, ...), the first point of each pair.
        b: (batch, ...), the second.
        slope: (batch,), ``|f(a) - f(b)| / ||a - b||``, which no Lipschitz constant of f is below, in output units per input unit.
            In float32, where rounding can add to it, it is an estimate: measure the pairs again with `slopes`, in float64.
    """

    a: Tensor
    b: Tensor
    slope: Tensor


def slopes(function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """``|f(a) - f(b)| / ||a - b||`` of pairs a and b, (batch, ...): (batch,), 0 where the points are one.

    In float64 the quotient of two points that are not too close is exact to many digits: it needs no derivative, so kinks, where
    what automatic differentiation returns need not be a derivative, cannot make it too large.
    """
    distance = (a - b).flatten(1).norm(dim=1)
    with torch.no_grad():
        change = (_values(function, a) - _values(function, b)).abs()
    return torch.where(distance > 0, change / distance.clamp_min(torch.finfo(distance.dtype).tiny), 0.0)


def steepest_pairs(
    function: Callable[[Tensor], Tensor],
    a: Tensor,
    b: Tensor,
    *,
    steps: int = 100,
    closest: float = 0.1,
    radius: float | None = None,
) -> Pairs:
    """Search for pairs of points between which a function is steep, from each pair of a batch (Section 5.3 of the paper).

    Each pair ascends ``|f(a) - f(b)| / ||a - b||``: its direction turns towards the gradient at both ends, its middle moves to
    where the two gradients agree less, and it shrinks from its first length to `closest`. The gradient at one point is the
    limit of this; but where f is linear in pieces, the length of a gradient has no slope to climb, and pairs that are far apart
    see over the pieces. Of all pairs on the way the steepest is kept.

    Args:
        function: maps (batch, ...) to (batch,), each output depending on its own input alone; a margin y_j - y_i, say.
        a: (batch, ...), the first point of each start.
        b: (batch, ...), the second, which must not be the same.
        steps: of the ascent, >= 0.
        closest: the distance that pairs shrink to, in input units; pairs that start closer keep their distance.
        radius: keeps both points of each pair within this l2 distance of the middle of its start: a lower bound on the local
            constant there. By default they go anywhere.

    Raises ValueError for steps < 0, for lengths that are not finite and positive, and for a function of another shape.
    """
    _check_search(steps, closest=closest, radius=radius)
    a, b = a.detach(), b.detach()
    start = centre = (a + b) / 2
    first = _length(a - b)
    direction = _unit(a - b)
    best = Pairs(a, b, torch.zeros(len(a), dtype=a.dtype, device=a.device))
    for step in range(steps + 1):
        length = first * (closest / first).clamp_max(1.0) ** (step / max(steps, 1))
        a, b = centre + length / 2 * direction, centre - length / 2 * direction
        if radius is not None:
            a, b = (start + _within(point - start, radius) for point in (a, b))
        (value_a, slope_a), (value_b, slope_b) = _value_and_gradient(function, a), _value_and_gradient(function, b)
        found = (value_a - value_b).abs() / _length(a - b).flatten().clamp_min(torch.finfo(a.dtype).tiny)
        better = found > best.slope
        best = Pairs(_choose(better, a, best.a), _choose(better, b, best.b), torch.where(better, found, best.slope))
        # Upwards is from the point with the smaller value to the other.
        sign = torch.where(value_a >= value_b, 1.0, -1.0).to(a.dtype).view(-1, *(1,) * (a.dim() - 1))
        direction = _unit(direction + _unit(sign * (slope_a + slope_b)))
        centre = centre + length / 2 * _unit(sign * (slope_a - slope_b))
        if radius is not None:
            centre = start + _within(centre - start, radius)
    return best


def _check_search(steps: int, **distances: float | None) -> None:
    if type(steps) is not int or steps < 0:
        raise ValueError(f"steps must be a whole number, at least 0, not {steps!r}")
    for name, limit in distances.items():
        if limit is not None and not (limit > 0 and math.isfinite(limit)):
            raise ValueError(f"{name} is a distance: it must be finite and greater than 0, not {limit}")


def lower_bound(
    function: Callable[[Tensor], Tensor], x: Tensor, *, steps: int = 100, reach: float = 1.0, radius: float | None = None
) -> Tensor:
    """A lower bound on a function's Lipschitz constant, by `steepest_pairs` from each start x along its gradient.

    All that is returned are slopes between two points, and none is the length of a gradient: at a kink, what automatic
    differentiation returns need not be a derivative.

    Args:
        function: as for `steepest_pairs`, in float64: a network after ``.double()``, say.
        x: (batch, ...) float64, the starts.
        steps: of the search, >= 0; 0 gives the local constants at the starts: slopes of close pairs along the gradients there, a
            thousandth of `reach` on each side.
        reach: how far on each side of its start a pair begins, in input units; it shrinks to a twentieth of that.
        radius: keeps the search within this l2 distance of each start, for the local constant there. By default it goes anywhere,
            for the global one.

    Returns: (batch,), the steepest that was found from each start.

    Raises TypeError for x of another type, in which rounding could make a slope too large; ValueError as `steepest_pairs` does,
    and for a reach that is not finite and positive.
    """
    check_tensor(x)
    _check_search(steps, reach=reach, radius=radius)
    if x.dtype != torch.float64:
        raise TypeError(f"x is {x.dtype}, in which rounding can make a slope too large: give x and the function in float64")
    x = x.detach()
    reach = reach if radius is None else min(reach, radius)
    towards = reach * _unit(_value_and_gradient(function, x)[1])
    local = slopes(function, x + 1e-3 * towards, x - 1e-3 * towards)
    if steps == 0:
        return local
    found = steepest_pairs(function, x + towards, x - towards, steps=steps, closest=reach / 10, radius=radius)
    return torch.maximum(local, found.slope)


def _values(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One number for each input, (batch,): of more, each would be divided by the distance of another pair."""
    values = function(x)
    if values.shape != (len(x),):
        raise ValueError(
            f"the function must give one number for each input, ({len(x)},), a margin say; it gives {tuple(values.shape)}"
        )
    return values


def _value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = _values(function, x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def _length(x: Tensor) -> Tensor:
    """Of each input, (batch, 1, ...)."""
    return x.flatten(1).norm(dim=1).view(-1, *(1,) * (x.dim() - 1))


def _unit(x: Tensor) -> Tensor:
    return x / _length(x).clamp_min(torch.finfo(x.dtype).tiny)


def _within(x: Tensor, radius: float) -> Tensor:
    # A hair less, so that rounding does not put the point outside.
    return x * (radius * (1 - 1e-5) / _length(x).clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1.0)


def _choose(where: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(where.view(-1, *(1,) * (x.dim() - 1)), x, y)
