"""Certificates against exact arithmetic: rounding is counted, and never more than needed to matter."""

import math
from fractions import Fraction as Q

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gloro_lite import GloroNet, MinMax, Normalize, Residual
from gloro_lite.layers import Absolute, GroupSort
from gloro_lite.lipschitz import linear_operator, upper_bound
from gloro_lite.lipschitz.norms import absolute_norm, row_distances
from gloro_lite.lipschitz.program import few
from gloro_lite.lipschitz.rounding import Upper, length_up


def exact(network, x):
    """The logits of dense layers and activations as fractions."""
    values = [Q(v) for v in x.tolist()]
    for layer in network:
        if isinstance(layer, nn.Linear):
            rows, bias = layer.weight.tolist(), layer.bias.tolist()
            values = [sum(Q(w) * v for w, v in zip(row, values, strict=True)) + Q(b) for row, b in zip(rows, bias, strict=True)]
        elif isinstance(layer, MinMax):
            half = len(values) // 2
            pairs = list(zip(values[:half], values[half:], strict=True))
            values = [min(p) for p in pairs] + [max(p) for p in pairs]
        elif isinstance(layer, GroupSort):
            count = len(values) // layer.size
            groups = [sorted(values[k::count]) for k in range(count)]
            values = [group[place] for place in range(layer.size) for group in groups]
        elif isinstance(layer, Absolute):
            values = [abs(v) for v in values]
        else:
            values = [max(v, Q(0)) for v in values]
    return values


def random_net(seed, dtype=torch.float32):
    """A small net whose biases and scales are such that rounding matters."""
    torch.manual_seed(seed)
    first, second = (MinMax(), nn.ReLU()) if seed % 2 else (GroupSort(4), Absolute())
    network = nn.Sequential(nn.Linear(6, 8), first, nn.Linear(8, 6), second, nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(10.0 ** torch.randint(-3, 4, ()))
                layer.bias.mul_(10.0 ** torch.randint(-3, 7, ()))
    return GloroNet(network, (6,), 0.1).eval()


@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40)
def test_the_radius_holds_in_exact_arithmetic(seed, dtype):
    net = random_net(seed, dtype)
    x = torch.randn(4, 6, dtype=dtype)
    table = net.margin_constants()
    for kind in ({}, {"guarantee": "deployed"}, {"dtype": torch.float32} if dtype == torch.float32 else {}):
        c = net.certify(x, **kind)
        for row, radius, j in zip(x, c.radius.tolist(), c.prediction.tolist(), strict=True):
            logits = exact(net.network, row)
            if radius > 0:
                assert all(logits[j] - logits[i] >= Q(radius) * Q(table[j, i].item()) for i in range(3) if i != j)
                assert all(logits[j] > logits[i] for i in range(3) if i != j)


@given(st.integers(0, 10**6))
@settings(max_examples=40)
def test_a_deployed_guarantee_holds_for_float32_in_any_order_of_summation(seed):
    """float32 dense layers, their sums taken in a random order, at random points of the ball: the label stays."""
    net = random_net(seed)
    x = torch.randn(8, 6)
    c = net.certify(x, guarantee="deployed")
    generator = torch.Generator().manual_seed(seed)

    def run(points):
        for layer in net.network:
            if isinstance(layer, nn.Linear):
                order = torch.randperm(layer.in_features, generator=generator)
                total = layer.bias.expand(len(points), -1) if seed % 2 else torch.zeros(len(points), layer.out_features)
                for column in order.tolist():
                    total = total + points[:, column, None] * layer.weight[:, column]
                points = total if seed % 2 else total + layer.bias
            else:
                points = layer(points)
        return points

    for share in (0.0, 0.5, 1.0):
        direction = nn.functional.normalize(torch.randn(8, 6, generator=generator, dtype=torch.float64), dim=1)
        radius = c.radius.where(c.radius.isfinite(), 1e6)[:, None]
        moved = (x.double() + share * radius * direction).float()
        inside = (moved.double() - x.double()).norm(dim=1) <= c.radius
        for labels in (run(moved).argmax(1), net.network(moved).argmax(1)):
            assert (labels == c.prediction)[inside & (c.radius > 0)].all()


