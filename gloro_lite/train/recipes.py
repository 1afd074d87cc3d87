"""What to train, as plain data: a recipe names a benchmark, a network, a loss and a schedule."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

LOSSES = ("standard", "cross_entropy", "trades", "emma")
OPTIMIZERS = ("muon", "adam")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """All that decides a run, but for its seed. Lengths are in epochs, epsilons in pixel units of images in [0, 1]."""

    name: str
    dataset: str
    """A name that `gloro_lite.datasets.benchmarks.load` knows."""
    network: str
    """A key of `gloro_lite.networks.NETWORKS`, or the same notation."""
    epsilon: float
    """What certified accuracy is reported at."""
    train_epsilon: float
    """What training ends with; a little more than epsilon."""
    activation: str = "minmax"
    loss: str = "cross_entropy"
    """One of `LOSSES`; "standard" trains without bottom."""
    loss_weight: float = 1.0
    """lambda of "trades"."""
    optimizer: str = "muon"
    """With "muon" the body's weights move by Muon on the spectral sphere, the rest by Adam; with "adam" everything by Adam."""
    rate: float = 0.01
    """Peak learning rate of the optimizer of the body's weights."""
    head_rate: float = 2e-3
    """Peak learning rate of Adam beside Muon, for biases and the last layer."""
    warmup: float = 0.1
    """Fraction of training over which the rate rises; a cosine to 0 follows."""
    epsilon_growth: float = 0.3
    """Fraction of training over which the training epsilon grows geometrically, from a tenth of its end."""
    iterations: int = 1
    """Power iterations a step."""
    epochs: int = 60
    batch_size: int = 256
    precision: str = "float32"
    """Of the network's forward and backward pass in training; norms, losses and certificates stay in float32 or more."""

    def __post_init__(self):
        for field, allowed in (("loss", LOSSES), ("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}; not {getattr(self, field)!r}")
        for field in ("epochs", "batch_size", "iterations"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("epsilon", "train_epsilon", "rate", "head_rate"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ValueError(f"{field} must be a finite number greater than 0, not {getattr(self, field)}")


_ROWS = [
    Recipe("mnist-0.3", "mnist", "2C2F", 0.3, 0.45, rate=0.02, epochs=120, precision="bfloat16"),
    Recipe("mnist-1.58", "mnist", "4C3F", 1.58, 1.75, rate=0.006, epochs=150, precision="bfloat16"),
    Recipe("cifar10", "cifar10", "6C2F", 36 / 255, 1.1 * 36 / 255, rate=0.006, epochs=200, precision="bfloat16"),
]


def _comparisons(ours: Recipe) -> list[Recipe]:
    """The same network by other training: without bottom, by plain Adam, with the other loss, with ReLU."""
    change = dataclasses.replace
    adam = change(ours, name=f"{ours.name}-adam", optimizer="adam", rate=1e-3)
    return [
        adam,
        change(adam, name=f"{ours.name}-standard", loss="standard"),
        change(adam, name=f"{ours.name}-trades", loss="trades", loss_weight=1.5),
        change(adam, name=f"{ours.name}-relu", activation="relu"),
    ]


RECIPES = {recipe.name: recipe for ours in _ROWS for recipe in (ours, *_comparisons(ours))}
"""By name. The bare names are our best recipe of each row of the paper's table that can be run."""


def find(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError, which lists them, for a name that is none."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
