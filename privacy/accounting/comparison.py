"""Do the accountants agree? The report says so when they do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from privacy.accounting.pld import epsilon
from privacy.accounting.prv import EPSILON_ERROR, epsilon_prv
from privacy.accounting.rdp import epsilon_rdp
from privacy.events import DpEvent

#: PRV's own additive error on either side of the truth, and what discretisation may add to the PLD.
ABSOLUTE_TOLERANCE = 2 * EPSILON_ERROR
RELATIVE_TOLERANCE = 0.01


@dataclass(frozen=True)
class SecondOpinion:
    """Three accountants on the same events; ``pld`` is the bound that counts."""

    delta: float
    pld: float
    prv: float
    rdp: float
    #: largest difference between ``pld`` and ``prv`` that is explained by discretisation
    tolerance: float

    @property
    def agrees(self) -> bool:
        """PRV confirms PLD within the tolerance, and the looser Rényi bound does not undercut it."""
        return abs(self.pld - self.prv) <= self.tolerance and self.rdp >= self.pld - self.tolerance


def agreement_between(events: Iterable[DpEvent], delta: float) -> SecondOpinion:
    """Ask all accountants about ``events`` at ``delta``.

    Raises:
        LedgerError: an event some accountant cannot interpret.
        InputError: ``delta`` is not in (0, 1).
    """
    all_events = tuple(events)
    bound = epsilon(all_events, delta)
    return SecondOpinion(
        delta=delta,
        pld=bound,
        prv=epsilon_prv(all_events, delta),
        rdp=epsilon_rdp(all_events, delta),
        tolerance=ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * bound,
    )
