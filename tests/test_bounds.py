"""Every term of a bound is needed: formats of few bits and arithmetic that always errs upwards leave the bounds little room."""

import math
from fractions import Fraction as Q

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gloro_lite import GloroNet, MinMax, NetworkError, Normalize, Residual
from gloro_lite import net as net_module
from gloro_lite.certificate import certificate, certified_radius, check_epsilon
from gloro_lite.layers import GroupSort
from gloro_lite.lipschitz import Program, TrainingBound, layer_bound, linear_operator, norms, operator_norm, program, upper_bound
from gloro_lite.lipschitz.banded import BandedGram
from gloro_lite.lipschitz.nodes import lengths
from gloro_lite.lipschitz.norms import absolute_norm, banded_norm, row_distances, torus_norm, unrolled_norm
from gloro_lite.lipschitz.rounding import DOUBLE, Format, Upper, length_up, number_format, power_of_two, raised
from gloro_lite.lipschitz.walk import walk

UNIT = 2.0**-10
COARSE = Format(UNIT, 2.0**-60, 2.0**60)


# ---- numbers that are rounded up -------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_a_radius_counts_the_error_and_its_growth(seed):
    torch.manual_seed(seed)
    logits, constants = torch.randn(4, 3), 1 + torch.rand(3, 3)  # float32: what follows is not
    error, growth = torch.rand(4, 3, dtype=torch.float64) / 4, torch.rand(4, 3, dtype=torch.float64)
    radius = certified_radius(logits, constants, error, growth)
    for y, e, g, r in zip(logits.tolist(), error.tolist(), growth.tolist(), radius.tolist(), strict=True):
        j = y.index(max(y))
        exact = min((Q(y[j]) - Q(y[i]) - Q(e[i])) / (Q(constants[j, i].item()) + Q(g[i])) for i in range(3) if i != j)
        assert max(exact, 0) * (1 - Q(2) ** -44) <= Q(r) <= max(exact, 0)


@pytest.mark.parametrize(
    ("a", "b", "c", "g", "e"),
    [
        (1.2499999999999742, -1.1403783070047468e-16, 1.249999999999974, 1.1087386036629722e-16, 0.0),
        (1.250125990142011, -3.375148514850313e-16, 1.2499243228580912, 1.0772501968874067e-16, 0.0),
        (1.2499999999999956, -3.6268429844736685e-16, 1.2499999999999953, 3.9891229126814226e-16, 1.2499999999999858),
        (1.2499999999999998, -1.134629637246422e-16, 1.2500000000000044, 1.1023592132557904e-16, 1.0931736649156393e-16),
        (1.25, 0.0, 1.0, 1e-9, 0.0),  # the sum of float32 constants and this growth is no float32
    ],
)
def test_a_radius_is_rounded_down_where_every_operation_rounds_up(a, b, c, g, e):
    logits, constants = torch.tensor([[a, b]], dtype=torch.float64), torch.full((2, 2), c, dtype=torch.float64)
    if c == 1:
        constants = constants.float()
    assert 0 < Q(certified_radius(logits, constants, e, g).item()) <= (Q(a) - Q(b) - Q(e)) / (Q(c) + Q(g))


def test_a_margin_that_overflows_certifies_nothing():
    logits = torch.tensor([[1e308, -1e308], [1.0, 0.0]], dtype=torch.float64)
    for constant in (1.0, math.inf):
        assert certified_radius(logits, torch.full((2, 2), constant))[0] == 0
    assert certified_radius(logits, torch.full((2, 2), math.nan)).tolist() == [0, 0]
    net = GloroNet(nn.Sequential(nn.Linear(1, 2, bias=False).double()), (1,), 0.1).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    assert net.certify(torch.tensor([[1e308]], dtype=torch.float64)).radius.item() <= 1e308


def test_epsilon_is_one_finite_positive_number():
    assert check_epsilon(torch.tensor([0.5])) == 0.5 and type(check_epsilon(1)) is float
    for wrong in (torch.ones(2), torch.ones(0), "far", None):
        message = "must be one number, not a tensor" if isinstance(wrong, torch.Tensor) else "must be a number, not"
        with pytest.raises(TypeError, match=message):
            check_epsilon(wrong)
    with pytest.raises(ValueError, match="greater than 0"):
        certificate(torch.tensor([1]), torch.tensor([1.0]), -1.0)


def test_a_radius_of_epsilon_is_not_enough():
    c = certificate(torch.tensor([1, 2]), torch.tensor([0.5, 0.6]), 0.5)
    assert c.label.tolist() == [-1, 2] and c.prediction.tolist() == [1, 2]


def test_upper_bounds_keep_what_is_exact_and_their_type():
    assert [Upper(0.0) * 7, 7 * Upper(0.0), Upper(7.0) * 0] == [0, 0, 0]
    assert [Upper(1.0) * 0.1, Upper(0.1) * 1, Upper(0.1) + 0, 0 + Upper(0.1), Upper(0.0) + 0.1] == [0.1] * 5
    assert all(type(number) is Upper for number in (Upper(0.0) * 7, Upper(1.0) * 0.1, raised(0.0), Upper(0.1) + 0))
    assert all(type(number) is Upper for number in (Upper(3.0) * 3, 3 * Upper(3.0), Upper(0.1) + 1, 1 + Upper(0.1), raised(3.0)))
    assert isinstance(Upper(3.0) * torch.ones(2), torch.Tensor) and isinstance(Upper(3.0) + torch.ones(2), torch.Tensor)
    for a, b in ((0.1, 0.3), (3.0, 1 / 3), (1e16, 1.0), (1e-200, 1e-200)):
        assert Q(a) * Q(b) <= Q(Upper(a) * b) <= Q(max(math.nextafter(a * b, math.inf), DOUBLE.tiny))
        assert Q(a) + Q(b) <= Q(Upper(a) + b) <= Q(math.nextafter(a + b, math.inf))


def test_a_raised_number_is_above_what_it_may_have_been():
    for seed, parts in enumerate((1, 2, 3, 7, 16, 64, 99, 200) * 8):
        value = torch.rand((), dtype=torch.float64).item() * 10.0 ** (9 * (seed % 60) - 300)
        exact = Q(value) * (1 + Q(parts) * Q(2) ** -53)
        assert exact <= Q(raised(value, parts)) <= exact * (1 + Q(2) ** -50)
        assert raised(value) == raised(value, 16)
    assert raised(0.0) == 0


@pytest.mark.parametrize("number", [DOUBLE, number_format(torch.float32), COARSE])
def test_gamma_is_rounded_up_and_ends_where_the_model_does(number):
    for terms in (1, 2, 7, 100):
        exact = terms * Q(number.unit) / (1 - terms * Q(number.unit))
        assert exact < Q(number.gamma(terms)) <= exact * (1 + Q(2) ** -48)
    assert number.gamma(round(0.5 / number.unit)) == math.inf > number.gamma(round(0.25 / number.unit))


@pytest.mark.parametrize("number", [DOUBLE, number_format(torch.float32), COARSE])
def test_the_errors_of_a_sum_are_rounded_up(number):
    unit = Q(number.unit)
    for terms in (1, 2, 7, 100):
        of_terms, of_sum = map(Q, number.sum_errors(terms))
        first = unit * (1 + Q(terms) / 2)
        assert first < of_terms <= first * (1 + 3 * (terms + 3) * unit) * (1 + Q(2) ** -46)
        assert terms * unit / 2 < of_sum <= terms * unit / 2 * (1 + Q(2) ** -46)


def test_formats_are_ieee_s():
    assert number_format(torch.float32) == Format(2.0**-24, 2.0**-126, (2 - 2.0**-23) * 2.0**127)


@pytest.mark.parametrize("value", [5e-324, 1e-320, 1e-100, 0.3, 1.0, 3.0, 1e100, 1e300, 1.7e308])
def test_scales_are_powers_of_two_near_the_number_whose_inverses_exist(value):
    power = power_of_two(value)
    assert math.frexp(power)[0] == 0.5 and math.isfinite(1 / power) and 1 / power > 0
    assert 2.0**-80 <= value / power <= 2.0**80 and (not 1e-300 < value < 1e300 or 0.5 <= value / power < 1)
    assert [power_of_two(other) for other in (0.0, math.inf, math.nan)] == [1.0] * 3


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-200, 1.0, 3e153, 1e307])
def test_lengths_are_tight_at_every_scale(scale):
    torch.manual_seed(0)
    rows = torch.randn(3, 5, dtype=torch.float64).clamp(-2, 2) * scale
    rows[2] = 0
    rows[1] = torch.tensor([0.0, 0.0, -scale, 0.0, 0.0], dtype=torch.float64)
    for row, length in zip(rows.tolist(), length_up(rows).tolist(), strict=True):
        square = sum(Q(v) ** 2 for v in row)
        assert square <= Q(length) ** 2 <= square * (1 + Q(2) ** -40) + Q(2) ** -2144
    assert length_up(rows)[2] == 0


