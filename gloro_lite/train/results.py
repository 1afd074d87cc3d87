"""What a finished run leaves in its folder, `<recipe>/seed-<n>` of `stored.STORED`: anyone can check it without training."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path

import torch

from gloro_lite import serialization
from gloro_lite.certificate import Certificate
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.evaluate import certify, figures
from gloro_lite.files import table, write_atomically, write_json
from gloro_lite.net import GloroNet
from gloro_lite.provenance import data_digest, device_name, versions, weights_digest
from gloro_lite.stored import FORMAT, LOCAL, STORED, migrated
from gloro_lite.train import distributed
from gloro_lite.train.trainer import FinishedRun


def read(path: Path) -> dict:
    """What `write` put into the `result.json` at `path`, as it would write it today, whichever format the file has.

    Raises OSError where it cannot be read and ValueError where it is no such file or of a later format.
    """
    try:
        return migrated(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no result of a run ({error!r})") from error


def run_folder(recipe: str, seed: int) -> Path:
    """Where a recipe's run of that seed is stored, by the recipe's name."""
    return STORED / recipe / f"seed-{seed}"


def write(run: FinishedRun, test: Images, folder: Path) -> dict:
    """Certify the test set with the net of the chosen epoch and write `result.json`, `model.safetensors`, `history.csv` and
    `certificates.csv` (index, label, prediction, radius: one row an image) into a folder; returns what is in `result.json`.

    Accuracies are fractions, by the certified global bound in float64; `validation_vra` is an estimate, by the bound that the
    recipe trains with; layer norms are proven, of the linear layers before the last, by their dotted names in the network; an
    epoch's seconds are the median; memory is what training added at its peak, in bytes an image of the batch.
    """
    net, recipe = run.net, run.recipe
    net.converge()
    certificate, proven = _certified(net, test, recipe.epsilon)
    last = proven if run.last is net else _certified(run.last, test, recipe.epsilon)[1]
    weights = folder / "model.safetensors"
    serialization.save(net, weights)
    result = {
        "format": FORMAT,
        "recipe": recipe.name,
        "seed": run.seed,
        "epsilon": recipe.epsilon,
        **proven,
        "validation_vra": run.history[run.chosen_epoch]["vra"],
        **_estimates(net),
        "chosen_epoch": run.chosen_epoch,
        "last_epoch": {name: last[name] for name in ("test_accuracy", "test_vra")},
        "epochs": recipe.epochs,
        "seconds_per_epoch": statistics.median(row["seconds"] for row in run.history),
        "peak_memory_per_instance": run.peak_bytes / recipe.batch_size,
        "device": device_name(run.device),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "compiled": run.compiled,
        "arithmetic": run.arithmetic._asdict(),
        "versions": _versions(),
        "weights_sha256": weights_digest(folder),
        "settings": dataclasses.asdict(recipe),
    }
    write_atomically(folder / "history.csv", table(run.history[0].keys(), (row.values() for row in run.history)))
    write_certificates(folder, certificate, test, result)
    return result


def recertify(folder: Path, net: GloroNet, test: Images) -> dict:
    """Certify a stored run's net anew, and write its `certificates.csv` and what `result.json` says of them; returns the latter.

    For a run that was stored before certificates counted what they count now. How the net was trained stays as it was recorded;
    `"certified"` says with what versions this was done. `local_certificates.csv` goes: it names images that other certificates
    left open.
    """
    result = read(folder / "result.json")
    certificate, proven = _certified(net, test, result["epsilon"])
    result = {**result, **proven, "weights_sha256": weights_digest(folder), "certified": _versions()}
    (folder / LOCAL).unlink(missing_ok=True)
    write_certificates(folder, certificate, test, result)
    return result


def _certified(net: GloroNet, test: Images, epsilon: float) -> tuple[Certificate, dict]:
    """The test set's certificates, and what `result.json` says of them and of the bound that they rest on."""
    x, y = test.x.cpu().float() / 255, test.y.cpu()
    certificate = certify(net, x, epsilon)
    return certificate, {
        **figures(certificate, y, epsilon),
        "guarantee": certificate.guarantee,
        "lipschitz_upper": net.margin_constants().max().item(),
        "layer_norms": net.program().norms,
        "data_sha256": data_digest(test.x, test.y),
    }


def write_certificates(folder: Path, certificate: Certificate, test: Images, result: dict) -> None:
    """Write `certificates.csv`, a row an image, and then `result.json`."""
    labels = test.y.tolist()
    rows = zip(range(len(labels)), labels, certificate.prediction.tolist(), certificate.radius.tolist(), strict=True)
    write_atomically(folder / "certificates.csv", table(("index", "label", "prediction", "radius"), rows))
    # Last: where it stands, the others do.
    write_json(folder / "result.json", result)


def _versions() -> dict:
    return versions("torchvision", "numpy", "safetensors")


@torch.no_grad()
def _estimates(net: GloroNet) -> dict:
    """What the training bound says, once more converged: the body's, and the largest margin constant."""
    body = net.converge()
    return {"lipschitz_estimate": net.estimate().max().item(), "body_estimate": body}
