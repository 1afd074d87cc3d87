"""What a bound's own arithmetic rounds away is added again: what comes out is at least the exact result of what went in.

Fractions say what that is. Where a bound leaves room for PyTorch's rounding, PyTorch's functions err here by all that they may.
"""

import math
import random
from fractions import Fraction as Q

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, NetworkError, Normalize, Residual, net
from gloro_lite.certificate import check_epsilon
from gloro_lite.lipschitz import affine, layer_bound, linear_operator, nodes, norms, program
from gloro_lite.lipschitz.banded import BandedGram
from gloro_lite.lipschitz.nodes import Deviation, Node, Rounding, Sum, Track
from gloro_lite.lipschitz.rounding import DOUBLE, Format, Upper, length_up
from gloro_lite.lipschitz.walk import walk

EXACT = Format(0.0, 0.0, math.inf)
"""A format that rounds nothing: all that is left is the rounding of the bounds themselves."""
DRAWS = 50


def draw(count, seed):
    """Numbers of several sizes."""
    numbers = random.Random(seed)
    return [numbers.uniform(0.5, 1.0) * 2.0 ** numbers.randint(-4, 4) for _ in range(count)]


def one(value):
    return torch.tensor([value], dtype=torch.float64)


class Given(Node):
    """A node that gives what it is told to: a value, or a whole track."""

    def __init__(self, given):
        super().__init__(nn.Identity(), (1,), (1,), "")
        self.given = given

    def apply(self, x):
        return self.given

    def follow(self, track, constants):
        return self.given if isinstance(self.given, Track) else super().follow(track, constants)


class Told:
    """The constants of a node, as they are told."""

    def __init__(self, bound, rounding=None, own=EXACT, deployed=EXACT):
        self.own, self.deployed, self._bound, self._rounding = own, deployed, bound, rounding

    def bound(self, node):
        return Upper(self._bound)

    def rounding(self, node, number):
        return self._rounding


def track(value, length, lipschitz, own, at, slope, largest=0.0, growth=0.0):
    return Track(one(value)[None], one(length), Upper(lipschitz), one(own), Deviation(one(at), slope), (one(largest), growth))


# ---- layers ----------------------------------------------------------------------------------------------------------------


def test_what_a_layer_makes_of_errors_is_rounded_up():
    for seed in range(DRAWS):
        numbers = draw(11, seed)
        bound, gain, constant, peak, peak_constant, value, length, lipschitz, own, at, slope = map(Q, numbers)
        rounding = Rounding(*map(float, (gain, constant, peak, peak_constant)))
        for size in (value, Q(0)):
            found = Given(one(float(size))[None]).follow(track(0.0, *numbers[6:]), Told(numbers[0], rounding))
            off = bound * own + gain * length + constant
            assert Q(found.own.item()) >= off
            assert Q(found.length.item()) >= size + off
            assert Q(found.lipschitz) >= bound * lipschitz
            reach, stretch = length + at, lipschitz + slope
            assert Q(found.deployed.at.item()) >= bound * at + gain * reach + constant
            assert Q(found.deployed.slope) >= bound * slope + gain * stretch
            highest = max(bound, peak) * reach + gain * reach + constant + peak_constant + size
            assert Q(found.largest[0].item()) >= highest and Q(found.largest[1]) >= (max(bound, peak) + gain) * stretch


@pytest.mark.parametrize("unit", [0.0, 2.0**-5])
def test_what_a_sum_makes_of_errors_is_rounded_up(unit):
    for seed in range(DRAWS):
        # Values are no longer than their lengths; errors over the ball may be far larger than those.
        first, second = ([a, a + b + c, k, c, 32 * d, 32 * e] for a, b, k, c, d, e in (draw(6, 2 * seed), draw(6, 2 * seed + 1)))
        number = Format(unit, 0.0, math.inf)
        node = Sum(nn.Identity(), (1,), "", Given(track(*first)), Given(track(*second)))
        found = node.follow(track(*draw(6, -seed)), Told(2.0, own=number, deployed=number))
        value, length, lipschitz, own, at, slope = (Q(a) + Q(b) for a, b in zip(first, second, strict=True))
        assert Q(found.own.item()) >= own + Q(unit) * value
        assert Q(found.length.item()) >= Q(found.value.item()) + own
        assert Q(found.deployed.at.item()) >= at + Q(unit) * (length + at)
        assert Q(found.deployed.slope) >= slope + Q(unit) * (lipschitz + slope)
        assert Q(found.largest[0].item()) >= (1 + Q(unit)) * (length + at)
        assert Q(found.largest[1]) >= (1 + Q(unit)) * (lipschitz + slope)


