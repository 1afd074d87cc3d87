"""Full training: `gloro_lite.report.full_training`."""

import dataclasses

import pytest
import torch
from made_up_runs import ABLATIONS, ROW, a_run, figures

from gloro_lite.report import full_training as full
from gloro_lite.train.recipes import RECIPES


def full_evidence(**changed):
    """Evidence in which the text is true."""
    found = {
        "cifar10": [figures(0.50, 0.70, test_vra_local=0.55)],
        "cifar10-fifth": [figures(0.51)],
        "cifar10-first": [figures(0.40, epochs=10)],
        "cifar10-local": [figures(0.52, test_vra_local=0.60)],
        "cifar10-second": [figures(0.45, epochs=20)],
        "cifar10-third": [figures(0.48, 0.72, epochs=30)],
        "mnist-0.3": [figures(0.968, seed=0), figures(0.972, seed=1, threads=2)],
        "mnist-0.3-paper-short": [figures(0.966)],
        "mnist-0.3-paper-short-ce": [figures(0.9695)],
        "mnist-1.58": [figures(0.60, 0.95)],
        "mnist-1.58-paper-short": [figures(0.50, 0.90, epochs=60)],
        "tiny-imagenet-half": [figures(0.10, 0.20, seconds_per_epoch=1800.0)],
    }
    later = {"vra": 68.4, "source": "a paper"}
    paper = {
        "mnist-0.3": ROW | {"later": None},
        "mnist-1.58": ROW | {"gloro": [97.0, 81.9, 62.8], "gloro_cost": [3.7, 300, 0.9], "later": None},
        "cifar10": ROW | {"gloro": [77.0, 69.2, 58.4], "gloro_cost": [6.9, 800, 1.0], "later": later},
        "tiny-imagenet": ROW | {"gloro": [35.5, 32.3, 22.4], "gloro_cost": [6.9, 800, 1.0], "later": None},
    }
    return full.Evidence(found | changed, paper, ABLATIONS)


def test_results_stand_beside_the_paper_s_and_a_reader_s_own_below():
    lines = full.results_table(full_evidence(), figures(0.5, recipe="mnist-0.3-local", seed=7)).splitlines()
    assert lines[2] == "| `mnist-0.3` | 99.0 / 95.7 | 99.00 / 97.00 | 2 |"
    assert lines[5] == "| `tiny-imagenet` | 35.5 / 22.4 | – | – |"
    assert lines[6] == "| your `mnist-0.3-local`, seed 7 |  | 99.00 / 50.00 | 1 |"
    assert len(full.results_table(full_evidence()).splitlines()) == 6


def test_further_runs_are_those_without_a_row_in_the_paper():
    lines = full.further_table(full_evidence()).splitlines()[2:]
    assert len(lines) == 12 - 3 and "| `cifar10-third` | 72.00 / 48.00 | 1 |" in lines
    assert not any(f"`{name}`" in line for line in lines for name in full_evidence().paper)


def test_numbers_at_the_small_radius():
    texts = full.small_numbers(full_evidence())
    assert texts["small"] == "97.00" and texts["small-range"] == "96.80 to 97.20" and texts["small-seeds"] == "2"
    assert texts["small-error"] == "0.17" and texts["small-paper"] == "95.7"
    assert texts["small-theirs"] == "96.60" and texts["small-plain"] == "96.95"


@pytest.mark.parametrize(
    "broken",
    [
        {"-paper-short": 0.9630},  # then most of the gain would be our recipe's
        {"-paper-short": 0.9692, "-paper-short-ce": 0.9690},  # cross-entropy worse than TRADES
        {"-paper-short-ce": 0.9680},  # more than a standard error below ours
        {"-paper-short-ce": 0.9710},  # better than ours
    ],
    ids=str,
)
def test_what_the_text_says_at_the_small_radius_is_held_to_the_runs(broken):
    with pytest.raises(AssertionError):
        full.small_numbers(full_evidence(**{f"mnist-0.3{end}": [figures(vra)] for end, vra in broken.items()}))


def test_numbers_at_the_large_radius():
    texts = full.large_numbers(full_evidence())
    assert texts["large"] == "60.00" and texts["large-error"] == "0.49" and texts["large-lost"] == "2.0"
    assert texts["large-theirs"] == "50.00" and texts["large-theirs-clean"] == "90.00"
    assert texts["large-theirs-epochs"] == "60 of its 300"
    with pytest.raises(AssertionError):
        full.large_numbers(full_evidence(**{"mnist-1.58-paper-short": [figures(0.5, epochs=61)]}))


def test_the_paper_s_recipe_at_the_large_radius_grows_its_radius_for_half_its_epochs(monkeypatch):
    other = dataclasses.replace(RECIPES["mnist-1.58-paper"], epsilon_growth=0.4)
    monkeypatch.setitem(RECIPES, "mnist-1.58-paper", other)
    with pytest.raises(AssertionError):
        full.large_numbers(full_evidence())


