"""The first chapter: `gloro_lite.report.introduction`."""

import pytest
from made_up_runs import a_run

from gloro_lite.report import introduction


def some_comparisons(vra=0.6):
    """A benchmark with two seeds of this VRA on average, one of which nothing was run, and MNIST at 1.58."""
    paper = [("cifar10", "CIFAR-10", "36/255", [77.0, 69.2, 58.4]), ("tiny", "Tiny", "1", [35.5, 32.3, 22.4])]
    paper.append(("mnist-1.58", "MNIST", "1.58", [97.0, 81.9, 62.8]))
    table = [dict(zip(("recipe", "benchmark", "epsilon", "gloro"), row, strict=True)) for row in paper]
    found = {"cifar10": [a_run(test_vra=vra + 0.01), a_run(1, test_vra=vra - 0.01)], "tiny": []}
    found["mnist-1.58"] = [a_run(test_vra=0.618)]
    local = {"cifar10/seed-0": {"local": 0.59344}, "cifar10-local/seed-0": {"local": 0.61}}
    return introduction.Evidence(table, found, local)


def test_our_runs_stand_beside_the_paper_s():
    lines = introduction.comparison(some_comparisons()).replace("\xa0", " ").splitlines()
    assert lines[2:] == [
        # Of 10,000 images each 0.6 and 0.584 have errors of 0.490 and 0.493 points.
        "| CIFAR-10, 36/255 | 77.0 / 58.4 | 98.00 / 60.00 (2 seeds) | +1.60 ± 0.69: more |",
        "| Tiny, 1 | 35.5 / 22.4 | not yet run |  |",
        "| MNIST, 1.58 | 97.0 / 62.8 | 98.00 / 61.80 (1 seed) | −1.00 ± 0.69: no clear difference |",
    ]


@pytest.mark.parametrize(
    ("vra", "verdict"), [(0.5985, "more"), (0.5975, "no clear difference"), (0.5705, "no clear difference"), (0.5695, "less")]
)
def test_a_difference_is_clear_from_two_standard_errors_on(vra, verdict):
    data = some_comparisons(vra)
    assert introduction.gap(data, data.table[0]).verdict == verdict


def test_what_the_first_chapter_says_of_its_table():
    assert introduction.numbers(some_comparisons()) == {
        "large-gap": "−1.00 ± 0.69",
        "large-seeds": "1\xa0seed",
        "large-verdict": "no clear difference",
        "cifar-local": "59.34",
        "cifar-trained": "61.00",
    }
