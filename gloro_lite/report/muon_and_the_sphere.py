"""Muon and the sphere: optimizers at one rate and each at its best, and what a step costs. Drawing needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from gloro_lite import extras, plotting
from gloro_lite.experiments import rates
from gloro_lite.files import home, read_json
from gloro_lite.report import runs
from gloro_lite.report.runs import Record, Runs, machine
from gloro_lite.report.tables import markdown, percent, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OPTIMIZERS = {
    "base": "Muon, on the sphere",
    "sphere: none, Muon on plain weights": "Muon, free",
    "power iterations: 5 a step": "Muon, on the sphere, 5 iterations",
    "sphere: none, and 5 power iterations a step": "Muon, free, 5 iterations",
    "optimizer: Adam, on the sphere": "Adam, on the sphere",
    "optimizer: Adam, on plain weights": "Adam, free",
}
"""Variants of the ablation, and what this chapter calls them."""

_ROWS = {"mnist-0.3": "MNIST, ε = 0.3", "mnist-1.58": "MNIST, ε = 1.58", "cifar10": "CIFAR-10, ε = 36/255"}
"""Where rates can be searched, see `rates.ROWS`, and their titles."""

_SEARCHED = "mnist-0.3"
"""The row that the text is about."""

_RATIOS = {
    "GloRo / standard": "gloro_over_standard",
    "GloRo / plain": "gloro_over_plain",
    "Muon on the sphere / standard": "muon_over_standard",
    "certify / forward": "certify_over_forward",
    "the same, dtype=None": "certify_labels_over_forward",
    "the same, dtype=float32": "certify_float32_over_forward",
    "memory, GloRo / standard": "gloro_over_standard_memory",
}
"""Ratios of a benchmark's figures: titles, and fields of its networks."""


@dataclass(frozen=True)
class Evidence:
    """All that the chapter's tables are made from.

    Attributes:
        variants: the runs of the ablation, by what each changes.
        rates: the runs of `data/rates.json`.
        runs: the stored runs of recipes.
        paper: the rows of the paper's table.
        benchmarks: `data/benchmarks/`, a record for each machine.
    """

    variants: Runs
    rates: list[Record]
    runs: Runs
    paper: list[Record]
    benchmarks: list[Record]


def evidence() -> Evidence:
    """Read what is stored."""
    return Evidence(
        runs.by_variant(runs.measurements("ablations")),
        runs.measurements("rates")["runs"],
        runs.of_recipes(),
        runs.measurements("paper")["table"],
        [read_json(path) for path in sorted((home() / "benchmarks").glob("*.json"))],
    )


def sphere_table(data: Evidence) -> str:
    """Muon and Adam, each at one rate, on the sphere and off it; per cent of the validation split."""
    rows = []
    for variant, title in _OPTIMIZERS.items():
        vra, accuracy = (
            [100 * run[field] for run in data.variants[variant]] for field in ("validation_vra", "validation_accuracy")
        )
        rows.append([title, f"{mean(vra):.1f}", span(vra, ".1f", "–"), f"{mean(accuracy):.1f}"])
    return markdown(["optimizer", "VRA (%)", "of seeds", "accuracy (%)"], rows, "lrrr")


def sphere_numbers(data: Evidence) -> dict[str, str]:
    """What Muon gains and loses without the sphere, in points, by the names that they are glued under."""
    base, free = data.variants["base"], data.variants["sphere: none, Muon on plain weights"]
    return {
        "vra-gain": percent(runs.mean(free, "validation_vra") - runs.mean(base, "validation_vra"), 1),
        "accuracy-loss": percent(runs.mean(base, "validation_accuracy") - runs.mean(free, "validation_accuracy"), 1),
    }


def _searched(data: Evidence) -> Iterator[tuple[str, list[Record]]]:
    """The rows in which a search is over, and its summary."""
    summaries = ((row, rates.summary(data.rates, row)) for row in _ROWS)
    return ((row, summary) for row, summary in summaries if summary)


