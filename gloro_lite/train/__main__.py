"""The command line: `python -m gloro_lite.train --recipe mnist-0.3`.

On several GPUs of a machine: `torchrun --nproc-per-node 2 -m gloro_lite.train --recipe cifar10`.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import math
import os
import signal
import sys
import typing

from gloro_lite.datasets import benchmarks
from gloro_lite.train.checkpoint import CheckpointError
from gloro_lite.train.recipes import CHOICES, RECIPES, Recipe, find
from gloro_lite.train.run import train
from gloro_lite.train.trainer import TrainingStopped


def parser() -> argparse.ArgumentParser:
    """The options; every field of a recipe can be overridden by one."""
    p = argparse.ArgumentParser(prog="python -m gloro_lite.train", description="Train a recipe and certify the test set.")
    p.add_argument("--recipe", required=True, metavar="NAME", help=f"one of: {', '.join(RECIPES)}")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", help="cpu, cuda or mps (default: cuda where there is a GPU for it, else cpu)")
    p.add_argument("--data", metavar="DIR", help="folder of the benchmark images (default: $GLORO_DATA, else data/root)")
    p.add_argument("--output", metavar="DIR", help="folder of this run (default: data/results/<recipe>/seed-<n>)")
    p.add_argument(
        "--max-seconds",
        type=float,
        default=math.inf,
        metavar="S",
        help="stop training in time, with a checkpoint (certifying the test set, after the last epoch, comes on top)",
    )
    p.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="compile the network's step first (default: on a GPU alone)"
    )
    overrides = p.add_argument_group("fields of the recipe (a run that overrides any needs --output)")
    types, meanings = typing.get_type_hints(Recipe), _meanings()
    for field in dataclasses.fields(Recipe):
        if field.name != "name":
            overrides.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=types[field.name],
                choices=CHOICES.get(field.name),
                metavar=None if field.name in CHOICES else types[field.name].__name__.upper(),
                help=meanings.get(field.name, "").replace("`", ""),
            )
    return p


def _meanings() -> dict[str, str]:
    """What stands below each field of a recipe in its source."""
    (definition,) = ast.parse(inspect.getsource(Recipe)).body
    pairs = itertools.pairwise(definition.body)
    return {
        field.target.id: " ".join(ast.literal_eval(text.value).split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 when the run is finished, 3 when it stopped in time with a checkpoint (0 under `torchrun`),
    130 when it was interrupted, 1 after an error."""
    options = vars(parser().parse_args(arguments))
    # A polite kill stops like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        recipe = find(options["recipe"])
        names = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
        recipe = dataclasses.replace(recipe, **{name: options[name] for name in names if options[name] is not None})
        result = train(
            recipe,
            options["output"],
            seed=options["seed"],
            device=options["device"],
            root=options["data"],
            max_seconds=options["max_seconds"],
            compiled=options["compile"],
        )
    except TrainingStopped as stop:
        print(f"{stop}; the same command goes on from there")
        return 0 if "LOCAL_RANK" in os.environ else 3  # torchrun takes any other code for a crash
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last full epoch")
        return 130
    except (ValueError, OSError, MemoryError, benchmarks.DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"test accuracy {result['test_accuracy']:.4f}, verified at {recipe.epsilon:.4g}: {result['test_vra']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
