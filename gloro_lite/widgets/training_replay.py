"""The training of two nets of the plane, epoch by epoch."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import torch
import traitlets
from torch import Tensor, nn

from gloro_lite.attacks import margin
from gloro_lite.fit import Epoch
from gloro_lite.net import GloroNet
from gloro_lite.widgets import export
from gloro_lite.widgets.base import Widget, frame, module

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Recording:
    """Snapshots of a net in training: give its `take` to `gloro_lite.fit.fit` as `on_epoch`.

    Args:
        points: (n, 2), to show and to measure margins on, with their labels, (n,).
    """

    def __init__(self, points: Tensor, labels: Tensor):
        self.points, self.labels = points, labels
        self.weights: list[bytes] = []
        self.constants: list[list[list[float]]] = []
        self.history: list[dict] = []
        self.layers: list[dict] = []

    def take(self, net: GloroNet, epoch: Epoch) -> None:
        """Keep the weights, the certified margin constants and the epoch's row of the history, and add to that row what can be
        compared between trainings with and without bottom: over the points, the median of the label's logit less the largest
        other, with its sign, and the mean cross-entropy of the logits without bottom, in nats.

        Weights are kept in half precision, so that a page with many epochs stays small. What is shown and what is certified is
        that rounded net: the constants, the margins and the cross-entropy are its own.
        """
        net = _rounded(net)
        self.layers = export.layers(net)
        self.weights.append(np.frombuffer(export.weights(net), "<f4").astype("<f2").tobytes())
        self.constants.append(export.table(net))
        with torch.no_grad():
            logits = net.logits(self.points).double()
        median = margin(logits, self.labels).median()
        entropy = nn.functional.cross_entropy(logits, self.labels)
        row = {**epoch._asdict(), "margin": median.item(), "cross_entropy": entropy.item()}
        self.history.append({key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()})


def _rounded(net: GloroNet) -> GloroNet:
    """A copy of the net whose parameters are half-precision numbers."""
    copy = deepcopy(net)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.copy_(parameter.half())
    return copy


class TrainingReplay(Widget):
    """Maps and curves of two recorded trainings at an epoch that the reader chooses.

    Args:
        gloro, standard: a `Recording` of each, of as many epochs, on the same points.
        epsilon: of bottom, in input units.

    Traits: `epoch`, from 0, and `epsilon`.

    Raises ValueError for recordings that are empty or of different lengths.
    """

    _esm = module("training_replay.js")
    gloro = traitlets.Dict().tag(sync=True)
    standard = traitlets.Dict().tag(sync=True)
    gloro_weights = traitlets.Bytes().tag(sync=True)
    standard_weights = traitlets.Bytes().tag(sync=True)
    points: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    labels: traitlets.List[int] = traitlets.List().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    epoch = traitlets.Int(0).tag(sync=True)

    def __init__(self, gloro: Recording, standard: Recording, *, epsilon: float):
        if not gloro.history or len(gloro.history) != len(standard.history):
            raise ValueError(
                f"the recordings hold {len(gloro.history)} and {len(standard.history)} epochs: record the same number"
            )
        recordings = {"gloro": ("GloRo training", gloro), "standard": ("Standard training", standard)}
        super().__init__(
            **{
                name: {
                    "title": title,
                    "layers": recording.layers,
                    "constants": recording.constants,
                    "history": recording.history,
                }
                for name, (title, recording) in recordings.items()
            },
            gloro_weights=b"".join(gloro.weights),
            standard_weights=b"".join(standard.weights),
            points=gloro.points.tolist(),
            labels=gloro.labels.tolist(),
            frame=frame(gloro.points),
            epoch=len(gloro.history) - 1,
            epsilon=epsilon,
            description=(
                "Training replay: the maps of a GloRo Net and of a standard net at one epoch, above curves of verified accuracy, "
                "median margin, largest margin constant and cross-entropy over all epochs."
            ),
        )

    def _draw(self) -> Figure:
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, 4, figsize=(9, 2.6))
        titles = {"vra": "VRA", "margin": "median margin", "lipschitz": "largest K", "cross_entropy": "cross-entropy"}
        for name, style in (("gloro", "-"), ("standard", "--")):
            rows = getattr(self, name)["history"]
            for axis, (key, title) in zip(axes, titles.items(), strict=True):
                axis.plot([row["epoch"] for row in rows], [row[key] for row in rows], style, label=name)
                axis.set(title=title, xlabel="epoch")
        axes[2].set_yscale("log")
        axes[0].legend()
        return figure
