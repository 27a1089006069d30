"""What a run would cost, told before it runs: the ledger's and the report's own numbers, for every mode."""

from __future__ import annotations

import base64
import math
from typing import Any

import pytest

from privacy.accounting import COLLUDING_SITES, COORDINATOR, PUBLIC, SITE, adversary_bounds, epsilon
from privacy.agreement import VerifiedAgreement, draft
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.noise_shares import ShareGrid
from privacy.terms import Agreement
from server.explanation import MODES, explain
from server.explanation_facts import ExplainedMode, Explanation
from server.preflight import round_event, secagg_of, submission_facts, training_of
from server.run_spec import JOINT_STRATEGY, RunSpec
from tacit.errors import InputError, Refusal, RefusalReason

TEN = tuple(f"site-{letter}" for letter in "abcdefghij")
MODEL = "sha256:" + "b" * 64


def agreement_of(sites: tuple[str, ...] = TEN, collusion_bound: int = 3, **changes: Any) -> Agreement:
    def party(name: str, key: int) -> dict[str, str]:
        return {"name": name, "identity_key": base64.b64encode(bytes([key + 1] * 32)).decode()}

    privacy = {
        "modes": ["local", "joint"],
        "unit": "record",
        "adjacency": "add-remove",
        "delta": 1e-5,
        "epsilon_per_run": 6.0,
        "epsilon_lifetime": 9.0,
        "min_noise_multiplier": 0.6,
        "max_l2_clip_norm": 1.0,
        "max_sample_rate": 0.2,
        "public_dataset_size": 1400,
    }
    terms = {
        "tacit_agreement": 1,
        "consortium": "tests",
        "title": "A small agreement",
        "purpose": "To test.",
        "legal_basis": "None: nothing is processed.",
        "ca_fingerprint": "sha256:" + "a" * 64,
        "partners": [party(name, key) for key, name in enumerate(sites)],
        "coordinator": party("hub", len(sites)),
        "task": {"kind": "sequence-classification", "labels": ["yes", "no"]},
        "base_model": {"name": "tiny", "digest": MODEL},
        "adapter": {"kind": "lora", "targets": ["query", "value"], "max_rank": 8},
        "strategies": ["fedavg", JOINT_STRATEGY],
        "privacy": privacy | changes.pop("privacy", {}),
        "secure_aggregation": {"min_cohort": 3, "collusion_bound": collusion_bound, "ring_bits": 32, "weights": None}
        | changes.pop("secure_aggregation", {}),
        "deidentification": {"profile": "standard-v1"},
        "residency": ["EU"],
        "retention_days": 90,
        "release": {"scope": "partners"},
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "approvals": {"required": 2},
        "testing": False,
    }
    return draft(terms | changes).agreement


def spec_of(mode: str = "local", **changes: dict[str, Any]) -> RunSpec:
    strategy = JOINT_STRATEGY if mode == "joint" else "fedavg"
    sections: dict[str, dict[str, Any]] = {
        "run": {"name": "small", "rounds": 4, "mode": mode, "strategy": strategy},
        "model": {"base": "package:none"},
        "lora": {"rank": 8, "alpha": 16.0, "targets": ["query", "value"]},
        "training": {
            "local_steps": 3,
            "sample_rate": 0.1,
            "noise_multiplier": 1.1,
            "l2_clip_norm": 0.5,
            "learning_rate": 0.5,
        },
    }
    for name, change in changes.items():
        sections[name] = sections.get(name, {}) | change
    return RunSpec.model_validate(sections)


def explained(facts: Explanation, mode: PrivacyMode) -> ExplainedMode:
    (found,) = (each for each in facts.modes if each.mode is mode)
    return found


def spent(noise_multiplier: float, steps: int, sample_rate: float = 0.1) -> float:
    event = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )
    return epsilon([event], 1e-5)


def test_every_mode_there_is_is_explained() -> None:
    assert set(MODES) == set(PrivacyMode)
    facts = explain(spec_of(), agreement_of())
    assert {mode.mode for mode in facts.modes} | {mode.mode for mode in facts.impossible} == set(PrivacyMode)


def test_a_run_in_a_mode_without_an_entry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.explanation.MODES", {PrivacyMode.LOCAL: MODES[PrivacyMode.LOCAL]})
    assert [mode.mode for mode in explain(spec_of(), agreement_of()).modes] == [PrivacyMode.LOCAL]
    with pytest.raises(InputError, match="'joint' is not explained; expected local"):
        explain(spec_of("joint"), agreement_of())


OF_RECORDS = (PrivacyMode.LOCAL, PrivacyMode.JOINT)


