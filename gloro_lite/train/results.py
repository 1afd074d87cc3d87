"""What a finished run leaves in its folder, `<recipe>/seed-<n>` of `STORED`: anyone can check it without training."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
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
from gloro_lite.files import checkout, home, write_atomically
from gloro_lite.net import GloroNet
from gloro_lite.stored import FORMAT, migrated
from gloro_lite.train import distributed
from gloro_lite.train.trainer import FinishedRun

STORED = home() / "results"
"""Where the results of runs are kept: in a checkout of the project its `data/results`, else `results` in the working folder."""

EPSILON_FRACTIONS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Verified-robust accuracy is also reported at these multiples of the recipe's epsilon."""


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


def machine(device: torch.device) -> dict:
    """What figures that are no run's results were measured on, for the record."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def write(run: FinishedRun, test: Images, folder: Path) -> dict:
    """Certify the test set with the net of the chosen epoch and write `result.json`, `model.safetensors`, `history.csv` and
    `certificates.csv` (index, label, prediction, radius: one row an image) into a folder; returns what is in `result.json`.

    Accuracies are fractions, by the certified bound in float64; layer norms are proven, of the linear layers before the last, by
    their dotted names in the network; an epoch's seconds are the median; memory is what training added
    at its peak, in bytes an image of the batch.
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
        "versions": versions(),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "settings": dataclasses.asdict(recipe),
    }
    write_atomically(folder / "history.csv", _csv(run.history[0].keys(), (row.values() for row in run.history)))
    write_certificates(folder, certificate, test, result)
    return result


def recertify(folder: Path, net: GloroNet, test: Images) -> dict:
    """Certify a stored run's net anew, and write its `certificates.csv` and what `result.json` says of them; returns the latter.

    For a run that was stored before certificates counted what they count now. How the net was trained stays as it was recorded;
    `"certified"` says with what versions this was done.
    """
    result = read(folder / "result.json")
    certificate, proven = _certified(net, test, result["epsilon"])
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    result = {**result, **proven, "weights_sha256": digest, "certified": versions()}
    write_certificates(folder, certificate, test, result)
    return result


def _certified(net: GloroNet, test: Images, epsilon: float) -> tuple[Certificate, dict]:
    """The test set's certificates, and what `result.json` says of them and of the bound that they rest on."""
    x, y = test.x.cpu().float() / 255, test.y.cpu()
    certificate = certify(net, x, epsilon)
    fractions = torch.tensor(EPSILON_FRACTIONS, dtype=torch.float64)
    curve = vra_curve(certificate, y, fractions * epsilon)
    return certificate, {
        "test_accuracy": (certificate.prediction == y).double().mean().item(),
        "test_vra": (certificate.label == y).double().mean().item(),
        "vra_at": {repr(round(float(f) * epsilon, 6)): float(v) for f, v in zip(fractions, curve, strict=True)},
        "guarantee": certificate.guarantee,
        "lipschitz_upper": net.margin_constants().max().item(),
        "layer_norms": net.program().norms,
        "data_sha256": data_digest(test),
    }


def write_certificates(folder: Path, certificate: Certificate, test: Images, result: dict) -> None:
    """Write `certificates.csv`, a row an image, and then `result.json`."""
    labels = test.y.tolist()
    rows = zip(range(len(labels)), labels, certificate.prediction.tolist(), certificate.radius.tolist(), strict=True)
    write_atomically(folder / "certificates.csv", _csv(("index", "label", "prediction", "radius"), rows))
    # Last: where it stands, the others do.
    write_atomically(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())


def versions() -> dict:
    """Of what decides a run's figures, for the record, with the commit."""
    packages = ("gloro-lite", "torch", "torchvision", "numpy", "safetensors")
    return {name: version(name) for name in packages} | {"python": platform.python_version(), "commit": _commit()}


def data_digest(images: Images) -> str:
    """The SHA-256 of a split: its images as uint8, image by image, (channels, height, width) each, then its labels as
    little-endian int64."""
    digest = hashlib.sha256(images.x.cpu().contiguous().numpy().tobytes())
    digest.update(images.y.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _estimates(net: GloroNet) -> dict:
    """What the training bound says, once more converged: the body's, and the largest margin constant."""
    body = net.converge()
    return {"lipschitz_estimate": net.estimate().max().item(), "body_estimate": body}


def _commit() -> str | None:
    """The commit of the checkout that runs, with a + where its files differ from it; None without git or a checkout."""
    root = checkout()
    if root is None or not (root / ".git").exists():
        return None  # git would tell of whatever repository is around
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude", "*"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


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
