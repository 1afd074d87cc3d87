"""Certificates of a nearest-site classifier, proven anew: how far an image is from the cells of the sites of other labels.

A point x + z has the label of a site q only if it is no farther from q than from any site p of the predicted label:
(q - p) z >= c_p with c_p = (q - p) ((p + q) / 2 - x). For any weights w_p >= 0 and a = sum of w_p (q - p), each such z has
||z||^2 / 2 >= sum of w_p c_p + sum over coordinates of the least z_i^2 / 2 - a_i z_i that is allowed. Weights are searched here,
and any weights make a true bound; its rounding is counted. With one p and no box it is the distance to a bisecting hyperplane.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from exact import Scaled
from network import HAIR, TINY, UNIT, gamma

OWN = 8  # sites p of the predicted label that are looked at, the nearest ones; fewer only make the bound smaller
PAIRS = 256  # images with a site, worked on at a time


class Sites:
    """Sites (n, d) float32 and their labels (n,)."""

    def __init__(self, sites: np.ndarray, labels: np.ndarray):
        self.exact = sites
        self.sites, self.labels = sites.astype(np.float64), labels
        self.squares = (self.sites**2).sum(1)
        self._classes = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
        squared, error = self.distances(self.sites)
        self._widths = 2 * np.sqrt(np.maximum(squared + error, TINY)) * HAIR  # 2 ||p - q||, from above

    def distances(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances of x (n, d) from all sites, and a bound on their error, (n, sites) both."""
        size = (x**2).sum(1)[:, None] + self.squares
        # A sum of d products, and some additions here and where two of these are compared.
        return size - 2 * (x @ self.sites.T), 2 * gamma(x.shape[1] + 16) * size * HAIR + TINY

    def nearest(self, squared: np.ndarray, label: int) -> np.ndarray:
        """The `OWN` nearest sites of a label, (n, at most OWN), the nearest first."""
        own = self._classes[label]
        count = min(OWN, len(own))
        part = np.argpartition(squared[:, own], count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(squared[:, own], part, 1), axis=1, kind="stable")
        return own[np.take_along_axis(part, order, 1)]

    def bisectors(self, squared: np.ndarray, error: np.ndarray, own: np.ndarray) -> np.ndarray:
        """For each x the distance to the cell of each site, by one bisector, from below: (n, sites)."""
        best = np.full(squared.shape, -np.inf)
        rows = np.arange(len(squared))
        for p in own.T:
            gap = squared - error - (squared[rows, p] + error[rows, p])[:, None]
            # A gap below 0 is of no use, and its quotient would need rounding the other way.
            best = np.maximum(best, np.where(gap > 0, gap / self._widths[p] / HAIR, -np.inf))
        return best


def weights(normals: np.ndarray, levels: np.ndarray, cycles: int = 50) -> np.ndarray:
    """Weights w >= 0 (n, k) that make w levels - ||w normals||^2 / 2 large, of normals (n, k, d) and levels (n, k)."""
    gram = normals @ normals.transpose(0, 2, 1)
    diagonal = np.maximum(np.einsum("nkk->nk", gram), TINY)
    w = np.zeros_like(levels)
    for _ in range(cycles):
        for k in range(w.shape[1]):
            w[:, k] = np.maximum(0, w[:, k] + (levels[:, k] - (gram[:, k] * w).sum(1)) / diagonal[:, k])
    # The equations of those that are not zero, solved: the last digits that the search leaves.
    active = w > 0
    system = np.where(active[:, :, None] & active[:, None], gram, 0.0)
    ridge = np.where(active, 1e-14 * diagonal, 1.0)
    solved = np.linalg.solve(system + ridge[:, :, None] * np.eye(w.shape[1]), np.where(active, levels, 0.0)[..., None])[..., 0]
    better = (solved >= 0).all(1) & np.isfinite(solved).all(1)
    return np.where(better[:, None], solved, w)