def test_a_large_bias_does_not_hide_the_boundary():
    """2^25 is added and taken away again: float32 loses the input's last bits, the certificate does not."""
    net = GloroNet(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2)), (1,), 3.5).eval()
    first, head = net.network
    with torch.no_grad():
        first.weight.fill_(1)
        first.bias.fill_(2.0**25)
        head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        head.bias.copy_(torch.tensor([-(2.0**25), 2.0**25]))
    c = net.certify(torch.tensor([[2.1]]))
    assert c.radius.item() == pytest.approx(2.1, rel=1e-6) and c.radius.item() <= Q(torch.tensor(2.1).item())
    assert net.certify(torch.tensor([[2.1]]), guarantee="deployed").radius.item() == 0


def test_equal_rows_tie_and_nearly_equal_rows_certify_what_is_true():
    torch.manual_seed(1)
    layer = nn.Linear(512, 4)
    with torch.no_grad():
        layer.weight[3], layer.bias[3] = layer.weight[0], layer.bias[0]
    net = GloroNet(nn.Sequential(layer), (512,), 0.3).eval()
    direction = nn.functional.normalize((layer.weight[0] - layer.weight[1:3].mean(0)).detach(), dim=0)
    x = torch.rand(300, 512) + 4 * direction
    c = net.certify(x)
    assert set(c.prediction.tolist()) <= {0, 3} and (c.label == -1).all() and (c.radius == 0).all()
    with torch.no_grad():
        layer.weight[3, 0] += 1e-6
    for guarantee in ("exact", "deployed"):
        c = net.certify(x[:20], guarantee=guarantee)
        for row, radius, j in zip(x, c.radius.tolist(), c.prediction.tolist(), strict=False):
            logits = exact(net.network, row)
            assert radius == 0 or all(logits[j] > logits[i] for i in range(4) if i != j)


def test_a_linear_classifier_at_its_exact_boundary_is_not_certified():
    """Points whose exact radius is a hair below 0.3; the forward pass of float32 places two thirds of them above it."""
    torch.manual_seed(0)
    layer = nn.Linear(784, 10)
    net = GloroNet(nn.Sequential(layer), (784,), 0.3).eval()
    weight, bias, table = layer.weight.detach().double(), layer.bias.detach().double(), net.margin_constants()
    tried = 0
    for _ in range(30):
        x = torch.rand(784, dtype=torch.float64)
        for _ in range(4):
            y = weight @ x + bias
            j = int(y.argmax())
            radii = (y[j] - y) / table[j]
            radii[j] = math.inf
            i = int(radii.argmin())
            direction = (weight[j] - weight[i]) / (weight[j] - weight[i]).norm()
            x = x + direction * (0.3 * (1 - 2e-8) - radii[i])
        point = x.float()
        rows = [Q(p) - Q(q) for p, q in zip(weight[j].tolist(), weight[i].tolist(), strict=True)]
        margin = sum(p * Q(v) for p, v in zip(rows, point.tolist(), strict=True)) + Q(bias[j].item()) - Q(bias[i].item())
        if margin > 0 and margin**2 < sum(p * p for p in rows) * Q(0.3) ** 2:
            tried += 1
            assert net.certify(point[None]).label.item() == -1
    assert tried > 10


@pytest.mark.parametrize("scale", [1e-170, 1e-300, 1e153])
def test_extreme_weights_are_bounded(scale):
    layer = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)) * scale)
    assert scale <= upper_bound(layer, (3,)) <= scale * (1 + 1e-8)
    assert scale <= absolute_norm(linear_operator(layer, (3,))) <= 1.1 * scale
    small = nn.Sequential(layer, nn.Linear(3, 2, bias=False).double())
    with torch.no_grad():
        small[1].weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64) / scale)
    net = GloroNet(small, (3,), 0.1).eval()
    c = net.certify(torch.tensor([[1.0, 0, 0]], dtype=torch.float64))
    assert c.radius.item() == pytest.approx(1.0, rel=1e-6) and c.radius.item() <= 1


def test_weights_whose_product_overflows_are_refused_and_underflow_is_counted():
    def chain(weight, count):
        layers = [nn.Linear(1, 1, bias=False).double() for _ in range(count)]
        for layer in layers:
            nn.init.constant_(layer.weight, weight)
        return nn.Sequential(*[module for layer in layers for module in (layer, nn.ReLU())])

    with pytest.raises(ValueError, match="overflows"):
        upper_bound(chain(1e200, 2), (1,))
    assert upper_bound(chain(1e-200, 2), (1,)) > 0
    deep = upper_bound(chain(1.01, 300), (1,))
    assert Q(1.01) ** 300 <= Q(deep) and deep <= 1.01**300 * (1 + 1e-6)


