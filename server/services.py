"""gRPC adapters of the gateway: the port between organisations, and the private Unix socket. They hold no rule."""

from __future__ import annotations

import json
import logging
import threading
import typing
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from certs.credentials import peer_from_auth_context
from certs.names import PeerName, Role
from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from privacy.order import Order, Receipt
from server import steps
from server.coordinator import Coordinator
from server.limits import RateLimit
from server.link import ERROR_KIND, error_details
from server.presence import Presence
from server.run_spec import RunSpec
from server.seats import Closed, Outgoing, Protocol, Stream
from server.tunnel import FleetTunnel
from tacit.errors import CertificateError, StepBurnt, TacitError, TransportError

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
#: A SuperNode makes a few calls a second; one that is made to make thousands must not hold the gateway's threads.
_FLEET_CALLS_PER_S, _FLEET_CALLS_BURST = 50.0, 500.0
#: A site opens one session for each order, and another stream each time its connection breaks.
_STREAMS_PER_S, _STREAMS_BURST = 1.0, 30.0
#: A step is a few frames and one for each MiB of the vector.
_FRAMES_PER_S, _FRAMES_BURST = 2000.0, 10_000.0
_PHASES_PER_S, _PHASES_BURST = 2.0, 64.0


class OpenSteps(typing.Protocol):
    """Where a session finds the step it is for."""

    def step(self, run_id: str, step: int) -> steps.OpenEpoch: ...


@dataclass
class _Call:
    """A site's call while it is answered."""

    #: its frames have ended, and the site has not said that it leaves
    is_broken: bool = False
    #: the site is told that its session is over, after which its frames may end
    is_over: bool = False


class RunControl(typing.Protocol):
    """Starts and stops runs in Flower."""

    def start(self, spec: RunSpec, resume: str | None) -> str: ...

    def stop(self, run_id: str) -> None: ...


