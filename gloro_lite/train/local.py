"""The local bound of the last layers in the loss: to train for what `gloro_lite.methods.last_layers` certifies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gloro_lite.methods.last_layers import COMPARED, Tail, last_types

_RIVALS = 3
"""How many rivals of a class have a local bound, those nearest to bottom by the global one; it is enough for the others."""


class WithHidden(nn.Module):
    """A network that returns, beside its logits, what its last activation reads.

    Raises ValueError as `gloro_lite.methods.last_layers.last_types` does.
    """

    def __init__(self, network: nn.Sequential):
        super().__init__()
        self._activation = last_types(list(network)[-3:])[1]
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, ...) to the logits and the last activation's inputs, (batch, classes) and (batch, outputs)."""
        hidden = self.network[:-2](x)
        return self.network[-2:](hidden), hidden

    def constants(self, logits: Tensor, hidden: Tensor, table: Tensor, epsilon: float, norms: list[Tensor]) -> LocalConstants:
        """What stands for `table` for these inputs.

        Args:
            logits, hidden: what `forward` has returned.
            table: (classes, classes), the margin constants by the global bound.
            epsilon: the l2 radius within which the inputs move.
            norms: of the linear layers before the last, in order; empty where all are 1.
        """
        layer, _, head = list(self.network)[-3:]
        bias = layer.weight.new_zeros(())  # both biases are in `logits` and `hidden`
        tail = Tail(layer.weight, bias, self._activation, head.weight, bias)
        *before, last = norms or [1.0]
        return LocalConstants(tail, last, logits, hidden, table, epsilon, epsilon * math.prod(before))


class LocalConstants:
    """Margin constants of each input of a batch: ``constants[classes]`` takes the place of the same rows of a table.

    While an input moves by up to epsilon, y_j - y_i falls by no more than epsilon times the constant of (j, i), by the formula of
    `gloro_lite.methods.last_layers`, in the precision of the tensors and without counting its rounding: to learn with, no proof.

    Args:
        tail: the last layers, with any biases. norm: of its hidden layer.
        logits, hidden, table, epsilon: see `WithHidden.constants`. reach: how far what the hidden layer reads moves.
    """

    def __init__(
        self,
        tail: Tail,
        norm: float | Tensor,
        logits: Tensor,
        hidden: Tensor,
        table: Tensor,
        epsilon: float,
        reach: float | Tensor,
    ):
        self._tail, self._logits, self._table, self._epsilon = tail, logits, table, epsilon
        self._reach, self._square = reach, COMPARED[tail.activation] * norm**2
        self._values = tail.units(hidden.mT).mT
        # All that is asked of the rows of the hidden layer is how they multiply with each other.
        rows = torch.cat((tail.units(tail.weight), tail.means(tail.weight)))
        self._gram = rows @ rows.mT

    def __getitem__(self, classes: Tensor) -> Tensor:
        """The constants of a class of each input, (batch,), against every rival: (batch, classes), differentiable."""
        known = self._table[classes]
        raised = (self._logits + self._epsilon * known).scatter(1, classes[:, None], -torch.inf)
        rivals = raised.topk(min(_RIVALS, raised.shape[1] - 1), dim=1).indices
        rows = self._tail.head[classes][:, None] - self._tail.head[rivals]
        local = self._fall(rows.flatten(0, 1), self._values.repeat_interleave(rivals.shape[1], dim=0)).view(rivals.shape)
        return known.scatter(1, rivals, torch.minimum(local / self._epsilon, known.gather(1, rivals)))

    def _fall(self, rows: Tensor, t: Tensor) -> Tensor:
        """How far rows . outputs falls at most, with t the values that absolute values are taken of: two of (pairs, ...)."""
        tiny, units = torch.finfo(t.dtype).tiny, t.shape[1]
        linear, e = self._tail.coefficients(rows)
        lengths = self._gram.diagonal()[:units].clamp_min(tiny).sqrt()
        v = (t.abs() / (self._reach * lengths)).clamp(max=1).where(e < 0, 1.0)
        h = -e * (1 - v)
        gradient = torch.cat((e * v * t.sign(), linear), dim=1)  # c, in terms of those rows
        products = gradient @ self._gram
        turning = products[:, :units].abs()
        square = (products * gradient).sum(dim=1) + 2 * (h * turning).sum(dim=1) + self._square * h.square().sum(dim=1)
        return self._reach * square.clamp_min(tiny).sqrt()
