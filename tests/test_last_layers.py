"""What a local bound of the last layers adds to stored nets."""

import csv
import json
import shutil

import pytest
import torch
from small_networks import dense

from gloro_lite import GloroNet, MinMax, stored
from gloro_lite.datasets import benchmarks
from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.evaluate import certify
from gloro_lite.experiments import guarantees, last_layers, recertify
from gloro_lite.methods import last_layers as method
from gloro_lite.provenance import weights_digest
from gloro_lite.train import results


def case():
    network = torch.nn.Sequential(torch.nn.Flatten(), *dense(36, 16, 16, 4, scale=0.2, activation=MinMax))
    net = GloroNet(network, (1, 6, 6), 0.1).eval()
    x = torch.randint(0, 256, (80, 1, 6, 6), dtype=torch.uint8)
    with torch.no_grad():
        y = net.logits(x.float() / 255).argmax(dim=1)
    y[::3] = (y[::3] + 1) % 4
    return net, Images(x, y)


def named(folder):
    with (folder / "local_certificates.csv").open() as file:
        return {int(row["index"]): int(row["label"]) for row in csv.DictReader(file)}


def test_the_local_bound_adds_and_the_accuracy_stays_above_both(tmp_path):
    net, images = case()
    row = last_layers.gain(net, images, tmp_path)
    assert 0 < row["vra"] < row["local"] < row["accuracy"] < 1
    x = images.x.float() / 255
    assert row["vra"] == (certify(net, x).label == images.y).double().mean().item()
    assert row["local"] == (method.certify(net, x).label == images.y).double().mean().item()
    known, local = (certifier(net, x).label.tolist() for certifier in (certify, method.certify))
    added = [k for k, y in enumerate(images.y.tolist()) if y == local[k] != known[k]]
    assert named(tmp_path) == {k: local[k] for k in added} and len(added) == round(80 * (row["local"] - row["vra"]))
    assert row["images"] == 80 and row["epsilon"] == 0.1 and row["seconds"] > 0 and row["time_over_global"] > 0


def test_the_command_keeps_what_other_runs_say(tmp_path, monkeypatch, capsys):
    net, images = case()
    monkeypatch.setattr(last_layers, "OUTPUT", tmp_path / "last_layers.json")
    for run in ("mnist-1.58/seed-0", "mnist-0.3/seed-0"):
        shutil.copytree(stored.STORED / run, tmp_path / run)
    monkeypatch.setattr(stored, "STORED", tmp_path)
    monkeypatch.setattr(stored, "load", lambda run: net)
    monkeypatch.setattr(benchmarks, "load", lambda dataset, root: Benchmark(images, images, images))
    for run in ("mnist-1.58", "mnist-0.3/seed-0"):  # a recipe's only run may be named without its seed
        assert last_layers.main([run]) == 0
    written = json.loads((tmp_path / "last_layers.json").read_text())
    assert list(written["runs"]) == ["mnist-0.3/seed-0", "mnist-1.58/seed-0"]
    assert named(tmp_path / "mnist-0.3" / "seed-0") == named(tmp_path / "mnist-1.58" / "seed-0") != {}
    assert last_layers.main(["no-such-run"]) == 1
    assert "no-such-run" in capsys.readouterr().err


@pytest.mark.parametrize("local", [True, False])
def test_certified_anew_a_run_has_the_local_bound_s_table_anew_if_it_had_one(tmp_path, monkeypatch, local):
    net, images = case()
    run = "mnist-0.3/seed-0"
    folder = tmp_path / run
    shutil.copytree(stored.STORED / run, folder)
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"epsilon": net.epsilon}))
    monkeypatch.setattr(last_layers, "OUTPUT", tmp_path / "last_layers.json")
    monkeypatch.setattr(stored, "STORED", tmp_path)
    monkeypatch.setattr(stored, "load", lambda run: net)
    monkeypatch.setattr(benchmarks, "load", lambda dataset, root: Benchmark(images, images, images))
    certified = (certify(net, images.x.float() / 255).label == images.y).nonzero()[0].item()
    (folder / "local_certificates.csv").write_text(f"index,label\n{certified},{images.y[certified]}\n")
    if not local:
        (folder / "local_certificates.csv").unlink()
    assert recertify.main([run]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert (folder / "local_certificates.csv").is_file() == last_layers.OUTPUT.is_file() == local
    if local:
        row = json.loads(last_layers.OUTPUT.read_text())["runs"][run]
        assert row["vra"] == result["test_vra"] and certified not in named(folder) != {}
        results.recertify(folder, net, images)  # by whom nothing else is made
        assert not (folder / "local_certificates.csv").exists()


@pytest.mark.parametrize("module", [last_layers, guarantees], ids=["last_layers", "guarantees"])
def test_stored_rows_are_of_the_stored_weights(module):
    rows = json.loads(module.OUTPUT.read_text())["runs"]
    assert {run: row["weights_sha256"] for run, row in rows.items()} == {run: weights_digest(stored.STORED / run) for run in rows}
    assert all(row["machine"]["device"] for row in rows.values())


@pytest.mark.parametrize("run", [run for run in stored.runs() if (stored.STORED / run / "local_certificates.csv").is_file()])
def test_a_run_names_the_images_that_its_row_counts(run):
    row = json.loads(last_layers.OUTPUT.read_text())["runs"][run]
    images = named(stored.STORED / run)
    assert row["vra"] + len(images) / row["images"] == pytest.approx(row["local"], rel=0, abs=1e-12)
    with (stored.STORED / run / "certificates.csv").open() as file:
        rows = list(csv.DictReader(file))
    for k, label in images.items():
        assert int(rows[k]["label"]) == int(rows[k]["prediction"]) == label and float(rows[k]["radius"]) <= row["epsilon"]
