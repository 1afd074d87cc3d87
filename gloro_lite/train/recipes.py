"""What to train, as plain data: a recipe names a benchmark, a network, a loss and its schedules."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gloro_lite import losses
from gloro_lite.datasets.benchmarks import INFO
from gloro_lite.fit import growing_epsilon, warmup_then_cosine
from gloro_lite.networks import ACTIVATIONS, INITIALISATIONS, NETWORKS
from gloro_lite.train.augment import AUGMENTATIONS

OPTIMIZERS = ("muon", "adam")
SCHEDULES = ("cosine", "exponential")
CONSTRAINTS = ("sphere", "none")
BOUNDS = ("global", "last_layers")
PRECISIONS = ("auto", "float32", "bfloat16")
CHOICES = {
    "activation": ACTIVATIONS,
    "initialisation": INITIALISATIONS,
    "loss": tuple(losses.LOSSES),
    "constraint": CONSTRAINTS,
    "bound": BOUNDS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "precision": PRECISIONS,
}
"""What the fields of a recipe that name something may be."""

_LARGEST = 1e6


def _setting(group: str, meaning: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of `Recipe`, with what the command line says of it."""
    return dataclasses.field(default=default, metadata={"group": group, "meaning": meaning})


_TASK, _NETWORK, _LOSS, _STEP, _SCHEDULE, _RUN = "task", "network", "loss", "steps", "schedules", "run"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a run, but for its seed. Epsilons are l2 radii in pixel units of images in [0, 1].

    What each field means is in its metadata, and in `python -m gloro_lite.train --help`. Raises ValueError for values that make
    no sense.
    """

    name: str
    dataset: str = _setting(_TASK, f"One of {', '.join(INFO)}.")
    network: str = _setting(
        _NETWORK,
        f"One of {', '.join(NETWORKS)}, or their notation: 'c16k4s2 c32k4s2 | 100'; p2 before it halves the resolution.",
    )
    epsilon: float = _setting(_TASK, "What certified accuracy is reported at.")
    train_epsilon: float = _setting(_TASK, "What training ends with: epsilon or a little more.")
    activation: str = _setting(_NETWORK, "What follows each layer but the last.", "minmax")
    initialisation: str = _setting(_NETWORK, "Of the weights; orthogonal ones have biases of 0.", "orthogonal")
    init_from: str = _setting(
        _NETWORK, "Another recipe, whose stored run of the same seed gives the weights to start from; empty to draw them.", ""
    )
    loss: str = _setting(_LOSS, "standard trains without bottom.", "cross_entropy")
    loss_weight: float = _setting(_LOSS, "lambda of trades, q of gce.", 1.0)
    loss_weight_growth: float = _setting(_LOSS, "Fraction of training over which that weight grows linearly from 0.", 0.0)
    clean_weight: float = _setting(
        _LOSS,
        "Weight of the cross-entropy of the logits without bottom, which is added; it counts what cannot be certified.",
        0.0,
    )
    bound: str = _setting(
        _LOSS,
        "Of the margins: global, or last_layers for the local one of gloro_lite.methods.last_layers, which needs the sphere.",
        "global",
    )
    constraint: str = _setting(_STEP, "sphere holds each linear layer of the body at norm 1, none leaves them free.", "sphere")
    optimizer: str = _setting(
        _STEP, "With muon the body's weights move by Muon and the rest by Adam; with adam everything by Adam.", "muon"
    )
    learning_rate: float = _setting(_STEP, "Peak learning rate of the optimizer of the body's weights.", 0.01)
    head_learning_rate: float = _setting(_STEP, "Peak learning rate of Adam beside Muon, for biases and the last layer.", 2e-3)
    schedule: str = _setting(
        _SCHEDULE,
        "With cosine the rate warms up and falls to 0; with exponential it holds for one half and falls to final_learning_rate.",
        "cosine",
    )
    warmup: float = _setting(_SCHEDULE, "Fraction of training over which the rate of cosine rises.", 0.1)
    final_learning_rate: float = _setting(_SCHEDULE, "What the rate of exponential ends with.", 1e-6)
    epsilon_start: float = _setting(
        _SCHEDULE, "The training epsilon at the start, as a fraction of its end; it grows geometrically.", 0.1
    )
    epsilon_growth: float = _setting(_SCHEDULE, "Fraction of training over which it grows; 0 for a fixed one.", 0.3)
    ema_decay: float = _setting(
        _STEP,
        "Decay a step of the running average of the weights that is validated and reported; 0 reports the weights themselves.",
        0.0,
    )
    power_iterations: int = _setting(_STEP, "Power iterations a step.", 1)
    augmentation: str = _setting(_TASK, "Ranges of gloro_lite.train.augment, by name.", "none")
    epochs: int = _setting(_RUN, "Passes over the training split.", 60)
    batch_size: int = _setting(_RUN, "Images a step, over all processes together.", 256)
    precision: str = _setting(
        _RUN,
        "Of the network's forward and backward pass in training and of Muon's orthogonalisation; auto is bfloat16 where that is "
        "measured to be faster and float32 elsewhere. Norms, losses and certificates stay in float32 or more.",
        "auto",
    )

    def __post_init__(self) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}; not {getattr(self, field)!r}")
        for field in ("epochs", "batch_size", "power_iterations"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        for field in ("epsilon", "train_epsilon", "learning_rate", "head_learning_rate", "final_learning_rate", "epsilon_start"):
            # Beyond the limit PyTorch's own numbers overflow.
            if not 0 < getattr(self, field) <= _LARGEST:
                raise ValueError(f"{field} must be greater than 0 and at most {_LARGEST:g}, not {getattr(self, field)}")
        for field in ("warmup", "loss_weight_growth", "epsilon_growth"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} is a fraction of training: it must be in [0, 1], not {getattr(self, field)}")
        losses.check(self.loss, self.loss_weight, self.clean_weight)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is the decay of a running average: it must be in [0, 1), not {self.ema_decay}")
        if self.warmup == 1:
            raise ValueError("warmup is 1: no part of training would be left for the rate to fall")
        if self.bound == "last_layers" and (self.constraint != "sphere" or self.loss == "standard"):
            raise ValueError(
                "the bound last_layers is a part of the loss, and counts on norms of 1: it needs the constraint sphere, and a "
                "loss other than standard"
            )
        if self.train_epsilon < self.epsilon:
            raise ValueError(
                f"train_epsilon is {self.train_epsilon:g}, less than the epsilon of {self.epsilon:g} that is reported, where "
                "such a net certifies little: give one as large or a little larger"
            )

    def rate_scale(self, progress: float) -> float:
        """The learning rates as a fraction of their peaks, after a fraction of training."""
        if self.schedule == "cosine":
            return warmup_then_cosine(progress, self.warmup)
        return (self.final_learning_rate / self.learning_rate) ** max(0.0, 2 * progress - 1)

    def epsilon_at(self, progress: float) -> float:
        """The training epsilon after a fraction of training."""
        return self.train_epsilon * growing_epsilon(progress, self.epsilon_start, self.epsilon_growth)

    def weight_at(self, progress: float) -> float:
        """lambda or q after a fraction of training."""
        return self.loss_weight * (min(progress / self.loss_weight_growth, 1.0) if self.loss_weight_growth else 1.0)


_FIRST = Recipe(
    name="mnist-1.58-first",
    dataset="mnist",
    network="4C3F",
    epsilon=1.58,
    train_epsilon=1.75,
    loss="gce",
    loss_weight=0.5,
    loss_weight_growth=1.0,
    learning_rate=0.006,
    warmup=0.05,
    epsilon_growth=0.2,
    ema_decay=0.998,
    power_iterations=5,
    epochs=160,
)
"""Where `mnist-1.58` and `mnist-1.58-vra` start."""

_SECOND = dataclasses.replace(
    _FIRST,
    name="mnist-1.58",
    init_from=_FIRST.name,
    train_epsilon=1.65,
    loss_weight=0.9,
    loss_weight_growth=0.0,
    clean_weight=0.1,
    epsilon_growth=0.0,
    learning_rate=7e-4,
    head_learning_rate=3e-4,
    ema_decay=0.9995,
    epochs=140,
    batch_size=512,
)
"""The last of what the first run gained came as its rate fell, so this one goes on from there with a small rate, and averages for
long. Its loss is nearly the share of digits that are not certified; those that are given up still count where they are wrong."""

_SECOND_VRA = dataclasses.replace(_SECOND, name="mnist-1.58-vra", clean_weight=0.0)
"""The same for verified-robust accuracy alone."""

_MNIST_SMALL = Recipe(
    name="mnist-0.3",
    dataset="mnist",
    network="2C2F",
    epsilon=0.3,
    train_epsilon=0.45,
    ema_decay=0.999,
    power_iterations=5,
    augmentation="digits",
    epochs=160,
)

_UNAUGMENTED = dataclasses.replace(_MNIST_SMALL, name="mnist-0.3-unaugmented", augmentation="none")
"""To see what augmentation is worth."""


def _with_local_bound(recipe: Recipe, epochs: int) -> Recipe:
    """A further stage, for the certificates of a local bound, which the recipe itself did not train for."""
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name}-local",
        init_from=recipe.name,
        bound="last_layers",
        loss_weight_growth=0.0,
        epsilon_growth=0.0,
        learning_rate=0.003,
        head_learning_rate=1e-3,
        epochs=epochs,
    )


_MNIST_SMALL_LOCAL = _with_local_bound(_MNIST_SMALL, 60)

_MNIST_SMALL_GCE = dataclasses.replace(
    _MNIST_SMALL_LOCAL,
    name="mnist-0.3-local-gce",
    init_from=_MNIST_SMALL_LOCAL.name,
    loss="gce",
    loss_weight=0.8,
    clean_weight=0.1,
    train_epsilon=0.33,
    learning_rate=0.002,
)
"""With the loss of `_SECOND`, for the same reason, and an epsilon near the one that is reported, as that loss asks for."""

_CIFAR_EPSILON = 36 / 255
_CIFAR_FIRST = Recipe(
    name="cifar10-first",
    dataset="cifar10",
    network="6C2F",
    epsilon=_CIFAR_EPSILON,
    train_epsilon=1.1 * _CIFAR_EPSILON,
    learning_rate=0.01,
    epsilon_growth=0.2,
    ema_decay=0.998,
    power_iterations=2,
    augmentation="cifar10-light",
    epochs=45,
)
"""What a few hours of training allow, and where `cifar10-second` starts."""

_CIFAR_SECOND = dataclasses.replace(
    _CIFAR_FIRST,
    name="cifar10-second",
    init_from=_CIFAR_FIRST.name,
    learning_rate=0.005,
    epsilon_growth=0.0,
    ema_decay=0.999,
    epochs=60,
)

_CIFAR_THIRD = dataclasses.replace(
    _CIFAR_SECOND,
    name="cifar10-third",
    init_from=_CIFAR_SECOND.name,
    loss="gce",
    loss_weight=0.8,
    clean_weight=0.1,
    train_epsilon=1.05 * _CIFAR_EPSILON,
    learning_rate=0.003,
    head_learning_rate=1e-3,
    ema_decay=0.9995,
    epochs=60,
)
"""With the loss of the second MNIST run at 1.58, `_SECOND`, and for the same reason."""

_CIFAR_FOURTH = dataclasses.replace(
    _CIFAR_FIRST,
    name="cifar10",
    init_from=_CIFAR_THIRD.name,
    loss="gce",
    loss_weight=0.8,
    loss_weight_growth=1.0,
    clean_weight=0.1,
    learning_rate=0.006,
    epsilon_growth=0.0,
    ema_decay=0.999,
    augmentation="cifar10-wide",
    epochs=70,
)
"""Against overfitting the images vary more from here on."""

_CIFAR_FIFTH = dataclasses.replace(_CIFAR_FOURTH, name="cifar10-fifth", init_from=_CIFAR_FOURTH.name, epochs=72)
"""To see whether more of the same helps: it does not."""

_CIFAR_LOCAL = _with_local_bound(_CIFAR_FOURTH, 50)

_TINY_HALF = dataclasses.replace(_CIFAR_FIRST, name="tiny-imagenet-half", dataset="tiny-imagenet", network="8C2F-half", epochs=9)
"""What a few hours of training allow: 8C2F at half the resolution, certified at the epsilon of the whole image."""

# Our own recipe for each row of the paper's table.
_OURS = [
    _MNIST_SMALL,
    _SECOND,
    _CIFAR_FOURTH,
    Recipe(
        name="tiny-imagenet",
        dataset="tiny-imagenet",
        network="8C2F",
        epsilon=_CIFAR_EPSILON,
        train_epsilon=0.16,
        learning_rate=0.006,
        augmentation="tiny-imagenet",
        epochs=100,
    ),
]

# What the official scripts do for the same rows; the chapter on full training says where they differ from each other.
_PAPER = {
    "mnist-0.3": {
        "loss": "trades_ce",
        "loss_weight": 2.0,
        "loss_weight_growth": 1.0,
        "learning_rate": 1e-3,
        "epsilon_growth": 0.0,
        "power_iterations": 10,
        "epochs": 500,
    },
    "mnist-1.58": {
        "loss": "trades",
        "loss_weight": 1.5,
        "train_epsilon": 1.1 * 1.58,
        "learning_rate": 1e-3,
        "epsilon_start": 0.01,
        "epsilon_growth": 0.5,
        "power_iterations": 5,
        "epochs": 300,
        "batch_size": 512,
    },
    "cifar10": {
        "loss": "trades",
        "loss_weight": 1.2,
        "learning_rate": 1e-3,
        "epsilon_start": 0.01,
        "epsilon_growth": 0.5,
        "power_iterations": 5,
        "augmentation": "cifar10",
        "epochs": 800,
    },
    "tiny-imagenet": {
        "loss": "trades",
        "loss_weight": 20.0,
        "loss_weight_growth": 1.0,
        "learning_rate": 2.5e-4,
        "final_learning_rate": 5e-7,
        "epsilon_growth": 0.0,
        "power_iterations": 5,
        "augmentation": "tiny-imagenet",
        "epochs": 500,
    },
}

_STANDARD_EPOCHS = {"mnist-0.3": 100, "mnist-1.58": 42, "cifar10": 115, "tiny-imagenet": 58}  # the paper's
_FEW_EPOCHS = {"cifar10-standard": 16, "mnist-1.58-paper": 60}  # what two hours of one core without bfloat16 carry


def _epochs(recipe: Recipe) -> int:
    """The epochs of a recipe and of all the runs before it, whose weights it starts from."""
    before = {first.name: first for first in _FURTHER}
    return recipe.epochs + (_epochs(before[recipe.init_from]) if recipe.init_from else 0)


def _variants(ours: Recipe) -> list[Recipe]:
    """The recipes of one row: ours; the paper's; that for fewer epochs, its ReLU form, and its loss without TRADES; a standard
    net, and where its epochs are hours, one of fewer."""
    change = dataclasses.replace
    # What the row decides, and nothing that is a choice of ours.
    row = {field: getattr(ours, field) for field in ("dataset", "network", "epsilon", "train_epsilon")}
    plain: dict[str, Any] = {"constraint": "none", "optimizer": "adam"}
    paper = Recipe(**{"name": f"{ours.name}-paper", **row, **plain, "schedule": "exponential", **_PAPER[ours.name]})
    # Its variants, and itself where it is longer, are compared at equal epochs: as many as ours, unless those are days.
    epochs = _FEW_EPOCHS.get(paper.name, _epochs(ours))
    short = change(paper, name=f"{paper.name}-short", epochs=epochs) if epochs < paper.epochs else paper
    standard = Recipe(
        name=f"{ours.name}-standard",
        **row,
        **plain,
        loss="standard",
        learning_rate=1e-3,
        augmentation=paper.augmentation,
        epochs=_STANDARD_EPOCHS[ours.name],
    )
    few = _FEW_EPOCHS.get(standard.name)
    return [
        ours,
        *dict.fromkeys((paper, short)),
        change(short, name=f"{short.name}-relu", activation="relu"),
        change(short, name=f"{short.name}-ce", loss="cross_entropy"),
        standard,
        *([change(standard, name=f"{standard.name}-short", epochs=few)] if few else []),
    ]


_FURTHER = [
    _UNAUGMENTED,
    _MNIST_SMALL_LOCAL,
    _MNIST_SMALL_GCE,
    _FIRST,
    _SECOND_VRA,
    _CIFAR_FIRST,
    _CIFAR_SECOND,
    _CIFAR_THIRD,
    _CIFAR_FIFTH,
    _CIFAR_LOCAL,
    _TINY_HALF,
]

RECIPES = {recipe.name: recipe for recipe in [*(each for ours in _OURS for each in _variants(ours)), *_FURTHER]}
"""All recipes, by name. The bare names are our own recipe for each row of the paper's table."""

