"""The training bound: power iteration with iterates that persist from step to step. An estimate from below; no certificate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gloro_lite.lipschitz.checks import check_shape, is_count, settings
from gloro_lite.lipschitz.nodes import Affine, Bound, Node, Shape
from gloro_lite.lipschitz.walk import registered, walk
from gloro_lite.precision import full_precision


def _start(operator: Affine, seed: int) -> Tensor:
    """A random unit vector of the operator's input shape, ``(1, *input_shape)``, float64, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(1, *operator.input_shape, generator=generator, dtype=torch.float64, device="cpu")
    return v / v.norm()


def _step(operator: Affine, v: Tensor) -> Tensor:
    """One power iteration of A^T A, normalised. A vector in the kernel of A stays as it is, and any where A has no values."""
    image = operator.forward(v)
    u = operator.adjoint(image / _size(image))
    u = u / _size(u)
    length = u.norm()
    return torch.where(length > 0, u / length, v)  # not where it is NaN, from which no iterate would ever come back


def _size(x: Tensor) -> Tensor:
    """The largest absolute value of x, without gradient, to scale by: squares then neither overflow nor underflow."""
    return x.detach().abs().amax().clamp_min(torch.finfo(x.dtype).tiny)


def _length(x: Tensor) -> Tensor:
    """The l2 length of x, with gradient, also where its square would not be finite or not be above 0."""
    size = _size(x)
    return (x / size).norm() * size


def power_iteration(
    operator: Affine, iterations: int = 100, *, start: Tensor | None = None, seed: int = 0
) -> tuple[float, Tensor]:
    """Estimate the l2 norm of a linear operator from below by power iteration on A^T A.

    Args:
        operator: see `gloro_lite.lipschitz.linear_operator`.
        iterations: number of applications of A^T A, at least 1.
        start: ``(1, *input_shape)``, the iterate to go on from; random, from `seed`, in float64 by default.

    Returns: the estimate ||A v||, and v, ``(1, *input_shape)``, of length 1.
    """
    if not isinstance(operator, Affine):
        raise TypeError(f"an operator is needed, not {operator!r}: linear_operator gives None for a layer that is not affine")
    if not is_count(iterations):
        raise ValueError(f"iterations must be at least 1, not {iterations!r}")
    if start is not None and tuple(start.shape) != (1, *operator.input_shape):
        raise ValueError(f"start must have shape {(1, *operator.input_shape)}, not {tuple(start.shape)}")
    with torch.no_grad():
        v = _start(operator, seed) if start is None else start
        for _ in range(iterations):
            v = _step(operator, v)
        return _length(operator.forward(v)).item(), v


class _Estimated:
    """The numbers of a training step: see `nodes.Norms`. Notes each estimate by its layer's name."""

    def __init__(self, sigma: Callable[[int, Affine], Tensor]):
        self._sigma = sigma
        self.norms: dict[str, Tensor] = {}

    def operator(self, node: Affine) -> Tensor:
        norm = self._sigma(len(self.norms), node)
        self.norms[node.name] = norm
        return norm

    def constant(self, value: Bound) -> Bound:
        return value


class TrainingBound(nn.Module):
    """An estimate of the Lipschitz constant of a stack of layers, differentiable in their weights.

    Each linear operator keeps its iterate v in a buffer. A call makes a few power iterations without gradient and returns the
    product over layers of sigma = ||A v|| with v fixed, through which the gradient flows to the weights. Layers that were
    replaced since the call before are found again.

    Args:
        layers: the module to bound, or its layers in order with their dotted names; they are read and not owned: their
            parameters are not registered here.
        input_shape: of one input, without the batch dimension.
    """

    def __init__(self, layers: nn.Module | list[tuple[str, nn.Module]], input_shape: Shape):
        super().__init__()
        self._layers, self._shape = layers, check_shape(input_shape)
        self.follow(layers, input_shape)

    def follow(self, layers: nn.Module | list[tuple[str, nn.Module]], input_shape: Shape) -> None:
        """Take these layers from now on. An iterate whose place and shape are as before is kept."""
        self._layers, self._shape = layers, check_shape(input_shape)
        named = [("", layers)] if isinstance(layers, nn.Module) else layers
        modules = [module for _, layer in named for module in layer.modules()]
        configured = (settings(module)[0] for module in modules)
        key = [self._shape, *(name for name, _ in named), *map(registered, modules), *configured, *modules]
        # By identity: modules that are equal may still be different ones, with weights of their own.
        known = self.__dict__.get("_key", [])
        if len(key) == len(known) and all(
            a is b or (not isinstance(a, nn.Module) and a == b) for a, b in zip(key, known, strict=True)
        ):
            return
        nodes: list[Node] = []
        for name, layer in named:
            nodes.append(walk(layer, nodes[-1].output_shape if nodes else self._shape, name, trained=True))
        # Lists of modules, in the instance's own dictionary: nn.Module would register a module as its own.
        self.__dict__["_key"], self.__dict__["_nodes"] = key, nodes
        self._bound(_Estimated(self._register_iterate))

    def __getstate__(self) -> dict:
        # A copy walks its own layers, whatever became of these.
        return {name: value for name, value in self.__dict__.items() if name not in ("_key", "_nodes")}

    def _bound(self, norms: _Estimated) -> Bound:
        return math.prod((node.bound(norms) for node in self._nodes), start=1.0)

    def _register_iterate(self, place: int, node: Affine) -> Tensor:
        like = next(iter(node.weights()), torch.empty(0, device="cpu"))
        slot = f"iterate_{place}"
        old = self._buffers.get(slot)
        if old is None or tuple(old.shape[1:]) != node.input_shape:
            with torch.inference_mode(False):  # what is made in it could not be moved later, in training
                self.register_buffer(slot, _start(node, seed=place + 1).to(like))
        return torch.ones(())

    def forward(self, iterations: int = 1) -> Tensor | float:
        """Advance every iterate by `iterations` power iterations and return the estimate (scalar, with gradient)."""
        return self._estimate(iterations)[0]

    def norms(self, iterations: int = 1) -> dict[str, Tensor]:
        """The same, layer by layer: the estimated norm of each linear operator (scalar, with gradient) by its layer's name."""
        return self._estimate(iterations)[1]

    def _estimate(self, iterations: int) -> tuple[Bound, dict[str, Tensor]]:
        self.follow(self._layers, self._shape)
        estimated = _Estimated(lambda place, node: self._sigma(place, node, iterations))
        return self._bound(estimated), estimated.norms

    def _sigma(self, place: int, node: Affine, iterations: int) -> Tensor:
        iterate = self._buffers[f"iterate_{place}"]
        with full_precision(iterate.device):
            with torch.no_grad():
                v = iterate
                for _ in range(iterations):
                    v = _step(node, v)
                iterate.copy_(v)
            # A clone, as the buffer moves again before autograd has used it.
            return _length(node.forward(iterate.clone()))

    @torch.no_grad()
    def converge(self, tolerance: float = 1e-4, limit: int = 1000) -> float:
        """Iterate until ten iterations change the estimate by less than `tolerance` (relative); returns it."""
        estimate = float(self.forward(0))
        for _ in range(limit // 10):
            previous, estimate = estimate, float(self.forward(10))
            if abs(estimate - previous) <= tolerance * abs(estimate):
                break
        return estimate
