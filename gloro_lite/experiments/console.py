"""What the commands beside `train` share: the option --data, and errors as one line."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable

from gloro_lite.datasets.benchmarks import DataError


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare --data, which `gloro_lite.datasets.benchmarks.load` takes."""
    parser.add_argument("--data", metavar="DIR", help="folder of the benchmark images (default: $GLORO_DATA, else data/root)")


def reports_errors(main: Callable[..., int]) -> Callable[..., int]:
    """A command whose errors of input, files and data end it with one line that says what to do, and status 1."""

    @functools.wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except (ValueError, OSError, ImportError, DataError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return run
