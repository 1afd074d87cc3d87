"""The exact l2 radius of a small ReLU or MinMax network by mixed-integer programming: the oracle of the methods' tests."""

import math

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from gloro_lite import MinMax


def exact_radius(network, x, *, limit=2.0, tolerance=1e-4):
    """The distance from x, (inputs,), to the nearest point of another label, up to `tolerance`; `limit` if it is not below.

    Each ReLU, and each pair of MinMax (min = a - relu(a - b), max = b + relu(a - b)), has a binary variable. The ball is round,
    the program is linear: it minimises t under linear cuts u . d <= t, with a new u along each solution until |d| is t.
    """
    x = x.double()
    label = int(network(x.float()[None]).argmax())
    classes = network[-1].out_features
    return min(_distance(network, x.numpy(), label, other, limit, tolerance) for other in range(classes) if other != label)


def _distance(network, x, label, other, limit, tolerance):
    n = len(x)
    rows, low, high = [], [], []  # constraints low <= row . variables <= high; rows as dicts
    lower, upper, integer = [], [], []

    def variable(a, b, is_integer=False):
        lower.append(a)
        upper.append(b)
        integer.append(int(is_integer))
        return len(lower) - 1

    def constrain(row, a, b):
        rows.append(row)
        low.append(a)
        high.append(b)

    def relu(expression, constant):
        """A variable for relu(expression + constant)."""
        a = constant + sum(c * (lower[v] if c > 0 else upper[v]) for v, c in expression.items())
        b = constant + sum(c * (upper[v] if c > 0 else lower[v]) for v, c in expression.items())
        a, b = min(a, -1e-3), max(b, 1e-3)
        r, gate = variable(0.0, b), variable(0, 1, True)
        constrain({r: 1.0, **{v: -c for v, c in expression.items()}}, constant, np.inf)  # r >= z
        constrain({r: 1.0, gate: -b}, -np.inf, 0.0)  # r <= b gate
        constrain({r: 1.0, gate: -a, **{v: -c for v, c in expression.items()}}, -np.inf, constant - a)  # r <= z - a (1 - gate)
        return r

    def add(*parts):
        total = {}
        for factor, expression in parts:
            for v, c in expression.items():
                total[v] = total.get(v, 0.0) + factor * c
        return total

    t = variable(0.0, limit)
    move = [variable(-limit, limit) for _ in range(n)]
    values = [({v: 1.0}, float(point)) for v, point in zip(move, x, strict=True)]  # (expression, constant)
    for layer in network:
        if isinstance(layer, torch.nn.Linear):
            weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
            values = [
                (
                    add(*((w, e) for w, (e, _) in zip(row, values, strict=True))),
                    b + sum(w * c for w, (_, c) in zip(row, values, strict=True)),
                )
                for row, b in zip(weight, bias, strict=True)
            ]
        elif isinstance(layer, torch.nn.ReLU):
            values = [({relu(e, c): 1.0}, 0.0) for e, c in values]
        elif isinstance(layer, MinMax):
            half = len(values) // 2
            pairs = list(zip(values[:half], values[half:], strict=True))
            gaps = [relu(add((1.0, a), (-1.0, b)), ca - cb) for (a, ca), (b, cb) in pairs]
            smaller = [(add((1.0, a), (-1.0, {r: 1.0})), ca) for ((a, ca), _), r in zip(pairs, gaps, strict=True)]
            larger = [(add((1.0, b), (1.0, {r: 1.0})), cb) for (_, (b, cb)), r in zip(pairs, gaps, strict=True)]
            values = smaller + larger
        else:
            raise TypeError(type(layer))
    (a, ca), (b, cb) = values[other], values[label]
    constrain(add((1.0, a), (-1.0, b)), cb - ca, np.inf)
    # A first polytope around the ball; in the plane already a close one.
    angles = 2 * math.pi * np.arange(32) / 32
    normals = np.column_stack((np.cos(angles), np.sin(angles))) if n == 2 else np.concatenate((np.eye(n), -np.eye(n)))
    for normal in normals:
        constrain({**dict(zip(move, normal.tolist(), strict=True)), t: -1.0}, -np.inf, 0.0)
    cost = np.zeros(len(lower))
    cost[t] = 1.0
    while True:
        matrix = np.zeros((len(rows), len(lower)))
        for k, row in enumerate(rows):
            for v, c in row.items():
                matrix[k, v] = c
        result = milp(cost, constraints=LinearConstraint(matrix, low, high), bounds=Bounds(lower, upper), integrality=integer)
        if result.x is None:
            return limit
        d = result.x[move]
        length = float(np.linalg.norm(d))
        if length <= result.x[t] * (1 + tolerance) + 1e-6:
            return length
        constrain({**dict(zip(move, (d / length).tolist(), strict=True)), t: -1.0}, -np.inf, 0.0)
