"""Tightness: proven constants beside the steepest slopes that were found, and where the slack is. Drawing needs matplotlib."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, NamedTuple

from gloro_lite import extras, plotting
from gloro_lite.report.runs import Record, measurements
from gloro_lite.report.tables import markdown, percent, span, standard_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURED = ("mnist-0.3-standard", "mnist-0.3", "mnist-1.58")
"""The nets whose slack is drawn layer by layer."""

_BALLS = 1
"""Of a layer's two factors the second: the geometric mean over the pairs in balls. The first is the steepest pair's."""


class Slopes(NamedTuple):
    """A net's slopes of margins, in logits per pixel unit: the largest proven, the steepest found anywhere, and the mean of the
    steepest found within epsilon of each image."""

    title: str
    upper: float
    lower: float
    local: float
    by_paper: bool = False


@dataclass(frozen=True)
class Evidence:
    """All that the chapter's tables are made from.

    Attributes:
        nets: `data/tightness.json`, by recipe: nets of one radius together, those without bottom first.
        paper: the paper's slopes, by row and by "standard" or "gloro": upper, lower, local.
        paper_limits: the paper's VRA and its global limit, by row, in per cent.
    """

    nets: dict[str, Record]
    paper: dict[str, dict[str, list[float]]]
    paper_limits: dict[str, list[float]]

    @property
    def gloro(self) -> dict[str, Record]:
        """The nets with bottom in their loss."""
        return {name: net for name, net in self.nets.items() if net["loss"] != "standard"}

    @property
    def standard(self) -> dict[str, Record]:
        """The nets without."""
        return {name: net for name, net in self.nets.items() if net["loss"] == "standard"}

    @property
    def search(self) -> Record:
        """How slopes were searched, the same for every net."""
        return next(iter(self.nets.values()))["search"]


def evidence() -> Evidence:
    """Read what is stored."""
    published = measurements("paper")
    return Evidence(in_order(measurements("tightness")["nets"]), published["bounds"], published["vra_by_lower"])


def in_order(nets: dict[str, Record]) -> dict[str, Record]:
    """The nets as tables show them, by recipe: MNIST, then CIFAR-10, by radius, and those without bottom first."""
    places = {"mnist": 0, "cifar10": 1}

    def place(name: str) -> tuple[int, float, bool]:
        net = nets[name]
        return places.get(net["dataset"], len(places)), net["epsilon"], net["loss"] != "standard"

    return {name.removesuffix("/seed-0"): nets[name] for name in sorted(nets, key=place)}


def slopes(data: Evidence) -> list[Slopes]:
    """Of our nets, then of the paper's."""
    ours = [Slopes(name, net["upper"], net["lower"], mean(net["local"]["slope"])) for name, net in data.nets.items()]
    theirs = [
        Slopes(f"{name}, {kind}", upper, lower, local, by_paper=True)
        for name, kinds in data.paper.items()
        for kind, (upper, lower, local) in kinds.items()
    ]
    return ours + theirs


def slope_table(data: Evidence) -> str:
    """Slopes of each net, and the share of the upper bound that the lower is."""
    rows = []
    for row in slopes(data):
        share = 100 * row.lower / row.upper
        rows.append(
            [
                f"*paper:* {row.title}" if row.by_paper else f"`{row.title}`",
                _three_digits(row.upper),
                _three_digits(row.lower),
                f"{share:.0f}%" if share >= 1 else f"{share:.1g}%",
                _three_digits(row.local),
            ]
        )
    return markdown(["net", "upper", "lower", "share", "local"], rows, "lrrrr")


def _three_digits(slope: float) -> str:
    """A slope as a cell shows it, with a power of ten from a thousand on."""
    if slope < 1000:
        return f"{slope:.3g}"
    power = math.floor(math.log10(slope))
    return f"${slope / 10**power:.1f} \\cdot 10^{power}$"