def test_lengths_of_what_is_empty_infinite_or_no_number():
    assert length_up(torch.zeros(2, 0, dtype=torch.float64)).tolist() == [0, 0]
    found = length_up(torch.tensor([[math.inf, 1.0], [math.nan, 1.0], [3.0, 4.0]], dtype=torch.float64))
    assert found[0] == math.inf and found[1].isnan() and found[2].item() == pytest.approx(5)


def test_row_distances_are_tight_and_symmetric():
    rows = torch.randn(4, 6, dtype=torch.float64)
    found, exact = row_distances(rows), torch.cdist(rows, rows)
    assert torch.allclose(found, exact, rtol=1e-13) and (found >= exact * (1 - 1e-15)).all()


@pytest.mark.parametrize("features", [1, 2, 3])
def test_row_distances_of_few_features_are_not_below_the_exact_ones(features):
    """Where a sum has few terms, the root and the squares round as much as it does."""
    rows = torch.randn(40, features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i, row in enumerate(row_distances(rows).tolist()):
        for j, found in enumerate(row):
            exact = sum((Q(a) - Q(b)) ** 2 for a, b in zip(rows[i].tolist(), rows[j].tolist(), strict=True))
            assert Q(found) ** 2 >= exact


def test_row_distances_of_rows_that_are_all_negative_or_nearly_equal():
    """The squares of 1e-180 underflow, beside a row near 1 that no scale brings down to them."""
    rows = torch.tensor([[-1.0, -3e-180], [-1.0, -7e-180], [-4.0, -4.0]], dtype=torch.float64)
    assert row_distances(rows)[0].tolist() == pytest.approx([0, 4e-180, 5], rel=1e-12)
    assert row_distances(1e200 * rows)[0].tolist() == pytest.approx([0, 4e20, 5e200], rel=1e-12)


def test_rows_that_differ_by_less_than_a_normal_number_differ_by_one():
    """A process may treat what is smaller as 0; and the smallest numbers themselves hold no distance between 1 and 2 of them."""
    rows = torch.tensor([[5e-324, 5e-324], [0.0, 0.0]], dtype=torch.float64)
    assert row_distances(rows).tolist() == [[0, DOUBLE.tiny], [DOUBLE.tiny, 0]]


# ---- norms -----------------------------------------------------------------------------------------------------------------


def test_what_cholesky_may_be_off_by_is_added(monkeypatch):
    """A factorisation that runs to its end says M >= -gamma trace(M) / (1 - gamma), with n + 1 terms, times 4 for complex."""
    n, t = 8, 1.0
    for gram, trace in ((torch.zeros(n, n, dtype=torch.float64), 0.0), (torch.eye(n, dtype=torch.float64) / 2, n / 2)):
        monkeypatch.setattr(norms, "_proposed_eigenvalue", lambda gram: t / (1 + 1e-10))
        monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda m: (m, torch.zeros(())))
        gamma = 4 * (n + 1) * Q(2) ** -53 / (1 - 4 * (n + 1) * Q(2) ** -53)
        exact = Q(t) * (1 - Q(2) ** -52) + gamma * (n * Q(t) - Q(trace)) / (1 - gamma)
        found = Q(norms._largest_eigenvalue(gram, 0.0))
        assert exact <= found <= exact * (1 + Q(n * n * 200) * Q(2) ** -53)
        assert Q(norms._largest_eigenvalue(gram, 0.25)) >= exact + Q(1, 4)


def test_what_cholesky_may_be_off_by_is_counted_in_full_where_numbers_have_few_bits(monkeypatch):
    """Of second order in the unit, gamma / (1 - gamma) is far more than gamma there."""
    monkeypatch.setattr(norms, "DOUBLE", Format(2.0**-10, 2.0**-60, math.inf))
    for n in (8, 60):
        rounded = 4 * (n + 1) * Q(2) ** -10
        gamma = rounded / (1 - rounded)
        assert Q(norms._proven_eigenvalue(1.0, lambda t: True, n, n, n, 0.0)) >= 1 + gamma / (1 - gamma) * n


def test_an_eigenvalue_is_raised_until_the_factorisation_succeeds():
    gram = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert 3 < norms._largest_eigenvalue(gram, 0.0) < 3 * (1 + 1e-9)
    assert norms._largest_eigenvalue(torch.stack([gram, 2 * gram]), 1.0) == pytest.approx(7, rel=1e-9)
    assert norms._largest_eigenvalue(torch.zeros(2, 2, dtype=torch.float64), 0.5) == 0.5
    for infinite in (torch.full((2, 2), math.inf), torch.diag(torch.tensor([1.0, math.inf]))):
        assert norms._largest_eigenvalue(infinite.double(), 0.0) == math.inf


def test_where_nothing_is_proven_the_trace_and_its_rounding_are_left():
    """A trace of n numbers errs by n units of roundoff; what is not finite has no bound, whatever Cholesky makes of it."""
    for top, accepts in ((0.0, True), (1.0, False)):
        found = norms._proven_eigenvalue(top, lambda t, accepts=accepts: accepts, 200, 200, 1.0, 0.25)
        assert (1 + 200 * Q(2) ** -53) + Q(1, 4) <= Q(found) <= 1.25 * (1 + 1e-12)
    for top, trace in ((math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, math.nan)):
        assert norms._proven_eigenvalue(top, lambda t: True, 3, 3, trace, 0.0) == math.inf
    gram = torch.eye(2, dtype=torch.float64)
    gram[0, 1] = gram[1, 0] = math.nan
    assert 2 <= norms._largest_eigenvalue(gram, 0.0) <= 2 * (1 + 1e-12)


def test_the_iteration_is_krylov_s_and_stops_where_nothing_is_new():
    """Ritz values rise with each step, to the largest eigenvalue; a matrix of rank r leaves nothing after r + 1 products."""
    calls = []

    def product(values):
        calls.clear()
        return lambda v: calls.append(v) or values * v

    slow = torch.linspace(0, 0.5, 200, dtype=torch.float64)
    rising = [norms._lanczos(product(slow), 200, steps=steps) for steps in range(5, 25)]
    assert rising == sorted(set(rising)) and rising[0] > 0 and rising[-1] < 0.5 and len(calls) == 24
    assert norms._lanczos(product(slow), 200) == pytest.approx(0.5, rel=1e-10) and len(calls) < 200
    assert norms._lanczos(product(2.0 ** -torch.arange(200.0, dtype=torch.float64)), 200) == pytest.approx(1) and len(calls) < 100
    for scale in (1e-6, 1.0, 1e6):
        two = torch.zeros(50, dtype=torch.float64)
        two[3], two[7] = scale, 0.5 * scale
        assert norms._lanczos(product(two), 50) == pytest.approx(scale) and len(calls) == 3
    assert norms._lanczos(product(torch.zeros(50)), 50) == 0 and len(calls) == 1
    assert norms._lanczos(product(-torch.ones(50)), 50) == pytest.approx(-1) and len(calls) == 1


