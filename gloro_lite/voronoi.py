"""The paper's Theorem 3: where sites are 2 epsilon-separated, a function whose margins are 1-Lipschitz certifies all of them.

In any dimension, `SiteClassifier`: the label of the nearest site, with three certificates, each sharper and dearer than the
one before. In the plane, `DecisionFaces`: the paper's own g, the distance to the Voronoi faces that part different labels. All
count their rounding: a radius or a distance is never above the true one. `gloro_lite.methods.sites` moves the sites.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from gloro_lite.certificate import Certificate, certificate, check_epsilon
from gloro_lite.lipschitz.checks import is_count
from gloro_lite.precision import on_cpu

_UNIT = 2.0**-53
_TINY = 2.0**-1060  # more than a few operations can lose to underflow
_LARGEST = 1e150  # the square of a coordinate must not overflow
_LARGEST_LABEL = 2**20  # a table has a column for each class


class SeparationError(ValueError):
    """Sites that the paper's Theorem 3 does not hold for: two with different labels are not more than 2 epsilon apart."""


def as_tensor(values: Any) -> Tensor:
    """Values as a tensor; a tensor stays on its device, whatever `torch.set_default_device` says."""
    return values if isinstance(values, Tensor) else torch.as_tensor(values)


def _check_values(values: Tensor, name: str) -> Tensor:
    """A copy of values, (n, ...), as (n, d) float64 on the CPU, so that later changes of the argument change nothing here."""
    values = as_tensor(values).detach()
    if values.device.type == "meta" or values.layout != torch.strided:
        raise ValueError(f"{name}s must be dense and hold values; these have layout {values.layout} on device {values.device}")
    if values.is_complex():
        raise ValueError(f"{name}s are complex: give real coordinates")
    if values.dim() < 2:
        raise ValueError(f"{name}s have the shape {tuple(values.shape)}: give one row for each {name}, (n, coordinates)")
    values = values.to("cpu", torch.float64, copy=True).flatten(1)
    if not values.isfinite().all():
        raise ValueError(f"{name} {int((~values.isfinite()).any(1).nonzero()[0])} holds NaN or infinite values")
    if (values.abs() > _LARGEST).any():
        row = int((values.abs() > _LARGEST).any(1).nonzero()[0])
        raise ValueError(
            f"{name} {row} holds a value beyond {_LARGEST:g}, whose square would overflow: divide all data by a constant"
        )
    return values


