"""Muon beside Adam, each at its own best rate: `python -m gloro_lite.experiments.rates [ROW ...]` writes `data/rates.json`.

A comparison at one rate says which rate was lucky. So each optimizer's is searched first, on a grid that grows until the best is
not at its end; the best is trained with further seeds; and Adam, whose steps cost less, once more for as much processor time as
Muon has taken. Figures are of the validation split, by the converged estimate: the test set is not for choosing. Goes on from the
file when it is started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gloro_lite.console import add_data, check_folder_of, place, reports_errors
from gloro_lite.datasets import benchmarks
from gloro_lite.experiments import ablations
from gloro_lite.files import add_row, home, recorded
from gloro_lite.precision import exact_float32
from gloro_lite.provenance import machine
from gloro_lite.train.recipes import Recipe, find
from gloro_lite.train.trainer import Diverged

OUTPUT = home() / "rates.json"

ROWS = {
    "mnist-0.3": dataclasses.replace(find("mnist-0.3"), epochs=10),
    "mnist-1.58": dataclasses.replace(ablations.BASE, name="mnist-1.58", power_iterations=5),
    "cifar10": dataclasses.replace(find("cifar10-first"), name="cifar10", network="2C2F", epochs=10),
}
"""What is trained: short runs of our recipes, with the small 2C2F in every row, so that all rates can be tried."""

OPTIMIZERS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "Muon, on the sphere": ({}, (3e-3, 1e-2, 3e-2)),
    "Muon, free": ({"constraint": "none"}, (3e-3, 1e-2, 3e-2)),
    "Adam, on the sphere": ({"optimizer": "adam"}, (3e-4, 1e-3, 3e-3)),
    "Adam, free": ({"optimizer": "adam", "constraint": "none"}, (3e-4, 1e-3, 3e-3)),
}
"""What each changes in the recipe, and the rates that its search begins with. Muon's rate is that of the body's weights: the rate
of the rest, which Adam moves, stays the recipe's."""

SEEDS = (0, 1, 2)
"""Rates are chosen with the first."""


def run(recipe: Recipe, seed: int, data: benchmarks.Benchmark) -> dict:
    """Train once; returns figures on the validation split, as fractions, both 0 where training diverged."""
    start = time.process_time()
    try:
        figures = ablations.run(recipe, seed, data)
    except Diverged:
        figures = {"validation_accuracy": 0.0, "validation_vra": 0.0}
    return {**figures, "seconds_per_epoch": (time.process_time() - start) / recipe.epochs}


def best_rate(tried: dict[float, float]) -> float:
    """The rate with the highest figure, of those tried."""
    return max(tried, key=tried.__getitem__)


def next_rate(tried: dict[float, float], start: tuple[float, ...]) -> float | None:
    """What to try next; None when the best rate has a worse one on either side.

    Args:
        tried: figures by rate.
        start: rates to begin with, a factor of about three apart.
    """
    for rate in start:
        if rate not in tried:
            return rate
    known, best = sorted(tried), best_rate(tried)
    if best == known[0]:
        return float(f"{best / 10**0.5:.0e}")
    return float(f"{best * 10**0.5:.0e}") if best == known[-1] else None