def test_what_the_gram_matrix_may_be_off_by_is_counted(monkeypatch):
    """Each entry is a sum of products: of n, it errs by gamma_n of their absolute values, in all by gamma_n |A|^2 (Frobenius);
    what underflows errs by the smallest normal number, entry by entry."""
    errors = []
    monkeypatch.setattr(norms, "_proven_eigenvalue", lambda top, is_below, size, band, trace, error: errors.append(error) or 1.0)
    dense, kernel, one = nn.Linear(40, 2), nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2048, 2, 1)
    for layer, shape, proofs, terms in (
        (dense, (40,), (unrolled_norm,), 40),
        (kernel, (2, 5, 5), (unrolled_norm, banded_norm), 18),
        (one, (2048, 1, 1), (unrolled_norm, torus_norm), 2048),
    ):
        nn.init.ones_(layer.weight)
        operator = linear_operator(layer.double(), shape)
        square = operator.matrix().square().sum().item() / 4  # weights of 1 are halved
        for proof in proofs:
            errors.clear()
            monkeypatch.setattr(norms, "DOUBLE", Format(2.0**-20, 2.0**-60, math.inf))
            proof(operator)
            assert errors[0] >= terms * 2.0**-20 * square
            if proof is not torus_norm:  # a product and an addition for each term
                errors.clear()
                monkeypatch.setattr(norms, "DOUBLE", Format(2.0**-53, 1.0, math.inf))
                proof(operator)
                assert errors[0] >= 2 * terms * min(operator.matrix().shape)
    # The torus: the symbol at frequency 0 is the sum of the taps, and a transform of n errs by 1 + 4 sqrt(2) = 6.7 units for each
    # of log2 n steps [Higham 2002, Theorem 24.2].
    monkeypatch.setattr(norms, "DOUBLE", Format(2.0**-20, 2.0**-60, math.inf))
    large = nn.Conv2d(400, 1, 7)
    nn.init.ones_(large.weight)
    wide = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(wide.weight)
    # Without any transform products are left, of a single number as well.
    single = nn.Conv2d(1, 1, 1)
    nn.init.ones_(single.weight)
    for layer, shape, taps, places in (
        (kernel, (2, 5, 5), 9, 49),
        (large, (400, 7, 7), 49, 49),
        (wide, (1, 30, 30), 9, 1024),
        (single, (1, 100, 100), 1, 10_000),
        (single, (1, 1, 1), 1, 1),
    ):
        errors.clear()
        torus_norm(linear_operator(layer, shape))
        channels = layer.in_channels * layer.out_channels
        assert errors[0] >= (layer.in_channels + 2 * 6.7 * math.log2(places)) * 2.0**-20 * channels * (taps / 2) ** 2
    # Taps of both signs: a number of the symbol errs by the sum of their sizes, which is far above any number of the symbol.
    errors.clear()
    signs = nn.Conv2d(1, 1, 15).double()
    with torch.no_grad():
        signs.weight.copy_(torch.randn(1, 1, 15, 15).sign())
    torus_norm(linear_operator(signs, (1, 30, 30)))
    largest = torch.fft.fft2(signs.weight[0, 0].detach() / 2, s=(30, 30)).abs().max().item()
    assert largest < 225 / 4
    assert errors[0] >= 2 * 6.7 * math.log2(900) * 2.0**-20 * 225 / 2 * largest


@pytest.mark.parametrize(
    ("layer", "shape", "sides"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4), (7, 6)),
        (nn.Conv2d(1, 2, (2, 4), dilation=(2, 1)), (1, 6, 7), (6, 7)),
        (nn.Conv2d(2, 1, (5, 2), stride=(2, 1), padding=1), (2, 6, 5), (8, 7)),
    ],
    ids=str,
)
def test_the_torus_is_as_large_as_needed_and_no_larger(layer, shape, sides):
    """It holds what the outputs read and nothing else: padded to that, the same layer on a circle has that very norm."""
    layer = layer.double()
    found = torus_norm(linear_operator(layer, shape))
    circle = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, 0, layer.dilation, bias=False
    ).double()
    circle.weight = layer.weight
    ends = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    size = layer.in_channels * math.prod(sides)
    images = torch.eye(size, dtype=torch.float64).view(size, layer.in_channels, *sides)
    images = nn.functional.pad(images, (0, ends[1], 0, ends[0]), mode="circular")
    exact = torch.linalg.matrix_norm(circle(images).flatten(1).detach(), 2).item()
    assert exact * (1 - 1e-12) <= found <= exact * (1 + 1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (5,)),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 6, 6)),
        (nn.Conv1d(6, 4, 3, groups=2), (6, 8)),
        (nn.Conv1d(1, 1, 1, padding=1, padding_mode="replicate"), (1, 1)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5)),
        (nn.ConvTranspose1d(6, 4, 3, groups=2), (6, 8)),
        (nn.AvgPool2d((2, 3)), (1, 4, 6)),
        (nn.AdaptiveAvgPool2d(1), (3, 4, 4)),
    ],
    ids=str,
)
def test_a_layer_counts_the_products_of_a_sum_and_no_more(layer, shape):
    """Those that its matrix has in a row, and there and back in a column."""
    node = walk(layer.double(), shape)
    there, back = ((node.matrix() != 0).sum(dim=dim).max() for dim in (1, 0))
    division = 2 if isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) else 0  # which may be a product with a reciprocal
    assert node.fan_in == there + division
    # And those of a pool, of whichever shape, are the whole image of a channel twice.
    assert node.terms == (2 * math.prod(shape[1:]) if division else max(there, back))


def test_the_rounding_of_the_absolute_bound_is_counted(monkeypatch):
    """Sums of 40 positive numbers there and of 40 or 2 back, or a single product each, all of which may be rounded down."""
    monkeypatch.setattr(norms, "DOUBLE", Format(2.0**-20, 2.0**-60, math.inf))
    for inputs, outputs in ((40, 40), (40, 2), (1, 1)):
        layer = nn.Linear(inputs, outputs, bias=False).double()
        nn.init.ones_(layer.weight)
        exact = inputs * outputs
        assert absolute_norm(linear_operator(layer, (inputs,))) ** 2 >= exact * (1 + (inputs + outputs) * 2.0**-20)


def test_proposals_that_are_useless_leave_the_trace(monkeypatch):
    gram = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    for proposal in (0.0, -1.0, 1e-30):
        monkeypatch.setattr(norms, "_proposed_eigenvalue", lambda gram, proposal=proposal: proposal)
        assert 6.5 <= norms._largest_eigenvalue(gram, 0.5) <= 6.5 * (1 + 1e-12)
        assert 12 <= norms._largest_eigenvalue(torch.stack([gram, 2 * gram]), 0.0) <= 12 * (1 + 1e-12)
    monkeypatch.setattr(norms, "_proposed_eigenvalue", lambda gram: 4.0)  # enough for the first of two
    assert norms._largest_eigenvalue(torch.stack([gram, 2 * gram]), 0.0) >= 6


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6)])
def test_dense_norms_of_any_shape(shape):
    layer = nn.Linear(*shape, bias=False)
    exact = torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item()
    assert exact * (1 - 1e-14) <= operator_norm(linear_operator(layer, shape[:1])) <= exact * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e150])
def test_norms_of_every_proof_scale_with_the_weights(scale):
    torch.manual_seed(0)
    dense = nn.Linear(4, 3, bias=False).double()
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    for layer, shape, proofs in ((dense, (4,), (unrolled_norm,)), (conv, (2, 4, 4), (unrolled_norm, torus_norm))):
        before = [proof(linear_operator(layer, shape)) for proof in (*proofs, absolute_norm)]
        with torch.no_grad():
            layer.weight.mul_(scale)
        after = [proof(linear_operator(layer, shape)) for proof in (*proofs, absolute_norm)]
        assert after == pytest.approx([scale * norm for norm in before], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_zero_among_extreme_weights_of_one_sign_hides_no_other(scale):
    for sign in (1, -1):
        dense, conv = nn.Linear(2, 2, bias=False).double(), nn.Conv2d(1, 1, (1, 2), bias=False).double()
        with torch.no_grad():
            dense.weight.copy_(sign * scale * torch.tensor([[1.0, 0.0], [0.0, 0.5]], dtype=torch.float64))
            conv.weight.copy_(sign * scale * torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64))
        for layer, shape, proofs in (
            (dense, (2,), (unrolled_norm,)),
            (conv, (1, 4, 5), (unrolled_norm, banded_norm, torus_norm)),
        ):
            for proof in (*proofs, absolute_norm):
                assert scale <= proof(linear_operator(layer, shape)) <= scale * (1 + 1e-6)


def test_a_small_norm_is_small():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    for proof in (unrolled_norm, banded_norm, torus_norm, absolute_norm):
        assert 0.5 <= proof(linear_operator(layer, (1, 3, 3))) <= 0.5 * (1 + 1e-6)


def ones(weight, sides=1):
    """A dense layer whose weights are all equal."""
    layer = nn.Linear(sides, sides, bias=False).double()
    nn.init.constant_(layer.weight, weight)
    return layer


def test_a_composed_operator_is_bounded_where_products_of_its_weights_leave_float64():
    """2^-600 twice is 0 in float64, whatever comes after; the norm is 2^193."""
    operator = linear_operator(nn.Sequential(*(ones(weight) for weight in (2.0**-600, 2.0**-600, *[2.0**199] * 7))), (1,))
    assert 2.0**193 <= operator_norm(operator) < math.inf
    assert upper_bound(Residual(nn.Sequential(ones(2.0**-600), ones(2.0**600))), (1,)) == pytest.approx(2)
    # Where one of two numbers keeps its size, and the other's square is no float64.
    parts = ones(1.0, 2), ones(1.0, 2)
    with torch.no_grad():
        for part in parts:
            part.weight.copy_(torch.diag(torch.tensor([1.0, 2.0**400], dtype=torch.float64)))
    assert 2.0**800 <= operator_norm(linear_operator(nn.Sequential(*parts), (2,))) <= 2.0**800 * (1 + 1e-6)


def diagonal(*weights):
    layer = nn.Linear(len(weights), len(weights), bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor(weights, dtype=torch.float64)))
    return layer


