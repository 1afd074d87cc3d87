"""The notebook runner: what must not pass for a notebook that ran, and when one is to run again."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from papermill.cli import _resolve_type

spec = importlib.util.spec_from_file_location("execute", Path(__file__).resolve().parents[1] / "book" / "_tools" / "execute.py")
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)


@pytest.fixture
def write(tmp_path):
    def _write(*sources, parameters="a = 1"):
        cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
        nb = new_notebook(cells=[*cells, *map(new_code_cell, sources)])
        nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "sample.ipynb"
        nbformat.write(nb, path)
        return path, tmp_path / "out" / "sample.ipynb"

    return _write


@pytest.mark.slow
def test_results_are_equal_byte_for_byte_and_parameters_arrive(write):
    source, out = write("print(a, object())")
    runner.execute(source, out, {"a": 7})
    first = out.read_bytes()
    assert b"7 <object object at 0x0>" in first
    runner.execute(source, out, {"a": 7})
    assert out.read_bytes() == first
    # The runner's own cells are gone, and the others are numbered as if they had never been there.
    cells = nbformat.read(out, 4).cells
    assert [cell.execution_count for cell in cells] == [1, 2, 3] and "gloro_recording" not in first.decode()


def test_what_was_printed_in_one_go_is_one_text():
    """A kernel cuts a text where its clock says, and the book would begin a new line there."""

    def stream(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    shown = nbformat.v4.new_output("display_data", data={"text/plain": "x"})
    outputs = [stream("a"), stream(", b"), stream("c", "stderr"), stream("d\n"), shown, stream("e"), stream("f")]
    whole = [stream("a, b"), stream("c", "stderr"), stream("d\n"), shown, stream("ef")]
    assert runner.joined(outputs) == whole
    nb = new_notebook(cells=[new_code_cell("print()", outputs=[stream("a"), stream(", b")], execution_count=2)])
    runner.canonical(nb)
    assert nb.cells[0].outputs == [stream("a, b")]


@pytest.mark.slow
def test_two_runs_of_one_notebook_do_not_disturb_each_other(write, monkeypatch):
    source, out = write("print(a)")
    run = papermill.execute_notebook

    def slow(*arguments, **options):
        monkeypatch.undo()
        done = run(*arguments, **options)
        runner.execute(source, out, {"a": 8})  # another begins and ends before this one's twin is written
        return done

    monkeypatch.setattr(papermill, "execute_notebook", slow)
    runner.execute(source, out, {"a": 7})
    assert nbformat.read(out, 4).cells[-1].outputs[0].text == "7\n" and list(out.parent.iterdir()) == [out]


def test_images_in_the_home_folder_are_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("GLORO_DATA", "~/images")
    assert "images: MNIST/raw" in runner._names([("ask", str(tmp_path / "images" / "MNIST" / "raw"))])
    (tmp_path / "images").mkdir()
    assert runner._state("images: .", tmp_path, runner.Files()) == "there"


def test_unknown_parameter_names_those_there_are(write):
    source, out = write("print(a)")
    with pytest.raises(runner.NotebookError, match="no parameter b; it has a"):
        runner.execute(source, out, {"b": 1})


def test_notebook_without_parameters_cell(write):
    source, out = write("1", parameters=None)
    with pytest.raises(runner.NotebookError, match="no cell tagged 'parameters'"):
        runner.execute(source, out)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["raise ValueError('broken')", "import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_failures_and_early_exits_leave_no_twin(write, source):
    path, out = write(source, "print('after')")
    with pytest.raises(runner.NotebookError, match=r"sample\.ipynb"):
        runner.execute(path, out)
    assert not out.exists() and list(out.parent.iterdir()) == []


@given(st.one_of(st.text(max_size=6), st.floats().map(str), st.integers().map(str)))
@example("1e-1")
@example("010")
@example("yes")
@example("True")
@example("None")
@example("[1, 2]")
@example("1_0")
def test_parameters_are_read_as_papermill_reads_them(text):
    ours, theirs = runner.parameter(text), _resolve_type(text)
    assert type(ours) is type(theirs) and repr(ours) == repr(theirs)


def test_notebooks_that_were_run_are_not_linted_nor_committed():
    """README's commands leave them in the checkout, and ruff passes over what git ignores."""
    names = ["out.ipynb", "book/out.ipynb", "voronoi.out.ipynb"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=runner.ROOT, capture_output=True, text=True)
    assert done.stdout.split() == names


