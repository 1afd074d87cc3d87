"""The paper's four networks, built from its own notation."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from gloro_lite.layers import Absolute, GroupSort, MinMax

NETWORKS = {
    "2C2F": "c16k4s2 c32k4s2 | 100",
    "4C3F": "c32k3 c32k4s2 c64k3 c64k4s2 | 512 512",
    "6C2F": "c32k3 c32k3 c32k4s2 c64k3 c64k3 c64k4s2 | 512",
    "8C2F": "c64k3 c64k3 c64k4s2 c128k3 c128k3 c128k4s2 c256k3 c256k4s2 | 256",
    "8C2F-half": "p2 c64k3 c64k3 c64k4s2 c128k3 c128k3 c128k4s2 c256k3 c256k4s2 | 256",
}
"""Convolutions, a bar, dense layers; c32k4s2 has 32 channels, kernel 4, stride 2, padding 1. The layer of the logits follows.

A first word p2 stands for sums over windows of 2 x 2 pixels, halved: half the resolution by a layer of norm 1, so that what is
certified of the small image within an l2 distance holds of the large one too.
"""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "minmax": MinMax,
    "relu": nn.ReLU,
    "abs": Absolute,
    "groupsort4": partial(GroupSort, 4),
}
INITIALISATIONS = ("orthogonal", "pytorch")


def build(
    network: str,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    activation: str = "minmax",
    initialisation: str = "orthogonal",
    seed: int = 0,
) -> nn.Sequential:
    """Build one of `NETWORKS`, or a network written in the same notation.

    Args:
        input_shape: (channels, height, width).
        activation: a key of `ACTIVATIONS`, put after every layer but the last.
        initialisation: "orthogonal" weights and biases of 0, or "pytorch" for PyTorch's own of each layer.
        seed: of the weights; torch's own random state is left as it is.

    Raises ValueError for a notation, activation or initialisation that is not understood, a shape that is not an image's, no
    classes, and for images too small for the strides.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; not {activation!r}")
    if initialisation not in INITIALISATIONS:
        raise ValueError(f"initialisation must be one of {', '.join(INITIALISATIONS)}; not {initialisation!r}")
    if len(input_shape) != 3 or any(type(side) is not int or side < 1 for side in input_shape):
        raise ValueError(f"input_shape is (channels, height, width), (1, 28, 28) say, not {input_shape!r}")
    if type(classes) is not int or classes < 1:
        raise ValueError(f"classes must be a whole number, at least 1, not {classes!r}")
    convolutions, bar, dense = NETWORKS.get(network, network).partition("|")
    words = convolutions.split()
    pooled = words[:1] == ["p2"]
    parsed = [re.fullmatch(r"c([1-9]\d*)k([1-9]\d*)(?:s([1-9]\d*))?", word, re.ASCII) for word in words[pooled:]]
    if not bar or not all(parsed) or not all(re.fullmatch(r"[1-9]\d*", word, re.ASCII) for word in dense.split()):
        raise ValueError(f"network must be one of {', '.join(NETWORKS)} or be written like {NETWORKS['2C2F']!r}; not {network!r}")
    with torch.random.fork_rng(devices=[]):  # PyTorch's own initialisation draws from the global state
        torch.default_generator.manual_seed(seed)  # of the CPU alone; torch.manual_seed would seed GPUs too
        channels, height, width = input_shape
        layers: list[nn.Module] = []
        if pooled:
            layers.append(nn.AvgPool2d(2, divisor_override=2))
            height, width = height // 2, width // 2
        for match in parsed:
            out_channels, kernel, stride = int(match[1]), int(match[2]), int(match[3] or 1)
            layers += [nn.Conv2d(channels, out_channels, kernel, stride, padding=1), ACTIVATIONS[activation]()]
            height, width = ((side + 2 - kernel) // stride + 1 for side in (height, width))
            if min(height, width) < 1:
                raise ValueError(f"images of {input_shape} are too small for {network}")
            channels = out_channels
        layers.append(nn.Flatten())
        features = channels * height * width
        for word in dense.split():
            layers += [nn.Linear(features, int(word)), ACTIVATIONS[activation]()]
            features = int(word)
        layers.append(nn.Linear(features, classes))
    generator = torch.Generator().manual_seed(seed)
    for layer in layers if initialisation == "orthogonal" else ():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
