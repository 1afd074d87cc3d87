"""Bounds against the SVD of the unrolled operator."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gloro_lite import GloroNet, MinMax, NetworkError, Normalize, Residual, UnknownLayerError
from gloro_lite.layers import Absolute, GroupSort
from gloro_lite.lipschitz import (
    TrainingBound,
    layer_bound,
    linear_operator,
    lower_bound,
    norms,
    operator_norm,
    power_iteration,
    slopes,
    steepest_pairs,
    upper_bound,
)
from gloro_lite.lipschitz.banded import BandedGram
from gloro_lite.lipschitz.norms import banded_norm, torus_norm, unrolled_norm
from gloro_lite.networks import ACTIVATIONS


def jacobian(module, shape, dtype=torch.float64):
    """The matrix of an affine module, (outputs, inputs), from PyTorch's own derivative."""
    x = torch.zeros(1, *shape, dtype=dtype)
    matrix = torch.autograd.functional.jacobian(lambda x: module(x).flatten(), x)
    return matrix.reshape(matrix.shape[0], -1)


def exact_norm(module, shape):
    return np.linalg.svd(jacobian(module.double(), shape).detach().numpy(), compute_uv=False)[0]


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sides = [draw(st.integers(max(1, span - 2 * p), 11)) for span, p in zip(spans, padding, strict=True)]
    torch.manual_seed(draw(st.integers(0, 10**6)))
    layer = nn.Conv2d(
        groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3)), kernel, stride, padding, dilation, groups
    )
    if draw(st.booleans()):
        nn.init.uniform_(layer.weight)  # a positive kernel, whose norm sits at frequency 0
    return layer, (layer.in_channels, *sides)


@given(convolutions())
def test_convolution_bounds_are_never_below_the_svd(case):
    layer, shape = case
    exact = exact_norm(layer, shape)
    operator = linear_operator(layer, shape)
    unrolled, banded, torus = unrolled_norm(operator), banded_norm(operator), torus_norm(operator)
    assert exact * (1 - 1e-12) <= unrolled <= exact * (1 + 1e-6) + 1e-12
    assert exact * (1 - 1e-12) <= banded <= exact * (1 + 1e-6) + 1e-12
    assert torus >= exact * (1 - 1e-12)
    assert upper_bound(layer, shape) >= exact


def test_torus_bound_is_within_five_percent_at_the_sizes_of_the_paper(record_property):
    torch.manual_seed(1)
    worst = 0.0
    for layer, shape in [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 16, 16)),
        (nn.Conv2d(8, 8, 4, 2, 1), (8, 16, 16)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), (4, 16, 16)),
    ]:
        ratio = torus_norm(linear_operator(layer, shape)) / exact_norm(layer, shape)
        assert ratio >= 1
        worst = max(worst, ratio)
    record_property("worst torus bound / exact norm", worst)
    assert worst < 1.05


def test_torus_bound_stands_where_unrolling_is_too_large(monkeypatch):
    layer = nn.Conv2d(2, 3, 3, padding=1)
    exact = exact_norm(layer, (2, 8, 8))
    monkeypatch.setattr(norms, "UNROLLED_LIMIT", 100)
    assert exact * (1 - 1e-12) < upper_bound(layer, (2, 8, 8)) < (1 + 1e-6) * exact
    monkeypatch.setattr(norms, "BANDED_LIMIT", 100)
    assert (1 + 1e-6) * exact < upper_bound(layer, (2, 8, 8)) < 1.2 * exact


