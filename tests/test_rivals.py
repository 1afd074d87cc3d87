"""The command that trains and certifies the other methods, at a small size."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from gloro_lite import networks
from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.experiments import rivals
from gloro_lite.files import only_one
from gloro_lite.methods import lmt
from gloro_lite.train.recipes import find

RECIPE = find("mnist-0.3")
SMALL = {"row": "mnist-0.3", "network": "c2k4s4 | 8", "epsilon": 0.3, "train_epsilon": 0.33, "epochs": 1, "batch_size": 32}


def _data() -> Benchmark:
    """Images of two kinds that differ in their upper half, as labels 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (96,), generator=generator)
    x = torch.randint(40, (96, 1, 28, 28), generator=generator, dtype=torch.uint8)
    x[:, :, :14] += (200 * y).to(torch.uint8)[:, None, None, None]
    return Benchmark(Images(x[:64], y[:64]), Images(x[64:72], y[64:72]), Images(x[72:], y[72:]))


@pytest.mark.parametrize("method, more", [("lmt", {}), ("bcp", {}), ("kw", {}), ("smoothing", {"sigma": 0.3, "samples": 50})])
def test_a_run_says_what_its_certificates_say(tmp_path, method, more):
    settings = rivals.Settings(method=method, **SMALL, **more, test_images=16, train_images=48)
    result = rivals.run(settings, RECIPE, _data(), tmp_path, chunk=5)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    rows = list(csv.DictReader((tmp_path / "certificates.csv").open()))
    assert len(rows) == result["test_images"] == 16 and result["train_images"] == 48
    right = [row["label"] == row["prediction"] for row in rows]
    proven = [float(row["radius"]) > 0.3 for row in rows]
    assert result["test_accuracy"] == sum(right) / 16
    assert result["test_vra"] == sum(a and b for a, b in zip(right, proven, strict=True)) / 16
    assert result["test_vra"] == result["vra_at"]["0.3"] <= result["test_accuracy"]


def test_the_stored_weights_are_those_that_were_certified(tmp_path):
    settings = rivals.Settings(method="lmt", **SMALL)
    rivals.run(settings, RECIPE, _data(), tmp_path)
    network = networks.build(settings.network, (1, 28, 28), 10)
    network.load_state_dict(load_file(tmp_path / "model.safetensors"))
    c = lmt.net(network, (1, 28, 28), 0.3).eval().certify(rivals.pixels(_data().test.x))
    stored = [float(row["radius"]) for row in csv.DictReader((tmp_path / "certificates.csv").open())]
    assert c.radius.tolist() == stored


def test_no_method_trains_what_it_cannot_certify(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rivals.smoothing, "fit", lambda *_, **__: pytest.fail("it was trained"))
    for samples, reason in ((5, "5 samples certify nothing"), (12, "certify at most 0.047, and epsilon is 0.3")):
        settings = rivals.Settings(method="smoothing", **SMALL, sigma=0.3, samples=samples)
        with pytest.raises(ValueError, match=reason):
            rivals.run(settings, RECIPE, _data(), tmp_path)
    assert rivals.main(["smoothing", "mnist-0.3", "--output", str(tmp_path)]) == 1
    assert "takes --sigma" in capsys.readouterr().err
    assert rivals.main(["lmt", "mnist-0.4", "--output", str(tmp_path)]) == 1
    assert "no recipe 'mnist-0.4'" in capsys.readouterr().err
    (tmp_path / "result.json").write_text("{}")
    assert rivals.main(["lmt", "mnist-0.3", "--output", str(tmp_path)]) == 1
    assert "holds result.json: give another folder" in capsys.readouterr().err


def test_a_run_tells_how_far_it_is_and_leaves_what_is_there_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rivals.benchmarks, "load", lambda *_: _data())
    small = ["lmt", "mnist-0.3", "--network", SMALL["network"], "--epochs", "2", "--batch-size", "32", "--output", str(tmp_path)]
    assert rivals.main(small) == 0
    lines = capsys.readouterr().out.splitlines()
    losses = json.loads((tmp_path / "result.json").read_text())["losses"]
    assert [line.partition(";")[0] for line in lines[:2]] == [f"epoch {n + 1} of 2: loss {losses[n]:.4f}" for n in (0, 1)]
    assert lines[2] == "certifying 24 test images"

    (tmp_path / "result.json").unlink()
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert rivals.main(small) == 1
    assert "holds model.safetensors: give another folder" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_two_processes_do_not_train_in_one_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rivals.benchmarks, "load", lambda *_: pytest.fail("it went on"))
    with only_one(tmp_path, "training"):
        assert rivals.main(["lmt", "mnist-0.3", "--output", str(tmp_path)]) == 1
    assert "another process is training in" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
