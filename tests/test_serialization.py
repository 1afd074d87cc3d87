"""Weights on disk: what comes back, and what is refused."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from gloro_lite import GloroNet, MinMax
from gloro_lite.serialization import WeightFileError, load, save


def make(width=8, seed=0):
    torch.manual_seed(seed)
    return GloroNet(nn.Sequential(nn.Linear(2, width), MinMax(), nn.Linear(width, 3)), (2,), 0.1)


def test_round_trip_keeps_every_certificate(tmp_path):
    net, x = make(), torch.randn(20, 2)
    save(net, tmp_path / "net.safetensors")
    other = load(make(seed=1), tmp_path / "net.safetensors")
    assert torch.equal(net.certify(x).radius, other.certify(x).radius)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_equal_states_make_equal_bytes(tmp_path):
    files = set()
    for number in range(20):
        save(make(), tmp_path / f"{number}.safetensors")
        files.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(files) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == {"epsilon": "0.1", "format": "pt", "tight": "True"}


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.complex64])
def test_weights_of_another_type_are_refused(tmp_path, dtype):
    path = tmp_path / "net.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in make().state_dict().items()}, path)
    net = make(seed=1)
    before = [tensor.clone() for tensor in net.state_dict().values()]
    with pytest.raises(WeightFileError, match=rf"is {dtype} there and torch\.float32 in the net"):
        load(net, path)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "pickle", "empty"])
def test_damaged_files_are_refused_and_the_net_is_as_it_was(tmp_path, damage):
    path = tmp_path / "net.safetensors"
    save(make(), path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "pickle":
        torch.save(make().state_dict(), path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"\xff" * 200)
    net = make(seed=1)
    before = [tensor.clone() for tensor in net.state_dict().values()]
    with pytest.raises(WeightFileError, match="damaged"):
        load(net, path)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_another_network_and_a_missing_file(tmp_path):
    path = tmp_path / "net.safetensors"
    save(make(width=4), path)
    with pytest.raises(WeightFileError, match=r"network\.0\.(weight|bias) is \(4.*\(8"):
        load(make(), path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(make(), tmp_path / "none.safetensors")
    with pytest.raises(WeightFileError, match="is a folder"):
        load(make(), tmp_path)
