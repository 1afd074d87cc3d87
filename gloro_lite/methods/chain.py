"""A network as a chain of affine layers with activations between them: what the bounds of `local`, `bcp` and `kw` walk along.

All values are flattened, (batch, size), in float64 where something is proven. Rounding is counted as follows: a sum of n products
errs by at most gamma(n) times the sum of their absolute values, and what has been computed is enlarged by that. What underflows
has no relative error: `FLOOR` and `ROOT` stand for it.

What is certified is a frozen copy of the network (`gloro_lite.lipschitz.Program`), which PyTorch's own forward pass is compared
with: see `read`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite.certificate import BOTTOM, Certificate, check_epsilon
from gloro_lite.layers import MinMax, min_max
from gloro_lite.lipschitz import linear_operator, operator_norm
from gloro_lite.lipschitz.checks import check_batch, check_flushing, check_network, check_shape, is_count, layer_type
from gloro_lite.lipschitz.errors import NetworkError
from gloro_lite.lipschitz.nodes import Affine
from gloro_lite.lipschitz.program import Program
from gloro_lite.lipschitz.walk import named_layers, registered

Shape = tuple[int, ...]

FLOOR = 2.0**-900
"""More than a sum of products loses to underflow, 2^-1022 for each operation, divided by `gamma`; nothing in float32."""
ROOT = 2.0**-450
"""More than an l2 norm, or the root of a sum of products, loses where squares underflow; nothing in float32."""


def gamma(terms: int) -> float:
    """The relative error of a sum of so many products in float64, with room for a few operations more."""
    return 2.0 * (terms + 8) * 2.0**-53


class Stage(NamedTuple):
    """An affine layer and the activation behind it.

    Attributes:
        name: the layer's dotted name in the network.
        layer: nn.Linear or nn.Conv2d.
        operator: its linear part, on inputs of its shape.
        activation: nn.ReLU, MinMax, or None.
    """

    name: str
    layer: nn.Linear | nn.Conv2d
    operator: Affine
    activation: type[nn.Module] | None

    @property
    def input_shape(self) -> Shape:
        """The shape of one input, without the batch dimension."""
        return self.operator.input_shape

    @property
    def output_shape(self) -> Shape:
        """The shape of one output, without the batch dimension."""
        return self.operator.output_shape

    @property
    def size(self) -> int:
        """How many values the layer gives."""
        return math.prod(self.output_shape)

    @property
    def terms(self) -> int:
        """How many products are summed in one value, the bias counted."""
        return self.layer.weight[0].numel() + 1

    def linear(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """The layer without its bias, (batch, inputs) to (batch, size), in the precision of x; or with other weights."""
        weight = (self.layer.weight if weight is None else weight).to(x)
        x = x.reshape(-1, *self.input_shape)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight).flatten(1)
        layer = self.layer
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups).flatten(1)

    def bias(self, like: Tensor) -> Tensor:
        """(size,), in the precision of `like`."""
        if self.layer.bias is None:
            return like.new_zeros(self.size)
        shape = (-1,) if isinstance(self.layer, nn.Linear) else (-1, 1, 1)
        return self.layer.bias.to(like).view(shape).expand(self.output_shape).flatten()

    def magnitude(self, x: Tensor) -> Tensor:
        """W x + b with the absolute values of all three: what rounding is measured by."""
        return self.linear(x.abs(), self.layer.weight.abs()) + self.bias(x).abs()

    def row_norms(self, like: Tensor) -> Tensor:
        """The l2 norm of each row of W, (size,); of a convolution at the edge, where the kernel meets padding, it is smaller."""
        ones = like.new_ones(1, math.prod(self.input_shape))
        return self.linear(ones, self.layer.weight.to(like).square())[0].sqrt() + ROOT

    def matrix(self) -> Tensor:
        """W as a matrix, (size, inputs), float64: the weights themselves, nothing is summed."""
        return self.operator.matrix()

    def norm(self) -> float:
        """A true upper bound on the l2 norm of W."""
        return operator_norm(self.operator)

    def activate(self, z: Tensor) -> Tensor:
        """The activation, on flattened values; MinMax pairs the halves of the channels, which are the halves of z."""
        if self.activation is nn.ReLU:
            return z.relu()
        if self.activation is MinMax:
            return min_max(z)
        return z


def stages(network: nn.Module, input_shape: Shape, method: str, activations: dict[type[nn.Module], str | None]) -> list[Stage]:
    """The chain of a network, or an error that says which layer `method` cannot take, and why.

    Args:
        network: nn.Sequential (nested or not) of Linear, Conv2d, Flatten and activations that ends in a Linear.
        method: its name, for errors.
        activations: for each known activation None where the method takes it, or the reason why it does not.

    Raises ValueError, also for weights that are not finite and for hooks, which make of a layer another function.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"{method} needs an nn.Sequential that ends in the nn.Linear layer that gives the logits, not {network!r}"
        )
    check_network(network, registered)
    chain: list[Stage] = []
    shape = check_shape(input_shape)
    for name, layer in named_layers(network):
        kind = layer_type(layer)
        where = f"layer {name!r}" if name else "the network itself"
        if isinstance(layer, nn.Linear | nn.Conv2d) and kind in (nn.Linear, nn.Conv2d):
            if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
                raise ValueError(
                    f"{where}: {method} knows zero padding alone, and this convolution pads by {layer.padding_mode!r}: "
                    "give padding_mode='zeros', or certify the network as a GloRo Net"
                )
            operator = _operator(layer, shape, name)
            chain.append(Stage(name, layer, operator, None))
            shape = operator.output_shape
            if not all(weight.isfinite().all() for weight in layer.parameters()):
                raise ValueError(f"{where} holds NaN or infinite weights: no certificate can be given")
        elif kind is nn.Flatten and layer.start_dim == 1 and layer.end_dim == -1:
            shape = (math.prod(shape),)
        elif activations.get(kind, "") is None and chain and chain[-1].activation is None:
            chain[-1] = chain[-1]._replace(activation=kind)
        elif activations.get(kind):
            raise ValueError(f"{where}: {method} cannot take {kind.__name__}: {activations[kind]}")
        else:
            known = ", ".join(kind.__name__ for kind, reason in activations.items() if reason is None)
            raise ValueError(
                f"{where} ({kind.__name__}): {method} takes Linear, Conv2d and Flatten, each affine layer followed by at most "
                f"one of {known}"
            )
    if not chain or not isinstance(chain[-1].layer, nn.Linear) or chain[-1].activation or len(chain[-1].output_shape) != 1:
        raise ValueError(f"{method} needs a network that ends in the nn.Linear layer that gives the logits")
    if chain[-1].size < 2:
        raise ValueError(f"{method} needs at least two classes")
    return chain


