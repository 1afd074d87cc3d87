"""What is refused when a network is read, with its reason, and what is just inside and is not."""

import functools
import math
import threading

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, MinMax, NetworkError, Normalize, Residual, UnknownLayerError
from gloro_lite.layers import GroupSort
from gloro_lite.lipschitz import (
    TrainingBound,
    layer_bound,
    linear_operator,
    norms,
    operator_norm,
    power_iteration,
    program,
    upper_bound,
)
from gloro_lite.lipschitz.walk import walk


def changed(layer, **attributes):
    """A layer with attributes that were changed after it was built; tensors become parameters."""
    for name, value in attributes.items():
        setattr(layer, name, nn.Parameter(value, requires_grad=False) if isinstance(value, torch.Tensor) else value)
    return layer


def constant_features():
    """A batch norm that has only seen features that never changed."""
    layer = nn.BatchNorm1d(2).eval()
    layer.running_var.zero_()
    return layer


def zeros(*shape):
    return torch.zeros(*shape)


class Odd(torch.Tensor):
    pass


REFUSED = [
    (changed(nn.Linear(4, 3), weight=zeros(3, 5)), (4,), "features say otherwise"),
    (changed(nn.Linear(4, 3), weight=zeros(3, 4, 1)), (4,), "features say otherwise"),
    (changed(nn.Linear(4, 3), bias=zeros(2)), (4,), r"bias has shape \(2,\)"),
    (nn.Linear(4, 3), (), "takes 4 features"),
    (changed(nn.Conv2d(1, 1, 3), weight=zeros(1, 1, 3, 2)), (1, 5, 5), "its settings say"),
    (changed(nn.Conv2d(1, 1, 3), bias=zeros(2)), (1, 5, 5), r"bias has shape \(2,\)"),
    (nn.Conv2d(2, 1, 3), (2, 9), r"takes inputs of shape \(2, height, width\)"),
    (nn.Conv1d(2, 1, 3), (2, 9, 9), r"takes inputs of shape \(2, width\)"),
    (nn.Conv2d(1, 1, 5), (1, 3, 9), "smaller than its kernel"),
    (nn.Conv2d(1, 1, 3, padding=4, padding_mode="circular"), (1, 3, 9), "larger than inputs"),
    (changed(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), padding=(0, 0)), (1, 5, 5), "padding was changed"),
    (changed(nn.Conv2d(1, 1, 3), stride=(0, 1)), (1, 5, 5), "its stride is"),
    (changed(nn.Conv2d(1, 1, 3), stride="ab"), (1, 5, 5), "."),
    (changed(nn.ConvTranspose2d(1, 1, 3), weight=zeros(1, 1, 3, 2)), (1, 5, 5), "its settings say"),
    (nn.ConvTranspose2d(2, 1, 3), (1, 5, 5), "takes 2 channels"),
    (nn.ConvTranspose2d(2, 1, 3), (2, 5), "takes 2 channels and 2 axes"),
    (nn.ConvTranspose2d(1, 1, 1, padding=1), (1, 2, 9), "nothing is left"),
    (nn.ConvTranspose2d(1, 1, 1, padding=1), (1, 1, 9), "nothing is left"),
    (changed(nn.Conv2d(1, 1, 3, padding="same"), stride=(1, 2)), (1, 5, 5), "strides of 1 alone"),
    (nn.ConvTranspose2d(1, 1, 3, stride=(2, 1), output_padding=1), (1, 5, 5), "output_padding is"),
    (nn.ConvTranspose2d(1, 1, 3, stride=(1, 2), output_padding=1), (1, 5, 5), "output_padding is"),
    (nn.Conv2d(1, 1, 5), (1, 4, 4), "smaller than its kernel"),
    (nn.ConvTranspose2d(1, 1, 2, padding=1), (1, 1, 1), "nothing is left of inputs"),
    (nn.AvgPool2d(2), (4, 4), r"takes inputs of shape \(channels"),
    (nn.AvgPool2d(5), (1, 3, 3), "does not take inputs"),
    (nn.AdaptiveAvgPool2d(0), (1, 3, 3), "nothing is left"),
    (nn.BatchNorm2d(2).eval(), (2, 3), "does not take inputs"),
    (nn.BatchNorm2d(3).eval(), (2, 4, 4), "3 features, one for each channel"),
    (changed(nn.BatchNorm2d(2).eval(), weight=zeros(3)), (2, 4, 4), r"\(2,\) is needed"),
    (changed(nn.BatchNorm2d(2).eval(), running_mean=None), (2, 4, 4), "no fixed function"),
    (changed(nn.BatchNorm2d(2).eval(), running_var=None), (2, 4, 4), "no fixed function"),
    (nn.Dropout1d().eval(), (2, 3, 4), "use nn.Dropout2d"),
    (nn.Dropout(), (4,), "training mode"),
    (changed(nn.Linear(4, 3, bias=False), weight=zeros(0, 4), out_features=0), (4,), "nothing is left"),
    (changed(nn.Linear(4, 3), weight=zeros(3, 0), in_features=0), (0,), "nothing is left"),
    (Normalize([0.5], [0.5]), (), "1 mean and std"),
    (nn.Flatten(-3), (4, 5), "batch dimension"),
    (nn.Flatten(5), (4, 5), "does not take inputs"),
    (nn.Unflatten(0, (1, 2)), (4, 5), "batch dimension"),
    (changed(nn.Unflatten(1, (2, 2)), dim="features"), (4,), "batch dimension"),
    (nn.LeakyReLU(math.inf), (4,), "negative_slope is inf"),
    (changed(nn.ELU(), alpha="1"), (4,), "alpha is 1"),
    (nn.Softplus(beta=0), (4,), "beta is 0"),
    (nn.Softplus(threshold=19.9), (4,), "jump"),
    (nn.Softplus(threshold=80.5), (4,), "overflows in float32"),
    (nn.PReLU(3), (2, 4), "3 slopes"),
    (nn.PReLU(3), (), "3 slopes"),
    (nn.PReLU(2), (4,), "2 slopes"),
    (changed(nn.PReLU(), weight=zeros(1, 1)), (4,), "1 slopes"),
    (changed(nn.GELU(), approximate="quick"), (4,), "'quick' is not known"),
    (MinMax(), (), "even, not 0"),
    (GroupSort(2), (), "multiple of it, not 0"),
    (nn.MaxPool2d(2), (4, 4), r"takes \(channels"),
    (nn.MaxPool2d(5), (1, 3, 3), "does not take inputs"),
    (changed(nn.Linear(2, 2), weight=torch.eye(2).to_sparse()), (2,), "ordinary dense tensors"),
    (changed(nn.Linear(2, 2), weight=torch.ones(2, 2, dtype=torch.int64)), (2,), "floating-point"),
    (nn.GroupNorm(1, 2), (2, 3), "spread of its own input"),
    (nn.TransformerEncoderLayer(4, 1), (3, 4), "attention has no global Lipschitz constant"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_a_layer_cannot_be_is_refused_with_its_name(layer, shape, message):
    with pytest.raises(NetworkError, match=message) as caught:
        walk(nn.Sequential(nn.Sequential(layer)), shape)
    assert caught.value.layer == "0.0"


@pytest.mark.parametrize(
    ("layer", "shape", "output"),
    [
        (nn.Conv2d(1, 1, 3), (1, 3, 3), (1, 1, 1)),
        (nn.Conv2d(1, 1, 3, padding=3, padding_mode="circular"), (1, 3, 3), (1, 7, 7)),
        (changed(nn.Conv2d(1, 1, 3, padding=1), padding=(0, 0)), (1, 5, 5), (1, 3, 3)),
        (nn.ConvTranspose2d(1, 1, 1), (1, 1, 1), (1, 1, 1)),
        (nn.Softplus(threshold=20), (4,), (4,)),
        (nn.Softplus(threshold=80), (4,), (4,)),
        (nn.PReLU(), (4,), (4,)),
        (nn.PReLU(2), (2, 3), (2, 3)),
        (nn.PReLU(), (), ()),
        (nn.GELU("tanh"), (4,), (4,)),
        (nn.BatchNorm2d(2, affine=False).eval(), (2, 3, 3), (2, 3, 3)),
        (nn.BatchNorm1d(2).eval(), (2, 3), (2, 3)),
        (nn.BatchNorm3d(2).eval(), (2, 2, 2, 2), (2, 2, 2, 2)),
        (constant_features(), (2,), (2,)),
        (nn.Dropout1d().eval(), (2, 3), (2, 3)),
        (nn.Dropout1d().eval(), (2,), (2,)),
        (nn.Flatten(-2), (4, 5), (20,)),
        (MinMax(), (2,), (2,)),
        (GroupSort(2), (2,), (2,)),
    ],
    ids=str,
)
def test_what_is_just_inside_is_read(layer, shape, output):
    node = walk(layer, shape)
    assert node.output_shape == output
    assert tuple(layer(torch.zeros(2, *shape)).shape) == (2, *output)


def test_other_tensors_than_pytorch_s_own_are_refused():
    layer = nn.Linear(2, 2)
    layer.register_buffer("odd", torch.zeros(1).as_subclass(Odd))
    with pytest.raises(NetworkError, match="its odd is a Odd"):
        upper_bound(layer, (2,))


def test_what_is_no_layer_is_refused():
    network = nn.Sequential(nn.Linear(2, 2))
    network._modules["1"] = None
    with pytest.raises(NetworkError, match="not NoneType"):
        upper_bound(network, (2,))
    with pytest.raises(UnknownLayerError, match=r"no Lipschitz bound: register") as caught:
        upper_bound(nn.Module(), (2,))
    assert caught.value.layer == ""
    with pytest.raises(UnknownLayerError, match="no Lipschitz bound"):
        layer_bound(nn.Module(), (2,))
    with pytest.raises(TypeError, match=r"torch\.nn\.Sequential"):
        GloroNet(lambda x: x, (2,), 0.1)
    for iterations in (0, -1):
        with pytest.raises(ValueError, match="power_iterations must be a whole number, at least 1"):
            GloroNet(nn.Sequential(nn.Linear(2, 2)), (2,), 0.1, power_iterations=iterations)
        with pytest.raises(ValueError, match="at least 1"):
            power_iteration(linear_operator(nn.Linear(2, 2), (2,)), iterations)


def test_a_linear_operator_is_read_in_training_mode_too():
    for layer in (nn.Dropout(), nn.BatchNorm1d(4)):
        assert linear_operator(layer, (4,)).output_shape == (4,)


def test_power_iteration_goes_on_from_a_start():
    operator = linear_operator(nn.Linear(3, 3, bias=False).double(), (3,))
    estimate, v = power_iteration(operator, 1, start=torch.tensor([[1.0, 0, 0]], dtype=torch.float64))
    gram = operator.matrix().T @ operator.matrix()
    expected = gram[0] / gram[0].norm()
    assert torch.allclose(v[0], expected) and estimate == pytest.approx((operator.matrix() @ expected).norm().item())
    assert power_iteration(operator, 500)[0] == pytest.approx(upper_bound(operator.layer, (3,)), rel=1e-6)
    with torch.no_grad():
        operator.layer.weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 0.0])))
    estimate, v = power_iteration(operator, 100)  # one direction vanishes
    assert estimate == pytest.approx(2) and v.shape == (1, 3) and v.norm().item() == pytest.approx(1)
    with torch.no_grad():
        operator.layer.weight.zero_()
    assert power_iteration(operator, 2)[0] == 0


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([[0.5]], [[0.5]]),
        ([0.5], [0.5, 0.5]),
        ([0.5, math.inf], [0.5, 0.5]),
        ([0.5, 0.5], [math.inf, 0.5]),
        ([0.5], [math.nan]),
        ([0.5, 0.5], [0.5, 0.0]),
        ([0.5], [-1.0]),
    ],
)
def test_normalize_takes_one_finite_mean_and_one_positive_std_for_each_channel(mean, std):
    with pytest.raises(ValueError, match="mean and std must be"):
        Normalize(mean, std)
    layer = Normalize([0.5, 0.1], [0.5, 0.25])
    x = torch.rand(3, 2, 4)
    assert torch.equal(layer(x), (x - torch.tensor([[0.5], [0.1]])) / torch.tensor([[0.5], [0.25]]))


