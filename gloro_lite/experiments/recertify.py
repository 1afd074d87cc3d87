"""Certify stored runs anew: `python -m gloro_lite.experiments.recertify [RUN ...]`, all of a checkout's by default.

Where the local bound was asked as well, so it is again: see `gloro_lite.experiments.last_layers`.
"""

from __future__ import annotations

import argparse
import sys

from gloro_lite import stored
from gloro_lite.console import reports_errors
from gloro_lite.experiments import last_layers
from gloro_lite.experiments.each_run import measure_and_keep, named
from gloro_lite.train import results


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.recertify", description=__doc__.partition(":")[0] + "."
    )
    for run, net, test in named(parser, arguments):
        folder, before = stored.folder(run), stored.record(run)
        local = (folder / stored.LOCAL).is_file()
        after = results.recertify(folder, net, test)
        print(f"{run}: verified {before['test_vra']:.4f} before, {after['test_vra']:.4f} now", flush=True)
        if local:
            measure_and_keep(run, net, test, last_layers.OUTPUT, last_layers.gain)
    return 0


if __name__ == "__main__":
    sys.exit(main())