def weights_in_box(
    normals: np.ndarray, levels: np.ndarray, low: np.ndarray, high: np.ndarray, start: np.ndarray, steps: int
) -> np.ndarray:
    """The same where z keeps between low and high, (n, d): accelerated ascent from `start`, in single precision."""
    lengths = np.maximum(np.sqrt((normals**2).sum(2)), TINY)
    unit = (normals / lengths[..., None]).astype(np.float32)
    level, low, high = levels / lengths, low.astype(np.float32), high.astype(np.float32)
    step = 1 / np.maximum(np.abs(unit @ unit.transpose(0, 2, 1)).sum(2).max(1), 1e-30)[:, None]
    found = start * lengths
    ahead, momentum = found, 1.0
    for _ in range(steps):
        z = np.clip((ahead.astype(np.float32)[:, None] @ unit)[:, 0], low, high)
        new = np.maximum(0, ahead + step * (level - (unit @ z[..., None])[..., 0]))
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        uphill = ((new - found) * (new - ahead)).sum(1, keepdims=True) >= 0
        ahead = np.where(uphill, np.maximum(0, new + (momentum - 1) / following * (new - found)), new)
        found, momentum = new, following
    return found / lengths


def value(
    x: np.ndarray, p: np.ndarray, q: np.ndarray, w: np.ndarray, box: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The bound on ||z||^2 / 2 that weights w (n, k) make for x (n, d), p (n, k, d), q (n, d): its value, and its error."""
    normals = q[:, None] - p
    middle = (p + q[:, None]) / 2 - x[:, None]
    levels = (normals * middle).sum(2)
    a = (w[:, None] @ normals)[:, 0]
    spread = (w[:, None] @ np.abs(normals))[:, 0]
    k, d = w.shape[1], x.shape[1]
    size = (np.abs(normals) * ((np.abs(p) + np.abs(q[:, None])) / 2 + np.abs(x[:, None]))).sum(2)
    # Of each level: one rounding in the normal, three in the middle, a product, a sum of d; then a sum of k.
    error = gamma(d + k + 8) * (w * size).sum(1)
    if box is None:
        z = a
    else:
        low, high = box[0] - x, box[1] - x
        z = np.clip(a, low, high)
        # The box's own edges are rounded by a unit: the slope there is z - a.
        error = error + 2 * UNIT * (max(map(abs, box)) + np.abs(x).max(initial=0)) * np.abs(z - a).sum(1)
    terms = z * z / 2 - a * z
    # An error e in a_i changes the least value by at most |z_i| e + e^2.
    off = gamma(k + 2) * spread
    error = error + (off * (np.abs(z) + off)).sum(1) + gamma(d + 4) * (z * z / 2 + np.abs(a * z)).sum(1)
    total = (w * levels).sum(1) + terms.sum(1)
    return total, (error + 4 * UNIT * np.abs(total)) * HAIR + TINY


def exact_value(x: np.ndarray, p: np.ndarray, q: np.ndarray, w: np.ndarray, box: tuple[int, int] | None) -> Fraction:
    """The same for one pair, x (d,), p (k, d), q (d,), w (k,), in exact arithmetic."""
    whole = Scaled.of(np.concatenate((x[None], q[None], p)))
    lines, scale = whole.integers, Fraction(2) ** whole.exponent
    weight = [Fraction(float(number)) for number in w]
    used = [k for k in range(len(w)) if weight[k]]
    total, a = Fraction(0), [Fraction(0)] * len(x)
    for k in used:
        normal = lines[1] - lines[2 + k]
        # Twice the middle, so that it is whole.
        twice = lines[2 + k] + lines[1] - 2 * lines[0]
        total += weight[k] * int((normal * twice).sum()) * scale**2 / 2
        a = [old + weight[k] * int(n) * scale for old, n in zip(a, normal, strict=True)]
    for number, own in zip(a, lines[0], strict=True):
        z = number if box is None else min(max(number, box[0] - int(own) * scale), box[1] - int(own) * scale)
        total += z * z / 2 - number * z
    return total


def prove(
    sites: Sites, x: np.ndarray, predictions: np.ndarray, radii: np.ndarray, box: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """For images x (n, d), float32 in float64: whether each certificate is proven, (n,); a radius that is, (n,); exact decisions.

    A radius of 0 says that no site of another label is nearer than all of the prediction's.
    """
    squared, error = sites.distances(x)
    proven = np.ones(len(x), bool)
    largest = np.full(len(x), np.inf)
    exactly = 0
    for label in np.unique(predictions):
        rows = np.flatnonzero(predictions == label)
        if not (sites.labels == label).any():  # no point is nearest to a site that is not there
            proven[rows], largest[rows] = False, 0.0
            continue
        own = sites.nearest(squared[rows], label)
        others = np.flatnonzero(sites.labels != label)
        bounds = sites.bisectors(squared[rows], error[rows], own)[:, others]
        # What a bisector proves needs no more; a radius of 0 needs a gap that is surely positive, or exact arithmetic.
        settled = np.where(radii[rows, None] > 0, bounds >= radii[rows, None], bounds > 0)
        largest[rows] = np.where(settled, bounds, np.inf).min(1)
        at, which = np.nonzero(~settled)
        for start in range(0, len(at), PAIRS):
            part = slice(start, start + PAIRS)
            images, rivals = rows[at[part]], others[which[part]]
            holds, reached, count = _pairs(sites, x[images], own[at[part]], rivals, radii[images], box)
            np.logical_and.at(proven, images, holds)
            np.minimum.at(largest, images, reached)
            exactly += count
    return proven, largest, exactly


def _pairs(sites: Sites, x, own, rivals, radii, box) -> tuple[np.ndarray, np.ndarray, int]:
    """For images with a rival's cell each: whether it is as far as the radius, a distance that it is, exact decisions."""
    p, q = sites.sites[own], sites.sites[rivals]
    normals = q[:, None] - p
    levels = (normals * ((p + q[:, None]) / 2 - x[:, None])).sum(2)
    # Twice the bound less its error must be the radius' square.
    need = radii**2 / 2 * (1 + 8 * UNIT)
    w = weights(normals, levels)
    half, error = value(x, p, q, w, None)
    todo = half - error < need
    if todo.any():  # normals that are nearly parallel take longer
        w[todo] = weights(normals[todo], levels[todo], 3000)
        half, error = value(x, p, q, w, None)
    holds = (half - error >= need) & (radii > 0)
    for steps in (20, 150) if box is not None else ():
        todo = ~holds
        if not todo.any():
            break
        better = weights_in_box(normals[todo], levels[todo], box[0] - x[todo], box[1] - x[todo], w[todo], steps)
        boxed, at = value(x[todo], p[todo], q[todo], better, box)
        stands = boxed - at > (half - error)[todo]
        w[todo] = np.where(stands[:, None], better, w[todo])
        half[todo], error[todo] = np.where(stands, boxed, half[todo]), np.where(stands, at, error[todo])
        holds = (half - error >= need) & (radii > 0)
    reached = np.sqrt(2 * np.maximum(half - error, 0)) * (1 - 8 * UNIT)
    # What rounding alone may have refused is worked out.
    close = np.flatnonzero(~holds & (half + error >= need / HAIR**2))
    for k in close:
        if radii[k] > 0:
            holds[k] = 2 * exact_value(x[k], p[k], q[k], w[k], box) >= Fraction(float(radii[k])) ** 2
        else:
            whole = Scaled.of(np.concatenate((x[k][None], q[k][None], p[k])))
            away = ((whole.integers[1:] - whole.integers[0]) ** 2).sum(1)
            holds[k] = away[0] >= min(away[1:])
    return holds, reached, len(close)
