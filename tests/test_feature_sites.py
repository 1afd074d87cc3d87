"""Sites on features: that a radius among features is one among inputs, and the order in which runs are trained."""

import pytest
import torch

from gloro_lite.datasets.benchmarks import Images
from gloro_lite.experiments import feature_sites


@pytest.fixture(scope="module")
def blobs():
    """Images of two classes that differ in which half is bright."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.randint(40, (400, 1, 8, 8), generator=generator, dtype=torch.uint8)
    x[y == 1, :, :4] += 200
    x[y == 0, :, 4:] += 200
    return Images(x, y)


SMALL = {
    **feature_sites.SETTINGS,
    "network": "c4k4s2 | 8",
    "epochs": 3,
    "batch_size": 32,
    "epsilon": 0.5,
    "target": 1.0,
    "site_rate": 0.02,
}


@pytest.mark.parametrize("per_class", [1, 3])
def test_body_and_sites_learn_together_and_their_radii_hold_for_inputs(blobs, per_class):
    net, sites = feature_sites.train(per_class, 0, blobs, SMALL)
    radius = feature_sites.radii(net, sites, blobs)
    assert (radius > 0).all() and (radius > 0.5).double().mean() > 0.95
    # Balls in which the label does not change cannot meet where the labels differ, and do not stop far from each other here.
    x, ones = blobs.x.flatten(1).double() / 255, blobs.y == 1
    gaps, reach = torch.cdist(x[~ones], x[ones]), radius[~ones][:, None] + radius[ones]
    assert (reach <= gaps * 1.001).all() and (reach / gaps).max() > 0.3
    again = feature_sites.radii(*feature_sites.train(per_class, 0, blobs, SMALL), blobs)
    assert torch.equal(radius, again)


def test_each_number_of_sites_is_tuned_by_itself_and_trained_with_all_seeds():
    runs = []
    best = {1: (1.75, 3e-3), 4: (2.5, 3e-2), 16: (1.75, 3e-2), 64: (2.5, 3e-3)}
    while (what := feature_sites.plan(runs)) is not None:
        right = (what["target"], what["site_rate"]) == best[what["per_class"]]
        assert what["seed"] == 0 or right
        runs.append({**what, "validation_vra": 0.5 + 0.1 * right})
        assert len(runs) < 100
    assert len(runs) == 4 * 4 + 4 * 2


def test_stored_runs_are_complete():
    report = feature_sites.read(feature_sites.OUTPUT)
    assert not report["runs"] or feature_sites.plan(report["runs"]) is None
