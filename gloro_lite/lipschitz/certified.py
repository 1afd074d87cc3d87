"""The certified bound: a true upper bound on the l2 Lipschitz constant, in float64 with rounding accounted for.

A linear operator's norm is proven by whichever of these fits, and the smallest is taken:

- *Unrolled.* Where the smaller side of the operator has at most `UNROLLED_LIMIT` rows, its Gram matrix G is formed, an iteration
  proposes t a hair above the largest eigenvalue, and a Cholesky factorisation of t I - G proves it.
- *Torus.* A zero-padded convolution is a restriction of a circular one on a torus that is large enough for no two positions
  that it reads to coincide; that one is block-diagonal in the Fourier basis. A stride of s folds into s^2 as many channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gloro_lite.lipschitz.compose import check_deterministic, check_finite, expression
from gloro_lite.lipschitz.operators import LinearOperator, Shape

UNROLLED_LIMIT = 8192
"""Largest Gram matrix that is formed, in rows: 0.5 GB in float64, of which three are needed."""

_SOLVED = 1024
"""Up to this size all eigenvalues are computed; beyond it, iterating for the largest takes less time."""

_UNIT = 2.0**-53  # unit roundoff of float64
_UP = 1 + 8 * _UNIT  # covers the rounding of a few scalar operations


def _gamma(n: int) -> float:
    """Higham's gamma_n: the relative error of a sum of n products in float64."""
    return n * _UNIT / (1 - n * _UNIT)


def _largest_eigenvalue(gram: Tensor, error: float) -> float:
    """Bound the largest eigenvalue of every exact matrix within `error` (2-norm) of the Hermitian `gram`, (..., n, n).

    Floating-point Cholesky that runs to its end on M proves M >= -gamma trace(M) / (1 - gamma) [Rump 2006], so whatever proposes
    the eigenvalue need not be trusted, only the three loops of Cholesky.
    """
    n = gram.shape[-1]
    top = _proposed_eigenvalue(gram)
    trace = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1).max().item()
    if top <= 0:
        return max(trace, 0.0) * _UP + error
    hair = 1e-10 if n <= _SOLVED else 1e-7
    identity = torch.eye(n, dtype=gram.dtype, device=gram.device)
    while hair < 1:
        t = top * (1 + hair)
        _, failed = torch.linalg.cholesky_ex(t * identity - gram)
        if not failed.any():
            # Complex arithmetic multiplies the rounding of one operation by less than 4.
            gamma = _gamma(4 * (n + 2))
            return t + gamma / (1 - gamma) * n * t + error
        hair *= 10
    return trace * _UP + error  # not reached in practice; the trace bounds the largest eigenvalue of a Gram matrix


def _proposed_eigenvalue(gram: Tensor) -> float:
    """About the largest eigenvalue of the Hermitian `gram`, (..., n, n), the largest of all of them."""
    n = gram.shape[-1]
    if n <= _SOLVED or gram.dim() > 2:
        return torch.linalg.eigvalsh(gram).max().item()
    start = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=gram.dtype)
    return torch.lobpcg(gram, X=start, niter=60, tol=1e-6)[0].max().item()


def unrolled_norm(operator: LinearOperator) -> float:
    """The norm of an operator from above, by its Gram matrix and a Cholesky certificate; exact but for rounding."""
    rows, columns = math.prod(operator.output_shape), math.prod(operator.input_shape)
    size = min(rows, columns)
    there, back = operator.forward, operator.adjoint
    shape = operator.input_shape
    if rows < columns:
        there, back, shape = operator.adjoint, operator.forward, operator.output_shape
    gram = torch.empty(size, size, dtype=torch.float64)
    squares = 0.0
    chunk = max(1, 2**24 // max(rows, columns))
    for start in range(0, size, chunk):
        stop = min(start + chunk, size)
        basis = torch.zeros(stop - start, size, dtype=torch.float64)
        basis[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        image = there(basis.view(-1, *shape))
        squares += image.square().sum().item()
        gram[start:stop] = back(image).reshape(stop - start, size)
    gram = (gram + gram.T) / 2
    # Entry by entry |error| <= gamma |A| |A|^T, whose norm is at most that of A in Frobenius' sense, squared.
    error = _gamma(2 * operator.terms + 4) * squares * (1 + 1e-6)
    return math.sqrt(_largest_eigenvalue(gram, error)) * _UP


def torus_norm(operator: LinearOperator) -> float:
    """A bound on the norm of a zero-padded convolution, that of a circular one; tighter the larger the image."""
    layer = operator.convolution
    weight = layer.weight.detach().to("cpu", torch.float64)
    out_channels, in_channels = weight.shape[:2]
    groups = layer.groups
    # Along each axis output o reads the inputs o s + d a: a span of positions that the torus must keep apart.
    sides, periods = [], []
    for axis, outputs in enumerate(operator.output_shape[1:]):
        stride, dilation = layer.stride[axis], layer.dilation[axis]
        span = (outputs - 1) * stride + dilation * (layer.kernel_size[axis] - 1) + 1
        sides.append(-(-span // stride))
        periods.append(stride)
    # Polyphase: tap a sits at d a = s q + r, shift q of the r-th of s phases; several taps never share a place.
    taps = [[divmod(layer.dilation[axis] * a, periods[axis]) for a in range(layer.kernel_size[axis])] for axis in range(2)]
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
    error = _gamma(4 * symbol.shape[-1] + int(4 * steps)) * max(squares, kernel.square().sum().item()) * 4
    top = 0.0
    chunk = max(1, 2**22 // symbol.shape[-2] ** 2)
    for part in symbol.split(chunk):
        top = max(top, _largest_eigenvalue(part @ part.mH, error))
    return math.sqrt(top) * _UP


def operator_norm(operator: LinearOperator) -> float:
    """A true upper bound on the l2 norm of a linear operator, the tightest of those in this file that fit.

    Raises ValueError where none fits: an operator that is no single convolution and is too large to be unrolled.
    """
    for weight in operator.weights():
        if not weight.isfinite().all():
            raise ValueError("a layer holds NaN or infinite weights: it has no Lipschitz bound")
    with torch.no_grad():
        bounds = []
        if min(math.prod(operator.input_shape), math.prod(operator.output_shape)) <= UNROLLED_LIMIT:
            bounds.append(unrolled_norm(operator))
        elif operator.convolution is not None:
            bounds.append(torus_norm(operator))
        if not bounds:
            raise ValueError(f"a linear operator of {operator.input_shape} to {operator.output_shape} is too large to unroll")
        return min(bounds)


def upper_bound(module: nn.Module, input_shape: Shape) -> float:
    """A true upper bound on the l2 Lipschitz constant of `module` (Equation 2: the product over its layers).

    Args:
        module: any nesting of nn.Sequential, `gloro_lite.Residual` and layers with a bound.
        input_shape: the shape of one input, without the batch dimension; it decides a convolution's norm.

    Returns: output units per input unit (float).

    Raises:
        UnknownLayerError: a layer without a bound; says which and how to register one.
        ValueError: weights that are not finite, a layer in training mode that is then no fixed function, a wrong shape.
    """
    check_finite(module)
    check_deterministic(module)
    walked, _ = expression(module, input_shape)
    with torch.no_grad():
        bound = float(walked.bound(lambda _, operator: operator_norm(operator)))
    if not math.isfinite(bound):
        raise ValueError("the Lipschitz bound overflows: the weights are too large to be certified")
    # One rounding for each factor or term of the expression.
    return bound * (1 + 4 * _UNIT * (1 + len(list(module.modules()))))