@pytest.mark.parametrize(
    ("block", "blocks", "small"), [(diagonal(2.0, 2.0, 2.0), 118, 298), (Residual(nn.Sequential()), 600, 419)]
)
def test_what_underflows_inside_a_composed_operator_is_counted_by_what_comes_of_it(block, blocks, small):
    """First everything is doubled many times over, then two layers make the first number small and take the others away.

    What is left is a normal number, and so is its square. But transposed, the small factors come first, and their product with
    it is 0 in float64, which no doubling brings back.
    """
    factor = 2.0**-small
    network = nn.Sequential(*[block] * blocks, diagonal(factor, 1.0, 0.0), diagonal(factor, 0.0, 1.0))
    assert 2.0 ** (blocks - 2 * small) <= operator_norm(linear_operator(network, (3,))) < math.inf


def test_a_composed_operator_whose_parts_cancel_has_the_norm_that_is_left():
    for weight in (1000.0, 2.0**100, 2.0**-100):
        block = Residual(ones(-weight, 2), ones(weight * (1 + 2.0**-10), 2))
        assert 2 * weight * 2.0**-10 <= upper_bound(block, (2,)) <= 2 * weight * 2.0**-10 * (1 + 1e-3)
        diagonal = Residual(ones(-weight, 2), ones(weight * (1 + 2.0**-10), 2))
        with torch.no_grad():
            for layer in diagonal.children():
                layer.weight.mul_(torch.eye(2))
        assert weight * 2.0**-10 <= upper_bound(diagonal, (2,)) <= weight * 2.0**-10 * (1 + 1e-3)
        block = nn.Sequential(ones(weight, 2), ones(weight, 2))
        assert 4 * weight**2 <= operator_norm(linear_operator(block, (2,))) <= 4 * weight**2 * (1 + 1e-6)
    # What is left is rounding: (-0.1) 0.1 + 0.01 is 0 in float64, and is not.
    product = Q(0.1) ** 2 - Q(0.1 * 0.1)
    assert product != 0
    block = Residual(nn.Sequential(ones(-0.1), ones(0.1)), ones(0.1 * 0.1))
    assert abs(product) <= upper_bound(block, (1,)) <= 1e-6
    assert 0 <= upper_bound(Residual(ones(-1.0)), (1,)) <= 1e-6
    assert 0 <= upper_bound(Residual(Residual(ones(-1.0)), ones(0.0)), (1,)) <= 1e-6  # beside a layer that gives nothing


def test_a_norm_in_pieces_is_the_norm(monkeypatch):
    torch.manual_seed(0)
    operator = linear_operator(nn.Conv2d(3, 2, 3, padding=1).double(), (3, 4, 5))
    whole = [proof(operator) for proof in (unrolled_norm, torus_norm)]
    for entries in (1, 100, 1000):
        monkeypatch.setattr(norms, "_ENTRIES", entries)
        assert [proof(operator) for proof in (unrolled_norm, torus_norm)] == pytest.approx(whole, rel=1e-9)
    monkeypatch.setattr(norms, "_SOLVED", 1)  # a stack of matrices is solved all the same
    assert torus_norm(operator) == pytest.approx(whole[1], rel=1e-6)


def test_limits_are_the_largest_that_are_proven(monkeypatch):
    operator = linear_operator(nn.Conv2d(2, 2, 3, padding=1), (2, 8, 8))
    gram = BandedGram(operator)
    monkeypatch.setattr(norms, "UNROLLED_LIMIT", 0)
    for cost, rows, fit in ((0, 0, True), (1, 0, False), (0, 1, False)):
        monkeypatch.setattr(norms, "BANDED_LIMIT", gram.cost - cost)
        monkeypatch.setattr(norms, "BANDED_ROWS", gram.size - rows)
        assert (banded_norm in norms._proofs(operator)) == fit
    monkeypatch.undo()
    assert banded_norm in norms._proofs(linear_operator(nn.Conv2d(2, 2, 3, padding=1), (2, 100, 100)))
    # Of tokens on several axes it is the matrix that counts, and a diagonal is no matrix.
    assert walk(nn.Linear(4, 4), (3, 5000, 4)).core().input_shape == (4,)
    assert walk(Normalize([0.5, 0.5], [0.5, 0.5]), (2, 80, 80)).output_shape == (2, 80, 80)


def test_a_column_of_zeros_leaves_the_absolute_bound_tight():
    layer = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]]))
    exact = torch.linalg.matrix_norm(layer.weight.detach(), 2).item()
    assert exact * (1 - 1e-12) <= absolute_norm(linear_operator(layer, (3,))) <= exact * (1 + 1e-4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (4,)),
        (nn.Linear(3, 5), (2, 3)),
        (nn.Conv1d(2, 3, 3, padding=1), (2, 6)),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 4, 5)),
        (nn.Conv2d(2, 2, 3, stride=2, groups=2), (2, 5, 5)),
        (nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 4, 4)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 3, 3)),
        (nn.ConvTranspose1d(2, 3, 3), (2, 3)),
        (nn.AvgPool2d(2), (2, 4, 4)),
        (nn.AvgPool2d(2, divisor_override=-3), (1, 4, 4)),
        (nn.AvgPool2d(2, divisor_override=3), (1, 4, 4)),
        (nn.BatchNorm2d(2).eval(), (2, 3, 3)),
        (Normalize([0.5, 0.1], [0.3, 0.2]), (2, 3, 3)),
        (nn.Flatten(), (2, 3)),
        (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (4,)),
        (Residual(nn.Linear(4, 4), nn.Linear(4, 4)), (4,)),
    ],
    ids=str,
)
def test_absolute_operators_have_absolute_weights_and_adjoints_are_transposes(layer, shape):
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    operator = linear_operator(layer.double(), shape)
    matrix, absolute = operator.matrix(), operator.absolute().matrix()
    if isinstance(layer, nn.Sequential | Residual):
        parts = [child.weight.detach().abs() for child in layer.children()]
        expected = parts[1] @ parts[0] if isinstance(layer, nn.Sequential) else parts[0] + parts[1]
    else:
        expected = matrix.abs()
    assert torch.allclose(absolute, expected, rtol=1e-12)
    exact = torch.linalg.matrix_norm(expected, 2).item()
    assert exact * (1 - 1e-12) <= absolute_norm(operator) <= 1.3 * exact
    assert absolute_norm(operator, 300) <= exact * (1 + 1e-3)
    for of, expected in ((operator, matrix), (operator.absolute(), absolute)):
        y = torch.eye(len(expected), dtype=torch.float64).view(len(expected), *operator.output_shape)
        assert torch.allclose(of.adjoint(y).reshape(len(expected), -1), expected, rtol=1e-10, atol=1e-12)
        assert torch.equal(of.absolute().matrix(), absolute)


@pytest.mark.parametrize("std", [3.0, 5.0, 7.0, 11.0, 49.0])
def test_a_reciprocal_that_was_rounded_down_is_raised(std):
    assert (
        Q(1, int(std)) <= Q(upper_bound(Normalize([0.5, 0.5], [std, 2 * std]), (2, 2, 2))) <= Q(1, int(std)) * (1 + Q(2) ** -40)
    )


def test_a_factor_of_batch_norm_that_was_rounded_down_several_times_is_raised():
    layer = nn.BatchNorm1d(1).double().eval()
    with torch.no_grad():
        layer.running_var.fill_(0.294881688156443)
        layer.weight.fill_(0.004636779047472839)
    assert Q(upper_bound(layer, (1,))) ** 2 * (Q(0.294881688156443) + Q(layer.eps)) >= Q(0.004636779047472839) ** 2


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("kernel", "windows"), [((2, 1), 2), ((3, 1), 3), ((3, 2), 6), ((2, 2), 4), ((3, 3), 9), ((4, 1), 4)])
def test_windows_that_overlap_are_counted_and_their_root_is_rounded_up(kernel, windows, dilation):
    """Apart or side by side, a window's places are as many; a root that is a whole number is not rounded."""
    bound = Q(upper_bound(nn.MaxPool2d(kernel, 1, dilation=dilation), (1, 9, 9)))
    assert windows <= bound**2 <= windows * (1 + Q(2) ** -50)
    assert bound**2 == windows or math.isqrt(windows) ** 2 < windows


@pytest.mark.parametrize("alpha", [1.1, 1.3, 1.7, 2.3, 3.1, 5.7])
def test_the_sum_of_two_paths_is_rounded_up(alpha):
    assert Q(alpha) + 1 <= Q(upper_bound(Residual(nn.ELU(alpha)), (2,))) <= Q(alpha) + 1 + Q(2) ** -48
    assert (
        Q(alpha) ** 3
        <= Q(upper_bound(nn.Sequential(*(nn.ELU(alpha) for _ in range(3))), (2,)))
        <= Q(alpha) ** 3 * (1 + Q(2) ** -48)
    )


