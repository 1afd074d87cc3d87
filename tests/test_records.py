"""The table of published results: its form, and that what is ours is stored here."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
TABLE = json.loads((DATA / "records.json").read_text(encoding="utf-8"))
FIELDS = {"date", "method", "network", "data", "epsilon", "clean", "certified", "guarantee", "extra_data", "source"}
DATA_SETS = {"MNIST", "CIFAR-10", "CIFAR-100", "Tiny-ImageNet", "ImageNet"}
ADDRESS = re.compile(r"https://\S+\.\S+|10\.\d{4,9}/\S+")  # of the web, or a DOI


def faults(row: dict) -> list[str]:
    """What is wrong with the form of a published row."""
    found = []
    if set(row) - {"note"} != FIELDS:
        return [f"fields that are missing or unknown: {sorted(set(row) ^ FIELDS)}"]
    if not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", row["date"]) or row["date"] < "2013-12":
        found.append("date is a year and a month, 2021-02")
    if row["data"] not in DATA_SETS:
        found.append(f"data is one of {sorted(DATA_SETS)}")
    if (
        not re.fullmatch(r"\d+/255|\d+(\.\d+)?", str(row["epsilon"]))
        or not isinstance(row["epsilon"], str)
        or not 0 < Fraction(row["epsilon"]) < 10
    ):
        found.append('epsilon is text, "36/255" or "1.58"')
    for name in ("certified", "clean"):
        value = row[name]
        if value is None and name == "clean":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            found.append(f"{name} is a number in per cent")
    if not found and row["clean"] is not None and row["certified"] > row["clean"]:
        found.append("more is certified than right")
    if row["guarantee"] not in ("deterministic", "probabilistic"):
        found.append("guarantee is deterministic or probabilistic")
    if not isinstance(row["extra_data"], bool):
        found.append("extra_data is true or false")
    if not ADDRESS.fullmatch(row["source"]):
        found.append("source is an address or a DOI")
    for name in ("method", "network", "note"):
        if not str(row.get(name, "-")).strip():
            found.append(f"{name} is empty")
    return found


@pytest.mark.parametrize(
    "row", TABLE["published"], ids=lambda row: f"{row['date']} {row['method']} {row['data']} {row['epsilon']}"
)
def test_every_row_has_the_form(row):
    assert faults(row) == []


def test_rows_are_in_order_and_told_apart():
    rows = TABLE["published"]
    assert [row["date"] for row in rows] == sorted(row["date"] for row in rows)
    keys = [(r["method"], r["network"], r["data"], r["epsilon"], r["extra_data"]) for r in rows]
    assert len(set(keys)) == len(keys)


def test_ours_are_stored_and_not_typed():
    assert TABLE["ours"]
    for row in TABLE["ours"]:
        assert set(row) <= {"date", "method", "results", "bound", "note"}, "figures are read from data/results"
        assert row.get("bound", "last_layers") == "last_layers"
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", row["date"])
        runs = list((DATA / "results" / row["results"]).glob("seed-*/result.json"))
        assert runs, f"data/results/{row['results']} holds no run"
        for path in runs:
            result = json.loads(path.read_text(encoding="utf-8"))
            assert 0 <= result["test_vra"] <= result["test_accuracy"] <= 1
            if "bound" in row:  # of these very weights
                known = json.loads((DATA / "last_layers.json").read_text(encoding="utf-8"))["runs"]
                entry = known[f"{row['results']}/{path.parent.name}"]
                assert entry["accuracy"] == pytest.approx(result["test_accuracy"])
                assert entry["vra"] == pytest.approx(result["test_vra"]) and entry["vra"] <= entry["local"]
            assert (path.parent / "certificates.csv").is_file() and (path.parent / "model.safetensors").is_file()


def test_figures_of_the_paper_are_those_of_its_table():
    """Both files quote Figure 4a: they must agree."""
    paper = json.loads((DATA / "paper.json").read_text(encoding="utf-8"))
    methods = {"GloRo": "gloro", "KW": "kw", "BCP": "bcp", "randomized smoothing": "smoothing"}
    for row in TABLE["published"]:
        if row["source"] != paper["sources"]["address"]:
            continue
        (known,) = (r for r in paper["table"] if (r["benchmark"], r["epsilon"]) == (row["data"], row["epsilon"]))
        clean, _, certified = known[methods[row["method"]]]
        assert (row["clean"], row["certified"], row["network"]) == (clean, certified, known["network"])


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"source": "their paper"}, "address"),
        ({"date": "2021"}, "year and a month"),
        ({"certified": 101}, "per cent"),
        ({"certified": "58.4"}, "per cent"),
        ({"clean": 50.0}, "more is certified"),
        ({"epsilon": 0.3}, "text"),
        ({"epsilon": "0.3 pixels"}, "text"),
        ({"guarantee": "empirical"}, "guarantee"),
        ({"extra_data": "yes"}, "extra_data"),
        ({"data": "cifar10"}, "data is one of"),
        ({"cost": 3}, "fields"),
    ],
)
def test_a_row_of_another_form_is_found(change, fault):
    (good,) = (r for r in TABLE["published"] if r["method"] == "GloRo" and r["data"] == "CIFAR-10")
    assert any(fault in text for text in faults({**good, **change}))
