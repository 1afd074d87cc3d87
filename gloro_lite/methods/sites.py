"""The paper's Theorem 3 with sites that learn: a nearest-site classifier whose certified radius is what training raises.

The classifier is `gloro_lite.voronoi.SiteClassifier`: the label of the nearest site, certified by the hyperplanes that bisect two
sites. Here the sites are parameters. That nearest prototypes can be trained on their own certificate is due to Voracek and Hein,
"Provably Adversarially Robust Nearest Prototype Classifiers", ICML 2022.

    python -m gloro_lite.methods.sites --data mnist --epsilon 1.58 --output DIR

trains, chooses the epoch on the validation split, certifies the test set once and writes the results. An interrupted run goes on
where it was. Training needs torch alone; the command needs what `gloro_lite.datasets` needs, and safetensors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite import extras
from gloro_lite.certificate import Certificate, check_epsilon, joined
from gloro_lite.console import at_least, reports_errors
from gloro_lite.evaluate import check_labels, figures
from gloro_lite.files import replacing, table, write_atomically, write_json
from gloro_lite.lipschitz.checks import check_batch
from gloro_lite.provenance import data_digest, device_name, versions, weights_digest
from gloro_lite.voronoi import SiteClassifier, as_tensor, check_sites


class Sites(nn.Module):
    """Sites in input space as parameters, with their labels.

    Called, it returns -d(x, S_i) / 2 for each label i, as `SiteClassifier.logits` does, in the sites' own precision.

    Args:
        sites: (n, ...) floating point: one row a site, in the shape of an input.
        labels: (n,) integers from 0.

    Raises ValueError, see `gloro_lite.voronoi.check_sites`.
    """

    def __init__(self, sites: Tensor, labels: Tensor):
        super().__init__()
        sites = as_tensor(sites)
        _, labels = check_sites(sites, labels)
        self.sites = nn.Parameter(sites.detach().clone() if sites.is_floating_point() else sites.float())
        self.register_buffer("labels", labels)
        self.classes = int(labels.max()) + 1

    def _points(self, x: Tensor) -> Tensor:
        """x as a tensor. Raises TypeError for another kind of number, ValueError for another shape than that of the sites."""
        x, shape = as_tensor(x), tuple(self.sites.shape[1:])
        if not x.is_floating_point():
            raise TypeError(
                f"inputs must be floating-point numbers in the units of the sites, not {x.dtype}: x.float() / 255, say"
            )
        check_batch(x, shape)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of x, (batch, ...), in the shape of the sites."""
        sites = self.sites.flatten(1)
        distances = torch.cdist(self._points(x).flatten(1).to(sites), sites)
        nearest = distances.new_full((len(x), self.classes), torch.inf)
        return -nearest.scatter_reduce(1, self.labels.expand(len(x), -1), distances, "amin") / 2

    def radius(self, x: Tensor, y: Tensor, *, own: int = 4, rivals: int = 16, half: bool = False) -> Tensor:
        """The signed radius towards the label y: positive where x has it, and then certified, but for rounding and unseen rivals.

        The smallest over sites q of other labels of the largest over sites p of label y of (d_q^2 - d_p^2) / (2 ||p - q||):
        see `SiteClassifier.certify_by_bisectors`. For training: only the sites nearest to x are looked at, and the gradient
        reaches the one p and the one q that decide.

        Args:
            x: (batch, ...); y: (batch,).
            own, rivals: how many of the nearest sites of the label y, and of the others, are looked at.
            half: look for the nearest sites in bfloat16, which is faster where the processor has it; the radius is not affected
                but by sites that are hardly among the nearest.

        Returns: (batch,). Raises ValueError for labels that the sites do not have, and for fewer than one of either site.
        """
        if min(own, rivals) < 1:
            raise ValueError(f"own and rivals are numbers of sites, at least 1, not {own} and {rivals}")
        sites, x = self.sites.flatten(1), self._points(x).flatten(1).to(self.sites)
        check_labels(y, len(x), self.classes)
        with torch.no_grad():
            squares = sites.square().sum(1)
            if half:
                apart = squares - 2 * (x.bfloat16() @ sites.bfloat16().T).to(squares)
            else:
                apart = torch.addmm(squares, x, sites.T, alpha=-2)
            mine = self.labels == y[:, None]
            p = apart.masked_fill(~mine, torch.inf).topk(min(own, len(sites)), largest=False)
            q = apart.masked_fill_(mine, torch.inf).topk(min(rivals, len(sites)), largest=False)
            at_p, at_q = sites[p.indices], sites[q.indices]
            # ||x - s||^2 without ||x||^2, which the difference does not need.
            to_p, to_q = (squares[i] - 2 * (s @ x[:, :, None]).squeeze(2) for i, s in ((p.indices, at_p), (q.indices, at_q)))
            width = squares[p.indices][:, :, None] + squares[q.indices][:, None] - 2 * at_p @ at_q.mT
            faces = (to_q[:, None] - to_p[:, :, None]) / (2 * width.clamp_min(1e-12).sqrt())
            # Where a label has fewer sites than are asked for, the places left over hold infinity.
            faces = faces.where(p.values.isfinite()[:, :, None], -torch.inf).where(q.values.isfinite()[:, None], torch.inf)
            largest, which = faces.max(dim=1)
            rival = largest.argmin(dim=1, keepdim=True)
            p = p.indices.gather(1, which.gather(1, rival)).squeeze(1)
            q = q.indices.gather(1, rival).squeeze(1)
        p, q = sites[p], sites[q]
        width = (p - q).square().sum(1).clamp_min(1e-12).sqrt()
        # By the middle, not by squares that cancel.
        return ((q - p) * ((p + q) / 2 - x)).sum(1) / width

    def classifier(self) -> SiteClassifier:
        """The classifier of the sites as they are now, in float64."""
        return SiteClassifier(self.sites, self.labels)

    def certify(
        self,
        x: Tensor,
        epsilon: float,
        *,
        form: Literal["bisectors", "cells"] = "bisectors",
        candidates: int = 8,
        box: tuple[float, float] | None = None,
        batch_size: int = 5000,
    ) -> Certificate:
        """Certify x, (batch, ...), in float64, with its rounding counted, for exactly these sites.

        Args:
            epsilon: the l2 radius.
            form: "bisectors", or "cells" for the sharper and dearer distance to the cells of other labels.
            candidates: sites of the predicted label whose bisectors count.
            box: with "cells", the range that coordinates keep to, (0, 1) for images: the certificate then speaks of points in the
                box alone. See `SiteClassifier.certify_by_cells`.
            batch_size: inputs at a time.

        Raises ValueError for another form, a box without "cells", points of another shape than the sites, a batch_size below 1;
        TypeError for points that are not floating-point.
        """
        x = self._points(x)
        if batch_size < 1:
            raise ValueError(f"batch_size is a number of inputs, at least 1, not {batch_size}")
        if form not in ("bisectors", "cells"):
            raise ValueError(f'form must be "bisectors" or "cells", not {form!r}')
        if box is not None and form != "cells":
            raise ValueError('a box needs form="cells": one bisector knows of no box')
        classifier = self.classifier()
        parts = [
            classifier.certify_by_cells(part, epsilon, candidates=candidates, box=box)
            if form == "cells"
            else classifier.certify_by_bisectors(part, epsilon, candidates)
            for part in x.split(batch_size)
        ]
        if not parts:
            return classifier.certify_by_bisectors(x, epsilon)
        return joined(parts)


