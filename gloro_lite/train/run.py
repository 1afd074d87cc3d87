"""One run from the images to the certified test set: what the command line and the book both call."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from gloro_lite.datasets import benchmarks
from gloro_lite.train import distributed, results
from gloro_lite.train.recipes import RECIPES, Recipe, find
from gloro_lite.train.trainer import Trainer


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

    Under `torchrun` all its processes call this together, on a GPU each or on the CPU; the first writes the files.

    Args:
        folder: of this run; `data/results/<recipe>/seed-<n>` of the checkout by default.
        device: "cpu", "cuda" or "mps"; by default "cuda" where there is a GPU for it, else "cpu".
        root: of the images, see `gloro_lite.datasets.benchmarks.data_root`.
        max_seconds: of training, see `Trainer.run`; certifying the test set after it comes on top.
        compiled: see `Trainer`.
        on_epoch: see `Trainer.run`.

    Returns: what `gloro_lite.train.results.write` puts into `result.json`.

    Raises ValueError if `folder` holds a finished run, if it is left out for a recipe whose settings were changed under its old
    name, and if the run that a recipe starts from is not there; and what `Trainer` and `benchmarks.load` raise.
    """
    if not folder and recipe != RECIPES.get(recipe.name, recipe):
        raise ValueError(f"{recipe.name} with other settings is another run: say with --output where its results belong")
    folder = Path(folder) if folder else results.run_folder(recipe.name, seed)
    if (folder / "result.json").exists():
        raise ValueError(f"{folder} holds a finished run: to train anew, give another folder (--output) or --seed")
    weights = None
    if recipe.initial:
        weights = results.run_folder(recipe.initial, seed) / "model.safetensors"
        if not weights.exists():
            find(recipe.initial)  # or there is nothing to run
            raise ValueError(
                f"recipe {recipe.name} starts from the weights of {recipe.initial}, which are not at {weights}: "
                f"run that first, python -m gloro_lite.train --recipe {recipe.initial} --seed {seed}"
            )
    device = distributed.start(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        # The first process decodes what is not cached yet; the others map its cache.
        if distributed.is_first():
            benchmarks.load(recipe.dataset, root)
        distributed.agree(None)
        data = benchmarks.load(recipe.dataset, root)
        trainer = Trainer(recipe, data, folder, seed=seed, device=device, weights=weights, compiled=compiled)
        trainer.run(max_seconds=max_seconds, on_epoch=on_epoch)
        result = results.write(trainer, data.test) if distributed.is_first() else None
        result = distributed.agree(result)
    finally:
        distributed.stop()
    trainer.checkpoint_path.unlink(missing_ok=True)
    return result
