"""What certificates cost, method by method: `python -m gloro_lite.experiments.certification_costs`.

Writes `data/certification_costs.json`.

All in one run on one machine, on random weights and random images, which neither time nor memory depends on. Times are of the
processor, so that other programs do not count. Memory is what each further image in a batch adds to the process's peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from gloro_lite import GloroNet, networks
from gloro_lite.console import reports_errors
from gloro_lite.datasets.benchmarks import INFO
from gloro_lite.files import home, write_json
from gloro_lite.methods import bcp, kw, local, smoothing
from gloro_lite.provenance import machine
from gloro_lite.train import memory
from gloro_lite.voronoi import SiteClassifier

OUTPUT = home() / "certification_costs.json"
METHODS = ("forward", "gloro", "bcp", "local", "kw", "smoothing", "sites")
EPSILON = 0.3
SAMPLES = 1000
"""Noisy copies of an image that smoothing looks at, unless said, and those that it holds at a time."""
SITES = 100
"""Sites of each class."""
SWEEPS = {
    "width": (32, 64, 128),
    "depth": (1, 2, 4),
    "classes": (10, 100),
    "batch": (1, 4, 16, 64),
    "samples": (100, 1000, 10_000),
}
"""What is varied, one at a time."""
_CPU = torch.device("cpu")
_GROWTH = 8e6  # bytes: the smallest growth of a peak that is measured, as pages and pools are coarse
_MOST = 2**13


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured: a method on a network of dense layers with ReLU, or on one of the paper's by name.

    Attributes:
        method: one of METHODS. "forward" is the network's own pass, which certifies nothing.
        network: 6C2F, say; empty for `depth` hidden layers of `width` neurons on 64 inputs.
        batch: images in a call.
        samples: of smoothing, for each image.
    """

    method: str
    network: str = ""
    width: int = 64
    depth: int = 2
    classes: int = 10
    batch: int = 16
    samples: int = SAMPLES

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if min(self.width, self.depth, self.batch, self.samples) < 1 or self.classes < 2:
            raise ValueError("width, depth, batch and samples must be at least 1, and there must be two classes")

    def build(self) -> tuple[nn.Sequential, tuple[int, ...]]:
        """The network, of random weights, and the shape of its inputs."""
        torch.manual_seed(0)
        if self.network:
            shape = INFO["cifar10"].shape
            return networks.build(self.network, shape, self.classes, activation="relu", initialisation="pytorch").eval(), shape
        sizes = [64] + self.depth * [self.width]
        hidden = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(sizes[-1], self.classes)).eval(), (64,)


def prepare(case: Case) -> Callable[[Tensor], object]:
    """What has to be done once for a network; returns what has to be done for each batch, ``(n, *shape)``.

    Raises ValueError where a method cannot take the network.
    """
    network, shape = case.build()

    def points(x: Tensor) -> Tensor:
        return x.flatten(1).double()

    if case.method == "forward":
        return torch.no_grad()(network)
    if case.method == "gloro":
        net = GloroNet(network, shape, EPSILON).eval()
        net.margin_constants()
        return net.certify
    if case.method == "bcp":
        chain = bcp.chain(network, shape)
        # Of a large network the proof of its norms is measured with GloRo, and their values do not change the time.
        norms = [1.0 if case.network else stage.norm() for stage in chain]

        @torch.no_grad()
        def by_boxes(x: Tensor) -> Tensor:
            labels = network(x).argmax(dim=1)  # what is proven is the prediction
            return bcp.margins(chain, norms, points(x), labels, torch.full((len(x),), EPSILON).double(), rounding=True)

        return by_boxes
    if case.method == "kw":
        layers = kw.chain(network, shape)

        @torch.no_grad()
        def by_relaxation(x: Tensor) -> Tensor:
            labels = network(x).argmax(dim=1)
            return kw.margins(layers, points(x), labels, torch.full((len(x),), EPSILON).double(), rounding=True)

        return by_relaxation
    if case.method == "local":
        stages = local.chain(network, shape)
        norms = [stage.norm() for stage in stages]
        tail = [math.prod(norms[k + 1 : -1]) for k in range(len(stages) - 1)]
        last = stages[-1].matrix()

        @torch.no_grad()
        def by_local_bound(x: Tensor) -> Tensor:
            # For the strongest rival alone; an image that is certified has gone through all that the global bound leaves open.
            first, second = network(x).topk(2, dim=1).indices.T
            walk = local.walk(stages, norms, points(x), torch.full((len(x),), EPSILON).double())
            return local.lipschitz(walk, last[first] - last[second], torch.arange(len(x)), tail)

        return by_local_bound
    if case.method == "sites":
        generator = torch.Generator().manual_seed(0)
        sites = torch.rand(SITES * case.classes, math.prod(shape), generator=generator)
        classifier = SiteClassifier(sites, torch.arange(len(sites)) % case.classes)
        return lambda x: classifier.certify_by_bisectors(points(x), EPSILON)
    vote = smoothing.Smoothed(network, EPSILON, samples=case.samples, batch_size=min(case.samples, SAMPLES))
    return vote.certify


