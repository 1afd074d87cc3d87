"""The training of two nets of the plane, epoch by epoch."""

from __future__ import annotations

import ipywidgets
import traitlets
from torch import Tensor

from gloro_lite.fit import Epoch
from gloro_lite.net import GloroNet
from gloro_lite.widgets import export
from gloro_lite.widgets.base import Widget, frame, module


class Recording:
    """Snapshots of a net: give its `take` to `gloro_lite.fit.fit` as `on_epoch`."""

    def __init__(self):
        self.weights: list[bytes] = []
        self.constants: list[list[list[float]]] = []
        self.history: list[Epoch] = []
        self.layers: list[dict] = []

    def take(self, net: GloroNet, epoch: Epoch) -> None:
        """Keep the weights, the certified margin constants, and the epoch's row of the history."""
        self.layers = export.layers(net)
        self.weights.append(export.weights(net))
        self.constants.append(export.table(net))
        self.history.append(epoch)


class TrainingReplay(Widget):
    """Maps and curves of two recorded trainings at an epoch that the reader chooses.

    Args:
        gloro, standard: a `Recording` of each, of as many epochs.
        points: (n, 2), with their labels, (n,).
        epsilon: of bottom, in input units.

    Traits: `epoch`, from 0, and `epsilon`.

    Raises ValueError for recordings that are empty or of different lengths.
    """

    _esm = module("training_replay.js")
    gloro = traitlets.Dict().tag(sync=True)
    standard = traitlets.Dict().tag(sync=True)
    gloro_weights = traitlets.Bytes().tag(sync=True)
    standard_weights = traitlets.Bytes().tag(sync=True)
    points = traitlets.List().tag(sync=True)
    labels = traitlets.List().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    epoch = traitlets.Int(0).tag(sync=True)

    def __init__(self, gloro: Recording, standard: Recording, points: Tensor, labels: Tensor, *, epsilon: float):
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
                    "history": [row._asdict() for row in recording.history],
                }
                for name, (title, recording) in recordings.items()
            },
            gloro_weights=b"".join(gloro.weights),
            standard_weights=b"".join(standard.weights),
            points=points.tolist(),
            labels=labels.tolist(),
            frame=frame(points),
            epoch=len(gloro.history) - 1,
            epsilon=epsilon,
            description=(
                "Training replay: the maps of a GloRo Net and of a standard net at one epoch, above curves of verified accuracy, "
                "accuracy, largest margin constant and loss over all epochs."
            ),
        )

    def with_controls(self, largest: float = 1.0) -> ipywidgets.VBox:
        """The picture under sliders for the epoch and for epsilon."""
        box = super().with_controls(largest)
        slider = ipywidgets.IntSlider(
            value=self.epoch,
            min=0,
            max=len(self.gloro["history"]) - 1,
            description="epoch",
            layout={"width": "100%", "max_width": "420px"},
        )
        ipywidgets.jslink((slider, "value"), (self, "epoch"))
        return ipywidgets.VBox([slider, *box.children])

    def _draw(self):
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(1, 3, figsize=(8, 2.8))
        for name, style in (("gloro", "-"), ("standard", "--")):
            rows = getattr(self, name)["history"]
            for axis, key in zip(axes, ("vra", "lipschitz", "loss"), strict=True):
                axis.plot([row["epoch"] for row in rows], [row[key] for row in rows], style, label=name)
                axis.set(title={"vra": "VRA", "lipschitz": "largest K", "loss": "loss"}[key], xlabel="epoch")
        axes[1].set_yscale("log")
        axes[0].legend()
        return figure
