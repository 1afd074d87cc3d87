"""What each choice of a recipe is worth: `python -m gloro_lite.train.ablations` trains variants that differ in one of them.

At MNIST scale, with the small 2C2F at the large epsilon, where no variant comes near its ceiling. Figures are those of the
validation split, by the converged estimate: the test set is not for choosing. Writes `data/ablations.json` after each run, and
goes on from there when it is started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
from pathlib import Path

import torch

from gloro_lite.datasets import benchmarks
from gloro_lite.files import write_atomically
from gloro_lite.train.recipes import Recipe, find
from gloro_lite.train.results import STORED, device_name
from gloro_lite.train.trainer import Trainer

TARGET = STORED.parent / "ablations.json"
EPOCHS = 10

BASE = Recipe(
    "base",
    "mnist",
    "2C2F",
    1.58,
    1.75,
    loss="generalised",
    loss_weight=0.8,
    loss_weight_growth=0.999,
    epochs=EPOCHS,
    precision="bfloat16",
)
"""What we began with. Our recipe for the row took from the variants what helped."""

_OURS = dataclasses.asdict(find("mnist-1.58-first"))  # the row's own starts from this one's weights, of another network
_KEPT = ("name", "network", "epochs")

VARIANTS: dict[str, dict] = {
    "base": {},
    "loss: cross-entropy with bottom": {"loss": "cross_entropy"},
    "loss: TRADES, λ = 1.5": {"loss": "trades", "loss_weight": 1.5, "loss_weight_growth": 0.0},
    "loss: EMMA": {"loss": "emma"},
    "loss: q = 0.8 from the start": {"loss_weight_growth": 0.0},
    "average of the weights: decay 0.998": {"average": 0.998},
    "sphere: none, Muon on plain weights": {"constraint": "none"},
    "optimizer: Adam, on the sphere": {"optimizer": "adam", "rate": 1e-3},
    "optimizer: Adam, on plain weights": {"constraint": "none", "optimizer": "adam", "rate": 1e-3},
    "schedule: held, then exponential": {"schedule": "exponential"},
    "training ε: fixed": {"epsilon_growth": 0.0},
    "training ε: not above ε": {"train_epsilon": 1.58},
    "initialisation: PyTorch's own": {"initialisation": "pytorch"},
    "power iterations: 5 a step": {"iterations": 5},
    "activation: ReLU": {"activation": "relu"},
    "precision: float32": {"precision": "float32"},
    "all that the recipe of the row changes": {
        field: value for field, value in _OURS.items() if field not in _KEPT and value != getattr(BASE, field)
    },
}
"""What each variant changes in `BASE`."""

SEEDS = {"base": (0, 1)}
"""Of the base, to see how far chance alone moves it; the variants have one each."""


def run(recipe: Recipe, seed: int, data: benchmarks.Benchmark) -> dict:
    """Train one variant; returns its figures on the validation split, as fractions."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, data, Path(folder), seed=seed)
        trainer.run()
    last = trainer.history[-1]
    return {
        "seed": seed,
        "validation_accuracy": last["accuracy"],
        "validation_vra": last["vra"],
        "lipschitz_estimate": last["lipschitz"],
    }


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m gloro_lite.train.ablations", description=__doc__.splitlines()[0])
    p.add_argument("--data", metavar="DIR", help="folder of the benchmark images (default: $GLORO_DATA, else data/root)")
    options = p.parse_args()
    data = benchmarks.load(BASE.dataset, options.data)
    base = dataclasses.asdict(BASE)
    report = json.loads(TARGET.read_text()) if TARGET.exists() else {"base": base, "runs": []}
    if report["base"] != base:
        raise SystemExit(f"{TARGET} is of another base: delete it to measure all variants anew")
    report |= {
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    # What has been changed since is measured anew.
    report["runs"] = [row for row in report["runs"] if VARIANTS.get(row["variant"]) == row["changes"]]
    done = {(row["variant"], row["seed"]) for row in report["runs"]}
    for variant, changes in VARIANTS.items():
        for seed in SEEDS.get(variant, (0,)):
            if (variant, seed) in done:
                continue
            print(f"{variant}, seed {seed}", flush=True)
            row = {"variant": variant, "changes": changes, **run(dataclasses.replace(BASE, **changes), seed, data)}
            report["runs"].append(row)
            write_atomically(TARGET, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
