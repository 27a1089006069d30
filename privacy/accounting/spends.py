"""What an accountant composes: events checked, and equal ones merged.

This is the one place that decides which events the accountants understand. A new kind of event, mode, unit or
adjacency is refused here until somebody writes down what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from privacy.events import Adjacency, DpEvent, PrivacyMode, PrivacyUnit, SubsampledGaussian
from tacit.errors import InputError, LedgerError


@dataclass(frozen=True)
class Spend:
    """``steps`` compositions of one Poisson-subsampled Gaussian mechanism.

    ``noise_multiplier`` is standard deviation over clip norm; ``sample_rate`` is the Poisson sampling probability.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def merge(events: Iterable[DpEvent]) -> tuple[Spend, ...]:
    """Merge events of equal noise and sample rate; the pair of the newest event comes last.

    Composition does not depend on the order. Speed does: a run repeats its own pair, and everything before it stays
    composed in the accountants' caches.

    Raises:
        LedgerError: an event no accountant here can interpret.
    """
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        _check(event)
        pair = (event.noise_multiplier, event.sample_rate)
        steps[pair] = steps.pop(pair, 0) + event.steps
    return tuple(Spend(noise, rate, count) for (noise, rate), count in steps.items())


def check_delta(delta: float) -> None:
    """Raise :class:`InputError` unless ``0 < delta < 1``."""
    if not (math.isfinite(delta) and 0.0 < delta < 1.0):
        raise InputError(
            f"delta is {delta!r}; expected a number strictly between 0 and 1",
            hint="choose delta well below one over the number of people in the data, for example 1e-5",
        )


def _check(event: object) -> None:
    if not isinstance(event, SubsampledGaussian):
        raise LedgerError(
            f"no accountant understands an event of type {type(event).__name__}",
            hint="this version knows Poisson-subsampled Gaussian events only and never guesses a cost",
        )
    known = (
        # the noise multiplier of a joint event is that of the whole sum, so both modes are one mechanism
        (event.mode, PrivacyMode.JOINT if event.mode is PrivacyMode.JOINT else PrivacyMode.LOCAL),
        (event.unit, PrivacyUnit.RECORD),
        (event.adjacency, Adjacency.ADD_REMOVE),
    )
    for received, expected in known:
        if received is not expected:
            raise LedgerError(
                f"no accountant understands {type(expected).__name__} {received!r}; expected {expected.value!r}",
                hint="the event was written by another version of this package; account for it with that one",
            )
