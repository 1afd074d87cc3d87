"""What is reported, against brute force."""

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, MinMax
from gloro_lite.evaluate import certify, evaluate, vra_curve


@pytest.fixture
def case():
    net = GloroNet(nn.Sequential(nn.Linear(2, 8), MinMax(), nn.Linear(8, 3)), (2,), 0.1)
    return net, torch.randn(101, 2), torch.randint(0, 3, (101,))


def test_batches_change_nothing(case):
    net, x, _ = case
    whole, parts = net.certify(x), certify(net, x, batch_size=7)
    assert torch.equal(whole.label, parts.label) and torch.equal(whole.prediction, parts.prediction)
    assert torch.allclose(whole.radius, parts.radius, rtol=1e-4, atol=1e-7)


def test_report_is_what_counting_gives(case):
    net, x, y = case
    c, report = net.certify(x), evaluate(net, x, y)
    rows = list(zip(c.label.tolist(), c.radius.tolist(), c.prediction.tolist(), y.tolist(), strict=True))
    assert report.accuracy == pytest.approx(sum(p == t for _, _, p, t in rows) / 101)
    assert report.vra == pytest.approx(sum(k == t for k, _, _, t in rows) / 101)
    assert report.rejected == pytest.approx(sum(k == -1 for k, _, _, _ in rows) / 101)
    assert report.radius == pytest.approx(sorted(r if p == t else 0.0 for _, r, p, t in rows)[50])
    assert report.lipschitz == net.margin_constants().max().item()
    assert evaluate(net, x, y, 0.01).vra >= report.vra


def test_the_curve_agrees_with_certifying_at_each_radius(case):
    net, x, y = case
    epsilons = torch.tensor([0.01, 0.05, 0.1, 0.5])
    curve = vra_curve(net.certify(x), y, epsilons)
    for epsilon, value in zip(epsilons.tolist(), curve.tolist(), strict=True):
        assert value == pytest.approx(evaluate(net, x, y, epsilon).vra)
