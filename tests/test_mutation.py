"""The runner of mutants: a change that matters dies, one that no test can notice lives."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MUTATION = Path(__file__).parent / "mutation"

SOURCE = '''
def f(x: int = 3):
    """Of 1."""
    if x < 2 and x:
        raise ValueError(f"{x + 1}")
    return max(x, 0) + raised(x)
'''

TEST = """
import torch
from gloro_lite.certificate import BOTTOM, certificate

def test_a_radius_of_epsilon_is_not_enough():
    c = certificate(torch.tensor([0, 2]), torch.tensor([0.5, 0.6]), 0.5)
    assert c.label.tolist() == [-1, 2]
"""

RUN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import runpy
runner = runpy.run_path(sys.argv[1] + "/__main__.py", run_name="runner")
runner["Known"].__init__.__globals__["KNOWN"] = Path(sys.argv[2]) / "known.json"
tests = [Path(sys.argv[2]) / "test_one.py"]
known = runner["Known"](tests)
wanted = json.loads(sys.argv[3])
runner["run"](("certificate.py",), tests, known, wanted.__contains__, seconds=60.0)
print(json.dumps({key: result["status"] for key, result in known.results.items()}))
"""


@pytest.fixture
def module():
    sys.path.insert(0, str(MUTATION))
    try:
        import mutants

        yield mutants
    finally:
        sys.path.remove(str(MUTATION))


def test_mutants_change_one_place_and_leave_texts_alone(module):
    tree = ast.parse(SOURCE)
    found = module.mutants(SOURCE, tree)
    texts = set()
    for mutant in found:
        with mutant.applied():
            texts.add(ast.unparse(tree))
    assert len(texts) == len(found) and ast.unparse(tree) == ast.unparse(ast.parse(SOURCE))
    assert len({mutant.key for mutant in found}) == len(found)
    assert [mutant.key.split(" | ")[2] for mutant in found] == [
        "3 -> 0",
        "and -> or",
        "without x < 2",
        "without x",
        "x < 2 -> x <= 2",
        "x < 2 -> x >= 2",
        "2 -> 0",
        "raise -> nothing",
        "max(x, 0) + raised(x) -> max(x, 0) - raised(x)",
        "max -> min",
        "0 -> 1",
        "raised(x) -> x",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants run in copies of a process")
def test_a_mutant_that_matters_dies_and_another_lives(tmp_path):
    (tmp_path / "test_one.py").write_text(TEST)
    line = "certificate.py | certificate | return Certificate(prediction.where(radius > check_epsilon(epsilon), BOTTOM), radius, "
    line += "prediction, guarantee) | "
    dies = [
        f"{line}radius > check_epsilon(epsilon) -> radius >= check_epsilon(epsilon)",
        "certificate.py |  | BOTTOM = -1 | -1 -> 1",  # runs at import
    ]
    lives = [f"{line}check_epsilon(epsilon) -> epsilon"]
    command = [sys.executable, "-c", RUN, str(MUTATION), str(tmp_path), json.dumps(dies + lives)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == dict.fromkeys(dies, "killed") | dict.fromkeys(lives, "survived")


def test_equivalents_have_reasons_and_are_mutants_that_there_are(module):
    import tomllib

    root = MUTATION.parents[1] / "gloro_lite"
    groups = tomllib.loads((MUTATION / "equivalent.toml").read_text(encoding="utf-8")).get("group", [])
    keys = [key.strip() for group in groups for key in group["mutants"].strip().splitlines()]
    assert all(group["reason"] for group in groups) and len(set(keys)) == len(keys)
    for name in {key.partition(" | ")[0] for key in keys}:
        source = (root / name).read_text(encoding="utf-8")
        there = {f"{name} | {mutant.key}" for mutant in module.mutants(source, ast.parse(source))}
        assert [key for key in keys if key.startswith(f"{name} | ") and key not in there] == []
