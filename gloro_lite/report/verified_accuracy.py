"""Verified accuracy: each benchmark and method, the paper's figures beside what is stored. Drawing needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from gloro_lite import extras, plotting
from gloro_lite.datasets.benchmarks import INFO
from gloro_lite.experiments import rivals
from gloro_lite.methods import kw
from gloro_lite.report.methods import METHODS, Method, method_of
from gloro_lite.report.runs import (
    BENCHMARKS,
    TEST_IMAGES,
    Record,
    Runs,
    machine,
    mean,
    measurements,
    of_other_methods,
    of_recipes,
)
from gloro_lite.report.tables import escaped, markdown, percent, signed, span, standard_error
from gloro_lite.train.recipes import RECIPES, find

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Bar(NamedTuple):
    """What one method reaches on a benchmark, in per cent; `pgd` is None where no attack was run."""

    title: str
    ours: bool
    vra: float
    pgd: float | None
    clean: float


@dataclass(frozen=True)
class Evidence:
    """All that the chapter's tables are made from.

    Attributes:
        table: the rows of the paper's table, in its order.
        runs: all stored runs, by benchmark and epsilon.
        attacks: `data/attacks.json`, by run.
        local: VRA with the local bound, by run: `data/last_layers.json`.
    """

    table: list[Record]
    runs: dict[tuple[str, float], Runs]
    attacks: dict[str, Record]
    local: dict[str, Record]

    def of(self, row: Record, method: Method) -> Runs:
        """The stored runs of a row and a method."""
        found = self.runs.get((row["benchmark"], round(float(Fraction(row["epsilon"])), 4)), {})
        return {name: runs for name, runs in found.items() if method_of(name) == method}

    def first(self, name: str) -> Record:
        """The first seed of what is stored under a name."""
        return next(runs[name][0] for runs in self.runs.values() if name in runs)


def evidence() -> Evidence:
    """Read what is stored."""
    runs: dict[tuple[str, float], Runs] = {}
    for name, records in (of_recipes() | of_other_methods()).items():
        settings = records[0]["settings"]
        dataset = find(settings["row"]).dataset if "row" in settings else settings["dataset"]
        where = BENCHMARKS.get(dataset, dataset), round(records[0]["epsilon"], 4)
        runs.setdefault(where, {})[name] = records
    return Evidence(measurements("paper")["table"], runs, measurements("attacks"), measurements("last_layers")["runs"])


def survival(found: Record) -> tuple[float, float]:
    """Of images that are right and unproven, the shares that the toolbox's PGD and all attacks leave."""
    vra, left = found["vra"], found["auto_pgd"] - found["auto_vra"]
    unproven = found["accuracy"] - vra or 1.0  # where there are none, 0 / 1
    pgd, margin = found["toolbox_pgd"] - vra, found["margin_pgd"] - vra
    kept = (found["auto_attack"] - found["auto_vra"]) / left if left else 1.0
    return pgd / unproven, min(pgd, margin) / unproven * kept


def under_attack(data: Evidence, name: str) -> tuple[float, float] | None:
    """What PGD, and all attacks, leave of the test set, in per cent; None where none was run."""
    found = data.attacks.get(f"{name}/seed-0")
    if found is None:
        return None
    first = data.first(name)
    pgd, every = (100 * (first["test_vra"] + (first["test_accuracy"] - first["test_vra"]) * s) for s in survival(found))
    return pgd, every


def attack_error(data: Evidence, run: str) -> float:
    """One standard error of PGD's figure, in points: only unproven images were attacked."""
    found, first = data.attacks[run], data.first(run.removesuffix("/seed-0"))
    attacked = max(1, round(found["images"] * (found["accuracy"] - found["vra"])))
    return 100 * (first["test_accuracy"] - first["test_vra"]) * standard_error(survival(found)[0], attacked)


