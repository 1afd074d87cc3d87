"""The GloRo Net: a classifier with a bottom class, and its certificates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gloro_lite.bottom import bottom_logit, margin_constants
from gloro_lite.certificate import GUARANTEES, Certificate, Guarantee, certificate, certified_radius, check_epsilon
from gloro_lite.lipschitz.affine import Dense
from gloro_lite.lipschitz.checks import (
    check_batch,
    check_flushing,
    check_module,
    check_network,
    check_shape,
    check_types,
    layer_type,
)
from gloro_lite.lipschitz.errors import MismatchError, NetworkError
from gloro_lite.lipschitz.nodes import Node
from gloro_lite.lipschitz.norms import row_distances
from gloro_lite.lipschitz.power import TrainingBound
from gloro_lite.lipschitz.program import Program, Result, few
from gloro_lite.lipschitz.rounding import DOUBLE, Format, length_up, number_format
from gloro_lite.lipschitz.walk import named_layers, registered, walk
from gloro_lite.precision import full_precision, sums_products


class Head(NamedTuple):
    """What certificates need of the last layer, in float64.

    Attributes:
        distances: (classes, classes), ||w_j - w_i|| rounded up.
        lengths, offsets: (classes,), ||w_i|| rounded up and |b_i|.
        table: (classes, classes), the certified margin constants.
    """

    distances: Tensor
    lengths: Tensor
    offsets: Tensor
    table: Tensor


class State(NamedTuple):
    """A net at one moment, which does not change any more: what certificates rest on.

    Attributes:
        program: the network, frozen.
        head: bounds on its last layer.
        origin: by which the net that it is of knows it.
        kept: `head` again, to see that nobody wrote into it.
    """

    program: Program
    head: Head
    origin: object
    kept: Head

    @property
    def is_intact(self) -> bool:
        """Whether the bounds are as they were proven. The program's own weights are compared with the network's."""
        return all(map(torch.equal, self.head, self.kept))


_ATTEMPTS = 20
"""Times that a network is run beside its program before a difference counts: another thread may change weights back and forth."""


class GloroNet(nn.Module):
    """A classifier f with the bottom class of globally-robust networks (Section 2.2 of the paper).

    Called, it returns the logits and the bottom logit. In training mode it runs the network as it is, with the training bound
    (power iteration, an estimate). In eval mode it runs the program that is certified, with the certified bound and its rounding
    counted: its largest output is bottom exactly where `certify` gives no certificate.

    Args:
        network: nn.Sequential (nested or not) that ends in the nn.Linear that gives the logits.
        input_shape: the shape of one input, without the batch dimension.
        epsilon: the l2 radius to be robust at, in input units.
        tight: K_ij = ||w_j - w_i|| K for each pair of classes; False for the paper's K_i + K_j.
        power_iterations: power iterations for each training step.

    Raises:
        UnknownLayerError: a layer without a Lipschitz bound.
        NetworkError: a ValueError; a network that does not end in a Linear layer of two or more classes, an input shape that it
            does not take, hooks and replaced methods, and what else cannot be certified; says which layer, why and what to do.
        ValueError: epsilon not positive and finite, power_iterations below 1.
    """

    def __init__(
        self,
        network: nn.Sequential,
        input_shape: tuple[int, ...],
        epsilon: float,
        *,
        tight: bool = True,
        power_iterations: int = 1,
    ):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Sequential that ends in a Linear layer, not {type(network).__name__}")
        if not isinstance(power_iterations, int) or power_iterations < 1:
            raise ValueError(f"power_iterations must be a whole number, at least 1, not {power_iterations!r}")
        self.input_shape = input_shape
        self.network = network
        self.epsilon = epsilon
        self.tight = tight
        self.power_iterations = power_iterations
        _check_classifier(walk(network, self.input_shape, trained=True), named_layers(network))
        check_types(network, registered)
        self.training_bound = TrainingBound(self.body, self.input_shape)
        self._state: tuple[State, bool] | None = None
        self._origin = object()
        self.converge()

    def __getstate__(self) -> dict:
        # A copy makes its own program, from its own weights.
        return {**super().__getstate__(), "_state": None, "_origin": object()}  # type: ignore[no-untyped-call]

    @property
    def epsilon(self) -> float:
        """The l2 radius of the bottom class, in input units. Setting it to what is not finite and positive is a ValueError."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        self._epsilon = check_epsilon(value)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch dimension. Setting it to what is no shape is a TypeError or ValueError."""
        return self._input_shape

    @input_shape.setter
    def input_shape(self, value: Iterable[int]) -> None:
        self._input_shape = check_shape(value)

    @property
    def body(self) -> list[tuple[str, nn.Module]]:
        """The layers before the last, in order, with their dotted names."""
        return named_layers(self.network)[:-1]

    @property
    def head(self) -> nn.Linear:
        """The last layer, which gives the logits."""
        return named_layers(self.network)[-1][1]

    @property
    def classes(self) -> int:
        """The number of classes, bottom not counted."""
        return self.head.out_features

    def converge(self) -> float:
        """Converge the power iteration of the training bound; returns the body's estimate. Call it when weights have jumped."""
        self.training_bound.follow(self.body, self.input_shape)
        return self.training_bound.converge()

    def estimate(self) -> Tensor:
        """The table of margin constants by the training bound, (classes, classes), differentiable. It certifies nothing."""
        self.training_bound.follow(self.body, self.input_shape)
        body = self.training_bound(self.power_iterations)
        with full_precision(self.head.weight.device):
            return margin_constants(self.head.weight, body, tight=self.tight)

    def program(self) -> Program:
        """The network as it is now, as one frozen program: what certificates rest on. Kept until anything that it reads changes.

        Raises NetworkError for what cannot be certified.
        """
        return self.state().program

    def margin_constants(self) -> Tensor:
        """The certified table of margin constants K_ij, (classes, classes) float64: true upper bounds. The caller's own copy."""
        return self.state().head.table.clone()

    def state(self) -> State:
        """The program and the bounds of its last layer, both of one moment, whatever another thread does to the weights.

        Kept as `program` is, and raises what that raises.
        """
        check_module(self, "", known=False, trained=True)  # a hook on the net itself would make net(x) another function
        for name, module in self.network.named_modules():
            if registered(module) is not None and any(part.training for part in module.modules()):
                reason = "it is in training mode, where a layer of your own may compute something else: call .eval() first"
                raise NetworkError(reason, name, type(module).__name__)
        known, tight = self._state, self.tight
        if (
            known is not None
            and known[1] == tight
            and known[0].is_intact
            and known[0].program.is_current(self.network, self.input_shape)
        ):
            return known[0]
        program = Program(self.network, self.input_shape)
        _check_classifier(program.root, [(node.name, node.layer) for node in program.nodes])
        head = _head(program, tight)
        state = State(program, head, self._origin, Head(*(bounds.clone() for bounds in head)))
        # Inside of torch.func's transforms tensors are wrapped by these, and of no use after them.
        self._state = (state, tight) if torch._C._functorch.maybe_current_level() is None else None
        return state

    def logits(self, x: Tensor) -> Tensor:
        """The logits as the network itself computes them, (batch, classes), of x, ``(batch, *input_shape)``, without bottom.

        Raises ValueError for inputs of another shape, TypeError for another type than that of the weights.
        """
        check_batch(x, self.input_shape)
        weight = self.head.weight
        if x.dtype != weight.dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
            raise TypeError(f"inputs are {x.dtype} and the network's weights {weight.dtype}: convert one of them")
        return self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        """The logits and, last, the bottom logit: (batch, classes + 1), of x, ``(batch, *input_shape)``."""
        if self.training:
            logits = self.logits(x)
            bottom = bottom_logit(logits, self.estimate().to(logits), self.epsilon)
            return torch.cat((logits, bottom[:, None]), dim=1)
        if torch.compiler.is_exporting():
            raise NetworkError(
                "a net proves its bound anew wherever its weights change, which no exported program can: gloro_lite.export "
                "writes it frozen, by save_program or save_onnx, and its freeze gives a plain module"
            )
        logits, proven, constants = self._certify(x, self.epsilon, "exact", None, None)
        bottom = bottom_logit(logits, constants.to(logits), self.epsilon)
        return _agreeing(logits, bottom, proven, x.dtype).to(x.device)

    def certify(
        self,
        x: Tensor,
        epsilon: float | None = None,
        *,
        guarantee: Guarantee = "exact",
        dtype: torch.dtype | None = torch.float64,
        state: State | None = None,
    ) -> Certificate:
        """Certify each input of a batch: one forward pass, and a comparison with the certified bound (the paper's Theorem 1).

        The forward pass is that of `program`, its rounding is counted, and the network itself is run beside it on a few of the
        inputs.

        Args:
            x: ``(batch, *input_shape)``, float32 or float64, finite; each number is taken as it is.
            epsilon: l2 radius, the net's own by default.
            guarantee: what is promised, see `gloro_lite.certificate.GUARANTEES`.
            dtype: what the forward pass is computed in. float64 gives the largest radii. float32 is faster, on a CPU alone, and
                certifies smaller ones. With None, float32 where it decides the label at epsilon, and float64 for the other
                inputs: labels as with float64, for little more than float32's cost.
            state: certify by the net as it was when `state` gave this, and for inputs of its shape and type then; by default, as
                it is now.

        Raises ValueError for inputs or weights that are not finite, a wrong shape, and an epsilon that is not finite and
        positive; TypeError for inputs of another type; NetworkError for what cannot be certified, as `program`.
        """
        epsilon = self.epsilon if epsilon is None else check_epsilon(epsilon)
        if guarantee not in GUARANTEES:
            raise ValueError(f"guarantee must be one of {', '.join(GUARANTEES)}; not {guarantee!r}")
        with torch.no_grad():
            return self._certify(x, epsilon, guarantee, dtype, state)[1]

    def _certify(
        self, x: Tensor, epsilon: float, guarantee: Guarantee, dtype: torch.dtype | None, state: State | None
    ) -> tuple[Tensor, Certificate, Tensor]:
        """The program's logits of x, their certificate, and the table of margin constants, all where the program runs."""
        if state is not None and not isinstance(state, State):
            raise TypeError(f"state is what net.state() gave, not {type(state).__name__}")
        if state is not None and state.origin is not self._origin:
            raise ValueError("the state is of another net, or of the one that this is a copy of: give one that net.state() gave")
        if state is not None:  # made before a function was replaced, say
            check_network(state.program.network, registered)
            if not state.is_intact:
                raise ValueError("somebody wrote into the state's bounds: give one that net.state() gives now")
            if not state.program.keeps_bounds():
                raise ValueError(
                    "a registered bound is another one than when the state was made: give what net.state() gives now"
                )
        check_batch(x, self.input_shape if state is None else state.program.input_shape)
        state = state or self.state()
        program, head = state.program, state.head
        _check_values(x, program.dtype)
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be torch.float32, torch.float64 or None, not {dtype!r}")
        if dtype not in (None, torch.float32, torch.float64) or (dtype == torch.float32 and program.dtype != torch.float32):
            raise TypeError(f"a network of {program.dtype} cannot be certified in {dtype}: give dtype=torch.float64")
        counted = program.dtype == torch.float32 and sums_products(program.device)
        if dtype == torch.float32 and not counted:
            raise TypeError(
                "float32's rounding is known only on a CPU, and where neither products of reduced precision nor transforms "
                "are used (oneDNN switched off, say): give dtype=torch.float64"
            )
        given, x = x, x.to(program.device)
        # The deployed network's own type: its rounding at each point of the ball.
        deployed = program.dtype if guarantee == "deployed" else None
        if dtype is None:
            dtype = torch.float32 if counted else torch.float64
            logits, radius, decided = _pass(program, head, x, dtype, deployed, epsilon)
            rows = (~decided).nonzero()[:, 0]
            if counted and len(rows):
                again = _pass(program, head, x[rows], torch.float64, deployed, epsilon)
                logits = logits.index_put((rows,), again[0])
                radius = radius.index_put((rows,), again[1])
        else:
            logits, radius, _ = _pass(program, head, x, dtype, deployed, epsilon)
        where = self.head.weight.device
        if sums_products(where):  # elsewhere its rounding is not known, and a difference says nothing
            self._compare(program, head, given.to(where), logits)
        return logits, certificate(logits.detach().argmax(dim=1), radius, epsilon, guarantee), head.table

    @torch.no_grad()
    def _compare(self, program: Program, head: Head, x: Tensor, logits: Tensor) -> None:
        """Run the network itself, in its own precision, on a few of the inputs: the program is of what it was when it was read.

        Raises MismatchError where its logits differ from the program's by more than rounding.
        """
        rows = few(x)
        features = program.run(x[rows].to(program.device), program.nodes[:-1], deployed=program.dtype)
        number, count = number_format(program.dtype), features.value.shape[1]
        tolerance = features.at[:, None] * head.lengths + _head_errors(features.length + features.at, head, number, count)
        for _ in range(_ATTEMPTS):
            try:
                with full_precision(x.device):
                    program.compare(x[rows], logits[rows.to(logits.device)], 4 * tolerance, self.logits)
                return
            except MismatchError as error:
                mismatch = error
                # Another thread may have changed the weights meanwhile: the certificate is of those that were read.
                if program.complete and not program.is_current(self.network, self.input_shape):
                    return
        raise mismatch


