"""The other methods on the paper's rows: trained, certified on test images, stored beside our own runs.

    python -m gloro_lite.experiments.rivals lmt mnist-0.3 --epochs 60

writes `data/results/<method>/<row>/seed-<n>`: `model.safetensors`, `certificates.csv` and `result.json`. What these methods say
of a net is not what `data/checker` verifies, so their runs stand apart from the recipes'. Needs
safetensors; smoothing needs scipy.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gloro_lite import extras, networks
from gloro_lite.certificate import Certificate, joined
from gloro_lite.console import add_data, at_least, log_to_stdout, place, reports_errors
from gloro_lite.datasets import benchmarks
from gloro_lite.datasets.benchmarks import INFO, Benchmark, Images
from gloro_lite.evaluate import figures
from gloro_lite.files import check_free, only_one, read_json, write_atomically
from gloro_lite.methods import bcp, kw, lmt, smoothing
from gloro_lite.net import GloroNet
from gloro_lite.provenance import data_digest, machine, versions, weights_digest
from gloro_lite.train import results
from gloro_lite.train.recipes import Recipe, find
from gloro_lite.train.trainer import pixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a rival is trained and certified. Epsilons are l2 radii in pixel units of images in [0, 1]."""

    method: str
    row: str
    network: str
    epsilon: float
    train_epsilon: float
    epochs: int = 60
    learning_rate: float = 1e-3
    batch_size: int = 256
    sigma: float = 0.0
    samples: int = 10_000
    train_images: int = 0
    test_images: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; not {self.method!r}")
        if (self.method == "smoothing") != (self.sigma > 0):
            raise ValueError("smoothing, and nothing else, takes --sigma: the noise's standard deviation, greater than 0")
        for field in ("train_images", "test_images"):
            if getattr(self, field) < 0:
                raise ValueError(f"{field} must be a count, or 0 for all; not {getattr(self, field)}")


@dataclass(frozen=True)
class Rival:
    """One method: the activation that its bound is made for, how it trains a network, and how it certifies images with it."""

    activation: str
    fit: Callable[[nn.Sequential, tuple[int, ...], tuple[Tensor, Tensor], Settings, int], list[float]]
    certify: Callable[[nn.Sequential, tuple[int, ...], Tensor, Settings, int], Certificate]


def _common(settings: Settings, seed: int) -> dict[str, Any]:
    training = {"epochs": settings.epochs, "learning_rate": settings.learning_rate, "batch_size": settings.batch_size}
    return {**training, "seed": seed, "progress": True}


def _fit_lmt(
    network: nn.Sequential, shape: tuple[int, ...], train: tuple[Tensor, Tensor], settings: Settings, seed: int
) -> list[float]:
    net = lmt.net(network, shape, settings.epsilon)
    return lmt.fit(net, train, train_epsilon=settings.train_epsilon, **_common(settings, seed))


def _voter(network: nn.Sequential, settings: Settings, seed: int) -> smoothing.Smoothed:
    return smoothing.Smoothed(network, settings.sigma, samples=settings.samples, seed=seed)


def _fit_smoothing(
    network: nn.Sequential, shape: tuple[int, ...], train: tuple[Tensor, Tensor], settings: Settings, seed: int
) -> list[float]:
    _voter(network, settings, seed).check_reach(settings.epsilon)  # before hours of training, not after
    return smoothing.fit(network, train, settings.sigma, **_common(settings, seed))


def _certify_smoothing(network: nn.Sequential, shape: tuple[int, ...], x: Tensor, settings: Settings, seed: int) -> Certificate:
    return _voter(network, settings, seed).certify(x, settings.epsilon)


def _relu_bound(module: ModuleType) -> Rival:
    """A method whose module bounds ReLU networks, and trains them on that bound."""
    return Rival(
        "relu",
        lambda network, shape, train, settings, seed: module.fit(
            network, shape, train, settings.train_epsilon, **_common(settings, seed)
        ),
        lambda network, shape, x, settings, seed: module.certify(network, shape, x, settings.epsilon),
    )


METHODS: dict[str, Rival] = {
    "lmt": Rival(
        "minmax",
        _fit_lmt,
        lambda network, shape, x, settings, seed: lmt.net(network, shape, settings.epsilon).eval().certify(x, settings.epsilon),
    ),
    "bcp": _relu_bound(bcp),
    "kw": _relu_bound(kw),
    "smoothing": Rival("relu", _fit_smoothing, _certify_smoothing),
}
"""Every rival, by name."""


def build(method: str, network: str, dataset: str, *, seed: int = 0) -> nn.Sequential:
    """A rival's network, by its notation, untrained."""
    shape, classes = INFO[dataset][:2]
    return networks.build(network, shape, classes, activation=METHODS[method].activation, seed=seed)


