"""Training on the spectral sphere: every layer of the body keeps norm 1, so that only the last layer's rows carry a scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gloro_lite.net import GloroNet


def body_weights(net: GloroNet) -> list[Tensor]:
    """The weights of the linear layers before the last, in order: what the sphere holds and Muon moves."""
    return [layer.weight for _, layer in net.body if isinstance(layer, nn.Conv2d | nn.Linear)]


class SpectralSphere:
    """Keeps each linear layer of a net's body on the sphere of weights whose operator norm is 1.

    Before a step the weights are divided by their norm sigma (power iteration at the true input size), so that the body's
    Lipschitz constant is 1, but for the iteration's error, and drops out of the loss. After the backward pass, with G the loss's
    gradient, the gradient of each weight becomes G - <G, W> dsigma/dW: that of the loss as a function of W / sigma(W) where
    sigma is 1, which is orthogonal to W. The net stays an ordinary one, and there is nothing to fold in at the end.

    Args:
        net: its body must hold linear layers and 1-Lipschitz ones, each used once.
    """

    def __init__(self, net: GloroNet):
        self._bound = net.training_bound
        self._iterations = net.power_iterations
        self.weights = body_weights(net)
        self._slopes: list[Tensor] = []
        if not self.weights:
            raise ValueError("the spectral sphere needs a layer with weights before the last one")
        with torch.no_grad():
            norms = [float(norm) for norm in self._bound.norms().values()]
            whole = float(self._bound())
        if len(norms) != len(self.weights) or abs(whole / math.prod(norms) - 1) > 0.01:
            raise ValueError("the spectral sphere is for bodies of convolutions and dense layers in sequence, without Normalize")

    def retract(self) -> None:
        """Divide each weight by its norm after a power iteration, and keep dsigma/dW for `project`."""
        norms = list(self._bound.norms(self._iterations).values())
        # Taken before the division, which changes sigma but not dsigma/dW.
        self._slopes = list(torch.autograd.grad(norms, self.weights))
        with torch.no_grad():
            for weight, norm in zip(self.weights, norms, strict=True):
                weight.div_(norm)

    def converge(self) -> None:
        """Converge the power iteration, then put every weight on the sphere."""
        self._bound.converge()
        self.retract()

    @torch.no_grad()
    def project(self) -> None:
        """Take the radial part out of the gradients."""
        for weight, slope in zip(self.weights, self._slopes, strict=True):
            assert weight.grad is not None
            weight.grad.sub_(slope * (weight.grad * weight).sum())
