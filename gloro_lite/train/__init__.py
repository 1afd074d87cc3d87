"""Full training on the benchmarks: `python -m gloro_lite.train --recipe mnist-0.3`. Needs the extra `train`."""

from gloro_lite.train.recipes import RECIPES, Recipe, find
from gloro_lite.train.run import train
from gloro_lite.train.trainer import Trainer, TrainingStopped

__all__ = ["RECIPES", "Recipe", "Trainer", "TrainingStopped", "find", "train"]
