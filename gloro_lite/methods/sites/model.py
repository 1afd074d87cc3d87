"""The sites as parameters, what training raises, and what they start from."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gloro_lite.certificate import Certificate, joined
from gloro_lite.evaluate import check_labels
from gloro_lite.lipschitz.checks import check_batch, is_count
from gloro_lite.voronoi import SiteClassifier, as_tensor, check_sites

_IN_BOX = 4
"""How many rivals training looks at within a box: it takes more than the rest of a step."""


class Sites(nn.Module):
    """Sites in input space as parameters, with their labels.

    Called, it returns -d(x, S_i) / 2 for each label i, as `SiteClassifier.logits` does, in the sites' own precision.

    Args:
        sites: (n, ...) floating point: one row a site, in the shape of an input.
        labels: (n,) integers from 0.

    Raises ValueError, see `gloro_lite.voronoi.check_sites`.
    """

    def __init__(self, sites: Tensor, labels: Tensor):
        super().__init__()
        sites = as_tensor(sites)
        _, labels = check_sites(sites, labels)
        self.sites = nn.Parameter(sites.detach().clone() if sites.is_floating_point() else sites.float())
        self.register_buffer("labels", labels)
        self.classes = int(labels.max()) + 1

    def _points(self, x: Tensor) -> Tensor:
        """x as a tensor. Raises TypeError for another kind of number, ValueError for another shape than that of the sites."""
        x, shape = as_tensor(x), tuple(self.sites.shape[1:])
        if not x.is_floating_point():
            raise TypeError(
                f"inputs must be floating-point numbers in the units of the sites, not {x.dtype}: x.float() / 255, say"
            )
        check_batch(x, shape)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of x, (batch, ...), in the shape of the sites."""
        sites = self.sites.flatten(1)
        distances = torch.cdist(self._points(x).flatten(1).to(sites), sites)
        nearest = distances.new_full((len(x), self.classes), torch.inf)
        return -nearest.scatter_reduce(1, self.labels.expand(len(x), -1), distances, "amin") / 2

    def radius(
        self,
        x: Tensor,
        y: Tensor,
        *,
        own: int = 4,
        rivals: int = 16,
        box: tuple[float, float] | None = None,
        half: bool = False,
    ) -> Tensor:
        """The signed radius towards the label y: positive where x has it, and then certified, but for rounding and unseen rivals.

        The smallest over sites q of other labels of the largest over sites p of label y of (d_q^2 - d_p^2) / (2 ||p - q||):
        see `SiteClassifier.certify_by_bisectors`. For training: only the sites nearest to x are looked at, and the gradient
        reaches the one p and the one q that decide.

        In a box an input cannot move everywhere: where a coordinate is at its least, only upwards. So the bisector is farther
        away, and ||p - q|| counts only those coordinates that can move towards q. Where positive, that is no more than the
        distance in the box, but for unseen rivals: of `rivals` only the four that are nearest without the box are looked at. Of
        what is negative the sign counts, and not the size.

        Args:
            x: (batch, ...); y: (batch,).
            own, rivals: how many of the nearest sites of the label y, and of the others, are looked at.
            box: least and greatest value of a coordinate, where the radius within the box is asked for.
            half: look for the nearest sites in bfloat16, which is faster where the processor has it; the radius is not affected
                but by sites that are hardly among the nearest.

        Returns: (batch,). Raises ValueError for labels that the sites do not have, and for fewer than one of either site.
        """
        if not (is_count(own) and is_count(rivals)):
            raise ValueError(f"own and rivals are numbers of sites, at least 1, not {own!r} and {rivals!r}")
        sites, x = self.sites.flatten(1), self._points(x).flatten(1).to(self.sites)
        check_labels(y, len(x), self.classes)
        with torch.no_grad():
            squares = sites.square().sum(1)
            if half:
                apart = squares - 2 * (x.bfloat16() @ sites.bfloat16().T).to(squares)
            else:
                apart = torch.addmm(squares, x, sites.T, alpha=-2)
            mine = self.labels == y[:, None]
            p = apart.masked_fill(~mine, torch.inf).topk(min(own, len(sites)), largest=False)
            q = apart.masked_fill_(mine, torch.inf).topk(min(rivals, len(sites)), largest=False)
            at_p, at_q = sites[p.indices], sites[q.indices]
            # ||x - s||^2 without ||x||^2, which the difference does not need.
            to_p, to_q = (squares[i] - 2 * (s @ x[:, :, None]).squeeze(2) for i, s in ((p.indices, at_p), (q.indices, at_q)))
            width = squares[p.indices][:, :, None] + squares[q.indices][:, None] - 2 * at_p @ at_q.mT
            faces = (to_q[:, None] - to_p[:, :, None]) / (2 * width.clamp_min(1e-12).sqrt())
            # Where a label has fewer sites than are asked for, the places left over hold infinity.
            faces = faces.where(p.values.isfinite()[:, :, None], -torch.inf).where(q.values.isfinite()[:, None], torch.inf)
            largest, which = faces.max(dim=1)
            i, j = p.indices.gather(1, which), q.indices
            if box is not None:  # of the rivals that are nearest without it, the nearest one within it
                largest, near = largest.topk(min(_IN_BOX, largest.shape[1]), largest=False)
                i, j = i.gather(1, near), j.gather(1, near)
                normals = sites[j] - sites[i]
                largest = largest * _length(normals) / _length(_towards(normals, x[:, None], box))
            rival = largest.argmin(dim=1, keepdim=True)
            i, j = (indices.gather(1, rival).squeeze(1) for indices in (i, j))
        p, q = sites[i], sites[j]
        # By the middle, not by squares that cancel.
        return ((q - p) * ((p + q) / 2 - x)).sum(1) / _length(_towards(q - p, x, box))

    def classifier(self) -> SiteClassifier:
        """The classifier of the sites as they are now, in float64."""
        return SiteClassifier(self.sites, self.labels)

    def certify(
        self,
        x: Tensor,
        epsilon: float,
        *,
        form: Literal["bisectors", "cells"] = "bisectors",
        candidates: int = 8,
        box: tuple[float, float] | None = None,
        batch_size: int = 5000,
    ) -> Certificate:
        """Certify x, (batch, ...), in float64, with its rounding counted, for exactly these sites.

        Args:
            epsilon: the l2 radius.
            form: "bisectors", or "cells" for the sharper and dearer distance to the cells of other labels.
            candidates: sites of the predicted label whose bisectors count.
            box: with "cells", the range that coordinates keep to, (0, 1) for images: the certificate then speaks of points in the
                box alone. See `SiteClassifier.certify_by_cells`.
            batch_size: inputs at a time.

        Raises ValueError for another form, a box without "cells", points of another shape than the sites, a batch_size below 1;
        TypeError for points that are not floating-point.
        """
        x = self._points(x)
        if not is_count(batch_size):
            raise ValueError(f"batch_size is a number of inputs, at least 1, not {batch_size!r}")
        if form not in ("bisectors", "cells"):
            raise ValueError(f'form must be "bisectors" or "cells", not {form!r}')
        if box is not None and form != "cells":
            raise ValueError('a box needs form="cells": one bisector knows of no box')
        classifier = self.classifier()
        parts = [
            classifier.certify_by_cells(part, epsilon, candidates=candidates, box=box)
            if form == "cells"
            else classifier.certify_by_bisectors(part, epsilon, candidates)
            for part in x.split(batch_size)
        ]
        if not parts:
            return classifier.certify_by_bisectors(x, epsilon)
        return joined(parts)


