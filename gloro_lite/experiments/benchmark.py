"""What a GloRo Net costs beside a standard one: `python -m gloro_lite.experiments.benchmark` (or `make bench`).

Ratios of times taken side by side, in turns, in one run; medians. A step is timed on random images. A certificate is timed with
the stored net of that architecture on its own test images, as what `certify(x, dtype=None)` costs depends on how near they are to
the threshold; where the images are not on this machine, on random ones. Writes `data/benchmarks/<device>.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gloro_lite import stored
from gloro_lite.console import at_least, reports_errors
from gloro_lite.datasets.benchmarks import INFO, Benchmark, DataError, Images, load
from gloro_lite.files import home, write_json
from gloro_lite.layers import MinMax
from gloro_lite.precision import exact_float32
from gloro_lite.provenance import machine
from gloro_lite.train import memory
from gloro_lite.train.recipes import Recipe, find
from gloro_lite.train.trainer import Trainer, pixels, usable_device

NETWORKS = {"2C2F": "mnist-0.3", "4C3F": "mnist-1.58", "6C2F": "cifar10"}
"""Each network with the recipe that it is trained by."""

_BATCH = 256
_SPAN = 15.0  # a small network's few rounds would all fall into one busy or quiet moment of the machine


class _PlainMinMax(nn.Module):
    """MinMax as it is usually written: the yardstick for ours."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat((torch.min(first, second), torch.max(first, second)), dim=1)


def random_images(recipe: Recipe) -> Benchmark:
    """A batch of random images of a recipe's shape, labelled 0 to 9 in turn, as each of the three splits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (recipe.batch_size, *INFO[recipe.dataset].shape), generator=generator, dtype=torch.uint8)
    images = Images(x, torch.arange(recipe.batch_size) % 10)
    return Benchmark(images, images, images)


def _trainer(recipe: Recipe, device: str, compiled: bool | None) -> Trainer:
    """A trainer as `train` makes it, of random images."""
    recipe = dataclasses.replace(recipe, precision="float32", batch_size=_BATCH, init_from="")
    return Trainer(recipe, random_images(recipe), Path("nowhere"), device=device, compiled=compiled)


def _plain_step(recipe: Recipe, device: str) -> Callable[[], None]:
    """A standard step that uses none of the trainer's care: NCHW, MinMax as min and max."""
    trainer = _trainer(recipe, device, False)
    network = trainer.net.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch has no type for it
    for index, layer in enumerate(network):
        if isinstance(layer, MinMax):
            network[index] = _PlainMinMax()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> None:
        loss = nn.functional.cross_entropy(network(trainer.train.x.contiguous().float() / 255), trainer.train.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _step(trainer: Trainer) -> Callable[[], object]:
    trainer.start_epoch()
    # As an epoch does it, from the bytes on; half-way through training.
    return lambda: trainer.step(pixels(trainer.train.x), trainer.train.y, 0.5)


def _seconds(functions: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The median time of each, taken in turns so that a noisy machine slows all alike: `rounds` at least, for `_SPAN` seconds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    began = time.perf_counter()
    for turn in itertools.count():
        if turn >= rounds + 2 and time.perf_counter() - began > _SPAN:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _memory_of_a_step(recipe: Recipe, device: str, compiled: bool | None) -> int:
    trainer = _trainer(recipe, device, compiled)
    step = _step(trainer)
    memory.reset_peak(trainer.device)
    before = memory.peak(trainer.device)
    for _ in range(3):
        step()
    return memory.peak(trainer.device) - before


def _memory(recipe: Recipe, device: str, compiled: bool | None) -> int:
    """Bytes that steps need at their peak, the optimizer's state with them: in a process of its own, since peaks never fall."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_memory_of_a_step, recipe, device, compiled).result()


def _images(recipe: Recipe) -> tuple[Tensor, str]:
    """The first 1,000 test images as the network takes them, and what they are: "test images", or "random images"."""
    try:
        images, kind = load(recipe.dataset, download=False).test.x[:1000], "test images"
    except DataError:
        images, kind = random_images(dataclasses.replace(recipe, batch_size=1000)).test.x, "random images"
    return pixels(images), kind


def measure(network: str, rounds: int, device: str, compiled: bool | None) -> dict:
    """Seconds and peak bytes of a step, seconds of a pass over 1,000 images, and the ratios that the book quotes.

    Raises FileNotFoundError where the network's recipe has no stored net, as in an installed wheel.
    """
    recipe = find(NETWORKS[network])
    # What both may add to a step, GloRo or not, is left out.
    adam = dataclasses.replace(recipe, optimizer="adam", constraint="none", ema_decay=0.0, clean_weight=0.0)
    standard = dataclasses.replace(adam, loss="standard")
    gloro = _trainer(adam, device, compiled)
    seconds = _seconds(
        {
            "standard_step": _step(_trainer(standard, device, compiled)),
            "gloro_step": _step(gloro),
            "muon_step": _step(_trainer(recipe, device, compiled)),
            "plain_step": _plain_step(standard, device),
        },
        rounds,
        device,
    )
    net = stored.load(recipe.name).to(device)
    images, kind = _images(recipe)
    images = images.to(device)
    start = time.perf_counter()
    net.margin_constants()
    seconds["bound"] = time.perf_counter() - start

    def forward() -> Tensor:
        with torch.no_grad():
            return net.network(images)

    passes = {
        "forward": forward,
        "certify": lambda: net.certify(images),
        "certify_labels": lambda: net.certify(images, dtype=None),
    }
    if torch.device(device).type == "cpu":  # elsewhere float32's rounding is not counted
        passes["certify_float32"] = lambda: net.certify(images, dtype=torch.float32)
    seconds |= _seconds(passes, rounds, device)
    peaks = {"standard_step": _memory(standard, device, compiled), "gloro_step": _memory(adam, device, compiled)}
    return {
        "compiled": gloro.step.compiled,
        "certified": kind,
        "seconds": seconds,
        "peak_bytes": peaks,
        "gloro_over_standard": seconds["gloro_step"] / seconds["standard_step"],
        "gloro_over_plain": seconds["gloro_step"] / seconds["plain_step"],
        "muon_over_standard": seconds["muon_step"] / seconds["standard_step"],
        **{f"{name}_over_forward": seconds[name] / seconds["forward"] for name in passes if name != "forward"},
        "gloro_over_standard_memory": peaks["gloro_step"] / peaks["standard_step"],
    }


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    p = argparse.ArgumentParser(prog="python -m gloro_lite.experiments.benchmark", description=__doc__.splitlines()[0])
    p.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    p.add_argument("--rounds", type=at_least(1), metavar="N", default=15, help="at least so many of each time (default: 15)")
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU alone, as in training")
    options = p.parse_args(arguments)
    device = usable_device(options.device)
    exact_float32()
    report: dict[str, Any] = machine(device) | {"rounds": options.rounds, "batch_size": _BATCH, "networks": {}}
    for network in NETWORKS:
        row = report["networks"][network] = measure(network, options.rounds, options.device, options.compile)
        print(network, {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}, flush=True)
    folder = home() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9]+", "-", report["device"].lower()).strip("-") + ".json")
    write_json(path, report)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
