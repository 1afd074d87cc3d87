"""Stored nets by name, `load("mnist-0.3")`, and nets that you trained, by their run's folder. Needs safetensors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gloro_lite import networks, serialization
from gloro_lite.certificate import check_epsilon
from gloro_lite.datasets.benchmarks import INFO
from gloro_lite.files import expanded, home
from gloro_lite.lipschitz.errors import said
from gloro_lite.net import GloroNet
from gloro_lite.provenance import weights_digest

STORED = home() / "results"
"""Where runs are kept, as `<recipe>/seed-<n>/`: in a checkout of the project its `data/results`, else `results` in the working
folder."""

PACKAGED = Path(__file__).parent / "weights"
"""Where an installed wheel keeps what is small enough to travel with it, in the same layout."""

LOCAL = "local_certificates.csv"
"""The table in a run's folder of images that only a local bound certifies, see `gloro_lite.experiments.last_layers`."""

FORMAT = 3
"""The format of `result.json`. `migrated` brings earlier ones into it."""

REQUIRED = ("seed", "epsilon", "settings", "test_accuracy", "test_vra", "lipschitz_upper", "epochs", "seconds_per_epoch")
"""Fields without which no `result.json`, of whatever format, is one: what commands read of every run."""

_RENAMED = {
    "rate": "learning_rate",
    "head_rate": "head_learning_rate",
    "rate_end": "final_learning_rate",
    "average": "ema_decay",
    "iterations": "power_iterations",
    "initial": "init_from",
}
"""Settings of a recipe that had other names up to format 2."""


def renamed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe, all or some, as of any format, by the names that they have in this one."""
    settings = {_RENAMED.get(name, name): value for name, value in settings.items()}
    return settings | {"loss": "gce"} if settings.get("loss") == "generalised" else settings


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """All settings of a recipe, as of any format, with those that have come since format 3 as they were before."""
    settings = renamed(settings)
    return settings | {"bound": settings.get("bound", "global")}


def renamed_of_sites(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run of sites as of any version: the data set was called `data` once, and there was no box in training."""
    return {"box": False} | {"dataset" if name == "data" else name: value for name, value in settings.items()}


class LaterFormatError(ValueError):
    """A `result.json` that a later gloro-lite has written."""


def migrated(result: dict[str, Any]) -> dict[str, Any]:
    """What a `result.json` of any format up to `FORMAT` says, in that one. What a format did not record is left out.

    Raises LaterFormatError, and KeyError, TypeError or AttributeError for what is no result of a run.
    """
    version = result.get("format", 1)
    if version > FORMAT:
        raise LaterFormatError(f"its format is {version}, and this gloro-lite reads formats up to {FORMAT}: install a later one")
    if missing := [name for name in REQUIRED if name not in result]:
        raise KeyError(*missing)
    if version == 1:
        # The recipe said what the network was to be computed in, and Muon was torch's, which knows bfloat16 alone.
        settings = {"clean_weight": 0.0, "initial": "", **result["settings"]}
        arithmetic = {"network": settings["precision"], "orthogonalisation": "bfloat16"}
        result = {**result, "settings": settings | {"precision": "auto"}, "arithmetic": arithmetic}
    return {**result, "format": FORMAT, "settings": completed(result["settings"])}


def names() -> list[str]:
    """The stored nets: those of `STORED`, and in an installed wheel the small one that travels with it."""
    found = {path.parts[-3] for root in (STORED, PACKAGED) for path in root.glob("*/seed-*/model.safetensors")}
    return sorted(found)


def runs(root: Path | None = None) -> list[str]:
    """The finished runs of recipes in a folder of results, `STORED` by default: `<recipe>/seed-<n>`, in alphabetical order."""
    root = root or STORED
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob("*/seed-*/result.json"))


def chosen(named: Sequence[str]) -> list[str]:
    """The full names of the runs that a command was given, or of all `runs` where it was given none.

    Raises FileNotFoundError as `folder` does, and where there are no runs, as in an installed wheel.
    """
    found = [full_name(run) for run in named] or runs()
    if not found:
        raise FileNotFoundError(f"there are no stored runs in {STORED}: name the folder of a run, or work in a checkout")
    return found


def full_name(run: str | Path) -> str:
    """A stored run's name with its seed: "mnist-0.3/seed-0" for "mnist-0.3". Of a run that lies elsewhere, its folder's path.

    Raises FileNotFoundError as `folder` does.
    """
    where = folder(run).resolve()
    root = next((root for root in (STORED, PACKAGED) if where.is_relative_to(root.resolve())), None)
    return where.as_posix() if root is None else where.relative_to(root.resolve()).as_posix()


def stored_folder(name: str) -> Path | None:
    """The folder of what is stored under exactly this name, "mnist-0.3/seed-0", here or in an installed wheel; None where that
    is nothing."""
    places = (root / name for root in (STORED, PACKAGED))
    return next((place for place in places if (place / "model.safetensors").is_file()), None)


