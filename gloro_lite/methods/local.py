"""A local Lipschitz bound at test time, for a trained GloRo Net: the fall-back that Section 7 of the paper leaves open.

Within a small ball around x most activations do not change what they do: a ReLU stays on or off, a pair of MinMax stays in its
order. They are linear there. The others are linear up to a part that shrinks: relu(z) = z / 2 + w / 2, and for a pair a, b
(min, max) = ((a + b) / 2 - w / 2, (a + b) / 2 + w / 2), where w moves by no more than what it is made of, z or a - b. So with v
the move of x and of all w, what a unit is made of moves by a known C_k v, the margin by a known r . v, and no entry of w_k is
larger in absolute value than that of C_k v. For any multipliers t_k >= 0, if the matrix::

    diag(K^2 on x, t_k on w_k) - sum_k C_k^T diag(t_k) C_k - r r^T

is positive semidefinite, K bounds how far the margin moves for each unit that x moves (LipSDP [Fazlyab et al. 2019], made local).
Multipliers of half the squared norm of all that follows give the product of the layers' norms, or less where something is
fixed; a few gradient steps on them lower K further. Each result is proven by a Cholesky factorisation, whoever proposed them.

Which units are fixed is found layer by layer, by a bound on how far each can move (triangle inequality; cf. LipLT [Fazlyab et al.
2023]). All of it is recomputed for every input and every radius, with matrices of its own: what a global bound does without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gloro_lite.certificate import BOTTOM, Certificate, check_epsilon, joined
from gloro_lite.layers import MinMax
from gloro_lite.lipschitz.checks import check_batch
from gloro_lite.methods.chain import FLOOR, ROOT, Shape, Stage, certificate, check_search, forward, gamma, read_program, stages
from gloro_lite.net import GloroNet, State, check_net
from gloro_lite.precision import on_cpu

_TOGETHER = 1000
"""Inputs that the global bound certifies at a time."""

SIZE_LIMIT = 4096
"""Most values in a layer: several matrices of that size squared are kept for each input."""


def chain(network: nn.Module, input_shape: Shape) -> list[Stage]:
    """The layers of a network with ReLU or MinMax; ValueError, with the layer, for another."""
    layers = stages(network, input_shape, "the local bound", {nn.ReLU: None, MinMax: None})
    widest = max(layers, key=lambda stage: stage.size)
    if widest.size > SIZE_LIMIT:
        raise ValueError(f"layer {widest.name!r} has {widest.size} values; the local bound keeps matrices, {SIZE_LIMIT} at most")
    return layers


def spectral_norms(matrices: Tensor) -> Tensor:
    """True upper bounds on the l2 norms of matrices, (batch, rows, columns) float64 to (batch,).

    Eigenvalues of the Gram matrix propose t; a Cholesky factorisation of t I - G that runs to its end proves it, up to
    gamma trace(t I - G) [Rump 2006]. Where it does not, Frobenius' norm stands.
    """
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    n, terms = matrices.shape[1:]
    squares = matrices.square().sum(dim=(1, 2)) * (1 + gamma(n * terms))
    gram = matrices @ matrices.mT
    # LAPACK refuses what has overflowed: there the infinite sum of squares stands.
    gram = gram.where(squares.isfinite()[:, None, None], 0.0)
    top = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0) * (1 + 1e-10) + gamma(terms + n) * squares
    proven = top + gamma(n) * n * top + gamma(terms) * squares
    holds = _positive(top[:, None, None] * torch.eye(n, dtype=gram.dtype) - gram)
    found = torch.minimum(squares, proven.where(holds, torch.inf)).where(squares.isfinite(), torch.inf)
    return (found.sqrt() * (1 + 2.0**-50) + ROOT).where((matrices != 0).any(dim=2).any(dim=1), 0.0)


def _positive(matrices: Tensor) -> Tensor:
    """Whether a Cholesky factorisation of each matrix runs to its end, (batch, n, n) to (batch,)."""
    return torch.linalg.cholesky_ex(matrices)[1] == 0


class _Gates:
    """What the activation of a stage does in each ball of a batch. A unit is a neuron of ReLU, or a pair of MinMax.

    Args:
        stage: with an activation.
        value: (batch, size), its values at x.
        reach: (batch, units), how far each unit's comparison with 0 can move; without it, all are open.
    """

    def __init__(self, stage: Stage, value: Tensor, reach: Tensor | float = torch.inf):
        self.pairs = stage.activation is MinMax
        compared = self.compare(value[..., None])[..., 0]
        self.open = ~(compared.abs() > reach)  # (batch, units); also where a reach has overflowed to NaN
        self.high = compared > 0

    def compare(self, matrix: Tensor) -> Tensor:
        """What each unit compares with 0, of the rows of a map to the values: (batch, size, n) to (batch, units, n)."""
        if not self.pairs:
            return matrix
        first, second = matrix.chunk(2, dim=1)
        return first - second

    def fixed(self, matrix: Tensor) -> Tensor:
        """The linear part of the activation, behind a map to the values: (batch, size, n) to the same."""
        is_open, high = self.open[..., None], self.high[..., None]
        if not self.pairs:
            return matrix * torch.where(is_open, 0.5, high.double())
        first, second = matrix.chunk(2, dim=1)
        mean = (first + second) / 2
        least = torch.where(is_open, mean, torch.where(high, second, first))
        most = torch.where(is_open, mean, torch.where(high, first, second))
        return torch.cat((least, most), dim=1)

    def spread(self) -> Tensor:
        """How the w of open units enter the values: (batch, size, units)."""
        half = torch.diag_embed(0.5 * self.open.double())
        return torch.cat((-half, half), dim=1) if self.pairs else half

    def alive(self, matrix: Tensor) -> Tensor:
        """A matrix that reads the values, without its columns for ReLUs that are off: (rows, size) to (batch, rows, size)."""
        if self.pairs:
            return matrix.expand(len(self.open), *matrix.shape)
        return matrix * (self.open | self.high)[:, None, :]


class Walk(NamedTuple):
    """What is known of all points within a radius of each input of a batch.

    Attributes:
        logits: (batch, classes) float64, at x; error: (batch,), how far exact logits can be from them, in l2.
        compared: C_k of each layer with an activation, (batch, units_k, inputs + units of earlier layers).
        hidden: the map from v to the values before the last layer, (batch, hidden, inputs + all units).
        moved: bounds on the Lipschitz constant of what each layer's open units compare, (batch,) each.
        product: a bound on the Lipschitz constant of the values before the last layer, (batch,).
        slack: how far these maps can be from exact ones, in Frobenius' norm; with unit rows before them, too.
    """

    logits: Tensor
    error: Tensor
    compared: list[Tensor]
    hidden: Tensor
    moved: list[Tensor]
    product: Tensor
    slack: float


def walk(chain: list[Stage], norms: list[float], x: Tensor, radius: Tensor) -> Walk:
    """Walk through the network and find which units are open within `radius` of each x.

    Args:
        chain: see `chain`.
        norms: upper bounds on the norms of the layers' matrices.
        x: (batch, inputs) float64.
        radius: (batch,).
    """
    values, errors = forward(chain, norms, x)
    batch, sizes = len(x), [x.shape[1]]
    hidden = torch.eye(x.shape[1], dtype=x.dtype).expand(batch, -1, -1)
    compared: list[Tensor] = []
    moved = [x.new_ones(batch)]  # of x itself, then of each layer's open units
    product, gates, slack = x.new_ones(batch), None, 0.0

    def triangle(lengths: list[Tensor]) -> Tensor:
        """The sum over blocks of v of a block's norm times how far it moves."""
        return sum((length * size for length, size in zip(lengths, moved, strict=True)), x.new_zeros(()))

    for stage, norm, value, error in zip(chain[:-1], norms[:-1], values[:-1], errors[:-1], strict=True):
        weight = stage.matrix()
        alive = weight.expand(batch, -1, -1) if gates is None else gates.alive(weight)
        own = product.new_full((batch,), norm) if gates is None else spectral_norms(alive).clamp(max=norm)
        # Entries of a product err by gamma of the product of the Frobenius norms; differences of rows by root 2 of it at most.
        size = max(block.norm().item() for block in hidden) + ROOT
        slack = 2 * (weight.norm().item() + ROOT) * (slack + gamma(stage.terms) * (size + slack)) + ROOT
        hidden = weight @ hidden
        before, product = product, own * product * (1 + 2.0**-50) + ROOT
        if stage.activation is None:
            gates = None
            continue
        probe = _Gates(stage, value)
        blocks = probe.compare(hidden).split(sizes, dim=2)
        rows = triangle([(block.norm(dim=2) + slack).mT for block in blocks]).mT
        rows = torch.minimum(rows, (probe.compare(alive).norm(dim=2) + ROOT) * (1 + gamma(stage.terms)) * before[:, None])
        gates = _Gates(stage, value, (rows * radius[:, None] + 2 * error[:, None]) * (1 + 2.0**-50))
        compared.append(probe.compare(hidden) * gates.open[..., None])
        total = triangle([spectral_norms(block) + slack for block in compared[-1].split(sizes, dim=2)])
        stretch = 2**0.5 * (1 + 2.0**-50) if gates.pairs else 1.0
        moved.append(torch.minimum(total, stretch * product).where(gates.open.any(dim=1), 0.0))
        hidden = torch.cat((gates.fixed(hidden), gates.spread()), dim=2)
        sizes.append(gates.open.shape[1])
    # One more product follows, with the rows of the last layer.
    slack = slack + gamma(hidden.shape[1]) * (max(block.norm().item() for block in hidden) + slack) + ROOT
    return Walk(values[-1], errors[-1], compared, hidden, moved[1:], product, slack)


