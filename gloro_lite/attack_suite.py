"""Attacks of the Adversarial Robustness Toolbox: PGD as the paper runs it (Section 5.1), and its AutoAttack.

What they return is not taken on trust: a point counts only if its distance, recomputed in float64, is within the radius, and if
it has another label there. `gloro_lite.attacks.pgd` is the attack to read; these are the ones to compare with.

Needs the extra `attacks`: adversarial-robustness-toolbox, and packaging and multiprocess, which it imports and does not declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gloro_lite import extras
from gloro_lite.evaluate import check_labels
from gloro_lite.lipschitz.checks import is_count
from gloro_lite.net import check_logits


class _Module(nn.Module):
    """A function of inputs as the module that the toolbox asks for."""

    def __init__(self, logits: Callable[[Tensor], Tensor]):
        super().__init__()
        self._logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self._logits(x)


def _estimator(logits: Callable[[Tensor], Tensor], x: Tensor, bounds: tuple[float, float]) -> Any:
    """The classifier as the toolbox wants it. Raises ImportError, with the extra to install, where it is missing."""
    check_logits(logits)
    with extras.needed("attack_suite", "attacks"):
        from art.estimators.classification import PyTorchClassifier
    with torch.no_grad():
        classes = logits(x[:1]).shape[1]
    return PyTorchClassifier(
        _Module(logits),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=bounds,
        device_type="cpu" if x.device.type == "cpu" else "gpu",
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The toolbox draws from the global states of numpy and torch: seed them, and put them back."""
    import numpy as np

    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


def _check(x: Tensor, labels: Tensor, radius: float, bounds: tuple[float, float], **counts: int) -> None:
    for name, count in counts.items():
        if not is_count(count):
            raise ValueError(f"{name} must be at least 1, not {count!r}")
    if not 0 < radius < torch.inf:
        raise ValueError(f"radius must be a finite number greater than 0, not {radius}")
    if not len(x):
        raise ValueError("there are no inputs to attack")
    check_labels(labels, len(x))
    if not (bounds[0] <= x.min() and x.max() <= bounds[1]):
        raise ValueError(f"the inputs leave the bounds {bounds} that the attack would respect")


def distances(x: Tensor, points: Tensor) -> Tensor:
    """The l2 distance of each point from its input, rounded up, (batch,) float64."""
    difference = (points.double() - x.double()).flatten(1)
    return difference.square().sum(dim=1).sqrt() * (1 + (difference.shape[1] + 4) * 2.0**-53)


def pull_inside(x: Tensor, points: Tensor, radius: float) -> Tensor:
    """Points that are at most `radius` from their inputs, by `distances`: those outside are moved towards the input."""
    inside = points.clone()
    shrink = 1e-6  # rounding moves a point by about as much
    while (far := distances(x, inside) > radius).any():
        lengths = distances(x[far], points[far])
        scale = ((1 - min(shrink, 1.0)) * radius / lengths).view(-1, *(1,) * (x.dim() - 1))
        shrink *= 2
        moved = x[far].double() + scale * (points[far].double() - x[far].double())
        inside[far] = moved.to(points.dtype)
    return inside


def successes(logits: Callable[[Tensor], Tensor], x: Tensor, points: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Whether each point lies within the radius, exactly, and has another label there, (batch,) bool."""
    with torch.no_grad():
        other = logits(points).argmax(dim=1) != labels
    return other & (distances(x, points) <= radius)


def pgd(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    radius: float,
    *,
    steps: int = 100,
    restarts: int = 1,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 256,
    seed: int = 0,
) -> Tensor:
    """The toolbox's l2 PGD on the cross-entropy, with steps of 2.5 radius / steps, within the radius and the bounds.

    Args:
        logits: maps (batch, ...) to (batch, classes); not the outputs with bottom.
        x, labels: (batch, ...) within the bounds, (batch,).
        restarts: 1 starts at x; more start at as many random points of the ball.

    Returns: (batch, ...), one point for each input, within the radius: see `successes` for those that count.

    Raises ImportError where the toolbox is missing, ValueError for a radius that is not positive and finite, no inputs or
    some outside the bounds, labels that are no classes, and counts less than 1.
    """
    _check(x, labels, radius, bounds, steps=steps, restarts=restarts, batch_size=batch_size)
    estimator = _estimator(logits, x, bounds)
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    attack = ProjectedGradientDescentPyTorch(
        estimator,
        norm=2,
        eps=radius,
        eps_step=2.5 * radius / steps,
        max_iter=steps,
        num_random_init=restarts if restarts > 1 else 0,
        batch_size=batch_size,
        verbose=False,
    )
    return _run(attack, x, labels, radius, seed)


def auto_attack(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Tensor,
    radius: float,
    *,
    queries: int = 5000,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 256,
    seed: int = 0,
) -> Tensor:
    """The toolbox's AutoAttack in l2: APGD on two losses, DeepFool and the Square attack, each on what is still unbroken.

    It is the toolbox's own selection (the original's third attack is FAB). Inputs are images,
    ``(batch, channels, height, width)``, of three classes or more; it takes minutes for hundreds of them.

    Args:
        queries: of the Square attack, the slowest part, for each input.

    Other arguments, result and errors as in `pgd`.
    """
    _check(x, labels, radius, bounds, queries=queries, batch_size=batch_size)
    estimator = _estimator(logits, x, bounds)
    from art.attacks.evasion import AutoAttack

    attack = AutoAttack(estimator, norm=2, eps=radius, eps_step=radius / 10, batch_size=batch_size)
    for part in attack.attacks:
        part.set_params(verbose=False)
    attack.attacks[-1].set_params(max_iter=queries)
    return _run(attack, x, labels, radius, seed)


def _run(attack: Any, x: Tensor, labels: Tensor, radius: float, seed: int) -> Tensor:
    import numpy as np

    check_labels(labels, len(x), attack.estimator.nb_classes)
    one_hot = nn.functional.one_hot(labels.long(), attack.estimator.nb_classes)
    with _seeded(seed):
        points = attack.generate(x.detach().cpu().numpy().astype(np.float32), y=one_hot.cpu().numpy())
    return pull_inside(x, torch.from_numpy(points).to(x), radius)