def test_every_channel_s_slope_counts():
    layer = nn.PReLU(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -3.0, 0.0]))
    assert 3 <= upper_bound(layer, (3, 2)) <= 3 * (1 + 1e-12)
    assert 2.5 <= upper_bound(nn.ELU(-2.5), (2,)) <= 2.5 * (1 + 1e-12)


def test_zeros_among_the_weights_hide_nothing():
    layer, none = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        none.weight.zero_()
    for module in (layer, Residual(none, layer), Residual(layer, none)):
        operator = linear_operator(module, (2,))
        assert 2 <= absolute_norm(operator, 200) <= 2.01 and 2 <= operator_norm(operator) <= 2 * (1 + 1e-6)
    assert absolute_norm(linear_operator(none, (2,))) == 0


def test_an_estimate_goes_on_until_it_stands():
    layer = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, 0.99, 0.98, 0.97, 0.96, 0.95])))
    assert TrainingBound(layer, (6,)).converge(1e-7, 3000) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 2, bias=False), (3,)),
        (nn.Linear(3, 2), (4, 3)),
        (nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), (2, 7)),
        (nn.Conv1d(2, 2, 2, padding=1, padding_mode="circular", bias=False), (2, 5)),
        (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (2, 6, 5)),
        (nn.Conv2d(2, 2, 3, padding=(0, 1), padding_mode="circular"), (2, 5, 4)),
        (nn.Conv2d(2, 3, (2, 3), padding="same", bias=False), (2, 4, 5)),
        (nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, groups=2), (2, 5)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1, bias=False), (2, 3, 4)),
        (nn.AvgPool2d(2, 1, 1, count_include_pad=False), (2, 4, 5)),
        (nn.BatchNorm2d(2).eval(), (2, 3, 3)),
        (nn.BatchNorm1d(2, affine=False).eval(), (2,)),
        (nn.Conv2d(2, 3, (2, 3), padding="valid"), (2, 4, 5)),
        (nn.PReLU(2, -0.5), (2, 3)),
        (nn.Softplus(2.0), (2, 3)),
        (nn.ELU(0.5), (2, 3)),
        (GroupSort(2), (4, 3)),
        (nn.MaxPool2d(2, 1, 1, 2), (2, 5, 5)),
    ],
    ids=str,
)
def test_a_node_computes_what_its_layer_computes(layer, shape, dtype):
    torch.manual_seed(0)
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 1)
    node, x = walk(layer.to(dtype), shape), torch.randn(3, *shape, dtype=dtype)
    expected = layer(x)
    assert node.output_shape == tuple(expected.shape[1:])
    torch.testing.assert_close(node.apply(x), expected)
    affine = node.affine()
    if affine is not None:
        zero = layer(torch.zeros_like(x))
        torch.testing.assert_close(affine.forward(x), expected - zero, atol=1e-5, rtol=1e-5)
        if getattr(layer, "bias", None) is not None and not isinstance(layer, nn.BatchNorm2d):
            square = sum(Q(b) ** 2 for b in layer.bias.tolist()) * math.prod(node.output_shape) / len(layer.bias)
            assert square <= Q(node.offset_length()) ** 2 <= square * (1 + Q(10) ** -11)


# ---- rounding of one layer -------------------------------------------------------------------------------------------------


def rounding(node, number=COARSE):
    return node.rounding(number, float(node.bound(norms.Proven())))


def test_batch_norm_rounds_at_each_position_by_its_mean_in_units_of_its_spread():
    """At an input of 0 only the mean is left: PyTorch rounds it, scaled, at every position."""
    layer = nn.BatchNorm2d(2).eval().requires_grad_(False)
    layer.running_mean.copy_(torch.tensor([3.0, 1.0]))
    layer.running_var.fill_(1e-4)
    one, sixteen = (rounding(walk(layer, (2, side, side))) for side in (1, 4))
    scaled = 10**0.5 / (1e-4 + layer.eps) ** 0.5
    for found, area in ((one, 1), (sixteen, 4)):
        assert found.constant >= COARSE.unit * scaled * area
        assert found.peak_constant >= 10**0.5 * area
    assert sixteen.constant == pytest.approx(4 * one.constant) and sixteen.peak_constant == pytest.approx(4 * one.peak_constant)


@pytest.mark.parametrize("beta", [0.05, -0.5, 2.0])
def test_softplus_is_rounded_by_its_jump_at_the_threshold(beta):
    """There PyTorch goes over to x itself, which is log(1 + exp(-threshold)) / beta less."""
    layer = nn.Softplus(beta, threshold=25)
    at = torch.tensor([25.001 / beta], dtype=torch.float64)
    jump = torch.log1p(torch.exp(-beta * at)) / abs(beta)
    exact = Format(0.0, 0.0, math.inf)  # in which nothing else is lost
    assert rounding(walk(layer, (1,)), exact).constant >= 0.99 * jump.item() > 0


@pytest.mark.parametrize(("settings", "constant"), [((2, 1), 2.0), ((3, 2), 2.0), ((2, 1, 0, 3), 2.0), ((2, 2), 1.0)])
def test_max_pooling_counts_the_windows_that_one_input_is_in(settings, constant):
    """Dilated windows of two take every third input, so an input is in two of them along each axis and not in four."""
    assert upper_bound(nn.MaxPool2d(*settings), (1, 9, 9)) == constant


def test_layers_that_give_nothing_have_together_a_norm_near_0():
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for layer in layers:
        nn.init.zeros_(layer.weight)
    assert 0 <= unrolled_norm(linear_operator(layers, (3,))) < 1e-70


@pytest.mark.parametrize("shape", [(1, 9, 5), (1, 5, 9)])
def test_a_banded_bound_knows_which_axis_has_which_dilation(shape):
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 2, 3, padding=1, dilation=(2, 1)).double()
    matrix = torch.func.jacrev(lambda x: layer(x).flatten())(torch.zeros(shape, dtype=torch.float64)).flatten(1)
    assert banded_norm(linear_operator(layer, shape)) == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-6)


def rounded(matrix, offset, x, unit):
    """matrix x + offset, one term after the other, each operation off by a factor 1 + unit. Terms are not 0."""
    total = torch.zeros(len(x), len(matrix), dtype=torch.float64)
    largest = total
    for column, value in zip(matrix.T, x.T, strict=True):
        product = value[:, None] * column * (1 + unit)
        total = torch.where(product == 0, total, torch.where(total == 0, product, (total + product) * (1 + unit)))
        largest = torch.maximum(largest, total)
    total = torch.where(offset == 0, total, (total + offset) * (1 + unit))
    return total, torch.maximum(largest, total).amax(dim=1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (6,)),
        (nn.Linear(1, 1, bias=False), (1,)),
        (nn.Linear(4, 4), (3, 4)),
        (nn.Conv1d(2, 2, 3), (2, 7)),
        (nn.Conv2d(2, 2, 3), (2, 5, 5)),
        (nn.Conv2d(2, 1, 3, padding=1), (2, 3, 3)),
        (nn.ConvTranspose2d(2, 2, 3), (2, 3, 3)),
        (nn.ConvTranspose1d(2, 2, 3), (2, 4)),
        (nn.AvgPool2d(2), (1, 4, 4)),
        (nn.AvgPool2d(6), (1, 6, 6)),
        (nn.Linear(9, 1), (9,)),
        (nn.Conv2d(4, 1, 2), (4, 3, 3)),
        (nn.ConvTranspose2d(4, 1, 2), (4, 3, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [0.0, 10.0])
def test_a_layer_s_rounding_is_covered_and_not_by_much_more(layer, shape, bias):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.7)
        if getattr(layer, "bias", None) is not None:
            layer.bias.fill_(bias)
    node = walk(layer.double(), shape)
    matrix, offset = node.matrix(), node.apply(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
    x = torch.linalg.svd(matrix).Vh[0].abs()[None]
    off = (rounded(matrix, offset, x, UNIT)[0] - rounded(matrix, offset, x, 0.0)[0]).norm().item()
    found = rounding(node)
    assert off <= found.gain + found.constant <= 20 * off
    # What underflows errs by the smallest normal number, product by product.
    terms = int((matrix != 0).sum(dim=1).max())
    fallen = rounding(node, Format(2.0**-40, 1.0, math.inf)).constant
    least = terms * math.sqrt(len(matrix))
    assert least <= fallen <= 10 * least


@pytest.mark.parametrize("terms", [3, 40, 300])
@pytest.mark.parametrize("last", [-1.0, 1e-9])
def test_terms_of_both_signs_err_by_half_and_no_less(terms, last):
    layer = nn.Linear(terms, 1).double()
    node, ones = walk(layer, (terms,)), torch.ones(1, terms, dtype=torch.float64)
    with torch.no_grad():
        # A large term first, whose negative comes last or not at all: all sums between are as large.
        layer.weight.fill_(1e-9)
        layer.weight[0, 0], layer.bias[0] = 1.0, last
    number = Format(1e-7, 0.0, math.inf)
    exact = (layer.weight.sum() + layer.bias).abs().item()
    off = (rounded(layer.weight, layer.bias, ones, number.unit)[0].abs() - exact).abs().item()
    of_terms, of_sum = number.sum_errors(terms)
    bound = of_terms * (layer.weight.abs().sum() + layer.bias.abs()).item() + of_sum * exact
    assert off <= bound <= off + (2.1 if last == -1 else 0.1) * number.unit
    # The layer's own bound has the lengths of weights, input and offset for what cancels.
    found, size = rounding(node, number), 1 + abs(last)
    assert found.gain + found.constant == pytest.approx((of_terms + of_sum) * size, rel=1e-3)
    assert number.sum_errors(10**7)[0] == math.inf


def test_errors_of_errors_count_where_terms_are_many():
    """1 and 100 terms of next to nothing: 101 roundings one on top of the other."""
    layer = nn.Linear(100, 1).double()
    with torch.no_grad():
        layer.weight.fill_(1e-12)
        layer.weight[0, 0], layer.bias[0] = 1.0, 1e-12
    off = rounded(layer.weight, layer.bias, torch.ones(1, 100, dtype=torch.float64), UNIT)[0].item() - 1
    of_terms, of_sum = COARSE.sum_errors(100)
    assert off <= of_terms + of_sum
    # The same where the offset is the large one, and is added to first.
    with torch.no_grad():
        layer.weight[0, 0], layer.bias[0] = 1e-12, 1.0
    assert rounding(walk(layer, (100,))).constant >= (1 + UNIT) ** 100 - 1


def test_a_product_and_its_sum_with_an_offset_may_both_underflow():
    """And what the product lost is rounded up with the sum."""
    layer = nn.Linear(1, 1).double()
    nn.init.zeros_(layer.bias)
    assert rounding(walk(layer, (1,)), Format(UNIT, 1.0, math.inf)).constant >= 2 * (1 + UNIT)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2).eval(), Normalize([0.5, -3.0], [1.0, 0.01])], ids=str)
