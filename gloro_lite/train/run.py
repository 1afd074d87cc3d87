"""One run from the images to the certified test set: what the command line and the book both call."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gloro_lite import stored
from gloro_lite.datasets import benchmarks
from gloro_lite.files import only_one, parts
from gloro_lite.provenance import device_name
from gloro_lite.train import distributed, results
from gloro_lite.train.recipes import RECIPES, Recipe, find
from gloro_lite.train.trainer import Trainer

logger = logging.getLogger(__name__)


_WRITTEN = ("model.safetensors", "history.csv", "certificates.csv")
"""What `results.write` leaves in a run's folder before `result.json`; the checkpoint goes after it."""


class OtherRun(ValueError):
    """Results would lie where those of another run are or belong."""


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    device: str | None = None,
    root: str | Path | None = None,
    max_seconds: float = math.inf,
    compiled: bool | None = None,
    on_epoch: Callable[[list[dict], bool], object] | None = None,
) -> dict:
    """Train a recipe, certify the test set, and write the results; goes on from a checkpoint in `folder` if there is one.

    Where the folder holds this very run, finished, its results are returned and nothing is done. Under `torchrun` all its
    processes call this together, on a GPU each or on the CPU; the first writes the files.

    Args:
        folder: of this run; by default `<recipe>/seed-<n>` in `gloro_lite.train.results.STORED`.
        device: "cpu", "cuda" or "mps"; by default "cuda" where there is a GPU for it, else "cpu".
        root: of the images, see `gloro_lite.datasets.benchmarks.data_root`.
        max_seconds: of training, see `Trainer.run`; certifying the test set after it comes on top.
        compiled: see `Trainer`.
        on_epoch: see `Trainer.run`.

    Returns: what `gloro_lite.train.results.write` puts into `result.json`.

    Raises OtherRun if `folder` holds another run or what may be of one, or is left out for a recipe whose settings were changed
    under its old name; ValueError if the run that a recipe starts from is not there; BlockingIOError if another process is
    training in `folder`; ImportError without the extra `train`; and what `Trainer` and `benchmarks.load` raise.
    """
    if not folder and recipe != RECIPES.get(recipe.name, recipe):
        raise OtherRun(f"{recipe.name} with other settings is another run: say in which folder its results belong")
    folder = Path(folder) if folder else results.run_folder(recipe.name, seed)
    if finished := _finished(folder, recipe, seed):
        logger.info("this run is finished; its results are in %s", folder)
        return finished
    _check_extra()
    weights = _initial_weights(recipe, seed)
    device = distributed.start(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        with _alone(folder):
            # The first process decodes what is not cached yet; the others map its cache.
            if distributed.is_first():
                benchmarks.load(recipe.dataset, root)
            distributed.broadcast_object(None)
            data = benchmarks.load(recipe.dataset, root)
            trainer = Trainer(recipe, data, folder, seed=seed, device=device, weights=weights, compiled=compiled)
            _announce(trainer)
            trainer.run(max_seconds=max_seconds, on_epoch=on_epoch)
            result: dict = {}  # of the first process alone
            if distributed.is_first():
                logger.info("certifying the test set")
                result = results.write(trainer.finished(), data.test, folder)
                trainer.checkpoint_path.unlink(missing_ok=True)
                logger.info("results are in %s", folder)
            return distributed.broadcast_object(result)
    finally:
        distributed.stop()


def _finished(folder: Path, recipe: Recipe, seed: int) -> dict | None:
    """The results in the folder, if it holds any. Raises OtherRun where they are not of this one, or of nobody knows what."""
    path = folder / "result.json"
    if not path.exists():
        foreign = [name for name in _WRITTEN if (folder / name).exists()]
        if foreign and not (folder / "checkpoint.pt").exists():
            raise OtherRun(
                f"{folder} holds {' and '.join(foreign)} without a result.json: give another folder, or move them away"
            )
        return None
    result = results.read(path)
    if result["seed"] != seed or result["settings"] != dataclasses.asdict(recipe):
        raise OtherRun(f"{folder} holds the results of another run: give another folder")
    return result


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within, no other run is in the folder, and what a killed one left half written is gone."""
    if not distributed.is_first():
        yield
        return
    with only_one(folder, "training"):
        for name in ("checkpoint.pt", *_WRITTEN, "result.json"):
            for part in parts(folder / name):
                part.unlink()
        yield


def _initial_weights(recipe: Recipe, seed: int) -> Path | None:
    if not recipe.init_from:
        return None
    name = f"{recipe.init_from}/seed-{seed}"
    where = stored.stored_folder(name)  # of a wheel too, which carries the weights of a small net
    if where is None:
        find(recipe.init_from)  # or there is nothing to run
        raise ValueError(
            f"recipe {recipe.name} starts from the weights of {recipe.init_from}, which are not in {stored.STORED / name}: "
            f"run that first, python -m gloro_lite.train --recipe {recipe.init_from} --seed {seed}"
        )
    return where / "model.safetensors"


def _check_extra() -> None:
    """What results are written with must not be found missing after hours. Raises ImportError."""
    missing = [name for name in ("numpy", "safetensors", "torchvision") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"training needs {', '.join(missing)}: pip install 'gloro-lite[train]'")


def _announce(trainer: Trainer) -> None:
    recipe, arithmetic, done = trainer.recipe, trainer.step.arithmetic, len(trainer.history)
    if not distributed.is_first():
        return
    where = f"{device_name(trainer.device)}, {torch.get_num_threads()} threads"
    muon = f", Muon in {arithmetic.orthogonalisation}" if recipe.optimizer == "muon" else ""
    logger.info("%s, seed %d, on %s: %s", recipe.name, trainer.seed, trainer.device, where)
    logger.info("the network in %s%s; into %s", arithmetic.network, muon, trainer.folder)
    if done:
        logger.info("going on after epoch %d of %d", done, recipe.epochs)
