"""How tight the bounds of stored nets are: `python -m gloro_lite.experiments.tightness` writes `data/tightness.json`.

For each net: the certified constant of each pair of classes beside the steepest pair of points that a search finds (a lower bound
on the true constant), the same within the epsilon-ball of test images, where in the network the slack arises, and what tighter
bounds could gain at most (Section 5.3 and Figure 4c of the paper). A net that is in the file with the same settings stays:

    python -m gloro_lite.experiments.tightness mnist-0.3 mnist-1.58-standard/seed-0
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gloro_lite import stored
from gloro_lite.attacks import pgd
from gloro_lite.bottom import margin_constants
from gloro_lite.certificate import certified_radius
from gloro_lite.console import add_data, reports_errors, test_images
from gloro_lite.experiments import each_run
from gloro_lite.files import home, recorded, write_atomically
from gloro_lite.lipschitz import Pairs, slopes, steepest_pairs
from gloro_lite.net import GloroNet
from gloro_lite.precision import exact_float32
from gloro_lite.provenance import machine

OUTPUT = home() / "tightness.json"


@dataclasses.dataclass(frozen=True)
class Search:
    """How hard is searched, and on what.

    Attributes:
        seed: of the starts.
        pairs: how many pairs of classes are searched at most, those of the largest certified constants.
        starts: pairs of test images that each of them starts from.
        steps: of each search.
        hard: the steepest so many of all are searched again, from as many starts each, with three times the steps.
        images: test images that are certified by each table of constants.
        local: the first so many of them whose balls are searched and attacked.
        local_steps: of each search and each attack there.
    """

    seed: int = 0
    pairs: int = 45
    starts: int = 1
    steps: int = 30
    hard: int = 3
    images: int = 1000
    local: int = 120
    local_steps: int = 10


def margin(network: nn.Module, j: Tensor, i: Tensor) -> Callable[[Tensor], Tensor]:
    """The function y_j - y_i of a network, with a pair of classes for each input of a batch, j and i (batch,)."""

    def function(x: Tensor) -> Tensor:
        logits = network(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
        return (logits.gather(1, j[:, None]) - logits.gather(1, i[:, None])).flatten()

    return function


def gradients(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of a function to (batch,) at each input of a batch, as x."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        return torch.autograd.grad(function(point).sum(), point)[0]


def nearest_rivals(logits: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted class of each input, and the rival that decides its certified radius, (batch,) each.

    Args:
        logits: (batch, classes).
        table: (classes, classes), margin constants.
    """
    top = logits.argmax(dim=1)
    radii = (logits.gather(1, top[:, None]) - logits) / table[top]
    return top, radii.scatter(1, top[:, None], torch.inf).argmin(dim=1)


def exact_slopes(network: nn.Module, found: Pairs, j: Tensor, i: Tensor) -> Tensor:
    """The slopes of the margins between found pairs, (batch,), by a network in float64."""
    return slopes(margin(network, j, i), found.a.double(), found.b.double())


