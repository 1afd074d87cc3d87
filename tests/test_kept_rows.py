"""Experiments whose file is a list of rows: what another process adds meanwhile is kept, and not measured again."""

import json

import pytest
import torch

from gloro_lite.datasets import benchmarks
from gloro_lite.experiments import ablations, activations, feature_sites, rates

KEYS = {
    ablations: ("variant", "seed"),
    activations: ("activation", "seed"),
    rates: ("optimizer", "rate", "seed", "epochs"),
    feature_sites: ("per_class", "seed", "target", "site_rate"),
}


@pytest.mark.parametrize("module", KEYS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_rows_of_another_process_are_kept(module, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    calls = []
    row = {"validation_vra": 0.5, "validation_accuracy": 0.6, "vra": 0.5, "seconds_per_epoch": 1.0}
    rate_plan = [
        {"row": "mnist-0.3", "optimizer": "Adam, free", "rate": rate, "seed": 0, "epochs": rates.ROWS["mnist-0.3"].epochs}
        for rate in (1e-3, 1e-2)
    ]

    def rates_of(runs):
        return [known["rate"] for known in runs]

    first = [
        (ablations, "VARIANTS", dict(list(ablations.VARIANTS.items())[:2])),
        (ablations, "SEEDS", (0,)),
        (ablations, "heads", lambda data: []),
        (activations, "KINDS", ("relu", "none")),
        (activations, "SEEDS", (0,)),
        (activations, "step_times", lambda: {}),
        (feature_sites, "PER_CLASS", (1,)),
        (feature_sites, "SEEDS", (0,)),
        (feature_sites, "TUNED", {"target": (1.0, 2.0), "site_rate": (0.1,)}),
        (feature_sites, "radii", lambda *_: torch.ones(3)),
        (rates, "next_run", lambda runs, _: next((what for what in rate_plan if what["rate"] not in rates_of(runs)), None)),
        (benchmarks, "load", lambda *_: benchmarks.Benchmark(*[benchmarks.Images(torch.zeros(1), torch.zeros(1))] * 3)),
    ]
    for where, name, value in first:
        monkeypatch.setattr(where, name, value)
    monkeypatch.setattr(activations, "run", lambda activation, seed: measure() | {"activation": activation, "seed": seed})
    monkeypatch.setattr(ablations, "run", lambda *_: measure() | {"seed": 0, "arithmetic": {}})
    monkeypatch.setattr(rates, "run", lambda *_: measure())
    monkeypatch.setattr(feature_sites, "train", lambda *_: (measure(), None))
    for where in KEYS:
        monkeypatch.setattr(where, "OUTPUT", path)
    arguments = ["--output", str(path)] if module in (rates, feature_sites) else []
    if module is rates:
        arguments.append("mnist-0.3")

    def measure():
        calls.append(1)
        if len(calls) == 1:  # another process does all meanwhile
            assert module.main(arguments) == 0
        return dict(row)

    assert module.main(arguments) == 0
    rows = json.loads(path.read_text())["runs"]
    names = [tuple(each[key] for key in KEYS[module]) for each in rows]
    assert len(set(names)) == len(names) == 2, "each is there once"
    assert len(calls) == 3, "what the other has done is not done again"