def test_minmax_needs_pairs_of_channels():
    for wrong in (torch.zeros(4), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="pairs of channels"):
            MinMax()(wrong)
    x = torch.tensor([[1.0, 2.0, 1.0, 3.0]], requires_grad=True)  # a tie: each number keeps its gradient
    (MinMax()(x) * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert x.grad.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert torch.equal(Residual(nn.ReLU())(x), x.relu() + x) and torch.equal(
        Residual(nn.ReLU(), nn.Tanh())(x), x.relu() + x.tanh()
    )


# ---- layers of the user's own ----------------------------------------------------------------------------------------------


def own_layer(forward, bound):
    """A layer of a type of its own with a registered bound."""
    cls = type("Own", (nn.Module,), {"forward": lambda self, x: forward(x)})
    layer_bound.register(cls, lambda layer, shape: bound)
    return cls().eval()


def test_a_negative_variance_is_refused():
    layer = nn.BatchNorm1d(2).eval()
    layer.running_var[0] = -1e-5
    with pytest.raises(NetworkError, match="running_var holds negative numbers"):
        walk(layer, (2,))


@pytest.mark.parametrize("bound", [-1.0, math.nan, torch.tensor(-0.5)])
def test_a_registered_bound_is_no_negative_number(bound):
    with pytest.raises(NetworkError, match="must be a number that is not negative"):
        walk(own_layer(lambda x: x, bound), (2,))
    assert upper_bound(own_layer(lambda x: 0 * x, 0.0), (2,)) == 0


@pytest.mark.parametrize(
    "forward", [lambda x: (x, x), lambda x: x.sum(), lambda x: x[:1], lambda x: torch.cat((x, x))], ids=range(4)
)
def test_a_registered_layer_gives_one_tensor_with_the_batch_first(forward):
    with pytest.raises(NetworkError, match="for a batch of 2 it returns"):
        walk(own_layer(forward, 1.0), (3,))
    assert walk(own_layer(lambda x: x.sum(1), 2.0), (3,)).output_shape == ()


def test_a_registered_layer_that_returns_a_tuple_for_one_batch_is_refused():
    net = GloroNet(nn.Sequential(own_layer(lambda x: x if len(x) == 2 else (x, x), 1.0), nn.Linear(2, 2)), (2,), 0.1).eval()
    with pytest.raises(NetworkError, match="does not give outputs of shape"):
        net.certify(torch.zeros(3, 2))


def test_a_registered_layer_whose_shape_depends_on_the_batch_is_refused():
    net = GloroNet(nn.Sequential(own_layer(lambda x: x if len(x) == 2 else x[:, :1], 1.0), nn.Linear(2, 2)), (2,), 0.1).eval()
    assert net.certify(torch.zeros(2, 2)).label.shape == (2,)
    with pytest.raises(NetworkError, match="does not give outputs of shape"):
        net.certify(torch.zeros(3, 2))


def test_a_registered_bound_may_differentiate_also_in_inference_mode():
    def bound(layer, shape):
        with torch.enable_grad():
            x = torch.ones((), requires_grad=True)
            return torch.autograd.grad(2 * x, x)[0]

    cls = type("Own", (nn.Module,), {"forward": lambda self, x: 2 * x})
    layer_bound.register(cls, bound)
    net = GloroNet(nn.Sequential(cls(), nn.Linear(2, 2)), (2,), 0.1).eval()
    with torch.inference_mode():
        assert upper_bound(cls(), (2,)) == pytest.approx(2)
        state = net.state()
        assert net.state() is state and net.certify(torch.rand(1, 2), state=state).radius.shape == (1,)


def test_a_program_runs_a_registered_layer_in_eval_mode():
    """As its output's shape is found, whatever mode the original is in."""
    cls = type("Own", (nn.Module,), {"forward": lambda self, x: 0 * x + self.training})
    layer_bound.register(cls, lambda layer, shape: 0.0)
    made = program.Program(nn.Sequential(cls().train()), (2,))
    assert made.run(torch.rand(1, 2), made.nodes).value.tolist() == [[0, 0]]


def test_each_registered_bound_is_asked_again_also_in_a_residual():
    bounds = [1.0, 1.0]
    layers = []
    for place in range(2):
        cls = type("Asked", (nn.Module,), {"forward": lambda self, x: x / 4})
        layer_bound.register(cls, lambda layer, shape, place=place: bounds[place])
        layers.append(cls())
    for network in (nn.Sequential(*layers), nn.Sequential(Residual(layers[0]), Residual(nn.ReLU(), layers[1]))):
        net = GloroNet(nn.Sequential(*network, nn.Linear(2, 2)), (2,), 0.1).eval()
        for place in range(2):
            before, bounds[place] = net.margin_constants(), bounds[place] / 2
            assert (net.margin_constants() < 0.9 * before + (before == 0)).all()


def test_what_a_registered_layer_is_made_of_is_its_own_affair():
    def wrapped():
        layer = own_layer(lambda x: x, 1.0)
        layer.inner = nn.Sequential(nn.ReLU(inplace=True))
        return layer

    network = nn.Sequential(wrapped(), wrapped(), nn.Linear(2, 2))
    assert GloroNet(network, (2,), 0.1).eval().certify(torch.rand(3, 2)).label.shape == (3,)
    with pytest.raises(NetworkError, match="inplace=False"):
        GloroNet(nn.Sequential(wrapped(), nn.ReLU(inplace=True), nn.Linear(2, 2)), (2,), 0.1)


def test_a_layer_that_is_constant_leaves_nothing_to_bound():
    net = GloroNet(nn.Sequential(own_layer(lambda x: 0 * x, 0.0), nn.Linear(2, 2)), (2,), 0.1).eval()
    assert (net.margin_constants() == 0).all() and (net.certify(torch.rand(3, 2)).radius == math.inf).all()


# ---- what is too large to prove --------------------------------------------------------------------------------------------


def test_what_is_too_large_to_prove_is_refused_when_it_is_read(monkeypatch):
    operator = linear_operator(nn.Linear(9, 10), (9,))
    monkeypatch.setattr(norms, "UNROLLED_LIMIT", 8)
    convolution = nn.Conv2d(2, 2, 3, padding=1)
    for layer, shape in (
        (nn.Linear(9, 10), (9,)),
        (Residual(nn.Linear(9, 9)), (9,)),
        (Residual(convolution), (2, 4, 4)),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 4, 4)),
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), (2, 8)),
    ):
        with pytest.raises(NetworkError, match="too large to prove"):
            walk(layer, shape)
    with pytest.raises(NetworkError, match="too large to prove"):
        operator_norm(operator)
    for layer, shape in (
        (nn.Linear(8, 10), (8,)),
        (nn.Linear(10, 8), (10,)),
        (nn.Linear(4, 4), (9, 4)),
        (convolution, (2, 4, 4)),
    ):
        exact = torch.linalg.matrix_norm(walk(layer.double(), shape).matrix(), 2).item()
        assert exact * (1 - 1e-12) <= upper_bound(layer, shape) <= 1.5 * exact
    pool = nn.AvgPool2d(2, 1)
    exact = torch.linalg.matrix_norm(walk(pool, (1, 4, 4)).matrix(), 2).item()
    assert exact * (1 - 1e-12) <= upper_bound(pool, (3, 4, 4)) <= 1.01 * exact  # by the proof for positive matrices


