"""`compare`: runs side by side, as a table and as a plot."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gloro_lite import extras, stored
from gloro_lite.console import check_folder_of
from gloro_lite.datasets.benchmarks import INFO
from gloro_lite.files import expanded
from gloro_lite.report import tables

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
    target = None if options.plot is None else expanded(options.plot)
    if target is not None:
        _check_target(target)
    records = {name: stored.record(name) for name in options.runs}
    if not options.mixed:
        for what, values in {
            "at different epsilons": {name: record["epsilon"] for name, record in records.items()},
            "on different data sets": {name: record["settings"]["dataset"] for name, record in records.items()},
        }.items():
            if len(set(values.values())) > 1:
                each = ", ".join(f"{name}: {value}" for name, value in values.items())
                raise ValueError(f"these runs are {what} ({each}): their accuracies mean different things; --mixed compares them")
    print(table(records))
    if target is not None:
        plot(records, target)
        print(f"\n{target} shows certified accuracy by radius, and validation VRA by epoch")
    return 0


def percent(fraction: float, count: int) -> str:
    """A fraction of a test set of `count` in per cent, with its standard error."""
    return f"{tables.percent(fraction)} ± {tables.percent(tables.standard_error(fraction, count))}"


def table(records: dict[str, Record]) -> str:
    """The runs, a row each, and below it the settings in which they differ. VRA with the local bound of the last layers, where a
    run has it, stands beside that by the global one.
    """
    rows = [["run", "network", "epsilon", "clean %", "VRA %", "largest K", "epochs", "s / epoch"]]
    added = {name: stored.added_locally(stored.folder(name)) for name in records}
    with_local = any(images is not None for images in added.values())
    if with_local:  # one bound's figure beside another's would be taken for the same
        rows[0][4:5] = ["VRA % by the global bound", "VRA % with the local bound"]
    for name, record in records.items():
        settings, images = record["settings"], added[name]
        count = INFO[settings["dataset"]].test
        local = "" if images is None else percent(record["test_vra"] + len(images) / count, count)
        rows.append(
            [
                name,
                settings["network"],
                f"{record['epsilon']:.6g}",
                percent(record["test_accuracy"], count),
                percent(record["test_vra"], count),
                *([local] if with_local else []),
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


def plot(records: dict[str, Record], target: Path) -> None:
    """Draw the runs' certified accuracy by radius and their validation VRA by epoch. Raises ValueError where a run has no
    certificates.csv or no history.csv, as in an installed wheel, or one that is damaged or of another run.
    """
    certificates = {name: _certificates(name, record) for name, record in records.items()}
    histories = {name: _history(name, record) for name, record in records.items()}

    with extras.needed("--plot", "book"):
        import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from gloro_lite import plotting

    with plotting.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
        for name in records:
            right_radii, count = certificates[name]
            at = torch.tensor(sorted(right_radii), dtype=torch.float64)
            left.plot(at, 100 * (len(at) - torch.arange(len(at))) / count, label=name)
            epochs, vra = zip(*histories[name], strict=True)
            right.plot([epoch + 1 for epoch in epochs], [100 * each for each in vra], label=name)
        for epsilon in sorted({record["epsilon"] for record in records.values()}):
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


def _certificates(run: str, record: Record) -> tuple[list[float], int]:
    """The radii of the images that a run classifies correctly, and how many images there are."""
    rows = _read(run, "certificates.csv", {"label": int, "prediction": int, "radius": float})
    radii = [radius for label, prediction, radius in rows if label == prediction]
    # A table that was cut short, or is of another run, has other figures than the record.
    accuracy, vra = len(radii) / len(rows), sum(radius > record["epsilon"] for radius in radii) / len(rows)
    for name, counted in (("test_accuracy", accuracy), ("test_vra", vra)):
        if abs(counted - record[name]) > 1e-9:
            path = stored.folder(run) / "certificates.csv"
            raise ValueError(
                f"{path} is damaged or of another run: its rows give a {name} of {counted:.6g}, and result.json beside it says "
                f"{record[name]:.6g}"
            )
    return radii, len(rows)


def _history(run: str, record: Record) -> list[tuple[int, float]]:
    """The epochs of a run, from 0, and the validation VRA after each."""
    rows = _read(run, "history.csv", {"epoch": int, "vra": float})
    if len(rows) != record["epochs"]:
        path = stored.folder(run) / "history.csv"
        raise ValueError(f"{path} is damaged or of another run: it has {len(rows)} epochs, and the run {record['epochs']}")
    return rows


def _read(run: str, name: str, kinds: dict[str, Callable[[str], Any]]) -> list[Any]:
    """`stored.columns` of a table that `--plot` needs. Raises ValueError, which names the file."""
    path = stored.folder(run) / name
    if not path.is_file():
        raise ValueError(f"{path} is not there, and --plot needs it: take the run's folder from a checkout of the project")
    rows = stored.columns(path, kinds)
    if not rows:
        raise ValueError(f"{path} is damaged (it has no rows): take the file anew")
    return rows
