"""Randomized smoothing [Cohen, Rosenfeld, Kolter 2019]: certify the vote of a classifier on noisy copies of an input.

The smoothed classifier g answers the class that the base classifier f gives most often to x + noise, noise ~ N(0, sigma^2 I).
If its first class has probability at least p > 1/2, g does not change within the l2 radius sigma Phi^-1(p) (their Theorem 1, with
1 - p for the second class). p is not known; it is bounded from below by sampling, so that each certificate may fail, with
probability at most alpha, for each input on its own.

Three things the guarantee does not say. It is about g, not about f. It is about infinitely many samples: what `predict` answers
from finitely many errs with probability at most alpha, too, and may abstain. And it is about real numbers: noise is drawn and
added here in floating point, as everywhere, and inputs were built that are certified at 1.26 with another label at distance 0.8
[Voracek and Hein 2023, "Sound Randomized Smoothing in Floating-Point Arithmetic"; Jin et al. 2024]. Needs scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_lite import extras
from gloro_lite.certificate import BOTTOM, Certificate, check_epsilon
from gloro_lite.evaluate import check_labels
from gloro_lite.fit import minimise
from gloro_lite.lipschitz.checks import check_tensor, is_count, is_random
from gloro_lite.net import GloroNet, check_logits

_DOWN = 1 - 1e-9
"""Scipy's quantiles are good to about twelve digits; a radius is rounded down by more than that."""


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is the probability of a wrong answer: it must lie between 0 and 0.5, not {alpha}")


def _as_number(sigma: float) -> float:
    try:
        return float(sigma)
    except (TypeError, ValueError):
        raise TypeError(f"sigma must be a number, not {type(sigma).__name__}") from None


def samples_needed(alpha: float, ratio: float = 0.0) -> int:
    """The fewest samples that can certify a radius above `ratio` times sigma with confidence 1 - alpha, all votes being equal.

    The lower confidence bound is then alpha^(1/n), which must exceed Phi(ratio). Raises ValueError unless 0 < alpha < 0.5, and
    for a ratio so large that Phi(ratio) is 1 in float64.
    """
    with extras.needed("smoothing", "book"):
        from scipy.stats import norm

    _check_alpha(alpha)
    log_probability = float(norm.logcdf(ratio))
    if log_probability == 0:
        raise ValueError(f"no number of samples certifies a radius of {ratio:.3g} sigma: take a larger sigma")
    return max(1, math.floor(math.log(alpha) / log_probability) + 1)


def lower_confidence_bound(successes: Tensor, samples: int, alpha: float) -> Tensor:
    """Clopper and Pearson's bound: a p that the true probability is below with probability at most alpha, (batch,) float64.

    Args:
        successes: (batch,), how many of `samples` independent trials succeeded.
    """
    from scipy.stats import beta

    successes = successes.cpu().double()
    bound = torch.from_numpy(beta.ppf(alpha, successes.numpy(), samples - successes.numpy() + 1))
    return bound.nan_to_num(0.0) * _DOWN  # no success, no bound


