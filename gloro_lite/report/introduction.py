"""The first chapter's table: our runs of the paper's benchmarks beside the paper's figures."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import NamedTuple

from gloro_lite.report.runs import TEST_IMAGES, Record, Runs, mean, measurements, runs_of
from gloro_lite.report.tables import markdown, percent, signed, standard_error


class Gap(NamedTuple):
    """How far our VRA is above the paper's, and one standard error of that, in points."""

    points: float
    error: float

    def __str__(self) -> str:
        return f"{signed(self.points, 2)} ± {self.error:.2f}"

    @property
    def verdict(self) -> str:
        """What the table calls it: less than two standard errors are no clear difference."""
        if abs(self.points) <= 2 * self.error:
            return "no clear difference"
        return "more" if self.points > 0 else "less"


@dataclass(frozen=True)
class Evidence:
    """All that the table is made from.

    Attributes:
        table: the rows of the paper's table, in its order.
        runs: of the recipe of each row.
        local: VRA with the local bound, by run: `data/last_layers.json`.
    """

    table: list[Record]
    runs: Runs
    local: dict[str, Record]


def evidence() -> Evidence:
    """Read what is stored."""
    table = measurements("paper")["table"]
    runs = {row["recipe"]: runs_of(row["recipe"]) for row in table}
    return Evidence(table, runs, measurements("last_layers")["runs"])


def gap(data: Evidence, row: Record) -> Gap:
    """A row's VRA, seeds averaged, less the paper's, as if the two nets had been tested on different images."""
    ours, theirs = mean(data.runs[row["recipe"]], "test_vra"), row["gloro"][2] / 100
    return Gap(100 * (ours - theirs), 100 * hypot(standard_error(ours, TEST_IMAGES), standard_error(theirs, TEST_IMAGES)))


def comparison(data: Evidence) -> str:
    """The paper's GloRo Nets and ours: clean accuracy and VRA in per cent, a line for each benchmark."""
    rows = []
    for row in data.table:
        clean, _, vra = row["gloro"]
        cells = ["not yet run", ""]
        if runs := data.runs[row["recipe"]]:
            ours = [percent(mean(runs, field)) for field in ("test_accuracy", "test_vra")]
            found = gap(data, row)
            cells = [f"{' / '.join(ours)} ({_seeds(runs)})", f"{found}: {found.verdict}"]
        rows.append([f"{row['benchmark']}, {row['epsilon']}", f"{clean:.1f} / {vra:.1f}", *cells])
    return markdown(["benchmark, $\\epsilon$", "paper: clean / VRA", "ours: clean / VRA", "VRA: ours − paper"], rows)


def _seeds(runs: list[Record]) -> str:
    return f"{len(runs)}\xa0seed{'s' * (len(runs) > 1)}"


def numbers(data: Evidence) -> dict[str, str]:
    """What the text says of the table, by the names that it is glued under."""
    [large] = [row for row in data.table if row["recipe"] == "mnist-1.58"]
    found = gap(data, large)
    return {
        "large-gap": str(found),
        "large-seeds": _seeds(data.runs["mnist-1.58"]),
        "large-verdict": found.verdict,
        "cifar-local": percent(data.local["cifar10/seed-0"]["local"]),
        "cifar-trained": percent(data.local["cifar10-local/seed-0"]["local"]),
    }
