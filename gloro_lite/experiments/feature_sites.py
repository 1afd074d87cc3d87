"""Sites on a network's features, trained with it: `python -m gloro_lite.experiments.feature_sites`.

Writes `data/feature_sites.json`.

A linear head is the case of one site a class. Are more sites a better head? The body is a small 2C2F on the spectral sphere, so
that a distance between features is at most one between inputs, and a radius among features is one among inputs. Body and head are
trained together, by the same loss on the radius whatever the number of sites. Figures are of the validation split, by the
converged estimate: the test set is not for choosing. Goes on from the file when it is started again.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_lite import networks
from gloro_lite.console import add_data, check_folder_of, place, reports_errors
from gloro_lite.datasets import benchmarks
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.files import add_row, home, recorded
from gloro_lite.methods.sites import Sites, hinge, initial_sites
from gloro_lite.net import GloroNet
from gloro_lite.precision import exact_float32
from gloro_lite.provenance import machine
from gloro_lite.train.optimizers import Optimizers
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.sphere import SpectralSphere
from gloro_lite.train.trainer import pixels

OUTPUT = home() / "feature_sites.json"

SETTINGS: dict[str, Any] = {
    "dataset": "mnist",
    "network": "2C2F",
    "epsilon": 1.58,
    "epochs": 10,
    "batch_size": 256,
    "power_iterations": 5,
    "learning_rate": 0.01,
    "bias_rate": 2e-3,
    "warmup": 0.1,
    "own": 4,
    "rivals": 16,
}
"""The settings of all runs. The body's weights are moved by Muon, at the learning rate, its biases by Adam, at the bias rate, and
the sites by Adam."""

PER_CLASS = (1, 4, 16, 64)
"""Sites a class."""

TUNED = {"target": (1.75, 2.5), "site_rate": (3e-3, 3e-2)}
"""The radius that the hinge aims at, and the rate of the sites: chosen for each number of sites, with the first seed."""

SEEDS = (0, 1, 2)


def features(net: GloroNet, images: Tensor) -> Tensor:
    """What the last layer sees, (batch, features), of uint8 images."""
    return net.network[:-1](pixels(images))


@torch.no_grad()
def radii(net: GloroNet, sites: Sites, images: Images) -> Tensor:
    """Radii towards the labels, (n,), by the converged estimate of the body's constant, 1: no proof."""
    parts = zip(images.x.split(1000), images.y.split(1000), strict=True)
    return torch.cat([sites.radius(features(net, x), y, own=16, rivals=64) for x, y in parts])


def train(per_class: int, seed: int, images: Images, settings: dict) -> tuple[GloroNet, Sites]:
    """Train a body, which is that of the net, and sites on its features together.

    Args:
        settings: as `SETTINGS`, with a `target` and a `site_rate`.
    """
    (channels, height, width), classes = images.x.shape[1:], int(images.y.max()) + 1
    network = networks.build(settings["network"], (channels, height, width), classes, seed=seed)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no type for it
    net = GloroNet(network, (channels, height, width), settings["epsilon"], power_iterations=settings["power_iterations"])
    sphere = SpectralSphere(net)
    generator = torch.Generator().manual_seed(seed)
    sphere.converge()
    with torch.no_grad():
        start = torch.cat([features(net, part) for part in images.x.split(1000)])
    sites = initial_sites(start, images.y, per_class, "kmeans", seed)
    recipe = Recipe(
        name="features",
        **{name: settings[name] for name in ("dataset", "network", "epsilon", "learning_rate", "warmup")},
        train_epsilon=settings["epsilon"],
        head_learning_rate=settings["bias_rate"],
    )
    of_body, of_sites = Optimizers(recipe, net), torch.optim.Adam(sites.parameters(), lr=0.0)
    search = {"own": settings["own"], "rivals": settings["rivals"]}
    steps, done = settings["epochs"] * math.ceil(len(images.x) / settings["batch_size"]), 0
    for _ in range(settings["epochs"]):
        sphere.converge()
        for rows in torch.randperm(len(images.x), generator=generator).split(settings["batch_size"]):
            sphere.retract()
            loss = hinge(sites.radius(features(net, images.x[rows]), images.y[rows], **search), settings["target"])
            net.zero_grad()
            sites.zero_grad()
            loss.backward()
            sphere.project()
            done += 1
            scale = recipe.rate_scale(done / steps)
            of_body.step(scale)  # not of the last layer, which has no gradient
            of_sites.param_groups[0]["lr"] = settings["site_rate"] * scale
            of_sites.step()
    sphere.converge()
    return net, sites


def plan(runs: list[dict]) -> dict | None:
    """What to train next: sites a class, seed, target and rate of the sites; None when all has been trained."""
    names = ("per_class", "seed", *TUNED)
    done = {tuple(each[name] for name in names): each["validation_vra"] for each in runs}
    grid = [(target, rate) for target in TUNED["target"] for rate in TUNED["site_rate"]]
    for per_class in PER_CLASS:
        for choice in grid:
            if (per_class, SEEDS[0], *choice) not in done:
                return dict(zip(names, (per_class, SEEDS[0], *choice), strict=True))
    for seed in SEEDS[1:]:
        for per_class in PER_CLASS:
            scores = {choice: done[(per_class, SEEDS[0], *choice)] for choice in grid}
            best = max(scores, key=scores.__getitem__)
            if (per_class, seed, *best) not in done:
                return dict(zip(names, (per_class, seed, *best), strict=True))
    return None


def read(path: Path) -> dict:
    """What `main` has written; nothing of it where its settings are not today's."""
    report = recorded(path)
    return report if report.get("settings") == SETTINGS else {"settings": SETTINGS, "runs": []}


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="python -m gloro_lite.experiments.feature_sites", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=place, default=OUTPUT, metavar="FILE", help=f"default: {OUTPUT.name} beside the results")
    add_data(parser)
    options = parser.parse_args(arguments)
    check_folder_of(options.output)
    exact_float32()
    data = benchmarks.load(SETTINGS["dataset"], options.data)
    report = read(options.output)
    while (what := plan(report["runs"])) is not None:
        start = time.process_time()
        tuned = {name: what[name] for name in TUNED}
        net, sites = train(what["per_class"], what["seed"], data.train, {**SETTINGS, **tuned})
        seconds = time.process_time() - start
        radius = radii(net, sites, data.validation)
        figures = {
            "validation_accuracy": (radius > 0).double().mean().item(),
            "validation_vra": (radius > SETTINGS["epsilon"]).double().mean().item(),
        }
        row = {**what, **figures, "processor_seconds": seconds, **machine(torch.device("cpu"))}
        print({key: value for key, value in row.items() if key != "versions"}, flush=True)
        report = add_row(options.output, row, what, read=read)
    return 0


if __name__ == "__main__":
    sys.exit(main())
