"""What each site spent, recomputed from a run's events, and never less than what may have been spent.

A completed step is spent. Of any other step (refused, failed, never heard of again) nobody but the site's ledger knows
whether noise was drawn, so it counts as spent until a receipt tells otherwise: each receipt carries the run's epsilon
by the ledger, and with known parameters that is a count of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from privacy.accounting import epsilon
from privacy.events import DpEvent
from privacy.order import Receipt
from privacy.report.events import Event, RoundFinished, RoundStarted, SiteReceipt
from privacy.report.facts import SiteFacts, SiteStepFacts, TreeHeadFacts
from tacit.canonical import canonical_json


def sites_from(
    sites: Iterable[str], events: Iterable[Event], step_event: DpEvent, delta: float
) -> tuple[SiteFacts, ...]:
    """Return what each site did and spent.

    Args:
        sites: all sites of the run.
        events: the run's events.
        step_event: what carrying out one order spends.
        delta: the agreement's delta.
    """
    all_events = tuple(events)
    return tuple(_site(site, all_events, _Cost(step_event, delta)) for site in sites)


def spent_events(site: SiteFacts, step_event: DpEvent) -> tuple[DpEvent, ...]:
    """Return what ``site`` spent, as an accountant's events."""
    return (step_event,) * (site.steps[-1].charged_so_far if site.steps else 0)


def same_epsilon(left: float, right: float) -> bool:
    """Whether two figures tell the same: within a thousandth, which versions of an accountant may differ by."""
    return math.isclose(left, right, rel_tol=1e-3, abs_tol=1e-6)


@dataclass(frozen=True)
class _Cost:
    step_event: DpEvent
    delta: float

    def of(self, charged: int) -> float:
        """Epsilon of ``charged`` orders carried out."""
        return epsilon((self.step_event,) * charged, self.delta)


@dataclass
class _Count:
    """How many orders are spent: at least ``low``, at most ``high``."""

    low: int = 0
    high: int = 0

    def take(self, receipt: Receipt | None, cost: _Cost) -> bool:
        """Take in one step; return whether its receipt fits any count that is possible.

        Where counts are too close to tell apart, the largest one is taken.
        """
        self.high += 1
        if receipt is None:
            return True
        self.low += receipt.outcome.status == "completed"
        told = receipt.epsilon_run
        fitting = [count for count in range(self.low, self.high + 1) if same_epsilon(told, cost.of(count))]
        if fitting:
            self.low = self.high = fitting[-1]
        return bool(fitting)


def _site(site: str, events: tuple[Event, ...], cost: _Cost) -> SiteFacts:
    told = [event for event in events if isinstance(event, SiteReceipt) and event.site == site]
    receipts = {event.step: event.receipt for event in told}
    started = {event.step: event.round for event in events if isinstance(event, RoundStarted)}
    rounds = dict(sorted({**{event.step: event.round for event in told}, **started}.items()))
    count, fits, highs = _Count(), [], []
    for step in rounds:
        fits.append(count.take(receipts.get(step), cost))
        highs.append(count.high)
    # what a later receipt told holds for the steps before it too
    for before, step in reversed(list(enumerate(list(rounds)[1:]))):
        receipt = receipts.get(step)
        own = receipt is not None and receipt.outcome.status == "completed"
        highs[before] = min(highs[before], highs[before + 1] - own)
    steps = tuple(
        _step(step, rounds[step], receipts.get(step), charged, cost, fits=fit)
        for step, charged, fit in zip(rounds, highs, fits, strict=True)
    )
    last = receipts[max(receipts)] if receipts else None
    return SiteFacts(
        site=site,
        steps=steps,
        gradient_steps=count.high * cost.step_event.steps,
        orders_in_doubt=count.high - count.low,
        epsilon_run=cost.of(count.high),
        epsilon_run_by_receipt=last.epsilon_run if last else None,
        epsilon_lifetime_by_receipt=last.epsilon_spent if last else None,
        aggregation_bytes=sum(step.aggregation_bytes for step in steps),
        receipt_bytes=sum(step.receipt_bytes for step in steps),
        refusals=sum(step.status == "refused" for step in steps),
        dropouts=sum(isinstance(event, RoundFinished) and site in event.dropped for event in events),
        tree_head=_tree_head(last),
    )


def _step(step: int, round_: int, receipt: Receipt | None, charged: int, cost: _Cost, *, fits: bool) -> SiteStepFacts:
    return SiteStepFacts(
        round=round_,
        step=step,
        status=receipt.outcome.status if receipt else "no receipt",
        reason=receipt.outcome.reason if receipt else "",
        message=receipt.outcome.message if receipt else "",
        charged_so_far=charged,
        epsilon_run=cost.of(charged),
        epsilon_run_by_receipt=receipt.epsilon_run if receipt else None,
        receipt_fits=fits,
        aggregation_bytes=receipt.bytes_sent if receipt else 0,
        receipt_bytes=len(canonical_json(receipt.model_dump(mode="json"))) if receipt else 0,
    )


def _tree_head(receipt: Receipt | None) -> TreeHeadFacts | None:
    if receipt is None or not receipt.tree_root:
        return None
    return TreeHeadFacts(
        size=receipt.tree_size,
        root=receipt.tree_root,
        timestamp=receipt.tree_timestamp,
        signature=receipt.tree_signature,
    )
