"""Copy the licences of what the rendered book holds of others beside it: `python book/_tools/licences.py _build/html`."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = (
    "jupyter-book",
    "pydata-sphinx-theme",
    "sphinx",
    "sphinx-book-theme",
    "sphinx-copybutton",
    "sphinx-design",
    "sphinx-exercise",
    "sphinx-proof",
    "sphinx-togglebutton",
)
"""Installed packages whose scripts and styles the pages load. THIRD_PARTY.md has a line for each."""


def texts(package: str) -> list[Path]:
    """The licence files that an installed package brings. Raises RuntimeError where it brings none."""
    files = metadata.distribution(package).files or []
    named = [
        file
        for file in files
        if "licen" in file.name.lower() and file.suffix in ("", ".txt", ".rst", ".md")
    ]
    found = [Path(str(file.locate())) for file in named]
    if not found:
        raise RuntimeError(
            f"{package} brings no licence: put its text into LICENSES/ and take it off the list in {__file__}"
        )
    return found


def copy(html: Path) -> Path:
    """Write `licences/` into the folder of the rendered book, and return it."""
    target = html / "licences"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "LICENSES", target)
    shutil.copy(ROOT / "THIRD_PARTY.md", target)
    shutil.copy(ROOT / "LICENSE", target / "gloro-lite.txt")
    for package in PACKAGES:
        for text in texts(package):
            shutil.copy(
                text, target / f"{package}-{text.name.removesuffix('.txt')}.txt"
            )
    return target


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
