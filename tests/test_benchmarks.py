"""The benchmark images, where a data root holds them, and the errors where it does not."""

import struct

import pytest
import torch

from gloro_lite.datasets import benchmarks


def mnist_root():
    root = benchmarks.data_root()
    return root if (root / "MNIST" / "raw").is_dir() else None


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("GLORO_DATA", raising=False)
    with pytest.raises(ValueError, match="one of mnist, cifar10"):
        benchmarks.load("imagenet", tmp_path)
    with pytest.raises(benchmarks.DataError, match="set GLORO_DATA"):
        benchmarks.load("mnist", tmp_path, download=False)
    monkeypatch.setenv("GLORO_DATA", str(tmp_path))
    assert benchmarks.data_root() == tmp_path


def test_truncated_files_are_an_error(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60000), ("t10k", 10000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + bytes(1000))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(count))
    with pytest.raises(benchmarks.DataError, match="cannot be read from"):
        benchmarks.load("mnist", tmp_path)


@pytest.mark.skipif(mnist_root() is None, reason="no MNIST in the data root (GLORO_DATA)")
def test_mnist_splits():
    data = benchmarks.load("mnist", download=False)
    assert [tuple(part.x.shape) for part in data] == [(55000, 1, 28, 28), (5000, 1, 28, 28), (10000, 1, 28, 28)]
    assert data.train.x.dtype == torch.uint8
    assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    # Every training image is in one of the two splits; 5,923 zeros are in the published training set.
    assert int((data.train.y == 0).sum() + (data.validation.y == 0).sum()) == 5923
    assert torch.equal(data.validation.y, benchmarks.load("mnist", download=False).validation.y)
