"""Activations: what nets with each of them certify, how they use their bound, and what a step costs. Drawing needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gloro_lite import extras, plotting
from gloro_lite.report.runs import Record, Runs, mean, measurements
from gloro_lite.report.tables import markdown, percent, span, standard_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "minmax": "MinMax",
    "groupsort4": "GroupSort of 4",
    "abs": "absolute value",
    "relu": "ReLU",
    "none": "no hidden layer",
}
"""What tables and figures call each activation, in their order."""
BENT = ("minmax", "groupsort4", "abs")
"""Those that keep the length of every gradient."""
DIGITS = 200
"""Of a validation split, see `gloro_lite.datasets.digits`."""


@dataclass(frozen=True)
class Trained:
    """All that the chapter's table and figure are made from.

    Attributes:
        runs: by activation what was measured of its nets, one a seed.
        settings: of their training.
        step: what a training step took: `seconds` by activation, `settings`, `machine`.
        ablations: the runs of `data/ablations.json`.
    """

    runs: Runs
    settings: Record
    step: Record
    ablations: list[Record]

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len({run["seed"] for runs in self.runs.values() for run in runs})

    def cost(self, activation: str) -> str:
        """The time of a step in steps with ReLU; a dash where it was not measured."""
        seconds = self.step["seconds"]
        return f"{seconds[activation] / seconds['relu']:.1f}" if activation in seconds else "–"


def trained() -> Trained:
    """Read what is stored."""
    found = measurements("activations")
    return Trained(by_activation(found["runs"]), found["settings"], found["step"], measurements("ablations")["runs"])


def by_activation(runs: Iterable[Record]) -> Runs:
    """Runs by their activation, in the order of `NAMES`."""
    found: Runs = {activation: [] for activation in NAMES}
    for run in runs:
        found[run["activation"]].append(run)
    return found


def table(data: Trained) -> str:
    """What nets with each activation come to: means over seeds, VRA and accuracy in per cent."""
    # \xad: where a phone may break a word.
    head = ["activa\xadtion", "VRA (%)", "of seeds", "accu\xadracy (%)", "gra\xaddient / bound", "align\xadment", "step"]
    rows = []
    for activation, runs in data.runs.items():
        vra, accuracy = (percent(mean(runs, field), 1) for field in ("vra", "accuracy"))
        seeds = span((100 * run["vra"] for run in runs), ".1f", "–")
        use = (f"{mean(runs, field):.2f}" for field in ("gradient_share", "alignment"))
        rows.append([NAMES[activation], vra, seeds, accuracy, *use, data.cost(activation)])
    return markdown(head, rows, "lrrrrrr")


def numbers(data: Trained) -> dict[str, str]:
    """What the text says of these nets, by the names that it is glued under.

    Raises AssertionError where the text would no longer be true.
    """
    vra, share, alignment = (
        {activation: mean(runs, field) for activation, runs in data.runs.items()}
        for field in ("vra", "gradient_share", "alignment")
    )
    assert all(abs(share["relu"] - share[bent]) < 0.1 for bent in BENT)
    assert all(alignment["relu"] > alignment[bent] + 0.03 for bent in BENT)
    assert all(vra["none"] < vra["relu"] < vra[bent] for bent in BENT)
    assert vra["minmax"] <= vra["groupsort4"] <= vra["abs"]
    kept = [part for run in data.runs["relu"] for layer, part in run["layers"].items() if "ReLU" in layer]
    texts = {f"vra-{activation}": percent(value, 1) for activation, value in vra.items()}
    texts |= {f"share-{activation}": f"{value:.2f}" for activation, value in share.items()}
    texts |= {f"align-{activation}": f"{value:.2f}" for activation, value in alignment.items()}
    texts |= {f"step-{activation}": data.cost(activation) for activation in ("groupsort4", "minmax")}
    return texts | {
        "epochs": str(data.settings["epochs"]),
        "seeds": str(data.seeds),
        "batch": str(data.step["settings"]["batch_size"]),
        "where": data.step["machine"]["device"],
        "error": percent(standard_error(vra["minmax"], DIGITS * data.seeds), 1),
        "ratio": span((mean(runs, "ratio") for activation, runs in data.runs.items() if activation != "none"), ".2f"),
        "kept": f"{percent(1 - min(kept), 1)}%",
    }


def lost_to_relu(data: Trained) -> dict[str, str]:
    """How many points the ablations lose with ReLU in place of MinMax, by the names that they are glued under."""
    texts = {}
    for name in ("vra", "accuracy"):
        minmax, relu = (
            mean((run for run in data.ablations if run["variant"] == variant), f"validation_{name}")
            for variant in ("base", "activation: ReLU")
        )
        texts[f"lost-{name}"] = percent(minmax - relu, 1)
    return texts


def use_of_bound(data: Trained, before: Mapping[str, Record]) -> Figure:
    """Gradient over bound against alignment: a mark for each trained net, and for one of random weights where there is one.

    Args:
        before: by activation what `experiments.activations.use_of_bound` says of a net before training.
    """
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4.8, 3.6))
    for (activation, runs), color, marker in zip(data.runs.items(), plotting.CLASS_COLORS, plotting.MARKERS, strict=False):
        after = [(run["alignment"], run["gradient_share"]) for run in runs]
        axis.scatter(*zip(*after, strict=True), color=color, marker=marker, label=NAMES[activation])
        if activation in before:
            start = before[activation]["alignment"], before[activation]["gradient_share"]
            axis.scatter(*start, marker=marker, facecolors="white", edgecolors=color)
            axis.annotate("", after[0], start, arrowprops={"arrowstyle": "->", "color": color, "alpha": 0.6})
    axis.set(xlabel="alignment (1: a linear function)", ylabel="gradient / bound", xlim=(0, 1.04), ylim=(0, 1.04))
    axis.legend(fontsize=9, loc="lower right")
    return figure
