"""What users of PyTorch do with networks besides training them, and what certificates make of it."""

import copy
import functools
import math
import pickle
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from small_networks import another_thread_sets
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from gloro_lite import GloroNet, MinMax, NetworkError, Normalize, Residual, UnknownLayerError, evaluate, export, serialization
from gloro_lite.certificate import check_epsilon
from gloro_lite.fit import fit
from gloro_lite.lipschitz import (
    MismatchError,
    TrainingBound,
    layer_bound,
    linear_operator,
    operator_norm,
    power_iteration,
    upper_bound,
)
from gloro_lite.lipschitz.checks import check_flushing
from gloro_lite.methods import lmt
from gloro_lite.methods.sites import Sites
from gloro_lite.methods.smoothing import Smoothed
from gloro_lite.voronoi import DecisionFaces, SiteClassifier, check_separation


class Times(nn.Module):
    """A layer of one's own, whose factors are a plain attribute."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, x):
        return x @ torch.diag(self.factors)


@layer_bound.register
def times_bound(layer: Times, input_shape) -> float:
    return float(layer.factors.abs().max())


class Negated(nn.Module):
    def forward(self, x):
        return -x


class Reversed(nn.Module):
    """Its only tensor is one of whole numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 2, 1, 0]))

    def forward(self, x):
        return x[:, self.order]


@layer_bound.register
def reversed_bound(layer: Reversed, input_shape) -> float:
    return 1.0


def dense():
    return GloroNet(nn.Sequential(nn.Linear(4, 4), MinMax(), nn.Linear(4, 3)), (4,), 0.1).eval()


