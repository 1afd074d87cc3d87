"""What is bounded is what is evaluated: everything that could set the two apart is refused, followed, or noticed."""

import copy
import functools
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from small_networks import another_thread_sets
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_lite import GloroNet, MinMax, MismatchError, NetworkError, Normalize, Residual, UnknownLayerError
from gloro_lite.layers import Absolute, GroupSort
from gloro_lite.lipschitz import Program, layer_bound, program, upper_bound


def two_layers(seed=0):
    torch.manual_seed(seed)
    return GloroNet(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), (2,), 0.1).eval()


# ---- structure -------------------------------------------------------------------------------------------------------------


def test_layers_whose_names_could_be_taken_for_one_another_all_count():
    """ "fc.0" inside and "fc_0" beside: K is 100 x 2."""
    network = nn.Sequential()
    network.add_module("fc", nn.Sequential(nn.Linear(1, 1), nn.ReLU()))
    network.add_module("fc_0", nn.Linear(1, 1))
    network.add_module("head", nn.Linear(1, 2))
    for layer, weight in ((network.fc[0], [[100.0]]), (network.fc_0, [[1.0]]), (network.head, [[1.0], [-1.0]])):
        layer.weight.data = torch.tensor(weight)
    net = GloroNet(network, (1,), 0.3).eval()
    assert net.margin_constants()[0, 1].item() == pytest.approx(200, rel=1e-6)
    assert net.estimate()[0, 1].item() == pytest.approx(200, rel=1e-5)
    assert list(net.program().norms) == ["fc.0", "fc_0"]


def test_logits_of_another_rank_are_refused_when_the_net_is_built():
    with pytest.raises(NetworkError, match=r"outputs of shape \(3, 3\).*nn\.Flatten"):
        GloroNet(nn.Sequential(nn.Linear(4, 3)), (3, 4), 0.1)


def _of_size(layer, size):
    layer.size = size
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Residual(nn.Linear(4, 1)), (4,), r"branch gives \(1,\) and its shortcut \(4,\)"),
        (Normalize([0.5] * 3, [0.5] * 3), (1, 2, 2), r"3 mean and std.*\(1, 2, 2\)"),
        (nn.ReLU(inplace=True), (4,), "inplace=False"),
        (nn.LeakyReLU(math.nan), (4,), "negative_slope is nan"),
        (nn.Softplus(threshold=1), (4,), "jump"),
        (nn.LayerNorm(4), (4,), "spread of its own input"),
        (nn.MultiheadAttention(4, 1), (3, 4), "attention has no global Lipschitz"),
        (nn.MaxPool2d(2, return_indices=True), (1, 4, 4), "return_indices"),
        (MinMax(), (3,), "must be even"),
        (GroupSort(4), (6,), "multiple of it, not 6"),
        (_of_size(GroupSort(4), 0), (8,), "its size is 0"),
        (_of_size(GroupSort(4), 4.0), (8,), "its size is 4.0"),
        (nn.Linear(9000, 9000, bias=False), (9000,), "too large to prove"),
        (nn.LazyLinear(3), (4,), "no shape yet"),
        (nn.Linear(4, 4, device="meta"), (4,), "meta device"),
        (nn.Linear(4, 4, dtype=torch.complex64), (4,), "complex64"),
        (nn.Flatten(0), (4,), "batch dimension"),
        (nn.Conv2d(2, 3, 3), (4, 5, 5), r"takes inputs of shape \(2, height, width\)"),
        (nn.BatchNorm1d(4, track_running_stats=False).eval(), (4,), "no fixed function"),
    ],
)
def test_what_cannot_be_bounded_is_refused_with_its_name(layer, shape, message):
    with pytest.raises(NetworkError, match=rf"layer 'a\.b'.*{message}"):
        upper_bound(_nest(layer), shape)


def _nest(layer):
    network, inner = nn.Sequential(), nn.Sequential()
    inner.add_module("b", layer)
    network.add_module("a", inner)
    return network


