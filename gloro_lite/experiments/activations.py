"""What an activation is worth to a GloRo Net: `python -m gloro_lite.experiments.activations` writes `data/activations.json`.

Small dense nets on the 8 x 8 digits, alike but for their activation: accuracy and VRA on the validation split, how tight the
bound is, how long gradients are, and what a step costs. Needs scikit-learn. Goes on from the file when it is started again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gloro_lite import networks
from gloro_lite.console import reports_errors
from gloro_lite.datasets import digits
from gloro_lite.evaluate import certify
from gloro_lite.experiments.tightness import Search, by_layer, global_slopes, gradients, margin, nearest_rivals, write
from gloro_lite.files import add_row, home, recorded, update_json
from gloro_lite.fit import fit
from gloro_lite.losses import by_name
from gloro_lite.net import GloroNet
from gloro_lite.precision import exact_float32
from gloro_lite.provenance import machine

OUTPUT = home() / "activations.json"
SETTINGS: dict[str, Any] = {
    "network": "| 64 64 64",
    "epsilon": 0.3,
    "train_epsilon": 0.36,
    "epochs": 30,
    "learning_rate": 5e-3,
    "batch_size": 64,
}
"""The settings of each run. It trains with a fifth more than epsilon, as the chapter on digits does, and at a rate that was not
tuned for any activation."""
SEEDS = (0, 1, 2)
"""A seed decides the weights, the order of the batches and the splits."""
KINDS = (*networks.ACTIVATIONS, "none")
"""What is trained: a net with each activation, and one that has no hidden layer at all, to compare with."""
STEP: dict[str, Any] = {"network": "2C2F", "shape": [1, 28, 28], "batch_size": 128, "rounds": 12}
"""What the cost of a step is measured on: random images."""


def train(activation: str, seed: int, epochs: int = SETTINGS["epochs"]) -> tuple[GloroNet, digits.Digits]:
    """One net, trained, and its data."""
    data = digits.load(seed)
    notation, kind = ("|", "minmax") if activation == "none" else (SETTINGS["network"], activation)
    network = networks.build(notation, digits.INPUT_SHAPE, 10, activation=kind, seed=seed)
    net = GloroNet(network, digits.INPUT_SHAPE, SETTINGS["epsilon"])
    how = {key: SETTINGS[key] for key in ("train_epsilon", "learning_rate", "batch_size")}
    fit(net, data.train, epochs=epochs, seed=seed, progress=False, **how)
    return net, data


def alignment(exact: nn.Module, x: Tensor) -> float:
    """How alike the gradients of a margin are at different inputs: their mean cosine, over pairs of inputs and of classes.

    Args:
        exact: a network in float64.
        x: (n, ...) float64.

    Returns: 1 for a linear classifier, 0 for gradients without a common direction.
    """
    point = x.detach().requires_grad_()
    logits = exact(point)
    slopes = [torch.autograd.grad(column.sum(), point, retain_graph=True)[0].flatten(1) for column in logits.T]
    pairs = itertools.combinations(slopes, 2)
    # The mean cosine over all pairs of unit vectors is the squared length of their mean.
    return statistics.mean(nn.functional.normalize(a - b).mean(dim=0).square().sum().item() for a, b in pairs)


def use_of_bound(net: GloroNet, x: Tensor) -> dict:
    """How much of its bound a net uses at inputs x, ``(n, *net.input_shape)``.

    Returns: `gradient`, the mean length of the gradient of the margin between the predicted class and its nearest rival;
    `gradient_share`, the mean of that length over the margin's certified constant; `alignment`, see there; `layers`, the
    geometric mean over inputs of the share of its constant that each layer uses for a small step along that gradient.
    """
    table = net.margin_constants()
    exact = copy.deepcopy(net.network).double().requires_grad_(False)
    top, rival = nearest_rivals(exact(x.double()), table)
    gradient = gradients(margin(exact, top, rival), x.double())
    lengths = gradient.flatten(1).norm(dim=1)
    # Two points so close that hardly any activation changes what it does between them.
    close = 1e-6 * nn.functional.normalize(gradient.flatten(1)).view_as(x)
    shares = by_layer(exact, net.program().norms, x.double() + close, x.double() - close, top, rival)
    return {
        "alignment": alignment(exact, x.double()),
        "gradient": lengths.mean().item(),
        "gradient_share": (lengths / table[top, rival]).mean().item(),
        "layers": {name: share.clamp_min(1e-12).log().mean().exp().item() for name, share in shares.items()},
    }


def run(activation: str, seed: int, epochs: int = SETTINGS["epochs"]) -> dict:
    """Train one net and measure it; accuracies are fractions of the validation split, by the certified bound."""
    net, data = train(activation, seed, epochs)
    x, y = data.validation
    certificate = certify(net, x)
    table = net.margin_constants()
    # In float64 throughout: these nets are small.
    exact = copy.deepcopy(net.network).double().requires_grad_(False)
    steepest = global_slopes(exact, exact, table, x.double(), y, Search(starts=2, steps=60))
    j, i, slope, *_ = steepest[0]
    return {
        "activation": activation,
        "seed": seed,
        "accuracy": (certificate.prediction == y).double().mean().item(),
        "vra": (certificate.label == y).double().mean().item(),
        "upper": table.max().item(),
        "lower": slope,
        "classes": [j, i],
        "ratio": statistics.mean(s / table[j, i].item() for j, i, s, *_ in steepest),
        **use_of_bound(net, x),
    }


def step_times(rounds: int = STEP["rounds"]) -> dict[str, float]:
    """Median seconds of processor time of a training step of `STEP`'s network with each activation, taken in turns."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = STEP["shape"]
    x = torch.rand(STEP["batch_size"], channels, height, width, generator=generator).to(memory_format=torch.channels_last)
    y = torch.arange(STEP["batch_size"]) % 10
    steps = {}
    for activation in networks.ACTIVATIONS:
        network = networks.build(STEP["network"], (channels, height, width), 10, activation=activation)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no type for it
        net = GloroNet(network, (channels, height, width), SETTINGS["epsilon"]).train()
        steps[activation] = (net, torch.optim.Adam(net.parameters()))
    times: dict[str, list[float]] = {activation: [] for activation in steps}
    for turn in range(rounds + 2):
        for activation, (net, optimizer) in steps.items():
            start = time.process_time()
            loss = by_name("cross_entropy", net.logits(x), y, net.estimate(), SETTINGS["train_epsilon"], 1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if turn >= 2:  # the first two warm up
                times[activation].append(time.process_time() - start)
    return {activation: statistics.median(values) for activation, values in times.items()}


def read(path: Path) -> dict:
    """What `main` has written; nothing of it where its settings are not today's."""
    report = recorded(path)
    return report if report.get("settings") == SETTINGS else {"settings": SETTINGS, "runs": []}


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.activations", description="Train small nets that differ in their activation."
    )
    parser.parse_args(arguments)
    exact_float32()
    report = read(OUTPUT)
    here = {"machine": machine(torch.device("cpu"))}
    for seed in SEEDS:
        for activation in KINDS:
            if (activation, seed) not in {(row["activation"], row["seed"]) for row in report["runs"]}:
                row = {**run(activation, seed), **here}
                report = add_row(OUTPUT, row, ("activation", "seed"), read=read, write=write)
                print(activation, seed, row["vra"], flush=True)
    if report.get("step", {}).get("settings") != STEP:
        step = {"settings": STEP, "seconds": step_times(), **here}
        update_json(OUTPUT, lambda known: {**known, "step": step}, read=read, write=write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