def accuracy_table(data: Evidence, row: Record) -> str:
    """A row of the paper's table: each method by the paper and by each of our runs, and below it what was not run."""
    lines, missing, unknown = [], [], []
    for method in METHODS:
        title = method.title + "*" * method.probabilistic
        known = row.get(method.paper) if method.paper else None
        runs = data.of(row, method)
        if not runs and method.key == "sites/":
            continue
        if method.paper and not known:
            unknown.append(method.title)
        if known:
            clean, pgd, vra = ("–" if value is None else value for value in known)
            lines.append([f"{title}, paper", clean, pgd, "–", vra])
        for name, records in runs.items():
            attacked = [f"{value:.1f}" for value in under_attack(data, name) or ()] or ["–", "–"]
            figures = [percent(mean(records, field)) for field in ("test_accuracy", "test_vra")]
            lines.append([f"{title}: `{name}`{_remark(records, row)}", figures[0], *attacked, figures[1]])
        if method.key == "":
            lines.extend(_local_rows(data, row, runs))
        if not runs:
            missing.append(f"{method.title} ({_why_not(row, method)})")
    text = markdown(["method and run", "clean", "PGD", "all", "VRA"], lines, "lrrrr") + "\n"
    if missing:
        text += f"\nNot run here: {'; '.join(missing)}."
    if unknown:
        text += f"\nThe paper has no figure for {', '.join(unknown)}."
    return text


def _remark(records: list[Record], row: Record) -> str:
    """Where runs are not what the row's other figures are of."""
    first, remarks = records[0], []
    if len(records) > 1:
        remarks.append(f"{len(records)} seeds")
    if first.get("test_images", TEST_IMAGES) < TEST_IMAGES:
        remarks.append(f"{first['test_images']:,} images")
    network = first["settings"].get("network", row["network"])
    if network != row["network"]:
        remarks.append(escaped(network))
    return f" ({', '.join(remarks)})" if remarks else ""


def _local_rows(data: Evidence, row: Record, runs: Runs) -> Iterator[list[str]]:
    """Our own nets of a row, certified with the local bound as well: the row's own, and those that were trained for it."""
    chosen = {name: runs[name] for name in runs if name == row["recipe"] or find(name).bound != "global"} or runs
    for name, records in chosen.items():
        found = [data.local[run] for run in (f"{name}/seed-{record['seed']}" for record in records) if run in data.local]
        if found:
            clean = percent(mean(records, "test_accuracy"))
            yield [f"the same, local bound: `{name}`", clean, "–", "–", percent(mean(found, "local"))]


def _why_not(row: Record, method: Method) -> str:
    """What keeps a method from having a run here, in a few words."""
    ours = find(row["recipe"])
    if method.key == "kw/":
        network = rivals.build("kw", ours.network, ours.dataset)
        try:
            kw.chain(network, INFO[ours.dataset].shape)
        except ValueError as error:
            return f"{str(error).partition(',')[0]}, too many for its passes"
    variants = (recipe for name, recipe in RECIPES.items() if name.startswith(ours.name))
    epochs = [recipe.epochs for recipe in variants if method_of(recipe.name) == method]
    return f"it takes {min(epochs)} epochs" if epochs else "training time"


def filled(data: Evidence) -> str:
    """How many combinations of a row and a method have runs, sites not counted: "19 of 36"."""
    planned = [(row, method) for row in data.table for method in METHODS if method.key != "sites/"]
    return f"{sum(bool(data.of(row, method)) for row, method in planned)} of {len(planned)}"


def gain(data: Evidence, row: Record) -> float | None:
    """The VRA of a row's recipe, or of it at half the resolution, seeds averaged, less the paper's, in points."""
    runs = data.of(row, method_of(row["recipe"]))
    found = runs.get(row["recipe"]) or runs.get(f"{row['recipe']}-half")
    return None if found is None else 100 * mean(found, "test_vra") - row["gloro"][2]