def test_a_network_that_contains_itself_is_refused():
    network = nn.Sequential(nn.Linear(2, 2))
    network.append(network)
    with pytest.raises(NetworkError, match="contains itself"):
        upper_bound(network, (2,))


def test_weights_of_several_types_are_refused():
    with pytest.raises(NetworkError, match="several types"):
        upper_bound(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), (2,))


# ---- exact types -----------------------------------------------------------------------------------------------------------


class TenLinear(nn.Linear):
    def forward(self, x):
        return 10 * super().forward(x)


class TenSequential(nn.Sequential):
    def forward(self, x):
        return 10 * super().forward(x)


class TenIdentity(nn.Identity):
    def forward(self, x):
        return 10 * x


class TwiceSequential(nn.Sequential):
    def __iter__(self):
        return iter([*self._modules.values()] * 2)


class TenConv(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return 10 * super()._conv_forward(x, weight, bias)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (TenLinear(2, 2), (2,)),
        (TwiceSequential(nn.Linear(2, 2)), (2,)),
        (TenConv(1, 1, 1), (1, 2, 2)),
        (Residual(TenLinear(2, 2)), (2,)),
        (Residual(nn.Identity(), TenLinear(2, 2)), (2,)),
    ],
)
def test_subclasses_are_unknown_wherever_they_stand(layer, shape):
    with pytest.raises(UnknownLayerError, match="inherits from"):
        upper_bound(nn.Sequential(layer), shape)


def test_a_registered_bound_comes_before_what_is_inherited():
    layer_bound.register(TenSequential, lambda layer, shape: 10.0)
    layer_bound.register(TenIdentity, lambda layer, shape: 10.0)
    assert upper_bound(TenSequential(nn.Identity()).eval(), (2,)) == pytest.approx(10)
    assert upper_bound(Residual(TenIdentity()).eval(), (2,)) == pytest.approx(11)
    with pytest.raises(NetworkError, match="training mode"):
        upper_bound(TenSequential(nn.Dropout(0.5)), (2,))


def test_a_head_with_a_registered_bound_is_no_head():
    class TenHead(nn.Linear):
        def forward(self, x):
            return 10 * super().forward(x)

    layer_bound.register(TenHead, lambda layer, shape: 1e9)
    with pytest.raises(NetworkError, match="ends in TenHead"):
        GloroNet(nn.Sequential(TenHead(1, 2)), (1,), 0.5)


# ---- hooks and replaced methods --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_hook_on_any_layer_is_an_error(kind, place):
    net = two_layers()
    x = torch.rand(3, 2)
    assert net.certify(x).label.shape == (3,)
    handle = getattr(net.network[place], kind)(lambda module, *arguments: None)
    with pytest.raises(NetworkError, match=rf"layer '{place}'.*hook"):
        net.certify(x)
    with pytest.raises(NetworkError, match="hook"):
        net(x)
    handle.remove()
    assert net.certify(x).label.shape == (3,)


def test_hooks_for_all_modules_are_an_error():
    net = two_layers()
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        with pytest.raises(NetworkError, match="all modules"):
            net.certify(torch.rand(1, 2))
    finally:
        handle.remove()


def test_a_hook_inside_a_registered_layer_is_an_error():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ReLU()

        def forward(self, x):
            return self.inner(x)

    layer_bound.register(Wrapped, lambda layer, shape: 1.0)
    net = GloroNet(nn.Sequential(Wrapped(), nn.Linear(2, 2)), (2,), 0.1).eval()
    net.certify(torch.rand(1, 2))
    net.network[0].inner.register_forward_hook(lambda module, inputs, output: 10 * output)
    with pytest.raises(NetworkError, match=r"layer '0\.inner'"):
        net.certify(torch.rand(1, 2))


def test_a_method_that_was_replaced_on_an_instance_is_an_error():
    net = two_layers()
    net.network[1].forward = lambda x: 10 * F.relu(x)
    with pytest.raises(NetworkError, match=r"layer '1'.*'forward' was replaced"):
        net.certify(torch.rand(1, 2))


