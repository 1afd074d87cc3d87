"""Proofs that a number is at least the l2 norm of a linear operator, in float64 with rounding counted.

- *Unrolled.* Where the smaller side of the operator has at most `UNROLLED_LIMIT` rows, its Gram matrix G is formed, an iteration
  proposes t a hair above the largest eigenvalue, and a Cholesky factorisation of t I - G proves it.
- *Banded.* The Gram matrix of a zero-padded convolution is banded, see `banded.py`: the same proof reaches much further, up to
  `BANDED_LIMIT`.
- *Torus.* A zero-padded convolution is a restriction of a circular one on a torus that is large enough for no two positions
  that it reads to coincide; that one is block-diagonal in the Fourier basis. A stride of s folds into s^2 as many channels.
- *Absolute.* For an operator without negative entries, M = A^T A and any positive v, the largest (M v)_i / v_i is at least the
  largest eigenvalue of M (Collatz and Wielandt): a few steps of the power iteration make it tight.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gloro_lite.lipschitz.affine import Convolution
from gloro_lite.lipschitz.banded import BandedGram, fits
from gloro_lite.lipschitz.errors import NetworkError
from gloro_lite.lipschitz.nodes import Affine, Bound, Chain, Parallel
from gloro_lite.lipschitz.rounding import DOUBLE, Upper, length_up, power_of_two, raised
from gloro_lite.precision import on_cpu

UNROLLED_LIMIT = 8192
"""Largest Gram matrix that is formed, in rows: 0.5 GB in float64, of which three are needed."""

BANDED_LIMIT = 1.5e12
"""Largest banded Gram matrix that is factorised, in operations: a minute or so on one core. Beyond it stands the torus bound."""

BANDED_ROWS = 2**18
"""Largest banded Gram matrix in rows: the iteration that proposes its norm keeps two hundred vectors as long."""

_SPAN_LIMIT = 120
"""By so many powers of two the layers of a composed operator may move numbers together: for more, its parts are bounded alone."""

_ENTRIES = 2**24
"""Numbers of a matrix that are computed at a time."""

_SOLVED = 1024
"""Up to this size all eigenvalues are computed; beyond it, iterating for the largest takes less time."""


def _largest_eigenvalue(gram: Tensor, error: float) -> float:
    """Bound the largest eigenvalue of every exact matrix within `error` (2-norm) of the Hermitian `gram`, (..., n, n)."""
    n = gram.shape[-1]
    trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1).max().item()
    identity = torch.eye(n, dtype=gram.dtype, device=gram.device)

    def is_below(t: float) -> bool:
        return not torch.linalg.cholesky_ex(t * identity - gram)[1].any()

    top = _proposed_eigenvalue(gram) if math.isfinite(trace) else math.inf
    return _proven_eigenvalue(top, is_below, n, n, trace, error)


def _proven_eigenvalue(top: float, is_below: Callable[[float], bool], size: int, band: int, trace: float, error: float) -> float:
    """Bound the largest eigenvalue of every exact matrix within `error` (2-norm) of a Hermitian G.

    Floating-point Cholesky that runs to its end on M proves M >= -gamma trace(M) / (1 - gamma) [Rump 2006], with gamma of the
    longest sum. So whatever proposes the eigenvalue need not be trusted, only the three loops of Cholesky.

    Args:
        top: about the largest eigenvalue of G.
        is_below: whether Cholesky runs to its end on t I - G.
        size: rows of G.
        band: at most so many numbers of a row of the factor are not zero.
        trace: of G, or a stack's largest.
    """
    if not math.isfinite(trace) or not math.isfinite(top):
        return math.inf
    if top <= 0:
        return raised(max(trace, 0.0), size) + error
    hair = 1e-10 if size <= _SOLVED else 1e-7
    # Complex arithmetic multiplies the rounding of one operation by less than 4.
    gamma = DOUBLE.gamma(4 * (band + 2))
    while hair < 1:
        t = top * (1 + hair)
        if is_below(t):
            # The difference on the diagonal is rounded, by less than a unit of t each.
            return raised(t) + gamma / (1 - gamma) * raised(size * t) + 4 * DOUBLE.unit * t + error
        hair *= 4
    return raised(trace, size) + error  # not reached in practice; the trace bounds the largest eigenvalue of a Gram matrix


def _proposed_eigenvalue(gram: Tensor) -> float:
    """About the largest eigenvalue of the Hermitian `gram`, (..., n, n), the largest of all of them."""
    n = gram.shape[-1]
    if not gram.isfinite().all():
        return 0.0
    if n <= _SOLVED or gram.dim() > 2:
        return torch.linalg.eigvalsh(gram).max().item()
    return _lanczos(lambda v: gram @ v, n)


def _lanczos(times: Callable[[Tensor], Tensor], size: int, steps: int = 600, tolerance: float = 1e-12) -> float:
    """About the largest eigenvalue of a symmetric matrix, given by its product with a vector, from below."""
    basis = torch.zeros(min(steps, size), size, dtype=torch.float64)
    v = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = v / v.norm()
    tridiagonal = torch.zeros(len(basis) + 1, len(basis) + 1, dtype=torch.float64)
    top = 0.0
    for k in range(len(basis)):
        basis[k] = v
        w = times(v)
        tridiagonal[k, k] = w @ v
        # Without rounding the last two would be enough; then against all of them, so that nothing that was found is found again.
        for part in (basis[max(0, k - 1) : k + 1], basis[: k + 1]):
            w = w - part.T @ (part @ w)
        tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = length = w.norm()
        exhausted = length <= 1e-10 * tridiagonal.abs().max()
        if k % 10 == 9 or k == len(basis) - 1 or exhausted:
            before, top = top, torch.linalg.eigvalsh(tridiagonal[: k + 1, : k + 1])[-1].item()
            if top - before <= tolerance * top or exhausted:
                break
        v = w / length
    return top


@on_cpu
def unrolled_norm(operator: Affine) -> Upper:
    """The norm of an operator from above, by its Gram matrix and a Cholesky certificate; exact but for rounding."""
    rows, columns = math.prod(operator.output_shape), math.prod(operator.input_shape)
    size = min(rows, columns)

    def maps(of: Affine):
        return (of.adjoint, of.forward, of.output_shape) if rows < columns else (of.forward, of.adjoint, of.input_shape)

    composed = isinstance(operator, Chain | Parallel)
    if composed and not _span(operator) < _SPAN_LIMIT:
        return _parts_bound(operator)  # products of such weights would underflow or overflow
    # Padding that repeats the image lets several weights meet one pixel: their sum may cancel as well.
    sums = composed or (isinstance(operator, Convolution) and operator.layer.padding_mode != "zeros")
    there, back, shape = maps(operator)
    # The entries of A A^T are sums of products of A's entries: exact ones for a single layer, while those of a composed
    # operator are rounded sums themselves, whose terms may cancel. The same composition of absolute values bounds what was lost.
    absolute = maps(operator.absolute())[0] if sums else None
    gram = torch.empty(size, size, dtype=torch.float64)
    squares = 0.0
    # A power of two that brings the weights near 1: their squares neither under- nor overflow.
    scale = 1 / power_of_two(max((w.abs().max().item() for w in operator.weights()), default=1.0))
    chunk = max(1, _ENTRIES // max(rows, columns))
    for start in range(0, size, chunk):
        stop = min(start + chunk, size)
        basis = torch.zeros(stop - start, size, dtype=torch.float64)
        basis[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        basis = basis.view(-1, *shape)
        image = there(basis) * scale
        largest = image if absolute is None else absolute(basis) * scale
        squares += largest.square().sum().item()
        gram[start:stop] = back(image).reshape(stop - start, size) * scale
    gram = (gram + gram.T) / 2
    # Entry by entry |error| <= gamma |A| |A|^T, whose norm is at most that of A in Frobenius' sense, squared.
    underflow = _underflow(operator, size)
    if composed:  # what underflows on the way is stretched by the parts behind it, there and back, and by the scale
        underflow *= 2.0 ** (4 * _SPAN_LIMIT)
    error = raised(DOUBLE.gamma(4 * operator.terms + 8) * squares, size) * (1 + 1e-6) + underflow
    return raised(math.sqrt(_largest_eigenvalue(gram, error))) * (1 / scale)


def banded_norm(operator: Convolution) -> Upper:
    """The norm of a zero-padded convolution from above, by the banded form of its Gram matrix; exact but for rounding."""
    scale = 1 / power_of_two(operator.weight.detach().abs().max().item())
    gram = BandedGram(operator, scale)
    squares = gram.squares()
    # As for the dense matrix; a block's entries are sums of the same products, and its zeros round nothing.
    error = raised(DOUBLE.gamma(4 * operator.terms + 8) * squares, gram.size) * (1 + 1e-6) + _underflow(operator, gram.size)
    top = _lanczos(gram.times, gram.size) if math.isfinite(squares) else math.inf
    return raised(math.sqrt(_proven_eigenvalue(top, gram.is_below, gram.size, gram.band, squares, error))) * (1 / scale)


def _underflow(operator: Affine, size: int) -> float:
    """By how much underflow may move a Gram matrix of so many rows: in each entry a few products and additions for each term."""
    return 8 * DOUBLE.tiny * size * operator.terms


def torus_norm(operator: Convolution) -> Upper:
    """A bound on the norm of a zero-padded Conv2d, that of a circular one; tighter the larger the image."""
    weight = operator.weight.detach().to("cpu", torch.float64)
    scale = 1 / power_of_two(weight.abs().max().item())
    weight = weight * scale
    out_channels, in_channels = weight.shape[:2]
    groups = operator.groups
    # Along each axis output o reads the inputs o s + d a: a span of positions that the torus must keep apart.
    sides, periods = [], []
    for axis, outputs in enumerate(operator.output_shape[1:]):
        stride, dilation = operator.stride[axis], operator.dilation[axis]
        span = (outputs - 1) * stride + dilation * (operator.kernel[axis] - 1) + 1
        sides.append(-(-span // stride))
        periods.append(stride)
    # Polyphase: tap a sits at d a = s q + r, shift q of the r-th of s phases; several taps never share a place.
    taps = [[divmod(operator.dilation[axis] * a, periods[axis]) for a in range(operator.kernel[axis])] for axis in range(2)]
    depth = [max(q for q, _ in axis) + 1 for axis in taps]
    kernel = torch.zeros(out_channels, in_channels, *periods, *depth, dtype=torch.float64)
    for a, (q, r) in enumerate(taps[0]):
        for b, (p, t) in enumerate(taps[1]):
            kernel[:, :, r, t, q, p] = weight[:, :, a, b]
    kernel = kernel.view(groups, out_channels // groups, in_channels * math.prod(periods), *depth)
    symbol = torch.fft.rfft2(kernel, s=sides).permute(0, 3, 4, 1, 2)  # (groups, frequencies..., out, in x phases)
    if symbol.shape[-2] > symbol.shape[-1]:
        symbol = symbol.mH
    symbol = symbol.reshape(-1, *symbol.shape[-2:])
    # The transform errs by a few log2(n) roundings of the sum of the taps, each entry of the product by its own sum.
    squares = symbol.abs().square().sum(dim=(1, 2)).max().item()
    steps = 8 * (math.ceil(math.log2(math.prod(sides) + 1)) + 4) * math.sqrt(math.prod(depth))
    error = raised(DOUBLE.gamma(4 * symbol.shape[-1] + int(4 * steps)) * max(squares, kernel.square().sum().item()) * 4)
    top = 0.0
    chunk = max(1, _ENTRIES // symbol.shape[-2] ** 2)
    for part in symbol.split(chunk):
        top = max(top, _largest_eigenvalue(part @ part.mH, error))
    return raised(math.sqrt(top)) * (1 / scale)


@on_cpu
def absolute_norm(operator: Affine, iterations: int = 12) -> Upper:
    """A bound on the norm of the operator with absolute values for weights, which bounds rounding: true, rarely tight."""
    absolute = operator.core().absolute()
    with torch.no_grad():
        largest = max((w.abs().max().item() for w in absolute.weights()), default=1.0)
        if largest == 0:
            return Upper(0.0)
        if not math.isfinite(largest):
            return Upper(math.inf)
        scale = 1 / power_of_two(largest)
        v = torch.ones(1, *absolute.input_shape, dtype=torch.float64)
        best = math.inf
        for _ in range(iterations):
            image = absolute.adjoint(absolute.forward(v) * scale) * scale
            # Every positive v gives a bound; entries that nothing reads have a quotient of 0.
            best = min(best, (image / v).max().item())
            v = (image / image.max().clamp_min(1e-300)).clamp_min(1e-6)
    slack = 1 + 2 * DOUBLE.gamma(4 * absolute.terms + 8)
    return raised(math.sqrt(best * slack)) * (1 / scale)


def _span(operator: Affine) -> float:
    """By how many powers of two an operator may move the sizes of numbers, up or down, those of a chain's parts together."""
    if isinstance(operator, Chain):
        return sum(map(_span, operator.parts))
    if isinstance(operator, Parallel):
        return max(map(_span, operator.parts)) + math.log2(len(operator.parts))
    with torch.no_grad():
        largest = operator.absolute().forward(torch.ones(1, *operator.input_shape, dtype=torch.float64)).max().item()
    return abs(math.log2(largest)) if 0 < largest < math.inf else math.inf if largest else 0.0


