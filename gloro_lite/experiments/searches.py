"""Searches for a false certificate: what `gloro_lite.experiments.falsify` runs on each stored model.

Each takes a `Target` and inputs, and returns counts. `tries` are points that were looked at where the certificate forbids
another label, `broken` the false certificates, each of which would be an error in the proof or in the program. Distances are
recomputed in float64 with their rounding counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gloro_lite.attacks import Ball, margin, pgd
from gloro_lite.certificate import BOTTOM, GUARANTEES, Certificate, Guarantee

BEYOND = (1.25, 1.5, 2.0)
"""Multiples of each image's radius at which the attack is let loose too, where it may succeed."""
BACK = (1e-2, 1e-4, 1e-6)
"""How far from a decision boundary, in shares of the way between two inputs, the rounding search certifies."""


class Target(NamedTuple):
    """What is attacked.

    Attributes:
        logits: (batch, ...) to (batch, classes), differentiable, as the model is deployed, in float32.
        exact: the same in float64, from inputs in float32.
        certify: (x, guarantee) to a certificate at epsilon.
        constants: (classes, classes) float64, certified bounds on the slope of each margin y_j - y_i.
        epsilon: l2 radius in input units.
        guarantees: those that `certify` knows.
        bounds: what a coordinate may be, where the certificate speaks of such points alone.
    """

    logits: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]
    certify: Callable[[Tensor, Guarantee], Certificate]
    constants: Tensor
    epsilon: float
    guarantees: tuple[Guarantee, ...] = GUARANTEES
    bounds: tuple[float, float] | None = None

    def label(self, x: Tensor) -> Tensor:
        """The exact network's prediction, (batch,)."""
        with torch.no_grad():
            return self.exact(x).argmax(dim=1)

    def single(self, x: Tensor) -> Tensor:
        """Float32's prediction, (batch,)."""
        with torch.no_grad():
            return self.logits(x).argmax(dim=1)


def within(target: Target, x: Tensor, *, steps: int = 50, restarts: int = 2, further: int = 20, seed: int = 0) -> dict:
    """Projected gradient ascent from each of the images x within its own certified radius, and beyond it.

    Returns: counts. `broken` are images whose exact prediction changed within the exact radius, `float32` those where the
    float32 network gave another class there, which "exact" does not exclude; `float32_deployed` those within the "deployed"
    radius, false certificates too. `beyond` is the fraction of images that an attack of `further` steps broke at each multiple
    of the radius.
    """
    counts = {"images": 0, "tries": 0, "broken": 0, "float32": 0, "float32_deployed": 0}
    beyond = dict.fromkeys(map(str, BEYOND), 0)
    for part in x.split(500):
        c = target.certify(part, "exact")
        kept = c.radius.isfinite() & (c.radius > 0)
        part, prediction, radius = part[kept], c.prediction[kept], c.radius[kept]

        def moved(radius: Tensor, part: Tensor = part, prediction: Tensor = prediction, **how: int) -> Tensor:
            return pgd(target.logits, part, prediction, radius, bounds=target.bounds, **how)

        points = moved(radius, steps=steps, restarts=restarts, seed=seed)
        counts["images"] += len(part)
        counts["tries"] += len(part) * (steps + 1) * restarts
        counts["broken"] += int((target.label(points) != prediction).sum())
        counts["float32"] += int((target.single(points) != prediction).sum())
        if "deployed" in target.guarantees:
            points = moved(target.certify(part, "deployed").radius, steps=further)
            counts["tries"] += len(part) * (further + 1)
            counts["float32_deployed"] += int((target.single(points) != prediction).sum())
        for multiple in BEYOND:
            points = moved(multiple * radius, steps=further)
            beyond[str(multiple)] += int((target.label(points) != prediction).sum())
    return counts | {"beyond": {multiple: count / max(counts["images"], 1) for multiple, count in beyond.items()}}


