"""The data that needs no download."""

import pytest
import torch

from gloro_lite.datasets import digits, points


def test_digits_are_split_once():
    data = digits.load(0)
    assert [len(split.y) for split in data] == [1197, 200, 400]
    for split in data:
        assert split.x.shape[1:] == digits.INPUT_SHAPE and split.x.dtype == torch.float32
        assert split.x.min() == 0 and split.x.max() == 1
        assert split.y.unique().tolist() == list(range(10))
    together = torch.cat([split.x for split in data]).sum(0)
    shuffled = digits.load(1)
    assert torch.allclose(together, torch.cat([split.x for split in shuffled]).sum(0))
    assert not torch.equal(data.test.x, shuffled.test.x)
    assert torch.equal(data.test.x, digits.load(0).test.x)


@pytest.mark.parametrize("make", [points.moons, points.rings])
def test_points(make):
    x, y = make(90, seed=3)
    assert x.shape == (90, 2) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert y.bincount().max() - y.bincount().min() <= 1
    assert torch.equal(x, make(90, seed=3)[0]) and not torch.equal(x, make(90, seed=4)[0])
    with pytest.raises(ValueError, match="one point for each class"):
        make(1)