def images():
    layers = nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.AvgPool2d(2, stride=1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
    return GloroNet(nn.Sequential(*layers), (1, 8, 8), 0.1).eval()


def plain(layer):
    """The layer with its weights as plain attributes, as where another network gives them."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        delattr(layer, name)
        setattr(layer, name, parameter.detach())
    return layer


# Tensors that are plain attributes


def test_weights_that_are_plain_attributes_count_as_what_they_are():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    expected = GloroNet(copy.deepcopy(network), (4,), 0.1).eval()
    net = GloroNet(nn.Sequential(plain(network[0]), nn.ReLU(), plain(network[2])), (4,), 0.1).eval()
    x = torch.randn(5, 4)
    assert net.program().dtype == torch.float32 and net.program().complete
    for guarantee in ("exact", "deployed"):
        assert torch.equal(net.certify(x, guarantee=guarantee).radius, expected.certify(x, guarantee=guarantee).radius)
    net.network[0].weight *= 2  # in place, and followed
    expected.network[0].weight.data.mul_(2)
    assert torch.equal(net.certify(x).radius, expected.certify(x).radius)
    net.network[0].bias = torch.full((4,), math.nan)
    with pytest.raises(NetworkError, match=r"^0\.bias holds NaN"):
        net.certify(x)
    net.network[0].bias = torch.empty(4, device="meta")
    with pytest.raises(NetworkError, match=r"layer '0' \(Linear\): its bias is on the meta device"):
        net.certify(x)


def test_a_layer_of_one_s_own_may_keep_tensors_as_plain_attributes():
    net = GloroNet(nn.Sequential(Times(torch.tensor([2.0, 1.0, 0.5, -3.0])), nn.Linear(4, 3)), (4,), 0.1).eval()
    x = torch.randn(5, 4)
    assert net.program().complete and net.program().bound(net.program().nodes[:1]) == 3
    assert torch.equal(net.certify(x).prediction, net.network(x).argmax(dim=1))
    net.network[0].factors[3] = 30.0
    assert net.program().bound(net.program().nodes[:1]) == 30
    assert export.freeze(net)(x).dtype == torch.float32


def test_a_layer_of_one_s_own_may_have_whole_numbers_alone():
    net = GloroNet(nn.Sequential(Reversed(), nn.Linear(4, 3)), (4,), 0.1).eval()
    x = torch.randn(5, 4)
    plain = GloroNet(nn.Sequential(net.network[1]), (4,), 0.1).eval()
    assert net.program().dtype == torch.float32
    assert torch.equal(net.certify(x, guarantee="deployed").prediction, plain.certify(x.flip(1)).prediction)


def test_a_bound_that_is_registered_anew_is_asked():
    """The table was kept, with the bound of before."""
    net = None
    for bound in (1.0, 5.0):
        layer_bound.register(Negated, lambda layer, shape, bound=bound: bound)
        net = net or GloroNet(nn.Sequential(Negated(), nn.Linear(4, 3)), (4,), 0.1).eval()
        rows = net.head.weight.detach().double()
        assert torch.allclose(net.margin_constants(), bound * torch.cdist(rows, rows), rtol=1e-9)
        assert torch.allclose(net.estimate().double(), bound * torch.cdist(rows, rows), rtol=1e-5)


@pytest.mark.parametrize("bound", [None, "1", [1.0], -1.0, math.nan, torch.ones(2), torch.tensor(1j)])
def test_a_registered_bound_is_a_number(bound):
    layer_bound.register(Negated, lambda layer, shape: bound)
    with pytest.raises(NetworkError, match=r"layer '0' \(.*Negated\).*its registered bound is .*must be a number"):
        GloroNet(nn.Sequential(Negated(), nn.Linear(4, 3)), (4,), 0.1)


def test_a_registered_bound_may_be_a_tensor_of_one_number():
    rows = None
    for bound in (2.0, torch.tensor(2.0), torch.tensor([2.0], dtype=torch.float64)):
        layer_bound.register(Negated, lambda layer, shape, bound=bound: bound)
        torch.manual_seed(0)
        table = GloroNet(nn.Sequential(Negated(), nn.Linear(4, 3)), (4,), 0.1).eval().margin_constants()
        rows = table if rows is None else rows
        assert torch.allclose(table, rows, rtol=1e-6)


# Settings of the process


@pytest.mark.parametrize("make", [dense, images])
def test_where_a_process_makes_tensors_by_default_changes_nothing(make):
    net = make()
    x = torch.rand(3, *net.input_shape)
    outputs, estimate = net(x), net.estimate()
    expected = [(options, net.certify(x, **options)) for options in ({}, {"guarantee": "deployed"}, {"dtype": None})]
    copied = copy.deepcopy(net)
    with torch.device("meta"):
        for options, certificate in expected:
            assert torch.equal(copied.certify(x, **options).radius, certificate.radius)
        assert torch.equal(copied(x), outputs)
        built = GloroNet(copied.network, net.input_shape, 0.1)
        assert torch.allclose(built.estimate(), estimate, rtol=1e-3)


def test_sites_stay_where_they_are_whatever_the_default_device():
    sites, labels, x = torch.rand(12, 2), torch.arange(12) % 3, torch.rand(5, 2)
    expected = SiteClassifier(sites, labels).certificates(x, 0.01)
    faces = DecisionFaces(sites, labels)
    with torch.device("meta"):
        found = SiteClassifier(sites, labels).certificates(x, 0.01)
        there = DecisionFaces(sites, labels)
        assert torch.equal(there.distance(x), faces.distance(x)) and torch.equal(there.logits(x), faces.logits(x))
        least = check_separation(sites, labels, 1e-9)
        assert torch.equal(
            SiteClassifier(sites, labels).certify(x, 0.01).radius, SiteClassifier(sites, labels).certify(x, 0.01).radius
        )
    assert all(torch.equal(found[form].radius, expected[form].radius) for form in expected)
    assert least == check_separation(sites, labels, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_that_tensors_have_by_default_changes_nothing(dtype):
    net = images()
    x = torch.rand(3, 1, 8, 8)
    expected, outputs = net.certify(x), net(x)
    copied = copy.deepcopy(net)
    torch.set_default_dtype(dtype)
    try:
        found, again = copied.certify(x), copied(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.radius, expected.radius) and torch.equal(again, outputs)


def test_transforms_of_torch_func_pass_through_a_net_in_eval_mode():
    net, x = images(), torch.rand(1, 8, 8)

    def outputs(point):
        return net(point[None])[0]

    jacobian = torch.autograd.functional.jacobian(outputs, x)
    for warm in (False, True):
        net._state = net._state if warm else None
        assert torch.allclose(torch.func.jacrev(outputs)(x), jacobian, atol=1e-6)
        net.certify(x[None])
    net._state = None
    torch.func.grad(lambda point: outputs(point).sum())(x)
    assert copy.deepcopy(net.program()).bound() == images_bound(net)


def images_bound(net):
    return upper_bound(net.network, net.input_shape)


# What stands for a net


def test_a_program_can_be_copied_and_pickled():
    net = GloroNet(nn.Sequential(Reversed(), nn.Linear(4, 4), MinMax(), nn.Linear(4, 3)), (4,), 0.1).eval()
    program = net.program()
    bound = program.bound()
    for other in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert other.bound() == bound and other.is_current(net.network, (4,))
        assert {id(node) for node in other.nodes} <= {id(node) for node in other._bounds}
    net.network[1].weight.data.mul_(2)
    assert not other.is_current(net.network, (4,))


@pytest.mark.parametrize("shared", ["layer", "weight"])
def test_layers_that_share_weights_are_saved_and_read(tmp_path, shared):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    if shared == "layer":
        second = first
    else:
        second.weight = first.weight
    net = GloroNet(nn.Sequential(first, MinMax(), second, MinMax(), nn.Linear(4, 3)), (4,), 0.1).eval()
    x = torch.randn(5, 4)
    radius = net.certify(x).radius
    serialization.save(net, tmp_path / "net.safetensors")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(serialization.load(net, tmp_path / "net.safetensors").certify(x).radius, radius)


def test_what_is_exported_is_what_was_bounded_while_another_thread_trains():
    net = GloroNet(nn.Sequential(nn.Linear(1, 2)), (1,), 0.1).eval()
    with another_thread_sets(net.head.weight):
        for _ in range(60):
            frozen = export.freeze(net)
            weight = frozen.network[0].weight
            assert frozen.constants[0, 1].item() == pytest.approx((weight[0] - weight[1]).abs().item(), rel=1e-6)


def test_a_net_that_computes_other_logits_than_its_network_is_noticed():
    class Scaled(GloroNet):
        def logits(self, x):
            return super().logits(10 * x)

    with pytest.raises(MismatchError):
        Scaled(nn.Sequential(nn.Linear(4, 3)), (4,), 0.1).eval().certify(torch.randn(2, 4))


def test_a_state_stays_what_it_was():
    net, x = dense(), torch.randn(5, 4)
    state, radius = net.state(), net.certify(x).radius
    net.network[0].weight.data.mul_(3)
    assert torch.equal(net.certify(x, state=state).radius, radius)
    assert not torch.equal(net.certify(x).radius, radius)


# Errors that name the layer, the reason, and what to do


def changed(layer, **settings):
    for name, value in settings.items():
        setattr(layer, name, value)
    return layer


def conv(**settings):
    return nn.Sequential(nn.Conv2d(1, 1, 2, **settings), nn.Flatten(), nn.LazyLinear(2))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(1, 1, 2, padding=-1), r"its padding is \(-1, -1\), and must be at least 0"),
        (nn.Conv2d(1, 1, 2, stride=0), r"its stride is \(0, 0\), and must be at least 1"),
        (nn.Conv2d(1, 1, 2, dilation=0), r"its dilation is \(0, 0\), and must be at least 1"),
        (nn.ConvTranspose2d(1, 1, 2, stride=0), r"its stride is \(0, 0\)"),
        (nn.ConvTranspose2d(1, 1, 2, padding=-1), r"its padding is \(-1, -1\)"),
        (nn.ConvTranspose2d(1, 1, 2, dilation=0), r"its dilation is \(0, 0\)"),
        (nn.ConvTranspose2d(1, 1, 2, output_padding=1), r"its output_padding is \(1, 1\), and must be less than its stride"),
        (
            nn.Conv2d(1, 1, 3, padding=4, padding_mode="reflect"),
            r"mode 'reflect' is larger than inputs of shape \(1, 4, 4\) allow",
        ),
        (nn.Conv2d(1, 1, 3, padding=5, padding_mode="circular"), r"mode 'circular' is larger than inputs of shape \(1, 4, 4\)"),
        (
            changed(nn.Conv2d(1, 1, 2, padding="same"), stride=(2, 2)),
            r"its padding is 'same', which PyTorch has for strides of 1",
        ),
        (changed(nn.Conv2d(1, 1, 2), padding="more"), "its padding is 'more': give numbers, same or valid"),
        (changed(nn.Conv2d(1, 1, 2), padding_mode="mirror"), "its padding_mode is 'mirror'"),
        (changed(nn.Conv2d(1, 1, 2), groups=1.0), "its groups are 1.0"),
        (changed(nn.Conv2d(1, 1, 2), groups=0), "its groups are 0"),
        (changed(nn.Conv2d(1, 1, 2), weight=None), r"tensor of it is not as PyTorch makes them \(.*build the layer anew"),
        (changed(nn.ConvTranspose2d(1, 1, 2), padding_mode="circular"), "its padding_mode is 'circular'"),
        (changed(nn.ConvTranspose2d(1, 1, 2), padding="same"), "its padding is 'same': give numbers$"),
        (changed(nn.BatchNorm2d(1), eps=-1e-3), "its eps is -0.001: PyTorch takes none below 0"),
    ],
)
def test_settings_that_pytorch_fails_on_later_are_refused_when_the_net_is_built(layer, message):
    with pytest.raises(NetworkError, match=rf"^layer '0\.0' .*{message}"):
        GloroNet(nn.Sequential(nn.Sequential(layer), nn.Flatten(), nn.Linear(16, 2)), (1, 4, 4), 0.1)


@pytest.mark.parametrize(("mode", "padding"), [("reflect", 3), ("circular", 4), ("replicate", 7)])
def test_padding_as_large_as_pytorch_takes_is_bounded(mode, padding):
    layer = nn.Conv2d(1, 1, 3, padding=padding, padding_mode=mode, bias=False).double()
    jacobian = (
        torch.autograd.functional.jacobian(lambda x: layer(x[None])[0], torch.zeros(1, 4, 4).double()).flatten(0, 2).flatten(1)
    )
    norm = torch.linalg.matrix_norm(jacobian, 2).item()
    assert norm * (1 - 1e-12) <= upper_bound(layer, (1, 4, 4)) <= norm * (1 + 1e-6)


def brute_force(layer, shape):
    """The norm of a layer that is linear, or monotone with slopes 0 and 1, at single pixels: no bound may be below."""
    zero = torch.zeros(1, *shape).double()
    pixels = torch.eye(math.prod(shape)).double().view(-1, *shape)
    return (layer(pixels) - layer(zero)).flatten(1).norm(dim=1).max().item()


@pytest.mark.parametrize("kind", [tuple, list])
def test_settings_of_one_number_count_for_each_axis(kind):
    """PyTorch takes (3,) for (3, 3); a pool of 3 x 3 with steps of 1 was bounded by the root of 3, where its constant is 3."""
    one, two, three = kind([1]), kind([2]), kind([3])
    for layer, least in (
        (nn.MaxPool2d(three, stride=one, dilation=one), 3.0),
        (nn.MaxPool2d(three, stride=one), 3.0),
        (nn.MaxPool2d(3, stride=two), 2.0),
        (nn.AvgPool2d(three, stride=one), 0.85),
        (nn.AvgPool2d(3, stride=one), 0.85),
    ):
        bound = upper_bound(layer, (1, 7, 7))
        assert bound >= brute_force(layer, (1, 7, 7)) and least <= bound < least + 0.01
    for cls in (nn.Conv2d, nn.ConvTranspose2d):
        layer, plain = cls(1, 1, 3, stride=tuple(two), padding=tuple(one), dilation=tuple(one)), cls(1, 1, 3, stride=2, padding=1)
        plain.load_state_dict(layer.state_dict())
        assert upper_bound(layer, (1, 7, 7)) == upper_bound(plain, (1, 7, 7))
    with pytest.raises(NetworkError, match=r"its setting \(1, 2\) has 2 numbers: one for each of 1 axes is needed"):
        upper_bound(nn.Conv1d(1, 1, 3, stride=(1, 2)), (1, 7))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Own, r"^.*Own: what its forward pass makes of its layers cannot be seen: write it as nn.Sequential, .*Residual"),
        (lambda: torch.compile(nn.Sequential(nn.Linear(4, 2)), backend="eager"), r"compiled by torch.compile.*\(\._orig_mod\)"),
        (
            lambda: torch.jit.trace(nn.Linear(4, 2), torch.zeros(1, 4)),
            r"compiled by torch.jit .*the module that it was made from",
        ),
    ],
)
def test_networks_of_another_kind_are_told_what_to_do(network, message):
    with pytest.raises(UnknownLayerError, match=message):
        GloroNet(network(), (4,), 0.1)


def test_a_net_that_was_compiled_in_place_is_certified_as_a_copy():
    net, x = dense(), torch.randn(3, 4)
    radius = net.certify(x).radius
    net.compile(backend="eager")
    with pytest.raises(NetworkError, match=r"compiled in place \(\.compile\(\)\).*copy\.deepcopy"):
        net.certify(x)
    assert torch.equal(copy.deepcopy(net).certify(x).radius, radius)


def test_a_spread_of_zero_has_no_bound_and_says_where():
    network = nn.Sequential(Normalize([0.0], [1.0]), nn.Flatten(), nn.Linear(4, 2))
    network[0].std.zero_()
    with pytest.raises(NetworkError, match=r"layer '0' .*its std holds zeros"):
        GloroNet(network, (1, 2, 2), 0.1)
    for eps in (0.0, math.nan):
        norm = nn.BatchNorm1d(4, eps=eps)
        norm.running_var[1] = 0
        with pytest.raises(NetworkError, match=rf"layer '0' .*its eps, {eps}, must be above 0 together"):
            GloroNet(nn.Sequential(norm, nn.Linear(4, 2)), (4,), 0.1)


def test_whole_numbers_are_no_spread():
    """1 / 25 was taken in float32, below the true constant."""
    network = nn.Sequential(Normalize([0.0], [1.0]), nn.Flatten(), nn.Linear(4, 2))
    network[0].std = torch.tensor([25])
    with pytest.raises(NetworkError, match=r"layer '0' .*a tensor of torch.int64: floating-point numbers are needed"):
        GloroNet(network, (1, 2, 2), 0.1)


def test_a_bound_that_overflows_names_the_layer():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)).double()
    for layer in (network[0], network[1][0]):
        nn.init.constant_(layer.weight, 1e200)
    with pytest.raises(NetworkError, match=r"^layer '1\.0' \(Linear\): the Lipschitz bound overflows with it"):
        GloroNet(network, (2,), 0.1).eval().certify(torch.zeros(1, 2).double())


def test_weights_of_eight_bits_are_refused():
    layer = nn.Linear(4, 4).to(torch.float8_e4m3fn)
    with pytest.raises(
        NetworkError, match=r"its weight is torch\.float8_e4m3fn: only real floating-point numbers of 16, 32 or 64 bits"
    ):
        upper_bound(layer, (4,))


def test_a_shape_is_a_tuple_of_whole_numbers_wherever_it_is_given():
    message = r"input_shape is that of one input, without the batch, a tuple of whole numbers"
    net = dense()
    for use in (
        lambda: upper_bound(nn.Linear(4, 4), 4),
        lambda: linear_operator(nn.Linear(4, 4), 4),
        lambda: TrainingBound(nn.Linear(4, 4), 4),
        lambda: setattr(net, "input_shape", 4),
    ):
        with pytest.raises(TypeError, match=message):
            use()
    with pytest.raises(ValueError, match=message):
        GloroNet(nn.Sequential(nn.Linear(4, 2)), (-1, 4), 0.1)
    net.input_shape = [4]
    assert net.input_shape == (4,) and len(net.certify(torch.zeros(1, 4)).radius) == 1


def test_training_mode_refuses_inputs_of_another_type():
    net = dense().train()
    for x in (torch.zeros(1, 4).double(), torch.zeros(1, 4).int()):
        with pytest.raises(
            TypeError, match=r"inputs are torch\.(float64|int32) and the network's weights torch\.float32: convert"
        ):
            net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.zeros(1, 4, dtype=torch.bfloat16)).shape == (1, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tight", [True, False])
def test_a_net_of_fewer_bits_can_be_trained(dtype, tight):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), MinMax(), nn.Linear(4, 3))
    net = GloroNet(network, (4,), 0.1, tight=tight)
    constants, x = net.estimate(), torch.randn(2, 4)
    net.to(dtype)
    outputs = net(x.to(dtype))
    assert outputs.dtype == dtype and torch.allclose(net.estimate().float(), constants, rtol=0.05)
    outputs.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_weights_of_several_types_are_refused_when_the_net_is_built():
    with pytest.raises(NetworkError, match=r"of several types, torch\.float32, torch\.float64: convert them to one"):
        GloroNet(nn.Sequential(nn.Linear(4, 4).double(), nn.Linear(4, 2)), (4,), 0.1)


def test_a_network_that_fails_beside_its_program_says_so():
    net = dense()
    net.network.append(nn.Dropout())
    net.network.append(net.network.pop(-2))
    net.network[-2].p = 2.0
    with pytest.raises(MismatchError, match=r"the network itself fails.*dropout probability has to be between 0 and 1"):
        net.eval().certify(torch.zeros(1, 4))


@pytest.mark.parametrize("where", ["bound", "forward"])
def test_a_layer_of_one_s_own_that_fails_later_is_named(where):
    class Fickle(nn.Module):
        def forward(self, x):
            if "forward" in failing and x.sum() > 1:
                raise RuntimeError("out of order")
            return x

    @layer_bound.register
    def _(layer: Fickle, shape):
        if "bound" in failing:
            raise RuntimeError("out of order")
        return 1.0

    failing = []
    net = GloroNet(nn.Sequential(Fickle(), nn.Linear(4, 2)), (4,), 0.1).eval()
    net.certify(torch.ones(1, 4))
    failing.append(where)
    with pytest.raises(NetworkError, match=r"layer '0' .*Fickle\): it.* fails .*out of order"):
        net.certify(torch.ones(1, 4))


def test_a_layer_whose_copy_is_itself_is_refused_and_stays_as_it_is():
    class Single(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    layer_bound.register(Single, lambda layer, shape: 10.0)
    layer = Single(4, 4)
    with pytest.raises(NetworkError, match=r"layer '0' .*cannot be copied.*the same Single"):
        GloroNet(nn.Sequential(layer, nn.Linear(4, 2)), (4,), 0.1)
    assert layer.training and layer.weight.dtype == torch.float32


def test_inputs_of_a_class_of_its_own_are_refused():
    class Image(torch.Tensor):
        pass

    net = dense()
    with pytest.raises(TypeError, match=r"inputs are a Image.*as_subclass\(torch\.Tensor\)"):
        net.certify(torch.zeros(1, 4).as_subclass(Image))
    assert net.certify(nn.Parameter(torch.zeros(1, 4))).label.shape == (1,)


def test_a_state_is_for_inputs_of_its_own_shape_and_type():
    net = dense()
    state = net.state()
    net.double()
    with pytest.raises(TypeError, match=r"inputs are torch\.float64 and the network's weights torch\.float32"):
        net.certify(torch.zeros(1, 4, dtype=torch.float64), dtype=torch.float32, state=state)
    assert net.certify(torch.zeros(1, 4), state=state).label.shape == (1,)
    pooled = GloroNet(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)), (1, 4, 4), 0.1).eval()
    state, pooled.input_shape = pooled.state(), (1, 6, 6)
    for certify in (pooled.certify, functools.partial(evaluate.certify, pooled)):
        assert certify(torch.zeros(1, 1, 4, 4), state=state).label.shape == (1,)
        with pytest.raises(ValueError, match=r"must have shape \(batch, 1, 4, 4\)"):
            certify(torch.zeros(1, 1, 6, 6), state=state)


def test_a_state_is_the_net_s_own():
    """Certificates of another net of the same shape were given."""
    net, x = dense(), torch.randn(5, 4)
    state, other = net.state(), copy.deepcopy(net)
    other.network[0].weight.data.mul_(10)
    for certify in (other.certify, functools.partial(evaluate.certify, other)):
        with pytest.raises(ValueError, match=r"the state is of another net.*net\.state\(\) gave"):
            certify(x, state=state)
        assert certify(x, state=other.state()).label.shape == (5,)
    assert not torch.equal(net.certify(x, state=state).radius, other.certify(x).radius)


@pytest.mark.parametrize("what", ["weight", "x"])
def test_numbers_that_this_thread_takes_for_0_are_refused(what):
    """With flushing, a weight of 1e-39 is 0 and the radius infinite, where it is 100; an x of 1e-40 is 0 though 1e38 times as
    much counts."""
    net = GloroNet(nn.Sequential(nn.Linear(1, 2)), (1,), 1e-42).eval()
    net.head.weight.data = torch.tensor([[1.0], [-1.0]]) * (1e-39 if what == "weight" else -1e38)
    net.head.bias.data = torch.tensor([1.0, -1.0]) * (1e-37 if what == "weight" else 1e-3)
    x = torch.tensor([[1.0 if what == "weight" else 1e-40]])
    before = net.certify(x)
    assert before.prediction.item() == (0 if what == "weight" else 1)
    normal, mixed = torch.tensor([0.0, torch.finfo(torch.float32).tiny, 1.0]), torch.tensor([1.0, -1e-39])
    least = torch.tensor([2.0**-149])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        for certify in (net.certify, net):
            with pytest.raises(NetworkError, match=r"set_flush_denormal\(False\)"):
                certify(x)
        check_flushing(normal, "these")
        for some in (mixed, least, -least):
            with pytest.raises(NetworkError, match="these hold some so near 0"):
                check_flushing(some, "these")
        check_flushing(torch.tensor([2.0**-24], dtype=torch.float16), "these")  # a normal number where it is computed with
        plain = dense()
        assert plain.certify(torch.rand(2, 4)).label.shape == (2,)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(net.certify(x).radius, before.radius)


def test_a_training_bound_follows_settings_that_change():
    layer = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    net = GloroNet(nn.Sequential(layer, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)), (1, 8, 8), 0.1)
    layer.stride = (1, 1)
    assert net.converge() == pytest.approx(upper_bound(net.network[:-1].eval(), (1, 8, 8)), rel=1e-2)


@pytest.mark.parametrize("part", ["distances", "lengths", "offsets", "table"])
def test_bounds_that_somebody_wrote_into_certify_nothing(part):
    net, x = dense(), torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    true = net.certify(x)
    state = net.state()
    getattr(state.head, part).data.zero_()
    with pytest.raises(ValueError, match=r"wrote into the state's bounds"):
        net.certify(x, state=state)
    # Without a state the net proves its bounds anew.
    assert torch.equal(net.certify(x).radius, true.radius)


class Gain(nn.Module):
    """A layer of one's own that reads what is not in it, and so not in a frozen copy either."""

    factor = 1.0

    def forward(self, x):
        return Gain.factor * x


@layer_bound.register
def _(layer: Gain, input_shape):
    return Gain.factor


def test_a_state_ends_with_the_registered_bounds_that_it_was_made_of(monkeypatch):
    """The copy's layer would compute by the new factor, and the bound be of the old one: radii twice as large as they are."""
    net = GloroNet(nn.Sequential(Gain(), nn.Linear(2, 2)), (2,), 0.1).eval()
    x, state = torch.rand(3, 2), net.state()
    assert torch.equal(net.certify(x, state=state).radius, net.certify(x).radius)
    monkeypatch.setattr(Gain, "factor", 2.0)
    with pytest.raises(ValueError, match="a registered bound is another one than when the state was made"):
        net.certify(x, state=state)
    assert net.state().program.bound() > state.program.bound()


def test_a_state_comes_from_a_net():
    with pytest.raises(TypeError, match=r"state is what net\.state\(\) gave, not int"):
        dense().certify(torch.zeros(1, 4), state=3)


@pytest.mark.parametrize(
    "epsilon",
    [
        torch.empty((), device="meta"),
        torch.tensor(1j),
        1j,
        [0.3],
        "a",
        "0.3",
        b"1",
        bytearray(b"1"),
        True,
        np.bool_(True),
        torch.tensor([True]),
    ],
)
def test_an_epsilon_is_a_number(epsilon):
    with pytest.raises(TypeError, match="epsilon must be a number, not"):
        check_epsilon(epsilon)


@pytest.mark.parametrize(
    "epsilon", [10**400, Fraction(10**400), Fraction(1, 10**400), -(10**400)], ids=lambda e: type(e).__name__
)
def test_an_epsilon_is_no_larger_or_smaller_than_a_float(epsilon):
    with pytest.raises(ValueError, match="finite number greater than 0"):
        check_epsilon(epsilon)


def test_an_epsilon_may_have_a_gradient():
    assert check_epsilon(torch.tensor([0.5], requires_grad=True)) == 0.5


def test_an_operator_is_needed():
    for use in (operator_norm, power_iteration):
        with pytest.raises(TypeError, match="linear_operator gives None for a layer that is not affine"):
            use(linear_operator(nn.ReLU(), (4,)))


def test_a_lazy_last_layer_has_no_constants():
    with pytest.raises(ValueError, match="run the network on one batch first"):
        lmt.net(nn.Sequential(nn.LazyLinear(3)), (4,), 0.1)


def test_an_evaluation_is_of_one_state_whatever_another_thread_does():
    net, x, y = dense(), torch.randn(6, 4), torch.arange(6) % 3
    expected = evaluate.evaluate(net, x, y)

    class Moved(GloroNet):
        def certify(self, *args, **kwargs):
            found = super().certify(*args, **kwargs)
            self.network[0].weight.data.mul_(1.5)
            return found

    net.__class__ = Moved
    radius = evaluate.certify(net, x, batch_size=2).radius
    net.network[0].weight.data.div_(1.5**3)
    assert torch.allclose(radius, net.certify(x).radius, rtol=1e-5)
    net.network[0].weight.data.div_(1.5)
    assert evaluate.evaluate(net, x, y).lipschitz == pytest.approx(expected.lipschitz, rel=1e-5)


def test_what_is_evaluated_is_a_net():
    net = dense()
    x, y = torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)
    for use in (
        lambda network: evaluate.evaluate(network, x, y),
        lambda network: evaluate.certify(network, x),
        lambda network: fit(network, (x, y)),
        export.freeze,
        lambda network: serialization.save(network, "nowhere"),
        lambda network: serialization.load(network, "nowhere"),
    ):
        with pytest.raises(TypeError, match=r"a GloroNet is needed, not Sequential: GloroNet\(network, input_shape, epsilon\)"):
            use(net.network)
    with pytest.raises(ValueError, match="batch_size is a number of inputs, at least 1, not 0"):
        evaluate.certify(net, torch.zeros(1, 4), batch_size=0)


