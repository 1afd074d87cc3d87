"""What commands share: the option --data, counts and times, test images, and errors as one line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from gloro_lite.datasets import benchmarks
from gloro_lite.datasets.benchmarks import DataError, Images
from gloro_lite.files import expanded

ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError, DataError)
"""Errors whose messages tell a user what to do: bad input, files, data, and packages that are missing."""


STOPPED = 3
"""The exit status of a training that stopped at --max-seconds: the same command goes on from its checkpoint."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare --data, which `gloro_lite.datasets.benchmarks.load` takes."""
    parser.add_argument(
        "--data", type=place, metavar="DIR", help="folder of the benchmark images (default: $GLORO_DATA, else data/root)"
    )


def at_least(least: int) -> Callable[[str], int]:
    """The `type` of an option that takes whole numbers from `least` up."""

    def count(text: str) -> int:
        try:
            if (number := int(text)) >= least:
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} up, not {text}")

    return count


def seconds(text: str) -> float:
    """The `type` of an option that takes a time."""
    try:
        if (number := float(text)) > 0:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a number greater than 0, not {text}")


def place(text: str) -> Path:
    """The `type` of an option that names a file or folder. What is empty, a variable of the shell that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("must name a file or folder, and is empty")
    return expanded(text)


def test_images(folder: str | Path | None) -> Callable[[str], Images]:
    """What gives the test split of a data set, read once for runs of the same one in a row; `folder`: see `add_data`."""
    return functools.lru_cache(maxsize=1)(lambda dataset: benchmarks.load(dataset, folder).test)


def log_to_stdout(level: int = logging.INFO) -> None:
    """What a run tells of itself goes where its result does."""
    logging.raiseExceptions = False  # a log that nobody reads any more is no reason to stop
    logger = logging.getLogger("gloro_lite")
    logger.setLevel(level)
    logger.handlers = [logging.StreamHandler(sys.stdout)]
    logger.propagate = False


def check_folder_of(path: Path) -> None:
    """Raise FileNotFoundError where a file cannot be written because its folder is not there: before the work, not after it."""
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist: make it first")


def one_line(error: BaseException) -> str:
    """What an error says, on one line and without the system's number for it."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split()) or type(error).__name__


def reports_errors(main: Callable[..., int]) -> Callable[..., int]:
    """A command that an error ends with one line on stderr and status 1, and Ctrl-C with one and status 130."""

    @functools.wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        # What a terminal's encoding does not have, ± or the name of a file, is written as an escape: no reason to fail.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # none, replaced, or closed
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            code = main(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except BrokenPipeError:
            # The reader, `head` say, has what it wants. Python would flush once more as it exits, and complain.
            with contextlib.suppress(OSError, ValueError):  # closed altogether
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except ERRORS as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return run
