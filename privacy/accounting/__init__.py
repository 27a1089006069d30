"""Accountants: what recorded events cost. Pure functions of public parameters.

The bound reported is :func:`epsilon` (PLD, pessimistic). :func:`epsilon_prv` is the second opinion and
:func:`epsilon_rdp` the fast one; :func:`agreement_between` says whether they agree.
"""

from privacy.accounting.adversaries import (
    COLLUDING_SITES,
    COORDINATOR,
    PUBLIC,
    SITE,
    AdversaryBound,
    AdversaryBounds,
    adversary_bounds,
)
from privacy.accounting.calibration import calibrate_noise_multiplier
from privacy.accounting.collusion import epsilon_against
from privacy.accounting.comparison import SecondOpinion, agreement_between
from privacy.accounting.pld import epsilon
from privacy.accounting.prv import epsilon_prv
from privacy.accounting.rdp import epsilon_rdp

__all__ = [
    "COLLUDING_SITES",
    "COORDINATOR",
    "PUBLIC",
    "SITE",
    "AdversaryBound",
    "AdversaryBounds",
    "SecondOpinion",
    "adversary_bounds",
    "agreement_between",
    "calibrate_noise_multiplier",
    "epsilon",
    "epsilon_against",
    "epsilon_prv",
    "epsilon_rdp",
]