def hinge(radius: Tensor, target: float, cap: float = math.inf) -> Tensor:
    """The mean over the batch of how far each radius, (batch,), falls short of the target, counted up to `cap`."""
    return (target - radius).clamp(0, cap).mean()


def smooth(radius: Tensor, target: float, slope: float = 2.0) -> Tensor:
    """The mean of sigmoid(slope (target - radius)): a smooth version of the share of radii below the target."""
    return torch.sigmoid(slope * (target - radius)).mean()


def initial_sites(x: Tensor, y: Tensor, per_class: int, how: Literal["images", "kmeans"] = "images", seed: int = 0) -> Sites:
    """Sites to start from: `per_class` for each label of y, (n,).

    Args:
        x: (n, ...), float.
        how: "images" for images drawn at random, or "kmeans" for the means of as many clusters of each label, by Lloyd's
            algorithm from such images.

    Raises ValueError for another `how`, labels that do not fit, and a label with fewer images than sites.
    """
    check_labels(y, len(x))
    if how not in ("images", "kmeans"):
        raise ValueError(f'how must be "images" or "kmeans", not {how!r}')
    if per_class < 1:
        raise ValueError(f"per_class is a number of sites, at least 1, not {per_class}")
    generator = torch.Generator().manual_seed(seed)
    sites, labels = [], []
    for label in y.unique().tolist():
        own = x[y == label]
        if len(own) < per_class:
            raise ValueError(f"label {label} has {len(own)} images, too few for {per_class} sites")
        chosen = own[torch.randperm(len(own), generator=generator)[:per_class]]
        sites.append(_means(own, chosen) if how == "kmeans" else chosen)
        labels.append(torch.full((per_class,), label))
    return Sites(torch.cat(sites), torch.cat(labels))


