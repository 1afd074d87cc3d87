"""What each choice of a recipe is worth: `python -m gloro_lite.experiments.ablations` trains variants that differ in one of them.

At MNIST scale, with the small 2C2F at the large epsilon, where no variant comes near its ceiling. Beside them, what the loss does
at the end of training: the last layer of the stored net of `mnist-1.58-first`, trained anew by several losses. Figures are of the
validation split, by the converged estimate: the test set is not for choosing. Writes `data/ablations.json` after each run, and
goes on from there when it is started again.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_lite import GloroNet, networks, serialization
from gloro_lite.bottom import margin_constants
from gloro_lite.certificate import certified_radius
from gloro_lite.console import add_data, reports_errors
from gloro_lite.datasets import benchmarks
from gloro_lite.files import add_row, home, recorded, update_json
from gloro_lite.losses import by_name
from gloro_lite.precision import exact_float32
from gloro_lite.provenance import machine
from gloro_lite.stored import renamed
from gloro_lite.train.recipes import Recipe, find
from gloro_lite.train.results import run_folder
from gloro_lite.train.trainer import Trainer

OUTPUT = home() / "ablations.json"
EPOCHS = 10

FIRST = find("mnist-1.58-first")

BASE = Recipe(
    name="base",
    dataset="mnist",
    network="2C2F",
    epsilon=1.58,
    train_epsilon=1.75,
    loss="gce",
    loss_weight=0.8,
    loss_weight_growth=0.999,
    epochs=EPOCHS,
)
"""The recipe that the project began with."""

_OURS = dataclasses.asdict(FIRST)  # the row's own recipe starts from the weights of this one, which are of another network
_KEPT = ("name", "network", "epochs")

VARIANTS: dict[str, dict] = {
    "base": {},
    "loss: cross-entropy with bottom": {"loss": "cross_entropy"},
    "loss: TRADES, λ = 1.5": {"loss": "trades", "loss_weight": 1.5, "loss_weight_growth": 0.0},
    "loss: EMMA": {"loss": "emma"},
    "loss: q = 0.8 from the start": {"loss_weight_growth": 0.0},
    "average of the weights: decay 0.998": {"ema_decay": 0.998},
    "sphere: none, Muon on plain weights": {"constraint": "none"},
    "sphere: none, and 5 power iterations a step": {"constraint": "none", "power_iterations": 5},
    "optimizer: Adam, on the sphere": {"optimizer": "adam", "learning_rate": 1e-3},
    "optimizer: Adam, on plain weights": {"constraint": "none", "optimizer": "adam", "learning_rate": 1e-3},
    "schedule: held, then exponential": {"schedule": "exponential"},
    "training ε: fixed": {"epsilon_growth": 0.0},
    "training ε: not above ε": {"train_epsilon": 1.58},
    "initialisation: PyTorch's own": {"initialisation": "pytorch"},
    "power iterations: 5 a step": {"power_iterations": 5},
    "activation: ReLU": {"activation": "relu"},
    "precision: float32": {"precision": "float32"},
    "all that the recipe of the row changes": {
        field: value for field, value in _OURS.items() if field not in _KEPT and value != getattr(BASE, field)
    },
}
"""What each variant changes in `BASE`."""

SEEDS = (0, 1, 2)
"""Each variant is trained with all of them, to see how far chance alone moves it."""


def run(recipe: Recipe, seed: int, data: benchmarks.Benchmark) -> dict:
    """Train one variant; returns its figures on the validation split, as fractions."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, data, Path(folder), seed=seed)
        trainer.run()
    last = trainer.history[-1]
    return {
        "seed": seed,
        "arithmetic": trainer.step.arithmetic._asdict(),
        "validation_accuracy": last["accuracy"],
        "validation_vra": last["vra"],
        "lipschitz_estimate": last["lipschitz"],
    }


HEADS: dict[str, Any] = {
    "losses": [[0.0, 0.0], [0.5, 0.0], [0.8, 0.0], [0.9, 0.0], [1.0, 0.0], [0.9, 0.05], [0.9, 0.1], [0.9, 0.2]],
    "train_epsilon": find("mnist-1.58").train_epsilon,
    "steps": 200,
    "rate": 3e-3,
}
"""How the last layer is trained: by Adam on all images at once, at a rate that falls linearly, once for each pair of q and the
weight of the clean cross-entropy."""


