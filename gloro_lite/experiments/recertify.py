"""Certify stored runs anew: `python -m gloro_lite.experiments.recertify [RUN ...]`, all of a checkout's by default."""

from __future__ import annotations

import argparse
import sys

from gloro_lite import stored
from gloro_lite.console import reports_errors
from gloro_lite.experiments.each_run import named
from gloro_lite.train import results


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.recertify", description=__doc__.partition(":")[0] + "."
    )
    for run, net, test in named(parser, arguments):
        before = stored.record(run)
        after = results.recertify(stored.folder(run), net, test)
        print(f"{run}: verified {before['test_vra']:.4f} before, {after['test_vra']:.4f} now", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
