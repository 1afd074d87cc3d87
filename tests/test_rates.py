"""The search for an optimizer's rate, on figures that are made up."""

import dataclasses
import itertools

import pytest
import torch

from gloro_lite.datasets.benchmarks import Benchmark, Images
from gloro_lite.experiments import rates


def train_all(figure, seconds, row="mnist-0.3"):
    """Every run that the plan asks for, by made-up figures of rates and seconds an epoch."""
    runs = []
    while (what := rates.next_run(runs, row)) is not None:
        assert len(runs) < 100
        runs.append({**what, "validation_vra": figure(what), "seconds_per_epoch": seconds(what)})
    return runs


@pytest.mark.parametrize("peak", [1e-5, 1e-3, 2.5e-3, 0.2])
def test_the_search_ends_with_a_worse_rate_on_either_side(peak):
    def figure(what):
        return -abs(torch.log(torch.tensor(what["rate"] / peak)).item()) - what["seed"]

    runs = train_all(figure, lambda what: 2.0 if "Muon" in what["optimizer"] else 1.0)
    for name in rates.OPTIMIZERS:
        mine = [each for each in runs if each["optimizer"] == name]
        tried = sorted({each["rate"] for each in mine})
        best = min(tried, key=lambda rate: abs(torch.log(torch.tensor(rate / peak))))
        assert tried[0] < best < tried[-1] and 0.5 < best / peak < 2
        assert all(2.9 < b / a < 3.4 for a, b in itertools.pairwise(tried))
        # The best alone is trained with further seeds, and Adam for twice as many epochs, as its epochs cost half.
        further = {(each["rate"], each["epochs"]) for each in mine if each["seed"] > 0}
        assert further == {(best, 10)} | ({(best, 20)} if "Adam" in name else set())
        assert sum(each["epochs"] == 20 for each in mine) == (3 if "Adam" in name else 0)


def test_the_summary_has_the_best_rate_of_each_and_adam_for_muons_time_once_more():
    def figure(what):
        return 0.9 - abs(what["rate"] - 1e-2) - 0.01 * what["seed"] + 0.001 * what["epochs"]

    runs = train_all(figure, lambda what: 3.0 if "Muon" in what["optimizer"] else 1.5)
    runs = [{**each, "validation_accuracy": each["validation_vra"] + 0.02} for each in runs]
    rows = rates.summary(runs, "mnist-0.3")
    assert [(each["optimizer"], each["epochs"]) for each in rows] == [
        *(("Muon, on the sphere", 10), ("Muon, free", 10)),
        *(("Adam, on the sphere", 10), ("Adam, on the sphere", 20), ("Adam, free", 10), ("Adam, free", 20)),
    ]
    for each in rows:
        assert each["rate"] == pytest.approx(1e-2, rel=0.2) and each["seconds"] == (15 if each in (rows[2], rows[4]) else 30)
        assert each["vra"] == pytest.approx(
            [0.9 - 0.01 * seed - abs(each["rate"] - 1e-2) + 0.001 * each["epochs"] for seed in range(3)]
        )
        assert each["accuracy"] == pytest.approx([vra + 0.02 for vra in each["vra"]])
        tried = rates.curves(runs, "mnist-0.3")[each["optimizer"]]
        assert list(tried) == sorted(tried) and rates.best_rate(tried) == each["rate"] and len(tried) >= 3
    # A search that has been interrupted shows nothing by halves.
    assert rates.summary([each for each in runs if each["seed"] < 2], "mnist-0.3") == []
    assert rates.summary(runs, "cifar10") == []


def test_times_that_move_do_not_change_what_has_been_planned():
    count = iter(range(1000))
    runs = train_all(lambda what: -abs(what["rate"] - 5e-3), lambda what: 1.0 + next(count))
    assert len({each["epochs"] for each in runs if each["optimizer"] == "Adam, free"}) == 2


def test_a_run_that_diverges_counts_as_nothing(small_benchmark):
    recipe = dataclasses.replace(rates.ROWS["mnist-1.58"], epochs=1, network="c2k4s2 | 8", batch_size=32, precision="float32")
    found = rates.run(recipe, 0, small_benchmark)
    assert 0 < found["validation_accuracy"] <= 1 and found["seconds_per_epoch"] > 0
    free = dataclasses.replace(recipe, constraint="none", optimizer="adam", learning_rate=1e6)
    assert rates.run(free, 0, small_benchmark)["validation_vra"] == 0


@pytest.fixture
def small_benchmark():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (256, 1, 28, 28), generator=generator, dtype=torch.uint8)
    part = Images(x, torch.arange(256) % 10)
    return Benchmark(part, part, part)


def test_stored_rates_are_of_today_s_recipes_and_complete():
    report = rates.read(rates.OUTPUT)
    for row in {each["row"] for each in report["runs"]}:
        assert rates.next_run(report["runs"], row) is None, f"{row} is not finished: python -m gloro_lite.experiments.rates {row}"


def test_an_unknown_row_is_named(capsys):
    assert rates.main(["mnist"]) == 1
    assert "there is no row mnist; there are: mnist-0.3" in capsys.readouterr().err