def rounding(target: Target, a: Tensor, b: Tensor, *, climbs: int = 40, seed: int = 0) -> dict:
    """Between inputs a and b of different predictions: certificates so close to a boundary that rounding is all that decides.

    The boundary is found by bisection. Inputs at `BACK` before it are certified, moved to the edge of their ball, straight over
    the boundary and along the gradient, and climb on there: a few coordinates move by one unit in the last place of float32,
    and stay where the float32 margin fell and the point is still in the ball.

    Returns: counts as `within`: `images` are the inputs that were certified.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = {"images": 0, "tries": 0, "broken": 0, "float32": 0, "float32_deployed": 0}
    label, meets = _boundary(target, a, b)
    if not len(meets):
        return counts
    a, b = a[label >= 0], b[label >= 0]
    for back in BACK:
        x = _between(a, b, (meets - back).clamp_min(0))
        for guarantee in target.guarantees:
            c = target.certify(x, guarantee)
            kept = (c.radius > 0) & c.radius.isfinite()
            start, own, radius = x[kept], c.prediction[kept], c.radius[kept]
            if not len(start):
                continue
            counts["images"] += len(start)
            ball = Ball(start, radius, target.bounds)
            over = (b - a)[kept].double()
            for direction in (over, -_gradient(target, start, own)):
                length = direction.flatten(1).norm(dim=1).clamp_min(1e-300)
                scale = (radius / length).view(-1, *(1,) * (x.dim() - 1))
                point = ball.project((scale * direction).to(x))
                best = _margin(target, point, own)
                single, exact = best < 0, torch.zeros_like(best, dtype=torch.bool)
                for _ in range(climbs):
                    chosen = torch.rand(point.shape, generator=generator) < 0.05
                    up = torch.rand(point.shape, generator=generator) < 0.5
                    way = torch.where(up, torch.inf, -torch.inf).to(point)
                    # A step that leaves the ball is pulled back into it.
                    next_point = ball.project(torch.where(chosen, torch.nextafter(point, way), point) - start)
                    found = _margin(target, next_point, own)
                    better = (found < best).view(-1, *(1,) * (x.dim() - 1))
                    point, best = torch.where(better, next_point, point), torch.minimum(found, best)
                    single |= found < 0
                exact |= target.label(point) != own
                counts["tries"] += len(start) * (climbs + 1)
                if guarantee == "exact":
                    counts["float32"] += int(single.sum())
                else:
                    counts["float32_deployed"] += int(single.sum())
                counts["broken"] += int(exact.sum())
    return counts


def pairs(target: Target, a: Tensor, b: Tensor, *, rounds: int = 2, halvings: int = 8) -> dict:
    """Two inputs, certified at epsilon for different labels, within epsilon of each other: the paper's Definition 2 forbids it.

    Where the way from a to b changes its label, the nearest certified points on both sides are found by bisection; then, from the
    boundary between these two, those along the margin's gradient, where the boundary is thinnest.

    Returns: `images` segments, `tries` points that were certified, `broken` pairs within epsilon, `found` pairs in all, `nearest`
    the least distance of one in units of epsilon (2 or more, if certificates are true), `slope` the largest slope of a margin
    between two points of a pair or at the boundary, as a share of its certified bound.
    """
    counts: dict[str, Any] = {"images": 0, "tries": 0, "broken": 0, "found": 0, "nearest": None, "slope": 0.0}
    label, meets = _boundary(target, a, b)
    if not len(meets):
        return counts
    a, b = a[label >= 0], b[label >= 0]
    counts["images"] = len(a)
    middle = _between(a, b, meets)
    counts["slope"] = max(counts["slope"], _slope(target, a, b))
    direction = (b - a).double()
    for _ in range(rounds):
        shape = (-1,) + (1,) * (a.dim() - 1)
        direction = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-300).view(shape)
        ends = []
        for sign in (-1.0, 1.0):
            # The nearest certified point is at least epsilon away; at most far epsilon is looked at.
            near, far = torch.full((len(a),), 1.0, dtype=torch.float64), torch.full((len(a),), 12.0, dtype=torch.float64)

            for _ in range(halvings):
                half = (near + far) / 2
                certified = target.certify(_along(middle, sign * target.epsilon * half, direction), "exact").label != BOTTOM
                near, far = torch.where(certified, near, half), torch.where(certified, half, far)
            counts["tries"] += len(a) * (halvings + 1)
            ends.append(_along(middle, sign * target.epsilon * far, direction))
        p, q = ends
        one, other = target.certify(p, "exact").label, target.certify(q, "exact").label
        found = (one != BOTTOM) & (other != BOTTOM) & (one != other)
        if found.any():
            distance = (p[found].double() - q[found].double()).flatten(1).norm(dim=1)
            counts["found"] += int(found.sum())
            counts["broken"] += int((distance <= target.epsilon * (1 + 1e-12)).sum())
            nearest = distance.min().item() / target.epsilon
            counts["nearest"] = nearest if counts["nearest"] is None else min(counts["nearest"], nearest)
            counts["slope"] = max(counts["slope"], _slope(target, p[found], q[found]))
        direction = _gradient(target, middle, target.label(middle))
        lengths = direction.flatten(1).norm(dim=1).clamp_min(1e-300)
        counts["slope"] = max(counts["slope"], _slope(target, middle, _along(middle, 1e-3 / lengths, direction)))
    return counts


def toolbox(target: Target, x: Tensor, *, queries: int = 500, seed: int = 0) -> dict:
    """AutoAttack, as the Adversarial Robustness Toolbox has it, on each of the images x at its own radius, within [0, 1].

    Needs the extra `attacks`. Returns: counts as `within`, where `tries` are the queries of its last attack alone.
    """
    from gloro_lite import attack_suite

    counts = {"images": 0, "tries": 0, "broken": 0, "float32": 0, "float32_deployed": 0}
    c = target.certify(x, "exact")
    deployed = target.certify(x, "deployed").radius if "deployed" in target.guarantees else torch.zeros(len(x))
    for k, radius in enumerate(c.radius.tolist()):
        if not 0 < radius < torch.inf:
            continue
        image, own = x[k : k + 1], c.prediction[k : k + 1]
        point = attack_suite.auto_attack(target.logits, image, own, radius, queries=queries, seed=seed)
        distance = attack_suite.distances(image, point).item()
        single = int(target.single(point) != own)
        counts["images"] += 1
        counts["tries"] += queries
        counts["broken"] += int(distance <= radius and target.label(point) != own)
        counts["float32"] += single * int(distance <= radius)
        counts["float32_deployed"] += single * int(distance <= deployed[k].item())
    return counts


def _between(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """a + t (b - a) for t (batch,), in a's precision."""
    return _along(a, t, b.double() - a.double())


