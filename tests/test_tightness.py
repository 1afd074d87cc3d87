"""How tight bounds are: the searches, where the slack is, and what is stored."""

import copy
import json
import math

import pytest
import torch

from gloro_lite import GloroNet, networks
from gloro_lite.experiments import activations, tightness
from gloro_lite.experiments.tightness import Search
from gloro_lite.lipschitz import Pairs

FEW = Search(pairs=3, starts=1, steps=4, hard=1, images=20, local=6, local_steps=3)


@pytest.fixture(params=networks.ACTIVATIONS)
def small(request):
    network = networks.build("c4k3s2 c8k3 | 16", (1, 8, 8), 3, activation=request.param, seed=1)
    net = GloroNet(network, (1, 8, 8), 0.3).eval()
    return net, copy.deepcopy(network).double().requires_grad_(False)


def test_shares_of_the_layers_multiply_to_slope_over_constant(small):
    net, exact = small
    a, b = torch.rand(2, 5, 1, 8, 8, dtype=torch.float64)
    j, i = torch.tensor([0, 0, 1, 2, 1]), torch.tensor([1, 2, 2, 0, 0])
    table, norms = net.margin_constants(), net.program().norms
    shares = tightness.by_layer(exact, norms, a, b, j, i)
    assert len(shares) == 7  # four affine layers, three activations
    product = math.prod(shares.values())
    slope = tightness.exact_slopes(exact, Pairs(a, b, a.new_zeros(5)), j, i)
    assert torch.allclose(product, slope / table[j, i], rtol=1e-6)
    for name, share in shares.items():
        assert (share <= 1 + 1e-9).all(), name


def test_slopes_that_are_found_lie_between_gradients_and_bounds(small):
    net, exact = small
    torch.manual_seed(0)
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    table = net.margin_constants()
    found = tightness.global_slopes(net.network, exact, table, x, y, Search(starts=2, steps=20, hard=2))
    assert {row[:2] for row in found} == {(0, 1), (0, 2), (1, 2)}
    assert [row[2] for row in found] == sorted((row[2] for row in found), reverse=True)
    for j, i, slope, a, b in found:
        assert slope <= table[j, i] * (1 + 1e-12)
        ends = torch.tensor([j]), torch.tensor([i])
        # The pair is kept, and anyone can try it.
        assert tightness.exact_slopes(exact, Pairs(a, b, a), *ends).item() == pytest.approx(slope, rel=1e-9)

    j, i = y, (y + 1) % 3
    local, pairs = tightness.local_slopes(net.network, exact, x, j, i, 0.3, Search(local_steps=8))
    assert (local <= table[j, i]).all()
    for end in pairs[:2]:
        assert ((end.double() - x.double()).flatten(1).norm(dim=1) <= 0.3).all()
    # Within its ball each is not much flatter than at its centre.
    point = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(tightness.margin(exact, j, i)(point).sum(), point)
    assert (local >= 0.5 * gradient.flatten(1).norm(dim=1)).all()


def test_a_class_without_images_is_no_hindrance(small):
    net, exact = small
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    assert len(tightness.global_slopes(net.network, exact, net.margin_constants(), x, y, FEW)) == 3


def test_a_stored_net_is_measured():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(30, 1, 28, 28, generator=generator), torch.arange(30) % 10
    entry = tightness.measure("mnist-0.3", x, y, FEW)
    check(entry)
    assert len(entry["ratios"]) == 3 and len(entry["local"]["slope"]) == 6 and entry["upper"] > 1
    json.dumps(entry)


def check(entry):
    """What holds of the figures of any net."""
    assert 0 < entry["lower"] <= entry["upper"]
    assert all(0 <= ratio <= 1 for ratio in entry["ratios"])
    assert entry["vra"] <= entry["vra_by_lower"] <= entry["accuracy"]
    local = entry["local"]
    assert all(slope <= constant for slope, constant in zip(local["slope"], local["constant"], strict=True))
    assert local["vra"] <= local["attacked"] <= local["accuracy"] and local["vra"] <= local["vra_by_lower"] <= local["accuracy"]
    shares = [share for share, _ in entry["layers"].values()]
    assert max(shares) <= 1 + 1e-9
    # Of the constant of its own pair of classes, which is at most the largest; each share has lost its fifth digit.
    assert entry["lower"] / entry["upper"] * 0.99 <= math.prod(shares) <= 1


def test_the_nearest_rival_decides_the_radius():
    generator = torch.Generator().manual_seed(0)
    logits, table = torch.randn(50, 5, generator=generator), torch.rand(5, 5, generator=generator) + 0.1
    for row, top, rival in zip(logits, *tightness.nearest_rivals(logits, table), strict=True):
        radii = {i: (row[top] - row[i]) / table[top, i] for i in range(5) if i != top}
        assert row[top] == row.max() and rival == min(radii, key=radii.get)


