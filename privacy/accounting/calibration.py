"""From a target epsilon to the noise that meets it."""

from __future__ import annotations

import math
from collections.abc import Callable

from privacy.accounting.pld import epsilon_of
from privacy.accounting.spends import Spend, check_delta
from tacit.errors import InputError

#: The calibrated epsilon lies in ``[(1 - RELATIVE_SLACK) target, target]``.
RELATIVE_SLACK = 1e-3

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
        InputError: an argument is out of range, or no noise multiplier up to 1e5 meets the target.
    """
    _check(epsilon, delta, sample_rate, steps)

    def spent(noise_multiplier: float) -> float:
        return epsilon_of((Spend(noise_multiplier, sample_rate, steps),), delta)

    low, high = _bracket(spent, epsilon)
    # The loop ends without a value in the window only where the discretised bound jumps over it; the side that never
    # exceeds the target is returned either way.
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        value = spent(middle)
        if value > epsilon:
            low = middle
            continue
        high = middle
        if value >= epsilon * (1 - RELATIVE_SLACK):
            break
    return high


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
