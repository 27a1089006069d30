"""One budget for all stages of a run: the noise multiplier that serves each of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from privacy.accounting import calibrate_noise_multiplier
from privacy.accounting.calibration import RELATIVE_SLACK, narrowed
from privacy.accounting.pld import epsilon_of
from privacy.accounting.spends import Spend

_calibrated = cache(calibrate_noise_multiplier)


def noise_multiplier_for(epsilon: float, delta: float, stages: Sequence[tuple[float, int]]) -> float:
    """Return one noise multiplier under which all stages together spend at most ``epsilon``, and at least 99.9% of it.

    A stage by itself is left to :func:`privacy.accounting.calibrate_noise_multiplier`; several are bisected on the
    epsilon of their composition (PLD, pessimistic; adaptive, so that a stage may start where the one before ended).

    Args:
        epsilon: the target.
        delta: the target.
        stages: sample rate and number of steps of each; clip norms may differ, for noise is in units of the clip.

    Raises:
        InputError: the target is out of range, or out of reach for a stage by itself.
        ValueError: no stage, or no noise multiplier spends so little less than the target.
    """
    if not stages:
        raise ValueError("got no stages; a budget needs at least one")
    return _over_stages(epsilon, delta, tuple(stages))


@cache
def _over_stages(epsilon: float, delta: float, stages: tuple[tuple[float, int], ...]) -> float:
    # what a stage needs by itself is too little for all of them
    alone = max(_calibrated(epsilon, delta, sample_rate, steps) for sample_rate, steps in stages)
    if len(stages) == 1:
        return alone

    def spent(noise_multiplier: float) -> float:
        return epsilon_of(tuple(Spend(noise_multiplier, sample_rate, steps) for sample_rate, steps in stages), delta)

    low, high = alone, 2 * alone
    while spent(high) > epsilon:
        low, high = high, 2 * high
    found, value = narrowed(spent, low, high, epsilon)
    if value < epsilon * (1 - RELATIVE_SLACK):
        raise ValueError(
            f"no noise multiplier spends {1 - RELATIVE_SLACK:g} to 1 of epsilon {epsilon:g}: one of {found:.4g} spends "
            f"{value:.4g}"
        )
    return found
