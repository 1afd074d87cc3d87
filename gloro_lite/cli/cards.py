"""`cards`: a model card for each stored net, and the README's table of results, from what `data/` holds."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from pathlib import Path

from gloro_lite import stored
from gloro_lite.datasets.benchmarks import INFO
from gloro_lite.files import read_json, write_atomically
from gloro_lite.report.methods import method_of
from gloro_lite.report.runs import Record, Runs, mean, of_other_methods, of_recipes
from gloro_lite.report.tables import escaped, markdown, percent

DATA_SETS = {
    "mnist": (
        "MNIST: grey images of handwritten digits, 28 x 28 pixels (LeCun, Cortes, Burges 1998). They are not in this repository: "
        "the package downloads them, and their authors' terms hold for them."
    ),
    "cifar10": (
        "CIFAR-10: colour photographs of ten kinds of animals and vehicles, 32 x 32 pixels (Krizhevsky 2009). They are not in "
        "this repository: the package downloads them, and their author's terms hold for them."
    ),
    "tiny-imagenet": (
        "Tiny-ImageNet: colour photographs of 200 classes of ImageNet, 64 x 64 pixels (Stanford CS231n). They are not in this "
        "repository: the package downloads them, and ImageNet's terms hold for them: research that is not commercial is allowed."
    ),
}

LIMITS = """\
- The guarantee is for l2 balls in pixel space, and for the class alone: a wrong prediction can be certified too. It says nothing
  of rotations, other norms, or images that are no images of this data set, which can be certified as well.
- It is made to study certified training, and is no part for a system on which anyone depends."""

START, END = "<!-- written by `python -m gloro_lite cards` -->", "<!-- end -->"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "cards",
        help="write the model cards and the README's table of results, in a checkout",
        description="Write data/results/<recipe>/README.md for each stored net, and the table of results in README.md.",
    )
    p.add_argument("--check", action="store_true", help="write nothing; exit 1 if any file is not as it would be written")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Raises FileNotFoundError outside a checkout."""
    texts = pages()
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not options.check:
            write_atomically(path, texts[path].encode())
        print(f"{path} {'is not current: run `python -m gloro_lite cards`' if options.check else 'written'}")
    if not stale:
        print("all current")
    return 1 if stale and options.check else 0


def pages(results: Path = stored.STORED) -> dict[Path, str]:
    """Every file that the command writes, with its text. Raises FileNotFoundError where `results` is not a checkout's."""
    root = results.parents[1]
    if not (root / "README.md").is_file() or not results.is_dir():
        raise FileNotFoundError("there is no data/results here: model cards are written in a checkout of the project")
    runs, others = of_recipes(results), of_other_methods(results)
    texts = {results / recipe / "README.md": card(recipe, records) for recipe, records in runs.items()}
    texts |= {results / name / "README.md": method_card(name, records) for name, records in others.items()}
    readme = (root / "README.md").read_text(encoding="utf-8")
    paper = read_json(root / "data" / "paper.json")["table"]
    pattern = re.escape(START) + ".*?" + re.escape(END)
    table = f"{START}\n\n{results_table(paper, runs | others)}\n\n{END}"
    texts[root / "README.md"] = re.sub(pattern, lambda _: table, readme, flags=re.DOTALL)
    return texts


def results_table(paper: list[Record], runs: Runs) -> str:
    """A row for each row of the paper's table: the paper's GloRo Net and ours, in per cent of the test set.

    Runs at half the resolution have a row of their own below it, and so has what was trained with a local bound, of several such
    recipes the one whose validation VRA is highest, and so have sites that learn.
    """
    rows = []
    for row in paper:
        clean, _, vra = row["gloro"]
        known = [row["benchmark"], row["network"], row["epsilon"], f"{clean}", f"{vra}"]
        rows.append([*known, *_ours(row["recipe"], runs)])
        for end, what in (("-half", "half the resolution"), ("-local", "with a local bound")):
            found = [recipe for recipe in runs if recipe.startswith(row["recipe"] + end)]
            if found:
                recipe = max(found, key=lambda recipe: mean(runs[recipe], "validation_vra"))
                known = [row["benchmark"], f"{row['network']}, {what}", row["epsilon"], "", ""]
                rows.append([*known, *_ours(recipe, runs)])
        if (sites := f"sites/{row['recipe']}") in runs:
            rows.append([row["benchmark"], "none: sites that learn", row["epsilon"], "", "", *_ours(sites, runs)])
    head = ["benchmark", "network", "ε", "paper: clean", "paper: certified", "here: clean", "here: certified", "runs"]
    return markdown(head, rows)


