"""Randomized smoothing against closed forms: binomial tails, a linear classifier, an interval on a line."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm
from torch import nn

from gloro_lite import GloroNet
from gloro_lite.datasets import points
from gloro_lite.methods import smoothing
from gloro_lite.methods.smoothing import Smoothed, lower_confidence_bound, samples_needed


def linear(x):
    """Class 0 where 3 x_0 + 4 x_1 > 5; the signed distance to the boundary is (3 x_0 + 4 x_1 - 5) / 5."""
    margin = 3 * x[:, 0] + 4 * x[:, 1] - 5
    return torch.stack((margin, torch.zeros_like(margin)), dim=1)


def at_distance(distance, count=1):
    """Points at the signed distance from the boundary of `linear`, spread along it."""
    along = torch.linspace(-2, 2, count, dtype=torch.float64)[:, None] * torch.tensor([[0.8, -0.6]], dtype=torch.float64)
    return along + (1 + torch.as_tensor(distance, dtype=torch.float64).view(-1, 1)) * torch.tensor([[0.6, 0.8]]).double()


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(1e-4, 0.3))
def test_the_confidence_bound_is_where_the_binomial_tail_is_alpha(n, share, alpha):
    k = round(share * n)
    bound = lower_confidence_bound(torch.tensor([k]), n, alpha).item()
    assert 0 <= bound < k / n or k == bound == 0
    # The chance of k or more successes at p: alpha at the bound, more above it.
    assert k == 0 or binom.sf(k - 1, n, bound) == pytest.approx(alpha, rel=1e-5)


def test_the_confidence_bound_has_closed_forms_at_both_ends():
    assert lower_confidence_bound(torch.tensor([0]), 100, 0.001).item() == 0
    assert lower_confidence_bound(torch.tensor([1000]), 1000, 0.001).item() == pytest.approx(0.001 ** (1 / 1000), rel=1e-8)


@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001])
@pytest.mark.parametrize("ratio", [0.0, 0.7, 2.5])
def test_samples_needed_is_the_least_that_suffices(alpha, ratio):
    n = samples_needed(alpha, ratio)
    assert alpha ** (1 / n) > norm.cdf(ratio)
    assert n == 1 or alpha ** (1 / (n - 1)) <= norm.cdf(ratio)


def test_linear_classifier_in_closed_form():
    distances = torch.tensor([0.1, 0.25, 0.5, -0.3, -0.7], dtype=torch.float64)
    x = torch.cat([at_distance(d) for d in distances.tolist()])
    smoothed = Smoothed(linear, 0.5, samples=100_000, batch_size=100_000)
    c = smoothed.certify(x)
    assert c.guarantee == "1 - 0.001"
    assert c.label.tolist() == c.prediction.tolist() == [0, 0, 0, 1, 1]
    # g's exact radius is the distance itself, whatever sigma is; sampling costs a little.
    assert (c.radius <= distances.abs()).all()
    assert (c.radius >= distances.abs() - 0.015).all()
    # p = Phi(distance / sigma), the votes follow it.
    votes = smoothed.counts(x, 100_000, torch.Generator().manual_seed(1))[:, 0].double() / 100_000
    assert torch.allclose(votes, torch.from_numpy(norm.cdf(distances / 0.5)), atol=0.006)


def test_failures_are_as_rare_as_promised():
    # Many certificates at a point whose exact radius is known; with alpha so large that failures are seen.
    alpha, trials, distance = 0.1, 3000, 0.4
    smoothed = Smoothed(linear, 1.0, samples=200, selection=20, alpha=alpha)
    c = smoothed.certify(at_distance(distance, trials))
    wrong = ((c.label == 1) | ((c.label == 0) & (c.radius > distance))).double().mean().item()
    spread = math.sqrt(alpha * (1 - alpha) / trials)
    assert wrong <= alpha + 4 * spread
    # Counts are whole numbers, so the bound is a little safer than it says, but no more than a little.
    assert wrong >= 0.5 * alpha
    # Without the confidence bound, half of the answers would be wrong.
    votes = smoothed.counts(at_distance(distance, trials), 200, torch.Generator().manual_seed(2))[:, 0]
    assert (torch.from_numpy(norm.ppf((votes / 200).clamp(max=1 - 1e-6))) > distance).double().mean() > 0.4


def test_radius_holds_for_a_classifier_that_is_not_linear():
    def interval(x):  # class 1 on [-1, 1]
        return torch.stack((torch.full_like(x[:, 0], 0.5), (x[:, 0].abs() <= 1).to(x)), dim=1)

    def probability(x, sigma):
        return norm.cdf((1 - x) / sigma) - norm.cdf((-1 - x) / sigma)

    sigma = 0.6
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)[:, None]
    c = Smoothed(interval, sigma, samples=5000).certify(x)
    assert (c.label == 0).any() and (c.label == 1).any()
    for point, label, radius in zip(x[:, 0].tolist(), c.label.tolist(), c.radius.tolist(), strict=True):
        for shift in (-radius, 0.0, radius):
            assert label == -1 or (probability(point + shift, sigma) >= 0.5) == bool(label)


def test_it_abstains_on_the_boundary_and_below_epsilon():
    c = Smoothed(linear, 0.5, samples=1000).certify(at_distance(0.0, 20))
    assert (c.label == -1).float().mean() > 0.9 and (c.radius[c.label == -1] == 0).all()
    assert (c.prediction >= 0).all()
    x = torch.cat((at_distance(0.2), at_distance(0.9)))
    c = Smoothed(linear, 0.5, samples=5000).certify(x, epsilon=0.5)
    assert c.label.tolist() == [-1, 0] and 0 < c.radius[0] < 0.5 < c.radius[1]


def test_predict_answers_or_abstains():
    smoothed = Smoothed(linear, 0.5, samples=1000)
    assert smoothed.predict(torch.cat((at_distance(0.5), at_distance(-0.5)))).tolist() == [0, 1]
    assert (smoothed.predict(at_distance(0.0, 50)) == -1).float().mean() > 0.9
    # It errs with probability at most alpha, also where the second class is close.
    loose = Smoothed(linear, 0.5, samples=100, alpha=0.2)
    wrong = (loose.predict(at_distance(0.02, 1000)) == 1).double().mean().item()
    assert wrong <= 0.2 + 4 * math.sqrt(0.2 * 0.8 / 1000)


def test_noise_is_seeded_and_the_global_state_left_alone():
    x = at_distance(0.3, 3).float()
    state = torch.get_rng_state()
    first = Smoothed(linear, 0.5, samples=500, seed=3).certify(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.radius, Smoothed(linear, 0.5, samples=500, batch_size=1000, seed=3).certify(x).radius)
    assert not torch.equal(first.radius, Smoothed(linear, 0.5, samples=500, seed=4).certify(x).radius)
    # The same point three times has other noise each time: failures of different inputs are independent.
    votes = Smoothed(linear, 0.5).counts(x[:1].expand(8, 2), 500, torch.Generator().manual_seed(0))
    assert len(votes[:, 0].unique()) > 1


def test_bad_input_is_refused():
    for sigma in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma"):
            Smoothed(linear, sigma)
    for alpha in (0.0, 1.0, -1.0, 0.7):
        with pytest.raises(ValueError, match="alpha"):
            Smoothed(linear, 0.5, alpha=alpha)
    with pytest.raises(ValueError, match="take at least 10"):
        Smoothed(linear, 0.5, samples=9, alpha=0.001)
    Smoothed(linear, 0.5, samples=10, alpha=0.001)
    with pytest.raises(ValueError, match=r"take at least \d+ samples, or a larger sigma"):
        Smoothed(linear, 0.1, samples=100).certify(at_distance(0.5), epsilon=0.4)
    with pytest.raises(ValueError, match="no number of samples certifies a radius of 50 sigma: take a larger sigma"):
        Smoothed(linear, 0.01, samples=100).certify(at_distance(0.5), epsilon=0.5)
    with pytest.raises(ValueError, match="finite"):
        Smoothed(linear, 0.5).certify(torch.tensor([[math.nan, 0.0]]))
    with pytest.raises(ValueError, match="NaN"):
        Smoothed(lambda x: x * math.nan, 0.5).certify(torch.zeros(1, 2))
    for counts in ({"selection": 0}, {"batch_size": 0}, {"samples": 1000.0}, {"selection": "9"}):
        with pytest.raises(ValueError, match="samples, selection and batch_size must be whole numbers"):
            Smoothed(linear, 0.5, **counts)
    with pytest.raises(TypeError, match="sigma must be a number, not str"):
        smoothing.fit(nn.Linear(2, 2), (torch.zeros(2, 2), torch.zeros(2).long()), "a")


def test_bottom_has_no_vote():
    """The net itself gives bottom as one logit more, which would be certified as a class; and a method is its net's."""
    net = GloroNet(nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)), (2,), 0.1)
    with pytest.raises(TypeError, match=r"the logit of bottom .* give net\.logits"):
        Smoothed(net, 0.5)
    with pytest.raises(TypeError, match=r"the logit of bottom .* give net\.network"):
        smoothing.fit(net, (torch.zeros(2, 2), torch.zeros(2).long()), 0.5)
    x = torch.tensor([[3.0, -1.0]])
    with pytest.raises(ValueError, match=r"'network\.0' is in training mode"):
        Smoothed(net.train().logits, 0.5).certify(x)
    net.eval()
    assert torch.equal(Smoothed(net.logits, 0.5).certify(x).radius, Smoothed(net.network, 0.5).certify(x).radius)


def test_training_with_noise_serves_the_vote():
    x, y = points.moons(200, noise=0.05)
    accuracy = {}
    for sigma in (0.0, 0.5):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
        history = smoothing.fit(network, (x, y), sigma, epochs=30, learning_rate=0.02)
        assert history[-1] < history[0] and not network.training
        noisy = x.repeat(20, 1) + 0.5 * torch.randn(4000, 2)
        accuracy[sigma] = (network(noisy).argmax(dim=1) == y.repeat(20)).float().mean().item()
    assert accuracy[0.5] > accuracy[0.0]
    with pytest.raises(ValueError, match="sigma"):
        smoothing.fit(network, (x, y), -1.0)
    with pytest.raises(ValueError, match="epochs"):
        smoothing.fit(network, (x, y), 0.5, epochs=0)
    with pytest.raises(ValueError, match="labels must be classes, from 0 to 1"):
        smoothing.fit(network, (x, y + 1), 0.5, epochs=1)
    with pytest.raises(ValueError, match="inputs that are NaN"):
        smoothing.fit(network, (x * math.nan, y), 0.5, epochs=1)