def lipschitz(walk: Walk, rows: Tensor, index: Tensor, tail: list[float], iterations: int = 20) -> Tensor:
    """Bound the Lipschitz constant, within the walk's balls, of rows . h, with h the values before the last layer: (pairs,).

    Args:
        rows: (pairs, hidden), the difference of two rows of the last layer, say.
        index: (pairs,), the input of the batch that each pair is about.
        tail: for each layer with an activation, the product of the norms of the layers between it and the last.
        iterations: gradient steps on the multipliers; with 0, those that give the product of norms.
    """
    compared = [block[index] for block in walk.compared]
    r = torch.einsum("ph,phn->pn", rows, walk.hidden[index])
    lengths = rows.norm(dim=1) + ROOT
    sizes = [block.shape[1] for block in compared]
    inputs = r.shape[1] - sum(sizes)
    # Two bounds that need no multipliers: the product of norms, and the triangle inequality over the parts of v.
    parts = [part.norm(dim=1) + walk.slack * lengths + ROOT for part in r.split([inputs, *sizes], dim=1)]
    triangle = parts[0] + sum(part * moved[index] for part, moved in zip(parts[1:], walk.moved, strict=True))
    known = torch.minimum(lengths * walk.product[index], triangle) * (1 + gamma(r.shape[1]))

    def form(t: list[Tensor]) -> Tensor:
        """sum_k C_k^T diag(t_k) C_k + r r^T, with minus t_k on the diagonal for each w_k: (pairs, n, n)."""
        total = r[:, :, None] * r[:, None, :]
        for block, multiplier in zip(compared, t, strict=True):
            n = block.shape[2]
            pad = (0, total.shape[1] - n) * 2
            total = total + torch.nn.functional.pad(block.mT @ (multiplier[..., None] * block), pad)
        return total - torch.diag_embed(torch.nn.functional.pad(torch.cat(t, dim=1), (inputs, 0))) if t else total

    def square(t: list[Tensor]) -> Tensor:
        """The smallest K^2 that these multipliers allow, by Schur's complement; infinite where none does: (pairs,)."""
        total = form(t)
        factor, failed = torch.linalg.cholesky_ex(-total[:, inputs:, inputs:])
        cross = torch.linalg.solve_triangular(factor, total[:, inputs:, :inputs], upper=False)
        rest = total[:, :inputs, :inputs] + cross.mT @ cross
        fine = rest.isfinite().all(dim=2).all(dim=1)
        found = torch.linalg.eigvalsh(rest.where(fine[:, None, None], 0.0))[:, -1]
        return found.where((failed == 0) & fine, torch.inf)

    t = [
        (0.5 * (1 + 1e-6) * (lengths * norm).square().clamp_min(1e-30))[:, None].expand(-1, block.shape[1]).clone()
        for block, norm in zip(compared, tail, strict=True)
    ]
    best, chosen = square(t), t
    if compared and iterations:
        logs = [multiplier.log().requires_grad_() for multiplier in t]
        optimizer = torch.optim.Adam(logs, lr=0.1)
        for _ in range(iterations):
            with torch.enable_grad():
                found = square([log.exp() for log in logs])
                fine = found.isfinite()
                gradients = torch.autograd.grad(found[fine].log().sum(), logs)
            with torch.no_grad():
                better = found < best
                best = found.where(better, best)
                chosen = [log.exp().where(better[:, None], old) for log, old in zip(logs, chosen, strict=True)]
                for log, gradient in zip(logs, gradients, strict=True):
                    # Too small to allow any K: larger.
                    log.grad = gradient.nan_to_num(0.0).where(fine[:, None], -1.0)
                optimizer.step()
    proven = _prove(walk, compared, r, form(chosen), chosen, best * (1 + 1e-6), index, inputs, lengths)
    return torch.minimum(proven, known)


