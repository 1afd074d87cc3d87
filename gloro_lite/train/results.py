"""What a finished run leaves in `data/results/<recipe>/seed-<n>/`: anyone can check it without training."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
import statistics
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from gloro_lite import serialization
from gloro_lite.certificate import Certificate
from gloro_lite.datasets.benchmarks import Images
from gloro_lite.evaluate import certify, vra_curve
from gloro_lite.files import write_atomically
from gloro_lite.train import distributed
from gloro_lite.train.trainer import Trainer

STORED = Path(__file__).parents[2] / "data" / "results"
"""Where a checkout of the project keeps the results of its runs."""

EPSILON_FRACTIONS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Verified-robust accuracy is also reported at these multiples of the recipe's epsilon."""


FORMAT = 2
"""Of `result.json`. `read` knows those before it."""


def read(path: Path) -> dict:
    """What `write` put into the `result.json` at `path`, as it would write it today, whichever format the file has.

    Raises OSError where it cannot be read and ValueError where it is no such file or of a later format.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return _migrated(result)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no result of a run ({error!r})") from error


def _migrated(result: dict) -> dict:
    """A result of any format up to `FORMAT`, in that one. What a format did not record is left out."""
    version = result.get("format", 1)
    if version > FORMAT:
        raise ValueError(f"its format is {version}, and this gloro-lite reads formats up to {FORMAT}")
    if version == 1:
        # The recipe said what the network was to be computed in, and Muon was torch's, which knows bfloat16 alone.
        settings = {"clean_weight": 0.0, "initial": "", **result["settings"]}
        arithmetic = {"network": settings["precision"], "orthogonalisation": "bfloat16"}
        result = {**result, "format": 2, "settings": settings | {"precision": "auto"}, "arithmetic": arithmetic}
    return result


def run_folder(recipe: str, seed: int) -> Path:
    """Where a recipe's run of that seed is stored, by the recipe's name."""
    return STORED / recipe / f"seed-{seed}"


def machine(device: torch.device) -> dict:
    """What figures that are no run's results were measured on, for the record."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def write(trainer: Trainer, test: Images) -> dict:
    """Certify the test set with the net of the chosen epoch and write `result.json`, `model.safetensors`, `history.csv` and
    `certificates.csv` (index, label, prediction, radius: one row an image) into the trainer's folder; returns what is in
    `result.json`. Accuracies are fractions, by the certified bound in float64; an epoch's seconds are the median; memory is what
    training added at its peak, in bytes an image of the batch.
    """
    net, recipe, folder = trainer.net.cpu().to(memory_format=torch.contiguous_format), trainer.recipe, trainer.folder
    x, y = test.x.cpu().float() / 255, test.y.cpu()
    net.eval()
    with trainer.reported():
        last_certificate = certify(net, x)
    net.load_state_dict(trainer.best)
    estimate = net.converge()
    with torch.no_grad():
        estimated_constants = net.estimate()
    certificate = certify(net, x) if trainer.best_epoch != recipe.epochs - 1 else last_certificate
    fractions = torch.tensor(EPSILON_FRACTIONS, dtype=torch.float64)
    curve = vra_curve(certificate, y, fractions * recipe.epsilon)
    result = {
        "format": FORMAT,
        "recipe": recipe.name,
        "seed": trainer.seed,
        "epsilon": recipe.epsilon,
        "test_accuracy": _accuracy(certificate, y),
        "test_vra": _vra(certificate, y),
        "validation_vra": trainer.history[trainer.best_epoch]["vra"],
        "vra_at": {repr(round(float(f) * recipe.epsilon, 6)): float(v) for f, v in zip(fractions, curve, strict=True)},
        "lipschitz_upper": net.margin_constants().max().item(),
        "lipschitz_estimate": estimated_constants.max().item(),
        "body_estimate": estimate,
        "chosen_epoch": trainer.best_epoch,
        "last_epoch": {"test_accuracy": _accuracy(last_certificate, y), "test_vra": _vra(last_certificate, y)},
        "epochs": recipe.epochs,
        "seconds_per_epoch": statistics.median(row["seconds"] for row in trainer.history),
        "peak_memory_per_instance": trainer.peak_bytes / recipe.batch_size,
        "device": device_name(trainer.device),
        "processes": distributed.count(),
        "threads": torch.get_num_threads(),
        "compiled": trainer.compiled,
        "arithmetic": dataclasses.asdict(trainer.arithmetic),
        "versions": {name: version(name) for name in ("gloro-lite", "torch", "torchvision", "numpy", "safetensors")}
        | {"python": platform.python_version(), "commit": _commit()},
        "settings": dataclasses.asdict(recipe),
    }
    serialization.save(net, folder / "model.safetensors")
    write_atomically(folder / "history.csv", _csv(trainer.history[0].keys(), (row.values() for row in trainer.history)))
    rows = zip(range(len(y)), y.tolist(), certificate.prediction.tolist(), certificate.radius.tolist(), strict=True)
    write_atomically(folder / "certificates.csv", _csv(("index", "label", "prediction", "radius"), rows))
    # Last: where it stands, the others do.
    write_atomically(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def _commit() -> str | None:
    """The commit of the checkout that runs, with a + where its files differ from it; None without git or a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude", "*"]
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _accuracy(certificate: Certificate, y: torch.Tensor) -> float:
    return (certificate.prediction == y).double().mean().item()


def _vra(certificate: Certificate, y: torch.Tensor) -> float:
    return (certificate.label == y).double().mean().item()


def _csv(header, rows) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def device_name(device: torch.device) -> str:
    """The processor's or GPU's own name, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores seen)"
    return platform.processor() or platform.machine()