class GatewayService(rpc.GatewayServicer):
    """What partner sites reach: Flower's fleet calls and aggregation sessions, over mutual TLS only."""

    def __init__(self, steps: OpenSteps, tunnel: FleetTunnel, consortium: str, sites: Collection[str]) -> None:
        self._steps = steps
        self._tunnel = tunnel
        self._consortium = consortium
        self._sites = frozenset(sites)
        self._presence = Presence()
        self._fleet_calls = RateLimit(_FLEET_CALLS_PER_S, _FLEET_CALLS_BURST)
        self._streams = RateLimit(_STREAMS_PER_S, _STREAMS_BURST)
        self._frames = RateLimit(_FRAMES_PER_S, _FRAMES_BURST)
        self._phases = RateLimit(_PHASES_PER_S, _PHASES_BURST)

    def Fleet(self, request: pb.FleetCall, context: grpc.ServicerContext) -> pb.FleetReply:  # noqa: N802
        """Forward one of Flower's fleet calls to the SuperLink."""
        peer = self._peer(context)
        self._limit(self._fleet_calls, peer.name, context)
        with self._present(peer.name, context):
            return self._tunnel.forward(peer, request, context.is_active)

    def Aggregate(  # noqa: N802
        self, request_iterator: Iterator[pb.Frame], context: grpc.ServicerContext
    ) -> Iterator[pb.Frame]:
        """One connection of one site's aggregation session."""
        site = self._peer(context).name
        self._limit(self._streams, site, context)
        with self._present(site, context) as call:
            yield from self._session(site, request_iterator, context, call)

    def _session(
        self, site: str, request_iterator: Iterator[pb.Frame], context: grpc.ServicerContext, call: _Call
    ) -> Iterator[pb.Frame]:
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("kind") != "hello":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be a hello")
        hello = first.hello
        try:
            epoch = self._steps.step(hello.run_id, hello.step)
            stream = epoch.join(site, resume=hello.resume, acknowledged=first.acknowledged)
        except TacitError as error:
            _abort(context, error)
        reader = threading.Thread(
            target=self._read,
            args=(epoch, site, stream, request_iterator, call),
            name=f"aggregate-{site}",
            daemon=True,
        )
        reader.start()
        # gRPC calls it when the connection breaks; when that has happened already, it never will
        if not context.add_callback(lambda: epoch.disconnected(site, stream)):
            epoch.disconnected(site, stream)
        while (outgoing := stream.get()) is not None:
            call.is_over = isinstance(outgoing.item, Closed)
            yield _frame_of(outgoing)
            if call.is_over:
                return

    def _read(self, epoch: steps.OpenEpoch, site: str, stream: Stream, frames: Iterator[pb.Frame], call: _Call) -> None:
        try:
            for frame in frames:
                if not self._frames.allows(site):
                    _log.warning("site %s sends frames faster than any step needs", site)
                    epoch.left(site)
                    break
                number, acknowledged = frame.number, frame.acknowledged
                match frame.WhichOneof("kind"):
                    case "protocol":
                        epoch.receive(site, frame.protocol, number=number, acknowledged=acknowledged)
                    case "phase":
                        text = frame.phase[:32] if self._phases.allows(site) else ""
                        epoch.phase(site, text, number=number, acknowledged=acknowledged)
                    case "leave":
                        epoch.left(site)
                        break
                    case None:
                        epoch.acknowledged(site, acknowledged)
                    case _:
                        epoch.left(site)
                        break
            else:
                # nobody ends a session so: gRPC tells this before it knows that the connection is gone
                call.is_broken = True
        except grpc.RpcError:
            call.is_broken = True  # the site may come back on another one
        epoch.disconnected(site, stream)

    @staticmethod
    def _limit(limit: RateLimit, site: str, context: grpc.ServicerContext) -> None:
        if not limit.allows(site):
            _log.warning("site %s calls too often", site)
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "called too often; wait and try again")

    @contextmanager
    def _present(self, site: str, context: grpc.ServicerContext) -> Iterator[_Call]:
        """Let the call in unless another agent of the same site is connected."""
        call = _Call()
        connection = context.peer()
        try:
            self._presence.enter(site, connection)
        except TransportError as error:
            _log.warning("refused a second agent of %s from %s: %s", site, connection, error.message)
            context.abort(grpc.StatusCode.ALREADY_EXISTS, error.message)
        finished = False

        def left() -> None:
            if self._presence.leave(site, connection, broken=not finished):
                self._tunnel.lost(site)

        # gRPC calls it when the connection breaks, even while the call is still being answered
        if not context.add_callback(left):
            left()
        try:
            yield call
        finally:
            finished = context.is_active() and (call.is_over or not call.is_broken)

    def _peer(self, context: grpc.ServicerContext) -> PeerName:
        """Return who is calling, from the verified certificate; only partner sites of the agreement may call."""
        try:
            peer = peer_from_auth_context(context.auth_context(), self._consortium)
        except CertificateError as error:
            _log.warning("refused a caller: %s", error.message)
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
        if peer.role is not Role.SITE or peer.name not in self._sites:
            _log.warning("refused %s: not a partner of the agreement", peer)
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{peer} is not a partner site of this agreement")
        return peer