def _ours(recipe: str, runs: Runs) -> list[str]:
    records = runs.get(recipe, [])
    if not records:
        return ["not run", "not run", "0"]
    link = f"[{len(records)}](data/results/{recipe}/README.md)"
    local = records[0]["settings"].get("bound", "global") != "global" and all("test_vra_local" in record for record in records)
    fields = ("test_accuracy", "test_vra_local" if local else "test_vra")
    return [*(percent(mean(records, field)) for field in fields), link]


def card(recipe: str, records: list[Record]) -> str:
    """The model card of a recipe's stored nets, one for each seed, as Markdown."""
    first = records[0]
    settings, info = first["settings"], INFO[first["settings"]["dataset"]]
    channels, height, width = info.shape
    initial = settings.get("init_from")
    start = f"; training began with the weights of [{initial}](../{initial}/README.md)" if initial else ""
    kind = "A net without bottom in its loss, to compare with" if settings["loss"] == "standard" else "A GloRo Net"
    name = recipe if first["seed"] == 0 else f"{recipe}/seed-{first['seed']}"
    rows = [
        [
            f"[{record['seed']}](seed-{record['seed']}/)",
            percent(record["test_accuracy"]),
            percent(record["test_vra"]),
            percent(record["test_vra_local"]) if "test_vra_local" in record else "",
            percent(record["validation_vra"]),
            f"{record['lipschitz_upper']:.4f}",
            f"{record['chosen_epoch'] + 1} of {record['epochs']}",
            record["device"],
        ]
        for record in records
    ]
    figures = markdown(
        [
            "seed",
            "clean accuracy",
            "certified (VRA)",
            "with a local bound",
            "validation VRA",
            "largest K",
            "epoch",
            "trained on",
        ],
        rows,
    )
    bound = "global" if settings["bound"] == "global" else "local"
    also = (
        "\nThe images that the local bound adds are in `local_certificates.csv`, its figures in `data/last_layers.json`."
        if any("test_vra_local" in record for record in records)
        else ""
    )
    validated = f"Validation VRA is by the {bound} bound."
    return f"""\
# Model card: {recipe}

{kind}: {settings["network"]} on {channels} x {height} x {width} images, {info.classes} classes and ⊥, for
l2 perturbations of norm {first["epsilon"]:.6g} in pixel units of images in [0, 1]{start}.

```python
import gloro_lite

net = gloro_lite.load("{name}")
```

## Data

{DATA_SETS[settings["dataset"]]}
{info.train} images to train on, {info.validation} to choose the epoch by, {info.test} to test on. Bytes are divided by 255, and
nothing else is done to them.

## Figures

On the test set, in per cent. Certified (verified-robust accuracy, VRA): classified correctly, and proven that no point within
{first["epsilon"]:.6g} has another class. The proof is by the global bound; "with a local bound" adds what
`gloro_lite.methods.last_layers` proves. {validated}
The standard error of a figure p is √(p (100 - p) / {info.test}).

{figures}

Certified accuracy at other radii, by the same certificates:

{_radii(records)}

Each seed's folder holds the weights (`model.safetensors`, which runs no code when it is read), a certificate for each test
image (`certificates.csv`), the training history (`history.csv`) and the figures above (`result.json`).{also}

## Training

`python -m gloro_lite train --recipe {recipe}`; {_versions(first)}.

{_settings(settings)}

## Limits

{LIMITS}
- The epoch was chosen by the validation images, but the recipe was developed while test figures of earlier recipes were known.

MIT licence, as the rest of the project.
"""