def test_the_rounding_of_normalisation_counts_what_its_mean_cancels(layer):
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean.copy_(torch.tensor([2.0, 30.0]))
        layer.running_var.copy_(torch.tensor([0.5, 0.1]))
        nn.init.constant_(layer.bias, 5.0)
    node = walk(layer.double(), (2, 3, 3))
    if isinstance(layer, nn.BatchNorm2d):
        scale, mean, bias = (layer.running_var + layer.eps).rsqrt(), layer.running_mean, 5.0
    else:
        scale, mean, bias = 1 / layer.std, layer.mean, 0.0
    for x in (torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([100.0, 100.0])):
        # Each operation off by one unit to the worse side.
        off = 3 * (scale * (x + mean.abs())).abs() * UNIT + abs(bias) * UNIT
        off, length = math.sqrt(9 * off.square().sum()), math.sqrt(9 * x.square().sum())
        found = rounding(node)
        assert off <= found.gain * length + found.constant <= 16 * off
    fallen = rounding(node, Format(2.0**-40, 1.0, math.inf)).constant
    assert 2 * float(scale.max()) * math.sqrt(18) <= fallen <= 40 * float(scale.max()) * math.sqrt(18)


@pytest.mark.parametrize("std", [0.01, 100.0])
def test_the_rounding_of_normalisation_is_that_of_each_place_of_an_image(std):
    """Its mean counts once for each, and so do numbers that underflow before they are scaled, or after it."""
    mean = torch.tensor([3.0, -4.0])
    norm = nn.BatchNorm2d(2, eps=0.0, affine=False).eval()
    norm.running_mean.copy_(mean)
    norm.running_var.fill_(std**2)
    for layer, largest, twice in ((Normalize(mean.tolist(), [std] * 2), 5.0, 1), (norm, 5.0 + 1 / std, 2)):
        node = walk(layer.double(), (2, 7, 9))
        found = rounding(node, Format(UNIT, 0.0, math.inf))
        assert found.constant == pytest.approx(twice * 16 * UNIT * 5 / std * math.sqrt(63), rel=1e-6)
        # The mean is taken off an image as it is, before anything is scaled.
        assert found.peak == 1 and found.peak_constant == pytest.approx(largest * math.sqrt(63), rel=1e-6)
        fallen = rounding(node, Format(0.0, 1.0, math.inf)).constant
        assert 2 * (1 + 1 / std) * math.sqrt(126) <= fallen <= 10 * (1 + 1 / std) * math.sqrt(126)


@pytest.mark.parametrize(
    ("layer", "slope"),
    [(nn.Tanh(), 1.0), (nn.ELU(2.0), 2.0), (nn.Sigmoid(), 1.0), (nn.GELU(), 1.129), (nn.SiLU(), 1.1), (nn.Softplus(2.0), 1.0)],
    ids=str,
)
def test_the_rounding_of_activations_is_what_they_are_taken_to_err_by(layer, slope):
    found = rounding(walk(layer.double(), (4, 4)))
    assert 16 * UNIT <= found.gain <= 16.1 * UNIT * slope
    extra = 16 * UNIT / 2 + math.exp(-20) / 2 if isinstance(layer, nn.Softplus) else 0.0
    assert 4 * (16 * UNIT + extra) <= found.constant <= 4.01 * (16 * UNIT * slope + extra)
    assert rounding(walk(layer, (4, 4)), Format(2.0**-40, 1.0, math.inf)).constant >= 4
    if isinstance(layer, nn.Softplus):
        assert rounding(walk(nn.Softplus(-2.0), (4, 4))) == found
        # What PyTorch leaves out beyond the threshold is divided by beta.
        left_out = rounding(walk(nn.Softplus(0.1), (4, 4)), Format(0.0, 0.0, math.inf)).constant
        assert left_out >= 4 * math.log1p(math.exp(-20)) / 0.1 * (1 - 1e-8)


def test_the_rounding_of_comparisons_and_single_products():
    for layer in (nn.ReLU(), MinMax(), GroupSort(2), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout().eval()):
        found = rounding(walk(layer, (2, 4, 4)))
        assert found.gain == found.constant == 0
    # A mean has no offset: without underflow that of zeros is exact.
    assert rounding(walk(nn.AvgPool2d(2), (2, 4, 4)), Format(UNIT, 0.0, math.inf)).constant == 0
    for layer in (nn.LeakyReLU(-3.0), nn.PReLU(init=-3.0)):
        found = rounding(walk(layer.double(), (4, 4)), Format(UNIT, 1.0, math.inf))
        assert 3 * UNIT <= found.gain <= 6 * UNIT and 4 <= found.constant <= 4.01


class Affinely(nn.Module):
    def forward(self, x):
        return 3 * x + 5


def test_the_rounding_of_a_registered_layer_is_what_its_documentation_says():
    layer_bound.register(Affinely, lambda layer, shape: 3.0)
    found = rounding(walk(Affinely().eval(), (4,)))
    assert 1024 * UNIT * 4 <= found.gain <= 1025 * UNIT * 4
    assert 1024 * UNIT * 10 <= found.constant <= 1025 * UNIT * 11


# ---- rounding of a network -------------------------------------------------------------------------------------------------


def positive(*layers, weight=0.5, bias=1.0):
    """A network whose weights are all equal: what can be off adds up, and norms are reached."""
    network = nn.Sequential(*layers).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(bias if name.endswith("bias") else weight)
    return network


def follow(network, x, unit):
    """A network of dense layers, ReLU and Residual on positive numbers, each operation off by 1 + unit; its largest number."""
    largest = x.amax(dim=1)
    for layer in network:
        if isinstance(layer, nn.Linear):
            bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
            x, top = rounded(layer.weight.detach(), bias, x, unit)
        elif isinstance(layer, Residual):
            branch, top = follow(layer.branch, x, unit)
            x = (branch + x) * (1 + unit)
            top = torch.maximum(top, x.amax(dim=1))
        else:
            top = x.amax(dim=1)
        largest = torch.maximum(largest, top)
    return x, largest


def block():
    """x + ReLU(x)."""
    return Residual(nn.Sequential(nn.ReLU()))


def hill():
    """A branch that rises high and comes down again."""
    branch = positive(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), bias=0.0)
    with torch.no_grad():
        branch[0].weight.fill_(1000.0)
        branch[2].weight.fill_(0.001)
    return nn.Sequential(Residual(branch))


