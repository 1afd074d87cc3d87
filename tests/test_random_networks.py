"""Random networks of every known layer, nested and shared, in any precision: a clear error, or a certificate that holds.

The oracles are the SVD of the dense Jacobian where a network is linear, secants and gradients where it is not, exact fractions
for dense nets, and PyTorch's own float32 for the deployed guarantee.
"""

import copy
import math
from fractions import Fraction as Q

import pytest
import torch
from exact_radius import exact_radius
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gloro_lite import GloroNet, MinMax, Normalize, Residual
from gloro_lite.layers import Absolute, GroupSort
from gloro_lite.lipschitz import NetworkError, layer_bound, upper_bound
from gloro_lite.lipschitz.affine import AFFINE
from gloro_lite.lipschitz.nonlinear import NONLINEAR, REFUSED
from gloro_lite.methods import bcp, kw, local


class Doubled(nn.Module):
    """A layer of the user's own, with a bound of its own."""

    def forward(self, x):
        return 2 * x.sin()


@layer_bound.register
def _(layer: Doubled, input_shape):
    return 2.0


class Unknown(nn.Module):
    def forward(self, x):
        return x


small = st.integers(1, 3)


def channels(draw, shape):
    """Mostly the number that fits, sometimes another."""
    fitting = shape[0] if shape else 1
    return draw(st.sampled_from([fitting] * 19 + [fitting + 1]))


def convolution(draw, shape):
    axes = draw(st.sampled_from([len(shape) - 1] * 9 + [1])) if len(shape) in (2, 3) else draw(st.integers(1, 2))
    count = channels(draw, shape)
    groups = draw(st.sampled_from([g for g in (1, 2) if count % g == 0]))
    kind = (nn.Conv1d, nn.Conv2d)[axes - 1]
    options = {
        "kernel_size": draw(small),
        "padding": draw(st.sampled_from([0, 1, 2, "same"])),
        "dilation": draw(st.sampled_from([1, 1, 2])),
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])),
    }
    if options["padding"] != "same":
        options["stride"] = draw(st.sampled_from([1, 1, 2, 3]))
    return kind(count, groups * draw(small), **options)


def transposed(draw, shape):
    axes = len(shape) - 1 if len(shape) in (2, 3) else draw(st.integers(1, 2))
    stride = draw(st.integers(1, 2))
    return (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1](
        channels(draw, shape),
        draw(small),
        draw(small),
        stride=stride,
        padding=draw(st.integers(0, 1)),
        output_padding=draw(st.integers(0, stride - 1)),
        dilation=draw(st.integers(1, 2)),
    )


