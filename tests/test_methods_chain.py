"""What the bounds along a chain of layers must see of a network, whatever they bound: shared layers, hooks, training mode."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from small_networks import another_thread_sets, dense
from torch import nn

from gloro_lite import GloroNet, NetworkError, evaluate
from gloro_lite.methods import bcp, kw, last_layers, lmt, local, smoothing
from gloro_lite.methods.sites import Sites
from gloro_lite.voronoi import SiteClassifier


def _local(network, shape, x):
    return local.certify(GloroNet(network, shape, 4.0).eval(), x, steps=8)


CERTIFY = {"kw": kw.certify, "bcp": bcp.certify, "local": _local}


@pytest.mark.parametrize("method", CERTIFY)
@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_that_is_used_twice_counts_twice(method, nested):
    torch.manual_seed(0)
    relu = nn.ReLU()
    first = nn.Sequential(nn.Linear(2, 6), relu)
    middle = [nn.Linear(6, 6), relu, nn.Linear(6, 2)]
    network = nn.Sequential(first, *middle) if nested else nn.Sequential(*first, *middle)
    apart = nn.Sequential(first[0], nn.ReLU(), middle[0], nn.ReLU(), middle[2])
    x = torch.randn(40, 2)
    found, expected = (CERTIFY[method](n, (2,), x) for n in (network, apart))
    assert torch.equal(found.prediction, network(x).argmax(dim=1))
    assert torch.equal(found.radius, expected.radius) and (found.radius > 0).any()


@pytest.mark.parametrize("method", CERTIFY)
@pytest.mark.parametrize("hooked", ["0", "0.1", ""])
def test_a_hook_is_seen_wherever_it_is(method, hooked):
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 4), nn.ReLU()), nn.Linear(4, 2))
    module = network.get_submodule(hooked)
    certify = CERTIFY[method]
    handle = module.register_forward_hook(lambda module, inputs, output: -5 * output)
    with pytest.raises(NetworkError, match="hook"):
        certify(network, (2,), torch.randn(3, 2))
    handle.remove()
    certify(network, (2,), torch.randn(3, 2))
    module.forward = lambda x: x
    with pytest.raises(NetworkError, match="'forward' was replaced"):
        certify(network, (2,), torch.randn(3, 2))


@pytest.mark.parametrize("method", CERTIFY)
@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_that_repeats_the_image_is_refused(method, mode):
    """Once bounded as if it were zeros: 524288 was certified where the label changes at 0.5."""
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ValueError, match=f"layer '0': .* zero padding alone, and this convolution pads by '{mode}': give"):
        CERTIFY[method](network, (1, 4, 4), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("method", CERTIFY)
@pytest.mark.parametrize("scale", [1e-160, 1e-170, 1e-300, 1e160, 1e300])
@pytest.mark.parametrize("layers", [1, 2])
def test_weights_whose_squares_leave_float64_certify_no_more_than_is_true(method, scale, layers):
    w, b = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double(), torch.tensor([1.0, 0.0]).double()
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    if layers == 1:
        network = nn.Sequential(network[0])
    with torch.no_grad():
        network[0].weight.copy_(scale * w)
        network[0].bias.copy_(scale * b + (scale if layers == 2 else 0.0))
        if layers == 2:
            network[2].weight.copy_(torch.eye(2).double() / scale)
            network[2].bias.copy_(torch.tensor([-0.5, 0.0]))
    # The margin 1 + 2 (x + y), with ReLU and its offset 0.5 + 2 (x + y) as long as both units are on.
    exact = (1.0 if layers == 1 else 0.5) / (2 * math.sqrt(2))
    assert (CERTIFY[method](network, (2,), torch.zeros(1, 2).double()).radius <= exact * (1 + 1e-12)).all()


@pytest.mark.parametrize("method", CERTIFY)
def test_small_weights_of_float32_that_multiply_to_nothing_certify_no_more_than_is_true(method):
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    with torch.no_grad():
        for layer in network:
            layer.weight.copy_(1e-35 * torch.eye(2))
            layer.bias.zero_()
        network[0].weight.copy_(1e-35 * torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    c = CERTIFY[method](network, (2,), torch.tensor([[0.25, 0.25]]))
    assert (c.radius <= 0.25 * math.sqrt(2) * (1 + 1e-6)).all()


def test_a_unit_that_overflows_is_not_taken_for_one_that_is_off():
    """Both units are beyond float64, 1e350 and 1e340, and both logits finite: -1e50 + 1e39 and -1e40."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1e200], [1e190]], dtype=torch.float64))
        network[2].weight.copy_(torch.tensor([[-1e-300, 0.0], [0.0, -1e-300]], dtype=torch.float64))
        network[2].bias.copy_(torch.tensor([1e39, 0.0], dtype=torch.float64))
    for method in (kw, bcp):
        assert method.certify(network, (1,), torch.tensor([[1e150]], dtype=torch.float64)).radius == 0


