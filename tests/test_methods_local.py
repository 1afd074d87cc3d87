"""The local bound against the exact radius, exact norms and the global bound."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import (
    dense,
    falls_back_between_the_global_and_the_exact_radius,
    falls_back_for_a_trained_net,
)

from gloro_lite import GloroNet, MinMax
from gloro_lite.attacks import pgd
from gloro_lite.methods import local


@pytest.mark.slow
@pytest.mark.parametrize("activation", [torch.nn.ReLU, MinMax])
def test_it_lies_between_the_global_bound_and_the_exact_radius(activation):
    radius, _, exact = falls_back_between_the_global_and_the_exact_radius(local.certify, activation)
    assert (radius > 0.95 * exact).any()  # where no activation is open, the local bound is the exact radius


@pytest.mark.parametrize("activation", [torch.nn.ReLU, MinMax])
def test_nothing_open_gives_the_linear_piece_s_radius(activation):
    network = dense(3, 4, 4, 2, seed=1, activation=activation)
    with torch.no_grad():
        network[0].bias += torch.tensor([9.0, -9.0, 9.0, -9.0])
        network[2].bias += torch.tensor([-9.0, 9.0, 9.0, 9.0]) * 30
    net = GloroNet(network, (3,), 100.0)
    x = 0.1 * torch.randn(2, 3)
    c = local.certify(net, x, epsilon=100.0, steps=24)
    for point, label, radius in zip(x, c.prediction.tolist(), c.radius.tolist(), strict=True):
        points_ = point.clone().requires_grad_()
        logits = net.logits(points_[None])[0]
        margin = logits[label] - logits[1 - label]
        (gradient,) = torch.autograd.grad(margin, points_)
        # The distance to the boundary of the linear piece, as long as the ball stays in it.
        assert radius <= margin.item() / gradient.norm().item() * (1 + 1e-4)
        assert radius > 0.3


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7))
def test_spectral_norms_are_upper_bounds_and_tight(seed, rows, columns):
    torch.manual_seed(seed)
    matrices = torch.randn(4, rows, columns, dtype=torch.float64) * 10 ** torch.randint(-4, 4, (4, 1, 1)).double()
    matrices[0] = 0
    matrices[1] = matrices[1, :, :1] * matrices[1, :1, :]  # of rank one
    exact = torch.linalg.svdvals(matrices)[:, 0]
    found = local.spectral_norms(matrices)
    assert (found >= exact * (1 - 1e-15)).all() and (found <= exact * (1 + 1e-6)).all()


@given(st.integers(0, 10**6), st.sampled_from([torch.nn.ReLU, MinMax]), st.sampled_from([0, 10]))
@settings(max_examples=15)
def test_no_point_of_the_ball_moves_a_margin_further(seed, activation, iterations):
    network = dense(3, 6, 6, 4, 3, seed=seed, activation=activation)
    layers = local.chain(network, (3,))
    norms = [stage.norm() for stage in layers]
    x = torch.randn(2, 3, dtype=torch.float64)
    radius = torch.tensor([0.05, 0.7], dtype=torch.float64)
    known = local.walk(layers, norms, x, radius)
    rows = torch.randn(3, 4, dtype=torch.float64)
    index = torch.tensor([0, 1, 1])
    tail = [norms[1] * norms[2], norms[2], 1.0]
    found = local.lipschitz(known, rows, index, tail, iterations)
    assert (found <= rows.norm(dim=1) * math.prod(norms[:3]) * (1 + 1e-9)).all()  # never worse than the global bound
    body = network[:-1].double()
    directions = torch.nn.functional.normalize(torch.randn(3, 300, 3, dtype=torch.float64), dim=2)
    lengths = radius[index][:, None] * torch.rand(3, 300, dtype=torch.float64)
    ends = x[index][:, None] + lengths[..., None] * directions
    moved = torch.einsum("pnh,ph->pn", body(ends.flatten(0, 1)).view(3, 300, 4) - body(x[index])[:, None], rows).abs()
    assert (moved <= found[:, None] * lengths * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("activation", [torch.nn.ReLU, MinMax])
def test_convolutions_are_taken_as_they_are(activation):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        activation(),
        torch.nn.Conv2d(4, 4, 4, stride=2, padding=1),
        activation(),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    )
    net = GloroNet(network, (1, 4, 4), 5.0)
    x = torch.rand(6, 1, 4, 4)
    c, known = local.certify(net, x, steps=8), net.certify(x)
    assert (c.radius > 1.05 * known.radius).any()
    moved = pgd(net.logits, x, c.prediction, c.radius.float() * 0.999, steps=40, restarts=3)
    assert torch.equal(net.logits(moved).argmax(1), c.prediction)


def test_it_adds_to_a_trained_net_and_leaves_what_was_certified():
    falls_back_for_a_trained_net(local.certify)


@given(st.integers(0, 10**6))
def test_rounding_of_the_logits_is_counted(seed):
    # Large weights that cancel; the oracle computes with fractions.
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        network[0].bias.fill_(1e16)
        network[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    x = torch.rand(1, 2)
    layers = local.chain(network, (2,))
    known = local.walk(layers, [stage.norm() for stage in layers], x.double(), torch.ones(1, dtype=torch.float64))
    h = [Fraction(v) for v in x[0].tolist()]
    for layer in (network[0], network[2]):
        h = [
            sum(Fraction(w) * v for w, v in zip(row, h, strict=True)) + Fraction(b)
            for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        h = [max(v, Fraction(0)) for v in h] if layer is network[0] else h
    wrong = max(abs(float(v - Fraction(z))) for v, z in zip(h, known.logits[0].tolist(), strict=True))
    assert wrong <= known.error.item() < 1e3
    assert wrong > 1e-3 or seed != 0  # and there is something to count


def test_a_reach_that_overflows_leaves_a_unit_open():
    # The square of the first two layers' 1e156 is infinite; times 0, how far their open units move, as there are none, it is NaN.
    network = torch.nn.Sequential(
        torch.nn.Linear(1, 1),
        torch.nn.ReLU(),
        torch.nn.Linear(1, 1),
        torch.nn.ReLU(),
        torch.nn.Linear(1, 2),
        torch.nn.ReLU(),
        torch.nn.Linear(2, 2),
        torch.nn.ReLU(),
        torch.nn.Linear(2, 2),
    ).double()
    rows = [[1e100]], [[1e56]], [[1e-156], [1e-156]], [[1.0, 0.0], [0.0, 100.0]], [[1.0, -1.0], [0.0, 0.0]]
    with torch.no_grad():
        for layer, weight in zip(network[::2], rows, strict=True):
            layer.weight.copy_(torch.tensor(weight, dtype=torch.float64))
            layer.bias.zero_()
        network[4].bias[1] = -1.2e-10  # off at x, on within epsilon
    x, epsilon = torch.tensor([[1e-10]], dtype=torch.float64), 0.29e-10
    net = GloroNet(network, (1,), epsilon).eval()
    assert net.logits(x).argmax(1) == 0 and net.logits(x + epsilon).argmax(1) == 1
    assert local.certify(net, x).label == -1


def test_bad_input_is_refused():
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"layer '1' \(Tanh\).*ReLU, MinMax"):
        local.certify(GloroNet(network, (2,), 0.1), torch.zeros(1, 2))
    net = GloroNet(dense(2, 4, 2, activation=MinMax), (2,), 0.1)
    with pytest.raises(ValueError, match="epsilon"):
        local.certify(net, torch.zeros(1, 2), epsilon=-1.0)
    with pytest.raises(ValueError):
        local.certify(net, torch.full((1, 2), math.nan))
    wide = torch.nn.Sequential(torch.nn.Linear(2, 5000), torch.nn.ReLU(), torch.nn.Linear(5000, 2))
    with pytest.raises(ValueError, match="4096 at most"):
        local.chain(wide, (2,))
    network = dense(2, 4, 2, activation=MinMax)
    network[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="hook"):
        local.chain(network, (2,))
