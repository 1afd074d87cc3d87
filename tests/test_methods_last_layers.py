"""The local bound of the last layers against the exact radius, points of the ball, exact fractions and the global bound."""

import math
import random
from fractions import Fraction
from itertools import product

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
from gloro_lite.layers import Absolute
from gloro_lite.lipschitz.walk import registered
from gloro_lite.methods import last_layers

ACTIVATIONS = [torch.nn.ReLU, MinMax, Absolute]


@pytest.mark.slow
@pytest.mark.parametrize("activation", [torch.nn.ReLU, MinMax])
def test_it_lies_between_the_global_bound_and_the_exact_radius(activation):
    radius, known, _ = falls_back_between_the_global_and_the_exact_radius(last_layers.certify, activation)
    assert (radius > 1.1 * known).sum() >= 4


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
    net, x, c = falls_back_for_a_trained_net(last_layers.certify)
    assert torch.equal(last_layers.certify(net, x, batch_size=7).label, c.label)  # whatever the batches


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
@pytest.mark.parametrize(
    "power, back", [(-600, 600), (-130, 130), (130, -130), (500, -500), (1000, -1000), (500, -560), (-560, 500)]
)
def test_extreme_weights_of_the_same_function_give_no_larger_radius(activation, power, back):
    network = dense(2, 4, 2, seed=3, activation=activation).double()
    x = torch.randn(20, 2, dtype=torch.float64)
    usual = last_layers.certify(GloroNet(network, (2,), 100.0), x, steps=30)
    with torch.no_grad():
        for weight in network[0].parameters():
            weight.mul_(2.0**power)
        network[2].weight.mul_(2.0**back)
        network[2].bias.mul_(2.0 ** (power + back))  # all logits by one factor
    c = last_layers.certify(GloroNet(network, (2,), 100.0), x, steps=30)
    assert (c.radius <= usual.radius * (1 + 1e-9)).all() and usual.radius.max() > 0.1
    if abs(power) < 200:
        assert torch.allclose(c.radius, usual.radius, rtol=1e-9)


# ---- the parts, by fractions -----------------------------------------------------------------------------------------------


def column(numbers):
    return torch.tensor([[float(v)] for v in numbers], dtype=torch.float64)


