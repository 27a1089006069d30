"""Aggregation sessions over the gateway's port, across connections that break."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator

import grpc

from client.aggregation import Closed, Session
from client.delivery import Inbox, Numbered, Outbox
from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from tacit.errors import ProtocolViolation, TransportError

_log = logging.getLogger(__name__)

#: how long a session tries to come back when its connection breaks; the coordinator waits about as long
RECONNECT_S = 30.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
#: what a connection that broke, or a gateway that is away, looks like; anything else is a refusal
_BROKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ALREADY_EXISTS,  # the gateway has not noticed yet that the old connection is gone
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class GrpcAggregation:
    """Sessions over the gateway's port.

    Args:
        channel: with mutual TLS credentials.
        reconnect_s: how long a session tries to come back when its connection breaks.
    """

    def __init__(self, channel: grpc.Channel, *, reconnect_s: float = RECONNECT_S) -> None:
        self._stub = rpc.GatewayStub(channel)
        self._reconnect_s = reconnect_s

    def open(self, run_id: str, step: int) -> Session:
        """Open the session that begins with this step."""
        return _GrpcSession(self._stub, run_id, step, self._reconnect_s)


class _GrpcSession:
    """``Gateway.Aggregate`` streams, one after the other; a reader thread turns what comes into a queue."""

    def __init__(self, stub: rpc.GatewayStub, run_id: str, step: int, reconnect_s: float) -> None:
        self.bytes_sent = 0
        self._stub = stub
        self._run_id = run_id
        self._step = step
        self._reconnect_s = reconnect_s
        self._lock = threading.Lock()
        self._outbox: Outbox[pb.Frame] = Outbox()
        self._inbox = Inbox()
        self._is_leaving = threading.Event()
        #: whether the coordinator has a seat to come back to, and whether this connection has brought anything
        self._is_seated = False
        self._has_heard = False
        self._has_ended = False
        self._inbound: queue.SimpleQueue[bytes | Closed | TransportError] = queue.SimpleQueue()
        self._outbound: queue.SimpleQueue[pb.Frame | None] = queue.SimpleQueue()
        self._call = self._connect(resume=False)
        threading.Thread(target=self._run, name="aggregation-reader", daemon=True).start()

    def send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)
        self._put(pb.Frame(protocol=frame), len(frame))

    def tell(self, phase: str) -> None:
        self._put(pb.Frame(phase=phase), 0)

    def receive(self, timeout_s: float) -> bytes | Closed:
        try:
            received = self._inbound.get(timeout=timeout_s)
        except queue.Empty:
            raise TransportError(f"the coordinator was silent for {timeout_s:g} s") from None
        if isinstance(received, TransportError):
            raise received
        return received

    def interrupt(self) -> None:
        with self._lock:
            self._call.cancel()

    def close(self) -> None:
        with self._lock:
            self._is_leaving.set()
            if self._has_ended:
                self._outbound.put(None)
            else:
                # a stream that is only cancelled looks like a connection that broke, and would be waited for
                self._outbound.put(pb.Frame(leave=pb.Leave()))
                self._outbound.put(None)

    def _put(self, frame: pb.Frame, size_bytes: int) -> None:
        with self._lock:
            self._outbound.put(self._stamped(self._outbox.add(frame, size_bytes)))

    def _stamped(self, numbered: Numbered[pb.Frame]) -> pb.Frame:
        frame = numbered.item
        frame.number, frame.acknowledged = numbered.number, self._inbox.last
        return frame

    def _connect(self, *, resume: bool) -> grpc.Call:
        """Open a stream; with what the coordinator may not have, if it is another one. Holds the lock, or is alone."""
        self._outbound.put(None)
        outbound: queue.SimpleQueue[pb.Frame | None] = queue.SimpleQueue()
        hello = pb.Hello(run_id=self._run_id, step=self._step, resume=resume)
        outbound.put(pb.Frame(hello=hello, acknowledged=self._inbox.last))
        for numbered in self._outbox.unacknowledged():
            again = pb.Frame()
            again.CopyFrom(numbered.item)
            again.number, again.acknowledged = numbered.number, self._inbox.last
            outbound.put(again)
        self._outbound = outbound
        return self._stub.Aggregate(iter(outbound.get, None))

    def _run(self) -> None:
        """Read streams until one ends for good."""
        broke_at_s, wait_s = None, _FIRST_WAIT_S
        while True:
            self._has_heard = False
            error = self._read(self._call)
            if error is None or self._is_leaving.is_set():
                return
            now_s = time.monotonic()
            # a connection that was taken up counts, whether or not there was anything to say
            if broke_at_s is None or self._has_heard:
                broke_at_s, wait_s = now_s, _FIRST_WAIT_S
            is_final = error.code() not in _BROKEN or not self._is_seated
            if is_final or now_s - broke_at_s > self._reconnect_s:
                reason = f"{error.code().name}: {error.details()}"
                self._inbound.put(TransportError(f"the aggregation session broke: {reason}"))
                return
            _log.warning("the aggregation session broke (%s); it is opened again", error.details())
            if self._is_leaving.wait(wait_s):
                return
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            try:
                with self._lock:
                    self._call = self._connect(resume=True)
            except ValueError:  # grpc: the channel was closed, because the agent is stopping
                self._inbound.put(TransportError("the aggregation session broke: the connection was closed"))
                return

    def _read(self, call: grpc.Call) -> grpc.RpcError | None:
        """Pass on what a stream brings; return the error that ended it, or None when the session is over."""
        try:
            frames: Iterator[pb.Frame] = call  # type: ignore[assignment]
            for frame in frames:
                if self._take(frame):
                    return None
            self._inbound.put(TransportError("the coordinator ended the session"))
        except grpc.RpcError as error:
            return error
        except ProtocolViolation as error:
            self._inbound.put(TransportError(f"the aggregation session broke: {error.message}"))
        return None

    def _take(self, frame: pb.Frame) -> bool:
        with self._lock:
            self._is_seated = self._has_heard = True
            self._outbox.acknowledged(frame.acknowledged)
            is_new = frame.number > 0 and self._inbox.accept(frame.number)
            if is_new and self._inbox.owes_acknowledgement():
                self._outbound.put(pb.Frame(acknowledged=self._inbox.last))
            self._has_ended = self._has_ended or (is_new and frame.WhichOneof("kind") == "closed")
        if is_new:
            closed = frame.WhichOneof("kind") == "closed"
            self._inbound.put(Closed(frame.closed.summed, frame.closed.reason) if closed else bytes(frame.protocol))
        return self._has_ended
