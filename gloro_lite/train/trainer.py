"""The training run: steps on data that stays on the device, checkpoints, and the choice of an epoch by the validation split."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gloro_lite import losses, networks, serialization
from gloro_lite.bottom import margin_constants
from gloro_lite.certificate import certified_radius
from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.net import GloroNet
from gloro_lite.precision import full_precision
from gloro_lite.train import checkpoint, distributed, memory
from gloro_lite.train.arithmetic import Arithmetic, choose
from gloro_lite.train.augment import AUGMENTATIONS, augment
from gloro_lite.train.average import RunningAverage
from gloro_lite.train.optimizers import Optimizers
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.sphere import SpectralSphere


class TrainingStopped(Exception):
    """The time limit ended a run early; its checkpoint is written, and the same command goes on from there."""


class Trainer:
    """One run of a recipe: `run()` trains to the end, from the checkpoint in `folder` if there is one.

    The order of the images and their augmentation depend on seed and epoch alone, so on a CPU an interrupted run ends with the
    same bits as one that was not. Under `torchrun` the processes share each batch and end with the same weights.

    Args:
        recipe: see `gloro_lite.train.recipes`.
        data: the benchmark's splits.
        folder: where the checkpoint is kept, after each epoch.
        device: "cpu", "cuda", "mps".
        weights: the file that a recipe with `initial` starts from; None for one without.
        compiled: have `torch.compile` fuse the network's steps, where it finds a compiler; on a GPU it captures them in CUDA
            graphs too. By default on a GPU alone, since on CPUs it was measured to be no faster.

    Raises ValueError for a device that is not there, CheckpointError for a checkpoint of another run, and what
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
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} is not there ({error}): leave --device out, or give cpu") from error
        if recipe.batch_size < distributed.count():
            raise ValueError(f"a batch of {recipe.batch_size} cannot be shared by {distributed.count()} processes")
        if bool(recipe.initial) != (weights is not None):
            raise ValueError(
                f"recipe {recipe.name} starts from {recipe.initial or 'no stored weights'}: weights cannot be {weights}"
            )
        self.recipe, self.seed, self.device = recipe, seed, torch.device(device)
        self.folder = Path(folder)
        self.train, self.validation = (Images(part.x.to(device), part.y.to(device)) for part in (data.train, data.validation))
        shape = tuple(data.train.x.shape[1:])
        classes = int(data.train.y.max()) + 1
        network = networks.build(
            recipe.network, shape, classes, activation=recipe.activation, initialisation=recipe.initialisation, seed=seed
        )
        self.net = GloroNet(network, shape, recipe.epsilon, iterations=recipe.iterations)
        if weights is not None:
            serialization.load(self.net, weights)
        self.net.to(self.device, memory_format=torch.channels_last)
        wanted = self.device.type == "cuda" if compiled is None else compiled
        self.compiled = wanted and _compiler_works(self.device)
        network = self.net.network
        if self.compiled:
            # "reduce-overhead" replays CUDA graphs: at these sizes a GPU's time goes into launches.
            graphs = self.device.type == "cuda" and distributed.count() == 1
            network = torch.compile(network, dynamic=False, mode="reduce-overhead" if graphs else None)
        self._forward = distributed.wrap(network)
        self.sphere = SpectralSphere(self.net) if recipe.constraint == "sphere" else None
        self.optimizers = Optimizers(recipe, self.net)
        self._parameters = list(self.net.network.parameters())
        self.average = RunningAverage(self._parameters, recipe.average) if recipe.average else None
        self.history: list[dict] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = -1
        self.peak_bytes = 0
        state = None
        if distributed.is_first() and self.checkpoint_path.exists():
            state = checkpoint.load(self.checkpoint_path, self._run())
        state = distributed.agree(state)
        self.arithmetic = Arithmetic(**state["arithmetic"]) if state else distributed.agree(self._choose_arithmetic())
        self.optimizers.orthogonalise_in(self.arithmetic.dtype("orthogonalisation"))
        if state is not None:
            self._restore(state)

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _choose_arithmetic(self) -> Arithmetic:
        count = 256 if self.device.type == "cuda" else 32  # a GPU takes too few at once for its launches alone
        images = self._pixels(self.train.x[: min(count, self.recipe.batch_size)])
        return choose(self.recipe.precision, self.net.network, images, self.optimizers.matrices)

    def _run(self) -> dict:
        return {**dataclasses.asdict(self.recipe), "seed": self.seed}

    def _restore(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.history, self.best, self.best_epoch = state["history"], state["best"], state["best_epoch"]
        self.peak_bytes = state["peak_bytes"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _save(self) -> None:
        if not distributed.is_first():
            return
        state = {
            "run": self._run(),
            "net": self.net.state_dict(),
            "arithmetic": dataclasses.asdict(self.arithmetic),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "history": self.history,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "peak_bytes": self.peak_bytes,
        }
        checkpoint.save(self.checkpoint_path, state)

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
            progress: draw a progress bar.
            on_epoch: called after each epoch with the history and whether it was the last, to draw curves, say.

        Raises TrainingStopped at the time limit, ValueError where that is too short for one epoch or where the loss or the bound
        is no longer finite (the checkpoint keeps the state before that epoch), and MemoryError, which names a batch that fits,
        where this one does not.
        """
        recipe = self.recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        first = distributed.is_first()
        steps = math.ceil(len(self.train.x) / recipe.batch_size)
        bar = tqdm(total=steps * recipe.epochs, initial=steps * len(self.history), unit="batch", disable=not (progress and first))
        memory.reset_peak(self.device)
        idle = memory.peak(self.device)
        longest = max((row["seconds"] for row in self.history), default=0.0)
        resumed = len(self.history)
        with bar:
            for epoch in range(resumed, recipe.epochs):
                if distributed.agree(time.perf_counter() - began + longest > max_seconds):
                    if self.history and epoch == resumed:
                        raise ValueError(
                            f"{max_seconds:g} s are too few for one epoch, which took up to {longest:.3g} s so far: "
                            "give --max-seconds more"
                        )
                    raise TrainingStopped(f"stopped at the time limit after {epoch} of {recipe.epochs} epochs")
                start = time.perf_counter()
                row = self._epoch(epoch, bar)
                with self.reported():
                    row |= self._validate(epoch)
                    done = (epoch + 1) / recipe.epochs
                    row |= {"train_epsilon": recipe.epsilon_at(done), "rate": recipe.rate * recipe.rate_scale(done)}
                    row["seconds"] = time.perf_counter() - start
                    self.history.append(row)
                    self._keep_best()
                longest = max(longest, row["seconds"])
                self.peak_bytes = max(self.peak_bytes, memory.peak(self.device) - idle)
                self._save()
                if on_epoch is not None and first:
                    on_epoch(self.history, epoch + 1 == recipe.epochs)
                bar.set_postfix_str(
                    f"epoch {epoch + 1}, loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, VRA {row['vra']:.4f}, "
                    f"K {row['lipschitz']:.3g}, {len(self.train.x) / row['seconds']:.0f} images/s"
                )

    def _keep_best(self) -> None:
        """Keep the state of the epoch that is best on the validation split; a later one of equal merit wins."""
        merit = "accuracy" if self.recipe.loss == "standard" else "vra"
        if self.best_epoch < 0 or self.history[-1][merit] >= self.history[self.best_epoch][merit]:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.net.state_dict().items()}
            self.best_epoch = len(self.history) - 1

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Within, the net has the weights that are reported: the average, where there is one, its power iteration converged."""
        if self.average is None:
            yield
            return
        iterates = [buffer.clone() for buffer in self.net.buffers()]
        with self.average.in_place():
            try:
                self.net.converge()
                yield
            finally:
                for buffer, value in zip(self.net.buffers(), iterates, strict=True):
                    buffer.copy_(value)

    def start_epoch(self) -> None:
        """Converge the power iteration: an estimate that lags behind lets the true bound grow unseen."""
        self.net.train()
        # Rounding may differ between devices: what the processes have in common is made equal again.
        distributed.synchronise([*self.net.parameters(), *self.net.buffers()])
        if self.sphere is None:
            self.net.converge()
        else:
            self.sphere.converge()

    def step(self, images: Tensor, labels: Tensor, progress: float, share: float = 1.0) -> Tensor:
        """One training step on a batch; returns its mean loss, still on the device.

        Args:
            images: (b, channels, height, width) float in [0, 1], and their labels, (b,).
            progress: the fraction of training that is done, for the schedules.
            share: what this process's mean loss counts in the average over all, see `distributed.share`.
        """
        if self.sphere is not None:
            self.sphere.retract()
        loss = self._loss(images, labels, progress)
        self.net.zero_grad()
        (share * loss).backward()
        if self.sphere is not None:
            self.sphere.project()
        self.optimizers.step(self.recipe.rate_scale(progress))
        if self.average is not None:
            self.average.update()
        return loss.detach()

    def _epoch(self, epoch: int, bar: tqdm) -> dict:
        recipe, count = self.recipe, len(self.train.x)
        steps = math.ceil(count / recipe.batch_size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator)
        noise = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        self.start_epoch()
        total = torch.zeros((), device=self.device, dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        failed = torch.full((), steps, device=self.device)  # first step whose loss is not finite; read once, after the epoch
        for step, rows in enumerate(order.to(self.device).split(recipe.batch_size)):
            images, labels = self._pixels(self.train.x[rows]), self.train.y[rows]
            if recipe.augmentation != "none":
                images = augment(images, AUGMENTATIONS[recipe.augmentation], noise)
            (images, labels), share = distributed.share(images, labels)
            try:
                loss = self.step(images, labels, (epoch + (step + 1) / steps) / recipe.epochs, share)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                loss = None
            if loss is None:  # outside the except clause, whose traceback holds on to the step's tensors
                raise MemoryError(self._what_fits(images, labels))
            total += loss * (share * len(rows) / distributed.count())
            failed = torch.where(loss.isfinite(), failed, failed.clamp_max(step))
            bar.update()
        distributed.add(total)
        distributed.least(failed)
        if int(failed) < steps:
            raise ValueError(self._diverged(f"the loss is not finite at step {int(failed)} of epoch {epoch}"))
        self.start_epoch()
        return {"epoch": epoch, "loss": total.item() / count}

    def _pixels(self, images: Tensor) -> Tensor:
        return images.to(memory_format=torch.channels_last).float() / 255

    def _loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        recipe = self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.arithmetic.network == "bfloat16"):
            logits = self._forward(images)
        if recipe.loss == "standard":
            constants = None
        else:
            constants = margin_constants(self.net.head.weight, 1.0) if self.sphere else self.net.estimate()
        return losses.by_name(
            recipe.loss,
            logits.float(),
            labels,
            constants,
            recipe.epsilon_at(progress),
            recipe.weight_at(progress),
            recipe.clean_weight,
        )

    def _diverged(self, what: str) -> str:
        kept = f"; the state before that epoch is kept in {self.checkpoint_path}" if self.checkpoint_path.exists() else ""
        return f"{what}: try --rate {self.recipe.rate / 2:g}, and another --output, as that is another run{kept}"

    def _what_fits(self, images: Tensor, labels: Tensor) -> str:
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
                if not _is_out_of_memory(error):
                    raise
            else:
                whole = size * distributed.count()
                fits = f"a batch of {whole} fits: --batch-size {whole}, and --output, as that is another run"
                break
        else:
            fits = "not even one image fits: take a machine with more memory"
        return f"out of memory on {self.device} at a batch of {self.recipe.batch_size}; {fits}"

    @torch.no_grad()
    def _validate(self, epoch: int) -> dict:
        """Accuracy and verified-robust accuracy on the validation split, by the converged estimate: to choose by, no proof."""
        constants = self.net.estimate()
        if not (constants.isfinite().all() and all(bool(p.isfinite().all()) for p in self.net.parameters())):
            raise ValueError(self._diverged(f"the last step of epoch {epoch} left weights that are not finite"))
        counts = torch.zeros(2, dtype=torch.int64, device=self.device)
        (x, y), share = distributed.share(self.validation.x, self.validation.y)
        for images, labels in zip(x.split(1000), y.split(1000), strict=True):
            with full_precision(self.device):
                logits = self.net.network(self._pixels(images))
            correct = logits.argmax(dim=1) == labels
            # Radii are computed in float64, which an Apple GPU does not have.
            radius = certified_radius(*(t.cpu() if self.device.type == "mps" else t for t in (logits, constants)))
            verified = correct & (radius > self.recipe.epsilon).to(correct.device)
            counts += torch.stack((correct.sum(), verified.sum())) * (share > 0)
        distributed.add(counts)
        right, verified = (count / len(self.validation.y) for count in counts.tolist())
        return {"accuracy": right, "vra": verified, "lipschitz": constants.max().item()}


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On a CPU it is a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _compiler_works(device: torch.device) -> bool:
    """Whether `torch.compile` can: it needs a C++ compiler for a CPU, Triton for a GPU."""
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except Exception as error:  # what it raises depends on what is missing
        print(f"training without torch.compile, which is slower: {str(error).splitlines()[0]}")
        return False
    return True
