"""Files as they lie on disk: JSON, safetensors, the table of certificates, the test sets of MNIST, CIFAR-10 and Tiny-ImageNet.

Everything here is strict: what a reader could take in two ways is an error, so that no two programs see two different runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import struct
from pathlib import Path

import numpy as np

_FLOAT = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?|inf")
_INTEGER = re.compile(r"\d{1,18}", re.ASCII)


class Unusable(Exception):
    """The checker was called in a way that it can say nothing about: no such folder, no images, an unknown kind of run."""


class Malformed(Exception):
    """A file of the run is not what it should be; says which file and where."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Malformed(f"{path.name}: cannot be read ({error.strerror})") from error


def _no_twins(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return dict(pairs)


def _no_constant(text):
    raise ValueError(f"{text} is no JSON")


def parse_json(data: bytes, what: str) -> dict:
    """A JSON object without repeated keys and without NaN. Raises Malformed."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what}: {error}") from error
    if not isinstance(value, dict):
        raise Malformed(f"{what}: not a JSON object")
    return value


_TYPES = {"F32": "<f4", "I64": "<i8"}


def safetensors(data: bytes, what: str, types: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: a length (8 bytes, little-endian), that many bytes of JSON, the tensors.

    They are float32, but for those whose name has another of the types F32 and I64 in `types`. Raises Malformed, also where
    bytes belong to two tensors or to none.
    """
    if len(data) < 8:
        raise Malformed(f"{what}: shorter than its header")
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise Malformed(f"{what}: shorter than its header")
    header = parse_json(data[8 : 8 + length], f"{what}, header")
    header.pop("__metadata__", None)
    body, spans, tensors = memoryview(data)[8 + length :], [], {}
    for name, entry in header.items():
        try:
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = [*shape, start, stop]
        except (TypeError, KeyError, ValueError) as error:
            raise Malformed(f"{what}: {name} has no dtype, shape or place") from error
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise Malformed(f"{what}: {name} has the shape {shape} at {[start, stop]}")
        expected = (types or {}).get(name, "F32")
        if dtype != expected:
            raise Malformed(f"{what}: {name} is {dtype}, not {expected}")
        form = np.dtype(_TYPES[expected])
        if stop - start != form.itemsize * math.prod(shape) or stop > len(body):
            raise Malformed(f"{what}: {name} of the shape {shape} does not fit into its {stop - start} bytes")
        spans.append((start, stop))
        tensors[name] = np.frombuffer(body[start:stop], form).reshape(shape)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            owners = "two tensors" if start < end else "none"
            raise Malformed(f"{what}: bytes {min(start, end)} to {max(start, end)} belong to {owners}")
        end = stop
    if end != len(body):
        raise Malformed(f"{what}: bytes {end} to {len(body)} belong to none")
    return tensors


def _rows(data: bytes, columns: str, what: str) -> list[str]:
    """The lines of a table behind the one that names its columns. Raises Malformed."""
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise Malformed(f"{what}: byte {error.start} is not ASCII") from error
    if lines[0] != columns:
        raise Malformed(f"{what}: the first line is {lines[0]!r}, not the names of the columns")
    if lines[-1] != "":
        raise Malformed(f"{what}: the last line has no end")
    return lines[1:-1]


def certificates(data: bytes, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns label, prediction (int64) and radius (float64) of `certificates.csv`; row k is image k. Raises Malformed."""
    labels, predictions, radii = [], [], []
    for index, line in enumerate(_rows(data, "index,label,prediction,radius", what)):
        cells = line.split(",")
        if len(cells) != 4 or not all(_INTEGER.fullmatch(cell) for cell in cells[:3]):
            raise Malformed(f"{what}, row {index}: {line!r} is not an index, a label, a prediction and a radius")
        if int(cells[0]) != index:
            raise Malformed(f"{what}, row {index}: its index is {cells[0]}; a row is left out, repeated or out of place")
        if not _FLOAT.fullmatch(cells[3]):
            raise Malformed(f"{what}, row {index}: the radius {cells[3]!r} is not a number from 0 to inf")
        labels.append(int(cells[1]))
        predictions.append(int(cells[2]))
        radii.append(float(cells[3]))
    return np.array(labels, np.int64), np.array(predictions, np.int64), np.array(radii, np.float64)


def local_certificates(data: bytes, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The columns index and label (int64) of `local_certificates.csv`, a row for each image that it names. Raises Malformed."""
    indices, labels = [], []
    for row, line in enumerate(_rows(data, "index,label", what)):
        cells = line.split(",")
        if len(cells) != 2 or not all(_INTEGER.fullmatch(cell) for cell in cells):
            raise Malformed(f"{what}, row {row}: {line!r} is not an index and a label")
        if indices and int(cells[0]) <= indices[-1]:
            raise Malformed(f"{what}, row {row}: index {cells[0]} comes after {indices[-1]}; a row is repeated or out of place")
        indices.append(int(cells[0]))
        labels.append(int(cells[1]))
    return np.array(indices, np.int64), np.array(labels, np.int64)


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of uint8: 0, 0, 8, the number of dimensions, their sizes (4 bytes each, big-endian), the bytes."""
    data = path.read_bytes()
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, 8, dimensions)):
        raise Unusable(f"{path} is not an idx file of uint8 with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise Unusable(f"{path} should hold {shape} bytes after its header, and holds {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


class _ArraysOnly(pickle.Unpickler):
    """CIFAR-10's batches are pickles of lists, strings and one array of bytes; nothing else may be built from one."""

    def find_class(self, module, name):
        if (module.replace("numpy._core", "numpy.core"), name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            return getattr(np, name) if module == "numpy" else np._core.multiarray._reconstruct
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _cifar10(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as file:
        try:
            batch = _ArraysOnly(file, encoding="bytes").load()
            images, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unusable(f"{path} is not a batch of CIFAR-10: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072 or labels.dtype.kind != "i":
        raise Unusable(f"{path} is not a batch of CIFAR-10: its images are {images.dtype} {images.shape}")
    return images.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def _tiny_imagenet(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The published validation set, which is the test set here: val_0.JPEG, val_1.JPEG, ..., classes as wnids.txt has them."""
    try:
        from PIL import Image
    except ImportError:
        raise Unusable("Tiny-ImageNet's images are JPEG files: `pip install pillow` to have them read") from None
    numbers = {wnid: number for number, wnid in enumerate((folder / "wnids.txt").read_text().split())}
    rows = [line.split("\t") for line in (folder / "val" / "val_annotations.txt").read_text().splitlines()]
    classes = {row[0]: row[1] for row in rows if len(row) > 1}
    images, labels = np.empty((len(classes), 3, 64, 64), np.uint8), np.empty(len(classes), np.int64)
    for k in range(len(classes)):
        path = folder / "val" / "images" / f"val_{k}.JPEG"
        try:
            labels[k] = numbers[classes[path.name]]
            with Image.open(path, formats=["JPEG"]) as image:
                images[k] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        except FileNotFoundError:
            raise
        except (KeyError, OSError, ValueError, SyntaxError) as error:  # whichever Pillow finds fit
            raise Unusable(f"{path}, or what is said of it, is not as published: {error!r}") from error
    return images, labels


def test_split(dataset: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The test images (n, channels, height, width) uint8 and labels (n,) int64 under a data root. Raises Unusable."""
    try:
        if dataset == "mnist":
            folder = root / "MNIST" / "raw"
            images, labels = _idx(folder / "t10k-images-idx3-ubyte", 3)[:, None], _idx(folder / "t10k-labels-idx1-ubyte", 1)
        elif dataset == "cifar10":
            images, labels = _cifar10(root / "cifar-10-batches-py" / "test_batch")
        elif dataset == "tiny-imagenet":
            images, labels = _tiny_imagenet(root / "tiny-imagenet-200")
        else:
            raise Unusable(f"the images of {dataset!r} cannot be read here: only mnist, cifar10 and tiny-imagenet can")
    except OSError as error:
        raise Unusable(f"{error.filename}: {error.strerror}; give the data root by --images or GLORO_DATA") from error
    if len(images) != len(labels) or not len(images):
        raise Unusable(f"{root}: {len(images)} images of {dataset} and {len(labels)} labels")
    return np.ascontiguousarray(images), labels.astype(np.int64)


def data_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 over the images' bytes in NCHW order, then the labels as int64, little-endian."""
    return sha256(images.tobytes() + labels.astype("<i8").tobytes())
