"""What certifying costs: time and memory of a certificate, method by method, and how both grow. Drawing needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from gloro_lite import extras, plotting
from gloro_lite.methods import smoothing
from gloro_lite.report.runs import TEST_IMAGES, Record, machine, measurements
from gloro_lite.report.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "forward": "forward pass",
    "gloro": "GloRo",
    "bcp": "BCP",
    "local": "local bound",
    "kw": "KW",
    "smoothing": "smoothing",
    "sites": "sites",
}
"""What tables and figures call each method, in their order."""
PREPARED = ("gloro", "bcp", "local")
"""Methods that prove bounds on a network's norms once."""
VARIED = {
    "width": "neurons in each hidden layer",
    "depth": "hidden layers",
    "classes": "classes",
    "batch": "images in a batch",
}
"""What is varied, one at a time, and how an axis says so."""
PUBLISHED_SAMPLES = 100_000
"""Noisy copies of an image that smoothing's own authors take."""
ALPHA = 0.001
"""The probability with which a certificate of smoothing may be wrong."""

_NAMED = {"sites": ((-8, 0), "right", "center"), "kw": ((8, 0), "left", "center"), "bcp": ((8, 0), "left", "center")}
"""Where a mark's name stands if not above it: points from the mark, and alignments."""
_TIMES = ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


class Point(NamedTuple):
    """One measurement where something is varied: its value, and seconds and bytes an image."""

    value: int
    seconds: float
    bytes: float


@dataclass(frozen=True)
class Costs:
    """All that the chapter's tables and figures are made from.

    Attributes:
        measured: `data/certification_costs.json`.
        paper: by method, seconds for the test set of CIFAR-10 with 6C2F, and MB an image.
    """

    measured: Record
    paper: dict[str, list[float]]

    @property
    def small(self) -> dict[str, Record]:
        """What was measured of each method on the small network."""
        return self._by_method("small")

    @property
    def large(self) -> dict[str, Record]:
        """What was measured of each method on 6C2F."""
        return self._by_method("6C2F")

    @property
    def sweeps(self) -> dict[str, dict[str, list[Point]]]:
        """By what is varied the points of each method, without what it refused."""
        found: dict[str, dict[str, list[Point]]] = {}
        for varied in VARIED:
            for row in self.measured["tables"][varied]:
                if "refused" not in row:
                    point = Point(row[varied], row["seconds"], row["bytes"])
                    found.setdefault(varied, {}).setdefault(row["method"], []).append(point)
        return found

    @property
    def seconds_a_vote(self) -> float:
        """What one noisy copy takes smoothing on the small network, where it takes the most of them."""
        most = max(self.measured["tables"]["samples"], key=lambda row: row["samples"])
        return float(most["seconds"] / most["samples"])

    def _by_method(self, table: str) -> dict[str, Record]:
        rows = {row["method"]: row for row in self.measured["tables"][table]}
        return {name: rows[name] for name in TITLES if name in rows}


def costs() -> Costs:
    """Read what is stored."""
    return Costs(measurements("certification_costs"), measurements("paper")["certification"])


def duration(seconds: float) -> str:
    """A time in the largest unit that leaves it at one or more: "5.79 µs"."""
    return _in_units(seconds, _TIMES)


def size(count: float) -> str:
    """A number of bytes in the largest unit that leaves it at one or more: "1.95 kB"."""
    return _in_units(count, _SIZES)


def _in_units(value: float, units: Sequence[tuple[float, str]]) -> str:
    factor, unit = next((found for found in units if value >= found[0]), units[-1])
    return f"{value / factor:.3g}\xa0{unit}"


def small_table(data: Costs) -> str:
    """What each method costs on the small network: once, for each image, and in its own forward passes."""
    rows = []
    for name, row in data.small.items():
        once = duration(row["once"]) if name in PREPARED else "–"
        rows.append([TITLES[name], once, duration(row["seconds"]), f"{_passes(data, name):,.0f}", size(row["bytes"])])
    return markdown(["method", "once", "an image", "forward passes", "memory an image"], rows, "lrrrr")


def _passes(data: Costs, name: str) -> float:
    """A method's time on the small network, in forward passes."""
    return float(data.small[name]["seconds"] / data.small["forward"]["seconds"])


def time_and_memory(data: Costs) -> Figure:
    """A mark for each method on the small network, on logarithmic axes."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(4.8, 3.4))
    for name, row in data.small.items():
        at = row["seconds"] * 1e6, row["bytes"] / 1e3
        axis.loglog(*at, **_look(name) | {"linestyle": "none"}, markersize=8)
        place, across, along = _NAMED.get(name, ((0, 8), "center", "baseline"))
        axis.annotate(TITLES[name], at, place, textcoords="offset points", ha=across, va=along, fontsize=9)
    axis.set(xlabel="time an image (µs)", ylabel="memory an image (kB)")
    axis.margins(0.16)
    return figure


def _look(name: str) -> dict[str, str]:
    """A method's colour, line and marker."""
    place = list(TITLES).index(name)
    color = (plotting.BOTTOM_COLOR, *plotting.CLASS_COLORS)[place]
    return {"color": color, "linestyle": ("-", "-", "--", "-.", ":", "-", "--")[place], "marker": "xosD^vP"[place]}


