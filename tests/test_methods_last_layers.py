"""The local bound of the last layers against the exact radius, points of the ball, exact fractions and the global bound."""

import math
from fractions import Fraction

import pytest
import torch
from exact_radius import exact_radius
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import dense

from gloro_lite import GloroNet, MinMax
from gloro_lite.attacks import pgd
from gloro_lite.datasets import points
from gloro_lite.fit import fit
from gloro_lite.layers import Absolute
from gloro_lite.methods import last_layers

ACTIVATIONS = [torch.nn.ReLU, MinMax, Absolute]


@pytest.mark.slow
@pytest.mark.parametrize("activation", [torch.nn.ReLU, MinMax])
def test_it_lies_between_the_global_bound_and_the_exact_radius(activation):
    gained = 0
    for seed in range(3):
        network = dense(2, 6, 6, 3, seed=seed, activation=activation)
        x = torch.randn(3, 2)
        net = GloroNet(network, (2,), 100.0)  # so large that the fall-back sees every input
        c, known = last_layers.certify(net, x, steps=20), net.certify(x)
        assert (c.radius >= known.radius).all() and torch.equal(c.prediction, known.prediction)
        exact = torch.tensor([exact_radius(network, point) for point in x])
        assert (c.radius.clamp(max=2.0) <= exact * (1 + 1e-3) + 1e-6).all()
        gained += int((c.radius > 1.1 * known.radius).sum())
    assert gained >= 4


@given(st.integers(0, 10**6), st.sampled_from(ACTIVATIONS), st.sampled_from([(2, 6, 3), (2, 4, 6, 2)]))
@settings(max_examples=40)
def test_no_point_of_the_disc_has_another_label(seed, activation, widths):
    network = dense(*widths, seed=seed, activation=activation)
    x = torch.randn(8, 2)
    c = last_layers.certify(GloroNet(network, (2,), 100.0), x, steps=14)
    turns = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)
    circle = torch.stack((turns.cos(), turns.sin()), dim=1)
    share = torch.linspace(0, 1 - 1e-9, 25, dtype=torch.float64)
    disc = (share[:, None, None] * circle).flatten(0, 1)
    ends = x.double()[:, None] + c.radius.clamp(max=20.0)[:, None, None] * disc
    labels = network.double()(ends.flatten(0, 1)).argmax(1).view(8, -1)
    assert (labels == c.prediction[:, None]).all()


