"""What results chapters share, of `gloro_lite.report`: tables, methods, and the stored runs."""

import json

import pytest

from gloro_lite import stored
from gloro_lite.experiments import rivals
from gloro_lite.files import read_json, table, write_json
from gloro_lite.report import runs, tables
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


def test_recipes_are_of_the_methods_that_their_names_end_in():
    endings = {"-standard", "-paper", "-relu", "-ce"}
    for name in RECIPES:
        words = {f"-{word}" for word in name.removesuffix("-short").split("-")}
        assert method_of(name).key in (words & endings or {""}), name


def test_every_stored_run_of_another_method_is_found():
    folders = {path.parents[1] for path in stored.STORED.glob("*/*/seed-*/result.json")}
    assert list(runs.of_other_methods()) == sorted(folder.relative_to(stored.STORED).as_posix() for folder in folders)
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


def test_runs_of_recipes_follow_those_whose_weights_they_start_from(tmp_path):
    first = json.loads((stored.STORED / "mnist-0.3" / "seed-0" / "result.json").read_text())
    for name, settings, seed in (
        ("a-last", {"init_from": "b-second"}, 0),
        ("b-second", {"init_from": "c-first"}, 1),
        ("b-second", {"init_from": "c-first"}, 0),
        ("c-first", {"init_from": ""}, 0),
        ("d-elsewhere", {"init_from": "not-here", "dataset": "cifar10"}, 0),
    ):
        folder = tmp_path / "results" / name / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(first | {"seed": seed, "settings": first["settings"] | settings}))
    found = runs.of_recipes(tmp_path / "results")
    assert list(found) == ["d-elsewhere", "c-first", "b-second", "a-last"]
    assert [record["seed"] for record in found["b-second"]] == [0, 1]


def test_verified_radii_are_those_of_right_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "STORED", tmp_path)
    folder = tmp_path / "mine" / "seed-3"
    folder.mkdir(parents=True)
    rows = [(0, 7, 7, 0.25), (1, 2, 3, 9.0), (2, 1, 1, 0.0)]
    (folder / "certificates.csv").write_bytes(table(("index", "label", "prediction", "radius"), rows))
    assert runs.verified_radii("mine", 3).tolist() == [0.25, -1.0, 0.0]
    with pytest.raises(FileNotFoundError):
        runs.verified_radii("mine")


def test_the_runs_of_a_name_are_read_without_their_weights_in_the_order_of_seeds(tmp_path):
    record = read_json(stored.STORED / "mnist-0.3" / "seed-0" / "result.json")
    older = record | {"format": 2, "settings": {**record["settings"], "loss": "generalised"}}
    for name, written in (("mine", older), ("sites/mine", {"settings": {"data": "mnist"}})):
        for seed in (10, 2, 7, 12, 1):
            folder = tmp_path / name / f"seed-{seed}"
            folder.mkdir(parents=True)
            write_json(folder / "result.json", written | {"seed": seed})
    found = runs.runs_of("mine", tmp_path)
    assert [run["seed"] for run in found] == [1, 2, 7, 10, 12] and {run["settings"]["loss"] for run in found} == {"gce"}
    assert [run["settings"] for run in runs.runs_of("sites/mine", tmp_path)] == 5 * [{"box": False, "dataset": "mnist"}]
    assert runs.runs_of("another", tmp_path) == []


def test_a_machine_has_a_thread_or_more():
    assert runs.machine({"device": "one", "threads": 1}) == "one, 1 thread"
    assert runs.machine({"device": "two", "threads": 2}) == "two, 2 threads"