@given(convolutions())
def test_a_banded_factorisation_refuses_what_is_below_the_norm(case):
    layer, shape = case
    exact = exact_norm(layer, shape)
    gram = BandedGram(linear_operator(layer, shape))
    # Far finer than rounding would allow for a matrix of this size to be accepted by chance.
    assert exact == 0 or not gram.is_below(exact**2 * (1 - 1e-11))
    assert exact == 0 or gram.is_below(exact**2 * (1 + 1e-11))
    assert not gram.is_below(math.nan)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 4, 5, 2, 3, 2, 2), (2, 40)),
        (nn.Conv2d(2, 2, 3, padding=1), (2, 4, 30)),  # banded along the width
        (nn.Conv2d(2, 2, (1, 4), (1, 2), (0, 1)), (2, 3, 30)),
        (nn.Conv2d(2, 3, 4, padding="same", dilation=2), (2, 9, 12)),  # padded by one more after than before
        (nn.Conv2d(2, 2, 2, dilation=(1, 3)), (2, 5, 12)),  # along the width, where its taps lie farther apart
        (nn.Conv2d(2, 3, 1, 3), (2, 9, 9)),  # rows that meet no other, and rows that nothing reads
        (nn.Conv1d(100, 1, 1, padding=1), (100, 4)),  # rows that read nothing
        (nn.Conv1d(4, 1, 3), (4, 20)),  # fewer outputs than inputs
        (nn.Conv1d(1, 4, 3, padding=3), (1, 20)),  # and fewer inputs than outputs
        (nn.Conv2d(1, 40, 3, 2, 1), (1, 8, 8)),  # by its inputs, of which an output skips some
    ],
)
def test_banded_bounds_are_exact_in_either_direction_and_along_a_single_axis(layer, shape):
    exact = exact_norm(layer, shape)
    operator = linear_operator(layer, shape)
    assert exact * (1 - 1e-12) <= banded_norm(operator) <= exact * (1 + 1e-6)
    gram = BandedGram(operator)
    assert gram.size == min(math.prod(operator.input_shape), math.prod(operator.output_shape))
    # The factor of the whole matrix is nowhere wider than the band.
    blocks = [[gram.entry(k, j) if abs(k - j) <= gram.reach else None for j in range(gram.count)] for k in range(gram.count)]
    side = len(blocks[0][0])
    whole = torch.cat([torch.cat([torch.zeros(side, side).double() if b is None else b for b in row], 1) for row in blocks])
    assert torch.linalg.eigvalsh(whole)[-1].item() == pytest.approx(exact**2)
    factor = torch.linalg.cholesky(1.1 * exact**2 * torch.eye(len(whole), dtype=torch.float64) - whole)
    widest = max((row - min(torch.nonzero(line).flatten().tolist())) + 1 for row, line in enumerate(factor))
    assert widest <= gram.band <= (gram.reach + 1) * side


def test_the_banded_bound_counts_its_rounding(monkeypatch):
    """What the factorisation proves is t - rho, and t itself would be too little where the largest eigenvalue lies between."""
    layer = nn.Conv2d(2, 3, 3, padding=1).double()
    operator = linear_operator(layer, (2, 8, 8))
    exact = exact_norm(layer, (2, 8, 8))
    gram = BandedGram(operator)
    proven = norms._proven_eigenvalue(exact**2, gram.is_below, gram.size, gram.band, gram.squares(), 0.0)
    rounding = norms.DOUBLE.gamma(4 * (gram.band + 2)) * gram.size
    assert proven >= exact**2 * (1 + 1e-10) * (1 + rounding)
    assert norms._proven_eigenvalue(exact**2, gram.is_below, gram.size, gram.band, gram.squares(), 0.5) >= proven + 0.5
    # Nothing that the iteration says is believed.
    for factor in (0.0, 0.5, 1 - 1e-6):
        monkeypatch.setattr(norms, "_lanczos", lambda times, size, factor=factor: factor * exact**2)
        assert banded_norm(operator) >= exact * (1 - 1e-12)


@pytest.mark.parametrize("scale", [1e-170, 1e-300, 1e153])
def test_banded_bounds_of_extreme_weights(scale):
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    exact = exact_norm(layer, (2, 6, 6))
    layer.weight.data.mul_(scale)
    assert exact * (1 - 1e-12) <= banded_norm(linear_operator(layer, (2, 6, 6))) / scale <= exact * (1 + 1e-6)
    nn.init.zeros_(layer.weight)
    assert banded_norm(linear_operator(layer, (2, 6, 6))) < 1e-100


