"""Records: certified accuracies that others published, and ours among them, year by year. Drawing needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from gloro_lite import extras, plotting
from gloro_lite.report.runs import BENCHMARKS, Record, mean, measurements, runs_of
from gloro_lite.report.tables import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = (("MNIST", "0.3"), ("MNIST", "1.58"), ("CIFAR-10", "36/255"), ("Tiny-ImageNet", "36/255"))
"""The benchmarks that have a plot and a table of their own: the data set, and epsilon as text."""

_SHORT = {
    "randomized smoothing": "smoothing",
    "LiResNet with dense orthogonal layers": "LiResNet + dense",
    "BRONet with logit annealing": "BRONet",
    "verified certifier in Dafny": "in Dafny",
    "nearest prototypes": "prototypes",
    "CRM with LipLT": "CRM",
    "GloRo, our recipe": "ours",
    "GloRo and a local bound": "ours, local bound",
    "GloRo, for VRA alone": "ours, VRA alone",
    "GloRo, our recipe, first stage": "ours, first stage",
    "sites that learn": "ours, sites",
}
"""What a plot calls a method whose name is long."""


def rows() -> list[Record]:
    """All rows of `data/records.json` in the order of their dates; of ours the figures are those of the stored runs."""
    table, local = measurements("records"), measurements("last_layers")["runs"]
    found = [*table["published"], *(_own(row, runs_of(row["results"]), local) for row in table["ours"])]
    return sorted(found, key=lambda row: row["date"])


def _own(row: Record, runs: list[Record], local: dict[str, Record]) -> Record:
    """A row of ours in the form of a published one, seeds averaged; `local` is what `data/last_layers.json` says of runs."""
    settings, field = runs[0]["settings"], "test_vra"
    certified = runs
    if row.get("bound") == "last_layers":
        certified, field = [local[f"{row['results']}/seed-{run['seed']}"] for run in runs], "local"
    spelled = {round(float(Fraction(text)), 4): text for _, text in SHOWN}
    return {
        "date": row["date"],
        "method": row["method"],
        "network": settings.get("network", "sites in pixel space"),
        "data": BENCHMARKS[settings["dataset"]],
        "epsilon": spelled[round(runs[0]["epsilon"], 4)],
        "clean": round(100 * mean(runs, "test_accuracy"), 2),
        "certified": round(100 * mean(certified, field), 2),
        "guarantee": "deterministic",
        "extra_data": False,
        "source": f"data/results/{row['results']}",
        "seeds": len(runs),
    }


def of(found: list[Record], data: str, epsilon: str) -> list[Record]:
    """The rows of a benchmark."""
    return [row for row in found if (row["data"], row["epsilon"]) == (data, epsilon)]


def is_ours(row: Record) -> bool:
    """Whether a row's figures are of stored runs."""
    return "seeds" in row


def counts(row: Record) -> bool:
    """Whether a row can hold the record: proven, without extra data."""
    return row["guarantee"] == "deterministic" and not row["extra_data"]


def best(found: list[Record]) -> Record:
    """The row that holds the record. Raises ValueError where none can."""
    return max(filter(counts, found), key=lambda row: row["certified"])


def numbers(found: list[Record]) -> dict[str, str]:
    """What the text says of all rows, by the names that it is glued under; accuracies in per cent."""
    cifar = of(found, "CIFAR-10", "36/255")
    paper = next(row for row in cifar if row["method"] == "GloRo")
    vote = next(row for row in of(found, "MNIST", "0.3") if row["guarantee"] == "probabilistic")
    held = []
    for data, epsilon in dict.fromkeys((row["data"], row["epsilon"]) for row in filter(counts, found)):
        if is_ours(top := best(of(found, data, epsilon))):
            held.append(f"{data} at {epsilon} ({top['certified']:g}%, {top['method']})")
    return {
        "cifar": f"{best(cifar)['certified']:g}",
        "cifar-method": best(cifar)["method"],
        "cifar-most": f"{max(row['certified'] for row in cifar):g}",
        "cifar-paper": f"{paper['certified']:g}",
        "smoothing": f"{vote['certified']:g}",
        "rows": str(len(found)),
        "holds": "; ".join(held) or "none",
    }


def table(found: list[Record]) -> str:
    """A benchmark's rows, the highest certified accuracy first."""
    lines = []
    for row in sorted(found, key=lambda row: -row["certified"]):
        if is_ours(row):
            where = f"`{row['source'].removeprefix('data/results/')}` ({row['seeds']})"
        else:
            host = row["source"].split("/")[2].removeprefix("www.").replace(".", ".\u200b")  # it may break after a dot
            where = f"[{host}]({row['source']})"
        lines.append([_date(row), f"{row['method']}, {row['network']}", *_accuracies(row), where])
    return markdown(["date", "method, network", "clean", "certified", "source"], lines, "llrrl")