def slope_figure(data: Evidence) -> Figure:
    """Slopes of each net on a logarithmic axis; the paper's nets have hollow marks."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    rows = slopes(data)
    figure, axis = plt.subplots(figsize=(4.8, 0.36 * len(rows) + 1.1))
    for place, row in enumerate(rows):
        axis.plot([row.upper, row.local], [place, place], color="0.75", linewidth=1, zorder=1)
        marks = (("upper", row.upper, "v"), ("lower", row.lower, "^"), ("local", row.local, "o"))
        for (kind, slope, mark), color in zip(marks, plotting.CLASS_COLORS, strict=False):
            axis.scatter(
                slope,
                place,
                marker=mark,
                edgecolors=color,
                facecolors="white" if row.by_paper else color,
                label=kind if place == 0 else None,
                zorder=2,
            )
    titles = [f"paper: {row.title}" if row.by_paper else row.title for row in rows]
    axis.set_yticks(range(len(rows)), titles, fontsize=9)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="slope of a margin (logits per pixel unit)")
    figure.legend(*axis.get_legend_handles_labels(), ncols=3, loc="outside upper center")
    return figure


def slope_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of whole networks, by the names that it is glued under; shares in per cent of the proven bound.

    Raises AssertionError where a slope is above its bound, or where the text would no longer be true.
    """
    for name, net in data.nets.items():
        assert net["lower"] <= net["upper"], name
    found = {name: 100 * net["lower"] / net["upper"] for name, net in data.nets.items()}
    assert found["mnist-1.58"] > 90
    paper = {kind: [100 * slope[kind][1] / slope[kind][0] for slope in data.paper.values()] for kind in ("gloro", "standard")}
    return {
        "ours": span((found[name] for name in data.gloro), ".2g"),
        "usual": span((found[name] for name in data.standard), ".2g"),
        "paper": span(paper["gloro"], ".0f"),
        "paper-usual": f"{max(paper['standard']):.1g}",
        "share-small": f"{found['mnist-0.3']:.0f}",
        "share-large": f"{found['mnist-1.58']:.0f}",
    }


def local_shares(data: Evidence) -> dict[str, list[float]]:
    """Of each net's images the slope of the steepest pair within epsilon, as a share of the proven constant.

    Raises AssertionError where one is above 1.
    """
    shares = {}
    for name, net in data.nets.items():
        local = net["local"]
        shares[name] = [slope / constant for slope, constant in zip(local["slope"], local["constant"], strict=True)]
        assert max(shares[name]) <= 1, name
    return shares


def local_figure(data: Evidence) -> Figure:
    """How these shares vary from image to image, a histogram for each net, with their median and the share reached anywhere."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    shares = local_shares(data)
    count = len(shares)
    figure, axes = plt.subplots(count, 1, figsize=(4.8, 0.75 * count + 0.9), sharex=True, squeeze=False)
    for (name, found), axis in zip(shares.items(), axes[:, 0], strict=True):
        net = data.nets[name]
        axis.hist(found, [k / 40 for k in range(41)], color=plotting.CLASS_COLORS[1 if name in data.standard else 0])
        axis.axvline(median(found), color="black", linewidth=1.2)
        axis.axvline(net["lower"] / net["upper"], color="black", linestyle=":")
        axis.set_title(f"{name}, ε = {net['epsilon']:.3g}", x=0.02, loc="left", fontsize=9)
        axis.set_yticks([])
        axis.grid(False)
    axes[-1, 0].set_xlabel("steepest within ε / certified constant")
    axes[-1, 0].set_xlim(0, 1)
    return figure


def local_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of single images, by the names that it is glued under; medians over images, in per cent."""
    middle = {name: 100 * median(shares) for name, shares in local_shares(data).items()}
    return {
        "images": str(data.search["local"]),
        "median": span((middle[name] for name in data.gloro), ".0f"),
        "median-usual": f"{middle['mnist-0.3-standard']:.0f}%",
        "at-image": span((100 * _without_search(net["local"]) for net in data.gloro.values()), ".0f"),
    }


