"""What this package raises for networks that it cannot certify."""

from __future__ import annotations


class NetworkError(ValueError):
    """A network, or one of its layers, that cannot be certified as it is; says which layer, why, and what to do.

    Attributes:
        layer: the layer's dotted name in the network; empty for the network itself.
        reason: what is wrong with it and what to do.
    """

    def __init__(self, reason: str, layer: str = "", kind: str = "", shape: tuple[int, ...] | None = None):
        self.layer, self.reason = layer, reason
        where = f"layer {layer!r}" + (f" ({kind})" if kind else "") if layer else kind
        if shape is not None:
            where = f"{where or 'the network'} on an input of shape {shape}"
        super().__init__(f"{where}: {reason}" if where else reason)


class UnknownLayerError(NetworkError):
    """The network holds a layer that nobody has registered a Lipschitz bound for."""


class MismatchError(NetworkError):
    """The network computes something else than the program that was bounded."""


def said(error: Exception) -> str:
    """What an error of PyTorch, or of a layer of one's own, says in its first line; its type where it says nothing."""
    text = repr(error) if isinstance(error, KeyError) else str(error).partition("\n")[0]
    return text or type(error).__name__
