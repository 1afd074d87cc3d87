"""The Gram matrix of a zero-padded convolution in blocks, and its Cholesky factorisation block by block.

With the numbers of one image row as a block, A of a convolution maps an image row to the few rows that read it, and its Gram
matrix couples only rows that are near each other. The Cholesky factor of a banded matrix is as narrow, so that a factorisation
costs the number of rows times the cube of their length, and no more than a band of it is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gloro_lite.lipschitz.affine import Convolution


class _Axis(NamedTuple):
    """A convolution along one axis: the output at x reads, by its tap t, the input at x stride + t dilation - before."""

    kernel: int
    stride: int
    dilation: int
    before: int
    inputs: int
    outputs: int

    @property
    def span(self) -> int:
        """How far apart the inputs can be that an output reads."""
        return (self.kernel - 1) * self.dilation

    def joined(self, place: int, of_outputs: bool) -> Iterator[tuple[int, int]]:
        """The inputs that the output at a place reads, or the outputs that read the input there, each with its tap."""
        for tap in range(self.kernel):
            if of_outputs:
                other, rest, count = place * self.stride + tap * self.dilation - self.before, 0, self.inputs
            else:
                (other, rest), count = divmod(place + self.before - tap * self.dilation, self.stride), self.outputs
            if not rest and 0 <= other < count:
                yield other, tap

    def meetings(self, k: int, j: int, of_outputs: bool) -> tuple[tuple[int, int], ...]:
        """Pairs of taps by which places k and j of the outputs read the same input or, of the inputs, are read by one output."""
        others = dict(self.joined(j, of_outputs))
        return tuple((tap, others[place]) for place, tap in self.joined(k, of_outputs) if place in others)


class BandedGram:
    """The Gram matrix G of a zero-padded convolution, on whichever side makes it cheaper to factorise.

    Args:
        operator: a convolution of one or two axes.
        scale: the weights are taken times this power of two.

    Attributes:
        size: rows of G.
        band: at most so many numbers of a row of G's Cholesky factor are not zero.
        cost: operations of a factorisation, about.
    """

    def __init__(self, operator: Convolution, scale: float = 1.0):
        self._operator, self._scale = operator, scale
        # A single axis is the first of two, of which the other has one place.
        each = (operator.kernel, operator.stride, operator.dilation)
        before = (*operator.padding[::2][::-1], 0)
        sides = [(*shape[1:], 1) for shape in (operator.input_shape, operator.output_shape)]
        axes = [_Axis(*numbers) for numbers in zip(*((*e, 1) for e in each), before, *sides, strict=False)][:2]
        # Bands run along the longer axis: the shorter one makes shorter blocks.
        self._turned = axes[1].inputs > axes[0].inputs
        self._along, self._across = along, across = axes[::-1] if self._turned else axes
        # Output rows meet where they read the same input row, input rows where one output row reads both.
        candidates = [
            (along.outputs, operator.output_shape[0] * across.outputs, along.span // along.stride, True),
            (along.inputs, operator.input_shape[0] * across.inputs, along.span, False),
        ]
        self.cost, (self.count, block, reach, self._of_outputs) = min((_cost(*each[:3]), each) for each in candidates)
        self.reach = min(reach, self.count - 1)
        self.size, self.band = self.count * block, (self.reach + 1) * block
        self._width = across.outputs if self._of_outputs else across.inputs
        self._blocks: dict[tuple[tuple[int, int], ...], Tensor] = {}

    @cached_property
    def _taps(self) -> Tensor:
        """What a channel of G's side takes from one of the other side: (taps along, taps across, channels, others)."""
        weight = self._operator.weight.detach().to("cpu", torch.float64) * self._scale
        weight = weight.view(*weight.shape[:3], -1)
        groups = self._operator.groups
        # Channels of different groups do not meet: zeros.
        dense = weight.new_zeros(len(weight), groups * weight.shape[1], *weight.shape[2:])
        for group, (rows, part) in enumerate(zip(dense.chunk(groups), weight.chunk(groups), strict=True)):
            rows[:, group * weight.shape[1] : (group + 1) * weight.shape[1]] = part
        taps = dense.permute(2, 3, 0, 1)
        taps = taps.transpose(0, 1) if self._turned else taps
        return taps if self._of_outputs else taps.mT

    @cached_property
    def _meetings(self) -> dict[tuple[int, int], tuple[list[int], list[int]]]:
        """For each pair of taps across, the places of a row that meet by it."""
        places: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        for k in range(self._width):
            for j in range(max(0, k - self._across.span), min(self._width, k + self._across.span + 1)):
                for taps in self._across.meetings(k, j, self._of_outputs):
                    first, second = places.setdefault(taps, ([], []))
                    first.append(k)
                    second.append(j)
        return places

    def entry(self, k: int, j: int) -> Tensor:
        """The block of G in row k and column j of blocks; rows that meet through the same rows of the kernel share it."""
        pairs = self._along.meetings(k, j, self._of_outputs)
        if pairs not in self._blocks:
            taps, channels = self._taps, self._taps.shape[2]
            block = taps.new_zeros(channels, self._width, channels, self._width)
            # Which numbers of two rows meet depends on their places alone: small products, put where they belong, each pair of
            # places once in a list.
            for (across, other), (first, second) in self._meetings.items():
                for along, another in pairs:
                    block[:, first, :, second] += taps[along, across] @ taps[another, other].T
            self._blocks[pairs] = block.view(channels * self._width, -1)
        return self._blocks[pairs]

    def squares(self) -> float:
        """The sum of all squared entries of A: the trace of G."""
        return sum(self.entry(k, k).diagonal().sum().item() for k in range(self.count))

    def is_below(self, t: float) -> bool:
        """Whether the Cholesky factorisation of t I - G runs to its end, in float64."""
        rows: dict[int, dict[int, Tensor]] = {}  # the factor's blocks by row and column, of the last few rows
        for k in range(self.count):
            first = max(0, k - self.reach)
            row = rows[k] = {}
            for j in range(first, k + 1):
                rest = -self.entry(k, j)
                if j == k:
                    rest.diagonal().add_(t)
                for i in range(first, j):
                    rest.addmm_(row[i], rows[j][i].T, alpha=-1)
                if j < k:
                    row[j] = torch.linalg.solve_triangular(rows[j][j].T, rest, upper=True, left=False)
                else:
                    row[j], failed = torch.linalg.cholesky_ex(rest)
                    # A comparison that NaN fails.
                    if failed or not row[j].diagonal().min() > 0:
                        return False
            rows.pop(k - self.reach, None)
        return True

    def times(self, v: Tensor) -> Tensor:
        """G v, (size,)."""
        of = self._operator
        shape = of.output_shape if self._of_outputs else of.input_shape
        there, back = (of.adjoint, of.forward) if self._of_outputs else (of.forward, of.adjoint)
        return (back(there(v.view(1, *shape)) * self._scale) * self._scale).flatten()


def _cost(count: int, block: int, reach: int) -> float:
    reach = min(reach, count - 1)
    # For each row of blocks: products, solves, and a factorisation. Small blocks cost what the calls do.
    return count * (reach * (reach + 1) + reach + 1 / 3) * max(block, 64) ** 3.0


def fits(operator: Convolution) -> bool:
    """Whether a convolution has a banded Gram matrix: none whose padding joins one side of an image to the other."""
    return operator.layer.padding_mode == "zeros"