def activated(activation, z):
    if activation is MinMax:
        pairs = list(zip(z[: len(z) // 2], z[len(z) // 2 :], strict=True))
        return [min(pair) for pair in pairs] + [max(pair) for pair in pairs]
    return [max(v, 0) if activation is torch.nn.ReLU else abs(v) for v in z]


def bound_of(activation, weight, head, bias=None, head_bias=None):
    weight, head = (torch.as_tensor(v, dtype=torch.float64) for v in (weight, head))
    biases = (
        torch.zeros(len(w), dtype=torch.float64) if b is None else torch.tensor(b, dtype=torch.float64)
        for w, b in ((weight, bias), (head, head_bias))
    )
    return last_layers.Bound(last_layers.Tail(weight, next(biases), activation, head, next(biases)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("off", [Fraction(0), Fraction(1, 4), Fraction(3)])
def test_a_margin_on_a_line_falls_no_further_than_its_bound(activation, off):
    """The rows' product falls from the computed values to any others: by no more than the bound, and what logits are off by."""
    numbers, reached, wider = random.Random(1), 0, 0
    for _ in range(15 if off else 60):
        weight, z, *heads = ([Fraction(numbers.randint(-8, 8), 4) for _ in range(4)] for _ in range(4))
        reach, rows = Fraction(numbers.randint(1, 12), 4), [a - b for a, b in zip(*heads, strict=True)]
        bound = bound_of(activation, column(weight), [[float(v) for v in row] for row in heads])
        t = bound.tail.units(column(z)).mT
        strength = (bound.entering[0] + bound.entering[1])[None]
        size = torch.full_like(t, float(off))
        fall = bound.fall(column(rows).mT, strength, t, size, torch.tensor([float(reach)], dtype=torch.float64))
        # Of a pair, one input is off by all of it.
        shifts = [[a * off for a in signs] for signs in product((-1, 0, 1) if off else (0,), repeat=t.shape[1])]
        start = sum(r * a for r, a in zip(rows, activated(activation, z), strict=True))
        worst = start
        for shift in shifts:
            moved = [v + a for v, a in zip(z, shift + [0] * (4 - len(shift)), strict=True)]
            kinks = units(activation, moved), units(activation, weight)
            turns = [-a / b for a, b in zip(*kinks, strict=True) if b and abs(a) < reach * abs(b)]
            for d in (-reach, reach, Fraction(0), *turns):
                ends = activated(activation, [v + w * d for v, w in zip(moved, weight, strict=True)])
                worst = min(worst, sum(r * a for r, a in zip(rows, ends, strict=True)))
        allowed = Fraction(fall.item()) + off * sum(map(Fraction, strength[0].tolist()))
        assert start - worst <= allowed
        reached += start - worst > Fraction(fall.item()) * (1 - Fraction(1, 10**9)) > 0
        wider += Fraction(fall.item()) > 0
    assert wider > 10 and (reached > 15 or off)


def units(activation, z):
    return [a - b for a, b in zip(z[: len(z) // 2], z[len(z) // 2 :], strict=True)] if activation is MinMax else z


@pytest.mark.parametrize("sign", [1, -1])
def test_a_slope_that_rounding_has_made_0_is_counted(sign):
    # 1 + 2^-53, as the difference of two rows, is 1 as computed: the difference of the outputs enters by 2^-53, not by 0.
    bound = bound_of(MinMax, [[1.0], [-1.0]], [[1.0, 1.0], [0.0, -(2.0**-53)]][::sign])
    strength, t = (bound.entering[0] + bound.entering[1])[None], torch.full((1, 1), -2.0 * sign, dtype=torch.float64)
    rows = (bound.tail.head[0] - bound.tail.head[1])[None]
    assert rows.abs().tolist() == [[1, 1]]
    fall = bound.fall(rows, strength, t, torch.zeros_like(t), torch.ones(1, dtype=torch.float64))
    assert 2.0**-53 <= fall.item() < 1e-13


def test_values_and_logits_that_cancel_are_off_by_no_more_than_is_said():
    """Where what is left is far smaller than its error; the oracle computes with fractions."""
    numbers, none, one = random.Random(0), [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]
    wrong = [none] * 4
    for _ in range(20):
        u = numbers.uniform(0.5, 1)
        inputs = [math.nextafter(u, 2), u]  # so that differences are above 0, where ReLU shows them
        large = numbers.uniform(0.5, 1) * 1e16
        for case, (activation, weight, bias, head, head_bias) in enumerate(
            (
                (torch.nn.ReLU, [[large, -large], [1.0, 1.0]], none, [[1.0, 0.0], none], none),  # values, and through them logits
                (MinMax, [[1.0, 0.0], [0.0, 0.25]], [large, large], one, none),
                (torch.nn.ReLU, one, none, [[large, -large], none], none),
                (torch.nn.ReLU, one, none, one, [large, 0.0]),
            )
        ):
            bound = bound_of(activation, weight, head, bias, head_bias)
            logits, off, t, t_off = bound.logits(torch.tensor([inputs], dtype=torch.float64))
            z = rows_times(weight, inputs, bias)
            exact = rows_times(head, activated(activation, z), head_bias)
            for which, (values, computed, allowed) in enumerate(((units(activation, z), t, t_off), (exact, logits, off))):
                errors = [abs(Fraction(v) - w) for v, w in zip(computed[0].tolist(), values, strict=True)]
                assert all(e <= Fraction(a) for e, a in zip(errors, allowed[0].tolist(), strict=True))
                wrong[case] = [max(w, float(max(errors))) if k == which else w for k, w in enumerate(wrong[case])]
            assert off.max() < 1e3
    assert min(map(max, wrong)) > 1e-2 and wrong[0][0] > 1e-2 and wrong[1][0] > 1e-2  # there is something to count


def rows_times(rows, values, bias):
    return [
        sum(Fraction(w) * Fraction(v) for w, v in zip(row, values, strict=True)) + Fraction(b)
        for row, b in zip(rows, bias, strict=True)
    ]


def state_of(*widths, activation=torch.nn.ReLU, weight=None):
    network = dense(*widths, activation=activation).double()
    if weight is not None:
        with torch.no_grad():
            for layer, rows in zip((network[0], network[2]), weight, strict=True):
                layer.weight.copy_(torch.tensor(rows, dtype=torch.float64))
                layer.bias.zero_()
    return GloroNet(network, widths[:1], 0.1).state()


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("activation", [torch.nn.ReLU, Absolute])
def test_the_ball_has_the_reach_of_the_radius_and_of_what_u_is_off_by(activation):
    """At 2 the one unit is linear down to 0, where both logits are the same: both bounds are exact."""
    state = state_of(1, 1, 2, activation=activation, weight=([[3.0]], [[2.0], [-1.0]]))
    bound = last_layers.Bound(last_layers.tail(state))
    for own, label, radius, yes in (
        (0.0, 0, 2 - 1e-12, True),
        (0.0, 0, 2 + 1e-12, False),
        (2 - 1e-12, 0, 1e-13, True),
        (2.0, 0, 1e-13, False),
        (1.0, 0, 1 - 1e-12, True),
        (1.0, 0, 1 + 1e-12, False),
        (0.0, 1, 1e-9, False),  # the other label
        (math.inf, 0, 1e-9, False),
        (math.nan, 0, 1e-9, False),
        (0.0, 0, math.inf, False),
        (0.0, 0, math.nan, False),
    ):
        found = last_layers.robust(bound, state, doubles([2.0]), doubles(own), doubles(radius), torch.tensor([label]))
        assert found.tolist() == [yes], (own, label, radius)


def test_errors_of_both_logits_are_taken_from_the_margin(monkeypatch):
    state = state_of(1, 1, 2, weight=([[1.0]], [[1.0], [0.0]]))
    bound = last_layers.Bound(last_layers.tail(state))
    known = bound.logits(doubles([1.0]))
    for off, yes in (
        ([0.0, 0.0], True),
        ([0.45, 0.45], True),
        ([0.55, 0.55], False),
        ([1.01, 0.0], False),
        ([0.0, 1.01], False),
        ([math.inf, 0.0], False),
    ):
        told = known[0], doubles(off), *known[2:]
        monkeypatch.setattr(bound, "logits", lambda u, told=told: told)
        found = last_layers.robust(bound, state, doubles([1.0]), doubles(0.0), doubles(1e-9), torch.tensor([0]))
        assert found.tolist() == [yes], off


def test_a_unit_s_value_that_may_be_near_0_can_turn():
    """Seen as 1, it may be 0.5; then a move by 1 turns it: |t| - t' for a t' that moves with it."""
    bound = bound_of(Absolute, [[1.0], [1.0]], [[0.0, 1.0], [1.0, 0.0]])
    strength, rows = (bound.entering[0] + bound.entering[1])[None], doubles([-1.0, 1.0])
    t, falls = doubles([1.0, 100.0]), []
    for off in (0.0, 0.5, 1.0, 2.0):
        falls.append(bound.fall(rows, strength, t, doubles([off, 0.0]), doubles(1.0)).item())
    assert falls == pytest.approx([0.0, 1.0, 2.0, 2.0], abs=1e-9)


@pytest.mark.parametrize(
    "weight, rows, least, most",
    [
        # Three lines of the plane through 0, at equal angles: their norm says more than what two of them have in common.
        ([[1.0, 0.0], [0.5, 0.75**0.5], [-0.5, 0.75**0.5]], [-1.0, -1.0, -1.0], 2.0, 4.5**0.5),
        ([[100.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [0.0, -1.0, -1.0], 2.0, 2.0),
        ([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]], [-1.0, -1.0, -1.0], 5.0, 5.0),
        ([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]], [1.0, 1.0, 1.0], 0.0, 0.0),
        ([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0]], [-1.0, -1.0, 0.0], 6.0, 6.0),
    ],
)
def test_units_at_0_turn_together_as_far_as_their_directions_allow(weight, rows, least, most):
    bound = bound_of(Absolute, weight, [rows, [0.0] * 3])
    zeros = torch.zeros(1, 3, dtype=torch.float64)
    fall = bound.fall(doubles(rows), bound.entering.sum(0)[None], zeros, zeros, doubles(2.0)).item()
    assert 2 * least <= fall <= 2 * most * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("weight, head", [(1e-200, 1.0), (1.0, 1e-200)])
def test_values_and_logits_that_underflow_are_off(weight, head):
    bound = bound_of(torch.nn.ReLU, [[weight]], [[head], [0.0]])
    logits, off, t, t_off = bound.logits(doubles([1e-200]))
    exact = Fraction(weight) * Fraction(1e-200)
    assert abs(Fraction(t.item()) - exact) <= Fraction(t_off.item())
    assert abs(Fraction(logits[0, 0].item()) - Fraction(head) * exact) <= Fraction(off[0, 0].item())


@pytest.mark.parametrize(
    "weight, rows, reach", [(1e-200, 1.0, 1e-200), (1.0, 1e-170, 1.0), (1e-200, 1e100, 1.0), (1e-100, 1e-100, 1e-130)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_fall_that_underflows_is_no_smaller(weight, rows, reach, sign):
    """A unit at 0, or one that is linear, of one weight."""
    bound = bound_of(Absolute, [[weight]], [[sign * rows], [0.0]])
    t = doubles([0.0 if sign < 0 else 1e10])
    fall = bound.fall(doubles([sign * rows]), bound.entering.sum(0)[None], t, 0 * t, doubles(reach)).item()
    assert Fraction(fall) >= Fraction(weight) * Fraction(rows) * Fraction(reach)


@pytest.mark.parametrize("before, weight, head, x", [(1e-200, 1e300, 1.0, 0.0), (1.0, 1e-200, 1e-200, 1e-200)])
def test_a_reach_that_underflows_still_moves_a_margin(before, weight, head, x):
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 2)).double()
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (before, 0.0, weight, 1e-150 if x == 0 else 0.0), strict=False):
            parameter.fill_(value)
        network[3].weight.copy_(column([head, 0.0]))
        network[3].bias.zero_()
    state = GloroNet(network, (1,), 1.0).state()
    bound = last_layers.Bound(last_layers.tail(state))
    # A move by the radius makes a tie.
    found = last_layers.robust(bound, state, doubles([x]), doubles(0.0), doubles(1e-200), torch.tensor([0]))
    assert found.tolist() == [False]


def test_what_comes_before_may_be_off_by_more_than_a_margin():
    # (2^60 + 1) - 2^60 is 0 as computed, or 1 in another order; the margin is 3/4 at 0 and -1/4 at 1.
    network = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        network[0].weight.copy_(doubles([2.0**60, 1.0, -(2.0**60)]))
        network[1].weight[0] = 1.0
        network[3].weight[1, 0] = 1.0
        network[3].bias[0] = 0.75
    net, x = GloroNet(network, (3,), 1e-30), torch.ones(1, 3, dtype=torch.float64)
    assert last_layers.certify(net, x).label.tolist() == net.certify(x).label.tolist() == [-1]


def test_many_classes_rows_that_are_0_or_the_same_and_parts_of_any_size(monkeypatch):
    network = dense(3, 8, 40, activation=MinMax)
    with torch.no_grad():
        network[0].weight[4] = network[0].weight[0]  # a pair whose difference is the biases'
        network[0].bias[4] = network[0].bias[0]  # or 0
        network[0].weight[5] = network[0].weight[1]
        network[0].weight[2] = network[0].weight[6] = 0
        network[2].weight[7] = network[2].weight[6]
    net, x = GloroNet(network, (3,), 0.05), torch.randn(60, 3)
    c, known = last_layers.certify(net, x, steps=12), net.certify(x)
    assert (c.radius > 1.01 * known.radius).any()
    monkeypatch.setattr(last_layers, "_PAIRS", 3)
    assert torch.equal(last_layers.certify(net, x, steps=12).radius, c.radius)
    # A class alone decides: the radius against all is the least of those against one.
    row = int((c.radius - known.radius).argmax())
    bound, state = last_layers.Bound(last_layers.tail(net.state())), net.state()
    labels, point, own = c.prediction[row : row + 1], x[row : row + 1].double(), doubles(0.0)
    logits, _, t, off = bound.logits(point)
    rivals = [j for j in range(40) if j != labels]
    seen = set()
    for factor in (0.8, 0.95, 1.1, 1.3, 2.0):
        reach = c.radius[row : row + 1] * factor
        yes = all(
            logits[0, labels] - logits[0, j]
            > bound.fall(bound.tail.head[labels] - bound.tail.head[j], bound.entering[labels] + bound.entering[j], t, off, reach)
            for j in rivals
        )
        assert last_layers.robust(bound, state, point, own, reach, labels).tolist() == [yes]
        seen.add(yes)
    assert len(seen) == 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_bias_is_a_bias_of_0_and_an_empty_batch_has_no_certificates(activation):
    network = dense(2, 6, 3, activation=activation)
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.bias.zero_()
    net, x = GloroNet(network, (2,), 0.3), torch.randn(10, 2)
    c = last_layers.certify(net, x, steps=5)
    network[0].bias = network[2].bias = None
    assert all(map(torch.equal, last_layers.certify(net, x, steps=5)[:3], c[:3]))
    assert last_layers.certify(net, x[:0]).label.shape == (0,)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer", [0, 2])
def test_nothing_is_proven_where_something_overflows(activation, layer):
    network = dense(2, 4, 2, seed=5, activation=activation).double()
    with torch.no_grad():
        bias = network[layer].bias
        bias.copy_(1e308 * torch.sign(bias))
    c = last_layers.certify(GloroNet(network, (2,), 0.1), torch.randn(5, 2, dtype=torch.float64), steps=4)
    assert (c.radius == 0).all() and (c.label == -1).all()


def test_bad_input_is_refused(monkeypatch):
    net = GloroNet(dense(2, 4, 2, activation=MinMax), (2,), 0.1)
    for layers, kinds in (
        ([torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)], "Linear, Tanh, Linear"),
        ([torch.nn.Linear(2, 2)], "ends in Linear$"),
        ([torch.nn.Linear(2, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)], "Linear, Linear, Linear"),
    ):
        with pytest.raises(ValueError, match=kinds):
            last_layers.certify(GloroNet(torch.nn.Sequential(*layers), (2,), 0.1), torch.zeros(1, 2))
    monkeypatch.setattr(last_layers, "registered", lambda layer: registered(layer) or (type(layer) is MinMax or None))
    with pytest.raises(ValueError, match="MinMax has a registered bound"):
        last_layers.certify(net, torch.zeros(1, 2))
    monkeypatch.undo()
    with pytest.raises(TypeError, match="GloroNet"):
        last_layers.certify(net.network, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="batch_size"):
        last_layers.certify(net, torch.zeros(1, 2), batch_size=0)
    with pytest.raises(ValueError, match="epsilon"):
        last_layers.certify(net, torch.zeros(1, 2), epsilon=-1.0)
    with pytest.raises(ValueError):
        last_layers.certify(net, torch.full((1, 2), math.nan))
