"""Aggregation sessions without a network: a site's agent talks to the coordinator's open steps directly."""

from __future__ import annotations

import queue

from client.aggregation import Closed, Session
from server import steps
from server.services import OpenSteps
from tacit.errors import SecAggError, TransportError


class MemoryAggregation:
    """Opens sessions of ``site`` at an in-process coordinator (or a bare step registry)."""

    def __init__(self, open_steps: OpenSteps, site: str) -> None:
        self._open_steps = open_steps
        self._site = site

    def open(self, run_id: str, step: int) -> Session:
        """Join the step.

        Raises:
            TransportError: the step is not open, or the site may not join it.
        """
        try:
            opened = self._open_steps.step(run_id, step)
            return _MemorySession(opened, self._site, opened.join(self._site))
        except SecAggError as error:
            raise TransportError(f"the aggregation session was refused: {error.message}") from error


class _MemorySession:
    def __init__(self, step: steps.OpenStep, site: str, inbound: queue.SimpleQueue[steps.Outbound]) -> None:
        self.bytes_sent = 0
        self._step = step
        self._site = site
        self._inbound = inbound

    def send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)
        self._step.receive(self._site, frame)

    def tell(self, phase: str) -> None:
        self._step.phase(self._site, phase)

    def receive(self, timeout_s: float) -> bytes | Closed:
        try:
            item = self._inbound.get(timeout=timeout_s)
        except queue.Empty:
            raise TransportError(f"the coordinator was silent for {timeout_s:g} s") from None
        return Closed(item.summed, item.reason) if isinstance(item, steps.Closed) else item.data

    def close(self) -> None:
        self._step.left(self._site)