# Of one number each, where every bound on a length is reached; and a few that are wider.
NETWORKS = [
    positive(nn.Linear(1, 1)),
    positive(nn.Linear(1, 1), bias=0.0),
    positive(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), weight=3.0, bias=0.0),
    positive(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), bias=100.0),
    positive(block(), block(), block()),
    positive(Residual(nn.Sequential(nn.Linear(1, 1), nn.ReLU())), nn.Linear(1, 1)),
    positive(nn.Linear(1, 1), Residual(nn.Sequential(nn.ReLU(), nn.Linear(1, 1))), weight=2.0, bias=0.0),
    positive(Residual(nn.Sequential(nn.Linear(1, 1)))),
    hill(),
    positive(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
]


@pytest.mark.parametrize("network", NETWORKS, ids=range(len(NETWORKS)))
def test_rounding_is_followed_through_a_network_at_every_point_of_a_ball(network, monkeypatch):
    formats = {torch.float64: DOUBLE, torch.float32: COARSE}
    monkeypatch.setattr(program, "number_format", formats.__getitem__)
    inputs = network[0].in_features if isinstance(network[0], nn.Linear) else 1
    made = Program(network, (inputs,))
    made.dtype = torch.float32
    x = torch.stack([torch.full((inputs,), value, dtype=torch.float64) for value in (0.25, 1.0, 100.0)])
    exactly, deployed = made.run(x, made.nodes), made.run(x, made.nodes, deployed=torch.float32)
    own = made.run(x, made.nodes, dtype=torch.float32)
    value, _ = follow(network, x, 0.0)
    off = (follow(network, x, UNIT)[0] - value).norm(dim=1)
    assert torch.allclose(deployed.value, value) and (exactly.own < 1e-12 * value.norm(dim=1)).all() and (exactly.own > 0).all()
    assert (exactly.at == 0).all() and exactly.slope == 0
    assert (off <= own.own).all() and (own.own <= 3.1 * off).all()
    for result, loose in ((deployed, 1 + 1e-9), (own, 1.2)):
        assert (value.norm(dim=1) <= result.length).all() and (result.length <= loose * value.norm(dim=1)).all()
    stretch = (follow(network, x + 1, 0.0)[0] - value).norm(dim=1) / math.sqrt(inputs)
    assert (stretch <= deployed.lipschitz).all() and (deployed.lipschitz <= stretch * (1 + 1e-6)).all()
    for radius in (0.0, 1.0, 1000.0):
        moved = x + radius / math.sqrt(inputs)
        far, largest = follow(network, moved, UNIT)
        off = (far - follow(network, moved, 0.0)[0]).norm(dim=1)
        bound, highest = deployed.at + deployed.slope * radius, deployed.largest + deployed.growth * radius
        assert (off <= bound * (1 + 1e-12)).all() and (bound <= 3.1 * off).all()
        assert (largest <= highest).all() and (highest <= 20 * largest).all()


def test_what_cancels_may_have_been_long_and_is_off_by_its_parts(monkeypatch):
    monkeypatch.setattr(program, "number_format", {torch.float64: DOUBLE, torch.float32: COARSE}.__getitem__)
    made = Program(positive(nn.Linear(1, 1), weight=10.0, bias=-1000.0), (1,))
    made.dtype = torch.float32
    x = torch.tensor([[100.0]], dtype=torch.float64)
    result = made.run(x, made.nodes, deployed=torch.float32)
    assert result.value == 0 and result.largest >= 1000
    # x - ReLU(x): the sum may be as long as both paths are off.
    made = Program(Residual(nn.Sequential(nn.ReLU(), ones(-1.0))), (1,))
    result = made.run(x, made.nodes, dtype=torch.float32)
    assert result.value == 0 and 100 * UNIT <= result.own <= result.length


def test_the_length_of_numbers_whose_squares_underflow():
    made = Program(nn.Sequential(nn.Flatten()), (16,))
    for scale in (1e-25, 1e-40, 0.0):
        assert made.run(torch.full((1, 16), scale), made.nodes, dtype=torch.float32).length >= 4 * torch.tensor(scale).item()


def test_the_length_of_many_numbers_counts_the_rounding_of_their_sum(monkeypatch):
    monkeypatch.setattr(program, "number_format", {torch.float64: DOUBLE, torch.float32: COARSE}.__getitem__)
    made = Program(nn.Sequential(nn.Flatten()), (400,))
    # Half of 400 roundings of a sum of squares are those of its root.
    x = torch.stack([torch.zeros(400), torch.ones(400)])
    for rows in (x, x[1:]):
        assert made.run(rows, made.nodes, dtype=torch.float32).length[-1] >= 20 * (1 + 200 * UNIT)


def test_the_room_for_a_length_is_computed_in_float64():
    """Whatever the numbers are: 2^18 and a few units of a finer format more are one number of float32."""
    number = Format(2.0**-40, 2.0**-8, math.inf)
    for x in (torch.tensor([[2.0**18]]), torch.tensor([2.0**18])):
        found = lengths(x, number).item()
        assert 2.0**18 * (1 + 3 * number.unit) + 2.0**-4 <= found <= 2.0**18 * (1 + 20 * number.unit) + 2.0**-4


def test_a_length_does_not_grow_with_the_batch():
    made = Program(nn.Sequential(nn.Flatten()), (16,))
    x = torch.randn(1, 16)
    alone, among = (made.run(each, made.nodes, dtype=torch.float32).length for each in (x, x.expand(4096, 16)))
    assert among.tolist() == pytest.approx([alone.item()] * 4096, rel=1e-6)


def coarse(monkeypatch, largest=2.0**60):
    """float32 has few bits, as far as the bounds know."""
    formats = {torch.float64: DOUBLE, torch.float32: Format(UNIT, 2.0**-60, largest)}
    for module in (program, net_module):
        monkeypatch.setattr(module, "number_format", formats.__getitem__)


def two_classes(bias=(3.0, 1.0), hidden=False, inputs=4):
    """Rows (2, 2, ...) and (1, 1, ...): every radius is a step along (1, 1, ...)."""
    layers = [nn.Linear(inputs, inputs), nn.ReLU()] if hidden else []
    net = GloroNet(positive(*layers, nn.Linear(inputs, 2)).float(), (inputs,), 0.1).eval()
    with torch.no_grad():
        net.head.weight[0] = 2.0
        net.head.weight[1] = 1.0
        net.head.bias.copy_(torch.tensor(bias))
    return net


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("bias", [(3.0, 1.0), (-30.0, 0.0), (500.0, 490.0)])
@pytest.mark.parametrize("inputs", [1, 4])
def test_a_radius_leaves_room_for_the_rounding_of_both_logits(monkeypatch, hidden, bias, inputs):
    coarse(monkeypatch)
    net, root = two_classes(bias, hidden, inputs), math.sqrt(inputs)
    x = (torch.tensor([[20.0], [40.0], [100.0]]) * 4 / inputs).expand(3, inputs)
    exact, deployed = net.certify(x), net.certify(x, guarantee="deployed")
    own = net.certify(x, dtype=torch.float32)
    network, x = net.network.double(), x.double()

    def worst(points):
        """The margin where the predicted logit errs down and the other up."""
        low, high = follow(network, points, -UNIT)[0], follow(network, points, UNIT)[0]
        return low[:, 0] - high[:, 1]

    def margin(points):
        return follow(network, points, 0.0)[0] @ torch.tensor([1.0, -1.0], dtype=torch.float64)

    constant = root * inputs / 2 if hidden else root
    assert torch.allclose(exact.radius, margin(x) / constant, rtol=1e-6)
    # At the edge of the ball the two logits may not meet, and need not stay far apart.
    moved = x - (deployed.radius / root)[:, None]
    off, allowed = margin(moved) - worst(moved), (exact.radius - deployed.radius) * constant
    some = (moved > 0).all(dim=1) & (deployed.radius > 0)
    outwards = x + (deployed.radius / root)[:, None]
    most = margin(outwards) - worst(outwards)
    assert (off <= allowed)[some].all() and (allowed <= 5 * most)[some].all()
    assert some.any() or inputs == 1
    # The program's own rounding: the logits may be off by as much at x alone.
    off, allowed, some = margin(x) - worst(x), (exact.radius - own.radius) * constant, own.radius > 0
    assert some.any() and (off <= allowed)[some].all() and (allowed <= 10 * off)[some].all()