@pytest.mark.parametrize(
    ("cls", "name"), [(nn.ReLU, "forward"), (nn.Linear, "forward"), (nn.Module, "_call_impl"), (nn.ReLU, "__call__")]
)
def test_a_method_that_was_replaced_on_a_class_is_an_error(monkeypatch, cls, name):
    net = two_layers()
    original = getattr(cls, name)
    monkeypatch.setattr(cls, name, lambda *arguments, **keywords: original(*arguments, **keywords), raising=False)
    with pytest.raises(NetworkError, match="was replaced after"):
        net.certify(torch.rand(1, 2))


@pytest.mark.parametrize("name", ["_call_impl", "__call__", "forward"])
def test_a_method_that_was_replaced_by_no_plain_function_is_an_error(monkeypatch, name):
    net = two_layers()
    tenfold = functools.partialmethod(lambda layer, x, *, factor: factor * F.relu(x), factor=10)
    monkeypatch.setattr(nn.ReLU, name, tenfold, raising=False)
    with pytest.raises(NetworkError, match=f"ReLU.{name} was replaced after"):
        net.certify(torch.rand(1, 2))


def test_a_compiler_at_work_elsewhere_in_the_process_is_no_hindrance():
    """torch.compile replaces nn.Module.__init__ and __setstate__ for good."""
    torch.compile(nn.Sequential(nn.Linear(2, 2), MinMax()), backend="aot_eager")(torch.zeros(2, 2))
    assert two_layers().certify(torch.rand(3, 2)).label.shape == (3,)


