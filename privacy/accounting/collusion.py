"""How a bound degrades when more sites collude than was agreed: arithmetic for people who decide, never a claim.

The agreement's bound c decides what is claimed (:func:`privacy.accounting.adversaries.adversary_bounds`). Whoever
chooses c, or a mode, wants to know what stands if it turns out to be wrong (docs/privacy.md, section 2a).
"""

from __future__ import annotations

from collections.abc import Iterable

from privacy.accounting.pld import epsilon_of
from privacy.accounting.spends import check_delta, merge
from privacy.events import DpEvent, NoiseShares
from privacy.secagg.threshold import check_threshold
from tacit.errors import InputError, SecAggError


def epsilon_against(events: Iterable[DpEvent], delta: float, *, cohort_size: int, colluding_sites: int) -> float:
    """Return what the coordinator with ``colluding_sites`` sites learns about one honest site, at most.

    Unlike a claim this asks for any number of colluding sites, up to all others. ``local`` events cost the same
    whoever colludes. Where noise comes in shares, those that the coalition does not know count.

    Args:
        events: everything the honest site spent.
        delta: at which epsilon is asked for.
        cohort_size: n, the sites that were asked to take part, the honest one included.
        colluding_sites: k, of the others.

    Raises:
        LedgerError: an event no accountant can interpret.
        InputError: ``delta`` is not in (0, 1), or the sites that collude are not 0 to n - 1.
    """
    check_delta(delta)
    if not 0 <= colluding_sites < cohort_size:
        raise InputError(
            f"{colluding_sites} colluding sites of {cohort_size} were asked about; expected 0 to {cohort_size - 1}",
            hint="the site whose record is protected is not one of them",
        )

    def noise(event: NoiseShares) -> float:
        if opens_one_sum(event.threshold, cohort_size, colluding_sites):
            return event.noise_multiplier_against(colluding_sites)
        return event.noise_multiplier_alone

    return epsilon_of(merge(events, noise), delta)


def opens_one_sum(threshold: int, cohort_size: int, colluding_sites: int) -> bool:
    """Whether the threshold t still protects against k sites (:func:`privacy.secagg.threshold.check_threshold`).

    Then one sum of enough sites is opened in a step, and all but k of its shares are unknown. Beyond that a malicious
    coordinator may open what it likes of a step; all it can open is computed from the sites' vectors, and the honest
    site's own share is in its vector and drawn once. That share remains, whoever colludes.
    """
    try:
        # no colluding site asks no more of a threshold than one does
        check_threshold(cohort_size, threshold, max(colluding_sites, 1))
    except SecAggError:
        return False
    return True
