"""The searches for false certificates: they find nothing where the proof holds, and find them where a bound is too small."""

import json
import shutil

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, MinMax
from gloro_lite.experiments import falsify, searches
from gloro_lite.methods.sites import Sites

LINEAR = (nn.Linear(4, 3),)
DEEP = (nn.Linear(4, 8), MinMax(), nn.Linear(8, 3))


def target(layers=LINEAR, epsilon=0.1):
    """A small random net, float32, with four inputs and three classes."""
    torch.manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return falsify.of_net(GloroNet(nn.Sequential(*layers), (4,), epsilon).eval())


def optimistic(of, factor=0.8):
    """The same with radii that are too large, and constants too small, by a factor."""

    def certify(x, guarantee):
        c = of.certify(x, guarantee)
        radius = c.radius / factor
        return c._replace(radius=radius, label=c.prediction.where(radius > of.epsilon, -1))

    return of._replace(certify=certify, constants=of.constants * factor)


@pytest.mark.parametrize("layers, reached", [(LINEAR, 0.8), (DEEP, 0.0)])  # the bound of a linear net is tight
def test_nothing_breaks_within_the_radius_and_the_attack_breaks_what_lies_beyond(layers, reached):
    counts = searches.within(target(layers), torch.randn(60, 4), steps=10)
    assert counts["images"] == 60 and counts["tries"] == 60 * (11 * 2 + 21)
    assert counts["broken"] == 0 and counts["float32_deployed"] == 0
    assert all(share >= reached for share in counts["beyond"].values())


@pytest.mark.parametrize("kind", ["within", "rounding", "pairs"])
@pytest.mark.parametrize("layers", [LINEAR, DEEP])
def test_every_search_finds_what_is_there_and_only_that(kind, layers):
    x = 3 * torch.randn(60, 4)
    counts = falsify.search(target(layers), kind, x)
    assert counts["images"] and counts["tries"]
    assert not list(falsify.false_certificates({"tiny": {"searches": {kind: counts}}}))
    if layers is LINEAR:
        false = falsify.search(optimistic(target(layers)), kind, x)
        assert list(falsify.false_certificates({"tiny": {"searches": {kind: false}}}))


def test_rounding_alone_breaks_float32_near_a_boundary():
    """Large features and small margins: what "exact" does not promise, and the reason for "deployed"."""
    torch.manual_seed(0)
    layer = nn.Linear(400, 3)
    with torch.no_grad():
        layer.weight -= layer.weight.mean(dim=1, keepdim=True)  # else one class is everywhere
    a, b = 100 + torch.randn(2, 40, 400)
    counts = searches.rounding(falsify.of_net(GloroNet(nn.Sequential(layer), (400,), 0.1).eval()), a, b)
    assert counts["images"] > 50 and counts["float32"] > 0
    assert counts["broken"] == 0 and counts["float32_deployed"] == 0


def test_pairs_that_are_certified_for_different_labels_are_two_epsilon_apart():
    counts = falsify.search(target(), "pairs", 3 * torch.randn(60, 4))
    # Along the gradient of a linear margin the two balls touch, but for the bisection's last step.
    assert counts["found"] > 20 and 2 <= counts["nearest"] < 2.2 and 0.99 < counts["slope"] <= 1 + 1e-9


def test_what_the_toolbox_returns_counts_within_the_radius_alone(monkeypatch):
    """The toolbox stands still here; `test_attack_suite.py` runs it."""
    from gloro_lite import attack_suite, attacks

    x = 3 * torch.randn(20, 4)
    for factor, found in ((0.8, True), (1.0, False)):

        def attack(logits, image, label, radius, *, queries, seed, factor=factor):
            return attacks.pgd(logits, image, label, radius * (1.5 if factor == 1.0 else 1.0))

        monkeypatch.setattr(attack_suite, "auto_attack", attack)
        counts = falsify.search(optimistic(target(), factor), "autoattack", x, queries=10)
        assert counts["images"] == 20 and counts["tries"] == 200
        assert (counts["broken"] > 0) == (counts["float32"] > 0) == (counts["float32_deployed"] > 0) == found


def test_the_local_bound_of_the_last_layers_is_attacked_at_its_own_radii():
    torch.manual_seed(3)
    net = GloroNet(nn.Sequential(nn.Linear(4, 16), MinMax(), nn.Linear(16, 3)), (4,), 0.1).eval()
    of, x = falsify.of_last_layers(net), torch.randn(300, 4)
    x = x[(of.certify(x, "exact").label >= 0) & (net.certify(x).label < 0)]  # what only the local bound certifies
    assert len(x) >= 5
    counts = searches.within(of, x, steps=20)
    assert counts["images"] == len(x) and counts["broken"] == 0
    # The same search notices radii that are twice as large.
    assert searches.within(optimistic(of, 0.5), x, steps=20)["broken"] > 0