_SUMMARIES = {
    "mnist-0.3": "our own for MNIST at 0.3, 2C2F",
    "mnist-0.3-unaugmented": "as mnist-0.3, without augmentation",
    "mnist-1.58": "our own for MNIST at 1.58, 4C3F; goes on from mnist-1.58-first",
    "mnist-1.58-first": "what mnist-1.58 and mnist-1.58-vra start from",
    "mnist-1.58-vra": "as mnist-1.58, for verified-robust accuracy alone",
    "cifar10": "our own for CIFAR-10 at 36/255, 6C2F; goes on from cifar10-third",
    "cifar10-first": "what cifar10-second starts from, after a few hours",
    "cifar10-second": "what cifar10-third starts from, by the same loss as cifar10-first",
    "cifar10-third": "what cifar10 starts from, by the loss of mnist-1.58",
    "cifar10-local": "goes on from cifar10 with the local bound of the last layers in its loss",
    "mnist-0.3-local": "goes on from mnist-0.3 with the local bound of the last layers in its loss",
    "mnist-0.3-local-gce": "goes on from mnist-0.3-local, by the loss of mnist-1.58",
    "cifar10-fifth": "goes on from cifar10 for more epochs of its settings, and gains nothing more",
    "tiny-imagenet": "our own for Tiny-ImageNet at 36/255, 8C2F",
    "tiny-imagenet-half": "our own for Tiny-ImageNet at half the resolution, for a few hours",
}
_SUFFIXES = {
    "-paper": "the data and network of {name} by the official scripts' settings",
    "-relu": "as {name}, with ReLU, as the scripts have it",
    "-ce": "as {name}, with cross-entropy in place of TRADES",
    "-standard": "a standard net to compare {name} with",
    "-short": "as {name}, for fewer epochs",
}
"""What is said of names with an ending, where `name` is what stands before it."""


def summary(name: str) -> str:
    """What a recipe of `RECIPES` is for, in a line."""
    if name in _SUMMARIES:
        return _SUMMARIES[name]
    return next(text.format(name=name.removesuffix(suffix)) for suffix, text in _SUFFIXES.items() if name.endswith(suffix))


def find(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError, which lists them, for a name that is none."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]
