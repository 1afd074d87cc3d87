"""Sphinx extension: formulas are set without a network.

MathJax is taken from npm, pinned by version and digest, and copied into the book. Where npm is missing the page loads the same
version from a CDN, and the build says so.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)

MATHJAX = "3.2.2"
DIGEST = "sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw=="
CDN = f"https://cdn.jsdelivr.net/npm/mathjax@{MATHJAX}/es5/tex-mml-chtml.js"
ASSETS = Path(__file__).resolve().parents[2] / "_build" / "assets"


def fetch_mathjax() -> bool:
    """Put MathJax into the assets folder, if it is not there. Returns whether it is there then."""
    target = ASSETS / "mathjax"
    if (target / "tex-mml-chtml.js").is_file():
        return True
    npm = shutil.which("npm")
    if npm is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"mathjax@{MATHJAX}", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300)
        archive = Path(folder) / f"mathjax-{MATHJAX}.tgz"
        if done.returncode or not archive.is_file():
            return False
        digest = hashlib.sha512(archive.read_bytes()).digest()
        if f"sha512-{base64.b64encode(digest).decode()}" != DIGEST:
            raise RuntimeError(
                f"{archive.name} is not the pinned file: its sha512 differs"
            )
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        es5 = Path(folder) / "package" / "es5"
        ASSETS.mkdir(parents=True, exist_ok=True)
        part = ASSETS / "mathjax.part"
        shutil.rmtree(part, ignore_errors=True)
        # The one bundle that the pages load, and the fonts that it asks for.
        shutil.copytree(es5 / "output" / "chtml" / "fonts", part / "output/chtml/fonts")
        shutil.copy(es5 / "tex-mml-chtml.js", part)
        part.replace(target)
    return True


def use_local_mathjax(app: Sphinx, config: Config) -> None:
    try:
        found = fetch_mathjax()
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("npm could not fetch MathJax: %s", error)
        found = False
    if found:
        config.html_static_path.append(str(ASSETS))
        config.mathjax_path = "mathjax/tex-mml-chtml.js"
    else:
        logger.info("no MathJax from npm: the pages load it from %s", CDN)
        config.mathjax_path = CDN


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", use_local_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