def test_the_sum_of_two_paths_without_a_layer_is_twice_as_large():
    """Such a path counts its input once, whatever layers count: the sum is larger than all that came before it."""
    made = program.Program(nn.Sequential(Residual(nn.Sequential(), nn.Sequential()), nn.Linear(2, 2)), (2,))
    result = made.run(torch.tensor([[3.0, 4.0]]), made.nodes[:1], deployed=torch.float32)
    assert result.value.tolist() == [[6, 8]] and result.largest >= 10 and result.growth >= 2


def test_before_the_first_layer_the_input_itself_is_the_largest_number_and_grows_with_the_radius():
    made = program.Program(nn.Linear(2, 2), (2,))
    result = made.run(torch.tensor([[3.0, 4.0]]), [], deployed=torch.float32)
    assert result.largest.item() == pytest.approx(5) and result.largest >= 5 and result.growth == 1


def test_the_length_of_an_offset_is_rounded_up(monkeypatch):
    """Beyond what the length of the bias has to spare: that one is exact here."""
    monkeypatch.setattr(affine, "_length", lambda bias: bias.abs().item())
    for places in range(2, 12):
        for layer, shape in (
            (nn.Linear(3, 1), (places, 3)),
            (nn.Conv2d(1, 1, 1), (1, 1, places)),
            (nn.ConvTranspose2d(1, 1, 1), (1, 1, places)),
        ):
            nn.init.constant_(layer.bias, 0.3 + places / 7)
            exact = Q(layer.bias.item()) ** 2 * places
            assert exact <= Q(walk(layer, shape).offset_length()) ** 2


# ---- lengths and norms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 8))
def test_lengths_below_the_smallest_normal_number_are_rounded_up(count):
    smallest = 5e-324
    rows = torch.full((1, count), smallest, dtype=torch.float64)
    assert Q(length_up(rows).item()) ** 2 >= count * Q(smallest) ** 2


def test_lengths_leave_room_for_powers_of_two_and_norms_that_err(monkeypatch):
    """Four powers that err by two units, products with them, and a norm whose squares, sum and root are each rounded."""
    power, norm, unit = torch.exp2, torch.linalg.vector_norm, DOUBLE.unit
    monkeypatch.setattr(torch, "exp2", lambda x: power(x) * (1 - 2 * unit))
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda x, dim: norm(x, dim=dim) * (1 - (x.shape[1] / 2 + 1) * unit))
    for scale in (1e-200, 0.3, 1.0, 7.0, 1e200):
        assert Q(length_up(one(scale)[None]).item()) >= Q(scale)
        assert Q(length_up(torch.full((1, 4), scale, dtype=torch.float64)).item()) >= 2 * Q(scale)


def test_the_length_of_a_single_number_leaves_room_for_its_square_and_root(monkeypatch):
    """Of which each is rounded, though PyTorch takes the absolute value."""
    number = Format(2.0**-10, 0.0, math.inf)
    norm = torch.linalg.vector_norm
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda x, dim: norm(x, dim=dim) * (1 - 1.5 * number.unit))
    assert nodes.lengths(torch.ones(1, 1, dtype=torch.float64), number).item() >= 1


@pytest.mark.parametrize("scale", [1.0, 2.0**-500, 2.0**900, 2.0**-1060])
def test_a_difference_of_rows_is_rounded_up(monkeypatch, scale):
    """Beyond what lengths have to spare: those are exact here."""
    monkeypatch.setattr(norms, "length_up", lambda x: x.abs()[:, 0])
    rows = torch.tensor([[1.0], [0.1], [2.0**-60], [-0.3], [1e-9], [1.0], [0.0]], dtype=torch.float64)
    small = torch.tensor([[1e-150], [-1e-150], [1e-170], [-1e-170]], dtype=torch.float64)
    rows = torch.cat((rows, small)) * scale
    for i, row in enumerate(norms.row_distances(rows).tolist()):
        for j, distance in enumerate(row):
            exact = abs(Q(rows[i].item()) - Q(rows[j].item()))
            assert exact <= Q(distance) <= max(exact * (1 + Q(1e-13)), Q(2.0**-1022) if exact else 0)


