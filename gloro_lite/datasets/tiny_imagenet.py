"""Tiny-ImageNet, from its published zip or from the folder that the zip unpacks to. Needs torchvision, Pillow and tqdm.

The published test set has no labels; as in the paper, the published validation set is the test set here.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from gloro_lite.datasets.published import DataError, check_md5, fetch, torchvision_datasets
from gloro_lite.progress import is_watched

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
"""Of the zip, as published."""

BY_HAND = f"put {URL} (MD5 {MD5}), or the folder that it unpacks to, into the data root"
"""For those whose download fails."""

FOLDER = "tiny-imagenet-200"
SHA256 = "cc584e9cdf7d430604659b40ac4289d96ee22874cfedd19267d8fef82f23e5f7"
"""Of the unpacked files, by `_Files.digest`; of those that the project's results are of, since the publisher gives none."""

SIZE = 64
"""Height and width of an image, in pixels."""

_AGAIN = (
    f"put the published zip ({URL}, MD5 {MD5}) beside the folder, and it is read instead, or delete the folder and run again "
    f"with network access, which downloads the zip"
)


class _Files:
    """The published files, in the zip or unpacked, each named by its path within the folder, with "/"."""

    def __init__(self, place: Path, names: set[str], read: Callable[[str], bytes]):
        self.place, self.names = place, names
        self._read = read
        self._digests: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """The bytes of a file; safe to call from several threads."""
        if name not in self.names:
            raise DataError(f"{self.place / name} is missing: {_AGAIN}")
        content = self._read(name)
        self._digests[name] = hashlib.sha256(content).digest()
        return content

    def digest(self) -> str:
        """The SHA-256 of the SHA-256s of all files that were read, in the order of their names."""
        return hashlib.sha256(b"".join(self._digests[name] for name in sorted(self._digests))).hexdigest()


def read(
    root: Path, order: Tensor, *, classes: int, test: int, download: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Decode the training set, in this order, and the test set. Classes are numbered in the order of `wnids.txt`.

    Args:
        root: the data root.
        order: (n,) a permutation of the published training set, which goes class by class.
        classes: how many there are, each with its share of the images.
        test: how many test images there are.
        download: fetch the zip if neither it nor the folder is there.

    Returns: twice images (n, 3, 64, 64) uint8 and labels (n,) int64.

    Raises DataError where images are missing, truncated, altered or cannot be fetched.
    """
    archive, folder = root / URL.rpartition("/")[2], root / FOLDER
    utils = torchvision_datasets().utils
    if download and not folder.is_dir() and not utils.check_integrity(archive, MD5):
        fetch("Tiny-ImageNet", root, lambda: utils.download_url(URL, root, md5=MD5), BY_HAND)
    if archive.exists():
        check_md5(archive, MD5)
        # Read in place: unpacking would only add 120,000 small files.
        with zipfile.ZipFile(archive) as opened:
            names = {name.removeprefix(f"{FOLDER}/") for name in opened.namelist()}
            return _decode(_Files(archive, names, lambda name: opened.read(f"{FOLDER}/{name}")), order, classes, test)
    if not folder.is_dir():
        raise DataError(
            f"neither {archive.name} nor {FOLDER} is in {root}: give the data root that holds one of them, by --data or "
            f"GLORO_DATA; or allow the download; or {BY_HAND}"
        )
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    names = {path.relative_to(folder).as_posix() for path in paths}
    files = _Files(folder, names, lambda name: (folder / name).read_bytes())
    splits = _decode(files, order, classes, test)
    if files.digest() != SHA256:
        raise DataError(f"a file in {folder} is altered: the SHA-256 of all is {files.digest()}, {SHA256} is expected: {_AGAIN}")
    return splits


def _decode(files: _Files, order: Tensor, classes: int, test: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    count = len(order)
    wnids = files.read("wnids.txt").decode(errors="replace").split()
    if len(wnids) != classes or len(set(wnids)) != classes:
        raise DataError(f"{files.place / 'wnids.txt'} names {len(set(wnids))} classes, {classes} are expected: {_AGAIN}")
    train_names = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in wnids for i in range(count // classes)]
    train_y = torch.arange(classes).repeat_interleave(count // classes)
    test_names = [f"val/images/val_{i}.JPEG" for i in range(test)]
    test_y = _test_labels(files, wnids, test_names)
    _check_names(files, "train", train_names)
    _check_names(files, "val", test_names)
    # One tensor, of which the splits are parts: a second copy would be another gigabyte.
    x = _images(files, [*(train_names[i] for i in order.tolist()), *test_names])
    return (x[:count], train_y[order]), (x[count:], test_y)


def _check_names(files: _Files, part: str, expected: list[str]) -> None:
    found = {name for name in files.names if name.startswith(f"{part}/") and name.endswith(".JPEG")}
    if different := sorted(found.symmetric_difference(expected)):
        state = "is none of them" if different[0] in found else "is missing"
        raise DataError(
            f"{files.place / part} holds {len(found)} images where the {len(expected)} published ones are expected; "
            f"{different[0]} {state}: {_AGAIN}"
        )


def _test_labels(files: _Files, wnids: list[str], names: list[str]) -> Tensor:
    """The labels (n,) of the test images, from lines of name, class and box."""
    lines = files.read("val/val_annotations.txt").decode(errors="replace").splitlines()
    classes = {f"val/images/{name}": wnid for name, wnid, *_ in (line.split("\t") for line in lines if "\t" in line)}
    each = len(names) // len(wnids)
    if classes.keys() != set(names) or Counter(classes.values()) != dict.fromkeys(wnids, each):
        raise DataError(
            f"{files.place / 'val' / 'val_annotations.txt'} is truncated or altered: it has {len(lines)} lines where "
            f"{len(names)} are expected, {each} for each class in wnids.txt: {_AGAIN}"
        )
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    return torch.tensor([numbers[classes[name]] for name in names])


def _images(files: _Files, names: list[str]) -> Tensor:
    """The images of these names, (n, 3, 64, 64) uint8."""
    import numpy
    from PIL import Image
    from tqdm.auto import tqdm

    x = torch.empty(len(names), 3, SIZE, SIZE, dtype=torch.uint8)
    pixels = x.numpy()

    def decode(rows: range) -> int:
        for row in rows:
            content = files.read(names[row])
            try:
                with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                    colours = numpy.asarray(image.convert("RGB"))  # some are greyscale
            except (OSError, ValueError, SyntaxError) as error:  # whichever Pillow finds fit
                raise DataError(f"{files.place / names[row]} is truncated or altered ({error}): {_AGAIN}") from error
            if colours.shape != (SIZE, SIZE, 3):
                height, width = colours.shape[:2]
                raise DataError(f"{files.place / names[row]} is {width} x {height}, {SIZE} x {SIZE} are expected: {_AGAIN}")
            pixels[row] = colours.transpose(2, 0, 1)
        return len(rows)

    chunks = [range(start, min(start + 250, len(names))) for start in range(0, len(names), 250)]
    shown = {"desc": "decoding Tiny-ImageNet", "unit": "image", "disable": not is_watched()}
    with ThreadPoolExecutor() as pool, tqdm(total=len(names), **shown) as bar:
        for count in pool.map(decode, chunks):
            bar.update(count)
    return x
