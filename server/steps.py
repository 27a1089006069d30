"""Open secure steps: the coordinator's state machines, their clocks, and a queue of frames for each site.

The rules are in :mod:`privacy.secagg`; this module hands frames in and out, keeps time, and remembers results.
Every transport (gRPC stream, in-memory simulation) talks to a :class:`StepRegistry` and to nothing else.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from privacy.order import Order
from privacy.secagg import effects
from privacy.secagg.coordinator import CoordinatorMachine
from privacy.secagg.descriptor import descriptor_for
from privacy.secagg.keys import Roster
from privacy.secagg.phases import CoordinatorPhase
from strategies.secure_sum import SumResult
from tacit.errors import ProtocolViolation, SecAggError, StepBurnt, TransportError

_log = logging.getLogger(__name__)

#: seconds the sites have to answer a lock or a reveal request; they hold everything they need
_ANSWER_DEADLINE_S = 60.0

StepEvent = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True)
class Protocol:
    """One protocol frame for a site."""

    data: bytes


@dataclass(frozen=True)
class Closed:
    """The step has ended; the last item of every site's queue."""

    summed: bool
    reason: str


Outbound = Protocol | Closed


@dataclass
class _Seat:
    """One site's place in one step."""

    outbound: queue.SimpleQueue[Outbound] = field(default_factory=queue.SimpleQueue)
    joined: bool = False
    closed: bool = False


class OpenStep:
    """One secure step in progress. Thread-safe: every event goes through one lock."""

    def __init__(
        self,
        order: Order,
        machine: CoordinatorMachine,
        *,
        join_deadline_s: float,
        on_event: StepEvent,
    ) -> None:
        self.order = order
        self._machine = machine
        self._on_event = on_event
        self._lock = threading.RLock()
        self._seats = {site: _Seat() for site in order.secagg.cohort}
        self._result: Future[SumResult] = Future()
        self._timer: threading.Timer | None = None
        self._join_deadline_s = join_deadline_s
        self._restart_timer(CoordinatorPhase.SETUP)

    def join(self, site: str) -> queue.SimpleQueue[Outbound]:
        """Seat ``site`` and return the queue of frames for it.

        Raises:
            ProtocolViolation: the site is not in the cohort, or is seated already.
            StepBurnt: the step has ended.
        """
        with self._lock:
            seat = self._seats.get(site)
            if seat is None:
                raise ProtocolViolation(f"{site} is not in the cohort of step {self.order.step}", peer=site)
            if seat.joined:
                raise ProtocolViolation(f"{site} has already joined step {self.order.step}", peer=site)
            if self._result.done():
                raise StepBurnt(f"step {self.order.step} has ended")
            seat.joined = True
            return seat.outbound

    def receive(self, site: str, frame: bytes) -> None:
        """Hand a protocol frame from ``site`` to the state machine."""
        with self._lock:
            if self._result.done():
                return
            try:
                self._apply(self._machine.receive(site, frame))
            except SecAggError as error:
                _log.warning("site %s broke the protocol: %s", site, error.message)
                self._on_event("site-phase", {"site": site, "phase": "failed", "message": error.message})
                self._apply(self._machine.lost(site))

    def phase(self, site: str, phase: str) -> None:
        """Pass on what a site says it is doing, for people to see."""
        with self._lock:
            if site in self._seats and not self._result.done():
                self._on_event("site-phase", {"site": site, "phase": phase})

    def left(self, site: str) -> None:
        """The site's connection has ended."""
        with self._lock:
            if self._result.done():
                return
            self._on_event("site-phase", {"site": site, "phase": "lost"})
            self._apply(self._machine.lost(site))

    def wait(self, timeout_s: float | None = None) -> SumResult:
        """Block until the step has ended and return its sum.

        Raises:
            StepBurnt: it ended without one.
            TransportError: ``timeout_s`` passed.
        """
        try:
            return self._result.result(timeout_s)
        except TimeoutError as error:
            raise TransportError(f"step {self.order.step} did not end within {timeout_s} s") from error

    def done(self) -> bool:
        """Return whether the step has ended."""
        return self._result.done()

    def abort(self, reason: str) -> None:
        """End the step without a sum."""
        with self._lock:
            self._end(StepBurnt(reason))

    def _deadline(self, phase: CoordinatorPhase) -> None:
        with self._lock:
            if not self._result.done():
                self._apply(self._machine.deadline(phase))

    def _apply(self, produced: Sequence[effects.CoordinatorEffect]) -> None:
        for effect in produced:
            match effect:
                case effects.SendTo(site=site, frame=frame):
                    self._seats[site].outbound.put(Protocol(frame))
                case effects.SiteAt(site=site, phase=stage):
                    self._on_event("site-phase", {"site": site, "phase": str(stage)})
                case effects.Fault(site=site, error=error):
                    _log.warning("site %s is out of step %d: %s", site, self.order.step, error.message)
                    self._on_event("site-phase", {"site": site, "phase": "failed", "message": error.message})
                case effects.PhaseChanged(phase=phase):
                    self._restart_timer(phase)
                case effects.Summed(total=total, survivors=survivors):
                    self._end(SumResult(total, survivors))
                case effects.Burnt(reason=reason):
                    self._end(StepBurnt(reason))

    def _restart_timer(self, phase: CoordinatorPhase) -> None:
        if self._timer is not None:
            self._timer.cancel()
        seconds = {
            CoordinatorPhase.SETUP: self._join_deadline_s,
            CoordinatorPhase.UPLOAD: self.order.deadline_s,
        }.get(phase, _ANSWER_DEADLINE_S)
        self._timer = threading.Timer(seconds, self._deadline, (phase,))
        self._timer.daemon = True
        self._timer.start()

    def _end(self, result: SumResult | StepBurnt) -> None:
        if self._result.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        burnt = isinstance(result, StepBurnt)
        closed = Closed(summed=not burnt, reason=result.message if isinstance(result, StepBurnt) else "")
        for seat in self._seats.values():
            seat.outbound.put(closed)
        if isinstance(result, StepBurnt):
            self._result.set_exception(result)
        else:
            self._result.set_result(result)


