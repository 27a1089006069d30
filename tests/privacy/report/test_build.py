"""Facts from a record: figures recomputed, receipts compared, doubt counted as spent, nothing hidden."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting import epsilon
from privacy.events import SubsampledGaussian
from privacy.report.build import facts_from_run
from privacy.report.facts import ReportFacts
from privacy.report.html import render
from tacit.errors import AgreementError, InputError
from tests.privacy.report.conftest import SITES, write_joint_run, write_site_run


def texts(facts: ReportFacts, severity: str) -> list[str]:
    return [finding.text for finding in facts.findings if finding.severity == severity]


def charge(facts: ReportFacts, steps: int) -> float:
    """Epsilon of ``steps`` noisy steps by the accountant's own call, not by way of the report's events."""
    training = facts.parameters.training
    event = SubsampledGaussian(
        mode=facts.parameters.mode,
        unit=facts.agreement.unit,
        adjacency=facts.agreement.adjacency,
        noise_multiplier=training.noise_multiplier,
        sample_rate=training.sample_rate,
        steps=steps,
    )
    return epsilon([event], facts.delta)


def test_a_run_in_mode_joint_names_a_bound_for_each_adversary(tmp_path: Path) -> None:
    """Three survivors, one colluding site: two honest shares are the whole noise, and it takes them both."""
    written = write_joint_run(tmp_path / "run")
    facts = facts_from_run(written.write())
    assert facts.findings == ()
    found = {fact.adversary: fact.epsilon for fact in facts.adversaries}
    assert found["coordinator+c sites"] == pytest.approx(written.epsilon(3))
    # a partner knows one share of three and is left with two: as much as the coordinator with that partner
    assert found["site"] == found["coordinator+c sites"] > found["coordinator"] == found["public"]
    assert all("secure aggregation" in fact.assumptions for fact in facts.adversaries if fact.adversary != "public")


def test_a_run_in_mode_site_claims_for_a_site_and_says_so(tmp_path: Path) -> None:
    """One sum a round at each site, whatever its four steps drew, and every word is of a site."""
    written = write_site_run(tmp_path / "run")
    facts = facts_from_run(written.write())
    assert facts.findings == ()
    assert (facts.parameters.mode.value, facts.agreement.unit.value) == ("site", "site")
    assert [site.gradient_steps for site in facts.sites] == [3, 3, 3]
    found = {fact.adversary: fact.epsilon for fact in facts.adversaries}
    assert found["coordinator+c sites"] == pytest.approx(written.epsilon(3))
    assert found["site"] == found["coordinator+c sites"] > found["coordinator"] == found["public"]
    assert all("In mode site" in fact.assumptions for fact in facts.adversaries)
    assert facts.second_opinion is not None
    assert facts.second_opinion.agrees
    masked = next(item for item in facts.egress if item.kind == "Masked update")
    assert "clipped as a whole" in masked.content
    assert "was not noised for its records" in masked.protection
    page = str(render(facts))
    assert "Whether any one site contributed what it learned or nothing at all" in page
    assert "Nothing is claimed for single records" in page
    assert "Neighbouring runs have the same cohort and differ in one site, its contribution replaced by zero." in page
    assert "one record" not in page
    # the auditor's own recomputation: nothing was sampled
    assert "[(1.1, 1.0, 3)]" in page


def test_a_run_without_incident(plain_run: Any) -> None:
    facts = facts_from_run(plain_run.write())
    assert facts.findings == ()
    assert (facts.run.status, facts.run.rounds_done, facts.run.rounds_planned) == ("completed", 5, 5)
    assert [site.site for site in facts.sites] == ["alpha", "beta", "gamma"]
    for site in facts.sites:
        assert site.gradient_steps == 20
        assert site.epsilon_run == pytest.approx(charge(facts, 20))
        assert site.epsilon_run == pytest.approx(site.epsilon_run_by_receipt)
        assert [step.epsilon_run for step in site.steps] == pytest.approx([charge(facts, 4 * n) for n in range(1, 6)])
        assert site.aggregation_bytes == 5 * (609_321 + len(site.site))
        assert site.receipt_bytes > 5 * 400
        assert site.tree_head is not None
        assert site.tree_head.size == 16
    assert facts.second_opinion is not None
    assert facts.second_opinion.agrees
    assert [fact.round for fact in facts.accuracy] == [0, 1, 2, 3, 4, 5]


def test_one_epsilon_for_each_adversary_with_its_assumptions(plain_run: Any) -> None:
    facts = facts_from_run(plain_run.write())
    assert [bound.adversary for bound in facts.adversaries] == ["coordinator", "coordinator+c sites", "site", "public"]
    for bound in facts.adversaries:
        assert bound.epsilon == pytest.approx(charge(facts, 20))
        assert bound.delta == facts.delta
        assert bound.assumptions
        assert [item.site for item in bound.per_site] == ["alpha", "beta", "gamma"]


def test_the_worst_site_sets_the_bound(eventful_run: Any) -> None:
    facts = facts_from_run(eventful_run.write())
    by_site = {site.site: site.epsilon_run for site in facts.sites}
    assert by_site["beta"] < by_site["alpha"]
    assert facts.adversaries[0].epsilon == max(by_site.values())
    assert {item.site: item.epsilon for item in facts.adversaries[0].per_site} == by_site


def test_the_same_folder_gives_the_same_facts_and_they_survive_json(eventful_run: Any) -> None:
    folder = eventful_run.write()
    facts = facts_from_run(folder)
    assert facts_from_run(folder) == facts
    assert ReportFacts.model_validate_json(facts.model_dump_json(indent=2)) == facts
    assert list(json.loads(facts.model_dump_json())) == list(ReportFacts.model_fields)


def test_a_refusal_costs_nothing_and_receipts_settle_what_was_in_doubt(eventful_run: Any) -> None:
    facts = facts_from_run(eventful_run.write())
    sites = {site.site: site for site in facts.sites}
    assert sites["alpha"].gradient_steps == 4 * 9
    assert sites["beta"].gradient_steps == 4 * 8
    assert sites["beta"].refusals == 1
    # gamma sent no receipt for steps 2 and 5, but its later receipts tell that it spent nothing in them
    assert [step.charged_so_far for step in sites["gamma"].steps] == [1, 1, 2, 3, 3, 4, 5, 6, 7]
    assert sites["gamma"].epsilon_run == pytest.approx(sites["gamma"].epsilon_run_by_receipt)
    assert sites["gamma"].orders_in_doubt == 0
    assert sites["gamma"].dropouts == 1
    assert not texts(facts, "alarm")
    assert "gamma failed or sent no receipt in steps 2, 5. Its receipts tell what that cost." in texts(facts, "warning")
    assert any("Round 2, step 2 ended without a sum" in text for text in texts(facts, "warning"))
    assert any("beta refused 1 of 9 orders" in text for text in texts(facts, "note"))
    assert any("gamma dropped out once" in text for text in texts(facts, "note"))


def test_what_no_receipt_settles_counts_as_spent(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=3).submit()
    run.round(1, 1, 0.5)
    run.started(2, 2)
    run.emit("round-burnt", round=2, step=2, reason="all were lost")
    run.round(2, 3, 0.6, dropped=("gamma",))
    run.finished("stopped")
    facts = facts_from_run(run.write())
    alpha, _, gamma = facts.sites
    assert [step.charged_so_far for step in alpha.steps] == [1, 1, 2]
    assert [step.charged_so_far for step in gamma.steps] == [1, 2, 3]
    assert (alpha.orders_in_doubt, gamma.orders_in_doubt) == (0, 2)
    assert gamma.epsilon_run == facts.adversaries[0].epsilon == pytest.approx(charge(facts, 12))
    assert any("In doubt 2 of them count as spent" in text for text in texts(facts, "warning"))


def test_a_failure_after_the_reservation_is_told_by_the_receipt(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=2).submit()
    run.started(1, 1)
    for site in ("alpha", "beta", "gamma"):
        run.spent[site] += site != "alpha"
        run.receipt(1, 1, site, "failed", "StepBurnt", "too few")
    run.finished("failed", "too few")
    facts = facts_from_run(run.write())
    assert [site.gradient_steps for site in facts.sites] == [0, 4, 4]
    assert [site.orders_in_doubt for site in facts.sites] == [0, 0, 0]


def test_counts_too_close_to_tell_apart_are_settled_upwards(
    new_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from privacy.report import spending

    monkeypatch.setattr(spending, "epsilon", lambda events, delta: 5.0)
    run = new_run(rounds=1).submit()
    run.started(1, 1)
    run.receipt(1, 1, "alpha", "failed", "StepBurnt", "too few")
    run.events[-1]["receipt"]["epsilon_run"] = 5.0
    run.finished("failed", "too few")
    assert facts_from_run(run.write()).sites[0].gradient_steps == 4


def test_an_order_a_site_could_not_read_is_reported_as_a_refusal(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=1).submit()
    run.receipt(0, 0, "beta", "refused", "order-malformed", "not an order")
    run.round(1, 1, 0.5)
    run.finished()
    facts = facts_from_run(run.write())
    assert (facts.sites[1].refusals, facts.sites[1].gradient_steps) == (1, 4)


def test_pauses_between_stretches_are_not_running_time(eventful_run: Any) -> None:
    facts = facts_from_run(eventful_run.write())
    assert facts.run.resumed == 1
    assert facts.run.seconds < 200


def _first_receipt(run: Any, step: int, site: str = "beta") -> dict[str, Any]:
    return next(
        event["receipt"]
        for event in run.events
        if event["event"] == "site-receipt" and event["step"] == step and event["site"] == site
    )


def test_a_receipt_that_says_more_than_the_events_explain_is_an_alarm(plain_run: Any) -> None:
    receipt = _first_receipt(plain_run, 3)
    receipt["epsilon_run"] *= 1.1
    alarms = texts(facts_from_run(plain_run.write()), "alarm")
    assert len(alarms) == 1
    assert "beta, round 3, step 3: the receipt says epsilon" in alarms[0]


def test_a_receipt_that_says_less_than_the_completed_steps_cost_is_an_alarm(plain_run: Any) -> None:
    receipt = _first_receipt(plain_run, 3)
    receipt["epsilon_run"] = plain_run.epsilon(2)
    facts = facts_from_run(plain_run.write())
    assert len(texts(facts, "alarm")) == 1
    assert facts.sites[1].gradient_steps == 20


def test_a_receipt_within_a_thousandth_is_the_same_figure(plain_run: Any) -> None:
    receipt = _first_receipt(plain_run, 3)
    receipt["epsilon_run"] *= 1.0005
    assert not texts(facts_from_run(plain_run.write()), "alarm")


def test_doubt_never_excuses_a_receipt_that_says_more(eventful_run: Any) -> None:
    receipt = _first_receipt(eventful_run, 7, "gamma")
    receipt["epsilon_run"] *= 2
    assert any("gamma, round 6, step 7" in text for text in texts(facts_from_run(eventful_run.write()), "alarm"))


def test_a_refused_step_whose_receipt_shows_spending_counts_as_spent(eventful_run: Any) -> None:
    for number in range(2, 10):
        receipt = _first_receipt(eventful_run, number)
        receipt["epsilon_run"] = eventful_run.epsilon(number)
    facts = facts_from_run(eventful_run.write())
    beta = facts.sites[1]
    assert [step.charged_so_far for step in beta.steps] == list(range(1, 10))
    assert beta.gradient_steps == 4 * 9
    assert not texts(facts, "alarm")


def test_an_overspent_run_is_an_alarm(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=3)
    privacy = {"epsilon_per_run": 2.0, "epsilon_lifetime": 2.5}
    run = new_run(rounds=3, privacy=_terms(run) | privacy).submit()
    for number in (1, 2, 3):
        run.round(number, number, 0.5)
    run.finished()
    alarms = texts(facts_from_run(run.write()), "alarm")
    assert any("alpha may have spent epsilon 2.492, more than the 2 the agreement allows one run" in a for a in alarms)


def test_a_lifetime_above_the_agreed_one_is_an_alarm(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=1).submit()
    run.earlier = 400
    run.round(1, 1, 0.5)
    run.finished()
    alarms = texts(facts_from_run(run.write()), "alarm")
    assert len(alarms) == 3
    assert all("reports a lifetime epsilon of" in alarm for alarm in alarms)


def test_accountants_that_disagree_are_an_alarm(plain_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy.accounting import comparison

    monkeypatch.setattr(comparison, "epsilon_prv", lambda events, delta: 9.0)
    facts = facts_from_run(plain_run.write())
    assert facts.second_opinion is not None
    assert not facts.second_opinion.agrees
    assert any("The accountants disagree: PLD" in text for text in texts(facts, "alarm"))


def test_a_sum_over_too_few_sites_is_an_alarm(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=1).submit()
    run.round(1, 1, 0.5, dropped=("alpha", "gamma"))
    run.finished()
    assert any(
        "a sum over 1 sites was opened; at least 2" in text for text in texts(facts_from_run(run.write()), "alarm")
    )


def test_another_agreement_than_the_submitted_one_is_an_alarm(plain_run: Any, new_run: Callable[..., Any]) -> None:
    folder = plain_run.write()
    new_run(title="Another agreement")
    alarms = texts(facts_from_run(folder), "alarm")
    assert any("What this report says about the agreement is not what the run was bound by" in text for text in alarms)


def test_a_budget_that_is_not_the_agreed_one_is_an_alarm(plain_run: Any) -> None:
    plain_run.facts["budget"] = {"epsilon": 80.0, "delta": 1e-5}
    plain_run.events[0]["budget"] = plain_run.facts["budget"]
    assert any("submitted with a budget of epsilon 80" in t for t in texts(facts_from_run(plain_run.write()), "alarm"))


@pytest.mark.parametrize("where", ["run", "agreement"])
def test_a_testing_run_claims_no_privacy_at_all(new_run: Callable[..., Any], where: str) -> None:
    run = new_run(rounds=1, **({"testing": True} if where == "run" else {}))
    if where == "agreement":
        run = _with_testing_agreement(run)
    run.submit()
    run.round(1, 1, 0.5)
    run.finished()
    facts = facts_from_run(run.write())
    assert facts.testing
    assert all(bound.epsilon is None for bound in facts.adversaries)
    assert all(item.epsilon is None for bound in facts.adversaries for item in bound.per_site)
    assert "There is NO privacy claim" in texts(facts, "alarm")[0]


def test_a_run_that_never_began(new_run: Callable[..., Any]) -> None:
    run = new_run().submit()
    run.finished("failed", "waited 300 s for beta, gamma")
    facts = facts_from_run(run.write())
    assert facts.run.status == "failed"
    assert facts.second_opinion is None
    assert all(site.epsilon_run == 0 and site.gradient_steps == 0 for site in facts.sites)
    assert texts(facts, "warning") == ["The run failed after 0 rounds: waited 300 s for beta, gamma."]


def test_a_run_in_progress_says_so(new_run: Callable[..., Any]) -> None:
    run = new_run().submit()
    run.started(1, 1)
    facts = facts_from_run(run.write())
    assert facts.run.status == "unfinished"
    assert facts.steps[0].outcome == "unfinished"
    # orders are out and nobody has answered: in doubt, spent
    assert all(site.gradient_steps == 4 for site in facts.sites)


def test_files_of_different_runs_are_refused(plain_run: Any) -> None:
    folder = plain_run.write()
    facts = json.loads((folder / "run.json").read_text())
    facts["training"]["noise_multiplier"] = 4.0
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"training is .* in run\.json and .* in events\.jsonl"):
        facts_from_run(folder)


def test_an_unreadable_agreement_is_refused(plain_run: Any) -> None:
    folder = plain_run.write()
    (folder / "agreement.yaml").unlink()
    with pytest.raises(AgreementError):
        facts_from_run(folder)


@pytest.mark.parametrize("time", ["yesterday", "2026-03-05T09:30:00"])
def test_a_time_that_is_not_one_is_refused(plain_run: Any, time: str) -> None:
    plain_run.events[-1]["time"] = time
    with pytest.raises(InputError, match="expected RFC 3339 in UTC"):
        facts_from_run(plain_run.write())


def _terms(run: Any) -> dict[str, Any]:
    from privacy.agreement import load_bundle

    dumped: dict[str, Any] = load_bundle(run.folder / "agreement.yaml").agreement.model_dump(mode="json")
    privacy: dict[str, Any] = dumped["privacy"]
    return privacy


def _with_testing_agreement(run: Any) -> Any:
    from privacy.agreement import draft, load_bundle, save_bundle

    dumped = load_bundle(run.folder / "agreement.yaml").agreement.model_dump(mode="json")
    bundle = draft({**dumped, "testing": True})
    save_bundle(bundle, run.folder / "agreement.yaml")
    run.facts["agreement_digest"] = bundle.agreement.digest()
    return run


def test_a_step_in_progress_is_not_told_as_a_fault_of_the_sites(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=3).submit()
    run.round(1, 1, 0.4)
    run.started(2, 2)
    run.receipt(2, 2, "beta")
    facts = facts_from_run(run.write())
    assert facts.step_in_progress == 2
    told = texts(facts, "warning")
    assert told == [
        "The run had not ended when this was written: 1 of 3 rounds.",
        "Step 2 is still in progress; it counts as spent.",
    ]
    assert [site.steps[-1].charged_so_far for site in facts.sites] == [2, 2, 2]
    page = str(render(facts))
    assert "It is still in progress; it counts as spent." in page
    assert "The run ended first." not in page
    assert "<td>lost" not in page.replace("</td>", "")
    run.finished("failed", "a fault")
    ended = facts_from_run(run.write())
    assert ended.step_in_progress is None
    assert (
        "alpha failed or sent no receipt in step 2. In doubt it counts as spent; its own ledger may say less."
        in texts(ended, "warning")
    )


def test_one_step_in_doubt_of_several_is_told_in_english(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=4).submit()
    for step in (1, 2, 3):
        run.started(step, step)
        for site in SITES if step == 2 else SITES[1:]:
            run.receipt(step, step, site)
    run.started(4, 4)
    facts = facts_from_run(run.write())
    # what its second receipt tells of the first step is settled; the fourth is in progress
    told = "alpha failed or sent no receipt in steps 1, 3. In doubt 1 of them counts as spent; its own ledger may say"
    assert f"{told} less." in texts(facts, "warning")


def test_the_first_order_tells_how_long_an_update_is(new_run: Callable[..., Any]) -> None:
    """No submission knows it, and earlier versions did not record it."""
    run = new_run(rounds=2)
    del run.facts["adapter_length"]
    run.submit()
    run.round(1, 1, 0.4)
    assert facts_from_run(run.write()).parameters.adapter_length is None
    started = next(event for event in run.events if event["event"] == "round-started")
    started["adapter_length"] = 151_690
    facts = facts_from_run(run.write())
    assert facts.parameters.adapter_length == 151_690
    page = str(render(facts))
    assert "151,690 values" in page
    assert f"tacit report HOME/state/runs/{facts.run.run_id}" in page
    run.started(2, 2)
    run.events[-1 - 6 * len(SITES)]["adapter_length"] = 7
    with pytest.raises(InputError, match="updates of 7 and 151690 values, expected one length"):
        facts_from_run(run.write())