def pool(draw, shape):
    kernel = draw(small)
    kind = draw(st.sampled_from([nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d]))
    if kind is nn.AdaptiveAvgPool2d:
        return kind(draw(small))
    options = {"stride": draw(small), "padding": draw(st.integers(0, kernel // 2)), "ceil_mode": draw(st.booleans())}
    if kind is nn.AvgPool2d:
        options |= {"count_include_pad": draw(st.booleans()), "divisor_override": draw(st.sampled_from([None, None, 3, -2]))}
    if draw(st.integers(0, 3)) == 3:  # PyTorch takes a sequence of one for each axis
        kernel, options = (
            (kernel,),
            options | {"stride": [options["stride"]]} | ({"dilation": (1,)} if kind is nn.MaxPool2d else {}),
        )
    return kind(kernel, **options)


def diagonal(draw, shape):
    count = channels(draw, shape)
    if draw(st.booleans()):
        return Normalize(torch.rand(count), 0.1 + torch.rand(count))
    kind = {3: nn.BatchNorm2d, 4: nn.BatchNorm3d}.get(len(shape), nn.BatchNorm1d)
    layer = kind(count, affine=draw(st.booleans()), track_running_stats=draw(st.sampled_from([True] * 9 + [False])))
    if layer.running_var is not None:
        layer.running_var.copy_(torch.rand(count) * draw(st.sampled_from([1e-6, 1.0, 100.0])))
        layer.running_mean.copy_(torch.randn(count))
    return layer


def plain(draw, shape):
    numbers = st.sampled_from([0.0, 0.01, -0.5, 1.0, 1.5, -3.0])
    return draw(
        st.sampled_from(
            [
                nn.ReLU(),
                nn.LeakyReLU(draw(numbers)),
                nn.PReLU(draw(st.sampled_from([1, channels(draw, shape)])), init=draw(numbers)),
                nn.ELU(draw(numbers)),
                nn.Tanh(),
                nn.Sigmoid(),
                nn.Softplus(beta=draw(st.sampled_from([1.0, 0.3, -2.0])), threshold=draw(st.sampled_from([20.0, 30.0, 5.0]))),
                nn.GELU(draw(st.sampled_from(["none", "tanh"]))),
                nn.SiLU(),
                MinMax(),
                GroupSort(draw(st.sampled_from([2, 3, 4]))),
                Absolute(),
                nn.Identity(),
                nn.Dropout(0.3),
                nn.Dropout1d(0.3),
                nn.Dropout2d(0.3),
                Doubled(),
            ]
        )
    )


def moved_about(draw, shape):
    if draw(st.booleans()) or not shape:
        return nn.Flatten()
    count = shape[0]
    return nn.Unflatten(1, draw(st.sampled_from([(1, count), (count, 1), (count // 2 or 1, 2)])))


def dense(draw, shape):
    return nn.Linear(shape[-1] if shape else 1, draw(st.sampled_from([2, 4, 6])), bias=draw(st.booleans()))


def residual(draw, shape):
    branch, _ = draw(sequences(shape, most=2))
    if draw(st.booleans()) and shape:  # such that both paths fit
        branch = nn.Sequential(dense(draw, shape), plain(draw, shape), nn.LazyLinear(1))
        branch[2] = nn.Linear(branch[0].out_features, shape[-1])
    return Residual(branch)


def strange(draw, shape):
    kinds = [nn.LayerNorm(shape[-1:] or 1), Unknown(), nn.Softmax(1), nn.ReLU(inplace=True), nn.Bilinear(1, 1, 1)]
    return draw(st.sampled_from(kinds))


LINEAR = (dense, dense, convolution, convolution, transposed, diagonal, moved_about)


def output_shape(layer, shape):
    """The shape that the layer gives for one input; the same where it fails."""
    try:
        with torch.no_grad():
            return tuple(copy.deepcopy(layer).eval()(torch.zeros(2, *shape)).shape[1:])
    except Exception:  # what does not fit is what the test is about
        return shape


@st.composite
def sequences(draw, shape, most=4, linear=False):
    """(nn.Sequential, the shape it gives): some layers, also the same one twice, and nested."""
    layers = []
    for _ in range(draw(st.sampled_from([*range(most, 0, -1), 0]))):
        kinds = LINEAR if linear else (*(plain,) * 6, *LINEAR, pool, pool, residual)
        if len(shape) == 1 and draw(st.integers(0, 19)):  # a convolution of what is no image is refused: seldom
            kinds = [kind for kind in kinds if kind not in (convolution, transposed, pool)]
        choice = draw(st.integers(0, 29))
        if choice == 29 and layers:
            layer = layers[draw(st.integers(0, len(layers) - 1))]
        elif choice == 28 and not linear:
            layer = strange(draw, shape)
        elif choice in (26, 27) and most > 1:
            layer, _ = draw(sequences(shape, most=most - 1, linear=linear))
        else:
            try:
                layer = draw(st.sampled_from(kinds))(draw, shape)
            except (ValueError, TypeError, ZeroDivisionError):  # PyTorch itself refuses to build it
                continue
        if draw(st.integers(0, 3)) == 3:
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.mul_(draw(st.sampled_from([0.0, 1e-3, 30.0, -1.0])))
        following = output_shape(layer, shape)
        if math.prod(following) <= 400:
            layers.append(layer)
            shape = following
    return nn.Sequential(*layers), shape


@st.composite
def classifiers(draw, linear=False):
    """(network, input shape): it ends in a dense layer, as it should, nearly always."""
    shape = draw(st.sampled_from([(4,), (3,), (2, 5), (4, 3), (2, 4, 4), (1, 5, 3), (2, 6, 5)]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    body, last = draw(sequences(shape, linear=linear))
    parts = [body] if draw(st.booleans()) else list(body)
    if len(last) != 1 and draw(st.integers(0, 29)) < 29:
        parts.append(nn.Flatten())
        last = (math.prod(last),)
    parts.append(nn.Linear(last[-1] if last else 1, draw(st.sampled_from([3, 2] * 9 + [1]))))
    return nn.Sequential(*parts), shape


DTYPES = st.sampled_from([torch.float32] * 4 + [torch.float64] * 3 + [torch.bfloat16, torch.float16, torch.complex64])


def built(network, shape, dtype):
    """The net in eval mode; None where it was refused, by an error that names what is wrong."""
    try:
        net = GloroNet(network.to(dtype), shape, 0.1).eval()
        net.certify(torch.zeros(1, *shape, dtype=dtype))
    except (NetworkError, TypeError) as error:
        said = str(error)
        assert said and "layer ''" not in said and "has no attribute" not in said and "meta tensors" not in said
        assert isinstance(error, NetworkError) or dtype not in (torch.float32, torch.float64), said
        if isinstance(error, NetworkError):
            assert error.layer in dict(network.named_modules(remove_duplicate=False)), said
        return None
    return net


def test_dropout1d_on_images_is_refused_when_the_net_is_built():
    """A shrunk case: PyTorch itself fails on it, and did so only in `certify`."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout1d(), nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(NetworkError, match=r"layer '1' \(Dropout1d\).*\(channels, length\); \(2, 3, 3\) reaches it"):
        GloroNet(network, (1, 3, 3), 0.1)


def margins(logits):
    """(batch, classes, classes): y_j - y_i."""
    return logits[:, :, None] - logits[:, None, :]


def no_false_certificate(net, shape, dtype):
    """Slopes between points are within the bounds; no point of a ball has another label, in float64 and as PyTorch runs it."""
    table, twin = net.margin_constants(), copy.deepcopy(net.network).double()
    x = 2 * torch.randn(6, *shape, dtype=dtype)
    points = x.double()
    for distance in (1e-3, 1.0, 30.0):
        other = points + distance * torch.randn_like(points)
        with torch.no_grad():
            before, after = twin(points), twin(other)
        far = (other - points).flatten(1).norm(dim=1)[:, None, None]
        noise = 1e-9 * (1 + before.abs().max() + after.abs().max())
        assert ((margins(before) - margins(after)).abs() <= table * far * (1 + 1e-9) + noise).all()
    for guarantee in ("exact", "deployed"):
        c = net.certify(x, guarantee=guarantee)
        radius = c.radius.where(c.radius.isfinite(), 1e3)
        start = points.detach().requires_grad_()
        logits = twin(start)
        own = logits.gather(1, c.prediction[:, None])[:, 0]
        rival = logits.scatter(1, c.prediction[:, None], -torch.inf).amax(dim=1)
        (gradient,) = torch.autograd.grad((rival - own).sum(), start, allow_unused=True, materialize_grads=True)
        for direction in (gradient, torch.randn_like(points)):
            unit = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-300).view(-1, *(1,) * len(shape))
            for share in (1 - 1e-7, 0.5):
                moved = (points + share * radius.view(-1, *(1,) * len(shape)) * unit).to(dtype)
                inside = ((moved.double() - points).flatten(1).norm(dim=1) * (1 + 1e-12) <= c.radius) & (c.radius > 0)
                with torch.no_grad():
                    logits, single = twin(moved.double()), net.network(moved)
                least = logits.gather(1, c.prediction[:, None]) - logits
                assert (least >= -1e-12 * (1 + logits.abs().max()))[inside].all()
                if guarantee == "deployed":
                    assert (single.argmax(dim=1) == c.prediction)[inside].all()


@given(classifiers(), DTYPES)
@settings(max_examples=150)
def test_a_random_network_is_refused_clearly_or_certified_truly(classifier, dtype):
    network, shape = classifier
    net = built(network, shape, dtype)
    if net is not None:
        no_false_certificate(net, shape, dtype)


@given(classifiers(linear=True), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60)
def test_a_random_linear_network_is_bounded_by_its_svd(classifier, dtype):
    network, shape = classifier
    net = built(network, shape, dtype)
    if net is None:
        return
    twin = copy.deepcopy(net.network).double().requires_grad_(False)
    jacobian = torch.autograd.functional.jacobian(lambda x: twin(x[None])[0], torch.zeros(shape, dtype=torch.float64)).flatten(1)
    norm = torch.linalg.matrix_norm(jacobian, 2).item()
    assert upper_bound(net.network, shape) >= norm * (1 - 1e-9)
    between = (jacobian[:, None] - jacobian[None]).norm(dim=2)
    assert (net.margin_constants() >= between * (1 - 1e-9) - 1e-300).all()


def exact_values(module, values):
    """What layers that are exact in rational arithmetic give of a list of Fractions."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            values = exact_values(layer, values)
        return values
    if isinstance(module, Residual):
        pairs = zip(exact_values(module.branch, values), exact_values(module.shortcut, values), strict=True)
        return [a + b for a, b in pairs]
    if isinstance(module, nn.Linear):
        bias = [0.0] * module.out_features if module.bias is None else module.bias.tolist()
        return [
            sum((Q(w) * v for w, v in zip(row, values, strict=True)), Q(b))
            for row, b in zip(module.weight.tolist(), bias, strict=True)
        ]
    if isinstance(module, MinMax):
        half = len(values) // 2
        pairs = list(zip(values[:half], values[half:], strict=True))
        return [min(pair) for pair in pairs] + [max(pair) for pair in pairs]
    if isinstance(module, GroupSort):
        count = len(values) // module.size
        groups = [sorted(values[k::count]) for k in range(count)]
        return [group[place] for place in range(module.size) for group in groups]
    if isinstance(module, Absolute):
        return [abs(v) for v in values]
    slope = {nn.ReLU: 0.0, nn.Identity: 1.0, nn.Dropout: 1.0}.get(type(module), getattr(module, "negative_slope", None))
    return [v if v > 0 else Q(slope) * v for v in values]


@st.composite
def dense_nets(draw, width):
    """Dense layers, activations and skip connections of one width, nested and shared."""
    layers = []
    activations = [nn.ReLU(), MinMax(), nn.LeakyReLU(0.25), nn.LeakyReLU(-2.0), nn.Identity(), Absolute()]
    activations += [GroupSort(size) for size in (2, 4) if width % size == 0]
    for _ in range(draw(st.integers(1, 4))):
        choice = draw(st.integers(0, 8))
        if choice == 0 and layers:
            layers.append(draw(st.sampled_from(layers)))
        elif choice == 1:
            layers.append(Residual(draw(dense_nets(width))))
        elif choice == 2:
            layers.append(nn.Sequential(draw(dense_nets(width))))
        else:
            activation = draw(st.sampled_from(activations))
            layer = nn.Linear(width, width, bias=draw(st.booleans()))
            with torch.no_grad():
                layer.weight.mul_(10.0 ** draw(st.integers(-3, 3)))
                if layer.bias is not None:
                    layer.bias.mul_(10.0 ** draw(st.integers(-3, 6)))
            layers += [layer, activation]
    return nn.Sequential(*layers)


@given(st.data(), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40)
def test_a_random_dense_network_is_certified_truly_in_exact_arithmetic(data, seed, dtype):
    torch.manual_seed(seed)
    network = nn.Sequential(data.draw(dense_nets(4)), nn.Linear(4, 3)).to(dtype)
    net = GloroNet(network, (4,), 0.1).eval()
    x, table = torch.randn(3, 4, dtype=dtype), net.margin_constants()
    for options in ({}, {"guarantee": "deployed"}, {"dtype": torch.float32} if dtype == torch.float32 else {}):
        c = net.certify(x, **options)
        for row, radius, j in zip(x, c.radius.tolist(), c.prediction.tolist(), strict=True):
            logits = exact_values(network, [Q(v) for v in row.tolist()])
            if radius > 0:
                assert all(logits[j] > logits[i] for i in range(3) if i != j)
                if math.isfinite(radius):
                    assert all(logits[j] - logits[i] >= Q(radius) * Q(table[j, i].item()) for i in range(3) if i != j)


@st.composite
def relu_networks(draw):
    """(network, input shape): small, of dense layers or convolutions with ReLU, one of them used twice, nested or not."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    bias = draw(st.booleans())
    if draw(st.booleans()):
        shape, width = (draw(st.integers(1, 3)),), draw(st.integers(1, 5))
        first, shared = nn.Linear(shape[0], width, bias=bias), nn.Linear(width, width, bias=bias)
        last = [nn.Linear(width, draw(st.integers(2, 3)))]
    else:
        shape, channels = (1, draw(st.integers(1, 3)), draw(st.integers(2, 3))), draw(st.integers(1, 2))
        first = nn.Conv2d(1, channels, draw(st.sampled_from([1, (1, 2)])), padding="same", bias=bias)
        shared = nn.Conv2d(channels, channels, draw(st.sampled_from([3, (3, 1)])), padding="same", bias=bias)
        last = [nn.Flatten(), nn.Linear(channels * shape[1] * shape[2], draw(st.integers(2, 3)))]
    scale = draw(st.sampled_from([1.0, 2.0, 0.5, 1e-3, 1e3]))
    with torch.no_grad():
        for parameter in (*first.parameters(), *shared.parameters()):
            parameter.mul_(draw(st.sampled_from([1.0, 2.0, scale])))
        if shared.bias is not None and draw(st.booleans()):
            shared.bias.add_(0.5)
    relu = nn.ReLU()
    middle = [shared, relu]
    if draw(st.booleans()):
        middle = [nn.Sequential(*middle)]
    body = [first, *([relu] if draw(st.booleans()) else []), *middle, *middle, *([shared] if draw(st.booleans()) else [])]
    return nn.Sequential(*body, *last), shape


METHODS = {
    "kw": lambda network, shape, x: kw.certify(network, shape, x, steps=12),
    "bcp": lambda network, shape, x: bcp.certify(network, shape, x, steps=12),
    "local": lambda network, shape, x: local.certify(GloroNet(network, shape, 1e3).eval(), x, steps=12, iterations=5),
}


@pytest.mark.parametrize("method", METHODS)
@given(relu_networks(), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=40)
def test_a_random_relu_network_with_a_shared_layer_is_certified_truly_by_every_method(method, drawn, seed, size):
    """No point of a ball has another label, where the gradient points and in random directions, in float64 and at the rim."""
    network, shape = drawn
    torch.manual_seed(seed)
    x = size * torch.randn(4, *shape)
    c = METHODS[method](network, shape, x)
    twin = copy.deepcopy(network).double().requires_grad_(False)
    points = x.double()
    assert torch.equal(c.prediction, twin(points).argmax(dim=1))
    radius = c.radius.clamp_max(1e6).view(-1, *(1,) * len(shape))
    moved = points.repeat(32, *(1,) * len(shape))
    moved = moved + radius.repeat(32, *(1,) * len(shape)) * 0.5 * _directions(torch.randn_like(moved))
    label = c.prediction.repeat(32)
    for step in (1.0, 0.5, 0.25, 0.1, 0.02):  # towards other labels, along the gradient, and back to the rim
        moved.requires_grad_()
        logits = twin(moved)
        rival = logits.scatter(1, label[:, None], -torch.inf).amax(dim=1) - logits.gather(1, label[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(rival.sum(), moved)
        away = (moved + step * radius.repeat(32, *(1,) * len(shape)) * _directions(gradient)).detach() - points.repeat(
            32, *(1,) * len(shape)
        )
        rim = radius.repeat(32, *(1,) * len(shape)) * (1 - 1e-9)
        moved = points.repeat(32, *(1,) * len(shape)) + away * (rim / _lengths(away)).clamp_max(1.0)
        logits = twin(moved)
        short = logits.gather(1, label[:, None]) - logits
        inside = (moved - points.repeat(32, *(1,) * len(shape))).flatten(1).norm(dim=1) <= c.radius.repeat(32)
        assert (short >= -1e-12 * (1 + logits.abs().amax(dim=1, keepdim=True)))[inside & (c.radius > 0).repeat(32)].all()


def _lengths(v):
    return v.flatten(1).norm(dim=1).clamp_min(1e-300).view(-1, *(1,) * (v.dim() - 1))


def _directions(v):
    return v / _lengths(v)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 10**6), st.sampled_from([0.4, 0.7, 1.5]))
@settings(max_examples=12)
def test_a_shared_layer_is_never_certified_beyond_the_exact_radius(method, seed, scale):
    torch.manual_seed(seed)
    layers = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 3)
    for parameter in nn.Sequential(*layers).parameters():
        nn.init.normal_(parameter, std=scale)
    first, relu, shared, last = layers
    network = nn.Sequential(first, relu, shared, relu, shared, relu, last)
    x = torch.randn(1, 2)
    c = METHODS[method](network, (2,), x)
    assert c.radius.clamp_max(2.0).item() <= exact_radius(network, x[0]) * (1 + 1e-3) + 1e-6


def test_every_known_layer_is_among_those_that_are_drawn():
    """A layer that is added later has to be drawn here too."""
    drawn = {nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d}
    drawn |= {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, Normalize, nn.Identity, nn.Flatten, nn.Unflatten}
    drawn |= {nn.Dropout, nn.Dropout1d, nn.Dropout2d, MinMax, nn.MaxPool2d, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU}
    drawn |= {nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU, GroupSort, Absolute}
    assert set(AFFINE) | set(NONLINEAR) == drawn and nn.LayerNorm in REFUSED


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_other_precisions_are_refused_with_what_to_do(dtype):
    with pytest.raises((TypeError, NetworkError), match=r"float32|convert|real"):
        net = GloroNet(nn.Sequential(nn.Linear(3, 2)).to(dtype), (3,), 0.1).eval()
        net.certify(torch.zeros(1, 3, dtype=dtype))
