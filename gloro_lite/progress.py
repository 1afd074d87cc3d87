"""How far a run is, for whoever watches: a bar on a terminal or in a notebook, a line an epoch in a log."""

from __future__ import annotations

import logging
import statistics
import sys
from typing import Any

logger = logging.getLogger(__name__)


_FIGURES = {"loss": "loss {:.4f}", "accuracy": "accuracy {:.4f}", "vra": "VRA {:.4f}", "lipschitz": "K {:.3g}"}
"""What is told of an epoch, by its name in the history."""


class Progress:
    """Shown while a net trains: a bar for whoever watches, else a line an epoch to the log `gloro_lite.progress`, at level INFO.

    Args:
        steps: how many calls of `step` there are in an epoch.
        epochs: how many there are.
        done: how many of them were done before.
        shown: False for nothing at all.
    """

    def __init__(self, steps: int, epochs: int, done: int, shown: bool):
        self._epochs, self._shown = epochs, shown
        self._seconds: list[float] = []
        self._bar = _bar(steps * epochs, steps * done) if shown and is_watched() else None

    def step(self) -> None:
        """Another step is done."""
        if self._bar is not None:
            self._bar.update()

    def epoch(self, row: dict[str, Any], images: int) -> None:
        """Another epoch of so many images is done. `row` has its number, its `seconds` and its `_FIGURES`, all or some."""
        self._seconds.append(row["seconds"])
        number = row["epoch"] + 1
        figures = ", ".join(text.format(row[name]) for name, text in _FIGURES.items() if name in row)
        if self._bar is not None:
            self._bar.set_postfix_str(f"epoch {number}, {figures}, {images / row['seconds']:.0f} images/s")
        elif self._shown:
            left = (self._epochs - number) * statistics.median(self._seconds)
            logger.info("epoch %d of %d: %s; %.1f s, %s left", number, self._epochs, figures, row["seconds"], _duration(left))

    def close(self) -> None:
        """The run has ended or stopped."""
        if self._bar is not None:
            self._bar.close()


def is_watched() -> bool:
    """Whether a bar that is redrawn can be seen: in a file each state of it would be kept."""
    # A module that is loaded is no notebook yet: only the shell of a running kernel has one.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())


def _bar(total: int, done: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=done, unit="batch")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
