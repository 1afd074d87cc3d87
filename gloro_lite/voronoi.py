"""Theorem 3: on a set of sites that is 2 epsilon-separated there is a function with constant margin 1 that certifies all of it.

In any dimension, `SiteClassifier`: the logit of class i is -d(x, S_i) / 2, with d the distance to the nearest site of label i. A
distance is 1-Lipschitz, so each margin y_j - y_i is too: K_ij = 1. In the plane, `DecisionFaces`: the paper's own g, the
distance to the Voronoi faces that part different labels (needs numpy and scipy).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_lite.certificate import BOTTOM, Certificate, check_epsilon

_UNIT = 2.0**-53


class SeparationError(ValueError):
    """Sites that Theorem 3 does not hold for: two with different labels are not more than 2 epsilon apart."""


def check_sites(sites: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return sites, (n, ...), flattened in float64, and labels, (n,) int64.

    Raises ValueError for fewer than two sites or labels, values that are not finite, negative labels, and for two sites that
    coincide with different labels.
    """
    sites = torch.as_tensor(sites).double().flatten(1)
    labels = torch.as_tensor(labels).long()
    if len(sites) != len(labels) or labels.dim() != 1:
        raise ValueError(f"there are {len(sites)} sites and labels of shape {tuple(labels.shape)}: give one label for each site")
    if len(sites) < 2 or len(labels.unique()) < 2:
        raise ValueError("at least two sites with two different labels are needed: with fewer there is nothing to part")
    if not sites.isfinite().all():
        raise ValueError(f"site {int((~sites.isfinite()).any(1).nonzero()[0])} holds NaN or infinite values")
    if labels.min() < 0:
        raise ValueError("labels are classes: they must be 0 or greater")
    _, group = sites.unique(dim=0, return_inverse=True)
    low = torch.full((len(sites),), len(labels)).scatter_reduce(0, group, labels, "amin")
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
    """Return x, (batch, ...), flattened in float64. Raises ValueError for another dimension than the sites' and for values that
    are not finite."""
    x = torch.as_tensor(x).double().flatten(1)
    if x.shape[1] != sites.shape[1]:
        raise ValueError(f"points have {x.shape[1]} coordinates and the sites {sites.shape[1]}")
    if not x.isfinite().all():
        raise ValueError(f"point {int((~x.isfinite()).any(1).nonzero()[0])} holds NaN or infinite values")
    return x


def check_separation(sites: Tensor, labels: Tensor, epsilon: float, chunk: int = 1024) -> float:
    """The least distance between two sites of different labels, which must be greater than 2 epsilon.

    Raises SeparationError, which names the closest pair and their distance.
    """
    epsilon = check_epsilon(epsilon)
    sites, labels = check_sites(sites, labels)
    least, pair = torch.inf, (0, 0)
    for start in range(0, len(sites), chunk):
        distances = torch.cdist(sites[start : start + chunk], sites, compute_mode="donot_use_mm_for_euclid_dist")
        distances[labels[start : start + chunk, None] == labels] = torch.inf
        if distances.min() < least:
            least = distances.min().item()
            row, column = divmod(int(distances.argmin()), len(sites))
            pair = (start + row, column)
    if not least > 2 * epsilon:
        raise SeparationError(
            f"sites {pair[0]} and {pair[1]} have different labels and are {least:.6g} apart, which is not more than "
            f"2 epsilon = {2 * epsilon:.6g}: take an epsilon below {least / 2:.6g}, or remove one of them"
        )
    return least


