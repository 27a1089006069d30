"""Privacy loss distributions: the bound that is reported.

Discretised pessimistically ("connect the dots", Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022) and composed by
FFT (Koskela, Jälkö and Honkela 2020) by ``dp_accounting``, for add/remove adjacency: both directions are composed
and the worse one counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from privacy.accounting.composition import composed, repeated
from privacy.accounting.rdp import rdp_of
from privacy.accounting.spends import Spend, check_delta, merge
from privacy.events import DpEvent

#: Width of a privacy-loss bucket.
VALUE_DISCRETIZATION = 1e-3
#: The width where a single step loses so little that the coarse one would overstate it.
FINE_VALUE_DISCRETIZATION = 1e-4

# Outside this range a discretised PLD is unwieldy (a noise multiplier of 0.001 has 10^9 buckets) or close to the
# floor of double-precision FFT; the Rényi bound, valid everywhere, is reported instead.
_LARGEST_MEAN_LOSS = 400.0
_SMALLEST_NOISE_MULTIPLIER = 0.1
_SMALLEST_DELTA = 1e-10
_MOST_STEPS = 1_000_000

# Pessimistic rounding adds about (width x spread) to each step's variance of privacy loss. Where that shows, the
# losses are small and fine buckets are affordable; with many kinds of event they are not.
_SPREAD_NEEDING_FINE = 3e-3
_LARGEST_EPSILON_FINE = 5.0
_MOST_KINDS_FINE = 16


def epsilon(events: Iterable[DpEvent], delta: float) -> float:
    """Return an upper bound, never an estimate, on epsilon at ``delta`` of all ``events`` composed adaptively.

    A pessimistic PLD bound with buckets of 1e-3 (1e-4 where single steps lose very little). Where no trustworthy
    PLD exists (a noise multiplier under 0.1, a mean privacy loss over 400, delta under 1e-10, more than a million
    steps) it is the looser Rényi bound.

    Raises:
        LedgerError: an event no accountant here can interpret.
        InputError: ``delta`` is not in (0, 1).
    """
    check_delta(delta)
    return epsilon_of(merge(events), delta)


def epsilon_of(spends: tuple[Spend, ...], delta: float) -> float:
    """:func:`epsilon` for spends that are merged already (see :func:`privacy.accounting.spends.merge`)."""
    check_delta(delta)
    if not spends:
        return 0.0
    return _epsilon(spends, delta)


def has_trustworthy_pld(spends: tuple[Spend, ...], delta: float) -> bool:
    """Whether :func:`epsilon_of` is a PLD bound; else it is the Rényi bound."""
    return delta >= _SMALLEST_DELTA and _discretises_well(spends)


# Few: a key is as long as the lifetime has kinds of event.
@lru_cache(maxsize=256)
def _epsilon(spends: tuple[Spend, ...], delta: float) -> float:
    renyi = rdp_of(spends, delta)
    if not has_trustworthy_pld(spends, delta):
        return renyi
    width = _width(spends, renyi)
    # The newest kind is the one a run repeats: apart from the others, each of its steps costs one composition.
    whole = repeated(spends[-1], width)
    if len(spends) > 1:
        whole = composed(spends[:-1], width).compose(whole)
    return float(whole.get_epsilon_for_delta(delta))


def _discretises_well(spends: tuple[Spend, ...]) -> bool:
    return (
        sum(spend.steps for spend in spends) <= _MOST_STEPS
        and all(spend.noise_multiplier >= _SMALLEST_NOISE_MULTIPLIER for spend in spends)
        and sum(spend.steps * _mean_loss(spend) for spend in spends) <= _LARGEST_MEAN_LOSS
    )


def _mean_loss(spend: Spend) -> float:
    """An upper bound on one step's mean privacy loss, which is a Kullback-Leibler divergence.

    Convexity bounds it by q times that of two Gaussians, q / (2 sigma^2), and the Rényi divergence of order 2, never
    below it, by log(1 + q^2 (exp(1/sigma^2) - 1)).
    """
    exponent = min(spend.noise_multiplier**-2, 700.0)
    return min(
        spend.sample_rate * spend.noise_multiplier**-2 / 2, math.log1p(spend.sample_rate**2 * math.expm1(exponent))
    )


def _width(spends: tuple[Spend, ...], renyi_epsilon: float) -> float:
    spread = min(_loss_spread(spend) for spend in spends)
    affordable = renyi_epsilon <= _LARGEST_EPSILON_FINE and len(spends) <= _MOST_KINDS_FINE
    return FINE_VALUE_DISCRETIZATION if affordable and spread < _SPREAD_NEEDING_FINE else VALUE_DISCRETIZATION


def _loss_spread(spend: Spend) -> float:
    """About the standard deviation of one step's privacy loss: q sqrt(exp(1/sigma^2) - 1)."""
    exponent = min(spend.noise_multiplier**-2, 700.0)
    return spend.sample_rate * math.sqrt(math.expm1(exponent))