@pytest.mark.parametrize(
    ("layer", "home", "name"),
    [
        (nn.ReLU(), F, "relu"),
        (nn.GELU(), F, "gelu"),
        (nn.MaxPool2d(1), F, "max_pool2d"),
        (nn.AvgPool2d(1), F, "avg_pool2d"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), F, "pad"),
        (MinMax(), torch, "minimum"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_replaced_function_is_an_error(monkeypatch, layer, home, name, first):
    """The program may call it as well, and then computes what the network does, which is not what was bounded."""
    net = GloroNet(nn.Sequential(layer, nn.Flatten(), nn.Linear(8, 2)), (2, 2, 2), 0.1).eval()
    x = torch.rand(3, 2, 2, 2)
    if first:
        net.certify(x)
    original = getattr(home, name)
    with monkeypatch.context() as patch:
        patch.setattr(home, name, lambda *args, **settings: 10 * original(*args, **settings))
        for use in (lambda: net.certify(x), lambda: net(x), lambda: upper_bound(net.network, (2, 2, 2))):
            with pytest.raises(NetworkError, match=rf"{home.__name__}\.{name} was replaced"):
                use()
    assert net.certify(x).label.shape == (3,)


class Tenfold(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return 10 * result if function is F.gelu else result


class TenfoldBelow(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return 10 * result if function is torch.ops.aten.gelu.default else result


@pytest.mark.parametrize("mode", [Tenfold, TenfoldBelow])
def test_a_mode_that_may_change_what_pytorch_computes_is_an_error(mode):
    net = GloroNet(nn.Sequential(nn.GELU(), nn.Linear(2, 2)), (2,), 0.1).eval()
    x = torch.rand(3, 2)
    with mode(), pytest.raises(NetworkError, match=f"a mode is active, {mode.__name__}"):
        net.certify(x)
    with torch.device("cpu"):
        assert net.certify(x).label.shape == (3,)


def test_a_registered_layer_that_is_no_fixed_function_shows_on_the_batch():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand(())

    layer_bound.register(Noisy, lambda layer, shape: 1.0)
    net = GloroNet(nn.Sequential(Noisy(), nn.Linear(2, 2)), (2,), 0.1).eval()
    with pytest.raises(MismatchError):
        net.certify(torch.rand(4, 2))


@pytest.mark.parametrize("start", [0, 1])
def test_a_registered_layer_whose_every_second_result_is_another_shows_too(start):
    """Also where the network and the program are each right once: the program's own copy is run a second time."""
    calls = iter(range(start, 10**6))

    class Alternating(nn.Module):
        def forward(self, x):
            return x if x.dtype == torch.float32 or not x.any() or next(calls) % 2 else x / 2

    layer_bound.register(Alternating, lambda layer, shape: 1.0)
    net = GloroNet(nn.Sequential(Alternating(), nn.Linear(2, 2)), (2,), 0.1).eval()
    with pytest.raises(MismatchError):
        net.certify(torch.rand(4, 2) + 0.5)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 1), r"prune\.remove\(layer, 'weight'\)"),
        (lambda layer: nn.utils.weight_norm(layer), "remove_weight_norm"),
        (lambda layer: nn.utils.spectral_norm(layer), "remove_spectral_norm"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_old_reparametrizations_say_which_call_removes_them(change, remedy):
    net = two_layers()
    change(net.network[0])
    with pytest.raises(NetworkError, match=rf"layer '0'.*{remedy}"):
        net.certify(torch.rand(1, 2))


def test_a_layer_that_was_compiled_in_place_is_an_error():
    net = two_layers()
    net.network[0].compile(backend="eager")
    with pytest.raises(NetworkError, match="compiled in place"):
        net.certify(torch.rand(1, 2))


def test_parametrizations_are_evaluated_once_and_counted():
    net = two_layers()
    parametrizations.orthogonal(net.network[2])
    net.eval()
    weight = net.network[2].weight.detach().double()
    body = upper_bound(net.network[0], (2,))
    assert net.margin_constants()[0, 1].item() == pytest.approx((weight[0] - weight[1]).norm().item() * body, rel=1e-9)
    net.network[2].parametrizations.weight.original.data.mul_(-1)
    assert net.certify(torch.rand(2, 2)).label.shape == (2,)
    net.train()
    with pytest.raises(NetworkError, match=r"layer '2'.*training mode"):
        net.certify(torch.rand(1, 2))


def test_a_parametrized_layer_with_buffers_stands_still():
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    norm = nn.BatchNorm1d(3).eval()
    known = upper_bound(norm, (3,))
    parametrize.register_parametrization(norm, "weight", Twice())
    assert upper_bound(norm, (3,)) == pytest.approx(2 * known, rel=1e-12)


def test_a_parametrization_that_gives_another_value_each_time_is_refused(monkeypatch):
    class Noise(nn.Module):
        def forward(self, weight):
            return weight + torch.rand(())

    net = two_layers()
    parametrize.register_parametrization(net.network[0], "weight", Noise(), unsafe=True)
    net.eval()
    monkeypatch.setattr(program, "_ATTEMPTS", 5)
    with pytest.raises(NetworkError, match="keep changing"):
        net.certify(torch.rand(1, 2))


# ---- nothing that changes is missed ----------------------------------------------------------------------------------------


def test_settings_that_a_layer_does_not_print_are_followed():
    pool = nn.AvgPool2d(2, divisor_override=4)
    net = GloroNet(nn.Sequential(pool, nn.Flatten(), nn.Linear(1, 2)), (1, 2, 2), 3.0).eval()
    before = net.margin_constants()
    pool.divisor_override = 1
    assert net.margin_constants()[0, 1].item() == pytest.approx(4 * before[0, 1].item(), rel=1e-6)
    pool.divisor_override = -1
    assert net.margin_constants()[0, 1].item() == pytest.approx(4 * before[0, 1].item(), rel=1e-6)


def test_an_input_shape_that_is_set_later_is_followed():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    net, other = GloroNet(network, (1, 12, 12), 1.5).eval(), GloroNet(copy.deepcopy(network), (1, 3, 3), 1.5).eval()
    net.margin_constants()
    net.input_shape = (1, 3, 3)
    assert torch.equal(net.margin_constants(), other.margin_constants())
    assert net.converge() == pytest.approx(other.converge(), rel=1e-3)


def test_a_global_that_a_registered_bound_reads_is_followed():
    class Scaled(nn.Module):
        def forward(self, x):
            return x / 4

    constant = [1.0]
    layer_bound.register(Scaled, lambda layer, shape: constant[0])
    net = GloroNet(nn.Sequential(Scaled(), nn.Linear(2, 2)), (2,), 0.1).eval()
    before = net.margin_constants()
    constant[0] = 0.5
    assert torch.allclose(net.margin_constants(), before / 2)


def test_copies_have_bounds_and_gradients_of_their_own():
    net = two_layers()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.network[0].weight.mul_(100)
    twin.converge()
    certified = twin.margin_constants()[0, 1].item()
    assert twin.estimate()[0, 1].item() == pytest.approx(certified, rel=1e-3)
    assert net.margin_constants()[0, 1].item() == pytest.approx(certified / 100, rel=1e-3)
    twin.estimate().sum().backward()
    assert twin.network[0].weight.grad is not None and net.network[0].weight.grad is None


def test_pickle_and_torch_save_keep_a_net_whole():
    net, x = two_layers(), torch.rand(5, 2)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for twin in (pickle.loads(pickle.dumps(net)), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin.certify(x).radius, net.certify(x).radius)
        with torch.no_grad():
            twin.network[0].weight.mul_(2)
        assert twin.converge() == pytest.approx(2 * net.converge(), rel=1e-3)


def test_averaged_models_and_replaced_layers_are_followed():
    net = two_layers()
    average = torch.optim.swa_utils.AveragedModel(net)
    with torch.no_grad():
        net.network[0].weight.mul_(3)
    average.update_parameters(net)
    average.update_parameters(net)
    net.network[0] = nn.Linear(2, 4)
    fresh = GloroNet(net.network, (2,), 0.1).eval()
    assert torch.equal(net.margin_constants(), fresh.margin_constants())
    assert net.converge() == pytest.approx(fresh.converge(), rel=1e-3)
    assert average.module.converge() == pytest.approx(upper_bound(average.module.network[0], (2,)), rel=1e-3)


def test_certificates_are_of_one_state_while_another_thread_changes_the_weights():
    """Weights (g, -g) and biases (-50, 50) at x = 1: g = 1 gives class 1 and radius 49, g = 100 class 0 and radius 0.5."""
    net = GloroNet(nn.Sequential(nn.Linear(1, 2)), (1,), 5.0).eval()
    net.head.bias.data = torch.tensor([-50.0, 50.0])
    x = torch.ones(1, 1)
    with another_thread_sets(net.head.weight):
        for _ in range(100):
            c = net.certify(x)
            assert not (c.prediction == 0 and c.radius > 1) and not (c.prediction == 1 and c.radius > 49.1)


# ---- transforms ------------------------------------------------------------------------------------------------------------


def test_the_derivative_along_a_direction_is_sorted_as_the_point_is():
    x, towards = torch.tensor([[3.0, 1.0, 2.0, 5.0]]), torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    y, along = torch.func.jvp(MinMax(), (x,), (towards,))
    assert y.tolist() == [[2.0, 1.0, 3.0, 5.0]] and along.tolist() == [[30.0, 20.0, 10.0, 40.0]]


def test_gradients_of_an_elu_beyond_where_its_exponential_overflows():
    net = GloroNet(nn.Sequential(nn.Linear(1, 1, bias=False), nn.ELU(0.5), nn.Linear(1, 2)), (1,), 0.1).eval()
    x = torch.tensor([[1e4]]) / net.network[0].weight.detach()
    x.requires_grad_()
    net(x)[:, 0].sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("layer", [MinMax(), GroupSort(4), Absolute()])
def test_function_transforms_pass_through_activations(layer):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2))
    x = torch.randn(5, 3)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: network(row[None])[0]))(x)
    assert torch.allclose(jacobian[2], torch.autograd.functional.jacobian(lambda row: network(row[None])[0], x[2]))
    assert torch.allclose(torch.func.vmap(torch.func.jacfwd(lambda row: network(row[None])[0]))(x), jacobian)
    parameters = dict(network.named_parameters())
    gradients = torch.func.grad(lambda p: torch.func.functional_call(network, p, (x,)).sum())(parameters)
    network(x).sum().backward()
    assert torch.allclose(gradients["0.weight"], network[0].weight.grad)