def test_a_run_that_protects_sites_is_explained_for_sites_alone() -> None:
    """Modes that protect something else are not set beside it: their epsilons bound something else."""
    terms = {"modes": ["site"], "unit": "site", "adjacency": "zero-out"}
    facts = explain(spec_of("site"), agreement_of(privacy=terms))
    (own,) = facts.modes
    assert (own.mode, own.unit.value, own.steps) == (PrivacyMode.SITE, "site", 4)
    # one Gaussian a round; four honest shares of the seven in a sum
    assert own.epsilon_charged == spent(1.1, 4, sample_rate=1.0)
    by_name = {each.adversary: each.epsilon for each in own.adversaries}
    # with nobody lost the shares of ten sites are left with a seventh each
    assert by_name["coordinator"] == pytest.approx(spent(1.1 * math.sqrt(10 / 7), 4, sample_rate=1.0), rel=1e-9)
    assert {each.mode for each in facts.impossible} == set(OF_RECORDS)
    assert all("goes with unit 'record'" in each.reason for each in facts.impossible)


@pytest.mark.parametrize("mode", OF_RECORDS)
def test_a_mode_is_told_alike_whether_the_run_is_in_it_or_only_could_be(mode: PrivacyMode) -> None:
    agreement = agreement_of()
    own = explain(spec_of(mode.value), agreement)
    assert own.modes[0].mode is mode
    for other in OF_RECORDS:
        as_other = explained(explain(spec_of(other.value), agreement), mode)
        kept = own.modes[0].model_copy(update={"this_run": as_other.this_run, "same_epsilon": as_other.same_epsilon})
        assert kept == as_other


def test_each_adversary_in_each_mode() -> None:
    """Ten sites, threshold 7, c = 3: the whole noise in four shares of seven sites' sum, or in seven of all ten's."""
    facts = explain(spec_of(), agreement_of())
    assert (facts.agreement.sites, facts.agreement.smallest_sum, facts.agreement.collusion_bound) == (10, 7, 3)
    told = {
        mode.mode: {adversary.adversary: adversary.epsilon for adversary in mode.adversaries} for mode in facts.modes
    }
    assert told[PrivacyMode.LOCAL] == dict.fromkeys((COORDINATOR, COLLUDING_SITES, SITE, PUBLIC), spent(1.1, 12))
    assert told[PrivacyMode.JOINT] == {
        COORDINATOR: spent(1.1 * math.sqrt(10 / 7), 12),
        COLLUDING_SITES: spent(1.1, 12),
        SITE: spent(1.1 * math.sqrt(9 / 7), 12),
        PUBLIC: spent(1.1 * math.sqrt(10 / 7), 12),
    }


def test_the_words_are_the_report_s() -> None:
    agreement = agreement_of()
    for mode in explain(spec_of(), agreement).modes:
        event = round_event(spec_of(mode.mode.value), agreement)
        bounds = adversary_bounds([event], 1e-5, collusion_bound=3, noise_secret=True)
        assert [each.assumptions for each in mode.adversaries] == [each.assumptions for each in bounds.values()]


def test_beyond_the_agreed_number_joint_is_left_with_one_share_and_claims_nothing() -> None:
    facts = explain(spec_of(), agreement_of())
    local, joint = (explained(facts, mode) for mode in (PrivacyMode.LOCAL, PrivacyMode.JOINT))
    assert [each.colluding_sites for each in joint.beyond_collusion_bound] == [4, 5, 6, 7, 8, 9]
    assert {each.epsilon for each in joint.beyond_collusion_bound} == {spent(1.1 / math.sqrt(7), 12)}
    assert not any(each.claimed for each in joint.beyond_collusion_bound)
    assert {(each.epsilon, each.claimed) for each in local.beyond_collusion_bound} == {(spent(1.1, 12), True)}


def test_an_agreement_more_modest_than_its_threshold_degrades_by_degrees() -> None:
    """c = 1 with a threshold of 7 of 10: the protocol itself stands against three."""
    joint = explained(explain(spec_of(), agreement_of(collusion_bound=1)), PrivacyMode.JOINT)
    # of seven sites' sum two or three tell their shares; or one share is left, of ten
    shares = {2: 5 / 6, 3: 4 / 6, 4: 1 / 9, 9: 1 / 9}
    told = {each.colluding_sites: each.epsilon for each in joint.beyond_collusion_bound}
    for colluding, left in shares.items():
        assert told[colluding] == pytest.approx(spent(1.1 * math.sqrt(left), 12), rel=1e-9)


def test_no_finite_bound_is_none() -> None:
    spec, agreement = spec_of(training={"noise_multiplier": 1e-7}), agreement_of(privacy={"min_noise_multiplier": 1e-9})
    local = explained(explain(spec, agreement), PrivacyMode.LOCAL)
    assert {each.epsilon for each in local.adversaries} == {None}
    assert (local.epsilon_charged, local.epsilon_at_limits, local.same_epsilon) == (None, None, None)
    assert (local.accountant, local.fits_run, local.fits_lifetime) == ("rdp", False, False)
    assert {value for point in local.growth for value in point.by_adversary.values()} == {None}


