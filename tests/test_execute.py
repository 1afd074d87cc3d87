"""The notebook runner: what must not pass for a notebook that ran."""

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

spec = importlib.util.spec_from_file_location("execute", Path(__file__).resolve().parents[1] / "book" / "_ext" / "execute.py")
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)


@pytest.fixture
def write(tmp_path, monkeypatch):
    def _write(*sources, parameters="a = 1"):
        cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
        nb = new_notebook(cells=[*cells, *map(new_code_cell, sources)])
        nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "sample.ipynb"
        nbformat.write(nb, path)
        return path, tmp_path / "out" / "sample.ipynb"

    monkeypatch.setattr(runner, "key", lambda notebook: "k")
    return _write


def test_results_are_equal_byte_for_byte_and_parameters_arrive(write):
    source, out = write("print(a, object())")
    runner.execute(source, out, {"a": 7})
    first = out.read_bytes()
    assert b"7 <object object at 0x0>" in first
    runner.execute(source, out, {"a": 7})
    assert out.read_bytes() == first


def test_unknown_parameter_names_those_there_are(write):
    source, out = write("print(a)")
    with pytest.raises(runner.NotebookError, match="no parameter b; it has a"):
        runner.execute(source, out, {"b": 1})


def test_notebook_without_parameters_cell(write):
    source, out = write("1", parameters=None)
    with pytest.raises(runner.NotebookError, match="no cell tagged 'parameters'"):
        runner.execute(source, out)


@pytest.mark.parametrize("source", ["raise ValueError('broken')", "import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_failures_and_early_exits_leave_no_twin(write, source):
    path, out = write(source, "print('after')")
    with pytest.raises(runner.NotebookError, match=r"sample\.ipynb"):
        runner.execute(path, out)
    assert not out.exists()