def test_eval_mode_says_what_certify_says():
    net = two_layers()
    x = torch.randn(500, 2)
    x[0] = 0
    with torch.no_grad():
        net.head.weight[1] = net.head.weight[0]  # ties
        net.head.bias[1] = net.head.bias[0]
        net.head.weight[2] *= 1e-3
    for scale in (1.0, 1e6, 1e20, 1e37):
        with torch.no_grad():
            net.head.bias.copy_(torch.tensor([0.3, 0.3, 0.2]) * scale)
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                outputs, c = net(x), net.certify(x)
            assert outputs.dtype == torch.float32 and outputs.shape == (500, 4)
            assert torch.equal(outputs.argmax(1), c.label.where(c.label >= 0, 3))
    with torch.no_grad():
        net.head.weight.mul_(1e38).clamp_(-3e38, 3e38)
    outputs, c = net(x * 1e30), net.certify(x * 1e30)
    assert torch.equal(outputs.argmax(1), c.label.where(c.label >= 0, 3))


def test_eval_mode_says_bottom_where_bottom_s_own_logit_is_far_below():
    """Rounding is larger than a margin of ten million here, and bottom has to rise by more than float32 can add at once."""
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2))
    body, head = network
    with torch.no_grad():
        body.weight.fill_(1)
        body.bias.fill_(2.0**80)
        head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        for gap in (1e7, 3e7, 1e8):
            head.bias.copy_(torch.tensor([-(2.0**80), -gap]))
            net = GloroNet(network, (1,), 0.3).eval()
            x = torch.linspace(0, 2, 5)[:, None]
            assert net.certify(x).label.tolist() == [-1] * 5
            assert net(x).argmax(1).tolist() == [2] * 5


