"""The attack: where the answer is known, it finds it."""

import torch
from torch import nn

from gloro_lite import GloroNet, MinMax
from gloro_lite.attacks import accuracy_under_attack, pgd


def test_linear_net_falls_just_beyond_its_certified_radius_and_not_within():
    net = GloroNet(nn.Sequential(nn.Linear(3, 2)), (3,), 0.1)
    x = torch.randn(60, 3)
    c = net.certify(x)
    radius = c.radius.float()
    inside = pgd(net.logits, x, c.prediction, radius * 0.999)
    beyond = pgd(net.logits, x, c.prediction, radius * 1.01)
    assert (net.logits(inside).argmax(1) == c.prediction).all()
    assert (net.logits(beyond).argmax(1) != c.prediction).all()


def test_points_stay_in_the_ball_and_in_the_bounds():
    network = nn.Sequential(nn.Linear(4, 16), MinMax(), nn.Linear(16, 3))
    x, y = torch.rand(30, 4), torch.randint(0, 3, (30,))
    moved = pgd(network, x, y, 0.4, restarts=3, bounds=(0.0, 1.0))
    assert ((moved - x).norm(dim=1) <= 0.4 * (1 + 1e-5)).all()
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6


def test_accuracy_under_attack_falls_with_the_radius_and_bounds_vra():
    torch.manual_seed(1)
    net = GloroNet(nn.Sequential(nn.Linear(2, 16), MinMax(), nn.Linear(16, 3)), (2,), 0.1)
    x = torch.randn(200, 2)
    y = net.certify(x).prediction
    accuracies = [accuracy_under_attack(net.logits, x, y, radius) for radius in (1e-6, 0.1, 0.5)]
    assert accuracies[0] > accuracies[1] > accuracies[2]
    assert (net.certify(x).label == y).float().mean().item() <= accuracies[1]
