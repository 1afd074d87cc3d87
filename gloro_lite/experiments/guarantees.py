"""What rounding costs stored nets: `python -m gloro_lite.experiments.guarantees [RUN ...]` writes `data/guarantees.json`.

Verified-robust accuracy three times over: with no rounding counted, from a float32 forward pass, as is usual and proves nothing;
as stored, with the guarantee "exact"; and with the guarantee "deployed". See `gloro_lite.certificate.GUARANTEES`.
"""

from __future__ import annotations

import argparse
import sys

import torch

from gloro_lite.certificate import certified_radius
from gloro_lite.console import reports_errors
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.evaluate import certify
from gloro_lite.experiments.each_run import tabulate
from gloro_lite.files import home
from gloro_lite.net import GloroNet

OUTPUT = home() / "guarantees.json"


def losses(net: GloroNet, test: Images, *, batch_size: int = 500) -> dict[str, float]:
    """Verified-robust accuracy at the net's epsilon by what is counted, and what the stronger guarantee takes off a radius.

    Returns: fractions. `uncounted`, `exact` and `deployed` are accuracies; `radius_lost` the median over images with a radius of
    how much smaller the deployed radius is.
    """
    x, y = test.x.float() / 255, test.y
    table = net.margin_constants()
    with torch.no_grad():
        passes = [net.logits(part) for part in x.split(batch_size)]
    logits = torch.cat(passes)
    uncounted = (certified_radius(logits, table) > net.epsilon) & (logits.argmax(dim=1) == y)
    exact, deployed = (certify(net, x, batch_size=batch_size, guarantee=promise) for promise in ("exact", "deployed"))
    kept = exact.radius.isfinite() & (exact.radius > 0)
    lost = 1 - deployed.radius[kept] / exact.radius[kept]
    return {
        "images": len(x),
        "epsilon": net.epsilon,
        "uncounted": uncounted.double().mean().item(),
        "exact": (exact.label == y).double().mean().item(),
        "deployed": (deployed.label == y).double().mean().item(),
        "radius_lost": lost.median().item() if len(lost) else 0.0,
    }


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.guarantees", description="What rounding costs stored nets."
    )
    return tabulate(parser, arguments, OUTPUT, lambda net, test, _: losses(net, test))


if __name__ == "__main__":
    sys.exit(main())
