"""What a coordinator works out before a run is created."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.agreement import VerifiedAgreement, load_bundle
from privacy.secagg.encoding import check_range
from server.preflight import epsilon_per_round, round_event, secagg_of, submission_facts, training_of
from server.run_spec import RunSpec, load_run_spec
from simulations.local_consortium import ConsortiumPlan, make_consortium
from tacit.errors import EncodingRange, Refusal, RefusalReason

Plan = Callable[..., ConsortiumPlan]


def prepared(tmp_path: Path, plan: ConsortiumPlan) -> tuple[RunSpec, VerifiedAgreement]:
    made = make_consortium(tmp_path / "made", plan)
    agreed = load_bundle(made.agreement).agreement
    return load_run_spec(made.run_file), VerifiedAgreement(agreed, agreed.digest(), agreed.partner_names())


def test_the_normaliser_is_public(tmp_path: Path, small_plan: Plan) -> None:
    spec, agreement = prepared(tmp_path, small_plan())
    # 0.2 of the agreed 120 records, whatever the sites really hold
    assert training_of(spec, agreement.agreement).expected_batch_size == pytest.approx(24.0)


@pytest.mark.parametrize("bound", [0.01, 1.0, 4.0, 300.0])
def test_the_scale_is_the_finest_power_of_two_that_cannot_wrap(tmp_path: Path, small_plan: Plan, bound: float) -> None:
    spec, agreement = prepared(tmp_path, replace(small_plan(), recipe=replace(small_plan().recipe, value_bound=bound)))
    secagg = secagg_of(spec, agreement.agreement)
    check_range(secagg.scale, secagg.value_bound, len(secagg.cohort))
    with pytest.raises(EncodingRange):
        check_range(4 * secagg.scale, secagg.value_bound, len(secagg.cohort))


def test_epsilon_grows_with_rounds_and_is_the_run_s_at_the_end(tmp_path: Path, small_plan: Plan) -> None:
    spec, agreement = prepared(tmp_path, small_plan(rounds=3))
    facts = submission_facts(
        "00112233445566ff", spec, agreement, base_model_digest=agreement.agreement.base_model.digest
    )
    assert facts["epsilon_per_round"] == epsilon_per_round(round_event(spec, agreement.agreement), 3, 1e-4)
    assert sorted(set(facts["epsilon_per_round"])) == facts["epsilon_per_round"]
    assert facts["sites"] == ["alpha", "beta", "gamma"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epsilon_per_run": 0.2, "epsilon_lifetime": 0.2}, RefusalReason.BUDGET),
        ({"noise_seed": 3}, RefusalReason.NOISE_SEED),
    ],
)
def test_what_every_site_would_refuse_is_refused_at_once(
    tmp_path: Path, small_plan: Plan, change: dict[str, float], reason: RefusalReason
) -> None:
    spec, agreement = prepared(tmp_path, replace(small_plan(), **change))
    with pytest.raises(Refusal) as refused:
        submission_facts("00112233445566ff", spec, agreement, base_model_digest=agreement.agreement.base_model.digest)
    assert refused.value.reason is reason


def test_another_base_model_is_refused(tmp_path: Path, small_plan: Plan) -> None:
    spec, agreement = prepared(tmp_path, small_plan())
    with pytest.raises(Refusal) as refused:
        submission_facts("00112233445566ff", spec, agreement, base_model_digest="sha256:" + "0" * 64)
    assert refused.value.reason is RefusalReason.MODEL_MISMATCH