@pytest.mark.parametrize("method", CERTIFY)
def test_images_that_are_flattened_first_come_as_images(method):
    """The shape is the network's, and not that of its first affine layer."""
    torch.manual_seed(0)
    layers = [nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)]
    x = torch.randn(5, 3, 2, 2)
    found = CERTIFY[method](nn.Sequential(nn.Flatten(), *layers), (3, 2, 2), x)
    expected = CERTIFY[method](nn.Sequential(*layers), (12,), x.flatten(1))
    assert torch.equal(found.radius, expected.radius) and (found.radius > 0).any()
    with pytest.raises(ValueError, match=r"shape \(batch, 3, 2, 2\)"):
        CERTIFY[method](nn.Sequential(nn.Flatten(), *layers), (3, 2, 2), x.flatten(1))


@pytest.mark.parametrize("method", [kw, bcp])
def test_inputs_of_another_shape_or_kind_are_refused(method):
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    for x in (torch.rand(2, 4, 4, 3), torch.rand(2, 48), torch.rand(3, 4, 4), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"shape \(batch, 3, 4, 4\)"):  # channels last were once taken for what they are not
            method.certify(network, (3, 4, 4), x)
    with pytest.raises(ValueError, match=r"add a batch dimension with x\[None\]"):
        method.certify(network, (3, 4, 4), torch.rand(3, 4, 4))
    for x, message in (
        ([[1.0]], "torch.as_tensor"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "floating-point"),
        (torch.zeros(1, 3, 4, 4, device="meta"), "on device meta"),
    ):
        with pytest.raises(TypeError, match=message):
            method.certify(network, (3, 4, 4), x)
    with pytest.raises(TypeError, match="input_shape is that of one input"):
        method.certify(network, 48, torch.rand(2, 48))
    with pytest.raises(TypeError, match=r"needs an nn.Sequential|torch.nn.Module is needed"):
        method.certify(lambda x: x, (3, 4, 4), torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"^the network itself \(Tanh\)"):
        method.certify(nn.Tanh(), (4,), torch.rand(2, 4))
    with pytest.raises(NetworkError, match=r"layer '3' \(Linear\) on an input of shape \(2, 2, 2\)"):
        method.chain(nn.Sequential(*network[:2], nn.Sequential(), nn.Linear(8, 2)), (3, 4, 4))


@pytest.mark.parametrize("method", CERTIFY)
def test_a_function_that_was_replaced_is_noticed(method, monkeypatch):
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    original = torch.nn.functional.relu
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x, inplace=False: 3 * original(x))
    with pytest.raises(NetworkError, match="relu was replaced"):
        CERTIFY[method](network, (2,), 10 * torch.randn(3, 2))


@pytest.mark.parametrize("method", CERTIFY)
def test_parametrized_layers_are_taken_as_what_they_come_to(method):
    layers = nn.utils.parametrizations.weight_norm(nn.Linear(2, 4)), nn.ReLU(), nn.Linear(4, 2)
    network = nn.Sequential(*layers).eval()
    plain = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), layers[2])
    with torch.no_grad():
        plain[0].weight.copy_(layers[0].weight)
        plain[0].bias.copy_(layers[0].bias)
    x = torch.randn(4, 2)
    assert torch.equal(CERTIFY[method](network, (2,), x).radius, CERTIFY[method](plain, (2,), x).radius)


@pytest.mark.parametrize("method", CERTIFY)
def test_certificates_are_of_one_state_while_another_thread_trains(method):
    """Two states: logit 0 wins by 2 x g + 10 - 20, with g of 1 or 100; at x = 1, radius 4 for class 1 or 0.95 for class 0."""
    layer = nn.Linear(1, 2)
    network = nn.Sequential(layer)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-5.0, 5.0]))
    with another_thread_sets(layer.weight):
        for _ in range(40):
            c = CERTIFY[method](network, (1,), torch.ones(1, 1))
            assert c.radius.item() <= (0.95 if c.prediction.item() == 0 else 4.0) * (1 + 1e-9)


@pytest.mark.parametrize("method", CERTIFY)
def test_where_a_process_makes_tensors_by_default_changes_nothing(method):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    x = torch.rand(3, 1, 4, 4)
    expected = CERTIFY[method](network, (1, 4, 4), x)
    net = GloroNet(network, (1, 4, 4), 4.0).eval()
    with torch.device("meta"):
        c = local.certify(net, x, steps=8) if method == "local" else CERTIFY[method](network, (1, 4, 4), x)
    assert torch.equal(c.radius, expected.radius)


