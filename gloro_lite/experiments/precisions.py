"""What a step of a recipe costs by each `--precision`: `python -m gloro_lite.experiments.precisions`.

Writes `data/precisions.json`.

Measured twice where that can be: as the processor is, and with its bfloat16 and AVX-512 instructions hidden from oneDNN, as most
laptops' are. Seconds are of the processor, on one thread, the shortest of a few steps: what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from gloro_lite.console import at_least, reports_errors
from gloro_lite.experiments.benchmark import random_images
from gloro_lite.files import home, write_json
from gloro_lite.precision import exact_float32
from gloro_lite.provenance import machine
from gloro_lite.train.recipes import PRECISIONS, find
from gloro_lite.train.trainer import Trainer, pixels

OUTPUT = home() / "precisions.json"
RECIPES = ("mnist-0.3", "mnist-1.58", "cifar10")
HIDDEN = {"as it is": {}, "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}
"""What oneDNN may use, and the environment that tells it so; it looks there once, at the start of a process."""

_BATCH = 64  # a fraction of the recipes' own: emulated products take seconds an image


def step_seconds(trainer: Trainer, rounds: int) -> float:
    """Seconds of processor time that a step takes, the shortest of `rounds` after one that warms up."""
    trainer.start_epoch()
    seconds = []
    for _ in range(rounds + 1):
        start = time.process_time()
        trainer.step(pixels(trainer.train.x), trainer.train.y, 0.5)
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


def measure(name: str, rounds: int) -> dict:
    """For each precision of a recipe, the arithmetic that is chosen and the seconds of a step; equal ones are measured once."""
    recipe = dataclasses.replace(find(name), batch_size=_BATCH, init_from="")
    data = random_images(recipe)
    rows: dict[str, dict] = {}
    known: dict[tuple, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            changed = dataclasses.replace(recipe, precision=precision)
            trainer = Trainer(changed, data, Path(folder), compiled=False)
            arithmetic = trainer.step.arithmetic
            if arithmetic not in known:
                known[arithmetic] = step_seconds(trainer, rounds)
            rows[precision] = {**arithmetic._asdict(), "seconds": known[arithmetic]}
    return rows


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    p = argparse.ArgumentParser(prog="python -m gloro_lite.experiments.precisions", description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=at_least(1), metavar="N", default=5, help="steps of each, the shortest counts (default: 5)")
    p.add_argument("--here", action="store_true", help="print this process's measurement as JSON and write nothing")
    options = p.parse_args(arguments)
    if options.here:
        torch.set_num_threads(1)
        exact_float32()
        rows = {name: measure(name, options.rounds) for name in RECIPES}
        print(json.dumps(machine(torch.device("cpu")) | {"recipes": rows}))
        return 0
    report: dict = {"batch_size": _BATCH, "rounds": options.rounds, "oneDNN may use": {}}
    command = [sys.executable, "-m", "gloro_lite.experiments.precisions", "--here", "--rounds", str(options.rounds)]
    for hidden, environment in HIDDEN.items():
        if environment and platform.machine().lower() not in ("x86_64", "amd64"):
            continue
        done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
        report["oneDNN may use"][hidden] = row = json.loads(done.stdout)
        print(hidden, json.dumps(row["recipes"]), flush=True)
    write_json(OUTPUT, report)
    print(f"written to {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
