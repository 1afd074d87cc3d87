"""A trained net as what the browser needs: its layers as plain data, its weights as float32 bytes."""

from __future__ import annotations

import torch
from torch import nn

from gloro_lite.layers import MinMax
from gloro_lite.net import GloroNet

MOST_PARAMETERS = 6000
"""With more, a picture of the plane takes a browser on two cores longer than a reader waits."""
MOST_CLASSES = 10


def layers(net: GloroNet) -> list[dict]:
    """The layers of a net of the plane, as `core.js` takes them.

    Raises ValueError for a net whose inputs are not points of the plane, and for one that is too large for the browser;
    TypeError for layers other than Linear, MinMax and ReLU.
    """
    if net.input_shape != (2,):
        raise ValueError(f"this picture is of the plane: the net must take inputs of shape (2,), not {net.input_shape}")
    count = sum(p.numel() for p in net.network.parameters())
    if count > MOST_PARAMETERS or net.classes > MOST_CLASSES:
        raise ValueError(
            f"the net has {count} parameters and {net.classes} classes: a browser redraws at most {MOST_PARAMETERS} "
            f"parameters and {MOST_CLASSES} classes fast enough; take narrower layers"
        )
    # The program's layers: those that the table of margin constants was made from, checked with them.
    return [_layer(node.layer) for node in net.program().nodes]


def _layer(layer: nn.Module) -> dict:
    if type(layer) is nn.Linear:
        return {"kind": "linear", "rows": layer.out_features, "columns": layer.in_features}
    if type(layer) in (MinMax, nn.ReLU):
        return {"kind": type(layer).__name__.lower()}
    raise TypeError(f"the browser's network has Linear, MinMax and ReLU layers, not {type(layer).__name__}")


def weights(net: GloroNet) -> bytes:
    """Each linear layer's weights, row by row, then its biases: float32, little-endian."""
    linear = [node.layer for node in net.program().nodes if isinstance(node.layer, nn.Linear)]
    parts = []
    for layer in linear:
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
        parts += [layer.weight.detach().flatten(), bias.detach()]
    return torch.cat(parts).float().cpu().numpy().astype("<f4").tobytes()


def table(net: GloroNet) -> list[list[float]]:
    """The certified margin constants, (classes, classes)."""
    return net.margin_constants().tolist()
