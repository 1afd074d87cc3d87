"""The checker of local certificates: what it proves no point of the ball refutes, and it proves what the package claims, no more.

The oracles are all points of a disc, and `gloro_lite.methods.last_layers`, which shares no code with the checker.
"""

import copy
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checker import CLASSES, SIDE, Run, edit_text, network, random_images, random_layers, run, spectral_norm, write_images

from gloro_lite import GloroNet, networks
from gloro_lite.certificate import BOTTOM
from gloro_lite.methods import last_layers

local = run.local
ACTIVATIONS = local.ACTIVATIONS
NAME = "local_certificates.csv"


# The bound.


def small_net(seed, activation, hidden=4):
    """A net of two inputs and one hidden layer, as the checker has it."""
    generator = np.random.default_rng(seed)
    weights = [generator.normal(size=shape).astype(np.float32) for shape in ((hidden, 2), (CLASSES, hidden))]
    return net_of(weights, [generator.normal(size=len(weight)).astype(np.float32) for weight in weights], activation)


def net_of(weights, biases, activation):
    plans = network.plan("| " + " ".join(str(len(weight)) for weight in weights[:-1]), activation, (1, 1, 2))
    tensors = {f"network.{plan.name}.weight": weight for plan, weight in zip(plans, weights, strict=True)}
    tensors |= {f"network.{plan.name}.bias": bias for plan, bias in zip(plans, biases, strict=True)}
    layers, wrong = network.assemble(plans, tensors)
    assert not wrong
    return network.Network(layers, activation, [spectral_norm(weight) * (1 + 1e-9) for weight in weights[:-1]])


def prover(net, epsilon):
    return local.Prover(net, epsilon, spectral_norm(local.matrix(net.body[-1].layer, net.activation).weight) * (1 + 1e-9))


def points(seed, n):
    return np.random.default_rng(seed).normal(size=(n, 1, 1, 2)).astype(np.float32)


def exactly(proof, x, j, slopes=None):
    return proof.exactly(proof.exact_network.values(x), int(j), slopes) is None


TURNS = np.linspace(0, 2 * np.pi, 91)
DISC = np.linspace(0, 1, 9)[:, None, None] * np.stack((np.cos(TURNS), np.sin(TURNS)), 1)


@given(st.integers(0, 10**6), st.sampled_from(ACTIVATIONS), st.floats(0.05, 3.0))
@settings(max_examples=60)
def test_no_point_of_the_disc_lets_a_margin_fall_further(seed, activation, epsilon):
    net, x = small_net(seed, activation), points(seed, 4)
    predictions = net.logits(x)[0].argmax(1)
    proof = prover(net, epsilon)
    found = proof.prove(x, predictions)
    for k, j in enumerate(predictions):
        y = net.logits(x[k] + DISC.reshape(-1, 1, 1, 2) * epsilon)[0]
        lowest, others = (y[:, [j]] - y).min(0), np.arange(CLASSES) != j
        assert (found.margins[k] - lowest <= found.falls[k] * (1 + 1e-9))[others].all()
        wrong_signs = -found.below[k], found.above[k]  # allowed, and worse
        if found.verdicts[k] > 0 or exactly(proof, x[k], j) or exactly(proof, x[k], j, wrong_signs):
            assert (lowest[others] > 0).all()


@given(st.integers(0, 10**6), st.sampled_from(ACTIVATIONS), st.floats(0.05, 3.0))
@settings(max_examples=20)
def test_what_float64_decides_exact_arithmetic_decides_alike(seed, activation, epsilon):
    net, x = small_net(seed, activation), points(seed, 3)
    predictions = net.logits(x)[0].argmax(1)
    proof = prover(net, epsilon)
    found = proof.prove(x, predictions)
    assert (found.verdicts != 0).all()
    for k, j in enumerate(predictions):
        for slopes in ((found.below[k], found.above[k]), None):
            assert exactly(proof, x[k], j, slopes) == (found.verdicts[k] > 0)


