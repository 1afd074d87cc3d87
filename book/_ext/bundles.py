"""Sphinx extension: a chapter with the data that it reads, as one archive that runs wherever the package is installed.

The runner has noted which files of data/ each chapter read (execute.py). The archive holds them and the executed notebook in one
folder, laid out as an installed package looks for them in the working folder: `<chapter>/<chapter>.ipynb`, `<chapter>/paper.json`,
`<chapter>/results/...`.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_tools"))

import nbformat
from execute import ROOT, notebooks, twin
from sphinx.application import Sphinx

FOLDER = "chapters"


def data_files(notebook: Path) -> list[str]:
    """The files of data/ that a chapter's run read, as paths in the repository; none for a chapter that has not run."""
    if not twin(notebook).is_file():
        return []
    inputs = nbformat.read(twin(notebook), 4).metadata.get("gloro", {}).get("inputs")
    names = (name for name in inputs or () if name.startswith("data/"))
    return sorted(name for name in names if (ROOT / name).is_file())


def write(notebook: Path, target: Path) -> None:
    """Write a chapter's archive, the same bytes from the same files."""
    members = {notebook.name: twin(notebook)}
    members |= {
        name.removeprefix("data/"): ROOT / name for name in data_files(notebook)
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in members.items():
            member = zipfile.ZipInfo(f"{notebook.stem}/{name}")
            member.external_attr = 0o644 << 16
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)


def link(pagename: str, up: str) -> str:
    """For a chapter's foot: the link to its archive; nothing for pages that read no data."""
    notebook = ROOT / f"{pagename}.ipynb"
    if not notebook.is_file() or not (files := data_files(notebook)):
        return ""
    size = sum((ROOT / name).stat().st_size for name in files) / 1e6
    megabytes = f"{size:.0f}" if size >= 1 else f"{size:.1g}"
    return (
        f'<a href="{up}{FOLDER}/{notebook.stem}.zip" download>This notebook with the data that it reads</a> '
        f"(unpacked {megabytes} MB)"
    )


def write_all(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    for notebook in notebooks():
        if data_files(notebook):
            write(notebook, Path(app.outdir) / FOLDER / f"{notebook.stem}.zip")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", write_all)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