def test_sites_take_inputs_in_their_shape_and_units():
    sites = Sites(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    x = torch.rand(3, 1, 4, 4)
    for use in (lambda x: sites.certify(x, 0.1), sites, lambda x: sites.radius(x, torch.zeros(len(x), dtype=torch.int64))):
        use(x)
        with pytest.raises(TypeError, match=r"not torch\.uint8: x\.float\(\) / 255, say"):
            use((255 * x).to(torch.uint8))
        with pytest.raises(ValueError, match=r"must have shape \(batch, 1, 4, 4\), not \(3, 4, 4, 1\)"):
            use(x.permute(0, 2, 3, 1))
        with pytest.raises(ValueError, match=r"add a batch dimension with x\[None\]"):
            use(x[0])
    with pytest.raises(ValueError, match="batch_size is a number of inputs"):
        sites.certify(x, 0.1, batch_size=0)
    for box in ((0,), 1.0, ("a", "b")):
        with pytest.raises(ValueError, match=r"box is \(least, greatest\) value of a coordinate, \(0, 1\) say"):
            sites.certify(x, 0.1, form="cells", box=box)
    with pytest.raises(ValueError, match=r"points must be dense and hold values.*meta"):
        SiteClassifier(sites.sites, sites.labels).certify(x.to("meta"), 0.1)


def test_a_vote_needs_a_network_that_answers_for_each_copy_alone():
    layers = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
    network = nn.Sequential(*layers)
    vote = Smoothed(network, 0.5, samples=50)
    for use in (vote.certify, vote.predict):
        with pytest.raises(ValueError, match=r"layer '1' is in training mode.*call \.eval\(\) first"):
            use(torch.zeros(1, 4))
    network.eval()
    for empty in (vote.certify(torch.zeros(0, 4)).radius, vote.predict(torch.zeros(0, 4))):
        assert len(empty) == 0
    with pytest.raises(TypeError, match=r"torch\.as_tensor\(x\) makes one"):
        vote.certify([[0.0]])
    with pytest.raises(TypeError, match="logits must be a network"):
        Smoothed(3, 0.5)
    with pytest.raises(TypeError, match="sigma must be a number, not str"):
        Smoothed(network, "a")
    for logits in (lambda x: x.sum(1), lambda x: x[:, :1], lambda x: (x, x)):
        with pytest.raises(ValueError, match=r"must give logits of two or more classes, \(batch, classes\), not"):
            Smoothed(logits, 0.5, samples=50).certify(torch.zeros(1, 4))


# Layers of one's own, and what PyTorch may do behind them


def test_a_state_of_before_is_no_way_around_what_is_refused(monkeypatch):
    """A pooling that was replaced after the state was made: program and network both called it."""
    net, x, pool = images(), torch.rand(2, 1, 8, 8), nn.functional.max_pool2d
    state = net.state()
    assert net.certify(x, state=state).label.shape == (2,)
    monkeypatch.setattr(nn.functional, "max_pool2d", lambda *a, **k: 10 * pool(*a, **k))
    for certify in (net.certify, functools.partial(evaluate.certify, net)):
        with pytest.raises(NetworkError, match=r"max_pool2d was replaced"):
            certify(x, state=state)


@pytest.mark.parametrize("layer", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1)], ids=str)
def test_a_softmax_belongs_in_the_loss(layer):
    with pytest.raises(UnknownLayerError, match=r"layer '1' .*logits are what is certified: leave it to the loss"):
        GloroNet(nn.Sequential(nn.Linear(4, 3), layer), (4,), 0.1)


