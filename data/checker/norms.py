"""Proofs that a number is an upper bound on the l2 norm of an affine layer.

A layer's map A has a norm of at most c if c^2 I - G is positive semidefinite, G = AA' or A'A. A Cholesky factor L of it is only a
proposal: what is proven is that LL' differs from the matrix by little, and LL' is semidefinite whatever L is. So neither LAPACK's
factorisation nor its solver need be trusted, but only sums of products, in any order (no Strassen).

- *Banded.* With the positions of one image row as a block, G of a convolution couples only blocks a few rows apart, so the factor
  is as narrow. A dense layer is one block.
- *Torus.* Where that is too large: a zero-padded convolution is part of a circular one on a torus that is wide enough for no two
  positions that it reads to coincide, and that one falls apart into a small matrix for each frequency.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable

import numpy as np
from network import HAIR, TINY, UNIT, Layer, absolute_norm, gamma

BANDED_LIMIT = 8192
"""Rows of the smaller side of an operator up to which the banded proof comes first; beyond it, the torus does."""

BANDED_OPERATIONS = 2e13
"""Floating-point operations that a banded factorisation may take at most: some ten minutes."""

Block = Callable[[int, int], np.ndarray]


def _transposed(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)


def _rows(x: np.ndarray) -> np.ndarray:
    """The largest row sum of absolute values over a stack of matrices, for each row."""
    return np.abs(x).sum(-1).reshape(-1, x.shape[-2]).max(0)


def _factor(block: Block, count: int, reach: int, t: float) -> float | None:
    """Bound how far t I - G is from semidefinite: returns rho with t I - G + rho I >= 0, or None where no factor is found.

    G is symmetric and made of count x count blocks, of which block(k, j) gives those with 0 <= k - j <= reach (a stack of
    matrices each, in which case the result is for all of them); the others are zero.
    """
    rows: dict[int, dict[int, np.ndarray]] = {}
    # Sums of absolute values, by block: of the residual's rows, the matrix's rows, the factor's rows and its columns.
    residual, matrix, across, down = ([0.0] * count for _ in range(4))
    terms = 0
    for k in range(count):
        first = max(0, k - reach)
        rows[k] = row = {}
        for j in range(first, k + 1):
            m = -block(k, j)
            if j == k:
                m = m + t * np.eye(m.shape[-1])
            rest = m - sum((row[i] @ _transposed(rows[j][i]) for i in range(first, j)), np.zeros(1))
            try:
                row[j] = np.linalg.cholesky(rest) if j == k else _transposed(np.linalg.solve(rows[j][j], _transposed(rest)))
            except np.linalg.LinAlgError:
                return None
            left, right = (np.concatenate([r[i] for i in range(first, j + 1)], -1) for r in (row, rows[j]))
            terms = max(terms, left.shape[-1])
            rest = m - left @ _transposed(right)
            residual[k] = residual[k] + _rows(rest)
            matrix[k] = matrix[k] + _rows(m)
            if j < k:
                residual[j] = residual[j] + _rows(_transposed(rest))
                matrix[j] = matrix[j] + _rows(_transposed(m))
            across[k] = across[k] + _rows(row[j])
            down[j] = down[j] + _rows(_transposed(row[j]))
        rows.pop(k - reach, None)
    # numpy's max, since Python's may pass over a NaN.
    largest = [float(np.max([np.max(part) for part in parts])) for parts in (residual, matrix, across, down)]
    # A symmetric matrix's norm is at most its largest row sum, and |L||L'| has row sums of at most |L|'s rows times its columns.
    rho = (largest[0] + gamma(terms + 8) * (largest[1] + largest[2] * largest[3])) * HAIR + TINY
    return rho if math.isfinite(rho) else None


def _at_most(block: Block, count: int, reach: int, error: float, t: float) -> bool:
    """Prove that every matrix within `error` (2-norm) of the symmetric G, given as in `_factor`, has no eigenvalue above t."""
    spare = error + 1e-12 * t
    for _ in range(3):
        below = (t - spare) * (1 - 2 * UNIT)
        if not below > 0:
            return False
        rho = _factor(block, count, reach, below)
        if rho is None:
            return False
        if below + (rho + error) * HAIR <= t * (1 - 2 * UNIT):
            return True
        spare = 1.5 * (rho + error)
    return False


def _square_from_below(c: float) -> float:
    return c * c * (1 - 4 * UNIT)


def _by_outputs(layer: Layer) -> bool:
    """Whether the smaller side of a convolution is its output."""
    return math.prod(layer.outputs) <= math.prod(layer.inputs)


def _reach(layer: Layer) -> int:
    """How many image rows apart two rows of the smaller side may be and still meet in the Gram matrix."""
    return (layer.weight.shape[2] - 1) // (layer.stride if _by_outputs(layer) else 1)


def _banded(layer: Layer) -> tuple[Block, int, int, float]:
    """The Gram matrix of the smaller side in blocks, one for each image row: (block, count, reach, error) for `_at_most`."""
    weight = layer.weight.astype(np.float64)
    kernel, stride = weight.shape[2], layer.stride
    (_, heights, width), (_, height_out, width_out) = layer.inputs, layer.outputs
    channels = weight.shape[1]
    # The map from one input row to one output row, for each row of the kernel.
    row_maps = np.zeros((kernel, weight.shape[0], width_out, channels, width))
    for x in range(width_out):
        for b in range(kernel):
            at = x * stride + b - 1
            if 0 <= at < width:
                row_maps[:, :, x, :, at] = weight[:, :, :, b].transpose(2, 0, 1)
    row_maps = row_maps.reshape(kernel, weight.shape[0] * width_out, channels * width)
    outputs = _by_outputs(layer)
    if outputs:  # AA': output rows k and j meet where they read the same input row
        count, longest = height_out, channels * kernel
        product = {(a, b): row_maps[a] @ row_maps[b].T for a in range(kernel) for b in range(kernel) if (b - a) % stride == 0}
    else:  # A'A: input rows meet where one output row reads both
        count, longest = heights, weight.shape[0] * kernel
        product = {(a, b): row_maps[a].T @ row_maps[b] for a in range(kernel) for b in range(kernel)}

    def block(k: int, j: int) -> np.ndarray:
        if outputs:
            pairs = [(a, a + (k - j) * stride) for a in range(kernel) if 0 <= k * stride + a - 1 < heights]
        else:
            pairs = [(k + 1 - y * stride, j + 1 - y * stride) for y in range(height_out)]
        size = next(iter(product.values())).shape[0]
        return sum((product[pair] for pair in pairs if pair in product), np.zeros((size, size)))

    # A row of a row map has `longest` weights that are not zero, and zeros do not round.
    return block, count, _reach(layer), gamma(longest + kernel + 1) * absolute_norm(layer) ** 2 * HAIR + TINY


def _dense(layer: Layer) -> tuple[Block, int, int, float]:
    weight = layer.weight.astype(np.float64)
    if weight.shape[0] > weight.shape[1]:
        weight = weight.T
    parts = [weight[:, at : at + 256] for at in range(0, weight.shape[1], 256)]  # long sums made of short ones err less
    gram = sum(part @ part.T for part in parts)
    error = gamma(256 + len(parts)) * absolute_norm(layer) ** 2 * HAIR + TINY
    return (lambda k, j: gram), 1, 0, error


def _roots(n: int) -> np.ndarray:
    """exp(-2 pi i k / n) for k = 0 to n - 1, each part within 2^-53 of the truth: Taylor's series with sixty digits."""
    with decimal.localcontext() as context:
        context.prec = 60
        pi = decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
        roots = []
        for k in range(n):
            angle = 2 * pi * k / n
            term, parts = decimal.Decimal(1), [decimal.Decimal(0), decimal.Decimal(0)]
            for power in range(80):
                parts[power % 2] += term if power % 4 < 2 else -term
                term = term * angle / (power + 1)
            roots.append(complex(float(parts[0]), -float(parts[1])))
    return np.array(roots)