def test_rows_differ_by_no_less_than_by_the_sum_of_squares(monkeypatch):
    """Where the sum of squares errs by all that it may."""
    distances = torch.cdist

    def low(a, b, **k):
        return distances(a, b, **k) * (1 - 0.5 * (a.shape[1] + 4) * 2.0**-53)

    monkeypatch.setattr(torch, "cdist", low)
    found = norms.row_distances(torch.eye(50, dtype=torch.float64))[0, 1].item()
    assert Q(found) ** 2 >= 2 and found <= math.sqrt(2) * (1 + 1e-13)
    sizes = torch.linspace(0, 2, 50, dtype=torch.float64)  # of two squares, one of which is 0
    found = norms.row_distances(torch.stack((sizes, torch.zeros(50)), dim=1))[0]
    assert (sizes <= found).all() and (found <= sizes * (1 + 1e-13)).all()


def test_the_root_of_an_eigenvalue_is_rounded_up(monkeypatch):
    layer = nn.Conv2d(1, 1, 3, padding=1).double()
    nn.init.constant_(layer.weight, 0.75)  # of scale 1
    operator = linear_operator(layer, (1, 4, 4))
    for eigenvalue in [number for number in range(2, 20) if Q(math.sqrt(number)) ** 2 < number][:3]:
        monkeypatch.setattr(norms, "_proven_eigenvalue", lambda *a, eigenvalue=eigenvalue: float(eigenvalue))
        for proof in (norms.unrolled_norm, norms.banded_norm, norms.torus_norm):
            assert Q(proof(operator)) ** 2 >= Q(eigenvalue)


def test_the_entries_of_a_gram_matrix_are_sums_of_few_products_or_many(monkeypatch):
    """Of a single one, and of a whole image: of n, they err by gamma_n."""
    errors, double = [], Format(2.0**-20, 2.0**-60, math.inf)
    monkeypatch.setattr(norms, "_proven_eigenvalue", lambda top, is_below, size, band, trace, error: errors.append(error) or 1.0)
    monkeypatch.setattr(norms, "DOUBLE", double)
    for layer, shape, proof, terms in (
        (nn.AdaptiveAvgPool2d(1), (1, 40, 40), norms.unrolled_norm, 1600),
        (nn.Linear(1, 1), (1,), norms.unrolled_norm, 1),
        (nn.Conv2d(1, 1, 1), (1, 3, 3), norms.banded_norm, 1),
        (nn.ConvTranspose2d(40, 1, 1, bias=False), (40, 1, 1), norms.unrolled_norm, 40),
        # Its one pixel stands 41 times in the padded row, which 39 windows of three read.
        (nn.Conv1d(1, 1, 3, padding=20, padding_mode="replicate", bias=False), (1, 1), norms.unrolled_norm, 117),
        # Padded along one axis and not along the other.
        (nn.Conv2d(40, 1, (1, 3), padding=(0, 1), padding_mode="circular"), (40, 1, 3), norms.unrolled_norm, 120),
        # A product of twenty factors, each of which was rounded when it was made.
        (nn.Sequential(*[Normalize([0.5], [1.0])] * 20), (1, 2, 2), norms.unrolled_norm, 40),
    ):
        for weight in layer.parameters():
            nn.init.ones_(weight)
        operator = linear_operator(layer.double(), shape)
        proof(operator)
        # Weights of 1 are halved, and where there are none they count as 1.
        assert errors.pop() >= terms * double.unit * operator.matrix().square().sum().item() / 4


def test_a_scale_below_0_counts_by_its_size():
    layer = nn.BatchNorm1d(2, eps=0.0).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([-30.0, 1.0]))
    operator = walk(layer.double(), (2,))
    assert operator.bound(norms.Proven()) >= 30
    assert operator.rounding(DOUBLE, 30.0).gain >= 30 * DOUBLE.unit


