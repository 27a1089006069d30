"""A site's end of an aggregation session: an interface, its gRPC implementation, and the loop that drives it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import grpc
import numpy as np
import numpy.typing as npt

from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from privacy.secagg.effects import Completed, Ready, Send, SiteEffect
from privacy.secagg.site import SiteMachine
from tacit.errors import StepBurnt, TransportError


@dataclass(frozen=True)
class Closed:
    """The coordinator ended the session."""

    summed: bool
    reason: str


class Session(Protocol):
    """One stream to the coordinator, for one step."""

    #: bytes of protocol frames sent so far
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
            TransportError: nothing came in time, or the connection broke.
        """
        ...

    def close(self) -> None:
        """End the session."""
        ...


class AggregationTransport(Protocol):
    """Opens sessions."""

    def open(self, run_id: str, step: int) -> Session:
        """Open the session of one step.

        Raises:
            TransportError: the coordinator is not there or refuses.
        """
        ...


class GrpcAggregation:
    """Sessions over the gateway's port.

    Args:
        channel: with mutual TLS credentials.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.GatewayStub(channel)

    def open(self, run_id: str, step: int) -> Session:
        """Open the session of one step."""
        return _GrpcSession(self._stub, run_id, step)


class _GrpcSession:
    """One ``Gateway.Aggregate`` stream. A reader thread turns the call's iterator into a queue with time-outs."""

    def __init__(self, stub: rpc.GatewayStub, run_id: str, step: int) -> None:
        self.bytes_sent = 0
        self._outbound: queue.SimpleQueue[pb.Frame | None] = queue.SimpleQueue()
        self._inbound: queue.SimpleQueue[pb.Frame | TransportError] = queue.SimpleQueue()
        self._outbound.put(pb.Frame(hello=pb.Hello(run_id=run_id, step=step)))
        self._ended = False
        self._call = stub.Aggregate(iter(self._outbound.get, None))
        threading.Thread(target=self._read, name="aggregation-reader", daemon=True).start()

    def send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)
        self._outbound.put(pb.Frame(protocol=frame))

    def tell(self, phase: str) -> None:
        self._outbound.put(pb.Frame(phase=phase))

    def receive(self, timeout_s: float) -> bytes | Closed:
        try:
            frame = self._inbound.get(timeout=timeout_s)
        except queue.Empty:
            raise TransportError(f"the coordinator was silent for {timeout_s:g} s") from None
        if isinstance(frame, TransportError):
            raise frame
        if frame.WhichOneof("kind") == "closed":
            self._ended = True
            return Closed(frame.closed.summed, frame.closed.reason)
        return bytes(frame.protocol)

    def close(self) -> None:
        self._outbound.put(None)
        # a call that is cancelled looks to the gateway like a connection that broke
        if not self._ended:
            self._call.cancel()

    def _read(self) -> None:
        try:
            frames: Iterator[pb.Frame] = self._call
            for frame in frames:
                self._inbound.put(frame)
            self._inbound.put(TransportError("the coordinator ended the session"))
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            self._inbound.put(TransportError(f"the aggregation session broke: {reason}"))


def take_part(
    session: Session,
    machine: SiteMachine,
    make_update: Callable[[], npt.NDArray[np.uint32]],
    *,
    timeout_s: float,
) -> tuple[str, ...]:
    """Drive one secure step from key setup to its end; return the survivors.

    Args:
        session: the stream; the caller closes it.
        machine: the site's state machine, holding the descriptor this site expects.
        make_update: called once the roster and the descriptor are verified: trains, and returns the encoded
            update, uint32, shape ``(adapter_length,)``.
        timeout_s: how long to wait for each answer of the coordinator.

    Raises:
        StepBurnt: the coordinator ended the step without a sum.
        ProtocolViolation: the coordinator, or a peer through it, broke the protocol.
        TransportError: the coordinator fell silent.
    """
    pending: list[SiteEffect] = list(machine.start())
    survivors: tuple[str, ...] | None = None
    while True:
        while pending:
            match pending.pop(0):
                case Send(frame=frame):
                    session.send(frame)
                case Ready():
                    update = make_update()
                    pending.extend(machine.upload(update))
                case Completed(survivors=found):
                    survivors = tuple(found)
        received = session.receive(timeout_s)
        if isinstance(received, Closed):
            if not received.summed or survivors is None:
                raise StepBurnt(received.reason or "the coordinator ended the step early")
            return survivors
        pending.extend(machine.receive(received))
