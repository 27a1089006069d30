"""A second, naive accountant: the privacy loss integrated on a grid, composed by plain convolution.

Independent of ``dp_accounting`` and of the package: densities, a histogram of log-ratios, ``numpy.convolve``. Slow and
good to about a bucket; for small cases only. Rounded to the nearest bucket, so neither a bound from above nor below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import norm

BUCKET = 1e-3
#: probability in a tail that no delta here is small enough to notice
_NOTHING = 1e-13


@dataclass(frozen=True)
class Loss:
    """Probability of each privacy loss (in buckets, from ``first``) under the upper distribution of a pair."""

    first: int
    mass: np.ndarray

    @property
    def losses(self) -> np.ndarray:
        return (self.first + np.arange(len(self.mass))) * BUCKET

    def then(self, other: Loss) -> Loss:
        """Both, one after the other."""
        mass = np.convolve(self.mass, other.mass)
        kept = np.flatnonzero((np.cumsum(mass) > _NOTHING) & (np.cumsum(mass[::-1])[::-1] > _NOTHING))
        return Loss(self.first + other.first + int(kept[0]), mass[kept[0] : kept[-1] + 1])

    def times(self, count: int) -> Loss:
        """``count`` of it, one after the other."""
        whole = self
        for _ in range(count - 1):
            whole = whole.then(self)
        return whole

    def delta(self, epsilon: float) -> float:
        """The hockey-stick divergence at ``epsilon``."""
        return float((self.mass * np.maximum(-np.expm1(epsilon - self.losses), 0.0)).sum())

    def epsilon(self, delta: float) -> float:
        """The least epsilon at ``delta``, by bisection."""
        low, high = 0.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.delta(middle) > delta else (low, middle)
        return high

    def sampled(self, rate: float) -> Loss:
        """The pair (P, Q) becomes ((1 - rate) Q + rate P, Q): the whole of it happens with probability ``rate``."""
        mass = self.mass * (rate + (1 - rate) * np.exp(-self.losses))
        return _histogram(np.log1p(rate * np.expm1(self.losses)), mass)


def step(noise_multiplier: float, sample_rate: float, *, removed: bool) -> Loss:
    """One Poisson-subsampled Gaussian step (sensitivity 1): a record removed, or a record added."""
    x = np.linspace(-9 * noise_multiplier, 1 + 9 * noise_multiplier, 400_001)
    without = norm.pdf(x, 0, noise_multiplier)
    present = (1 - sample_rate) * without + sample_rate * norm.pdf(x, 1, noise_multiplier)
    upper, lower = (present, without) if removed else (without, present)
    return _histogram(np.log(upper / lower), upper * (x[1] - x[0]))


@cache
def naive_epsilon(steps: tuple[tuple[float, float, int], ...], delta: float) -> tuple[float, float]:
    """Epsilon of (noise multiplier, sample rate, steps), composed; (record removed, record added)."""
    found = []
    for removed in (True, False):
        parts = [step(noise, rate, removed=removed).times(count) for noise, rate, count in steps]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.then(part)
        found.append(whole.epsilon(delta))
    return found[0], found[1]


def gaussian_dp_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """The central limit of Dong, Roth and Su 2022 and Bu et al. 2020 (mu-GDP): an estimate, not a bound."""
    mu = sample_rate * math.sqrt(steps * math.expm1(noise_multiplier**-2))
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        value = norm.cdf(mu / 2 - middle / mu) - math.exp(middle) * norm.cdf(-mu / 2 - middle / mu)
        low, high = (middle, high) if value > delta else (low, middle)
    return high


def _histogram(losses: np.ndarray, mass: np.ndarray) -> Loss:
    buckets = np.rint(losses / BUCKET).astype(np.int64)
    first = int(buckets.min())
    return Loss(first, np.bincount(buckets - first, weights=mass))
