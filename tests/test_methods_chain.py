"""What the bounds along a chain of layers must see of a network, whatever they bound: shared layers, hooks, training mode."""

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, NetworkError
from gloro_lite.methods import bcp, kw, local


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
