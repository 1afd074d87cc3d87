"""Sites that learn: a stored run beside its start, our nets, and a site on each training image. Drawing needs matplotlib."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean as average
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gloro_lite import extras, plotting, stored
from gloro_lite.files import home
from gloro_lite.methods.sites import warp
from gloro_lite.report.runs import BENCHMARKS, Record, by_variant, mean, measurements, radii_in, runs_of, verified_radii
from gloro_lite.report.tables import markdown, percent, signed, span, standard_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMS = {
    "before": ("untrained, bisectors", "any perturbation"),
    "bisectors": ("trained, bisectors", "any perturbation"),
    "cells": ("trained, cells", "any perturbation"),
    "cells_in_box": ("trained, cells", "perturbations within the box"),
}
"""The certificates of a run, by their names in its record: of which sites, and what they say."""

_ROWS = ("mnist-0.3", "mnist-1.58", "cifar10")
"""The recipes on whose data and radius sites were trained too."""


class Radii(NamedTuple):
    """Of each test image the certified radius where its class is right, else -1: (images,) float64.

    Attributes:
        trained, before: of a run's sites, and of the same sites before training.
        everything: of the construction with all training images as sites; of the first test images alone.
        small_net, large_net: of our nets for 0.3 and 1.58.
    """

    trained: Tensor
    before: Tensor
    everything: Tensor
    small_net: Tensor
    large_net: Tensor


_LOOKS = (
    ("trained sites", "-", plotting.CLASS_COLORS[0]),
    ("the same sites, untrained", "--", plotting.CLASS_COLORS[1]),
    ("all training images as sites", "-", plotting.CLASS_COLORS[2]),
    ("GloRo Net, mnist-0.3", ":", plotting.CLASS_COLORS[3]),
    ("GloRo Net, mnist-1.58", "-.", "black"),
)
"""What the legend calls each of `Radii`, and its line."""


class Row(NamedTuple):
    """The runs on one data set and radius: those of sites, and those of our own net."""

    sites: list[Record]
    nets: list[Record]


@dataclass(frozen=True)
class Evidence:
    """All that the chapter's tables and numbers are made from.

    Attributes:
        run: the run of sites that the chapter shows.
        boxed: the same, trained on the radius within the pixel box.
        radii: its certificates, and those that they are compared with.
        rows: all runs of sites, by the recipe on whose data and radius they are.
        paper: the rows of the paper's table.
        heads: the runs with sites on features, by their number of sites per class: see `best_heads`.
        head_epochs: how long these were trained.
        linear: the runs with a linear head on such features.
    """

    run: Record
    boxed: Record
    radii: Radii
    rows: dict[str, Row]
    paper: list[Record]
    heads: dict[int, list[Record]]
    head_epochs: int
    linear: list[Record]


def evidence(run: str) -> Evidence:
    """Read what is stored; `run` is the name of a run of sites, "mnist-1.58"."""
    radii = Radii(
        verified_radii(f"sites/{run}"),
        radii_in(stored.STORED / "sites" / run / "seed-0" / "certificates_before.csv"),
        radii_in(home() / "nearest_sites.csv", "bisectors"),
        verified_radii("mnist-0.3"),
        verified_radii("mnist-1.58"),
    )
    features = measurements("feature_sites")
    return Evidence(
        run=runs_of(f"sites/{run}")[0],
        boxed=runs_of(f"sites/{run}-box")[0],
        radii=radii,
        rows={name: Row(runs_of(f"sites/{name}"), runs_of(name)) for name in _ROWS},
        paper=measurements("paper")["table"],
        heads=best_heads(features["runs"]),
        head_epochs=features["settings"]["epochs"],
        linear=by_variant(measurements("ablations"))["power iterations: 5 a step"],
    )


def best_heads(runs: list[Record]) -> dict[int, list[Record]]:
    """Of the runs of `data/feature_sites.json` by their number of sites per class: those with the settings that are best on the
    validation split at seed 0."""
    chosen = {}
    for count in sorted({run["per_class"] for run in runs}):
        every = [run for run in runs if run["per_class"] == count]
        best = max((run for run in every if run["seed"] == 0), key=lambda run: run["validation_vra"])
        chosen[count] = [run for run in every if all(run[name] == best[name] for name in ("target", "site_rate"))]
    return chosen


def vra(verified: Tensor, epsilon: float) -> float:
    """The share of the images whose radius is larger than epsilon, a fraction."""
    return (verified > epsilon).double().mean().item()


def digits(pictures: dict[str, Tensor]) -> Figure:
    """Two sites of each digit before training and after.

    Args:
        pictures: under "before" and "after" sites, (10 n, 784): n of each digit, digit after digit.
    """
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    each = len(pictures["before"]) // 10
    figure, axes = plt.subplots(4, 10, figsize=(5.8, 2.6))
    for row, (when, kind) in zip(axes, [("before", 0), ("after", 0), ("before", 1), ("after", 1)], strict=True):
        for axis, site in zip(row, pictures[when][kind::each], strict=True):
            axis.imshow(site.view(28, 28).numpy(), cmap="RdGy", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            for side in axis.spines.values():
                side.set_visible(False)
        row[0].set_ylabel(when)
    return figure


def distorted(image: Tensor, strength: float, seed: int) -> Figure:
    """An image, (784,), and nine copies that are distorted as in training; `strength` is that of `warp`."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    image = image.view(1, 1, 28, 28)
    bent = warp(image.expand(9, -1, -1, -1), strength, 1.0, torch.Generator().manual_seed(seed))
    figure, axes = plt.subplots(1, 10, figsize=(5.8, 0.8))
    for axis, copy in zip(axes, torch.cat((image, bent)), strict=True):
        axis.imshow(copy[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.axis("off")
    return figure


def curves(data: Evidence) -> Figure:
    """VRA over epsilon, with a line at that of the run."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    epsilons = torch.linspace(0, 4, 401, dtype=torch.float64)
    figure, axis = plt.subplots(figsize=(4.8, 3.8))
    for verified, (name, style, color) in zip(data.radii, _LOOKS, strict=True):
        shares = (verified > epsilons[:, None]).double().mean(dim=1)
        axis.plot(epsilons.numpy(), 100 * shares.numpy(), style, color=color, label=name)
    axis.axvline(data.run["epsilon"], color="0.5", linewidth=0.8)
    axis.set(xlabel="$\\epsilon$ ($\\ell_2$, pixel units)", ylabel="VRA (%)", ylim=(0, 100))
    axis.legend(fontsize=9)
    return figure


def run_numbers(data: Evidence, sites: Tensor) -> dict[str, str]:
    """What the text says of the run, its trained sites and what they are compared with, by the names that it is glued under.

    Raises AssertionError where the text would no longer be true.
    """
    run, found = data.run, data.radii
    epsilon, few = run["epsilon"], len(found.everything)
    shares = {
        "vra": run["test_vra"],
        "train": run["train_vra"],
        "validation": run["validation_vra"],
        "clean": run["test_accuracy"],
        "in-box": run["test_vra_in_box"],
        "bisectors": run["forms"]["bisectors"]["test_vra"],
        "untrained": run["forms"]["before"]["test_vra"],
        "net": vra(found.large_net, epsilon),
        # The construction was certified on the first images alone; here are the others on the same ones.
        "everything": vra(found.everything, epsilon),
        "few-trained": vra(found.trained[:few], epsilon),
        "few-before": vra(found.before[:few], epsilon),
        "few-net": vra(found.large_net[:few], epsilon),
    }
    low, high = sites.min().item(), sites.max().item()
    assert low < 0  # a trained site is not an image
    return {name: f"{percent(share, 1)}%" for name, share in shares.items()} | {
        "count": f"{run['sites']:,}",
        "few": f"{few:,}",
        "epochs": str(run["epochs"]),
        "low": signed(low),
        "high": f"{high:.1f}",
    }


def box_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of training for the box, by the names that it is glued under.

    Raises AssertionError where the text would no longer be true.
    """
    run, boxed = data.run, data.boxed
    settings = [dict(each["settings"], half=None, box=None) for each in (run, boxed)]
    assert settings[0] == settings[1] and boxed["settings"]["box"] and not run["settings"]["box"]
    error = standard_error(run["test_vra_in_box"], run["test_images"])
    others = data.rows["mnist-1.58"].sites
    assert all(0 < other["test_vra_in_box"] - boxed["test_vra_in_box"] < 2 * error for other in others)
    assert boxed["test_vra"] < min(other["test_vra"] for other in others)
    return {
        "box-seeds": ", ".join(percent(other["test_vra_in_box"]) for other in others),
        "boxed": f"{percent(boxed['test_vra_in_box'])}%",
        "boxed-free": f"{percent(boxed['test_vra'], 1)}%",
        "boxed-error": percent(error, 1),
    }


def forms_table(data: Evidence) -> str:
    """VRA of the run by each of its certificates, at the epsilon that it was trained for and around it."""
    rows = []
    for form, (kind, scope) in _FORMS.items():
        shares = data.run["forms"][form]["vra_at"]
        rows.append([kind, scope, *(percent(shares[epsilon], 1) for epsilon in ("1.58", "0.79", "2.37"))])
    return markdown(["sites on MNIST", "statement about", "VRA (%) at 1.58", "at 0.79", "at 2.37"], rows, "llrrr")


def rows_table(data: Evidence) -> str:
    """Each row's sites beside our own net, seeds averaged."""
    lines = []
    for row in data.rows.values():
        first = row.sites[0]
        shares = [
            mean(row.sites, "test_accuracy"),
            mean(row.sites, "test_vra"),
            average(run["forms"]["before"]["test_vra"] for run in row.sites),
            mean(row.nets, "test_vra"),
        ]
        where = f"{BENCHMARKS[first['settings']['dataset']]}, {first['epsilon']:.3g}"
        lines.append([where, f"{first['sites']:,}", *(percent(share, 1) for share in shares)])
    return markdown(["data", "sites", "accuracy (%)", "VRA (%)", "before training", "our net"], lines, "lrrrrr")


def rows_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of all runs of sites, by the names that it is glued under.

    Raises AssertionError where the text would no longer be true.
    """
    small, photographs = data.rows["mnist-0.3"].sites, data.rows["cifar10"].sites
    certified = 100 * mean(small, "test_vra")
    [known] = (row["gloro"][2] for row in data.paper if row["recipe"] == "mnist-0.3")
    assert certified > known
    seeds = {f"each-seed-{name.removeprefix('mnist-')}": row.sites for name, row in data.rows.items()}
    return {name: ", ".join(percent(run["test_vra"], 1) for run in runs) for name, runs in seeds.items()} | {
        "photographs": f"{percent(mean(photographs, 'test_vra'), 0)}%",
        "photographs-right": f"{percent(mean(photographs, 'test_accuracy'), 0)}%",
        "small": f"{certified:.1f}%",
        "small-paper": f"{known}%",
        "other-epochs": f"{small[0]['epochs']} and {photographs[0]['epochs']}",
    }


def cost_table(data: Evidence, sites: Tensor) -> str:
    """What the run's sites take: numbers to store, passes of training, and milliseconds of a core for an image's certificate."""
    spent = {form: f"{1000 * data.run['forms'][form]['processor_seconds_per_image']:.1f}" for form in _FORMS if form != "before"}
    rows = [
        ["numbers to store", f"{sites.numel():,}"],
        ["passes over the training images", data.run["epochs"]],
        ["certifying an image by bisectors, ms of a core", spent["bisectors"]],
        ["certifying an image by cells, ms of a core", spent["cells"]],
        ["the same in the box, ms of a core", spent["cells_in_box"]],
    ]
    return markdown(["what", "how much"], rows, "lr")


def heads_table(data: Evidence) -> str:
    """VRA and accuracy on validation images for each number of sites per class, seeds averaged."""
    rows = []
    for count, runs in data.heads.items():
        certified = [100 * run["validation_vra"] for run in runs]
        accuracy = percent(mean(runs, "validation_accuracy"), 1)
        rows.append([count, f"{average(certified):.1f}", f"{min(certified):.1f}–{max(certified):.1f}", accuracy])
    return markdown(["sites per class", "VRA (%)", "of seeds", "accuracy (%)"], rows, "rrrr")


def heads_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of sites on features, by the names that it is glued under.

    Raises AssertionError where the text would no longer be true.
    """
    certified = {count: 100 * mean(runs, "validation_vra") for count, runs in data.heads.items()}
    linear = 100 * mean(data.linear, "validation_vra")
    least, most = min(certified), max(certified, key=lambda count: certified[count])
    assert certified[most] > max(certified[least], linear) + 1  # more sites help: most is not least
    return {
        "seeds": span(len(runs) for runs in data.heads.values()),
        "head-linear": f"{linear:.1f}%",
        "head-gain": f"{certified[most] - certified[least]:.1f}",
        "head-most": str(most),
        "head-epochs": str(data.head_epochs),
    }