def _operator(layer: nn.Module, shape: Shape, name: str) -> Affine:
    """The layer's linear part; errors name it."""
    try:
        operator = linear_operator(layer, shape)
    except NetworkError as error:
        raise NetworkError(error.reason, name, type(layer).__name__, shape) from None
    assert operator is not None  # a Linear or a Conv2d
    return operator


def read(
    network: nn.Module, input_shape: Shape, x: Tensor, chain: Callable[[nn.Module, Shape], list[Stage]]
) -> tuple[list[Stage], Tensor, Tensor]:
    """The network as it is now, frozen, as a chain; the inputs, (batch, inputs); and its logits of them, (batch, classes).

    Args:
        x: ``(batch, *input_shape)``.
        chain: makes the chain of a network, and says what it cannot take.

    Raises what `chain`, `check_inputs` and `gloro_lite.lipschitz.Program` raise: NetworkError where PyTorch computes something
    else than the chain.
    """
    chain(network, input_shape)  # first, as it knows better what is wrong
    return read_program(Program(network, input_shape), x, chain)


def read_program(
    program: Program, x: Tensor, chain: Callable[[nn.Module, Shape], list[Stage]]
) -> tuple[list[Stage], Tensor, Tensor]:
    """The same of a network that is frozen already."""
    stages = chain(program.network, program.input_shape)
    points = check_inputs(program.input_shape, x)
    h, size, terms = points, points.abs(), 0
    for stage in stages:
        h, size = stage.activate(stage.linear(h) + stage.bias(h)), stage.magnitude(size) + FLOOR
        if stage.activation is MinMax:  # either of a pair may be the smaller
            size = torch.maximum(*size.chunk(2, dim=1)).repeat(1, 2)
        terms += stage.terms
    program.compare(x.to(program.device), h, 4 * gamma(terms) * size + ROOT)
    return stages, points, h