def test_a_divisor_below_0_counts_by_its_size():
    """The sum of a window is the mean, times the divisor."""
    for divisor, least in ((-8, 8), (8, 8), (2, 4)):
        pool = walk(nn.AvgPool2d(2, divisor_override=divisor), (1, 4, 4))
        plain = nodes.SumsOfProducts.rounding(pool, DOUBLE, 1.0)
        assert pool.rounding(DOUBLE, 1.0).peak >= least * plain.peak > 0


@pytest.mark.parametrize(("pivots", "failed"), [([1.0, 0.0, 2.0], 0), ([1.0, math.nan, 2.0], 0), ([1.0, 1.0, 2.0], 2)])
def test_a_factorisation_that_fails_in_any_way_proves_nothing(monkeypatch, pivots, failed):
    """It may say so, or leave a pivot that is not positive or no number."""
    layer = nn.Conv2d(1, 1, 3, padding=1).double()
    gram = BandedGram(linear_operator(layer, (1, 3, 3)))
    assert gram.is_below(100.0)
    found = torch.diag(torch.tensor(pivots, dtype=torch.float64)), torch.tensor(failed)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda m: found)
    assert not gram.is_below(100.0)


# ---- the last layer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tight", [True, False])
def test_margin_constants_are_rounded_up(tight):
    torch.manual_seed(0)
    made = GloroNet(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 30)), (2,), 0.1, tight=tight).eval()
    state = made.state()
    body, head = Q(state.program.bound(state.program.nodes[:-1])), state.head
    for i in range(30):
        for j in range(i):
            of_rows = Q(head.distances[i, j].item()) if tight else Q(head.lengths[i].item()) + Q(head.lengths[j].item())
            assert Q(head.table[i, j].item()) >= of_rows * body


def features(length=0.0, lipschitz=0.0, own=0.0, at=0.0, slope=0.0, largest=0.0, growth=0.0, count=1):
    value = torch.zeros(1, count, dtype=torch.float64)
    return program.Result(value, one(length), Upper(lipschitz), one(own), one(at), slope, one(largest), growth)


def last_layer(distance=0.0, lengths=(0.0, 0.0), offsets=(0.0, 0.0)):
    distances = torch.tensor([[0.0, distance], [distance, 0.0]], dtype=torch.float64)
    lengths, offsets = (torch.tensor(each, dtype=torch.float64) for each in (lengths, offsets))
    return net.Head(distances, lengths, offsets, distances)


LOGITS = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def test_what_the_last_layer_makes_of_errors_is_rounded_up():
    for seed in range(DRAWS):
        numbers = draw(4, seed)
        distance, own, at, slope = map(Q, numbers)
        head, given = last_layer(numbers[0]), features(own=numbers[1], at=numbers[2], slope=numbers[3])
        error, growth = net._margin_errors(given, head, LOGITS, EXACT, None)
        assert Q(error[0, 1].item()) >= distance * own and growth == 0
        error, growth = net._margin_errors(given, head, LOGITS, EXACT, EXACT)
        assert Q(error[0, 1].item()) >= distance * (own + at)
        assert Q(growth[0, 1].item()) >= distance * slope


@pytest.mark.parametrize("count", [1, 3, 10])
def test_the_last_layer_s_own_rounding_is_that_of_its_sums(count):
    """A sum of n products and a bias errs by gamma of n + 1 [Higham 2002, 3.1]; at features that are off, where they may be."""
    number = Format(2.0**-7, 0.0, math.inf)
    gamma = (count + 1) * Q(number.unit) / (1 - (count + 1) * Q(number.unit))
    lengths, offsets = (3.0, 5.0), (7.0, 0.5)
    head = last_layer(0.0, lengths, offsets)
    given = features(length=1.0, lipschitz=1.0, at=10.0, slope=10.0, count=count)
    alone = net._logit_errors(given, head, number)[0]
    for found, length, offset in zip(alone.tolist(), lengths, offsets, strict=True):
        assert Q(found) >= gamma * (Q(length) + Q(offset))
    error, growth = net._margin_errors(given, head, LOGITS, EXACT, number)
    assert Q(error[0, 1].item()) >= gamma * (11 * sum(map(Q, lengths)) + sum(map(Q, offsets)))
    assert Q(growth[0, 1].item()) >= gamma * 11 * sum(map(Q, lengths))
    # Of n products and n additions at most n fall below the smallest normal number, since what is 0 adds nothing; what is lost
    # may grow by the roundings that follow.
    fallen = Format(2.0**-7, 1.0, math.inf)
    assert Q(net._logit_errors(features(count=count), last_layer(), fallen)[0, 0].item()) >= count * (1 + gamma)


