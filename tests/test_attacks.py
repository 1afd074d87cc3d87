"""The attack: where the answer is known, it finds it."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gloro_lite import GloroNet, MinMax
from gloro_lite.attacks import Ball, accuracy_under_attack, margin, pgd


def test_linear_net_falls_just_beyond_its_certified_radius_and_not_within():
    net = GloroNet(nn.Sequential(nn.Linear(3, 2)), (3,), 0.1)
    x = torch.randn(60, 3)
    c = net.certify(x)
    radius = c.radius.float()
    inside = pgd(net.logits, x, c.prediction, radius * 0.999)
    beyond = pgd(net.logits, x, c.prediction, radius * 1.01)
    assert (net.logits(inside).argmax(1) == c.prediction).all()
    assert (net.logits(beyond).argmax(1) != c.prediction).all()


def squared_distance(a, b):
    """In exact arithmetic."""
    return sum((Fraction(p) - Fraction(q)) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))


@given(
    st.integers(0, 10**6),
    st.one_of(st.floats(0, 3), st.floats(0, 1e-6)),
    st.sampled_from([None, (0.0, 1.0)]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([1.0, 1e3, 1e-3]),
)
def test_points_lie_in_the_ball_in_exact_arithmetic_and_in_the_bounds(seed, radius, bounds, dtype, scale):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 16), MinMax(), nn.Linear(16, 3)).to(dtype)
    x, y = torch.rand(12, 4, dtype=dtype) * (1.0 if bounds else scale), torch.randint(0, 3, (12,))
    moved = pgd(network, x, y, radius, steps=4, restarts=2, bounds=bounds)
    for a, b in zip(moved, x, strict=True):
        assert squared_distance(a, b) <= Fraction(radius) ** 2
    if bounds:
        assert moved.min() >= 0 and moved.max() <= 1


def test_a_ball_of_one_radius_each_and_of_none():
    x, y = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    radii = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    moved = pgd(nn.Linear(4, 3), x, y, radii, restarts=2)
    assert torch.equal(moved[0], x[0])
    for a, b, radius in zip(moved, x, radii.tolist(), strict=True):
        assert squared_distance(a, b) <= Fraction(radius) ** 2


def test_the_attack_uses_the_ball_to_its_rim():
    """Shrinking for the sake of rounding costs next to nothing."""
    x, y = torch.rand(20, 4), torch.zeros(20, dtype=torch.int64)
    network = nn.Linear(4, 2)
    nn.init.constant_(network.bias, 0.0)
    with torch.no_grad():
        network.bias[0] = 100.0
    moved = pgd(network, x, y, 0.3)
    assert (moved - x).norm(dim=1).min().item() > 0.3 * (1 - 1e-6)


def test_a_gradient_of_nan_is_no_step_and_the_attack_goes_on_without_it():
    x, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)

    def logits(x):
        length = x[:, 0].square().sqrt()  # whose gradient at 0 is NaN
        return torch.stack((0.1 - length, x[:, 1]), dim=1)

    moved = pgd(logits, x, y, 0.3)
    assert moved.isfinite().all() and logits(moved).argmax(dim=1).item() == 1


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_a_ball_takes_a_way_that_is_no_number_for_none(bounds):
    x = torch.tensor([[0.25, 0.5]] * 4)
    ball = Ball(x, 0.3, bounds)
    ways = torch.tensor([[math.nan, 0.1], [math.inf, 0.1], [-math.inf, math.nan], [3e38, 3e38]])
    moved = ball.project(ways)
    assert torch.equal(moved[:3], x[:3] + torch.tensor([[0.0, 0.1], [0.0, 0.1], [0.0, 0.0]]))
    assert (moved - x).norm(dim=1).max().item() <= 0.3  # NaN is not


def test_what_an_attack_cannot_do():
    x, y = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    network = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="outside the bounds"):
        pgd(network, x + 0.5, y, 0.3, bounds=(0.0, 1.0))
    for radius in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            pgd(network, x, y, radius)
    with pytest.raises(ValueError, match=r"one for each of 5 inputs, not \(4,\)"):
        pgd(network, x, y, torch.ones(4))
    for radius in (None, "0.3"):
        with pytest.raises(TypeError, match="radius must be a number, or one for each input, not"):
            pgd(network, x, y, radius)
    with pytest.raises(TypeError, match=r"bounds are the smallest and the largest value of an input, \(0, 1\) say, not 1"):
        pgd(network, x, y, 0.1, bounds=1)
    with pytest.raises(ValueError, match="labels must have shape"):
        pgd(network, x, y[:1], 0.1)
    with pytest.raises(ValueError, match="at least 1, not 0 and 1"):
        pgd(network, x, y, 0.1, steps=0)
    with pytest.raises(ValueError, match=r"whole numbers, at least 1, not 50 and 2\.0"):
        pgd(network, x, y, 0.1, restarts=2.0)
    with pytest.raises(ValueError, match="no inputs to attack"):
        accuracy_under_attack(network, x[:0], y[:0], 0.1)  # whose mean would be NaN
    with pytest.raises(ValueError, match="floating point"):
        pgd(network, (255 * x).byte(), y, 0.1)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            pgd(network, torch.full_like(x, value), y, 0.1)
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, not list"):
        pgd(network, x.tolist(), y, 0.1)
    with pytest.raises(ValueError, match=r"logits must give \(batch, classes\), not \(5,\)"):
        pgd(lambda x: network(x)[:, 0], x, y, 0.1)


def test_bottom_is_no_class_that_an_attack_may_find():
    """The net itself gives bottom as one logit more: rejected inputs would count as broken, though no other class wins there."""
    net = GloroNet(nn.Sequential(nn.Linear(4, 3)), (4,), 10.0)
    x = torch.rand(5, 4)
    y = net.eval().certify(x).prediction
    for attack in (pgd, accuracy_under_attack):
        with pytest.raises(TypeError, match=r"the logit of bottom .* give net\.logits"):
            attack(net, x, y, 0.0)
    assert accuracy_under_attack(net.logits, x, y, 0.0) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_attack_needs_no_gradients_to_be_switched_on(mode):
    network, x, y = nn.Linear(4, 3), torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    expected = pgd(network, x, y, 0.1)
    with mode():
        # Tensors that are made in inference mode cannot be differentiated through, their copies can.
        assert torch.equal(pgd(network, x * 1, y * 1, 0.1), expected)
    with pytest.raises(ValueError, match="the logits have no gradient"):
        pgd(lambda x: network(x).detach(), x, y, 0.1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_another_integer_type_are_attacked_alike(dtype):
    network, x, y = nn.Linear(4, 3), torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    assert torch.equal(pgd(network, x, y.to(dtype), 0.1), pgd(network, x, y, 0.1))


def test_the_margin_is_over_the_best_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 0.0]])
    assert margin(logits, torch.tensor([0, 2, 1])).tolist() == [1.0, -1.0, 0.0]


def test_accuracy_under_attack_falls_with_the_radius_and_bounds_vra():
    torch.manual_seed(1)
    net = GloroNet(nn.Sequential(nn.Linear(2, 16), MinMax(), nn.Linear(16, 3)), (2,), 0.1)
    x = torch.randn(200, 2)
    y = net.certify(x).prediction
    accuracies = [accuracy_under_attack(net.logits, x, y, radius) for radius in (1e-6, 0.1, 0.5)]
    assert accuracies[0] > accuracies[1] > accuracies[2]
    assert (net.certify(x).label == y).float().mean().item() <= accuracies[1]


def test_accuracy_under_attack_is_the_exact_share():
    x = torch.tensor([[1.0], [2.0], [-3.0]])
    share = accuracy_under_attack(lambda x: torch.cat((x, -x), dim=1), x, torch.tensor([0, 0, 0]), 0.1)
    assert share == 2 / 3
