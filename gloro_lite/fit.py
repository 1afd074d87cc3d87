"""Training that can be read in one sitting: a loop over epochs, for data that fits in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gloro_lite import losses
from gloro_lite.certificate import certified_radius, check_epsilon
from gloro_lite.evaluate import check_images, check_labels
from gloro_lite.lipschitz.checks import check_batch, check_shape, is_count
from gloro_lite.net import GloroNet, check_net
from gloro_lite.progress import Progress


class Epoch(NamedTuple):
    """One row of a training history. Accuracies are fractions, of the validation set where one is given."""

    epoch: int
    loss: float
    accuracy: float
    vra: float
    """Verified-robust accuracy at the net's epsilon, by the training bound: an estimate, for curves only."""
    lipschitz: float
    """The largest margin constant K_ij, by the training bound."""
    epsilon: float
    learning_rate: float


def warmup_then_cosine(progress: float, warmup: float = 0.1) -> float:
    """The learning rate as a fraction of its peak: linear over the first `warmup` of training, then a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def growing_epsilon(progress: float, start: float = 0.1, growth: float = 0.5) -> float:
    """The training epsilon as a fraction of its end: from `start` to 1, geometrically, over the first `growth` of training.

    With a `growth` of 0 it is 1 throughout.
    """
    return start ** (1 - min(progress / growth, 1.0)) if growth else 1.0


def minimise(
    loss: Callable[[Tensor, Tensor, float, torch.Generator], Tensor],
    module: nn.Module,
    train: tuple[Tensor, Tensor],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    before_epoch: Callable[[], object] = lambda: None,
    progress: bool = False,
) -> Iterator[float]:
    """The loop under every training here: Adam on batches in random order, with a warm-up and cosine rate.

    Args:
        loss: of inputs (batch, ...), labels (batch,), the fraction of training that is done, and the generator of the order,
            to draw from, on the inputs' device; to a scalar mean.
        module: whose parameters move; in training mode in each epoch, and in eval mode after the last.
        train: inputs (n, ...) and labels (n,).
        learning_rate: peak learning rate.
        seed: of the order of the batches.
        classes: labels must be less; by default any class will do.
        input_shape: of one input, without the batch dimension; by default any shape will do.
        before_epoch: called at the start of each epoch, to converge a power iteration, say.
        progress: show it, as `gloro_lite.progress` does.

    Yields: the mean loss of each epoch, after its last step.

    Raises ValueError for no epochs, a rate that is not positive and finite, no inputs or of another shape, images in 0..255,
    labels that are no classes, and inputs or a loss that are not finite.
    """
    if not (is_count(epochs) and is_count(batch_size)):
        raise ValueError(f"epochs and batch_size must be whole numbers, at least 1, not {epochs!r} and {batch_size!r}")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be a finite number greater than 0, not {learning_rate}")
    x, y = checked_data("train", train, classes, input_shape)
    generator = torch.Generator(device=x.device).manual_seed(seed)
    if not all(weights.isfinite().all() for weights in module.parameters()):
        raise ValueError("the network has weights that are NaN or infinite: initialise it anew")
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
    steps = math.ceil(len(x) / batch_size)
    shown = Progress(steps, epochs, 0, progress)
    for epoch in range(epochs):
        start = time.perf_counter()
        module.train()
        before_epoch()
        total = 0.0
        order = torch.randperm(len(x), generator=generator, device=generator.device)
        for step, rows in enumerate(order.split(batch_size)):
            done = (epoch + (step + 1) / steps) / epochs
            optimizer.param_groups[0]["lr"] = learning_rate * warmup_then_cosine(done)
            value = loss(x[rows], y[rows], done, generator)
            if not value.requires_grad:
                raise ValueError(
                    "there is nothing to train: no parameter of the network has requires_grad, or gradients are switched off "
                    "here (torch.no_grad, torch.inference_mode)"
                )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item() * len(rows)
            if not math.isfinite(total):
                raise ValueError(
                    f"the loss is {value.item()} at epoch {epoch}, step {step}: try a smaller learning_rate than {learning_rate}"
                )
            shown.step()
        shown.epoch({"epoch": epoch, "loss": total / len(x), "seconds": time.perf_counter() - start}, len(x))
        yield total / len(x)
    shown.close()
    module.eval()


def checked_data(
    name: str, data: tuple[Tensor, Tensor], classes: int | None = None, input_shape: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Inputs and labels that a net can be trained on or evaluated with, the labels as int64, which PyTorch's losses take.

    Args:
        name: what errors begin with.
        classes, input_shape: of the net; by default any label and shape will do.

    Raises TypeError for what is no pair of tensors, ValueError for no inputs and for some that are not finite, and what
    `gloro_lite.evaluate.check_images` and `check_labels` raise.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(
            f"{name} must be a pair of tensors, inputs and labels, not {type(data).__name__}: a TensorDataset's .tensors, say"
        )
    inputs, labels = data
    try:
        if input_shape is not None:
            check_batch(inputs, check_shape(input_shape))
        check_images(inputs)
        if not len(inputs):
            raise ValueError("at least one input is needed")
        if not inputs.isfinite().all():  # of NaN alone logits are NaN, and their largest is class 0
            raise ValueError("there are inputs that are NaN or infinite")
        check_labels(labels, len(inputs), classes)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return inputs, labels.long()


def fit(
    net: GloroNet,
    train: tuple[Tensor, Tensor],
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    epochs: int = 50,
    loss: str = "cross_entropy",
    weight: float = 1.0,
    train_epsilon: float | None = None,
    learning_rate: float = 5e-3,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
    on_epoch: Callable[[GloroNet, Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `net` with Adam, a warm-up and cosine rate, and a training epsilon that grows.

    Args:
        train, validation: inputs ``(n, *net.input_shape)`` and labels (n,).
        loss: one of `gloro_lite.losses.LOSSES`; "standard" trains without bottom.
        weight: lambda of "trades", q of "gce".
        train_epsilon: the epsilon that training ends with; the net's own by default. A little more than that helps.
        learning_rate: peak learning rate.
        seed: of the order of the batches. (Seed torch before the network is built for its weights.)
        progress: show it, as `gloro_lite.progress` does.
        on_epoch: called after each epoch, to take snapshots, say.

    Returns: the history, one `Epoch` an epoch.

    Raises ValueError for an unknown loss or a weight that it does not take, no epochs, labels that are no classes, images in
    0..255, and inputs or a loss that are not finite (with the step).
    """
    check_net(net)
    losses.check(loss, weight)
    train = checked_data("train", train, net.classes, net.input_shape)
    validation = train if validation is None else checked_data("validation", validation, net.classes, net.input_shape)
    if validation[0].dtype != train[0].dtype:  # said before the first epoch and not after it
        raise TypeError(
            f"validation: inputs are {validation[0].dtype} and those to train on {train[0].dtype}: convert one of them"
        )
    goal = check_epsilon(net.epsilon if train_epsilon is None else train_epsilon)

    def of_batch(x: Tensor, y: Tensor, done: float, _: torch.Generator) -> Tensor:
        constants = None if loss == "standard" else net.estimate()
        return losses.by_name(loss, net.logits(x), y, constants, goal * growing_epsilon(done), weight)

    means = minimise(
        of_batch,
        net,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
    )
    net.converge()  # weights may have been loaded or initialised anew
    history: list[Epoch] = []
    shown, start = Progress(1, epochs, 0, progress), time.perf_counter()
    for epoch, mean in enumerate(means):
        done = (epoch + 1) / epochs
        record = _evaluate(net, validation, epoch, mean, goal * growing_epsilon(done), learning_rate * warmup_then_cosine(done))
        history.append(record)
        if on_epoch is not None:
            on_epoch(net, record)
        now = time.perf_counter()
        shown.step()
        shown.epoch({**record._asdict(), "seconds": now - start}, len(train[0]))
        start = now
    shown.close()
    return history


@torch.no_grad()
def _evaluate(net: GloroNet, data: tuple[Tensor, Tensor], epoch: int, loss: float, epsilon: float, learning_rate: float) -> Epoch:
    net.converge()
    net.eval()  # batch norm and dropout as they will be
    x, y = data
    constants = net.estimate()
    logits = net.logits(x)
    right = logits.argmax(dim=1) == y
    verified = right & (certified_radius(logits, constants) > net.epsilon)
    return Epoch(
        epoch, loss, right.float().mean().item(), verified.float().mean().item(), constants.max().item(), epsilon, learning_rate
    )
