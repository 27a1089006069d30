"""A site's end of an aggregation session: an interface, and the loop that drives an epoch through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from privacy.secagg.descriptor import next_history
from privacy.secagg.effects import Ended, Keep, Ready, Send, SiteEffect
from privacy.secagg.journal import StepRecord
from privacy.secagg.site import SiteMachine
from privacy.secagg.surplus import Contribution
from tacit.errors import StepBurnt


@dataclass(frozen=True)
class Closed:
    """The coordinator ended the session."""

    summed: bool
    reason: str


class Session(Protocol):
    """One session with the coordinator: a key setup and the steps on it. It outlives broken connections."""

    #: bytes of protocol frames sent so far, each counted once
    bytes_sent: int

    def send(self, frame: bytes) -> None:
        """Send one protocol frame."""
        ...

    def tell(self, phase: str) -> None:
        """Say, for people, what the site is doing."""
        ...

    def receive(self, timeout_s: float) -> bytes | Closed:
        """Return the next frame.

        Raises:
            TransportError: nothing came in time, or the connection broke and could not be had again.
        """
        ...

    def interrupt(self) -> None:
        """Break the connection, as a network would: the session comes back by itself."""
        ...

    def close(self) -> None:
        """Leave the session; the coordinator is told, unless it has ended."""
        ...


class AggregationTransport(Protocol):
    """Opens sessions."""

    def open(self, run_id: str, step: int) -> Session:
        """Open the session that begins with this step.

        Raises:
            TransportError: the coordinator is not there or refuses.
        """
        ...


class StepJournal(Protocol):
    """Where a site keeps what it must know of its steps after a restart."""

    def keep(self, record: StepRecord) -> None:
        """Write the record to stable storage; return when it is there.

        Raises:
            StorageFull: it could not be written. Nothing may be sent.
        """
        ...


def take_part(
    session: Session,
    machine: SiteMachine,
    make_update: Callable[[int], Contribution],
    *,
    journal: StepJournal,
    timeout_s: float,
    on_ended: Callable[[Ended], None] = lambda ended: None,
) -> None:
    """Drive one epoch from its key setup to the end of its last step.

    Args:
        session: the caller closes it.
        machine: the site's state machine, holding the descriptor of the first step this site expects.
        make_update: called with each step's number once the step is verified; trains, and returns the encoded update,
            of shape ``(vector_length,)``.
        journal: written before anything is sent that must not be sent twice.
        timeout_s: how long to wait for each answer of the coordinator.
        on_ended: told what came of each step, before the next one.

    Raises:
        StepBurnt: the coordinator ended the session before the last step was summed or burnt, or the only step of the
            session was burnt.
        ProtocolViolation: the coordinator, or a peer through it, broke the protocol.
        TransportError: the coordinator fell silent.
    """
    pending: list[SiteEffect] = list(machine.start())
    last: Ended | None = None
    while True:
        while pending:
            match pending.pop(0):
                case Keep(record=record):
                    journal.keep(record)
                case Send(frame=frame):
                    session.send(frame)
                case Ready(step=step):
                    pending.extend(machine.upload(make_update(step)))
                case Ended() as last:
                    on_ended(last)
                    _look_ahead(machine, last)
        received = session.receive(timeout_s)
        if isinstance(received, Closed):
            _check_end(machine, last, received)
            return
        pending.extend(machine.receive(received))


def _look_ahead(machine: SiteMachine, ended: Ended) -> None:
    """Expect the step that follows, which builds on what came of this one."""
    descriptor = machine.descriptor
    if descriptor.step < descriptor.last_step:
        machine.expect(descriptor.following(next_history(descriptor.history, ended.survivors, ended.total)))


def _check_end(machine: SiteMachine, last: Ended | None, closed: Closed) -> None:
    descriptor = machine.descriptor
    if last is None or last.step < descriptor.last_step or not closed.summed:
        reason = closed.reason or (last.reason if last is not None else "")
        raise StepBurnt(reason or "the coordinator ended the session early")
