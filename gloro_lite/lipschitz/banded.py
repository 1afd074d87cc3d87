"""The Gram matrix of a zero-padded convolution in blocks, and its Cholesky factorisation block by block.

With the numbers of one image row as a block, A of a convolution maps an image row to the few rows that read it, and its Gram
matrix couples only rows that are near each other. The Cholesky factor of a banded matrix is as narrow, so that a factorisation
costs the number of rows times the cube of their length, and no more than a band of it is in memory at a time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_lite.lipschitz.affine import Convolution


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
        sides = (*operator.input_shape[1:], 1)[:2], (*operator.output_shape[1:], 1)[:2]
        before = (*operator.padding[::2][::-1], 0)[:2]
        # Bands run along the longer axis: the shorter one makes shorter blocks.
        self._turned = sides[0][1] > sides[0][0]
        axis = int(self._turned)
        self._kernel, self._stride, self._dilation = (
            (*each, 1)[axis] for each in (operator.kernel, operator.stride, operator.dilation)
        )
        self._before = before[axis]
        (self._inputs, input_width), (self._outputs, output_width) = (side[::-1] if axis else side for side in sides)
        span = (self._kernel - 1) * self._dilation
        # Output rows meet where they read the same input row, input rows where one output row reads both.
        candidates = [
            (self._outputs, operator.output_shape[0] * output_width, span // self._stride, True),
            (self._inputs, operator.input_shape[0] * input_width, span, False),
        ]
        self.cost, (self.count, block, reach, self._of_outputs) = min((_cost(*each[:3]), each) for each in candidates)
        self.reach = min(reach, self.count - 1)
        self.size, self.band = self.count * block, (self.reach + 1) * block
        self._maps: Tensor | None = None
        self._blocks: dict[tuple[tuple[int, int], ...], Tensor] = {}

    @property
    def maps(self) -> Tensor:
        """What an output row takes from an input row, for each row of the kernel: (kernel rows, output row, input row)."""
        if self._maps is None:
            self._maps = self._row_maps()
        return self._maps

    def _row_maps(self) -> Tensor:
        of = self._operator
        weight = of.weight.detach().to("cpu", torch.float64) * self._scale
        stride, dilation, padding = of.stride, of.dilation, of.padding
        sides = of.input_shape[1:]
        if of.axes == 1:
            # A row is a single position.
            weight, stride, dilation, padding, sides = (
                weight[..., None],
                (*stride, 1),
                (*dilation, 1),
                (0, 0, *padding),
                (*sides, 1),
            )
        if self._turned:
            weight, stride, dilation, padding, sides = weight.mT, stride[::-1], dilation[::-1], padding[2:], sides[::-1]
        length = of.input_shape[0] * sides[1]
        # Each number of a row by itself: no two taps of a kernel's row read the same one, so that nothing is rounded.
        basis = F.pad(torch.eye(length, dtype=torch.float64).view(length, of.input_shape[0], 1, sides[1]), padding[:2])
        columns = [
            F.conv2d(basis, weight[:, :, a : a + 1], None, (1, stride[1]), 0, (1, dilation[1]), of.groups).flatten(1).T
            for a in range(self._kernel)
        ]
        return torch.stack(columns)

    def _pairs(self, k: int, j: int) -> tuple[tuple[int, int], ...]:
        """Rows of the kernel through which rows k and j of blocks meet."""
        taps = range(self._kernel)
        if self._of_outputs:
            read = {a: k * self._stride + a * self._dilation - self._before for a in taps}
            other = {j * self._stride + b * self._dilation - self._before: b for b in taps}
            return tuple((a, other[row]) for a, row in read.items() if row in other and 0 <= row < self._inputs)
        pairs = []
        for output in range(self._outputs):
            start = output * self._stride - self._before
            (a, rest), (b, rest_of_b) = divmod(k - start, self._dilation), divmod(j - start, self._dilation)
            if not rest and not rest_of_b and a in taps and b in taps:
                pairs.append((a, b))
        return tuple(pairs)

    def entry(self, k: int, j: int) -> Tensor:
        """The block of G in row k and column j of blocks; rows that meet through the same rows of the kernel share it."""
        pairs = self._pairs(k, j)
        if pairs not in self._blocks:
            maps = self.maps if self._of_outputs else self.maps.mT
            left, right = (torch.cat([maps[pair[side]] for pair in pairs] or [maps[0, :, :0]], dim=1) for side in (0, 1))
            self._blocks[pairs] = left @ right.T
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
