"""What is reported, against brute force."""

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, MinMax
from gloro_lite.evaluate import certify, evaluate, vra_curve


@pytest.fixture
def case():
    net = GloroNet(nn.Sequential(nn.Linear(2, 8), MinMax(), nn.Linear(8, 3)), (2,), 0.1)
    return net, torch.randn(101, 2), torch.randint(0, 3, (101,))


def test_batches_change_nothing(case):
    net, x, _ = case
    whole, parts = net.certify(x), certify(net, x, batch_size=7)
    assert torch.equal(whole.label, parts.label) and torch.equal(whole.prediction, parts.prediction)
    assert torch.allclose(whole.radius, parts.radius, rtol=1e-4, atol=1e-7)


def test_report_is_what_counting_gives(case):
    net, x, y = case
    c, report = net.certify(x), evaluate(net, x, y)
    rows = list(zip(c.label.tolist(), c.radius.tolist(), c.prediction.tolist(), y.tolist(), strict=True))
    assert report.accuracy == pytest.approx(sum(p == t for _, _, p, t in rows) / 101)
    assert report.vra == pytest.approx(sum(k == t for k, _, _, t in rows) / 101)
    assert report.rejected == pytest.approx(sum(k == -1 for k, _, _, _ in rows) / 101)
    assert report.median_radius == pytest.approx(sorted(r if p == t else 0.0 for _, r, p, t in rows)[50])
    assert report.lipschitz == net.margin_constants().max().item()
    assert evaluate(net, x, y, 0.01).vra >= report.vra


def test_the_curve_agrees_with_certifying_at_each_radius(case):
    net, x, y = case
    epsilons = torch.tensor([0.01, 0.05, 0.1, 0.5])
    curve = vra_curve(net.certify(x), y, epsilons)
    for epsilon, value in zip(epsilons.tolist(), curve.tolist(), strict=True):
        assert value == pytest.approx(evaluate(net, x, y, epsilon).vra)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda y: y - 1, "from 0 to 2; they go from -1 to 1"),  # -1 agrees with bottom
        (lambda y: y + 1, "from 0 to 2; they go from 1 to 3"),
        (lambda y: y[:, None], r"shape \(101,\), one for each input, not \(101, 1\)"),  # broadcasts
        (lambda y: y[:1], r"not \(1,\)"),
        (lambda y: y.double(), "integers, not torch.float64"),
        (lambda y: y == 0, "integers, not torch.bool"),
    ],
)
def test_labels_that_would_count_wrongly_are_refused(case, labels, message):
    net, x, y = case
    y = y.clone()
    y[:3] = torch.arange(3)
    with pytest.raises(ValueError, match=message):
        evaluate(net, x, labels(y))
    if "to 2" not in message:  # a curve does not know how many classes there are
        with pytest.raises(ValueError, match=message):
            vra_curve(net.certify(x), labels(y), torch.tensor([0.1]))


def test_labels_of_another_integer_type_count_the_same(case):
    net, x, y = case
    assert evaluate(net, x, y.int()) == evaluate(net, x, y) == evaluate(net, x, y.to(torch.uint8))


def test_epsilons(case):
    net, x, y = case
    report = evaluate(net, x, y, torch.tensor(0.25))
    assert report == evaluate(net, x, y, 0.25) and type(report.epsilon) is float
    with pytest.raises(TypeError, match=r"one number, not a tensor of shape \(2,\)"):
        evaluate(net, x, y, torch.tensor([0.1, 0.2]))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number greater than 0"):
            evaluate(net, x, y, wrong)
    for wrong in ([[0.1]], [float("nan")], [-0.1]):
        with pytest.raises(ValueError, match="finite radii, none negative"):
            vra_curve(net.certify(x), y, torch.tensor(wrong))
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(net, x[:0], y[:0])


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (lambda x: None, TypeError, "must be a torch.Tensor"),
        (lambda x: x.tolist(), TypeError, "must be a torch.Tensor"),
        (lambda x: torch.tensor(1.0), ValueError, "must have shape"),
        (lambda x: x[0], ValueError, "must have shape"),
        (lambda x: x.to_sparse(), TypeError, "must be dense"),
        (lambda x: x.to("meta"), TypeError, "must be dense"),
    ],
)
def test_inputs_that_are_no_batch_are_refused(case, inputs, error, message):
    net, x, y = case
    for use in (lambda x: evaluate(net, x, y), lambda x: certify(net, x)):
        with pytest.raises(error, match=f"inputs {message}"):
            use(inputs(x))


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, None, "2"])
def test_a_batch_size_is_a_number_of_inputs(case, batch_size):
    with pytest.raises(ValueError, match=f"batch_size is a number of inputs, at least 1, not {batch_size!r}"):
        certify(case[0], case[1], batch_size=batch_size)


def test_labels_and_epsilons_hold_real_values(case):
    net, x, y = case
    with pytest.raises(ValueError, match="labels must be dense and hold values"):
        evaluate(net, x, y.to("meta"))
    for wrong in (torch.tensor([1j]), torch.tensor([True])):
        with pytest.raises(ValueError, match="finite radii, none negative"):
            vra_curve(net.certify(x), y, wrong)


def test_nothing_has_no_curve(case):
    net, x, y = case
    with pytest.raises(ValueError, match="there is nothing to evaluate"):
        vra_curve(net.certify(x[:0]), y[:0], torch.tensor([0.1]))  # whose mean would be NaN


def test_images_in_bytes_are_refused():
    net = GloroNet(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2), 0.1)
    x, y = torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)
    evaluate(net, x, y)
    evaluate(net, 3 * x - 1.5, y)  # another range, but no bytes
    evaluate(net, x.round(), y)
    for wrong in ((255 * x).round(), 255 * x, (3 * x + 1).floor()):
        with pytest.raises(ValueError, match=r"go up to .*: divide them by 255"):
            evaluate(net, wrong, y)
    for shape in ((28, 28), (784,)):
        net = GloroNet(nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), shape, 0.1)
        x = 255 * torch.rand(5, *shape)
        evaluate(net, x, y)  # no whole numbers: measurements, say
        with pytest.raises(ValueError, match=r"go up to .*: divide them by 255"):
            evaluate(net, x.ceil(), y)
    few = GloroNet(nn.Sequential(nn.Linear(4, 2)), (4,), 0.1)
    evaluate(few, torch.randint(0, 256, (5, 4)).float(), y)