def rates_figure(data: Evidence) -> Figure:
    """VRA on the validation split by learning rate, a panel for each row that was searched and a curve for each optimizer."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    shown = [row for row, _ in _searched(data)]
    figure, axes = plt.subplots(len(shown), 1, figsize=(4.8, 2.9 * len(shown)), sharex=True, squeeze=False)
    for axis, row in zip(axes[:, 0], shown, strict=True):
        curves = rates.curves(data.rates, row)
        for (name, curve), color in zip(curves.items(), plotting.CLASS_COLORS, strict=False):
            axis.plot(
                list(curve),
                [100 * vra for vra in curve.values()],
                "-o" if "Muon" in name else "--s",
                color=color,
                markerfacecolor="white" if "free" in name else None,
                label=name,
            )
        top = 100 * max(max(curve.values()) for curve in curves.values())
        axis.set(xscale="log", ylabel="VRA (%)", title=_ROWS[row], ylim=(0.92 * top, 1.01 * top))
    axes[-1, 0].set_xlabel("learning rate")
    axes[-1, 0].xaxis.set_major_formatter("{x:g}")
    handles = axes[-1, 0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0))
    return figure


def rates_table(data: Evidence) -> str:
    """Each optimizer at its best rate, and Adam once more for Muon's time: seconds of processor time, and per cent of the
    validation split."""
    rows = []
    for row, summary in _searched(data):
        rows.append([f"**{_ROWS[row]}**", *5 * [""]])
        for each in summary:
            vra = [100 * value for value in each["vra"]]
            figures = [f"{each['rate']:g}", str(each["epochs"]), f"{each['seconds']:.0f}", f"{mean(vra):.1f}"]
            rows.append([each["optimizer"], *figures, span(vra, ".1f", "–")])
    return markdown(["optimizer", "rate", "epochs", "seconds", "VRA (%)", "of seeds"], rows, "lrrrrr")


def rates_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of the search, by the names that it is glued under; leads and losses in points.

    Raises AssertionError where the worst of Muon's seeds is not above the best of Adam's, whatever its time.
    """
    epochs = rates.ROWS[_SEARCHED].epochs
    vra = {(each["optimizer"], each["epochs"]): each["vra"] for each in rates.summary(data.rates, _SEARCHED)}
    texts = {"longer": str(max(n for _, n in vra if n > epochs))}
    for place in ("on the sphere", "free"):
        muon = vra[f"Muon, {place}", epochs]
        adam = [each for (name, _), each in vra.items() if name == f"Adam, {place}"]
        assert min(muon) > max(map(max, adam)), place
        texts[f"lead-{place}"] = percent(mean(muon) - mean(vra[f"Adam, {place}", epochs]), 1)
    curves = rates.curves(data.rates, _SEARCHED)
    for kind in ("Muon", "Adam"):
        texts[f"lost-{kind}"] = percent(max(_lost_above(curve) for name, curve in curves.items() if kind in name), 1)
    # The same task in runs of full length, with the paper's recipe's Adam and our Muon.
    for kind, name in (("adam", "mnist-0.3-paper-short-ce"), ("muon", "mnist-0.3")):
        texts[f"long-{kind}"] = percent(runs.mean(data.runs[name], "test_vra"))
    return texts


def _lost_above(curve: dict[float, float]) -> float:
    """What the next larger rate than the best one costs, a fraction."""
    best = rates.best_rate(curve)
    return curve[best] - curve[min(rate for rate in curve if rate > best)]


def step_tables(data: Evidence) -> str:
    """Ratios of the times and of the memory of steps and certificates, a table for each machine."""
    tables = []
    for measured in data.benchmarks:
        networks = measured["networks"]
        rows = [[title, *(f"{found[field]:.2f}" for found in networks.values())] for title, field in _RATIOS.items()]
        tables.append(markdown(["ratio", *networks], rows, "l" + "r" * len(networks)))
    return "\n\n".join(tables)


def step_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of the costs of a step, by the names that it is glued under.

    Raises AssertionError where the text would no longer be true.
    """
    networks = [found for measured in data.benchmarks for found in measured["networks"].values()]
    assert all(found["muon_over_standard"] > found["gloro_over_standard"] for found in networks)
    assert all(found["certified"] == "test images" for found in networks)
    larger = [measured["networks"][name]["gloro_over_standard"] for measured in data.benchmarks for name in ("4C3F", "6C2F")]
    costs = [(row["gloro_cost"], row["standard_cost"]) for row in data.paper]
    return {
        "larger": f"{100 * (max(larger) - 1):.0f}",
        "machines": "; ".join(map(machine, data.benchmarks)),
        **{kind: span((ours[k] / plain[k] for ours, plain in costs), ".2f") for kind, k in (("time", 0), ("memory", 2))},
    }
