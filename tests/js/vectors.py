"""What core.js and plane.js must compute, by the Python package: `python tests/js/vectors.py` writes vectors.json beside it.

tests/test_javascript.py checks that the file is what this computes now, and runs node on it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch

from gloro_lite import GloroNet, MinMax
from gloro_lite.bottom import bottom_logit, margin_constants
from gloro_lite.certificate import certified_radius
from gloro_lite.voronoi import DecisionFaces
from gloro_lite.widgets import export

TARGET = Path(__file__).with_name("vectors.json")
EPSILON = 0.2
SHAPES = [[6], [8, 6], [4, 4, 4]]
CLASSES = [3, 2, 5]
SQUARES = [[float(a), float(b)] for a in range(4) for b in range(3)]  # every four neighbours lie on a circle
LINE = [[0.3 * k, 0.7 * k] for k in (0, 1, 3, 4, 7)]
PLACES = [2, 3, 8, 30]  # random sites, as many


def _net(hidden: list[int], classes: int, generator: torch.Generator) -> GloroNet:
    layers, inputs = torch.nn.Sequential(), 2
    for k, width in enumerate([*hidden, classes]):
        linear = torch.nn.Linear(inputs, width)
        for parameter in linear.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / inputs**0.5
        layers.append(linear)
        if k < len(hidden):
            layers.append(torch.nn.ReLU() if k == 1 else MinMax())
        inputs = width
    return GloroNet(layers, (2,), EPSILON)


def _network(net: GloroNet) -> dict:
    return {"layers": export.layers(net), "weights": base64.b64encode(export.weights(net)).decode(), "table": export.table(net)}


def nets() -> list[dict]:
    """Logits, bottom, radii and the VRA of random networks at random points."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for hidden, classes in zip(SHAPES, CLASSES, strict=True):
        net = _net(hidden, classes, generator)
        x = 2 * torch.randn(40, 2, generator=generator, dtype=torch.float64)
        labels = torch.randint(classes, (40,), generator=generator)
        network = _network(net)
        table = torch.tensor(network["table"], dtype=torch.float64)
        with torch.no_grad():
            logits = net.network.double()(x)
        radius = certified_radius(logits, table)
        right = logits.argmax(1) == labels
        found.append(
            {
                **network,
                "x": x.tolist(),
                "labels": labels.tolist(),
                "epsilon": EPSILON,
                "logits": logits.tolist(),
                "bottom": bottom_logit(logits, table, EPSILON).tolist(),
                "radius": radius.tolist(),
                "accuracy": right.double().mean().item(),
                "vra": (right & (radius > EPSILON)).double().mean().item(),
            }
        )
    return found


def constants() -> list[dict]:
    """Margin constants of a last layer's rows in both forms."""
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randn(n, d, generator=generator, dtype=torch.float64) for n, d in ((2, 2), (3, 2), (6, 2), (4, 7))]
    return [
        {"rows": r.tolist(), "tight": tight, "table": margin_constants(r, 1.0, tight=tight).tolist()}
        for r in rows
        for tight in (False, True)
    ]


def faces() -> list[dict]:
    """|g| at random points, and the pairs that break 2 epsilon separation."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for count in [*PLACES, SQUARES, LINE]:
        sites = count
        if isinstance(count, int):
            sites = torch.rand(count, 2, generator=generator, dtype=torch.float64).tolist()
        labels = torch.arange(len(sites)) % min(3, len(sites))
        points = torch.tensor(sites, dtype=torch.float64)
        x = 4 * torch.rand(60, 2, generator=generator, dtype=torch.float64) - 1
        apart = torch.cdist(points, points).triu(1)
        apart = apart[(labels[:, None] != labels) & (apart > 0)]
        epsilon = apart.quantile(0.3).item() / 2 * 1.0001
        found.append(
            {
                "sites": sites,
                "labels": labels.tolist(),
                "x": x.tolist(),
                "g": DecisionFaces(points, labels).distance(x).tolist(),
                "nearest": torch.cdist(x, points).argmin(1).tolist() if count is not SQUARES else None,  # no ties
                "epsilon": epsilon,
                "least": apart.min().item(),
                "broken": int((apart <= 2 * epsilon).sum()),
            }
        )
    return found


def attacks() -> dict:
    """Certified radii of points, and how near another class is seen on circles around them; infinite where none is."""
    generator = torch.Generator().manual_seed(3)
    net = _net([8], 3, generator)
    network = _network(net)
    points = 2 * torch.randn(20, 2, generator=generator, dtype=torch.float64)
    angles = torch.linspace(0, 2 * torch.pi, 91, dtype=torch.float64)
    circle = torch.stack((angles.cos(), angles.sin()), 1)
    steps = torch.linspace(0, 8, 200, dtype=torch.float64)
    forward = net.network.double()
    with torch.no_grad():
        logits = forward(points)
        around = points[:, None, None] + steps[:, None, None] * circle
        other = forward(around.flatten(0, 2)).argmax(1).view(around.shape[:3]) != logits.argmax(1)[:, None, None]
    reach = steps.where(other.any(2), torch.inf).amin(1)
    radius = certified_radius(logits, torch.tensor(network["table"], dtype=torch.float64))
    return {
        **network,
        "points": points.tolist(),
        "radius": radius.tolist(),
        "seen": [r if r < float("inf") else None for r in reach.tolist()],
    }


def lattice() -> dict:
    """Cell centres of a square, row by row from the top."""
    frame, size = {"left": -1.5, "bottom": 0.25, "side": 3.0}, 6
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size * frame["side"]
    y, x = torch.meshgrid((frame["bottom"] + centres).flip(0), frame["left"] + centres, indexing="ij")
    return {"frame": frame, "size": size, "x": x.flatten().tolist(), "y": y.flatten().tolist()}


def segments() -> dict:
    """Distances of points to segments, one of them a point, by a search over each segment."""
    generator = torch.Generator().manual_seed(5)
    ends = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    ends[0, 2:] = ends[0, :2]
    x = 2 * torch.randn(30, 2, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None, None]
    along = (1 - t) * ends[:, :2] + t * ends[:, 2:]
    distance = torch.linalg.vector_norm(x[:, None, None] - along, dim=-1).amin((1, 2))
    return {"segments": ends.tolist(), "x": x.tolist(), "distance": distance.tolist()}


def vectors() -> dict:
    parts = (nets, constants, faces, attacks, lattice, segments)
    return {part.__name__: part() for part in parts}


if __name__ == "__main__":
    TARGET.write_text(json.dumps(vectors(), allow_nan=False) + "\n", encoding="utf-8")
    print(TARGET)
