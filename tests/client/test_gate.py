"""The gate: one test for every rule and field, each a valid order in which exactly one thing was changed."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import client.gate
from client.agreement_rules import MAX_DEADLINE_S, MIN_DEADLINE_S
from client.gate import CHECKED_ELSEWHERE, RULES, Gate
from privacy.agreement import VerifiedAgreement
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.order import Order
from privacy.policy import SitePolicy
from privacy.terms import Agreement
from tacit.errors import AgreementError, ConfigError, Refusal, RefusalReason

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PARTNERS = tuple(f"site-{index}" for index in range(1, 8))
SITE = "site-3"

TERMS: dict[str, Any] = {
    "tacit_agreement": 1,
    "consortium": "demo",
    "title": "Intent classification",
    "purpose": "Recognise what customers ask for.",
    "legal_basis": "GDPR Art. 6(1)(f)",
    "ca_fingerprint": "sha256:" + "c" * 64,
    "partners": [
        {"name": name, "identity_key": base64.b64encode(bytes([index]) * 32).decode()}
        for index, name in enumerate(PARTNERS)
    ],
    "coordinator": {"name": "hub", "identity_key": base64.b64encode(bytes([99]) * 32).decode()},
    "task": {"kind": "sequence-classification", "labels": ["lost", "transfer", "other"]},
    "base_model": {"name": "package:tiny", "digest": "sha256:" + "b" * 64},
    "adapter": {"kind": "lora", "targets": ["query", "value"], "max_rank": 8},
    "strategies": ["fedavg", "fedprox"],
    "privacy": {
        "modes": ["local"],
        "unit": "record",
        "adjacency": "add-remove",
        "delta": 1e-5,
        "epsilon_per_run": 4.0,
        "epsilon_lifetime": 8.0,
        "min_noise_multiplier": 0.8,
        "max_l2_clip_norm": 1.0,
        "max_sample_rate": 0.1,
        "public_dataset_size": 1000,
        "max_records_per_user": None,
    },
    "secure_aggregation": {"min_cohort": 4, "collusion_bound": 2, "ring_bits": 32, "weights": None},
    "deidentification": {"profile": "standard-v1"},
    "residency": ["EU"],
    "retention_days": 90,
    "release": {"scope": "partners"},
    "valid_from": "2026-01-01T00:00:00Z",
    "valid_until": "2027-01-01T00:00:00Z",
    "approvals": {"required": 5},
    "testing": False,
}

POLICY: dict[str, Any] = {
    "tacit_policy": 1,
    "site": SITE,
    "epsilon_lifetime_max": 6.0,
    "epsilon_per_run_max": 5.0,
    "min_noise_multiplier": 1.0,
    "max_rounds_per_run": 20,
    "allowed_strategies": ["fedavg"],
    "accept_runs": True,
    "require_deidentification": True,
    "allow_testing": False,
    "min_cohort": 5,
    "weight": None,
}

AGREEMENT = Agreement.model_validate(TERMS)

# The cohort has 6 of the 7 partners. With c = 2, t = 5 gives 2t - n = 4 > 2 and t - c = 3 >= 2.
ORDER: dict[str, Any] = {
    "tacit_order": 1,
    "run_id": "0123456789abcdef",
    "run_name": "first",
    "epoch": 3,
    "round": 3,
    "rounds_planned": 6,
    "step": 4,
    "strategy": "fedavg",
    "mode": "local",
    "unit": "record",
    "adjacency": "add-remove",
    "agreement_digest": AGREEMENT.digest(),
    "base_model_digest": "sha256:" + "b" * 64,
    "adapter_layout_digest": "sha256:" + "d" * 64,
    "adapter_state_digest": "sha256:" + "e" * 64,
    "adapter_length": 1000,
    "lora": {"rank": 8, "alpha": 16.0, "targets": ["query", "value"], "freeze_a": False},
    "labels": ["lost", "transfer", "other"],
    "training": {
        "local_steps": 10,
        "sample_rate": 0.1,
        "expected_batch_size": 100.0,
        "noise_multiplier": 1.0,
        "l2_clip_norm": 1.0,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "max_tokens": 64,
        "adaptive_clipping": None,
        "max_records_per_user": None,
    },
    "secagg": {
        "cohort": list(PARTNERS[:6]),
        "threshold": 5,
        "min_cohort": 5,
        "steps": 1,
        "weights": None,
        "ring_bits": 32,
        "scale": 65536.0,
        "value_bound": 16.0,
    },
    "deadline_s": 600.0,
    "seen_heads": [],
    "test_noise_seed": None,
}


def changed(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``data`` with ``{"dotted.path": value}`` put in."""
    result = copy.deepcopy(data)
    for path, value in changes.items():
        *parents, last = path.split(".")
        target = result
        for parent in parents:
            target = target[parent]
        assert last in target, path
        target[last] = value
    return result


