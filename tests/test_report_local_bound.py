"""A local bound of one layer: `gloro_lite.report.local_bound`."""

import pytest
import torch

from gloro_lite import GloroNet, MinMax, stored
from gloro_lite.files import table
from gloro_lite.report import local_bound
from gloro_lite.train.recipes import RECIPES


def an_entry(vra, local, **changed):
    """What `data/last_layers.json` says of a run."""
    return {
        "images": 10_000,
        "epsilon": 36 / 255,
        "accuracy": 0.99,
        "vra": vra,
        "local": local,
        "time_over_global": 1.35,
    } | changed


def some_entries(**changed):
    one = {"mnist-0.3/seed-0": (0.96, 0.965), "mnist-0.3/seed-1": (0.97, 0.975), "mnist-0.3-local/seed-0": (0.966, 0.974)}
    two = {"mnist-0.3-local-gce/seed-0": (0.967, 0.975), "cifar10/seed-0": (0.56, 0.59), "cifar10-local/seed-0": (0.54, 0.6)}
    three = {"cifar10-fifth/seed-0": (0.558, 0.588), "mnist-1.58/seed-0": (0.635, 0.637)}
    return {run: an_entry(*shares) for run, shares in (one | two | three).items()} | changed


def test_gains_are_of_nets_that_were_trained_with_the_global_bound():
    assert local_bound.gains_table(some_entries()).splitlines()[2:] == [
        "| `cifar10` | 0.141 | 56.00 | 59.00 | 3.00 | 1.35 |",
        "| `cifar10-fifth` | 0.141 | 55.80 | 58.80 | 3.00 | 1.35 |",
        "| `mnist-0.3` (2 seeds) | 0.141 | 96.50 | 97.00 | 0.50 | 1.35 |",
        "| `mnist-1.58` | 0.141 | 63.50 | 63.70 | 0.20 | 1.35 |",
    ]
    cifar = {"last-cifar": "59.00", "last-global": "56.00", "last-time": "35", "last-large": "0.20"}
    small = {"last-small-vra": "96.50", "last-small-local": "97.00", "last-seeds": "2"}
    assert local_bound.gain_numbers(some_entries()) == cifar | small


@pytest.mark.parametrize("shares", [(0.7, 0.6), (0.6, 0.995)], ids=["local below global", "proven but wrong"])
def test_a_proof_of_what_is_wrong_stops_the_chapter(shares):
    with pytest.raises(AssertionError, match="cifar10-local/seed-0"):
        local_bound.gain_numbers(some_entries(**{"cifar10-local/seed-0": an_entry(*shares)}))


def test_a_matrix_is_flat_where_its_singular_values_are_equal(monkeypatch):
    assert local_bound.flatness(3 * torch.eye(4)) == pytest.approx(1)
    assert local_bound.flatness(torch.tensor([[5.0, 0.0], [0.0, 0.0]])) == pytest.approx(0.5**0.5)
    hidden = torch.nn.Linear(3, 4)
    net = GloroNet(torch.nn.Sequential(torch.nn.Flatten(), hidden, MinMax(), torch.nn.Linear(4, 2)), (3,), 0.1)
    monkeypatch.setattr(stored, "load", {"mine": net}.__getitem__)
    x = torch.randn(5, 3)
    out = hidden(x) - hidden.bias
    assert torch.allclose(x.double() @ local_bound.pair_differences("mine").T, (out[:, :2] - out[:, 2:]).double(), atol=1e-6)


def test_nets_that_train_with_the_local_bound_stand_beside_what_they_are_compared_with():
    assert local_bound.training_table(some_entries()).splitlines()[2:] == [
        "| `cifar10` | 99.00 | 56.00 | 59.00 |",
        "| `cifar10-fifth` | 99.00 | 55.80 | 58.80 |",
        "| `cifar10-local` | 99.00 | 54.00 | 60.00 |",
        "| `mnist-0.3` (2 seeds) | 99.00 | 96.50 | 97.00 |",
        "| `mnist-0.3-local` | 99.00 | 96.60 | 97.40 |",
        "| `mnist-0.3-local-gce` | 99.00 | 96.70 | 97.50 |",
    ]
    found = local_bound.training_numbers(some_entries(**{"cifar10-local/seed-0": an_entry(0.54, 0.6, images=150)}))
    assert found["mnist-0.3-local"] == "97.00" and found["cifar10-local-local"] == "60.00"
    assert found["local-error"] == "4.0"  # of 150 images, 60 per cent
    assert len(found) == 6 + 4 + 1


def test_what_the_text_says_of_recipes_is_what_they_say(monkeypatch):
    constants = {"cifar10": [{"lipschitz_upper": 10.26}], "cifar10-local": [{"lipschitz_upper": 20.04}]}
    monkeypatch.setattr(local_bound, "runs_of", constants.__getitem__)
    found = local_bound.recipe_numbers()
    assert (found["largest"], found["largest-local"]) == ("10.3", "20.0")
    epochs = {"local": "cifar10-local", "fifth": "cifar10-fifth", "small": "mnist-0.3-local", "further": "mnist-0.3-local-gce"}
    assert {name: found[f"{name}-epochs"] for name in epochs} == {name: str(RECIPES[r].epochs) for name, r in epochs.items()}
    assert float(found["small-radius"]) == RECIPES["mnist-0.3"].train_epsilon
    further = RECIPES["mnist-0.3-local-gce"]
    assert (float(found["further-radius"]), float(found["further-q"])) == (further.train_epsilon, further.loss_weight)


def test_proven_is_what_is_right_and_certified_by_either_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "STORED", tmp_path)
    folder = tmp_path / "cifar10-local" / "seed-0"
    folder.mkdir(parents=True)
    answers = [(0, 7, 7, 0.2), (1, 7, 7, 0.1), (2, 7, 7, 0.1), (3, 7, 3, 0.2), (4, 7, 3, 0.1), (5, 7, 7, 0.0)]
    (folder / "certificates.csv").write_bytes(table(("index", "label", "prediction", "radius"), answers))
    (folder / stored.LOCAL).write_bytes(table(("index", "label"), [(2, 7), (4, 7), (5, 7)]))
    ours = local_bound.proven("cifar10-local")
    assert ours.tolist() == [True, False, True, False, False, True]
    theirs = torch.tensor([True, True, False, False, False, False])
    assert local_bound.apart(ours, theirs) == {"only": "2", "only-fifth": "1", "apart": "0.6"}
    (folder / stored.LOCAL).unlink()
    with pytest.raises(FileNotFoundError):
        local_bound.proven("cifar10-local")
