"""Augmentation of a batch where it lies: one affine map, a change of colour and noise for each image, drawn from a generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Ranges that each image draws from uniformly; what is left out stays as it is.

    Attributes:
        flip: mirror every second image, left to right.
        rotation: in radians, to either side.
        shift: in fractions of the image's side, each way.
        shear: in radians, to either side.
        zoom: smallest and largest part of the image's side that is shown.
        saturation: smallest and largest factor of each pixel's distance from grey.
        contrast: smallest and largest factor of each pixel's distance from the image's mean.
        noise: standard deviation of Gaussian noise, in pixel units of images in [0, 1].
    """

    flip: bool = False
    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    saturation: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0


AUGMENTATIONS = {
    "none": Augmentation(),
    "digits": Augmentation(rotation=math.radians(8), shift=0.03, zoom=(0.93, 1.07)),
    "cifar10": Augmentation(flip=True, rotation=0.157, zoom=(0.8, 1.0), saturation=(0.5, 1.2), contrast=(0.8, 1.2), noise=0.01),
    "cifar10-light": Augmentation(flip=True, shift=0.06),
    "cifar10-wide": Augmentation(
        flip=True, rotation=0.1, shift=0.1, zoom=(0.85, 1.1), saturation=(0.6, 1.4), contrast=(0.8, 1.2)
    ),
    "tiny-imagenet": Augmentation(flip=True, rotation=math.radians(20), shift=0.2, shear=0.1, zoom=(0.9, 1.1)),
}
"""All augmentations, by the name that a recipe gives.

"cifar10" and "tiny-imagenet" have the ranges of the official scripts of 2021. A run of some fifty epochs does not yet overfit and
learns more with weaker ones, "cifar10-light"; "cifar10-wide" is for longer runs.
"""


def augment(x: Tensor, ranges: Augmentation, generator: torch.Generator) -> Tensor:
    """Augment images, (batch, channels, height, width) float in [0, 1], with random numbers from `generator`, on x's device.

    What a map brings in from outside the image repeats its edge. Returns images of the same shape in [0, 1].
    """
    count, device = len(x), x.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=device)

    # Every image draws all of its numbers, asked for or not, so that one range does not change what another draws.
    angle = uniform(-ranges.rotation, ranges.rotation)
    right, down = 2 * uniform(-ranges.shift, ranges.shift), 2 * uniform(-ranges.shift, ranges.shift)
    shear, zoom = uniform(-ranges.shear, ranges.shear), uniform(*ranges.zoom)
    mirror = 1 - 2 * ((uniform(0, 1) < 0.5) & ranges.flip).float()
    saturation, contrast = uniform(*ranges.saturation), uniform(*ranges.contrast)
    if ranges.flip or ranges.rotation or ranges.shift or ranges.shear or ranges.zoom != (1.0, 1.0):
        # From the place of an output pixel to that of its source, in units of half a side.
        across = torch.stack((mirror * zoom * angle.cos(), -zoom * (angle + shear).sin(), right), 1)
        along = torch.stack((mirror * zoom * angle.sin(), zoom * (angle + shear).cos(), down), 1)
        grid = F.affine_grid(torch.stack((across, along), 1), list(x.shape), align_corners=False)
        # The centres of the outermost pixels: what lies beyond repeats them, also where `padding_mode` is not supported.
        limit = 1 - 1 / torch.tensor([x.shape[3], x.shape[2]], dtype=x.dtype, device=device)
        x = F.grid_sample(x, torch.minimum(torch.maximum(grid.to(x.dtype), -limit), limit), align_corners=False)
    if ranges.saturation != (1.0, 1.0):
        grey = x.mean(dim=1, keepdim=True)
        x = grey + saturation[:, None, None, None] * (x - grey)
    if ranges.contrast != (1.0, 1.0):
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = mean + contrast[:, None, None, None] * (x - mean)
    if ranges.noise:
        x = x + ranges.noise * torch.randn(x.shape, generator=generator, device=device)
    return x.clamp(0, 1)
