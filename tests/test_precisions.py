"""What a step costs by each precision, and that no recipe is slower by default than with any of them."""

import json
import sys

import pytest

from gloro_lite.experiments import precisions
from gloro_lite.train.arithmetic import Arithmetic
from gloro_lite.train.recipes import PRECISIONS


@pytest.mark.slow
def test_each_precision_is_measured_as_a_run_would_compute():
    rows = precisions.measure("mnist-0.3", rounds=1)
    assert tuple(rows) == PRECISIONS
    for precision in ("float32", "bfloat16"):
        row = dict(rows[precision])
        assert row.pop("seconds") > 0 and Arithmetic(**row) == Arithmetic(precision, precision)
    assert rows["auto"]["network"] in ("float32", "bfloat16")


def test_the_command_measures_each_way_in_a_process_of_its_own(tmp_path, monkeypatch):
    called = []

    def run(command, env, **_):
        called.append((command[:3], env.get("ONEDNN_MAX_CPU_ISA")))
        row = {"device": "x", "recipes": {}}
        return type("Done", (), {"stdout": json.dumps(row)})

    monkeypatch.setattr(precisions.subprocess, "run", run)
    monkeypatch.setattr(precisions.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(precisions, "OUTPUT", tmp_path / "precisions.json")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert precisions.main(["--rounds", "1"]) == 0
    command = [sys.executable, "-m", "gloro_lite.experiments.precisions"]
    assert called == [(command, None), (command, "AVX2")]
    assert set(json.loads((tmp_path / "precisions.json").read_text())["oneDNN may use"]) == {"as it is", "AVX2"}
    with pytest.raises(SystemExit):
        precisions.main(["--rounds", "0"])


def test_no_recipe_is_slower_by_default_than_with_another_precision():
    """What is committed. A tenth is what `arithmetic` takes for no gain."""
    report = json.loads(precisions.OUTPUT.read_text())["oneDNN may use"]
    assert set(report) == {"as it is", "AVX2"}
    for machine in report.values():
        assert set(machine["recipes"]) == set(precisions.RECIPES)
        for rows in machine["recipes"].values():
            assert rows["auto"]["seconds"] <= 1.12 * min(row["seconds"] for row in rows.values())
    for rows in report["AVX2"]["recipes"].values():  # where products in bfloat16 are emulated
        assert rows["auto"]["network"] == rows["auto"]["orthogonalisation"] == "float32"
