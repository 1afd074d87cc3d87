"""What a local bound of the last layers adds: `python -m gloro_lite.experiments.last_layers [RUN ...]` writes
`data/last_layers.json`.

Verified-robust accuracy of stored nets by the global bound, and with `gloro_lite.methods.last_layers` where that is not enough,
on all test images. Nothing is trained or chosen for it.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from gloro_lite import stored
from gloro_lite.console import add_data, reports_errors, test_images
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.evaluate import certify
from gloro_lite.files import home, read_json, write_json
from gloro_lite.methods import last_layers
from gloro_lite.net import GloroNet
from gloro_lite.provenance import machine

OUTPUT = home() / "last_layers.json"


def gain(net: GloroNet, test: Images) -> dict[str, float]:
    """Accuracies at the net's epsilon by the global bound and with the local one, as fractions, and the time of both.

    Returns: `accuracy` without a proof; `vra` by the global bound alone, and `local` with the local one where that fails;
    processor `seconds` of the first, and `time_over_global`, how many times that the second takes, both bounds counted.
    """
    x, y = test.x.float() / 255, test.y
    net.margin_constants()  # once for all images, and for both
    start = time.process_time()
    known = certify(net, x)
    between = time.process_time()
    local = last_layers.certify(net, x)
    end = time.process_time()
    return {
        "images": len(x),
        "epsilon": net.epsilon,
        "accuracy": (known.prediction == y).double().mean().item(),
        "vra": (known.label == y).double().mean().item(),
        "local": (local.label == y).double().mean().item(),
        "seconds": between - start,
        "time_over_global": (end - between) / (between - start),
    }


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.last_layers", description="What a local bound of the last layers adds."
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="stored runs, cifar10/seed-0 say (default: all); others are kept")
    add_data(parser)
    options = parser.parse_args(arguments)
    load = test_images(options.data)
    for run in stored.chosen(options.runs):
        row = gain(stored.load(run), load(stored.record(run)["settings"]["dataset"]))
        print(run, row, flush=True)
        known = read_json(OUTPUT)["runs"] if OUTPUT.exists() else {}
        write_json(OUTPUT, {"machine": machine(torch.device("cpu")), "runs": dict(sorted({**known, run: row}.items()))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
