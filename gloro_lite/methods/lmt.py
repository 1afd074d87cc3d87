"""Lipschitz-margin training [Tsuzuku, Sato, Sugiyama 2018], the closest relative of GloRo Nets (Section 6 of the paper).

With K a Lipschitz constant of the whole network, from l2 to l2, each margin y_j - y_i is sqrt(2) K-Lipschitz, as
||e_j - e_i|| = sqrt(2). Training adds sqrt(2) K epsilon to every logit but the true class's; an input is certified where the
margin is larger than that.

GloRo's table of margin constants says the same of a network whose last layer is the identity: rows e_j, and a body that is the
whole network. So LMT's certificate needs no code of its own: `net` puts an identity behind the network. Seen in this way, GloRo's
constants ||w_j - w_i|| K_body can only be smaller: ||w_j - w_i|| = ||W^T (e_j - e_i)|| <= sqrt(2) ||W||.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite.certificate import check_epsilon
from gloro_lite.fit import growing_epsilon, minimise
from gloro_lite.net import GloroNet, check_net


def net(network: nn.Sequential, input_shape: tuple[int, ...], epsilon: float, *, power_iterations: int = 1) -> GloroNet:
    """A GloRo Net whose margin constants are LMT's, sqrt(2) K for each pair: `network` before a fixed identity.

    Args:
        network: ends in the nn.Linear that gives the logits.
        input_shape, epsilon, power_iterations: see `GloroNet`.

    Raises what `GloroNet` raises.
    """
    if not isinstance(network, nn.Sequential) or not len(network) or not isinstance(network[-1], nn.Linear):
        raise ValueError("the network must be an nn.Sequential that ends in the nn.Linear layer that gives the logits")
    last = network[-1]
    if isinstance(last, nn.modules.lazy.LazyModuleMixin):
        raise ValueError("the last layer has no shape yet: run the network on one batch first")
    identity = nn.Linear(last.out_features, last.out_features, bias=False).to(last.weight)
    with torch.no_grad():
        nn.init.eye_(identity.weight)
    identity.requires_grad_(False)
    return GloroNet(nn.Sequential(network, identity), input_shape, epsilon, power_iterations=power_iterations)


def loss(logits: Tensor, labels: Tensor, constants: Tensor, epsilon: float | Tensor) -> Tensor:
    """Cross-entropy after adding epsilon K_yi to each logit y_i but the true class's, a scalar mean over the batch.

    Args:
        logits: (batch, classes).
        labels: (batch,).
        constants: (classes, classes), with zeros on the diagonal; LMT's own are sqrt(2) K elsewhere.
        epsilon: the training epsilon, in input units.
    """
    return F.cross_entropy(logits + epsilon * constants[labels], labels)


def fit(
    net: GloroNet,
    train: tuple[Tensor, Tensor],
    *,
    epochs: int = 50,
    train_epsilon: float | None = None,
    learning_rate: float = 5e-3,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Train with LMT's loss, by Adam, a warm-up and cosine rate and an epsilon that grows as in `gloro_lite.fit.fit`.

    Args:
        net: from this module's `net`.
        train: inputs ``(n, *net.input_shape)`` and labels (n,).
        train_epsilon: the epsilon that training ends with; the net's own by default.
        learning_rate: peak learning rate.
        progress: show it, as `gloro_lite.progress` does.

    Returns: the mean loss of each epoch. Raises TypeError for what is no GloRo Net, ValueError as `gloro_lite.fit.minimise` does.
    """
    check_net(net)
    goal = check_epsilon(net.epsilon if train_epsilon is None else train_epsilon)
    epoch_losses = minimise(
        lambda x, y, done, _: loss(net.logits(x), y, net.estimate(), goal * growing_epsilon(done)),
        net,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        classes=net.classes,
        before_epoch=net.converge,
        progress=progress,
    )
    return list(epoch_losses)