def test_weights_that_are_not_finite_have_no_norm():
    layer = nn.Linear(2, 2)
    for value in (math.nan, math.inf):
        with torch.no_grad():
            layer.weight[0, 0] = value
        with pytest.raises(NetworkError, match="NaN or infinite"):
            operator_norm(linear_operator(layer, (2,)))


# ---- networks that change --------------------------------------------------------------------------------------------------


def two_layers():
    return GloroNet(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), (2,), 0.1).eval()


def test_a_network_that_cannot_be_copied_is_refused():
    net = two_layers()
    net.network[1].lock = threading.Lock()
    with pytest.raises(NetworkError, match="cannot be copied"):
        net.certify(torch.zeros(1, 2))


def test_inputs_are_tensors():
    for wrong in ([[0.0, 0.0]], None):
        with pytest.raises(TypeError, match=r"torch\.as_tensor"):
            two_layers().certify(wrong)


def test_a_training_bound_follows_layers_that_are_replaced():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    bound = TrainingBound(network, (3,))
    assert [name for name, _ in bound.named_buffers()] == ["iterate_0"]
    for layer in (nn.Linear(3, 3), nn.Linear(3, 5)):
        network[0] = layer
        assert bound.converge(1e-7) == pytest.approx(torch.linalg.matrix_norm(layer.weight, 2).item(), rel=1e-3)
        assert bound.norms()["0"].item() == pytest.approx(bound(1).item(), rel=1e-6)


