"""The bottom class, certificates and Theorems 1 and 2, attacked by search."""

import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gloro_lite import GloroNet, MinMax, NetworkError, UnknownLayerError
from gloro_lite.bottom import _distances, bottom_logit, margin_constants
from gloro_lite.certificate import certified_radius
from gloro_lite.evaluate import evaluate
from gloro_lite.layers import Absolute, GroupSort
from gloro_lite.lipschitz import layer_bound, upper_bound


class Watching(nn.Module):
    """Notes in what precision products are set to be computed while it runs."""

    seen: ClassVar[list[str]] = []

    def forward(self, x):
        Watching.seen.append(f"{x.dtype} {torch.is_autocast_enabled('cpu')}")
        return x


def test_certificates_are_computed_in_float64_whatever_is_set():
    layer_bound.register(Watching, lambda layer, shape: 1.0)
    net = GloroNet(nn.Sequential(Watching(), nn.Linear(2, 3)), (2,), 0.1).eval()
    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    try:
        with torch.autocast("cpu", torch.bfloat16):
            net.logits(torch.rand(1, 2))
            assert Watching.seen[-1] == "torch.float32 True"
            Watching.seen.clear()
            net.certify(torch.rand(1, 2))
            # The last time it is the network itself that is run beside the program; what is under autocast asks for shapes alone.
            assert "torch.float64 False" in Watching.seen and "torch.float64 True" not in Watching.seen
            assert Watching.seen[-1] == "torch.float32 False"
        assert products.fp32_precision == "tf32"  # another thread may rely on what is set for the process
    finally:
        products.fp32_precision = before


def small_net(seed=0, classes=3, epsilon=0.1, **kwargs):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 8), MinMax(), nn.Sequential(nn.Linear(8, 8), MinMax()), nn.Linear(8, classes))
    return GloroNet(network, (2,), epsilon, **kwargs)


def bottom_by_definition(logits, constants, epsilon):
    """Equation 1, one number at a time."""
    rows = []
    for y in logits.tolist():
        j = max(range(len(y)), key=lambda i: y[i])
        rows.append(max(y[i] + epsilon * constants[j][i].item() for i in range(len(y)) if i != j))
    return torch.tensor(rows, dtype=torch.float64)


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.01, 10), st.booleans())
def test_bottom_logit_and_radius_are_the_definitions(seed, classes, epsilon, tight):
    torch.manual_seed(seed)
    logits = torch.randn(16, classes, dtype=torch.float64)
    constants = margin_constants(torch.randn(classes, 4, dtype=torch.float64), 1.7, tight=tight)
    expected = bottom_by_definition(logits, constants, epsilon)
    assert torch.allclose(bottom_logit(logits, constants, epsilon), expected, rtol=1e-13)
    radius = certified_radius(logits, constants)
    for y, r in zip(logits, radius, strict=True):
        j = int(y.argmax())
        exact = min((y[j] - y[i]).item() / constants[j, i].item() for i in range(classes) if i != j)
        assert exact * (1 - 1e-14) <= r.item() <= exact


def test_margin_constants_of_the_two_forms():
    rows = torch.tensor([[3.0, 0.0], [0.0, 4.0], [3.0, 0.0]])
    assert margin_constants(rows, 2.0)[0].tolist() == [0.0, 10.0, 0.0]
    assert margin_constants(rows, 2.0, tight=False)[0].tolist() == [12.0, 14.0, 12.0]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_margin_constants_of_a_head_whose_weights_are_all_negative(size):
    rows = torch.tensor([[-1.0, -2.0], [-4.0, -6.0], [-1.0, -1.0]])
    expected = torch.tensor([[0.0, 5.0, 1.0], [5.0, 0.0, 34**0.5], [1.0, 34**0.5, 0.0]])
    assert torch.allclose(margin_constants(rows * size, 2.0) / size, 2 * expected)