def _along(a: Tensor, t: Tensor, direction: Tensor) -> Tensor:
    """a + t times a float64 direction for t (batch,), in a's precision."""
    return (a.double() + t.view(-1, *(1,) * (a.dim() - 1)) * direction).to(a)


def _boundary(target: Target, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a's label, -1 where b has it too; and for the others where on the way to b it ends, to float64's precision."""
    label = target.label(a)
    label = label.where(target.label(b) != label, -1)
    a, b, own = a[label >= 0], b[label >= 0], label[label >= 0]
    low, high = torch.zeros(len(a), dtype=torch.float64), torch.ones(len(a), dtype=torch.float64)
    for _ in range(24 if len(a) else 0):  # a float32 has no more places
        half = (low + high) / 2
        same = target.label(_between(a, b, half)) == own
        low, high = torch.where(same, half, low), torch.where(same, high, half)
    return label, low


def _margin(target: Target, x: Tensor, label: Tensor) -> Tensor:
    """Float32's margin of a label over the best other, (batch,); below 0 where another wins, also by the order of a tie."""
    with torch.no_grad():
        logits = target.logits(x)
    found = margin(logits, label)
    return torch.where((found == 0) & (logits.argmax(dim=1) != label), -1e-30, found)


def _gradient(target: Target, x: Tensor, label: Tensor) -> Tensor:
    """The gradient of the margin of a label over the best other, in float64 but of the float32 model, as x."""
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(margin(target.logits(point), label).sum(), point)
    return gradient.double()


def _slope(target: Target, p: Tensor, q: Tensor) -> float:
    """The largest |m(p) - m(q)| / ||p - q|| of the margins m = y_j - y_i over a batch of pairs, as a share of its bound."""
    with torch.no_grad():
        change = target.exact(p) - target.exact(q)
    finite = change.isfinite().all(dim=1)
    distance = (p.double() - q.double()).flatten(1).norm(dim=1)[finite]
    change = change[finite]
    if not len(change):
        return 0.0
    slopes = ((change[:, :, None] - change[:, None, :]).abs() / distance.clamp_min(1e-300)[:, None, None]).amax(dim=0)
    off = ~torch.eye(len(slopes), dtype=torch.bool)
    return float((slopes / target.constants.to(slopes))[off].max())
