"""What a steward wants to see: what was spent on each dataset, by which run, and what is left."""

from __future__ import annotations

import math
from collections import Counter

from privacy.ledger.head import TreeHead
from privacy.ledger.ledger import Ledger
from privacy.ledger.state import DatasetAccount, RunAccount
from privacy.order import Strict


class RunStatement(Strict):
    """One run's part. ``epsilon`` is None when it is not finite."""

    run_id: str
    epsilon: float | None
    epsilon_limit: float
    reserved: int
    committed: int
    forfeited: int
    open: int
    noise_secret: bool


class DatasetStatement(Strict):
    """One dataset's lifetime, at the newest reservation's ``delta`` and limit."""

    dataset: str
    #: what the account counts: the epsilons bound what can be learned about one of these
    unit: str
    delta: float
    epsilon: float | None
    epsilon_limit: float
    #: limit minus spent, not below zero. Not a promise: epsilons do not add, they compose.
    epsilon_left: float
    #: False: a test seed was used, so nothing about this dataset is claimed to be private
    noise_secret: bool
    runs: tuple[RunStatement, ...]


class OpenReservation(Strict):
    """A step that was reserved and has not ended yet."""

    entry: int
    run_id: str
    round: int
    step: int
    dataset: str


class AgreementStatement(Strict):
    """An accepted agreement."""

    agreement_digest: str
    in_force: bool
    summary: dict[str, object]


class LedgerStatement(Strict):
    """Everything of a ledger that fits on a page."""

    tree_head: TreeHead
    entries: dict[str, int]
    agreements: tuple[AgreementStatement, ...]
    datasets: tuple[DatasetStatement, ...]
    open_reservations: tuple[OpenReservation, ...]


def statement(ledger: Ledger) -> LedgerStatement:
    """Sum a ledger up. Composes each dataset and run, so it takes a moment."""
    state = ledger.state
    return LedgerStatement(
        tree_head=ledger.tree_head(),
        entries=dict(Counter(entry.body.kind for entry in ledger.entries())),
        agreements=tuple(
            AgreementStatement(agreement_digest=accepted.agreement_digest, in_force=in_force, summary=accepted.summary)
            for accepted, in_force in state.agreements()
        ),
        datasets=tuple(_dataset(ledger, name, account) for name, account in sorted(state.datasets.items())),
        open_reservations=tuple(
            OpenReservation(
                entry=index, run_id=reserve.run_id, round=reserve.round, step=reserve.step, dataset=reserve.dataset
            )
            for index, reserve in sorted(state.open_reservations.items())
        ),
    )


def _dataset(ledger: Ledger, name: str, account: DatasetAccount) -> DatasetStatement:
    last = account.last
    assert last is not None  # an account is opened by its first reservation
    spent = ledger.spent(name, last.delta)
    return DatasetStatement(
        dataset=name,
        unit=last.event.unit.value,
        delta=last.delta,
        epsilon=_finite(spent),
        epsilon_limit=last.epsilon_lifetime,
        epsilon_left=max(last.epsilon_lifetime - spent, 0.0),
        noise_secret=account.noise_secret,
        runs=tuple(_run(ledger, name, run_id, run) for run_id, run in account.runs.items()),
    )


def _run(ledger: Ledger, dataset: str, run_id: str, run: RunAccount) -> RunStatement:
    last = run.last
    assert last is not None  # as above
    return RunStatement(
        run_id=run_id,
        epsilon=_finite(ledger.spent(dataset, last.delta, run_id)),
        epsilon_limit=last.epsilon_per_run,
        reserved=run.reserved,
        committed=run.committed,
        forfeited=run.forfeited,
        open=run.reserved - run.committed - run.forfeited,
        noise_secret=run.noise_secret,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
