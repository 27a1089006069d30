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
        LedgerError: an event no accountant here can interpret, or events of different units: what a step with clipped
            users costs one record, or a step with clipped records one user, is another number than either says.
    """
    steps: dict[tuple[float, float], int] = {}
    unit: PrivacyUnit | None = None
    for event in events:
        _check(event)
        if unit is not None and event.unit is not unit:
            raise LedgerError(
                f"privacy was spent on this dataset in units of one {unit.value} and of one {event.unit.value}; "
                "expected one unit for all that is ever spent on it",
                hint="no bound is claimed for a dataset that was trained on under both units; agree on the first again",
            )
        unit = event.unit
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
        (event.mode, (mode,)),
        # Users are sampled and clipped as records are, so a step costs a user what it costs a record.
        (event.unit, (PrivacyUnit.RECORD, PrivacyUnit.USER)),
        (event.adjacency, (Adjacency.ADD_REMOVE,)),
    )
    for received, expected in known:
        # by identity: what is only equal, such as a plain string, is refused
        if not any(received is each for each in expected):
            raise LedgerError(
                f"no accountant understands {type(expected[0]).__name__} {received!r}; "
                f"expected {' or '.join(repr(each.value) for each in expected)}",
                hint="the event was written by another version of this package; account for it with that one",
            )
