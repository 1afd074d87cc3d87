"""Records: `gloro_lite.report.records`."""

import matplotlib.pyplot as plt

from gloro_lite.report import records


def a_row(date="2021-02", certified=58.4, **changed):
    """A published row of `data/records.json`."""
    row = {"date": date, "method": "GloRo", "network": "6C2F", "data": "CIFAR-10", "epsilon": "36/255", "clean": 77.0}
    row |= {"certified": certified, "guarantee": "deterministic", "extra_data": False, "source": "https://www.a.org/paper"}
    return row | changed


def own_row(date="2026-11", certified=59.25, **changed):
    return a_row(date, certified, method="GloRo, our recipe", source="data/results/cifar10", seeds=2) | changed


VOTE = a_row(
    "2021-06", 97.4, method="randomized smoothing", network="2C2F", data="MNIST", epsilon="0.3", guarantee="probabilistic"
)


def test_our_rows_have_the_figures_of_their_runs(monkeypatch):
    ours = [
        {"date": "2026-11", "method": "GloRo, our recipe", "results": "cifar10"},
        {"date": "2026-11", "method": "GloRo and a local bound", "results": "cifar10-local", "bound": "last_layers"},
        {"date": "2020-01", "method": "sites that learn", "results": "sites/mnist-0.3"},
    ]
    local = {"cifar10-local/seed-0": {"local": 0.6}, "cifar10-local/seed-3": {"local": 0.5}}
    files = {"records": {"published": [a_row()], "ours": ours}, "last_layers": {"runs": local}}
    network = {"dataset": "cifar10", "network": "6C2F"}
    two = [
        {"seed": k, "epsilon": 36 / 255, "settings": network, "test_accuracy": 0.7 + k / 1e3, "test_vra": 0.56} for k in (0, 3)
    ]
    one = {"seed": 0, "epsilon": 0.3, "settings": {"dataset": "mnist"}, "test_accuracy": 0.98, "test_vra": 0.97}
    stored_runs = {"cifar10": two, "cifar10-local": two, "sites/mnist-0.3": [one]}
    monkeypatch.setattr(records, "measurements", files.__getitem__)
    monkeypatch.setattr(records, "runs_of", stored_runs.__getitem__)
    first, paper, usual, trained = records.rows()  # by date
    assert first["source"] == "data/results/sites/mnist-0.3" and first["network"] == "sites in pixel space"
    assert (first["data"], first["epsilon"], first["seeds"]) == ("MNIST", "0.3", 1)
    assert paper == a_row()
    assert (usual["data"], usual["epsilon"], usual["network"], usual["seeds"]) == ("CIFAR-10", "36/255", "6C2F", 2)
    assert (usual["clean"], usual["certified"], trained["certified"]) == (70.15, 56.0, 55.0)
    assert [records.is_ours(row) for row in records.rows()] == [True, False, True, True]


def test_the_record_is_held_by_a_proof_without_extra_data():
    found = [a_row(), own_row(), a_row("2023-10", 78.1, method="LiResNet", extra_data=True), VOTE, a_row(data="ImageNet")]
    assert records.best(records.of(found, "CIFAR-10", "36/255")) == own_row()
    assert records.of(found, "CIFAR-10", "0.3") == []
    assert records.numbers(found) == {
        "cifar": "59.25",
        "cifar-method": "GloRo, our recipe",
        "cifar-most": "78.1",
        "cifar-paper": "58.4",
        "smoothing": "97.4",
        "rows": "5",
        "holds": "CIFAR-10 at 36/255 (59.25%, GloRo, our recipe)",
    }
    # Beaten by a later one, and where nothing can hold it.
    assert records.numbers([*found, a_row("2026-12", 60.0)])["holds"] == "none"


def test_a_benchmark_s_table_has_the_highest_first_with_marks_and_sources():
    found = [a_row(clean=None), own_row(), a_row("2023-10", 78.12, method="LiResNet", extra_data=True)]
    assert records.table([*found, VOTE]).splitlines()[2:] == [
        "| 2021‑06 | randomized smoothing, 2C2F | 77.0 | 97.4\\* | [a.\u200borg](https://www.a.org/paper) |",
        "| 2023‑10 | LiResNet, 6C2F | 77.0 | 78.12+ | [a.\u200borg](https://www.a.org/paper) |",
        "| 2026‑11 | GloRo, our recipe, 6C2F | 77.0 | 59.25 | `cifar10` (2) |",
        "| 2021‑02 | GloRo, 6C2F | – | 58.4 | [a.\u200borg](https://www.a.org/paper) |",
    ]


def test_other_benchmarks_are_in_a_table_of_their_own_by_their_radius():
    found = [a_row(epsilon="108/255"), a_row(epsilon="72/255", extra_data=True), a_row(), a_row(data="CIFAR-100")]
    assert records.others_table(found).splitlines()[2:] == [
        "| CIFAR-10, 72/255 | 2021‑02 | [GloRo](https://www.a.org/paper) | 77.0 | 58.4+ |",
        "| CIFAR-10, 108/255 | 2021‑02 | [GloRo](https://www.a.org/paper) | 77.0 | 58.4 |",
        "| CIFAR-100, 36/255 | 2021‑02 | [GloRo](https://www.a.org/paper) | 77.0 | 58.4 |",
    ]


def test_the_line_of_the_record_rises_where_one_is_broken():
    found = [a_row("2018-01", 50.0), a_row("2019-01", 49.0), a_row("2020-07", 70.0, extra_data=True), a_row("2021-12", 60.0)]
    start, step = 2018 + 0.5 / 12, 2021 + 11.5 / 12
    assert records.record_line(found, 2027.0) == [(start, 50.0), (start, 50.0), (step, 50.0), (step, 60.0), (2027.0, 60.0)]


def test_a_plot_has_each_row_once_and_no_name_on_another():
    found = [a_row(), a_row("2021-03", 58.5), VOTE, a_row("2023-10", 70.0, extra_data=True), own_row(), own_row(certified=59.3)]
    axis = records.chart(found).axes[0]
    kinds = {kind.get_label(): kind.get_offsets().tolist() for kind in axis.collections}
    expected = {name: [[records.year(row), row["certified"]] for row in rows] for name, rows in {
        "deterministic": found[:2], "with extra data": [found[3]], "probabilistic": [VOTE], "this book": found[4:],
    }.items()}  # fmt: skip
    assert kinds == expected
    names = [(text.get_text(), text.get_ha(), text.get_position()[1]) for text in axis.texts]
    assert {name for name, side, _ in names if side == "right"} == {"ours"}  # at the right edge there is no room beside them
    assert {name for name, side, _ in names if side == "left"} == {"GloRo", "smoothing"}
    low, high = axis.get_ylim()
    for name in ("GloRo", "ours"):
        lower, upper = (at for text, _, at in names if text == name and at < 65)
        assert upper - lower >= 0.06 * (high - low)
    plt.close("all")