def test_the_radius_up_to_which_nothing_overflows_is_rounded_down():
    for seed in range(DRAWS):
        largest, growth, most = draw(3, seed)
        number, free = Format(0.0, 0.0, 4 * most + largest), one(math.inf)
        radius = net._without_overflow(free, features(largest=largest, growth=growth), last_layer(), number).item()
        assert radius > 0 and Q(largest) + Q(growth) * Q(radius) <= Q(number.largest)


def test_features_that_are_far_off_overflow_in_the_last_layer():
    free, head, number = one(math.inf), last_layer(lengths=(1.0, 0.5)), Format(0.0, 0.0, 5.0)
    assert net._without_overflow(free, features(length=1.0, at=10.0, growth=0.1), head, number) == 0
    radius = net._without_overflow(free, features(lipschitz=1.0, slope=10.0, growth=0.1), head, number).item()
    assert 0 < 11 * radius <= 5


# ---- certificates ----------------------------------------------------------------------------------------------------------


def test_an_infinite_epsilon_is_refused():
    for wrong in (math.inf, math.nan, 0.0):
        with pytest.raises(ValueError, match="finite number greater than 0"):
            check_epsilon(wrong)


def test_float64_is_asked_where_float32_s_rounding_alone_hides_a_label(monkeypatch):
    formats = {torch.float64: DOUBLE, torch.float32: Format(2.0**-10, 2.0**-60, 2.0**60)}
    for module in (program, net):
        monkeypatch.setattr(module, "number_format", formats.__getitem__)
    made = GloroNet(nn.Sequential(nn.Linear(2, 2)), (2,), 0.1).eval()
    with torch.no_grad():
        made.head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        made.head.bias.zero_()
    x = torch.tensor([[1.0, 2.0]])
    coarse, fine = (made.certify(x, dtype=dtype).radius.item() for dtype in (torch.float32, torch.float64))
    assert coarse < fine
    for share in (0.01, 0.5, 0.99):
        epsilon = coarse + share * (fine - coarse)
        assert made.certify(x, epsilon, dtype=None).label.tolist() == made.certify(x, epsilon).label.tolist() == [0]


def test_one_channel_that_is_divided_by_zero_is_enough():
    normal, norm = Normalize([0.0, 0.0], [1.0, 1.0]), nn.BatchNorm1d(2, eps=0.0).eval()
    for layer, buffer in ((normal, normal.std), (norm, norm.running_var)):
        assert walk(layer, (2,)).output_shape == (2,)
        buffer[1] = 0.0
        with pytest.raises(NetworkError, match=r"divided|divides"):
            walk(layer, (2,))


def test_weights_that_are_plain_attributes_are_looked_at_and_what_one_s_own_layer_keeps_is_its_affair():
    layer, own = nn.Linear(2, 2), Wrapped()
    layer_bound.register(Wrapped, lambda layer, shape: 1.0)
    weight = layer.weight.detach().double()
    del layer.weight
    layer.weight, own.kept = weight, torch.zeros(1, dtype=torch.float64)
    assert program.Program(nn.Sequential(own, nn.Linear(2, 2)).eval(), (2,)).bound() > 0
    with pytest.raises(NetworkError, match="several types"):
        program.Program(nn.Sequential(layer, nn.Linear(2, 2)).eval(), (2,))


class Wrapped(nn.Module):
    """A layer of one's own that is made of another."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(x)


def test_a_layer_of_one_s_own_is_in_eval_mode_in_all_its_parts():
    layer_bound.register(Wrapped, lambda layer, shape: 1.0)
    wrapped = Wrapped()
    made, x = GloroNet(nn.Sequential(wrapped, nn.Linear(2, 2)), (2,), 0.1).eval(), torch.rand(1, 2)
    assert made.certify(x).label.shape == (1,)
    for part in (wrapped, wrapped.inner):
        made.eval()
        part.training = True
        with pytest.raises(NetworkError, match="training mode"):
            made.certify(x)
