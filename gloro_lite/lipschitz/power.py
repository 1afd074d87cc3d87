"""The training bound: power iteration with iterates that persist from step to step. An estimate from below; no certificate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_lite.lipschitz.compose import expression
from gloro_lite.lipschitz.operators import LinearOperator, Shape
from gloro_lite.precision import full_precision


def _start(operator: LinearOperator, seed: int) -> Tensor:
    """A random unit vector of the operator's input shape, ``(1, *input_shape)``, float64, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(1, *operator.input_shape, generator=generator, dtype=torch.float64)
    return v / v.norm()


def _step(operator: LinearOperator, v: Tensor) -> Tensor:
    """One power iteration of A^T A, normalised. A vector in the kernel of A stays as it is."""
    u = operator.adjoint(operator.forward(v))
    length = u.norm()
    return torch.where(length > 0, u / length, v)


def power_iteration(
    operator: LinearOperator, iterations: int = 100, *, start: Tensor | None = None, seed: int = 0
) -> tuple[float, Tensor]:
    """Estimate the l2 norm of a linear operator from below by power iteration on A^T A.

    Args:
        operator: see `gloro_lite.lipschitz.linear_operator`.
        iterations: number of applications of A^T A, at least 1.
        start: ``(1, *input_shape)``, the iterate to go on from; random, from `seed`, in float64 by default.

    Returns: the estimate ||A v||, and v, ``(1, *input_shape)``, of length 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations}")
    with torch.no_grad():
        v = _start(operator, seed) if start is None else start
        for _ in range(iterations):
            v = _step(operator, v)
        return operator.forward(v).norm().item(), v


class TrainingBound(nn.Module):
    """An estimate of the Lipschitz constant of a stack of layers, differentiable in their weights.

    Each linear operator keeps its iterate v in a buffer. A call makes a few power iterations without gradient and returns the
    product over layers of sigma = ||A v|| with v fixed, through which the gradient flows to the weights.

    Args:
        layers: the module to bound; it is read and not owned: its parameters are not registered here.
        input_shape: of one input, without the batch dimension.
    """

    def __init__(self, layers: nn.Module, input_shape: Shape):
        super().__init__()
        self._expression, _ = expression(layers, input_shape)
        self._slots: dict[str, str] = {}
        self._expression.bound(self._register_iterate)

    def _register_iterate(self, name: str, operator: LinearOperator) -> float:
        slot = f"iterate_{len(self._slots)}"
        self._slots[name] = slot
        like = next(iter(operator.weights()), torch.empty(0))
        self.register_buffer(slot, _start(operator, seed=len(self._slots)).to(like))
        return 1.0

    def forward(self, iterations: int = 1) -> Tensor | float:
        """Advance every iterate by `iterations` power iterations and return the estimate (scalar, with gradient)."""
        return self._expression.bound(lambda name, operator: self._sigma(name, operator, iterations))

    def norms(self, iterations: int = 1) -> dict[str, Tensor]:
        """The same, layer by layer: the estimated norm of each linear operator (scalar, with gradient) by its layer's name."""
        norms = {}

        def sigma(name: str, operator: LinearOperator) -> float:
            norms[name] = self._sigma(name, operator, iterations)
            return 1.0

        self._expression.bound(sigma)
        return norms

    def _sigma(self, name: str, operator: LinearOperator, iterations: int) -> Tensor:
        iterate = getattr(self, self._slots[name])
        with full_precision(iterate.device):
            with torch.no_grad():
                v = iterate
                for _ in range(iterations):
                    v = _step(operator, v)
                iterate.copy_(v)
            # A clone, as the buffer moves again before autograd has used it.
            return operator.forward(iterate.clone()).norm()

    @torch.no_grad()
    def converge(self, tolerance: float = 1e-4, limit: int = 1000) -> float:
        """Iterate until ten iterations change the estimate by less than `tolerance` (relative); returns it."""
        previous = float(self.forward(10))
        for _ in range(limit // 10):
            estimate = float(self.forward(10))
            if abs(estimate - previous) <= tolerance * abs(estimate):
                break
            previous = estimate
        return estimate