class Alike(nn.Module):
    """Equal to all of its kind, whatever it computes."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x

    def __eq__(self, other):
        return isinstance(other, Alike)

    __hash__ = nn.Module.__hash__


def test_a_training_bound_takes_other_layers_that_are_named_or_equal_alike_and_keeps_its_iterate():
    layer_bound.register(Alike, lambda layer, shape: layer.factor)
    bound = TrainingBound([("0", Alike(1.0))], (3,))
    bound.follow([("0", Alike(2.0))], (3,))
    assert float(bound(1)) == 2
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    bound = TrainingBound([("0", first)], (3,))
    bound.converge()
    iterate = bound.iterate_0.clone()
    bound.follow([("0", second)], (3,))
    assert torch.equal(bound.iterate_0, iterate)
    assert bound.converge(1e-7) == pytest.approx(torch.linalg.matrix_norm(second.weight, 2).item(), rel=1e-3)


def test_each_call_of_a_training_bound_goes_as_far_as_it_says():
    layer = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.linspace(0.9, 1, 6)))
    bounds = [TrainingBound(layer, (6,)) for _ in range(2)]
    assert bounds[0].norms()[""] == bounds[1](1)
    assert torch.equal(bounds[0].iterate_0, bounds[1].iterate_0)
    assert bounds[0].converge(0.0, limit=20) == bounds[1](20).item()


def test_a_net_that_is_no_classifier_any_more_is_refused():
    for layer in (nn.ReLU(), nn.Linear(3, 1)):
        net = two_layers()
        net.network.append(layer)
        with pytest.raises(NetworkError, match=r"end in|one class"):
            net.certify(torch.zeros(1, 2))


def test_a_method_that_is_replaced_after_the_first_certificate_is_noticed(monkeypatch):
    net, x = two_layers(), torch.zeros(1, 2)
    net.certify(x)
    original = nn.ReLU.forward
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: original(self, x))
    with pytest.raises(NetworkError, match=r"ReLU\.forward was replaced"):
        net.certify(x)


def test_a_replaced_method_is_noticed_beside_a_layer_that_answers_for_itself(monkeypatch):
    x, original = torch.zeros(1, 2), nn.ReLU.forward
    network = nn.Sequential(own_layer(lambda x: x, 1.0), nn.ReLU(), nn.Linear(2, 2))
    net = GloroNet(network, (2,), 0.1).eval()
    net.certify(x)
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: original(self, x))
    with pytest.raises(NetworkError, match=r"ReLU\.forward was replaced"):
        net.certify(x)


def test_an_attribute_of_a_class_that_is_no_method_changes_nothing(monkeypatch):
    net = two_layers()
    monkeypatch.setattr(nn.ReLU, "note", 1, raising=False)
    assert net.certify(torch.zeros(1, 2)).label.shape == (1,)


def test_a_method_that_a_class_gets_is_noticed_whatever_is_called(monkeypatch):
    """A partial function is no method in Python, and takes the place of one that is inherited all the same."""
    net, x = two_layers(), torch.zeros(1, 2)
    monkeypatch.setattr(nn.ReLU, "__call__", functools.partial(torch.mul, 3), raising=False)
    assert net.network[1](torch.ones(1)) == 3
    with pytest.raises(NetworkError, match=r"ReLU\.__call__ was replaced"):
        net.certify(x)


def test_weights_that_change_while_they_are_copied_and_are_back_after_it_are_read_again(monkeypatch):
    net, frozen, copies = two_layers(), program._frozen, []
    before, weight = net.margin_constants(), net.network[0].weight.detach().clone()

    def meanwhile(network):
        if not copies:
            with torch.no_grad():
                net.network[0].weight.mul_(3)
        copies.append(frozen(network))
        with torch.no_grad():
            net.network[0].weight.copy_(weight)
        return copies[-1]

    monkeypatch.setattr(program, "_frozen", meanwhile)
    made = program.Program(net.network, (2,))
    assert len(copies) == 2 and torch.equal(made.network[0].weight, weight.double())
    assert torch.equal(net.margin_constants(), before)


CHANGES = {
    "weight": (lambda net: net[0].weight.data.mul_(3), lambda net: net[0].weight.data.fill_(1.0)),
    "setting": (lambda net: setattr(net[1], "negative_slope", 7.0), lambda net: setattr(net[1], "negative_slope", 0.5)),
    "type": (lambda net: net.double(), lambda net: net.float()),
    "bias": (
        lambda net: net[0].register_parameter("bias", nn.Parameter(torch.ones(2))),
        lambda net: setattr(net[0], "bias", None),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("when", ["before the copy", "during the copy", "after the copy"])
@pytest.mark.parametrize("back", [True, False])
def test_what_another_thread_changes_while_a_network_is_copied_is_read_again(monkeypatch, what, when, back):
    """Between the first reading and the copy, within it, or before the last reading; it may take back what it did."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.LeakyReLU(0.5))
    nn.init.ones_(network[0].weight)
    (change, undo), kept, frozen, copies = CHANGES[what], program._Snapshot.kept, program._frozen, []

    def reading(self):
        found = kept(self)
        if not copies and when == "before the copy":
            change(network)
        return found

    def copying(of):
        if not copies and when == "during the copy":
            change(network)
        copies.append(frozen(of))
        if len(copies) == 1 and when == "after the copy":
            change(network)
        if back:
            undo(network)
        return copies[-1]

    monkeypatch.setattr(program._Snapshot, "kept", reading)
    monkeypatch.setattr(program, "_frozen", copying)
    made = program.Program(network, (2,))
    assert len(copies) == (1 if back and when == "after the copy" else 2) and made.is_current(network, (2,))
    assert made.dtype == network[0].weight.dtype and made.network[1].negative_slope == network[1].negative_slope
    assert torch.equal(made.network[0].weight, network[0].weight.double())
    assert (made.network[0].bias is None) == (network[0].bias is None)


