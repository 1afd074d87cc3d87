"""What `python -m gloro_lite.train` does.

On several GPUs of a machine: `torchrun --nproc-per-node 2 -m gloro_lite.train --recipe cifar10`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import signal
import sys
import typing

from gloro_lite.console import ERRORS, STOPPED, log_to_stdout, one_line, place, reports_errors, seconds
from gloro_lite.datasets import benchmarks
from gloro_lite.precision import exact_float32
from gloro_lite.train.checkpoint import CheckpointError
from gloro_lite.train.recipes import CHOICES, RECIPES, Recipe, find, summary
from gloro_lite.train.results import STORED
from gloro_lite.train.run import OtherRun, train
from gloro_lite.train.trainer import SEEDS, Diverged, TooLittleTime, TrainingStopped

_EPILOG = """\
exit codes: 0 the run is finished (also when it was already); 3 it stopped at --max-seconds, and the same command goes on
from its checkpoint (0 under torchrun); 130 interrupted, likewise; 1 an error, which is printed; 2 options that are not understood

in the folder of a run: result.json (accuracies as fractions, settings, versions), model.safetensors (weights),
certificates.csv (index, label, prediction and radius of each test image), history.csv (an epoch a line)
"""

_ADVICE = {
    OtherRun: "--output",
    Diverged: "--learning-rate, --head-learning-rate and --output",
    TooLittleTime: "--max-seconds",
    MemoryError: "--batch-size and --output",
}
"""The options that an error is about."""


def parser() -> argparse.ArgumentParser:
    """The options; every field of a recipe can be overridden by one."""
    width = max(map(len, RECIPES))
    p = argparse.ArgumentParser(
        prog="python -m gloro_lite.train",
        usage="%(prog)s --recipe NAME [options]",  # of which there are too many for each error to repeat
        description="Train a recipe and certify the test set.",
        epilog="recipes:\n" + "\n".join(f"  {name:{width}}  {summary(name)}" for name in RECIPES) + "\n\n" + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run = p.add_argument_group("the run")
    run.add_argument("--recipe", required=True, metavar="NAME", help="one of those listed below")
    run.add_argument("--seed", type=_seed, default=0, help="of weights, order and augmentation (default: 0)")
    run.add_argument("--device", help="cpu, cuda or mps (default: cuda where there is a GPU for it, else cpu)")
    run.add_argument("--data", type=place, metavar="DIR", help=f"folder of the images (default: {benchmarks.data_root()})")
    run.add_argument("--output", type=place, metavar="DIR", help=f"folder of this run (default: {STORED}/<recipe>/seed-<n>)")
    run.add_argument(
        "--max-seconds",
        type=seconds,
        default=math.inf,
        metavar="S",
        help="stop training in time, with a checkpoint (certifying the test set, after the last epoch, comes on top)",
    )
    run.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the network's step first (default: on a GPU alone). If a run was killed in it and later ones fail, "
        "delete torch's cache, the folder torchinductor_<user> among the temporary files",
    )
    run.add_argument("--show", action="store_true", help="print the recipe's settings, with those given here, and stop")
    types = typing.get_type_hints(Recipe)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in _settings():
        name = field.metadata["group"]
        if name not in groups:
            groups[name] = p.add_argument_group(f"settings of the recipe: {name} (a run that changes any needs --output)")
        default = "" if field.default in (dataclasses.MISSING, "") else f" Usually {field.default}."
        groups[name].add_argument(
            f"--{field.name.replace('_', '-')}",
            type=types[field.name],
            choices=CHOICES.get(field.name),
            metavar=None if field.name in CHOICES else types[field.name].__name__.upper(),
            help=field.metadata["meaning"] + default,
        )
    return p


def _settings() -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(Recipe) if field.name != "name"]


def _seed(text: str) -> int:
    if text.isdecimal() and int(text) < SEEDS:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {SEEDS - 1}, not {text}")


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code, see the end of `--help`."""
    options = vars(parser().parse_args(arguments))
    # A polite kill stops like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    first = os.environ.get("RANK", "0") == "0"
    log_to_stdout(logging.INFO if first else logging.ERROR)  # from one process alone
    try:
        changed = {field.name: options[field.name] for field in _settings() if options[field.name] is not None}
        recipe = dataclasses.replace(find(options["recipe"]), **changed)
        if options["show"]:
            _say(json.dumps(dataclasses.asdict(recipe), indent=2), first)
            return 0
        exact_float32()
        result = train(
            recipe,
            options["output"],
            seed=options["seed"],
            device=options["device"],
            root=options["data"],
            max_seconds=options["max_seconds"],
            compiled=options["compile"],
        )
    except BrokenPipeError:
        raise
    except TrainingStopped as stop:
        _say(f"{stop}; the same command goes on from there", first)
        return 0 if "LOCAL_RANK" in os.environ else STOPPED  # torchrun takes any other code for a crash
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from the last full epoch", first)
        return 130
    except (*ERRORS, CheckpointError) as error:
        if first:
            advice = next((f" ({options})" for kind, options in _ADVICE.items() if isinstance(error, kind)), "")
            print(f"error: {one_line(error)}{advice}", file=sys.stderr)
        return 1
    _say(f"test accuracy {result['test_accuracy']:.4f}, verified at {recipe.epsilon:.4g}: {result['test_vra']:.4f}", first)
    return 0


def _say(text: str, first: bool) -> None:
    if first:
        print(text, flush=True)
