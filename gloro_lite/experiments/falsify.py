"""Try to break the certificates of stored models: `python -m gloro_lite.experiments.falsify` writes `data/falsification.json`.

A point of another label within a certified radius would prove the certificate false. The searches, in
`gloro_lite.experiments.searches`, are projected gradient ascent, AutoAttack, rounding near a decision boundary, and pairs of
inputs as the paper's Definition 2 forbids them. The same attack is also run beyond the radius, where it does find such points.

    python -m gloro_lite.experiments.falsify                      # all stored models, what is recorded left out
    python -m gloro_lite.experiments.falsify mnist-0.3 --again    # seed 0 of one, anew

The record is written after each search, so that an interrupted run goes on where it was; what was found of other weights is
thrown away. Needs safetensors and, for AutoAttack, the extra `attacks`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gloro_lite import files, stored
from gloro_lite.certificate import Certificate, Guarantee
from gloro_lite.console import add_data, at_least, reports_errors
from gloro_lite.datasets import benchmarks
from gloro_lite.experiments import searches
from gloro_lite.experiments.searches import Target
from gloro_lite.files import home, read_json
from gloro_lite.methods import last_layers
from gloro_lite.methods.sites import load_data, load_sites
from gloro_lite.net import GloroNet
from gloro_lite.provenance import machine, weights_digest

OUTPUT = home() / "falsification.json"
IMAGES = {"mnist-0.3/seed-0": {"within": 10_000}}
"""How many of the first test images a search looks at, where it is not as `SIZES` says."""
SIZES = {"within": 100, "rounding": 30, "pairs": 30, "autoattack": 10}
SEARCHES: dict[str, Callable[..., dict]] = {
    "within": searches.within,
    "rounding": searches.rounding,
    "pairs": searches.pairs,
    "autoattack": searches.toolbox,
}


def names() -> list[str]:
    """All stored models, as `<recipe>/seed-<n>` and `sites/<run>/seed-<n>`; and the linear classifier of `at_the_boundary`."""
    root = stored.STORED
    return [*stored.runs(root), *(f"sites/{run}" for run in stored.runs(root / "sites")), "linear"]


def full_name(name: str) -> str:
    """One of `names`, as `stored.full_name` gives it. Raises FileNotFoundError as that does, and ValueError for another."""
    full = name if name == "linear" else stored.full_name(name)
    if full not in (known := names()):
        raise ValueError(f"{name!r} is none of the stored models that are attacked: these are {', '.join(known)}")
    return full


def of_net(net: GloroNet) -> Target:
    """A net as a target."""
    return Target(
        net.logits,
        lambda x: net.program().network(x.double()),
        lambda x, guarantee: net.certify(x, guarantee=guarantee),
        net.margin_constants(),
        net.epsilon,
    )


def of_last_layers(net: GloroNet) -> Target:
    """A net as a target, certified with the local bound of its last layers."""

    def certify(x: Tensor, guarantee: Guarantee) -> Certificate:
        return last_layers.certify(net, x)

    return of_net(net)._replace(certify=certify, guarantees=("exact",))


def of_sites(path: Path, epsilon: float, bounds: tuple[float, float] | None) -> Target:
    """Stored sites as a target, by the certificates of cells, in the box where bounds are given."""
    sites = load_sites(path)
    classifier = sites.classifier()
    constants = 1 - torch.eye(sites.classes, dtype=torch.float64)  # the margins of half the distances

    def certify(x: Tensor, guarantee: Guarantee) -> Certificate:
        return classifier.certify_by_cells(x, epsilon, box=bounds)

    return Target(sites, classifier.logits, certify, constants, epsilon, ("exact",), bounds)


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


def _partners(x: Tensor, prediction: Tensor) -> Tensor:
    """For each input the next one that is predicted otherwise; itself where all are predicted alike."""
    others = (prediction[None, :] != prediction[:, None]).int()
    order = (torch.arange(len(x))[None, :] - torch.arange(len(x))[:, None]) % len(x)
    return x[(order + len(x) * (1 - others)).argmin(dim=1)]


def search(target: Target, kind: str, x: Tensor, **settings: int) -> dict:
    """Run one of `SEARCHES` on the images x: those between two inputs go from each image to the next of another prediction."""
    if kind in ("within", "autoattack"):
        return SEARCHES[kind](target, x, **settings)
    return SEARCHES[kind](target, x, _partners(x, target.label(x)), **settings)


def targets(name: str, root: str | None) -> dict[str, tuple[Target, Tensor]]:
    """A stored model's targets, by the name of what they certify, and the test images to look at.

    For "last layers" these are the images that the local bound adds.
    """
    folder = stored.STORED / name
    result = read_json(folder / "result.json")
    if name.startswith("sites/"):
        test = load_data(stored.renamed_of_sites(result["settings"])["dataset"], root, result["seed"])[2]
        kinds = {"cells": None, "in the box": (0.0, 1.0)}
        return {k: (of_sites(folder / "model.safetensors", result["epsilon"], box), test.images()) for k, box in kinds.items()}
    x, net = benchmarks.load(result["settings"]["dataset"], root).test.x, stored.load(name)
    found = {"": (of_net(net), x.float() / 255)}
    if rows := stored.added_locally(folder):
        found["last layers"] = of_last_layers(net), x[rows].float() / 255
    return found


def recorded() -> dict[str, Any]:
    """What the record holds of weights as they are now."""
    return _current(files.recorded(OUTPUT))


def _current(record: dict[str, Any]) -> dict[str, Any]:
    attacked, known = record.get("attacked", {}), names()
    return {name: entry for name, entry in attacked.items() if name in known and entry.get("weights_sha256") == digest(name)}


def add_search(name: str, weights: str | None, kind: str, counts: dict) -> None:
    """Put what a search has found of a model, with these weights, into the record, which other processes may write to as well."""

    def change(record: dict[str, Any]) -> dict[str, Any]:
        attacked = _current(record)
        known = attacked.get(name, {})
        searches = known.get("searches", {}) if known.get("weights_sha256") == weights else {}
        attacked[name] = {"weights_sha256": weights, "searches": {**searches, kind: counts}}
        return {"attacked": {model: attacked[model] for model in names() if model in attacked}}

    files.update_json(OUTPUT, change)


def digest(name: str) -> str | None:
    """SHA-256 of a stored model's weights; None for the linear classifier, which is made from its seed."""
    if name == "linear":
        return None
    return weights_digest(stored.STORED / name)


