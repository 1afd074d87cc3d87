"""A local bound of one layer: what it proves of stored nets beyond the global bound, and what training with it brings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_lite import stored
from gloro_lite.report.runs import Record, mean, measurements, runs_of, verified_radii
from gloro_lite.report.tables import markdown, percent, standard_error
from gloro_lite.train.recipes import find

Entries = dict[str, Record]
"""What `data/last_layers.json` says of each run, "mnist-0.3/seed-0"."""

_SHARES = ("accuracy", "vra", "local")
"""Of an entry: the shares of the test images that are right, proven by the global bound, and proven by either bound."""

_COMPARED = ("cifar10", "cifar10-fifth", "cifar10-local", "mnist-0.3", "mnist-0.3-local", "mnist-0.3-local-gce")
"""The recipes that train with the local bound, and those that they are compared with."""


def entries() -> Entries:
    """Read what is stored."""
    return dict(measurements("last_layers")["runs"])


def of(data: Entries, recipe: str) -> list[Record]:
    """The entries of a recipe's runs."""
    return [entry for run, entry in data.items() if run.startswith(f"{recipe}/")]


def gain(entry: Record) -> float:
    """What the local bound adds to the VRA of a net, in points."""
    return 100 * float(entry["local"] - entry["vra"])


def gains_table(data: Entries) -> str:
    """The nets that were trained with the global bound, certified by it and by both, the largest gain first; VRA in per cent,
    means over seeds."""
    recipes = {run.partition("/")[0] for run in data}
    usual = {recipe: of(data, recipe) for recipe in recipes if find(recipe).bound == "global"}
    gains = {recipe: 100 * (mean(runs, "local") - mean(runs, "vra")) for recipe, runs in usual.items()}
    rows = []
    for recipe in sorted(usual, key=lambda recipe: (-gains[recipe], recipe)):
        runs = usual[recipe]
        shares = [percent(mean(runs, name)) for name in ("vra", "local")]
        cost = f"{mean(runs, 'time_over_global'):.2f}"
        rows.append([f"`{recipe}`{_seeds(runs)}", f"{runs[0]['epsilon']:.3g}", *shares, f"{gains[recipe]:.2f}", cost])
    return markdown(["recipe", "$\\epsilon$", "global", "with local", "gain", "time"], rows, "lrrrrr")


def _seeds(runs: list[Record]) -> str:
    return f" ({len(runs)} seeds)" if len(runs) > 1 else ""


def gain_numbers(data: Entries) -> dict[str, str]:
    """What the text says of nets that were trained with the global bound, by the names that it is glued under.

    Raises AssertionError where an entry cannot be true.
    """
    for run, entry in data.items():
        assert entry["vra"] <= entry["local"] <= entry["accuracy"], run
    cifar, small = data["cifar10/seed-0"], of(data, "mnist-0.3")
    return {
        "last-cifar": percent(cifar["local"]),
        "last-global": percent(cifar["vra"]),
        "last-time": percent(cifar["time_over_global"] - 1, 0),
        "last-large": f"{gain(data['mnist-1.58/seed-0']):.2f}",
        "last-small-vra": percent(mean(small, "vra")),
        "last-small-local": percent(mean(small, "local")),
        "last-seeds": str(len(small)),
    }


def pair_differences(run: str) -> Tensor:
    """Of a stored net with MinMax, the matrix D of its last hidden layer: a row for each pair, in float64."""
    _, hidden = stored.load(run).body[-2]
    assert isinstance(hidden, nn.Linear)
    first, second = hidden.weight.detach().chunk(2)
    return (first - second).double()


def flatness(matrix: Tensor) -> float:
    """The root mean square of a matrix's singular values over the largest: 1 where all are equal."""
    values = torch.linalg.svdvals(matrix)
    return (values.square().mean().sqrt() / values[0]).item()


def flatness_numbers() -> dict[str, str]:
    """What the text says of two stored nets, by the names that it is glued under."""
    nets = {"flat-small": "mnist-0.3-paper-short", "flat-cifar": "cifar10"}
    return {name: f"{flatness(pair_differences(run)):.2f}" for name, run in nets.items()}


def training_table(data: Entries) -> str:
    """The nets that were trained with the local bound, and those that they are compared with: means over seeds, in per cent."""
    rows = []
    for recipe in _COMPARED:
        runs = of(data, recipe)
        rows.append([f"`{recipe}`{_seeds(runs)}", *(percent(mean(runs, name)) for name in _SHARES)])
    return markdown(["run", "clean", "global", "with local"], rows, "lrrr")


def training_numbers(data: Entries) -> dict[str, str]:
    """What the text says of the nets in that table, by the names that it is glued under; shares in per cent."""
    shares = {f"{recipe}-local": percent(mean(of(data, recipe), "local")) for recipe in _COMPARED}
    shares |= {
        f"{recipe}-{name}": percent(mean(of(data, recipe), name))
        for recipe in ("cifar10", "cifar10-local")
        for name in ("accuracy", "vra")
    }
    local = mean(of(data, "cifar10-local"), "local")
    return shares | {"local-error": percent(standard_error(local, data["cifar10-local/seed-0"]["images"]), 1)}


def recipe_numbers() -> dict[str, str]:
    """What the text says of their recipes, and of the largest margin constants that came of it, by the names of the glue."""
    small, further = find("mnist-0.3-local"), find("mnist-0.3-local-gce")
    return {
        "local-epochs": str(find("cifar10-local").epochs),
        "fifth-epochs": str(find("cifar10-fifth").epochs),
        "small-epochs": str(small.epochs),
        "small-radius": f"{find('mnist-0.3').train_epsilon:g}",
        "further-epochs": str(further.epochs),
        "further-q": f"{further.loss_weight:g}",
        "further-radius": f"{further.train_epsilon:g}",
        "largest": f"{runs_of('cifar10')[0]['lipschitz_upper']:.1f}",
        "largest-local": f"{runs_of('cifar10-local')[0]['lipschitz_upper']:.1f}",
    }


def proven(recipe: str) -> Tensor:
    """Of each test image, whether it is right and certified by either bound, in a recipe's first run: (images,) bool."""
    radii = verified_radii(recipe)
    added = stored.columns(stored.STORED / recipe / "seed-0" / stored.LOCAL, {"index": int})
    by_local = torch.zeros(len(radii), dtype=torch.bool)
    by_local[[index for (index,) in added]] = True
    return (radii > find(recipe).epsilon) | (by_local & (radii >= 0))


def apart(ours: Tensor, theirs: Tensor) -> dict[str, str]:
    """How many images are proven for one of two nets alone, and their difference in standard errors, by the names of the glue."""
    only, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return {"only": str(only), "only-fifth": str(lost), "apart": f"{(only - lost) / (only + lost) ** 0.5:.1f}"}
