"""Chapter 3's net in plain PyTorch, as it stands on the page, against the package and against independent oracles."""

from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gloro_lite import GloroNet
from gloro_lite.bottom import bottom_logit
from gloro_lite.bottom import margin_constants as package_constants
from gloro_lite.datasets import points

CHAPTER = Path(__file__).resolve().parents[1] / "book" / "bottom_class.ipynb"


def tagged_cells() -> list[str]:
    cells = nbformat.read(CHAPTER, 4).cells
    return [cell.source for cell in cells if "from-scratch" in cell.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def scratch() -> dict:
    """What the chapter's cells define, run in order and without anything else of the notebook."""
    names: dict = {}
    for source in tagged_cells():
        exec(compile(source, str(CHAPTER), "exec"), names)
    return names


def network(seed: int, *widths: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


def test_the_page_is_plain_pytorch_and_short():
    source = "\n".join(tagged_cells())
    assert "gloro_lite" not in source
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= 65


@pytest.mark.parametrize("seed", range(5))
def test_certificates_are_those_of_the_package(scratch, seed):
    layers = network(seed, 6, 16, 12, 4)
    x = torch.randn(200, 6, dtype=torch.float64)
    prediction, radius = scratch["certify"](layers, x)
    c = GloroNet(layers, (6,), epsilon=0.1).eval().certify(x)
    assert torch.equal(prediction, c.prediction)
    torch.testing.assert_close(radius, c.radius, rtol=1e-7, atol=1e-12)


def test_certificates_hold_and_are_sharp_for_a_linear_net(scratch):
    """Behind an identity the radius is the exact distance to the nearest boundary: the boundary lies there and not before."""
    layers = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 4)).double()
    layers[0].weight.data = torch.eye(3, dtype=torch.float64)
    x = torch.randn(100, 3, dtype=torch.float64)
    prediction, radius = scratch["certify"](layers, x)
    rows, y = layers[1].weight.detach(), layers(x).detach()
    for k in range(len(x)):
        j = int(prediction[k])
        lead = y[k, j] - y[k]
        distance = lead / (rows[j] - rows).norm(dim=1)
        distance[j] = torch.inf
        i = int(distance.argmin())
        direction = (rows[i] - rows[j]) / (rows[i] - rows[j]).norm()
        for factor, same in ((1 - 1e-9, True), (1 + 1e-9, False)):
            assert (int(layers(x[k] + factor * radius[k] * direction).argmax()) == j) == same


@given(
    logits=st.lists(st.floats(-50, 50), min_size=3, max_size=3),
    constants=st.lists(st.floats(0, 20), min_size=3, max_size=3),
    epsilon=st.floats(0.01, 2),
)
def test_bottom_by_its_definition(scratch, logits, constants, epsilon):
    table = torch.zeros(3, 3, dtype=torch.float64)
    for value, (i, j) in zip(constants, ((0, 1), (0, 2), (1, 2)), strict=True):
        table[i, j] = table[j, i] = value
    y = torch.tensor([logits], dtype=torch.float64)
    j = max(range(3), key=lambda k: (logits[k], -k))
    expected = max(logits[i] + epsilon * float(table[i, j]) for i in range(3) if i != j)
    outputs = scratch["with_bottom"](y, table, epsilon)
    assert outputs[0, :3].tolist() == logits
    assert outputs[0, 3].item() == pytest.approx(expected, abs=1e-12)
    assert outputs[0, 3] == bottom_logit(y, table, epsilon)[0]


def test_bottom_wins_at_a_tie_and_at_equality(scratch):
    table = 4.0 * (1 - torch.eye(3))
    for logits, epsilon in (([1.0, 1.0, 0.0], 0.1), ([2.0, 1.0, 0.0], 0.25)):
        outputs = scratch["with_bottom"](torch.tensor([logits]), table, epsilon)
        assert outputs[0, 3] >= outputs[0, :3].max()


def test_the_worked_example():
    """y = (5, 3, 1), K_ij = 4, epsilon = 0.3, as worked by hand in the chapter: here of a net whose rows are 4 apart."""
    layer = nn.Linear(3, 3).double()
    layer.weight.data = torch.eye(3, dtype=torch.float64) * 4 / 2**0.5
    layer.bias.data = torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)
    net = GloroNet(nn.Sequential(layer), (3,), epsilon=0.3).eval()
    x = torch.zeros(1, 3, dtype=torch.float64)
    assert net(x)[0].tolist() == pytest.approx([5, 3, 1, 4.2])
    assert net.certify(x).radius.item() == pytest.approx(0.5)
    assert net.certify(x).label.item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_power_iteration_against_the_svd(scratch, seed):
    weight = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    _, norm = scratch["power_step"](weight, scratch["top_direction"](weight))
    exact = torch.linalg.svdvals(weight)[0]
    assert exact * (1 - 1e-9) <= norm <= exact * (1 + 1e-12)


def test_margin_constants_and_their_gradient(scratch):
    rows = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    table = scratch["margin_constants"](rows, 2.5)
    torch.testing.assert_close(table, package_constants(rows, 2.5))
    (gradient,) = torch.autograd.grad(table.sum(), rows)
    assert gradient.isfinite().all()  # the diagonal is the norm of a zero


def test_a_whole_training_run_equals_the_package_to_rounding(scratch):
    """The same loop around GloroNet, with converged iterates at the start, ends with the same weights and radii."""
    x, y = points.moons(200, seed=0)
    x = x.double()
    plain, wrapped = network(0, 2, 16, 16, 2), network(0, 2, 16, 16, 2)
    before = plain[0].weight.detach().clone()
    scratch["train"](plain, x, y, epsilon=0.1, epochs=20, seed=0)

    net = GloroNet(wrapped, (2,), epsilon=0.1)
    for _ in range(1000):
        net.estimate()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(20):
        for rows in torch.randperm(len(x), generator=order).split(100):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert (plain[0].weight - before).abs().max() > 1e-3  # it has learnt something
    for ours, theirs in zip(plain.parameters(), wrapped.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    prediction, radius = scratch["certify"](plain, x)
    c = net.eval().certify(x)
    assert torch.equal(prediction, c.prediction)
    torch.testing.assert_close(radius, c.radius, rtol=1e-6, atol=1e-9)