def gate(
    terms: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    *,
    approved_by: tuple[str, ...] = PARTNERS,
    data_unit: PrivacyUnit = PrivacyUnit.RECORD,
) -> Gate:
    agreement = Agreement.model_validate(changed(TERMS, terms or {}))
    verified = VerifiedAgreement(agreement=agreement, digest=agreement.digest(), approved_by=approved_by)
    return Gate(verified, SitePolicy.model_validate(changed(POLICY, policy or {})), SITE, data_unit=data_unit)


def order(**changes: Any) -> Order:
    return Order.model_validate(changed(ORDER, {path.replace("__", "."): value for path, value in changes.items()}))


def refusal(gate: Gate, order: Order, now: datetime = NOW) -> Refusal:
    with pytest.raises(Refusal) as caught:
        gate.check(order, now=now)
    return caught.value


def test_an_order_within_agreement_and_policy_is_accepted() -> None:
    gate().check(order(), now=NOW)


#: (changes of the order, reason, part of the message, the rule that says no)
BROKEN_ORDERS: list[tuple[dict[str, Any], RefusalReason, str, str]] = [
    (
        {"agreement_digest": "sha256:" + "0" * 64},
        RefusalReason.AGREEMENT_MISMATCH,
        AGREEMENT.digest(),
        "agreement_is_the_one_named",
    ),
    ({"round": 5, "epoch": 1}, RefusalReason.ORDER_MALFORMED, "round 5", "counters_are_consistent"),
    ({"step": 2, "epoch": 1}, RefusalReason.ORDER_MALFORMED, "step 2", "counters_are_consistent"),
    ({"epoch": 5}, RefusalReason.ORDER_MALFORMED, "epoch 5", "counters_are_consistent"),
    ({"rounds_planned": 21}, RefusalReason.POLICY, "at most 20", "run_is_short_enough"),
    ({"deadline_s": 0.9}, RefusalReason.ORDER_MALFORMED, "deadline_s", "deadline_is_sane"),
    ({"deadline_s": 86_401.0}, RefusalReason.ORDER_MALFORMED, "deadline_s", "deadline_is_sane"),
    ({"strategy": "fedadam"}, RefusalReason.STRATEGY_NOT_ALLOWED, "agreed: fedavg, fedprox", "strategy_is_allowed"),
    ({"strategy": "fedprox"}, RefusalReason.POLICY, "this site allows: fedavg", "strategy_is_allowed"),
    ({"labels": ["lost", "transfer"]}, RefusalReason.TASK_MISMATCH, "2 labels", "task_is_the_agreed_one"),
    (
        {"labels": ["transfer", "lost", "other"]},
        RefusalReason.TASK_MISMATCH,
        "in the agreed order",
        "task_is_the_agreed_one",
    ),
    (
        {"base_model_digest": "sha256:" + "0" * 64},
        RefusalReason.MODEL_MISMATCH,
        "package:tiny",
        "base_model_is_the_agreed_one",
    ),
    (
        {"lora.targets": ["query", "key", "dense"]},
        RefusalReason.ADAPTER_NOT_ALLOWED,
        "adapters on key, dense",
        "adapter_is_allowed",
    ),
    ({"lora.rank": 9}, RefusalReason.ADAPTER_NOT_ALLOWED, "at most 8", "adapter_is_allowed"),
    (
        {"training.noise_multiplier": 0.79},
        RefusalReason.PRIVACY_PARAMETERS,
        "agreed: at least 0.8",
        "noise_is_enough",
    ),
    ({"training.noise_multiplier": 0.99}, RefusalReason.POLICY, "asks for at least 1", "noise_is_enough"),
    ({"training.l2_clip_norm": 1.01}, RefusalReason.PRIVACY_PARAMETERS, "at most 1", "clip_is_tight_enough"),
    (
        {"training.adaptive_clipping": {"count_noise_stddev": 5.0, "min_l2_clip_norm": 0.1, "max_l2_clip_norm": 1.01}},
        RefusalReason.PRIVACY_PARAMETERS,
        "adapts up to 1.01 was ordered, agreed: at most 1",
        "clip_is_tight_enough",
    ),
    (
        {"training.sample_rate": 0.11, "training.expected_batch_size": 110.0},
        RefusalReason.PRIVACY_PARAMETERS,
        "at most 0.1",
        "sampling_is_sparse_enough",
    ),
    (
        {"training.expected_batch_size": 100.000001},
        RefusalReason.PRIVACY_PARAMETERS,
        "public_dataset_size",
        "normaliser_is_public",
    ),
    (
        {"training.sample_rate": 0.05},
        RefusalReason.PRIVACY_PARAMETERS,
        "expected 50.0",
        "normaliser_is_public",
    ),
    (
        {"secagg.cohort": ["site-1", "site-2", "site-3", "site-4", "site-5", "stranger"]},
        RefusalReason.COHORT,
        "stranger",
        "cohort_is_agreed",
    ),
    (
        {"secagg.cohort": ["site-1", "site-2", "site-4", "site-5", "site-6", "site-7"]},
        RefusalReason.COHORT,
        "does not contain this site, 'site-3'",
        "cohort_is_agreed",
    ),
    ({"secagg.min_cohort": 3}, RefusalReason.COHORT, "agreed: at least 4", "cohort_is_large_enough"),
    ({"secagg.min_cohort": 4}, RefusalReason.POLICY, "at least 5", "cohort_is_large_enough"),
    ({"secagg.min_cohort": 7}, RefusalReason.COHORT, "fewer than its own", "cohort_is_large_enough"),
    ({"secagg.steps": 2}, RefusalReason.ORDER_MALFORMED, "2 secure steps", "steps_are_those_of_the_mode"),
    (
        {"secagg.weights": {"cap": 10, "bin": 5}},
        RefusalReason.PRIVACY_PARAMETERS,
        "weights up to 10 in steps of 5 were ordered, agreed: none",
        "weights_are_agreed",
    ),
    ({"secagg.threshold": 4}, RefusalReason.THRESHOLD, "2t - n > c", "threshold_protects"),
    ({"secagg.threshold": 7}, RefusalReason.THRESHOLD, "cannot be reached", "threshold_protects"),
    ({"secagg.scale": 22369622.0}, RefusalReason.ORDER_MALFORMED, "32-bit ring", "ring_does_not_wrap"),
    ({"secagg.value_bound": 5461.4}, RefusalReason.ORDER_MALFORMED, "32-bit ring", "ring_does_not_wrap"),
    ({"test_noise_seed": 0}, RefusalReason.NOISE_SEED, "not for testing", "noise_is_secret"),
]


