"""Muon against PyTorch's own and against the SVD, and the choice of its precision."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gloro_lite.train import arithmetic
from gloro_lite.train.arithmetic import Arithmetic, choose
from gloro_lite.train.muon import Muon, orthogonalise

shapes = st.tuples(st.integers(1, 12), st.integers(1, 40)).flatmap(lambda sides: st.permutations(sides)).map(tuple)


@given(shapes, st.integers(0, 10**6))
def test_orthogonalise_keeps_singular_vectors_and_evens_out_singular_values(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=generator)
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = orthogonalise(matrix).double()
    # In the basis of the singular vectors it is diagonal, and its entries are the polynomial of the singular values.
    rotated = u.T @ found @ v.T
    expected = values / values.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    assert torch.allclose(rotated, expected.diag(), atol=2e-4)
    large = values > 0.02 * values.norm()
    assert (expected[large] > 0.6).all() and (expected < 1.3).all()


def test_with_equal_singular_values_it_is_the_polar_factor():
    """Of an orthogonal matrix times a number the polar factor is the orthogonal matrix, here to the iteration's 30 %."""
    q = torch.linalg.qr(torch.randn(30, 12)).Q
    found = orthogonalise(3.7 * q)
    scale = (found * q).sum() / 12
    assert 0.7 < scale < 1.3 and torch.allclose(found, scale * q, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (8, 50), (50, 8), (9, 12)])
def test_bfloat16_gives_the_very_bits_of_torch(shape):
    from torch.optim._muon import _zeropower_via_newtonschulz

    matrix = torch.randn(shape)
    expected = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert torch.equal(orthogonalise(matrix, torch.bfloat16), expected)
    # float32 differs from it by what bfloat16 rounds.
    assert torch.allclose(orthogonalise(matrix), expected.float(), atol=0.05)


def train(make, steps=6):
    torch.manual_seed(3)
    parameters = [nn.Parameter(torch.randn(shape)) for shape in ((6, 40), (40, 6), (8, 8))]
    optimizer = make(parameters)
    for _ in range(steps):
        loss = sum((p @ p.T).square().mean() for p in parameters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer, [p.detach() for p in parameters]


def test_steps_are_those_of_torch():
    theirs, expected = train(lambda p: torch.optim.Muon(p, lr=0.05, weight_decay=0.0))
    same, found = train(lambda p: Muon(p, lr=0.05, precision=torch.bfloat16))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    _, found = train(lambda p: Muon(p, lr=0.05))
    assert all(torch.allclose(a, b, atol=0.02) for a, b in zip(found, expected, strict=True))
    # The state has torch's names: one goes on where the other stopped.
    assert same.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()
    same.load_state_dict(theirs.state_dict())
    assert set(same.state_dict()["state"][0]) == {"momentum_buffer"}


def test_parameters_without_a_gradient_stay_and_kernels_are_refused():
    still = nn.Parameter(torch.ones(2, 3))
    Muon([still]).step()
    assert torch.equal(still, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"view kernels as \(out, in k k\), not \(2, 3, 1, 1\)"):
        Muon([nn.Parameter(torch.ones(2, 3, 1, 1))])


def test_a_zero_gradient_moves_nothing():
    assert torch.equal(orthogonalise(torch.zeros(3, 9)), torch.zeros(3, 9))


# --- the choice of a precision


@pytest.fixture
def spend(monkeypatch):
    """Let a clock of its own go on by so many seconds: nothing here depends on how busy the machine is."""
    now = [0.0]

    def _spend(seconds):
        now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return _spend


class Slow(nn.Module):
    """A linear layer that takes longer in one precision."""

    def __init__(self, slow, spend):
        super().__init__()
        self.layer, self.slow, self.spend = nn.Linear(4, 4), slow, spend

    def forward(self, x):
        y = self.layer(x)
        self.spend(0.3 if y.dtype == self.slow else 0.2)
        return y


@pytest.fixture
def pick(monkeypatch, spend):
    def _pick(network, precision="auto", quick=True, matrices=()):
        products = (lambda: spend(0.01)), (lambda: spend(0.001 if quick else 0.1))
        monkeypatch.setattr(arithmetic, "_small_products", lambda _: products)
        return choose(precision, network, torch.zeros(8, 4), list(matrices))

    return _pick


def test_what_is_measured_to_be_faster_is_chosen(monkeypatch, pick, spend):
    assert pick(Slow(torch.float32, spend)).network == "bfloat16"
    assert pick(Slow(torch.bfloat16, spend)).network == "float32"
    # A machine that emulates bfloat16 is known by a small product: the network is not run at all.
    network = Slow(torch.float32, spend)
    monkeypatch.setattr(Slow, "forward", None)
    assert pick(network, quick=False) == Arithmetic("float32", "float32")


def test_what_a_recipe_asks_for_is_not_measured(monkeypatch, pick, spend):
    monkeypatch.setattr(Slow, "forward", None)
    for precision in ("float32", "bfloat16"):
        assert pick(Slow(torch.float32, spend), precision) == Arithmetic(precision, precision)


def test_each_part_is_chosen_by_its_own_time(monkeypatch, pick, spend):
    for slow, network, expected in (
        (torch.bfloat16, torch.float32, Arithmetic("bfloat16", "float32")),
        (torch.float32, torch.bfloat16, Arithmetic("float32", "bfloat16")),
    ):
        monkeypatch.setattr(arithmetic, "orthogonalise", lambda _, dtype, slow=slow: spend(0.3 if dtype == slow else 0.2))
        assert pick(Slow(network, spend), matrices=[torch.rand(3, 3)]) == expected


def test_a_gain_within_the_noise_is_none(pick):
    assert pick(nn.Linear(4, 4)) == Arithmetic("float32", "float32")


def test_choosing_changes_nothing(pick):
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    matrix = torch.rand(3, 5)
    before = [p.detach().clone() for p in (*network.parameters(), matrix)]
    state = torch.get_rng_state()
    pick(network, matrices=[matrix])
    assert all(torch.equal(a, b) for a, b in zip(before, (*network.parameters(), matrix), strict=True))
    assert all(p.grad is None for p in network.parameters()) and torch.equal(state, torch.get_rng_state())


def test_a_device_without_bfloat16_computes_in_float32(pick):
    class Without(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            if torch.is_autocast_enabled(x.device.type):
                raise RuntimeError("bfloat16 is not supported")
            return self.layer(x)

    assert pick(Without()).network == "float32"
