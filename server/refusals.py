"""What the sites' refusals mean for a run: whether ordering the round once more can help."""

from __future__ import annotations

from collections.abc import Mapping

from privacy.order import ReceiptStatus
from tacit.errors import Refusal, RefusalReason, TacitError

#: Decided by the agreement, the run file, a site's policy or what is spent: another order of this run meets them again.
#: The others may pass: a site was busy, its data or its ledger were being mended.
LASTING = frozenset(
    {
        RefusalReason.AGREEMENT_MISMATCH,
        RefusalReason.AGREEMENT_EXPIRED,
        RefusalReason.AGREEMENT_NOT_APPROVED,
        RefusalReason.WITHDRAWN,
        RefusalReason.POLICY,
        RefusalReason.COHORT,
        RefusalReason.THRESHOLD,
        RefusalReason.MODEL_MISMATCH,
        RefusalReason.ADAPTER_NOT_ALLOWED,
        RefusalReason.STRATEGY_NOT_ALLOWED,
        RefusalReason.TASK_MISMATCH,
        RefusalReason.PRIVACY_PARAMETERS,
        RefusalReason.NOISE_SEED,
        RefusalReason.BUDGET,
    }
)

_BUDGET_HINT = (
    "only a larger budget allows another run: a new agreement with a larger budget, or the site's policy.yaml where "
    "that is the stricter; what was spent stays spent"
)
_HINT = "ask the sites that refused; once that is mended, resume the run"


def refusals_told(refused: Mapping[str, ReceiptStatus]) -> str:
    """Return ``alpha, beta refused it (budget): message``, for each reason with the first message; may be empty."""
    sites: dict[str, list[str]] = {}
    for site in sorted(refused):
        sites.setdefault(refused[site].reason, []).append(site)
    told = []
    for reason, names in sites.items():
        message = refused[names[0]].message
        told.append(f"{', '.join(names)} refused it ({reason})" + (f": {message}" if message else ""))
    return "; ".join(told)


def final_refusal(refused: Mapping[str, ReceiptStatus], *, cohort: int, needed: int) -> Refusal | None:
    """Return why no further try of a round can give a sum; None where one may.

    Args:
        refused: how each site that refused the round put it.
        cohort: sites the round was ordered from.
        needed: sites without which there is no sum.
    """
    lasting = {site: outcome for site, outcome in refused.items() if outcome.reason in LASTING}
    if cohort - len(lasting) >= needed:
        return None
    reasons = [RefusalReason(outcome.reason) for _, outcome in sorted(lasting.items())]
    reason = RefusalReason.BUDGET if RefusalReason.BUDGET in reasons else reasons[0]
    return Refusal(reason, refusals_told(lasting), hint=_BUDGET_HINT if reason is RefusalReason.BUDGET else _HINT)


def can_resume(error: TacitError) -> bool:
    """Return whether a run that ``error`` ended may go on once its cause is mended; what is spent stays spent."""
    return not (isinstance(error, Refusal) and error.reason is RefusalReason.BUDGET)