@given(st.integers(0, 10**6), st.sampled_from(ACTIVATIONS), st.floats(0.05, 3.0))
@settings(max_examples=60)
def test_no_move_lets_a_margin_fall_further(seed, activation, reach):
    network = dense(5, 8, 3, seed=seed, activation=activation).double()
    bound = last_layers.Bound(last_layers.tail(GloroNet(network, (5,), 0.1).state()))
    u = torch.randn(4, 5, dtype=torch.float64)
    logits, _, t, off = bound.logits(u)
    assert torch.allclose(logits, network(u))
    rows = (bound.tail.head[0] - bound.tail.head[1]).expand(4, -1)
    strength = (bound.entering[0] + bound.entering[1]).expand(4, -1)
    size = torch.full((4,), reach, dtype=torch.float64)
    fall = bound.fall(rows, strength, t, off, size)
    direction = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)

    def margin(points):
        return (network(points.flatten(0, 1)) @ direction).view(points.shape[:-1])

    # From many starts down the gradient of the margin: sampling alone misses the worst point of five dimensions.
    moves = torch.nn.functional.normalize(torch.randn(64, 4, 5, dtype=torch.float64), dim=2) * reach
    for step in range(30):
        moves.requires_grad_()
        (gradient,) = torch.autograd.grad(margin(u + moves).sum(), moves)
        moved = moves.detach() - reach / (1 + step) * torch.nn.functional.normalize(gradient, dim=2)
        moves = moved * (reach / moved.norm(dim=2, keepdim=True)).clamp(max=1)
    lost = logits[:, 0] - logits[:, 1] - margin(u + moves).amin(0)
    assert (lost <= fall * (1 + 1e-9)).all()
    far = (t.abs() > reach * bound.sizes).all(dim=1)  # nothing can turn: linear, and the bound exact
    assert torch.allclose(fall[far], lost[far], rtol=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_where_nothing_can_turn_the_radius_is_the_distance_to_the_boundary(activation):
    # By exact fractions: margin^2 >= radius^2 |c|^2, and not by much.
    torch.manual_seed(1)
    network = dense(3, 4, 2, seed=1, activation=activation)
    with torch.no_grad():
        network[0].bias += torch.tensor([90.0, -70.0, -50.0, 30.0])
        network[2].bias += torch.tensor([0.0, 200.0])  # keep the boundary near enough
        network[2].bias[1] += (network(torch.zeros(1, 3)) @ torch.tensor([1.0, -1.0])).item() - 1.0
    net = GloroNet(network, (3,), 100.0)
    x = 0.1 * torch.randn(4, 3)
    c = last_layers.certify(net, x, steps=60)

    def exact(v):
        return [[Fraction(a) for a in row] for row in v.tolist()]

    for point, label, radius in zip(exact(x), c.prediction.tolist(), c.radius.tolist(), strict=True):
        (w, b), (h, g) = ((exact(layer.weight), exact(layer.bias[None])[0]) for layer in (network[0], network[2]))
        z = [sum(a * v for a, v in zip(row, point, strict=True)) + o for row, o in zip(w, b, strict=True)]
        d = [p - q for p, q in zip(h[label], h[1 - label], strict=True)]
        if activation is MinMax:
            pairs = [(k, k + 2) if z[k] < z[k + 2] else (k + 2, k) for k in range(2)]
            out = {place: source for k, pair in enumerate(pairs) for place, source in zip((k, k + 2), pair, strict=True)}
            slopes = {(place, source): Fraction(1) for place, source in out.items()}
        else:
            off = Fraction(0) if activation is torch.nn.ReLU else Fraction(-1)
            slopes = {(k, k): Fraction(1) if z[k] > 0 else off for k in range(4)}
        margin = sum(d[k] * s * z[j] for (k, j), s in slopes.items()) + g[label] - g[1 - label]
        gradient = [sum(d[k] * s * w[j][i] for (k, j), s in slopes.items()) for i in range(3)]
        square = sum(v * v for v in gradient)
        assert 0 < Fraction(radius) ** 2 * square < margin**2
        assert Fraction(radius * (1 + 1e-9)) ** 2 * square > margin**2


def test_it_adds_to_a_trained_net_and_leaves_what_was_certified():
    x, y = points.moons(150)
    net = GloroNet(dense(2, 16, 16, 2, scale=0.3, activation=MinMax), (2,), 0.15)
    fit(net, (x, y), epochs=30, learning_rate=0.02, progress=False)
    known, c = net.certify(x), last_layers.certify(net, x)
    certified = known.label >= 0
    assert certified.any() and torch.equal(c.radius[certified], known.radius[certified])
    assert (c.label >= 0).sum() > certified.sum()
    assert torch.equal(c.label >= 0, c.radius > net.epsilon)
    moved = pgd(net.logits, x, c.prediction, net.epsilon, steps=40, restarts=3)
    assert torch.equal(net.logits(moved).argmax(1)[c.label >= 0], c.label[c.label >= 0])
    # Whatever the batches, and where there is nothing to fall back for.
    assert torch.equal(last_layers.certify(net, x, batch_size=7).label, c.label)
    assert last_layers.certify(net, x[certified]).guarantee == "exact"


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_rounding_of_the_logits_is_counted(seed):
    # Large weights that cancel; the oracle computes with fractions.
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        network[0].bias.fill_(1e16)
        network[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    bound = last_layers.Bound(last_layers.tail(GloroNet(network, (2,), 0.1).state()))
    u = torch.rand(1, 2, dtype=torch.float64)
    logits, off, t, t_off = bound.logits(u)
    h = [Fraction(v) for v in u[0].tolist()]
    wrong = []
    for layer, computed, allowed in ((network[0], t, t_off), (network[2], logits, off)):
        h = [
            sum(Fraction(w) * v for w, v in zip(row, h, strict=True)) + Fraction(b)
            for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        errors = [abs(v - Fraction(z)) for v, z in zip(h, computed[0].tolist(), strict=True)]
        assert all(e <= Fraction(a) for e, a in zip(errors, allowed[0].tolist(), strict=True)) and max(allowed[0]) < 1e3
        wrong += map(float, errors)
    assert max(wrong) > 1e-3 or seed != 0  # and there is something to count


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("power", [-600, -130, 130, 500, 1000])
def test_extreme_weights_of_the_same_function_give_no_larger_radius(activation, power):
    network = dense(2, 4, 2, seed=3, activation=activation).double()
    x = torch.randn(20, 2, dtype=torch.float64)
    usual = last_layers.certify(GloroNet(network, (2,), 100.0), x, steps=30)
    with torch.no_grad():
        for weight in network[0].parameters():
            weight.mul_(2.0**power)
        network[2].weight.mul_(2.0**-power)
    c = last_layers.certify(GloroNet(network, (2,), 100.0), x, steps=30)
    assert (c.radius <= usual.radius * (1 + 1e-9)).all() and usual.radius.max() > 0.1
    if abs(power) < 200:
        assert torch.allclose(c.radius, usual.radius, rtol=1e-9)


def test_bad_input_is_refused():
    net = GloroNet(dense(2, 4, 2, activation=MinMax), (2,), 0.1)
    for layers, kinds in (
        ([torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)], "Linear, Tanh, Linear"),
        ([torch.nn.Linear(2, 2)], "ends in Linear$"),
        ([torch.nn.Linear(2, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)], "Linear, Linear, Linear"),
    ):
        with pytest.raises(ValueError, match=kinds):
            last_layers.certify(GloroNet(torch.nn.Sequential(*layers), (2,), 0.1), torch.zeros(1, 2))
    with pytest.raises(TypeError, match="GloroNet"):
        last_layers.certify(net.network, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="batch_size"):
        last_layers.certify(net, torch.zeros(1, 2), batch_size=0)
    with pytest.raises(ValueError, match="epsilon"):
        last_layers.certify(net, torch.zeros(1, 2), epsilon=-1.0)
    with pytest.raises(ValueError):
        last_layers.certify(net, torch.full((1, 2), math.nan))