def _means(x: Tensor, centres: Tensor, steps: int = 10) -> Tensor:
    """Lloyd's algorithm: centres, (k, ...), moved to the means of the points x, (n, ...), that are nearest to them."""
    shape, x, centres = centres.shape, x.flatten(1), centres.flatten(1)
    for _ in range(steps):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in x.split(4096)])
        count = nearest.bincount(minlength=len(centres))[:, None]
        means = torch.zeros_like(centres).index_add_(0, nearest, x) / count.clamp_min(1)
        centres = means.where(count > 0, centres)
    return centres.view(shape)


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


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. What each field means is in its metadata, and in `python -m gloro_lite.methods.sites --help`."""

    data: str = _setting("mnist", "mnist, cifar10, or digits (8 x 8, with scikit-learn)")
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
    half: bool = _setting(False, "look for near sites in bfloat16")


class Data(NamedTuple):
    """Images (n, channels, height, width), float in [0, 1] or uint8 to be divided by 255, and labels (n,)."""

    x: Tensor
    y: Tensor

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Float images."""
        x = self.x[rows]
        return x if x.is_floating_point() else x.float() / 255


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
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(settings, name)}")
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
        losses = []
        for rows in torch.randperm(len(train.x), generator=generator).split(settings.batch_size):
            x = train.images(rows)
            if settings.warp and settings.share:
                x = warp(x, settings.warp, settings.share, generator)
            radius = sites.radius(x, train.y[rows], own=settings.own, rivals=settings.rivals, half=settings.half)
            loss = (
                hinge(radius, settings.target, settings.cap)
                if settings.loss == "hinge"
                else smooth(radius, settings.target, settings.slope)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        row = {"epoch": epoch, "loss": sum(losses) / len(losses), "rate": schedule[epoch]}
        if validation:
            radius = signed_radii(sites, validation)
            row |= {
                "accuracy": (radius > 0).double().mean().item(),
                "vra": (radius > settings.epsilon).double().mean().item(),
            }
            if all(row["vra"] > old["vra"] for old in history):
                best = sites.sites.detach().clone()
        else:
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


def _read_checkpoint(path: Path, key: dict, schedule: list[float]) -> dict:
    """What `train_sites` left after an epoch. Raises ValueError where it is damaged, or of a run with another key or schedule."""
    try:
        state = torch.load(path, weights_only=True)
        different = [name for name in key if state["key"].get(name) != key[name]]
        if [row["rate"] for row in state["history"]] != schedule[: len(state["history"])]:
            different.append("schedule")
    except Exception as error:  # damage shows as any of zipfile's, pickle's and torch's errors
        raise ValueError(f"{path} is no checkpoint, or damaged ({error!r:.200}): delete it to train from the start") from error
    if different:
        raise ValueError(f"{path} is of a run with other {', '.join(different)}: give another folder, or its settings")
    return state


@torch.no_grad()
def signed_radii(sites: Sites, data: Data) -> Tensor:
    """`Sites.radius` of all images towards their labels, (n,): an estimate, for training and choosing."""
    parts = torch.arange(len(data.x)).split(500)
    return torch.cat([sites.radius(data.images(part), data.y[part]) for part in parts])


def load_data(name: str, root: str | None = None, seed: int = 0) -> tuple[Data, Data, Data]:
    """Training, validation and test split of mnist, cifar10, or digits (whose splits depend on the seed)."""
    if name == "digits":
        from gloro_lite.datasets import digits

        return tuple(Data(*split) for split in digits.load(seed))
    from gloro_lite.datasets import benchmarks

    return tuple(Data(*split) for split in benchmarks.load(name, root))


SHOWN = 4
"""Sites of each label whose beginning is stored, to look at."""

TIMED = 200
"""Test images that are certified once more, to see what each form costs."""


def write(
    sites: Sites,
    before: Sites,
    train: Data,
    test: Data,
    folder: Path,
    settings: Settings,
    history: list[dict],
    *,
    epochs: int,
    seed: int,
) -> dict:
    """Certify the test set, once, and write what the run has found into the folder.

    `model.safetensors` holds the sites and their labels, and as `before` where the first `SHOWN` sites of each label began;
    `history.csv` has a row an epoch; `certificates.csv` a row an image: index, label, prediction, and the radius by cells,
    for any perturbation. `certificates_in_box.csv` has the radii for perturbations that stay within [0, 1], and
    `certificates_before.csv` those of the sites before training, by bisectors. `result.json` holds the figures, as fractions.

    Args:
        before: the sites that training began with.
        train: the training images, whose first 5000 tell how much is remembered and how much learned.

    Returns: what is in `result.json`.
    """
    with extras.needed("writing sites", "train"):
        from safetensors.torch import save

    x, y = test.images(), test.y
    classifier = sites.classifier()
    parts = [classifier.certificates(part, settings.epsilon, box=(0.0, 1.0)) for part in x.split(5000)]
    certificates = {"before": before.certify(x, settings.epsilon)}
    certificates |= {form: joined([part[form] for part in parts]) for form in parts[0]}
    found = {form: figures(c, y, settings.epsilon) for form, c in certificates.items()}
    options = {"bisectors": {}, "cells": {"form": "cells"}, "cells_in_box": {"form": "cells", "box": (0.0, 1.0)}}
    for form, option in options.items():
        begin = time.process_time()
        few = sites.certify(x[:TIMED], settings.epsilon, **option)
        found[form]["processor_seconds_per_image"] = (time.process_time() - begin) / len(few.label)
    chosen = max(range(len(history)), key=lambda k: history[k]["vra"]) if history else None
    result = {
        "recipe": f"sites/{folder.parent.name}",
        "seed": seed,
        "epsilon": settings.epsilon,
        "test_accuracy": found["cells"]["test_accuracy"],
        "test_vra": found["cells"]["test_vra"],
        "test_vra_in_box": found["cells_in_box"]["test_vra"],
        "validation_vra": history[chosen]["vra"] if history else None,
        "train_vra": (signed_radii(sites, Data(train.x[:5000], train.y[:5000])) > settings.epsilon).double().mean().item(),
        "forms": found,
        "chosen_epoch": chosen,
        "epochs": epochs,
        "seconds": sum(row["seconds"] for row in history),
        "sites": len(sites.sites),
        "test_images": len(y),
        "data_sha256": data_digest(test.x, y),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": versions("numpy", "safetensors"),
        "settings": dataclasses.asdict(settings) | {"cap": None if math.isinf(settings.cap) else settings.cap},
    }
    shown = torch.cat([(sites.labels == label).nonzero().flatten()[:SHOWN] for label in sites.labels.unique()])
    state = {"sites": sites.sites.detach().contiguous(), "labels": sites.labels, "before": before.sites.detach()[shown]}
    write_atomically(folder / "model.safetensors", save(state, {"format": "pt", "epsilon": repr(settings.epsilon)}))
    result["weights_sha256"] = weights_digest(folder)
    write_atomically(folder / "history.csv", table(history[0].keys(), (row.values() for row in history)) if history else b"")
    for name, form in (("certificates", "cells"), ("certificates_in_box", "cells_in_box"), ("certificates_before", "before")):
        c = certificates[form]
        rows = zip(range(len(y)), y.tolist(), c.prediction.tolist(), c.radius.tolist(), strict=True)
        write_atomically(folder / f"{name}.csv", table(("index", "label", "prediction", "radius"), rows))
    # Last: where it stands, the others do.
    write_json(folder / "result.json", result)
    return result


def load_sites(path: str | Path) -> Sites:
    """The sites that `write` left in a `model.safetensors`. Raises FileNotFoundError, and ValueError for another file."""
    with extras.needed("reading sites", "train"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: run python -m gloro_lite.methods.sites first, or check the path")
    try:
        state = load_file(path)
        return Sites(state["sites"], state["labels"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} holds no sites with labels ({error}): it must be a file that this module wrote") from error


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command, see the module; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(prog="python -m gloro_lite.methods.sites", description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of this run")
    parser.add_argument(
        "--epochs", type=at_least(1), metavar="N", default=60, help="in all; a run can be prolonged (default: 60)"
    )
    parser.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="of sites, batches and warps (default: 0)")
    parser.add_argument("--root", help="of the images (default: $GLORO_DATA, else data/root)")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="start no epoch after that long")
    parser.add_argument(
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
            parser.add_argument(flag, action="store_true", help=meaning)
        else:
            help = f"{meaning} (default: {field.default})"
            parser.add_argument(flag, type=kinds[field.type], default=field.default, metavar=field.type.upper(), help=help)
    given = vars(parser.parse_args(arguments))
    folder, epochs, seed, root, seconds = (given.pop(name) for name in ("output", "epochs", "seed", "root", "max_seconds"))
    tested = not given.pop("no_test")
    settings = Settings(**given)
    check_settings(settings)
    if (folder / "result.json").exists():
        raise ValueError(f"{folder} holds a finished run: give another folder with --output")
    train, validation, test = load_data(settings.data, root, seed)
    folder.mkdir(parents=True, exist_ok=True)
    sites = initial_sites(train.images(), train.y, settings.per_class, settings.initial, seed)
    before = Sites(sites.sites, sites.labels)
    checkpoint = folder / "checkpoint.pt"
    history = train_sites(
        sites,
        train,
        validation,
        settings,
        epochs=epochs,
        seed=seed,
        checkpoint=checkpoint,
        max_seconds=seconds,
        on_epoch=lambda row: print(json.dumps(row), flush=True),
    )
    if len(history) < epochs:
        print(f"{len(history)} of {epochs} epochs: run the command again to go on", flush=True)
        return 0
    if not tested:
        return 0
    result = write(sites, before, train, test, folder, settings, history, epochs=epochs, seed=seed)
    checkpoint.unlink()
    print(json.dumps({name: result[name] for name in ("test_accuracy", "test_vra", "test_vra_in_box", "validation_vra")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