@pytest.mark.parametrize(
    ("changes", "reason", "match", "rule"),
    BROKEN_ORDERS,
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_an_order_with_one_thing_wrong_is_refused(
    changes: dict[str, Any], reason: RefusalReason, match: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Order.model_validate(changed(ORDER, changes))
    refused = refusal(gate(), broken)
    assert refused.reason is reason
    assert match in refused.message
    # Exactly this rule says no: without it the order would be carried out.
    others = tuple(each for each in RULES if each.__name__ != rule)
    assert len(others) == len(RULES) - 1
    monkeypatch.setattr(client.gate, "RULES", others)
    gate().check(broken, now=NOW)


#: (changes of the agreement, changes of the policy, further arguments, reason, part of the message, the rule)
CLOSED_GATES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], RefusalReason, str, str]] = [
    ({}, {"accept_runs": False}, {}, RefusalReason.POLICY, "accepts no runs", "runs_are_accepted"),
    (
        {},
        {"allowed_strategies": []},
        {},
        RefusalReason.POLICY,
        "this site allows: none",
        "strategy_is_allowed",
    ),
    (
        {"deidentification.profile": "none"},
        {},
        {},
        RefusalReason.POLICY,
        "this site requires it",
        "texts_are_deidentified",
    ),
    (
        {},
        {},
        {"approved_by": PARTNERS[:4]},
        RefusalReason.AGREEMENT_NOT_APPROVED,
        "4 signatures, it requires 5",
        "agreement_is_approved",
    ),
    (
        {},
        {},
        {"approved_by": tuple(name for name in PARTNERS if name != SITE)},
        RefusalReason.AGREEMENT_NOT_APPROVED,
        "'site-3' itself has not signed",
        "agreement_is_approved",
    ),
    (
        {"secure_aggregation.collusion_bound": 4},
        {},
        {},
        RefusalReason.THRESHOLD,
        "t - c >= 2",
        "threshold_protects",
    ),
]


