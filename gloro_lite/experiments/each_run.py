"""Stored runs, one after the other: no command, but what `guarantees`, `last_layers` and `recertify` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gloro_lite import stored
from gloro_lite.console import add_data, test_images
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.files import read_json, write_json
from gloro_lite.net import GloroNet
from gloro_lite.provenance import machine


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


def tabulate(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    output: Path,
    measure: Callable[[GloroNet, Images, Path], dict[str, float]],
) -> int:
    """Measure the runs that a command was given, or all, on their test images; each row is written at once, others are kept.

    Args:
        measure: gives a run's row, from its net, its test images and its folder.
    """
    for run, net, test in named(parser, arguments):
        row = measure(net, test, stored.folder(run))
        print(run, row, flush=True)
        known = read_json(output)["runs"] if output.exists() else {}
        write_json(output, {"machine": machine(torch.device("cpu")), "runs": dict(sorted({**known, run: row}.items()))})
    return 0