MODULES = {
    "sample/__init__.py": "",
    "sample/used.py": "from sample import deep\ndef late():\n    from sample import lazy\n    return lazy.X\n",
    "sample/deep.py": "X = 1\n",
    "sample/lazy.py": "X = 2\n",
    "sample/unused.py": "X = 3\n",
    "sample/style.css": "a {}",
    "sample/other.css": "b {}",
    "data/read.json": "1",
    "data/unread.json": "2",
    "data/asked.bin": "2",
    "asked.toml": "2",
    "data/results/one/r.csv": "3",
    "data/results/checkpoint.pt": "4",
    "requirements.lock": "torch==2",
}
READING = """
import os, sys
from pathlib import Path
sys.dont_write_bytecode = False
from sample import used
used.late()
Path("sample/style.css").read_text()
with open("data/read.json") as file:
    file.read()
[path.read_text() for path in sorted(Path("data/results").glob("*/r.csv"))]
os.path.exists("data/sometimes.json")
os.path.exists("data/asked.bin")  # and read by a library that is not written in Python
os.path.exists("asked.toml")
os.path.exists("<b>" + 999 * "no path")
os.path.exists("\\0")
try:
    open("data/" + 300 * "x")
except OSError:
    pass
Path(os.environ["GLORO_DATA"], "MNIST").is_dir()
Path("_build").mkdir(exist_ok=True)
Path("_build/written").write_text("x")
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A small repository with a notebook that has run."""
    root = tmp_path_factory.mktemp("repository")
    for name, text in MODULES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "book").mkdir()
    cells = [new_code_cell("a = 1", metadata={"tags": ["parameters"]}), new_code_cell(READING)]
    nb = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}})
    nbformat.write(nb, root / "book" / "sample.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLORO_DATA", str(root / "images"))
        patch.setattr(runner, "ROOT", root)
        patch.setattr(runner, "TWINS", root / "_build" / "notebooks")
        runner.execute(root / "book" / "sample.ipynb", runner.twin(root / "book" / "sample.ipynb"))
    return root


@pytest.fixture
def current(repository, tmp_path, monkeypatch):
    """Whether a copy's twin is current after some change, given as a function of the copy's root."""
    root = tmp_path / "copy"
    shutil.copytree(repository, root)
    monkeypatch.setenv("GLORO_DATA", str(root / "images"))
    monkeypatch.setattr(runner, "ROOT", root)
    monkeypatch.setattr(runner, "TWINS", root / "_build" / "notebooks")

    def _current(change):
        change(root)
        return runner.is_current(root / "book" / "sample.ipynb")

    return _current


def put(name, text="changed"):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        put("sample/__init__.py"),
        put("sample/used.py"),
        put("sample/deep.py"),  # by way of another
        put("sample/lazy.py"),  # inside a function
        put("sample/style.css"),
        put("data/read.json"),
        put("data/results/one/r.csv"),
        put("data/results/two/r.csv"),  # a new one in a folder that was listed
        put("data/asked.bin"),
        lambda root: (root / "asked.toml").unlink(),
        put("data/sometimes.json"),  # one that was looked for in vain
        put("images/MNIST/raw"),
        put("requirements.lock"),
        put("book/sample.ipynb"),
        lambda root: (root / "data" / "read.json").unlink(),
        put("_build/notebooks/sample.ipynb", '{"cells": ['),  # half a twin
    ],
)
def test_a_notebook_runs_again_when_what_it_read_has_changed(current, change):
    assert current(lambda root: None)
    assert not current(change)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        put("sample/unused.py"),
        put("sample/new.py"),
        put("sample/other.css"),
        put("data/unread.json"),
        put("data/new.json"),
        put("asked.toml"),
        put("data/results/checkpoint.pt"),
        put("data/results/one/r.csv.0123abcd.part"),
        put("data/results/.DS_Store"),
        put("out.ipynb"),
        lambda root: shutil.rmtree(root / "sample" / "__pycache__"),
    ],
)
def test_and_not_when_anything_else_has(current, change):
    assert current(change)


@pytest.mark.slow
def test_a_notebook_that_changes_while_it_runs_leaves_no_twin(repository, tmp_path, monkeypatch):
    root = tmp_path / "copy"
    shutil.copytree(repository, root)
    monkeypatch.setenv("GLORO_DATA", str(root / "images"))
    monkeypatch.setattr(runner, "ROOT", root)
    monkeypatch.setattr(runner, "_READ", ("sample", "data", "book"))
    path, out = root / "book" / "sample.ipynb", tmp_path / "out" / "sample.ipynb"
    nb = nbformat.read(path, 4)
    nb.cells[1].source += 'Path("sample/deep.py").write_text("X = 5")\n'
    nbformat.write(nb, path)
    with pytest.raises(runner.NotebookError, match=r"sample/deep\.py was changed while it ran; run it again"):
        runner.execute(path, out)
    assert list(out.parent.iterdir()) == []


def test_a_chapter_can_be_named_by_its_file(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(runner, "execute", lambda path, output: ran.append(path.stem))
    for name in ("voronoi", "voronoi.ipynb", os.path.join("book", "voronoi.ipynb")):
        monkeypatch.setattr(sys, "argv", ["execute.py", name])
        assert runner.main() == 0
    assert ran == ["voronoi"] * 3
    monkeypatch.setattr(sys, "argv", ["execute.py", "nothing"])
    with pytest.raises(SystemExit):
        runner.main()
    assert "no such chapter: nothing; there are introduction" in capsys.readouterr().err