def test_the_cheaper_proof_is_taken_and_one_that_costs_too_much_is_left():
    """Of the paper's largest network some layers are too large to be factorised in a minute."""

    def proof(layer, shape):
        proofs = norms._proofs(linear_operator(layer, shape))
        return min(proofs, key=proofs.get)

    assert proof(nn.Conv2d(2, 3, 3), (2, 8, 8)) is unrolled_norm
    layers = [
        (nn.Conv2d(32, 32, 3, padding=1), 32),
        (nn.Conv2d(32, 32, 4, 2, 1), 32),
        (nn.Conv2d(64, 64, 4, 2, 1), 64),
    ]
    for layer, side in layers:
        assert proof(layer, (layer.in_channels, side, side)) is banded_norm
    assert proof(nn.Conv2d(64, 64, 3, padding=1), (64, 64, 64)) is torus_norm
    assert proof(nn.Conv1d(2, 2, 3), (2, 20_000)) is banded_norm
    with pytest.raises(NetworkError, match="too large to prove"):  # its Gram matrix has a band of 6, and a million rows
        upper_bound(nn.Conv1d(2, 2, 3), (2, 500_000))
    with pytest.raises(NetworkError, match="too large to prove"):
        upper_bound(nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"), (64, 64, 64))


def test_an_iteration_proposes_for_large_operators_and_the_bound_stays_tight(monkeypatch):
    torch.manual_seed(3)
    layer = nn.Conv2d(2, 3, 3, padding=1)
    operator = linear_operator(layer, (2, 9, 9))
    exact = exact_norm(layer, (2, 9, 9))
    monkeypatch.setattr(norms, "_SOLVED", 10)
    assert exact * (1 - 1e-12) <= unrolled_norm(operator) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 0.999, 1 - 1e-6])
def test_a_proposal_that_is_too_low_is_not_believed(monkeypatch, factor):
    layer = nn.Conv2d(2, 3, 3, padding=1)
    exact = exact_norm(layer, (2, 6, 6))
    propose = norms._proposed_eigenvalue
    monkeypatch.setattr(norms, "_proposed_eigenvalue", lambda gram: factor * propose(gram))
    assert unrolled_norm(linear_operator(layer, (2, 6, 6))) >= exact * (1 - 1e-12)


@pytest.mark.parametrize("bound", [unrolled_norm, banded_norm, torus_norm])
def test_one_percent_less_is_no_bound(bound):
    """A 1 x 1 convolution has torus bound and norm equal: a bound scaled by 0.99 falls below the SVD."""
    layer = nn.Conv2d(4, 5, 1).double()
    exact = exact_norm(layer, (4, 6, 6))
    value = bound(linear_operator(layer, (4, 6, 6)))
    assert value >= exact * (1 - 1e-13)
    assert 0.99 * value < exact


@pytest.mark.parametrize(
    ("module", "shape", "exact"),
    [
        (nn.AvgPool2d(2), (3, 8, 8), 0.5),
        (nn.AdaptiveAvgPool2d(1), (2, 4, 4), 0.25),
        (nn.MaxPool2d(2), (3, 8, 8), 1.0),
        (Normalize([0.5, 0.5], [0.25, 0.5]), (2, 3, 3), 4.0),
        (Residual(nn.Identity()), (4,), 2.0),
        (Residual(nn.ReLU()), (4,), 2.0),
        (nn.Dropout(0.5).eval(), (4,), 1.0),
        (nn.Sequential(), (4,), 1.0),
        (Absolute(), (4,), 1.0),
        (GroupSort(4), (8, 2, 2), 1.0),
    ],
)
def test_closed_forms_are_tight(module, shape, exact):
    value = upper_bound(module, shape)
    assert exact <= value <= exact * (1 + 1e-5)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 1),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(2, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, ceil_mode=True),
    ],
)
def test_average_pooling_is_never_below_the_svd(pool):
    exact = exact_norm(pool, (1, 7, 8))
    assert exact <= upper_bound(pool, (1, 7, 8)) <= 1.5 * exact


@pytest.mark.parametrize(("kernel", "stride", "constant"), [(2, 1, 2.0), (3, 2, 2.0), (3, 1, 3.0), (2, 2, 1.0), (2, 3, 1.0)])
def test_max_pooling_counts_overlap(kernel, stride, constant):
    """One pixel raised in a flat image moves every window that holds it: that many outputs, and the bound is tight."""
    pool = nn.MaxPool2d(kernel, stride)
    assert upper_bound(pool, (1, 9, 9)) == pytest.approx(constant)
    x = torch.zeros(81, 1, 9, 9)
    x.view(81, 81)[range(81), range(81)] = 1.0
    moved = pool(x).flatten(1).norm(dim=1).max().item()
    assert moved == pytest.approx(constant)