def test_gradients_flow_through_a_net_in_eval_mode():
    net = two_layers()
    x = torch.randn(3, 2, requires_grad=True)
    net(x)[:, 0].sum().backward()
    assert torch.allclose(x.grad, torch.autograd.functional.jacobian(lambda z: net.logits(z)[:, 0].sum(), x.detach()), atol=1e-6)


@pytest.mark.parametrize("first", ["certify", "deployed", "forward"])
def test_a_program_can_be_made_and_used_in_inference_mode(first):
    torch.manual_seed(0)
    # Layers whose transpose, which bounds of rounding need, autograd computes.
    convolution = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    network = nn.Sequential(
        convolution, nn.AvgPool2d(2), MinMax(), nn.Conv2d(2, 2, 2, padding="same"), nn.Flatten(), nn.Linear(8, 2)
    )
    net = GloroNet(network, (1, 4, 4), 0.1).eval()
    x = torch.rand(3, 1, 4, 4)
    with torch.inference_mode():
        y = x + 0  # an inference tensor
        found = {
            "certify": lambda: net.certify(y).radius,
            "deployed": lambda: net.certify(y, guarantee="deployed").radius,
            "forward": lambda: net(y),
        }[first]()
    expected = {"certify": net.certify(x).radius, "deployed": net.certify(x, guarantee="deployed").radius, "forward": net(x)}[
        first
    ]
    assert torch.equal(found, expected)
    x.requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None


class Shifted(nn.Module):
    """Its setting has a private name."""

    def __init__(self):
        super().__init__()
        self._shift = 0.0

    def forward(self, x):
        return x + self._shift


def test_a_private_setting_of_a_layer_of_one_s_own_is_read():
    layer_bound.register(Shifted, lambda layer, shape: 1.0)
    net = GloroNet(nn.Sequential(Shifted(), nn.Linear(1, 2, bias=False)), (1,), 0.1).eval()
    net.head.weight.data = torch.tensor([[1.0], [-1.0]])
    x = torch.ones(1, 1)
    assert net.certify(x).label.item() == 0
    net.network[0]._shift = -10.0
    assert net.certify(x).label.item() == 1 and net(x).argmax().item() == 1


_ELSEWHERE = {"shift": 0.0}


