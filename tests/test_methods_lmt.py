"""Lipschitz-margin training against its formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import dense

from gloro_lite import GloroNet, MinMax
from gloro_lite.attacks import pgd
from gloro_lite.bottom import bottom_logit
from gloro_lite.datasets import points
from gloro_lite.evaluate import evaluate
from gloro_lite.methods import lmt


def minmax(*widths):
    return dense(*widths, activation=MinMax, scale=0.4)


@given(st.integers(0, 10**6))
def test_loss_is_its_formula(seed):
    torch.manual_seed(seed)
    logits, labels = 3 * torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 4, (6,))
    constant, epsilon = 1.7, 0.3
    table = math.sqrt(2) * constant * (1 - torch.eye(4, dtype=torch.float64))
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        moved = [y + (math.sqrt(2) * epsilon * constant if i != label else 0.0) for i, y in enumerate(row)]
        expected += math.log(sum(math.exp(y) for y in moved)) - moved[label]
    assert lmt.loss(logits, labels, table, epsilon).item() == pytest.approx(expected / 6, rel=1e-12)


def test_its_constants_are_the_root_of_two_times_the_network_s():
    network = minmax(5, 8, 6, 3)
    exact = math.prod(torch.linalg.svdvals(layer.weight.double())[0].item() for layer in network if hasattr(layer, "weight"))
    net = lmt.net(network, (5,), 0.2)
    off = ~torch.eye(3, dtype=torch.bool)
    for table in (net.margin_constants(), net.estimate().double()):
        assert torch.allclose(table[off], torch.tensor(math.sqrt(2) * exact, dtype=torch.float64), rtol=2e-4)
        assert (table.diagonal() == 0).all()
    assert (net.margin_constants()[off] >= math.sqrt(2) * exact).all()
    x = torch.randn(7, 5)
    assert torch.equal(net.logits(x), network(x))


@given(st.integers(0, 10**6))
def test_gloro_s_radius_is_never_smaller(seed):
    torch.manual_seed(seed)
    network = minmax(4, 6, 6, 5)
    x = torch.randn(20, 4)
    c, g = lmt.net(network, (4,), 0.2).certify(x), GloroNet(network, (4,), 0.2).certify(x)
    assert (c.radius <= g.radius * (1 + 1e-9)).all() and torch.equal(c.prediction, g.prediction)
    # The radius by its formula.
    top = network(x).double().topk(2, dim=1).values
    exact = math.prod(torch.linalg.svdvals(layer.weight.double())[0].item() for layer in network if hasattr(layer, "weight"))
    assert torch.allclose(c.radius, (top[:, 0] - top[:, 1]) / (math.sqrt(2) * exact), rtol=1e-5, atol=1e-6)


def test_gradients_of_both_losses_in_closed_form():
    # LMT moves all other logits, GloRo adds one: another share of the gradient reaches K.
    logits = torch.tensor([[2.0, 1.0, -3.0]], dtype=torch.float64, requires_grad=True)
    labels, epsilon = torch.tensor([0]), 0.25
    constant = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    table = math.sqrt(2) * constant * (1 - torch.eye(3, dtype=torch.float64))
    by_logits, by_constant = torch.autograd.grad(lmt.loss(logits, labels, table, epsilon), (logits, constant), retain_graph=True)
    p = (logits + epsilon * table[labels]).softmax(1)[0].detach()
    assert torch.allclose(by_logits[0], p - torch.tensor([1.0, 0.0, 0.0]))
    assert by_constant.item() == pytest.approx(math.sqrt(2) * epsilon * (1 - p[0].item()))
    outputs = torch.cat((logits, bottom_logit(logits, table, epsilon)[:, None]), dim=1)
    by_logits, by_constant = torch.autograd.grad(torch.nn.functional.cross_entropy(outputs, labels), (logits, constant))
    p = outputs.softmax(1)[0].detach()
    # Bottom is made from class 1, the strongest rival: its share of the gradient goes there.
    assert torch.allclose(by_logits[0], torch.stack((p[0] - 1, p[1] + p[3], p[2])))
    assert by_constant.item() == pytest.approx(math.sqrt(2) * epsilon * p[3].item())


def test_trains_a_net_that_is_certified_and_not_broken():
    x, y = points.moons(200)
    torch.manual_seed(0)
    net = lmt.net(minmax(2, 32, 32, 2), (2,), 0.1)
    history = lmt.fit(net, (x, y), epochs=40, learning_rate=0.02)
    assert history[-1] < history[0] and not net.training
    report = evaluate(net, x, y)
    assert report.accuracy > 0.9 and report.vra > 0.6
    assert torch.equal(net.head.weight, torch.eye(2))
    c = net.certify(x)
    moved = pgd(net.logits, x, c.prediction, c.radius.float() * 0.999, steps=20, restarts=2)
    sure = c.label >= 0
    assert (net.logits(moved).argmax(1) == c.prediction)[sure].all()


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="a GloroNet is needed, not Sequential"):
        lmt.fit(torch.nn.Sequential(torch.nn.Linear(2, 2)), (torch.zeros(2, 2), torch.zeros(2).long()))
    with pytest.raises(ValueError, match="ends in"):
        lmt.net(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), (2,), 0.1)
    net = lmt.net(minmax(2, 4, 2), (2,), 0.1)
    x, y = points.moons(20)
    with pytest.raises(ValueError, match="epochs"):
        lmt.fit(net, (x, y), epochs=0)
    with pytest.raises(ValueError, match="epsilon"):
        lmt.fit(net, (x, y), train_epsilon=-1)
    with pytest.raises(ValueError, match="inputs that are NaN"):
        lmt.fit(net, (x * math.nan, y), epochs=1)
    with pytest.raises(ValueError, match="train: labels must be classes, from 0 to 1; they go from 1 to 2"):
        lmt.fit(net, (x, y + 1), epochs=1)