@torch.no_grad()
def features(net: GloroNet, images: Tensor) -> Tensor:
    """What the last layer sees, (images, features), of uint8 images."""
    return torch.cat([net.network[:-1](part.float() / 255) for part in images.split(1000)])


def heads(data: benchmarks.Benchmark) -> list[dict]:
    """Train the last layer of the first run's net by each loss of `HEADS`; returns figures, those of the net itself first."""
    shape, classes = benchmarks.INFO[FIRST.dataset][:2]
    net = GloroNet(networks.build(FIRST.network, shape, classes), shape, FIRST.epsilon)
    serialization.load(net, run_folder(FIRST.name, 0) / "model.safetensors")
    body = net.converge()
    train, validation = features(net, data.train.x), features(net, data.validation.x)
    rows = []
    for q, clean_weight in [(None, None), *HEADS["losses"]]:
        head = copy.deepcopy(net.head)
        optimizer = torch.optim.Adam(head.parameters())
        for step in range(HEADS["steps"] if q is not None else 0):
            optimizer.param_groups[0]["lr"] = HEADS["rate"] * (1 - step / HEADS["steps"])
            constants = margin_constants(head.weight, body)
            loss = by_name("gce", head(train), data.train.y, constants, HEADS["train_epsilon"], q, clean_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = head(validation)
            radius = certified_radius(logits, margin_constants(head.weight, body))
        correct = logits.argmax(dim=1) == data.validation.y
        verified = correct & (radius > FIRST.epsilon)
        rows.append(
            {
                "q": q,
                "clean_weight": clean_weight,
                "validation_accuracy": correct.double().mean().item(),
                "validation_vra": verified.double().mean().item(),
            }
        )
    return rows


FORMAT = 3
"""The format of `data/ablations.json`. `read` brings earlier ones into it."""


def read(path: Path) -> dict:
    """What `main` has written, as it would write it today; rows whose variant has been changed since are left out.

    Raises ValueError where it is of another base.
    """
    report = recorded(path) or {"format": FORMAT, "base": dataclasses.asdict(BASE), "runs": []}
    if report.get("format", 1) == 1:
        # The recipe said what the network was to be computed in, and Muon was torch's, which knows bfloat16 alone.
        for row in report["runs"]:
            network = row["changes"].get("precision", report["base"]["precision"])
            row["arithmetic"] = {"network": network, "orthogonalisation": "bfloat16"}
        report["base"]["precision"] = "auto"
    # A field that has been added since had its default.
    report |= {"format": FORMAT, "base": dataclasses.asdict(Recipe(**renamed(report["base"])))}
    for row in report["runs"]:
        row["changes"] = renamed(row["changes"])
    report["runs"] = [row for row in report["runs"] if VARIANTS.get(row["variant"]) == row["changes"]]
    if report["base"] != dataclasses.asdict(BASE):
        raise ValueError(f"{path} is of another base: delete it to measure all variants anew")
    return report


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    p = argparse.ArgumentParser(prog="python -m gloro_lite.experiments.ablations", description=__doc__.splitlines()[0])
    add_data(p)
    options = p.parse_args(arguments)
    exact_float32()
    data = benchmarks.load(BASE.dataset, options.data)
    report = read(OUTPUT)
    here = machine(torch.device("cpu"))
    for seed in SEEDS:
        for variant, changes in VARIANTS.items():
            if (variant, seed) in {(row["variant"], row["seed"]) for row in report["runs"]}:
                continue
            print(f"{variant}, seed {seed}", flush=True)
            row = {"variant": variant, "changes": changes, **run(dataclasses.replace(BASE, **changes), seed, data), **here}
            report = add_row(OUTPUT, row, ("variant", "seed"), read=read)
    if report.get("heads", {}).get("settings") != HEADS:
        print("the last layer, by each loss", flush=True)
        found = {"settings": HEADS, **here, "runs": heads(data)}
        report = update_json(OUTPUT, lambda known: {**known, "heads": found}, read=read)
    print(f"{OUTPUT} holds all {len(report['runs'])} runs; delete it to measure them anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