def test_whatever_changes_in_a_network_is_followed():
    net = two_layers()
    x, before = torch.randn(5, 2), net.margin_constants()
    net.network[1] = nn.Sigmoid()
    assert torch.allclose(net.margin_constants(), before / 4, rtol=1e-9)
    net.network[0].bias = None
    assert torch.allclose(net(x)[:, :3], net.logits(x), atol=1e-6)
    net.double()
    assert net.program().dtype == torch.float64 and torch.allclose(net(x.double())[:, :3], net.logits(x.double()), atol=1e-12)


def test_an_input_of_a_single_number_needs_a_batch_too():
    net = GloroNet(nn.Sequential(own_layer(lambda x: x[:, None], 1.0), nn.Linear(1, 2)), (), 0.1).eval()
    assert net.certify(torch.zeros(3)).label.shape == (3,)
    with pytest.raises(ValueError, match=r"x\[None\]"):
        net.certify(torch.tensor(0.5))


def test_logits_need_inputs_of_the_right_shape():
    for mode in (True, False):
        net = two_layers().train(mode)
        for call in (net.logits, net):
            with pytest.raises(ValueError, match="must have shape"):
                call(torch.zeros(3, 5))


def test_logits_of_whole_numbers_are_refused_where_autocast_is_active_too():
    net = two_layers()
    with torch.autocast("cpu"):
        assert net.logits(torch.zeros(1, 2, dtype=torch.bfloat16)).shape == (1, 3)
        with pytest.raises(TypeError, match=r"inputs are torch\.int64 and the network's weights torch\.float32"):
            net.logits(torch.zeros(1, 2, dtype=torch.int64))


