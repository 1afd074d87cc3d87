"""The running average of the weights: what a run with `ema_decay` validates and reports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class RunningAverage:
    """An exponential average of parameters over the steps of training, which forgets the first weights early.

    At step t, counted from 0, its decay is min(decay, (1 + t) / (10 + t)): it averages over about the last tenth of the steps so
    far, until that is 1 / (1 - decay) steps. With the full decay from the start, what a short run reports would be mostly the
    weights that it began with: after 215 steps at 0.999, 81 %.

    Args:
        parameters: what is averaged; each call of `update` takes their values.
        decay: in [0, 1).

    Attributes:
        means: the averages, in the order of the parameters.
        steps: how many updates they hold.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float):
        self._parameters, self._decay = parameters, decay
        self.means = [p.detach().clone() for p in parameters]
        self.steps = 0

    def update(self) -> None:
        """Count the parameters' present values in."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(self.means, self._parameters, None)
        self.steps += 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the parameters have the averaged values."""
        kept = [p.detach().clone() for p in self._parameters]
        self._assign(self.means)
        try:
            yield
        finally:
            self._assign(kept)

    @torch.no_grad()
    def _assign(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict:
        """What `load_state_dict` takes."""
        return {"means": self.means, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Go on from where `state_dict` was called."""
        for mean, saved in zip(self.means, state["means"], strict=True):
            mean.copy_(saved)
        self.steps = state["steps"]