def large_table(data: Costs) -> str:
    """What all test images of CIFAR-10 take with 6C2F, and the memory an image, here and in the paper."""
    rows = []
    for name, row in data.large.items():
        ours, theirs = ["refused", ""], ["–", "–"]
        if "refused" not in row:
            scale = PUBLISHED_SAMPLES / row["samples"] if name == "smoothing" else 1
            ours = [duration(TEST_IMAGES * row["seconds"] * scale), size(row["bytes"])]
        if name in data.paper:
            seconds, megabytes = data.paper[name]
            theirs = [duration(seconds), size(1e6 * megabytes)]
        rows.append([TITLES[name], *ours, *theirs])
    return markdown(["method", "our time", "our memory", "paper's time", "paper's memory"], rows, "lrrrr")


def growth(data: Costs) -> Figure:
    """Time of a certificate, a panel for each property of the small network that is varied."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(VARIED), 1, figsize=(4.8, 9.6))
    for axis, (varied, label) in zip(panels, VARIED.items(), strict=True):
        sweep = data.sweeps[varied]
        for name, points in sweep.items():
            spent = [1e6 * point.seconds for point in points]
            axis.loglog([point.value for point in points], spent, **_look(name), markersize=5, label=TITLES[name])
        ticks = sorted({point.value for points in sweep.values() for point in points})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel=label, ylabel="µs an image")
    panels[0].legend(fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def power(points: Sequence[Point], field: str) -> float:
    """The power of what is varied with which "seconds" or "bytes" grow, from the first point to the last."""
    first, last = points[0], points[-1]
    return math.log(getattr(last, field) / getattr(first, field)) / math.log(last.value / first.value)


def growth_table(data: Costs) -> str:
    """The powers with which time and memory of each method grow."""
    columns = [("width", "seconds"), ("depth", "seconds"), ("classes", "seconds"), ("width", "bytes"), ("depth", "bytes")]
    sweeps = data.sweeps
    rows = []
    for name in sweeps["width"]:
        powers = (power(sweeps[varied][name], field) for varied, field in columns)
        rows.append([TITLES[name], *(f"{value:z.1f}".replace("-", "−") for value in powers)])
    return markdown(["method", "time: width", "depth", "classes", "memory: width", "depth"], rows, "lrrrrr")


def votes(data: Costs) -> Figure:
    """The least time in which smoothing certifies a radius on the small network, beside GloRo's."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    radii = torch.linspace(0, 5, 51).tolist()  # in units of sigma
    spent = [1e3 * smoothing.samples_needed(ALPHA, radius) * data.seconds_a_vote for radius in radii]
    figure, axis = plt.subplots(figsize=(4.8, 3.2))
    axis.semilogy(radii, spent, label="smoothing, at least")
    axis.axhline(1e3 * data.small["gloro"]["seconds"], color="0.4", linestyle="--", label="GloRo")
    axis.set(xlabel="radius / $\\sigma$", ylabel="ms an image")
    axis.legend()
    return figure


def numbers(data: Costs) -> dict[str, str]:
    """What the text says, by the names that it is glued under.

    Raises AssertionError where the text would no longer be true.
    """
    small, large, sweeps, measured = data.small, data.large, data.sweeps, data.measured
    spent = [small[name]["seconds"] for name in PREPARED]
    assert spent == sorted(spent)
    compared = ("gloro", "bcp", "kw", "smoothing", "local")
    texts = {f"ratio-{name}": f"{float(f'{_passes(data, name):.2g}'):,.0f}" for name in compared}
    texts |= {f"refused-{name}": large[name]["refused"] for name in ("kw", "local")}
    few, many = sweeps["classes"]["bcp"]
    return texts | {
        "where": machine(measured["machine"]),
        "copies": f"{measured['copies_at_a_time']:,}",
        "sites": str(measured["sites_a_class"]),
        "sampled": f"{PUBLISHED_SAMPLES:,}",
        "large-ratio": f"{large['gloro']['seconds'] / large['forward']['seconds']:.1f}",
        "large-once": duration(large["gloro"]["once"]),
        "large-bcp": f"{large['bcp']['seconds'] / large['gloro']['seconds']:.1f}",
        "paper-bcp": f"{data.paper['bcp'][0] / data.paper['gloro'][0]:.0f}",
        "paper-kw": f"{data.paper['kw'][0] / data.paper['gloro'][0]:,.0f}",
        "classes-bcp": f"{many.seconds / few.seconds:.0f}",
        "power-local": f"{power(sweeps['width']['local'], 'seconds'):.1f}",
        "power-kw": f"{power(sweeps['width']['kw'], 'bytes'):.1f}",
        "samples-three": f"{smoothing.samples_needed(ALPHA, 3.0):,}",
        "samples-four": f"{smoothing.samples_needed(ALPHA, 4.0):,}",
    }
