"""Weights on disk, as safetensors: reading them never runs code. Needs safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gloro_lite import extras
from gloro_lite.files import write_atomically
from gloro_lite.net import GloroNet, check_net


class WeightFileError(ValueError):
    """A weight file that is damaged or belongs to another network."""


def save(net: GloroNet, path: str | Path) -> None:
    """Write the net's state to `path`; equal states make equal bytes.

    Atomic: whatever stops it, the file is the old one or the new one.
    """
    check_net(net)
    with extras.needed("writing weights", "train"):
        from safetensors.torch import save as serialized

    # Copies: layers that share a weight have it under both names, and safetensors refuses tensors that share memory.
    state = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in net.state_dict().items()}
    metadata = {"format": "pt", "epsilon": repr(net.epsilon), "tight": repr(net.tight)}
    write_atomically(Path(path), _in_order(serialized(state, metadata)))


def _in_order(file: bytes) -> bytes:
    """The same file with its metadata in alphabetical order: safetensors writes them in an order that changes from run to run."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors behind it begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def load(net: GloroNet, path: str | Path) -> GloroNet:
    """Read the state that `save` wrote into `net`, a net of the same architecture, and return it in eval mode.

    The net's epsilon stays its own. Raises FileNotFoundError, and WeightFileError if the file is damaged or another network's, or
    its weights are of another type; the net is then as it was.
    """
    check_net(net)
    with extras.needed("reading weights", "train"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    if Path(path).is_dir():
        raise WeightFileError(f"{path} is a folder: give the file in it, model.safetensors say")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: save a net there first, or check the path")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightFileError(f"{path} is damaged or no safetensors file ({error}): save or download it again") from error
    expected = net.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        have, want = state.get(name), expected.get(name)
        if have is None or want is None or have.shape != want.shape:
            raise WeightFileError(f"{path} holds another network: {name} is {_shape(have)} there and {_shape(want)} in the net")
        if have.dtype != want.dtype:
            raise WeightFileError(f"{path}: {name} is {have.dtype} there and {want.dtype} in the net; convert one of them")
    net.load_state_dict(state)
    return net.eval()


def _shape(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))
