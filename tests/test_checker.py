"""The checker of finished runs: what it accepts is right, and whatever is tampered with it refuses, saying what and where.

The oracles here are PyTorch's convolution, the SVD of the unrolled operator, Python's fractions and the safetensors library.
"""

import csv
import hashlib
import io
import itertools
import json
import math
import os
import pickle
import re
import shlex
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from gloro_lite import networks

ROOT = Path(__file__).resolve().parents[1]
CHECKER = ROOT / "data" / "checker"
sys.path.insert(0, str(CHECKER))
import exact  # noqa: E402
import network  # noqa: E402
import norms  # noqa: E402
import reading  # noqa: E402
import run  # noqa: E402
import sites as site_proofs  # noqa: E402

sys.path.remove(str(CHECKER))

IMAGES, SIDE, CLASSES = 12, 6, 3


# The run, made by hand.


def write_images(root, images, labels):
    """An MNIST test set of its own: (n, side, side) uint8 and n labels."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
    (folder / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(labels)) + labels.astype(np.uint8).tobytes())


def spectral_norm(weight, stride=1, shape=None):
    """The largest singular value of a layer's linear map, of the unrolled convolution with padding 1 where a shape is given."""
    if weight.ndim == 4:
        basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
        image = torch.nn.functional.conv2d(basis, torch.from_numpy(np.array(weight, np.float64)), stride=stride, padding=1)
        weight = image.flatten(1).numpy()
    return float(np.linalg.svd(np.asarray(weight, np.float64), compute_uv=False)[0])


def by_fractions(layers, activation, image):
    """Logits of an image (channels, height, width), as Fractions, written down as the definitions say."""
    unit = 2**170  # every float32 number is a whole number of 1 / unit

    def whole(values):
        return [int(Fraction(float(v)) * unit) for v in values.ravel()]

    x, scale = np.array(whole(image), object).reshape(image.shape).tolist(), unit
    for number, (weight, bias, stride) in enumerate(layers):
        w = [whole(row) for row in weight.reshape(len(weight), -1)]
        b = [v * scale for v in whole(bias)]
        if weight.ndim == 4:
            _, channels, kernel, _ = weight.shape
            height, width = len(x[0]), len(x[0][0])
            taps = [(c, p, q) for c in range(channels) for p in range(kernel) for q in range(kernel)]

            def at(o, r, s, x=x, w=w, taps=taps, height=height, width=width):
                inside = (
                    (t, x[c][r + p][s + q]) for t, (c, p, q) in enumerate(taps) if 0 <= r + p < height and 0 <= s + q < width
                )
                return sum(w[o][t] * v for t, v in inside)

            rows, columns = range(-1, height + 2 - kernel, stride), range(-1, width + 2 - kernel, stride)
            x = [[[b[o] + at(o, r, s) for s in columns] for r in rows] for o in range(len(w))]
        else:
            flat = [v for channel in x for row in channel for v in row]
            x = [[[b[o] + sum(m * v for m, v in zip(w[o], flat, strict=True))]] for o in range(len(w))]
        scale *= unit
        if number < len(layers) - 1:
            size = {"minmax": 2, "groupsort4": 4}.get(activation, 1)
            count = len(x) // size
            new = [[[0] * len(row) for row in channel] for channel in x]
            for k, r, s in itertools.product(range(count), range(len(x[0])), range(len(x[0][0]))):
                members = sorted(x[k + place * count][r][s] for place in range(size))
                for place, v in enumerate(members):
                    new[k + place * count][r][s] = {"relu": max(v, 0), "abs": abs(v)}.get(activation, v)
            x = new
    return [Fraction(channel[0][0], scale) for channel in x]


def radius_below(logits, head, product):
    """(prediction, the largest float64 radius that the claim allows) in exact arithmetic."""
    j = max(range(len(logits)), key=lambda i: (logits[i], -i))
    radius = math.inf
    for i in range(len(logits)):
        square = sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(head[i], head[j], strict=True))
        margin = logits[j] - logits[i]
        if i == j or (square == 0 and margin > 0):
            continue
        if margin == 0:
            return j, 0.0
        bound = margin / product
        r = float(bound) / math.sqrt(square) * (1 + 1e-15)
        while Fraction(r) ** 2 * square > bound**2:
            r = math.nextafter(r, 0.0)
        radius = min(radius, r)
    return j, radius