def _parts_bound(operator: Chain | Parallel) -> Upper:
    """The product of the norms of a chain, the sum of those of parallel operators."""
    parts = [_parts_bound(part) if isinstance(part, Chain | Parallel) else operator_norm(part) for part in operator.parts]
    return Upper(math.prod(parts, start=Upper(1.0)) if isinstance(operator, Chain) else sum(parts))


def _proofs(operator: Affine) -> dict[Callable[..., Upper], float]:
    """The proofs of this file that fit an operator, with the operations that each takes, about; of the torus none are counted,
    since it comes last: its bound alone is larger than the norm.
    """
    side = min(math.prod(operator.input_shape), math.prod(operator.output_shape))
    proofs: dict[Callable[..., Upper], float] = {}
    if side <= UNROLLED_LIMIT:
        proofs[unrolled_norm] = side**3 / 3 if side > _SOLVED else 0.0
    if isinstance(operator, Convolution) and fits(operator):
        gram = BandedGram(operator)
        if gram.cost <= BANDED_LIMIT and gram.size <= BANDED_ROWS:
            proofs[banded_norm] = gram.cost
    if isinstance(operator, Convolution) and operator.on_torus and not proofs:
        proofs[torus_norm] = 0.0
    return proofs


def check_provable(operator: Affine) -> None:
    """Raise NetworkError where no proof in this file fits the operator."""
    core = operator.core()
    if not _proofs(core):
        raise NetworkError(
            f"a linear map of {core.input_shape} to {core.output_shape} is too large to prove its norm: its smaller side may "
            f"have {UNROLLED_LIMIT} numbers, unless it is a single zero-padded convolution",
            operator.name,
            type(operator.layer).__name__,
        )


