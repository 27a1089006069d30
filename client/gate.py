"""The gate: every order is checked against agreement and policy before any data is touched.

Pure: an order and the time in, nothing or a :class:`~tacit.errors.Refusal` out. What needs more than that is
checked by others, also before data is touched: the budget and repeated steps by the ledger, the adapter's
layout, length and starting state by the site agent, which holds the model (see :data:`CHECKED_ELSEWHERE`).

A refusal's message travels to the coordinator. It quotes order, agreement and policy, and never the data.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from client.agreement_rules import (
    adapter_is_allowed,
    agreement_is_approved,
    agreement_is_the_one_named,
    agreement_is_valid_now,
    base_model_is_the_agreed_one,
    counters_are_consistent,
    deadline_is_sane,
    run_is_short_enough,
    runs_are_accepted,
    strategy_is_allowed,
    task_is_the_agreed_one,
)
from client.gate_situation import Rule, Situation
from client.privacy_rules import (
    clip_is_tight_enough,
    cohort_is_agreed,
    cohort_is_large_enough,
    contributions_are_bounded,
    data_are_kept_by_the_unit,
    guarantee_is_the_agreed_one,
    noise_is_enough,
    noise_is_secret,
    noise_shares_fit_the_grid,
    normaliser_is_public,
    ring_does_not_wrap,
    sampling_is_sparse_enough,
    steps_are_those_of_the_mode,
    texts_are_deidentified,
    threshold_protects,
    weights_are_agreed,
)
from privacy.agreement import VerifiedAgreement
from privacy.events import PrivacyUnit
from privacy.order import Order
from privacy.policy import Limits, SitePolicy, effective_limits
from tacit.errors import AgreementError, ConfigError

#: Fields of an order that no rule here reads, and who checks them, or why nobody needs to.
CHECKED_ELSEWHERE: Final = {
    "tacit_order": "the order's type admits one version",
    "run_id": "the ledger: one reservation for each (run, round, step)",
    "run_name": "a label for people; decides nothing",
    "seen_heads": "the agent compares them with its ledger, which must continue the one this site signed",
    "adapter_layout_digest": "the agent compares it with the model it built",
    "adapter_state_digest": "the agent compares it with the vector it received",
    "adapter_length": "the agent compares it with the model it built",
    "lora.alpha": "a constant factor inside the model; the clip norm bounds its effect",
    "lora.freeze_a": "trains and sends less than what is agreed",
    "training.local_steps": "the ledger composes all steps before the first",
    "training.learning_rate": "scales what is already private",
    "training.schedule": "scales what is already private",
    "training.warmup_steps": "scales what is already private",
    "training.momentum": "combines what is already private",
    "training.adam": "combines what is already private",
    "training.clipping": "the whole gradient's clip norm stays what it is",
    "training.layer_weights": "the whole gradient's clip norm stays what it is",
    "training.max_tokens": "the order's type bounds it; every record is cut alike",
}


class Gate:
    """A site's gate for one agreement.

    Args:
        agreement: from :func:`privacy.agreement.verify`.
        policy: the site's own, stricter limits.
        site: this site's name, from its certificate.
        data_unit: what the site's data are kept by: a user where they were read with a key column, else a record.

    Raises:
        AgreementError: the agreement's digest is not the one that was verified.
        ConfigError: the site is not a partner, or the policy is another site's.
    """

    def __init__(self, agreement: VerifiedAgreement, policy: SitePolicy, site: str, *, data_unit: PrivacyUnit) -> None:
        if policy.site != site:
            raise ConfigError(
                f"the policy is for site {policy.site!r}, and this is site {site!r}",
                hint="write this site's own policy.yaml: tacit site init",
            )
        if agreement.agreement.digest() != agreement.digest:
            raise AgreementError(
                f"the agreement has digest {agreement.agreement.digest()}, verified was {agreement.digest}",
                hint="verify the agreement again",
            )
        #: the budget that counts here: the stricter of agreement and policy
        self.limits: Limits = effective_limits(agreement.agreement, policy)
        self._agreement = agreement
        self._policy = policy
        self._site = site
        self._data_unit = data_unit

    def check(self, order: Order, *, now: datetime) -> None:
        """Return if the order may be carried out at ``now``.

        Args:
            order: as received.
            now: the current time, with time zone.

        Raises:
            Refusal: the first rule the order breaks, with its typed reason.
        """
        situation = Situation(self._agreement, self._policy, self._site, self._data_unit, now)
        for rule in RULES:
            rule(order, situation)


#: Asked in this order; the first that is broken is the refusal.
RULES: Final[tuple[Rule, ...]] = (
    agreement_is_the_one_named,
    agreement_is_valid_now,
    agreement_is_approved,
    runs_are_accepted,
    texts_are_deidentified,
    counters_are_consistent,
    run_is_short_enough,
    deadline_is_sane,
    strategy_is_allowed,
    task_is_the_agreed_one,
    base_model_is_the_agreed_one,
    adapter_is_allowed,
    guarantee_is_the_agreed_one,
    contributions_are_bounded,
    data_are_kept_by_the_unit,
    noise_is_enough,
    noise_is_secret,
    clip_is_tight_enough,
    sampling_is_sparse_enough,
    normaliser_is_public,
    cohort_is_agreed,
    cohort_is_large_enough,
    threshold_protects,
    ring_does_not_wrap,
    weights_are_agreed,
    steps_are_those_of_the_mode,
    noise_shares_fit_the_grid,
)
