"""The local bound in training: against what certifies, against brute force, and in a run."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, losses, networks
from gloro_lite.bottom import margin_constants
from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.layers import Absolute, GroupSort, MinMax
from gloro_lite.methods import last_layers
from gloro_lite.train.local import WithHidden
from gloro_lite.train.recipes import Recipe
from gloro_lite.train.trainer import Trainer, pixels

CLASSES = 5


def net_of(activation, *, norm=1.0, seed=0):
    """A dense net in float64 whose hidden layers have that norm."""
    torch.manual_seed(seed)
    outputs = 8 if activation is MinMax else 6
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, outputs), activation(), nn.Linear(outputs, CLASSES)).double()
    with torch.no_grad():
        for layer in network[:2]:
            layer.weight *= norm / torch.linalg.matrix_norm(layer.weight, 2)
    return network


def constants_of(network, x, epsilon, norms=()):
    whole = WithHidden(network)
    logits, hidden = whole(x)
    table = margin_constants(network[-1].weight, math.prod(norms))
    return whole.constants(logits, hidden, table, epsilon, [torch.tensor(norm) for norm in norms]), logits, table


@pytest.mark.parametrize("activation", [nn.ReLU, MinMax, Absolute])
@pytest.mark.parametrize("norm", [1.0, 0.7])
def test_no_margin_falls_by_more(activation, norm):
    network, epsilon = net_of(activation, norm=norm), 0.3
    x = torch.randn(12, 4, dtype=torch.float64)
    norms = [] if norm == 1 else [norm, norm]
    constants, logits, table = constants_of(network, x, epsilon, norms)
    moves = torch.nn.functional.normalize(torch.randn(4000, 1, 4, dtype=torch.float64), dim=2) * epsilon
    there = network((x + moves).flatten(0, 1)).unflatten(0, (len(moves), len(x)))
    smaller = 0
    for label in range(CLASSES):
        bound = constants[torch.full((len(x),), label)]
        falls = (logits[:, label, None] - logits - (there[..., label, None] - there)).amax(dim=0)
        assert (falls <= epsilon * bound + 1e-12).all() and (bound <= table[label] + 1e-12).all()
        smaller += int((bound < 0.95 * table[label]).sum())
    assert smaller > 40


@pytest.mark.parametrize("activation", [nn.ReLU, MinMax, Absolute])
def test_it_is_the_bound_that_certifies(activation):
    """The same formula: with the norm of the last hidden layer's units for 1 or its double, and rounding aside."""
    network, epsilon = net_of(activation), 0.25
    x = torch.randn(9, 4, dtype=torch.float64)
    labels = torch.arange(len(x)) % CLASSES
    constants, _, table = constants_of(network, x, epsilon)
    net = GloroNet(network, (4,), epsilon).eval()
    bound = last_layers.Bound(last_layers.tail(net.state()))
    bound.norm = torch.tensor(2.0 if activation is MinMax else 1.0, dtype=torch.float64).sqrt()
    bound.gram = torch.full_like(bound.gram, 1e9)
    _, _, t, off = bound.logits(network[0](x).detach())
    found, same = constants[labels], 0
    for rival in range(CLASSES):
        rows = bound.tail.head[labels] - bound.tail.head[rival]
        falls = bound.fall(rows, torch.zeros_like(t), t, off, torch.full((len(x),), epsilon, dtype=torch.float64))
        known = torch.minimum(falls / epsilon, table[labels, rival])
        close = (found[:, rival] - known).abs() < 1e-9
        # The rivals that are far from bottom keep the global bound.
        assert (close | (found[:, rival] == table[labels, rival])).all()
        same += int((close & (known < table[labels, rival])).sum())
    assert same > len(x)


def test_the_rivals_nearest_to_bottom_have_it():
    network = net_of(MinMax)
    x = torch.randn(30, 4, dtype=torch.float64)
    constants, logits, table = constants_of(network, x, 0.2)
    labels = logits.argmax(dim=1)
    changed = constants[labels] < table[labels]
    raised = (logits + 0.2 * table[labels]).scatter(1, labels[:, None], -torch.inf)
    nearest = torch.zeros_like(changed).scatter(1, raised.topk(3).indices, True)
    assert changed.any(dim=1).all() and not (changed & ~nearest).any()


@pytest.mark.parametrize("loss", [name for name in losses.LOSSES if name != "standard"])
def test_every_loss_takes_it(loss):
    """And its gradient is that of finite differences; where rows of the head are equal, it is finite."""
    network = net_of(MinMax, seed=1)
    x, labels = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % CLASSES

    def value():
        constants, logits, _ = constants_of(network, x, 0.3)
        return losses.by_name(loss, logits, labels, constants, 0.3, 0.5, 0.1)

    value().backward()
    direction, step = torch.randn_like(network[1].weight), 1e-6
    slope = (network[1].weight.grad * direction).sum()
    with torch.no_grad():
        network[1].weight += step * direction
        above = value()
        network[1].weight -= 2 * step * direction
        below = value()
        network[-1].weight[1] = network[-1].weight[0]
    if loss != "emma":  # which does not differentiate its radii
        assert slope.item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-4)
    network.zero_grad()
    value().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


RECIPE = Recipe(
    name="tiny",
    dataset="mnist",
    network="c4k4s2 | 16",
    epsilon=0.3,
    train_epsilon=0.3,
    bound="last_layers",
    loss="gce",
    loss_weight=0.5,
    epochs=2,
    batch_size=32,
    precision="float32",
)


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (count,), generator=generator)
    x = torch.rand(count, 1, 28, 28, generator=generator) * 60
    for row, label in enumerate(y.tolist()):
        x[row, 0, 2 * label : 2 * label + 6, 4:24] += 190
    return Images(x.byte(), y)


def test_a_run_trains_and_is_validated_by_it(tmp_path):
    data = Benchmark(images(320, 0), images(200, 1), images(10, 2))
    trainer = Trainer(RECIPE, data, tmp_path)
    trainer.run(progress=False)
    run = trainer.finished()
    x, y = data.validation.x.float() / 255, data.validation.y
    certified = (last_layers.certify(run.net, x).label == y).sum().item()
    validated = round(trainer.history[run.chosen_epoch]["vra"] * len(y))
    # The estimate takes a larger norm, and counts no rounding.
    assert certified - 6 <= validated <= certified + 1
    assert validated > (run.net.certify(x).label == y).sum().item()
    usual = Trainer(dataclasses.replace(RECIPE, bound="global"), data, tmp_path / "global")
    usual.net.load_state_dict(trainer.net.state_dict())
    batch = pixels(data.train.x[:32]), data.train.y[:32]
    assert trainer.step(*batch, 1.0) < usual.step(*batch, 1.0)  # bottom is lower


def test_what_it_cannot_be_trained_with(tmp_path):
    for change in ({"constraint": "none"}, {"loss": "standard"}):
        with pytest.raises(ValueError, match="needs the constraint sphere"):
            dataclasses.replace(RECIPE, **change)
    with pytest.raises(ValueError, match="bound must be one of"):
        dataclasses.replace(RECIPE, bound="nearest")
    shape = (1, 28, 28)
    for network in (
        networks.build("c4k4s2 | 16", shape, 10, activation="groupsort4"),
        networks.build("c4k4s2 |", shape, 10),
        nn.Sequential(nn.Linear(2, 2), GroupSort(2)),
    ):
        with pytest.raises(ValueError, match="ends in Linear, one of ReLU, MinMax, Absolute, and Linear"):
            WithHidden(network)
