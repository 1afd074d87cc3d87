"""What the repository promises of itself: dependencies that agree, a light import, notebooks without outputs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def tracked():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).is_file()]


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return {*project["dependencies"], *extras["train"], *extras["book"], *extras["test"]}


def name(requirement):
    return re.split(r"[<>=!~ ]", requirement)[0].lower().replace("_", "-")


def test_environment_yml_holds_the_dependencies_of_the_package():
    lines = (ROOT / "environment.yml").read_text().split("- pip:")[1].splitlines()
    listed = {line.strip()[2:] for line in lines if line.strip().startswith("- ") and not line.strip().startswith("- --")}
    assert listed == requirements()


def test_the_lock_pins_every_dependency():
    pins = {name(line): line.split("==")[1] for line in (ROOT / "requirements.lock").read_text().split()}
    assert {name(r) for r in requirements()} <= set(pins)
    for requirement in requirements():
        if "==" in requirement:
            assert pins[name(requirement)] == requirement.split("==")[1]


def test_import_needs_torch_alone():
    """All that the project needs beyond torch is refused at import."""
    code = """
import sys
REFUSED = {"anywidget", "IPython", "ipywidgets", "matplotlib", "numpy", "pandas", "papermill", "PIL", "safetensors", "scipy",
           "sklearn", "torchvision", "tqdm", "traitlets", "yaml"}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, fullname, path=None, target=None):
        refused = fullname.partition(".")[0] in REFUSED
        return None if refused else self.finder.find_spec(fullname, path, target)
sys.meta_path = [Without(finder) for finder in sys.meta_path]
import warnings; warnings.simplefilter("ignore")
import gloro_lite, torch
net = gloro_lite.GloroNet(torch.nn.Sequential(torch.nn.Linear(2, 4), gloro_lite.MinMax(), torch.nn.Linear(4, 2)), (2,), 0.1)
print(net.certify(torch.zeros(1, 2)).label.shape[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_committed_without_outputs_and_take_parameters(path):
    nb = nbformat.read(path, 4)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "run nbstripout on it"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert nb.cells[0].cell_type == "markdown" and nb.cells[0].source.startswith("# ")


def test_commands_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {a or b for a, b in re.findall(r"^    make ([a-z]+)|`make ([a-z]+)`", (ROOT / "README.md").read_text(), re.M)}
    assert {"book", "test"} <= named <= targets
    for chapter in re.findall(r"book/\w+\.ipynb", (ROOT / "README.md").read_text()):
        assert (ROOT / chapter).is_file()


def test_every_chapter_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text()
    for path in NOTEBOOKS:
        assert f"book/{path.stem}" in toc


def test_no_file_knows_a_path_of_the_machine_it_was_written_on():
    for path in tracked():
        if path.suffix in {".py", ".md", ".ipynb", ".yml", ".toml", ".js", ".json"}:
            assert not re.search(r"(?<![\w.])/(home|root|work|Users)/[a-z]", path.read_text(encoding="utf-8")), path