@pytest.mark.parametrize(
    ("per_run", "lifetime", "fits"), [(9.0, 9.0, (True, True)), (0.5, 9.0, (False, True)), (0.5, 0.6, (False, False))]
)
def test_whether_it_fits_is_told_and_not_refused(per_run: float, lifetime: float, fits: tuple[bool, bool]) -> None:
    agreement = agreement_of(privacy={"epsilon_per_run": per_run, "epsilon_lifetime": lifetime})
    (own, *_) = explain(spec_of(), agreement).modes
    assert (own.fits_run, own.fits_lifetime) == fits
    assert own.epsilon_charged == spent(1.1, 12)


def test_burnt_rounds_and_the_agreement_s_limits() -> None:
    for mode in explain(spec_of(run={"max_burnt_rounds": 3}), agreement_of()).modes:
        assert mode.epsilon_with_burnt_rounds == spent(1.1, 3 * (4 + 3))
        assert mode.epsilon_at_limits == spent(0.6, 12, sample_rate=0.2)


def test_the_fewest_sites_in_a_sum_are_those_the_agreement_asks_for() -> None:
    for least, told in ((3, 7), (7, 7), (9, 9)):
        assert explain(spec_of(), agreement_of(secure_aggregation={"min_cohort": least})).agreement.smallest_sum == told


def test_growth_ends_at_what_the_run_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.explanation._MOST_POINTS", 6)
    facts = explain(spec_of(run={"rounds": 15}), agreement_of())
    for mode in facts.modes:
        rounds = [point.round for point in mode.growth]
        assert rounds == [1, 2, 5, 8, 10, 12, 15]
        whole = {each.adversary: each.epsilon for each in mode.adversaries}
        assert mode.growth[-1].by_adversary == whole
        for point in mode.growth[:3]:
            assert point.by_adversary[COLLUDING_SITES] == spent(1.1, 3 * point.round)


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_the_noise_for_the_same_epsilon(mode: str) -> None:
    """The shares are what sites draw, and what is left of them: for ten sites a mean with 0.38 of local's noise."""
    facts = explain(spec_of(mode), agreement_of())
    noises = {each.mode: each.same_epsilon for each in facts.modes}
    local, joint = noises[PrivacyMode.LOCAL], noises[PrivacyMode.JOINT]
    assert local is not None
    assert joint is not None
    assert local.noise_multiplier == joint.noise_multiplier == 1.1
    assert local.epsilon == joint.epsilon == spent(1.1, 12)
    assert (local.stddev_one_site, local.stddev_sum) == pytest.approx((1.1, 1.1 * math.sqrt(10)))
    # docs/privacy.md, section 2a: 1.20 sigma C in the sum instead of 3.16 sigma C
    assert joint.stddev_sum / 1.1 == pytest.approx(1.20, abs=0.005)
    assert joint.stddev_mean == pytest.approx(joint.stddev_sum / 10)
    assert joint.stddev_mean / local.stddev_mean == pytest.approx(1 / math.sqrt(7))
    asked, agreement = spec_of("joint"), agreement_of()
    secagg = secagg_of(asked, agreement)
    grid = ShareGrid(
        scale=secagg.scale,
        value_bound=secagg.value_bound,
        ring_bits=32,
        summands=10,
        honest=secagg.threshold - 3,
        length=100_000,
        absent=3,
    )
    kept = grid.kept_stddev(training_of(asked, agreement), 10)
    assert math.sqrt(10) * kept / 0.5 == pytest.approx(joint.stddev_sum, rel=1e-3)
    assert grid.share_stddev(training_of(asked, agreement)) / 0.5 == pytest.approx(joint.stddev_one_site, rel=1e-3)


def test_another_steps_count_is_calibrated_to_the_run_s_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode whose event is not composed like the run's own: here, one that takes twice the steps."""
    real = round_event

    def doubled(spec: RunSpec, agreement: Agreement) -> Any:
        event = real(spec, agreement)
        return event.model_copy(update={"steps": event.steps * 2}) if spec.run.mode is PrivacyMode.JOINT else event

    monkeypatch.setattr("server.explanation.round_event", doubled)
    noise = explained(explain(spec_of(), agreement_of()), PrivacyMode.JOINT).same_epsilon
    target = spent(1.1, 12)
    assert noise is not None
    assert 0.999 * target <= noise.epsilon <= target
    assert noise.epsilon == spent(noise.noise_multiplier, 24)
    assert noise.noise_multiplier > 1.1
    assert noise.stddev_one_site == pytest.approx(noise.noise_multiplier / 2)


