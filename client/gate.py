"""The gate: every order is checked against agreement and policy before any data is touched.

Pure: an order and the time in, nothing or a :class:`~tacit.errors.Refusal` out. What needs more than that is
checked by others, also before data is touched: the budget and repeated steps by the ledger, the adapter's
layout, length and starting state by the site agent, which holds the model (see :data:`CHECKED_ELSEWHERE`).

A refusal's message travels to the coordinator. It quotes order, agreement and policy, and never the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from privacy.agreement import VerifiedAgreement, check_valid_at
from privacy.events import PrivacyMode, PrivacyUnit, check_guarantee, kept_by
from privacy.noise_shares import ShareGrid
from privacy.order import Order, WeightSpec
from privacy.policy import Limits, SitePolicy, effective_limits
from privacy.secagg.encoding import check_range
from privacy.secagg.threshold import check_threshold
from privacy.terms import Agreement
from tacit.errors import AgreementError, ConfigError, InputError, Refusal, RefusalReason, SecAggError, TrainingError

MIN_DEADLINE_S: Final = 1.0
MAX_DEADLINE_S: Final = 86_400.0

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


@dataclass(frozen=True)
class _Situation:
    """Everything a rule may look at besides the order."""

    verified: VerifiedAgreement
    policy: SitePolicy
    site: str
    data_unit: PrivacyUnit
    now: datetime

    @property
    def agreement(self) -> Agreement:
        return self.verified.agreement


Rule = Callable[[Order, _Situation], None]


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
        situation = _Situation(self._agreement, self._policy, self._site, self._data_unit, now)
        for rule in RULES:
            rule(order, situation)


def _agreement_is_the_one_named(order: Order, at: _Situation) -> None:
    if order.agreement_digest != at.verified.digest:
        raise Refusal(
            RefusalReason.AGREEMENT_MISMATCH,
            f"the order names agreement {order.agreement_digest}, this site signed {at.verified.digest}",
            hint="coordinator and sites must hold the same signed file",
        )


def _agreement_is_valid_now(_order: Order, at: _Situation) -> None:
    try:
        check_valid_at(at.agreement, at.now)
    except AgreementError as error:
        raise Refusal(RefusalReason.AGREEMENT_EXPIRED, error.message, hint=error.hint) from error


def _agreement_is_approved(_order: Order, at: _Situation) -> None:
    approved, required = at.verified.approved_by, at.agreement.approvals.required
    if len(set(approved) & set(at.agreement.partner_names())) < required:
        raise Refusal(
            RefusalReason.AGREEMENT_NOT_APPROVED,
            f"the agreement has {len(approved)} signatures, it requires {required}",
        )
    if at.site not in approved:
        raise Refusal(
            RefusalReason.AGREEMENT_NOT_APPROVED,
            f"{at.site!r} itself has not signed the agreement",
            hint="the data steward signs with: tacit agreement sign AGREEMENT --pki FOLDER",
        )


def _runs_are_accepted(_order: Order, at: _Situation) -> None:
    if not at.policy.accept_runs:
        raise Refusal(
            RefusalReason.POLICY,
            "this site accepts no runs",
            hint="the data steward opens the site with accept_runs: true in policy.yaml",
        )


def _counters_are_consistent(order: Order, _at: _Situation) -> None:
    # A step is one attempt, so there were never more rounds or key epochs than steps.
    if order.round > order.step or order.epoch > order.step:
        raise Refusal(
            RefusalReason.ORDER_MALFORMED,
            f"round {order.round} and epoch {order.epoch} must not exceed step {order.step}",
        )


def _run_is_short_enough(order: Order, at: _Situation) -> None:
    if order.rounds_planned > at.policy.max_rounds_per_run:
        raise Refusal(
            RefusalReason.POLICY,
            f"a run of {order.rounds_planned} rounds was ordered, this site takes part in at most "
            f"{at.policy.max_rounds_per_run}",
        )


def _deadline_is_sane(order: Order, _at: _Situation) -> None:
    if not MIN_DEADLINE_S <= order.deadline_s <= MAX_DEADLINE_S:
        raise Refusal(
            RefusalReason.ORDER_MALFORMED,
            f"deadline_s is {order.deadline_s:g}, expected {MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:g}",
        )


def _strategy_is_allowed(order: Order, at: _Situation) -> None:
    if order.strategy not in at.agreement.strategies:
        raise Refusal(
            RefusalReason.STRATEGY_NOT_ALLOWED,
            f"strategy {order.strategy!r} was ordered, agreed: {', '.join(at.agreement.strategies)}",
        )
    if order.strategy not in at.policy.allowed_strategies:
        raise Refusal(
            RefusalReason.POLICY,
            f"strategy {order.strategy!r} was ordered, this site allows: "
            f"{', '.join(at.policy.allowed_strategies) or 'none'}",
        )


def _task_is_the_agreed_one(order: Order, at: _Situation) -> None:
    if order.labels != at.agreement.task.labels:
        raise Refusal(
            RefusalReason.TASK_MISMATCH,
            f"the order's {len(order.labels)} labels are not the agreed "
            f"{len(at.agreement.task.labels)} in the agreed order",
        )


def _base_model_is_the_agreed_one(order: Order, at: _Situation) -> None:
    if order.base_model_digest != at.agreement.base_model.digest:
        raise Refusal(
            RefusalReason.MODEL_MISMATCH,
            f"the order names base model {order.base_model_digest}, agreed: {at.agreement.base_model.name} "
            f"with {at.agreement.base_model.digest}",
        )


def _adapter_is_allowed(order: Order, at: _Situation) -> None:
    terms = at.agreement.adapter
    surplus = [target for target in order.lora.targets if target not in terms.targets]
    if surplus:
        raise Refusal(
            RefusalReason.ADAPTER_NOT_ALLOWED,
            f"adapters on {', '.join(surplus)} were ordered, agreed: {', '.join(terms.targets)}",
        )
    if order.lora.rank > terms.max_rank:
        raise Refusal(
            RefusalReason.ADAPTER_NOT_ALLOWED,
            f"rank {order.lora.rank} was ordered, agreed: at most {terms.max_rank}",
        )


def _guarantee_is_the_agreed_one(order: Order, at: _Situation) -> None:
    terms = at.agreement.privacy
    if order.mode not in terms.modes:
        raise _privacy(f"mode {order.mode.value!r} was ordered, agreed: {', '.join(terms.modes)}")
    if order.unit != terms.unit:
        raise _privacy(f"privacy unit {order.unit.value!r} was ordered, agreed: {terms.unit.value!r}")
    if order.adjacency != terms.adjacency:
        raise _privacy(f"adjacency {order.adjacency.value!r} was ordered, agreed: {terms.adjacency.value!r}")
    try:
        check_guarantee(order.mode, order.unit, order.adjacency)
    except InputError as error:
        raise Refusal(RefusalReason.PRIVACY_PARAMETERS, error.message, hint=error.hint) from error


def _contributions_are_bounded(order: Order, at: _Situation) -> None:
    ordered, agreed = order.training.max_records_per_user, at.agreement.privacy.max_records_per_user
    if ordered != agreed:
        raise _privacy(f"max_records_per_user {ordered} was ordered, agreed: {agreed}")


def _data_are_kept_by_the_unit(_order: Order, at: _Situation) -> None:
    agreed = at.agreement.privacy.unit
    if at.data_unit is not kept_by(agreed):
        raise Refusal(
            RefusalReason.DATA,
            f"the agreement protects each {agreed.value}, and this site's data are kept by {at.data_unit.value}",
            hint="the site's key column says whose a record is: key_column in [data] of site.toml",
        )


def _noise_is_enough(order: Order, at: _Situation) -> None:
    noise, agreed = order.training.noise_multiplier, at.agreement.privacy.min_noise_multiplier
    if noise < agreed:
        raise _privacy(f"noise_multiplier {noise:g} was ordered, agreed: at least {agreed:g}")
    if noise < at.policy.min_noise_multiplier:
        raise Refusal(
            RefusalReason.POLICY,
            f"noise_multiplier {noise:g} was ordered, this site asks for at least {at.policy.min_noise_multiplier:g}",
        )


def _clip_is_tight_enough(order: Order, at: _Situation) -> None:
    clip, agreed = order.training.l2_clip_norm, at.agreement.privacy.max_l2_clip_norm
    if clip > agreed:
        raise _privacy(f"l2_clip_norm {clip:g} was ordered, agreed: at most {agreed:g}")
    adaptive = order.training.adaptive_clipping
    if adaptive is not None and adaptive.max_l2_clip_norm > agreed:
        raise _privacy(
            f"clipping that adapts up to {adaptive.max_l2_clip_norm:g} was ordered, agreed: at most {agreed:g}"
        )


def _sampling_is_sparse_enough(order: Order, at: _Situation) -> None:
    rate, agreed = order.training.sample_rate, at.agreement.privacy.max_sample_rate
    if rate > agreed:
        raise _privacy(f"sample_rate {rate:g} was ordered, agreed: at most {agreed:g}")


def _normaliser_is_public(order: Order, at: _Situation) -> None:
    # Any other normaliser could only have come from somewhere that is not agreed, such as a site's true size.
    batch = order.training.expected_batch_size
    expected = order.training.sample_rate * at.agreement.privacy.public_dataset_size
    if not math.isclose(batch, expected, rel_tol=1e-9):
        raise _privacy(
            f"expected_batch_size {batch!r} was ordered, expected {expected!r}, "
            "which is sample_rate * public_dataset_size"
        )


def _cohort_is_agreed(order: Order, at: _Situation) -> None:
    cohort = order.secagg.cohort
    strangers = sorted(set(cohort) - set(at.agreement.partner_names()))
    if strangers:
        raise Refusal(RefusalReason.COHORT, f"not partners of the agreement: {', '.join(strangers)}")
    if at.site not in cohort:
        raise Refusal(RefusalReason.COHORT, f"the cohort {', '.join(cohort)} does not contain this site, {at.site!r}")


def _cohort_is_large_enough(order: Order, at: _Situation) -> None:
    ordered, agreed = order.secagg.min_cohort, at.agreement.secure_aggregation.min_cohort
    if ordered < agreed:
        raise Refusal(RefusalReason.COHORT, f"min_cohort {ordered} was ordered, agreed: at least {agreed}")
    if ordered < at.policy.min_cohort:
        raise Refusal(
            RefusalReason.POLICY,
            f"min_cohort {ordered} was ordered, this site asks for at least {at.policy.min_cohort}",
        )
    if len(order.secagg.cohort) < ordered:
        raise Refusal(
            RefusalReason.COHORT,
            f"the cohort has {len(order.secagg.cohort)} sites, fewer than its own min_cohort {ordered}",
        )


def _threshold_protects(order: Order, at: _Situation) -> None:
    try:
        check_threshold(
            len(order.secagg.cohort),
            order.secagg.threshold,
            at.agreement.secure_aggregation.collusion_bound,
        )
    except SecAggError as error:
        raise Refusal(RefusalReason.THRESHOLD, error.message, hint=error.hint) from error


def _ring_does_not_wrap(order: Order, at: _Situation) -> None:
    if order.secagg.ring_bits != at.agreement.secure_aggregation.ring_bits:
        raise _privacy(
            f"ring_bits {order.secagg.ring_bits} was ordered, agreed: {at.agreement.secure_aggregation.ring_bits}"
        )
    secagg = order.secagg
    try:
        check_range(secagg.scale, secagg.value_bound, len(secagg.cohort), secagg.ring_bits)
    except SecAggError as error:
        raise Refusal(RefusalReason.ORDER_MALFORMED, error.message, hint=error.hint) from error


def _weights_are_agreed(order: Order, at: _Situation) -> None:
    ordered, agreed = order.secagg.weights, at.agreement.secure_aggregation.weights
    if ordered != agreed:
        raise _privacy(f"weights {_in_words(ordered)} were ordered, agreed: {_in_words(agreed)}")
    if ordered is not None and at.policy.weight is None:
        raise Refusal(
            RefusalReason.POLICY,
            "sums are weighted, and this site's policy declares no weight",
            hint="the data steward writes weight: NUMBER into policy.yaml",
        )


def _steps_are_those_of_the_mode(order: Order, _at: _Situation) -> None:
    # in mode joint every gradient is summed, in the others only what came of all local steps
    expected = order.training.local_steps if order.mode is PrivacyMode.JOINT else 1
    if order.secagg.steps != expected:
        raise Refusal(
            RefusalReason.ORDER_MALFORMED,
            f"{order.secagg.steps} secure steps were ordered for {order.training.local_steps} steps of training in "
            f"mode {order.mode.value}, which has {expected} in a round",
        )


def _noise_shares_fit_the_grid(order: Order, at: _Situation) -> None:
    if order.mode is PrivacyMode.LOCAL:
        return
    if order.secagg.weights is not None:
        raise Refusal(RefusalReason.ORDER_MALFORMED, f"weighted sums were ordered in mode {order.mode}, which has none")
    try:
        grid = ShareGrid.of(order, at.agreement.secure_aggregation.collusion_bound)
        grid.sum_bound(order.training)
    except TrainingError as error:
        raise Refusal(RefusalReason.ORDER_MALFORMED, error.message, hint=error.hint) from error


def _in_words(weights: WeightSpec | None) -> str:
    return "none" if weights is None else f"up to {weights.cap} in steps of {weights.bin}"


def _noise_is_secret(order: Order, at: _Situation) -> None:
    if order.test_noise_seed is None:
        return
    if not at.agreement.testing:
        raise Refusal(
            RefusalReason.NOISE_SEED,
            "the order gives a seed for the noise, and the agreement is not for testing",
            hint="leave the test seed out; noise that can be reproduced protects nothing",
        )
    if not at.policy.allow_testing:
        raise Refusal(
            RefusalReason.NOISE_SEED,
            "the order gives a seed for the noise, and this site's policy does not allow testing",
        )


def _texts_are_deidentified(_order: Order, at: _Situation) -> None:
    if at.policy.require_deidentification and at.agreement.deidentification.profile == "none":
        raise Refusal(
            RefusalReason.POLICY,
            "the agreement has no de-identification, and this site requires it",
        )


def _privacy(message: str) -> Refusal:
    return Refusal(RefusalReason.PRIVACY_PARAMETERS, message)


#: Asked in this order; the first that is broken is the refusal.
RULES: Final[tuple[Rule, ...]] = (
    _agreement_is_the_one_named,
    _agreement_is_valid_now,
    _agreement_is_approved,
    _runs_are_accepted,
    _texts_are_deidentified,
    _counters_are_consistent,
    _run_is_short_enough,
    _deadline_is_sane,
    _strategy_is_allowed,
    _task_is_the_agreed_one,
    _base_model_is_the_agreed_one,
    _adapter_is_allowed,
    _guarantee_is_the_agreed_one,
    _contributions_are_bounded,
    _data_are_kept_by_the_unit,
    _noise_is_enough,
    _noise_is_secret,
    _clip_is_tight_enough,
    _sampling_is_sparse_enough,
    _normaliser_is_public,
    _cohort_is_agreed,
    _cohort_is_large_enough,
    _threshold_protects,
    _ring_does_not_wrap,
    _weights_are_agreed,
    _steps_are_those_of_the_mode,
    _noise_shares_fit_the_grid,
)
