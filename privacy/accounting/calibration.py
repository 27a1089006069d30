"""From a target epsilon to the noise that meets it."""

from __future__ import annotations

import math
from collections.abc import Callable

from privacy.accounting.pld import epsilon_of
from privacy.accounting.spends import Spend, check_delta
from tacit.errors import InputError

#: The calibrated epsilon lies in ``[(1 - RELATIVE_SLACK) target, target]``.
RELATIVE_SLACK = 1e-3

#: A jump of the bound that still makes a calibration; over a larger one the noise would mean something else.
_LARGEST_JUMP = 0.05

_SMALLEST_EPSILON = 0.01
_LARGEST_EPSILON = 50.0
_MOST_STEPS = 1_000_000
_LARGEST_NOISE_MULTIPLIER = 1e5


def calibrate_noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return a noise multiplier that spends at most ``epsilon`` at ``delta``, and at least 99.9% of it.

    Args:
        epsilon: the target, 0.01 to 50.
        delta: the target, at least 1e-10.
        sample_rate: Poisson sampling probability of one record in one step, in (0, 1].
        steps: number of steps composed, at most a million.

    Raises:
        InputError: an argument is out of range, no noise multiplier up to 1e5 meets the target, or none that can be
            accounted for well spends that much: delta alone then covers what the steps reveal.
    """
    _check(epsilon, delta, sample_rate, steps)

    def spent(noise_multiplier: float) -> float:
        return epsilon_of((Spend(noise_multiplier, sample_rate, steps),), delta)

    high, value = narrowed(spent, *_bracket(spent, epsilon), epsilon)
    if value < epsilon * (1 - _LARGEST_JUMP):
        raise InputError(
            f"no noise multiplier spends about epsilon {epsilon:g} at delta {delta:g}: one of {high:.4g} spends "
            f"{value:.4g}, and below it the loss is too large to be accounted for",
            hint="choose a smaller delta",
        )
    return high


def narrowed(spent: Callable[[float], float], low: float, high: float, target: float) -> tuple[float, float]:
    """Bisect for a noise multiplier that spends at most ``target``, and at least 99.9% of it.

    The search ends without a value in that window only where the bound jumps over it, from one width of buckets to the
    other or to the Rényi bound; the side that never exceeds the target is returned then.

    Args:
        spent: epsilon of a noise multiplier; falls.
        low: spends more than the target.
        high: spends no more than the target.

    Returns:
        the noise multiplier, and what it spends.
    """
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        value = spent(middle)
        if value > target:
            low = middle
            continue
        high = middle
        if value >= target * (1 - RELATIVE_SLACK):
            return high, value
    return high, spent(high)


def _bracket(spent: Callable[[float], float], target: float) -> tuple[float, float]:
    if spent(_LARGEST_NOISE_MULTIPLIER) > target:
        raise InputError(
            f"no noise multiplier up to {_LARGEST_NOISE_MULTIPLIER:g} meets epsilon {target:g}",
            hint="use fewer steps, a smaller sample rate, or a larger epsilon",
        )
    low = high = 1.0
    while spent(high) > target:
        low, high = high, high * 2
    while spent(low) <= target:
        low, high = low / 2, low
    return low, high


def _check(epsilon: float, delta: float, sample_rate: float, steps: int) -> None:
    check_delta(delta)
    if not _SMALLEST_EPSILON <= epsilon <= _LARGEST_EPSILON:
        raise InputError(f"epsilon is {epsilon!r}; expected {_SMALLEST_EPSILON:g} to {_LARGEST_EPSILON:g}")
    if delta < 1e-10:
        raise InputError(f"delta is {delta!r}; calibration needs at least 1e-10")
    if not 0.0 < sample_rate <= 1.0:
        raise InputError(
            f"sample rate is {sample_rate!r}; expected a probability above 0 and at most 1",
            hint="the sample rate is expected batch size over public dataset size",
        )
    if not 1 <= steps <= _MOST_STEPS:
        raise InputError(f"steps is {steps!r}; expected 1 to {_MOST_STEPS}")
    sampled = 1.0 if sample_rate == 1.0 else -math.expm1(steps * math.log1p(-sample_rate))
    if delta >= sampled:
        raise InputError(
            f"delta {delta:g} covers a record's whole chance of ever being sampled, {sampled:.3g}: any epsilon would "
            "be met without noise",
            hint="choose delta well below one over the number of people in the data, for example 1e-5",
        )