def test_merged_operators_count_the_rounding_of_what_cancels():
    """x -> (I + B A) x with B A = -I + 1e-9 R: all but the ninth digit cancels."""
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4, bias=False).double(), nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(torch.randn(4, 4, dtype=torch.float64) * 1e4)
        second.weight.copy_(-torch.linalg.inv(first.weight))
    block = Residual(nn.Sequential(first, second))
    rows, columns = second.weight.tolist(), first.weight.T.tolist()
    entries = [
        [(i == j) + sum(Q(a) * Q(b) for a, b in zip(r, c, strict=True)) for j, c in enumerate(columns)]
        for i, r in enumerate(rows)
    ]
    longest = max(sum(v * v for v in row) for row in entries)  # no operator is shorter than its longest row
    assert Q(upper_bound(block, (4,))) ** 2 >= longest


@given(st.floats(1e-320, 1e300), st.floats(1e-320, 1e300))
def test_upper_bounds_multiply_and_add_upwards(a, b):
    assert Q(Upper(a) + b) >= Q(a) + Q(b)
    product = Upper(a) * b
    assert product == math.inf or Q(product) >= Q(a) * Q(b)


@given(st.integers(0, 10**6), st.sampled_from([1e-310, 1e-170, 1.0, 1e150]))
def test_lengths_are_rounded_up(seed, scale):
    torch.manual_seed(seed)
    rows = torch.randn(3, 7, dtype=torch.float64) * scale
    for row, length in zip(rows.tolist(), length_up(rows).tolist(), strict=True):
        assert Q(length) ** 2 >= sum(Q(v) ** 2 for v in row)
    distances = row_distances(rows)
    assert (distances.diagonal() == 0).all()
    assert Q(distances[0, 1].item()) ** 2 >= sum(
        (Q(p) - Q(q)) ** 2 for p, q in zip(rows[0].tolist(), rows[1].tolist(), strict=True)
    )


def test_deployed_radii_are_smaller_and_not_by_much():
    torch.manual_seed(0)
    net = GloroNet(nn.Sequential(nn.Linear(20, 32), MinMax(), nn.Linear(32, 5)), (20,), 0.1).eval()
    x = torch.randn(200, 20)
    exactly, deployed = net.certify(x), net.certify(x, guarantee="deployed")
    assert (exactly.guarantee, deployed.guarantee) == ("exact", "deployed")
    assert (deployed.radius <= exactly.radius).all()
    assert (exactly.radius - deployed.radius).max() < 1e-3
    with pytest.raises(ValueError, match="exact, deployed"):
        net.certify(x, guarantee="hopeful")


def image_net(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), MinMax(), nn.Flatten(), nn.Linear(4 * 36, 4))
    return GloroNet(network, (1, 6, 6), 0.05).eval()


@given(st.integers(0, 10**6), st.sampled_from(["exact", "deployed"]))
@settings(max_examples=20)
def test_float32_first_gives_the_labels_of_float64(seed, guarantee):
    """Also where every input lies a hair on either side of epsilon, and where float32 cannot tell two logits apart."""
    net = image_net(seed) if seed % 2 else random_net(seed)
    x = torch.rand(16, *net.input_shape)
    wide = net.certify(x, guarantee=guarantee)
    for row in range(0, 16, 5):
        for share in (0.5, 1 - 1e-5, 1 - 1e-7, 1.0, 1 + 1e-7, 1 + 1e-5):
            epsilon = max(wide.radius[row].item(), 1e-9) * share
            if math.isfinite(epsilon):
                ours, theirs = (net.certify(x, epsilon, guarantee=guarantee, dtype=dtype) for dtype in (None, torch.float64))
                assert torch.equal(ours.prediction, theirs.prediction)
                # A radius that is epsilon to the last digits may fall on either side, by how many rows are multiplied at once.
                apart = (theirs.radius / epsilon - 1).abs() > 1e-12
                assert torch.equal(ours.label[apart], theirs.label[apart])
                assert (ours.radius <= theirs.radius * (1 + 1e-12)).all()


