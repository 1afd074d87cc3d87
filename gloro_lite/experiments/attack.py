"""Accuracy under attack of stored nets: `python -m gloro_lite.experiments.attack [RUN ...]` writes `data/attacks.json`.

Three attacks within epsilon and the pixel range, on images spread evenly over the test set: the toolbox's PGD as the paper runs
it (Section 5.1), our own PGD on the margin, and the toolbox's AutoAttack on a part of them. Each gives an upper bound on robust
accuracy, where verified-robust accuracy is a lower one. Needs the extra `attacks`.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time

import torch
from torch import Tensor

from gloro_lite import attack_suite, attacks, stored
from gloro_lite.console import add_data, at_least, reports_errors
from gloro_lite.datasets import benchmarks
from gloro_lite.experiments import each_run, rivals
from gloro_lite.files import home, read_json, recorded
from gloro_lite.net import GloroNet
from gloro_lite.provenance import machine, weights_digest
from gloro_lite.train.recipes import find

OUTPUT = home() / "attacks.json"
SETTINGS = {
    "images": 1000,
    "toolbox_steps": 100,
    "margin_steps": 50,
    "auto_images": 200,
    "auto_proven": 20,
    "queries": 1000,
    "seed": 0,
}
"""images: of the test set. toolbox_steps, margin_steps: of the two PGD attacks, each started once, at the image itself.
auto_images: those among them that AutoAttack is for. auto_proven: of these, the images with a proof that it attacks all the same.
queries: of its Square attack, for each image."""


def spread(total: int, count: int) -> Tensor:
    """Indices of `count` of `total` images, or of all where there are fewer, at even distances, (count,) int64."""
    count = min(count, total)
    return torch.arange(count) * total // count


def attack(net: GloroNet, x: Tensor, labels: Tensor, proven: Tensor, settings: dict) -> dict:
    """Attack a net at its epsilon.

    AutoAttack is spared what the others have broken, and images with a proof but for the first few: no attack can break those.
    So its figure counts an image as broken where any of the three attacks broke it.

    Args:
        x: images ``(n, *net.input_shape)``, float in [0, 1]. labels: (n,).
        proven: (n,) bool, whether each image has the right label and a proof at epsilon.
        settings: see `SETTINGS`.

    Returns: fractions of the images (accuracy, vra, and one for each PGD), of the `auto_images` (auto_accuracy, auto_vra,
    auto_pgd, auto_attack), how many images AutoAttack was run on, and `false`: how many with a proof were broken by anything.

    Raises ImportError, with the extra to install, where the toolbox is missing.
    """
    epsilon, bounds, seed = net.epsilon, (0.0, 1.0), settings["seed"]
    with torch.no_grad():
        right = torch.cat([net.logits(part).argmax(dim=1) for part in x.split(500)]) == labels

    def survivors(points: Tensor, rows: Tensor) -> Tensor:
        parts = zip(x[rows].split(500), points.split(500), labels[rows].split(500), strict=True)
        return ~torch.cat([attack_suite.successes(net.logits, a, b, y, epsilon) for a, b, y in parts])

    everyone = torch.arange(len(x))
    steps = settings["toolbox_steps"]
    points = attack_suite.pgd(net.logits, x, labels, epsilon, steps=steps, bounds=bounds, seed=seed)
    toolbox = right & survivors(points, everyone)
    parts = zip(x.split(250), labels.split(250), strict=True)
    steps = settings["margin_steps"]
    each = [attacks.pgd(net.logits, *part, epsilon, steps=steps, bounds=bounds, seed=seed) for part in parts]
    margin = right & survivors(torch.cat(each), everyone)
    left = toolbox & margin

    few = spread(len(x), settings["auto_images"])
    with_proof = proven[few] & (proven[few].cumsum(0) <= settings["auto_proven"])
    rows = few[left[few] & (with_proof | ~proven[few])]
    after = left.clone()
    if len(rows):
        points = attack_suite.auto_attack(
            net.logits, x[rows], labels[rows], epsilon, queries=settings["queries"], bounds=bounds, seed=seed
        )
        after[rows] = survivors(points, rows)

    def share(found: Tensor) -> float:
        return found.double().mean().item()

    return {
        "images": len(x),
        "accuracy": share(right),
        "vra": share(proven),
        "toolbox_pgd": share(toolbox),
        "margin_pgd": share(margin),
        "auto_images": len(few),
        "auto_accuracy": share(right[few]),
        "auto_vra": share(proven[few]),
        "auto_pgd": share(left[few]),
        "auto_attack": share(after[few]),
        "auto_attacked": len(rows),
        "false": int((proven & ~after).sum()),
    }


def attack_run(run: str, settings: dict, root: str | None = None) -> dict:
    """`attack` a stored run, by its certificates.

    Returns: what `attack` does, with the run's epsilon, the digest of its weights, the settings, the machine and the seconds.

    Raises FileNotFoundError, ValueError and DataError as `stored` and `benchmarks` do.
    """
    folder = stored.folder(run)
    net, dataset = load(run)
    test = benchmarks.load(dataset, root).test
    with (folder / "certificates.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = spread(len(table), settings["images"])  # rivals certify the first test images alone
    table = [table[index] for index in rows.tolist()]
    proven = torch.tensor([row["label"] == row["prediction"] and float(row["radius"]) > net.epsilon for row in table])
    for weight in net.parameters():
        weight.requires_grad_(False)
    start = time.perf_counter()
    found = attack(net, test.x[rows].float() / 255, test.y[rows], proven, settings)
    return {
        "epsilon": net.epsilon,
        **found,
        "settings": settings,
        "weights_sha256": weights_digest(folder),
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine(torch.device("cpu")),
    }


def load(run: str) -> tuple[GloroNet, str]:
    """The net of a stored run, or the network of a rival's as one, and the name of its data.

    Raises ValueError for smoothing: what it certifies is a vote, which these attacks do not see.
    """
    record = read_json(stored.folder(run) / "result.json")
    if "method" not in record:
        return stored.load(run), record["settings"]["dataset"]
    if record["method"] == "smoothing":
        raise ValueError(f"{run} certifies a vote over noisy copies: attacking its network says nothing of that")
    return rivals.load(stored.folder(run)), find(record["settings"]["row"]).dataset


def due(known: dict, settings: dict) -> list[str]:
    """The first seed of each stored recipe, and of each rival but smoothing, that has not been attacked with these settings and
    its present weights. Raises FileNotFoundError where nothing is stored."""
    runs = stored.chosen([])
    for method in rivals.METHODS:
        runs += [f"{method}/{run}" for run in stored.runs(stored.STORED / method) if method != "smoothing"]
    done = [run for run, found in known.items() if found["settings"] == settings]
    return [
        run
        for run in sorted(runs)
        if run.endswith("/seed-0") and (run not in done or known[run]["weights_sha256"] != weights_digest(stored.folder(run)))
    ]


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 where a certificate broke and after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.attack", description="Attack stored nets within epsilon."
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="mnist-0.3/seed-0 (default: each recipe's first that is due)")
    add_data(parser)
    for name, value in SETTINGS.items():
        kind = at_least(0 if name in ("auto_proven", "seed") else 1)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, metavar="N", help=f"default: {value}")
    options = parser.parse_args(arguments)
    settings = {name: getattr(options, name) for name in SETTINGS}
    broken = 0
    runs = stored.chosen(options.runs) if options.runs else due(recorded(OUTPUT), settings)
    for run in runs:
        found = attack_run(run, settings, options.data)
        print(run, {name: value for name, value in found.items() if not isinstance(value, dict)}, flush=True)
        broken += found["false"]
        each_run.keep(OUTPUT, run, found)  # at once: a run of hours may be stopped
    if not runs:
        print("no run is due: name one to attack it again")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