@pytest.mark.parametrize(("terms", "policy", "more", "reason", "match", "rule"), CLOSED_GATES)
def test_a_valid_order_is_refused_at_a_closed_gate(
    terms: dict[str, Any],
    policy: dict[str, Any],
    more: dict[str, Any],
    reason: RefusalReason,
    match: str,
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = gate(terms, policy, **more)
    asked = order(agreement_digest=Agreement.model_validate(changed(TERMS, terms)).digest())
    refused = refusal(closed, asked)
    assert refused.reason is reason
    assert match in refused.message
    monkeypatch.setattr(client.gate, "RULES", tuple(each for each in RULES if each.__name__ != rule))
    closed.check(asked, now=NOW)


@pytest.mark.parametrize(
    ("now", "accepted"),
    [
        (datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC), False),
        (datetime(2026, 1, 1, tzinfo=UTC), True),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), True),
        (datetime(2027, 1, 1, tzinfo=UTC), False),
        (datetime(2027, 1, 1, 1, tzinfo=UTC).astimezone(), False),
    ],
)
def test_the_agreement_must_be_valid_now(now: datetime, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if accepted:
        gate().check(order(), now=now)
    else:
        assert refusal(gate(), order(), now).reason is RefusalReason.AGREEMENT_EXPIRED
        monkeypatch.setattr(
            client.gate, "RULES", tuple(each for each in RULES if each.__name__ != "agreement_is_valid_now")
        )
        gate().check(order(), now=now)


def test_a_time_without_zone_opens_nothing() -> None:
    with pytest.raises(TypeError):
        gate().check(order(), now=NOW.replace(tzinfo=None))


def test_an_order_under_another_guarantee_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Today each of mode, unit and adjacency has one value; a second one must still not pass."""
    for field in ("mode", "unit", "adjacency"):
        other = order().model_copy(update={field: _Other(f"other-{field}")})
        refused = refusal(gate(), other)
        assert refused.reason is RefusalReason.PRIVACY_PARAMETERS
        assert f"other-{field}" in refused.message
    without = tuple(each for each in RULES if each.__name__ != "guarantee_is_the_agreed_one")
    monkeypatch.setattr(client.gate, "RULES", without)
    gate().check(order().model_copy(update={"mode": _Other("x"), "unit": _Other("y")}), now=NOW)


class _Other(str):
    """A value of an enumeration to come."""

    @property
    def value(self) -> str:
        return str(self)


def test_another_ring_is_refused() -> None:
    secagg = order().secagg.model_copy(update={"ring_bits": 64})
    refused = refusal(gate(), order().model_copy(update={"secagg": secagg}))
    assert refused.reason is RefusalReason.PRIVACY_PARAMETERS
    assert "ring_bits 64" in refused.message


def test_weighted_sums_need_the_agreed_weights_and_a_declared_one() -> None:
    agreed = {"cap": 100, "bin": 10}
    terms = {"secure_aggregation.weights": agreed}
    digest = Agreement.model_validate(changed(TERMS, terms)).digest()
    weighted = order(secagg__weights=agreed, agreement_digest=digest)
    refused = refusal(gate(terms=terms), weighted)
    assert refused.reason is RefusalReason.POLICY
    assert "declares no weight" in refused.message
    gate(terms=terms, policy={"weight": 37}).check(weighted, now=NOW)
    unweighted = order(agreement_digest=digest)
    assert "none were ordered" in refusal(gate(terms=terms, policy={"weight": 37}), unweighted).message


JOINT_TERMS = {"privacy.modes": ["local", "joint"]}


def joint(**changes: Any) -> Order:
    """An order of mode joint under the terms above: every one of its 10 steps is summed."""
    digest = Agreement.model_validate(changed(TERMS, JOINT_TERMS)).digest()
    fields = {"mode": "joint", "agreement_digest": digest, "secagg__steps": 10, "secagg__value_bound": 200.0}
    return order(**(fields | {"secagg__scale": 4096.0} | changes))


def test_a_joint_order_is_accepted_where_it_is_agreed() -> None:
    gate(terms=JOINT_TERMS).check(joint(), now=NOW)
    refused = refusal(gate(), joint(agreement_digest=AGREEMENT.digest()))
    assert refused.reason is RefusalReason.PRIVACY_PARAMETERS
    assert "mode 'joint' was ordered" in refused.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secagg__steps": 9}, "9 secure steps were ordered for 10 steps of training in mode joint, which has 10"),
        ({"secagg__steps": 1}, "1 secure steps"),
        ({"secagg__value_bound": 5.0}, "leaves no room beside noise shares"),
        ({"secagg__scale": 1.0, "adapter_length": 100}, "units of the grid; expected at least 8"),
    ],
)
def test_a_joint_order_whose_noise_is_not_whole_is_refused(changes: dict[str, Any], words: str) -> None:
    refused = refusal(gate(terms=JOINT_TERMS), joint(**changes))
    assert refused.reason is RefusalReason.ORDER_MALFORMED
    assert words in refused.message


def test_joint_sums_are_not_weighted() -> None:
    terms = JOINT_TERMS | {"secure_aggregation.weights": {"cap": 10, "bin": 5}}
    digest = Agreement.model_validate(changed(TERMS, terms)).digest()
    asked = joint(agreement_digest=digest, secagg__weights={"cap": 10, "bin": 5})
    assert "mode joint, which has none" in refusal(gate(terms=terms, policy={"weight": 5}), asked).message


SITE_TERMS = {"privacy.modes": ["site"], "privacy.unit": "site", "privacy.adjacency": "zero-out"}


def site_order(terms: dict[str, Any] = SITE_TERMS, **changes: Any) -> Order:
    """An order of mode site under the terms above: its 10 steps leave as one vector."""
    digest = Agreement.model_validate(changed(TERMS, terms)).digest()
    fields = {"mode": "site", "unit": "site", "adjacency": "zero-out", "agreement_digest": digest}
    return order(**(fields | {"secagg__value_bound": 30.0, "secagg__scale": 8192.0} | changes))


def test_an_order_of_mode_site_is_accepted_where_mode_and_unit_are_agreed() -> None:
    gate(terms=SITE_TERMS).check(site_order(), now=NOW)
    for terms in ({}, JOINT_TERMS):
        digest = Agreement.model_validate(changed(TERMS, terms)).digest()
        refused = refusal(gate(terms=terms), site_order(agreement_digest=digest))
        assert refused.reason is RefusalReason.PRIVACY_PARAMETERS
        assert "mode 'site' was ordered" in refused.message


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"mode": "local"}, RefusalReason.PRIVACY_PARAMETERS, "mode 'local' was ordered"),
        ({"mode": "joint", "secagg__steps": 10}, RefusalReason.PRIVACY_PARAMETERS, "mode 'joint' was ordered"),
        ({"unit": "record"}, RefusalReason.PRIVACY_PARAMETERS, "unit 'record' was ordered"),
        ({"adjacency": "add-remove"}, RefusalReason.PRIVACY_PARAMETERS, "adjacency 'add-remove' was ordered"),
        ({"training__noise_multiplier": 0.7}, RefusalReason.PRIVACY_PARAMETERS, "noise_multiplier 0.7"),
        ({"training__noise_multiplier": 0.9}, RefusalReason.POLICY, "noise_multiplier 0.9"),
        ({"training__l2_clip_norm": 1.5}, RefusalReason.PRIVACY_PARAMETERS, "l2_clip_norm 1.5"),
        ({"secagg__threshold": 3}, RefusalReason.THRESHOLD, "leaves 1 honest sites in a sum"),
        ({"secagg__steps": 10}, RefusalReason.ORDER_MALFORMED, "mode site, which has 1 in a round"),
        ({"secagg__value_bound": 5.0}, RefusalReason.ORDER_MALFORMED, "leaves no room beside noise shares"),
        (
            {"secagg__scale": 8.0, "adapter_length": 1, "secagg__value_bound": 100.0},
            RefusalReason.ORDER_MALFORMED,
            "units of the grid; expected at least 8",
        ),
    ],
)
def test_an_order_of_mode_site_that_would_not_hide_a_site_is_refused(
    changes: dict[str, Any], reason: RefusalReason, words: str
) -> None:
    refused = refusal(gate(terms=SITE_TERMS), site_order(**changes))
    assert (refused.reason, words in refused.message) == (reason, True), refused.message


def test_sums_of_mode_site_are_not_weighted() -> None:
    terms = SITE_TERMS | {"secure_aggregation.weights": {"cap": 10, "bin": 5}}
    asked = site_order(terms, secagg__weights={"cap": 10, "bin": 5})
    assert "mode site, which has none" in refusal(gate(terms=terms, policy={"weight": 5}), asked).message


@pytest.mark.parametrize(
    ("mode", "unit", "adjacency"),
    [
        ("site", "record", "add-remove"),
        ("site", "record", "zero-out"),
        ("site", "site", "add-remove"),
        ("local", "site", "zero-out"),
        ("joint", "site", "zero-out"),
        ("local", "record", "zero-out"),
    ],
)
def test_a_mode_that_does_not_protect_the_unit_is_refused_even_where_it_was_agreed(
    mode: str, unit: str, adjacency: str
) -> None:
    """No agreement that is read from a file can say so; this one was not read."""
    with pytest.raises(ValidationError, match="it goes with"):
        Agreement.model_validate(
            changed(TERMS, {"privacy.modes": [mode], "privacy.unit": unit, "privacy.adjacency": adjacency})
        )
    terms = AGREEMENT.privacy.model_copy(
        update={"modes": (PrivacyMode(mode),), "unit": PrivacyUnit(unit), "adjacency": Adjacency(adjacency)}
    )
    agreement = AGREEMENT.model_copy(update={"privacy": terms})
    verified = VerifiedAgreement(agreement=agreement, digest=agreement.digest(), approved_by=PARTNERS)
    opened = Gate(verified, SitePolicy.model_validate(POLICY), SITE, data_unit=PrivacyUnit.RECORD)
    asked = order(mode=mode, unit=unit, adjacency=adjacency, agreement_digest=agreement.digest())
    refused = refusal(opened, asked)
    assert refused.reason is RefusalReason.PRIVACY_PARAMETERS
    assert "it goes with" in refused.message


USER_TERMS = {"privacy.unit": "user", "privacy.max_records_per_user": 4}


def users(bound: int = 4, **changes: Any) -> Order:
    """An order of unit user under the terms above."""
    digest = Agreement.model_validate(changed(TERMS, USER_TERMS)).digest()
    return order(unit="user", training__max_records_per_user=bound, **({"agreement_digest": digest} | changes))


def test_an_order_about_users_is_accepted_where_agreement_and_data_are_about_users() -> None:
    gate(USER_TERMS, data_unit=PrivacyUnit.USER).check(users(), now=NOW)


def test_unit_of_order_agreement_and_data_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = Agreement.model_validate(changed(TERMS, USER_TERMS)).digest()
    about_users = gate(USER_TERMS, data_unit=PrivacyUnit.USER)
    by_record = users().model_copy(update={"unit": PrivacyUnit.RECORD})
    for asked in (by_record, order(agreement_digest=digest)):
        refused = refusal(about_users, asked)
        assert refused.reason is RefusalReason.PRIVACY_PARAMETERS
        assert "privacy unit 'record' was ordered, agreed: 'user'" in refused.message
    assert "unit 'user' was ordered" in refusal(gate(), users(agreement_digest=AGREEMENT.digest())).message

    without_key = gate(USER_TERMS, data_unit=PrivacyUnit.RECORD)
    refused = refusal(without_key, users())
    assert refused.reason is RefusalReason.DATA
    assert "protects each user, and this site's data are kept by record" in refused.message
    with_key = gate(data_unit=PrivacyUnit.USER)
    assert "protects each record, and this site's data are kept by user" in refusal(with_key, order()).message
    others = tuple(each for each in RULES if each.__name__ != "data_are_kept_by_the_unit")
    monkeypatch.setattr(client.gate, "RULES", others)
    without_key.check(users(), now=NOW)
    with_key.check(order(), now=NOW)


@pytest.mark.parametrize("bound", [1, 3, 5, 1000])
def test_another_contribution_bound_than_the_agreed_one_is_refused(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    site = gate(USER_TERMS, data_unit=PrivacyUnit.USER)
    refused = refusal(site, users(bound))
    assert refused.reason is RefusalReason.PRIVACY_PARAMETERS
    assert f"max_records_per_user {bound} was ordered, agreed: 4" in refused.message
    others = tuple(each for each in RULES if each.__name__ != "contributions_are_bounded")
    monkeypatch.setattr(client.gate, "RULES", others)
    site.check(users(bound), now=NOW)


def test_the_divisor_of_users_is_the_agreed_number_of_users() -> None:
    site = gate(USER_TERMS, data_unit=PrivacyUnit.USER)
    site.check(users(training__sample_rate=0.05, training__expected_batch_size=50.0), now=NOW)
    for batch in (99.0, 400.0):
        refused = refusal(site, users(training__expected_batch_size=batch))
        assert "which is sample_rate * public_dataset_size" in refused.message


@pytest.mark.parametrize(
    ("testing", "allow_testing", "accepted"),
    [(False, False, False), (True, False, False), (False, True, False), (True, True, True)],
)
def test_a_seed_for_the_noise_needs_both_agreement_and_policy(
    testing: bool, allow_testing: bool, accepted: bool
) -> None:
    opened = gate({"testing": testing}, {"allow_testing": allow_testing})
    digest = Agreement.model_validate(changed(TERMS, {"testing": testing})).digest()
    opened.check(order(agreement_digest=digest), now=NOW)
    seeded = order(agreement_digest=digest, test_noise_seed=7)
    if accepted:
        opened.check(seeded, now=NOW)
    else:
        assert refusal(opened, seeded).reason is RefusalReason.NOISE_SEED


@pytest.mark.parametrize(
    "changes",
    [
        {"deadline_s": MIN_DEADLINE_S},
        {"deadline_s": MAX_DEADLINE_S},
        {"step": 4000},
        {"round": 20, "step": 20, "epoch": 20, "rounds_planned": 20},
        {"round": 1, "step": 1, "epoch": 0},
        {"lora.rank": 1, "lora.targets": ["value"]},
        # less than what was agreed: the head alone, or B alone
        {"lora.rank": 0, "lora.targets": []},
        {"lora.freeze_a": True},
        {"training.noise_multiplier": 50.0},
        {"training.l2_clip_norm": 0.001},
        {"training.adaptive_clipping": {"count_noise_stddev": 5.0, "min_l2_clip_norm": 0.1, "max_l2_clip_norm": 1.0}},
        {"training.sample_rate": 0.03, "training.expected_batch_size": 30.0},
        {"training.sample_rate": 0.0123, "training.expected_batch_size": 12.3 * (1 + 5e-10)},
        {"secagg.cohort": list(PARTNERS), "secagg.threshold": 6},
        {"secagg.cohort": ["site-1", "site-2", "site-3", "site-4", "site-7"], "secagg.threshold": 4},
        {"secagg.min_cohort": 6},
        {"secagg.threshold": 6},
        {"secagg.value_bound": 5461.0},
    ],
)
def test_what_is_just_allowed_is_accepted(changes: dict[str, Any]) -> None:
    gate().check(Order.model_validate(changed(ORDER, changes)), now=NOW)


def test_as_many_signatures_as_required_are_enough() -> None:
    gate(approved_by=PARTNERS[2:]).check(order(), now=NOW)


def test_every_rule_is_broken_by_a_test_above() -> None:
    tested = {rule for *_, rule in BROKEN_ORDERS} | {rule for *_, rule in CLOSED_GATES}
    tested |= {"agreement_is_valid_now", "guarantee_is_the_agreed_one", "noise_shares_fit_the_grid"}
    tested |= {"contributions_are_bounded", "data_are_kept_by_the_unit"}
    assert {rule.__name__ for rule in RULES} == tested


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_field_of_an_order_is_checked_here_or_somebody_is_named() -> None:
    broken = {path for changes, *_ in BROKEN_ORDERS for path in changes}
    broken |= {"mode", "unit", "adjacency", "secagg.ring_bits", "training.max_records_per_user"}
    everything = set(fields(Order))
    assert set(ORDER) == {path.split(".")[0] for path in everything}
    assert broken | set(CHECKED_ELSEWHERE) == everything
    assert not broken & set(CHECKED_ELSEWHERE)


# --- an order that leaves the agreement anywhere is refused --------------------------------------------------------

_WORSE: dict[str, st.SearchStrategy[Any]] = {
    "agreement_digest": st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__),
    "base_model_digest": st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__),
    "strategy": st.text(max_size=12),
    "labels": st.lists(st.sampled_from(["lost", "transfer", "other", "new"]), min_size=2, max_size=5),
    "lora.rank": st.integers(9, 256),
    "lora.targets": st.lists(st.sampled_from(["query", "value"]), max_size=2).map(lambda kept: [*kept, "dense"]),
    "training.noise_multiplier": st.floats(0, 0.8, exclude_min=True, exclude_max=True),
    "training.l2_clip_norm": st.floats(1, 1e300, exclude_min=True),
    "training.adaptive_clipping": st.floats(1, 1e300, exclude_min=True).map(
        lambda clip: {"count_noise_stddev": 5.0, "min_l2_clip_norm": 1e-300, "max_l2_clip_norm": clip}
    ),
    "training.sample_rate": st.floats(0, 1, exclude_min=True).filter(lambda rate: abs(rate - 0.1) > 1e-9),
    "training.expected_batch_size": st.floats(0, 1e300, exclude_min=True).filter(lambda size: abs(size - 100) > 1e-6),
    "secagg.cohort": st.sets(st.sampled_from([*PARTNERS, "hub", "mallory"]), min_size=2).filter(
        lambda cohort: not cohort <= set(PARTNERS) or SITE not in cohort or len(cohort) < 5
    ).map(sorted),
    "secagg.threshold": st.integers(2, 200).filter(lambda threshold: threshold not in (5, 6)),
    "secagg.min_cohort": st.integers(2, 200).filter(lambda cohort: cohort not in (5, 6)),
    "secagg.steps": st.integers(2, 1000),
    "secagg.weights": st.integers(1, 1000).map(lambda cap: {"cap": cap, "bin": cap}),
    "secagg.scale": st.floats(2**31 / 96, 1e300, exclude_min=True),
    "secagg.value_bound": st.floats(2**31 / 6 / 65536, 1e300, exclude_min=True),
    "test_noise_seed": st.integers(),
    "deadline_s": st.floats(0, 1, exclude_min=True, exclude_max=True) | st.floats(86_401, 1e300),
    "epoch": st.integers(5, 1000),
    "round": st.integers(5, 6),
    "rounds_planned": st.integers(21, 1000),
}  # fmt: skip


@given(st.data())
def test_an_order_that_leaves_the_agreement_in_any_field_is_refused(data: st.DataObject) -> None:
    paths = data.draw(st.sets(st.sampled_from(sorted(_WORSE)), min_size=1, max_size=3))
    if {"training.sample_rate", "training.expected_batch_size"} <= paths:
        paths.discard("training.expected_batch_size")  # together they could be right again
    if {"secagg.cohort", "secagg.threshold"} <= paths or {"secagg.cohort", "secagg.min_cohort"} <= paths:
        paths -= {"secagg.threshold", "secagg.min_cohort"}
    if "training.adaptive_clipping" in paths:
        paths.discard("training.l2_clip_norm")  # the order's type keeps it between the two bounds
    changes = {path: data.draw(_WORSE[path], label=path) for path in sorted(paths)}
    asked = Order.model_validate(changed(ORDER, changes))
    if asked == order():
        return
    assert isinstance(refusal(gate(), asked).reason, RefusalReason)


def test_every_field_the_gate_checks_is_varied_above() -> None:
    fixed_by_type = {"mode", "unit", "adjacency", "secagg.ring_bits", "training.max_records_per_user"}
    assert set(_WORSE) | set(CHECKED_ELSEWHERE) | fixed_by_type | {"step"} == set(fields(Order))


# --- the gate itself -----------------------------------------------------------------------------------------------


def test_the_stricter_of_agreement_and_policy_limits_spending() -> None:
    limits = gate().limits
    assert (limits.epsilon_per_run, limits.epsilon_lifetime, limits.delta) == (4.0, 6.0, 1e-5)


def test_a_policy_that_allows_more_opens_nothing() -> None:
    generous = gate(policy={"min_noise_multiplier": 0.01, "min_cohort": 2, "allowed_strategies": ["fedavg", "any"]})
    assert refusal(generous, order(training__noise_multiplier=0.5)).reason is RefusalReason.PRIVACY_PARAMETERS
    assert refusal(generous, order(strategy="any")).reason is RefusalReason.STRATEGY_NOT_ALLOWED
    assert refusal(generous, order(secagg__min_cohort=3)).reason is RefusalReason.COHORT


def test_another_sites_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="policy is for site 'site-4', and this is site 'site-3'"):
        gate(policy={"site": "site-4"})


def test_a_site_that_is_no_partner_is_refused() -> None:
    verified = VerifiedAgreement(AGREEMENT, AGREEMENT.digest(), PARTNERS)
    with pytest.raises(ConfigError, match="'stranger' is not a partner"):
        Gate(
            verified, SitePolicy.model_validate(POLICY | {"site": "stranger"}), "stranger", data_unit=PrivacyUnit.RECORD
        )


def test_an_agreement_changed_since_it_was_verified_is_refused() -> None:
    edited = AGREEMENT.model_copy(update={"retention_days": 9000})
    verified = VerifiedAgreement(edited, AGREEMENT.digest(), PARTNERS)
    with pytest.raises(AgreementError, match="verified was sha256:"):
        Gate(verified, SitePolicy.model_validate(POLICY), SITE, data_unit=PrivacyUnit.RECORD)


def test_checking_changes_nothing_and_asks_no_clock() -> None:
    one, asked = gate(), order()
    before = asked.model_dump()
    for _ in range(3):
        one.check(asked, now=NOW)
        refusal(one, asked, NOW + timedelta(days=1000))
    assert asked.model_dump() == before
