"""Certify stored runs anew: `python -m gloro_lite.experiments.recertify [RUN ...]`, all of a checkout's by default."""

from __future__ import annotations

import argparse
import sys

from gloro_lite import stored
from gloro_lite.console import add_data, reports_errors, test_images
from gloro_lite.train import results


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.recertify", description=__doc__.partition(":")[0] + "."
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a stored run, mnist-0.3/seed-0 say, or a folder (default: all stored runs)"
    )
    add_data(parser)
    options = parser.parse_args(arguments)
    load = test_images(options.data)
    for run in stored.chosen(options.runs):
        before = stored.record(run)
        after = results.recertify(stored.folder(run), stored.load(run), load(before["settings"]["dataset"]))
        print(f"{run}: verified {before['test_vra']:.4f} before, {after['test_vra']:.4f} now", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