def _prove(
    walk: Walk,
    compared: list[Tensor],
    r: Tensor,
    total: Tensor,
    t: list[Tensor],
    square: Tensor,
    index: Tensor,
    inputs: int,
    lengths: Tensor,
) -> Tensor:
    """K where the matrix of the module's docstring is positive by Cholesky, infinite elsewhere: (pairs,)."""
    n = r.shape[1]
    square = square.clamp_max(1e300)
    matrix = torch.diag_embed(square[:, None] * (torch.arange(n) < inputs)) - total
    # What rounding of C_k and r can change in the quadratic form, and what Cholesky leaves open [Rump 2006].
    slack = walk.slack
    size, loss = r.norm(dim=1) + slack * lengths, gamma(n) * square
    loss = loss + (2 * size * slack * lengths + gamma(n) * size.square())
    reach = torch.ones_like(square)  # |v|^2 is at most so many times |x|^2
    for block, multiplier, moved in zip(compared, t, walk.moved, strict=True):
        size, largest = block.flatten(1).norm(dim=1) + slack, multiplier.amax(dim=1)
        loss = loss + largest * (2 * size * slack + gamma(n) * size.square() + gamma(n))
        reach = reach + moved[index].square()
    loss = loss + gamma(n) * matrix.diagonal(dim1=1, dim2=2).sum(dim=1) * 2 + FLOOR
    return ((square + loss * reach) * (1 + 1e-12)).sqrt().where(_positive(matrix), torch.inf)


