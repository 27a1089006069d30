"""When the sites' refusals end a run, and how they are told."""

from __future__ import annotations

import pytest

from privacy.order import ReceiptStatus
from server.refusals import LASTING, can_resume, final_refusal, refusals_told
from tacit.errors import RefusalReason


def refused(**reasons: str) -> dict[str, ReceiptStatus]:
    return {
        site: ReceiptStatus(status="refused", reason=reason, message=f"{reason} at {site}")
        for site, reason in reasons.items()
    }


def test_refusals_are_told_once_for_each_reason() -> None:
    told = refusals_told(refused(gamma="budget", alpha="budget", beta="policy"))
    assert told == "alpha, gamma refused it (budget): budget at alpha; beta refused it (policy): policy at beta"
    assert refusals_told({}) == ""
    assert refusals_told({"alpha": ReceiptStatus(status="refused", reason="busy")}) == "alpha refused it (busy)"


def test_a_run_ends_when_too_few_sites_are_left_that_did_not_refuse_for_good() -> None:
    one, two = refused(alpha="budget"), refused(alpha="budget", beta="budget")
    assert final_refusal({}, cohort=4, needed=3) is None
    assert final_refusal(one, cohort=4, needed=3) is None
    final = final_refusal(two, cohort=4, needed=3)
    assert final is not None
    assert (final.reason, final.message) == (RefusalReason.BUDGET, "alpha, beta refused it (budget): budget at alpha")
    assert "a new agreement with a larger budget" in str(final.hint)
    assert not can_resume(final)


@pytest.mark.parametrize(
    "reason", ["busy", "ledger", "data", "state-mismatch", "repeated-step", "order-malformed", "?"]
)
def test_what_may_pass_is_ordered_again(reason: str) -> None:
    assert final_refusal(refused(alpha=reason, beta=reason), cohort=2, needed=2) is None


@pytest.mark.parametrize("reason", sorted(LASTING))
def test_what_lasts_is_not(reason: RefusalReason) -> None:
    final = final_refusal(refused(alpha=reason, beta="busy"), cohort=2, needed=2)
    assert final is not None
    assert (final.reason, final.message) == (reason, f"alpha refused it ({reason}): {reason} at alpha")
    assert final.hint
    assert can_resume(final) == (reason != "budget")
