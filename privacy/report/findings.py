"""What a reader of a report must not miss, most serious first."""

from __future__ import annotations

from collections.abc import Iterator

from privacy.report.events import LedgerRefused, RunEvents
from privacy.report.facts import Finding, ReportFacts
from privacy.report.figures import epsilon_text, sentence
from privacy.report.spending import same_epsilon
from privacy.secagg.threshold import survivors_required

_ORDER = ("alarm", "warning", "note")


def findings_of(facts: ReportFacts, *, submitted_digest: str, record: RunEvents) -> tuple[Finding, ...]:
    """Return everything remarkable in ``facts``: alarms touch the privacy claim, warnings the run, notes neither.

    Args:
        facts: complete but for its findings.
        submitted_digest: digest of the agreement the run was submitted under.
        record: the events the facts come from.
    """
    found = [
        *_alarms(facts, submitted_digest),
        *_refused_ledgers(record),
        *_warnings(facts, record),
        *_notes(facts, record),
    ]
    return tuple(sorted(found, key=lambda finding: _ORDER.index(finding.severity)))


def _alarms(facts: ReportFacts, submitted_digest: str) -> Iterator[Finding]:
    agreement = facts.agreement
    if facts.testing:
        yield _alarm(
            "There is NO privacy claim for this run: the agreement or the run allowed reproducible noise, and whoever "
            "knows its seed can subtract it."
        )
    if agreement.digest != submitted_digest:
        yield _alarm(
            f"The agreement kept with the run has digest {agreement.digest}; the run was submitted under "
            f"{submitted_digest}. What this report says about the agreement is not what the run was bound by."
        )
    if agreement.delta != facts.delta or agreement.epsilon_per_run != facts.epsilon_budget:
        yield _alarm(
            f"The run was submitted with a budget of epsilon {facts.epsilon_budget:g} at delta {facts.delta:g}; the "
            f"agreement says epsilon {agreement.epsilon_per_run:g} at delta {agreement.delta:g}."
        )
    for site in facts.sites:
        for step in site.steps:
            if not step.receipt_fits:
                yield _alarm(
                    f"{site.site}, round {step.round}, step {step.step}: the receipt says epsilon "
                    f"{epsilon_text(step.epsilon_run_by_receipt, 6)} for this run, the events explain "
                    f"{epsilon_text(step.epsilon_run, 6)}; no "
                    "number of orders carried out costs what the receipt says."
                )
        if site.epsilon_run > facts.epsilon_budget and not same_epsilon(site.epsilon_run, facts.epsilon_budget):
            yield _alarm(
                f"{site.site} may have spent epsilon {epsilon_text(site.epsilon_run)}, more than the "
                f"{facts.epsilon_budget:g} the agreement allows one run."
            )
        lifetime = site.epsilon_lifetime_by_receipt
        if lifetime is not None and lifetime > agreement.epsilon_lifetime:
            yield _alarm(
                f"{site.site} reports a lifetime epsilon of {epsilon_text(lifetime)}, more than the "
                f"{agreement.epsilon_lifetime:g} agreed."
            )
    opinion = facts.second_opinion
    if opinion is not None and not opinion.agrees:
        yield _alarm(
            f"The accountants disagree: PLD {epsilon_text(opinion.pld)}, PRV {epsilon_text(opinion.prv)}, RDP "
            f"{epsilon_text(opinion.rdp)}; a difference of {opinion.tolerance:.2g} would be "
            "explained by discretisation."
        )
    needed = survivors_required(facts.parameters.secagg.threshold, agreement.min_cohort)
    for attempt in facts.steps:
        if attempt.outcome == "summed" and len(attempt.survivors) < needed:
            yield _alarm(
                f"Round {attempt.round}, step {attempt.step}: a sum over {len(attempt.survivors)} sites was opened; at "
                f"least {needed} were needed."
            )


def _refused_ledgers(record: RunEvents) -> Iterator[Finding]:
    for event in record.events:
        if isinstance(event, LedgerRefused):
            yield _alarm(
                f"{event.site}, round {event.round}, step {event.step}: the coordinator refused the site's ledger. "
                f"{sentence(event.reason)} What the site spent before cannot be told from its receipts."
            )


def _warnings(facts: ReportFacts, record: RunEvents) -> Iterator[Finding]:
    run = facts.run
    if run.status in ("failed", "stopped"):
        yield _warning(
            f"The run {_past(run.status)} after {_rounds(run.rounds_done)}: {sentence(run.reason or 'no reason given')}"
        )
    elif run.status == "unfinished":
        yield _warning(
            f"The run had not ended when this was written: {run.rounds_done} of {run.rounds_planned} rounds."
        )
    if record.torn:
        yield _warning("The last line of the event log was cut off by a crash; what it said is not in this report.")
    for step in facts.steps:
        if step.outcome == "burnt":
            yield _warning(
                f"Round {step.round}, step {step.step} ended without a sum: {sentence(step.reason or 'no reason')}"
            )
    current = facts.step_in_progress
    if current is not None:
        yield _warning(f"Step {current} is still in progress; it counts as spent.")
    for site in facts.sites:
        awaited = sum(step.step == current and step.status == "no receipt" for step in site.steps)
        silent = [
            str(step.step)
            for step in site.steps
            if step.status == "failed" or (step.status == "no receipt" and step.step != current)
        ]
        if silent:
            which = f"{'step' if len(silent) == 1 else 'steps'} {', '.join(silent)}"
            cost = _cost(len(silent), site.orders_in_doubt - awaited)
            yield _warning(f"{site.site} failed or sent no receipt in {which}. {cost}")


def _notes(facts: ReportFacts, record: RunEvents) -> Iterator[Finding]:
    for site in facts.sites:
        if site.refusals:
            yield _note(f"{site.site} refused {site.refusals} of {len(site.steps)} orders.")
        if site.dropouts:
            yield _note(f"{site.site} dropped out {_times(site.dropouts)}: the sum was opened without it.")
    if facts.run.resumed:
        yield _note(f"The run went on from a checkpoint {_times(facts.run.resumed)}.")
    if not facts.accuracy:
        yield _note("No public test set was given, so there is no accuracy.")
    if record.unknown_kinds:
        yield _note(f"The event log holds kinds this version does not know: {', '.join(record.unknown_kinds)}.")


def _cost(silent: int, doubt: int) -> str:
    if not doubt:
        return "Its receipts tell what that cost."
    counts = "it counts" if silent == 1 else "1 of them counts" if doubt == 1 else f"{doubt} of them count"
    return f"In doubt {counts} as spent; its own ledger may say less."


def _past(status: str) -> str:
    return "was stopped" if status == "stopped" else status


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _alarm(text: str) -> Finding:
    return Finding(severity="alarm", text=text)


def _warning(text: str) -> Finding:
    return Finding(severity="warning", text=text)


def _note(text: str) -> Finding:
    return Finding(severity="note", text=text)
