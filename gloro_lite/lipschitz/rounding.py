"""Arithmetic that errs to the safe side: upper bounds in float64, and how far a computed sum of products can be off.

The model of floating-point arithmetic is the usual one: every operation returns the exact result times (1 + d) with |d| at most
the unit roundoff, plus an error below the smallest normal number where it underflows. A sum of n products, in any order, with
fused multiply-adds or without, then errs by at most gamma_n times the sum of the products' absolute values [Higham 2002, 3.1].

Where the terms have both signs, half of that is enough. Each addition errs by a unit of its result, and each result is, but for
rounding, the sum of some of the terms: no more than all the positive ones together, or all the negative ones. The larger of those
two is half of the sum of absolute values and of the sum's own: see `Format.sum_errors`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class Upper(float):
    """A float64 upper bound: sums and products with it are rounded up, so that they are upper bounds too.

    Only for numbers that are not negative. With a tensor it is an ordinary float.
    """

    def __mul__(self, other: float) -> Upper:
        if not isinstance(other, int | float):
            return NotImplemented
        a, b = float(self), float(other)
        if a == 0 or b == 0:
            return Upper(0.0)
        if a == 1 or b == 1:
            return Upper(a * b)
        # Where the product underflows this is still above it: a normal number, as a process may treat others as 0.
        return Upper(max(math.nextafter(a * b, math.inf), DOUBLE.tiny))

    __rmul__ = __mul__

    def __add__(self, other: float) -> Upper:
        if not isinstance(other, int | float):
            return NotImplemented
        a, b = float(self), float(other)
        return Upper(a + b if a == 0 or b == 0 else math.nextafter(a + b, math.inf))

    __radd__ = __add__


def raised(value: float, parts: float = 16) -> Upper:
    """An upper bound on a number that is not negative and was computed as `value`, within `parts` units of float64's roundoff."""
    factor = 1 + math.ceil(parts / 2) * 2 * DOUBLE.unit  # a whole number of steps above 1: represented exactly
    return Upper(math.nextafter(float(value) * factor, math.inf)) if value else Upper(0.0)


@dataclass(frozen=True)
class Format:
    """A floating-point format.

    Attributes:
        unit: the unit roundoff.
        tiny: the smallest normal number; what underflows errs by less, also where subnormal numbers are flushed to 0.
        largest: the largest finite number.
    """

    unit: float
    tiny: float
    largest: float

    def gamma(self, terms: int) -> float:
        """The relative error of a sum of `terms` products; infinite where there are too many terms for the model."""
        rounded = terms * self.unit
        return rounded / (1 - rounded) * (1 + 2.0**-50) if rounded < 0.5 else math.inf

    def sum_errors(self, terms: int) -> tuple[float, float]:
        """Numbers a and c such that a sum of `terms` products and an offset, in any order, errs by at most a T + c |s|.

        T is the sum of absolute values and s the exact result. Infinite where there are too many terms for the model.
        """
        # n + 1 terms take n additions. Rounding moves the products, and with them T and s, by u T, and partial sums by gamma T.
        half = 0.5 * terms * self.unit
        return (self.unit + half + 2 * half * self.gamma(terms + 2)) * (1 + 2.0**-48), half * (1 + 2.0**-48)


def number_format(dtype: torch.dtype) -> Format:
    """The format of a floating-point dtype."""
    info = torch.finfo(dtype)
    return Format(info.eps / 2, info.tiny, info.max)


DOUBLE = number_format(torch.float64)


def power_of_two(value: float) -> float:
    """A power of two near `value`, for scaling without rounding; 1 for 0 and for what is not finite."""
    # Half the range of exponents on either side: the scaled number's inverse is representable too. That of 0, and of what is not
    # finite, is 0 in Python.
    return math.ldexp(1.0, max(-1000, min(1000, math.frexp(value)[1])))


def length_up(x: Tensor) -> Tensor:
    """Upper bounds on the lengths of the rows of x, (n, d) float64: (n,). Scaled, so that squares neither under- nor overflow."""
    if not x.shape[1]:
        return x.new_zeros(len(x))
    largest = x.abs().amax(dim=1)
    # Exponents as float64, since torch.ldexp computes powers of integers in float32. In two halves, as the whole power may not be
    # representable. The powers themselves may err by a unit or two: counted below.
    exponent = torch.frexp(largest).exponent.where(largest.isfinite(), 0).double()
    half = (exponent / 2).floor()
    rest = exponent - half
    scaled = x * torch.exp2(-half)[:, None] * torch.exp2(-rest)[:, None]
    length = torch.linalg.vector_norm(scaled, dim=1) * (1 + DOUBLE.gamma(x.shape[1] + 48))
    length = length * torch.exp2(half) * torch.exp2(rest)
    up = torch.nextafter(length, torch.full_like(length, math.inf))
    return up.where(largest > 0, largest)