def test_numbers_of_the_stages_on_cifar():
    texts = full.cifar_numbers(full_evidence())
    assert texts["cifar-epochs"] == "10, 20, 30 and 8" and texts["cifar-published"] == "800"
    assert (texts["cifar-second"], texts["cifar-third"], texts["cifar"], texts["cifar-fifth"]) == (
        "45.00",
        "48.00",
        "50.00",
        "51.00",
    )
    assert (texts["cifar-clean-third"], texts["cifar-clean"], texts["cifar-error"]) == ("72.00", "70.00", "0.50")
    assert (texts["cifar-held-out"], texts["cifar-held-out-fifth"], texts["cifar-held-out-error"]) == ("49.00", "50.00", "0.7")
    assert (texts["cifar-local"], texts["cifar-trained"]) == ("55.00", "60.00")
    with pytest.raises(KeyError, match="test_vra_local"):  # of other weights
        full.cifar_numbers(full_evidence(cifar10=[figures(0.5)]))


def test_numbers_at_half_the_resolution():
    texts = full.tiny_numbers(full_evidence())
    assert (texts["tiny-test_vra"], texts["tiny-test_accuracy"], texts["tiny-error"]) == ("10.00", "20.00", "0.30")
    assert (texts["tiny-epochs"], texts["tiny-hours"], texts["tiny-paper"], texts["tiny-published"]) == (
        "8",
        "4.0",
        "22.4",
        "800",
    )


def test_later_results_and_recipes_that_go_on_are_sentences():
    assert full.later(full_evidence()) == "`cifar10`: 68.4 (a paper)"
    assert full.later(full.Evidence({}, {}, {})) == "none"
    assert full.stages().endswith(".") and "`mnist-1.58` from `mnist-1.58-first`" in full.stages().rstrip(".").split(", ")


def test_costs_of_our_runs():
    lines = full.cost_table(full_evidence(**{"mnist-0.3": [figures(0.9), figures(0.9, seconds_per_epoch=4.0)]})).splitlines()
    assert "| `tiny-imagenet-half` | 1 | 8 | 1800.0 | 3.2 |" in lines and "| `mnist-0.3` | 2 | 8 | 2.5–4.0 | 3.2 |" in lines
    assert full.cost_numbers(full_evidence()) == {"where": "one", "single": "12 of 13", "paper-cost": "0.9 and 3.7"}


def test_the_ablation_is_compared_with_its_base():
    lines = full.ablation_table(full_evidence()).splitlines()[2:]
    assert lines[0] == "| nothing: the base | 49.0 (+0.0) | 48.0–50.0 | 85.0 |"
    assert lines[1] == "| power iterations: 5 a step | 54.0 (+5.0) | 54.0 | 90.0 |"
    assert lines[3] == "| activation: ReLU | 37.1 (−11.9) | 37.1 | 90.0 |"
    texts = full.ablation_numbers(full_evidence())
    assert (texts["five"], texts["free"], texts["relu"]) == ("+5.0", "+1.5", "−11.9")
    assert (texts["epochs"], texts["seeds"], texts["ablations-where"]) == ("10", "1 to 2", "one, 1 thread")
    assert (texts["heads-steps"], texts["heads-epsilon"]) == ("200", "1.65")


def test_heads_name_their_losses():
    lines = full.heads_table(full_evidence()).splitlines()[2:]
    assert lines == ["| as it is | 60.3 | 95.2 |", "| $q = 0.9$, + 0.1 × clean | 61.2 | 94.0 |"]


def test_recipes_that_were_run_are_listed_with_their_losses():
    lines = full.recipes_table(full_evidence()).splitlines()[2:]
    assert len(lines) == len(full_evidence().runs)
    assert "| `mnist-0.3` | 0.45 | cross entropy | muon, 0.01 | 160 |" in lines
    assert full.loss_of(RECIPES["mnist-1.58"]) == "gce, q = 0.9, + 0.1 × clean"
    assert full.loss_of(RECIPES["mnist-0.3-local-gce"]).endswith(", local bound")
    assert full.loss_of(RECIPES["mnist-0.3-paper"]) == "trades ce, λ = 2"


def test_the_figure_has_a_curve_for_each_net_on_its_panel(monkeypatch):
    radii = torch.tensor([0.5, 1.5, -1.0, -1.0])
    monkeypatch.setattr(full, "verified_radii", lambda name, seed: radii + seed)
    figure = full.vra_figure(full.Evidence({"mnist-0.3": [a_run()], "mnist-1.58-vra": [a_run(1)], "cifar10": []}, {}, {}))
    small, large = figure.axes
    assert [line.get_label() for line in small.get_legend().legend_handles] == ["mnist-0.3"]
    assert [line.get_label() for line in large.get_legend().legend_handles] == ["mnist-1.58-vra"]
    curve = dict(zip(*(values.tolist() for values in small.lines[0].get_data()), strict=True))
    assert [curve[epsilon] for epsilon in (0.0, 0.5, 1.5)] == [50, 25, 0]
    assert large.lines[0].get_ydata()[80] == 25  # at 2, of that run's own seed