Robust = Callable[[Tensor, Tensor], Tensor]
"""Maps radii and labels, (batch,) each, to whether each label is proven within its radius, (batch,) bool."""


def fall_back(
    net: GloroNet,
    x: Tensor,
    epsilon: float | None,
    prepare: Callable[[State], Callable[[Tensor], Robust]],
    *,
    steps: int,
    batch_size: int,
) -> Certificate:
    """Certify by the global bound, and by a local one where that leaves an input at bottom.

    Args:
        prepare: of the net's state, gives what makes the local bound of a batch of inputs.
        steps, batch_size: see `certify`.

    Raises TypeError for what is no GloRo Net, ValueError for steps or a batch_size below 1, and what `GloroNet.certify` raises.
    """
    check_net(net)
    check_search(steps, batch_size)
    epsilon = net.epsilon if epsilon is None else check_epsilon(epsilon)
    # Both bounds are of one state of the network, also where another thread trains it.
    state = net.state()
    at = prepare(state)
    check_batch(x, net.input_shape)
    known = joined([net.certify(part, epsilon, state=state) for part in x.split(_TOGETHER)])
    radius = known.radius.clone()
    rejected = (known.label == BOTTOM).nonzero()[:, 0]
    for rows in rejected.split(batch_size) if len(rejected) else ():
        local = certificate(at(x[rows.to(x.device)]), known.prediction[rows].cpu(), epsilon, steps)
        radius[rows] = torch.maximum(radius[rows], local.radius.to(radius))
    return Certificate(known.prediction.where(radius > epsilon, BOTTOM), radius, known.prediction, "exact")