def test_batch_norm_in_eval_mode_is_its_diagonal():
    layer = nn.BatchNorm2d(3).eval()
    layer.running_var.copy_(torch.tensor([0.01, 1.0, 4.0]))
    nn.init.normal_(layer.weight)
    exact = exact_norm(layer, (3, 2, 2))
    layer.float()
    assert exact <= upper_bound(layer, (3, 2, 2)) * (1 + 1e-9)
    assert upper_bound(layer, (3, 2, 2)) == pytest.approx(exact, rel=1e-5)
    assert linear_operator(layer.double(), (3, 2, 2)).matrix().numpy() == pytest.approx(
        jacobian(layer, (3, 2, 2)).detach().numpy()
    )


def test_linear_residual_takes_the_norm_of_the_merged_operator():
    """x - x is 0: the merged operator sees it, the sum 1 + 1 does not."""
    branch = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        branch.weight.copy_(-0.9 * torch.eye(4))
    assert upper_bound(Residual(branch), (4,)) == pytest.approx(0.1, rel=1e-5)
    block = Residual(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)), nn.Conv2d(2, 2, 1))
    exact = exact_norm(block, (2, 5, 5))
    assert exact * (1 - 1e-12) <= upper_bound(block, (2, 5, 5)) <= exact * (1 + 1e-6)


def test_a_layer_that_is_used_twice_counts_twice():
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(3))
    assert upper_bound(nn.Sequential(layer, nn.ReLU(), layer), (3,)) == pytest.approx(4.0)
    assert TrainingBound(nn.Sequential(layer, nn.ReLU(), layer), (3,))(1).item() == pytest.approx(4.0)
    net = GloroNet(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(3, 2)), (3,), 0.1)
    rows = net.head.weight.detach()
    assert net.margin_constants()[0, 1].item() == pytest.approx(4 * (rows[0] - rows[1]).norm().item(), rel=1e-5)


@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_composed_bound_holds_for_pairs_of_points(seed, dtype):
    torch.manual_seed(seed)
    network = nn.Sequential(
        Normalize([0.5], [0.3]),
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), MinMax(), nn.MaxPool2d(2)),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.ReLU())),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).to(dtype)
    bound = upper_bound(network, (1, 8, 8))
    x = torch.rand(64, 1, 8, 8, dtype=dtype)
    y = x + 0.1 * torch.randn_like(x)
    change = (network(x) - network(y)).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert change.max().item() <= bound


def test_lower_bound_reaches_the_norm_of_a_linear_map_and_never_passes_the_upper_bound():
    layer = nn.Linear(5, 1).double()
    found = lower_bound(lambda x: layer(x)[:, 0], torch.randn(3, 5, dtype=torch.float64), steps=2)
    assert found.tolist() == pytest.approx([layer.weight.norm().item()] * 3)
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    starts = torch.randn(8, 2, dtype=torch.float64)
    local = lower_bound(lambda x: network(x)[:, 0], starts, steps=0)
    searched = lower_bound(lambda x: network(x)[:, 0], starts, steps=40)
    assert (searched >= local).all() and searched.max() > local.max()
    assert searched.max().item() <= upper_bound(network, (2,))


@pytest.mark.parametrize("steps", [0, 20])
def test_a_lower_bound_is_a_slope_and_no_gradient_at_a_kink(steps):
    def zero(x):
        return (5 * x.clamp_min(0) - 5 * x.relu())[:, 0]  # whose gradient at 0 is 5 by automatic differentiation

    assert lower_bound(zero, torch.zeros(1, 1, dtype=torch.float64), steps=steps).tolist() == [0.0]