def test_sites_are_attacked_in_and_out_of_the_box(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sites = Sites(torch.rand(6, 1, 2, 2), torch.arange(6) % 3)
    save_file({"sites": sites.sites.detach(), "labels": sites.labels}, tmp_path / "model.safetensors")
    x = torch.rand(12, 1, 2, 2)
    for box in (None, (0.0, 1.0)):
        of = falsify.of_sites(tmp_path / "model.safetensors", 0.05, box)
        for kind in ("within", "pairs")[: 2 if box is None else 1]:
            few = {"within": {"steps": 10, "further": 5}, "pairs": {"rounds": 1, "halvings": 5}}[kind]
            counts = falsify.search(of, kind, x, **few)
            assert counts["tries"] and not list(falsify.false_certificates({"sites": {"searches": {kind: counts}}}))
    assert falsify.search(of._replace(certify=optimistic(of, 0.7).certify), "within", x)["broken"] > 0


def test_at_a_linear_boundary_rounding_breaks_float32_but_no_certificate():
    counts = falsify.at_the_boundary(points=300)
    assert counts["tries"] > 600
    assert counts["broken"] == 0 and counts["float32_deployed"] == 0
    assert counts["float32"] > 0


def test_the_record_goes_on_where_it_was_and_drops_what_is_of_other_weights(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "results" / "tiny" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(falsify.stored, "STORED", tmp_path / "results")
    monkeypatch.setattr(falsify, "OUTPUT", tmp_path / "falsification.json")
    monkeypatch.setattr(falsify, "targets", lambda name, root: {"": (target(), torch.randn(60, 4))})
    assert falsify.main(["tiny", "--searches", "within", "--images", "7"]) == 0
    first = json.loads(falsify.OUTPUT.read_text())["attacked"]["tiny/seed-0"]
    assert first["searches"]["within"]["images"] == 7
    assert falsify.main(["tiny/seed-0", "--searches", "within", "pairs"]) == 0
    second = json.loads(falsify.OUTPUT.read_text())["attacked"]["tiny/seed-0"]
    assert second["searches"]["within"] == first["searches"]["within"] and "pairs" in second["searches"]
    assert falsify.main(["tiny", "--searches", "within", "--images", "9", "--again"]) == 0
    again = json.loads(falsify.OUTPUT.read_text())["attacked"]["tiny/seed-0"]
    assert again["searches"]["within"]["images"] == 9
    (folder / "model.safetensors").write_bytes(b"others")
    assert falsify.main(["tiny", "--searches", "pairs"]) == 0
    assert list(json.loads(falsify.OUTPUT.read_text())["attacked"]["tiny/seed-0"]["searches"]) == ["pairs"]
    capsys.readouterr()
    assert falsify.main(["other"]) == 1 and "there is no stored net and no folder 'other'" in capsys.readouterr().err
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    assert falsify.main([str(own)]) == 1 and "is none of the stored models that are attacked" in capsys.readouterr().err
    assert falsify.full_name(str(folder)) == falsify.full_name("tiny/") == "tiny/seed-0"
    monkeypatch.setattr(falsify, "targets", lambda name, root: {"": (optimistic(target()), 3 * torch.randn(60, 4))})
    assert falsify.main(["tiny", "--searches", "within"]) == 1 and "false certificates" in capsys.readouterr().out


def test_what_others_find_meanwhile_is_kept(tmp_path, monkeypatch):
    for name in ("one", "two"):
        folder = tmp_path / "results" / name / "seed-0"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(name.encode())
    monkeypatch.setattr(falsify.stored, "STORED", tmp_path / "results")
    monkeypatch.setattr(falsify, "OUTPUT", tmp_path / "falsification.json")
    monkeypatch.setattr(falsify, "targets", lambda name, root: {"": (target(), torch.zeros(2, 4))})

    def search(model, kind, x):
        if kind == "within":  # which takes hours
            assert falsify.main(["two", "--searches", "pairs"]) == falsify.main(["one", "--searches", "pairs"]) == 0
        return {"broken": 0}

    monkeypatch.setattr(falsify, "search", search)
    assert falsify.main(["one", "--searches", "within", "rounding"]) == 0
    attacked = json.loads(falsify.OUTPUT.read_text())["attacked"]
    found = {name: set(entry["searches"]) for name, entry in attacked.items()}
    assert found == {"one/seed-0": {"within", "rounding", "pairs"}, "two/seed-0": {"pairs"}}