class Smoothed:
    """The smoothed classifier of a base classifier, to predict with and to certify.

    Args:
        logits: maps (batch, ...) to (batch, classes), the same for each row whatever the others are (a network in eval mode).
        sigma: standard deviation of the noise, in input units.
        samples: for the confidence bound (their n).
        selection: samples to guess the class with (their n0), which are not used again.
        alpha: the probability that an answer is wrong, for each input.
        batch_size: noisy copies at a time.
        seed: of the noise. Each input of a call has noise of its own; two calls with one seed have the same.

    Raises ValueError for a sigma that is not positive and finite, an alpha outside (0, 0.5), and too few samples to certify
    anything at this alpha; TypeError for a GloRo Net itself, whose bottom would be voted for as a class.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        sigma: float,
        *,
        samples: int = 10_000,
        selection: int = 100,
        alpha: float = 0.001,
        batch_size: int = 1000,
        seed: int = 0,
    ):
        check_logits(logits)
        if not callable(logits):
            raise TypeError(f"logits must be a network, or what maps inputs to logits, not {type(logits).__name__}")
        sigma = _as_number(sigma)
        if not (math.isfinite(sigma) and sigma > 0):
            raise ValueError(f"sigma is the standard deviation of the noise: it must be finite and greater than 0, not {sigma}")
        if not (is_count(samples) and is_count(selection) and is_count(batch_size)):
            raise ValueError(
                "samples, selection and batch_size must be whole numbers, at least 1, not "
                f"{samples!r}, {selection!r} and {batch_size!r}"
            )
        least = samples_needed(alpha)
        if samples < least:
            raise ValueError(
                f"{samples} samples certify nothing at alpha = {alpha:g}, even if all of them agree: take at least {least}"
            )
        self.logits, self.sigma, self.alpha = logits, sigma, alpha
        self.samples, self.selection, self.batch_size, self.seed = samples, selection, batch_size, seed

    @property
    def largest_radius(self) -> float:
        """The radius where all samples agree, in input units. No certificate can be larger."""
        return self._radius(lower_confidence_bound(torch.tensor([self.samples], device="cpu"), self.samples, self.alpha)).item()

    def check_reach(self, epsilon: float) -> float:
        """Return epsilon, an l2 radius in input units, as a float. Raises ValueError where no vote can certify it."""
        epsilon = check_epsilon(epsilon)
        if self.largest_radius <= epsilon:
            raise ValueError(
                f"{self.samples} samples at sigma = {self.sigma:g} certify at most {self.largest_radius:.3f}, and epsilon is "
                f"{epsilon:g}: take at least {samples_needed(self.alpha, epsilon / self.sigma)} samples, or a larger sigma"
            )
        return epsilon

    def _radius(self, probability: Tensor) -> Tensor:
        """sigma Phi^-1(p), rounded down; 0 where p is not above 1/2."""
        from scipy.stats import norm

        quantile = torch.from_numpy(norm.ppf(probability.numpy()))
        return (self.sigma * quantile * _DOWN).clamp_min(0.0)

    @torch.no_grad()
    def counts(self, x: Tensor, samples: int, generator: torch.Generator) -> Tensor:
        """How often each class wins on noisy copies of x, (batch, ...): (batch, classes) int64 on the CPU."""
        rows = []
        for point in x:
            total = torch.zeros(0, dtype=torch.int64, device=x.device)
            for start in range(0, samples, self.batch_size):
                size = (min(self.batch_size, samples - start), *point.shape)
                noise = torch.randn(size, generator=generator, dtype=x.dtype, device=x.device)
                logits = self.logits(point + self.sigma * noise)
                if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(noise) or logits.shape[1] < 2:
                    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                    raise ValueError(f"the classifier must give logits of two or more classes, (batch, classes), not {shape}")
                if logits.isnan().any():
                    raise ValueError("the classifier gave NaN for a noisy input: its vote means nothing")
                votes = logits.argmax(dim=1).bincount(minlength=logits.shape[1])
                total = total + votes if len(total) else votes
            rows.append(total)
        return torch.stack(rows).cpu() if rows else torch.zeros(0, 2, dtype=torch.int64, device="cpu")

    def _generator(self, x: Tensor) -> torch.Generator:
        # The network, or the one whose method this is: net.logits, say.
        network = getattr(self.logits, "__self__", self.logits)
        if isinstance(network, nn.Module):
            for name, part in network.named_modules():
                if is_random(part):
                    raise ValueError(
                        f"layer {name or type(part).__name__!r} is in training mode, where what it gives for a noisy copy "
                        "depends on more than that copy: call .eval() first"
                    )
        check_tensor(x)
        if not x.is_floating_point() or not x.isfinite().all():
            raise ValueError("inputs must be finite floating-point numbers, in the units of sigma")
        return torch.Generator(device=x.device).manual_seed(self.seed)

    def certify(self, x: Tensor, epsilon: float | None = None) -> Certificate:
        """Certify each input of a batch: the procedure CERTIFY of the paper.

        Args:
            x: (batch, ...), floating point.
            epsilon: the l2 radius that a label needs; any radius above 0 by default.

        Returns: labels (-1 where it abstains or the radius is not above epsilon), radii and predictions of the smoothed
            classifier g. With probability at least 1 - alpha, for each input, g has the label everywhere within the radius.

        Raises ValueError for an epsilon that no vote could reach with so many samples, for inputs that are not finite, and for a
        network with dropout or batch norm in training mode; TypeError for what is no tensor.
        """
        if epsilon is not None:
            epsilon = self.check_reach(epsilon)
        generator = self._generator(x)
        predicted = self.counts(x, self.selection, generator).argmax(dim=1)
        votes = self.counts(x, self.samples, generator).gather(1, predicted[:, None])[:, 0]
        radius = self._radius(lower_confidence_bound(votes, self.samples, self.alpha))
        label = predicted.where(radius > (epsilon or 0.0), BOTTOM)
        device = x.device if x.device.type != "mps" else "cpu"  # which has no float64
        return Certificate(label.to(device), radius.to(device), predicted.to(device), f"1 - {self.alpha:g}")

    def predict(self, x: Tensor) -> Tensor:
        """The class of g at each input, or -1 to abstain: the procedure PREDICT, (batch,) int64.

        It answers only if its first class beats the second in a two-sided binomial test at level alpha; an answer is not g's
        with probability at most alpha [Hung and Fithian 2019].
        """
        from scipy.stats import binomtest

        votes, classes = self.counts(x, self.samples, self._generator(x)).topk(2, dim=1)
        sure = [binomtest(first, first + second, 0.5).pvalue <= self.alpha for first, second in votes.tolist()]
        return classes[:, 0].where(torch.tensor(sure, dtype=torch.bool, device="cpu"), BOTTOM).to(x.device)


def fit(
    network: nn.Module,
    train: tuple[Tensor, Tensor],
    sigma: float,
    *,
    epochs: int = 50,
    learning_rate: float = 5e-3,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Train a base classifier on noisy inputs, as it will be asked: cross-entropy at x + N(0, sigma^2 I), by Adam.

    Args:
        network: maps (batch, ...) to logits; left in eval mode.
        train: inputs (n, ...) and labels (n,).
        sigma: of the smoothing that follows; 0 trains without noise.
        learning_rate: peak learning rate, of a warm-up and a cosine.
        progress: show it, as `gloro_lite.progress` does.

    Returns: the mean loss of each epoch. Raises ValueError for a negative sigma, and as `gloro_lite.fit.minimise` does.
    """
    if isinstance(network, GloroNet):
        raise TypeError("a GloroNet gives the logit of bottom beside those of the classes: give net.network, which does not")
    sigma = _as_number(sigma)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be finite and not negative, not {sigma}")

    def of_batch(x: Tensor, y: Tensor, _: float, generator: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        logits = network(x + sigma * noise)
        check_labels(y, len(x), logits.shape[1])
        return F.cross_entropy(logits, y)

    epoch_losses = minimise(
        of_batch,
        network,
        train,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    return list(epoch_losses)
