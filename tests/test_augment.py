"""Augmentation: identity, known maps, and random numbers that depend on the generator alone."""

import dataclasses
import math

import pytest
import torch

from gloro_lite.train.augment import AUGMENTATIONS, Augmentation, augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=6, channels=3, side=9):
    return torch.rand(count, channels, side, side, generator=generator(1))


def test_nothing_asked_for_changes_nothing():
    assert torch.equal(augment(images(), AUGMENTATIONS["none"], generator()), images())


def test_flip_mirrors_some_images_and_leaves_the_others():
    x = images(40)
    y = augment(x, Augmentation(flip=True), generator())
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(x, y, strict=True)]
    mirrored = [torch.allclose(a.flip(-1), b, atol=1e-5) for a, b in zip(x, y, strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert 8 < sum(mirrored) < 32


@pytest.mark.parametrize("turns", [1, 2])
def test_a_rotation_by_right_angles_is_exact(turns, monkeypatch):
    x = images()
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.ones(n))  # each draw at the upper end of its range
    y = augment(x, Augmentation(rotation=turns * math.pi / 2), generator())
    assert torch.allclose(y, x.rot90(turns, (2, 3)), atol=1e-5)


def test_a_shift_moves_by_a_fraction_of_the_side(monkeypatch):
    x = images(side=10)
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.ones(n))
    y = augment(x, Augmentation(shift=0.2), generator())
    assert torch.allclose(y[..., :-2, :-2], x[..., 2:, 2:], atol=1e-5)
    assert torch.allclose(y[..., -1, :-2], x[..., -1, 2:], atol=1e-5)  # the edge is repeated


def test_colour():
    x = images()
    grey = augment(x, Augmentation(saturation=(0.0, 0.0)), generator())
    assert torch.allclose(grey, x.mean(1, keepdim=True).expand_as(x), atol=1e-6)
    flat = augment(x, Augmentation(contrast=(0.0, 0.0)), generator())
    assert torch.allclose(flat, x.mean((1, 2, 3), keepdim=True).expand_as(x), atol=1e-6)


def test_noise_has_its_standard_deviation():
    x = torch.full((50, 1, 20, 20), 0.5)
    assert (augment(x, Augmentation(noise=0.05), generator()) - x).std().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_stay_images_and_the_generator_decides(name):
    x = images()
    y = augment(x, AUGMENTATIONS[name], generator())
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
    assert torch.equal(y, augment(x, AUGMENTATIONS[name], generator()))
    if name != "none":
        assert not torch.allclose(y, augment(x, AUGMENTATIONS[name], generator(1)))


def test_one_range_does_not_change_what_another_draws():
    settings = Augmentation(contrast=(0.5, 1.5))
    plain = augment(images(), settings, generator())
    for other in ({"flip": True}, {"rotation": 0.5}, {"saturation": (0.5, 1.5)}):
        both = augment(images(), dataclasses.replace(settings, **other), generator())
        alone = augment(images(), Augmentation(**other), generator())
        # The contrast of each image is the same factor: with the other change undone by comparison, means and spreads agree.
        factors = [(y - y.mean((1, 2, 3), keepdim=True)).flatten(1).norm(dim=1) for y in (both, alone, plain, images())]
        assert torch.allclose(factors[0] / factors[1], factors[2] / factors[3], rtol=0.1)
