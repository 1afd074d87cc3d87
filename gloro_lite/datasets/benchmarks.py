"""The benchmark images: MNIST and CIFAR-10, read through torchvision from a data root. Needs torchvision.

The root is an argument, the environment variable `GLORO_DATA`, or `data/root`. What is missing there is downloaded, with its
checksum compared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

VALIDATION = {"mnist": 5000, "cifar10": 5000}
"""Images of the training set that are held out to choose by, the same ones for every run."""

_VALIDATION_SEED = 2021


class DataError(RuntimeError):
    """Benchmark data that is missing, damaged, or cannot be downloaded or written; says what to do."""


class Images(NamedTuple):
    """Images (n, channels, height, width) uint8 and labels (n,) int64. Divided by 255, they are in the units of epsilon."""

    x: Tensor
    y: Tensor


class Benchmark(NamedTuple):
    """The three splits of a benchmark; the test set is for one look at the end."""

    train: Images
    validation: Images
    test: Images


def data_root(root: str | Path | None = None) -> Path:
    """Where the images lie: `root`, else `$GLORO_DATA`, else `data/root`."""
    return Path(root or os.environ.get("GLORO_DATA") or "data/root")


def _import_datasets():
    """torchvision.datasets, also where torchvision was built for another torch.

    Importing torchvision declares metadata for its compiled operators `nms` and `qnms`; where its library cannot be loaded (the
    CUDA build beside a CPU torch) that fails, although reading data sets needs neither. Declaring the two is enough.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError("reading benchmark images needs torchvision: pip install 'gloro-lite[train]'") from error
    except RuntimeError:
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        global _operators  # torch forgets the operators with the object that declared them
        _operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import datasets
    return datasets


def _is_there(dataset: str, root: Path) -> bool:
    return (root / {"mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py"}[dataset]).is_dir()


def load(dataset: str, root: str | Path | None = None, *, download: bool = True) -> Benchmark:
    """Load "mnist" or "cifar10", whole, as uint8.

    Args:
        root: see `data_root`.
        download: fetch what is missing.

    Raises ValueError for another name, and DataError where the files are missing, damaged or cannot be fetched.
    """
    if dataset not in VALIDATION:
        raise ValueError(f"dataset must be one of {', '.join(VALIDATION)}; not {dataset!r}")
    root = data_root(root)
    if not download and not _is_there(dataset, root):
        raise DataError(f"{dataset} is not in {root}: set GLORO_DATA to the folder that holds it, or allow the download")
    kind = {"mnist": "MNIST", "cifar10": "CIFAR10"}[dataset]
    reader = getattr(_import_datasets(), kind)
    try:
        parts = [reader(root, train=train, download=download and not _is_there(dataset, root)) for train in (True, False)]
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{kind} cannot be read from {root} ({error}). Delete its folder there and run again with network access, which "
            f"downloads it anew, or set GLORO_DATA to a folder that holds it"
        ) from error
    train, test = (_tensors(part) for part in parts)
    for images, expected in ((train, {"mnist": 60000, "cifar10": 50000}[dataset]), (test, 10000)):
        if len(images.x) != expected or len(images.y) != expected:
            raise DataError(
                f"{kind} in {root} holds {len(images.x)} images where {expected} are expected: delete it and run again"
            )
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(_VALIDATION_SEED))
    held_out, rest = order[: VALIDATION[dataset]], order[VALIDATION[dataset] :]
    return Benchmark(Images(train.x[rest], train.y[rest]), Images(train.x[held_out], train.y[held_out]), test)


def _tensors(part) -> Images:
    x = torch.as_tensor(part.data)
    x = x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2)
    return Images(x.contiguous(), torch.as_tensor(part.targets).long())
