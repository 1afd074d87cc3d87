"""What a finished run leaves in its folder, and the sites from there."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path

import torch

from gloro_lite import extras
from gloro_lite.certificate import joined
from gloro_lite.evaluate import figures
from gloro_lite.files import table, write_atomically, write_json
from gloro_lite.methods.sites.model import Sites
from gloro_lite.methods.sites.training import Data, Settings, signed_radii
from gloro_lite.provenance import data_digest, device_name, versions, weights_digest

SHOWN = 4
"""Sites of each label whose beginning is stored, to look at."""

TIMED = 200
"""Test images that are certified once more, to see what each form costs."""


def write(
    sites: Sites,
    before: Sites,
    train: Data,
    test: Data,
    folder: Path,
    settings: Settings,
    history: list[dict],
    *,
    epochs: int,
    seed: int,
) -> dict:
    """Certify the test set, once, and write what the run has found into the folder.

    `model.safetensors` holds the sites and their labels, and as `before` where the first `SHOWN` sites of each label began;
    `history.csv` has a row an epoch; `certificates.csv` a row an image: index, label, prediction, and the radius by cells,
    for any perturbation. `certificates_in_box.csv` has the radii for perturbations that stay within [0, 1], and
    `certificates_before.csv` those of the sites before training, by bisectors. `result.json` holds the figures, as fractions;
    `train_vra` and `validation_vra` are estimates by the radius that training raised, that within the box where it knew of one.

    Args:
        before: the sites that training began with.
        train: the training images, whose first 5000 tell how much is remembered and how much learned.

    Returns: what is in `result.json`.
    """
    with extras.needed("writing sites", "train"):
        from safetensors.torch import save

    x, y = test.images(), test.y
    classifier = sites.classifier()
    parts = [classifier.certificates(part, settings.epsilon, box=(0.0, 1.0)) for part in x.split(5000)]
    certificates = {"before": before.certify(x, settings.epsilon)}
    certificates |= {form: joined([part[form] for part in parts]) for form in parts[0]}
    found = {form: figures(c, y, settings.epsilon) for form, c in certificates.items()}
    options = {"bisectors": {}, "cells": {"form": "cells"}, "cells_in_box": {"form": "cells", "box": (0.0, 1.0)}}
    for form, option in options.items():
        begin = time.process_time()
        few = sites.certify(x[:TIMED], settings.epsilon, **option)
        found[form]["processor_seconds_per_image"] = (time.process_time() - begin) / len(few.label)
    remembered = Data(train.x[:5000], train.y[:5000])
    # Where nothing was validated, the sites of the last epoch remain.
    chosen = max(range(len(history)), key=lambda k: history[k].get("vra", k), default=None)
    result = {
        "recipe": f"sites/{folder.parent.name}",
        "seed": seed,
        "epsilon": settings.epsilon,
        "test_accuracy": found["cells"]["test_accuracy"],
        "test_vra": found["cells"]["test_vra"],
        "test_vra_in_box": found["cells_in_box"]["test_vra"],
        "validation_vra": None if chosen is None else history[chosen].get("vra"),
        "train_vra": (signed_radii(sites, remembered, settings.pixels) > settings.epsilon).double().mean().item(),
        "forms": found,
        "chosen_epoch": chosen,
        "epochs": epochs,
        "seconds": sum(row["seconds"] for row in history),
        "sites": len(sites.sites),
        "test_images": len(y),
        "data_sha256": data_digest(test.x, y),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "versions": versions("numpy", "safetensors"),
        "settings": dataclasses.asdict(settings) | {"cap": None if math.isinf(settings.cap) else settings.cap},
    }
    shown = torch.cat([(sites.labels == label).nonzero().flatten()[:SHOWN] for label in sites.labels.unique()])
    state = {"sites": sites.sites.detach().contiguous(), "labels": sites.labels, "before": before.sites.detach()[shown]}
    write_atomically(folder / "model.safetensors", save(state, {"format": "pt", "epsilon": repr(settings.epsilon)}))
    result["weights_sha256"] = weights_digest(folder)
    write_atomically(folder / "history.csv", table(history[0].keys(), (row.values() for row in history)) if history else b"")
    for name, form in (("certificates", "cells"), ("certificates_in_box", "cells_in_box"), ("certificates_before", "before")):
        c = certificates[form]
        rows = zip(range(len(y)), y.tolist(), c.prediction.tolist(), c.radius.tolist(), strict=True)
        write_atomically(folder / f"{name}.csv", table(("index", "label", "prediction", "radius"), rows))
    # Last: where it stands, the others do.
    write_json(folder / "result.json", result)
    return result


def load_sites(path: str | Path) -> Sites:
    """The sites that `write` left in a `model.safetensors`. Raises FileNotFoundError, and ValueError for another file."""
    with extras.needed("reading sites", "train"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: run python -m gloro_lite.methods.sites first, or check the path")
    try:
        state = load_file(path)
        return Sites(state["sites"], state["labels"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} holds no sites with labels ({error}): it must be a file that this module wrote") from error
