"""One run from the images to the certified test set: what the command line and the book both call."""

from __future__ import annotations

import math
from pathlib import Path

from gloro_lite.datasets import benchmarks
from gloro_lite.train import results
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.trainer import Trainer


def train(
    recipe: Recipe,
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    root: str | Path | None = None,
    max_seconds: float = math.inf,
    compiled: bool = True,
) -> dict:
    """Train a recipe, certify the test set, and write the results; goes on from a checkpoint in `folder` if there is one.

    Args:
        folder: of this run; `data/results/<recipe>/seed-<n>` of the checkout by default.
        root: of the images, see `gloro_lite.datasets.benchmarks.data_root`.
        compiled: see `Trainer`.

    Returns: what `gloro_lite.train.results.write` puts into `result.json`.

    Raises ValueError if `folder` holds a finished run, and what `Trainer` and `benchmarks.load` raise.
    """
    folder = Path(folder) if folder else results.STORED / recipe.name / f"seed-{seed}"
    if (folder / "result.json").exists():
        raise ValueError(f"{folder} holds a finished run: delete it, or give another folder")
    data = benchmarks.load(recipe.dataset, root)
    trainer = Trainer(recipe, data, folder, seed=seed, device=device, compiled=compiled)
    trainer.run(max_seconds=max_seconds)
    result = results.write(trainer, data.test)
    trainer.checkpoint_path.unlink()
    return result
