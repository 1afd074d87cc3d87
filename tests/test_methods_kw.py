"""Kolter and Wong's bound against sampling, the exact radius and, where it is installed, their own package."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import dense, radii_are_below_the_exact_ones, training_raises_what_is_certified

from gloro_lite import MinMax
from gloro_lite.attacks import pgd
from gloro_lite.datasets import points
from gloro_lite.methods import kw


def test_radius_is_never_above_the_exact_one():
    radii_are_below_the_exact_ones(lambda network, x: kw.certify(network, (2,), x, batch_size=2))


def test_a_linear_network_is_certified_exactly():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    x = torch.randn(6, 3)
    c = kw.certify(network, (3,), x, steps=50)
    network.double()
    w = network[1].weight @ network[0].weight
    y = network(x.double())
    exact = (y[:, 0] - y[:, 1]).abs() / (w[0] - w[1]).norm()
    assert (c.radius <= exact).all() and torch.allclose(c.radius, exact, rtol=1e-6)


@given(st.integers(0, 10**6), st.floats(0.05, 1.5))
def test_bounds_hold_on_the_whole_ball(seed, epsilon):
    network = dense(3, 6, 5, 3, seed=seed)
    chain = kw.chain(network, (3,))
    network.double()
    x, radius = torch.randn(2, 3, dtype=torch.float64), torch.full((2,), epsilon, dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(2, 500, 3, dtype=torch.float64), dim=2)
    ends = x[:, None] + epsilon * directions * torch.rand(2, 500, 1, dtype=torch.float64)
    boxes = kw.bounds(chain, kw.matrices(chain, x), x, radius, rounding=True)
    for depth, (low, high) in ((1, boxes[0]), (3, boxes[1])):
        values = network[:depth](ends)
        assert (values >= low[:, None]).all() and (values <= high[:, None]).all()
    labels = torch.tensor([0, 2])
    margins = kw.margins(chain, x, labels, radius, rounding=True)
    logits = network(ends)
    seen = (logits[range(2), :, labels][..., None] - logits).amin(dim=1)
    assert (margins <= seen + 1e-12).all()


def test_a_convolution_is_its_matrix():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 3)
    )
    chain = kw.chain(network, (1, 4, 4))
    x = torch.rand(3, 1, 4, 4)
    (weight, bias), _ = kw.matrices(chain, x.flatten(1))
    assert torch.allclose(x.flatten(1) @ weight.T + bias, network[0](x).flatten(1), atol=1e-6)
    c = kw.certify(network, (1, 4, 4), x)
    moved = pgd(network, x, c.prediction, c.radius.float() * 0.999, steps=40, restarts=2)
    assert (c.radius > 0).all() and torch.equal(network(moved).argmax(1), c.prediction)


def test_rounding_is_counted():
    # A margin of half a unit in the last place of what it is computed from.
    network = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        network[0].bias.fill_(1e16)
        network[2].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        network[2].bias.copy_(torch.tensor([1.0, 0.0]))
    chain = kw.chain(network, (1,))
    x, radius, labels = torch.zeros(1, 1).double(), torch.full((1,), 1e-9).double(), torch.tensor([0])
    assert kw.margins(chain, x, labels, radius)[0, 1] > 0.9
    assert kw.margins(chain, x, labels, radius, rounding=True)[0, 1] < 0


def test_it_agrees_with_the_authors_package():
    package = pytest.importorskip("convex_adversarial")
    network = dense(4, 8, 7, 3)
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    dual = package.DualNetwork(network, x, 0.1, norm_type="l2")
    c = torch.eye(3)[y].unsqueeze(1) - torch.eye(3)
    ours = kw.margins(kw.chain(network, (4,)), x, y, torch.full((5,), 0.1))
    assert torch.allclose(dual(c), ours, atol=1e-5)


def test_training_raises_what_is_certified():
    network = dense(2, 12, 12, 2, scale=0.3)
    training_raises_what_is_certified(
        network,
        lambda data: kw.fit(network, (2,), data, 0.12, epochs=20, learning_rate=0.02),
        lambda x: kw.certify(network, (2,), x, 0.1, steps=4),
    )


def test_bad_input_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"layer '1': Kolter and Wong's bound cannot take MinMax: its relaxation is of ReLU"):
        kw.certify(dense(2, 4, 2, activation=MinMax), (2,), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"'0' has 5000 neurons.*random projections"):
        kw.chain(torch.nn.Sequential(torch.nn.Linear(2, 5000), torch.nn.ReLU(), torch.nn.Linear(5000, 2)), (2,))
    network = dense(2, 4, 2)
    with pytest.raises(ValueError, match="shape"):
        kw.certify(network, (2,), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="epsilon"):
        kw.certify(network, (2,), torch.zeros(1, 2), epsilon=-1.0)
    with pytest.raises(ValueError, match="epochs"):
        kw.fit(network, (2,), points.moons(10), 0.1, epochs=0)
    x, y = points.moons(10)
    with pytest.raises(ValueError, match="train: labels must be classes, from 0 to 1; they go from 1 to 2"):
        kw.fit(network, (2,), (x, y + 1), 0.1, epochs=1)
