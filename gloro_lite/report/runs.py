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
from gloro_lite.provenance import weights_digest
from gloro_lite.report.methods import METHODS

Record = dict[str, Any]
"""What a run's `result.json` says."""
Runs = dict[str, list[Record]]
"""The runs of each recipe, or of `<method>/<row>`: names in alphabetical order, runs in the order of their seeds."""


def of_recipes(results: Path = stored.STORED) -> Runs:
    """The stored runs of recipes.

    `test_vra_local` is added where `data/last_layers.json` has the run, of these weights: VRA with the local bound of the last
    layers.
    """
    local = recorded(results.parent / "last_layers.json").get("runs", {})
    runs: Runs = {}
    for run in stored.runs(results):
        row = local.get(run, {})
        more = {"test_vra_local": row["local"]} if row and row.get("weights_sha256") == weights_digest(results / run) else {}
        runs.setdefault(run.partition("/")[0], []).append(stored.record(results / run) | more)
    return _in_order(runs)


def of_other_methods(results: Path = stored.STORED) -> Runs:
    """The stored runs of other methods."""
    runs: Runs = {}
    for path in sorted(path for m in METHODS if m.is_foreign for path in results.glob(f"{m.key}*/seed-*/result.json")):
        record = read_json(path)
        record["settings"] = stored.renamed_of_sites(record["settings"])
        runs.setdefault(path.parents[1].relative_to(results).as_posix(), []).append(record)
    return _in_order(runs)


def _in_order(runs: Runs) -> Runs:
    return {name: sorted(runs[name], key=lambda record: record["seed"]) for name in sorted(runs)}


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
    path = stored.STORED / name / f"seed-{seed}" / "certificates.csv"
    rows = stored.columns(path, {"label": int, "prediction": int, "radius": float})
    return torch.tensor([radius if label == prediction else -1.0 for label, prediction, radius in rows], dtype=torch.float64)


def machine(record: Record) -> str:
    """What something was measured on, as its record says: "AMD EPYC, 2 threads"."""
    return f"{record['device']}, {record['threads']} thread{'s' * (record['threads'] != 1)}"


def runs_of(name: str, results: Path = stored.STORED) -> list[Record]:
    """The stored runs of a recipe, "mnist-0.3", or of another method's row, "sites/mnist-0.3", in the order of their seeds.

    It reads `result.json` alone: weights that are read, or asked for, go into the archive of the chapter that calls this.
    """
    records = [read_json(path) for path in results.glob(f"{name}/seed-*/result.json")]
    if "/" in name:
        records = [record | {"settings": stored.renamed_of_sites(record["settings"])} for record in records]
    else:
        records = [stored.migrated(record) for record in records]
    return sorted(records, key=lambda record: record["seed"])
