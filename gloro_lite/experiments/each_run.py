"""Stored runs, one after the other: no command, but what commands that take runs by name share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gloro_lite import stored
from gloro_lite.console import add_data, test_images
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.files import update_json, write_json
from gloro_lite.net import GloroNet
from gloro_lite.provenance import machine, weights_digest


def named(parser: argparse.ArgumentParser, arguments: list[str] | None) -> Iterator[tuple[str, GloroNet, Images]]:
    """The runs that a command was given, or all: the name of each, its net and its test images."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="stored runs, mnist-0.3/seed-0 say, or folders (default: all stored runs)"
    )
    add_data(parser)
    options = parser.parse_args(arguments)
    load = test_images(options.data)
    for run in stored.chosen(options.runs):
        yield run, stored.load(run), load(stored.record(run)["settings"]["dataset"])


def keep(
    output: Path,
    run: str,
    row: dict[str, Any],
    *,
    within: str = "",
    write: Callable[[Path, dict[str, Any]], None] = write_json,
) -> None:
    """Write a run's row into a file, beside those of other runs, by its full name. A row of a run that lies elsewhere than the
    stored ones is not kept: its name is a path of this machine.

    Args:
        within: the field of the file's record that holds the rows; the record itself by default.
    """
    if Path(run).is_absolute():
        print(f"not kept in {output}, which is of stored runs", flush=True)
        return

    def change(record: dict[str, Any]) -> dict[str, Any]:
        rows = record.get(within, {}) if within else record
        rows = dict(sorted({**rows, run: row}.items()))
        return {**record, within: rows} if within else rows

    update_json(output, change, write=write)
    print(f"written to {output}", flush=True)


def tabulate(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    output: Path,
    measure: Callable[[GloroNet, Images, Path], dict[str, float]],
) -> int:
    """Measure the runs that a command was given, or all, on their test images; each row is kept at once."""
    for run, net, test in named(parser, arguments):
        measure_and_keep(run, net, test, output, measure)
    return 0


def measure_and_keep(
    run: str, net: GloroNet, test: Images, output: Path, measure: Callable[[GloroNet, Images, Path], dict[str, float]]
) -> None:
    """Measure a run and keep its row in the file's `runs`, with the digest of its weights and the machine.

    Args:
        measure: gives a run's row, from its net, its test images and its folder.
    """
    folder = stored.folder(run)
    row = measure(net, test, folder)
    print(run, row, flush=True)
    made = {"weights_sha256": weights_digest(folder), "machine": machine(torch.device("cpu"))}
    keep(output, run, {**row, **made}, within="runs")
