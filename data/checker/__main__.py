"""Check finished runs, their local certificates too, without the program that made them.

Usage: `python data/checker data/results/<recipe>/seed-<n>`.

Exit status: 0 where all that is claimed holds, 1 where something does not, 2 where nothing can be said.
"""

import argparse
import os
import sys
from pathlib import Path

import run
from reading import Unusable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python data/checker", description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="a run's folder")
    parser.add_argument("--images", type=Path, help="the data root of the test images (default: $GLORO_DATA, else data/root)")
    parser.add_argument(
        "--exact", type=int, default=2, metavar="N", help="images to work out in exact arithmetic anyway (default: 2)"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep proofs of norms here, and believe those that are there")
    parser.add_argument("--limit", type=int, metavar="N", help="look only at the first N images")
    arguments = parser.parse_args()
    if arguments.exact < 0 or (arguments.limit is not None and arguments.limit < 1):
        parser.error("--exact takes a number from 0 up, --limit one from 1 up")
    images = Path(os.path.expanduser(arguments.images or os.environ.get("GLORO_DATA") or "data/root"))
    options = run.Options(images, arguments.exact, arguments.cache, arguments.limit)
    all_hold = True
    for folder in arguments.folders:
        print(folder)
        try:
            holds = run.check(folder, options, lambda line: print(f"  {line}", flush=True))
        except Unusable as error:
            print(error, file=sys.stderr)
            return 2
        print("  all of this holds" if holds else "  NOT ALL OF THIS HOLDS")
        all_hold &= holds
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
