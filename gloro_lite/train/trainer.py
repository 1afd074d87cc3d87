"""The training run: epochs of steps on data that stays on the device, checkpoints, and the choice of an epoch by validation."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gloro_lite import networks, serialization
from gloro_lite.bottom import bottom_logit
from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.net import GloroNet
from gloro_lite.precision import full_precision
from gloro_lite.progress import Progress
from gloro_lite.train import checkpoint, distributed, memory
from gloro_lite.train.arithmetic import Arithmetic, choose
from gloro_lite.train.augment import AUGMENTATIONS, augment
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.step import Step

logger = logging.getLogger(__name__)

SEEDS = 2**31
"""A seed is less than this."""


class TrainingStopped(Exception):
    """The time limit ended a run early; its checkpoint is written, and the same command goes on from there."""


class Diverged(ValueError):
    """The loss or the weights of a run are no longer finite."""


class TooLittleTime(ValueError):
    """A time limit within which not one epoch ends."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run that has trained to its end leaves, for `gloro_lite.train.results.write`.

    Attributes:
        net: of the epoch that is best on the validation split, on the CPU.
        last: of the last epoch; the same net where that is the best.
        history: a row an epoch.
        chosen_epoch: which one `net` is of.
        peak_bytes: what training added to the memory in use, at its peak.
    """

    recipe: Recipe
    seed: int
    net: GloroNet
    last: GloroNet
    history: list[dict]
    chosen_epoch: int
    peak_bytes: int
    device: torch.device
    compiled: bool
    arithmetic: Arithmetic


class Trainer:
    """One run of a recipe: `run()` trains to the end, from the checkpoint in `folder` if there is one.

    The order of the images and their augmentation depend on seed and epoch alone, so on a CPU an interrupted run ends with the
    same bits as one that was not. Under `torchrun` the processes share each batch and end with the same weights.

    Args:
        recipe: see `gloro_lite.train.recipes`.
        data: the benchmark's splits.
        folder: where the checkpoint is kept, after each epoch.
        seed: at least 0 and less than 2^31.
        device: "cpu", "cuda", "mps".
        weights: the file that a recipe with `init_from` starts from; None for one without.
        compiled: have `torch.compile` fuse the network's steps, where it finds a compiler; on a GPU it captures them in CUDA
            graphs too. By default on a GPU alone, since on CPUs it was measured to be no faster.

    Raises ValueError for a seed or a device that is not there, CheckpointError for a checkpoint of another run, and what
    `serialization.load` raises.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Benchmark,
        folder: Path,
        *,
        seed: int = 0,
        device: str = "cpu",
        weights: Path | None = None,
        compiled: bool | None = None,
    ):
        self.device = usable_device(device)
        _check(recipe, seed, weights)
        self.recipe, self.seed, self.folder = recipe, seed, Path(folder)
        self.train, self.validation = (Images(*(t.to(self.device) for t in part)) for part in (data.train, data.validation))
        self.net = self._build()
        if weights is not None:
            serialization.load(self.net, weights)
            if not all(bool(p.isfinite().all()) for p in self.net.parameters()):
                raise ValueError(f"{weights} holds weights that are NaN or infinite: nothing can be learnt from there")
        self.net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no type for it
        self.step = Step(recipe, self.net, compiled=compiled)
        self.history: list[dict] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = -1
        self.peak_bytes = 0
        state = None
        if distributed.is_first() and self.checkpoint_path.exists():
            state = checkpoint.load(self.checkpoint_path, self._identity())
        state = distributed.broadcast_object(state)
        if state is None:
            self.step.arithmetic = distributed.broadcast_object(self._choose_arithmetic())
        else:
            self._restore(state)

    def _build(self) -> GloroNet:
        """A net as the recipe wants it, untrained, on the CPU."""
        recipe, classes = self.recipe, int(self.train.y.max()) + 1
        channels, height, width = self.train.x.shape[1:]
        shape = channels, height, width
        network = networks.build(
            recipe.network, shape, classes, activation=recipe.activation, initialisation=recipe.initialisation, seed=self.seed
        )
        return GloroNet(network, shape, recipe.epsilon, power_iterations=recipe.power_iterations)

    def _choose_arithmetic(self) -> Arithmetic:
        count = 256 if self.device.type == "cuda" else 32  # with few images a GPU's time is all launches
        images = pixels(self.train.x[: min(count, self.recipe.batch_size)])
        return choose(self.recipe.precision, self.net.network, images, self.step.matrices)

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _identity(self) -> dict:
        """What makes a checkpoint one of this run."""
        return {**dataclasses.asdict(self.recipe), "seed": self.seed}

    def _save(self) -> None:
        if distributed.is_first():
            state = {
                "run": self._identity(),
                "net": self.net.state_dict(),
                "step": self.step.state_dict(),
                "history": self.history,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "peak_bytes": self.peak_bytes,
            }
            checkpoint.save(self.checkpoint_path, state)

    def _restore(self, state: dict) -> None:
        try:
            self.net.load_state_dict(state["net"])
            self.step.load_state_dict(state["step"])
            self.history, self.best, self.best_epoch = state["history"], state["best"], state["best_epoch"]
            self.peak_bytes = state["peak_bytes"]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.CheckpointError(
                f"{self.checkpoint_path} is of another version of gloro-lite ({error!r:.200}): delete it to train from the start"
            ) from error

    def run(
        self,
        *,
        max_seconds: float = math.inf,
        progress: bool = True,
        on_epoch: Callable[[list[dict], bool], object] | None = None,
    ) -> None:
        """Train to the last epoch.

        Args:
            max_seconds: stop after the epoch that could be the last to fit.
            progress: show it, as `gloro_lite.progress` does.
            on_epoch: called after each epoch with the history and whether it was the last, to draw curves, say.

        Raises TrainingStopped at the time limit, TooLittleTime where that is too short for one epoch, Diverged where the loss or
        the bound is no longer finite (the checkpoint keeps the state before that epoch), and MemoryError, which names a batch
        that fits, where this one does not.
        """
        recipe, images, first = self.recipe, len(self.train.x), distributed.is_first()
        limit = _TimeLimit(max_seconds, self.history)
        self.folder.mkdir(parents=True, exist_ok=True)
        shown = Progress(math.ceil(images / recipe.batch_size), recipe.epochs, len(self.history), progress and first)
        memory.reset_peak(self.device)
        idle = memory.peak(self.device)
        try:
            for epoch in range(len(self.history), recipe.epochs):
                limit.check(epoch, recipe.epochs)
                start = time.perf_counter()
                row = self._epoch(epoch, shown)
                with self.step.reported():
                    row |= self._validate(epoch)
                    done = (epoch + 1) / recipe.epochs
                    row |= {"train_epsilon": recipe.epsilon_at(done), "rate": recipe.learning_rate * recipe.rate_scale(done)}
                    row["seconds"] = time.perf_counter() - start
                    self.history.append(row)
                    self._keep_best()
                self.peak_bytes = max(self.peak_bytes, memory.peak(self.device) - idle)
                self._save()
                if on_epoch is not None and first:
                    on_epoch(self.history, epoch + 1 == recipe.epochs)
                shown.epoch(row, images)
        finally:
            shown.close()

    def finished(self) -> FinishedRun:
        """The nets that the run has ended with, on the CPU, and what is to be recorded of it."""
        with self.step.reported():
            last = self._copy(self.net.state_dict())
        is_best = self.best_epoch == len(self.history) - 1
        return FinishedRun(
            recipe=self.recipe,
            seed=self.seed,
            net=last if is_best else self._copy(self.best),
            last=last,
            history=self.history,
            chosen_epoch=self.best_epoch,
            peak_bytes=self.peak_bytes,
            device=self.device,
            compiled=self.step.compiled,
            arithmetic=self.step.arithmetic,
        )

    def _copy(self, state: dict[str, Tensor]) -> GloroNet:
        net = self._build()
        net.load_state_dict(state)
        return net.eval()

    def _keep_best(self) -> None:
        """Keep the state of the epoch that is best on the validation split; a later one of equal merit wins."""
        merit = "accuracy" if self.recipe.loss == "standard" else "vra"
        if self.best_epoch < 0 or self.history[-1][merit] >= self.history[self.best_epoch][merit]:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.net.state_dict().items()}
            self.best_epoch = len(self.history) - 1

    def start_epoch(self) -> None:
        """Put the net in training mode, with a power iteration that has converged."""
        self.net.train()
        # Rounding may differ between devices: what the processes have in common is made equal again.
        distributed.broadcast([*self.net.parameters(), *self.net.buffers()])
        self.step.converge()

    def _epoch(self, epoch: int, shown: Progress) -> dict:
        recipe, count = self.recipe, len(self.train.x)
        steps = math.ceil(count / recipe.batch_size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        noise = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        self.start_epoch()
        total = torch.zeros((), device=self.device, dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        failed = torch.full((), steps, device=self.device)  # first step whose loss is not finite; read once, after the epoch
        for step, rows in enumerate(order.to(self.device).split(recipe.batch_size)):
            images, labels = pixels(self.train.x[rows]), self.train.y[rows]
            if recipe.augmentation != "none":
                images = augment(images, AUGMENTATIONS[recipe.augmentation], noise)
            (images, labels), share = distributed.shard(images, labels)
            try:
                loss = self.step(images, labels, (epoch + (step + 1) / steps) / recipe.epochs, share)
            except RuntimeError as error:
                if not memory.is_exhausted(error):
                    raise
                loss = None
            if loss is None:  # outside the except clause, whose traceback holds on to the step's tensors
                raise MemoryError(self._what_fits(images))
            total += loss * (share * len(rows) / distributed.world_size())
            failed = torch.where(loss.isfinite(), failed, failed.clamp_max(step))
            shown.step()
        distributed.all_reduce_sum(total)
        distributed.all_reduce_min(failed)
        if int(failed) < steps:
            raise Diverged(self._diverged(f"the loss is not finite at step {int(failed)} of epoch {epoch}"))
        self.start_epoch()
        return {"epoch": epoch, "loss": total.item() / count}

    def _diverged(self, what: str) -> str:
        kept = f"; the state before that epoch is kept in {self.checkpoint_path}" if self.checkpoint_path.exists() else ""
        recipe = self.recipe
        rates = f"learning_rate than {recipe.learning_rate:g}" + (
            f" or head_learning_rate than {recipe.head_learning_rate:g}" if recipe.optimizer == "muon" else ""
        )
        return f"{what}: try a smaller {rates}, in another folder, as that is another run{kept}"

    def _what_fits(self, images: Tensor) -> str:
        """What to say when a step has run out of memory: the largest half, quarter, ... of the batch that does not."""
        size = len(images)
        while size > 1:
            size //= 2
            self.net.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                # Not by way of DistributedDataParallel, in which the other processes would have to take part.
                self.net.network(images[:size]).sum().backward()
            except RuntimeError as error:
                if not memory.is_exhausted(error):
                    raise
            else:
                fits = f"a batch_size of {size * distributed.world_size()} fits, in another folder, as that is another run"
                break
        else:
            fits = "not even one image fits: take a machine with more memory"
        return f"out of memory on {self.device} at a batch_size of {self.recipe.batch_size}; {fits}"

    @torch.no_grad()
    def _validate(self, epoch: int) -> dict:
        """Accuracy and verified-robust accuracy on the validation split, by the converged estimate: to choose by, no proof."""
        table = self.net.estimate()
        if not (table.isfinite().all() and all(bool(p.isfinite().all()) for p in self.net.parameters())):
            raise Diverged(self._diverged(f"the last step of epoch {epoch} left weights that are not finite"))
        counts = torch.zeros(2, dtype=torch.int64, device=self.device)
        (x, y), share = distributed.shard(self.validation.x, self.validation.y)
        for images, labels in zip(x.split(1000), y.split(1000), strict=True):
            with full_precision(self.device):
                logits, constants = self.step.bounded(pixels(images), table)
                bottom = bottom_logit(logits, constants, self.recipe.epsilon)
            top, predicted = logits.max(dim=1)
            correct = predicted == labels
            verified = correct & (bottom < top)
            counts += torch.stack((correct.sum(), verified.sum())) * (share > 0)
        distributed.all_reduce_sum(counts)
        right, verified = (count / len(self.validation.y) for count in counts.tolist())
        return {"accuracy": right, "vra": verified, "lipschitz": table.max().item()}


class _TimeLimit:
    """Whether another epoch can end in time, by the longest so far."""

    def __init__(self, seconds: float, history: list[dict]):
        if not seconds > 0:
            raise ValueError(f"max_seconds must be greater than 0, not {seconds}")
        self._seconds, self._history, self._resumed = seconds, history, len(history)
        self._began = time.perf_counter()

    def check(self, epoch: int, epochs: int) -> None:
        """Raise TrainingStopped where it cannot, and ValueError where none could since the run began or went on."""
        longest = max((row["seconds"] for row in self._history), default=0.0)
        if not distributed.broadcast_object(time.perf_counter() - self._began + longest > self._seconds):
            return
        if epoch == self._resumed:
            known = f", which took up to {longest:.3g} s so far" if longest else ""
            raise TooLittleTime(f"{self._seconds:g} s are too few for one epoch{known}: allow more")
        raise TrainingStopped(f"stopped at the time limit after {epoch} of {epochs} epochs")


def usable_device(name: str) -> torch.device:
    """The device of this name. Raises ValueError where it is not there."""
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it has no memory")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(f"device {name!r} is not there ({reason}): use cpu, or leave it out") from error
    return device


def _check(recipe: Recipe, seed: int, weights: Path | None) -> None:
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be from 0 to {SEEDS - 1}, not {seed}")
    if recipe.batch_size < distributed.world_size():
        raise ValueError(f"a batch of {recipe.batch_size} cannot be shared by {distributed.world_size()} processes")
    if bool(recipe.init_from) != (weights is not None):
        raise ValueError(
            f"recipe {recipe.name} starts from {recipe.init_from or 'no stored weights'}: weights cannot be {weights}"
        )


def pixels(images: Tensor) -> Tensor:
    """Images (n, channels, height, width) of uint8 as the network takes them: float32 in [0, 1], in channels_last."""
    return images.to(memory_format=torch.channels_last).float() / 255