@pytest.mark.parametrize("hidden", [False, True])
def test_a_radius_ends_where_the_deployed_network_could_overflow(monkeypatch, hidden):
    net = two_classes(hidden=hidden)
    x = torch.full((1, 4), 100.0)
    free = net.certify(x, guarantee="deployed").radius
    for largest in (100.0, 3000.0, 1e4):
        coarse(monkeypatch, largest)
        radius = net.certify(x, guarantee="deployed").radius
        moved = x.double() + (radius / 2)[:, None]
        reached = follow(net.network.double(), moved, UNIT)[1]
        net.network.float()
        assert radius >= 0 and (radius == 0 or reached <= largest)
        needed = follow(net.network.double(), x.double(), UNIT)[1]
        net.network.float()
        assert radius > 0 or needed > largest / 20
    coarse(monkeypatch, 1e30)
    assert 0.8 * free <= net.certify(x, guarantee="deployed").radius <= free


def test_the_rounding_of_the_predicted_logit_counts_where_the_other_has_none(monkeypatch):
    coarse(monkeypatch)
    net = GloroNet(nn.Sequential(nn.Linear(1, 2)), (1,), 0.1).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[100.0], [0.0]]))
        net.head.bias.copy_(torch.tensor([-50.0, 0.0]))
    x = torch.tensor([[1.0]])
    moved = 1 - net.certify(x, guarantee="deployed").radius.item()
    assert (100 * moved * (1 - UNIT) - 50) * (1 - UNIT) > 0
    assert 100 * net.certify(x, dtype=torch.float32).radius.item() <= (100 * (1 - UNIT) - 50) * (1 - UNIT)


def test_the_last_layer_s_weights_can_overflow(monkeypatch):
    net = GloroNet(nn.Sequential(nn.Linear(1, 2)), (1,), 0.1).eval()
    x = torch.tensor([[400.0]])
    for weights in ([[8.0], [0.0]], [[0.0], [8.0]]):
        with torch.no_grad():
            net.head.weight.copy_(torch.tensor(weights))
            net.head.bias.zero_()
        for largest in (5e3, 1e4):
            coarse(monkeypatch, largest)
            radius = net.certify(x, guarantee="deployed").radius
            assert (radius > 0) == (largest == 1e4)
            assert radius == 0 or net.logits(x + radius.float()).abs().max() <= largest


def test_rows_that_are_long_and_nearly_equal_overflow_before_they_meet(monkeypatch):
    net = GloroNet(nn.Sequential(nn.Linear(2, 2)), (2,), 0.1).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[8.0, 1.0], [8.0, -1.0]]))
        net.head.bias.copy_(torch.tensor([100.0, -100.0]))
    x = torch.tensor([[0.0, 1.0]])
    assert net.certify(x, guarantee="deployed").radius > 100
    coarse(monkeypatch, 300.0)
    radius = net.certify(x, guarantee="deployed").radius.float()
    assert radius > 0 and net.logits(x + torch.tensor([[1.0, 0.0]]) * radius).abs().max() <= 300


def test_the_rounding_of_the_last_layer_grows_with_the_radius(monkeypatch):
    """At 0 nothing is rounded but the biases; at the edge of the ball each logit has two roundings of 100 times the radius."""
    coarse(monkeypatch)
    net = GloroNet(nn.Sequential(nn.Linear(1, 2)), (1,), 0.1).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[100.0], [101.0]]))
        net.head.bias.copy_(torch.tensor([1.0, 0.001]))
    radius = net.certify(torch.zeros(1, 1), guarantee="deployed").radius.item()
    assert radius > 0.1 and (100 * radius * (1 - UNIT) + 1) * (1 - UNIT) > (101 * radius * (1 + UNIT) + 0.001) * (1 + UNIT)


def test_the_last_layer_overflows_first_where_it_stretches_most(monkeypatch):
    net = GloroNet(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), (2,), 0.1).eval()
    with torch.no_grad():
        net.network[0].weight.copy_(10 * torch.eye(2))
        net.network[0].bias.zero_()
        net.head.weight.copy_(torch.tensor([[8.0, 0.1], [8.0, -0.1]]))
        net.head.bias.copy_(torch.tensor([100.0, -100.0]))
    x = torch.tensor([[0.0, 1.0]])
    coarse(monkeypatch, 3000.0)
    radius = net.certify(x, guarantee="deployed").radius.float()
    assert radius > 0 and net.logits(x + torch.tensor([[1.0, 0.0]]) * radius).abs().max() <= 3000


def test_the_last_layer_s_biases_can_overflow(monkeypatch):
    net = GloroNet(nn.Sequential(nn.Linear(1, 2)), (1,), 0.1).eval()
    x = torch.tensor([[400.0]])
    for biases in ((1000.0, 0.0), (0.0, 1000.0)):
        with torch.no_grad():
            net.head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            net.head.bias.copy_(torch.tensor(biases))
        coarse(monkeypatch, 1500.0)
        radius = net.certify(x, guarantee="deployed").radius
        assert radius == 0 or net.logits(x + radius.float()).abs().max() <= 1500
        coarse(monkeypatch, 15000.0)
        assert net.certify(x, guarantee="deployed").radius > 0


def test_a_bias_alone_can_overflow():
    """The second layer's weights are so small that nothing after the first tells of its size."""
    net = GloroNet(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 2)), (1,), 0.1).eval()
    with torch.no_grad():
        for layer, weight, bias in zip(net.network, (1.0, 1e-38, torch.tensor([[1.0], [-1.0]])), (3e38, 0.0, 0.0), strict=True):
            layer.weight.copy_(torch.as_tensor(weight))
            layer.bias.fill_(bias)
    x = torch.tensor([[1.0]])
    radius = net.certify(x, guarantee="deployed").radius
    assert net.network(x + 0.99 * radius.float()).isfinite().all()


# ---- the network beside the program ----------------------------------------------------------------------------------------


def test_what_float32_loses_in_the_body_and_the_head_enlarges_is_no_difference():
    """2^20 is added and taken away: an error of 2^-4, of which the head makes 64."""
    net = GloroNet(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 2)), (1,), 0.1).eval()
    with torch.no_grad():
        for layer, weight, bias in zip(
            net.network, (1.0, 1.0, torch.tensor([[1e3], [-1e3]])), (2.0**20, -(2.0**20), 0.0), strict=True
        ):
            layer.weight.copy_(torch.as_tensor(weight))
            layer.bias.fill_(bias)
    assert net.certify(torch.tensor([[0.03]]), dtype=torch.float32).radius == 0 < net.certify(torch.tensor([[0.03]])).radius


@pytest.mark.parametrize("batch", [1, 2, 8, 30])
def test_a_difference_beyond_the_tolerance_is_noticed_from_the_first_to_the_last_input(batch):
    network = nn.Sequential(nn.Linear(2, 3))
    made = Program(network, (2,))
    x = torch.randn(batch, 2)
    logits = network.double()(x.double()).detach()
    tolerance = torch.full_like(logits, 1e-3)
    made.compare(x, logits, tolerance)
    made.compare(x, logits + 0.9e-3, tolerance)
    made.compare(x, logits - 0.9e-3, tolerance)
    if batch <= 8:
        made.compare(x, logits, torch.zeros_like(tolerance))
    made.compare(x[:0], logits[:0], tolerance[:0])
    for row in (0, batch - 1):
        for change in (1.1e-3, -1.1e-3):
            wrong = logits.clone()
            wrong[row, 2] += change
            with pytest.raises(NetworkError, match="something else"):
                made.compare(x, wrong, tolerance)
        wrong = logits.clone()
        wrong[row] = math.inf
        made.compare(x, wrong, tolerance)
    with pytest.raises(NetworkError, match="something else"):
        made.compare(x, logits[:, :2], tolerance[:, :2])


def test_a_batch_in_pieces_is_the_batch(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    net, x = GloroNet(network, (1, 4, 4), 0.1).eval(), torch.rand(7, 1, 4, 4)
    whole = [net.certify(x, guarantee=guarantee) for guarantee in ("exact", "deployed")]
    for before, guarantee, size in zip(whole, ("exact", "deployed"), (3 * 8 * 144, 1), strict=True):
        monkeypatch.setattr(program, "_BYTES", size)
        after = net.certify(x, guarantee=guarantee)
        assert torch.allclose(before.radius, after.radius, rtol=1e-9) and torch.equal(before.label, after.label)
        for row in range(7):
            single = net.certify(x[row : row + 1], guarantee=guarantee)
            assert torch.allclose(single.radius, before.radius[row], rtol=1e-9)


def test_the_bound_of_some_nodes_is_theirs():
    made = Program(positive(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)), (4,))
    assert [made.bound([node]) for node in made.nodes] == pytest.approx([2.0, 1.0, 1.0])
    assert made.bound() == pytest.approx(2.0) and made.bound([]) == 1.0
    assert made.norms == pytest.approx({"0": 2.0, "2": 1.0})
    assert upper_bound(positive(nn.Linear(4, 4)), (4,)) >= 2
