"""The faults that the chapter "How certificates break" shows on naive code, and that this package must not have."""

import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gloro_lite import GloroNet, MinMax
from gloro_lite.lipschitz import TrainingBound, linear_operator, upper_bound

ROOT = Path(__file__).resolve().parents[1]


def exact_margin(weight, bias, x, j, i):
    """f_j(x) - f_i(x) of the linear classifier, and the squared length of w_j - w_i: fractions."""
    w = [Fraction(a) - Fraction(b) for a, b in zip(weight[j].tolist(), weight[i].tolist(), strict=True)]
    margin = sum(a * Fraction(v) for a, v in zip(w, x.tolist(), strict=True))
    return margin + Fraction(bias[j].item()) - Fraction(bias[i].item()), sum(a * a for a in w)


def test_a_reshaped_kernel_is_no_bound_and_ours_covers_a_flat_image():
    blur = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    flat = torch.ones(1, 1, 16, 16)
    with torch.no_grad():
        blur.weight.fill_(1 / 3)
        stretch = (blur(flat).norm() / flat.norm()).item()
    assert torch.linalg.matrix_norm(blur.weight.flatten(1), 2) < stretch <= upper_bound(blur, (1, 16, 16))


@pytest.mark.parametrize("side", range(2, 12))
def test_a_torus_of_the_image_s_own_side_is_no_bound_and_ours_is(side):
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]]))
    exact = torch.linalg.matrix_norm(linear_operator(layer, (1, side, side)).matrix(), 2).item()
    assert exact * (1 - 1e-12) <= upper_bound(layer, (1, side, side)) <= exact * (1 + 1e-3)
    if side in (3, 5, 7):
        circular = torch.fft.fft2(layer.weight.detach()[0, 0].double(), s=(side, side)).abs().max().item()
        assert circular < exact


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e-6, 1.0, 1e6, 1e12, 1e18])
def test_no_constant_beside_a_length_shrinks_the_bound_of_small_weights(scale):
    torch.manual_seed(0)
    layer = nn.Linear(16, 16, bias=False)
    norm = torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item()
    with torch.no_grad():
        layer.weight.mul_(scale)
    scaled = torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item()
    assert scaled <= upper_bound(layer, (16,)) <= scaled * (1 + 1e-6)
    if 1e-12 <= scale <= 1e6:  # the training bound takes squares of squares in float32
        assert float(TrainingBound(layer, (16,)).converge()) == pytest.approx(norm * scale, rel=1e-3)


def test_radii_do_not_change_with_the_scale_of_the_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8, bias=False), MinMax(), nn.Linear(8, 3, bias=False))
    net, x = GloroNet(network, (6,), 0.1).eval(), torch.randn(50, 6)
    before = net.certify(x).radius
    for scale in (2.0**-60, 2.0**-20, 2.0**40):
        with torch.no_grad():
            network[0].weight.mul_(scale)
        assert torch.allclose(net.certify(x).radius, before, rtol=1e-4)
        with torch.no_grad():
            network[0].weight.div_(scale)


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-7, 1e-6])
def test_two_rows_that_are_nearly_one_certify_nothing_false(noise):
    torch.manual_seed(1)
    layer = nn.Linear(512, 10)
    with torch.no_grad():
        layer.weight[9] = layer.weight[0] + noise * torch.randn(512)
        layer.bias[9] = layer.bias[0]
        x = torch.rand(60, 512) + 2 * F.normalize(layer.weight[0] - layer.weight[1:9].mean(0), dim=0)
    c = GloroNet(nn.Sequential(layer), (512,), 0.3).eval().certify(x)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    assert set(c.label.tolist()) <= {-1, 0, 9}
    for point, label, radius in zip(x, c.label.tolist(), c.radius.tolist(), strict=True):
        if label != -1:
            margin, square = exact_margin(weight, bias, point, label, 9 - label)
            assert margin > 0 and margin**2 >= square * Fraction(radius) ** 2


@pytest.mark.parametrize("power", [20, 23, 25, 30])
def test_large_biases_that_cancel_are_counted(power):
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.fill_(2.0**power)
        network[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network[1].bias.copy_(torch.tensor([-(2.0**power), 2.0**power]))
    net = GloroNet(network, (1,), 0.5).eval()
    x = torch.tensor([[2.1], [-0.7], [0.3]])
    for point, radius in zip(x[:, 0].tolist(), net.certify(x).radius.tolist(), strict=True):
        assert abs(Fraction(point)) * Fraction(999, 1000) <= Fraction(radius) <= abs(Fraction(point))


def test_an_ordinary_linear_classifier_at_its_boundary_is_never_certified_falsely():
    torch.manual_seed(0)
    layer, epsilon = nn.Linear(784, 10), 0.3
    net = GloroNet(nn.Sequential(layer), (784,), epsilon).eval()
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    distances = torch.cdist(weight, weight)
    points = []
    for x in torch.rand(40, 784).double():
        for _ in range(4):  # to where the exact radius is a little below epsilon
            y = weight @ x + bias
            j = int(y.argmax())
            radii = ((y[j] - y) / distances[j]).nan_to_num(torch.inf)
            radii[j] = torch.inf
            i = int(radii.argmin())
            x = x + (weight[j] - weight[i]) / distances[j, i] * (epsilon * (1 - 2e-8) - radii[i])
        margin, square = exact_margin(weight, bias, x.float(), j, i)
        if margin > 0 and margin**2 < square * Fraction(epsilon) ** 2:
            points.append(x.float())
    assert len(points) > 10
    assert (net.certify(torch.stack(points)).label == -1).all()


def test_the_files_that_the_museum_names_as_guards_exist():
    named = set(re.findall(r"tests/test_\w+\.py", (ROOT / "book" / "how_certificates_break.ipynb").read_text(encoding="utf-8")))
    assert len(named) >= 5
    for name in named:
        assert (ROOT / name).is_file(), name
