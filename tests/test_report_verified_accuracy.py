"""Verified accuracy: `gloro_lite.report.verified_accuracy`."""

import pytest
from made_up_runs import ROW, a_run

from gloro_lite.report import verified_accuracy as accuracy


def attacked(**changed):
    """A record of `data/attacks.json`."""
    settings = {"toolbox_steps": 50, "margin_steps": 100, "queries": 500}
    found = {
        "images": 200, "accuracy": 0.9, "vra": 0.6, "toolbox_pgd": 0.8, "margin_pgd": 0.75, "auto_images": 20, "auto_vra": 0.5,
        "auto_pgd": 0.7, "auto_attack": 0.6, "auto_attacked": 4, "false": 0, "settings": settings, "machine": {"device": "one"},
    }  # fmt: skip
    return found | changed


def some_evidence(**attacks):
    found = {
        "kw/mnist-0.3": [a_run(test_images=1000, settings={"network": "c8k4s4 | 100", "row": "mnist-0.3"})],
        "mnist-0.3": [a_run(), a_run(1, test_vra=0.90)],
    }
    return accuracy.Evidence([ROW], {("MNIST", 0.3): found}, attacks, {"mnist-0.3/seed-0": {"local": 0.95}})


def test_survival_is_of_what_is_right_and_unproven():
    pgd, every = accuracy.survival(attacked())
    assert pgd == pytest.approx(2 / 3)  # 0.8 of 0.6 to 0.9
    assert every == pytest.approx(0.5 * 0.5)  # what the stronger PGD left, and AutoAttack left half of that
    assert accuracy.survival(attacked(accuracy=0.6, toolbox_pgd=0.6, margin_pgd=0.6)) == (0, 0)
    # On the whole test set: what is proven stays.
    data = some_evidence(**{"mnist-0.3/seed-0": attacked()})
    assert accuracy.under_attack(data, "mnist-0.3") == pytest.approx((88 + 10 * 2 / 3, 88 + 10 / 4))
    assert accuracy.under_attack(data, "kw/mnist-0.3") is None


def test_the_table_of_a_benchmark_says_what_was_run_and_what_was_not():
    lines = accuracy.accuracy_table(some_evidence(**{"mnist-0.3/seed-0": attacked()}), ROW).splitlines()
    assert "| GloRo, our recipes: `mnist-0.3` (2 seeds) | 98.00 | 94.7 | 90.5 | 89.00 |" in lines
    assert "| the same, local bound: `mnist-0.3` | 98.00 | – | – | 95.00 |" in lines
    assert "| KW, paper | 98.9 | – | – | 94.0 |" in lines
    assert "| KW: `kw/mnist-0.3` (1,000 images, c8k4s4 \\| 100) | 98.00 | – | – | 88.00 |" in lines
    assert lines[-1] == "The paper has no figure for BCP, Smoothing."
    assert "BCP (training time)" in lines[-2] and "Standard (it takes " in lines[-2] and "KW" not in lines[-2]


def test_costs_are_means_over_seeds_beside_the_paper_s():
    lines = accuracy.cost_table(some_evidence()).splitlines()
    assert "| KW, MNIST 0.3 | paper | 66.9 | 100† | 20.2 |" in lines
    assert "| the same | `kw/mnist-0.3` | 2.5 | 8 | 3.2 |" in lines
    assert accuracy.shorter(some_evidence()) == "`kw/mnist-0.3` 8 for 100"
    assert accuracy.machines(some_evidence()) == "one, 1 thread"
    assert accuracy.filled(some_evidence()) == "2 of 9"


def test_gains_are_of_the_row_s_own_recipe():
    assert accuracy.gain(some_evidence(), ROW) == pytest.approx(89 - 95.7)
    assert accuracy.gain(some_evidence(), ROW | {"benchmark": "CIFAR-10"}) is None


def test_a_figure_has_a_bar_for_each_end():
    found = accuracy.bars(some_evidence(**{"mnist-0.3/seed-0": attacked()}), ROW)
    ours = [bar for bar in found if bar.ours]
    assert [(bar.title, bar.pgd is None) for bar in ours] == [("GloRo, our recipes", False), ("KW", True)]
    assert [bar.vra for bar in found if not bar.ours] == [0.0, 95.7, 94.0]


@pytest.mark.parametrize(
    "broken", [{"toolbox_pgd": 0.5}, {"margin_pgd": 0.95}, {"auto_attack": 0.4}, {"auto_attack": 0.8}, {"false": 1}], ids=str
)
def test_an_attack_that_passes_a_proof_stops_the_chapter(broken):
    close = {"kw/mnist-0.3/seed-0": attacked(margin_pgd=0.79)}
    accuracy.attack_numbers(some_evidence(**close, **{"mnist-0.3/seed-0": attacked()}))
    with pytest.raises(AssertionError, match=r"mnist-0\.3/seed-0"):
        accuracy.attack_numbers(some_evidence(**close, **{"mnist-0.3/seed-0": attacked(**broken)}))