def _length(x: Tensor) -> Tensor:
    """The lengths of vectors in the last dimension, with a gradient at 0 too."""
    return x.square().sum(-1).clamp_min(1e-12).sqrt()


def _towards(normals: Tensor, x: Tensor, box: tuple[float, float] | None) -> Tensor:
    """The coordinates of directions in which x can move within a box; 0 for the others."""
    if box is None:
        return normals
    return normals.masked_fill(((x <= box[0]) & (normals < 0)) | ((x >= box[1]) & (normals > 0)), 0.0)


def hinge(radius: Tensor, target: float, cap: float = math.inf) -> Tensor:
    """The mean over the batch of how far each radius, (batch,), falls short of the target, counted up to `cap`."""
    return (target - radius).clamp(0, cap).mean()


def smooth(radius: Tensor, target: float, slope: float = 2.0) -> Tensor:
    """The mean of sigmoid(slope (target - radius)): a smooth version of the share of radii below the target."""
    return torch.sigmoid(slope * (target - radius)).mean()


def initial_sites(x: Tensor, y: Tensor, per_class: int, how: Literal["images", "kmeans"] = "images", seed: int = 0) -> Sites:
    """Sites to start from: `per_class` for each label of y, (n,).

    Args:
        x: (n, ...), float.
        how: "images" for images drawn at random, or "kmeans" for the means of as many clusters of each label, by Lloyd's
            algorithm from such images.

    Raises ValueError for another `how`, labels that do not fit, and a label with fewer images than sites.
    """
    check_labels(y, len(x))
    if how not in ("images", "kmeans"):
        raise ValueError(f'how must be "images" or "kmeans", not {how!r}')
    if not is_count(per_class):
        raise ValueError(f"per_class is a number of sites, at least 1, not {per_class!r}")
    generator = torch.Generator().manual_seed(seed)
    sites, labels = [], []
    for label in y.unique().tolist():
        own = x[y == label]
        if len(own) < per_class:
            raise ValueError(f"label {label} has {len(own)} images, too few for {per_class} sites")
        chosen = own[torch.randperm(len(own), generator=generator)[:per_class]]
        sites.append(_means(own, chosen) if how == "kmeans" else chosen)
        labels.append(torch.full((per_class,), label))
    return Sites(torch.cat(sites), torch.cat(labels))


def _means(x: Tensor, centres: Tensor, steps: int = 10) -> Tensor:
    """Lloyd's algorithm: centres, (k, ...), moved to the means of the points x, (n, ...), that are nearest to them."""
    shape, x, centres = centres.shape, x.flatten(1), centres.flatten(1)
    for _ in range(steps):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in x.split(4096)])
        count = nearest.bincount(minlength=len(centres))[:, None]
        means = torch.zeros_like(centres).index_add_(0, nearest, x) / count.clamp_min(1)
        centres = means.where(count > 0, centres)
    return centres.view(shape)
