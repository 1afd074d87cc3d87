"""What rounding costs stored nets."""

import json
import shutil

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, MinMax, stored
from gloro_lite.datasets import benchmarks
from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.evaluate import certify
from gloro_lite.experiments import each_run, guarantees
from gloro_lite.provenance import machine, weights_digest


def case():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), MinMax(), nn.Flatten(), nn.Linear(4 * 36, 4))
    net = GloroNet(network, (1, 6, 6), 0.05).eval()
    x = torch.randint(0, 256, (60, 1, 6, 6), dtype=torch.uint8)
    with torch.no_grad():
        y = net.logits(x.float() / 255).argmax(dim=1)
    y[::3] = (y[::3] + 1) % 4
    return net, Images(x, y)


def test_each_promise_costs_more_than_the_one_before():
    net, images = case()
    row = guarantees.losses(net, images, batch_size=25)
    assert row["uncounted"] >= row["exact"] >= row["deployed"] > 0
    x = images.x.float() / 255
    for promise in ("exact", "deployed"):
        assert row[promise] == (certify(net, x, guarantee=promise).label == images.y).double().mean().item()
    assert 0 < row["radius_lost"] < 0.1 and row["images"] == 60 and row["epsilon"] == 0.05
    net.epsilon = 100.0  # nothing is certified
    assert guarantees.losses(net, images)["uncounted"] == guarantees.losses(net, images)["deployed"] == 0


def test_the_command_keeps_what_other_runs_say(tmp_path, monkeypatch, capsys):
    net, images = case()
    monkeypatch.setattr(guarantees, "OUTPUT", tmp_path / "guarantees.json")
    monkeypatch.setattr(stored, "load", lambda run: net)
    monkeypatch.setattr(benchmarks, "load", lambda dataset, root: Benchmark(images, images, images))
    for run in ("mnist-1.58", "mnist-0.3/seed-0"):  # a recipe's only run may be named without its seed
        assert guarantees.main([run]) == 0
    written = json.loads((tmp_path / "guarantees.json").read_text())
    assert list(written["runs"]) == ["mnist-0.3/seed-0", "mnist-1.58/seed-0"]
    row = written["runs"]["mnist-0.3/seed-0"]
    made = {"weights_sha256": weights_digest(stored.folder("mnist-0.3")), "machine": machine(torch.device("cpu"))}
    assert {name: row.pop(name) for name in made} == made and row == pytest.approx(guarantees.losses(net, images))
    assert guarantees.main(["no-such-run"]) == 1
    assert "no-such-run" in capsys.readouterr().err


def test_a_row_is_of_the_machine_that_measured_it(tmp_path, monkeypatch):
    net, images = case()
    monkeypatch.setattr(guarantees, "OUTPUT", tmp_path / "guarantees.json")
    monkeypatch.setattr(stored, "load", lambda run: net)
    monkeypatch.setattr(benchmarks, "load", lambda dataset, root: Benchmark(images, images, images))
    runs = ["mnist-0.3/seed-0", "mnist-0.3/seed-1"]
    for run in runs:
        monkeypatch.setattr(each_run, "machine", lambda device, run=run: {"device": f"of {run}"})
        assert guarantees.main([run]) == 0
    written = json.loads(guarantees.OUTPUT.read_text())["runs"]
    assert [written[run]["machine"]["device"] for run in runs] == [f"of {run}" for run in runs]


def test_a_folder_that_is_not_among_the_stored_runs_is_not_kept(tmp_path, monkeypatch, capsys):
    """Its name would be a path of one machine."""
    net, images = case()
    monkeypatch.setattr(guarantees, "OUTPUT", tmp_path / "guarantees.json")
    monkeypatch.setattr(stored, "load", lambda run: net)
    monkeypatch.setattr(benchmarks, "load", lambda dataset, root: Benchmark(images, images, images))
    own = tmp_path / "own"
    shutil.copytree(stored.folder("mnist-0.3"), own)
    assert guarantees.main([str(own)]) == 0
    out = capsys.readouterr().out
    assert "'radius_lost'" in out and "not kept in" in out and not guarantees.OUTPUT.exists()
