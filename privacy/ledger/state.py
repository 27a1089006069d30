"""What the entries add up to: a pure fold over the log. It opens no file and reads no clock.

An entry that contradicts the ones before it raises and leaves the state unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from privacy.accounting.spends import check_same_unit
from privacy.events import DpEvent
from privacy.ledger.entries import (
    AgreementAccepted,
    Body,
    Commit,
    Entry,
    Forfeit,
    Reserve,
    Withdrawal,
)
from tacit.errors import InputError, LedgerError, StepAlreadySpent


@dataclass(frozen=True, order=True)
class StepKey:
    """Names one step of one run; spent at most once."""

    run_id: str
    round: int
    step: int

    def __str__(self) -> str:
        return f"run {self.run_id} round {self.round} step {self.step}"


@dataclass(frozen=True)
class Budget:
    """Two limits at one ``delta``: on what a run composes to, and on what everything on the dataset composes to."""

    epsilon_per_run: float
    epsilon_lifetime: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("epsilon_per_run", "epsilon_lifetime"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value!r}; expected a finite number above 0")
        if not 0 < self.delta < 1:
            raise InputError(f"delta is {self.delta!r}; expected a number strictly between 0 and 1")


@dataclass(frozen=True)
class Reservation:
    """Privacy set aside for one step. ``index`` is the position of its entry in the log."""

    index: int
    key: StepKey
    dataset: str
    event: DpEvent
    noise_secret: bool
    #: composed bounds including this step, at ``delta``
    epsilon_run: float
    epsilon_lifetime: float
    delta: float


class Tally:
    """Events of one dataset or run, equal ones merged; the newest kind comes last."""

    def __init__(self) -> None:
        self._steps: dict[DpEvent, int] = {}

    def add(self, event: DpEvent) -> None:
        """Count one more event."""
        kind = event.model_copy(update={"steps": 1})
        self._steps[kind] = self._steps.pop(kind, 0) + event.steps

    def events(self) -> tuple[DpEvent, ...]:
        """The merged events."""
        return tuple(kind.model_copy(update={"steps": steps}) for kind, steps in self._steps.items())


@dataclass
class RunAccount:
    """What one run did on one dataset, and the limits it last ran under."""

    tally: Tally = field(default_factory=Tally)
    reserved: int = 0
    committed: int = 0
    forfeited: int = 0
    noise_secret: bool = True
    last: Reserve | None = None


@dataclass
class DatasetAccount:
    """Everything ever reserved on one dataset, committed, forfeited and open alike: charges to one privacy unit."""

    tally: Tally = field(default_factory=Tally)
    runs: dict[str, RunAccount] = field(default_factory=dict)
    noise_secret: bool = True
    last: Reserve | None = None


class LedgerState:
    """The fold. :meth:`check` says whether a body may come next; :meth:`apply` takes it in."""

    def __init__(self) -> None:
        self._size = 0
        self._agreements: dict[str, AgreementAccepted] = {}
        self._withdrawn: set[str] = set()
        self._datasets: dict[str, DatasetAccount] = {}
        self._keys: dict[StepKey, int] = {}
        self._open: dict[int, Reserve] = {}

    @property
    def size(self) -> int:
        """Number of entries taken in."""
        return self._size

    @property
    def datasets(self) -> Mapping[str, DatasetAccount]:
        """Accounts by dataset."""
        return MappingProxyType(self._datasets)

    @property
    def open_reservations(self) -> Mapping[int, Reserve]:
        """Reservations neither committed nor forfeited, by entry index."""
        return MappingProxyType(self._open)

    @property
    def step_keys(self) -> Mapping[StepKey, int]:
        """Every step ever reserved, and the index of its entry."""
        return MappingProxyType(self._keys)

    def agreements(self) -> Iterator[tuple[AgreementAccepted, bool]]:
        """Each accepted agreement, and whether it is still in force."""
        for digest, accepted in self._agreements.items():
            yield accepted, digest not in self._withdrawn

    def in_force(self, agreement_digest: str) -> bool:
        """Whether the agreement was accepted and not withdrawn since."""
        return agreement_digest in self._agreements and agreement_digest not in self._withdrawn

    def events(self, dataset: str, run_id: str | None = None) -> tuple[DpEvent, ...]:
        """Merged events of the dataset, or of one run on it; empty when there were none."""
        account = self._datasets.get(dataset)
        if account is None:
            return ()
        if run_id is None:
            return account.tally.events()
        run = account.runs.get(run_id)
        return run.tally.events() if run else ()

    def check(self, body: Body) -> None:
        """Raise unless ``body`` may be the next entry's.

        Raises:
            StepAlreadySpent: the step was reserved before.
            LedgerError: the agreement is not in force, the reservation named is not open, or the dataset's account
                counts another unit.
        """
        if isinstance(body, Reserve):
            if not self.in_force(body.agreement_digest):
                raise LedgerError(
                    f"agreement {body.agreement_digest} is not in force at this site",
                    hint="accept it in the ledger first; a withdrawn agreement must be accepted again",
                )
            key = StepKey(body.run_id, body.round, body.step)
            if key in self._keys:
                raise StepAlreadySpent(
                    f"{key} was reserved before (ledger entry {self._keys[key]})",
                    hint="a second noise draw is never made for one step; order a new step",
                )
            account = self._datasets.get(body.dataset)
            if account is not None and account.last is not None:
                check_same_unit(account.last.event, body.event)
        elif isinstance(body, Commit | Forfeit):
            if body.reservation not in self._open:
                raise LedgerError(
                    f"entry {body.reservation} is not an open reservation",
                    hint="a reservation is committed or forfeited once, by the process that made it",
                )
        elif isinstance(body, Withdrawal) and not self.in_force(body.agreement_digest):
            raise LedgerError(f"agreement {body.agreement_digest} is not in force, so it cannot be withdrawn")

    def apply(self, entry: Entry) -> None:
        """Take in the next entry. Raises what :meth:`check` raises; then the state is unchanged."""
        body = entry.body
        if entry.index != self._size:
            raise LedgerError(f"entry {entry.index} cannot follow {self._size} entries")
        self.check(body)
        self._size += 1
        if isinstance(body, AgreementAccepted):
            self._agreements[body.agreement_digest] = body
            self._withdrawn.discard(body.agreement_digest)
        elif isinstance(body, Withdrawal):
            self._withdrawn.add(body.agreement_digest)
        elif isinstance(body, Reserve):
            self._apply_reserve(entry.index, body)
        elif isinstance(body, Commit | Forfeit):
            reserve = self._open.pop(body.reservation)
            run = self._datasets[reserve.dataset].runs[reserve.run_id]
            if isinstance(body, Commit):
                run.committed += 1
            else:
                run.forfeited += 1

    def _apply_reserve(self, index: int, body: Reserve) -> None:
        self._keys[StepKey(body.run_id, body.round, body.step)] = index
        self._open[index] = body
        dataset = self._datasets.setdefault(body.dataset, DatasetAccount())
        run = dataset.runs.setdefault(body.run_id, RunAccount())
        for account in (dataset, run):
            account.tally.add(body.event)
            account.noise_secret = account.noise_secret and body.noise_secret
            account.last = body
        run.reserved += 1
