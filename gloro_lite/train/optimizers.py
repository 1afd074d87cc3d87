"""What moves the weights: Muon for the body's, seen as matrices, and Adam for the rest; or Adam for all."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam

from gloro_lite.net import GloroNet
from gloro_lite.train.muon import Muon
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.sphere import body_weights


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as a matrix: a kernel as (out, k k in), which is a view of it in channels_last, and a copy otherwise.

    The order of columns makes no difference to Muon.
    """
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.dim() == 4 else weight


class Optimizers:
    """The optimizers of a recipe, as one.

    Attributes:
        matrices: what Muon moves, views of the body's weights; empty where Adam moves everything.
    """

    def __init__(self, recipe: Recipe, net: GloroNet):
        on_gpu = next(net.parameters()).is_cuda
        self._weights = body_weights(net) if recipe.optimizer == "muon" else []
        self.matrices = [nn.Parameter(as_matrix(weight.data)) for weight in self._weights]
        for matrix, weight in zip(self.matrices, self._weights, strict=True):
            if matrix.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
                raise ValueError("a kernel is not in channels_last: its matrix is a copy, and training would not move it")
        muon = [(Muon(self.matrices, lr=0.0), recipe.learning_rate)] if self.matrices else []
        muon_moves = {id(weight) for weight in self._weights}
        rest = [p for p in net.parameters() if id(p) not in muon_moves]
        rate = recipe.learning_rate if recipe.optimizer == "adam" else recipe.head_learning_rate
        self._all: list[tuple[Muon | Adam, float]] = [*muon, (Adam(rest, lr=0.0, fused=on_gpu), rate)]

    def orthogonalise_in(self, precision: torch.dtype) -> None:
        """Have Muon compute in this torch.dtype."""
        for optimizer, _ in self._all:
            if isinstance(optimizer, Muon):
                optimizer.precision = precision

    def step(self, scale: float) -> None:
        """Move all weights, at `scale` times the peak rates of the recipe."""
        for matrix, weight in zip(self.matrices, self._weights, strict=True):
            assert weight.grad is not None
            matrix.grad = as_matrix(weight.grad)
        for optimizer, peak in self._all:
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()

    def state_dict(self) -> list[dict]:
        """What `load_state_dict` takes."""
        return [optimizer.state_dict() for optimizer, _ in self._all]

    def load_state_dict(self, states: list[dict]) -> None:
        """Go on from where `state_dict` was called."""
        for (optimizer, _), state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)
