"""What all widgets share: their JavaScript, epsilon, and a still picture for where scripts are off."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

import anywidget
import traitlets

from gloro_lite.certificate import check_epsilon

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from torch import Tensor

_FILES = resources.files(__package__)


def module(name: str) -> str:
    """`name` and what it imports as one JavaScript module, which a page can load from a string."""
    parts = [_FILES.joinpath(file).read_text(encoding="utf-8") for file in ("palette.js", "core.js", "page.js", "plane.js", name)]
    return "\n".join(re.sub(r"^import [^;]*;\n", "", part, flags=re.MULTILINE) for part in parts)


class Widget(anywidget.AnyWidget):
    """A picture with an epsilon, in input units.

    Traits: `epsilon`, and each widget's own. Assigning to one redraws the picture, and `observe` calls back when the reader moves
    it. What else a widget holds is set before it is shown, such as where the slider ends: see `with_controls`.
    """

    _css = _FILES.joinpath("style.css").read_text(encoding="utf-8")
    description = traitlets.Unicode().tag(sync=True)
    epsilon = traitlets.Float(0.3).tag(sync=True)
    largest = traitlets.Float(1.0).tag(sync=True)

    @traitlets.validate("epsilon")
    def _check_epsilon(self, proposal: dict[str, Any]) -> float:
        return check_epsilon(proposal["value"])

    def with_controls(self, largest: float = 1.0) -> Self:
        """The widget itself, its epsilon slider reaching up to `largest`.

        Raises ValueError for a `largest` that is not a positive number.
        """
        if not (math.isfinite(largest) and largest > 0):
            raise ValueError(f"the epsilon slider ends at a positive number, not {largest}")
        self.largest = float(largest)
        return self

    def _draw(self) -> Figure:
        """The same picture as a matplotlib figure."""
        raise NotImplementedError

    def still(self) -> HTML:
        """What a page shows where scripts are off: a picture, described. An object for IPython's `display`."""
        from IPython.display import HTML
        from matplotlib import pyplot as plt

        from gloro_lite.plotting import fewer_bytes

        figure = self._draw()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160)  # two dots for each of the page's
        plt.close(figure)
        picture = base64.b64encode(fewer_bytes(buffer.getvalue())).decode()
        width = round(80 * figure.get_figwidth())
        alt = html.escape(self.description, quote=True)
        image = f'<img class="gloro-still" width="{width}" alt="{alt}" src="data:image/png;base64,{picture}">'
        return HTML(f'<noscript class="gloro-noscript">{image}</noscript>')  # type: ignore[no-untyped-call]


def frame(points: Tensor, margin: float = 0.3) -> dict[str, float]:
    """The square of the plane to show around points, (n, 2)."""
    from gloro_lite.plotting import grid

    _, (left, right, bottom, _) = grid(points, margin=margin, size=2)
    return {"left": left, "bottom": bottom, "side": right - left}