class Secretive(nn.Module):
    """What it computes depends on what no module holds."""

    def forward(self, x):
        return x + _ELSEWHERE["shift"]


def test_the_network_itself_is_run_beside_the_program(monkeypatch):
    layer_bound.register(Secretive, lambda layer, shape: 1.0)
    secretive = GloroNet(nn.Sequential(Secretive(), nn.Linear(1, 2)), (1,), 0.1).eval()
    secretive.certify(torch.ones(5, 1))
    frozen = secretive.program()
    monkeypatch.setattr(frozen.network[0], "forward", lambda x: x)
    monkeypatch.setitem(_ELSEWHERE, "shift", 3.0)
    with pytest.raises(MismatchError, match="computes something else"):
        secretive.certify(torch.ones(5, 1))


def test_a_network_that_may_have_changed_unseen_is_compared_like_others():
    """What has changed meanwhile is excused, and an attribute that cannot be compared does not tell that it has."""

    class Halves(nn.Module):
        def forward(self, x):
            return x if x.dtype == torch.float64 else x / 2

    layer_bound.register(Halves, lambda layer, shape: 1.0)
    for note in (1, object()):
        net = GloroNet(nn.Sequential(Halves(), nn.Linear(1, 2)), (1,), 0.1).eval()
        net.network[1].note = note
        assert net.program().complete == (note == 1)
        with pytest.raises(MismatchError, match="computes something else"):
            net.certify(torch.ones(5, 1))


def test_what_is_parametrized_is_frozen_in_eval_mode_alone():
    """In training mode spectral norm goes on with its power iteration each time that it is looked at."""
    layer = parametrizations.spectral_norm(nn.Linear(2, 2))
    with pytest.raises(NetworkError, match="training mode"):
        upper_bound(nn.Sequential(layer), (2,))
    assert upper_bound(nn.Sequential(layer.eval()), (2,)) > 0


def test_a_frozen_network_has_parameters_where_the_original_has():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), Normalize([0.5] * 3, [0.5] * 3)).eval()
    frozen = Program(network, (2,)).network
    assert [name for name, _ in frozen.named_parameters()] == [name for name, _ in network.named_parameters()]
    for of in (network, frozen):
        assert all(isinstance(parameter, nn.Parameter) for parameter in of.parameters())
        assert not any(isinstance(buffer, nn.Parameter) for buffer in of.buffers())


def test_hooks_on_the_net_itself_are_refused():
    net = two_layers()
    x = torch.rand(1, 2)
    for register in (net.register_forward_pre_hook, net.register_forward_hook):
        handle = register(lambda *arguments: None)
        for call in (net, net.certify):
            with pytest.raises(NetworkError, match="hook"):
                call(x)
        handle.remove()
    net.logits = lambda x: -x
    with pytest.raises(NetworkError, match="'logits' was replaced"):
        net.certify(x)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x) if self.training else x


def test_a_layer_of_one_s_own_is_not_certified_in_training_mode():
    layer_bound.register(Noisy, lambda layer, shape: 1.0)
    net = GloroNet(nn.Sequential(nn.Sequential(Noisy()), nn.Linear(2, 2)), (2,), 0.1)
    with pytest.raises(NetworkError, match=r"layer '0\.0' .*training mode"):
        net.certify(torch.rand(1, 2))
    assert net.eval().certify(torch.rand(1, 2)).radius.shape == (1,)


def test_a_parametrized_head_is_evaluated_once():
    head = parametrizations.weight_norm(nn.Linear(2, 3))
    net = GloroNet(nn.Sequential(nn.Linear(2, 2), head), (2,), 0.1).eval()
    plain = GloroNet(nn.Sequential(copy.deepcopy(net.network[0]), nn.Linear(2, 3)), (2,), 0.1).eval()
    with torch.no_grad():
        plain.head.weight.copy_(head.weight)
        plain.head.bias.copy_(head.bias)
    x = torch.randn(5, 2)
    assert torch.allclose(net.certify(x).radius, plain.certify(x).radius, rtol=1e-6)