@pytest.mark.parametrize("steps", [0, 20])
def test_a_lower_bound_is_in_float64_where_rounding_cannot_raise_it(steps):
    def far(x):
        return x[:, 0] + 1000

    found = lower_bound(far, torch.zeros(1, 2, dtype=torch.float64), steps=steps, reach=0.01)
    assert found.item() == pytest.approx(1, rel=1e-7)
    with pytest.raises(TypeError, match=r"x is torch\.float32.*give x and the function in float64"):
        lower_bound(far, torch.zeros(1, 2), steps=steps, reach=0.01)  # 1.05, it would say


@pytest.mark.parametrize("activation", ["minmax", "relu", "abs", "groupsort4"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_steepest_pairs_come_near_the_steepest_of_all_pieces(seed, activation):
    """In the plane a grid sees the pieces: the longest gradient on it. A search may end on a piece that is less steep."""
    torch.manual_seed(seed)
    layers = [nn.Linear(2, 8), ACTIVATIONS[activation](), nn.Linear(8, 8), ACTIVATIONS[activation](), nn.Linear(8, 1)]
    network = nn.Sequential(*layers).double()

    def function(x):
        return network(x)[:, 0]

    axis = torch.linspace(-8, 8, 81, dtype=torch.float64)
    lattice = torch.cartesian_prod(axis, axis).requires_grad_()
    (gradient,) = torch.autograd.grad(function(lattice).sum(), lattice)
    longest = gradient.norm(dim=1).max().item()
    starts = torch.randn(100, 2, 2, dtype=torch.float64) * 3
    found = steepest_pairs(function, starts[:, 0], starts[:, 1], steps=60, closest=0.01)
    assert torch.allclose(slopes(function, found.a, found.b), found.slope, rtol=1e-10)
    assert found.slope.max().item() <= upper_bound(network, (2,))
    assert found.slope.max().item() >= 0.6 * longest
    # Each is at least as steep as the pair that it began with.
    assert (found.slope >= slopes(function, starts[:, 0], starts[:, 1]) * (1 - 1e-12)).all()


def test_a_function_of_more_than_one_number_has_no_slope():
    """As many numbers as pairs would be divided by the distances of other pairs, and come out too steep."""
    a, b = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0], [0.01, 0.0]], dtype=torch.float64)
    # Column 1 of the first pair would be divided by the length of the second: a slope of 100 of a map of norm 1.
    for function in (lambda x: x.flip(1), lambda x: x[:, :1], lambda x: x.sum()):
        for search in (lambda f: slopes(f, a, b), lambda f: steepest_pairs(f, a, b), lambda f: lower_bound(f, b, steps=0)):
            with pytest.raises(ValueError, match=r"one number for each input, \(2,\), a margin say; it gives \("):
                search(function)


def test_searches_that_cannot_be_made():
    x = torch.zeros(1, 2, dtype=torch.float64)
    for wrong in ({"steps": 1.5}, {"steps": -1}, {"reach": -1.0}, {"reach": math.nan}, {"radius": -0.1, "steps": 0}):
        with pytest.raises(ValueError, match="must be"):
            lower_bound(lambda x: x[:, 0], x, **wrong)
    with pytest.raises(TypeError, match=r"inputs must be a torch\.Tensor, not ndarray"):
        lower_bound(lambda x: x[:, 0], x.numpy())
    operator = linear_operator(nn.Linear(2, 3), (2,))
    with pytest.raises(ValueError, match=r"start must have shape \(1, 2\), not \(1, 3\)"):
        power_iteration(operator, start=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"at least 1, not 1\.5"):
        power_iteration(operator, 1.5)


