"""What is reported of a net on a data set: accuracy, verified-robust accuracy, and the certified radii."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gloro_lite.certificate import BOTTOM, Certificate
from gloro_lite.net import GloroNet


class Report(NamedTuple):
    """Fractions of the data set, by the certified bound.

    Attributes:
        accuracy: predicted rightly.
        vra: predicted rightly and certified at epsilon: verified-robust accuracy.
        rejected: given bottom.
        radius: the median certified radius, in input units, where a wrong prediction counts as 0.
        epsilon: the l2 radius of `vra` and `rejected`.
        lipschitz: the largest certified margin constant K_ij.
    """

    accuracy: float
    vra: float
    rejected: float
    radius: float
    epsilon: float
    lipschitz: float


def certify(net: GloroNet, x: Tensor, epsilon: float | None = None, batch_size: int = 1000) -> Certificate:
    """`net.certify` in batches, for data sets too large for one."""
    parts = [net.certify(part, epsilon) for part in x.split(batch_size)]
    return Certificate(*(torch.cat(column) for column in zip(*parts, strict=True)))


def evaluate(net: GloroNet, x: Tensor, y: Tensor, epsilon: float | None = None) -> Report:
    """Certify x, ``(n, *net.input_shape)``, and compare with the labels y, (n,)."""
    c = certify(net, x, epsilon)
    y = y.to(c.label.device)
    right = c.prediction == y
    return Report(
        accuracy=right.double().mean().item(),
        vra=(c.label == y).double().mean().item(),
        rejected=(c.label == BOTTOM).double().mean().item(),
        radius=c.radius.where(right, 0.0).median().item(),
        epsilon=net.epsilon if epsilon is None else epsilon,
        lipschitz=net.margin_constants().max().item(),
    )


def vra_curve(certificate: Certificate, y: Tensor, epsilons: Tensor) -> Tensor:
    """Verified-robust accuracy at each of `epsilons`, (k,): the net need not be run again, its radii are enough."""
    verified = certificate.radius.where(certificate.prediction == y.to(certificate.radius.device), 0.0)
    return (verified[None, :] > epsilons.to(verified)[:, None]).double().mean(dim=1)
