"""Several processes that train as one, by torch.distributed under `torchrun`; with a single process each call does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: str) -> str:
    """Join the other processes that `torchrun` has started, if it has; returns the device of this one."""
    if "LOCAL_RANK" not in os.environ or not dist.is_available():
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)  # NCCL takes the current one
    if not dist.is_initialized():
        # The others wait while the first process decodes images or certifies the test set.
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(hours=1))
    return device


def stop() -> None:
    """Leave the group that `start` joined."""
    if _together():
        dist.destroy_process_group()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and draws the progress bar."""
    return not _together() or dist.get_rank() == 0


def shard(*batch: Tensor) -> tuple[list[Tensor], float]:
    """This process's rows of each tensor of a batch, and the weight of their mean loss in DistributedDataParallel's average.

    The average over processes of weight times mean is the mean over the batch, also where the parts are not of one size.
    """
    if not _together():
        return list(batch), 1.0
    rank, processes = dist.get_rank(), world_size()
    parts = [tensor.tensor_split(processes)[rank] for tensor in batch]
    if not len(parts[0]):
        # Fewer rows than processes: a row that counts nothing keeps this one in step with the others.
        return [tensor[:1] for tensor in batch], 0.0
    return parts, len(parts[0]) * processes / len(batch[0])


def all_reduce_sum(value: Tensor) -> None:
    """Replace a tensor by its sum over the processes."""
    if _together():
        dist.all_reduce(value)


def all_reduce_min(value: Tensor) -> None:
    """Replace a tensor by its smallest value over the processes."""
    if _together():
        dist.all_reduce(value, dist.ReduceOp.MIN)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values."""
    for tensor in tensors if _together() else ():
        dist.broadcast(tensor.detach(), 0)


def broadcast_object(value: Any) -> Any:
    """The first process's value of a plain object, for all."""
    if not _together():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def wrap(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its gradients averaged over the processes."""
    if not _together():
        return module
    return torch.nn.parallel.DistributedDataParallel(module)