def folder(run: str | Path) -> Path:
    """The folder of a run: `result.json`, `model.safetensors` and, but for those of an installed wheel, its other files.

    Args:
        run: the name of a stored run, "mnist-0.3", which stands for its seed 0, or with another seed, "mnist-0.3/seed-1"; else
            the path of a run's folder or of the weights in it. A name comes first: write a folder of that name as "./mnist-0.3".

    Raises FileNotFoundError, which says what there is, where that is nothing, or a folder without a finished run.
    """
    name = str(run).rstrip("/") or str(run)
    is_name = name and not Path(name).is_absolute() and ".." not in Path(name).parts and not name.startswith(".")
    if is_name and (place := stored_folder(name) or stored_folder(f"{name}/seed-0")):
        return place
    path = expanded(name)
    path = path.parent if path.is_file() and path.suffix == ".safetensors" else path
    missing = [file for file in ("result.json", "model.safetensors") if not (path / file).is_file()]
    tops = [top for top in (STORED / name, path) if name and top.is_dir()]
    if missing and (seeds := sorted(found.parent.name for top in tops for found in top.glob("seed-*/result.json"))):
        raise FileNotFoundError(f"{name!r} is a folder of runs, one a seed: name one, {name}/{seeds[0]} say")
    if not name or not path.is_dir():
        raise FileNotFoundError(
            f"there is no stored net and no folder {name!r}. Stored here: {', '.join(names()) or 'none'}. Others are in "
            f"data/results of a checkout of the project: give the path of such a folder, or of one that you trained"
        )
    if missing:
        raise FileNotFoundError(
            f"{path} has no {' and no '.join(missing)}: a net is read from the folder of a finished run, where "
            f"`python -m gloro_lite train` puts both"
        )
    return path


def added_locally(where: Path) -> list[int] | None:
    """The test images of the run in a folder that a local bound adds to those of the global one; None where it was not asked.

    Raises ValueError where the table is damaged.
    """
    path = where / LOCAL
    return [index for (index,) in columns(path, {"index": int})] if path.is_file() else None


def columns(path: Path, kinds: dict[str, Callable[[str], Any]]) -> list[Any]:
    """Some columns of a table in a run's folder, a tuple a row. Raises ValueError, which names the file, where it is damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [tuple(kind(row[name]) for name, kind in kinds.items()) for row in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # a column is missing, or a row is short
        raise ValueError(f"{path} is damaged ({said(error)}): take the file anew") from error


OTHER_METHODS = ("sites", "lmt", "bcp", "kw", "smoothing")
"""Methods whose runs are stored beside those of recipes, in folders of their names."""


class OtherMethodError(ValueError):
    """A stored run that is of another method than GloRo Nets."""


def record(run: str | Path) -> dict[str, Any]:
    """What `result.json` says of a run, in the format of today.

    Raises FileNotFoundError as `folder` does, OtherMethodError, and ValueError for what is no such record.
    """
    return record_in(folder(run))


def record_in(where: Path) -> dict[str, Any]:
    """What `record` says of the run in a folder, where the weights need not be."""
    path = where / "result.json"
    method = ""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        method = str(written.get("recipe")).partition("/")[0]
        result = migrated(written)
        settings = result["settings"]
        known = isinstance(settings["network"], str) and settings["dataset"] in INFO and _has_figures(result)
        check_epsilon(result["epsilon"])
    except LaterFormatError as error:
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = False
    if method in OTHER_METHODS:
        raise OtherMethodError(
            f"{path} is of a run of another method, {method}, and no GloRo Net: its figures are in that file, its "
            f"certificates in certificates.csv beside it, and gloro_lite.methods.{method} makes more"
        )
    if not known:
        raise ValueError(f"{path} is damaged or no record of a run on {', '.join(INFO)}: train it again or take the file anew")
    return dict(result)


def _has_figures(result: dict[str, Any]) -> bool:
    """Whether what a record gives as numbers are numbers, and its accuracies fractions."""
    numbers = [result[name] for name in REQUIRED if name != "settings"]
    real = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    return real and all(0 <= result[name] <= 1 for name in ("test_accuracy", "test_vra"))


def load(run: str | Path) -> GloroNet:
    """The net of a stored or an own run, in eval mode, with the epsilon that it was made for.

        net = gloro_lite.load("mnist-0.3")
        net.certify(images)  # (batch, 1, 28, 28), float32 in [0, 1]

    Args:
        run: a stored net's name or a run's folder, see `folder`. `names()` lists the stored nets.

    Raises FileNotFoundError where there is none, ValueError where its record is damaged, and `serialization.WeightFileError`
    where its weights are, or are not those that its record is of.
    """
    where = folder(run)
    result = record_in(where)
    if result.get("weights_sha256") not in (None, weights_digest(where)):
        raise serialization.WeightFileError(
            f"{where / 'model.safetensors'} was changed, or is of another run: result.json beside it is of other weights"
        )
    settings = result["settings"]
    shape, classes = INFO[settings["dataset"]][:2]
    # The weights are read next: how they would begin is of no interest, and this is the cheaper way to draw them.
    try:
        network = networks.build(
            settings["network"], shape, classes, activation=settings.get("activation", "minmax"), initialisation="pytorch"
        )
    except ValueError as error:
        raise ValueError(f"{where / 'result.json'} is damaged: {error}") from error
    return serialization.load(GloroNet(network, shape, result["epsilon"]), where / "model.safetensors")
