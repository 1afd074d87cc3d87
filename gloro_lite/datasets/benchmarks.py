"""The benchmark images, MNIST, CIFAR-10 and Tiny-ImageNet, read from a data root. Needs torchvision, Pillow and tqdm.

The root is an argument, else the environment variable `GLORO_DATA`, else `data/root` of the checkout or of the working folder.
What is missing there is downloaded and compared with its published checksum. The decoded images are kept in the root, in
`gloro-lite/<dataset>.pt`, which later calls map into memory; while it is there, the published files are not read again.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gloro_lite.datasets import cache, published, tiny_imagenet
from gloro_lite.datasets.published import DataError
from gloro_lite.files import checkout, expanded


class Info(NamedTuple):
    """What is known of a benchmark before it is loaded: its images' shape, its classes, and the images in each split."""

    shape: tuple[int, int, int]
    """Channels, height and width."""
    classes: int
    train: int
    """Images of the published training set that are trained on."""
    validation: int
    """Images of the published training set that are held out to choose by, the same ones for every run."""
    test: int


INFO = {
    "mnist": Info((1, 28, 28), classes=10, train=55000, validation=5000, test=10000),
    "cifar10": Info((3, 32, 32), classes=10, train=45000, validation=5000, test=10000),
    "tiny-imagenet": Info((3, 64, 64), classes=200, train=90000, validation=10000, test=10000),
}
"""Every benchmark, by the name that `load` takes."""

_SPLIT_SEED = 2021


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
    """Where the images lie: `root`, else `$GLORO_DATA`, else `data/root` of the checkout or the working folder."""
    usual = (checkout() or Path()) / "data" / "root"
    return expanded(root or os.environ.get("GLORO_DATA") or usual)


def load(dataset: str, root: str | Path | None = None, *, download: bool = True) -> Benchmark:
    """Load a benchmark, whole, as uint8.

    The first call decodes the published files, which takes from a second (MNIST) to about a minute (Tiny-ImageNet), and leaves a
    cache. Later calls map the cache into memory. Where it cannot be written, there is a warning, and each call decodes.

    Args:
        dataset: a key of `INFO`. The test set of "tiny-imagenet" is its published validation set, as in the paper.
        root: see `data_root`.
        download: fetch what is missing.

    Raises ValueError for another name, and DataError where the published files are missing, truncated, altered or cannot be
    fetched.
    """
    if dataset not in INFO:
        raise ValueError(f"dataset must be one of {', '.join(INFO)}; not {dataset!r}")
    root, info = data_root(root), INFO[dataset]
    path = root / "gloro-lite" / f"{dataset}.pt"
    key = {"format": 1, "dataset": dataset, "split_seed": _SPLIT_SEED, **info._asdict()}
    tensors = cache.load(path, key)
    if tensors is None:
        try:
            tensors = _read(dataset, root, download)
        except OSError as error:
            raise DataError(f"{dataset} cannot be read from {root} ({error}): see that its files there are readable") from error
        try:
            cache.save(path, key, tensors)
        except OSError as error:
            warnings.warn(f"{dataset} is loaded, but not kept decoded for the next time: {error}", stacklevel=2)
        else:
            tensors = cache.load(path, key) or tensors  # mapped, so that the decoded copy's memory is free again
    x, y, held_out = tensors["train_x"], tensors["train_y"], info.validation
    return Benchmark(
        train=Images(x[held_out:], y[held_out:]),
        validation=Images(x[:held_out], y[:held_out]),
        test=Images(tensors["test_x"], tensors["test_y"]),
    )


def _read(dataset: str, root: Path, download: bool) -> dict[str, Tensor]:
    """The published images, in the order in which the validation split comes first: the splits are then slices, not copies."""
    info = INFO[dataset]
    order = torch.randperm(info.train + info.validation, generator=torch.Generator().manual_seed(_SPLIT_SEED))
    if dataset == "tiny-imagenet":
        train, test = tiny_imagenet.read(root, order, classes=info.classes, test=info.test, download=download)
    else:
        reader = {"mnist": published.mnist, "cifar10": published.cifar10}[dataset]
        train, test = reader(root, order, download=download)
    return {"train_x": train[0], "train_y": train[1], "test_x": test[0], "test_y": test[1]}
