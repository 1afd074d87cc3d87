"""A frozen net with its bottom class, for programs without gloro_lite: a plain nn.Module, `torch.export` and ONNX.

What is exported computes the logits and, last, the logit of the bottom class, with the certified table of margin constants and
epsilon as constants in it. It carries the bound as data and is no certificate by itself: the program that runs it rounds in its
own way, so an input on which bottom loses by less than that rounding is not proven. `GloroNet.certify` gives certificates.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from gloro_lite import extras
from gloro_lite.bottom import bottom_logit
from gloro_lite.files import replacing, write_atomically
from gloro_lite.lipschitz.program import converted
from gloro_lite.net import GloroNet, check_net


class Frozen(nn.Module):
    """A net with bottom whose weights, bound and epsilon no longer change; it computes `net.eval()(x)`, but for rounding.

    Shapes: ``(batch, *input_shape)`` to (batch, classes + 1), bottom last.

    Attributes:
        network: a copy of the net's network, in eval mode, its parametrizations evaluated.
        constants: (classes, classes), the certified margin constants in the network's precision, rounded up.
        epsilon: (), the l2 radius of bottom, in input units, rounded up too.
    """

    constants: Tensor
    epsilon: Tensor

    def __init__(self, net: GloroNet):
        super().__init__()
        # The network that was bounded and its bound, of one moment, whatever another thread does to the net.
        check_net(net)
        program, head, *_ = net.state()
        weight = net.head.weight
        self.network = converted(copy.deepcopy(program.network), program.dtype).to(weight.device)
        self.register_buffer("constants", _rounded_up(head.table, weight.dtype).to(weight.device))
        epsilon = torch.tensor(net.epsilon, dtype=torch.float64, device="cpu")
        self.register_buffer("epsilon", _rounded_up(epsilon, weight.dtype).to(weight.device))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        bottom = bottom_logit(logits, self.constants, self.epsilon)
        return torch.cat((logits, bottom[:, None]), dim=1)


def _rounded_up(exact: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = exact.to(dtype)
    up = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.to(exact.dtype) < exact, up, rounded)


def freeze(net: GloroNet) -> Frozen:
    """The frozen form of a net, a copy: what happens to the net afterwards does not change it.

    Raises what `GloroNet.margin_constants` raises: ValueError for weights that are not finite, and for batch norm or dropout in
    training mode.
    """
    return Frozen(net).eval()


@contextmanager
def _without_torchs_own_warnings() -> Iterator[None]:
    """torch.export warns of what torch itself calls in an old way."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=r".*LeafSpec")
        yield


def program(net: GloroNet) -> torch.export.ExportedProgram:
    """The frozen net as `torch.export` traces it, for batches of any size. `save_program` writes it. Raises as `freeze` does."""
    frozen = freeze(net)
    weight = net.head.weight
    example = torch.zeros(2, *net.input_shape, dtype=weight.dtype, device=weight.device)
    with _without_torchs_own_warnings():
        return torch.export.export(frozen, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def save_program(net: GloroNet, path: str | Path) -> None:
    """Write the frozen net for `torch.export.load(path).module()`, which needs torch alone. Atomic. Raises as `freeze` does, and
    OSError where the file cannot be written.
    """
    exported = program(net)
    with _without_torchs_own_warnings(), replacing(Path(path)) as file:
        torch.export.save(exported, file)


def save_onnx(net: GloroNet, path: str | Path) -> None:
    """Write the frozen net as ONNX, from "images" to "logits", for batches of any size.

    Needs onnx and onnxscript (the extra `onnx`). Atomic. Raises as `freeze` does, ModuleNotFoundError without those packages,
    and OSError where the file cannot be written.
    """
    with extras.needed("writing ONNX", "onnx"):  # torch.onnx asks for it only after it has traced the net
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

    traced = program(net)
    with _without_torchs_own_warnings():
        exported = torch.onnx.export(
            traced, dynamo=True, verbose=False, input_names=["images"], output_names=["logits"], external_data=False
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export returned no program")
    write_atomically(Path(path), exported.model_proto.SerializeToString())
