"""What an accountant composes: events checked, and equal ones merged.

This is the one place that decides which events the accountants understand. A new kind of event, mode, unit or
adjacency is refused here until somebody writes down what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from privacy.events import (
    Adjacency,
    DpEvent,
    JointSubsampledGaussian,
    PrivacyMode,
    PrivacyUnit,
    SubsampledGaussian,
)
from tacit.errors import InputError, LedgerError


@dataclass(frozen=True)
class Spend:
    """``steps`` compositions of one Poisson-subsampled Gaussian mechanism.

    ``noise_multiplier`` is standard deviation over sensitivity; ``sample_rate`` is the Poisson sampling probability.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


#: How many noise shares of a sum an adversary does not know.
UnknownShares = Callable[[JointSubsampledGaussian], int]


def against_colluding_sites(event: JointSubsampledGaussian) -> int:
    """The fewest: the coordinator and c sites know all others."""
    return event.honest_survivors


def merge(events: Iterable[DpEvent], unknown_shares: UnknownShares = against_colluding_sites) -> tuple[Spend, ...]:
    """Merge events of equal noise and sample rate; the pair of the newest event comes last.

    Composition does not depend on the order. Speed does: a run repeats its own pair, and everything before it stays
    composed in the accountants' caches.

    Args:
        unknown_shares: of a joint event, the shares that count as noise; by default those that always do.

    Raises:
        LedgerError: an event no accountant here can interpret.
    """
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        _check(event)
        noise_multiplier = (
            event.noise_multiplier_of(unknown_shares(event))
            if isinstance(event, JointSubsampledGaussian)
            else event.noise_multiplier
        )
        pair = (noise_multiplier, event.sample_rate)
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
    if not isinstance(event, SubsampledGaussian | JointSubsampledGaussian):
        raise LedgerError(
            f"no accountant understands an event of type {type(event).__name__}",
            hint="this version knows Poisson-subsampled Gaussian events only and never guesses a cost",
        )
    mode = PrivacyMode.JOINT if isinstance(event, JointSubsampledGaussian) else PrivacyMode.LOCAL
    known = (
        (event.mode, mode),
        (event.unit, PrivacyUnit.RECORD),
        (event.adjacency, Adjacency.ADD_REMOVE),
    )
    for received, expected in known:
        if received is not expected:
            raise LedgerError(
                f"no accountant understands {type(expected).__name__} {received!r}; expected {expected.value!r}",
                hint="the event was written by another version of this package; account for it with that one",
            )