def test_distances_are_those_of_pythagoras():
    assert _distances(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist() == [[0.0, 5.0], [5.0, 0.0]]


def test_rows_of_zeros_have_constants_of_zero():
    for tight in (True, False):
        assert torch.equal(margin_constants(torch.zeros(3, 4), 2.0, tight=tight), torch.zeros(3, 3))


def test_distances_without_cdist_have_its_values_and_gradients():
    torch.manual_seed(0)
    rows = torch.randn(5, 7, dtype=torch.float64)
    rows[3] = rows[1]
    weights = torch.randn(5, 5, dtype=torch.float64)
    rows.requires_grad_()
    (expected,) = torch.autograd.grad((margin_constants(rows, 1.0) * weights).sum(), rows)
    (gradient,) = torch.autograd.grad((_distances(rows) * weights).sum(), rows)
    torch.testing.assert_close(_distances(rows), margin_constants(rows, 1.0))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("logits", "radius"),
    [
        ([1.0, 1.0, 0.0], 0.0),  # a tie for the top
        ([math.nan, 1.0, 0.0], 0.0),
        ([0.0, math.nan, 1.0], 0.0),
        ([math.inf, 0.0, 0.0], 0.0),
        ([-math.inf, 0.0, 1.0], 0.0),
    ],
)
def test_ties_and_logits_that_are_not_finite_have_no_radius(logits, radius):
    assert certified_radius(torch.tensor([logits]), torch.ones(3, 3)).item() == radius


def test_a_constant_of_zero_divides_no_tie():
    constants = torch.zeros(2, 2)
    assert certified_radius(torch.tensor([[1.0, 1.0]]), constants).item() == 0.0
    assert certified_radius(torch.tensor([[2.0, 1.0]]), constants).item() == math.inf