def as_the_package_has_it(net, epsilon):
    layers = [part.layer for part in net.body] + [net.head]
    modules = networks.build(f"| {len(net.body[0].bias)}", (1, 1, 2), CLASSES, activation=net.activation)
    state = {f"{layer.name}.{part}": torch.from_numpy(getattr(layer, part)) for layer in layers for part in ("weight", "bias")}
    modules.load_state_dict(state)
    return GloroNet(modules, (1, 1, 2), epsilon)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_proves_as_large_a_radius_as_the_package_and_no_larger(activation):
    more = 0
    for seed in range(4):
        net, x = small_net(seed, activation, hidden=8), points(seed, 2)
        package = as_the_package_has_it(net, 0.1)
        c = last_layers.certify(package, torch.from_numpy(x), 100.0, steps=60)
        more += (c.radius > 1.01 * package.certify(torch.from_numpy(x), 100.0).radius).sum().item()
        for k, (j, radius) in enumerate(zip(c.prediction.tolist(), c.radius.tolist(), strict=True)):
            for share, verdict in ((1 - 1e-6, 1), (1 + 1e-6, -1)):
                assert prover(net, radius * share).prove(x[k : k + 1], np.array([j])).verdicts == verdict
    assert more >= 4


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("share", [1 - 1e-12, 1 + 1e-12])
def test_what_rounding_leaves_open_exact_arithmetic_decides(activation, share):
    net, x = small_net(1, activation, hidden=8), points(1, 1)
    j = net.logits(x)[0].argmax(1)
    low, high = 0.0, 100.0
    for _ in range(60):  # to the last digit
        middle = (low + high) / 2
        low, high = (middle, high) if exactly(prover(net, middle), x[0], j[0]) else (low, middle)
    proof = prover(net, low * share)
    assert proof.prove(x, j).verdicts == 0 and exactly(proof, x[0], j[0]) == (share < 1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_where_float64_cannot_tell_a_units_sign_exact_arithmetic_can(activation):
    """Weights of 2^70 that cancel, in a ball that is smaller by as much: the same problem as with weights of 1."""
    generator, large = np.random.default_rng(2), 2.0**70
    hidden = generator.normal(size=(8, 1)).astype(np.float32) * np.float32([1, -1])
    head = generator.normal(size=(CLASSES, 8)).astype(np.float32)
    biases = [generator.normal(size=n).astype(np.float32) for n in (8, CLASSES)]
    net, drowned = (net_of([hidden * np.float32(size), head], biases, activation) for size in (1, large))
    x = np.full((1, 1, 1, 2), 0.5, np.float32)
    j = net.logits(x)[0].argmax(1)
    verdicts = []
    for epsilon in np.geomspace(0.01, 1, 9):
        verdicts += prover(net, epsilon).prove(x, j).verdicts.tolist()
        proof = prover(drowned, epsilon / large)
        assert proof.prove(x, j).verdicts == 0 and exactly(proof, x[0], j[0]) == (verdicts[-1] > 0)
    assert set(verdicts) == {-1, 1}


@pytest.mark.parametrize("activation", ["relu", "abs"])
def test_what_a_layer_before_drowns_float64_leaves_open(activation):
    """A bias of 2^70, and one that float64 can hold, which both cancel: the same function of the image."""
    generator = np.random.default_rng(3)
    pixels = generator.normal(size=(4, 2)).astype(np.float32)
    cancel = (generator.normal(size=(8, 2))[:, :, None] * [1, -1]).reshape(8, 4).astype(np.float32)
    weights = [pixels, cancel, generator.normal(size=(CLASSES, 8)).astype(np.float32)]
    rest = [generator.normal(size=n).astype(np.float32) for n in (8, CLASSES)]
    clear, drowned = (net_of(weights, [np.full(4, bias, np.float32), *rest], activation) for bias in (64, 2.0**70))
    x = points(3, 1)
    j = clear.logits(x)[0].argmax(1)
    verdicts = []
    for epsilon in np.geomspace(0.003, 3, 9):
        verdicts += prover(clear, epsilon).prove(x, j).verdicts.tolist()
        proof = prover(drowned, epsilon)
        assert proof.prove(x, j).verdicts == 0 and exactly(proof, x[0], j[0]) == (verdicts[-1] > 0)
    assert set(verdicts) == {-1, 1}


@pytest.mark.parametrize("tamper", [lambda p, q: (1.5 * p, q), lambda p, q: (p, -q), lambda p, q: (p, q * (1 + 1e-6))])
def test_slopes_are_only_proposals(tamper):
    net, x = small_net(5, "minmax"), points(5, 1)
    j = net.logits(x)[0].argmax(1)
    proof = prover(net, 1.0)
    found = proof.prove(x, j)
    assert 0 < abs(found.above).min() < 1
    with pytest.raises(AssertionError, match="a slope is steeper"):
        exactly(proof, x[0], j[0], tamper(found.below[0], found.above[0]))


# Runs.


class LocalRun(Run):
    """A correct run with what the package certifies by its local bound, at the epsilon where that adds the most images."""

    def __init__(self, root, notation="c4k3s2 c6k4 | 16", activation="minmax", seed=4, n=24):
        generator, images, layers = np.random.default_rng(seed), random_images(seed, n), []
        modules = networks.build(notation, (1, SIDE, SIDE), CLASSES, activation=activation)
        for part in modules:
            if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
                weight = generator.normal(size=part.weight.shape) / math.sqrt(part.weight[0].numel())
                bias = generator.normal(size=part.bias.shape, scale=0.1)
                layers.append((np.float32(weight), np.float32(bias), part.stride[0] if weight.ndim == 4 else 0))
                part.weight.data, part.bias.data = (torch.from_numpy(a) for a in layers[-1][:2])
        net, x = GloroNet(modules, (1, SIDE, SIDE), 0.1), torch.from_numpy(images)[:, None].float() / 255
        known, more = net.certify(x).radius, last_layers.certify(net, x, 100.0, steps=50).radius
        epsilon = max(known.tolist(), key=lambda e: ((known <= e) & (e * 1.001 < more)).sum()) * 1.001
        labels = net.certify(x).prediction.numpy().copy()
        labels[:2] = (labels[:2] + 1) % CLASSES
        super().__init__(root, layers, notation, images, labels, activation, epsilon)
        certified = last_layers.certify(net, x, epsilon).label != BOTTOM
        self.net, self.proven = net, set(certified.nonzero()[:, 0].tolist())
        self.name(self.open() & self.proven)

    def open(self):
        """Images that are predicted rightly and that the global bound leaves."""
        epsilon = self.result()["epsilon"]
        return {k for k, y, j, radius in self.rows() if y == j and radius <= epsilon}

    def name(self, images):
        """Name these images, with their labels, in the table of local certificates."""
        rows = self.rows()
        (self.folder / NAME).write_text("index,label\n" + "".join(f"{k},{rows[k][1]}\n" for k in sorted(images)))

    def named(self):
        return [int(line.split(",")[0]) for line in (self.folder / NAME).read_text().splitlines()[1:]]

    def refused(self, **options):
        """The images whose local certificates are found wrong."""
        return {int(k) for k in re.findall(rf"WRONG  {NAME}, image (\d+): its margin over class", self.check(**options)[1])}


@pytest.fixture(autouse=True)
def all_are_shown(monkeypatch):
    monkeypatch.setattr(run, "SHOWN", 1000)


@pytest.fixture(scope="module")
def made_local(tmp_path_factory):
    return LocalRun(tmp_path_factory.mktemp("made"))


@pytest.fixture
def case(made_local, tmp_path):
    """A copy of it to tamper with."""
    copied = copy.copy(made_local)
    shutil.copytree(made_local.root, tmp_path / "copy")
    copied.root, copied.folder = tmp_path / "copy", tmp_path / "copy" / "tiny" / "seed-0"
    return copied


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("notation", ["c4k3s2 c6k4 | 16", "| 16", "p2 | 16 16"])
def test_what_the_package_claims_is_accepted_and_nothing_else(tmp_path, notation, activation):
    case = LocalRun(tmp_path, notation, activation=activation)
    count = len(case.named())
    holds, said = case.check(exact=2)
    assert holds and f"{count} of {count} hold: {count - 2} decided by float64 with its error bounded, 2 by exact" in said, said
    figures = case.result()["test_vra"] + count / len(case.rows())
    assert count >= 4 and f"{count} images more, with which the VRA is {figures:.12g}" in said, said
    case.name(case.open())
    assert case.refused(exact=0) == case.open() - case.proven


def test_all_of_it_in_exact_arithmetic(case):
    count = len(case.named())
    assert f"{count} of {count} hold: 0 decided by float64" in case.check(exact=100)[1]
    case.name(case.open())
    assert case.refused(exact=100) == case.open() - case.proven != set()


def nearest_other_label(net, x, epsilon):
    """Whether gradient descent finds a point of the ball about x, (1, ...), with another label."""
    network, start = net.network.double(), x.double()
    j = network(start).argmax().item()
    for i in set(range(CLASSES)) - {j}:
        point = start.clone()
        for _ in range(20):
            point.requires_grad_()
            y = network(point)[0]
            if y[i] > y[j]:
                return True
            (gradient,) = torch.autograd.grad(y[j] - y[i], point)
            moved = point.detach() - epsilon / 5 * gradient / gradient.norm() - start
            point = start + moved * min(1, epsilon * (1 - 1e-9) / moved.norm().item())
    return False


def test_a_false_claim_among_true_ones_is_refused(case):
    images = torch.from_numpy(random_images(4, 24)[:, None]).float() / 255
    false = [k for k in sorted(case.open()) if nearest_other_label(case.net, images[k : k + 1], case.result()["epsilon"])]
    assert false
    true = case.named()
    for k in false[:3]:
        case.name({*true, k})
        assert case.refused(exact=0) == case.refused(exact=100) == {k}


def test_the_first_images_alone(case):
    first, *others = case.named()
    case.name({first, *others, *(k for k in case.open() - case.proven if k > first)})
    holds, said = case.check(limit=first + 1)
    assert holds and "1 of 1 hold" in said, said


def test_a_run_without_them_and_one_with_none(case):
    case.name([])
    holds, said = case.check()
    assert holds and "0 images more" in said
    (case.folder / NAME).unlink()
    holds, said = case.check()
    assert holds and "local" not in said


def test_an_older_run_has_them_proven_by_the_checkers_own_norms(case):
    result = case.result()
    for key in ("format", "guarantee", "layer_norms", "weights_sha256", "data_sha256"):
        del result[key]
    case.write_result(result)
    case.write_rows([[i, y, j, r * (1 - 1e-8)] for i, y, j, r in case.rows()])
    holds, said = case.check()
    assert holds, said
    case.name(case.open())
    assert case.refused() == case.open() - case.proven


def row(text):
    def tamper(case):
        path = case.folder / NAME
        path.write_text(path.read_text() + text + "\n")

    return tamper


def another_label(case):
    path = case.folder / NAME
    path.write_text(re.sub(r",(\d)\n$", lambda last: f",{(int(last[1]) + 1) % CLASSES}\n", path.read_text()))


def twice(case):
    row((case.folder / NAME).read_text().splitlines()[-1])(case)


def certified_already(case):
    case.name({*case.named(), next(k for k, y, j, r in case.rows() if y == j and r > case.result()["epsilon"])})


def edit_epsilon(factor):
    def tamper(case):
        result = case.result()
        result["epsilon"] = result["settings"]["epsilon"] = result["epsilon"] * factor
        case.write_result(result)
        case.rewrite()

    return tamper


TAMPERED = {
    "a label": (another_label, r"row \d+: label \d, and the label of image \d+ is \d"),
    "an image twice": (twice, r"row \d+: index 21 comes after 21; a row is repeated or out of place"),
    "out of order": (row("5,1"), r"row \d+: index 5 comes after 21"),
    "no such image": (row("24,0"), r"row \d+: image 24 of 24"),
    "an image that is predicted wrongly": (
        lambda case: case.name([0]),
        r"row 0: image 0 is predicted as \d, and its label is \d",
    ),
    "an image that needs none": (certified_already, r"row \d+: image \d+ has a certificate without it: its radius is 0\.\d+"),
    "a negative index": (row("-1,0"), r"row \d+: '-1,0' is not an index and a label"),
    "a cell more": (row("24,0,0"), r"row \d+: '24,0,0' is not an index and a label"),
    "no number": (row("24,one"), r"row \d+: '24,one' is not"),
    "an empty line": (row(""), r"row \d+: '' is not"),
    "the columns' names": (edit_text(NAME, "index,label", "index,prediction"), r"the first line is"),
    "nothing at all": (lambda case: (case.folder / NAME).write_text(""), r"the first line is ''"),
    "cut": (lambda case: (case.folder / NAME).write_text("index,label\n7,1"), r"the last line has no end"),
    "other bytes": (lambda case: (case.folder / NAME).write_bytes(b"index,label\n7,\xb2\n"), r"byte 14 is not ASCII"),
    "a folder": (lambda case: [(case.folder / NAME).unlink(), (case.folder / NAME).mkdir()], r"cannot be read"),
    "a larger epsilon": (edit_epsilon(1.5), r"image \d+: its margin over class \d is about .* than "),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_is_tampered_with_is_refused_and_named(case, name):
    tamper, where = TAMPERED[name]
    tamper(case)
    holds, said = case.check()
    assert not holds and re.search(rf"^WRONG  {NAME}(, |: ){where}", said, re.M), said


@pytest.mark.parametrize(
    "notation, activation, reason",
    [("c4k3s2 c8k4 | 8", "groupsort4", "activation groupsort4"), ("c4k3s2 c6k4 |", "minmax", "two dense ones")],
)
def test_networks_that_can_have_none(tmp_path, notation, activation, reason):
    first, second, dense, head = random_layers(3, (4, 8, 8) if activation == "groupsort4" else (4, 6, 24))
    layers = [first, second, dense, head] if notation.endswith("8") else [first, second, head]
    other = Run(tmp_path, layers, notation, random_images(3, 1), np.zeros(1, int), activation, epsilon=10.0)
    label = other.rows()[0][2]
    write_images(other.root, random_images(3, 1), np.array([label]))
    other.write_rows([[0, label, *other.rows()[0][2:]]])
    other.rewrite()
    assert other.check()[0]
    (other.folder / NAME).write_text(f"index,label\n0,{label}\n")
    holds, said = other.check()
    assert not holds and f"WRONG  {NAME}: " in said and reason in said, said


def test_a_proof_of_one_matrix_is_no_proof_of_another_that_float32_cannot_tell_from_it(tmp_path):
    layer = local.matrix(network.Layer("1", np.float32([[1, 2], [3, 4]]), np.zeros(2, np.float32), 0, (2,), (2,)), "relu")
    near = replace(layer, weight=layer.weight * (1 + 1e-9))
    proofs = run._Proofs(tmp_path)
    assert proofs.smallest(layer) == run._Proofs(tmp_path).smallest(layer) < proofs.smallest(near)
