"""A user's own images, read for a net: a folder of pictures, or an array in a .npz or .npy file. Needs numpy and Pillow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gloro_lite import extras
from gloro_lite.files import expanded
from gloro_lite.lipschitz.errors import said

Shape = tuple[int, ...]


class OwnImages(NamedTuple):
    """Images as they were read.

    Attributes:
        names: of the files, for a folder; the images' numbers from 0, for an array.
        x: (n, channels, height, width), uint8 or float32.
        y: (n,) int64, labels where the file has them.
    """

    names: list[str]
    x: Tensor
    y: Tensor | None


def read(path: str | Path, shape: Shape, classes: int) -> OwnImages:
    """Read images for a net that takes `shape`, (channels, height, width).

    Args:
        path: a folder, of which each file must be a picture of 8 bits a channel, but for hidden ones, Thumbs.db and desktop.ini;
            or a .npz file with the images as `x` (or as its only array) and, if they are known, the labels as `y`; or a .npy file
            with the images.
        classes: labels must be less.

    Raises FileNotFoundError where there is nothing, and ValueError, which names file and reason, for what cannot be taken.
    """
    with extras.needed("reading images", "train"):
        import numpy  # noqa: F401
        import PIL  # noqa: F401
    if not str(path):  # which stands for the working folder
        raise ValueError("--images is empty: name a folder of pictures or a file")
    path = expanded(path)
    if path.is_dir():
        return _folder(path, shape)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is neither a folder of images nor a file: check the path")
    if path.suffix.lower() not in (".npz", ".npy"):
        raise ValueError(f"{path} is neither a folder nor a .npz or .npy file: put the image into a folder of its own")
    return _array(path, shape, classes)


def unit(x: Tensor) -> Tensor:
    """Images in the units of epsilon, float32 in [0, 1]: bytes are divided by 255."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def _words(shape: Shape) -> str:
    channels, height, width = shape
    return f"{height} x {width} pixels with {channels} channel{'s' * (channels != 1)}"


def _folder(folder: Path, shape: Shape) -> OwnImages:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not _is_the_systems(file.name))
    if not files:
        raise ValueError(f"{folder} holds no files: --images wants the folder in which the pictures themselves lie")
    return OwnImages([_name(file) for file in files], torch.stack([_picture(file, shape) for file in files]), None)


def _is_the_systems(name: str) -> bool:
    """Whether a file is hidden, .DS_Store say, or one that Windows leaves in folders, where upper case is lower case."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def _name(file: Path) -> str:
    """A file's name as text, whatever the system's encoding: the table is in UTF-8."""
    try:
        return os.fsencode(file.name).decode()
    except UnicodeDecodeError:
        raise ValueError(f"the name of the file {str(file)!a} is not UTF-8: rename it") from None


_ORIENTATION = 0x0112
"""The EXIF tag that has programs turn a picture as they show it; 1 is as it is stored."""


class _Refused(ValueError):
    """A picture that can be read, and in more than one way."""


def _picture(file: Path, shape: Shape) -> Tensor:
    """One picture, (channels, height, width) uint8."""
    import numpy as np
    from PIL import Image

    channels, height, width = shape
    try:
        with Image.open(file) as image:
            _check_picture(file, image)
            pixels = np.asarray(image.convert("RGB"))
    except _Refused:
        raise
    except Exception as error:  # damage shows as any of Pillow's errors and of its decoders'
        raise ValueError(
            f"{file} cannot be read as a picture ({said(error)}): take it out of the folder, or save it anew"
        ) from error
    if pixels.shape[:2] != (height, width):
        raise ValueError(
            f"{file} has {pixels.shape[0]} x {pixels.shape[1]} pixels, and the net takes {_words(shape)}: resize it first, as "
            f"the images that the net was trained on"
        )
    if channels == 1:
        if (pixels != pixels[..., :1]).any():
            raise ValueError(f"{file} is in colour, and the net takes {_words(shape)}: convert it to grey first")
        pixels = pixels[..., :1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _check_picture(file: Path, image: Any) -> None:
    """Raise _Refused for a picture that other programs may show as another one than the pixels that are stored first."""
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA"):
        raise _Refused(f"{file} is a picture of mode {image.mode}: save it with 8 bits a channel, in grey or RGB")
    if getattr(image, "n_frames", 1) > 1:
        raise _Refused(f"{file} holds {image.n_frames} pictures: save the one that you mean as a file of its own")
    if (turned := image.getexif().get(_ORIENTATION, 1)) != 1:
        raise _Refused(f"{file} is stored turned or mirrored, with the EXIF orientation {turned}: save it anew as it is shown")
    see_through = image.mode in ("RGBA", "LA", "P") or "transparency" in image.info
    if see_through and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise _Refused(f"{file} is transparent in places: save it without transparency, on the background you mean")


def _array(path: Path, shape: Shape, classes: int) -> OwnImages:
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except Exception as error:  # damage shows as any of zipfile's, zlib's and numpy's errors
        raise ValueError(f"{path} is damaged or holds no plain arrays ({error}): save it with numpy.savez") from error
    if "x" not in arrays and len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    if "x" not in arrays:
        raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}: name the images x (and their labels, if any, y)")
    x = _pixels(path, _layout(path, arrays["x"], shape))
    y = None
    if "y" in arrays:
        labels = arrays["y"]
        if labels.shape != (len(x),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: y must hold a whole number for each of the {len(x)} images, not {labels.dtype} of shape {labels.shape}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"{path}: y holds {labels.min()} to {labels.max()}, and the net's classes are 0 to {classes - 1}")
        y = torch.from_numpy(labels.astype("int64"))
    return OwnImages([str(number) for number in range(len(x))], x, y)


def _layout(path: Path, x: Any, shape: Shape) -> Any:
    """x as (n, channels, height, width), from that, from channels last, or without channels where there is one."""
    channels, height, width = shape
    if x.shape[1:] == shape:
        laid = x
    elif x.shape[1:] == (height, width, channels):
        laid = x.transpose(0, 3, 1, 2)
    elif channels == 1 and x.shape[1:] == (height, width):
        laid = x[:, None]
    else:
        raise ValueError(
            f"{path}: the images have shape {tuple(x.shape)}, and the net takes {_words(shape)}: give (n, {channels}, {height}, "
            f"{width}) or (n, {height}, {width}, {channels})"
        )
    if not len(laid):
        raise ValueError(f"{path} holds no images")
    return laid


def _pixels(path: Path, x: Any) -> Tensor:
    """x as a tensor: uint8 as it is, floats within [0, 1] as float32."""
    import numpy as np

    if x.dtype == np.uint8:
        if x.max() == 1:  # as of images in [0, 1] that were cast to bytes
            raise ValueError(
                f"{path}: the images are bytes of 0 and 1 alone, and white is 255: give floats from 0 to 1, or 255 * x"
            )
        return torch.from_numpy(np.array(x))
    if x.dtype.kind != "f":
        raise ValueError(
            f"{path}: the images are {x.dtype}: give bytes from 0 to 255, x.astype(numpy.uint8), or floats from 0 to 1"
        )
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))[0])
        raise ValueError(f"{path}: image {row} holds NaN or infinite values")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        reason = (
            "they look like bytes: divide them by 255, or save them as uint8"
            if low >= 0 and high <= 255
            else "they look normalised: give the raw images, since epsilon is a distance between raw images"
        )
        raise ValueError(f"{path}: the images are floats from {low:.4g} to {high:.4g} and not within 0 to 1; {reason}")
    return torch.from_numpy(x.astype(np.float32))
