"""The readable training loop."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gloro_lite import GloroNet, MinMax
from gloro_lite.datasets import digits, points
from gloro_lite.evaluate import evaluate
from gloro_lite.fit import fit, growing_epsilon, warmup_then_cosine
from gloro_lite.losses import LOSSES


def net_and_data(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 16), MinMax(), nn.Linear(16, 16), MinMax(), nn.Linear(16, 2))
    return GloroNet(network, (2,), 0.1), points.moons(120, seed=seed)


def test_schedules_have_their_end_points():
    assert warmup_then_cosine(0.0) == 0.0
    assert warmup_then_cosine(0.1) == pytest.approx(1.0)
    assert warmup_then_cosine(1.0) == pytest.approx(0.0)
    assert growing_epsilon(0.0) == pytest.approx(0.1)
    assert growing_epsilon(0.25) == pytest.approx(math.sqrt(0.1))
    assert growing_epsilon(0.5) == growing_epsilon(1.0) == growing_epsilon(0.2, growth=0.0) == 1.0


@pytest.mark.parametrize("loss", LOSSES)
def test_training_lowers_the_loss_and_is_reproducible(loss):
    histories, weights = [], []
    for _ in range(2):
        net, data = net_and_data()
        histories.append(fit(net, data, epochs=8, loss=loss, train_epsilon=0.01, progress=False))
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert histories[0] == histories[1] and torch.equal(*weights)
    assert histories[0][-1].loss < histories[0][0].loss
    assert [record.epoch for record in histories[0]] == list(range(8))
    assert not net.training


@pytest.mark.slow
def test_gloro_training_certifies_what_standard_training_does_not():
    data, vra = digits.load(), {}
    for loss in ("standard", "cross_entropy", "trades"):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), MinMax(), nn.Linear(32, 10))
        net = GloroNet(network, digits.INPUT_SHAPE, 0.3)
        fit(net, data.train, epochs=20, loss=loss, progress=False)
        report = evaluate(net, *data.validation)
        assert report.accuracy > 0.9
        vra[loss] = report.vra
    assert min(vra["cross_entropy"], vra["trades"]) > vra["standard"] + 0.2


def test_validation_and_callback():
    net, data = net_and_data()
    seen = []
    history = fit(
        net, data, validation=points.moons(50, seed=9), epochs=3, progress=False, on_epoch=lambda n, r: seen.append((n, r))
    )
    assert [r for _, r in seen] == history and all(n is net for n, _ in seen)
    assert all(0 <= r.vra <= r.accuracy <= 1 for r in history)


def test_bad_input():
    net, (x, y) = net_and_data()
    with pytest.raises(ValueError, match="standard, cross_entropy, gce, trades"):
        fit(net, (x, y), loss="hinge", progress=False)
    with pytest.raises(ValueError, match="at least 1"):
        fit(net, (x, y), epochs=0, progress=False)
    with pytest.raises(ValueError, match=r"train: labels must be classes, from 0 to 1; they go from 1 to 2"):
        fit(net, (x, y + 1), progress=False)
    with pytest.raises(ValueError, match=r"train: labels must have shape \(120,\)"):
        fit(net, (x, y[:-1]), progress=False)
    with pytest.raises(ValueError, match=r"validation: labels must be integers, not torch\.float32"):
        fit(net, (x, y), validation=(x, y.float()), progress=False)
    with pytest.raises(ValueError, match="train: at least one input is needed"):
        fit(net, (x[:0], y[:0]), progress=False)
    with pytest.raises(ValueError, match="at most 1 where it is the q"):
        fit(net, (x, y), loss="gce", weight=1.5, progress=False)
    with pytest.raises(ValueError, match="learning_rate must be a finite number"):
        fit(net, (x, y), learning_rate=math.nan, progress=False)
    with pytest.raises(ValueError, match="finite number greater than 0"):
        fit(net, (x, y), train_epsilon=-1, progress=False)


@pytest.mark.parametrize("loss", ["cross_entropy", "emma"])
def test_labels_of_another_integer_type_train_the_same(loss):
    histories = []
    for dtype in (torch.int64, torch.int32, torch.uint8):
        net, (x, y) = net_and_data()
        data = (x, y.to(dtype))
        histories.append(fit(net, data, validation=data, epochs=2, loss=loss, progress=False))
    assert histories[0] == histories[1] == histories[2]


def test_what_cannot_be_trained_says_what_to_do():
    net, (x, y) = net_and_data()
    for data in (TensorDataset(x, y), DataLoader(TensorDataset(x, y)), x):
        with pytest.raises(TypeError, match=r"train must be a pair of tensors, inputs and labels.*a TensorDataset's \.tensors"):
            fit(net, data, progress=False)
    assert fit(net, TensorDataset(x, y).tensors, epochs=1, progress=False)
    with pytest.raises(TypeError, match=r"validation: inputs must be a torch\.Tensor, not ndarray"):
        fit(net, (x, y), validation=(x.numpy(), y), progress=False)
    with pytest.raises(ValueError, match=r"validation: inputs must have shape \(batch, "):
        fit(net, (x, y), validation=(x[:, :1], y), progress=False)
    for value in (math.nan, math.inf):  # whose logits have a largest too, class 0
        broken = x.clone()
        broken[7] = value
        with pytest.raises(ValueError, match="validation: there are inputs that are NaN or infinite"):
            fit(net, (x, y), validation=(broken, y), progress=False)
    with pytest.raises(TypeError, match=r"validation: inputs are torch\.float64 and those to train on torch\.float32"):
        fit(net, (x, y), validation=(x.double(), y), progress=False)
    for counts in ({"epochs": 1.5}, {"batch_size": "8"}, {"epochs": True}):
        with pytest.raises(ValueError, match="epochs and batch_size must be whole numbers"):
            fit(net, (x, y), progress=False, **counts)
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are switched off"):
        fit(net, (x, y), progress=False)
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the network has requires_grad"):
        fit(net, (x, y), progress=False)


def test_a_loss_that_is_not_finite_stops_with_the_step():
    net, (x, y) = net_and_data()
    x[70, 0] = math.nan
    with pytest.raises(ValueError, match="train: there are inputs that are NaN or infinite"):
        fit(net, (x, y), epochs=2, batch_size=32, progress=False)
    net, data = net_and_data()
    with torch.no_grad():
        net.head.weight.fill_(3e38)  # finite, and its products are not
    with pytest.raises(ValueError, match=r"loss is nan at epoch 0, step \d"):
        fit(net, data, epochs=2, batch_size=32, progress=False)
    net, data = net_and_data()
    with torch.no_grad():
        net.head.weight[0, 0] = math.inf
    with pytest.raises(ValueError, match="weights that are NaN or infinite: initialise it anew"):
        fit(net, data, epochs=2, batch_size=32, progress=False)


def test_a_log_gets_a_line_an_epoch_and_no_bar(capsys, caplog):
    net, data = net_and_data()
    caplog.set_level("INFO", logger="gloro_lite")
    fit(net, data, epochs=2)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "".join(capsys.readouterr()) == ""


def test_the_first_step_sees_the_weights_that_were_loaded_after_the_net_was_built(monkeypatch):
    torch.manual_seed(0)
    net = GloroNet(nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2)), (40,), 0.1)
    with torch.no_grad():
        net.network[0].weight.copy_(torch.diag(torch.linspace(1, 2, 40)).roll(7, 1))
    seen, estimate = [], net.estimate
    monkeypatch.setattr(GloroNet, "estimate", lambda self: seen.append(estimate()) or seen[-1])
    fit(net, (torch.rand(4, 40), torch.tensor([0, 1, 0, 1])), epochs=1, learning_rate=1e-6, progress=False)
    torch.testing.assert_close(seen[0].double(), net.margin_constants(), rtol=0.02, atol=0)
