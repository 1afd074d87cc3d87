"""The paper's networks, layer by layer."""

import pytest
import torch
from torch import nn

from gloro_lite import MinMax, networks
from gloro_lite.layers import Absolute, GroupSort


@pytest.mark.parametrize(
    "name, shape, classes, parameters, features",
    [
        ("2C2F", (1, 28, 28), 10, 166_406, 1568),
        ("4C3F", (1, 28, 28), 10, None, 3136),
        ("6C2F", (3, 32, 32), 10, None, 4096),
        ("8C2F", (3, 64, 64), 200, None, 16384),
    ],
)
def test_shapes(name, shape, classes, parameters, features):
    network = networks.build(name, shape, classes)
    assert network(torch.zeros(2, *shape)).shape == (2, classes)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    dense = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert (len(convolutions), len(dense)) == (int(name[0]), int(name[2]))
    assert dense[0].in_features == features
    if parameters:  # counted by hand: (16 16 + 16) + (16 16 32 + 32) + (1568 100 + 100) + (100 10 + 10)
        assert sum(p.numel() for p in network.parameters()) == parameters
    # The activation stands after every layer but the last.
    assert sum(isinstance(layer, MinMax) for layer in network) == len(convolutions) + len(dense) - 1


def test_weights_are_orthogonal_and_seeded():
    before = torch.get_rng_state()
    network = networks.build("2C2F", (1, 28, 28), 10, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    again, other = (networks.build("2C2F", (1, 28, 28), 10, seed=seed) for seed in (3, 4))
    assert torch.equal(network[0].weight, again[0].weight) and not torch.equal(network[0].weight, other[0].weight)
    for layer in (network[2], network[5]):
        matrix = layer.weight.flatten(1)
        assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5)


def test_pytorchs_own_initialisation():
    network = networks.build("c4k3s2 | 6", (1, 8, 8), 3, initialisation="pytorch", seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = nn.Conv2d(1, 4, 3, 2, padding=1)
    assert torch.equal(network[0].weight, first.weight) and torch.equal(network[0].bias, first.bias)


def test_own_notation_and_errors():
    network = networks.build("c4k3s2 | 6", (1, 8, 8), 3, activation="relu")
    assert [type(layer).__name__ for layer in network] == ["Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Linear"]
    with pytest.raises(ValueError, match="network must be one of 2C2F"):
        networks.build("3C1F", (1, 8, 8), 3)
    sorted_net = networks.build("c4k3s2 | 8", (1, 8, 8), 3, activation="groupsort4")
    assert [layer.size for layer in sorted_net if type(layer) is GroupSort] == [4, 4]
    assert sum(type(layer) is Absolute for layer in networks.build("c4k3s2 | 8", (1, 8, 8), 3, activation="abs")) == 2
    with pytest.raises(ValueError, match="activation must be one of minmax, relu, abs, groupsort4"):
        networks.build("2C2F", (1, 28, 28), 10, activation="gelu")
    with pytest.raises(ValueError, match="initialisation must be one of orthogonal, pytorch"):
        networks.build("2C2F", (1, 28, 28), 10, initialisation="zeros")
    with pytest.raises(ValueError, match="too small"):
        networks.build("6C2F", (3, 2, 2), 10)
    for shape in ((28, 28), (0, 28, 28), (1, 28.0, 28)):
        with pytest.raises(ValueError, match=r"input_shape is \(channels, height, width\), \(1, 28, 28\) say, not"):
            networks.build("2C2F", shape, 10)
    for classes in (0, -1, 10.0):
        with pytest.raises(ValueError, match=f"classes must be a whole number, at least 1, not {classes}"):
            networks.build("2C2F", (1, 28, 28), classes)


def test_a_first_word_p2_halves_the_resolution_and_keeps_every_epsilon():
    network = networks.build("p2 c4k3 | 8", (3, 8, 10), 2)
    pool, x = network[0], torch.rand(2, 3, 8, 10, dtype=torch.float64)
    windows = x.unfold(2, 2, 2).unfold(3, 2, 2)
    assert torch.allclose(pool(x), windows.sum(dim=(4, 5)) / 2) and network[1].weight.shape == (4, 3, 3, 3)
    matrix = torch.func.jacrev(pool)(x[0]).reshape(3 * 4 * 5, -1)
    assert torch.allclose(matrix @ matrix.T, torch.eye(60, dtype=torch.float64))
    assert networks.build("8C2F-half", (3, 64, 64), 200)[-3].in_features == 256 * 4 * 4
