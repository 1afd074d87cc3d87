"""What is checked of a run's folder. One function for each kind of run; `check` finds the one that fits."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import exact
import local
import network
import norms
import numpy as np
import reading
import sites
from network import Layer
from reading import Malformed, Unusable

FILES = ("result.json", "model.safetensors", "certificates.csv")
LOCAL = "local_certificates.csv"  # not every run has one
FORMATS = (2, 3)  # they differ in names of settings that are not looked at here
FORMAT_2 = ("format", "guarantee", "layer_norms", "weights_sha256", "data_sha256")
SHOWN = 10  # discrepancies of a kind that are written out; the rest is counted
BATCH = 16


@dataclass
class Report:
    """What was found; `say` writes a line for the reader."""

    say: Callable[[str], None]
    discrepancies: int = 0
    _shown: dict[str, int] = field(default_factory=dict)

    def wrong(self, where: str, what: str, kind: str | None = None) -> None:
        """A discrepancy. Of those of one `kind` only the first few are written out."""
        self.discrepancies += 1
        count = self._shown[kind or where] = self._shown.get(kind or where, 0) + 1
        if count <= SHOWN:
            self.say(f"WRONG  {where}: {what}")
        elif count == SHOWN + 1:
            self.say(f"WRONG  {kind or where}: more of them")

    def compare(self, where: str, claimed, found) -> None:
        if type(claimed) is not type(found) or claimed != found:
            self.wrong(where, f"{claimed!r} is claimed, {found!r} is true")


@dataclass(frozen=True)
class Options:
    images: Path
    exact: int = 2
    cache: Path | None = None
    limit: int | None = None


def check(folder: Path, options: Options, say: Callable[[str], None]) -> bool:
    """Check a run's folder and `say` what was found, line by line; True if all that was checked holds.

    Raises Unusable where nothing can be said of it.
    """
    if not folder.is_dir():
        raise Unusable(f"{folder} is no folder")
    if not (folder / "result.json").is_file():
        raise Unusable(f"{folder} is no run's folder: it holds no result.json")
    report = Report(say)
    try:
        contents = {name: reading.content(folder / name) for name in FILES}
        result = reading.parse_json(contents["result.json"], "result.json")
        kind(result)(folder.resolve(), result, contents, options, report)
    except Malformed as error:
        report.wrong(*str(error).split(": ", 1))
    return report.discrepancies == 0


def kind(result: dict) -> Callable[[Path, dict, dict[str, bytes], Options, Report], None]:
    """The function that checks this kind of run."""
    if result.get("format") not in (None, *FORMATS):
        raise Unusable(f"result.json has the format {result['format']!r}, which this checker does not know")
    if isinstance(result.get("settings"), dict) and "network" in result["settings"]:
        return check_network
    if isinstance(result.get("settings"), dict) and "per_class" in result["settings"]:
        return check_sites
    raise Unusable("result.json is of no kind of run that this checker knows: its settings name no network and no sites")


def is_new(result: dict) -> bool:
    """Whether a run claims layer norms and digests: it is an older one only if nothing of that is there."""
    return any(name in result for name in FORMAT_2)


def check_network(folder: Path, result: dict, contents: dict[str, bytes], options: Options, report: Report) -> None:
    """A network with a bound of the form product of layer norms, radius ||w_j - w_i|| product <= y_j - y_i, and where the run has
    them the local certificates of its last hidden layer.
    """
    say, settings, new = report.say, result["settings"], is_new(result)
    _check_settings(folder, result, report)

    images, labels = reading.test_split(_text(settings, "dataset"), options.images)
    say(f"images        {len(images)} of {settings['dataset']}, {' x '.join(map(str, images.shape[1:]))}")
    tensors = reading.safetensors(contents["model.safetensors"], "model.safetensors")
    if new:
        if result.get("format") not in FORMATS:
            report.wrong("result.json, format", f"{result.get('format')!r} is claimed, {' or '.join(map(str, FORMATS))} is true")
        if result.get("guarantee") != "exact":
            report.wrong("result.json, guarantee", f"{result.get('guarantee')!r}; only 'exact' can be checked here")
        report.compare("result.json, weights_sha256", result.get("weights_sha256"), reading.sha256(contents["model.safetensors"]))
        report.compare("result.json, data_sha256", result.get("data_sha256"), reading.data_sha256(images, labels))
    layers = _layers(settings, images.shape[1:], tensors)
    say(f"network       {settings['network']}, {len(layers)} affine layers, {settings['activation']}")

    claimed, predictions, radii = reading.certificates(contents["certificates.csv"], "certificates.csv")
    if not _check_rows(claimed, predictions, labels, len(layers[-1].bias), report):
        return
    _check_counts(result, labels, predictions, radii, report)
    bounds = _norms(layers[:-1], result, options, report)
    if bounds is None:
        return
    _check_constant(result, layers[-1], bounds, new, report)

    n = len(images) if options.limit is None else min(options.limit, len(images))
    net = network.Network(layers, settings["activation"], bounds)
    see = _see_pooled if network.is_pooled(settings["network"]) else _see
    _check_certificates(net, see, images[:n], predictions[:n], radii[:n], options.exact, contents["model.safetensors"], report)
    if (folder / LOCAL).exists():
        named = reading.local_certificates(reading.content(folder / LOCAL), LOCAL)
        left = _check_local_rows(*named, labels, predictions, radii, result["epsilon"], report)
        _check_local(net, see, images, predictions, left[left < n], result, options, contents["model.safetensors"], report)
    if n < len(images):
        say(f"              only the first {n} of {len(images)} images were looked at")


def check_sites(folder: Path, result: dict, contents: dict[str, bytes], options: Options, report: Report) -> None:
    """Sites that learned: each radius is at most the distance to the cells of other labels, as `sites` proves it anew."""
    say, settings = report.say, result["settings"]
    report.compare("result.json, recipe", result.get("recipe"), f"sites/{folder.parent.name}")
    _check_seed_and_epsilon(folder, result, report)
    dataset = _text(settings, "data" if "data" in settings else "dataset")  # as it was called first, and is called now
    images, labels = reading.test_split(dataset, options.images)
    say(f"images        {len(images)} of {dataset}, {' x '.join(map(str, images.shape[1:]))}")
    tensors = reading.safetensors(contents["model.safetensors"], "model.safetensors", {"labels": "I64"})
    report.compare("result.json, weights_sha256", result.get("weights_sha256"), reading.sha256(contents["model.safetensors"]))
    report.compare("result.json, data_sha256", result.get("data_sha256"), reading.data_sha256(images, labels))
    model = _sites(tensors, images.shape[1:])
    report.compare("result.json, sites", result.get("sites"), len(model.labels))
    report.compare("result.json, test_images", result.get("test_images"), len(images))
    say(f"network       {len(model.labels)} sites of {int(model.labels.max()) + 1} labels")

    n = len(images) if options.limit is None else min(options.limit, len(images))
    forms = result.get("forms")
    if not isinstance(forms, dict) or set(forms) != {"before", "bisectors", "cells", "cells_in_box"}:
        raise Malformed("result.json, forms: not a table of before, bisectors, cells and cells_in_box")
    for name, form in forms.items():
        if not isinstance(form, dict):
            raise Malformed(f"result.json, forms.{name}: {form!r} is no table of figures")
    for key, form in (("test_accuracy", "cells"), ("test_vra", "cells"), ("test_vra_in_box", "cells_in_box")):
        claimed = forms[form].get("test_vra" if key == "test_vra_in_box" else key)
        report.compare(f"result.json, {key}", result.get(key), claimed)
    predicted = None
    for name, form, box in (("certificates.csv", "cells", None), ("certificates_in_box.csv", "cells_in_box", (0, 1))):
        claimed, predictions, radii = reading.certificates(reading.content(folder / name), name)
        if not _check_rows(claimed, predictions, labels, int(model.labels.max()) + 1, report, name):
            return
        if predicted is not None:
            for k in np.flatnonzero(predictions != predicted):
                report.wrong(f"{name}, row {k}", f"prediction {predictions[k]}, and certificates.csv has {predicted[k]}", name)
        predicted = predictions
        _check_counts(forms[form] | {"epsilon": result["epsilon"]}, labels, predictions, radii, report, f"forms.{form}, ")
        _check_site_certificates(model, images[:n], predictions[:n], radii[:n], box, name, report)
    claimed, predictions, radii = reading.certificates(
        reading.content(folder / "certificates_before.csv"), "certificates_before.csv"
    )
    if _check_rows(claimed, predictions, labels, int(model.labels.max()) + 1, report, "certificates_before.csv"):
        _check_counts(forms["before"] | {"epsilon": result["epsilon"]}, labels, predictions, radii, report, "forms.before, ")
    say("              not verified: the radii before training, whose sites are not stored, and the figures of the bisectors")
    if n < len(images):
        say(f"              only the first {n} of {len(images)} images were looked at")


def _sites(tensors: dict[str, np.ndarray], shape: tuple[int, ...]) -> sites.Sites:
    if set(tensors) != {"sites", "labels", "before"}:
        raise Malformed(f"model.safetensors: it holds {sorted(tensors)}, not sites, labels and before")
    places, labels = tensors["sites"], tensors["labels"]
    if places.shape[1:] != shape or labels.shape != places.shape[:1] or not len(labels):
        raise Malformed(f"model.safetensors: sites {places.shape} and labels {labels.shape}, for images {shape}")
    if not np.isfinite(places).all() or np.abs(places).max() > 1e6:
        raise Malformed("model.safetensors: sites holds NaN or numbers beyond a million")
    if labels.min() < 0 or labels.max() > 10**6 or len(np.unique(labels)) < 2:
        raise Malformed("model.safetensors: labels are two or more classes from 0")
    return sites.Sites(places.reshape(len(places), -1), labels)


def _check_site_certificates(
    model: sites.Sites,
    images: np.ndarray,
    predictions: np.ndarray,
    radii: np.ndarray,
    box: tuple[int, int] | None,
    name: str,
    report: Report,
) -> None:
    start, held, exactly = time.perf_counter(), 0, 0
    for at in range(0, len(images), 8 * BATCH):
        part = slice(at, at + 8 * BATCH)
        x = (images[part].astype(np.float32) / np.float32(255)).reshape(len(images[part]), -1).astype(np.float64)
        proven, largest, count = sites.prove(model, x, predictions[part], radii[part], box)
        held, exactly = held + int(proven.sum()), exactly + count
        for k in np.flatnonzero(~proven):
            claim = f"prediction {predictions[at + k]}, radius {float(radii[at + k])!r}"
            report.wrong(f"{name}, row {at + k}", f"{claim} is not proven; {float(largest[k])!r} is", name)
    where = "" if box is None else ", of images within the box [0, 1] alone"
    report.say(
        f"certificates  {held} of {len(images)} hold{where}: by the cells of other labels "
        f"({time.perf_counter() - start:.0f} s), {exactly} pairs by exact arithmetic"
    )


def _text(settings: dict, name: str) -> str:
    value = settings.get(name)
    if not isinstance(value, str):
        raise Malformed(f"result.json, settings.{name}: {value!r} is no text")
    return value


def _number(table: dict, name: str, where: str = "result.json") -> float:
    value = table.get(name)
    if type(value) not in (int, float) or not -1e300 < value < 1e300:
        raise Malformed(f"{where}, {name}: {value!r} is no number")
    return float(value)


def _check_settings(folder: Path, result: dict, report: Report) -> None:
    """The folder is <recipe>/seed-<n>, and the settings are those of the recipe, the seed and the epsilon that are claimed."""
    report.compare("result.json, recipe", result.get("recipe"), folder.parent.name)
    report.compare("result.json, settings.name", result["settings"].get("name"), folder.parent.name)
    _check_seed_and_epsilon(folder, result, report)


def _check_seed_and_epsilon(folder: Path, result: dict, report: Report) -> None:
    seed = result.get("seed")
    if type(seed) is not int or folder.name != f"seed-{seed}":
        report.wrong("result.json, seed", f"{seed!r} is claimed, and the folder is {folder.name}")
    epsilon = _number(result, "epsilon")
    if not epsilon > 0:
        report.wrong("result.json, epsilon", f"{epsilon!r} is not positive")
    report.compare("result.json, settings.epsilon", result["settings"].get("epsilon"), result["epsilon"])


def _layers(settings: dict, shape: tuple[int, ...], tensors: dict[str, np.ndarray]) -> list[Layer]:
    try:
        plans = network.plan(_text(settings, "network"), _text(settings, "activation"), shape)
    except ValueError as error:
        raise Malformed(f"result.json, settings.network: {error}") from error
    layers, wrong = network.assemble(plans, tensors)
    if wrong:
        raise Malformed("model.safetensors: " + "; ".join(wrong))
    return layers


def _check_rows(
    claimed: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    classes: int,
    report: Report,
    name: str = "certificates.csv",
) -> bool:
    """One row an image, with its label; a prediction is a class."""
    if len(claimed) != len(labels):
        report.wrong(name, f"{len(claimed)} rows, and the test set has {len(labels)} images")
        return False
    for index in np.flatnonzero(claimed != labels):
        report.wrong(f"{name}, row {index}", f"label {claimed[index]}, and the image's is {labels[index]}", "labels")
    for index in np.flatnonzero(predictions >= classes):
        report.wrong(f"{name}, row {index}", f"prediction {predictions[index]} of {classes} classes", "predictions")
    if labels.max() >= classes:
        report.wrong("model.safetensors", f"{classes} logits, and the largest label is {labels.max()}")
    return bool((predictions < classes).all())


def _check_counts(
    result: dict, labels: np.ndarray, predictions: np.ndarray, radii: np.ndarray, report: Report, where: str = ""
) -> None:
    """The figures of result.json, from the rows: a certificate counts where its radius is above epsilon, and not at it."""
    right = predictions == labels
    curve = result.get("vra_at")
    if not isinstance(curve, dict) or not all(re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", key, re.ASCII) for key in curve):
        raise Malformed("result.json, vra_at: not a table of accuracies by epsilon")
    figures = [
        ("test_accuracy", _number(result, "test_accuracy"), right),
        ("test_vra", _number(result, "test_vra"), right & (radii > _number(result, "epsilon"))),
        *((f"vra_at {key}", _number(curve, key, "result.json, vra_at"), right & (radii > float(key))) for key in curve),
    ]
    for name, claimed, counted in figures:
        count, n = int(counted.sum()), len(counted)
        if abs(claimed - count / n) > 1e-12:
            report.wrong(f"result.json, {where}{name}", f"{claimed!r} is claimed, the rows give {count} of {n}, {count / n!r}")
    report.say(f"figures       of these rows: accuracy {right.mean()}, VRA {figures[1][2].mean()} at {result['epsilon']}")


def _check_constant(result: dict, head: Layer, bounds: list[float], new: bool, report: Report) -> None:
    """`lipschitz_upper`, the largest ||w_j - w_i|| product that the radii are divided by, to eight digits; of an older run,
    whose bounds are not stored, that it is no smaller.

    A layer that pools has a bound of its own in it, a few 1e-9 above its norm of 1.
    """
    found = float(network.row_distances(head.weight)[0].max()) * math.prod(bounds)
    claimed = _number(result, "lipschitz_upper")
    if claimed < found * (1 - 1e-8) or (new and claimed > found * (1 + 1e-8)):
        report.wrong("result.json, lipschitz_upper", f"{claimed!r} is claimed, the layer norms and the head give {found!r}")


def _norms(body: list[Layer], result: dict, options: Options, report: Report) -> list[float] | None:
    """A proven bound on each layer before the head: the claimed ones, or, for a run that claims none, the smallest provable."""
    proofs = _Proofs(options.cache)
    if not is_new(result):
        report.say("layer norms   none are stored with this run, which is older than they are: proven from nothing")
        try:
            bounds = [proofs.smallest(layer) for layer in body]
        except ValueError as error:
            raise Unusable(str(error)) from error
        for layer, bound in zip(body, bounds, strict=True):
            report.say(f"  layer {layer.name:<6}{bound!r} is proven")
        return bounds
    claims = result.get("layer_norms")
    if not isinstance(claims, dict) or set(claims) != {layer.name for layer in body}:
        named = list(claims) if isinstance(claims, dict) else claims
        report.wrong("result.json, layer_norms", f"{named!r}, and the layers are {[layer.name for layer in body]}")
        return None
    bounds = []
    for layer in body:
        claim = _number(claims, layer.name, "result.json, layer_norms")
        start = time.perf_counter()
        how = proofs.method(layer, claim)
        if how is None:
            report.wrong(f"result.json, layer_norms, layer {layer.name}", f"{claim!r} is not proven; {_nearest(layer, claim)}")
        else:
            report.say(f"  layer {layer.name:<6}{claim!r} is proven by {how} ({time.perf_counter() - start:.1f} s)")
        bounds.append(claim)
    return bounds


def _nearest(layer: Layer, claim: float) -> str:
    for digits in range(9, -1, -1):
        larger = claim * (1 + 10.0**-digits)
        if norms.method(layer, larger):
            return f"{larger!r} would be"
    return "nor is twice as much"


class _Proofs:
    """Proofs kept in a file: what was proven, by a hash of the weights, the shapes, the claim and the prover's own source."""

    def __init__(self, folder: Path | None):
        self.path = folder / "proofs.json" if folder else None
        self.known: dict[str, list] = {}
        if self.path and self.path.is_file():
            try:
                self.known = reading.parse_json(self.path.read_bytes(), str(self.path))
            except Malformed as error:
                raise Unusable(f"{error}; delete the file and the proofs are made anew") from error
        sources = [Path(module.__file__).read_bytes() for module in (norms, network)]
        self.source = reading.sha256(b"".join(sources))

    def _key(self, layer: Layer, claim: str) -> str:
        weight = layer.weight
        description = json.dumps([self.source, weight.dtype.str, weight.shape, layer.stride, layer.inputs, layer.outputs, claim])
        return hashlib.sha256(description.encode() + b"\n" + weight.tobytes()).hexdigest()

    def _keep(self, key: str, value: list) -> None:
        self.known[key] = value
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_name(f"proofs-{os.getpid()}.part")
            part.write_text(json.dumps(self.known, indent=1) + "\n")
            part.replace(self.path)

    def method(self, layer: Layer, claim: float) -> str | None:
        key = self._key(layer, claim.hex())
        if key in self.known:
            return f"{self.known[key][1]}, as the cache says"
        how = norms.method(layer, claim)
        if how:
            self._keep(key, [claim, how])
        return how

    def smallest(self, layer: Layer) -> float:
        key = self._key(layer, "smallest")
        if key not in self.known:
            self._keep(key, [norms.smallest(layer), "bisection"])
        return self.known[key][0]


