"""Sphinx extension: the book is rendered from the executed twins of its notebooks (see execute.py)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_tools"))

from execute import ROOT, is_current, twin
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def show_twin(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the twin's text in place of the notebook's; a twin that is missing or out of date is a warning."""
    notebook = ROOT / f"{docname}.ipynb"
    if not notebook.is_file():
        return
    app.env.note_dependency(str(twin(notebook)))
    if not is_current(notebook):
        logger.warning(
            "%s has no current results: run `make notebooks`", docname, location=docname
        )
        return
    source[0] = twin(notebook).read_text(encoding="utf-8")


def setup(app: Sphinx) -> dict:
    app.connect("source-read", show_twin)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