def test_other_things_than_nets_and_batches_are_refused():
    net = GloroNet(nn.Sequential(nn.Linear(2, 2)), (2,), 0.1).eval()
    with pytest.raises(TypeError, match="a GloroNet is needed, not Sequential"):
        local.certify(net.network, torch.zeros(1, 2))
    for certify in (
        lambda: local.certify(net, torch.zeros(1, 2), batch_size=0),
        lambda: kw.certify(net.network, (2,), torch.zeros(1, 2), batch_size=0),
    ):
        with pytest.raises(ValueError, match="batch_size is a number of inputs, at least 1, not 0"):
            certify()


@pytest.mark.parametrize("steps", [0, -1, 1.0])
def test_a_search_without_steps_is_refused(steps):
    """Once it said bottom to everything."""
    net, x = GloroNet(dense(2, 4, 2), (2,), 0.1), torch.zeros(1, 2)
    for certify in (
        lambda: kw.certify(net.network, (2,), x, steps=steps),
        lambda: bcp.certify(net.network, (2,), x, steps=steps),
        lambda: local.certify(net, x, steps=steps),
        lambda: last_layers.certify(net, x, steps=steps),
    ):
        with pytest.raises(ValueError, match=f"steps is a number of radii, at least 1, not {steps}"):
            certify()


def _smoothed(network, x, epsilon):
    return smoothing.Smoothed(network, 0.5, samples=50).certify(x, epsilon)


EVERY = {
    "global": lambda network, x, epsilon: GloroNet(network, (2,), 1.0).certify(x, epsilon),
    "lmt": lambda network, x, epsilon: lmt.net(network, (2,), 1.0).certify(x, epsilon),
    "evaluate": lambda network, x, epsilon: evaluate.certify(GloroNet(network, (2,), 1.0), x, epsilon),
    "local": lambda network, x, epsilon: local.certify(GloroNet(network, (2,), 1.0), x, epsilon),
    "last_layers": lambda network, x, epsilon: last_layers.certify(GloroNet(network, (2,), 1.0), x, epsilon),
    "kw": lambda network, x, epsilon: kw.certify(network, (2,), x, epsilon),
    "bcp": lambda network, x, epsilon: bcp.certify(network, (2,), x, epsilon),
    "smoothing": _smoothed,
    "sites": lambda network, x, epsilon: Sites(SITES, torch.arange(3)).certify(x, epsilon),
    "cells": lambda network, x, epsilon: Sites(SITES, torch.arange(3)).certify(x, epsilon, form="cells"),
    "distances": lambda network, x, epsilon: SiteClassifier(SITES, torch.arange(3)).certify(x, epsilon),
}
SITES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("certifier", EVERY)
def test_epsilon_may_be_any_single_number(certifier):
    network, x = dense(2, 4, 3).eval(), torch.randn(20, 2)
    certify = EVERY[certifier]
    expected = certify(network, x, 0.125)
    assert (expected.label >= 0).any()
    for epsilon in (Fraction(1, 8), Decimal("0.125"), np.float32(0.125), torch.tensor(0.125), torch.tensor([0.125])):
        found = certify(network, x, epsilon)
        assert torch.equal(found.label, expected.label) and torch.equal(found.radius, expected.radius)
    for wrong in ("0.125", True, 1j):
        with pytest.raises(TypeError, match="epsilon must be a number"):
            certify(network, x, wrong)


@pytest.mark.parametrize(
    "fit",
    [
        lambda network, data: bcp.fit(network, (2,), data, 0.1, epochs=1),
        lambda network, data: kw.fit(network, (2,), data, 0.1, epochs=1),
        lambda network, data: lmt.fit(lmt.net(network, (2,), 0.1), data, epochs=1),
        lambda network, data: smoothing.fit(network, data, 0.1, epochs=1),
    ],
)
def test_what_no_method_can_be_trained_with_is_said_first(fit):
    x, y = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
    for data in ((x.tolist(), y.tolist()), (x.numpy(), y.numpy())):
        with pytest.raises(TypeError, match=r"train: inputs must be a torch\.Tensor"):
            fit(dense(2, 4, 2), data)
    for data in (x, 3, (x, y, y)):
        with pytest.raises(TypeError, match="train must be a pair of tensors"):
            fit(dense(2, 4, 2), data)


@pytest.mark.parametrize("method", [kw, bcp])
def test_images_of_another_shape_are_not_trained_on(method):
    """With channels last they hold as many numbers: flattened, a network would learn from them in the wrong order."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x, y = torch.rand(6, 2, 2, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"train: inputs must have shape \(batch, 3, 2, 2\), not \(6, 2, 2, 3\)"):
        method.fit(network, (3, 2, 2), (x, y), 0.1, epochs=1)
    assert method.fit(network, [3, 2, 2], (x.permute(0, 3, 1, 2), y), 0.1, epochs=1)
