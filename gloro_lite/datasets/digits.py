"""The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn [Alpaydin and Kaynak 1998]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gloro_lite import extras

INPUT_SHAPE = (1, 8, 8)


class Split(NamedTuple):
    """Images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) int64 in 0..9."""

    x: Tensor
    y: Tensor


class Digits(NamedTuple):
    """The three splits: 1,197 images to train on, 200 to choose by, 400 to report on once."""

    train: Split
    validation: Split
    test: Split


def load(seed: int = 0) -> Digits:
    """Load the digits, shuffled into splits by `seed`. Needs scikit-learn."""
    with extras.needed("the digits' data set", "book"):
        from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x = (torch.from_numpy(images).float() / 16).view(-1, *INPUT_SHAPE)[order]
    y = torch.from_numpy(labels).long()[order]
    return Digits(Split(x[600:], y[600:]), Split(x[:200], y[:200]), Split(x[200:600], y[200:600]))
