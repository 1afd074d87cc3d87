"""One step of training, whole: the loss of a batch, its gradient, and the move of the weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gloro_lite import losses
from gloro_lite.bottom import MarginConstants, margin_constants
from gloro_lite.net import GloroNet
from gloro_lite.train import distributed
from gloro_lite.train.arithmetic import Arithmetic
from gloro_lite.train.average import RunningAverage
from gloro_lite.train.local import WithHidden
from gloro_lite.train.optimizers import Optimizers
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.sphere import SpectralSphere

logger = logging.getLogger(__name__)


class Step:
    """What a recipe does to a net in each step of training.

    Args:
        recipe: see `gloro_lite.train.recipes`.
        net: where it is to be trained, its kernels in channels_last.
        compiled: see `Trainer`.

    Attributes:
        arithmetic: the precision of the products, in float32 until it is set.
        compiled: whether the network's passes are compiled.
        matrices: what Muon moves.
    """

    def __init__(self, recipe: Recipe, net: GloroNet, *, compiled: bool | None = None):
        self._recipe, self._net = recipe, net
        self._device = next(net.parameters()).device
        self.compiled = (self._device.type == "cuda" if compiled is None else compiled) and _compiler_works(self._device)
        self._local = WithHidden(net.network) if recipe.bound == "last_layers" else None
        network: nn.Module = net.network if self._local is None else self._local
        if self.compiled:
            # "reduce-overhead" replays CUDA graphs: at these sizes a GPU's time goes into launches.
            graphs = self._device.type == "cuda" and distributed.world_size() == 1
            mode = "reduce-overhead" if graphs else None
            network = torch.compile(network, dynamic=False, mode=mode)  # type: ignore[assignment]  # a module, it says a function
        self._forward = distributed.wrap(network)
        self._sphere = SpectralSphere(net) if recipe.constraint == "sphere" else None
        self._optimizers = Optimizers(recipe, net)
        self._average = RunningAverage(list(net.network.parameters()), recipe.ema_decay) if recipe.ema_decay else None
        self.arithmetic = Arithmetic("float32", "float32")

    @property
    def arithmetic(self) -> Arithmetic:
        return self._arithmetic

    @arithmetic.setter
    def arithmetic(self, value: Arithmetic) -> None:
        self._arithmetic = value
        self._optimizers.orthogonalise_in(value.dtype("orthogonalisation"))

    @property
    def matrices(self) -> list[nn.Parameter]:
        return self._optimizers.matrices

    def __call__(self, images: Tensor, labels: Tensor, progress: float, share: float = 1.0) -> Tensor:
        """Move the weights by one step on a batch; returns its mean loss, still on the device.

        Args:
            images: (b, channels, height, width) float in [0, 1], and their labels, (b,).
            progress: the fraction of training that is done, for the schedules.
            share: what this process's mean loss counts in the average over all, see `distributed.shard`.
        """
        if self._sphere is not None:
            self._sphere.retract()
        loss = self._loss(images, labels, progress)
        self._net.zero_grad()
        (share * loss).backward()
        if self._sphere is not None:
            self._sphere.project()
        self._optimizers.step(self._recipe.rate_scale(progress))
        if self._average is not None:
            self._average.update()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        recipe = self._recipe
        epsilon, weight = recipe.epsilon_at(progress), recipe.weight_at(progress)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._arithmetic.network == "bfloat16"):
            outputs = self._forward(images)
        constants: MarginConstants | None = None
        if recipe.loss != "standard":
            constants = table = margin_constants(self._net.head.weight, 1.0) if self._sphere else self._net.estimate()
        if self._local is None:
            logits = outputs.float()
        else:
            logits, hidden = (part.float() for part in outputs)
            constants = self._local.constants(logits, hidden, table, epsilon, [])
        return losses.by_name(recipe.loss, logits, labels, constants, epsilon, weight, recipe.clean_weight)

    @torch.no_grad()
    def bounded(self, images: Tensor, table: Tensor) -> tuple[Tensor, MarginConstants]:
        """Logits of images, and the margin constants that the recipe's bound has for them, within its epsilon.

        Args:
            table: the net's margin constants by the global bound, (classes, classes), whose power iteration has converged.
        """
        if self._local is None:
            return self._net.network(images), table
        norms = list(self._net.training_bound.norms().values())
        logits, hidden = self._local(images)
        return logits, self._local.constants(logits, hidden, table, self._recipe.epsilon, norms)

    def converge(self) -> None:
        """Converge the power iteration, at the start of an epoch: an estimate that lags lets the true bound grow unseen."""
        if self._sphere is None:
            self._net.converge()
        else:
            self._sphere.converge()

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Within, the net has the weights that are reported: the average, where there is one, its power iteration converged."""
        if self._average is None:
            yield
            return
        iterates = [buffer.clone() for buffer in self._net.buffers()]
        with self._average.in_place():
            try:
                self._net.converge()
                yield
            finally:
                for buffer, value in zip(self._net.buffers(), iterates, strict=True):
                    buffer.copy_(value)

    def state_dict(self) -> dict:
        """All that decides the next steps, but for the net: what `load_state_dict` takes."""
        return {
            "arithmetic": self._arithmetic._asdict(),
            "optimizers": self._optimizers.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from where `state_dict` was called."""
        self.arithmetic = Arithmetic(**state["arithmetic"])
        self._optimizers.load_state_dict(state["optimizers"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def _compiler_works(device: torch.device) -> bool:
    """Whether `torch.compile` works here: it needs a C++ compiler for a CPU, Triton for a GPU."""
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except Exception as error:  # what it raises depends on what is missing
        logger.warning("training without torch.compile, which is slower: %s", str(error).splitlines()[0])
        return False
    return True