@on_cpu
def check_sites(sites: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return copies of sites, (n, ...), flattened in float64, and of labels, (n,) int64, on the CPU.

    Raises ValueError for fewer than two sites or labels, values that are not finite or beyond 1e150, labels that are not of an
    integer type or negative, and for two sites that coincide with different labels.
    """
    sites, labels = _check_values(sites, "site"), as_tensor(labels).detach()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        kind = str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"labels are classes and must be integers, not {kind}: if they are whole, give labels.long()")
    labels = labels.to("cpu", torch.int64, copy=True)
    if labels.dim() != 1 or len(sites) != len(labels):
        raise ValueError(f"there are {len(sites)} sites and labels of shape {tuple(labels.shape)}: give one label for each site")
    if len(sites) < 2 or len(labels.unique()) < 2:
        raise ValueError("at least two sites with two different labels are needed: with fewer there is nothing to part")
    if labels.min() < 0:
        raise ValueError("labels are classes: they must be 0 or greater")
    if labels.max() > _LARGEST_LABEL:
        raise ValueError(
            f"labels are classes, counted from 0, and the largest is {int(labels.max())}: number them anew with "
            "labels.unique(return_inverse=True)[1]"
        )
    _, group = sites.unique(dim=0, return_inverse=True)
    low = torch.full((len(sites),), torch.iinfo(torch.int64).max).scatter_reduce(0, group, labels, "amin")
    high = torch.full((len(sites),), -1).scatter_reduce(0, group, labels, "amax")
    clash = (low[group] != high[group]).nonzero()
    if len(clash):
        same = (group == group[clash[0]]).nonzero().flatten()
        other = same[labels[same] != labels[same[0]]][0]
        raise ValueError(
            f"sites {int(same[0])} and {int(other)} coincide and have the labels {int(labels[same[0]])} and "
            f"{int(labels[other])}: remove one of them"
        )
    return sites, labels


def check_points(x: Tensor, sites: Tensor) -> Tensor:
    """Return a copy of x, (batch, ...), flattened in float64; the gradient passes through.

    Raises ValueError for another dimension than the sites' and for values that are not finite or beyond 1e150.
    """
    x = as_tensor(x)
    values = _check_values(x, "point")
    if values.shape[1] != sites.shape[1]:
        raise ValueError(f"points have {values.shape[1]} coordinates and the sites {sites.shape[1]}")
    return x.double().flatten(1) if x.requires_grad else values


@on_cpu
def check_separation(sites: Tensor, labels: Tensor, epsilon: float, chunk: int = 1024) -> float:
    """The least distance between two sites of different labels, to float precision, which must be greater than 2 epsilon.

    Raises SeparationError, which names the closest pair and their distance.
    """
    epsilon = check_epsilon(epsilon)
    sites, labels = check_sites(sites, labels)
    slack = 1 + (2 * sites.shape[1] + 32) * _UNIT
    least, pairs = torch.inf, torch.zeros(0, 2, dtype=torch.int64)
    for start in range(0, len(sites), chunk):
        distances = torch.cdist(sites[start : start + chunk], sites, compute_mode="donot_use_mm_for_euclid_dist")
        distances[labels[start : start + chunk, None] == labels] = torch.inf
        least = min(least, distances.min().item())
        # Sums of squares below 2^-1000 are lost to underflow: whatever is that close is compared anew.
        close = (distances <= max(least * slack, 2.0**-490)).nonzero() + torch.tensor([start, 0])
        pairs = torch.cat((pairs, close[close[:, 0] < close[:, 1]]))
    if least < 2.0**-490:
        # Only here can pairs differ by more than rounding; scaled by a power of two their distances are exact to rounding.
        lengths = torch.linalg.vector_norm((sites[pairs[:, 0]] - sites[pairs[:, 1]]) * 2.0**560, dim=1)
    else:
        lengths = torch.linalg.vector_norm(sites[pairs[:, 0]] - sites[pairs[:, 1]], dim=1)
    # The first thousand that may be the closest are compared exactly: what ties in floating point may not be a tie.
    nearly = (lengths <= lengths.min() * slack**2).nonzero().flatten()[:1000]
    first = min(nearly.tolist(), key=lambda k: _squared_length(sites[pairs[k, 0]], sites[pairs[k, 1]]))
    pair, square = pairs[first].tolist(), _squared_length(*sites[pairs[first]])
    least = _root(square)
    if not square > 4 * Fraction(epsilon) ** 2:
        raise SeparationError(
            f"sites {pair[0]} and {pair[1]} have different labels and are {least:.6g} apart, which is not more than "
            f"2 epsilon = {2 * epsilon:.6g}: take an epsilon below {least / 2:.6g}, or remove one of them"
        )
    return least


def _squared_length(a: Tensor, b: Tensor) -> Fraction:
    """||a - b||^2 of two points, exactly."""
    return sum((Fraction(p) - Fraction(q)) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))


def _root(square: Fraction) -> float:
    """The square root, to within a few units of the last place, also where the square is beyond float's range."""
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(square / Fraction(4) ** shift), shift) if square else 0.0


