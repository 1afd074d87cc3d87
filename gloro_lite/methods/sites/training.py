"""The run: its settings, its data, how images are bent, and the epochs, with a checkpoint after each."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_lite.certificate import check_epsilon
from gloro_lite.files import replacing
from gloro_lite.lipschitz.checks import is_count
from gloro_lite.methods.sites.model import Sites, hinge, smooth
from gloro_lite.stored import renamed_of_sites


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. What each field means is in its metadata, and in `python -m gloro_lite.methods.sites --help`."""

    dataset: str = _setting("mnist", "mnist, cifar10, or digits (8 x 8, with scikit-learn)")
    epsilon: float = _setting(1.58, "l2 radius of the reported VRA, in pixel units of images in [0, 1]")
    per_class: int = _setting(400, "sites for each class")
    initial: str = _setting("kmeans", "what sites start from, kmeans or images")
    loss: str = _setting("hinge", "hinge or smooth")
    target: float = _setting(2.5, "radius that the loss aims at")
    slope: float = _setting(2.0, "slope of the smooth loss")
    cap: float = _setting(math.inf, "largest hinge that an image counts with")
    own: int = _setting(4, "nearest sites of the own label that training looks at")
    rivals: int = _setting(12, "nearest sites of other labels that training looks at")
    warp: float = _setting(1.0, "how much images are bent for training, by small maps and waves; 0 leaves them as they are")
    share: float = _setting(0.9, "share of the images that are bent")
    rate: float = _setting(40.0, "learning rate of stochastic gradient descent, at the start")
    decay: float = _setting(0.94, "factor of the rate from epoch to epoch")
    finish: int = _setting(8, "number of last epochs, in which the rate falls faster")
    fall: float = _setting(0.7, "factor of the rate from epoch to epoch of the last ones")
    momentum: float = _setting(0.9, "Nesterov's momentum")
    batch_size: int = _setting(500, "images a step")
    box: bool = _setting(False, "raise the radius within the pixel box [0, 1], and choose the epoch by it")
    half: bool = _setting(False, "look for near sites in bfloat16, for processors that multiply in it")

    @property
    def pixels(self) -> tuple[float, float] | None:
        """The box that training knows of."""
        return (0.0, 1.0) if self.box else None


class Data(NamedTuple):
    """Images (n, channels, height, width), float in [0, 1] or uint8 to be divided by 255, and labels (n,)."""

    x: Tensor
    y: Tensor

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Float images."""
        x = self.x[rows]
        return x if x.is_floating_point() else x.float() / 255


def load_data(name: str, root: str | Path | None = None, seed: int = 0) -> tuple[Data, Data, Data]:
    """Training, validation and test split of mnist, cifar10, or digits (whose splits depend on the seed)."""
    if name == "digits":
        from gloro_lite.datasets import digits

        return tuple(Data(*split) for split in digits.load(seed))
    from gloro_lite.datasets import benchmarks

    return tuple(Data(*split) for split in benchmarks.load(name, root))


def warp(x: Tensor, strength: float, share: float, generator: torch.Generator) -> Tensor:
    """Bend that share of the images, (batch, channels, height, width): a small random affine map and an elastic one for each.

    Args:
        strength: 1 for turns by up to 8 degrees, zooms and shears by up to 0.08 and 0.1, shifts by up to 0.04 of the side, and an
            elastic field of 5 x 5 random vectors with a deviation of 0.02 of the side; others in proportion.
    """
    count, (height, width) = len(x), x.shape[2:]

    def uniform(most: float) -> Tensor:
        return most * strength * (2 * torch.rand(count, generator=generator) - 1)

    angle, shear, across, along = uniform(math.radians(8)), uniform(0.1), uniform(0.08).exp(), uniform(0.08).exp()
    right, down = uniform(0.08), uniform(0.08)  # in units of half a side
    first = torch.stack((across * angle.cos(), -across * (angle + shear).sin(), right), 1)
    second = torch.stack((along * angle.sin(), along * (angle + shear).cos(), down), 1)
    grid = F.affine_grid(torch.stack((first, second), 1), [count, 1, height, width], align_corners=False)
    field = 0.04 * strength * torch.randn(count, 2, 5, 5, generator=generator)
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
    bent = F.grid_sample(x, grid + field.permute(0, 2, 3, 1), align_corners=False)
    return torch.where(torch.rand(count, 1, 1, 1, generator=generator) < share, bent, x)


def rate(settings: Settings, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 0, in a run of so many."""
    slow = min(epoch, max(epochs - settings.finish, 0))
    return settings.rate * settings.decay**slow * settings.fall ** (epoch - slow)


def check_settings(settings: Settings) -> None:
    """Raises ValueError for settings that cannot be run, saying which."""
    check_epsilon(settings.epsilon)
    if settings.loss not in ("smooth", "hinge"):
        raise ValueError(f"loss must be smooth or hinge, not {settings.loss!r}")
    for name in ("per_class", "own", "rivals", "batch_size"):
        if not is_count(getattr(settings, name)):
            raise ValueError(f"{name} must be at least 1, not {getattr(settings, name)!r}")
    for name in ("rate", "slope", "cap", "target"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} must be greater than 0, not {getattr(settings, name)}")
    if not (settings.warp >= 0 and 0 <= settings.share <= 1 and 0 <= settings.momentum < 1):
        raise ValueError("warp must be at least 0, share in [0, 1] and momentum in [0, 1)")
    if not (0 < settings.decay <= 1 and 0 < settings.fall <= 1 and settings.finish >= 0):
        raise ValueError("decay and fall must be in (0, 1] and finish at least 0")