def test_float64_sees_only_what_float32_leaves_open(monkeypatch):
    net = image_net()
    x = torch.rand(64, 1, 6, 6)
    x = x[net.certify(x).radius > 1e-3]
    radius = net.certify(x).radius
    seen = []
    run = type(net.program()).run

    def noted(self, x, *a, **k):
        if "dtype" in k:  # not where the network itself is compared
            seen.append((len(x), k["dtype"]))
        return run(self, x, *a, **k)

    monkeypatch.setattr("gloro_lite.net.Program.run", noted)
    for epsilon in (10.0, 1e-4):  # all bottom, all certified
        seen.clear()
        net.certify(x, epsilon, dtype=None)
        assert seen == [(len(x), torch.float32)]
    seen.clear()
    net.certify(x, radius[5].item(), dtype=None)
    assert seen[0] == (len(x), torch.float32) and [dtype for _, dtype in seen[1:]] == [torch.float64]
    assert 1 <= seen[1][0] <= 1 + ((radius - radius[5]).abs() < 1e-3).sum()


def test_autocast_reaches_no_certificate():
    net, x = image_net(), torch.rand(64, 1, 6, 6)
    for dtype in (None, torch.float32, torch.float64):
        with torch.autocast("cpu", torch.bfloat16):
            inside, outputs = net.certify(x, dtype=dtype), net(x)
        outside = net.certify(x, dtype=dtype)
        assert torch.equal(inside.radius, outside.radius) and torch.equal(inside.label, outside.label)
        assert torch.equal(outputs.argmax(1), outside.label.where(outside.label >= 0, 4))


def test_transforms_are_refused_where_they_would_be_used():
    """Without oneDNN PyTorch convolves by NNPACK, whose transforms err by more than a sum of products."""
    net, x = image_net(), torch.rand(32, 1, 6, 6)
    with torch.backends.mkldnn.flags(enabled=False):
        if torch.backends.nnpack.is_available():
            with pytest.raises(TypeError, match="oneDNN"):
                net.certify(x, dtype=torch.float32)
        assert torch.equal(net.certify(x, dtype=None).label, net.certify(x).label)


def test_inputs_without_values_are_refused():
    net = image_net()
    for x in (torch.rand(2, 1, 6, 6).to_sparse(), torch.rand(2, 1, 6, 6, device="meta")):
        with pytest.raises(TypeError, match="dense and hold values"):
            net.certify(x)


def test_reduced_products_are_refused_where_they_would_be_used():
    net = GloroNet(nn.Sequential(nn.Linear(4, 2)), (4,), 0.1).eval()
    products = torch.backends.mkldnn.matmul
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        with pytest.raises(TypeError, match="float64"):
            net.certify(torch.rand(1, 4), dtype=torch.float32)
        assert net.certify(torch.rand(1, 4)).label.shape == (1,)
    finally:
        products.fp32_precision = before


def steep(norm):
    """Its factor, 1e45, is more than float32 holds: PyTorch makes NaN of 0."""
    norm.running_var.fill_(1e-30)
    nn.init.constant_(norm.weight, 1e30)
    nn.init.constant_(norm.bias, 1e28)
    return norm.eval()


@pytest.mark.parametrize(
    ("first", "shape", "value"),
    [
        (nn.AvgPool2d(16), (1, 16, 16), 2e36),
        (nn.AdaptiveAvgPool2d(1), (1, 16, 16), 2e36),
        (nn.AvgPool2d(2, divisor_override=1000), (1, 2, 2), 1e38),
        (Normalize([-2e38], [1e10]), (1, 1, 1), 2e38),
        (Normalize([-1.6e38], [1e10]), (1, 1, 1), 1.9e38),
        (steep(nn.BatchNorm2d(1, eps=0)), (1, 1, 1), 0.0),
    ],
    ids=str,
)
def test_what_overflows_before_it_is_divided_is_not_deployed(first, shape, value):
    net = GloroNet(nn.Sequential(first, nn.Flatten(), nn.Linear(1, 2)), shape, 0.1).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[0.0], [1e-30]]))
        net.head.bias.zero_()
    x = torch.full((1, *shape), value)
    assert not net.logits(x).isfinite().all()
    assert net.certify(x, guarantee="deployed").radius.item() == 0
    assert net.certify(x).radius.item() > 0  # in real arithmetic nothing overflows


@pytest.mark.parametrize("guarantee", ["exact", "deployed"])
def test_a_batch_of_no_images(guarantee):
    net = image_net()
    for dtype in (None, torch.float32, torch.float64):
        assert net.certify(torch.zeros(0, 1, 6, 6), guarantee=guarantee, dtype=dtype).label.shape == (0,)
    assert net(torch.zeros(0, 1, 6, 6)).shape[0] == 0


def test_rows_of_a_very_long_batch():
    rows = few(torch.zeros(1).expand(16777220))
    assert rows.tolist()[0] == 0 and rows.tolist()[-1] == 16777219
