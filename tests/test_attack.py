"""Accuracy under attack: between what is proven and what is right; a false proof shows."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gloro_lite import GloroNet, MinMax, attack_suite, networks
from gloro_lite.evaluate import certify
from gloro_lite.experiments import attack, rivals

SETTINGS = {**attack.SETTINGS, "toolbox_steps": 10, "margin_steps": 10, "auto_images": 10, "auto_proven": 2, "queries": 20}


def net(epsilon):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), MinMax(), nn.Linear(16, 3))
    return GloroNet(layers, (1, 8, 8), epsilon).eval()


@pytest.fixture
def linear_suite(monkeypatch):
    """The toolbox's attacks replaced by ours, which need no extra."""

    def pgd(logits, x, labels, radius, *, steps=20, queries=0, bounds, seed):
        return attack.attacks.pgd(logits, x, labels, radius, steps=steps, bounds=bounds, seed=seed)

    monkeypatch.setattr(attack_suite, "pgd", pgd)
    monkeypatch.setattr(attack_suite, "auto_attack", pgd)


def test_indices_are_spread_evenly():
    assert attack.spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert attack.spread(3, 5).tolist() == [0, 1, 2]
    gaps = attack.spread(10_000, 300).diff()
    assert gaps.min() >= 33 and gaps.max() <= 34


def test_figures_lie_between_the_proof_and_the_accuracy(linear_suite):
    n, epsilon = 60, 0.05
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    c = certify(net(epsilon), x)
    labels = c.prediction.clone()
    labels[:6] = (labels[:6] + 1) % 3  # wrong ones
    proven = c.label == labels
    assert 0 < proven.double().mean() < 0.9
    found = attack.attack(net(epsilon), x, labels, proven, SETTINGS)
    assert found["accuracy"] == pytest.approx(0.9) and found["vra"] == proven.double().mean()
    for name in ("toolbox_pgd", "margin_pgd"):
        assert found["vra"] <= found[name] <= found["accuracy"]
    assert found["auto_vra"] <= found["auto_attack"] <= found["auto_pgd"] <= found["auto_accuracy"]
    few = attack.spread(n, 10)
    unproven = ~proven[few] & (c.prediction == labels)[few]
    assert found["auto_attacked"] <= int(unproven.sum()) + 2  # all but two of those with a proof are spared
    assert found["false"] == 0


def test_a_false_proof_is_counted(linear_suite):
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = net(1.0)
    labels = model.certify(x).prediction
    found = attack.attack(model, x, labels, torch.ones(40, dtype=torch.bool), SETTINGS)
    assert found["false"] > 30 and found["toolbox_pgd"] < 0.2


@pytest.mark.parametrize("method", ["lmt", "smoothing"])
def test_a_rival_is_read_with_its_own_activation(tmp_path, monkeypatch, method):
    settings = rivals.Settings(
        method=method, row="mnist-0.3", network="c2k4s4 | 8", epsilon=0.3, train_epsilon=0.3, sigma=0.5 * (method == "smoothing")
    )
    network = networks.build("c2k4s4 | 8", (1, 28, 28), 10, activation=rivals.METHODS[method].activation)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    record = {"method": method, "epsilon": 0.3, "settings": dataclasses.asdict(settings)}
    (tmp_path / "result.json").write_text(json.dumps(record))
    monkeypatch.setattr(attack.stored, "folder", lambda run: tmp_path)
    if method == "smoothing":
        with pytest.raises(ValueError, match="a vote"):
            attack.load("smoothing/mnist-0.3/seed-0")
        return
    net, dataset = attack.load("lmt/mnist-0.3/seed-0")
    x = torch.rand(3, 1, 28, 28)
    assert dataset == "mnist" and torch.equal(net.logits(x), network(x))


def test_runs_are_due_until_their_weights_were_attacked(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "one" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "result.json").write_text("{}")
    monkeypatch.setattr(attack.stored, "STORED", tmp_path)
    assert attack.due({}, SETTINGS) == ["one/seed-0"]
    known = {"one/seed-0": {"settings": SETTINGS, "weights_sha256": attack.weights_digest(folder)}}
    assert attack.due(known, SETTINGS) == []
    assert attack.due(known, attack.SETTINGS) == ["one/seed-0"]
    (folder / "model.safetensors").write_bytes(b"others")
    assert attack.due(known, SETTINGS) == ["one/seed-0"]
    monkeypatch.setattr(attack, "OUTPUT", tmp_path / "attacks.json")
    for method in ("lmt", "smoothing"):
        other = tmp_path / method / "row" / "seed-0"
        other.mkdir(parents=True)
        (other / "model.safetensors").write_bytes(b"weights")
        (other / "result.json").write_text("{}")
    assert attack.due({}, SETTINGS) == ["lmt/row/seed-0", "one/seed-0"]  # a vote cannot be attacked
    shutil.rmtree(tmp_path / "lmt")
    found = {"false": 0, "settings": attack.SETTINGS, "weights_sha256": attack.weights_digest(folder)}
    monkeypatch.setattr(attack, "attack_run", lambda run, settings, root: found)
    assert attack.main([]) == 0 and list(json.loads((tmp_path / "attacks.json").read_text())) == ["one/seed-0"]
    assert attack.main([]) == 0 and "no run is due" in capsys.readouterr().out
    monkeypatch.setattr(attack, "attack_run", lambda *_: (_ for _ in ()).throw(ImportError("pip install x")))
    assert attack.main(["one"]) == 1 and capsys.readouterr().err == "error: pip install x\n"


def test_what_others_find_meanwhile_is_kept_and_a_folder_of_ones_own_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attack, "OUTPUT", tmp_path / "attacks.json")

    def attacked(run, settings, root):
        if run == "mnist-0.3/seed-0":  # which takes hours
            assert attack.main(["mnist-1.58"]) == 0
        return {"false": 0, "of": run}

    monkeypatch.setattr(attack, "attack_run", attacked)
    assert attack.main(["mnist-0.3"]) == 0
    rows = {run: {"false": 0, "of": run} for run in ("mnist-0.3/seed-0", "mnist-1.58/seed-0")}
    assert json.loads(attack.OUTPUT.read_text()) == rows
    own = tmp_path / "own"
    shutil.copytree(attack.stored.folder("mnist-0.3"), own)
    assert attack.main([str(own)]) == 0 and "not kept in" in capsys.readouterr().out
    assert json.loads(attack.OUTPUT.read_text()) == rows