def load(folder: Path) -> GloroNet:
    """The network of a rival's run in a folder, as a GloRo Net at its epsilon, in eval mode."""
    with extras.needed("reading weights", "train"):
        from safetensors.torch import load_file

    record = read_json(folder / "result.json")
    dataset = find(record["settings"]["row"]).dataset
    network = build(record["method"], record["settings"]["network"], dataset)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return GloroNet(network, INFO[dataset].shape, record["epsilon"]).eval()


def run(settings: Settings, recipe: Recipe, data: Benchmark, folder: Path, *, seed: int = 0, chunk: int = 250) -> dict[str, Any]:
    """Train one rival and certify the first test images, once; returns what is in `result.json`.

    Args:
        recipe: of the row; it names the data.
        chunk: test images that are certified at a time.

    Raises ValueError, before anything is trained, for a network that the method cannot take, with the layer and the reason, and
    for too few samples of smoothing.
    """
    with extras.needed("writing weights", "train"):
        from safetensors.torch import save

    rival, shape = METHODS[settings.method], INFO[recipe.dataset].shape
    network = build(settings.method, settings.network, recipe.dataset, seed=seed)
    train, test = (
        _first(part, count) for part, count in ((data.train, settings.train_images), (data.test, settings.test_images))
    )
    start = time.perf_counter()
    history = rival.fit(network, shape, (pixels(train.x), train.y), settings, seed)
    trained = time.perf_counter()
    logger.info("certifying %d test images", len(test.y))
    parts = [rival.certify(network, shape, pixels(part), settings, seed) for part in test.x.split(chunk)]
    done = time.perf_counter()
    certificate = joined(parts)
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", save(state, {"format": "pt"}))
    result = {
        "recipe": f"{settings.method}/{settings.row}",
        "method": settings.method,
        "seed": seed,
        "epsilon": settings.epsilon,
        **figures(certificate, test.y, settings.epsilon),
        "guarantee": certificate.guarantee,
        "test_images": len(test.y),
        "train_images": len(train.y),
        "epochs": settings.epochs,
        "losses": history,
        "seconds_per_epoch": (trained - start) / settings.epochs,
        "certify_seconds_per_image": (done - trained) / len(test.y),
        **machine(torch.device("cpu")),
        "versions": versions("torchvision", "numpy", "safetensors"),
        "weights_sha256": weights_digest(folder),
        "data_sha256": data_digest(test.x, test.y),
        "settings": dataclasses.asdict(settings),
    }
    results.write_certificates(folder, certificate, test, result)
    return result


def _first(images: Images, count: int) -> Images:
    return images if not count else Images(images.x[:count], images.y[:count])


OPTIONS = {
    "epochs": "passes over the training images",
    "learning_rate": "peak learning rate of Adam",
    "batch_size": "images a step",
    "sigma": "standard deviation of smoothing's noise, in pixel units",
    "samples": "noisy copies of an image for smoothing's confidence bound",
    "train_images": "train on the first so many; 0 for all",
    "test_images": "certify the first so many; 0 for all",
}
"""Settings that are options of the command, with what they mean."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(prog="python -m gloro_lite.experiments.rivals", description=__doc__.partition("\n")[0])
    p.add_argument("method", choices=METHODS)
    p.add_argument("row", help="the recipe whose data, network and epsilons are taken: mnist-0.3 say")
    p.add_argument("--network", help="another network, in the notation of the recipes")
    for field, meaning in OPTIONS.items():
        default = Settings.__dataclass_fields__[field].default
        p.add_argument(
            "--" + field.replace("_", "-"), type=type(default), default=default, help=f"{meaning} (default: {default})"
        )
    p.add_argument("--seed", type=at_least(0), metavar="N", default=0, help="of weights, batches and noise (default: 0)")
    p.add_argument("--output", type=place, metavar="DIR", help="default: <method>/<row>/seed-<n> among the stored results")
    add_data(p)
    return p


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings that the options ask for. Raises ValueError where there are none such."""
    recipe = find(given.row)
    return Settings(
        method=given.method,
        row=given.row,
        network=given.network or recipe.network,
        epsilon=recipe.epsilon,
        train_epsilon=recipe.train_epsilon,
        **{field: getattr(given, field) for field in OPTIONS},
    )


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    given = parser().parse_args(arguments)
    settings, recipe = settings_of(given), find(given.row)
    log_to_stdout()
    folder = given.output or results.STORED / given.method / given.row / f"seed-{given.seed}"
    with only_one(folder, "training"):
        check_free(folder)
        result = run(settings, recipe, benchmarks.load(recipe.dataset, given.data), folder, seed=given.seed)
    print(f"{result['recipe']}: accuracy {result['test_accuracy']:.4f}, VRA {result['test_vra']:.4f}; in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
