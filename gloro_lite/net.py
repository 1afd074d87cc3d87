"""The GloRo Net: a classifier with a bottom class, and its certificates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gloro_lite.bottom import BOTTOM, bottom_logit, certified_radius, check_epsilon, margin_constants
from gloro_lite.lipschitz.certified import upper_bound
from gloro_lite.lipschitz.compose import check_deterministic, expression
from gloro_lite.lipschitz.power import TrainingBound
from gloro_lite.precision import full_precision


class Certificate(NamedTuple):
    """What `GloroNet.certify` proves of each input of a batch.

    Attributes:
        label: (batch,) int64, the class that every point within epsilon has, or -1 (bottom) where that is not proven.
        radius: (batch,) float64, the l2 radius within which the prediction is proven not to change; 0 where there is none.
        prediction: (batch,) int64, the class with the largest logit, certified or not.
    """

    label: Tensor
    radius: Tensor
    prediction: Tensor


def _flatten(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """The layers of nested nn.Sequential in order, with their dotted names."""
    if not isinstance(module, nn.Sequential):
        return [(name, module)]
    return [layer for key, child in module._modules.items() for layer in _flatten(child, f"{name}.{key}" if name else key)]


class GloroNet(nn.Module):
    """A classifier f with the bottom class of globally-robust networks (Section 2.2 of the paper).

    Called, it returns the logits and the bottom logit: in training mode with the training bound (power iteration, an
    estimate), in eval mode with the certified bound. `certify` always uses the certified bound.

    Args:
        network: nn.Sequential (nested or not) that ends in the nn.Linear that gives the logits.
        input_shape: the shape of one input, without the batch dimension.
        epsilon: the l2 radius to be robust at, in input units.
        tight: K_ij = ||w_j - w_i|| K for each pair of classes; False for the paper's K_i + K_j.
        iterations: power iterations for each training step.

    Raises:
        UnknownLayerError: a layer without a Lipschitz bound.
        ValueError: epsilon not positive and finite, a network that does not end in a Linear layer of two or more classes, an
            input shape that the network does not take.
    """

    def __init__(
        self,
        network: nn.Sequential,
        input_shape: tuple[int, ...],
        epsilon: float,
        *,
        tight: bool = True,
        iterations: int = 1,
    ):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Sequential that ends in a Linear layer, not {type(network).__name__}")
        layers = _flatten(network)
        if not layers or not isinstance(layers[-1][1], nn.Linear):
            last = type(layers[-1][1]).__name__ if layers else "nothing"
            raise ValueError(f"the network must end in the nn.Linear layer that gives the logits; it ends in {last}")
        if layers[-1][1].out_features < 2:
            raise ValueError("the network has one class: a GloRo Net needs at least two logits")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations}")
        self.input_shape = tuple(int(side) for side in input_shape)
        expression(network, self.input_shape)  # every layer has a bound and takes its input's shape
        self.network = network
        self.epsilon = epsilon
        self.tight = tight
        self.iterations = iterations
        self.training_bound = TrainingBound(self._body(), self.input_shape)
        self._certified: tuple[list[Tensor], str, Tensor] | None = None
        self.converge()

    @property
    def epsilon(self) -> float:
        """The l2 radius of the bottom class, in input units. Setting it to what is not finite and positive is a ValueError."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        self._epsilon = check_epsilon(value)

    @property
    def body(self) -> list[tuple[str, nn.Module]]:
        """The layers before the last, in order, with their dotted names."""
        return _flatten(self.network)[:-1]

    @property
    def head(self) -> nn.Linear:
        """The last layer, which gives the logits."""
        return _flatten(self.network)[-1][1]

    @property
    def classes(self) -> int:
        """The number of classes, bottom not counted."""
        return self.head.out_features

    def _body(self) -> nn.Sequential:
        body = nn.Sequential()
        for name, layer in self.body:
            body.add_module(name.replace(".", "_"), layer)
        return body

    def converge(self) -> float:
        """Converge the power iteration of the training bound; returns the body's estimate. Call it when weights have jumped."""
        return self.training_bound.converge()

    def estimate(self) -> Tensor:
        """The table of margin constants by the training bound, (classes, classes), differentiable. It certifies nothing."""
        body = self.training_bound(self.iterations)
        with full_precision(self.head.weight.device):
            return margin_constants(self.head.weight, body, tight=self.tight)

    def margin_constants(self) -> Tensor:
        """The certified table of margin constants K_ij, (classes, classes) float64: true upper bounds.

        Computed when first asked for and kept until a weight changes (by comparison with a copy: no change goes unseen).
        """
        state = [*self.network.parameters(), *self.network.buffers()]
        structure = repr(self.network)
        if self._certified is not None:
            copies, old_structure, table = self._certified
            if old_structure == structure and len(copies) == len(state) and all(map(_same, copies, state)):
                return table
        check_deterministic(self.network)
        with torch.no_grad():
            body = upper_bound(self._body(), self.input_shape)
            head = self.head.weight.detach().to("cpu", torch.float64)
            if not all(tensor.isfinite().all() for tensor in state if tensor.is_floating_point()):
                raise ValueError("the network holds NaN or infinite weights: no certificate can be given")
            # A sum of `features` squares, its root and the product are rounded by less than this.
            up = 1 + (head.shape[1] + 8) * 2.0**-52
            table = (margin_constants(head, body, tight=self.tight) * up).to(_float64_device(self.head.weight.device))
        self._certified = ([tensor.detach().clone() for tensor in state], structure, table)
        return table

    def logits(self, x: Tensor) -> Tensor:
        """The logits, (batch, classes), of x, ``(batch, *input_shape)``."""
        self._check_shape(x)
        return self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        """The logits and, last, the bottom logit: (batch, classes + 1), of x, ``(batch, *input_shape)``."""
        logits = self.logits(x)
        constants = self.estimate() if self.training else self.margin_constants()
        bottom = bottom_logit(logits, constants.to(logits), self.epsilon)
        return torch.cat((logits, bottom[:, None]), dim=1)

    @torch.no_grad()
    def certify(self, x: Tensor, epsilon: float | None = None) -> Certificate:
        """Certify each input of a batch: one forward pass, and a comparison with the certified bound (Theorem 1).

        The logits are computed in the network's precision, and the rounding of that forward pass is not accounted for yet;
        everything after it is rounded to the safe side.

        Args:
            x: ``(batch, *input_shape)``, float32 or float64, finite.
            epsilon: l2 radius, the net's own by default.

        Raises ValueError for inputs or weights that are not finite, a wrong shape, an epsilon that is not finite and positive,
        and a network whose batch norm or dropout is in training mode; TypeError for inputs of another type.
        """
        epsilon = self.epsilon if epsilon is None else check_epsilon(epsilon)
        self._check_shape(x)
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"inputs must be float32 or float64, in the units of epsilon (images in [0, 1]); got {x.dtype}")
        if x.dtype != self.head.weight.dtype:
            raise TypeError(f"inputs are {x.dtype} and the network's weights {self.head.weight.dtype}: convert one of them")
        # A sum is finite only if all its terms are, and far cheaper than a look at each; where it overflows, each is looked at.
        if not x.sum().isfinite() and not x.isfinite().all():
            row = int((~x.isfinite()).flatten(1).any(dim=1).nonzero()[0])
            raise ValueError(f"input {row} of the batch holds NaN or infinite values: it cannot be certified")
        check_deterministic(self.network)
        constants = self.margin_constants()
        with full_precision(x.device):
            logits = self.network(x)
        radius = certified_radius(logits.to(constants.device), constants).to(constants.device)
        prediction = logits.argmax(dim=1).to(constants.device)
        # Strict: at radius = epsilon some point at distance epsilon may tie.
        return Certificate(prediction.where(radius > epsilon, BOTTOM), radius, prediction)

    def _check_shape(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.input_shape or x.dim() != len(self.input_shape) + 1:
            hint = "; add a batch dimension with x[None]" if tuple(x.shape) == self.input_shape else ""
            raise ValueError(
                f"inputs must have shape (batch, {', '.join(map(str, self.input_shape))}), not {tuple(x.shape)}{hint}"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def _float64_device(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