def test_a_test_seed_leaves_no_claim_but_what_is_charged() -> None:
    for spec, agreement in (
        (spec_of(testing={"noise_seed": 3}), agreement_of(testing=True)),
        (spec_of(), agreement_of(testing=True)),
    ):
        facts = explain(spec, agreement)
        assert facts.testing
        for mode in facts.modes:
            assert {each.epsilon for each in mode.adversaries} == {None}
            assert all("No privacy is claimed" in each.assumptions for each in mode.adversaries)
            assert not any(each.claimed for each in mode.beyond_collusion_bound)
            assert mode.epsilon_charged == spent(1.1, 12)


def test_the_second_opinion_is_asked_only_when_wanted() -> None:
    assert all(mode.second_opinion is None for mode in explain(spec_of(), agreement_of()).modes)
    for mode in explain(spec_of(), agreement_of(), second_opinion=True).modes:
        opinion = mode.second_opinion
        assert opinion is not None
        assert opinion.pld == mode.epsilon_charged
        assert opinion.prv == pytest.approx(opinion.pld, abs=opinion.tolerance)
        assert (opinion.agrees, opinion.gradient_steps) == (True, 12)


@pytest.mark.parametrize(
    ("spec", "terms", "reason"),
    [
        ({"training": {"noise_multiplier": 0.5}}, {}, RefusalReason.PRIVACY_PARAMETERS),
        ({"training": {"sample_rate": 0.3}}, {}, RefusalReason.PRIVACY_PARAMETERS),
        ({"training": {"l2_clip_norm": 2.0}}, {}, RefusalReason.PRIVACY_PARAMETERS),
        ({}, {"privacy": {"modes": ["joint"]}}, RefusalReason.PRIVACY_PARAMETERS),
        ({}, {"strategies": [JOINT_STRATEGY]}, RefusalReason.STRATEGY_NOT_ALLOWED),
        ({"lora": {"rank": 9}}, {}, RefusalReason.ADAPTER_NOT_ALLOWED),
        ({"testing": {"noise_seed": 3}}, {}, RefusalReason.NOISE_SEED),
        ({"run": {"deadline_s": 0.5}}, {}, RefusalReason.ORDER_MALFORMED),
        ({}, {"collusion_bound": 4}, RefusalReason.THRESHOLD),
    ],
)
def test_what_the_sites_gates_would_refuse_is_refused(
    spec: dict[str, Any], terms: dict[str, Any], reason: RefusalReason
) -> None:
    """The same refusal as at submission, which asks for signatures and dates on top."""
    agreement = agreement_of(**terms, valid_until="2099-01-01T00:00:00Z")
    signed = VerifiedAgreement(agreement, agreement.digest(), agreement.partner_names())
    with pytest.raises(Refusal) as submitted:
        submission_facts("00112233445566ff", spec_of(**spec), signed, base_model_digest=MODEL)
    with pytest.raises(Refusal) as refused:
        explain(spec_of(**spec), agreement)
    assert refused.value.reason is submitted.value.reason is reason
    assert refused.value.message == submitted.value.message
    assert refused.value.hint


def test_a_draft_for_another_year_is_explained() -> None:
    agreement = agreement_of(valid_from="2101-01-01T00:00:00Z", valid_until="2102-01-01T00:00:00Z")
    assert explain(spec_of(), agreement).modes


def test_what_a_mode_cannot_do_is_told_beside_the_others() -> None:
    """Weighted sums, a ring too small for shared noise: joint is not possible, and local is explained all the same."""
    wide = {"encoding": {"value_bound": 400.0}}
    for terms, told in (({"weights": {"cap": 4, "bin": 1}}, "weighted"), ({"ring_bits": 16}, "units of the grid")):
        facts = explain(spec_of(**wide), agreement_of(secure_aggregation=terms))
        assert [mode.mode for mode in facts.modes] == [PrivacyMode.LOCAL]
        joint, site = facts.impossible
        assert (joint.mode, site.mode) == (PrivacyMode.JOINT, PrivacyMode.SITE)
        assert "goes with unit 'site'" in site.reason
        assert told in joint.reason
        with pytest.raises(Refusal, match=told):
            explain(spec_of("joint", **wide), agreement_of(secure_aggregation=terms))


def test_a_mode_that_is_not_agreed_is_explained_and_marked() -> None:
    facts = explain(spec_of(), agreement_of(privacy={"modes": ["local"]}, strategies=["fedavg"]))
    assert {mode.mode: mode.agreed for mode in facts.modes} == {PrivacyMode.LOCAL: True, PrivacyMode.JOINT: False}
    assert facts.agreement.digest == agreement_of(privacy={"modes": ["local"]}, strategies=["fedavg"]).digest()