def test_steepest_pairs_stay_within_their_radius_and_see_over_a_kink():
    def ramp(x):
        return (x[:, 0] - 1).clamp_min(0) * 2 + x[:, 1]  # steeper beyond x = 1: sqrt(5) against 1

    start = torch.zeros(1, 2, dtype=torch.float64)
    assert lower_bound(ramp, start, steps=50, radius=0.9).item() == pytest.approx(1)
    end = torch.tensor([[1.2, 0.8]], dtype=torch.float64)  # beyond the kink, where a gradient at the start does not see
    pairs = steepest_pairs(ramp, end, -end, steps=50, radius=1.5)
    assert 2 < pairs.slope.item() <= 5**0.5 * (1 + 1e-12)
    assert torch.stack(pairs[:2]).norm(dim=2).max() <= 1.5
    assert slopes(ramp, start, start).item() == 0
    for wrong in ({"steps": -1}, {"closest": 0.0}, {"radius": math.inf}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            steepest_pairs(ramp, start + 1, start, **wrong)


def test_power_iteration_rises_to_the_norm_from_below():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    operator = linear_operator(layer, (2, 6, 6))
    exact = exact_norm(layer, (2, 6, 6))
    estimates = [power_iteration(operator, n)[0] for n in (1, 5, 25, 2000)]
    assert estimates == sorted(estimates)
    assert estimates[-1] <= exact * (1 + 1e-12)
    assert estimates[-1] == pytest.approx(exact, rel=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        power_iteration(operator, 0)


def test_training_bound_has_the_gradient_of_the_norm_and_persists():
    body = nn.Sequential(nn.Linear(6, 4), MinMax(), nn.Linear(4, 3))
    bound = TrainingBound(body, (6,))
    for _ in range(300):
        estimate = bound(1)  # one step a call: only iterates that persist get there
    exact = math.prod(torch.linalg.matrix_norm(layer.weight, 2) for layer in (body[0], body[2]))
    assert estimate.item() == pytest.approx(exact.item(), rel=1e-4)
    estimate.backward()
    found = body[0].weight.grad.clone()
    body.zero_grad()
    exact.backward()
    assert torch.allclose(found, body[0].weight.grad, atol=1e-3)


def test_training_bound_follows_moving_weights_and_converges():
    layer = nn.Linear(8, 8)
    bound = TrainingBound(layer, (8,))
    nn.init.normal_(layer.weight)
    assert bound.converge(1e-6) == pytest.approx(torch.linalg.matrix_norm(layer.weight, 2).item(), rel=1e-3)


class Mystery(nn.Module):
    def forward(self, x):
        return 3 * x


def test_unknown_layer_is_an_error_with_name_type_and_what_to_do():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Residual(Mystery())))
    with pytest.raises(UnknownLayerError, match=r"'1\.1\.branch'.*Mystery.*layer_bound\.register"):
        upper_bound(network, (2,))


@pytest.mark.parametrize("parent", [nn.ReLU, nn.Identity, nn.Sequential, nn.MaxPool2d])
def test_a_known_layer_with_a_forward_of_its_own_is_unknown(parent):
    class Tripling(parent):
        def forward(self, x):
            return 3 * x

    layer = Tripling(2) if parent is nn.MaxPool2d else Tripling()
    with pytest.raises(UnknownLayerError, match=rf"'1'.*Tripling inherits from {parent.__name__}"):
        upper_bound(nn.Sequential(nn.Identity(), layer), (1, 4, 4))


@pytest.mark.parametrize("mode", ["circular", "replicate"])
@pytest.mark.parametrize("small", [1e-20, 1e-8])
def test_taps_that_meet_one_pixel_may_cancel(mode, small):
    layer = nn.Conv1d(1, 1, 3, padding=1, padding_mode=mode, bias=False)
    layer.weight.data = torch.tensor([[[1.0, small, -1.0]]])
    exact = sum(map(Fraction, layer.weight.flatten().tolist()))
    assert Fraction(upper_bound(layer, (1, 1))) >= exact


@pytest.mark.parametrize(
    ("weight", "count", "dtype"), [(1.2e-38, 5, torch.float32), (1e-50, 4, torch.float64), (1e-45, 4, torch.float64)]
)
def test_the_product_of_small_weights_in_a_sum_does_not_vanish(weight, count, dtype):
    chain = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(count))).to(dtype)
    for layer in chain:
        layer.weight.data.fill_(weight)
    exact = 2 * Fraction(chain[0].weight.item()) ** count
    bound = Fraction(upper_bound(Residual(chain, copy.deepcopy(chain)), (1,)))
    assert exact <= bound <= exact * (1 + Fraction(1, 10**9))


def test_registered_layer_is_bounded():
    class Tripled(Mystery):
        pass

    layer_bound.register(Tripled, lambda layer, shape: 3.0)
    assert upper_bound(nn.Sequential(nn.Flatten(), Tripled()).eval(), (2,)) == pytest.approx(3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_an_error(value):
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"0\.weight holds NaN or infinite"):
        upper_bound(nn.Sequential(layer), (2,))