def _see(images: np.ndarray) -> np.ndarray:
    """The images that a network sees: uint8 divided by 255, rounded to float32."""
    return images.astype(np.float32) / np.float32(255)


def _see_pooled(images: np.ndarray) -> np.ndarray:
    return network.pooled(_see(images))


def _check_certificates(
    net: network.Network,
    see: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    predictions: np.ndarray,
    radii: np.ndarray,
    sample: int,
    weights: bytes,
    report: Report,
) -> None:
    """Each prediction and radius: by float64 where its error bound decides, else, and for a sample, in exact arithmetic."""
    start, n = time.perf_counter(), len(images)
    head = net.head.weight
    (distances, slack), product = network.row_distances(head), math.prod(map(Fraction, net.norms))
    # Far from where float64 ends its products neither over- nor underflow; beyond that all is left open.
    rounded = float(product) if Fraction(1, 10**200) < product < 10**200 else math.nan
    chosen = set(random.Random(reading.sha256(weights)).sample(range(n), min(sample, n)))
    verdicts = np.zeros(n, np.int64)  # 1 holds, -1 does not, 0 open
    seen = {}
    with np.errstate(all="ignore"):  # what overflows is left open
        for at in range(0, n, BATCH):
            part = slice(at, at + BATCH)
            y, deviation, local = net.logits(see(images[part]))
            j, r = predictions[part], radii[part]
            verdicts[part], margins, errors = _verdicts(y, deviation, local, distances[j], slack, rounded, j, r)
            for k in chosen.intersection(range(at, at + BATCH)):
                seen[k] = margins[k - at], errors[k - at]
    seconds = time.perf_counter() - start
    undecided = sorted(set(np.flatnonzero(verdicts == 0).tolist()) | chosen)
    if undecided:
        exact_network = exact.ExactNetwork([e.layer for e in net.body] + [net.head], net.activation)
    for k in undecided:
        logits = exact_network.logits(see(images[k : k + 1])[0])
        j = int(predictions[k])
        if k in seen:
            _check_own_error(logits, j, *seen[k], k)
        refuted = exact.supports(logits, j, float(radii[k]), product, exact.squared_distances(head, j))
        if verdicts[k] == (-1 if refuted is None else 1):
            raise AssertionError(f"image {k}: float64 and exact arithmetic decide differently; the checker is at fault")
        verdicts[k] = 1 if refuted is None else -1
    held = int((verdicts > 0).sum())
    for k in np.flatnonzero(verdicts < 0):
        what = _fault(net, see(images[k : k + 1]), int(predictions[k]), distances, rounded)
        claim = f"prediction {predictions[k]}, radius {float(radii[k])!r}"
        report.wrong(f"certificates.csv, row {k}", f"{claim}; {what}", "certificates")
    report.say(
        f"certificates  {held} of {n} hold: {n - len(undecided)} decided by float64 with its error bounded ({seconds:.0f} s), "
        f"{len(undecided)} by exact arithmetic ({time.perf_counter() - start - seconds:.0f} s)"
    )


