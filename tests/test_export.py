"""What is exported computes what the net computes, without gloro_lite, and its bound is never below the certified one."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from gloro_lite import GloroNet, MinMax, NetworkError, Normalize, Residual, export, precision


def nets():
    torch.manual_seed(0)
    image = nn.Sequential(
        Normalize([0.5, 0.4], [0.2, 0.3]),
        nn.Conv2d(2, 4, 3, padding=1),
        MinMax(),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 8),
        MinMax(),
        nn.Linear(8, 3),
    )
    plain = nn.Sequential(nn.Linear(2, 8), MinMax(), nn.Linear(8, 4))
    return {"image": GloroNet(image, (2, 6, 6), 0.1), "plain": GloroNet(plain, (2,), 0.3), "double": double()}


def double():
    torch.manual_seed(1)
    return GloroNet(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4)).double(), (2,), 0.3)


def inputs(net, count):
    return torch.rand(count, *net.input_shape, dtype=net.head.weight.dtype)


@pytest.mark.parametrize("name", ["image", "plain", "double"])
def test_the_program_agrees_with_the_net_for_every_batch_size(name):
    net = nets()[name].eval()
    run = export.program(net).module()
    for count in (1, 2, 7):
        x = inputs(net, count)
        with torch.no_grad():
            assert run(x).shape == (count, net.classes + 1)
            torch.testing.assert_close(run(x), net(x))
            torch.testing.assert_close(export.freeze(net)(x), net(x))


def test_a_process_that_computes_float32_exactly_exports():
    """torch.export reads settings that PyTorch cannot tell once they were given by other names."""
    precision.exact_float32()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert precision.sums_products(torch.device("cpu"))
    export.program(nets()["plain"].eval())


def test_a_frozen_net_stays_as_it_was():
    net = nets()["plain"]
    x = inputs(net, 5)
    net.train()
    frozen = export.freeze(net)
    before = frozen(x)
    assert net.training  # as it was
    with torch.no_grad():
        net.head.weight.mul_(2)
    net.epsilon = 0.9
    assert torch.equal(frozen(x), before) and not before.requires_grad
    assert not torch.allclose(net.eval()(x), before)


@pytest.mark.parametrize("name", ["image", "plain", "double"])
def test_the_bound_is_rounded_up(name):
    net = nets()[name]
    frozen, exact = export.freeze(net), net.margin_constants()
    assert frozen.constants.dtype == net.head.weight.dtype
    off = ~torch.eye(net.classes, dtype=torch.bool)
    assert (frozen.constants.double() >= exact)[off].all()
    assert (frozen.constants.double() <= exact * (1 + 2.0**-22))[off].all()
    for epsilon in (0.1, 0.3, 1.1, 1e-60):
        net.epsilon = epsilon
        assert epsilon <= export.freeze(net).epsilon.item() <= max(epsilon * (1 + 2.0**-22), 1e-44)


def test_what_cannot_be_certified_cannot_be_exported():
    net = nets()["plain"]
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        export.freeze(net)


def test_torch_s_own_export_of_a_net_says_what_to_call_instead():
    net = nets()["plain"].eval()
    x = inputs(net, 2)
    with pytest.raises(NetworkError, match=r"gloro_lite\.export writes it frozen, by save_program or save_onnx"):
        torch.export.export(net, (x,))
    assert torch.equal(torch.export.export(export.freeze(net), (x,)).module()(x), export.freeze(net)(x))


@pytest.mark.slow
def test_the_file_is_run_by_torch_alone(tmp_path):
    net = nets()["image"].eval()
    export.save_program(net, tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    x = inputs(net, 5)
    torch.save(x, tmp_path / "x.pt")
    code = """
import sys
sys.modules["gloro_lite"] = None  # refused
import torch
folder = sys.argv[1]
torch.save(torch.export.load(folder + "/net.pt2").module()(torch.load(folder + "/x.pt")).detach(), folder + "/y.pt")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "y.pt"), net(x))


@pytest.mark.slow
def test_onnx_agrees_with_the_net(tmp_path):
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    from onnx.reference import ReferenceEvaluator

    net = nets()["image"].eval()
    export.save_onnx(net, tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]  # no weights beside it
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    for count in (1, 5):
        x = inputs(net, count)
        (y,) = ReferenceEvaluator(model).run(None, {"images": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(y.copy()), net(x), rtol=1e-4, atol=1e-5)
