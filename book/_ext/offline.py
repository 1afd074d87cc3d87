"""Sphinx extension: formulas and widgets need no network.

MathJax, require.js and the widgets' manager are taken from npm, pinned by version and digest, and copied into the book;
anywidget's front end comes from the installed package. Where npm is missing the pages load the same versions from a CDN, and
the build says so.
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

ASSETS = Path(__file__).resolve().parents[2] / "_build" / "assets"
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
REQUIRE = Package(
    "requirejs",
    "2.3.8",
    "7/cTSLOdYkNBNJcDMWf+luFvMriVm7eYxp4BcFCsAX0wF421Vyce5SXP17c+Jd5otXKGNehIonFlyQXSowL6Mw==",
)
MANAGER = Package(
    "@jupyter-widgets/html-manager",
    "1.0.15",
    "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
)

# MathJax 3 has no Hub, which the widgets' manager (made for MathJax 2) calls to set formulas; it replaces what it finds when it loads.
WIDGET_PATHS = """\
const base = document.currentScript.src.replace(/\\/[^/]*$/, "");
requirejs.config({ paths: %s });
const giveHub = () => {
  window.MathJax = window.MathJax || {};
  window.MathJax.Hub = { Queue: ([, , node]) => window.MathJax.typesetPromise?.(node ? [node] : undefined) };
};
giveHub();
document.querySelector('script[src*="tex-mml-chtml"]')?.addEventListener("load", giveHub);
document.addEventListener("DOMContentLoaded", giveHub);
"""


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
    # The one bundle that the pages load, and the fonts that it asks for.
    es5 = package / "es5"
    shutil.copytree(es5 / "output" / "chtml" / "fonts", target / "output/chtml/fonts")
    shutil.copy(es5 / "tex-mml-chtml.js", target)


def _copy_require(package: Path, target: Path) -> None:
    shutil.copy(package / "require.js", target)


def _copy_manager(package: Path, target: Path) -> None:
    # Its style sheet claims the theme's icons too, so it needs its icon font, in the one format that every browser reads.
    for pattern in ("*-amd.js", "*.woff2"):
        for path in (package / "dist").glob(pattern):
            shutil.copy(path, target)


def provide(name: str, package: Package, copy: Callable[[Path, Path], None]) -> bool:
    """Put what the book needs of a package into the assets folder, if it is not there. Returns whether it is there then."""
    target = ASSETS / name
    if target.is_dir():
        return True
    try:
        with tempfile.TemporaryDirectory() as folder:
            unpacked = fetch(package, Path(folder))
            part = ASSETS / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            copy(unpacked, part)
            part.replace(target)
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("the pages load %s from %s: %s", package.name, CDN, error)
        return False
    return True


def _write_widget_paths(paths: dict[str, str]) -> None:
    """The script between require.js and the manager: where modules lie, relative to itself where they are in the book."""
    import anywidget

    widgets = ASSETS / "widgets"
    widgets.mkdir(parents=True, exist_ok=True)
    front_end = Path(anywidget.__file__).parent / "nbextension" / "index.js"
    shutil.copy(front_end, widgets / "anywidget.js")
    entries = {"anywidget": 'base + "/anywidget"', **paths}
    table = ", ".join(f"{json.dumps(k)}: {v}" for k, v in entries.items())
    (widgets / "widget-paths.js").write_text(
        WIDGET_PATHS % ("{ " + table + " }"), encoding="utf-8"
    )


def use_local_assets(app: Sphinx, config: Config) -> None:
    if provide("mathjax", MATHJAX, _copy_mathjax):
        config.mathjax_path = "mathjax/tex-mml-chtml.js"
    else:
        config.mathjax_path = f"{CDN}/mathjax@{MATHJAX.version}/es5/tex-mml-chtml.js"
    # Not in _static, of which every script is added to every page.
    if provide("require", REQUIRE, _copy_require):
        require = "require/require.js"
    else:
        require = f"{CDN}/requirejs@{REQUIRE.version}/require.js"
    if provide("html-manager", MANAGER, _copy_manager):
        manager = "html-manager/embed-amd.js"
        paths = {"@jupyter-widgets/html-manager/dist": 'base + "/../html-manager"'}
    else:
        manager = f"{CDN}/{MANAGER.name}@{MANAGER.version}/dist/embed-amd.js"
        paths = {}
    _write_widget_paths(paths)
    config.html_static_path.append(str(ASSETS))
    config.nb_ipywidgets_js = {require: {}, "widgets/widget-paths.js": {}, manager: {}}


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", use_local_assets)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
