"""A GloRo Net and a standard net on the same points of the plane, side by side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import traitlets
from torch import Tensor

from gloro_lite.net import GloroNet
from gloro_lite.widgets import export
from gloro_lite.widgets.base import Widget, frame, module

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MarginExplorer(Widget):
    """Two nets of the plane: their classes, where bottom wins, and the certified disc around a point.

    Args:
        gloro: a net trained with bottom, with inputs of shape (2,) and at most `export.MOST_PARAMETERS` parameters.
        standard: another such net of as many classes, trained without; give it as a GloroNet too, for its constants.
        points: (n, 2), shown on the maps, with their labels, (n,).
        epsilon: of bottom, in input units; `gloro.epsilon` by default.

    Traits: `epsilon`, and `point`, [x1, x2], which the reader moves. An attack on the point runs within each net's certified
    radius, where it must fail, or within epsilon, where it may.

    Raises ValueError and TypeError as `export.layers` does.
    """

    _esm = module("margin_explorer.js")
    gloro = traitlets.Dict().tag(sync=True)
    standard = traitlets.Dict().tag(sync=True)
    gloro_weights = traitlets.Bytes().tag(sync=True)
    standard_weights = traitlets.Bytes().tag(sync=True)
    points: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    labels: traitlets.List[int] = traitlets.List().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    point: traitlets.List[float] = traitlets.List().tag(sync=True)

    def __init__(self, gloro: GloroNet, standard: GloroNet, points: Tensor, labels: Tensor, *, epsilon: float | None = None):
        nets = {"gloro": ("GloRo Net", gloro), "standard": ("Standard net", standard)}
        if gloro.classes != standard.classes:
            raise ValueError(f"the nets have {gloro.classes} and {standard.classes} classes: give two for the same points")
        self._nets = nets
        super().__init__(
            **{
                k: {"title": title, "layers": export.layers(net), "constants": export.table(net)}
                for k, (title, net) in nets.items()
            },
            gloro_weights=export.weights(gloro),
            standard_weights=export.weights(standard),
            points=points.tolist(),
            labels=labels.tolist(),
            frame=frame(points),
            point=[round(v, 4) for v in points[0].tolist()],
            epsilon=gloro.epsilon if epsilon is None else epsilon,
            description=(
                "Margin explorer: maps of the plane for a GloRo Net and a standard net, coloured by class and hatched where "
                "bottom wins, a band along each boundary; discs show how far the prediction at one point is certified."
            ),
        )

    def _labels(self, net: GloroNet, x: Tensor) -> Tensor:
        return net.certify(x, self.epsilon).label

    def _draw(self) -> Figure:
        import torch
        from matplotlib import pyplot as plt

        from gloro_lite import plotting

        points, labels = torch.tensor(self.points), torch.tensor(self.labels)
        figure, axes = plt.subplots(1, 2, figsize=(7, 3.7))
        for axis, (title, net) in zip(axes, self._nets.values(), strict=True):
            plotting.decision_regions(axis, partial(self._labels, net), points)
            plotting.scatter(axis, points, labels)
            a, b = self.point
            radius = net.certify(torch.tensor([[a, b]])).radius.item()
            axis.add_patch(plt.Circle((a, b), radius, fill=False, lw=1.5))
            axis.set_title(title)
        return figure
