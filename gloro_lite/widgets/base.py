"""What all widgets share: their JavaScript, the epsilon slider, and a still picture for where scripts are off."""

from __future__ import annotations

import base64
import html
import io
import re
from importlib import resources

import anywidget
import ipywidgets
import traitlets

from gloro_lite.certificate import check_epsilon

_FILES = resources.files(__package__)


def module(name: str) -> str:
    """`name` and what it imports as one JavaScript module, which a page can load from a string."""
    parts = [_FILES.joinpath(file).read_text(encoding="utf-8") for file in ("core.js", "plane.js", name)]
    return "\n".join(re.sub(r"^import [^;]*;\n", "", part, flags=re.MULTILINE) for part in parts)


class Widget(anywidget.AnyWidget):
    """A picture with an epsilon, in input units. Assigning to a trait redraws it; `observe` calls back when it is moved."""

    _css = _FILES.joinpath("style.css").read_text(encoding="utf-8")
    description = traitlets.Unicode().tag(sync=True)
    epsilon = traitlets.Float(0.3).tag(sync=True)

    @traitlets.validate("epsilon")
    def _check_epsilon(self, proposal) -> float:
        return check_epsilon(proposal["value"])

    def with_controls(self, largest: float = 1.0):
        """An ipywidgets VBox: a slider for epsilon, up to `largest`, over the picture; the two stay linked without a kernel."""
        slider = ipywidgets.FloatSlider(
            value=self.epsilon, min=0.01, max=largest, step=0.01, description="ε", layout={"width": "100%", "max_width": "420px"}
        )
        ipywidgets.jslink((slider, "value"), (self, "epsilon"))
        return ipywidgets.VBox([slider, self])

    def _draw(self):
        """The same picture as a matplotlib figure."""
        raise NotImplementedError

    def still(self):
        """What a page shows where scripts are off: a picture, described. An object for IPython's `display`."""
        from IPython.display import HTML
        from matplotlib import pyplot as plt

        figure = self._draw()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=80)
        plt.close(figure)
        picture = base64.b64encode(buffer.getvalue()).decode()
        alt = html.escape(self.description, quote=True)
        image = f'<img class="gloro-still" alt="{alt}" src="data:image/png;base64,{picture}">'
        return HTML(f'<noscript class="gloro-noscript">{image}</noscript>')


def frame(points, margin: float = 0.3) -> dict[str, float]:
    """The square of the plane to show around points, (n, 2)."""
    from gloro_lite.plotting import grid

    _, (left, right, bottom, _) = grid(points, margin=margin, size=2)
    return {"left": left, "bottom": bottom, "side": right - left}