class SiteClassifier:
    """The classifier of the paper's Theorem 3 in any dimension: the label of the nearest site, with certificates.

    The sites and labels are copied. Where two labels tie the point gets no certificate.

    Args:
        sites: (n, ...), finite.
        labels: (n,) integers from 0.
        chunk: sites that are compared at a time; memory grows with it and with the batch, not with n.

    Raises ValueError, see `check_sites`.
    """

    def __init__(self, sites: Tensor, labels: Tensor, *, chunk: int = 4096):
        if not is_count(chunk):
            raise ValueError(f"chunk is a number of sites, at least 1, not {chunk!r}")
        self.sites, self.labels = check_sites(sites, labels)
        self.classes = int(self.labels.max()) + 1
        self.chunk = chunk

    def _squared(self, x: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Squared distances of x, (b, d), to a chunk of sites, (b, chunk), and a bound on their rounding error."""
        sites = self.sites[start : start + self.chunk]
        norms = x.square().sum(1)[:, None] + sites.square().sum(1)
        squared = norms - 2 * x @ sites.T
        # Sums of d products and two more additions, each product at most half of the norms' sum; and what underflow takes.
        return squared, (2 * x.shape[1] + 8) * (_UNIT * 2 * norms + _TINY)

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The distance to the nearest site of each label from below and from above, (b, classes)."""
        low, high = (torch.full((len(x), self.classes), torch.inf, dtype=torch.float64) for _ in range(2))
        for start in range(0, len(self.sites), self.chunk):
            squared, error = self._squared(x, start)
            index = self.labels[start : start + self.chunk].expand(len(x), -1)
            low.scatter_reduce_(1, index, squared - error, "amin")
            high.scatter_reduce_(1, index, squared + error, "amin")
        return low.clamp_min(0).sqrt() * (1 - 4 * _UNIT), high.clamp_min(0).sqrt() * (1 + 4 * _UNIT)

    @on_cpu
    def logits(self, x: Tensor) -> Tensor:
        """-d(x, S_i) / 2, (batch, classes) float64, of x, (batch, ...); -inf for a class without sites."""
        low, high = self._nearest(check_points(x, self.sites).detach())
        return -(low + high) / 4

    @on_cpu
    def certify(self, x: Tensor, epsilon: float) -> Certificate:
        """Certify x, (batch, ...), by the margins y_j - y_i = (d(x, S_i) - d(x, S_j)) / 2, which are 1-Lipschitz.

        See `certify_by_bisectors` for larger radii.
        """
        low, high = self._nearest(check_points(x, self.sites).detach())
        prediction = (low + high).argmin(dim=1)
        own = high.gather(1, prediction[:, None]).squeeze(1)
        rival = low.scatter(1, prediction[:, None], torch.inf).amin(dim=1)
        return certificate(prediction, ((rival - own) / 2 * (1 - 4 * _UNIT)).clamp_min(0), epsilon)

    @on_cpu
    def certify_by_bisectors(self, x: Tensor, epsilon: float, candidates: int = 4) -> Certificate:
        """Certify x by the hyperplanes that bisect two sites: never less than `certify` gives, but for rounding.

        To get the label of a site q, a point must be no farther from q than from any site p of x's own label: it lies beyond each
        of their bisectors, and x is (d_q^2 - d_p^2) / (2 ||p - q||) from that of p and q. So the largest of these over p bounds
        the distance of x to the cell of q, and the smallest of the bounds over all q of other labels is the radius. For p it
        takes the `candidates` sites of the predicted label that are nearest to x.

        Raises ValueError for fewer than one candidate.
        """
        x = check_points(x, self.sites).detach()
        prediction = sum(self._nearest(x)).argmin(dim=1)
        radius, _ = _lowest(self._faces(x, prediction, self._own(x, prediction, candidates)), len(x), 1)
        return certificate(prediction, radius[:, 0].clamp_min(0), epsilon)

    def certify_by_cells(
        self,
        x: Tensor,
        epsilon: float,
        *,
        candidates: int = 8,
        rivals: int = 32,
        steps: int = 50,
        box: tuple[float, float] | None = None,
    ) -> Certificate:
        """Certify x by its distance to the cells of other labels: never less than `certify_by_bisectors` gives.

        Several bisectors at once, and the box that pixels lie in, keep a perturbation farther away than one bisector does. The
        nearest point of a cell is the solution of a quadratic programme (`cell_distance`), here bounded from below by its dual,
        for the `rivals` cells that the bisectors put nearest.

        Args:
            candidates: sites of the predicted label whose bisectors count, the nearest ones.
            rivals: cells whose distance is bounded so; the next one's bisectors bound all others.
            steps: of the dual's ascent. Any number gives a true bound.
            box: least and greatest value of a coordinate, as (0, 1) for images. With a box the certificate is a weaker statement:
                no point *within the box* and within the radius has another label.

        Raises ValueError for points outside the box, for fewer than one candidate or rival.
        """
        forms = self.certificates(x, epsilon, candidates=candidates, rivals=rivals, steps=steps, box=box)
        return forms["cells" if box is None else "cells_in_box"]

    @on_cpu
    def certificates(
        self,
        x: Tensor,
        epsilon: float,
        *,
        candidates: int = 8,
        rivals: int = 32,
        steps: int = 50,
        box: tuple[float, float] | None = None,
    ) -> dict[str, Certificate]:
        """What `certify_by_bisectors` and `certify_by_cells` give, as "bisectors" and "cells", by one comparison with all sites.

        With a box there is also "cells_in_box". See `certify_by_cells` for the arguments and errors.
        """
        if not is_count(rivals):
            raise ValueError(f"rivals is a number of sites, at least 1, not {rivals!r}")
        x = check_points(x, self.sites).detach()
        _check_box(x, box)
        prediction = sum(self._nearest(x)).argmin(dim=1)
        own = self._own(x, prediction, candidates)
        # The rivals + 1 lowest bounds by bisectors, and whose they are.
        best, index = _lowest(self._faces(x, prediction, own), len(x), rivals + 1)
        radii = {"bisectors": best[:, 0], "cells": self._cells(x, own, best, index, None, steps)}
        if box is not None:
            radii["cells_in_box"] = self._cells(x, own, best, index, box, steps)
        return {form: certificate(prediction, radius.clamp_min(0), epsilon) for form, radius in radii.items()}

    def _cells(
        self,
        x: Tensor,
        own: tuple[Tensor, Tensor],
        best: Tensor,
        index: Tensor,
        box: tuple[float, float] | None,
        steps: int,
    ) -> Tensor:
        """The distance to the nearest cell, (b,), given the lowest bounds by bisectors, (b, rivals + 1), and whose they are."""
        radius = best[:, -1].clone()  # of all rivals whose cells are not looked at
        for k in range(best.shape[1] - 1):
            # Where a tie or a wrong prediction leaves nothing to gain, or the bisectors alone exceed what is reached.
            todo = (best[:, k] > 0) & (best[:, k] < radius)
            bound = best[:, k].clone()
            for rows in todo.nonzero().flatten().split(512):
                part = tuple(places[rows] for places in own)
                bound[rows] = torch.maximum(
                    bound[rows], cell_distance(x[rows], self.sites, part, self.sites[index[rows, k]], box, steps)
                )
            radius = torch.minimum(radius, bound)
        return radius

    def _own(self, x: Tensor, prediction: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
        """The nearest sites of the predicted label, (b, candidates), and which of these places are filled."""
        if not is_count(candidates):
            raise ValueError(f"candidates is a number of sites, at least 1, not {candidates!r}")
        candidates = min(candidates, int(self.labels.bincount().max()))

        def squared() -> Iterator[tuple[int, Tensor]]:
            for start in range(0, len(self.sites), self.chunk):
                distances, _ = self._squared(x, start)
                distances[self.labels[start : start + self.chunk] != prediction[:, None]] = torch.inf
                yield start, distances

        best, index = _lowest(squared(), len(x), candidates)
        return index, best.isfinite()

    def _faces(self, x: Tensor, prediction: Tensor, own: tuple[Tensor, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """For each chunk its start and, (b, chunk), x's distance to the cell of each of its sites by bisectors, from below.

        Infinite for sites of the predicted label.
        """
        index, filled = own
        for start in range(0, len(self.sites), self.chunk):
            to_q, error_q = self._squared(x, start)
            largest = torch.full_like(to_q, -torch.inf)
            # Where many points share few sites it is cheaper to compare all sites once than those of each point.
            table = sum(self._squared(self.sites, start)) if len(self.sites) < min(index.numel(), 8192) else None
            for k in range(index.shape[1]):
                p = self.sites[index[:, k]]
                to_p = (x - p).square().sum(1)[:, None]
                between = sum(self._squared(p, start)) if table is None else table[index[:, k]]
                # Not 0, by which nothing can be divided: coinciding sites have the same label.
                width = between.clamp_min(_TINY).sqrt()
                error = error_q + (x.shape[1] + 8) * (_UNIT * (to_q.abs() + to_p) + _TINY)
                faces = (to_q - to_p - error) / (2 * width) * (1 - 8 * _UNIT)
                largest = torch.maximum(largest, faces.where(filled[:, k, None], -torch.inf))
            largest[self.labels[start : start + self.chunk] == prediction[:, None]] = torch.inf
            yield start, largest


def _lowest(chunks: Iterable[tuple[int, Tensor]], rows: int, count: int) -> tuple[Tensor, Tensor]:
    """The lowest values of each row over all chunks, (rows, count) in order, and their columns; infinite where there are fewer.

    Args:
        chunks: the first column of each, and its values, (rows, columns).
    """
    best = torch.full((rows, count), torch.inf, dtype=torch.float64)
    index = torch.zeros(rows, count, dtype=torch.int64)
    for start, values in chunks:
        places = torch.arange(start, start + values.shape[1]).expand(rows, -1)
        best, order = torch.cat((best, values), 1).topk(count, dim=1, largest=False)
        index = torch.cat((index, places), 1).gather(1, order)
    return best, index


def _check_box(x: Tensor, box: tuple[float, float] | None) -> None:
    if box is None:
        return
    try:
        low, high = map(float, box)
    except (TypeError, ValueError):
        raise ValueError(f"box is (least, greatest) value of a coordinate, (0, 1) say, not {box!r}") from None
    if not low < high:
        raise ValueError(f"box is (least, greatest) value of a coordinate, not {box}")
    outside = ((x < low) | (x > high)).any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"point {row} has coordinates from {x[row].min().item():g} to {x[row].max().item():g}, outside the box {box}: "
            "are the images scaled to [0, 1]?"
        )


@on_cpu
def cell_distance(
    x: Tensor,
    sites: Tensor,
    own: tuple[Tensor, Tensor],
    rival: Tensor,
    box: tuple[float, float] | None = None,
    steps: int = 50,
) -> Tensor:
    """How far each x is from the points that are no farther from its rival than from its own sites, from below.

    The least ||z|| with (q - p) z >= c_p for each own site p, c_p = (q - p) ((p + q) / 2 - x), and x + z in the box. For any
    multipliers l_p >= 0, with a = sum l_p (q - p), weak duality gives

        ||z||^2 / 2 >= sum l_p c_p + sum over coordinates of the least z_i^2 / 2 - a_i z_i that the box allows,

    and that least value is taken at a_i, clipped to the box. Without a box and with one site it is the distance to the bisector.
    The multipliers come from an accelerated gradient ascent; the bound is evaluated once, at the end, with its rounding counted.

    Args:
        x: (b, d) float64.
        sites: (n, d); own: indices of sites, (b, k), and which of them count, (b, k) bool.
        rival: q, (b, d).

    Returns: (b,) float64, in input units; large where there is no such point in the box at all.
    """
    index, filled = own
    p = sites[index]
    normals = (rival[:, None] - p).masked_fill(~filled[..., None], 0.0)  # (b, k, d)
    to_middle = (p + rival[:, None]) / 2 - x[:, None]
    needed = (normals * to_middle).sum(2)
    low, high = (-torch.inf, torch.inf) if box is None else (box[0] - x, box[1] - x)

    def clip(a: Tensor) -> Tensor:
        return a if box is None else a.clamp(low, high)

    # Multipliers are found for normals of length 1, where steps of 1 / (norm of their Gram matrix) are safe.
    lengths = normals.norm(dim=2).clamp_min(_TINY)
    unit, level = normals / lengths[..., None], needed / lengths
    gram = unit @ unit.mT
    step = 1 / torch.linalg.matrix_norm(gram, torch.inf).clamp_min(_TINY)[:, None]
    if box is not None:
        # The search is most of the cost, and single precision finds multipliers as good.
        searched, lowest, greatest = unit.float(), low.float(), high.float()

    def met(weights: Tensor) -> Tensor:
        """How much of each level the point that belongs to these multipliers meets."""
        if box is None:
            return (gram @ weights[..., None]).squeeze(2)
        z = (weights.float()[:, None] @ searched).squeeze(1).clamp(lowest, greatest)
        return (searched @ z[..., None]).squeeze(2).double()

    found = torch.zeros_like(level).scatter(1, level.argmax(1, keepdim=True), level.amax(1, keepdim=True).clamp_min(0))
    ahead, momentum = found, 1.0
    for _ in range(steps):
        new = (ahead + step * (level - met(ahead))).clamp_min(0)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        # Where the momentum points downhill it is dropped.
        uphill = ((new - found) * (new - ahead)).sum(1, keepdim=True) >= 0
        ahead = torch.where(uphill, new + (momentum - 1) / following * (new - found), new).clamp_min(0)
        found, momentum = new, following
    weights = (found / lengths).masked_fill(~filled | (lengths <= _TINY), 0.0)
    a = (weights[:, None] @ normals).squeeze(1)
    z = clip(a)
    value = (weights * needed).sum(1) + (z.square() / 2 - a * z).sum(1)
    # Rounding: a sum of d or k products is off by at most gamma times the sum of their absolute values; an error in a_i changes
    # the least value by that error times |z_i|, as the value is concave in a_i; p, q and x enter by differences.
    gamma = (2 * x.shape[1] + 4 * index.shape[1] + 32) * _UNIT
    size = (normals.abs() * ((p.abs() + rival[:, None].abs()) / 2 + x[:, None].abs())).sum(2)
    spread = (weights[:, None] @ normals.abs()).squeeze(1)
    error = gamma * ((weights * size).sum(1) + (spread * (z.abs() + gamma * spread)).sum(1) + z.square().sum(1))
    value = value - 2 * error - _TINY * 4 * x.shape[1] * (1 + weights.sum(1))
    return (2 * value.clamp_min(0)).sqrt().nan_to_num(nan=0.0, posinf=0.0) * (1 - 8 * _UNIT)


class DecisionFaces:
    """The paper's g in the plane: the distance to the faces of the Voronoi tessellation that part different labels.

    Sites on one line, for which there is no proper tessellation, are allowed: their cells are strips. The tessellation is proven:
    each pair of sites has its face, or a proof that it has none. Intervals in float64 settle nearly all of them, and exact
    fractions those that are too close to call. The sites and labels are copied.

    Args:
        sites: (n, 2), finite.
        labels: (n,) integers from 0.

    Attributes:
        edges: all faces, as (e, 2, 2) and (e, 2) float64, like the next two.
        faces: (f, 2, 2) float64: an origin and a direction of length 1 for each decision face.
        spans: (f, 2) float64: the face is origin + t direction for t between the two numbers, which may be infinite. They are
            rounded outwards.

    Raises ValueError, see `check_sites`, and for sites that are not in the plane.
    """

    @on_cpu
    def __init__(self, sites: Tensor, labels: Tensor):
        self.sites, self.labels = check_sites(sites, labels)
        if self.sites.shape[1] != 2:
            raise ValueError(f"decision faces are drawn in the plane; these sites have {self.sites.shape[1]} coordinates")
        sites, first = _unique_sites(self.sites)
        pairs, spans = _tessellate(sites)
        p, q = sites[pairs[:, 0]], sites[pairs[:, 1]]
        normals, lengths = _unit(q - p)
        directions = torch.stack((-normals[:, 1], normals[:, 0]), 1)
        origins = p + (q - p) / 2
        self.edges = torch.stack((origins, directions), 1), spans
        parts = self.labels[first[pairs[:, 0]]] != self.labels[first[pairs[:, 1]]]
        self.faces, self.spans = self.edges[0][parts], spans[parts]
        self._p, self._normals, self._lengths = p[parts], normals[parts], lengths[parts]

    @on_cpu
    def distance(self, x: Tensor) -> Tensor:
        """The distance of x, (b, 2), to the nearest decision face: (b,) float64, rounded down; differentiable."""
        x = check_points(x, self.sites)
        # From a site, not from the face's middle: the difference of two floats has but one rounding.
        offset = x[:, None] - self._p
        directions = self.faces[:, 1]
        across = (offset * self._normals).sum(2) - self._lengths / 2
        along = (offset * directions).sum(2)
        nearest = along.detach().clamp(self.spans[:, 0], self.spans[:, 1])
        # hypot does not underflow; where it is 0 it has no derivative.
        distance = torch.hypot(across, along - nearest)
        scale = offset.detach().abs().sum(2) + self._lengths + nearest.abs()
        return (distance - (16 * _UNIT * scale + _TINY)).clamp_min(0).amin(dim=1)

    @on_cpu
    def prediction(self, x: Tensor) -> Tensor:
        """The label of the site that is nearest to x, (b, 2): (b,) int64. Exact; of sites that tie, the first."""
        x = check_points(x, self.sites).detach()
        distances = torch.cdist(x, self.sites, compute_mode="donot_use_mm_for_euclid_dist")
        least, nearest = distances.min(dim=1)
        maybe = distances <= (least * (1 + 32 * _UNIT) + 2.0**-490)[:, None]
        labels = self.labels[nearest]
        for row in (maybe & (self.labels != labels[:, None])).any(1).nonzero().flatten().tolist():
            close = maybe[row].nonzero().flatten().tolist()
            labels[row] = self.labels[min(close, key=lambda k: _squared_length(x[row], self.sites[k]))]
        return labels

    @on_cpu
    def logits(self, x: Tensor) -> Tensor:
        """The categorical g: the distance at the predicted label, 0 elsewhere, (b, classes); each margin is 1-Lipschitz."""
        distance = self.distance(x)
        logits = torch.zeros(len(distance), int(self.labels.max()) + 1, dtype=torch.float64)
        return logits.scatter(1, self.prediction(x)[:, None], distance[:, None])


def _unique_sites(sites: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct sites, and the index in `sites` of each."""
    unique, group = sites.unique(dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(sites)).scatter_reduce(0, group, torch.arange(len(sites)), "amin")
    return unique, first


def _unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length 1 along v, (n, 2), none of them 0, and their lengths, (n,); also where squares underflow."""
    largest = v.abs().amax(1, keepdim=True)
    w = v / largest
    norm = torch.linalg.vector_norm(w, dim=1, keepdim=True)
    return w / norm, (largest * norm).squeeze(1)


def _tessellate(sites: Tensor, near: int = 16, chunk: int = 2**21) -> tuple[Tensor, Tensor]:
    """The faces of the Voronoi tessellation of distinct sites, (n, 2): the two sites of each, (e, 2), and its span, (e, 2).

    A span is in units of length along the bisector, from the middle of the two sites, rounded outwards. Every pair of sites that
    is not returned is proven to have no face, first by the sites near either of the two, then by all.
    """
    n = len(sites)
    pairs = torch.combinations(torch.arange(n))
    if n > 4 * near:
        # The sites near p cut p's cell down to a small polygon that the bisectors with most others do not meet.
        distances = torch.cdist(sites, sites, compute_mode="donot_use_mm_for_euclid_dist")
        neighbours = distances.topk(near + 1, largest=False).indices
        parts = []
        for part in pairs.split(max(1, chunk // (2 * near + 2))):
            parts.append(part[~_spans(sites, part, neighbours[part].flatten(1))[0]])
        pairs = torch.cat(parts)
    kept, spans = [], []
    for part in pairs.split(max(1, chunk // n)):
        empty, certain, span, thirds = _spans(sites, part, torch.arange(n).expand(len(part), -1))
        real = ~empty
        for row in (real & ~certain).nonzero().flatten().tolist():
            exact = _exact_span(sites, part[row].tolist(), thirds[row].nonzero().flatten().tolist())
            real[row] = exact is not None
            if exact is not None:
                span[row] = torch.tensor(exact, dtype=torch.float64)
        kept.append(part[real])
        spans.append(span[real])
    pairs, spans = torch.cat(kept), torch.cat(spans)
    _, lengths = _unit(sites[pairs[:, 1]] - sites[pairs[:, 0]])
    spans = spans * lengths[:, None]
    return pairs, spans + spans.abs() * torch.tensor([-8.0, 8.0], dtype=torch.float64) * _UNIT


def _spans(sites: Tensor, pairs: Tensor, thirds: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the thirds, (e, k) indices of sites, leave of the bisector of each pair, (e, 2), by interval arithmetic.

    With w = q - p turned left by a right angle, the point (p + q) / 2 + t w is no farther from p than from r where
    2 t (r - p) w <= (r - p) (r - q).

    Returns: (e,) where it is proven that nothing is left; (e,) where it is proven that something is, between certain bounds;
    (e, 2) bounds of t, rounded outwards; (e, k) the thirds that exact arithmetic has to look at where neither is proven.
    """
    p, q = sites[pairs[:, 0]][:, None], sites[pairs[:, 1]][:, None]
    r = sites[thirds]
    other = (thirds != pairs[:, :1]) & (thirds != pairs[:, 1:])
    # Differences are exact to one rounding, so each product to three and each sum to four.
    w = torch.stack((p[..., 1] - q[..., 1], q[..., 0] - p[..., 0]), 2)
    slopes, gaps = 2 * (r - p) * w, (r - p) * (r - q)
    slope, gap = slopes.sum(2), gaps.sum(2)
    e_slope, e_gap = (8 * _UNIT * v.abs().sum(2) + _TINY for v in (slopes, gaps))
    steep, size = other & (slope.abs() > e_slope), slope.abs()
    # t = +- gap / size, from below and from above; (1 +- 8 units) makes sure of the rounding of the quotient.
    low, high = gap - e_gap, gap + e_gap
    low = low / torch.where(low > 0, size + e_slope, size - e_slope)
    high = high / torch.where(high > 0, size - e_slope, size + e_slope)
    low, high = low - low.abs() * 8 * _UNIT, high + high.abs() * 8 * _UNIT
    up, down = steep & (slope > 0), steep & (slope < 0)
    upper_low, upper_high = (v.where(up, torch.inf).amin(1) for v in (low, high))
    lower_high, lower_low = ((-v).where(down, -torch.inf).amax(1) for v in (low, high))
    flat = other & ~steep
    # A site whose bisector with p runs along this one leaves all of it, where it is surely not between p and q, or nothing.
    empty = lower_low > upper_high
    certain = ~flat.any(1) & (lower_high < upper_low)
    decisive = flat | (up & (low <= upper_high[:, None])) | (down & (-low >= lower_low[:, None]))
    return empty, certain, torch.stack((lower_low, upper_high), 1), decisive


def _exact_span(sites: Tensor, pair: list[int], thirds: list[int]) -> tuple[float, float] | None:
    """The bounds of t of `_spans` in exact arithmetic, as the floats next to them outwards, or None where nothing is left."""
    p, q = (tuple(map(Fraction, sites[k].tolist())) for k in pair)
    w = p[1] - q[1], q[0] - p[0]
    low, high = None, None
    for k in thirds:
        r = tuple(map(Fraction, sites[k].tolist()))
        slope = 2 * ((r[0] - p[0]) * w[0] + (r[1] - p[1]) * w[1])
        gap = (r[0] - p[0]) * (r[0] - q[0]) + (r[1] - p[1]) * (r[1] - q[1])
        if slope > 0:
            high = gap / slope if high is None else min(high, gap / slope)
        elif slope < 0:
            low = gap / slope if low is None else max(low, gap / slope)
        elif gap < 0:
            return None
    if low is not None and high is not None and low > high:
        return None
    return _outward(low, -math.inf), _outward(high, math.inf)


def _outward(value: Fraction | None, way: float) -> float:
    if value is None:
        return way
    try:
        return math.nextafter(float(value), way)
    except OverflowError:
        return way if (value > 0) == (way > 0) else math.nextafter(-way, 0.0)