class CoordinatorService(rpc.CoordinatorServicer):
    """What the ServerApp and the operator's command line reach, over a Unix socket of mode 0600."""

    def __init__(self, coordinator: Coordinator, control: RunControl, facts: Callable[[], dict[str, Any]]) -> None:
        self._coordinator = coordinator
        self._control = control
        self._facts = facts

    def Submit(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Check and start a run."""

        def submit() -> dict[str, Any]:
            body = json.loads(request.json)
            return {"run_id": self._control.start(RunSpec.model_validate(body["spec"]), body["resume"])}

        return _answer(context, submit)

    def Runs(self, request: pb.Empty, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Summarise every run."""
        return _answer(
            context, lambda: {"runs": [self._summary(run_id) for run_id in self._coordinator.store.run_ids()]}
        )

    def Stop(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """End a run."""

        def stop() -> dict[str, Any]:
            self._control.stop(json.loads(request.json)["run_id"])
            return {}

        return _answer(context, stop)

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.Envelope]:  # noqa: N802
        """Stream a run's events."""
        try:
            for event in self._coordinator.watch(request.run_id, request.after, follow=request.follow):
                if not context.is_active():
                    return
                yield pb.Envelope(json=json.dumps(event).encode())
        except TacitError as error:
            _abort(context, error)

    def Sites(self, request: pb.Empty, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Return the gateway's facts."""

        def facts() -> dict[str, Any]:
            nodes = {site: str(node) for site, node in self._coordinator.node_ids().items()}
            seen = [head.model_dump(mode="json") for head in self._coordinator.seen_heads()]
            return {**self._facts(), "node_ids": nodes, "seen_heads": seen}

        return _answer(context, facts)

    def OpenStep(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Open a secure step."""

        def open_step() -> dict[str, Any]:
            self._coordinator.open_step(Order.model_validate_json(request.json))
            return {}

        return _answer(context, open_step)

    def StepEnded(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Say whether a step has ended."""

        def ended() -> dict[str, Any]:
            body = json.loads(request.json)
            return {"ended": self._coordinator.step(body["run_id"], body["step"]).done()}

        return _answer(context, ended)

    def SiteLeft(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        """Do not wait for a site whose receipt says that it takes no part."""

        def left() -> dict[str, Any]:
            body = json.loads(request.json)
            self._coordinator.step(body["run_id"], body["step"]).left(body["site"])
            return {}

        return _answer(context, left)

    def AwaitStep(self, request: pb.StepKey, context: grpc.ServicerContext) -> Iterator[pb.StepResult]:  # noqa: N802
        """Block until a step has ended, then stream its sum."""
        try:
            result = self._coordinator.step(request.run_id, request.step).wait(step=request.step)
        except StepBurnt as burnt:
            yield pb.StepResult(json=json.dumps({"summed": False, "reason": burnt.message}).encode())
            return
        except TacitError as error:
            _abort(context, error)
        head = {"summed": True, "survivors": list(result.survivors), "dtype": result.total.dtype.str}
        yield pb.StepResult(json=json.dumps(head).encode())
        data = memoryview(np.ascontiguousarray(result.total)).cast("B")
        for start in range(0, len(data), _CHUNK_BYTES):
            yield pb.StepResult(chunk=bytes(data[start : start + _CHUNK_BYTES]))

    def Witness(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Empty:  # noqa: N802
        """Hold a receipt's ledger head against the last one seen of its site."""

        def witness() -> dict[str, Any]:
            self._coordinator.witness(Receipt.model_validate_json(request.json))
            return {}

        _answer(context, witness)
        return pb.Empty()

    def Emit(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Empty:  # noqa: N802
        """Record a run event of the ServerApp."""

        def emit() -> dict[str, Any]:
            body = json.loads(request.json)
            self._coordinator.emit(body["run_id"], body["body"])
            return {}

        _answer(context, emit)
        return pb.Empty()

    def _summary(self, run_id: str) -> dict[str, Any]:
        facts = self._coordinator.store.facts(run_id)
        events = self._coordinator.store.events(run_id)
        accuracy = [event["accuracy"] for event in events if event["event"] == "evaluated"]
        return {
            "run_id": run_id,
            "run_name": facts["run_name"],
            "rounds": facts["rounds"],
            "rounds_done": max((event["round"] for event in events if event["event"] == "round-finished"), default=0),
            "status": events[-1]["status"] if events[-1]["event"] == "run-finished" else "running",
            "accuracy": accuracy[-1] if accuracy else None,
            "submitted": events[0]["time"],
        }


def _answer(context: grpc.ServicerContext, work: Callable[[], dict[str, Any]]) -> pb.Envelope:
    """Run ``work`` and wrap its result; a TacitError travels as such, anything else is logged and hidden."""
    try:
        return pb.Envelope(json=json.dumps(work()).encode())
    except TacitError as error:
        _abort(context, error)
    except Exception:
        _log.exception("a call on the private socket failed")
        context.abort(grpc.StatusCode.INTERNAL, "the gateway failed; its log says why")
    raise AssertionError("abort returns only by raising")


def _frame_of(outgoing: Outgoing) -> pb.Frame:
    numbers = {"number": outgoing.number, "acknowledged": outgoing.acknowledged}
    match outgoing.item:
        case Closed(summed=summed, reason=reason):
            return pb.Frame(closed=pb.Closed(summed=summed, reason=reason), **numbers)
        case Protocol(data=data):
            return pb.Frame(protocol=data, **numbers)
        case None:
            return pb.Frame(**numbers)


def _abort(context: grpc.ServicerContext, error: TacitError) -> None:
    context.set_trailing_metadata(((ERROR_KIND, error_details(error)),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message)