def bars(data: Evidence, row: Record) -> list[Bar]:
    """What the figure shows of a benchmark, from the top down: the paper's methods, and of ours the row's recipe or the first."""
    found = []
    for method in METHODS:
        title = method.title + "*" * method.probabilistic
        if method.paper and row.get(method.paper):
            clean, pgd, vra = row[method.paper]
            found.append(Bar(title, False, vra, pgd, clean))
        if runs := data.of(row, method):
            name = row["recipe"] if row["recipe"] in runs else next(iter(runs))
            pgd = (under_attack(data, name) or [None])[0]
            vra, clean = (100 * mean(runs[name], field) for field in ("test_vra", "test_accuracy"))
            found.append(Bar(title, True, vra, pgd, clean))
    return found


def ranges(data: Evidence) -> Figure:
    """From VRA to clean accuracy, a panel for each benchmark and a bar for each method."""
    with extras.needed("drawing", "book"):
        import matplotlib.pyplot as plt

    panels = [bars(data, row) for row in data.table]
    heights = [len(found) + 1.2 for found in panels]
    size = (5.2, 0.27 * sum(heights))
    figure, axes = plt.subplots(len(panels), 1, figsize=size, height_ratios=heights, sharex=True)
    for axis, row, found in zip(axes, data.table, panels, strict=True):
        by_paper = {bar.title for bar in found if not bar.ours}
        for place, bar in enumerate(found):
            color = plotting.CLASS_COLORS[0] if bar.ours else plotting.BOTTOM_COLOR
            axis.plot([bar.vra, bar.clean], [place, place], color=color, linewidth=3)
            axis.plot(bar.vra, place, "o", color=color, markersize=6)
            if bar.pgd is not None:
                axis.plot(bar.pgd, place, "|", color="black", markersize=9, mew=1.6)
        # Where both have a bar, each says whose it is.
        titles = [f"{bar.title}, {'here' if bar.ours else 'paper'}" if bar.title in by_paper else bar.title for bar in found]
        axis.set(ylim=(len(found) - 0.4, -0.6), xlim=(-2, 102))
        axis.set_yticks(range(len(found)), titles, fontsize=9)
        axis.set_title(f"{row['benchmark']} at {row['epsilon']}", fontsize=10, loc="left")
    axes[-1].set_xlabel("VRA (dot) to clean accuracy (%)")
    return figure


def attack_table(data: Evidence) -> str:
    """What each attack leaves of each run that was attacked, in per cent of the attacked images."""
    rows = []
    for run, found in data.attacks.items():
        few = f"{percent(found['auto_vra'], 1)} ≤ {percent(found['auto_attack'], 1)} (of {percent(found['auto_pgd'], 1)})"
        pgd = [percent(found[name], 1) for name in ("toolbox_pgd", "margin_pgd")]
        rows.append([f"`{run.removesuffix('/seed-0')}`", *pgd, few, percent(found["vra"], 1)])
    return markdown(["run", "toolbox's PGD", "margin PGD", "all three", "VRA"], rows, "lrrrr")