def _verdicts(y, deviation, local, distances, slack, product, predictions, radii):
    """For a batch: (verdicts, margins, errors). A verdict is 1 where a certificate holds, -1 where it does not, 0 where rounding
    leaves it open; margins (n, classes) are those of the prediction over each class, within the errors. `distances` (n, classes)
    are those of the head's rows from the predicted one, within a factor of `slack`.
    """
    margins, errors = network.margins(y, deviation, local, distances, slack, predictions)
    low, high = margins - errors, margins + errors
    # Rows that do not differ need no margin beyond a positive one, whatever the radius (0 times infinity).
    need = np.where(distances > 0, radii[:, None] * (distances * product), 0.0)
    slack *= 1 + 16 * network.UNIT  # and the products' own rounding
    others = np.ones_like(y, bool)
    others[np.arange(len(y)), predictions] = False
    holds = ((low > 0) & (low >= need * slack + network.TINY)) | ~others
    fails = ((high < 0) | (high < need / slack - network.TINY)) & others
    decided = np.where(holds.all(1), 1, np.where(fails.any(1), -1, 0))
    return np.where(np.isfinite(y).all(1) & np.isfinite(errors).all(1), decided, 0), margins, errors


def _check_own_error(logits: list[Fraction], j: int, margins: np.ndarray, errors: np.ndarray, k: int) -> None:
    """The checker's own claim: float64 is no further from the truth than its error bound says."""
    for i in np.flatnonzero(np.isfinite(errors) & np.isfinite(margins)):
        if i != j and abs(logits[j] - logits[i] - Fraction(float(margins[i]))) > Fraction(float(errors[i])):
            raise AssertionError(f"image {k}: the bound on float64's error does not hold; the checker is at fault")