def false_certificates(attacked: dict[str, Any]) -> Iterator[str]:
    """A sentence for each search that broke a certificate, or a bound on a slope."""
    for name, entry in attacked.items():
        for kind, counts in entry["searches"].items():
            wrong = counts["broken"] + counts.get("float32_deployed", 0)
            if wrong or counts.get("slope", 0.0) > 1 + 1e-9:
                yield f"{name}, {kind}: {wrong} false certificates, slopes up to {counts.get('slope', 0.0)} of their bound"


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 when no certificate broke, 1 when one did or after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.falsify", description="Attack the stored models' certificates."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="stored models, <recipe>[/seed-<n>], or linear (default: all)")
    add_data(parser)
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="default: all of them")
    parser.add_argument("--images", type=at_least(2), metavar="N", help="look at the first N test images in each search")
    parser.add_argument("--again", action="store_true", help="make searches anew that the record already holds")
    options = parser.parse_args(arguments)
    chosen = [full_name(name) for name in options.names] or names()
    known = {} if options.again else recorded()
    for name in chosen:
        done, weights = known.get(name, {}).get("searches", {}), digest(name)
        todo = [kind for kind in options.searches if not any(k.split(",")[0] == kind for k in done)]
        if name == "linear":
            todo = [] if done else ["boundary"]
        loaded = targets(name, options.data) if todo and name != "linear" else {"": (None, None)}
        for kind in todo:
            for part, (target, images) in loaded.items():
                # Definition 2 is about all inputs, and the other searches find their own.
                if (part == "in the box" and kind in ("pairs", "rounding")) or (part == "last layers" and kind != "within"):
                    continue
                count = options.images or IMAGES.get(name, {}).get(kind, SIZES.get(kind, 0))
                started = time.process_time()
                counts = at_the_boundary() if target is None or images is None else search(target, kind, images[:count])
                counts |= {"seconds": time.process_time() - started, "machine": machine(torch.device("cpu"))}
                add_search(name, weights, f"{kind}, {part}" if part else kind, counts)
                print(name, part, kind, json.dumps(counts), flush=True)
    wrong = list(false_certificates(recorded()))
    print("\n".join(wrong) or "no certificate broke")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