def train_sites(
    sites: Sites,
    train: Data,
    validation: Data | None = None,
    settings: Settings | None = None,
    *,
    epochs: int,
    seed: int = 0,
    checkpoint: Path | None = None,
    max_seconds: float = math.inf,
    on_epoch: Callable[[dict], object] | None = None,
) -> list[dict]:
    """Train the sites, in place, to raise the certified radius of the training images.

    With a validation split the sites of the epoch with the greatest verified-robust accuracy there are those that remain; the
    estimate of `Sites.radius` counts. A run can be prolonged, or cut short, until its last epochs begin (`Settings.finish`).

    Args:
        epochs: in all, those of the checkpoint included.
        checkpoint: a file to go on from, if it is there, and to leave after each epoch.
        max_seconds: no epoch starts after that many.
        on_epoch: called with each epoch's row.

    Returns: the history, a row an epoch: epoch, loss, rate, accuracy and vra (fractions of the validation split), seconds.

    Raises ValueError for settings that cannot be run, and for a checkpoint that is damaged or of another run.
    """
    settings = settings or Settings()
    check_settings(settings)
    if len(train.x) < 1:
        raise ValueError("there are no images to train on")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(sites.parameters(), lr=settings.rate, momentum=settings.momentum, nesterov=settings.momentum > 0)
    schedule = [rate(settings, epoch, epochs) for epoch in range(epochs)]
    key = {**dataclasses.asdict(settings), "seed": seed, "sites": list(sites.sites.shape)}
    for name in ("decay", "finish", "fall"):  # what counts is the rate that they give
        del key[name]
    history, best = [], sites.sites.detach().clone()
    if checkpoint and checkpoint.exists():
        state = _read_checkpoint(checkpoint, key, schedule)
        sites.sites.data.copy_(state["sites"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        history, best = state["history"], state["best"]
    started = time.monotonic()
    for epoch in range(len(history), epochs):
        begin = time.monotonic()
        if begin - started > max_seconds:
            break
        optimizer.param_groups[0]["lr"] = schedule[epoch]
        row = {"epoch": epoch, "loss": _train_epoch(sites, train, settings, optimizer, generator), "rate": schedule[epoch]}
        if validation:
            radius = signed_radii(sites, validation, settings.pixels)
            row["accuracy"] = (radius > 0).double().mean().item()
            row["vra"] = (radius > settings.epsilon).double().mean().item()
        if not validation or all(row["vra"] > old["vra"] for old in history):
            best = sites.sites.detach().clone()
        row["seconds"] = time.monotonic() - begin
        history.append(row)
        if checkpoint:
            state = {"key": key, "sites": sites.sites.detach(), "optimizer": optimizer.state_dict()}
            with replacing(checkpoint) as file:
                torch.save({**state, "generator": generator.get_state(), "history": history, "best": best}, file)
        if on_epoch:
            on_epoch(row)
    sites.sites.data.copy_(best)
    return history


def _train_epoch(
    sites: Sites, train: Data, settings: Settings, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> float:
    """One pass over the training images in random order; returns the mean loss of its steps."""
    losses = []
    for rows in torch.randperm(len(train.x), generator=generator).split(settings.batch_size):
        x = train.images(rows)
        if settings.warp and settings.share:
            x = warp(x, settings.warp, settings.share, generator)
        radius = sites.radius(x, train.y[rows], own=settings.own, rivals=settings.rivals, box=settings.pixels, half=settings.half)
        if settings.loss == "hinge":
            loss = hinge(radius, settings.target, settings.cap)
        else:
            loss = smooth(radius, settings.target, settings.slope)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def _read_checkpoint(path: Path, key: dict, schedule: list[float]) -> dict:
    """What `train_sites` left after an epoch. Raises ValueError where it is damaged, or of a run with another key or schedule."""
    try:
        state = torch.load(path, weights_only=True)
        written = renamed_of_sites(state["key"])
        different = [name for name in key if written.get(name) != key[name]]
        if [row["rate"] for row in state["history"]] != schedule[: len(state["history"])]:
            different.append("schedule")
    except Exception as error:  # damage shows as any of zipfile's, pickle's and torch's errors
        raise ValueError(f"{path} is no checkpoint, or damaged ({error!r:.200}): delete it to train from the start") from error
    if different:
        raise ValueError(f"{path} is of a run with other {', '.join(different)}: give another folder, or its settings")
    return state


@torch.no_grad()
def signed_radii(sites: Sites, data: Data, box: tuple[float, float] | None = None) -> Tensor:
    """`Sites.radius` of all images towards their labels, (n,): an estimate, for training and choosing."""
    parts = torch.arange(len(data.x)).split(500)
    return torch.cat([sites.radius(data.images(part), data.y[part], box=box) for part in parts])
