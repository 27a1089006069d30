"""The gate's rules about what was agreed besides privacy: the agreement itself, the run, the task, the adapter."""

from __future__ import annotations

from typing import Final

from client.gate_situation import Situation
from privacy.agreement import check_valid_at
from privacy.order import Order
from tacit.errors import AgreementError, Refusal, RefusalReason

MIN_DEADLINE_S: Final = 1.0
MAX_DEADLINE_S: Final = 86_400.0


def agreement_is_the_one_named(order: Order, at: Situation) -> None:
    if order.agreement_digest != at.verified.digest:
        raise Refusal(
            RefusalReason.AGREEMENT_MISMATCH,
            f"the order names agreement {order.agreement_digest}, this site signed {at.verified.digest}",
            hint="coordinator and sites must hold the same signed file",
        )


def agreement_is_valid_now(_order: Order, at: Situation) -> None:
    try:
        check_valid_at(at.agreement, at.now)
    except AgreementError as error:
        raise Refusal(RefusalReason.AGREEMENT_EXPIRED, error.message, hint=error.hint) from error


def agreement_is_approved(_order: Order, at: Situation) -> None:
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


def runs_are_accepted(_order: Order, at: Situation) -> None:
    if not at.policy.accept_runs:
        raise Refusal(
            RefusalReason.POLICY,
            "this site accepts no runs",
            hint="the data steward opens the site with accept_runs: true in policy.yaml",
        )


def counters_are_consistent(order: Order, _at: Situation) -> None:
    # A step is one attempt, so there were never more rounds or key epochs than steps.
    if order.round > order.step or order.epoch > order.step:
        raise Refusal(
            RefusalReason.ORDER_MALFORMED,
            f"round {order.round} and epoch {order.epoch} must not exceed step {order.step}",
        )


def run_is_short_enough(order: Order, at: Situation) -> None:
    if order.rounds_planned > at.policy.max_rounds_per_run:
        raise Refusal(
            RefusalReason.POLICY,
            f"a run of {order.rounds_planned} rounds was ordered, this site takes part in at most "
            f"{at.policy.max_rounds_per_run}",
        )


def deadline_is_sane(order: Order, _at: Situation) -> None:
    if not MIN_DEADLINE_S <= order.deadline_s <= MAX_DEADLINE_S:
        raise Refusal(
            RefusalReason.ORDER_MALFORMED,
            f"deadline_s is {order.deadline_s:g}, expected {MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:g}",
        )


def strategy_is_allowed(order: Order, at: Situation) -> None:
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


def task_is_the_agreed_one(order: Order, at: Situation) -> None:
    if order.labels != at.agreement.task.labels:
        raise Refusal(
            RefusalReason.TASK_MISMATCH,
            f"the order's {len(order.labels)} labels are not the agreed "
            f"{len(at.agreement.task.labels)} in the agreed order",
        )


def base_model_is_the_agreed_one(order: Order, at: Situation) -> None:
    if order.base_model_digest != at.agreement.base_model.digest:
        raise Refusal(
            RefusalReason.MODEL_MISMATCH,
            f"the order names base model {order.base_model_digest}, agreed: {at.agreement.base_model.name} "
            f"with {at.agreement.base_model.digest}",
        )


def adapter_is_allowed(order: Order, at: Situation) -> None:
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