def next_run(runs: list[dict], row: str) -> dict | None:
    """What to train next for a row: optimizer, rate, seed and epochs; None when all has been trained."""
    epochs = ROWS[row].epochs
    done = [each for each in runs if each["row"] == row]
    rates = {}
    for name, (_, start) in OPTIMIZERS.items():
        mine = [each for each in done if each["optimizer"] == name]
        tried = {each["rate"]: each["validation_vra"] for each in mine if each["seed"] == SEEDS[0] and each["epochs"] == epochs}
        rate = next_rate(tried, start)
        if rate is not None:
            return {"row": row, "optimizer": name, "rate": rate, "seed": SEEDS[0], "epochs": epochs}
        rates[name] = best_rate(tried)

    def seconds(name: str) -> float:
        chosen = [each for each in done if each["optimizer"] == name and each["epochs"] == epochs]
        return statistics.median(each["seconds_per_epoch"] for each in chosen)

    # The times first: what equal time means must not change as further seeds are trained.
    plan = []
    for name, rate in rates.items():
        plan += [{"optimizer": name, "rate": rate, "seed": seed, "epochs": epochs} for seed in SEEDS]
        if name.startswith("Adam"):
            longer = next((e["epochs"] for e in done if e["optimizer"] == name and e["epochs"] > epochs), None)
            if longer is None:
                longer = epochs + max(1, round(epochs * (seconds(name.replace("Adam", "Muon")) / seconds(name) - 1)))
            plan += [{"optimizer": name, "rate": rate, "seed": seed, "epochs": longer} for seed in SEEDS]
    for each in plan:
        if not any(all(known[key] == value for key, value in each.items()) for known in done):
            return {"row": row, **each}
    return None


def curves(runs: list[dict], row: str) -> dict[str, dict[float, float]]:
    """What the search has seen of a row: by optimizer and rate, the first seed's VRA on the validation split, a fraction."""
    mine = [each for each in runs if each["row"] == row and each["seed"] == SEEDS[0] and each["epochs"] == ROWS[row].epochs]
    return {
        name: dict(sorted((each["rate"], each["validation_vra"]) for each in mine if each["optimizer"] == name))
        for name in OPTIMIZERS
    }


def summary(runs: list[dict], row: str) -> list[dict]:
    """A row's optimizers at the best rate of each, and Adam once more for Muon's time.

    Returns: a dict for each: "optimizer", "rate", "epochs", "seconds" of processor time (the mean of the seeds), "vra" and
        "accuracy" on the validation split (lists, a fraction a seed). Nothing of what has not been trained with every seed.
    """
    found = []
    for name, tried in curves(runs, row).items():
        rate = best_rate(tried) if tried else None
        chosen = [each for each in runs if (each["row"], each["optimizer"], each["rate"]) == (row, name, rate)]
        for epochs in sorted({each["epochs"] for each in chosen}):
            seeds = [each for each in chosen if each["epochs"] == epochs]
            if len(seeds) == len(SEEDS):
                found.append(
                    {
                        "optimizer": name,
                        "rate": rate,
                        "epochs": epochs,
                        "seconds": epochs * statistics.mean(each["seconds_per_epoch"] for each in seeds),
                        "vra": [each["validation_vra"] for each in seeds],
                        "accuracy": [each["validation_accuracy"] for each in seeds],
                    }
                )
    return found


def read(path: Path) -> dict:
    """What `main` has written; nothing of a row whose recipe has been changed since."""
    report = recorded(path) or {"recipes": {}, "runs": []}
    recipes = {row: dataclasses.asdict(recipe) for row, recipe in ROWS.items()}
    current = {row for row, known in report["recipes"].items() if known == recipes.get(row)}
    return {"recipes": recipes, "runs": [each for each in report["runs"] if each["row"] in current]}


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="python -m gloro_lite.experiments.rates", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--output", type=place, default=OUTPUT, metavar="FILE", help=f"default: {OUTPUT.name} beside the results")
    add_data(parser)
    options = parser.parse_args(arguments)
    if unknown := set(options.rows) - set(ROWS):
        raise ValueError(f"there is no row {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}")
    check_folder_of(options.output)
    exact_float32()
    report = read(options.output)
    for row in options.rows or ROWS:
        data = benchmarks.load(ROWS[row].dataset, options.data)
        while (what := next_run(report["runs"], row)) is not None:
            changes, _ = OPTIMIZERS[what["optimizer"]]
            recipe = dataclasses.replace(ROWS[row], **changes, learning_rate=what["rate"], epochs=what["epochs"])
            found = {**what, **run(recipe, what["seed"], data), **machine(torch.device("cpu"))}
            print({key: value for key, value in found.items() if key not in ("arithmetic", "versions")}, flush=True)
            report = add_row(options.output, found, what, read=read)
    return 0


if __name__ == "__main__":
    sys.exit(main())