def proven(margins: Tensor, labels: Tensor) -> Tensor:
    """Whether lower bounds on the margins, (batch, classes), are above 0 for all classes but the labels, (batch,): (batch,)."""
    # Where something has overflowed, nothing is known.
    margins = margins.where(margins.isfinite(), -torch.inf)
    return margins.scatter(1, labels[:, None], torch.inf).amin(dim=1) > 0


def check_inputs(shape: Shape, x: Tensor) -> Tensor:
    """The inputs, ``(batch, *shape)``, flattened, in float64: (batch, inputs).

    Raises TypeError for what is no tensor of floating-point values, ValueError for a wrong shape and values that are not finite.
    """
    check_batch(x, shape)
    if not x.is_floating_point():
        raise TypeError(f"inputs must be floating-point numbers, in the units of epsilon; these are {x.dtype}")
    if not x.isfinite().all():
        raise ValueError("inputs must be finite, and these hold NaN or infinite values")
    check_flushing(x, "the inputs' numbers")
    return x.detach().to("cpu", torch.float64).flatten(1)


def forward(chain: list[Stage], norms: list[float], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The values of every affine layer in float64, each (batch, size), and how far they can be from exact ones in l2, (batch,).

    Args:
        norms: upper bounds on the norms of the layers.
        x: (batch, inputs) float64.
    """
    values, errors = [], []
    h, error = x, x.new_zeros(len(x))
    for stage, norm in zip(chain, norms, strict=True):
        z = stage.linear(h) + stage.bias(h)
        error = (norm * error + gamma(stage.terms) * stage.magnitude(h).norm(dim=1)) * (1 + 1e-12) + ROOT
        values.append(z)
        errors.append(error)
        h = stage.activate(z)  # comparisons round nothing, and no activation here stretches an error
    return values, errors


def check_search(steps: int, batch_size: int = 1) -> None:
    """Raise ValueError unless a search tries at least one radius, of at least one input at a time."""
    for meaning, count in (("steps is a number of radii", steps), ("batch_size is a number of inputs", batch_size)):
        if not is_count(count):
            raise ValueError(f"{meaning}, at least 1, not {count!r}")


def largest_radius(proven: Callable[[Tensor], Tensor], count: int, start: float = 1.0, steps: int = 20) -> Tensor:
    """The largest radius found by doubling and bisection for which `proven` says yes, (count,) float64; 0 where none is.

    Args:
        proven: maps radii (count,) to whether each input is proven robust at its radius.
        start: the radius that is tried first.
        steps: how often `proven` is asked.
    """
    low = torch.zeros(count, dtype=torch.float64)
    high = torch.full_like(low, torch.inf)
    radius = torch.full_like(low, start)
    for _ in range(steps):
        yes = proven(radius)
        low, high = radius.where(yes, low), high.where(yes, radius)
        radius = (2 * radius).where(high.isinf(), (low + high) / 2)
    return low


def certificate(
    proven: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, epsilon: float | None, steps: int, guarantee: str = "exact"
) -> Certificate:
    """A certificate by the search of `largest_radius`, which asks at epsilon first.

    Args:
        proven: maps radii (batch,) and predictions (batch,) to whether each prediction is proven at its radius.
        prediction: (batch,) int64.
    """
    needed = 0.0 if epsilon is None else check_epsilon(epsilon)
    start = math.nextafter(needed, math.inf) if needed else 1.0
    radius = largest_radius(lambda radii: proven(radii, prediction), len(prediction), start, steps)
    return Certificate(prediction.where(radius > needed, BOTTOM), radius, prediction, guarantee)
