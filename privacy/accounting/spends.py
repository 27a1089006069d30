"""What an accountant composes: events checked, and equal ones merged.

This is the one place that decides which events the accountants understand. A new kind of event, mode, unit or
adjacency is refused here until somebody writes down what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from privacy.events import (
    DpEvent,
    JointSubsampledGaussian,
    NoiseShares,
    PrivacyMode,
    SiteGaussian,
    SubsampledGaussian,
    check_guarantee,
)
from tacit.errors import InputError, LedgerError


@dataclass(frozen=True)
class Spend:
    """``steps`` compositions of one Poisson-subsampled Gaussian mechanism.

    ``noise_multiplier`` is standard deviation over sensitivity; ``sample_rate`` is the Poisson sampling probability,
    1.0 where nothing is sampled: the pair of two Gaussians, alike in both directions.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


#: Noise multiplier of what an adversary does not know of the noise in a sum.
UnknownNoise = Callable[[NoiseShares], float]


def against_colluding_sites(event: NoiseShares) -> float:
    """The least: the coordinator and c sites know all other shares."""
    return event.noise_multiplier


def merge(events: Iterable[DpEvent], unknown_noise: UnknownNoise = against_colluding_sites) -> tuple[Spend, ...]:
    """Merge events of equal noise and sample rate; the pair of the newest event comes last.

    Composition does not depend on the order. Speed does: a run repeats its own pair, and everything before it stays
    composed in the accountants' caches.

    Args:
        unknown_noise: of an event with noise in shares, what counts of it; by default what always does.

    Raises:
        LedgerError: an event no accountant here can interpret, or events that protect different units.
    """
    steps: dict[tuple[float, float], int] = {}
    first: DpEvent | None = None
    for event in events:
        _check(event)
        first = first or event
        check_same_unit(first, event)
        noise_multiplier = unknown_noise(event) if isinstance(event, NoiseShares) else event.noise_multiplier
        pair = (noise_multiplier, _sample_rate(event))
        steps[pair] = steps.pop(pair, 0) + event.steps
    return tuple(Spend(noise, rate, count) for (noise, rate), count in steps.items())


def check_delta(delta: float) -> None:
    """Raise :class:`InputError` unless ``0 < delta < 1``."""
    if not (math.isfinite(delta) and 0.0 < delta < 1.0):
        raise InputError(
            f"delta is {delta!r}; expected a number strictly between 0 and 1",
            hint="choose delta well below one over the number of people in the data, for example 1e-5",
        )


def check_same_unit(first: DpEvent, other: DpEvent) -> None:
    """Raise unless both events are charged to the same unit, under the same neighbouring relation.

    An epsilon for one record and an epsilon for one site bound different things: their composition bounds neither.

    Raises:
        LedgerError: they differ.
    """
    if (first.unit, first.adjacency) != (other.unit, other.adjacency):
        raise LedgerError(
            f"a charge to one {other.unit} ({other.adjacency}) cannot be added to charges to one {first.unit} "
            f"({first.adjacency}); expected one unit for all that is composed",
            hint="an account counts one unit: keep the dataset under agreements of the unit it began with",
        )


def _sample_rate(event: DpEvent) -> float:
    return 1.0 if isinstance(event, SiteGaussian) else event.sample_rate


_MODES: dict[type[object], PrivacyMode] = {
    SubsampledGaussian: PrivacyMode.LOCAL,
    JointSubsampledGaussian: PrivacyMode.JOINT,
    SiteGaussian: PrivacyMode.SITE,
}


def _check(event: DpEvent) -> None:
    mode = _MODES.get(type(event))
    if mode is None:
        raise LedgerError(
            f"no accountant understands an event of type {type(event).__name__}",
            hint="this version knows Gaussian events only, sampled or in shares, and never guesses a cost",
        )
    hint = "the event was written by another version of this package; account for it with that one"
    if event.mode is not mode:
        raise LedgerError(
            f"no accountant understands mode {event.mode!r} of a {event.mechanism} event; expected '{mode}'",
            hint=hint,
        )
    try:
        check_guarantee(event.mode, event.unit, event.adjacency)
    except InputError as error:
        raise LedgerError(f"no accountant understands this event: {error.message}", hint=hint) from error
