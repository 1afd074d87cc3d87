"""The attack on certificates: it finds nothing within them, and does find what lies beyond."""

import torch
from torch import nn

from gloro_lite import GloroNet, MinMax
from gloro_lite.train import falsify


def test_nothing_breaks_within_the_radius_and_the_attack_breaks_what_lies_beyond():
    torch.manual_seed(0)
    linear, deep = nn.Linear(4, 3), (nn.Linear(4, 8), MinMax(), nn.Linear(8, 3))
    for layers, reached in (((linear,), 0.9), (deep, 0.0)):  # the bound of a linear net is tight
        net = GloroNet(nn.Sequential(*layers), (4,), 0.1).eval()
        counts = falsify.attack(net, torch.randn(60, 4), steps=10)
        assert counts["images"] == 60 and counts["tries"] == 60 * 11 * 2
        assert counts["broken"] == 0 and counts["float32_deployed"] == 0
        assert all(share >= reached for share in counts["beyond"].values())


def test_at_a_linear_boundary_rounding_breaks_float32_but_no_certificate():
    counts = falsify.at_the_boundary(points=300)
    assert counts["tries"] > 600
    assert counts["broken"] == 0 and counts["float32_deployed"] == 0
    assert counts["float32"] > 0  # what "exact" does not promise, and the reason for "deployed"


def test_a_bound_that_is_too_small_is_broken(monkeypatch):
    """The attack can fail: with constants a tenth smaller it breaks certificates."""
    original = falsify.certify

    def optimistic(net, x, epsilon=None, **keywords):
        c = original(net, x, epsilon, **keywords)
        return c._replace(radius=c.radius / 0.9)

    monkeypatch.setattr(falsify, "certify", optimistic)
    torch.manual_seed(0)
    net = GloroNet(nn.Sequential(nn.Linear(4, 3)), (4,), 0.1).eval()
    assert falsify.attack(net, torch.randn(60, 4), steps=20)["broken"] > 0
