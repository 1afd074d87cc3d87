"""Try to break the certificates of stored nets: `python -m gloro_lite.train.falsify` writes `data/falsification.json`.

Each image is attacked within its own certified radius. A point of another label there would prove the certificate false. The
same attack beyond the radius shows that it is one that finds such points where they are.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch
from torch import Tensor, nn

from gloro_lite import stored
from gloro_lite.attacks import pgd
from gloro_lite.datasets import benchmarks
from gloro_lite.evaluate import certify
from gloro_lite.files import home, write_atomically
from gloro_lite.net import GloroNet
from gloro_lite.train.results import machine

OUTPUT = home() / "falsification.json"
RUNS = (("mnist-0.3/seed-0", 10_000), ("mnist-1.58/seed-0", 200))
"""Stored runs, and how many of their first test images are attacked."""
BEYOND = (1.25, 1.5, 2.0)
"""Multiples of each image's radius at which the attack is let loose too, where it may succeed."""


def attack(net: GloroNet, x: Tensor, *, steps: int = 50, restarts: int = 2, batch_size: int = 500) -> dict:
    """Attack images x, ``(n, *net.input_shape)``, each within its certified radius, and beyond it.

    Returns: counts. `tries` are the points that were looked at within the radius; `broken` the images whose exact prediction
    (float64) changed there: false certificates. `float32` counts those where the float32 network itself gave another class, which
    "exact" does not exclude; `float32_deployed` those within the "deployed" radius, false certificates too. `beyond`
    holds the fraction of images that the attack broke at each multiple of the radius.
    """
    exact, deployed = certify(net, x), certify(net, x, guarantee="deployed")
    kept = exact.radius.isfinite() & (exact.radius > 0)
    x, prediction = x[kept], exact.prediction[kept]
    counts = {"images": len(x), "tries": len(x) * (steps + 1) * restarts, "broken": 0, "float32": 0, "float32_deployed": 0}
    beyond = dict.fromkeys(BEYOND, 0)

    def moved(part: slice, radius: Tensor, **how: int) -> tuple[Tensor, Tensor]:
        """Where the attack changed the prediction: of the exact network, and of float32."""
        points = pgd(net.logits, x[part], prediction[part], radius[part], **how)
        with torch.no_grad():
            single = net.logits(points).argmax(dim=1)
        return net.certify(points).prediction != prediction[part], single != prediction[part]

    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        broken, single = moved(part, exact.radius[kept], steps=steps, restarts=restarts, seed=start)
        counts["broken"] += int(broken.sum())
        counts["float32"] += int(single.sum())
        counts["float32_deployed"] += int(moved(part, deployed.radius[kept], steps=20)[1].sum())
        for multiple in BEYOND:
            beyond[multiple] += int(moved(part, multiple * exact.radius[kept], steps=20)[0].sum())
    return counts | {"beyond": {str(multiple): count / max(len(x), 1) for multiple, count in beyond.items()}}


def at_the_boundary(*, points: int = 1000, inputs: int = 784, seed: int = 0) -> dict:
    """Rounding alone: a linear classifier, whose bound is tight, at points that lie on the far side of their ball's edge.

    Each point is moved by its radius towards its nearest boundary, so that only rounding decides on which side it lands.

    Returns: counts of points whose label changed within the "exact" radius, for the exact network (`broken`) and for PyTorch's
    float32 (`float32`), and for float32 within the "deployed" radius (`float32_deployed`).
    """
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inputs, 10)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) / inputs**0.5)
    net = GloroNet(nn.Sequential(layer), (inputs,), 0.3).eval()
    x = torch.rand(points, inputs, generator=generator)
    weight, table = layer.weight.detach().double(), net.margin_constants()
    counts = {"images": points, "tries": 0, "broken": 0, "float32": 0, "float32_deployed": 0}
    for guarantee in ("exact", "deployed"):
        c = net.certify(x, guarantee=guarantee)
        logits = x.double() @ weight.T + layer.bias.detach().double()
        radii = (logits.gather(1, c.prediction[:, None]) - logits) / table[c.prediction]
        rival = radii.where(table[c.prediction] > 0, torch.inf).argmin(dim=1)
        towards = nn.functional.normalize(weight[rival] - weight[c.prediction], dim=1)
        for share in (1 - 1e-7, 1 - 1e-9, 1.0):
            moved = (x.double() + share * c.radius[:, None] * towards).float()
            inside = (moved.double() - x.double()).norm(dim=1) * (1 + 1e-14) <= c.radius
            with torch.no_grad():
                single = (net.logits(moved).argmax(dim=1) != c.prediction) & inside
            counts["tries"] += int(inside.sum())
            if guarantee == "exact":
                counts["broken"] += int(((net.certify(moved).prediction != c.prediction) & inside).sum())
                counts["float32"] += int(single.sum())
            else:
                counts["float32_deployed"] += int(single.sum())
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 when no certificate broke, 1 when one did or after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.train.falsify", description="Attack the stored nets' certificates."
    )
    parser.add_argument("--data", metavar="DIR", help="folder of the benchmark images (default: $GLORO_DATA, else data/root)")
    options = parser.parse_args(arguments)
    found = {}
    try:
        for run, count in RUNS:
            net = stored.load(run)
            test = benchmarks.load(stored.record(run)["settings"]["dataset"], options.data).test
            found[run] = attack(net, test.x[:count].float() / 255)
            print(run, found[run], flush=True)
    except (ValueError, OSError, benchmarks.DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found["linear"] = at_the_boundary()
    print("linear", found["linear"])
    record = {"machine": machine(torch.device("cpu")), "attacked": found}
    write_atomically(OUTPUT, (json.dumps(record, indent=2) + "\n").encode())
    return int(any(counts["broken"] or counts["float32_deployed"] for counts in found.values()))


if __name__ == "__main__":
    sys.exit(main())