class SiteClassifier:
    """The classifier of Theorem 3 in any dimension: the label of the nearest site, with certificates.

    Args:
        sites: (n, ...), finite.
        labels: (n,) integers from 0.
        chunk: sites that are compared at a time; memory grows with it and with the batch, not with n.

    Raises ValueError, see `check_sites`.
    """

    def __init__(self, sites: Tensor, labels: Tensor, *, chunk: int = 4096):
        self.sites, self.labels = check_sites(sites, labels)
        self.classes = int(self.labels.max()) + 1
        self.chunk = chunk
        self._squares = self.sites.square().sum(1)

    def _squared(self, x: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Squared distances of x, (b, d), to a chunk of sites, (b, chunk), and a bound on their rounding error."""
        stop = start + self.chunk
        norms = x.square().sum(1)[:, None] + self._squares[start:stop]
        squared = norms - 2 * x @ self.sites[start:stop].T
        # Sums of d products and two more additions, each product at most half of the norms' sum.
        return squared, (2 * x.shape[1] + 8) * _UNIT * 2 * norms

    def _nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The distance to the nearest site of each label from below and from above, (b, classes)."""
        low, high = (torch.full((len(x), self.classes), torch.inf, dtype=torch.float64) for _ in range(2))
        for start in range(0, len(self.sites), self.chunk):
            squared, error = self._squared(x, start)
            index = self.labels[start : start + self.chunk].expand(len(x), -1)
            low.scatter_reduce_(1, index, squared - error, "amin")
            high.scatter_reduce_(1, index, squared + error, "amin")
        return low.clamp_min(0).sqrt() * (1 - 4 * _UNIT), high.clamp_min(0).sqrt() * (1 + 4 * _UNIT)

    def logits(self, x: Tensor) -> Tensor:
        """-d(x, S_i) / 2, (batch, classes) float64, of x, (batch, ...); -inf for a class without sites."""
        low, high = self._nearest(check_points(x, self.sites))
        return -(low + high) / 4

    def certify(self, x: Tensor, epsilon: float) -> Certificate:
        """Certify x, (batch, ...), by the margins y_j - y_i = (d(x, S_i) - d(x, S_j)) / 2, which are 1-Lipschitz.

        Rounding is accounted for. See `certify_by_bisectors` for larger radii.
        """
        low, high = self._nearest(check_points(x, self.sites))
        prediction = (low + high).argmin(dim=1)
        own = high.gather(1, prediction[:, None]).squeeze(1)
        rival = low.scatter(1, prediction[:, None], torch.inf).amin(dim=1)
        return _certificate(prediction, (rival - own) / 2 * (1 - 4 * _UNIT), epsilon)

    def certify_by_bisectors(self, x: Tensor, epsilon: float, candidates: int = 4) -> Certificate:
        """Certify x by the hyperplanes that bisect two sites: never less than `certify` gives, but for rounding.

        For a site p of the predicted label, the points that are closer to p than to any site q of another label form a convex
        cell; x is (d_q^2 - d_p^2) / (2 ||p - q||) from its face towards q. The radius is the smallest of these over q, and of
        those the largest over the `candidates` sites p of the predicted label that are nearest to x.
        """
        x = check_points(x, self.sites)
        prediction = sum(self._nearest(x)).argmin(dim=1)
        best = torch.full((len(x), candidates), torch.inf, dtype=torch.float64)
        index = torch.zeros(len(x), candidates, dtype=torch.int64)
        for start in range(0, len(self.sites), self.chunk):
            squared, _ = self._squared(x, start)
            squared[self.labels[start : start + self.chunk] != prediction[:, None]] = torch.inf
            places = torch.arange(start, start + squared.shape[1]).expand(len(x), -1)
            merged, order = torch.cat((best, squared), 1).topk(candidates, dim=1, largest=False)
            best, index = merged, torch.cat((index, places), 1).gather(1, order)
        radius = torch.zeros(len(x), dtype=torch.float64)
        for k in range(candidates):
            p = self.sites[index[:, k]]
            to_p = (x - p).square().sum(1)[:, None]
            least = torch.full((len(x),), torch.inf, dtype=torch.float64)
            for start in range(0, len(self.sites), self.chunk):
                to_q, error = self._squared(x, start)
                between, error_between = self._squared(p, start)
                width = (between + error_between).clamp_min(0).sqrt()
                error = error + (x.shape[1] + 8) * _UNIT * (to_q.abs() + to_p)
                faces = (to_q - to_p - error) / (2 * width) * (1 - 8 * _UNIT)
                faces[self.labels[start : start + self.chunk] == prediction[:, None]] = torch.inf
                least = torch.minimum(least, faces.amin(dim=1))
            # A place that no site of this label has filled holds infinity.
            radius = torch.maximum(radius, least.where(best[:, k].isfinite(), 0.0))
        return _certificate(prediction, radius, epsilon)


def _certificate(prediction: Tensor, radius: Tensor, epsilon: float) -> Certificate:
    radius = radius.clamp_min(0)
    return Certificate(prediction.where(radius > check_epsilon(epsilon), BOTTOM), radius, prediction)


class DecisionFaces:
    """The paper's g in the plane: the distance to the faces of the Voronoi tessellation that part different labels.

    Sites on one line, for which there is no proper tessellation, are allowed: their cells are strips.

    Args:
        sites: (n, 2), finite.
        labels: (n,) integers from 0.

    Attributes:
        faces: (f, 2, 2) float64: an origin and a direction of length 1 for each decision face.
        spans: (f, 2) float64: the face is origin + t direction for t between the two numbers, which may be infinite.

    Raises ValueError, see `check_sites`, and for sites that are not in the plane.
    """

    def __init__(self, sites: Tensor, labels: Tensor):
        self.sites, self.labels = check_sites(sites, labels)
        if self.sites.shape[1] != 2:
            raise ValueError(f"decision faces are drawn in the plane; these sites have {self.sites.shape[1]} coordinates")
        pairs, self.edges = self._tessellate()
        parts = self.labels[pairs[:, 0]] != self.labels[pairs[:, 1]]
        self.faces, self.spans = self.edges[0][parts], self.edges[1][parts]

    def _tessellate(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """All faces: the two sites that each parts, (e, 2), and the faces as (e, 2, 2) and (e, 2)."""
        sites, first = _unique_sites(self.sites)
        # Qhull squares coordinates: far from the origin their differences would drown.
        shifted = sites - sites[0]
        size, width = torch.linalg.svdvals(shifted - shifted.mean(0)).tolist()
        if min(width, torch.pdist(shifted).min().item()) <= 1e-8 * size:
            # Qhull refuses sites on one line and loses faces where they nearly are, or nearly coincide: try each pair.
            pairs = torch.combinations(torch.arange(len(sites)))
        else:
            from scipy.spatial import Voronoi

            pairs = torch.from_numpy(Voronoi(shifted.numpy()).ridge_points).long()
        p, q = sites[pairs[:, 0]], sites[pairs[:, 1]]
        normal = (q - p) / (q - p).norm(dim=1, keepdim=True)
        direction = torch.stack((-normal[:, 1], normal[:, 0]), 1)
        spans = torch.cat(
            [_spans(sites, *part) for part in zip(p.split(1024), q.split(1024), direction.split(1024), strict=True)]
        )
        # Sites that share no face have an empty span; so, by rounding, may have those that share a single point, which lies on
        # other faces too.
        real = (spans[:, 0] <= spans[:, 1]) & (spans[:, 0] < torch.inf)
        faces = torch.stack(((p + q) / 2, direction), 1)
        return first[pairs[real]], (faces[real], spans[real])

    def distance(self, x: Tensor) -> Tensor:
        """The distance of x, (b, 2), to the nearest decision face: (b,) float64. Exact on each side of it."""
        x = check_points(x, self.sites)
        offset = x[:, None] - self.faces[:, 0]
        t = (offset * self.faces[:, 1]).sum(2)
        nearest = t.clamp(self.spans[:, 0], self.spans[:, 1])
        return (offset - nearest[..., None] * self.faces[:, 1]).norm(dim=2).amin(dim=1)

    def prediction(self, x: Tensor) -> Tensor:
        """The label of the site that is nearest to x, (b, 2): (b,) int64."""
        x = check_points(x, self.sites)
        return self.labels[torch.cdist(x, self.sites, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)]

    def logits(self, x: Tensor) -> Tensor:
        """The categorical g: the distance at the predicted label, 0 elsewhere, (b, classes); each margin is 1-Lipschitz."""
        logits = torch.zeros(len(x), int(self.labels.max()) + 1, dtype=torch.float64)
        return logits.scatter(1, self.prediction(x)[:, None], self.distance(x)[:, None])


def _unique_sites(sites: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct sites, and the index in `sites` of each."""
    unique, group = sites.unique(dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(sites)).scatter_reduce(0, group, torch.arange(len(sites)), "amin")
    return unique, first


def _spans(sites: Tensor, p: Tensor, q: Tensor, direction: Tensor) -> Tensor:
    """Which part of the bisector of p and q, (e, 2) each, belongs to their face: (e, 2), infinite where it is unbounded.

    The point (p + q) / 2 + t direction is as close to p as to any other site r where 2 t (r - p).direction <= (r - p).(r - q).
    """
    to_p, to_q = sites - p[:, None], sites - q[:, None]
    slope, gap = 2 * (to_p * direction[:, None]).sum(2), (to_p * to_q).sum(2)
    other = (to_p != 0).any(2) & (to_q != 0).any(2)
    upper = (gap / slope).where(other & (slope > 0), torch.inf).amin(1)
    lower = (gap / slope).where(other & (slope < 0), -torch.inf).amax(1)
    between = (other & (slope == 0) & (gap < 0)).any(1)
    return torch.stack((lower.where(~between, torch.inf), upper), 1)
