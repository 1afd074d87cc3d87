"""What the project's commands share: an error is one line that says what to do, and never a traceback."""

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gloro_lite import extras
from gloro_lite.cli import main
from gloro_lite.console import one_line, place, reports_errors
from gloro_lite.datasets import benchmarks
from gloro_lite.train import command


@pytest.mark.parametrize(
    "error, told",
    [
        (ValueError("say which\n  of the two"), "say which of the two"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "a/b: No such file or directory"),
        (OSError(28, "a/b could not be written (no space)"), "a/b could not be written (no space)"),
        (TypeError("inputs must be floating-point"), "inputs must be floating-point"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_error_is_one_line(error, told, capsys):
    @reports_errors
    def main(arguments=None):
        raise error

    assert one_line(error) == told
    assert main() == 1 and capsys.readouterr().err == f"error: {told}\n"


def test_ctrl_c_is_one_line(capsys):
    @reports_errors
    def main(arguments=None):
        raise KeyboardInterrupt

    assert main() == 130 and capsys.readouterr().err == "interrupted\n"


def test_a_place_is_named_and_its_home_known(tmp_path, monkeypatch):
    """Behind --output= a shell leaves ~ alone, and a variable that is not set is nothing: neither is a folder to write into."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("~/runs") == tmp_path / "runs" and place("runs") == Path("runs")
    assert place("~nobody-of-this-name/runs") == Path("~nobody-of-this-name/runs")  # not found, and no traceback
    with pytest.raises(argparse.ArgumentTypeError, match="and is empty"):
        place("")


def test_a_home_that_nobody_has_is_an_error_like_another(capsys):
    assert main(["certify", "mnist-0.3", "--images", "~nobody-of-this-name"]) == 1
    assert "neither a folder of images nor a file" in capsys.readouterr().err
    assert main(["compare", "~nobody-of-this-name"]) == 1
    assert "there is no stored net and no folder" in capsys.readouterr().err


def test_a_run_is_not_trained_into_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        command.main(["--recipe", "mnist-0.3", "--output", ""])
    assert "argument --output: must name a file or folder, and is empty" in capsys.readouterr().err
    (tmp_path / "full").touch()
    assert command.main(["--recipe", "mnist-0.3", "--output=~/full/run"]) == 1
    assert f"{tmp_path / 'full'}" in capsys.readouterr().err and not (tmp_path / "~").exists()


def test_what_is_missing_names_its_extra():
    told = r"drawing needs nowhere: pip install 'gloro-lite\[book\]'"
    with pytest.raises(ModuleNotFoundError, match=told) as raised, extras.needed("drawing", "book"):
        importlib.import_module("nowhere.part")
    assert raised.value.name == "nowhere"


NEEDS = {
    "gloro_lite.load('mnist-0.3')": ("safetensors", "train"),
    "from gloro_lite.cli import images; images.read('.', (1, 28, 28), 10)": ("numpy", "train"),
    "from gloro_lite.datasets import digits; digits.load()": ("sklearn", "book"),
    "from gloro_lite.datasets import benchmarks; benchmarks.load('mnist', 'nowhere')": ("torchvision", "train"),
    "from gloro_lite.methods import smoothing; smoothing.samples_needed(0.001)": ("scipy", "book"),
    "from gloro_lite import plotting; plotting.use_style()": ("matplotlib", "book"),
    "import gloro_lite.widgets": ("traitlets", "book"),
    "from gloro_lite import export; export.save_onnx(None, 'net.onnx')": ("onnx", "onnx"),
    "from gloro_lite import attack_suite; attack_suite._estimator(None, None, (0, 1))": ("art", "attacks"),
}


@pytest.mark.slow
def test_each_optional_part_names_its_extra():
    hidden = ["numpy", "torchvision", "safetensors", "sklearn", "scipy", "matplotlib", "traitlets", "onnx", "art"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({hidden}))
import gloro_lite
for part in {list(NEEDS)}:
    try:
        exec(part)
    except (ImportError, RuntimeError) as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    told = done.stdout.splitlines()
    assert done.returncode == 0 and len(told) == len(NEEDS), done.stderr
    for line, (package, extra) in zip(told, NEEDS.values(), strict=True):
        assert line.endswith(f"needs {package}: pip install 'gloro-lite[{extra}]'")


BAD = {
    "experiments.ablations": ["--data", "{file}/x"],
    "experiments.attack": ["nothing"],
    "experiments.benchmark": ["--device", "nonsense"],
    "experiments.falsify": ["nothing"],
    "experiments.feature_sites": ["--data", "{file}/x"],
    "experiments.guarantees": ["nothing"],
    "experiments.last_layers": ["nothing"],
    "experiments.rates": ["nothing"],
    "experiments.recertify": ["nothing"],
    "experiments.rivals": ["lmt", "nothing"],
    "experiments.tightness": ["nothing"],
    "methods.sites.__main__": ["--output", "{folder}/new", "--data", "{file}/x"],
}


@pytest.mark.parametrize("name", BAD)
def test_commands_tell_an_error_in_one_line(tmp_path, capsys, name):
    file = tmp_path / "file"
    file.touch()
    arguments = [argument.format(file=file, folder=tmp_path) for argument in BAD[name]]
    assert importlib.import_module(f"gloro_lite.{name}").main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "a command that does nothing leaves nothing"


@pytest.mark.parametrize("name", ["rates", "feature_sites"])
def test_a_folder_that_is_not_there_is_told_before_the_work(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(benchmarks, "load", lambda *_: pytest.fail("it went to work"))
    command = importlib.import_module(f"gloro_lite.experiments.{name}").main
    assert command(["--output", str(tmp_path / "none" / "x.json")]) == 1
    assert "does not exist: make it first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("attack", ["mnist-0.3", "--images", "0"]),
        ("benchmark", ["--rounds", "x"]),
        ("falsify", ["mnist-0.3", "--images", "1"]),
        ("rivals", ["lmt", "mnist-0.3", "--seed", "-1"]),
    ],
)
def test_a_count_that_makes_no_sense_is_no_option(capsys, name, arguments):
    with pytest.raises(SystemExit) as raised:
        importlib.import_module(f"gloro_lite.experiments.{name}").main(arguments)
    assert raised.value.code == 2
    assert re.search(rf"must be a whole number from \d up, not {arguments[-1]}$", capsys.readouterr().err.strip())


@pytest.mark.parametrize("arguments", [["--seed", "x"], ["--seed", "-1"], ["--max-seconds", "soon"], ["--max-seconds", "0"]])
def test_an_option_of_train_that_is_not_understood_is_told_in_two_lines(capsys, arguments):
    from gloro_lite.train.command import main

    with pytest.raises(SystemExit) as raised:
        main(["--recipe", "mnist-0.3", *arguments])
    err = capsys.readouterr().err.splitlines()
    assert raised.value.code == 2 and len(err) == 2 and "must be a" in err[1] and err[1].endswith(f"not {arguments[1]}")