def test_logits_that_are_no_numbers_make_bottom():
    net = GloroNet(nn.Sequential(nn.Linear(2, 2, bias=False).double()), (2,), 0.1).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[1e308, -1e308], [0.0, 0.0]], dtype=torch.float64))
    x = torch.tensor([[10.0, 10.0], [1e-300, 0.0]], dtype=torch.float64)
    assert net.certify(x).label[0] == -1 and net.certify(x).radius[0] == 0
    outputs = net(x)
    assert outputs.isfinite().all() and outputs[0].argmax() == 2


def test_a_batch_of_no_inputs_has_no_certificates():
    net = two_layers()
    for kind in ({}, {"guarantee": "deployed"}, {"dtype": None}):
        assert net.certify(torch.zeros(0, 2), **kind).radius.shape == (0,)
    assert net(torch.zeros(0, 2)).shape == (0, 4)


def test_logits_that_only_float64_can_hold_are_cut_off_and_keep_their_order():
    net = GloroNet(nn.Sequential(nn.Linear(1, 3, bias=False)), (1,), 0.1).eval()
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[1e20], [-1e20], [0.0]]))
    x = torch.tensor([[1e19], [-1e19]])
    outputs = net(x)
    assert outputs.isfinite().all() and outputs.argmax(dim=1).tolist() == net.certify(x).label.tolist() == [0, 1]


