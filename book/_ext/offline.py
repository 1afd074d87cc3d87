"""Sphinx extension: formulas and widgets need no network.

MathJax is taken from npm, pinned by version and digest, and copied into the book. Where npm is missing the pages load the same
version from a CDN, and the build says so. Widgets are brought to life by book/assets/gloro/widgets.js, which knows anywidgets only:
a page with others is a warning.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "_build" / "assets"
PAGE = ROOT / "book" / "assets"
CDN = "https://cdn.jsdelivr.net/npm"


@dataclass(frozen=True)
class Package:
    """An npm package, pinned."""

    name: str
    version: str
    sha512: str

    @property
    def archive(self) -> str:
        """The name that `npm pack` gives to its file."""
        name = self.name.removeprefix("@").replace("/", "-")
        return f"{name}-{self.version}.tgz"


MATHJAX = Package(
    "mathjax",
    "3.2.2",
    "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
)
# For the tests of the pages: nothing of it is in the book.
AXE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)

# MathJax without its menu, which is a third of its bundle and makes every formula a stop for the Tab key: screen readers are given
# MathML (assistive-mml), and the menu's own speech files are never asked for.
PARTS = ("input/tex", "output/chtml", "a11y/assistive-mml")

STATE = "application/vnd.jupyter.widget-state+json"


def fetch(package: Package, folder: Path) -> Path:
    """The unpacked package, in `folder`. Raises OSError where npm is missing or fails, RuntimeError for another file."""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("npm is not installed")
    command = [npm, "pack", f"{package.name}@{package.version}", "--silent"]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=True)
    archive = folder / package.archive
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise RuntimeError(f"{archive.name} is not the pinned file: its sha512 differs")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def _copy_mathjax(package: Path, target: Path) -> None:
    # The parts that the pages load (PARTS), their fonts, and rarer commands of TeX, which are fetched when a formula has one.
    es5 = package / "es5"
    shutil.copytree(es5 / "output" / "chtml" / "fonts", target / "output/chtml/fonts")
    shutil.copytree(
        es5 / "input" / "tex" / "extensions", target / "input/tex/extensions"
    )
    for name in ("startup", "core", *PARTS):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(es5 / f"{name}.js", target / f"{name}.js")
    shutil.copy(package / "LICENSE", target)


def _copy_axe(package: Path, target: Path) -> None:
    shutil.copy(package / "axe.min.js", target)


def provide(target: Path, package: Package, copy: Callable[[Path, Path], None]) -> bool:
    """Put what is needed of a package into a folder, if it is not there. Returns whether it is there then."""
    if target.is_dir():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Beside it, under a name that Sphinx passes over: what is left of a build that was killed is in no book.
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as folder:
            part = Path(folder) / target.name
            part.mkdir()
            copy(fetch(package, Path(folder)), part)
            part.replace(target)
    except (OSError, subprocess.SubprocessError) as error:
        if not target.is_dir():  # from another build meanwhile
            logger.info("%s cannot be had from npm: %s", package.name, error)
    return target.is_dir()


def axe() -> Path | None:
    """The script of axe-core, which checks pages for accessibility; None where npm cannot give it."""
    target = ASSETS.with_name("axe")
    return target / "axe.min.js" if provide(target, AXE, _copy_axe) else None


def use_local_assets(app: Sphinx, config: Config) -> None:
    folder = f"mathjax-{MATHJAX.version}"
    if provide(ASSETS / folder, MATHJAX, _copy_mathjax):
        config.mathjax_path = f"{folder}/startup.js"
    else:
        config.mathjax_path = f"{CDN}/mathjax@{MATHJAX.version}/es5/startup.js"
        logger.info("the pages load formulas from %s", CDN)
    config.mathjax3_config = {
        **(config.mathjax3_config or {}),
        "loader": {"load": list(PARTS)},
    }
    # Not in _static, of which Jupyter Book adds every script to every page.
    config.html_static_path += [str(ASSETS), str(PAGE)]
    config.html_css_files.append("gloro/page.css")
    config.html_js_files.append(("gloro/page.js", {"defer": "defer"}))
    config.nb_ipywidgets_js = {"gloro/widgets.js": {"defer": "defer"}}


def check_widgets(app: Sphinx, docname: str, source: list[str]) -> None:
    """Warn of a notebook that shows a widget which widgets.js does not know."""
    if STATE not in source[0]:
        return
    models = (
        json.loads(source[0])["metadata"]
        .get("widgets", {})
        .get(STATE, {})
        .get("state", {})
    )
    foreign = {
        m["model_name"]
        for m in models.values()
        if m["model_module"] not in ("anywidget", "@jupyter-widgets/base")
    }
    if foreign:
        logger.warning(
            "the page holds %s: without a kernel only anywidgets are alive here",
            ", ".join(sorted(foreign)),
            location=docname,
        )


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", use_local_assets)
    app.connect(
        "source-read", check_widgets, priority=600
    )  # after twins.py has put the results in
    return {"version": "3", "parallel_read_safe": True, "parallel_write_safe": True}
