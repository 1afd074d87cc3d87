"""What results chapters show of what is stored: `gloro_lite.report`."""

import json

import pytest

from gloro_lite import stored
from gloro_lite.experiments import rivals
from gloro_lite.files import read_json, table
from gloro_lite.report import runs, tables
from gloro_lite.report import verified_accuracy as accuracy
from gloro_lite.report.methods import METHODS, method_of
from gloro_lite.train.recipes import RECIPES


def test_a_table_has_a_line_for_each_row_under_head_and_rule():
    text = tables.markdown(["run", "VRA"], [["`a`", 1.5], [tables.escaped("c8 | 10"), 2]], "lr")
    assert text.splitlines() == ["| run | VRA |", "|:---|---:|", "| `a` | 1.5 |", "| c8 \\| 10 | 2 |"]


@pytest.mark.parametrize(("rows", "align"), [([["a"]], "lr"), ([["a", "b", "c"]], "lr"), ([["a", "b"]], "l")])
def test_a_table_whose_rows_do_not_fit_its_head_is_refused(rows, align):
    with pytest.raises(ValueError, match="2 columns"):
        tables.markdown(["one", "two"], rows, align)


def test_numbers_as_they_are_shown():
    assert tables.percent(0.97034) == "97.03" and tables.percent(0.97034, 1) == "97.0"
    assert tables.signed(-1.26) == "−1.3" and tables.signed(1.24) == "+1.2"
    assert tables.span([3000, 12, 7]) == "7 to 3,000" and tables.span([0.501, 0.502], ".1f") == "0.5"
    assert tables.standard_error(0.5, 10_000) == pytest.approx(0.005)


def test_every_other_method_is_listed_and_can_be_run():
    foreign = {method.key.rstrip("/") for method in METHODS if method.is_foreign}
    assert foreign == set(stored.OTHER_METHODS) == {*rivals.METHODS, "sites"}
    assert all(method.card for method in METHODS if method.is_foreign)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mnist-0.3", ""),
        ("mnist-0.3-local-gce", ""),
        ("cifar10-standard-short", "-standard"),
        ("mnist-1.58-paper", "-paper"),
        ("mnist-0.3-paper-short-relu", "-relu"),
        ("mnist-0.3-paper-short-ce", "-ce"),
        ("kw/mnist-0.3", "kw/"),
    ],
)
def test_the_method_of_a_name(name, key):
    assert method_of(name).key == key


def test_every_recipe_and_every_stored_run_has_a_method():
    for name in [*RECIPES, *runs.of_recipes(), *runs.of_other_methods()]:
        assert method_of(name) in METHODS
    with pytest.raises(KeyError):
        method_of("results/mnist-0.3")


def test_runs_are_read_by_their_records_alone_and_local_figures_are_of_their_weights(tmp_path):
    record = read_json(stored.STORED / "mnist-0.3" / "seed-0" / "result.json")
    for seed in (0, 1):
        folder = tmp_path / "results" / "mnist-0.3" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record | {"seed": seed}))
    rows = [{"local": 0.97, "weights_sha256": record["weights_sha256"]}, {"local": 0.98, "weights_sha256": "0" * 64}]
    (tmp_path / "last_layers.json").write_text(json.dumps({"runs": {f"mnist-0.3/seed-{k}": row for k, row in enumerate(rows)}}))
    found = runs.of_recipes(tmp_path / "results")["mnist-0.3"]
    assert [each.get("test_vra_local") for each in found] == [0.97, None]


def test_verified_radii_are_those_of_right_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "STORED", tmp_path)
    folder = tmp_path / "mine" / "seed-3"
    folder.mkdir(parents=True)
    rows = [(0, 7, 7, 0.25), (1, 2, 3, 9.0), (2, 1, 1, 0.0)]
    (folder / "certificates.csv").write_bytes(table(("index", "label", "prediction", "radius"), rows))
    assert runs.verified_radii("mine", 3).tolist() == [0.25, -1.0, 0.0]
    with pytest.raises(FileNotFoundError):
        runs.verified_radii("mine")


def attacked(**changed):
    """A record of `data/attacks.json`."""
    settings = {"toolbox_steps": 50, "margin_steps": 100, "queries": 500}
    found = {
        "images": 200, "accuracy": 0.9, "vra": 0.6, "toolbox_pgd": 0.8, "margin_pgd": 0.75, "auto_images": 20, "auto_vra": 0.5,
        "auto_pgd": 0.7, "auto_attack": 0.6, "auto_attacked": 4, "false": 0, "settings": settings, "machine": {"device": "one"},
    }  # fmt: skip
    return found | changed


def a_run(seed=0, **changed):
    settings = {"network": "2C2F", "dataset": "mnist"}
    record = {
        "seed": seed,
        "epochs": 8,
        "settings": settings,
        "test_accuracy": 0.98,
        "test_vra": 0.88,
        "device": "one",
        "threads": 1,
    }
    return record | {"seconds_per_epoch": 2.5, "peak_memory_per_instance": 3.2e6} | changed


ROW = {
    "recipe": "mnist-0.3", "benchmark": "MNIST", "network": "2C2F", "epsilon": "0.3", "gloro": [99.0, 97.8, 95.7],
    "standard": [99.2, 96.9, 0.0], "kw": [98.9, None, 94.0], "gloro_cost": [0.9, 500, 0.7], "kw_cost": [66.9, 100, 20.2],
    "early_stopped": ["kw"],
}  # fmt: skip


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