def attack_numbers(data: Evidence) -> dict[str, str]:
    """What the text says of the attacks, by the names that it is glued under.

    Raises AssertionError where an attack breaks a certificate, or where the text would no longer be true.
    """
    attacks = data.attacks
    for run, found in attacks.items():
        for name in ("toolbox_pgd", "margin_pgd"):
            assert found["vra"] <= found[name] <= found["accuracy"], run
        assert found["auto_vra"] <= found["auto_attack"] <= found["auto_pgd"], run
        assert found["false"] == 0, run
    apart = {run: 100 * abs(found["toolbox_pgd"] - found["margin_pgd"]) for run, found in attacks.items()}
    far = sorted((run for run in apart if apart[run] > 2), key=str.lower)
    assert all(attacks[run]["margin_pgd"] < attacks[run]["toolbox_pgd"] for run in far)
    settings = [found["settings"] for found in attacks.values()]
    more = sum(round((found["auto_pgd"] - found["auto_attack"]) * found["auto_images"]) for found in attacks.values())
    return {
        "images": span(found["images"] for found in attacks.values()),
        "auto-images": span(found["auto_images"] for found in attacks.values()),
        "attacked": str(len(attacks)),
        "error": f"{max(attack_error(data, run) for run in attacks):.1f}",
        "steps": ", ".join(f"{a} and {b}" for a, b in sorted({(s["toolbox_steps"], s["margin_steps"]) for s in settings})),
        "queries": ", ".join(f"{queries:,}" for queries in sorted({s["queries"] for s in settings})),
        "tried": f"{sum(found['auto_attacked'] for found in attacks.values()):,}",
        "more": str(more) if more else "none",
        "apart-runs": ", ".join(run.removesuffix("/seed-0") for run in far),
        "apart": span((apart[run] for run in far), ".1f"),
        "apart-rest": f"{max(apart[run] for run in apart if run not in far):.1f}",
        "where": "; ".join(sorted({found["machine"]["device"] for found in attacks.values()})),
    }


def gain_numbers(data: Evidence) -> dict[str, str]:
    """How far our recipes are from the paper's figures, by the names that they are glued under; checks what the text says."""
    small, large, cifar, tiny = data.table
    gains = {"small": gain(data, small), "large": gain(data, large), "cifar": gain(data, cifar), "tiny": gain(data, tiny)}
    # The paper's recipe at 1.58 has run for a fifth of its epochs, and is below the paper and below ours.
    [short] = data.of(large, method_of("mnist-1.58-paper")).values()
    assert 5 * short[0]["epochs"] == large["gloro_cost"][1]
    assert 100 * short[0]["test_vra"] < large["gloro"][2] + min(0, gains["large"] or 0)
    return {f"gain-{name}": "not run" if value is None else signed(value) for name, value in gains.items()}


def cost_table(data: Evidence) -> str:
    """What training took: seconds an epoch, epochs, and memory an instance, by the paper and by our runs."""
    rows = []
    for row in data.table:
        for method in METHODS:
            name = f"{method.title}, {row['benchmark']} {row['epsilon']}"
            if known := _paper_cost(row, method):
                early = "†" if method.paper in row["early_stopped"] else ""
                rows.append([name, "paper", f"{known[0]:g}", f"{known[1]}{early}", f"{known[2]:g}"])
                name = "the same"
            for recipe, records in data.of(row, method).items():
                measured = [
                    f"{mean(found, field) / scale:.1f}" if (found := [r for r in records if field in r]) else "–"
                    for field, scale in (("seconds_per_epoch", 1), ("peak_memory_per_instance", 1e6))
                ]
                rows.append([name, f"`{recipe}`", measured[0], str(records[0]["epochs"]), measured[1]])
                name = "the same"
    return markdown(["method, benchmark", "run", "s / epoch", "epochs", "MB"], rows, "llrrr")


def _paper_cost(row: Record, method: Method) -> list[float] | None:
    """Seconds an epoch, epochs, and MB an instance, where the paper gives them."""
    return row.get(f"{method.paper}_cost") if method.paper else None


def shorter(data: Evidence) -> str:
    """The runs of fewer epochs than the paper's of that method: "`kw/mnist-0.3` 8 for 100; ...", or "none"."""
    found = [
        f"`{name}` {records[0]['epochs']} for {known[1]}"
        for row in data.table
        for method in METHODS
        if (known := _paper_cost(row, method))
        for name, records in data.of(row, method).items()
        if records[0]["epochs"] < known[1]
    ]
    return "; ".join(found) or "none"


def machines(data: Evidence) -> str:
    """What our runs were trained on."""
    records = (r for runs in data.runs.values() for each in runs.values() for r in each if "threads" in r)
    return "; ".join(sorted({machine(record) for record in records}))