def test_four_digits_are_rounded_down():
    assert tightness._short(1.23456) == 1.234
    assert tightness._short(0.99999) == 0.9999
    assert tightness._short(54321.0) == 54320.0
    assert tightness._short(2.0) == 2.0 and tightness._short(0.0) == 0.0


def test_stored_figures_hold_and_are_of_today_s_settings():
    report = json.loads(tightness.OUTPUT.read_text(encoding="utf-8"))
    assert "mnist-0.3/seed-0" in report["nets"]
    for entry in report["nets"].values():
        check(entry)
    # What the chapter rests on: training with the bound makes the bound tight.
    shares = {name: entry["lower"] / entry["upper"] for name, entry in report["nets"].items()}
    assert shares["mnist-0.3-standard/seed-0"] < 0.5 < shares["mnist-0.3/seed-0"] < shares["mnist-1.58/seed-0"]


def test_the_command_leaves_what_it_has_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    kept = {"nets": {"mnist-0.3/seed-0": {"search": tightness.dataclasses.asdict(Search())}}}
    monkeypatch.setattr(tightness, "OUTPUT", tmp_path / "tightness.json")
    tightness.write(tightness.OUTPUT, kept)
    assert tightness.main(["mnist-0.3"]) == 0
    assert "already" in capsys.readouterr().out and json.loads(tightness.OUTPUT.read_text()) == kept
    assert tightness.main(["no-such-net"]) == 1
    assert "no stored net" in capsys.readouterr().err


# ---- activations -----------------------------------------------------------------------------------------------------------


def test_a_run_of_each_activation_is_measured():
    rows = {name: activations.run(name, 0, epochs=2) for name in ("groupsort4", "relu")}
    for row in rows.values():
        assert 0 < row["lower"] <= row["upper"] and row["vra"] <= row["accuracy"]
        assert 0 < row["gradient_share"] <= 1 and 0 < row["ratio"] <= 1
    # Between two close points sorting loses nothing, and ReLU something.
    sorts = [share for name, share in rows["groupsort4"]["layers"].items() if "GroupSort" in name]
    cuts = [share for name, share in rows["relu"]["layers"].items() if "ReLU" in name]
    assert len(sorts) == len(cuts) == 3
    assert sorts == pytest.approx([1.0] * 3, abs=1e-3) and all(share < 0.999 for share in cuts)


def test_stored_runs_are_of_today_s_settings(tmp_path):
    report = activations.read(activations.OUTPUT)
    rows = [(row["activation"], row["seed"]) for row in report["runs"]]
    assert sorted(rows) == sorted((name, seed) for name in activations.KINDS for seed in activations.SEEDS)
    assert report["step"]["settings"] == activations.STEP and set(report["step"]["seconds"]) == set(networks.ACTIVATIONS)
    other = tmp_path / "activations.json"
    tightness.write(other, {"settings": {**activations.SETTINGS, "epochs": 1}, "runs": report["runs"]})
    assert activations.read(other)["runs"] == []


def test_a_row_that_is_kept_keeps_its_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "OUTPUT", tmp_path / "activations.json")
    monkeypatch.setattr(activations, "SEEDS", (0,))
    monkeypatch.setattr(activations, "run", lambda activation, seed: {"activation": activation, "seed": seed, "vra": 0.5})
    monkeypatch.setattr(activations, "step_times", dict)
    for kinds, name in ((("relu",), "old"), (("relu", "none"), "new")):
        monkeypatch.setattr(activations, "KINDS", kinds)
        monkeypatch.setattr(activations, "machine", lambda device, name=name: {"device": name})
        assert activations.main([]) == 0
    report = activations.read(activations.OUTPUT)
    assert [row["machine"]["device"] for row in report["runs"]] == ["old", "new"]
    assert report["step"]["machine"]["device"] == "old"


def test_gradients_of_a_linear_classifier_are_aligned():
    x = torch.rand(30, 1, 8, 8, dtype=torch.float64)
    linear, other = (networks.build(notation, (1, 8, 8), 4).double() for notation in ("|", "| 32"))
    assert activations.alignment(linear, x) == pytest.approx(1)
    value = activations.alignment(other, x)
    # By its definition: the mean cosine over all pairs of inputs, each with itself too.
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda z: other(z)[0], row[None]).flatten(1) for row in x], dim=1)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    cosines = [
        torch.nn.functional.cosine_similarity(
            (jacobian[i] - jacobian[j])[:, None], (jacobian[i] - jacobian[j])[None], dim=2
        ).mean()
        for i, j in pairs
    ]
    assert value == pytest.approx(torch.stack(cosines).mean().item()) and value < 1


def test_steps_of_each_activation_are_timed():
    times = activations.step_times(rounds=1)
    assert set(times) == set(networks.ACTIVATIONS) and min(times.values()) > 0