def _torus(layer: Layer, claim: float) -> bool:
    """Whether the circular convolution that contains this one has a norm of at most `claim`, at every frequency."""
    weight = layer.weight.astype(np.float64)
    out, channels, kernel, _ = weight.shape
    stride = layer.stride
    # Output o reads the padded positions o stride + a. Counted in strides that is a torus of this many places, and
    # a = stride q + r a shift by q of the r-th of stride^2 kinds of input channels.
    height, width = (-(-((side - 1) * stride + kernel) // stride) for side in layer.outputs[1:])
    depth = -(-kernel // stride)
    taps = np.zeros((depth, depth, out, channels, stride, stride))
    for y in range(kernel):
        for x in range(kernel):
            taps[y // stride, x // stride, :, :, y % stride, x % stride] = weight[:, :, y, x]
    taps = taps.reshape(depth, depth, out, -1)
    if out > taps.shape[-1]:
        taps = _transposed(taps)
    small, large = taps.shape[-2:]
    # Each entry of a symbol sums depth^2 products of a weight and two roots.
    slip = (depth**2 + 16) * 2 * UNIT * depth * float(np.linalg.norm(weight)) * HAIR
    t = _square_from_below((claim - slip) * (1 - 4 * UNIT))
    if not claim > slip:
        return False
    rows, columns = _roots(height), _roots(width)
    for fy in range(height):
        # A real kernel has at frequency -f the complex conjugate of what it has at f.
        frequencies = np.arange(width if 0 < fy < height - fy else width // 2 + 1)
        if fy > height - fy:
            continue
        symbol = np.zeros((len(frequencies), small, large), complex)
        for q in range(depth):
            for p in range(depth):
                phase = rows[fy * q % height] * columns[frequencies * p % width]
                symbol += phase[:, None, None] * taps[q, p]
        # X + iY as the real matrix of blocks X, -Y, Y, X: the same norm.
        real = np.block([[symbol.real, -symbol.imag], [symbol.imag, symbol.real]])
        error = gamma(2 * large) * float(np.square(real).sum((-1, -2)).max()) * HAIR + TINY
        gram = real @ _transposed(real)
        if not _at_most(lambda k, j, gram=gram: gram, 1, 0, error, t):
            return False
    return True


def method(layer: Layer, claim: float) -> str | None:
    """By which proof `claim` is an upper bound on the norm of the layer's linear map; None where none was found."""
    if not (math.isfinite(claim) and claim >= 0):
        return None
    if not layer.weight.any():
        return "its weights, which are zero"
    t = _square_from_below(claim)
    if not layer.is_convolution:
        return "Cholesky" if min(layer.weight.shape) <= BANDED_LIMIT and _at_most(*_dense(layer), t) else None
    channels, rows, width = layer.outputs if _by_outputs(layer) else layer.inputs
    if channels * rows * width > BANDED_LIMIT:
        if _torus(layer, claim):
            return "torus"
        reach = _reach(layer)
        if rows * (2 * reach**2 + 4 * reach + 1) * float(channels * width) ** 3 > BANDED_OPERATIONS:
            return None
    return "banded Cholesky" if _at_most(*_banded(layer), t) else None


def smallest(layer: Layer, tolerance: float = 1e-9) -> float:
    """About the smallest bound that `method` proves, by bisection: above the norm by little more than the tolerance where the
    Gram matrix is factorised. Raises ValueError where it proves none.
    """
    high = absolute_norm(layer) * 1.01
    if method(layer, high) is None:
        raise ValueError(f"layer {layer.name} is too large for every proof of its norm")
    low = high / 2
    while low > 0 and method(layer, low):
        low, high = low / 2, low
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if method(layer, middle) else (middle, high)
    return high