class Run:
    """A correct run's folder and images under `root`, its radii below what is true by a share of `spare`."""

    def __init__(self, root, layers, notation, images, labels, activation="minmax", epsilon=0.02, spare=1e-9):
        self.root, self.folder = root, root / "tiny" / "seed-0"
        self.folder.mkdir(parents=True)
        write_images(root, images, labels)
        x = images[:, None].astype(np.float32) / np.float32(255)
        seen, first = x, 0
        if notation.startswith("p2 "):
            seen = torch.nn.functional.avg_pool2d(torch.from_numpy(x).double(), 2, divisor_override=2).numpy()
            first = 1
        names, number, bounds, side = [], first, {}, seen.shape[2]
        shape, flat = seen.shape[1:], False
        for weight, _, stride in layers:
            if weight.ndim == 2 and not flat:
                number, flat = first + 2 * len(names) + 1, True
            names.append(str(number))
            bounds[str(number)] = spectral_norm(weight, stride, shape) * (1 + 1e-9)
            if weight.ndim == 4:
                side = (side + 2 - weight.shape[2]) // stride + 1
                shape = (len(weight), side, side)
            number += 2
        head = layers[-1][0]
        del bounds[names[-1]]
        product = math.prod(map(Fraction, bounds.values()))
        tensors = {f"network.{name}.weight": weight for name, (weight, _, _) in zip(names, layers, strict=True)}
        tensors |= {f"network.{name}.bias": bias for name, (_, bias, _) in zip(names, layers, strict=True)}
        tensors["training_bound.iterate_0"] = np.ones((1, *x.shape[1:]), np.float32)
        # The library writes an array's memory as it lies.
        (self.folder / "model.safetensors").write_bytes(save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))
        claims = [radius_below(by_fractions(layers, activation, image), head, product) for image in seen]
        self.write_rows([[k, int(labels[k]), j, r * (1 - spare)] for k, (j, r) in enumerate(claims)])
        distances = [np.linalg.norm(np.float64(a) - np.float64(b)) for a in head for b in head]
        self.write_result(
            {
                "format": 2,
                "recipe": "tiny",
                "seed": 0,
                "epsilon": epsilon,
                "guarantee": "exact",
                "layer_norms": bounds,
                "lipschitz_upper": max(distances) * float(product),
                "vra_at": {"0.01": 0, "0.02": 0, "0.03": 0},
                "settings": {
                    "name": "tiny",
                    "dataset": "mnist",
                    "network": notation,
                    "epsilon": epsilon,
                    "activation": activation,
                },
            }
        )
        self.rewrite()

    def rows(self):
        text = (self.folder / "certificates.csv").read_text()
        return [[int(i), int(y), int(j), float(r)] for i, y, j, r in list(csv.reader(io.StringIO(text)))[1:]]

    def write_rows(self, rows):
        lines = ["index,label,prediction,radius", *(f"{i},{y},{j},{r!r}" for i, y, j, r in rows)]
        (self.folder / "certificates.csv").write_text("\n".join(lines) + "\n")

    def result(self):
        return json.loads((self.folder / "result.json").read_text())

    def write_result(self, result):
        (self.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")

    def tensors(self):
        return load((self.folder / "model.safetensors").read_bytes())

    def rewrite(self):
        """Counts and digests anew from what the files say, as someone does who covers up."""
        result, rows = self.result(), self.rows()
        raw = self.root / "MNIST" / "raw"
        pixels, labels = (raw / "t10k-images-idx3-ubyte").read_bytes()[16:], (raw / "t10k-labels-idx1-ubyte").read_bytes()[8:]
        digest = hashlib.sha256(pixels + b"".join(struct.pack("<q", y) for y in labels))
        result["data_sha256"] = digest.hexdigest()
        result["weights_sha256"] = hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()

        def share(radius):
            return sum(y == j and r > radius for _, y, j, r in rows) / len(rows)

        result |= {"test_accuracy": share(-1), "test_vra": share(result["epsilon"])}
        result["vra_at"] = {key: share(float(key)) for key in result["vra_at"]}
        self.write_result(result)

    def check(self, **options):
        """(whether it holds, what was said)."""
        lines = []
        holds = run.check(self.folder, run.Options(self.root, **options), lines.append)
        return holds, "\n".join(lines)


def random_layers(seed, widths=(4, 6, 6)):
    """Weights, biases and strides of `NOTATION`, or of other widths, with a head of three classes."""
    generator = np.random.default_rng(seed)

    def layer(*shape, stride=0):
        weight = generator.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        return weight.astype(np.float32), generator.normal(size=shape[0], scale=0.1).astype(np.float32), stride

    first, second, third = widths
    convolutions = [layer(first, 1, 3, 3, stride=2), layer(second, first, 4, 4, stride=1)]
    return [*convolutions, layer(third, 4 * second), layer(CLASSES, third)]


NOTATION = "c4k3s2 c6k4 | 6"


def random_images(seed, n=IMAGES, side=SIDE):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, side, side), dtype=np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A correct run whose labels are its own predictions but for two."""
    root = tmp_path_factory.mktemp("made")
    images, layers = random_images(1), random_layers(6)
    x = images[:, None].astype(np.float32) / np.float32(255)
    labels = np.array([radius_below(by_fractions(layers, "minmax", image), layers[-1][0], Fraction(1))[0] for image in x])
    labels[:2] = (labels[:2] + 1) % CLASSES
    return Run(root, layers, NOTATION, images, labels)


@pytest.fixture
def case(made, tmp_path):
    """A copy of it to tamper with."""
    copy = object.__new__(Run)
    shutil.copytree(made.root, tmp_path / "copy")
    copy.root, copy.folder = tmp_path / "copy", tmp_path / "copy" / "tiny" / "seed-0"
    return copy


# What it accepts.


def test_a_correct_run_is_accepted(made):
    holds, said = made.check(exact=3)
    assert holds, said
    assert "12 of 12 hold" in said and "3 by exact arithmetic" in said and "WRONG" not in said
    assert len({j for _, _, j, _ in made.rows()}) > 1 and 0 < made.result()["test_vra"] < made.result()["test_accuracy"] < 1


@pytest.mark.parametrize("notation", ["c4k3s2 c6k4 | 6", "c4k3s2 c6k4 |", "| 8"])
def test_relu_and_networks_without_a_kind_of_layer(tmp_path, notation):
    first, second, dense, head = random_layers(3)
    wide = np.float32(np.random.default_rng(4).normal(size=(8, SIDE * SIDE)) / 6)
    layers = {
        "c4k3s2 c6k4 | 6": [first, second, dense, head],
        "c4k3s2 c6k4 |": [first, second, (np.tile(head[0], 4), head[1], 0)],
        "| 8": [(wide, wide[:, 0], 0), (wide[:CLASSES, :8], wide[:CLASSES, 9], 0)],
    }[notation]
    holds, said = Run(tmp_path, layers, notation, random_images(5, 4), np.arange(4) % CLASSES, activation="relu").check(exact=4)
    assert holds, said


def test_rows_that_equal_each_other(tmp_path):
    """A logit that is larger by its bias alone is larger everywhere; a tie is no certificate."""
    layers = random_layers(6)
    weight, bias = layers[-1][0].copy(), layers[-1][1].copy()
    weight[:], bias[:] = weight[0], (0.0, 1.0, 1.0)
    tied = Run(tmp_path / "tied", [*layers[:-1], (weight, bias, 0)], NOTATION, random_images(7, 3), np.zeros(3, int))
    assert [row[3] for row in tied.rows()] == [0.0] * 3
    holds, said = tied.check()
    assert holds, said
    tied.write_rows([[*tied.rows()[0][:3], 1e-9], *tied.rows()[1:]])
    holds, said = tied.check()
    assert not holds and "certificates.csv, row 0" in said
    layers[-1] = weight, np.float32([0, 1, 2]), 0
    apart = Run(tmp_path / "apart", layers, NOTATION, random_images(7, 3), np.full(3, 2))
    assert [row[3] for row in apart.rows()] == [math.inf] * 3
    holds, said = apart.check()
    assert holds, said


@pytest.mark.parametrize("notation", ["| 4", "| 4 4"])
def test_what_float64_cannot_tell_exact_arithmetic_decides(tmp_path, notation):
    """A bias of 2^70 drowns every pixel in float64, and cancels in the head or in a layer before it."""
    generator = np.random.default_rng(8)
    weight = generator.normal(size=(4, SIDE * SIDE)).astype(np.float32)
    cancel = np.float32([[1, -1, 0, 0], [0, 1, -1, 0], [0, 0, 1, -1], [1, 0, 0, -1]])
    layers = [(weight, np.full(4, 2.0**70, np.float32), 0), (cancel, np.zeros(4, np.float32), 0)]
    if notation == "| 4":
        layers[1] = cancel[:3], np.float32([0.5, 0, 0]), 0
    else:
        layers.append((generator.normal(size=(3, 4)).astype(np.float32), np.float32([0.5, 0, -0.5]), 0))
    huge = Run(tmp_path, layers, notation, random_images(9, 5), np.zeros(5, int), activation="relu", spare=0)
    holds, said = huge.check(exact=0)
    assert holds and "5 by exact arithmetic" in said, said
    index, label, prediction, radius = huge.rows()[4]
    huge.write_rows([*huge.rows()[:4], [index, label, prediction, math.nextafter(radius, math.inf)]])
    huge.rewrite()
    holds, said = huge.check(exact=0)
    assert not holds and "certificates.csv, row 4" in said, said


def test_a_radius_at_epsilon_is_not_above_it(case):
    result, rows = case.result(), case.rows()
    right = sorted(r for _, y, j, r in rows if y == j)
    result["epsilon"] = result["settings"]["epsilon"] = right[3]
    case.write_result(result)
    case.rewrite()
    assert case.result()["test_vra"] == (len(right) - 4) / IMAGES
    assert case.check()[0]
    case.write_result(case.result() | {"test_vra": (len(right) - 3) / IMAGES})
    holds, said = case.check()
    assert not holds and f"test_vra: {(len(right) - 3) / IMAGES!r} is claimed, the rows give {len(right) - 4} of 12" in said


def test_an_older_run_is_checked_with_the_checkers_own_norms(case):
    result = case.result()
    for key in ("format", "guarantee", "layer_norms", "weights_sha256", "data_sha256"):
        del result[key]
    case.write_result(result)
    holds, said = case.check()
    assert "none are stored with this run" in said and " of 12 hold" in said
    # The claimed norms are a thousandth of a millionth above the true ones, the checker's own at most little more.
    case.write_rows([[i, y, j, r * (1 - 1e-8)] for i, y, j, r in case.rows()])
    holds, said = case.check()
    assert holds and "12 of 12 hold" in said, said
    case.write_rows([[i, y, j, r * (1 + 1e-4 * (i == 7))] for i, y, j, r in case.rows()])
    holds, said = case.check()
    assert not holds and "11 of 12 hold" in said and "row 7" in said


def test_an_older_run_claims_no_constant_below_what_is_proven(case):
    """To leave out what a run of today has to claim makes no other claim true."""
    result = case.result()
    for key in ("format", "guarantee", "layer_norms", "weights_sha256", "data_sha256"):
        del result[key]
    case.write_rows([[i, y, j, r * (1 - 1e-8)] for i, y, j, r in case.rows()])
    for factor, right in ((1.1, True), (0.9, False)):
        case.write_result(result | {"lipschitz_upper": factor * result["lipschitz_upper"]})
        holds, said = case.check()
        assert holds is right and ("WRONG  result.json, lipschitz_upper" in said) is not right, said


def test_the_first_images_alone(case):
    rows = case.rows()
    case.write_rows([*rows[:11], [*rows[11][:3], rows[11][3] + 1.0]])
    case.rewrite()
    holds, said = case.check(limit=11)
    assert holds and "only the first 11 of 12 images" in said
    assert not case.check(limit=12)[0]


def test_proofs_are_kept_for_the_same_weights_and_claims_alone(case, tmp_path):
    kept = tmp_path / "kept"
    original = (case.folder / "model.safetensors").read_bytes()
    assert "cache" not in case.check(cache=kept)[1]
    assert case.check(cache=kept)[1].count("as the cache says") == 3
    edit_tensors(one_weight)(case)
    assert case.check(cache=kept)[1].count("as the cache says") == 2
    (case.folder / "model.safetensors").write_bytes(original)
    case.rewrite()
    result = case.result()
    result["layer_norms"]["2"] *= 1 - 1e-6
    case.write_result(result)
    holds, said = case.check(cache=kept)
    assert not holds and "layer_norms, layer 2" in said and said.count("as the cache says") == 2


# What it refuses.


def edit_row(index, column, change):
    def tamper(case):
        rows = case.rows()
        rows[index][column] = change(rows[index][column])
        case.write_rows(rows)
        case.rewrite()

    return tamper


def edit_result(*path, to):
    def tamper(case):
        result = case.result()
        table = result
        for key in path[:-1]:
            table = table[key]
        old = table.get(path[-1])
        table[path[-1]] = to(old) if callable(to) else to
        case.write_result(result)

    return tamper


def drop(*path):
    def tamper(case):
        result = case.result()
        table = result
        for key in path[:-1]:
            table = table[key]
        del table[path[-1]]
        case.write_result(result)

    return tamper


def edit_tensors(change, cover=True):
    def tamper(case):
        tensors = {name: tensor.copy() for name, tensor in case.tensors().items()}
        tensors = change(tensors) or tensors
        (case.folder / "model.safetensors").write_bytes(save(tensors))
        if cover:
            case.rewrite()

    return tamper


def one_weight(tensors):
    tensors["network.0.weight"][2, 0, 1, 1] += 1e-3


def one_weight_of_the_head(tensors):
    tensors["network.7.weight"][1, 2] += 1e-5


def not_a_number(tensors):
    tensors["network.5.bias"][3] = np.nan


def without_a_bias(tensors):
    del tensors["network.2.bias"]


def doubled(tensors):
    tensors["network.0.bias"] = tensors["network.0.bias"].astype(np.float64)


def lowered(norm):
    return norm * (1 - 1e-6)


def swap(renumber):
    def tamper(case):
        rows = case.rows()
        rows[4], rows[5] = rows[5], rows[4]
        if renumber:
            rows = [[k, *row[1:]] for k, row in enumerate(rows)]
        case.write_rows(rows)
        case.rewrite()

    return tamper


def leave_out(renumber):
    def tamper(case):
        rows = case.rows()
        del rows[6]
        if renumber:
            rows = [[k, *row[1:]] for k, row in enumerate(rows)]
        case.write_rows(rows)
        case.rewrite()

    return tamper


def edit_text(name, old, new):
    def tamper(case):
        path = case.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return tamper


def pixel(case):
    path = case.root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)


def label_of_the_data(case):
    path = case.root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    data = bytearray(path.read_bytes())
    data[8 + 9] = (data[8 + 9] + 1) % CLASSES
    path.write_bytes(data)


def slack_bytes(case):
    path = case.folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    case.rewrite()


def remove(name):
    return lambda case: (case.folder / name).unlink()


TAMPERED = {
    "a radius raised by 1e-6": (edit_row(3, 3, lambda r: r + 1e-6), r"certificates.csv, row 3: .*margin over class \d"),
    "a radius raised by 1e-6 of itself": (edit_row(8, 3, lambda r: r * (1 + 1e-6)), r"certificates.csv, row 8: .*margin over"),
    "a radius that is infinite": (edit_row(2, 3, lambda r: math.inf), r"certificates.csv, row 2"),
    "a radius that is negative": (edit_row(2, 3, lambda r: -r), r"certificates.csv, row 2: .*not a number from 0 to inf"),
    "a radius that is no number": (edit_row(2, 3, lambda r: math.nan), r"certificates.csv, row 2: .*not a number from 0 to inf"),
    "another prediction": (edit_row(4, 2, lambda j: (j + 1) % CLASSES), r"certificates.csv, row 4: .*has the larger logit"),
    "a prediction that is no class": (edit_row(4, 2, lambda j: CLASSES), r"certificates.csv, row 4: prediction 3 of 3 classes"),
    "a label": (edit_row(5, 1, lambda y: (y + 1) % CLASSES), r"certificates.csv, row 5: label \d, and the image's is \d"),
    "rows swapped": (swap(False), r"certificates.csv, row 4: its index is 5"),
    "rows swapped, numbered anew": (swap(True), r"certificates.csv, row [45]"),
    "a row left out": (leave_out(False), r"certificates.csv, row 6: its index is 7"),
    "a row left out, numbered anew": (leave_out(True), r"certificates.csv: 11 rows, and the test set has 12"),
    "the columns' names": (edit_text("certificates.csv", "label,", "labels,"), r"certificates.csv: the first line"),
    "one weight": (edit_tensors(one_weight, cover=False), r"result.json, weights_sha256"),
    "one weight, with its hash": (edit_tensors(one_weight), r"certificates.csv, row \d+"),
    "one weight of the head, with its hash": (edit_tensors(one_weight_of_the_head), r"certificates.csv, row \d+"),
    "a weight that is no number": (edit_tensors(not_a_number), r"model.safetensors: network.5.bias holds NaN"),
    "a tensor missing": (edit_tensors(without_a_bias), r"model.safetensors: network.2.bias is missing"),
    "a tensor more": (
        edit_tensors(lambda t: t | {"network.9.weight": t["network.7.weight"]}),
        r"model.safetensors: network.9.weight belongs to no layer",
    ),
    "a tensor of another shape": (
        edit_tensors(lambda t: t | {"network.2.weight": t["network.2.weight"][:, :, :3]}),
        r"model.safetensors: network.2.weight has the shape \(6, 4, 3, 4\)",
    ),
    "a tensor in float64": (edit_tensors(doubled), r"model.safetensors: network.0.bias is F64"),
    "bytes of no tensor": (slack_bytes, r"model.safetensors: bytes \d+ to \d+ belong to none"),
    "a norm lowered by 1e-6": (edit_result("layer_norms", "2", to=lowered), r"layer_norms, layer 2: .*not proven"),
    "a dense layer's norm lowered": (edit_result("layer_norms", "5", to=lowered), r"layer_norms, layer 5: .*not proven"),
    "a norm that is negative": (edit_result("layer_norms", "0", to=-1.0), r"layer_norms, layer 0: .*not proven"),
    "a norm that is text": (edit_result("layer_norms", "0", to="1"), r"result.json, layer_norms, 0: '1' is no number"),
    "a norm missing": (drop("layer_norms", "2"), r"result.json, layer_norms: \['0', '5'\]"),
    "a norm too many": (edit_result("layer_norms", "7", to=1.0), r"result.json, layer_norms: "),
    "the largest constant": (edit_result("lipschitz_upper", to=lambda k: k * 0.99), r"result.json, lipschitz_upper"),
    "the accuracy": (edit_result("test_accuracy", to=1.0), r"result.json, test_accuracy: 1.0 is claimed, the rows give 10 of 12"),
    "the VRA": (edit_result("test_vra", to=lambda v: v + 1 / 12), r"result.json, test_vra: "),
    "the VRA at another epsilon": (edit_result("vra_at", "0.03", to=lambda v: v + 1 / 12), r"result.json, vra_at 0.03: "),
    "an epsilon": (edit_result("epsilon", to=1e-4), r"result.json, settings.epsilon: 0.02 is claimed, 0.0001"),
    "the guarantee": (edit_result("guarantee", to="deployed"), r"result.json, guarantee: 'deployed'"),
    "the format": (drop("format"), r"result.json, format: None is claimed, 2 or 3 is true"),
    "the images' digest": (edit_result("data_sha256", to="0" * 64), r"result.json, data_sha256"),
    "a pixel": (pixel, r"result.json, data_sha256"),
    "a label of the data": (label_of_the_data, r"certificates.csv, row 9: label"),
    "the activation": (edit_result("settings", "activation", to="relu"), r"certificates.csv, row \d+"),
    "the notation": (
        edit_result("settings", "network", to="c4k3s2 c6k4 | 8"),
        r"model.safetensors: network.5.weight has the shape",
    ),
    "a notation of nothing": (edit_result("settings", "network", to="2C3F"), r"result.json, settings.network: '2C3F' is not"),
    "the recipe": (edit_result("recipe", to="other"), r"result.json, recipe: 'other' is claimed, 'tiny' is true"),
    "the seed": (edit_result("seed", to=1), r"result.json, seed: 1 is claimed, and the folder is seed-0"),
    "a key twice": (edit_text("result.json", '"seed": 0', '"seed": 0, "seed": 0'), r"result.json: the key 'seed' stands twice"),
    "NaN for a figure": (edit_text("result.json", '"test_vra": ', '"test_vra": NaN, "was": '), r"result.json: NaN is no JSON"),
    "no table": (remove("certificates.csv"), r"certificates.csv: cannot be read"),
    "no weights": (remove("model.safetensors"), r"model.safetensors: cannot be read"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_is_tampered_with_is_refused_and_named(case, name):
    tamper, where = TAMPERED[name]
    tamper(case)
    holds, said = case.check()
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert not holds and any(re.search(where, line) for line in wrong), said


# Sites.


def distance_to_cell(x, own, rival, box=None):
    """The least ||z|| where x + z is no farther from the rival than from each of a few own sites: by every choice of what binds.

    In the box the coordinates at its edges are chosen too: for a handful of coordinates.
    """
    normals = rival - own
    levels = (normals * ((own + rival) / 2 - x)).sum(1)
    rows = [(n, c) for n, c in zip(normals, levels, strict=True)]
    if box is not None:
        for i, unit in enumerate(np.eye(len(x))):
            rows += [(unit, box[0] - x[i]), (-unit, x[i] - box[1])]
    best = math.inf
    for chosen in itertools.chain.from_iterable(itertools.combinations(rows, k) for k in range(len(x) + 1)):
        z = np.zeros(len(x))
        if chosen:
            matrix = np.array([row for row, _ in chosen])
            z = np.linalg.lstsq(matrix, np.array([level for _, level in chosen]), rcond=None)[0]
        if all(row @ z >= level - 1e-11 for row, level in rows):
            best = min(best, float(np.linalg.norm(z)))
    return best


class SiteRun(Run):
    """A correct run of sites in the plane of two pixels by two, its radii by `distance_to_cell`."""

    def __init__(self, root, seed=3, per_class=2, spare=1e-9):
        generator = np.random.default_rng(seed)
        self.root, self.folder = root, root / "sites" / "tiny" / "seed-0"
        self.folder.mkdir(parents=True)
        images = generator.integers(0, 256, (IMAGES, 2, 2), dtype=np.uint8)
        places = generator.random((per_class * CLASSES, 1, 2, 2)).astype(np.float32)
        owners = np.arange(len(places)) % CLASSES
        flat = places.reshape(len(places), -1).astype(np.float64)
        points = (images.astype(np.float32) / np.float32(255)).reshape(IMAGES, -1).astype(np.float64)
        predictions = owners[((points[:, None] - flat) ** 2).sum(2).argmin(1)]
        labels = predictions.copy()
        labels[:2] = (labels[:2] + 1) % CLASSES
        write_images(root, images, labels)
        tensors = {"sites": places, "labels": owners.astype(np.int64), "before": places[:4]}
        (self.folder / "model.safetensors").write_bytes(save(tensors))
        for name, box in (("certificates", None), ("certificates_in_box", (0, 1)), ("certificates_before", None)):
            radii = [
                min(distance_to_cell(x, flat[owners == j], q, box) for q in flat[owners != j])
                for x, j in zip(points, predictions, strict=True)
            ]
            self.write_rows([[k, int(labels[k]), int(predictions[k]), r * (1 - spare)] for k, r in enumerate(radii)], name)
        forms = {form: {"vra_at": {"0.02": 0, "0.1": 0}} for form in ("before", "bisectors", "cells", "cells_in_box")}
        result = {"recipe": "sites/tiny", "seed": 0, "epsilon": 0.1, "forms": forms, "sites": len(places), "test_images": IMAGES}
        self.write_result(result | {"settings": {"data": "mnist", "epsilon": 0.1, "per_class": per_class}})
        self.rewrite()

    def rows(self, name="certificates"):
        lines = list(csv.reader(io.StringIO((self.folder / f"{name}.csv").read_text())))[1:]
        return [[int(i), int(y), int(j), float(r)] for i, y, j, r in lines]

    def write_rows(self, rows, name="certificates"):
        lines = ["index,label,prediction,radius", *(f"{i},{y},{j},{r!r}" for i, y, j, r in rows)]
        (self.folder / f"{name}.csv").write_text("\n".join(lines) + "\n")

    def rewrite(self):
        result = self.result()
        raw = self.root / "MNIST" / "raw"
        pixels, labels = (raw / "t10k-images-idx3-ubyte").read_bytes()[16:], (raw / "t10k-labels-idx1-ubyte").read_bytes()[8:]
        result["data_sha256"] = hashlib.sha256(pixels + b"".join(struct.pack("<q", y) for y in labels)).hexdigest()
        result["weights_sha256"] = hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()
        names = {"cells": "certificates", "cells_in_box": "certificates_in_box", "before": "certificates_before"}
        for form, name in names.items():
            rows = self.rows(name)
            shares = {e: sum(y == j and r > e for _, y, j, r in rows) / len(rows) for e in (-1.0, 0.02, 0.1)}
            curve = {"0.02": shares[0.02], "0.1": shares[0.1]}
            result["forms"][form] = {"test_accuracy": shares[-1.0], "test_vra": shares[0.1], "vra_at": curve}
        cells = result["forms"]["cells"]
        result |= {"test_accuracy": cells["test_accuracy"], "test_vra": cells["test_vra"]}
        result["test_vra_in_box"] = result["forms"]["cells_in_box"]["test_vra"]
        self.write_result(result)


@pytest.fixture(scope="module")
def made_sites(tmp_path_factory):
    return SiteRun(tmp_path_factory.mktemp("made_sites"))


@pytest.fixture
def site_case(made_sites, tmp_path):
    """A copy of it to tamper with."""
    copy = object.__new__(SiteRun)
    shutil.copytree(made_sites.root, tmp_path / "copy")
    copy.root, copy.folder = tmp_path / "copy", tmp_path / "copy" / "sites" / "tiny" / "seed-0"
    return copy


def test_a_correct_run_of_sites_is_accepted(made_sites):
    holds, said = made_sites.check()
    assert holds, said
    assert said.count("12 of 12 hold") == 2 and "within the box" in said and "not verified: the radii before training" in said
    box, free = ([row[3] for row in made_sites.rows(name)] for name in ("certificates_in_box", "certificates"))
    assert all(a >= b for a, b in zip(box, free, strict=True)) and sum(a > b + 1e-6 for a, b in zip(box, free, strict=True)) > 2


def test_a_run_of_sites_calls_its_data_set_so_or_so(site_case):
    result = site_case.result()
    result["settings"]["dataset"] = result["settings"].pop("data")
    site_case.write_result(result)
    holds, said = site_case.check()
    assert holds and "12 of mnist" in said, said
    result["settings"]["dataset"] = 3
    site_case.write_result(result)
    assert "settings.dataset: 3 is no text" in site_case.check()[1]


def test_a_label_without_sites_is_no_prediction():
    model = site_proofs.Sites(np.eye(2, dtype=np.float32), np.array([0, 2]))
    x, predictions = np.zeros((2, 2)), np.array([1, 0])
    assert site_proofs.prove(model, x, predictions, np.array([0.0, 0.0]), None)[0].tolist() == [False, True]


def test_radii_of_sites_at_the_truth_are_decided_exactly():
    """Bisectors through numbers that float64 holds: the radius is 1/4 and not a unit more."""
    model = site_proofs.Sites(np.float32([[0, 0.5, 0, 0], [1, 0.5, 0, 0]]), np.array([0, 1]))
    x = np.array([[0.25, 0.5, 0, 0]])
    for box in (None, (0, 1)):
        for radius, true in ((math.nextafter(0.25, 0), True), (math.nextafter(0.25, 1), False), (0.0, True)):
            proven, largest, exactly = site_proofs.prove(model, x, np.array([0]), np.array([radius]), box)
            assert proven.tolist() == [true] and largest[0] <= 0.25 and exactly == (radius > 0)
    tie = np.array([[0.5, 0.5, 0, 0]])
    for label in (0, 1):
        assert site_proofs.prove(model, tie, np.array([label]), np.array([0.0]), None)[0].all()
    assert not site_proofs.prove(model, x, np.array([1]), np.array([0.0]), None)[0].any()


def edit_site_row(name, column, change):
    def tamper(case):
        rows = case.rows(name)
        rows[5][column] = change(rows[5][column])
        case.write_rows(rows, name)
        case.rewrite()

    return tamper


def other_prediction(case):
    for name in ("certificates", "certificates_in_box"):
        rows = case.rows(name)
        rows[5][2:] = (rows[5][2] + 1) % CLASSES, 0.0
        case.write_rows(rows, name)
    case.rewrite()


def row_left_out(case):
    case.write_rows([[k, *row[1:]] for k, row in enumerate(case.rows()[:5] + case.rows()[6:])])
    case.rewrite()


def rows_swapped(case):
    rows = case.rows()
    rows[4], rows[5] = [4, *rows[5][1:]], [5, *rows[4][1:]]
    case.write_rows(rows)
    case.rewrite()


def site_moved(case):
    tensors = {name: tensor.copy() for name, tensor in case.tensors().items()}
    point = case.rows()[5]
    own = np.flatnonzero(tensors["labels"] != point[2])
    tensors["sites"][own] = tensors["sites"][own] * 0.9 + 0.05  # other labels' sites, moved towards the middle
    (case.folder / "model.safetensors").write_bytes(save(tensors))
    case.rewrite()


def site_changed_alone(case):
    tensors = {name: tensor.copy() for name, tensor in case.tensors().items()}
    tensors["sites"][0, 0, 0, 0] += np.float32(1e-6)
    (case.folder / "model.safetensors").write_bytes(save(tensors))


def site_label_changed(case):
    tensors = {name: tensor.copy() for name, tensor in case.tensors().items()}
    tensors["labels"][0] = (tensors["labels"][0] + 1) % CLASSES
    (case.folder / "model.safetensors").write_bytes(save(tensors))
    case.rewrite()


SITES_TAMPERED = {
    "a radius": (edit_site_row("certificates", 3, lambda r: r + 1e-6), r"certificates.csv, row 5: .* is not proven"),
    "a radius in the box": (edit_site_row("certificates_in_box", 3, lambda r: r + 1e-6), r"certificates_in_box.csv, row 5"),
    "a label": (edit_site_row("certificates", 1, lambda y: (y + 1) % CLASSES), r"certificates.csv, row 5: label"),
    "a label before": (edit_site_row("certificates_before", 1, lambda y: (y + 1) % CLASSES), r"certificates_before.csv, row 5"),
    "a prediction": (other_prediction, r"certificates.csv, row 5: prediction"),
    "a prediction in one": (edit_site_row("certificates_in_box", 2, lambda j: (j + 1) % CLASSES), r"_in_box.csv, row 5: pred"),
    "a row left out": (row_left_out, r"certificates.csv: 11 rows"),
    "rows swapped": (rows_swapped, r"certificates.csv, row [45]"),
    "a site": (site_changed_alone, r"result.json, weights_sha256"),
    "sites, covered up": (site_moved, r"certificates.csv, row \d+: .* is not proven"),
    "a site's label": (site_label_changed, r"certificates.csv, row \d+: .* is not proven"),
    "a pixel": (pixel, r"result.json, data_sha256"),
    "the VRA": (edit_result("test_vra", to=0.99), r"result.json, test_vra: 0.99 is claimed"),
    "the VRA twice": (
        lambda case: [edit_result(*path, to=0.99)(case) for path in (("test_vra",), ("forms", "cells", "test_vra"))],
        r"result.json, forms.cells, test_vra: 0.99 is claimed, the rows give",
    ),
    "a curve before": (edit_result("forms", "before", "vra_at", "0.1", to=0.99), r"result.json, forms.before, vra_at 0.1"),
    "figures that are none": (edit_result("forms", "cells", to=[0.99]), r"result.json, forms.cells: \[0.99\] is no table"),
    "the number of sites": (edit_result("sites", to=7), r"result.json, sites: 7 is claimed, 6 is true"),
    "the recipe": (edit_result("recipe", to="tiny"), r"result.json, recipe"),
    "no digest": (drop("weights_sha256"), r"result.json, weights_sha256: None"),
}


@pytest.mark.parametrize("name", SITES_TAMPERED)
def test_what_is_tampered_with_in_a_run_of_sites_is_refused_and_named(site_case, name):
    tamper, where = SITES_TAMPERED[name]
    tamper(site_case)
    holds, said = site_case.check()
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert not holds and any(re.search(where, line) for line in wrong), said


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=25)
def test_the_bound_on_a_cells_distance_is_below_it_and_close(seed, boxed):
    generator = np.random.default_rng(seed)
    places, owners = generator.random((6, 3)).astype(np.float32), np.array([0, 0, 0, 1, 1, 2])
    x, box = generator.random((1, 3)).astype(np.float32).astype(np.float64), (0, 1) if boxed else None
    flat = places.astype(np.float64)
    label = owners[((flat - x) ** 2).sum(1).argmin()]
    true = min(distance_to_cell(x[0], flat[owners == label], q, box) for q in flat[owners != label])
    model = site_proofs.Sites(places, owners)
    close = 1e-4 if boxed else 1e-9  # in the box the search is in single precision
    assert site_proofs.prove(model, x, np.array([label]), np.array([true * (1 - close)]), box)[0].all()
    assert not site_proofs.prove(model, x, np.array([label]), np.array([true * (1 + 1e-9)]), box)[0].any()


def test_many_discrepancies_are_counted_and_not_all_shown(case):
    case.write_rows([[i, y, j, r * 2] for i, y, j, r in case.rows()])
    holds, said = case.check()
    assert not holds and said.count("WRONG  certificates.csv, row") == run.SHOWN and "0 of 12 hold" in said


def test_the_safetensors_reader_sees_what_the_library_sees(case):
    data = (case.folder / "model.safetensors").read_bytes()
    seen, expected = reading.safetensors(data, "it"), load(data)
    assert seen.keys() == expected.keys() and all(np.array_equal(seen[name], expected[name]) for name in seen)


def test_cifar10_is_read_and_its_pickle_may_build_arrays_alone(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    batch = {b"data": images.reshape(5, -1), b"labels": [3, 0, 9, 1, 1]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, 4))
    x, y = reading.test_split("cifar10", tmp_path)
    assert np.array_equal(x, images) and y.tolist() == [3, 0, 9, 1, 1] and y.dtype == np.int64

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Harm(), b"labels": []}))
    with pytest.raises(reading.Unusable, match="mkdir"):
        reading.test_split("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()


def test_tiny_imagenet_is_read_as_the_package_reads_it(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(f"val_{k}.JPEG\tn0{1 + k}\t0\t0\t9\t9\n" for k in (1, 0)))
    generator = np.random.default_rng(0)
    for k, mode in enumerate(("RGB", "L")):  # some are greyscale
        shape = (64, 64, 3) if mode == "RGB" else (64, 64)
        image_module.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(folder / "val/images" / f"val_{k}.JPEG")
    images, labels = reading.test_split("tiny-imagenet", tmp_path)
    assert labels.tolist() == [1, 0] and images.shape == (2, 3, 64, 64)
    for k, image in enumerate(images):
        with image_module.open(folder / "val" / "images" / f"val_{k}.JPEG") as opened:
            assert np.array_equal(image.transpose(1, 2, 0), np.asarray(opened.convert("RGB")))
    (folder / "val" / "images" / "val_1.JPEG").write_bytes(b"cut")
    with pytest.raises(reading.Unusable, match="val_1"):
        reading.test_split("tiny-imagenet", tmp_path)


# The prover of norms.


def layer_of(weight, stride=0, shape=None):
    weight = np.float32(weight)
    if weight.ndim == 4:
        outputs = (len(weight), *((side + 2 - weight.shape[2]) // stride + 1 for side in shape[1:]))
        return network.Layer("0", weight, np.zeros(len(weight), np.float32), stride, shape, outputs)
    return network.Layer("0", weight, np.zeros(len(weight), np.float32), 0, weight.shape[1:], weight.shape[:1])


@st.composite
def convolutions(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inputs, outputs, kernel, stride = (draw(st.integers(1, top)) for top in (4, 6, 4, 3))
    shape = (inputs, *(draw(st.integers(max(3, kernel - 2), 8)) for _ in range(2)))
    weight = generator.normal(size=(outputs, inputs, kernel, kernel))
    if draw(st.booleans()):
        weight = np.abs(weight)
    return layer_of(weight * 10.0 ** draw(st.integers(-6, 6)), stride, shape)


@given(convolutions())
def test_a_convolutions_norm_is_proven_and_nothing_below_it(layer):
    true = spectral_norm(layer.weight, layer.stride, layer.inputs)
    assert norms.method(layer, true * (1 - 1e-9)) is None
    assert norms.method(layer, true * (1 + 1e-6)) == "banded Cholesky"
    assert true <= norms.smallest(layer, 1e-4) <= true * (1 + 2e-4)
    assert network.absolute_norm(layer) >= spectral_norm(np.abs(layer.weight), layer.stride, layer.inputs)


@given(convolutions())
def test_the_torus_bounds_every_convolution_and_proves_its_own_norm(layer):
    """Oracle: the unrolled circular convolution, from PyTorch's circular padding, read at every stride-th place."""
    stride, kernel = layer.stride, layer.weight.shape[2]
    sides = [-(-((side - 1) * stride + kernel) // stride) * stride for side in layer.outputs[1:]]
    basis = torch.eye(layer.inputs[0] * math.prod(sides), dtype=torch.float64).view(-1, layer.inputs[0], *sides)
    wrapped = basis.repeat(1, 1, 3, 3)[:, :, : sides[0] + kernel - 1, : sides[1] + kernel - 1]
    image = torch.nn.functional.conv2d(wrapped, torch.from_numpy(layer.weight).double(), stride=stride).flatten(1)
    circular, true = spectral_norm(image.numpy()), spectral_norm(layer.weight, stride, layer.inputs)
    assert circular >= true * (1 - 1e-12)
    assert not norms._torus(layer, circular * (1 - 1e-9))
    assert norms._torus(layer, circular * (1 + 1e-6))


def test_a_large_convolution_is_proven_by_the_torus_or_failing_that_by_a_band(monkeypatch):
    layer = layer_of(np.random.default_rng(0).normal(size=(4, 4, 3, 3)), 1, (4, 9, 9))
    monkeypatch.setattr(norms, "BANDED_LIMIT", 100)
    true = spectral_norm(layer.weight, 1, layer.inputs)
    assert norms.method(layer, true * 1.3) == "torus"
    assert norms.method(layer, true * (1 + 1e-6)) == "banded Cholesky"
    monkeypatch.setattr(norms, "BANDED_OPERATIONS", 1.0)
    assert norms.method(layer, true * (1 + 1e-6)) is None and norms.method(layer, true * (1 - 1e-9)) is None


@given(st.integers(1, 40), st.integers(1, 600), st.integers(0, 2**32 - 1), st.booleans())
def test_a_dense_layers_norm_is_proven_and_nothing_below_it(rows, columns, seed, orthogonal):
    weight = np.random.default_rng(seed).normal(size=(rows, columns))
    if orthogonal:  # all singular values alike: the matrix to factorise is all rounding
        u, _, v = np.linalg.svd(weight, full_matrices=False)
        weight = u @ v
    for layer in (layer_of(weight), layer_of(weight.T)):
        true = spectral_norm(layer.weight)
        assert norms.method(layer, true * (1 - 1e-9)) is None
        assert norms.method(layer, true * (1 + 1e-6)) == "Cholesky"


def test_a_factor_is_only_a_proposal(monkeypatch):
    """Whatever LAPACK answers, a claim below the norm is not proven."""
    layer = layer_of(np.random.default_rng(1).normal(size=(6, 3, 3, 3)), 1, (3, 5, 5))
    true = spectral_norm(layer.weight, 1, layer.inputs)
    cholesky = np.linalg.cholesky
    monkeypatch.setattr(np.linalg, "cholesky", lambda m: cholesky(m + 10 * np.eye(m.shape[-1])))
    assert norms.method(layer, true * 0.99) is None and not norms._torus(layer, true * 0.99)
    monkeypatch.setattr(np.linalg, "cholesky", cholesky)
    for junk in (0.0, math.nan, math.inf):
        monkeypatch.setattr(np.linalg, "solve", lambda a, b, junk=junk: np.full_like(b, junk))
        monkeypatch.setattr(np.linalg, "cholesky", lambda m, junk=junk: np.full_like(m, junk) if junk else cholesky(m))
        assert norms.method(layer, true * 0.99) is None and not norms._torus(layer, true * 0.99)
    monkeypatch.undo()
    assert norms.method(layer, true * 1.01)


def test_claims_that_are_no_bound_whatever_the_layer():
    layer = layer_of(np.ones((2, 3)))
    assert norms.method(layer, math.nan) is None and norms.method(layer, -10.0) is None and norms.method(layer, 0.0) is None
    zero = layer_of(np.zeros((2, 3)))
    assert norms.method(zero, 0.0) and norms.method(zero, 1.0) and norms.method(zero, -1.0) is None


# Both arithmetics.


@given(st.integers(0, 2**32 - 1), st.sampled_from(network.ACTIVATIONS), st.sampled_from([0, 20, 140]))
@settings(max_examples=12)
def test_exact_logits_are_those_of_fractions_and_float64_is_as_close_as_it_says(seed, activation, spread):
    """Weights of every size that float32 has, its subnormal numbers too."""
    widths = (4, 8, 8) if activation == "groupsort4" else (4, 6, 6)
    generator = np.random.default_rng(seed)
    layers = [
        ((w * 2.0 ** -generator.integers(0, spread + 1, w.shape)).astype(np.float32), b, stride)
        for w, b, stride in random_layers(seed, widths)
    ]
    plans = network.plan("c{}k3s2 c{}k4 | {}".format(*widths), activation, (1, SIDE, SIDE))
    tensors = {f"network.{p.name}.weight": layer[0] for p, layer in zip(plans, layers, strict=True)}
    tensors |= {f"network.{p.name}.bias": layer[1] for p, layer in zip(plans, layers, strict=True)}
    assembled, wrong = network.assemble(plans, tensors)
    assert not wrong
    images = random_images(seed, 2)[:, None].astype(np.float32) / np.float32(255)
    bounds = [spectral_norm(layer.weight, layer.stride, layer.inputs) * (1 + 1e-9) for layer in assembled[:-1]]
    y, deviation, local = network.Network(assembled, activation, bounds).logits(images)
    head = layers[-1][0].astype(np.float64)
    for k, image in enumerate(images):
        truth = by_fractions(layers, activation, image)
        assert exact.ExactNetwork(assembled, activation).logits(image) == truth
        for j in range(CLASSES):
            for i in range(CLASSES):
                error = abs(truth[j] - truth[i] - (Fraction(y[k, j]) - Fraction(y[k, i])))
                allowed = deviation[k] * np.linalg.norm(head[j] - head[i]) + local[k, j] + local[k, i]
                assert i == j or (error <= Fraction(allowed * (1 + 1e-12)) and allowed < 1e-11)


def test_a_run_that_pools_first_holds_and_one_with_a_larger_radius_does_not(tmp_path):
    generator = np.random.default_rng(5)
    images = generator.integers(0, 256, (6, 2 * SIDE, 2 * SIDE), dtype=np.uint8)
    pooled = Run(tmp_path, random_layers(5), f"p2 {NOTATION}", images, generator.integers(0, CLASSES, 6).astype(np.int64))
    holds, said = pooled.check(exact=3)
    assert holds and "6 of 6 hold" in said, said
    rows = pooled.rows()
    k = max(range(6), key=lambda k: rows[k][3])
    rows[k][3] *= 1 + 1e-6
    pooled.write_rows(rows)
    pooled.rewrite()
    holds, said = pooled.check(exact=0)
    assert not holds and f"certificates.csv, row {k}" in said


def test_pooling_first_is_exact_and_has_norm_one():
    """Against fractions on every grey value, and the unrolled operator's singular values."""
    grey = np.arange(256, dtype=np.uint8).astype(np.float32) / np.float32(255)
    images = np.random.default_rng(0).choice(grey, (40, 2, 6, 7))
    images[0], images[1] = grey[1], grey[255]
    small = network.pooled(images)
    for k, c, y, x in itertools.product(range(40), range(2), range(3), range(3)):
        window = images[k, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()
        assert Fraction(small[k, c, y, x]) == sum(map(Fraction, window.tolist())) / 2
    basis = network.pooled(np.eye(84, dtype=np.float32).reshape(84, 2, 6, 7)).reshape(84, -1)
    assert np.allclose(np.linalg.svd(basis, compute_uv=False), 1)


def test_a_pooled_network_has_the_layers_of_its_notation():
    plans = network.plan("p2 c4k3 c4k4s2 | 8", "minmax", (3, 8, 10))
    assert [p.name for p in plans] == ["1", "3", "6", "8"] and plans[0].inputs == (3, 4, 5) and plans[2].inputs == (4 * 2 * 2,)
    built = networks.build("p2 c4k3 c4k4s2 | 8", (3, 8, 10), 2)
    affine = [name for name, layer in built.named_children() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    assert affine == [p.name for p in plans]
    assert network.NAMED == networks.NETWORKS


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_scaled_integers_are_the_floats(values):
    array = np.array(values, np.float32)
    assert exact.Scaled.of(array).fractions() == [Fraction(float(v)) for v in array]


# The command.


def command(*arguments, images=None):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GLORO_DATA")}
    environment |= {"GLORO_DATA": str(images)} if images else {}
    line = [sys.executable, str(CHECKER.relative_to(ROOT)), *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_exit_codes(case, tmp_path):
    done = command(case.folder, images=case.root)
    assert done.returncode == 0 and "all of this holds" in done.stdout, done
    pixel(case)
    done = command(case.folder, "--images", case.root, "--exact", "0")
    assert done.returncode == 1 and "WRONG  result.json, data_sha256" in done.stdout and "NOT ALL" in done.stdout, done
    for arguments, said in [
        ([tmp_path / "nothing", "--images", case.root], "is no folder"),
        ([tmp_path, "--images", case.root], "holds no result.json"),
        ([case.folder, "--images", tmp_path / "nowhere"], "give the data root by --images or GLORO_DATA"),
        ([case.folder, "--limit", "0"], "--limit one from 1 up"),
        ([], "required: folder"),
    ]:
        done = command(*arguments)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done
    for key, value in (("format", 4), ("settings", {"sites": 100})):
        result = case.result()
        (case.folder / "result.json").write_text(json.dumps(result | {key: value}))
        done = command(case.folder, images=case.root)
        assert (done.returncode == 2 and "knows" in done.stderr) or "know" in done.stderr, done
        case.write_result(result)


def test_it_needs_nothing_but_numpy_and_the_standard_library(case):
    code = """
import runpy, sys
ALLOWED = sys.stdlib_module_names | {"numpy", "exact", "local", "network", "norms", "reading", "run", "sites", "__main__"}
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Only())
sys.argv = ["checker", *sys.argv[1:]]
runpy.run_path("data/checker", run_name="__main__")
"""
    line = [sys.executable, "-c", code, str(case.folder), "--images", str(case.root)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "all of this holds" in done.stdout, done.stderr
    done = subprocess.run(
        [*line[:2], code.replace("runpy.run_path", "import torch; runpy.run_path"), *line[3:]], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 1


def data_root():
    return Path(os.environ.get("GLORO_DATA") or ROOT / "data" / "root")


@pytest.mark.data
@pytest.mark.skipif(not (data_root() / "MNIST" / "raw" / "t10k-images-idx3-ubyte").is_file(), reason="MNIST is not there")
def test_the_command_of_the_readme():
    (line,) = re.findall(r"^    python (data/checker .+)$", (ROOT / "data" / "README.md").read_text(), re.M)
    done = command(*shlex.split(line)[1:], "--limit", "200", images=data_root())
    assert done.returncode == 0 and "only the first 200 of 10000" in done.stdout, done
