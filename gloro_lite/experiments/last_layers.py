"""What a local bound of the last layers adds: `python -m gloro_lite.experiments.last_layers [RUN ...]` writes
`data/last_layers.json`, and `local_certificates.csv` into each run's folder.

Verified-robust accuracy of stored nets by the global bound, and with `gloro_lite.methods.last_layers` where that is not enough,
on all test images. Nothing is trained or chosen for it. The table beside a run names the images that the second has and the first
has not, so that anyone can verify them: `data/checker` does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from gloro_lite.console import reports_errors
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.evaluate import certify
from gloro_lite.experiments.each_run import tabulate
from gloro_lite.files import home, table, write_atomically
from gloro_lite.methods import last_layers
from gloro_lite.net import GloroNet
from gloro_lite.stored import LOCAL

OUTPUT = home() / "last_layers.json"


def gain(net: GloroNet, test: Images, folder: Path) -> dict[str, float]:
    """Accuracies at the net's epsilon by the global bound and with the local one, as fractions, and the time of both.

    Writes `local_certificates.csv` into the folder: index and label of each image that the local bound alone certifies, rightly.

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
    more = ((local.label == y) & (known.label != y)).nonzero()[:, 0]
    rows = zip(more.tolist(), y[more].tolist(), strict=True)
    write_atomically(folder / LOCAL, table(("index", "label"), rows))
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
    return tabulate(parser, arguments, OUTPUT, gain)


if __name__ == "__main__":
    sys.exit(main())
