"""What is reported of a net on a data set: accuracy, verified-robust accuracy, and the certified radii."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gloro_lite.certificate import BOTTOM, Certificate, Guarantee, check_epsilon, joined
from gloro_lite.lipschitz.checks import check_batch, check_tensor, is_count
from gloro_lite.net import GloroNet, State, check_net

EPSILON_FRACTIONS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Verified-robust accuracy is also recorded at these multiples of a run's epsilon."""


class Report(NamedTuple):
    """Fractions of the data set, by the certified bound.

    Attributes:
        accuracy: predicted correctly.
        vra: predicted correctly and certified at epsilon: verified-robust accuracy.
        rejected: given bottom.
        median_radius: the median certified radius, in input units, where a wrong prediction counts as 0; of an even number of
            radii the lower of the two in the middle.
        epsilon: the l2 radius of `vra` and `rejected`.
        lipschitz: the largest certified margin constant K_ij.
    """

    accuracy: float
    vra: float
    rejected: float
    median_radius: float
    epsilon: float
    lipschitz: float


def certify(
    net: GloroNet,
    x: Tensor,
    epsilon: float | None = None,
    batch_size: int = 1000,
    *,
    guarantee: Guarantee = "exact",
    state: State | None = None,
) -> Certificate:
    """`net.certify` in batches, for data sets too large for one; all by one state of the net, `net.state()` by default.

    Raises ValueError for images in 0..255 too: with epsilon in the units of images in [0, 1], most would seem robust.
    """
    check_net(net)
    if state is None:
        check_batch(x, net.input_shape)
    check_images(x)
    if not is_count(batch_size):
        raise ValueError(f"batch_size is a number of inputs, at least 1, not {batch_size!r}")
    state = state or net.state()
    parts = [net.certify(part, epsilon, guarantee=guarantee, state=state) for part in x.split(batch_size)]
    return joined(parts)


def evaluate(net: GloroNet, x: Tensor, y: Tensor, epsilon: float | None = None) -> Report:
    """Certify x, ``(n, *net.input_shape)``, and compare with the labels y, (n,).

    Raises ValueError for no inputs, labels that are no classes of the net, and what `certify` and `net.certify` raise; TypeError
    for what is no GloRo Net.
    """
    check_net(net)
    epsilon = net.epsilon if epsilon is None else check_epsilon(epsilon)
    check_batch(x, net.input_shape)
    if not len(x):
        raise ValueError("there is nothing to evaluate: x has no inputs")
    check_labels(y, len(x), net.classes)
    state = net.state()
    c = certify(net, x, epsilon, state=state)
    y = y.to(c.label.device)
    correct = c.prediction == y
    return Report(
        accuracy=correct.double().mean().item(),
        vra=(c.label == y).double().mean().item(),
        rejected=(c.label == BOTTOM).double().mean().item(),
        median_radius=c.radius.where(correct, 0.0).median().item(),
        epsilon=epsilon,
        lipschitz=state.head.table.max().item(),
    )


def vra_curve(certificate: Certificate, y: Tensor, epsilons: Tensor) -> Tensor:
    """Verified-robust accuracy at each of `epsilons`, (k,): the net need not be run again, its radii are enough.

    Raises ValueError for no inputs, labels (n,) that do not fit and epsilons that are not finite or negative.
    """
    check_labels(y, len(certificate.prediction))
    if not len(y):
        raise ValueError("there is nothing to evaluate: the certificate is of no inputs")
    real = isinstance(epsilons, Tensor) and not epsilons.is_complex() and epsilons.dtype != torch.bool
    if not real or epsilons.dim() != 1 or not (epsilons.isfinite() & (epsilons >= 0)).all():
        raise ValueError("epsilons must be a tensor (k,) of finite radii, none negative")
    verified = certificate.radius.where(certificate.prediction == y.to(certificate.radius.device), 0.0)
    return (verified[None, :] > epsilons.to(verified)[:, None]).double().mean(dim=1)


def figures(certificate: Certificate, y: Tensor, epsilon: float) -> dict[str, Any]:
    """What the record of a run says of its test set, labels y (n,): accuracy, verified-robust accuracy at the certificate's
    epsilon, and at each of `EPSILON_FRACTIONS` of it, to six decimals; fractions."""
    # The radii as they are written down: a reader counts the rows again by what the record says.
    epsilons = [round(fraction * epsilon, 6) for fraction in EPSILON_FRACTIONS]
    curve = vra_curve(certificate, y, torch.tensor(epsilons, dtype=torch.float64)).tolist()
    return {
        "test_accuracy": (certificate.prediction == y).double().mean().item(),
        "test_vra": (certificate.label == y).double().mean().item(),
        "vra_at": {repr(e): vra for e, vra in zip(epsilons, curve, strict=True)},
    }


def check_labels(y: Tensor, count: int, classes: int | None = None) -> None:
    """Raise ValueError unless y holds `count` labels, (count,) of an integer type, from 0 on, less than `classes`.

    Labels of -1 would agree with bottom, and labels (n, 1) with all predictions of the batch. TypeError for what is no tensor.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"labels must be a torch.Tensor, not {type(y).__name__}: torch.as_tensor(y) makes one")
    if y.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise ValueError(f"labels must be integers, not {y.dtype}")
    if y.device.type == "meta" or y.layout != torch.strided:
        raise ValueError(f"labels must be dense and hold values; these have layout {y.layout} on device {y.device}")
    if y.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each input, not {tuple(y.shape)}")
    if count and (y.min() < 0 or (classes is not None and y.max() >= classes)):
        last = "up" if classes is None else f"to {classes - 1}"
        raise ValueError(f"labels must be classes, from 0 {last}; they go from {y.min().item()} to {y.max().item()}")


def check_images(x: Tensor) -> None:
    """Raise ValueError for images that look like bytes and not like numbers in [0, 1].

    So look images (n, channels, height, width) beyond 16, or of whole numbers beyond 1; and other inputs of 64 numbers or more,
    that may be images without channels or in a row, of whole numbers up to between 128 and 255.
    """
    check_tensor(x)
    if not x.numel() or (largest := x.max()) <= 1:
        return
    whole = (x == x.floor()).all()
    if (largest > 16 or whole) if x.dim() == 4 else (whole and 128 <= largest <= 255 and x[0].numel() >= 64):
        raise ValueError(
            f"images go up to {largest.item():g}: divide them by 255, as epsilon is in the units of images in [0, 1] "
            "(normalisation belongs in the network, as gloro_lite.Normalize)"
        )
