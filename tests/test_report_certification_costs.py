"""What certifying costs: `gloro_lite.report.certification_costs`."""

import json
from statistics import NormalDist

import matplotlib.pyplot as plt
import pytest

from gloro_lite import stored
from gloro_lite.files import read_json, table
from gloro_lite.report import certification_costs as costs
from gloro_lite.report import runs


def measured(method, seconds, size=2000.0, **changed):
    """A row of `data/certification_costs.json`."""
    row = {"method": method, "width": 64, "depth": 2, "classes": 10, "batch": 4, "samples": 1000, "once": 0.25}
    return row | {"seconds": seconds, "bytes": size} | changed


def some_costs(**changed):
    """Few measurements; `changed` has the seconds of methods on the small network."""
    seconds = {"kw": 3e-4, "forward": 1e-6, "gloro": 5.5e-6, "bcp": 1.234e-4, "local": 0.05, "smoothing": 1e-3} | changed
    sweep = {  # (value, seconds, bytes) at both ends
        "width": {"local": ((32, 1.0, 900.0), (64, 8.0, 900.0)), "bcp": ((32, 2.0, 400.0), (64, 2.0, 200.0))},
        "depth": {"local": ((1, 1.0, 1.0), (4, 4.0, 16.0)), "bcp": ((1, 1.0, 1.0), (4, 2.0, 0.99))},
        "classes": {"local": ((10, 1.0, 1.0), (100, 1.0, 1.0)), "bcp": ((10, 1.0, 1.0), (100, 12.0, 1.0))},
        "batch": {"local": ((1, 1.0, 1.0), (16, 0.5, 1.0)), "bcp": ((1, 1.0, 1.0), (64, 0.1, 1.0))},
    }
    sweep["width"]["kw"] = ((32, 1.0, 100.0), (64, 1.0, 400.0))
    sweep["depth"]["kw"] = sweep["classes"]["kw"] = ((1, 1.0, 1.0), (100, 1.0, 1.0))
    tables = {
        varied: [
            measured(method, seconds, size, **{varied: value})
            for method, points in methods.items()
            for value, seconds, size in points
        ]
        for varied, methods in sweep.items()
    }
    tables["batch"].append({"method": "kw", "batch": 1, "refused": "too large"})
    tables["small"] = [measured(name, each) for name, each in seconds.items()]
    tables["samples"] = [measured("smoothing", 0.5, samples=100), measured("smoothing", 2.0, samples=1000)]
    tables["6C2F"] = [
        measured("forward", 0.001),
        measured("smoothing", 1.8, 5.2e8, samples=1000),
        measured("gloro", 0.004, once=17.2),
        measured("bcp", 0.03),
        *({"method": name, "refused": f"{name} is for small networks"} for name in ("kw", "local")),
    ]
    record = {"tables": tables, "machine": {"device": "one", "threads": 1}, "copies_at_a_time": 1000, "sites_a_class": 100}
    return costs.Costs(record, {"gloro": [0.4, 1.8], "bcp": [5.8, 19.1], "kw": [2515.6, 1437.5]})


def test_times_and_sizes_have_the_unit_that_leaves_one_or_more():
    shown = [costs.duration(seconds) for seconds in (7200, 90, 1, 0.0123456, 2e-5, 2e-7)]
    assert shown == ["2\xa0h", "1.5\xa0min", "1\xa0s", "12.3\xa0ms", "20\xa0µs", "0.2\xa0µs"]
    assert [costs.size(count) for count in (2.5e9, 1e6, 999, 0.5)] == ["2.5\xa0GB", "1\xa0MB", "999\xa0B", "0.5\xa0B"]


def test_costs_of_the_small_network_are_in_its_forward_passes():
    lines = costs.small_table(some_costs()).replace("\xa0", " ").splitlines()
    assert lines[2:] == [
        "| forward pass | – | 1 µs | 1 | 2 kB |",
        "| GloRo | 250 ms | 5.5 µs | 6 | 2 kB |",
        "| BCP | 250 ms | 123 µs | 123 | 2 kB |",
        "| local bound | 250 ms | 50 ms | 50,000 | 2 kB |",
        "| KW | – | 300 µs | 300 | 2 kB |",
        "| smoothing | – | 1 ms | 1,000 | 2 kB |",
    ]


def test_costs_of_the_large_network_are_of_all_test_images_and_stand_beside_the_paper_s():
    lines = costs.large_table(some_costs()).replace("\xa0", " ").splitlines()
    assert lines[2:] == [
        "| forward pass | 10 s | 2 kB | – | – |",
        "| GloRo | 40 s | 2 kB | 400 ms | 1.8 MB |",
        "| BCP | 5 min | 2 kB | 5.8 s | 19.1 MB |",
        "| local bound | refused |  | – | – |",
        "| KW | refused |  | 41.9 min | 1.44 GB |",
        "| smoothing | 500 h | 520 MB | – | – |",  # a hundred times the copies that were measured
    ]


