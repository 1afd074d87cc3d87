"""Small dense networks, and what every method that certifies a ball must do with them."""

import math
import threading
from contextlib import contextmanager
from itertools import pairwise

import torch
from exact_radius import exact_radius

from gloro_lite import GloroNet, MinMax
from gloro_lite.attacks import pgd
from gloro_lite.datasets import points
from gloro_lite.fit import fit


def dense(*widths, seed=0, scale=0.7, activation=torch.nn.ReLU):
    """Linear layers of these widths with an activation between them, all weights and biases normal with this deviation."""
    torch.manual_seed(seed)
    layers = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Linear(a, b), activation()]
        for weight in layers[-2].parameters():
            torch.nn.init.normal_(weight, std=scale)
    return torch.nn.Sequential(*layers[:-1])


@contextmanager
def another_thread_sets(weight):
    """While this is open, a thread sets `weight`, (2, 1), to (1, -1) and to (100, -100) in turn, as one that trains would."""
    states, stop = [torch.tensor([[g], [-g]]) for g in (1.0, 100.0)], threading.Event()
    weight.data.copy_(states[0])

    def change():
        while not stop.is_set():
            for state in states:
                weight.data.copy_(state)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def radii_are_below_the_exact_ones(certify):
    """`certify(network, x)` never passes the exact radius, and comes near it on some points."""
    reached = 0
    for seed in range(3):
        network = dense(2, 5, 5, 3, seed=seed)
        x = torch.randn(3, 2)
        c = certify(network, x)
        exact = torch.tensor([exact_radius(network, point) for point in x])
        assert (c.radius.clamp(max=2.0) <= exact * (1 + 1e-3) + 1e-6).all()
        assert torch.equal(c.prediction, network(x).argmax(1)) and c.guarantee == "exact"
        reached += int((c.radius > 0.8 * exact).sum())
    assert reached >= 2


def falls_back_between_the_global_and_the_exact_radius(certify, activation):
    """`certify(net, x, steps=...)`, a fall-back for the global bound, gives radii between both; returns all three, (9,) each."""
    found = []
    for seed in range(3):
        network = dense(2, 6, 6, 3, seed=seed, activation=activation)
        x = torch.randn(3, 2)
        net = GloroNet(network, (2,), 100.0)  # so large that the fall-back sees every input
        c, known = certify(net, x, steps=20), net.certify(x)
        assert (c.radius >= known.radius).all() and torch.equal(c.prediction, known.prediction)
        exact = torch.tensor([exact_radius(network, point) for point in x])
        assert (c.radius.clamp(max=2.0) <= exact * (1 + 1e-3) + 1e-6).all()
        found.append((c.radius, known.radius, exact))
    return map(torch.cat, zip(*found, strict=True))


def falls_back_for_a_trained_net(certify):
    """`certify(net, x)` adds to what the global bound certifies and leaves that as it is. Returns net, inputs, certificate."""
    x, y = points.moons(150)
    net = GloroNet(dense(2, 16, 16, 2, scale=0.3, activation=MinMax), (2,), 0.15)
    fit(net, (x, y), epochs=30, learning_rate=0.02, progress=False)
    known, c = net.certify(x), certify(net, x)
    certified = known.label >= 0
    assert certified.any() and torch.equal(c.radius[certified], known.radius[certified])
    assert (c.label >= 0).sum() > certified.sum()
    assert torch.equal(c.label >= 0, c.radius > net.epsilon)
    moved = pgd(net.logits, x, c.prediction, net.epsilon, steps=40, restarts=3)
    assert torch.equal(net.logits(moved).argmax(1)[c.label >= 0], c.label[c.label >= 0])
    assert certify(net, x[certified]).guarantee == "exact"  # with nothing to fall back for
    return net, x, c


def training_raises_what_is_certified(network, fit, certify):
    """`fit(data)` trains the network on two moons; `certify(x)` then certifies most of them at 0.1, and no attack breaks one."""
    x, y = points.moons(150)
    history = fit((x, y))
    assert all(map(math.isfinite, history)) and not network.training
    c = certify(x)
    assert (c.label == y).float().mean() > 0.6
    assert torch.equal(c.label >= 0, c.radius > 0.1)
    moved = pgd(network, x, c.prediction, 0.1, steps=30, restarts=2)
    sure = c.label >= 0
    assert torch.equal(network(moved).argmax(1)[sure], c.label[sure])