def others_table(found: list[Record]) -> str:
    """The rows of benchmarks that are not `SHOWN`."""
    others = [row for row in found if (row["data"], row["epsilon"]) not in SHOWN]
    lines = [
        [f"{row['data']}, {row['epsilon']}", _date(row), f"[{row['method']}]({row['source']})", *_accuracies(row)]
        for row in sorted(others, key=lambda row: (row["data"], Fraction(row["epsilon"])))
    ]
    return markdown(["benchmark", "date", "method", "clean", "certified"], lines, "lllrr")


def _date(row: Record) -> str:
    """Year and month, which stay on one line."""
    return str(row["date"]).replace("-", "\N{NON-BREAKING HYPHEN}")


def _accuracies(row: Record) -> tuple[str, str]:
    """Clean and certified accuracy in per cent, with the marks that the page explains."""
    marks = "+" * row["extra_data"] + "\\*" * (row["guarantee"] == "probabilistic")
    return _accuracy(row["clean"]), _accuracy(row["certified"]) + marks


def _accuracy(value: float | None) -> str:
    """One decimal at least, two where there are two."""
    return "–" if value is None else f"{value:.2f}".removesuffix("0")


class Kind(NamedTuple):
    """Rows that a plot shows alike: what the legend calls them, which these are, and the look of their points."""

    name: str
    belongs: Callable[[Record], bool]
    marker: str
    color: str
    size: float


_KINDS = (
    Kind("deterministic", lambda row: counts(row) and not is_ours(row), "o", plotting.CLASS_COLORS[0], 34),
    Kind("with extra data", lambda row: row["extra_data"], "^", plotting.CLASS_COLORS[2], 34),
    Kind("probabilistic", lambda row: row["guarantee"] == "probabilistic", "D", plotting.BOTTOM_COLOR, 34),
    Kind("this book", is_ours, "*", plotting.CLASS_COLORS[1], 60),
)


def chart(found: list[Record]) -> Figure:
    """A benchmark's rows over the years, with a line for the record."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.0, 3.1))
    values = [row["certified"] for row in found]
    low, high = min(values) - 3, max(values) + 4
    axis.plot(*zip(*record_line(found, 2027.0), strict=True), color="0.6", linewidth=1, zorder=1)
    for kind in _KINDS:
        if own := [row for row in found if kind.belongs(row)]:
            accuracies = [row["certified"] for row in own]
            axis.scatter(list(map(year, own)), accuracies, label=kind.name, marker=kind.marker, color=kind.color, s=kind.size)
    _name_points(axis, found, (high - low) * 0.062)
    axis.set(xlim=(2018, 2027.2), ylim=(low, high), ylabel="certified (%)")
    axis.set_xticks(range(2018, 2028, 2))
    axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure


def year(row: Record) -> float:
    """A row's date in years, the middle of its month."""
    whole, month = map(int, row["date"].split("-"))
    return whole + (month - 0.5) / 12


def record_line(found: list[Record], end: float) -> list[tuple[float, float]]:
    """The corners of the record's steps up to a year, (year, per cent); `found` is in the order of dates."""
    record, corners = 0.0, []
    for row in filter(counts, found):
        if row["certified"] > record:
            corners.append((year(row), record or row["certified"]))
            record = row["certified"]
            corners.append((year(row), record))
    return [*corners, (end, record)]


def _name_points(axis: Axes, found: list[Record], height: float) -> None:
    """Write methods beside their points, upwards where they would meet; `height` is that of a line, in per cent."""
    taken: list[tuple[bool, float, float]] = []
    for row in sorted(found, key=lambda row: row["certified"]):
        x, y, method = year(row), row["certified"], str(row["method"])
        on_left, at = x > 2024.6, y
        while any(side == on_left and abs(at - other) < height and abs(x - place) < 1.9 for side, place, other in taken):
            at += height / 4
        taken.append((on_left, x, at))
        beside = 0.3 if is_ours(row) else 0.16  # a star is wider
        # From the name's end that is nearer to the point, not across the names below.
        line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.8, "relpos": (float(on_left), 0.5)}
        axis.annotate(
            _SHORT.get(method, method),
            (x, y),
            (x - beside if on_left else x + beside, at),
            arrowprops=line if at > y else None,
            ha="right" if on_left else "left",
            va="center",
            fontsize=8,
            bbox={"color": "white", "pad": 0.6, "alpha": 0.85},
        )
