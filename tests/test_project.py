"""What the repository promises of itself: that it installs, what it depends on, who imports whom, what its papers say."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

import gloro_lite
from gloro_lite.cli import main, parser

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def tracked():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).is_file()]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements():
    extras = project()["optional-dependencies"]
    return {*project()["dependencies"], *(requirement for extra in extras.values() for requirement in extra)}


def name(requirement):
    return re.split(r"[<>=!~ ]", requirement)[0].lower().replace("_", "-")


def pins():
    return {name(line): line.split("==")[1] for line in (ROOT / "requirements.lock").read_text().split()}


def test_the_lock_pins_every_dependency():
    assert {name(r) for r in requirements()} <= set(pins())
    for requirement in requirements():
        if "==" in requirement:
            assert pins()[name(requirement)] == requirement.split("==")[1]


def test_marks_are_strict_and_each_is_in_use():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "--strict-markers" in options["addopts"].split()  # a mark that is not registered stops the collection
    registered = {line.partition(":")[0] for line in options["markers"]}
    assert registered == {"slow", "browser", "data"}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    used = set(re.findall(r"pytest\.mark\.(\w+)", sources)) - {"parametrize", "skipif", "filterwarnings"}
    assert used == registered
    # `make check` is without all of them.
    (command,) = re.findall(r"^check: lint\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert all(f"not {mark}" in command for mark in registered)
    # What skips for want of images says by its mark that it needs them.
    for path in (ROOT / "tests").glob("test_*.py"):
        for decorators in re.findall(r"((?:^@.*\n)+)def ", path.read_text(encoding="utf-8"), re.M):
            if "GLORO_DATA" in decorators or "data_root()" in decorators:
                assert "pytest.mark.data" in decorators, f"{path.name}: {decorators}"


# --- environment.yml


def what_conda_gives_to_pip(folder):
    """The requirements file that `conda env create -f environment.yml` writes beside it: the lines under pip, as they are."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (lines,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    path = folder / "condaenv.requirements.txt"
    path.write_text("\n".join(lines))
    return path


def copied(folder):
    """A copy of what git has of the project, in which a build may leave what it likes."""
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def test_pip_reads_every_line_that_conda_gives_it(tmp_path, monkeypatch):
    from pip._internal.network.session import PipSession
    from pip._internal.req.constructors import install_req_from_parsed_requirement
    from pip._internal.req.req_file import parse_requirements

    shutil.copy(ROOT / "requirements.lock", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)  # where conda calls pip
    parsed = [
        install_req_from_parsed_requirement(line)
        for line in parse_requirements(str(what_conda_gives_to_pip(tmp_path)), PipSession())
    ]
    editable = [requirement for requirement in parsed if requirement.editable]
    assert len(editable) == 1 and Path(editable[0].link.file_path) == tmp_path
    found = {name(requirement.name): str(requirement.specifier) for requirement in parsed if not requirement.editable}
    assert found == {package: f"=={version}" for package, version in pins().items()}