def test_settings_may_be_lists_and_numpy_s_numbers():
    numbers = pytest.importorskip("numpy")
    network = nn.Sequential(
        nn.Conv2d(1, 1, numbers.int64(3), padding=[1, 1]), nn.MaxPool2d([2, 2]), nn.Flatten(), nn.Linear(4, 2)
    )
    net = GloroNet(network, (1, 4, 4), 0.1).eval()
    assert net.certify(torch.rand(2, 1, 4, 4)).radius.shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_program_stands_still_while_its_network_moves_on(dtype):
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).to(dtype)
    parametrize.register_parametrization(network[0], "weight", nn.Identity())  # which gives the tensor itself
    made, x = Program(network.eval(), (2,)), torch.randn(4, 2, dtype=dtype)
    before = made.run(x, made.nodes).value.clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    assert torch.equal(made.run(x, made.nodes).value, before)
    assert not any(parameter.requires_grad for parameter in made.network.parameters())


def test_a_program_computes_what_pytorch_computes():
    torch.manual_seed(0)
    network = nn.Sequential(
        Normalize([0.5, 0.4], [0.3, 0.2]),
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(4, 4, (3, 2), padding="same", dilation=2, groups=2),
        nn.BatchNorm2d(4),
        MinMax(),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ELU(0.5))),
        nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
        nn.PReLU(3, 1.5),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(27, 4),
        nn.Softplus(),
        nn.Linear(4, 4),
        nn.SiLU(),
        nn.Unflatten(1, (2, 2)),
        nn.Conv1d(2, 3, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Sigmoid(),
        nn.LeakyReLU(0.1),
    ).eval()
    network[4].running_var.uniform_(0.5, 2)
    network[4].running_mean.uniform_(-1, 1)
    program = Program(network, (2, 8, 8))
    x = torch.rand(6, 2, 8, 8)
    result = program.run(x, program.nodes, deployed=torch.float32)
    exact = network.double()(x.double())
    assert (result.value - exact).norm(dim=1).max() < 1e-9
    assert ((result.value - exact).norm(dim=1) <= 2 * result.own).all()
    # The network in float32 is within its own bound, which is not absurdly far from what is seen.
    off = (network.float()(x).double() - exact).norm(dim=1)
    assert (off <= result.at + result.own).all() and (result.at < 1e-2).all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        Absolute(),
        nn.LeakyReLU(0.3),
        nn.LeakyReLU(-0.7),
        nn.PReLU(3, init=0.4),
        nn.PReLU(init=-0.2),
        nn.ELU(0.6),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Softplus(2.0),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.SiLU(),
        GroupSort(3),
    ],
    ids=repr,
)
def test_a_program_computes_what_the_activation_computes(layer):
    """On both sides of 0, where some layers in front of an activation leave no number."""
    if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        layer.weight.data = torch.tensor([0.4, -0.3, 0.1])
    frozen = Program(nn.Sequential(layer).double().eval(), (3, 4, 5))
    x = 3 * torch.randn(50, 3, 4, 5, dtype=torch.float64)
    assert x.min() < -5 and x.max() > 5
    # Softplus has no threshold here, beyond which PyTorch leaves out what is added to x.
    torch.testing.assert_close(frozen.run(x, frozen.nodes).value, layer(x), rtol=1e-12, atol=2e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_parts_of_a_batch_are_put_together_in_their_order(monkeypatch, size):
    """Convolutions see one to five images at a time; what is known of each image is the same."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), MinMax(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    x, frozen = torch.randn(5, 1, 6, 6), Program(network.eval(), (1, 6, 6))
    whole = frozen.run(x, frozen.nodes, deployed=torch.float32)
    monkeypatch.setattr(program, "_BYTES", size * 8 * 4 * 4 * 9 * 4 + 7)  # the second convolution's windows are the larger
    parts = frozen.run(x, frozen.nodes, deployed=torch.float32)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(torch.as_tensor(found).double(), torch.as_tensor(expected).double(), rtol=1e-12, atol=1e-15)
    assert torch.equal(frozen.run(x, frozen.nodes).at, torch.zeros(5))
