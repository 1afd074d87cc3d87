"""What certificates cost: the measure of memory against allocations of a known size, and every method as a case."""

import json
import subprocess
import sys

import pytest
import torch

from gloro_lite.experiments import certification_costs
from gloro_lite.experiments.certification_costs import Case
from gloro_lite.methods import bcp, kw

SMALL = {"width": 8, "depth": 1, "batch": 2, "samples": 100}


def test_cases_are_checked():
    with pytest.raises(ValueError, match="one of forward, gloro"):
        Case("other")
    with pytest.raises(ValueError, match="at least 1"):
        Case("gloro", width=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process's peak can be reset on Linux alone")
@pytest.mark.slow
def test_bytes_are_those_that_an_image_allocates():
    """In a process of its own, as the command measures: another test's freed memory would be used again, and not counted."""
    code = f"""
import torch
from gloro_lite.experiments import certification_costs
kept = []
def run(x):
    kept.clear()
    kept[:] = [torch.ones(len(x), 1_000_000, dtype=torch.uint8)]
print(certification_costs.bytes_of_an_image(certification_costs.Case("forward", **{SMALL!r}), run))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.8e6 < float(done.stdout) < 1.2e6


@pytest.mark.parametrize("method", certification_costs.METHODS)
def test_every_method_prepares_and_certifies(method):
    case = Case(method, **SMALL)
    x = certification_costs.images(case, 3)
    found = certification_costs.prepare(case)(x)
    if method in ("bcp", "kw"):  # the bounds of their own certificates
        network, shape = case.build()
        module = bcp if method == "bcp" else kw
        proven = module.certify(network, shape, x, certification_costs.EPSILON, steps=1).label >= 0
        labels = network(x).argmax(dim=1)
        assert torch.equal(found.scatter(1, labels[:, None], torch.inf).amin(dim=1) > 0, proven)
    elif method == "local":
        assert found.shape == (3,) and (found > 0).all()
    else:
        assert len(found) == 3 or len(found.label) == 3


def test_a_network_that_is_too_large_is_a_row_with_the_reason():
    for method in ("kw", "local"):
        row = certification_costs.measure(Case(method, network="6C2F"))
        assert "4096" in row["refused"] and "seconds" not in row


def test_each_table_varies_one_thing():
    tables = {}
    for table, case in certification_costs.cases():
        tables.setdefault(table, []).append(case)
    assert {case.method for case in tables["small"]} == set(certification_costs.METHODS)
    for name, values in certification_costs.SWEEPS.items():
        for method in {case.method for case in tables[name]}:
            found = [getattr(case, name) for case in tables[name] if case.method == method]
            assert found == list(values)[: len(found)] and len(found) >= 2


def test_the_command_writes_its_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(certification_costs, "OUTPUT", tmp_path / "costs.json")
    monkeypatch.setattr(certification_costs, "cases", lambda: iter([("small", Case("gloro", **SMALL))]))
    monkeypatch.setattr(certification_costs, "_apart", lambda case: {"method": case.method, "seconds": 1.0})
    assert certification_costs.main([]) == 0
    report = json.loads((tmp_path / "costs.json").read_text())
    assert report["tables"] == {"small": [{"method": "gloro", "seconds": 1.0}]} and report["machine"]["device"]
