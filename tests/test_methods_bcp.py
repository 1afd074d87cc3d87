"""Box constraint propagation against brute force and the exact radius."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from small_networks import dense, radii_are_below_the_exact_ones, training_raises_what_is_certified

from gloro_lite import GloroNet, MinMax
from gloro_lite.attacks import pgd
from gloro_lite.datasets import points
from gloro_lite.methods import bcp


def test_radius_is_never_above_the_exact_one():
    radii_are_below_the_exact_ones(lambda network, x: bcp.certify(network, (2,), x))


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_it_is_never_below_the_global_lipschitz_bound(seed):
    network = dense(3, 6, 5, 3, seed=seed)
    x = torch.randn(4, 3)
    c, g = bcp.certify(network, (3,), x, steps=30), GloroNet(network, (3,), 1.0).certify(x)
    assert (c.radius >= g.radius * (1 - 1e-5)).all()


@given(st.integers(0, 10**6))
def test_hidden_values_of_the_ball_lie_in_ball_and_box(seed):
    network = dense(3, 6, 5, 3, seed=seed)
    chain = bcp.chain(network, (3,))
    norms = [stage.norm() for stage in chain]
    x, radius = torch.randn(2, 3, dtype=torch.float64), torch.tensor([0.1, 1.5], dtype=torch.float64)
    centre, ball, low, high = bcp.propagate(chain, norms, x, radius, rounding=True)
    directions = torch.nn.functional.normalize(torch.randn(2, 500, 3, dtype=torch.float64), dim=2)
    ends = x[:, None] + radius[:, None, None] * directions * torch.rand(2, 500, 1, dtype=torch.float64)
    hidden = network[:-1].double()(ends)
    assert (hidden >= low[:, None]).all() and (hidden <= high[:, None]).all()
    assert ((hidden - centre[:, None]).norm(dim=2) <= ball[:, None]).all()


@given(st.integers(0, 10**6), st.floats(0.1, 5.0))
@settings(max_examples=15)
def test_support_of_ball_and_box_is_the_maximum(seed, ball):
    torch.manual_seed(seed)
    w = torch.randn(1, 1, 4, dtype=torch.float64)
    low, high = -torch.rand(1, 4, dtype=torch.float64), torch.rand(1, 4, dtype=torch.float64)
    low[0, 0] = 0.0
    found = bcp.support(w, torch.tensor([ball], dtype=torch.float64), low, high, 20).item()
    v = w[0, 0].numpy()
    solved = minimize(
        lambda d: -v @ d,
        [0.0] * 4,
        jac=lambda d: -v,
        method="SLSQP",
        bounds=list(zip(low[0].tolist(), high[0].tolist(), strict=True)),
        constraints={"type": "ineq", "fun": lambda d: ball**2 - d @ d, "jac": lambda d: -2 * d},
        options={"ftol": 1e-12, "maxiter": 300},
    )
    assert found == pytest.approx(-solved.fun, rel=1e-5, abs=1e-7)
    for steps in range(4):  # fewer steps, a larger bound
        assert bcp.support(w, torch.tensor([ball], dtype=torch.float64), low, high, steps).item() >= found - 1e-12


@pytest.mark.parametrize("ball", [1e-30, 1.0, 10.0, 1e20])
def test_a_row_of_zeros_and_balls_of_any_size_have_finite_gradients(ball):
    """The row of the label itself, less itself, is 0: its maximum is 0 and moves nothing, in float32 as in training."""
    torch.manual_seed(0)
    w = torch.randn(2, 3, 5, requires_grad=True)
    found = bcp.support(w - w[:, :1], torch.full((2,), ball), -torch.ones(2, 5), torch.ones(2, 5), 10)
    assert (found[:, 0] == 0).all() and (found[:, 1:] > 0).all()
    found[:, 1:].sum().backward()
    assert w.grad.isfinite().all()


def test_convolutions_are_taken_as_they_are():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 4, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    )
    x = torch.rand(5, 1, 4, 4)
    c = bcp.certify(network, (1, 4, 4), x)
    assert (c.radius > GloroNet(network, (1, 4, 4), 1.0).certify(x).radius).all()
    moved = pgd(network, x, c.prediction, c.radius.float() * 0.999, steps=40, restarts=2)
    assert torch.equal(network(moved).argmax(1), c.prediction)


def test_loss_is_the_cross_entropy_of_the_worst_logits():
    network = dense(3, 6, 4, 3)
    chain = bcp.chain(network, (3,))
    norms = [torch.tensor(stage.norm(), dtype=torch.float64) for stage in chain]
    network.double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    clean = torch.nn.functional.cross_entropy(network(x), y)
    assert bcp.loss(chain, norms, x, y, 1e-9).item() == pytest.approx(clean.item(), rel=1e-6)
    assert bcp.loss(chain, norms, x, y, 0.3, weight=0.0).item() == pytest.approx(clean.item(), rel=1e-9)
    # No point of the ball has a larger loss.
    worst = bcp.loss(chain, norms, x, y, 0.3)
    ends = x + 0.3 * torch.nn.functional.normalize(torch.randn(200, 5, 3, dtype=torch.float64), dim=2)
    losses = [torch.nn.functional.cross_entropy(network(part), y).item() for part in ends]
    assert max(losses) < worst.item()
    worst.backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters())


def test_gradient_of_the_loss_is_right():
    network = dense(3, 6, 4, 3).double()
    chain = bcp.chain(network, (3,))
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])

    def value():
        norms = [torch.linalg.matrix_norm(stage.layer.weight, 2) for stage in chain]
        return bcp.loss(chain, norms, x, y, 0.2)

    value().backward()
    weight, step = network[2].weight, 1e-6
    for row, column in ((0, 0), (1, 3), (3, 5)):
        found = weight.grad[row, column].item()
        with torch.no_grad():
            weight[row, column] += step
            up = value().item()
            weight[row, column] -= 2 * step
            down = value().item()
            weight[row, column] += step
        assert found == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-6)


def test_training_raises_what_is_certified():
    network = dense(2, 16, 16, 2, scale=0.3)
    training_raises_what_is_certified(
        network,
        lambda data: bcp.fit(network, (2,), data, 0.12, epochs=30, learning_rate=0.02),
        lambda x: bcp.certify(network, (2,), x, 0.1),
    )


def test_bad_input_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"layer '1': BCP cannot take MinMax: .*train a ReLU network"):
        bcp.certify(dense(2, 4, 2, activation=MinMax), (2,), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"layer '1' \(Tanh\): BCP takes Linear"):
        bcp.certify(dense(2, 4, 2, activation=torch.nn.Tanh), (2,), torch.zeros(1, 2))
    network = dense(2, 4, 2)
    with pytest.raises(ValueError, match="shape"):
        bcp.certify(network, (2,), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="finite"):
        bcp.certify(network, (2,), torch.full((1, 2), math.nan))
    with pytest.raises(ValueError, match="epsilon"):
        bcp.certify(network, (2,), torch.zeros(1, 2), epsilon=0.0)
    with pytest.raises(ValueError, match="epochs"):
        bcp.fit(network, (2,), points.moons(10), 0.1, epochs=0)
    x, y = points.moons(10)
    with pytest.raises(ValueError, match="train: labels must be classes, from 0 to 1; they go from 1 to 2"):
        bcp.fit(network, (2,), (x, y + 1), 0.1, epochs=1)
    network[0].weight.data[0, 0] = math.inf
    with pytest.raises(ValueError, match="layer '0' holds NaN or infinite"):
        bcp.certify(network, (2,), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="ends in"):
        bcp.chain(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), (2,))
