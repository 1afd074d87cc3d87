"""The command line: `python -m gloro_lite.methods.sites`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

from gloro_lite.console import STOPPED, add_data, at_least, place, reports_errors, seconds
from gloro_lite.files import check_free, only_one
from gloro_lite.methods import sites as package
from gloro_lite.methods.sites.model import Sites, initial_sites
from gloro_lite.methods.sites.results import write
from gloro_lite.methods.sites.training import Settings, check_settings, load_data, train_sites


def parser() -> argparse.ArgumentParser:
    """The options; each field of `Settings` has one."""
    p = argparse.ArgumentParser(prog="python -m gloro_lite.methods.sites", description=package.__doc__.partition("\n")[0])
    p.add_argument("--output", type=place, required=True, metavar="DIR", help="folder of this run")
    p.add_argument("--epochs", type=at_least(1), metavar="N", default=60, help="in all; a run can be prolonged (default: 60)")
    p.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="of sites, batches and warps (default: 0)")
    add_data(p)
    p.add_argument(
        "--max-seconds",
        type=seconds,
        default=math.inf,
        metavar="S",
        help=f"start no epoch after that long: exit code {STOPPED}, and the same command goes on",
    )
    p.add_argument(
        "--no-test",
        action="store_true",
        help="leave the test set alone, to choose settings by what each epoch prints of the validation split; the same command "
        "without it then certifies the test set",
    )
    kinds = {"int": int, "float": float, "str": str}
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        meaning = field.metadata["meaning"]
        if field.type == "bool":
            p.add_argument(flag, action="store_true", help=meaning)
        else:
            help = f"{meaning} (default: {field.default})"
            p.add_argument(flag, type=kinds[field.type], default=field.default, metavar=field.type.upper(), help=help)
    return p


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings that the options ask for. Raises ValueError for such as cannot be run."""
    settings = Settings(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Settings)})
    check_settings(settings)
    return settings


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command, see the package; returns its exit code: 0, `STOPPED`, or 1 after an error."""
    given = parser().parse_args(arguments)
    settings = settings_of(given)
    with only_one(given.output, "training"):
        return _run(given.output, settings, given.epochs, given.seed, given.data, given.max_seconds, not given.no_test)


def _run(folder: Path, settings: Settings, epochs: int, seed: int, root: Path | None, max_seconds: float, tested: bool) -> int:
    """Train in a folder and certify the test set, as the options say; returns the command's status."""
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists() or (folder / "result.json").exists():
        check_free(folder)
    train, validation, test = load_data(settings.dataset, root, seed)
    sites = initial_sites(train.images(), train.y, settings.per_class, settings.initial, seed)
    before = Sites(sites.sites, sites.labels)
    history = train_sites(
        sites,
        train,
        validation,
        settings,
        epochs=epochs,
        seed=seed,
        checkpoint=checkpoint,
        max_seconds=max_seconds,
        on_epoch=lambda row: print(json.dumps(row), flush=True),
    )
    if len(history) < epochs:
        print(f"{len(history)} of {epochs} epochs: run the command again to go on", flush=True)
        return STOPPED
    if not tested:
        return 0
    result = write(sites, before, train, test, folder, settings, history, epochs=epochs, seed=seed)
    checkpoint.unlink()
    print(json.dumps({name: result[name] for name in ("test_accuracy", "test_vra", "test_vra_in_box", "validation_vra")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
