"""The look of the book's figures: one colour for each class, hatched grey for bottom. Needs matplotlib."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from gloro_lite import extras
from gloro_lite.palette import PALETTE

CLASS_COLORS = tuple(PALETTE["classes"])
"""One colour a class, readable to the colour-blind: see `gloro_lite.palette`."""

BOTTOM_COLOR = PALETTE["bottom"]
HATCH = "////"
"""What fills bottom's regions and bars, beside its colour."""
MARKERS = "osD^vP*Xhd"

STYLE = {
    "figure.dpi": 110,
    "figure.figsize": (6.4, 3.6),
    "figure.constrained_layout.use": True,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "font.size": 10,
}


@contextmanager
def style():
    """Draw in the book's style: `with plotting.style(): ...`."""
    with extras.needed("drawing", "book"):
        import matplotlib as mpl
        from cycler import cycler

    with mpl.rc_context({**STYLE, "axes.prop_cycle": cycler(color=CLASS_COLORS)}):
        yield


def use_style() -> None:
    """Set the book's style for all figures that follow; what a notebook calls once. There, figures get two dots for each of the
    page's, so that they are sharp in print and on fine screens."""
    with extras.needed("drawing", "book"):
        import matplotlib as mpl
        from cycler import cycler

    mpl.rcParams.update({**STYLE, "axes.prop_cycle": cycler(color=CLASS_COLORS)})
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


def fewer_bytes(png: bytes) -> bytes:
    """The same picture in at most 256 colours: enough for a figure, in a third of the bytes. Needs Pillow, as matplotlib does."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png))
    white = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    small = io.BytesIO()
    flat.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True, **({"dpi": picture.info["dpi"]} if "dpi" in picture.info else {})
    )
    return min(small.getvalue(), png, key=len)


def grid(x: Tensor, margin: float = 0.3, size: int = 240) -> tuple[Tensor, tuple[float, float, float, float]]:
    """A square lattice over the points x, (n, 2): (size * size, 2), row by row from the bottom, and its extent."""
    low, high = x.min(dim=0).values - margin, x.max(dim=0).values + margin
    half = (high - low).max() / 2
    centre = (low + high) / 2
    low, high = centre - half, centre + half
    axes = [torch.linspace(low[k].item(), high[k].item(), size) for k in range(2)]
    lattice = torch.cartesian_prod(axes[1], axes[0]).flip(1)
    return lattice, (low[0].item(), high[0].item(), low[1].item(), high[1].item())


def decision_regions(axes, labels: Callable[[Tensor], Tensor], x: Tensor, *, size: int = 240, alpha: float = 0.45) -> None:
    """Colour the plane by label; -1 is bottom, in grey and hatched.

    Args:
        axes: a matplotlib Axes.
        labels: maps points (n, 2) to labels (n,); `lambda x: net.certify(x).label`, say.
        x: (n, 2), the points to make room for.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap

    lattice, extent = grid(x, size=size)
    picture = labels(lattice).view(size, size).cpu().numpy()
    colors = ListedColormap((BOTTOM_COLOR, *CLASS_COLORS))
    norm = BoundaryNorm([k - 1.5 for k in range(len(CLASS_COLORS) + 2)], colors.N)
    axes.imshow(picture, origin="lower", extent=extent, cmap=colors, norm=norm, alpha=alpha, interpolation="nearest")
    if (picture < 0).any():
        sheet = (picture < 0).astype(float)
        hatched = axes.contourf(
            sheet, levels=[0.5, 1.5], extent=extent, origin="lower", colors="none", hatches=[HATCH], zorder=0.5
        )
        hatched.set(edgecolor=BOTTOM_COLOR, linewidth=0.0)
    axes.set(aspect="equal", xlim=extent[:2], ylim=extent[2:], autoscale_on=False)
    axes.grid(False)


def boundary(axes, predictions: Callable[[Tensor], Tensor], x: Tensor, *, size: int = 240) -> None:
    """Draw a black line where the prediction changes, over the same square as `decision_regions`.

    Args:
        axes: a matplotlib Axes.
        predictions: maps points (n, 2) to classes (n,), bottom not among them.
        x: (n, 2), the points to make room for.
    """
    lattice, extent = grid(x, size=size)
    picture = predictions(lattice).view(size, size).cpu()
    for label in picture.unique().tolist()[1:]:
        sheet = (picture >= label).double().numpy()
        axes.contour(sheet, levels=[0.5], extent=extent, origin="lower", colors="black", linewidths=1.2)


def scatter(axes, x: Tensor, y: Tensor, *, size: float = 14, legend: bool = False) -> None:
    """Draw labelled points, (n, 2) and (n,), with a colour and a marker for each class."""
    for label in y.unique().tolist():
        own = x[y == label]
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=size,
            c=CLASS_COLORS[label % len(CLASS_COLORS)],
            marker=MARKERS[label % len(MARKERS)],
            edgecolors="white",
            linewidths=0.5,
            label=f"class {label}",
        )
    if legend:
        axes.legend()


def live_curves(seconds: float = 5.0) -> Callable[[list[dict], bool], None]:
    """Curves of a training run that a notebook redraws in place: give the result to `gloro_lite.train.train` as `on_epoch`.

    Args:
        seconds: the least time between two pictures, so that drawing takes no time from short epochs.

    Returns: a function of a history, a list of one dict an epoch with the keys loss, accuracy, vra and lipschitz, and of whether
        its last epoch is the last of all, which is always drawn.
    """
    from IPython.display import display
    from matplotlib import pyplot as plt

    handle = display({"text/plain": "The first epoch is not over yet."}, raw=True, display_id=True)
    drawn = -float("inf")

    def draw(history: list[dict], last: bool) -> None:
        nonlocal drawn
        if time.monotonic() - drawn < seconds and not last:
            return
        with style():
            figure, (loss, fraction, constant) = plt.subplots(1, 3, figsize=(9, 2.6))
            epochs = [row["epoch"] for row in history]
            loss.plot(epochs, [row["loss"] for row in history])
            fraction.plot(epochs, [row["accuracy"] for row in history], label="accuracy")
            fraction.plot(epochs, [row["vra"] for row in history], label="VRA (estimate)")
            constant.plot(epochs, [row["lipschitz"] for row in history])
            for axes, title in ((loss, "loss"), (fraction, "validation"), (constant, "largest $K_{ij}$")):
                axes.set(title=title, xlabel="epoch")
            fraction.legend()
            handle.update(figure)
            plt.close(figure)
        drawn = time.monotonic()

    return draw
