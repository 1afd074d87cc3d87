"""The toolbox's attacks: never outside the ball, never better than a certificate; against a linear classifier in closed form."""

import builtins

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_lite import GloroNet, MinMax, attack_suite, attacks
from gloro_lite.datasets import digits
from gloro_lite.fit import fit


@given(st.integers(0, 10**6), st.floats(0.01, 2.0))
def test_points_are_pulled_into_the_ball_and_no_further(seed, radius):
    torch.manual_seed(seed)
    x = torch.rand(6, 1, 4, 4)
    lengths = torch.tensor([0.2, 0.999, 1.0, 1.0000001, 1.001, 3.0]).view(-1, 1, 1, 1) * radius
    directions = torch.nn.functional.normalize(torch.randn(6, 16), dim=1).view(6, 1, 4, 4)
    points = x + lengths * directions
    inside = attack_suite.pull_inside(x, points, radius)
    exact = (inside.double() - x.double()).flatten(1).norm(dim=1)
    assert (exact <= radius).all() and (attack_suite.distances(x, inside) >= exact).all()
    assert torch.equal(inside[:2], points[:2])  # what was inside stays
    assert (exact[3:] >= radius * (1 - 1e-3) - 1e-6).all()


def test_a_success_just_outside_the_ball_is_none():
    def logits(x):
        return torch.stack((1 - x[:, 0], x[:, 0]), dim=1)

    x, labels = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    points = torch.tensor([[0.6], [0.6 + 1e-9]], dtype=torch.float64)
    assert attack_suite.successes(logits, x, points, labels, 0.6 + 1e-12).tolist() == [True, False]
    assert not attack_suite.successes(logits, x, points, labels + 1, 1.0).any()


def linear():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    x = 0.4 + 0.2 * torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        network[1].bias.copy_(-network[1].weight.sum(dim=1) / 2)  # so that all boundaries meet in the middle
        logits = network(x)
        labels = logits.argmax(dim=1)
        weight = network[1].weight
        margins = logits.gather(1, labels[:, None]) - logits
        distance = margins / (weight[labels][:, None] - weight).norm(dim=2)
    return network, x, labels, distance.scatter(1, labels[:, None], torch.inf).amin(dim=1)


@pytest.mark.parametrize("name", ["pgd", pytest.param("auto_attack", marks=pytest.mark.slow)])
def test_a_linear_classifier_is_broken_exactly_where_it_can_be(name):
    pytest.importorskip("art")
    network, x, labels, distance = linear()
    radius = distance.median().item() * 1.3
    assert radius < 0.4  # the bounds are out of reach
    options = {"steps": 40} if name == "pgd" else {"queries": 20}
    points = getattr(attack_suite, name)(network, x, labels, radius, **options)
    broken = attack_suite.successes(network, x, points, labels, radius)
    assert not broken[distance > radius].any()
    # The cross-entropy's gradient mixes the rivals, so an attack that follows it may miss by a little.
    assert broken[distance < 0.85 * radius].all() and broken.any() and not broken.all()
    again = getattr(attack_suite, name)(network, x, labels, radius, **options)
    assert torch.equal(points, again)


def test_our_own_attack_does_as_well_and_no_certificate_is_broken():
    pytest.importorskip("art")
    data = digits.load()
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), MinMax(), torch.nn.Linear(32, 10))
    net = GloroNet(layers, digits.INPUT_SHAPE, 0.4)
    fit(net, data.train, epochs=8, progress=False)
    x, y = data.test.x[:100], data.test.y[:100]
    c = net.certify(x)
    points = attack_suite.pgd(net.logits, x, y, 0.4, steps=30)
    broken = attack_suite.successes(net.logits, x, points, y, 0.4)
    assert not broken[c.label == y].any()
    own = attacks.pgd(net.logits, x, y, 0.4, steps=30, bounds=(0.0, 1.0))
    own = net.logits(own).argmax(1) != y
    assert broken.sum() <= own.sum() + 2 and own.sum() <= broken.sum() + 5


def test_bad_input_and_a_missing_toolbox_are_named(monkeypatch):
    network, x, labels, _ = linear()
    for radius in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="radius must be a finite number greater than 0"):
            attack_suite.pgd(network, x, labels, radius)
    with pytest.raises(ValueError, match="bounds"):
        attack_suite.pgd(network, x + 1, labels, 0.1)
    with pytest.raises(ValueError, match="labels"):
        attack_suite.auto_attack(network, x, labels[:3], 0.1)
    with pytest.raises(ValueError, match="labels must be classes, from 0"):
        attack_suite.pgd(network, x, labels - 9, 0.1)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        attack_suite.pgd(network, x, labels, 0.1, steps=0)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "art":
            raise ModuleNotFoundError("No module named 'art'", name="art")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs art: pip install 'gloro-lite\[attacks\]'"):
        attack_suite.pgd(network, x, labels, 0.1)