@pytest.mark.slow
def test_pip_would_install_what_conda_gives_it(tmp_path):
    """The whole of it, offline: the locked packages are here already, and the project itself is built."""
    root = copied(tmp_path)
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation", "--no-deps"]
    done = subprocess.run(
        [*command, "-r", str(what_conda_gives_to_pip(root))],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Would install gloro[-_]lite", done.stdout)


@pytest.mark.slow
def test_jupyterlab_loads_its_extensions():
    pytest.importorskip("jupyterlab", reason="the extra lab is not installed")
    command = [sys.executable, "-m", "jupyterlab.labextensions", "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    listing = re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)
    for extension in ("jupyterlab-myst", "anywidget", "@jupyter-widgets/jupyterlab-manager"):
        assert re.search(rf"{extension} v\S+ enabled +OK", listing), listing


# --- the package, installed


@pytest.mark.slow
def test_a_wheel_works_without_a_checkout(tmp_path):
    root = copied(tmp_path / "project")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    stale = root / "_build" / "wheel" / "lib" / "gloro_lite" / "deleted.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    subprocess.run([*pip, "wheel", "-q", *offline, "-w", str(tmp_path), "."], cwd=root, check=True)
    status = subprocess.run(["git", "status", "--short"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "??" not in status and not (root / "build").exists()  # nothing is left behind
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 1_200_000 and f"-{gloro_lite.__version__}-" in wheel.name
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", *offline, "--target", str(site), str(wheel)], check=True)
    here = {path.relative_to(ROOT / "gloro_lite") for path in (ROOT / "gloro_lite").rglob("*") if path.is_file()}
    there = {path.relative_to(site / "gloro_lite") for path in (site / "gloro_lite").rglob("*") if path.is_file()}
    kept = {path for path in here if "__pycache__" not in path.parts}
    weights = {Path("weights/mnist-0.3/seed-0", file) for file in ("model.safetensors", "result.json")}
    assert {path for path in there if "__pycache__" not in path.parts} == kept | weights
    code = """
import gloro_lite, torch
from gloro_lite import stored
assert gloro_lite.__file__.startswith(SITE), gloro_lite.__file__
assert stored.names() == ["mnist-0.3"]
net = gloro_lite.load("mnist-0.3")
print(net.certify(torch.zeros(2, 1, 28, 28)).radius.tolist())
try:
    gloro_lite.load("mnist-1.58")
except FileNotFoundError as error:
    assert "Stored here: mnist-0.3" in str(error) and "data/results" in str(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code.replace("SITE", repr(str(site)))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    import torch

    assert done.stdout.strip() == str(gloro_lite.load("mnist-0.3").certify(torch.zeros(2, 1, 28, 28)).radius.tolist())


@pytest.mark.slow
def test_the_source_distribution_builds_and_has_its_tests(tmp_path):
    root = copied(tmp_path / "project")
    code = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for path in tracked():
        relative = path.relative_to(ROOT)
        if relative.parts[0] in ("gloro_lite", "tests", "book", "LICENSES") or relative.parent == Path("data"):
            assert (unpacked / relative).is_file(), f"{relative} is missing: see MANIFEST.in"
    code = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    subprocess.run([sys.executable, "-c", code], cwd=unpacked, check=True, capture_output=True)
    assert list((tmp_path / "unpacked").glob("*.whl"))


def test_one_version_everywhere():
    version = gloro_lite.__version__
    assert project()["dynamic"] == ["version"] and "version" not in project()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert (citation["version"], citation["date-released"]) == newest.groups()
    assert citation["version"] == version


def test_addresses_are_set_everywhere_or_nowhere():
    address = project()["urls"].get("Repository")
    assert yaml.safe_load((ROOT / "_config.yml").read_text()).get("repository", {}).get("url") == address
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text()).get("repository-code") == address


def test_ci_runs_the_oldest_and_the_newest_python_and_pins_its_actions():
    text = (ROOT / ".github" / "workflows" / "book.yml").read_text()
    versions = [classifier.rpartition(" ")[2] for classifier in project()["classifiers"] if ":: Python :: 3." in classifier]
    assert yaml.safe_load(text)["jobs"]["test"]["strategy"]["matrix"]["python"] == [versions[0], versions[-1]]
    assert project()["requires-python"] == f">={versions[0]}"
    for action in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


# --- containers


def test_containers_take_a_python_and_commands_that_there_are():
    text = (ROOT / "Dockerfile").read_text()
    (python,) = re.findall(r"^FROM python:(3\.\d+)-", text, re.M)
    assert f"Programming Language :: Python :: {python}" in project()["classifiers"]
    stages = re.findall(r"^FROM \S+ AS (\w+)", text, re.M)
    assert set(re.findall(r"^FROM (\w+)$", text, re.M)) <= set(stages)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    build = container["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile" and build["target"] in stages
    commands = [*re.findall(r"^RUN make (\w+)$", text, re.M), json.loads(text.split("CMD ")[1])[1]]
    commands.append(container["postCreateCommand"].removeprefix("make "))
    assert commands == ["setup", "serve", "setup"] and set(commands) <= makefile_targets()
    # One address of PyTorch's CPU build, and the port that is served.
    (index,) = re.findall(r"PIP_EXTRA_INDEX_URL=(\S+)", text)
    for other in ("Makefile", "README.md", ".github/workflows/book.yml"):
        assert index in (ROOT / other).read_text(encoding="utf-8")
    assert "http.server --directory _build/html 8000" in (ROOT / "Makefile").read_text()
    assert 8000 in container["forwardPorts"] and "-p 8000:8000" in text
    # The user there is root, whom Jupyter refuses by default.
    lab = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("--allow-root" in lab) == (hasattr(os, "getuid") and os.getuid() == 0)


# --- imports


def lint_imports(folder):
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_imports_point_down_and_have_no_circles():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, line, found",
    [
        ("bottom.py", "import gloro_lite.net", "gloro_lite.bottom is not allowed to import gloro_lite.net"),
        ("datasets/cache.py", "def later():\n    from gloro_lite.datasets import benchmarks", "No circles BROKEN"),
        ("new.py", "", "not listed as layers"),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path, file, line, found):
    shutil.copytree(ROOT / "gloro_lite", tmp_path / "gloro_lite")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "gloro_lite" / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0 and found in done.stdout, done.stdout


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


# --- what the papers say


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def makefile_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_text_of_a_chapter_names_each_of_its_figures(path):
    cells = json.loads(path.read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    figures = [cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in cells]
    missing = [name for name in figures if name and f"{{numref}}`{name}`" not in text]
    assert not missing, "say in a sentence what to see in it, with {numref}"


def test_commands_of_the_readme_exist():
    pages = readme() + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {a or b for a, b in re.findall(r"^    make ([a-z]+)|`make ([a-z]+)", pages, re.M)}
    assert {"book", "test", "check", "lab"} <= named <= makefile_targets()
    for path in re.findall(r"book/\w+\.(?:ipynb|py)|book/_tools/\w+\.py", pages):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"\]\(([^)#]+)\)", pages):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"python -m (gloro_lite[^\n`]*)", readme()))), ids=lambda command: command.replace("/", " ")
)
def test_commands_of_the_readme_are_understood(command, capsys):
    module, *arguments = shlex.split(command)
    if module != "gloro_lite":
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file() or (ROOT / module.replace(".", "/")).is_dir()
    elif arguments[:1] == ["train"]:
        with pytest.raises(SystemExit) as ended:
            main(["train", "--help"])
        options = capsys.readouterr().out
        assert ended.value.code == 0 and all(option in options for option in arguments if option.startswith("--"))
    else:
        parser().parse_args(arguments)


def test_what_the_readme_s_commands_leave_is_ignored():
    left = {*re.findall(r"(?:--output|--plot|--images) ([\w./-]+\w)", readme()), *re.findall(r"savez\('([^']+)'", readme())}
    assert {"digits.npz", "certificates.csv", "compare.png", "net.onnx", "runs/mnist-0.3"} <= left
    files = [*(f"{path}/result.json" if path.startswith("runs/") else path for path in left), "gloro_lite-9.9.9-py3-none-any.whl"]
    done = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True)
    assert set(done.stdout.split()) == set(files)


def test_python_of_the_readme_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", readme(), re.M | re.S)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["c"].label.shape == (8,) and names["net"].input_shape == (1, 28, 28)


def test_what_the_book_holds_of_others_has_a_line_and_a_licence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_tools"))
    import licences

    listed = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").lower()
    pinned = re.findall(r'Package\(\s*"([^"]+)"', (ROOT / "book" / "_ext" / "offline.py").read_text())
    for package in [*pinned, *licences.PACKAGES]:
        assert package in listed, package
    for text in re.findall(r"licenses/[\w.-]+", listed):
        assert text.removeprefix("licenses/") in {path.name.lower() for path in (ROOT / "LICENSES").iterdir()}
    copies = [path.read_text(encoding="utf-8").lower() for path in licences.copy(tmp_path).iterdir()]
    assert len(copies) > len(licences.PACKAGES) and all("licen" in text or "permission" in text for text in copies)


def test_every_chapter_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text()
    for path in NOTEBOOKS:
        assert f"book/{path.stem}" in toc


def test_no_file_knows_a_path_of_the_machine_it_was_written_on():
    for path in tracked():
        if path.suffix in {".py", ".md", ".ipynb", ".yml", ".toml", ".js", ".json"}:
            assert not re.search(r"(?<![\w.])/(home|root|work|Users)/[a-z]", path.read_text(encoding="utf-8")), path
