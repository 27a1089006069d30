"""Privacy random variables (Gopi, Lee and Wutschitz 2021) as Opacus implements them: the independent second opinion.

Opacus composes the "remove" direction only, and its choice of domain is not proven for large errors (see the note in
``opacus/accountants/analysis/prv/domain.py``). It is compared with, never reported as, the bound.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

from privacy.accounting.spends import check_delta, merge
from privacy.events import DpEvent
from tacit.errors import LedgerError

#: Additive error of the estimate; it is included in what is returned.
EPSILON_ERROR = 0.01


def epsilon_prv(events: Iterable[DpEvent], delta: float) -> float:
    """Return Opacus's upper estimate of epsilon at ``delta``, its stated error of 0.01 included.

    Raises:
        LedgerError: an event no accountant here can interpret, or one Opacus cannot discretise.
        InputError: ``delta`` is not in (0, 1).
    """
    check_delta(delta)
    spends = merge(events)
    if not spends:
        return 0.0
    # Opacus imports torch; whoever only reserves or shows a ledger should not wait for it.
    from opacus.accountants.prv import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(spend.noise_multiplier, spend.sample_rate, spend.steps) for spend in spends]
    try:
        with warnings.catch_warnings():
            # log(1 - q) at q = 1 is the intended minus infinity; "expand alphas" only widens the domain.
            warnings.simplefilter("ignore")
            result = float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR))
    except (ArithmeticError, RuntimeError, ValueError) as error:
        raise LedgerError(
            f"Opacus's PRV accountant has no opinion on these events: {error}",
            hint="the reported bound does not depend on it; the report says that no second opinion exists",
        ) from error
    if not math.isfinite(result):
        raise LedgerError("Opacus's PRV accountant returned no finite epsilon for these events")
    return max(result, 0.0)