def test_margin_equal_to_epsilon_times_constant_is_bottom():
    """f(x) = (x, -x) has K_01 = 2: at x = 0.25 the boundary is exactly 0.25 away, where the logits tie."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    net = GloroNet(network, (1,), 0.25)
    c = net.certify(torch.tensor([[0.25], [0.2500001], [-0.5]]))
    assert c.label.tolist() == [-1, 0, 1]
    assert c.radius[0] <= 0.25
    assert c.radius.tolist() == pytest.approx([0.25, 0.2500001, 0.5], rel=1e-6)


def test_a_bound_one_percent_smaller_certifies_a_point_that_an_attack_moves():
    """The linear net again: its certificate is exact, so that scaling the constants by 0.99 proves a falsehood."""
    network = nn.Sequential(nn.Linear(2, 2))
    net = GloroNet(network, (2,), 0.1)
    x = torch.randn(100, 2)
    c = net.certify(x)
    w = (network[0].weight[0] - network[0].weight[1]).detach()
    towards = torch.where((c.prediction == 0)[:, None], -w, w) / w.norm()

    def survives(radius):
        moved = x + radius[:, None].float() * towards
        return (net.certify(moved).prediction == c.prediction).all()

    assert survives(c.radius * 0.9999)
    cheating = certified_radius(net.logits(x).detach(), net.margin_constants() * 0.99)
    assert not survives(cheating)


@given(st.integers(0, 10**6), st.booleans())
def test_theorem_1_no_point_within_epsilon_of_a_certified_one_has_another_label(seed, tight):
    net = small_net(seed, epsilon=0.05, tight=tight)
    x = torch.randn(64, 2)
    c = net.certify(x)
    directions = nn.functional.normalize(torch.randn(64, 200, 2), dim=2)
    moved = x[:, None] + c.radius[:, None, None].float() * 0.999999 * directions
    labels = net.certify(moved.reshape(-1, 2)).prediction.view(64, 200)
    assert (labels == c.prediction[:, None])[c.radius > 0].all()
    assert ((c.label == c.prediction) == (c.radius > 0.05)).all()


@given(st.integers(0, 10**6))
def test_theorem_2_the_net_built_at_half_epsilon_is_globally_robust_at_epsilon(seed):
    """Two points within epsilon of each other never get different labels other than bottom."""
    epsilon = 0.2
    net = small_net(seed, epsilon=epsilon / 2)
    x = torch.randn(400, 2)
    y = x + epsilon * torch.rand(400, 1).sqrt() * nn.functional.normalize(torch.randn(400, 2), dim=1)
    a, b = net.certify(x).label, net.certify(y).label
    assert ((a == b) | (a == -1) | (b == -1)).all()


def test_tight_form_certifies_all_that_the_conservative_form_does():
    tight, loose = small_net(3), small_net(3, tight=False)
    x = torch.randn(500, 2)
    assert (tight.certify(x).radius >= loose.certify(x).radius).all()
    assert (tight.margin_constants() <= loose.margin_constants()).all()


def test_outputs_shapes_and_modes():
    net = small_net()
    x = torch.randn(5, 2)
    assert net(x).shape == (5, 4) and net.logits(x).shape == (5, 3)
    assert torch.equal(net(x)[:, :3], net.logits(x))
    net.eval()
    outputs, c = net(x), net.certify(x)
    assert ((outputs.argmax(1) == 3) == (c.label == -1)).all()
    assert c.label.dtype == torch.int64 and c.radius.dtype == torch.float64
    strict = net.certify(x, epsilon=1e9)
    assert (strict.label == -1).all() and torch.equal(strict.radius, c.radius)


def test_margin_constants_follow_every_change_of_a_weight():
    net = small_net()
    before = net.margin_constants()
    program = net.program()
    net.margin_constants().zero_()  # the caller's own copy
    assert torch.equal(net.margin_constants(), before) and net.program() is program
    net.network[0].weight.data.mul_(2)  # .data hides the change from version counters
    after = net.margin_constants()
    assert torch.allclose(after, 2 * before, rtol=1e-4)
    net.network[-1].weight.data.mul_(3)
    assert torch.allclose(net.margin_constants(), 3 * after, rtol=1e-6)


def test_certified_table_is_at_least_the_exact_one():
    net = small_net()
    norms = math.prod(torch.linalg.matrix_norm(layer.weight.double(), 2).item() for layer in (net.network[0], net.network[2][0]))
    w = net.head.weight.detach().double()
    for i in range(3):
        for j in range(3):
            assert net.margin_constants()[i, j] >= (w[i] - w[j]).norm() * norms


def test_training_estimate_is_near_and_not_above_the_certified_table():
    net = small_net()
    net.converge()
    estimate, certified = net.estimate().detach().double(), net.margin_constants()
    off = ~torch.eye(3, dtype=torch.bool)
    assert (estimate <= certified * (1 + 1e-6)).all()
    assert (estimate[off] / certified[off]).min() > 0.99


def test_state_dict_round_trip():
    net, other = small_net(0), small_net(1)
    other.load_state_dict(net.state_dict())
    x = torch.randn(4, 2)
    assert torch.equal(net.certify(x).radius, other.certify(x).radius)


def test_spatial_network_with_an_input_shape():
    network = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), MinMax(), nn.Flatten(), nn.Linear(64, 10))
    net = GloroNet(network, input_shape=(1, 8, 8), epsilon=0.3)
    assert net(torch.rand(2, 1, 8, 8)).shape == (2, 11)
    exact = upper_bound(network[:3], (1, 8, 8))
    assert net.converge() == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("epsilon", [0, -0.1, math.nan, math.inf])
def test_epsilon_must_be_positive_and_finite(epsilon):
    with pytest.raises(ValueError, match="finite number greater than 0"):
        small_net(epsilon=epsilon)
    net = small_net()
    with pytest.raises(ValueError, match="finite number greater than 0"):
        net.certify(torch.zeros(1, 2), epsilon=epsilon)
    with pytest.raises(ValueError, match="finite number greater than 0"):
        net.epsilon = epsilon


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(2, 4), MinMax()), "it ends in MinMax"),
        (nn.Sequential(), "it ends in nothing"),
        (nn.Sequential(nn.Linear(2, 1)), "one class"),
        (nn.Sequential(nn.Linear(3, 2)), r"layer '0' \(Linear\)"),
    ],
)
def test_networks_that_are_no_classifiers(network, message):
    with pytest.raises(ValueError, match=message):
        GloroNet(network, (2,), 0.1)


def test_unknown_layer_at_construction():
    with pytest.raises(UnknownLayerError, match=r"layer '0'.*LogSigmoid.*register"):
        GloroNet(nn.Sequential(nn.LogSigmoid(), nn.Linear(2, 2)), (2,), 0.1)
    with pytest.raises(UnknownLayerError, match=r"layer '0' \(Softmax\).*leave it to the loss"):
        GloroNet(nn.Sequential(nn.Softmax(1), nn.Linear(2, 2)), (2,), 0.1)


def test_bad_inputs_are_never_certified():
    net = small_net()
    x = torch.zeros(3, 2)
    x[1, 0] = math.nan
    with pytest.raises(ValueError, match="input 1 of the batch"):
        net.certify(x)
    with pytest.raises(ValueError, match=r"must have shape \(batch, 2\), not \(3, 5\)"):
        net.certify(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"x\[None\]"):
        net.certify(torch.zeros(2))
    with pytest.raises(TypeError, match="float32 or float64"):
        net.certify(torch.zeros(1, 2, dtype=torch.uint8))
    with pytest.raises(TypeError, match="convert one of them"):
        net.certify(torch.zeros(1, 2, dtype=torch.float64))
    net.network[0].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        net.certify(torch.zeros(1, 2))


def test_a_batch_whose_sum_overflows_is_not_mistaken_for_an_infinite_one():
    net = small_net()
    assert net.certify(torch.full((4, 2), 3e38)).radius.shape == (4,)
    with pytest.raises(ValueError, match="input 2 of the batch"):
        net.certify(torch.tensor([[3e38, 3e38], [0, 0], [math.inf, -math.inf], [-math.inf, 0]]))


def test_what_overflows_is_bottom_with_certainty():
    """And no class beside it, whatever the softmax of the outputs is used for."""
    net = GloroNet(nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 4)), (2,), 0.1).double().eval()
    for weight in (net.network[0].weight, net.head.weight):
        weight.data.mul_(1e150)
    outputs = net(torch.tensor([[1e10, 1e10], [0.0, 0.0]], dtype=torch.float64))
    assert outputs[0].softmax(dim=0).tolist() == [0, 0, 0, 0, 1]
    assert outputs[1].isfinite().all() and outputs[1, :-1].tolist() == net.head.bias.tolist()


def test_outputs_in_eval_mode_are_the_logits_with_their_gradients_where_nothing_is_tied():
    torch.manual_seed(0)
    net = GloroNet(nn.Sequential(nn.Linear(4, 8), MinMax(), nn.Linear(8, 3)), (4,), 1e-3).double().eval()
    x = torch.rand(20, 4, dtype=torch.float64, requires_grad=True)
    outputs, logits = net(x), net.logits(x)
    sure = net.certify(x).radius > net.epsilon
    assert sure.sum() >= 15 and torch.equal(outputs[sure, :-1], logits[sure])
    for kind in range(3):
        found, meant = (torch.autograd.grad(y[sure, kind].sum(), x, retain_graph=True)[0] for y in (outputs, logits))
        assert torch.equal(found, meant)


def test_infinite_head_is_an_error():
    net = small_net()
    net.head.bias.data[0] = math.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        net.certify(torch.zeros(1, 2))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.5)])
def test_layers_in_training_mode_are_not_certified(layer):
    layer.train()
    net = GloroNet(nn.Sequential(nn.Linear(2, 4), layer, nn.Linear(4, 2)), (2,), 0.1)
    net.train()
    assert net(torch.randn(8, 2)).shape == (8, 3)
    with pytest.raises(ValueError, match=r"training mode.*\.eval\(\)"):
        net.certify(torch.zeros(2, 2))
    net.eval()
    assert net.certify(torch.zeros(2, 2)).label.shape == (2,)


def test_minmax_sorts_pairs_and_needs_an_even_number():
    x = torch.tensor([[3.0, 1.0, 2.0, 5.0]], requires_grad=True)
    y = MinMax()(x)
    assert y.tolist() == [[2.0, 1.0, 3.0, 5.0]]
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [[3.0, 2.0, 1.0, 4.0]]
    with pytest.raises(ValueError, match="even"):
        MinMax()(torch.zeros(1, 3))
    images = torch.randn(2, 4, 3, 3, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(MinMax(), images)
    assert torch.autograd.gradgradcheck(MinMax(), images)
    assert MinMax()(images).is_contiguous(memory_format=torch.channels_last)
    # Under a compiler it is written differently, and must compute the same.
    compiled = torch.compile(MinMax(), backend="aot_eager")(images)
    assert torch.equal(compiled, MinMax()(images))
    (ours,), (theirs,) = (torch.autograd.grad(out.square().sum(), images) for out in (MinMax()(images), compiled))
    torch.testing.assert_close(ours, theirs)


def test_errors_of_what_is_no_tensor_shape_or_number():
    net = GloroNet(nn.Sequential(nn.Linear(4, 3)), (4,), 0.1).eval()
    x, y = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    for shape in ("abc", 4, None, (4.5,)):
        with pytest.raises(TypeError, match="input_shape is that of one input"):
            GloroNet(net.network, shape, 0.1)
    for iterations in (1.5, "a"):
        with pytest.raises(ValueError, match="iterations must be a whole number"):
            GloroNet(net.network, (4,), 0.1, power_iterations=iterations)
    for images, labels in ((x.tolist(), y), (x.numpy(), y), (x, y.tolist()), (x, y.numpy())):
        with pytest.raises(TypeError, match=r"must be a torch.Tensor, not (list|ndarray): torch.as_tensor"):
            evaluate(net, images, labels)
    with pytest.raises(TypeError, match=r"a torch.nn.Module is needed, not NoneType"):
        upper_bound(None, (4,))


class Failing(nn.Module):
    def forward(self, x):
        raise KeyError("mask")


def test_what_a_registered_layer_raises_is_told_with_its_name():
    layer_bound.register(Failing, lambda layer, shape: 1.0)
    with pytest.raises(NetworkError, match=r"layer '0' .*Failing.*KeyError\('mask'\)"):
        GloroNet(nn.Sequential(Failing(), nn.Linear(4, 3)), (4,), 0.1)


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4, 6]), st.sampled_from([(), (3,), (2, 3)]))
def test_groupsort_sorts_each_group_and_moves_no_two_points_apart(seed, size, rest):
    torch.manual_seed(seed)
    layer, groups = GroupSort(size), 2
    x, z = torch.randn(2, 3, size * groups, *rest, dtype=torch.float64)
    y = layer(x)
    for before, after in zip(x.reshape(3, size * groups, -1), y.reshape(3, size * groups, -1), strict=True):
        for group in range(groups):
            for members, ascending in zip(before[group::groups].T.tolist(), after[group::groups].T.tolist(), strict=True):
                assert ascending == sorted(members)
    assert ((y - layer(z)).flatten(1).norm(dim=1) <= (x - z).flatten(1).norm(dim=1) * (1 + 1e-12)).all()
    if size == 2:
        assert torch.equal(y, MinMax()(x))


def test_groupsort_and_absolute_have_gradients_of_the_same_length():
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    for layer in (GroupSort(4), Absolute()):
        assert torch.autograd.gradcheck(layer, x)
        assert torch.autograd.gradgradcheck(layer, x)
        assert layer(x).is_contiguous(memory_format=torch.channels_last)
        upstream = torch.randn_like(x)
        (gradient,) = torch.autograd.grad(layer(x), x, upstream)
        assert gradient.norm().item() == pytest.approx(upstream.norm().item())
    for wrong in (1, 0, 2.0, "4"):
        with pytest.raises(ValueError, match="at least 2"):
            GroupSort(wrong)
    for wrong in (torch.zeros(2, 6), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"multiple of 4"):
            GroupSort(4)(wrong)
    assert repr(GroupSort(4)) == "GroupSort(4)"