def test_costs_grow_with_the_powers_of_their_ends():
    lines = costs.growth_table(some_costs()).splitlines()
    assert lines[2:4] == ["| local bound | 3.0 | 1.0 | 0.0 | 0.0 | 2.0 |", "| BCP | 0.0 | 0.5 | 1.1 | −1.0 | 0.0 |"]


def test_what_the_chapter_says_of_costs():
    texts = costs.numbers(some_costs())
    assert texts["ratio-bcp"] == "120" and texts["ratio-local"] == "50,000" and texts["where"] == "one, 1 thread"
    assert (texts["large-ratio"], texts["large-bcp"], texts["large-once"]) == ("4.0", "7.5", "17.2\xa0s")
    assert (texts["paper-bcp"], texts["paper-kw"], texts["classes-bcp"]) == ("14", "6,289", "12")
    assert (texts["power-local"], texts["power-kw"]) == ("3.0", "2.0")
    assert texts["refused-kw"] == "kw is for small networks"
    # So many votes for one class prove the radius, and one fewer does not.
    for name, radius in (("samples-three", 3), ("samples-four", 4)):
        needed = int(texts[name].replace(",", ""))
        below, enough = (NormalDist().inv_cdf(0.001 ** (1 / count)) for count in (needed - 1, needed))
        assert below < radius < enough


@pytest.mark.parametrize("broken", [{"gloro": 1.0}, {"bcp": 1.0}], ids=str)
def test_costs_in_another_order_stop_the_chapter(broken):
    with pytest.raises(AssertionError):
        costs.numbers(some_costs(**broken))


def test_figures_of_costs_have_a_mark_or_a_line_for_each_method():
    data = some_costs()
    figure = costs.time_and_memory(data)
    assert {text.get_text() for text in figure.axes[0].texts} == {costs.TITLES[name] for name in data.small}
    assert [tuple(line.get_xydata()[0]) for line in figure.axes[0].lines][1] == pytest.approx((5.5, 2.0))  # µs and kB
    grown = costs.growth(data)
    assert [axis.get_xlabel() for axis in grown.axes] == list(costs.VARIED.values())
    assert [len(axis.lines) for axis in grown.axes] == [3, 3, 3, 2]  # what was refused has none
    assert grown.axes[0].lines[0].get_xydata().tolist() == [[32, 1e6], [64, 8e6]]
    least = costs.votes(data)
    votes, level = least.axes[0].lines
    assert list(level.get_ydata()) == pytest.approx([5.5e-3, 5.5e-3])
    assert votes.get_ydata()[0] == pytest.approx(2.0 * 10)  # ms: 2 s for 1,000 copies, and 10 of them at least
    for shown in (figure, grown, least):
        plt.close(shown)


def test_radii_are_read_from_the_column_that_is_named(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes(table(("label", "prediction", "nearest", "bisectors"), [(7, 7, 1.5, 2.5), (2, 3, 1.0, 1.0)]))
    assert runs.radii_in(path, "bisectors").tolist() == [2.5, -1.0]
    assert runs.radii_in(path, "nearest").tolist() == [1.5, -1.0]
    with pytest.raises(ValueError, match=r"some\.csv is damaged"):
        runs.radii_in(path)


def test_runs_of_a_name_are_read_without_weights_and_in_the_order_of_seeds(tmp_path):
    record = read_json(stored.STORED / "mnist-0.3" / "seed-0" / "result.json")
    for seed in (10, 9):
        for name, settings in (
            ("mine", record["settings"]),
            ("sites/mine", {"data": "mnist"}),
            ("kw/mine", {"row": "mnist-0.3"}),
        ):
            folder = tmp_path / name / f"seed-{seed}"
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps(record | {"seed": seed, "format": 2, "settings": settings}))
    assert [(run["seed"], run["format"]) for run in runs.runs_of("mine", tmp_path)] == [(9, 3), (10, 3)]  # in the format of today
    assert [run["settings"]["dataset"] for run in runs.runs_of("sites/mine", tmp_path)] == 2 * ["mnist"]
    assert [run["settings"] for run in runs.runs_of("kw/mine", tmp_path)] == 2 * [{"row": "mnist-0.3"}]
    assert runs.runs_of("sites", tmp_path) == runs.runs_of("another", tmp_path) == []
