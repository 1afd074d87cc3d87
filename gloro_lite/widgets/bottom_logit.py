"""How bottom's logit follows from the logits, the margin constants and epsilon (the paper's Figure 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import traitlets

from gloro_lite.widgets.base import Widget, module

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _finite(values: Iterable[float]) -> list[float]:
    found = [float(v) for v in values]
    if not all(math.isfinite(v) for v in found):
        raise ValueError(f"logits and rows must be finite numbers, not {found}")
    return found


def _checked(logits: Sequence[float], rows: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    finite, vectors = _finite(logits), [_finite(row) for row in rows]
    if not 2 <= len(finite) <= 6 or len(vectors) != len(finite) or any(len(row) != 2 for row in vectors):
        raise ValueError(f"give two to six logits, and a row of two numbers for each; got {len(finite)} and {len(vectors)}")
    return finite, vectors


class BottomLogit(Widget):
    """Bars for the logits, whiskers for what each rival gains within epsilon, and bottom's level at the highest whisker: with
    K_i + K_j (the paper's Figure 2) and with the tight K_ij = ||w_j - w_i|| (its Appendix A.2).

    Args:
        logits: of two to six classes.
        rows: the last layer's row for each class, [a, b]: two features are enough to show lengths and angles.
        epsilon: in input units.

    Traits: `logits`, `rows` and `epsilon`, all moved by the reader; there are as many classes as in the beginning.

    Raises ValueError for other shapes and for values that are not finite.
    """

    _esm = module("bottom_logit.js")
    logits: traitlets.List[float] = traitlets.List().tag(sync=True)
    rows: traitlets.List[list[float]] = traitlets.List().tag(sync=True)

    def __init__(
        self,
        logits: Sequence[float] = (1.6, 0.4, -0.8),
        rows: Sequence[Sequence[float]] = ((1.2, 0.6), (0.3, 1.4), (-1.0, -0.7)),
        epsilon: float = 0.3,
    ):
        super().__init__(
            logits=list(logits),
            rows=list(rows),
            epsilon=epsilon,
            description=(
                "Bottom logit: bars for each class's logit, with whiskers up to what each rival can reach within epsilon, and "
                "bars for bottom in two forms; arrows for the last layer's rows. Bottom wins where its bar is the highest."
            ),
        )

    @traitlets.validate("logits")
    def _check_logits(self, proposal: dict[str, Any]) -> list[float]:
        return _checked(proposal["value"], self.rows)[0]

    @traitlets.validate("rows")
    def _check_rows(self, proposal: dict[str, Any]) -> list[list[float]]:
        return _checked(self.logits, proposal["value"])[1]

    def _draw(self) -> Figure:
        import torch
        from matplotlib import pyplot as plt

        from gloro_lite import plotting
        from gloro_lite.bottom import bottom_logit, margin_constants

        logits, rows = torch.tensor([self.logits]), torch.tensor(self.rows)
        bottoms = [bottom_logit(logits, margin_constants(rows, 1.0, tight=t), self.epsilon).item() for t in (False, True)]
        figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
        count = len(self.logits)
        names = [f"$y_{i}$" for i in range(count)] + [r"$\bot$, $K_i+K_j$", r"$\bot$, tight"]
        colors = [*plotting.CLASS_COLORS[:count], plotting.BOTTOM_COLOR, plotting.BOTTOM_COLOR]
        bars = left.bar(names, [*self.logits, *bottoms], color=colors)
        for bar in bars[count:]:
            bar.set(hatch=plotting.HATCH, edgecolor="white")
        top = int(logits.argmax())
        for form, tight in enumerate((False, True)):
            gains = self.epsilon * margin_constants(rows, 1.0, tight=tight)[top]
            for i in set(range(count)) - {top}:
                left.errorbar(i - 0.1 + 0.2 * form, self.logits[i], [[0], [gains[i]]], color="black", capsize=3, lw=1 + form)
            left.axhline(bottoms[form], color="black", ls=("--", "-")[form], lw=1)
        for i, (a, b) in enumerate(self.rows):
            right.annotate("", (a, b), (0, 0), arrowprops={"arrowstyle": "->", "color": plotting.CLASS_COLORS[i], "lw": 2})
            right.text(a, b, f"$w_{i}$")
        right.set(xlim=(-2.5, 2.5), ylim=(-2, 2), aspect="equal", title="rows of the last layer")
        return figure
