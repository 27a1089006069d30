"""Open epochs: the coordinator's state machines, their clocks, and a seat for each site.

The rules are in :mod:`privacy.secagg`; this module hands frames in and out, keeps time, and remembers results.
Every transport (gRPC stream, in-memory simulation) talks to a :class:`StepRegistry` and to nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future

from privacy.noise_shares import SharedNoiseSurplus
from privacy.order import Order
from privacy.secagg import effects
from privacy.secagg.coordinator import CoordinatorMachine
from privacy.secagg.descriptor import descriptor_for, next_history
from privacy.secagg.keys import Roster
from privacy.secagg.phases import FINAL_PHASES, CoordinatorPhase, Stage
from server.deadlines import Deadlines
from server.seats import Closed, Protocol, Seat, Stream
from strategies.secure_sum import SumResult
from tacit.errors import ConfigError, ProtocolViolation, SecAggError, StepBurnt, TransportError

_log = logging.getLogger(__name__)

#: seconds the sites have to answer keys, a lock or a reveal request; they hold everything they need
_ANSWER_DEADLINE_S = 60.0
#: how long a site may be away when its connection breaks, before it counts as gone
RECONNECT_S = 10.0

#: the sums of an order's steps are kept until the ServerApp has read them at the end of the round
_SUMS_MAX_BYTES = 2 << 30

StepEvent = Callable[[str, dict[str, object]], None]


class OpenEpoch:
    """One key setup and the secure steps on it, in progress. Thread-safe: every event goes through one lock.

    Args:
        order: what the cohort was ordered; its steps are taken one after the other.
        machine: holds the rules.
        join_deadline_s: how long the sites have to join.
        reconnect_s: how long a site may be away when its connection breaks.
        on_event: told what happens, for people to follow.
    """

    def __init__(
        self,
        order: Order,
        machine: CoordinatorMachine,
        *,
        join_deadline_s: float,
        reconnect_s: float = RECONNECT_S,
        on_event: StepEvent,
    ) -> None:
        self.order = order
        self._machine = machine
        self._on_event = on_event
        self._lock = threading.RLock()
        self._seats = {site: Seat(machine.descriptor.vector_bytes) for site in order.secagg.cohort}
        self._results: dict[int, Future[SumResult]] = {
            step: Future() for step in range(order.step, order.step + order.secagg.steps)
        }
        #: sites that left of their own accord; their receipts tell why
        self._left: set[str] = set()
        self._is_over = False
        self._is_aborted = False
        self._join_deadline_s = join_deadline_s
        self._reconnect_s = reconnect_s
        self._deadlines = Deadlines(self._passed)
        self._set_deadline(CoordinatorPhase.SETUP)

    def join(self, site: str, *, resume: bool = False, acknowledged: int = 0) -> Stream:
        """Seat ``site``, or let it come back, and return the queue of what is sent to it.

        Raises:
            ProtocolViolation: the site is not in the cohort, is seated already, or has no seat to come back to.
            StepBurnt: the epoch has ended.
        """
        with self._lock:
            seat = self._seats.get(site)
            if seat is None:
                raise ProtocolViolation(f"{site} is not in the cohort of step {self.order.step}", peer=site)
            if seat.is_taken and not resume:
                raise ProtocolViolation(f"{site} has already joined step {self.order.step}", peer=site)
            if resume and (not seat.is_taken or seat.is_full):
                raise ProtocolViolation(f"{site} has no session in step {self.order.step} to come back to", peer=site)
            if self._is_over and not resume:
                raise StepBurnt(f"step {self.order.step} has ended")
            if resume:
                self._on_event("site-phase", {"site": site, "phase": "reconnected"})
            self._deadlines.cancel(site)
            return seat.connect(acknowledged)

    def receive(self, site: str, frame: bytes, *, number: int, acknowledged: int = 0) -> None:
        """Hand a protocol frame from ``site`` to the state machine, unless it was handed in before."""
        with self._lock:
            if self._accept(site, number, acknowledged) and not self._is_over:
                try:
                    self._apply(self._machine.receive(site, frame))
                except SecAggError as error:
                    self._put_out(site, error)

    def acknowledged(self, site: str, number: int) -> None:
        """The site has everything up to ``number``."""
        with self._lock:
            self._accept(site, 0, number)

    def phase(self, site: str, phase: str, *, number: int, acknowledged: int = 0) -> None:
        """Pass on what a site says it is doing, for people to see."""
        with self._lock:
            if self._accept(site, number, acknowledged) and phase and not self._is_over:
                self._on_event("site-phase", {"site": site, "phase": phase})

    def left(self, site: str) -> None:
        """The site takes no further part, and says so."""
        with self._lock:
            if not self._is_over:
                self._left.add(site)
                self._apply(self._machine.lost(site, "it left"))

    def disconnected(self, site: str, stream: Stream) -> None:
        """The site's connection has ended; it has a while to come back."""
        with self._lock:
            if self._seats[site].disconnect(stream) and not self._is_over:
                self._on_event("site-phase", {"site": site, "phase": "away"})
                self._deadlines.set(site, self._reconnect_s)

    def wait(self, timeout_s: float | None = None, *, step: int | None = None) -> SumResult:
        """Block until a step (by default the first) has ended and return its sum.

        Raises:
            StepBurnt: it ended without one.
            TransportError: ``timeout_s`` passed.
        """
        number = self.order.step if step is None else step
        try:
            return self._results[number].result(timeout_s)
        except TimeoutError as error:
            raise TransportError(f"step {number} did not end within {timeout_s} s") from error

    def when_done(self, step: int, call: Callable[[], object]) -> None:
        """Call ``call`` once the step has ended, with a sum or without; at once if it has."""
        self._results[step].add_done_callback(lambda result: call())

    def done(self) -> bool:
        """Return whether all steps have ended."""
        return self._is_over

    def covers(self, step: int) -> bool:
        """Return whether the step is one of this epoch's."""
        return step in self._results

    def abort(self, reason: str) -> None:
        """End the epoch; steps that have not ended give no sum."""
        with self._lock:
            if not self._is_over:
                self._is_aborted = True
                self._apply(self._machine.abort(reason))
                self._end(reason)

    def _accept(self, site: str, number: int, acknowledged: int) -> bool:
        try:
            return self._seats[site].accept(number, acknowledged)
        except ProtocolViolation as error:
            self._put_out(site, error)
            return False

    def _put_out(self, site: str, error: SecAggError) -> None:
        _log.warning("site %s broke the protocol: %s", site, error.message)
        if not self._is_over:
            self._on_event("site-phase", {"site": site, "phase": "failed", "message": error.message})
            self._apply(self._machine.lost(site, error.message))

    def _passed(self, name: Hashable) -> None:
        """A deadline has passed: of a phase, or of a site that was to come back."""
        with self._lock:
            if self._is_over:
                return
            if isinstance(name, CoordinatorPhase):
                self._apply(self._machine.deadline(name))
            elif not self._seats[str(name)].is_connected:
                self._apply(self._machine.lost(str(name)))

    def _apply(self, produced: Sequence[effects.CoordinatorEffect]) -> None:
        ended: effects.Summed | effects.Burnt | None = None
        for effect in produced:
            match effect:
                case effects.SendTo(site=site, frame=frame):
                    self._send(site, frame)
                case effects.SiteAt(site=site, phase=stage):
                    phase = "left" if stage is Stage.LOST and site in self._left else str(stage)
                    self._on_event("site-phase", {"site": site, "phase": phase})
                case effects.Fault(site=site, error=error):
                    _log.warning("site %s is out of step %d: %s", site, self.order.step, error.message)
                    self._on_event("site-phase", {"site": site, "phase": "failed", "message": error.message})
                case effects.PhaseChanged(phase=entered):
                    self._set_deadline(entered)
                case effects.Summed() | effects.Burnt():
                    ended = effect
        if ended is not None:
            self._step_ended(ended)

    def _send(self, site: str, frame: bytes) -> None:
        seat = self._seats[site]
        was_full = seat.is_full
        seat.put(Protocol(frame))
        if seat.is_full and not was_full:
            _log.warning("site %s does not read what it is sent", site)
            # it is lost, but not within the effects of another event
            self._deadlines.set(site, 0.0)

    def _set_deadline(self, phase: CoordinatorPhase) -> None:
        for earlier in CoordinatorPhase:
            self._deadlines.cancel(earlier)
        if phase not in FINAL_PHASES:
            seconds = {
                CoordinatorPhase.SETUP: self._join_deadline_s,
                CoordinatorPhase.UPLOAD: self.order.deadline_s,
            }.get(phase, _ANSWER_DEADLINE_S)
            self._deadlines.set(phase, seconds)

    def _step_ended(self, ended: effects.Summed | effects.Burnt) -> None:
        descriptor = self._machine.descriptor
        if isinstance(ended, effects.Summed):
            total, survivors, reason = ended.total, ended.survivors, ""
            self._results[descriptor.step].set_result(SumResult(ended.total, ended.survivors))
        else:
            total, survivors, reason = None, (), ended.reason
            self._results[descriptor.step].set_exception(StepBurnt(ended.reason))
        can_go_on = self._machine.can_begin() and descriptor.step < descriptor.last_step
        if self._is_aborted or not can_go_on:
            self._end(reason)
            return
        following = descriptor.following(next_history(descriptor.history, survivors, total))
        self._apply(self._machine.begin(following))

    def _end(self, reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._deadlines.close()
        for seat in self._seats.values():
            seat.put(Closed(summed=not reason, reason=reason))
        for result in self._results.values():
            if not result.done():
                result.set_exception(StepBurnt(reason or "the epoch ended before this step"))


class StepRegistry:
    """All epochs of all runs, by run and step. A step number is opened once and never again."""

    def __init__(self, roster: Roster, collusion_bound: int, *, reconnect_s: float = RECONNECT_S) -> None:
        self._roster = roster
        self._collusion_bound = collusion_bound
        self._reconnect_s = reconnect_s
        self._epochs: dict[str, list[OpenEpoch]] = {}
        self._last_step: dict[str, int] = {}
        self._lock = threading.Lock()

    def open(self, order: Order, *, join_deadline_s: float, on_event: StepEvent) -> OpenEpoch:
        """Open the order's epoch.

        Raises:
            ProtocolViolation: its first step, or a later one, was opened before in this run.
            ConfigError: its sums would take too much memory.
        """
        with self._lock:
            if order.step <= self._last_step.get(order.run_id, 0):
                raise ProtocolViolation(f"step {order.step} of run {order.run_id} was opened before")
            descriptor = descriptor_for(order, self._collusion_bound)
            kept_bytes = descriptor.steps * descriptor.vector_bytes
            if kept_bytes > _SUMS_MAX_BYTES:
                raise ConfigError(
                    f"the sums of {descriptor.steps} steps take {kept_bytes >> 20} MiB, which are kept until the round "
                    f"ends; at most {_SUMS_MAX_BYTES >> 20} MiB are",
                    hint="plan fewer local_steps and more rounds",
                )
            roster = {site: self._roster[site] for site in order.secagg.cohort}
            epoch = OpenEpoch(
                order,
                CoordinatorMachine(roster, descriptor, surplus=SharedNoiseSurplus.of(order, self._collusion_bound)),
                join_deadline_s=join_deadline_s,
                reconnect_s=self._reconnect_s,
                on_event=on_event,
            )
            self._last_step[order.run_id] = descriptor.last_step
            # the previous epoch of the run is over: its sums have been read or it was burnt
            kept = [earlier for earlier in self._epochs.get(order.run_id, []) if not earlier.done()]
            self._epochs[order.run_id] = [*kept, epoch]
            return epoch

    def step(self, run_id: str, step: int) -> OpenEpoch:
        """Return the open (or the last ended) epoch that a step belongs to.

        Raises:
            ProtocolViolation: no such step is open.
        """
        with self._lock:
            for epoch in self._epochs.get(run_id, []):
                if epoch.covers(step):
                    return epoch
        raise ProtocolViolation(
            f"step {step} of run {run_id} is not open here",
            hint="the coordinator may have been restarted; the step is burnt",
        )

    def abort_all(self, reason: str) -> None:
        """End every open epoch without further sums, and forget all of them: nobody will read what they gave."""
        with self._lock:
            epochs = [epoch for several in self._epochs.values() for epoch in several]
            self._epochs.clear()
        for epoch in epochs:
            epoch.abort(reason)