@torch.no_grad()
@on_cpu
def certify(
    net: GloroNet, x: Tensor, epsilon: float | None = None, *, steps: int = 1, iterations: int = 20, batch_size: int = 16
) -> Certificate:
    """Certify each input by the global bound, and by a local one where that is not enough.

    The guarantee is "exact": the real-arithmetic network with exactly these weights on exactly this input; rounding is counted.

    Args:
        net: a GloRo Net of Linear, Conv2d, Flatten, ReLU and MinMax.
        x: ``(batch, *net.input_shape)``.
        epsilon: the l2 radius that a label needs; the net's own by default.
        steps: radii that are tried for each input that the global bound leaves at bottom, epsilon first; 1 settles epsilon alone.
        iterations: see `lipschitz`.
        batch_size: inputs at a time; memory grows with it.

    Returns: the larger of both radii, and the labels that follow from it. Inputs that the global bound certifies keep its radius.

    Raises ValueError for a network that the local bound cannot take, with the layer, and for steps or a batch_size below 1;
    TypeError for what is no GloRo Net; what `GloroNet.certify` raises.
    """
    check_net(net)
    chain(net.network, net.input_shape)  # first, as it knows better what is wrong

    def prepare(state: State) -> Callable[[Tensor], Robust]:
        norms = [stage.norm() for stage in chain(state.program.network, state.program.input_shape)]

        def at(points: Tensor) -> Robust:
            layers, inputs, _ = read_program(state.program, points, chain)
            return lambda radius, labels: robust(layers, norms, inputs, radius, labels, iterations)

        return at

    return fall_back(net, x, epsilon, prepare, steps=steps, batch_size=batch_size)


def robust(chain: list[Stage], norms: list[float], x: Tensor, radius: Tensor, labels: Tensor, iterations: int = 20) -> Tensor:
    """Whether the label of each x is proven within its radius, (batch,) bool. Arguments as in `walk` and `lipschitz`."""
    known = walk(chain, norms, x, radius)
    last = chain[-1].matrix()
    # What counts is how far the margin can fall: rounding of two logits and of the difference of two rows is taken from it.
    margins = known.logits.gather(1, labels[:, None]) - known.logits
    margins = margins - 2 * known.error[:, None] - gamma(1) * known.logits.abs().amax(dim=1, keepdim=True)
    margins = margins.scatter(1, labels[:, None], torch.inf)
    tail, below = [], 1.0
    for stage, norm in zip(reversed(chain[:-1]), reversed(norms[:-1]), strict=True):
        if stage.activation is not None:
            tail.append(below)
        below *= norm
    tail.reverse()
    lengths = (last[labels][:, None] - last).norm(dim=2) + ROOT
    unsure = ~(margins > lengths * (known.product * radius)[:, None] * (1 + 1e-12))
    yes = (margins > 0).all(dim=1)
    # The hardest rival first: most inputs fail with it or are done with it.
    for rival in (margins / lengths).argsort(dim=1).T[:-1]:
        pairs = (yes & unsure.gather(1, rival[:, None])[:, 0]).nonzero()[:, 0]
        if len(pairs):
            rows = last[labels[pairs]] - last[rival[pairs]]
            constant = lipschitz(known, rows, pairs, tail, iterations)
            margin = margins.gather(1, rival[:, None])[:, 0][pairs]
            yes[pairs] = margin > constant * radius[pairs] * (1 + 1e-12)
    return yes