def method_card(name: str, records: list[Record]) -> str:
    """The model card of what another method has trained, as Markdown.

    Args:
        name: `<method>/<row>`, the folder's.
    """
    first, (method, _, row) = records[0], name.partition("/")
    settings = first["settings"]
    dataset = next(dataset for dataset in INFO if row.startswith(dataset))
    images = settings.get("train_images") or INFO[dataset].train
    heads = {
        "test_accuracy": "clean accuracy",
        "test_vra": "certified (VRA)",
        "test_vra_in_box": "certified against images in the pixel box",
    }
    heads = {field: head for field, head in heads.items() if field in first}
    rows = [
        [
            f"[{record['seed']}](seed-{record['seed']}/)",
            *(percent(record[field]) for field in heads),
            f"{record['test_images']:,}",
        ]
        for record in records
    ]
    figures = markdown(["seed", *heads.values(), "test images"], rows)
    if method == "sites":
        by = "the cells of the sites, in real arithmetic with exactly these sites"
        radii = [record | record["forms"]["cells"] for record in records]
    else:
        by = "the method's own bound, in real arithmetic with exactly these weights"
        if method == "smoothing":
            alpha = first["guarantee"].removeprefix("1 - ")
            by = f"a vote over noise, and each certificate may be wrong with a probability of {alpha}"
        radii = records
    made = f"PyTorch {first['versions']['torch']}, {first['epochs']} epochs on {first['device']}"
    return f"""\
# Model card: {name}

{method_of(name).card}.
It certifies against l2 perturbations of norm {first["epsilon"]:.6g} in pixel units of images in [0, 1].

## Data

{DATA_SETS[dataset]}
{images} images to train on. Bytes are divided by 255, and nothing else is done to them.

## Figures

On the first test images, so many as the table says, in per cent. Certified (verified-robust accuracy, VRA): classified correctly,
and shown that no point within {first["epsilon"]:.6g} has another class, by {by}.

{figures}

Certified accuracy at other radii, by the same certificates:

{_radii(radii)}

Each seed's folder holds what was trained (`model.safetensors`, which runs no code when it is read), the certificates
(`certificates.csv`) and everything above (`result.json`).

## Training

`{_command(name, first)}`, with these settings{_unlike(records)}; {made}.

{_settings(settings)}

## Limits

{LIMITS}

MIT licence, as the rest of the project.
"""


def _command(name: str, first: Record) -> str:
    """The command that trains such a run of another method, with an option for each setting that is not the command's default."""
    from gloro_lite.experiments import rivals
    from gloro_lite.methods.sites import __main__ as sites
    from gloro_lite.train.recipes import find

    method, _, row = name.partition("/")
    settings = first["settings"] | {"epochs": first["epochs"]}
    if method == "sites":
        command, end = "python -m gloro_lite.methods.sites", " --output FOLDER"
        usual = dataclasses.asdict(sites.Settings()) | {"cap": None, "epochs": sites.parser().get_default("epochs")}
    else:
        command, end = f"python -m gloro_lite.experiments.rivals {method} {row}", ""
        usual = {"network": find(row).network} | {field: rivals.parser().get_default(field) for field in rivals.OPTIONS}
    for field, default in usual.items():
        if settings[field] != default:
            command += f" --{field.replace('_', '-')}" + (
                "" if settings[field] is True else f" {shlex.quote(str(settings[field]))}"
            )
    return command + end


def _unlike(records: list[Record]) -> str:
    """Where runs beyond the first have other settings than that, which they are."""
    first, found = records[0]["settings"], []
    for field in first:
        unlike = [record for record in records[1:] if record["settings"][field] != first[field]]
        if unlike:
            each = ", ".join(f"{_value(record['settings'][field])} for seed {record['seed']}" for record in unlike)
            found.append(f"`{field}` ({each})")
    return f", but for {' and '.join(found)}" if found else ""


def _radii(records: list[Record]) -> str:
    """The table of certified accuracy at several radii, by `vra_at` of each record."""
    rows = [[f"seed {record['seed']}", *map(percent, record["vra_at"].values())] for record in records]
    return markdown(["radius", *records[0]["vra_at"]], rows)


def _settings(settings: Record) -> str:
    rows = [[f"`{field}`", _value(value)] for field, value in settings.items() if field != "name"]
    return markdown(["setting", "value"], rows)


def _versions(record: Record) -> str:
    versions = record["versions"]
    commit = versions.get("commit")
    at = f", at commit `{commit[:12]}`" if commit else ""
    return (
        f"with PyTorch {versions['torch']} and Python {versions['python']}{at}, "
        f"{record['seconds_per_epoch']:.3g} s an epoch on {record['threads']} thread{'s' * (record['threads'] != 1)}"
    )


def _value(value: object) -> str:
    text = "none" if value == "" else f"{value:.6g}" if isinstance(value, float) else f"{value}"
    return escaped(text)
