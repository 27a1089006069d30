"""From a run's folder to its facts. Every epsilon is computed again here; what receipts say is only compared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from privacy.accounting import AdversaryBounds, adversary_bounds, agreement_between
from privacy.agreement import Agreement, AgreementBundle, load_bundle
from privacy.events import DpEvent
from privacy.order import event_of
from privacy.report.events import (
    Evaluated,
    Event,
    RoundBurnt,
    RoundFinished,
    RoundStarted,
    RunEvents,
    RunFinished,
    RunResumed,
    RunSubmitted,
    Submission,
    read_events,
    read_submission,
)
from privacy.report.facts import (
    AccuracyFacts,
    AdversaryFacts,
    AgreementFacts,
    Parameters,
    ReportFacts,
    RunFacts,
    SecondOpinionFacts,
    SiteEpsilon,
    SiteFacts,
    StepFacts,
)
from privacy.report.findings import findings_of
from privacy.report.spending import sites_from, spent_events
from privacy.report.statements import TRUST, egress_of
from tacit.errors import InputError


def facts_from_run(run_folder: Path) -> ReportFacts:
    """Read ``run.json``, ``agreement.yaml`` and ``events.jsonl`` and work out everything a report says.

    The same folder gives the same facts, whenever and wherever they are worked out.

    Raises:
        InputError: a file is absent, cannot be read, or does not belong to the same run.
        AgreementError: the agreement file cannot be read.
        LedgerError: an accountant cannot interpret what was spent.
    """
    submission = read_submission(run_folder / "run.json")
    record = read_events(run_folder / "events.jsonl")
    _check_same_run(run_folder, submission, record)
    bundle = load_bundle(run_folder / "agreement.yaml")
    length = _adapter_length(submission, record.events)
    step_event = _step_event(submission, bundle.agreement, length)
    delta = submission.budget.delta
    testing = submission.testing or bundle.agreement.testing
    sites = sites_from(submission.sites, record.events, step_event, delta)
    facts = ReportFacts(
        tacit_report=1,
        testing=testing,
        findings=(),
        run=_run(submission, record.events),
        adversaries=_adversaries(
            sites, step_event, delta, bundle.agreement.secure_aggregation.collusion_bound, testing=testing
        ),
        epsilon_budget=submission.budget.epsilon,
        delta=delta,
        epsilon_planned=submission.epsilon_per_round,
        second_opinion=_second_opinion(sites, step_event, delta),
        accuracy=_accuracy(record.events),
        sites=sites,
        steps=_steps(record.events),
        egress=egress_of(submission.mode, submission.secagg.ring_bits),
        trust=TRUST,
        agreement=_agreement(bundle),
        parameters=_parameters(submission, length),
    )
    findings = findings_of(facts, submitted_digest=submission.agreement_digest, record=record)
    return facts.model_copy(update={"findings": findings})


def _adapter_length(submission: Submission, events: tuple[Event, ...]) -> int | None:
    """Values in one update, as the first order said; None where the run gave none, or did not record it.

    Raises:
        InputError: the record names several.
    """
    told = {event.adapter_length for event in events if isinstance(event, RoundStarted)} | {submission.adapter_length}
    lengths = sorted(length for length in told if length is not None)
    if len(lengths) > 1:
        raise InputError(
            f"the run's record names updates of {' and '.join(map(str, lengths))} values, expected one length",
            hint="a run has one adapter; restore the coordinator's own files",
        )
    return lengths[0] if lengths else None


def _step_event(submission: Submission, agreement: Agreement, length: int | None) -> DpEvent:
    """What carrying out one order spent. A weight, where sums are weighted, is one more coordinate."""
    return event_of(
        submission.mode,
        agreement.privacy.unit,
        agreement.privacy.adjacency,
        submission.training,
        submission.secagg,
        None if length is None else length + (submission.secagg.weights is not None),
        agreement.secure_aggregation.collusion_bound,
    )


def _check_same_run(run_folder: Path, submission: Submission, record: RunEvents) -> None:
    first = record.events[0]
    assert isinstance(first, RunSubmitted)
    for field in Submission.model_fields:
        told, said = getattr(first, field), getattr(submission, field)
        if told != said:
            raise InputError(
                f"{run_folder}: {field} is {said!r} in run.json and {told!r} in events.jsonl",
                hint="the two files are of different runs, or one was edited; restore the coordinator's own files",
            )


def _run(submission: Submission, events: tuple[Event, ...]) -> RunFacts:
    end = events[-1] if isinstance(events[-1], RunFinished) else None
    done = max((event.round for event in events if isinstance(event, RoundFinished)), default=0)
    seconds = _stretch_seconds(events)
    return RunFacts(
        run_id=submission.run_id,
        run_name=submission.run_name,
        status=end.status if end else "unfinished",
        reason=end.reason if end else "",
        started=events[0].time,
        ended=events[-1].time,
        seconds=seconds,
        rounds_planned=submission.rounds,
        rounds_done=done,
        resumed=sum(isinstance(event, RunResumed) for event in events),
    )


def _stretch_seconds(events: tuple[Event, ...]) -> float:
    """Time spent running: from each beginning to the end that followed it, the pauses between left out."""
    total, begun = 0.0, None
    for event in events:
        moment = _moment(event)
        if begun is None:
            begun = moment
        if isinstance(event, RunFinished) or event is events[-1]:
            total += max(0.0, (moment - begun).total_seconds())
            begun = None
    return round(total, 3)


def _moment(event: Event) -> datetime:
    try:
        moment = datetime.fromisoformat(event.time)
    except ValueError as error:
        raise InputError(f"event {event.seq} has time {event.time!r}, expected RFC 3339 in UTC") from error
    if moment.tzinfo is None:
        raise InputError(f"event {event.seq} has time {event.time!r} without a time zone, expected RFC 3339 in UTC")
    return moment


def _adversaries(
    sites: tuple[SiteFacts, ...],
    step_event: DpEvent,
    delta: float,
    collusion_bound: int,
    *,
    testing: bool,
) -> tuple[AdversaryFacts, ...]:
    bounds: Mapping[str, AdversaryBounds] = {
        site.site: adversary_bounds(
            spent_events(site, step_event), delta, collusion_bound=collusion_bound, noise_secret=not testing
        )
        for site in sites
    }
    result = []
    for adversary in bounds[sites[0].site]:
        values = [bounds[site.site][adversary].epsilon for site in sites]
        claimed = [value for value in values if value is not None]
        result.append(
            AdversaryFacts(
                adversary=adversary,
                epsilon=max(claimed) if len(claimed) == len(values) else None,
                delta=delta,
                assumptions=bounds[sites[0].site][adversary].assumptions,
                per_site=tuple(
                    SiteEpsilon(site=site.site, epsilon=value, gradient_steps=site.gradient_steps)
                    for site, value in zip(sites, values, strict=True)
                ),
            )
        )
    return tuple(result)


def _second_opinion(sites: tuple[SiteFacts, ...], step_event: DpEvent, delta: float) -> SecondOpinionFacts | None:
    worst = max(sites, key=lambda site: site.epsilon_run)
    if not worst.gradient_steps:
        return None
    opinion = agreement_between(spent_events(worst, step_event), delta)
    return SecondOpinionFacts(
        gradient_steps=worst.gradient_steps,
        pld=opinion.pld,
        prv=opinion.prv,
        rdp=opinion.rdp,
        tolerance=opinion.tolerance,
        agrees=opinion.agrees,
    )


def _accuracy(events: tuple[Event, ...]) -> tuple[AccuracyFacts, ...]:
    """One figure a round; a resumed run evaluates its last checkpoint again."""
    found = {event.round: event for event in events if isinstance(event, Evaluated)}
    return tuple(
        AccuracyFacts(round=event.round, accuracy=event.accuracy, loss=event.loss, examples=event.examples)
        for _, event in sorted(found.items())
    )


def _steps(events: tuple[Event, ...]) -> tuple[StepFacts, ...]:
    found: dict[int, StepFacts] = {}
    for event in events:
        if isinstance(event, RoundStarted):
            found[event.step] = _step(event, outcome="unfinished")
        elif isinstance(event, RoundBurnt):
            found[event.step] = _step(event, outcome="burnt", reason=event.reason)
        elif isinstance(event, RoundFinished):
            found[event.step] = _step(
                event,
                outcome="summed",
                survivors=event.survivors,
                dropped=event.dropped,
                seconds=event.seconds,
                update_l2_norm=event.update_l2_norm,
            )
    return tuple(found[step] for step in sorted(found))


def _step(event: RoundStarted | RoundBurnt | RoundFinished, **known: object) -> StepFacts:
    fields: dict[str, object] = {
        "round": event.round,
        "step": event.step,
        "reason": "",
        "survivors": (),
        "dropped": (),
        "seconds": None,
        "update_l2_norm": None,
    }
    return StepFacts.model_validate({**fields, **known})


def _agreement(bundle: AgreementBundle) -> AgreementFacts:
    agreement = bundle.agreement
    privacy, aggregation = agreement.privacy, agreement.secure_aggregation
    return AgreementFacts(
        digest=agreement.digest(),
        title=agreement.title,
        consortium=agreement.consortium,
        purpose=agreement.purpose,
        legal_basis=agreement.legal_basis,
        partners=agreement.partner_names(),
        coordinator=agreement.coordinator.name,
        signed_by=tuple(signature.signer for signature in bundle.signatures),
        unit=privacy.unit,
        max_records_per_user=privacy.max_records_per_user,
        adjacency=privacy.adjacency,
        delta=privacy.delta,
        epsilon_per_run=privacy.epsilon_per_run,
        epsilon_lifetime=privacy.epsilon_lifetime,
        collusion_bound=aggregation.collusion_bound,
        min_cohort=aggregation.min_cohort,
        deidentification_profile=agreement.deidentification.profile,
        residency=agreement.residency,
        retention_days=agreement.retention_days,
        release_scope=agreement.release.scope,
        valid_from=agreement.valid_from,
        valid_until=agreement.valid_until,
    )


def _parameters(submission: Submission, adapter_length: int | None) -> Parameters:
    return Parameters(
        mode=submission.mode,
        strategy=submission.strategy,
        base_model_name=submission.base_model.name,
        base_model_digest=submission.base_model.digest,
        labels_count=submission.labels_count,
        adapter_length=adapter_length,
        training=submission.training,
        secagg=submission.secagg,
        versions=submission.versions,
    )
