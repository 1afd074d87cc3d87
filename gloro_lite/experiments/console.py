"""What the experiments' commands share: the option --data, test images, and errors as one line."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable

from gloro_lite.datasets import benchmarks
from gloro_lite.datasets.benchmarks import DataError, Images


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare --data, which `gloro_lite.datasets.benchmarks.load` takes."""
    parser.add_argument("--data", metavar="DIR", help="folder of the benchmark images (default: $GLORO_DATA, else data/root)")


def test_images(folder: str | None) -> Callable[[str], Images]:
    """What gives the test split of a data set, read once for runs of the same one in a row; `folder`: see `add_data`."""
    return functools.lru_cache(maxsize=1)(lambda dataset: benchmarks.load(dataset, folder).test)


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
