"""What a coordinator works out before a run is created."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.agreement import VerifiedAgreement, load_bundle
from privacy.events import PrivacyMode
from privacy.noise_shares import ShareGrid
from privacy.secagg.encoding import check_range
from server.preflight import epsilon_per_round, round_event, secagg_of, submission_facts, training_of
from server.run_spec import RunSpec, TestingSection, load_run_spec
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


@pytest.mark.parametrize("mode", [PrivacyMode.LOCAL, PrivacyMode.JOINT, PrivacyMode.SITE])
def test_the_unit_and_an_epsilon_for_each_adversary_are_told_at_submission(
    tmp_path: Path, small_plan: Plan, mode: PrivacyMode
) -> None:
    spec, agreement = prepared(tmp_path, replace(small_plan(rounds=2), mode=mode))
    digest = agreement.agreement.base_model.digest
    facts = submission_facts("00112233445566ff", spec, agreement, base_model_digest=digest)
    assert (facts["mode"], facts["unit"]) == (mode.value, "site" if mode is PrivacyMode.SITE else "record")
    told = facts["epsilon_by_adversary"]
    assert list(told) == ["coordinator", "coordinator+c sites", "site", "public"]
    assert told["coordinator+c sites"] == facts["epsilon_per_round"][-1]
    assert (told["public"] < told["coordinator+c sites"]) == (mode is not PrivacyMode.LOCAL)
    spec = spec.model_copy(update={"testing": TestingSection(noise_seed=1)})
    testing = agreement.agreement.model_copy(update={"testing": True})
    verified = VerifiedAgreement(testing, testing.digest(), testing.partner_names())
    facts = submission_facts("00112233445566ff", spec, verified, base_model_digest=digest)
    assert facts["epsilon_by_adversary"] == {}


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_noise_shares_of_mode_site_have_room_beside_an_update(tmp_path: Path, small_plan: Plan, bits: int) -> None:
    """Also where rounding widens them: with sqrt(d) at a tenth of the clip norm's units."""
    plan = replace(small_plan(noise_multiplier=2.0, value_bound=0.2), mode=PrivacyMode.SITE, ring_bits=bits)
    spec, agreement = prepared(tmp_path, plan)
    secagg = secagg_of(spec, agreement.agreement)
    training = training_of(spec, agreement.agreement)
    check_range(secagg.scale, secagg.value_bound, 3, bits)
    assert secagg.steps == 1
    length = int((0.1 * training.l2_clip_norm * secagg.scale) ** 2)
    grid = ShareGrid(secagg.scale, secagg.value_bound, bits, summands=3, honest=2, length=length)
    assert grid.sum_bound(training) == pytest.approx(0.2, rel=0.01)


def test_the_agreement_s_unit_decides_which_mode_can_be_submitted(tmp_path: Path, small_plan: Plan) -> None:
    spec, agreement = prepared(tmp_path, replace(small_plan(rounds=2), mode=PrivacyMode.SITE))
    other = spec.model_copy(update={"run": spec.run.model_copy(update={"mode": PrivacyMode.LOCAL})})
    with pytest.raises(Refusal, match="mode 'local' was ordered") as refused:
        submission_facts("00112233445566ff", other, agreement, base_model_digest=agreement.agreement.base_model.digest)
    assert refused.value.reason is RefusalReason.PRIVACY_PARAMETERS


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