class Tripled(nn.Module):
    """Works in place."""

    def forward(self, x):
        return x.mul_(3)


layer_bound.register(Tripled, lambda layer, shape: 3.0)


def test_a_layer_of_one_s_own_that_works_in_place_changes_nothing_that_others_read():
    """x + 3 x was 6 x, and was bounded by 4."""
    x = torch.randn(5, 4, dtype=torch.float64)
    before = x.clone()
    net = GloroNet(nn.Sequential(Tripled(), nn.Linear(4, 3)).double(), (4,), 0.1).eval()
    expected = GloroNet(nn.Sequential(nn.Linear(4, 3)).double(), (4,), 0.1).eval()
    expected.load_state_dict({f"network.0.{key}": value for key, value in net.head.state_dict().items()})
    assert torch.allclose(net.certify(x).radius * 3, expected.certify(3 * x).radius) and torch.equal(x, before)
    for shared in (Residual(Tripled()), Residual(nn.Sequential(nn.Identity(), Tripled()), nn.ReLU())):
        net = GloroNet(nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 3)), (4,), 0.1).eval()
        with pytest.raises(MismatchError, match="works in place on what other layers read"):
            net.certify(torch.randn(5, 4))


class Learning(nn.Module):
    """Learns from what it sees while it is trained, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout()

    def forward(self, x):
        return self.dropout(self.norm(x))


layer_bound.register(Learning, lambda layer, shape: 1000.0)


def test_a_network_is_as_it_was_when_a_net_was_made_of_it():
    network = nn.Sequential(Learning(), nn.Linear(4, 3))
    network[0].norm.running_mean.fill_(1)
    before, seed = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    GloroNet(network, (4,), 0.1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), seed) and network[0].training


def test_a_registered_bound_may_have_a_gradient(recwarn):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = nn.Parameter(torch.tensor([2.0, -3.0]))

        def forward(self, x):
            return x * self.factors

    layer_bound.register(Scaled, lambda layer, shape: layer.factors.abs().max())
    net = GloroNet(nn.Sequential(Scaled(), nn.Linear(2, 2)), (2,), 0.1)
    net(torch.randn(3, 2)).sum().backward()
    assert net.network[0].factors.grad is not None and net.eval().certify(torch.randn(3, 2)).label.shape == (3,)
    assert not recwarn


def test_a_layer_of_one_s_own_that_keeps_tensors_in_a_list_is_told_where_to_keep_them():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = [torch.eye(4)]

        def forward(self, x):
            return x @ self.weights[0]

    layer_bound.register(Listed, lambda layer, shape: 1.0)
    net = GloroNet(nn.Sequential(Listed(), nn.Linear(4, 2)), (4,), 0.1).eval()
    with pytest.raises(NetworkError, match=r"layer '0' .*must be parameters, buffers or attributes, not in lists"):
        net.certify(torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(1, 2, 3, padding=2, padding_mode="circular"), (1, 5, 5)),
        (nn.Conv2d(1, 2, 2, padding="same"), (1, 5, 5)),
        (nn.Conv1d(1, 2, 3, stride=2, padding=1, padding_mode="reflect"), (1, 6)),
        (nn.ConvTranspose2d(1, 2, 3, stride=2), (1, 4, 5)),
        (nn.ConvTranspose1d(2, 2, 3, stride=1, dilation=3, output_padding=2, groups=2), (2, 5)),
        (nn.Conv2d(1, 2, 3), (1, 5, 5)),
        (nn.AvgPool2d(2), (1, 4, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["saved", "inference"])
def test_bounds_do_not_rest_on_what_autograd_keeps(layer, shape, kind):
    """Hooks that pack saved tensors in fewer bits, say, made bounds a third of what is true; of tensors made in inference mode
    autograd keeps none."""
    bound = upper_bound(layer, shape)
    matrix = linear_operator(layer.double(), shape).matrix()
    assert bound >= torch.linalg.matrix_norm(matrix, 2).item() * (1 - 1e-12)
    layer.float()
    if kind == "saved":
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor * 0.1, lambda tensor: tensor):
            assert upper_bound(layer, shape) == bound
    else:
        with torch.inference_mode():
            layer = copy.deepcopy(layer)
            for parameter in layer.parameters():
                parameter.data = parameter.clone()
        net = nn.Sequential(layer, nn.Flatten(), nn.Linear(math.prod(linear_operator(layer, shape).output_shape), 2))
        assert GloroNet(net, shape, 0.1).eval().program().bound(None) > 0 and upper_bound(layer, shape) == bound


def test_a_net_that_was_made_in_inference_mode_can_be_trained():
    network = nn.Sequential(nn.Linear(4, 4), MinMax(), nn.Linear(4, 3))
    with torch.inference_mode():
        net = GloroNet(network, (4,), 0.1)
    net(torch.randn(2, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_inputs_that_are_nested_are_refused():
    with warnings.catch_warnings():  # that they are a prototype, which PyTorch says once
        warnings.simplefilter("ignore")
        x = torch.nested.nested_tensor([torch.zeros(4), torch.zeros(4)])
    with pytest.raises(TypeError, match="must be dense and hold values; these are nested"):
        dense().certify(x)


def test_a_forward_that_was_compiled_is_taken_back_where_it_stands():
    net = dense()
    net.forward = torch.compile(net.forward, backend="eager")
    with pytest.raises(NetworkError, match=r"its forward was compiled.*del net\.forward"):
        net.certify(torch.zeros(1, 4))
    del net.forward
    assert net.certify(torch.zeros(1, 4)).label.shape == (1,)


class Mapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_what_parametrizations_come_to_is_looked_at(name):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    broken = copy.deepcopy(network)
    register_parametrization(broken[0], name, Mapped(lambda tensor: tensor * math.nan), unsafe=True)
    net = GloroNet(broken, (4,), 0.1).eval()
    with pytest.raises(NetworkError, match=rf"^0\.{name} holds NaN"):
        net.certify(torch.zeros(1, 4))
    register_parametrization(network[0], name, Mapped(lambda tensor: tensor.double()), unsafe=True)
    with pytest.raises(NetworkError, match=r"of several types, torch\.float32, torch\.float64"):
        GloroNet(network, (4,), 0.1)


def test_a_table_is_above_0_where_this_thread_takes_the_smallest_numbers_for_0():
    """No weight is that small, their product is: K of 1e-310 counted as 0, and the radius was infinite where it is 1e300."""
    net = GloroNet(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2)).double(), (1,), 1e305).eval()
    net.network[0].weight.data.fill_(1e-155)
    net.network[0].bias.data.zero_()
    net.head.weight.data = torch.tensor([[5e-156], [-5e-156]], dtype=torch.float64)
    net.head.bias.data = torch.tensor([5e-11, -5e-11], dtype=torch.float64)
    x = torch.zeros(1, 1, dtype=torch.float64)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    try:
        c = net.certify(x)
        moved = net.network(x - 1e304).argmax().item()
    finally:
        torch.set_flush_denormal(False)
    assert c.prediction.item() == 0 and moved == 1 and c.radius.item() <= 1e300 and c.label.item() == -1


def test_a_head_of_a_thousand_classes_that_begins_at_zero():
    net = GloroNet(nn.Sequential(nn.Linear(4, 1000, bias=False)), (4,), 0.1).eval()
    rows = net.head.weight.detach().double()
    assert torch.allclose(net.margin_constants(), torch.cdist(rows, rows), rtol=1e-9, atol=1e-12)
    nn.init.zeros_(net.head.weight)
    assert (net.margin_constants() == 0).all() and (net.certify(torch.randn(2, 4)).label == -1).all()


def test_a_training_bound_comes_back_when_weights_that_were_no_numbers_do():
    net = dense()
    weights, before = copy.deepcopy(net.network.state_dict()), net.converge()
    with torch.no_grad():
        net.network[0].weight.fill_(math.nan)
    assert net.estimate().isnan().any()
    net.network.load_state_dict(weights)
    assert net.converge() == pytest.approx(before, rel=1e-3)
