"""`compare`: runs side by side, as a table and as a plot."""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import torch

from gloro_lite import extras, stored
from gloro_lite.console import check_folder_of
from gloro_lite.datasets.benchmarks import INFO

Record = dict[str, Any]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "compare",
        help="tabulate and plot runs",
        description=(
            "Compare finished runs: test accuracies in per cent with the standard error of the test set's size, and the settings "
            "in which the runs differ."
        ),
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="stored nets, mnist-0.3 or mnist-0.3/seed-1 say, or folders of runs")
    p.add_argument("--plot", metavar="FILE.png", help="draw certified accuracy by radius, and validation VRA by epoch")
    p.add_argument("--mixed", action="store_true", help="also compare runs at different epsilons or on different data sets")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Raises ValueError and OSError."""
    if options.plot:
        _check_target(Path(options.plot))
    records = {name: stored.record(name) for name in options.runs}
    if not options.mixed:
        for what, values in {
            "at different epsilons": {name: record["epsilon"] for name, record in records.items()},
            "on different data sets": {name: record["settings"]["dataset"] for name, record in records.items()},
        }.items():
            if len(set(values.values())) > 1:
                said = ", ".join(f"{name}: {value}" for name, value in values.items())
                raise ValueError(f"these runs are {what} ({said}): their accuracies mean different things; --mixed compares them")
    print(table(records))
    if options.plot:
        plot(list(records), options.plot)
        print(f"\n{options.plot} shows certified accuracy by radius, and validation VRA by epoch")
    return 0


def percent(fraction: float, count: int) -> str:
    """A fraction of a test set of `count` in per cent, with its standard error."""
    return f"{100 * fraction:.2f} ± {100 * math.sqrt(fraction * (1 - fraction) / count):.2f}"


def table(records: dict[str, Record]) -> str:
    """The runs, a row each, and below it the settings in which they differ."""
    rows = [["run", "network", "epsilon", "clean %", "VRA %", "largest K", "epochs", "s / epoch"]]
    for name, record in records.items():
        settings = record["settings"]
        count = INFO[settings["dataset"]].test
        rows.append(
            [
                name,
                settings["network"],
                f"{record['epsilon']:.6g}",
                percent(record["test_accuracy"], count),
                percent(record["test_vra"], count),
                f"{record['lipschitz_upper']:.3f}",
                str(record["epochs"]),
                f"{record['seconds_per_epoch']:.1f}",
            ]
        )
    every = {field: None for record in records.values() for field in record["settings"] if field != "name"}
    differing = [
        [field, *(str(record["settings"].get(field, "")) for record in records.values())]
        for field in every
        if len({repr(record["settings"].get(field, "")) for record in records.values()}) > 1
    ]
    text = _aligned(rows)
    if differing:
        text += "\n\n" + _aligned([["setting", *records], *differing])
    return text


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def plot(runs: list[str], target: str) -> None:
    """Draw the runs' certified accuracy by radius and their validation VRA by epoch. Raises ValueError where a run has no
    certificates.csv or no history.csv, as in an installed wheel.
    """
    certificates = {name: _read(name, "certificates.csv") for name in runs}
    histories = {name: _read(name, "history.csv") for name in runs}

    with extras.needed("--plot", "book"):
        import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from gloro_lite import plotting

    with plotting.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
        for name in runs:
            rows = certificates[name]
            radii = [float(row["radius"]) for row in rows if row["label"] == row["prediction"]]
            at = torch.tensor(sorted(radii), dtype=torch.float64)
            left.plot(at, 100 * (len(at) - torch.arange(len(at))) / len(rows), label=name)
            epochs = [int(row["epoch"]) + 1 for row in histories[name]]
            right.plot(epochs, [100 * float(row["vra"]) for row in histories[name]], label=name)
        for epsilon in sorted({stored.record(name)["epsilon"] for name in runs}):
            left.axvline(epsilon, color="black", linestyle=":", linewidth=1)
        left.set(
            xlabel="l2 radius (dotted: epsilon)", ylabel="certified and right, % of the test set", xlim=(0, None), ylim=(0, 100)
        )
        right.set(xlabel="epoch", ylabel="validation VRA, %", ylim=(0, 100))
        left.legend()
        figure.savefig(target, dpi=150)
        plt.close(figure)


def _check_target(target: Path) -> None:
    if target.suffix.lower() != ".png":
        raise ValueError(f"--plot writes a .png, not {target}")
    check_folder_of(target)


def _read(run: str, name: str) -> list[dict[str, str]]:
    path = stored.folder(run) / name
    if not path.is_file():
        raise ValueError(f"{path} is not there, and --plot needs it: take the run's folder from a checkout of the project")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
