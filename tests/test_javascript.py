"""The widgets' mathematics in node, without a browser, on vectors that the Python package computes."""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("anywidget")

from gloro_lite.widgets.base import module

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests" / "js"
MODULES = ("margin_explorer", "bottom_logit", "voronoi_playground", "training_replay")
OLDEST = 18  # the first node whose test runner is stable enough


def node() -> str:
    path = shutil.which("node")
    if path is None:
        pytest.skip("node is not installed: the widgets' JavaScript is tested in the browser only")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.match(r"v(\d+)", version).group(1)) < OLDEST:
        pytest.skip(f"node {version.strip()} is older than {OLDEST}")
    return path


def close(found, wanted) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            close(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    else:
        assert found == wanted


def test_the_stored_vectors_are_what_the_package_computes():
    vectors = runpy.run_path(str(FOLDER / "vectors.py"))["vectors"]()
    stored = json.loads((FOLDER / "vectors.json").read_text(encoding="utf-8"))
    close(stored, json.loads(json.dumps(vectors)))


def test_units_in_node():
    tests = sorted(map(str, FOLDER.glob("*.test.mjs")))
    assert tests
    done = subprocess.run([node(), "--test", *tests], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"pass [1-9]\d", done.stdout)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_stands_alone(name, tmp_path):
    """The text that a page loads parses as one module, and exports what anywidget asks for."""
    text = module(f"{name}.js")
    assert "import " not in re.sub(r"//.*|/\*.*?\*/", "", text, flags=re.DOTALL)
    path = tmp_path / f"{name}.mjs"
    path.write_text(text, encoding="utf-8")
    script = f'import widget from "{path.as_uri()}"; if (typeof widget.render !== "function") throw new Error("no render");'
    done = subprocess.run([node(), "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
