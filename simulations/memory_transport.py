"""Aggregation sessions without a network: a site's agent talks to the coordinator's open epochs directly."""

from __future__ import annotations

import queue
import threading
import time

from client.aggregation import Closed, Session
from client.delivery import Inbox, Outbox
from server import seats, steps
from server.services import OpenSteps
from tacit.errors import SecAggError, TransportError


class MemoryAggregation:
    """Opens sessions of ``site`` at an in-process coordinator (or a bare step registry)."""

    def __init__(self, open_steps: OpenSteps, site: str) -> None:
        self._open_steps = open_steps
        self._site = site

    def open(self, run_id: str, step: int) -> Session:
        """Join the epoch that begins with this step.

        Raises:
            TransportError: the step is not open, or the site may not join it.
        """
        try:
            return _MemorySession(self._open_steps.step(run_id, step), self._site)
        except SecAggError as error:
            raise TransportError(f"the aggregation session was refused: {error.message}") from error


class _MemorySession:
    """Numbers and acknowledges frames as a connection does, so that one can be interrupted here too."""

    def __init__(self, epoch: steps.OpenEpoch, site: str) -> None:
        self.bytes_sent = 0
        self._epoch = epoch
        self._site = site
        self._lock = threading.RLock()
        self._outbox: Outbox[bytes | str] = Outbox()
        self._inbox = Inbox()
        self._has_ended = False
        self._stream = epoch.join(site)

    def send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)
        self._put(frame)

    def tell(self, phase: str) -> None:
        self._put(phase)

    def receive(self, timeout_s: float) -> bytes | Closed:
        deadline_s = time.monotonic() + timeout_s
        while True:
            stream = self._stream
            try:
                outgoing = stream.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise TransportError(f"the coordinator was silent for {timeout_s:g} s") from None
            with self._lock:
                if outgoing is None or stream is not self._stream:
                    if stream is self._stream:
                        raise TransportError("the coordinator ended the session")
                    continue
                item = self._take(outgoing)
            if isinstance(item, seats.Closed):
                return Closed(item.summed, item.reason)
            if item is not None:
                return item.data

    def interrupt(self) -> None:
        with self._lock:
            self._epoch.disconnected(self._site, self._stream)
            try:
                self._stream = self._epoch.join(self._site, resume=True, acknowledged=self._inbox.last)
            except SecAggError as error:
                raise TransportError(f"the aggregation session broke: {error.message}") from error
            for numbered in self._outbox.unacknowledged():
                self._deliver(numbered.item, numbered.number)

    def close(self) -> None:
        if not self._has_ended:
            self._epoch.left(self._site)
        self._epoch.disconnected(self._site, self._stream)

    def _put(self, item: bytes | str) -> None:
        with self._lock:
            self._deliver(item, self._outbox.add(item).number)

    def _deliver(self, item: bytes | str, number: int) -> None:
        take = self._epoch.phase if isinstance(item, str) else self._epoch.receive
        take(self._site, item, number=number, acknowledged=self._inbox.last)  # type: ignore[arg-type]

    def _take(self, outgoing: seats.Outgoing) -> seats.Outbound | None:
        self._outbox.acknowledged(outgoing.acknowledged)
        if outgoing.number == 0 or not self._inbox.accept(outgoing.number):
            return None
        self._has_ended = isinstance(outgoing.item, seats.Closed)
        return outgoing.item