def _without_search(local: Record) -> float:
    """The median share of the steepest slope in the ball that the gradient at the image has."""
    pairs = zip(local["gradient"], local["slope"], strict=True)
    return median(min(gradient / slope, 1.0) for gradient, slope in pairs if slope)


def layer_figure(data: Evidence) -> Figure:
    """What each layer leaves of the bound, from left to right: for the steepest pair, and for the pairs in balls."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(_PICTURED), 1, figsize=(4.8, 2.5 * len(_PICTURED)), squeeze=False)
    words = {"Conv2d": "conv", "Linear": "dense"}
    for name, axis in zip(_PICTURED, axes[:, 0], strict=True):
        layers = data.nets[name]["layers"]
        kinds = [layer.split()[1] for layer in layers]
        for column, (label, line) in enumerate((("steepest pair", "o-"), ("within the balls", "s--"))):
            axis.plot(kept(data, name, column), line, color=plotting.CLASS_COLORS[column], label=label, markersize=4)
        axis.set_xticks(range(len(layers) + 1), ["input", *(words.get(kind, kind) for kind in kinds)], rotation=90, fontsize=9)
        axis.set(ylim=(0, 1.05), ylabel="share of the bound")
        axis.set_title(name, fontsize=10)
    axes[0, 0].legend(fontsize=9, loc="lower left")
    return figure


def kept(data: Evidence, name: str, column: int) -> list[float]:
    """The share of a net's bound that is left at its input and after each layer: of the steepest pair (0), or in balls (1)."""
    shares = [1.0]
    for factors in data.nets[name]["layers"].values():
        shares.append(shares[-1] * factors[column])
    return shares


def lost(data: Evidence, name: str, kind: str) -> float:
    """The part of a net's slack near images that its layers of a kind have, in logarithms, so that parts add up to 1."""
    slack = {layer: -math.log(max(factors[_BALLS], 1e-9)) for layer, factors in data.nets[name]["layers"].items()}
    return sum(value for layer, value in slack.items() if kind in layer) / sum(slack.values())


def layer_numbers(data: Evidence) -> dict[str, str]:
    """Where the slack of `mnist-1.58` is near images, by the names that it is glued under.

    Raises AssertionError where MinMax has more of it than the text says.
    """
    parts = {kind: lost(data, "mnist-1.58", kind) for kind in ("Conv2d", "Linear", "MinMax", "logits")}
    assert parts["MinMax"] < 0.05
    return {f"lost-{kind}": f"{100 * part:.2g}%" for kind, part in parts.items()}


def limit_table(data: Evidence) -> str:
    """VRA and what no valid constants exceed, on the images of each, and accuracy under attack, in per cent."""
    rows = []
    for name, net in data.nets.items():
        local = net["local"]
        values = (net["vra"], net["vra_by_lower"], local["vra"], local["vra_by_lower"], local["attacked"])
        rows.append([f"`{name}`", *(percent(value, 1) for value in values)])
    return markdown(["net", "VRA", "global limit", "VRA, fewer", "local limit", "attack"], rows, "lrrrrr")


def limit_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of tighter bounds, by the names that it is glued under; gains in points."""
    large, standard = data.nets["mnist-1.58"], data.nets["mnist-0.3-standard"]
    before, after = data.paper_limits["cifar10"]
    gained = {"gain": "mnist-1.58", "gain-small": "mnist-0.3", "gain-cifar": "cifar10-first"}
    images = data.search["images"]
    return {
        **{text: percent(data.nets[name]["vra_by_lower"] - data.nets[name]["vra"], 1) for text, name in gained.items()},
        "count": f"{images:,}",
        "error": percent(standard_error(large["vra"], images), 1),
        "vra": percent(large["local"]["vra"], 1),
        "vra-local": percent(large["local"]["vra_by_lower"], 1),
        "attack": percent(large["local"]["attacked"], 1),
        "attack-steps": str(data.search["local_steps"]),
        "usual-vra": percent(standard["vra"], 0),
        "usual-limit": percent(standard["vra_by_lower"], 0),
        "paper-before": str(before),
        "paper-after": str(after),
    }