@on_cpu
def operator_norm(operator: Affine) -> Upper:
    """A true upper bound on the l2 norm of a linear operator, by the cheapest exact proof of this file that fits, or the torus.

    Args:
        operator: see `gloro_lite.lipschitz.linear_operator`; it must be on the CPU.

    Raises NetworkError where none fits, and for weights that are not finite.
    """
    if not isinstance(operator, Affine):
        raise TypeError(f"an operator is needed, not {operator!r}: linear_operator gives None for a layer that is not affine")
    check_provable(operator)
    core = operator.core()
    for weight in core.weights():
        if not weight.isfinite().all():
            raise NetworkError(
                "it holds NaN or infinite weights: no bound can be given", operator.name, type(operator.layer).__name__
            )
    proofs = _proofs(core)
    with torch.no_grad():
        return min(proofs, key=proofs.__getitem__)(core)


class Proven:
    """The numbers of a certificate: see `nodes.Norms`. Notes each operator's norm by its layer's name."""

    def __init__(self) -> None:
        self.norms: dict[str, float] = {}
        self._known: dict[Affine, Upper] = {}

    def operator(self, node: Affine) -> Upper:
        """The proven norm, once for each node."""
        if node not in self._known:
            self._known[node] = operator_norm(node)
            self.norms[node.name] = float(self._known[node])
        return self._known[node]

    def constant(self, value: Bound) -> Upper:
        """A closed form: a float as it is; a tensor was computed, in float64, with a few roundings."""
        return raised(float(value.detach()), 64) if isinstance(value, Tensor) else Upper(value)


def row_distances(rows: Tensor) -> Tensor:
    """Upper bounds on ||w_j - w_i|| for all rows of W, (classes, features): (classes, classes) float64, 0 for equal rows."""
    # Equal rows once: they may all be zeros. A scale that is a power of two, for squares that neither underflow nor overflow.
    rows, place = rows.detach().to("cpu", torch.float64).unique(dim=0, return_inverse=True)
    scale = power_of_two(rows.abs().max().item())
    scaled = rows / scale
    # Differences, not a product of matrices, which cancels; each is rounded by one unit of itself.
    distances = torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist")
    distances = distances * (1 + DOUBLE.gamma(rows.shape[1] + 16))
    first, second = (distances < 1e-140).fill_diagonal_(False).nonzero(as_tuple=True)  # whose squares do underflow
    distances[first, second] = length_up(scaled[first] - scaled[second]) * (1 + 4 * DOUBLE.unit)
    # No less than a normal number: a process may treat others as 0.
    distances = (distances * scale).clamp_min(DOUBLE.tiny).fill_diagonal_(0.0)
    return distances[place][:, place]