def test_other_bad_inputs():
    with pytest.raises(ValueError, match="training mode"):
        upper_bound(nn.Sequential(nn.BatchNorm2d(2)), (2, 3, 3))
    with pytest.raises(ValueError, match=r"layer '0' \(Linear\) on an input of shape \(3,\)"):
        upper_bound(nn.Sequential(nn.Linear(2, 2)), (3,))


def test_zero_weights_have_bound_zero_or_near():
    layer = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(layer.weight)
    assert upper_bound(layer, (1, 5, 5)) <= 1e-9
    assert operator_norm(linear_operator(layer, (1, 5, 5))) >= 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        nn.LeakyReLU(-1.7),
        nn.PReLU(init=1.3),
        nn.PReLU(init=0.25),
        nn.ELU(),
        nn.ELU(0.5),
        nn.ELU(2.5),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Softplus(),
        nn.Softplus(beta=3, threshold=30),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
    ],
    ids=str,
)
def test_activations_have_their_true_constants(layer):
    """The steepest slope of a dense grid, from secants, is not above the bound and nearly reaches it."""
    x = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    y = layer.double()(x[:, None]).squeeze(1).detach()
    steepest = ((y[1:] - y[:-1]) / (x[1:] - x[:-1])).abs().max().item()
    bound = upper_bound(layer, (1,))
    assert steepest <= bound * (1 + 1e-9) and bound <= steepest * (1 + 2e-4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 9)),
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), (2, 7)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 6)),
        (nn.Conv2d(2, 3, (3, 2), padding="same"), (2, 5, 6)),
        (nn.Conv2d(1, 2, 3, padding=2, padding_mode="reflect"), (1, 5, 5)),
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="replicate"), (1, 5, 5)),
        (nn.ConvTranspose1d(2, 3, 3, stride=2), (2, 5)),
        (nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1, groups=2), (4, 4, 3)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1, dilation=2), (2, 4, 4)),
        (nn.Linear(4, 3), (5, 4)),
        (nn.AvgPool2d(3, 2), (2, 9, 9)),
        (nn.AvgPool2d(3, 2, 1, divisor_override=-4), (2, 7, 7)),
        (nn.AdaptiveAvgPool2d(3), (2, 7, 8)),
    ],
    ids=str,
)
def test_linear_layers_have_the_norm_of_their_svd(layer, shape):
    """Average pooling of 3 x 3 with stride 2 at side 9: 0.513, where row and column sums say 0.667."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    exact = exact_norm(layer, shape)
    assert exact * (1 - 1e-12) <= upper_bound(layer, shape) <= exact * (1 + 1e-8)
    estimate = TrainingBound(layer, shape)
    assert estimate.converge(1e-8) <= exact * (1 + 1e-6) or not list(layer.parameters())


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, s) for s in (1e12, 1e30, 1e-30)] + [(torch.float64, s) for s in (1e153, 1e-170, 1e-300)],
)
def test_the_training_bound_of_extreme_weights_is_neither_0_nor_infinite(dtype, scale):
    """Squares of such weights overflow, or underflow; the weights of two layers that undo each other do not."""
    torch.manual_seed(0)
    body, head = nn.Linear(6, 8, bias=False).to(dtype), nn.Linear(8, 3).to(dtype)
    exact = exact_norm(body, (6,))
    body.to(dtype)
    with torch.no_grad():
        body.weight.mul_(scale)
        head.weight.div_(scale)
    for tight in (True, False):
        net = GloroNet(nn.Sequential(body, nn.ReLU(), head), (6,), 0.1, tight=tight).eval()
        assert net.converge() == pytest.approx(exact * scale, rel=1e-4)
        assert net.estimate().max().item() == pytest.approx(net.margin_constants().max().item(), rel=1e-4)
        for gradient in torch.autograd.grad(net.estimate().sum(), [body.weight, head.weight]):
            assert not gradient.isnan().any()
    assert power_iteration(linear_operator(body, (6,)))[0] == pytest.approx(exact * scale, rel=1e-4)