def images(case: Case, count: int) -> Tensor:
    """Random images for a case, (count, ...) in [0, 1]."""
    return torch.rand(count, *case.build()[1], generator=torch.Generator().manual_seed(1))


def seconds(run: Callable[[], object], least: float = 0.2) -> float:
    """Processor seconds of a call: the median of three or more that take `least` together, after one to warm up."""
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
        if times[0] > 1:
            break
    return statistics.median(times)


def bytes_of_an_image(case: Case, run: Callable[[Tensor], object]) -> float:
    """What each further image of a batch adds to the peak of this process, in bytes.

    Of smoothing, which takes one image at a time: what the noisy copies that it holds of it add, from what each further one adds.
    """
    copies = case.method == "smoothing"

    def call(count: int) -> int:
        if copies:
            network, _ = case.build()
            smoothing.Smoothed(network, EPSILON, samples=count, selection=1, batch_size=count).certify(images(case, 1))
        else:
            run(images(case, count))
        return memory.peak(_CPU)

    count = 128 if copies else 1
    memory.reset_peak(_CPU)
    before = call(count)
    while True:
        after = call(2 * count)
        if after - before >= _GROWTH or count >= _MOST:
            each = (after - before) / count
            return each * min(case.samples, SAMPLES) if copies else each
        before, count = after, 2 * count


def measure(case: Case) -> dict:
    """Seconds to prepare a network (`once`), seconds and bytes for each image; or `refused`, with the reason."""
    torch.set_num_threads(1)
    import scipy.stats  # noqa: F401  # smoothing's, which would be counted with the first call

    start = time.process_time()
    try:
        run = prepare(case)
    except ValueError as error:
        return {**dataclasses.asdict(case), "refused": str(error)}
    once = time.process_time() - start
    x = images(case, case.batch)
    return {
        **dataclasses.asdict(case),
        "once": once,
        "seconds": seconds(lambda: run(x)) / case.batch,
        "bytes": bytes_of_an_image(case, run),
    }


def _apart(case: Case) -> dict:
    """`measure` in a process of its own, since peaks never fall."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["scipy.stats", "gloro_lite.methods.sites", "gloro_lite.methods.local", "gloro_lite.net"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, case).result()


def cases() -> Iterator[tuple[str, Case]]:
    """Everything that is measured, each with the table that it belongs to."""
    batches = {"forward": 256, "gloro": 256, "bcp": 64, "local": 2, "kw": 16, "smoothing": 2, "sites": 64}
    for method in METHODS:
        yield "small", Case(method, batch=batches[method])
    for name, values in SWEEPS.items():
        methods = ("smoothing",) if name == "samples" else ("forward", "gloro", "bcp", "local", "kw")
        for method in methods:
            for value in values:
                if method == "local" and name == "batch" and value > 16:
                    continue  # minutes, for nothing new
                varied: dict[str, Any] = {name: value}
                yield name, dataclasses.replace(Case(method, batch=batches[method]), **varied)
    for method, batch, samples in (
        ("forward", 32, 1),
        ("bcp", 8, 1),
        ("local", 1, 1),
        ("kw", 1, 1),
        ("smoothing", 1, SAMPLES),
        ("gloro", 32, 1),  # last: the proof of its bound takes minutes
    ):
        yield "6C2F", Case(method, network="6C2F", batch=batch, samples=samples)


@reports_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m gloro_lite.experiments.certification_costs",
        description="Measure what certificates cost, method by method.",
    )
    parser.parse_args(arguments)
    torch.set_num_threads(1)
    report: dict = {
        "machine": machine(_CPU),
        "epsilon": EPSILON,
        "copies_at_a_time": SAMPLES,
        "sites_a_class": SITES,
        "tables": {},
    }
    known: dict[Case, dict] = {}
    for table, case in cases():
        if case not in known:  # the small network stands in the middle of several sweeps
            known[case] = _apart(case)
        row = known[case]
        report["tables"].setdefault(table, []).append(row)
        print(table, row, flush=True)
        write_json(OUTPUT, report)
    print(f"written to {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