class StepRegistry:
    """All steps of all runs, by (run id, step number). A step number is opened once and never again."""

    def __init__(self, roster: Roster, collusion_bound: int) -> None:
        self._roster = roster
        self._collusion_bound = collusion_bound
        self._steps: dict[tuple[str, int], OpenStep] = {}
        self._last_step: dict[str, int] = {}
        self._lock = threading.Lock()

    def open(self, order: Order, *, join_deadline_s: float, on_event: StepEvent) -> OpenStep:
        """Open the order's step.

        Raises:
            ProtocolViolation: this step number, or a later one, was opened before in this run.
        """
        with self._lock:
            if order.step <= self._last_step.get(order.run_id, 0):
                raise ProtocolViolation(f"step {order.step} of run {order.run_id} was opened before")
            descriptor = descriptor_for(order, self._collusion_bound)
            roster = {site: self._roster[site] for site in order.secagg.cohort}
            step = OpenStep(
                order,
                CoordinatorMachine(roster, descriptor),
                join_deadline_s=join_deadline_s,
                on_event=on_event,
            )
            self._last_step[order.run_id] = order.step
            # the previous step of the run is over: its sum has been read or it was burnt
            self._steps = {key: kept for key, kept in self._steps.items() if key[0] != order.run_id or not kept.done()}
            self._steps[order.run_id, order.step] = step
            return step

    def step(self, run_id: str, step: int) -> OpenStep:
        """Return an open (or the last ended) step.

        Raises:
            ProtocolViolation: no such step is open.
        """
        with self._lock:
            found = self._steps.get((run_id, step))
        if found is None:
            raise ProtocolViolation(
                f"step {step} of run {run_id} is not open here",
                hint="the coordinator may have been restarted; the step is burnt",
            )
        return found

    def abort_all(self, reason: str) -> None:
        """End every open step without a sum."""
        with self._lock:
            steps = list(self._steps.values())
        for step in steps:
            step.abort(reason)