def global_slopes(network: nn.Module, exact: nn.Module, table: Tensor, x: Tensor, y: Tensor, how: Search) -> list[tuple]:
    """The steepest pair of points that is found for each of some pairs of classes.

    Args:
        network, exact: the same network in float32 and in float64.
        table: (classes, classes), certified constants.
        x, y: inputs (n, ...) and their labels, to start from.

    Returns: (j, i, slope, a, b) for each pair of classes j < i, the steepest first; a and b are (1, ...) in float64.
    """
    generator = torch.Generator().manual_seed(how.seed)
    upper = table.triu(1)
    order = upper.flatten().argsort(descending=True)[: min(how.pairs, len(table) * (len(table) - 1) // 2)]
    classes = [divmod(int(place), len(table)) for place in order]
    of_class = [(y == label).nonzero().flatten() for label in range(len(table))]

    def search(pairs: list[tuple[int, int]], starts: int, steps: int) -> list[tuple]:
        rows = []
        for j, i in pairs:
            for _ in range(starts):
                rows.append([_one(of_class[label], len(x), generator) for label in (j, i)])
        a, b = (x[torch.tensor(column)] for column in zip(*rows, strict=True))
        js, is_ = (torch.tensor(column).repeat_interleave(starts) for column in zip(*pairs, strict=True))
        found = steepest_pairs(margin(network, js, is_), a, b, steps=steps)
        slope = exact_slopes(exact, found, js, is_)
        best = slope.view(-1, starts).argmax(dim=1) + starts * torch.arange(len(pairs))
        columns = (slope[best].tolist(), found.a[best].double().split(1), found.b[best].double().split(1))
        return [(*pair, *row) for pair, row in zip(pairs, zip(*columns, strict=True), strict=True)]

    first = sorted(search(classes, how.starts, how.steps), key=lambda row: -row[2])
    again = search([row[:2] for row in first[: how.hard]], how.hard, 3 * how.steps) if how.hard else []
    better = {row[:2]: row for row in again}
    best = [max(row, better.get(row[:2], row), key=lambda one: one[2]) for row in first]
    return sorted(best, key=lambda row: -row[2])


def _one(rows: Tensor, count: int, generator: torch.Generator) -> int:
    """One of the rows, or of all where there is none of that class."""
    place = int(torch.randint(len(rows) or count, (), generator=generator))
    return int(rows[place]) if len(rows) else place


def local_slopes(
    network: nn.Module, exact: nn.Module, x: Tensor, j: Tensor, i: Tensor, epsilon: float, how: Search
) -> tuple[Tensor, Pairs]:
    """The steepest pair within epsilon of each input, for the margin of classes j and i (batch,).

    Returns: the slopes, (batch,) float64, and the pairs.
    """
    generator = torch.Generator().manual_seed(how.seed)
    function = margin(network, j, i)
    towards = gradients(function, x)
    # Along the gradient, with a little noise: where two pairs of ReLU are dead the gradient is zero.
    noise = torch.randn(x.shape, generator=generator)
    towards, noise = nn.functional.normalize(towards.flatten(1)), nn.functional.normalize(noise.flatten(1))
    half = epsilon * nn.functional.normalize(towards + 0.1 * noise).view_as(x)
    found = steepest_pairs(function, x + half, x - half, steps=how.local_steps, closest=epsilon / 3, radius=epsilon)
    return exact_slopes(exact, found, j, i), found


def by_layer(exact: nn.Sequential, norms: dict[str, float], a: Tensor, b: Tensor, j: Tensor, i: Tensor) -> dict[str, Tensor]:
    """Which share of its norm each layer uses between a and b, (batch, ...) float64: (batch,) by the layer's name.

    An affine layer's share is the stretch of its input's difference over the layer's norm; an activation's the stretch, as its
    constant is 1; the last layer's is how far the difference points along w_j - w_i. Their product is the slope of the margin
    over the certified constant: the slack of the whole bound, taken apart.
    """
    shares: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, layer in list(exact._modules.items())[:-1]:
            before = (a - b).flatten(1).norm(dim=1)
            a, b = layer(a), layer(b)
            after = (a - b).flatten(1).norm(dim=1)
            if not isinstance(layer, nn.Flatten):
                shares[f"{name} {type(layer).__name__}"] = after / before.clamp_min(1e-300) / norms.get(name, 1.0)
        weight = exact[-1].weight
        assert isinstance(weight, Tensor)  # of a layer, mypy does not know
        rows = weight[j] - weight[i]
        change = a - b
        along = (rows * change).sum(dim=1).abs() / (rows.norm(dim=1) * change.norm(dim=1)).clamp_min(1e-300)
        shares[f"{len(exact) - 1} logits"] = along
    return shares


def measure(run: str | Path, x: Tensor, y: Tensor, how: Search) -> dict:
    """All figures of one stored net.

    Args:
        run: as for `stored.folder`.
        x, y: test images (n, ...) float32 in [0, 1] and labels.
    """
    net, record = stored.load(run), stored.record(run)
    network = net.network.requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no type for it
    exact = copy.deepcopy(network).double()
    norms, epsilon = record["layer_norms"], net.epsilon
    # The stored norms are proven, and `data/checker` proves them again; the record has the largest constant beside them.
    table = margin_constants(exact[-1].weight, math.prod(norms.values()))
    if abs(table.max().item() / record["lipschitz_upper"] - 1) > 1e-6:
        raise ValueError(
            f"{run}: its layer norms do not give the bound in its record: certify it anew with gloro_lite.experiments.recertify"
        )
    found = global_slopes(network, exact, table, x, y, how)
    lower = table * max(slope / table[j, i].item() for j, i, slope, *_ in found)  # for pairs that were not searched
    for j, i, slope, *_ in found:
        lower[j, i] = lower[i, j] = slope
    j, i, slope, a, b = found[0]
    shares = by_layer(exact, norms, a, b, torch.tensor([j]), torch.tensor([i]))
    assert abs(math.prod(float(s) for s in shares.values()) / (slope / table[j, i].item()) - 1) < 1e-6
    x, y = x[: how.images], y[: how.images]
    with torch.no_grad():
        logits = torch.cat([network(part) for part in x.split(250)]).double()
    right = logits.argmax(dim=1) == y
    first = slice(how.local)
    local, steps = _within_balls(net, exact, norms, table, x[first], y[first], logits[first], how)
    return {
        "search": dataclasses.asdict(how),
        **machine(torch.device("cpu")),
        **{key: record["settings"][key] for key in ("dataset", "network", "activation", "loss")},
        "epsilon": epsilon,
        "upper": table.max().item(),
        "lower": slope,
        "classes": [j, i],
        "ratios": sorted(_short(s / table[j, i].item()) for j, i, s, *_ in found),
        "accuracy": _share(right),
        "vra": _share(right & (certified_radius(logits, table) > epsilon)),
        "vra_by_lower": _share(right & (certified_radius(logits, lower) > epsilon)),
        "local": local,
        "layers": {
            name: [_short(float(share)), _short(steps[name].clamp_min(1e-12).log().mean().exp().item())]
            for name, share in shares.items()
        },
    }


def _within_balls(
    net: GloroNet,
    exact: nn.Sequential,
    norms: dict[str, float],
    table: Tensor,
    x: Tensor,
    y: Tensor,
    logits: Tensor,
    how: Search,
) -> tuple[dict, dict[str, Tensor]]:
    """What is seen within epsilon of each of the images x: the figures, and what `by_layer` gives for the steepest pairs."""
    top, rival = nearest_rivals(logits, table)
    slope, pairs = local_slopes(net.network, exact, x, top, rival, net.epsilon, how)
    gradient = gradients(margin(net.network, top, rival), x)
    gap = (logits.gather(1, top[:, None]) - logits).gather(1, rival[:, None]).flatten()
    right = top == y
    attacked = pgd(net.logits, x, y, net.epsilon, steps=how.local_steps, restarts=1, seed=how.seed)
    with torch.no_grad():
        stands = right & (net.network(attacked).argmax(dim=1) == y)
    figures = {
        "constant": [_short(v) for v in table[top, rival].tolist()],
        "slope": [_short(v) for v in slope.tolist()],
        "gradient": [_short(v) for v in gradient.flatten(1).norm(dim=1).tolist()],
        "accuracy": _share(right),
        "vra": _share(right & (certified_radius(logits, table) > net.epsilon)),
        "vra_by_lower": _share(right & (gap / slope.clamp_min(1e-300) > net.epsilon)),
        "attacked": _share(stands),
    }
    return figures, by_layer(exact, norms, pairs.a.double(), pairs.b.double(), top, rival)


def _share(found: Tensor) -> float:
    """The fraction of a mask, (n,) bool, that is true."""
    return found.double().mean().item()


def _short(value: float) -> float:
    """Four digits, rounded down: a lower bound stays one."""
    if not value > 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.floor(value / unit * (1 + 1e-12)) * unit:.4g}")


def write(path: Path, report: dict) -> None:
    """Write the file, with each list of numbers on a line of its own."""
    text = json.dumps(report, indent=2)
    text = re.sub(r"\[[-+\d.eE,\s]*\]", lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    write_atomically(path, (text + "\n").encode())


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.tightness", description="Measure how tight the bounds of stored nets are."
    )
    parser.add_argument("runs", nargs="*", metavar="NAME", help="stored nets, NAME or NAME/seed-N (default: all, seed 0)")
    add_data(parser)
    options = parser.parse_args(arguments)
    exact_float32()
    how, load = Search(), test_images(options.data)
    for name in map(stored.full_name, options.runs or stored.names()):
        if recorded(OUTPUT).get("nets", {}).get(name, {}).get("search") == dataclasses.asdict(how):
            print(f"{name}: in {OUTPUT.name} already")
            continue
        test = load(stored.record(name)["settings"]["dataset"])
        entry = measure(name, test.x.float() / 255, test.y, how)
        print(f"{name}: upper {entry['upper']:.4g}, lower {entry['lower']:.4g}", flush=True)
        each_run.keep(OUTPUT, name, entry, within="nets", write=write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
