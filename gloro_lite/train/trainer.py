"""The training run: steps on data that stays on the device, checkpoints, and the choice of an epoch by the validation split."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite import losses, networks
from gloro_lite.bottom import bottom_logit, certified_radius, margin_constants
from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.fit import growing_epsilon, warmup_then_cosine
from gloro_lite.net import GloroNet
from gloro_lite.train import checkpoint
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.sphere import SpectralSphere


class TrainingStopped(Exception):
    """The time limit or an interrupt ended a run early; its checkpoint is written, and the same command goes on from there."""


class Trainer:
    """One run of a recipe: `run()` trains to the end, from the checkpoint in `folder` if there is one.

    The order of the images depends on seed and epoch alone, so on a CPU an interrupted run ends with the same bits as one that
    was not.

    Args:
        recipe: see `gloro_lite.train.recipes`.
        data: the benchmark's splits.
        folder: where the checkpoint is kept, after each epoch.
        device: "cpu", "cuda", "mps".
        compiled: have `torch.compile` fuse the network's steps, where it finds a compiler. Worth it from some minutes on.

    Raises ValueError for a device that is not there, CheckpointError for a checkpoint of another run.
    """

    def __init__(
        self, recipe: Recipe, data: Benchmark, folder: Path, *, seed: int = 0, device: str = "cpu", compiled: bool = False
    ):
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} is not there ({error}): leave --device out, or give cpu") from error
        self.recipe, self.seed, self.device = recipe, seed, torch.device(device)
        self.folder = Path(folder)
        self.train, self.validation = (Images(part.x.to(device), part.y.to(device)) for part in (data.train, data.validation))
        shape = tuple(data.train.x.shape[1:])
        classes = int(data.train.y.max()) + 1
        network = networks.build(recipe.network, shape, classes, activation=recipe.activation, seed=seed)
        self.net = GloroNet(network, shape, recipe.epsilon, iterations=recipe.iterations)
        self.net.to(self.device, memory_format=torch.channels_last)
        self.compiled = compiled and _compiler_works(self.device)
        self._forward = torch.compile(self.net.network, dynamic=False) if self.compiled else self.net.network
        self.sphere = SpectralSphere(self.net) if recipe.optimizer == "muon" else None
        self.optimizers = self._optimizers()
        self.history: list[dict] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = -1
        self.seconds = 0.0
        if self.checkpoint_path.exists():
            self._restore(checkpoint.load(self.checkpoint_path, self._run()))

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        """The optimizers, each with its peak rate."""
        if self.sphere is None:
            return [(torch.optim.Adam(self.net.parameters(), lr=0.0), self.recipe.rate)]
        # Muon takes matrices: kernels as (out, in k k), views of the same memory. The order of columns is nothing to it.
        self._matrices = []
        for weight in self.sphere.weights:
            data = weight.data.permute(0, 2, 3, 1).flatten(1) if weight.dim() == 4 else weight.data
            if data.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
                raise AssertionError("a kernel is not in channels_last: its matrix is a copy, and training would not move it")
            self._matrices.append(nn.Parameter(data))
        body = {id(weight) for weight in self.sphere.weights}
        rest = [p for p in self.net.parameters() if id(p) not in body]
        return [
            (torch.optim.Muon(self._matrices, lr=0.0, weight_decay=0.0), self.recipe.rate),
            (torch.optim.Adam(rest, lr=0.0), self.recipe.head_rate),
        ]

    def _run(self) -> dict:
        return {**dataclasses.asdict(self.recipe), "seed": self.seed}

    def _restore(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.history, self.best, self.best_epoch = state["history"], state["best"], state["best_epoch"]
        self.seconds = state["seconds"]

    def _save(self) -> None:
        state = {
            "run": self._run(),
            "net": self.net.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "history": self.history,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
        }
        checkpoint.save(self.checkpoint_path, state)

    def run(self, *, max_seconds: float = math.inf, progress: bool = True) -> None:
        """Train to the last epoch.

        Args:
            max_seconds: stop after the epoch that could be the last to fit.

        Raises TrainingStopped at the time limit, ValueError where the loss is no longer finite (the checkpoint keeps the state
        before that epoch).
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        bar = _bar(self.recipe.epochs, len(self.history), progress)
        longest = 0.0
        for epoch in range(len(self.history), self.recipe.epochs):
            if time.perf_counter() - began + longest > max_seconds:
                raise TrainingStopped(f"stopped at the time limit after {epoch} of {self.recipe.epochs} epochs")
            start = time.perf_counter()
            row = self._epoch(epoch)
            row["seconds"] = time.perf_counter() - start
            self.history.append(row)
            if self.best_epoch < 0 or row["vra"] >= self.history[self.best_epoch]["vra"]:
                self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.net.state_dict().items()}
                self.best_epoch = epoch
            self.seconds += time.perf_counter() - start
            longest = max(longest, time.perf_counter() - start)
            self._save()
            bar.set_postfix_str(
                f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, VRA {row['vra']:.4f}, "
                f"K {row['lipschitz']:.3g}, {len(self.train.x) / row['seconds']:.0f} images/s"
            )
            bar.update()
        bar.close()

    def start_epoch(self) -> None:
        """Converge the power iteration: an estimate that lags behind lets the true bound grow unseen."""
        self.net.train()
        if self.sphere is None:
            self.net.converge()
        else:
            self.sphere.converge()

    def step(self, images: Tensor, labels: Tensor, epsilon: float, scale: float) -> Tensor:
        """One training step on a batch, (b, channels, height, width) uint8 and (b,); returns its loss, still on the device.

        Args:
            epsilon: the training epsilon of this step.
            scale: the learning rates as a fraction of their peaks.
        """
        if self.sphere is not None:
            self.sphere.retract()
        loss = self._loss(images, labels, epsilon)
        self.net.zero_grad()
        loss.backward()
        if self.sphere is not None:
            self.sphere.project()
            for matrix, weight in zip(self._matrices, self.sphere.weights, strict=True):
                matrix.grad = weight.grad.permute(0, 2, 3, 1).flatten(1) if weight.dim() == 4 else weight.grad
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()
        return loss.detach()

    def _epoch(self, epoch: int) -> dict:
        recipe, count = self.recipe, len(self.train.x)
        steps = math.ceil(count / recipe.batch_size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(count, generator=generator).to(self.device)
        self.start_epoch()
        total = torch.zeros((), device=self.device, dtype=torch.float64 if self.device.type != "mps" else torch.float32)
        failed = torch.full((), steps, device=self.device)  # first step whose loss is not finite; read once, after the epoch
        for step, rows in enumerate(order.split(recipe.batch_size)):
            done = (epoch + (step + 1) / steps) / recipe.epochs
            epsilon = recipe.train_epsilon * growing_epsilon(done, growth=recipe.epsilon_growth)
            scale = warmup_then_cosine(done, recipe.warmup)
            loss = self.step(self.train.x[rows], self.train.y[rows], epsilon, scale)
            total += loss * len(rows)
            failed = torch.where(loss.isfinite(), failed, failed.clamp_max(step))
        if int(failed) < steps:
            raise ValueError(
                f"the loss is not finite at step {int(failed)} of epoch {epoch}: try a smaller rate than {recipe.rate}; "
                f"the state before that epoch is kept in {self.checkpoint_path}"
            )
        self.start_epoch()
        return {"epoch": epoch, "loss": total.item() / count, **self._validate(), "epsilon": epsilon}

    def _logits(self, images: Tensor) -> Tensor:
        x = images.to(memory_format=torch.channels_last).float() / 255
        autocast = (
            torch.autocast(self.device.type, torch.bfloat16) if self.recipe.precision == "bfloat16" else contextlib.nullcontext()
        )
        with autocast:
            logits = self._forward(x)
        return logits.float()

    def _loss(self, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        logits = self._logits(images)
        if self.recipe.loss == "standard":
            return F.cross_entropy(logits, labels)
        constants = self.net.estimate() if self.sphere is None else margin_constants(self.net.head.weight, 1.0)
        if self.recipe.loss == "emma":
            return losses.emma(logits, labels, constants, epsilon)
        outputs = torch.cat((logits, bottom_logit(logits, constants, epsilon)[:, None]), dim=1)
        if self.recipe.loss == "trades":
            return losses.trades(outputs, labels, self.recipe.loss_weight)
        return losses.cross_entropy(outputs, labels)

    @torch.no_grad()
    def _validate(self) -> dict:
        """Accuracy and verified-robust accuracy on the validation split, by the converged estimate: to choose by, no proof."""
        constants = self.net.estimate()
        right = verified = 0
        for x, y in zip(self.validation.x.split(1000), self.validation.y.split(1000), strict=True):
            logits = self.net.network(x.to(memory_format=torch.channels_last).float() / 255)
            correct = logits.argmax(dim=1) == y
            right += int(correct.sum())
            verified += int((correct & (certified_radius(logits, constants) > self.recipe.epsilon)).sum())
        count = len(self.validation.y)
        return {"accuracy": right / count, "vra": verified / count, "lipschitz": constants.max().item()}


def _compiler_works(device: torch.device) -> bool:
    """Whether `torch.compile` can: it needs a C++ compiler for a CPU, Triton for a GPU."""
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except Exception as error:  # what it raises depends on what is missing
        print(f"training without torch.compile, which is slower: {str(error).splitlines()[0]}")
        return False
    return True


class _NoBar:
    """Stands in for tqdm where no bar is wanted."""

    def set_postfix_str(self, text: str) -> None: ...

    def update(self) -> None: ...

    def close(self) -> None: ...


def _bar(total: int, done: int, wanted: bool):
    if not wanted:
        return _NoBar()
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit="epoch")