def _check_local_rows(
    indices: np.ndarray,
    claimed: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    radii: np.ndarray,
    epsilon: float,
    report: Report,
) -> np.ndarray:
    """The images that are named rightly: predicted as their label, and left by the global bound."""
    right = np.zeros(len(indices), bool)
    for row, (k, label) in enumerate(zip(indices.tolist(), claimed.tolist(), strict=True)):
        where = f"{LOCAL}, row {row}"
        if k >= len(labels):
            report.wrong(where, f"image {k} of {len(labels)}", LOCAL)
        elif label != labels[k]:
            report.wrong(where, f"label {label}, and the label of image {k} is {labels[k]}", LOCAL)
        elif predictions[k] != label:
            report.wrong(where, f"image {k} is predicted as {predictions[k]}, and its label is {label}", LOCAL)
        elif radii[k] > epsilon:
            report.wrong(where, f"image {k} has a certificate without it: its radius is {float(radii[k])!r}", LOCAL)
        else:
            right[row] = True
    vra = ((predictions == labels) & (radii > epsilon)).mean() + len(indices) / len(labels)
    report.say(f"local         {len(indices)} images more, with which the VRA is {vra:.12g}")
    return indices[right]


def _check_local(
    net: network.Network,
    see: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    predictions: np.ndarray,
    named: np.ndarray,
    result: dict,
    options: Options,
    weights: bytes,
    report: Report,
) -> None:
    """The images that are named keep their label within epsilon, by both arithmetics as in `_check_certificates`."""
    if not len(named):
        return
    layers = [part.layer for part in net.body] + [net.head]
    if (reason := local.obstacle(layers, net.activation)) is not None:
        report.wrong(LOCAL, reason)
        return
    start, n = time.perf_counter(), len(named)
    try:
        norm = _Proofs(options.cache).smallest(local.matrix(layers[-2], net.activation))
    except ValueError as error:
        raise Unusable(str(error)) from error
    chosen = set(random.Random(reading.sha256(weights)).sample(named.tolist(), min(options.exact, n)))
    held, exactly = 0, 0
    with np.errstate(all="ignore"):  # what overflows is left open
        prover = local.Prover(net, result["epsilon"], norm)
        for at in range(0, n, BATCH):
            part = named[at : at + BATCH]
            seen = see(images[part])
            found = prover.prove(seen, predictions[part])
            for k, (index, verdict) in enumerate(zip(part.tolist(), found.verdicts.tolist(), strict=True)):
                if verdict == 0 or index in chosen:
                    verdict = _exact_verdict(prover, seen[k], int(predictions[index]), found, k, index)
                    exactly += 1
                held += verdict > 0
                if verdict < 0:
                    rival = int((found.margins[k] - found.falls[k]).argmin())
                    margin, fall = float(found.margins[k, rival]), float(found.falls[k, rival])
                    what = f"its margin over class {rival} is about {margin:.6g}, and it is not proven to fall by less"
                    report.wrong(f"{LOCAL}, image {index}", f"{what} than {fall:.6g}", "local certificates")
    report.say(
        f"              {held} of {n} hold: {n - exactly} decided by float64 with its error bounded, "
        f"{exactly} by exact arithmetic ({time.perf_counter() - start:.0f} s)"
    )


def _exact_verdict(prover: local.Prover, seen: np.ndarray, j: int, found: local.Found, k: int, index: int) -> int:
    """1 where exact arithmetic proves a local certificate, else -1. What float64 proves it proves with the same slopes."""
    values = prover.exact_network.values(seen)
    _check_own_error(values[-1].fractions(), j, found.margins[k], found.errors[k], index)
    if found.verdicts[k] > 0:
        if prover.exactly(values, j, (found.below[k], found.above[k])) is not None:
            raise AssertionError(f"image {index}: exact arithmetic does not prove what float64 does; the checker is at fault")
        return 1
    return 1 if prover.exactly(values, j) is None else -1


def _fault(net: network.Network, seen: np.ndarray, j: int, distances: np.ndarray, product: float) -> str:
    """About how large the radius may be, for the message."""
    with np.errstate(all="ignore"):
        y = net.logits(seen)[0][0]
        winner = int(y.argmax())
        if winner != j:
            return f"class {winner} has the larger logit"
        radii = (y[j] - y) / (distances[j] * product)
    i = min((i for i in range(len(y)) if i != j), key=lambda i: radii[i])
    return f"its margin over class {i} allows about {float(radii[i])!r}"