def check_net(net: object) -> None:
    """Raise TypeError for what is no GloRo Net."""
    if not isinstance(net, GloroNet):
        raise TypeError(f"a GloroNet is needed, not {type(net).__name__}: GloroNet(network, input_shape, epsilon) makes one")


def check_logits(function: object) -> None:
    """Raise TypeError for a GloRo Net where a classifier without bottom is needed, which would count as one class more."""
    if isinstance(function, GloroNet):
        raise TypeError("a GloroNet gives the logit of bottom beside those of the classes: give net.logits, which does not")


def _check_values(x: Tensor, dtype: torch.dtype) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"inputs must be float32 or float64, in the units of epsilon (images in [0, 1]); got {x.dtype}")
    if type(x) not in (Tensor, nn.Parameter, nn.Buffer):
        kind = type(x).__name__
        raise TypeError(f"inputs are a {kind}, which may compute in its own way: give x.as_subclass(torch.Tensor)")
    if x.dtype != dtype:
        raise TypeError(f"inputs are {x.dtype} and the network's weights {dtype}: convert one of them")
    check_flushing(x, "the inputs' numbers")
    # A sum is finite only if all its terms are, and far cheaper than a look at each; where it overflows, each is looked at.
    if not x.sum().isfinite() and not x.isfinite().all():
        row = int((~x.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(f"input {row} of the batch holds NaN or infinite values: it cannot be certified")


def _check_classifier(root: Node, layers: list[tuple[str, nn.Module]]) -> None:
    """Raise NetworkError unless a network ends in the nn.Linear that gives the logits of one input."""
    if not layers or layer_type(layers[-1][1]) is not nn.Linear or registered(layers[-1][1]) is not None:
        last = type(layers[-1][1]).__name__ if layers else "nothing"
        raise NetworkError(
            f"the network must be nn.Sequential and end in the nn.Linear layer that gives the logits; it ends in {last}: take "
            "off what comes after that layer (a softmax belongs in the loss), or add one"
        )
    if len(root.output_shape) != 1:
        raise NetworkError(
            f"the network gives outputs of shape {root.output_shape} for one input, where (classes,) is needed: put nn.Flatten() "
            "before the last layer"
        )
    if root.output_shape[0] < 2:
        raise NetworkError("the network has one class: a GloRo Net needs at least two logits")


def _head(program: Program, tight: bool) -> Head:
    """The certified table: K_ij = ||w_j - w_i|| K, or K_i + K_j, rounded up."""
    node = program.nodes[-1]
    assert isinstance(node, Dense)
    body = program.bound(program.nodes[:-1])
    rows = node.layer.weight.detach().to("cpu", torch.float64)
    bias = rows.new_zeros(len(rows)) if node.layer.bias is None else node.layer.bias.detach().cpu().abs()
    distances, lengths = row_distances(rows), length_up(rows)
    table = distances if tight else (lengths[:, None] + lengths[None, :])
    infinity = torch.full_like(table, torch.inf)
    up = torch.nextafter(torch.nextafter(table, infinity) * float(body), infinity)
    # No less than a normal number: a process may treat others as 0.
    up = up.clamp_min(DOUBLE.tiny).where((table > 0) & (float(body) > 0), 0.0)
    return Head(*(part.to(program.device) for part in (distances, lengths, bias, up)))


def _pass(
    program: Program, head: Head, x: Tensor, dtype: torch.dtype, deployed: torch.dtype | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, (batch, classes) float64, radii, and which inputs have a label at epsilon that more precision would not change.

    Args:
        dtype: what is computed in.
        deployed: the type of the network whose rounding over the ball is counted too; None for the network in real arithmetic.
    """
    features = program.run(x, program.nodes[:-1], dtype=dtype, deployed=deployed)
    with full_precision(x.device):
        logits = program.nodes[-1].apply(features.value).double()
    with torch.no_grad(), full_precision(x.device):
        number = number_format(dtype)
        own, growth = _margin_errors(features, head, logits, number, None if deployed is None else number_format(deployed))
        program.compare(x, logits, 4 * _logit_errors(features, head, number))
        radius = certified_radius(logits, head.table, own, growth)
        # Whatever the exact margins are, a more precise pass has radii between these.
        least, most = (certified_radius(logits, head.table, errors, growth) for errors in (2 * own, -own))
        if deployed is not None:
            radius, least = (_without_overflow(each, features, head, number_format(deployed)) for each in (radius, least))
        decided = (least > epsilon) | ((radius > 0) & (most * (1 + 1e-9) < epsilon))
    return logits, radius, decided


def _logit_errors(features: Result, head: Head, number: Format) -> Tensor:
    """How far each logit, computed in `number`, may be off, (batch, classes)."""
    return features.own[:, None] * head.lengths + _head_errors(features.length, head, number, features.value.shape[1])


def _head_errors(length: Tensor, head: Head, number: Format, count: int) -> Tensor:
    """The rounding of the last layer alone, for features of a length, (batch,) or a number: (batch, classes)."""
    terms = number.gamma(count + 3) * (length[:, None] * head.lengths + head.offsets) + (count + 3) * number.tiny
    return terms * (1 + 2.0**-48)


def _margin_errors(
    features: Result, head: Head, logits: Tensor, own: Format, deployed: Format | None
) -> tuple[Tensor, Tensor | float]:
    """How far each margin of the predicted class may be off, and how much that grows with the radius: (batch, classes) each.

    The features' deviation passes the last layer by the differences of its rows; the last layer's own rounding comes on top.
    """
    predicted = logits.argmax(dim=1)
    distances = head.distances[predicted]
    up = 1 + 2.0**-48
    count = features.value.shape[1]

    def pairs(each: Tensor) -> Tensor:
        return each + each.gather(1, predicted[:, None])

    error = (distances * features.own[:, None] + pairs(_head_errors(features.length, head, own, count))) * up
    if deployed is None:
        return error, 0.0
    error = (
        error + distances * features.at[:, None] + pairs(_head_errors(features.length + features.at, head, deployed, count))
    ) * up
    slope = torch.full((1,), float(features.lipschitz) + features.slope, dtype=torch.float64, device=error.device)
    rows = deployed.gamma(count + 3) * slope * head.lengths.expand(len(error), -1)
    return error, (distances * features.slope + pairs(rows)) * up


def _without_overflow(radius: Tensor, features: Result, head: Head, number: Format) -> Tensor:
    """The radius up to which no intermediate result of the deployed network can overflow."""
    longest = head.lengths.max()
    at = torch.maximum(features.largest, 2 * (longest * (features.length + features.at) + head.offsets.max()))
    slope = max(features.growth, 2 * float(longest) * (float(features.lipschitz) + features.slope))
    return torch.minimum(radius, ((number.largest - at) / slope * (1 - 2.0**-48)).clamp_min(0)) if slope else radius


def _agreeing(logits: Tensor, bottom: Tensor, proven: Certificate, dtype: torch.dtype) -> Tensor:
    """Logits and bottom in `dtype`, such that the largest output is the certified class, or bottom where there is none.

    Rounding to float32 can make ties of logits that differ, and a comparison of rounded numbers can go either way: the
    certificate decides, and the outputs move by a unit in the last place to say the same.
    """
    finite = logits.isfinite().all(dim=1) & bottom.isfinite()
    info = torch.finfo(dtype)
    outputs = torch.cat((logits, bottom[:, None]), dim=1).clamp(info.min / 2, info.max / 2).to(dtype)
    # What has overflowed has no logits that mean anything: bottom, and nothing else.
    nothing = torch.full_like(outputs, info.min / 2)
    nothing[:, -1] = 0
    outputs = torch.where(finite[:, None], outputs, nothing)
    with torch.no_grad():
        certified = proven.label == proven.prediction
        winner = proven.prediction.where(certified & finite, logits.shape[1])[:, None]
        rival = outputs.scatter(1, winner, -torch.inf).amax(dim=1, keepdim=True)
        needed = torch.nextafter(rival, torch.full_like(rival, torch.inf))
    own = outputs.gather(1, winner)
    # The difference is 0 and carries the gradient: what is missing, added, would be rounded.
    return outputs.scatter(1, winner, torch.maximum(own.detach(), needed) + (own - own.detach()))
