"""The stored runs, and what their files say: read in one place for model cards and chapters."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_lite import stored
from gloro_lite.files import home, read_json, recorded
from gloro_lite.report.methods import METHODS

Record = dict[str, Any]
"""What a run's `result.json` says."""
Runs = dict[str, list[Record]]
"""The runs of each recipe, or of `<method>/<row>`, in the order of their seeds."""
TEST_IMAGES = 10_000
"""In the test set of each benchmark."""
BENCHMARKS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "tiny-imagenet": "Tiny-ImageNet"}
"""What tables call the data sets of recipes."""


def of_recipes(results: Path = stored.STORED) -> Runs:
    """The stored runs of recipes by data set and epsilon, and each recipe after the one whose weights it starts from.

    They are read by their records alone: the archive of a chapter holds what its run read, weights too.

    `test_vra_local` is added where `data/last_layers.json` has the run, of these weights: VRA with the local bound of the last
    layers.
    """
    local = recorded(results.parent / "last_layers.json").get("runs", {})
    runs: Runs = {}
    for run in stored.runs(results):
        record, row = stored.record_in(results / run), local.get(run, {})
        weights = record.get("weights_sha256")
        if weights is not None and weights == row.get("weights_sha256"):
            record["test_vra_local"] = row["local"]
        runs.setdefault(run.partition("/")[0], []).append(record)

    def stage(name: str) -> int:
        before = runs[name][0]["settings"].get("init_from")
        return 1 + stage(before) if before in runs else 0

    def place(name: str) -> tuple[str, float, int, str]:
        first = runs[name][0]
        return first["settings"]["dataset"], first["epsilon"], stage(name), name

    return {name: _by_seed(runs[name]) for name in sorted(runs, key=place)}


def of_other_methods(results: Path = stored.STORED) -> Runs:
    """The stored runs of other methods, in alphabetical order."""
    folders = {path.parents[1] for m in METHODS if m.is_foreign for path in results.glob(f"{m.key}*/seed-*/result.json")}
    return {name: runs_of(name, results) for name in sorted(folder.relative_to(results).as_posix() for folder in folders)}


def _by_seed(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: int(record["seed"]))


def mean(records: Iterable[Record], field: str) -> float:
    """A field's mean over runs."""
    return statistics.mean(record[field] for record in records)


def measurements(name: str) -> Any:
    """A file of measurements under `data/`: "attacks" for `data/attacks.json`."""
    return read_json(home() / f"{name}.json")


def verified_radii(name: str, seed: int = 0) -> Tensor:
    """Of each test image of a stored run the certified radius where its class is right, else -1: (images,) float64.

    Raises FileNotFoundError where the run is not stored, ValueError where its table is damaged.
    """
    return radii_in(stored.STORED / name / f"seed-{seed}" / "certificates.csv")


def radii_in(path: Path, column: str = "radius") -> Tensor:
    """The same of any table with labels, predictions, and radii in a column of that name. Raises as `verified_radii` does."""
    rows = stored.columns(path, {"label": int, "prediction": int, column: float})
    return torch.tensor([radius if label == prediction else -1.0 for label, prediction, radius in rows], dtype=torch.float64)


def by_variant(ablations: Record) -> Runs:
    """The runs of `data/ablations.json` by what each changes in the recipe; "base" changes nothing."""
    runs: Runs = {}
    for run in ablations["runs"]:
        runs.setdefault(run["variant"], []).append(run)
    return runs


def machine(record: Record) -> str:
    """What something was measured on, as its record says: "AMD EPYC, 2 threads"."""
    return f"{record['device']}, {record['threads']} thread{'s' * (record['threads'] != 1)}"


def runs_of(name: str, results: Path = stored.STORED) -> list[Record]:
    """The stored runs of a recipe, "mnist-0.3", or of another method's row, "sites/mnist-0.3", in the order of their seeds.

    It reads `result.json` alone: weights that are read, or asked for, go into the archive of the chapter that calls this.
    """
    paths = results.glob(f"{name}/seed-*/result.json")
    records = [read_json(path) if "/" in name else stored.record_in(path.parent) for path in paths]
    if name.startswith("sites/"):
        records = [record | {"settings": stored.renamed_of_sites(record["settings"])} for record in records]
    return _by_seed(records)
