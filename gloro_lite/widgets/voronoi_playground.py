"""The paper's Theorem 3 to play with: labelled sites, the faces between labels, and the level curves of g."""

from __future__ import annotations

from typing import TYPE_CHECKING

import traitlets
from torch import Tensor

from gloro_lite.voronoi import DecisionFaces
from gloro_lite.widgets.base import Widget, frame, module

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SITES = 60


class VoronoiPlayground(Widget):
    """Sites that the reader drags, adds, deletes and relabels; shows the decision faces, g, and the sites that are too close.

    Args:
        sites: (n, 2), at most `MOST_SITES`, with their labels, (n,): see `gloro_lite.voronoi.check_sites`.
        epsilon: in input units.

    Traits: `sites`, `labels` and `epsilon`, all moved by the reader.

    Raises ValueError for too many sites and as `check_sites` does.
    """

    _esm = module("voronoi_playground.js")
    sites: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    labels: traitlets.List[int] = traitlets.List().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    classes = traitlets.Int(2).tag(sync=True)
    most = traitlets.Int(MOST_SITES).tag(sync=True)

    def __init__(self, sites: Tensor, labels: Tensor, *, epsilon: float = 0.25):
        faces = DecisionFaces(sites, labels)
        if len(faces.sites) > MOST_SITES:
            raise ValueError(f"{len(faces.sites)} sites are too many for a browser to move: give at most {MOST_SITES}")
        super().__init__(
            sites=faces.sites.tolist(),
            labels=faces.labels.tolist(),
            frame=frame(faces.sites.float(), margin=0.5),
            classes=max(3, int(faces.labels.max()) + 1),
            epsilon=epsilon,
            description=(
                "Voronoi playground: labelled sites in the plane, coloured cells, bold faces between cells of different labels, "
                "thin level curves of g parallel to them, and a dotted disc of radius epsilon around each site."
            ),
        )

    def _draw(self) -> Figure:
        import torch
        from matplotlib import pyplot as plt

        from gloro_lite import plotting

        sites, labels = torch.tensor(self.sites), torch.tensor(self.labels)
        g = DecisionFaces(sites, labels)

        def label(x: Tensor) -> Tensor:
            inside = torch.cat([g.distance(part) for part in x.split(4096)]) > self.epsilon
            return g.prediction(x).where(inside, -1)

        figure, axis = plt.subplots(figsize=(4.6, 4.6))
        plotting.decision_regions(axis, label, sites)
        for (origin, direction), span in zip(g.faces, g.spans.clamp(-20, 20), strict=True):
            axis.plot(*torch.stack([origin + t * direction for t in span]).T, color="black", lw=2)
        plotting.scatter(axis, sites, labels, size=30)
        return figure