def test_the_form_of_the_table_can_be_changed():
    net = two_layers()
    tight = net.margin_constants()
    net.tight = False
    loose = net.margin_constants()
    assert (loose > tight).all() and (tight.diagonal() == 0).all()
    net.tight = True
    assert torch.equal(net.margin_constants(), tight)


def test_a_new_net_has_an_estimate_that_has_converged():
    net = GloroNet(nn.Sequential(nn.Linear(20, 20), MinMax(), nn.Linear(20, 3)), (20,), 0.1)
    assert net.estimate()[0, 1].item() == pytest.approx(net.margin_constants()[0, 1].item(), rel=1e-2)
    net.network[0] = nn.Linear(20, 20)
    for _ in range(100):
        estimate = net.estimate()
    assert estimate[0, 1].item() == pytest.approx(net.margin_constants()[0, 1].item(), rel=1e-2)


def test_precisions_that_do_not_fit_are_refused():
    x = torch.zeros(1, 2)
    net = two_layers()
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        with pytest.raises(TypeError, match="cannot be certified in"):
            net.certify(x, dtype=dtype)
    assert net.certify(x, dtype=torch.float32).label.shape == (1,)
    double = two_layers().double()
    assert double.certify(x.double()).label.shape == (1,)
    x = torch.randn(5, 2, dtype=torch.float64)  # never rounded to float32
    assert torch.equal(double.certify(x, dtype=None).radius, double.certify(x).radius)
    with pytest.raises(TypeError, match=r"torch\.float64 cannot be certified in torch\.float32"):
        double.certify(x.double(), dtype=torch.float32)


def test_a_module_with_attributes_that_cannot_be_compared_is_read_each_time():
    net = two_layers()
    assert net.program() is net.program()
    net.network[1].note = (1, "two", None)
    assert net.program() is net.program()
    net.network[1].note = (1, object())
    assert net.program() is not net.program()


def test_hooks_for_all_modules_are_noticed_wherever_a_network_is_read():
    net, x = two_layers(), torch.zeros(1, 2)
    net.certify(x)
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, inputs: None)
    try:
        with pytest.raises(NetworkError, match="all modules"):
            net.certify(x)
        with pytest.raises(NetworkError, match="all modules"):
            walk(nn.Linear(2, 2), (2,))
        with pytest.raises(NetworkError, match="all modules"):
            upper_bound(nn.Linear(2, 2), (2,))
    finally:
        handle.remove()
