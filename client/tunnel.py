"""The site's end of the tunnel for Flower's fleet calls.

A stock SuperNode speaks plain HTTP to :class:`FleetProxy` on the loopback interface; the proxy carries the
twelve calls of :mod:`client.fleet_api`, and nothing else, to the gateway over the site's one authenticated
gRPC channel. Two kinds of reply are opened on the way: a run must be Tacit's, and a bundle must be the one
without code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Protocol, Self, TypeVar

import grpc
from flwr.proto.fab_pb2 import GetFabResponse
from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeRequest, UnregisterNodeFleetRequest
from flwr.proto.run_pb2 import GetRunResponse
from google.protobuf.message import DecodeError, Message

from client.fab import check_fab, check_run
from client.fleet_api import (
    ACTIVATE,
    DEACTIVATE,
    FLEET_CALLS,
    GET_FAB,
    GET_RUN,
    IDENTITY_HEADERS,
    MAX_BODY_BYTES,
    MEDIA_TYPE,
    REGISTER,
    REPLY_HEADERS,
    REQUEST_HEADERS,
    UNREGISTER,
    allowed_headers,
)
from client.flower import LOOPBACK
from client.wire.tacit_pb2 import FleetCall, FleetReply
from tacit.errors import Refusal, RefusalReason

logger = logging.getLogger(__name__)
Reply = TypeVar("Reply", bound=Message)

#: A SuperNode gives up after 30 s and asks again; the gateway holds an empty pull for less than this.
CALL_TIMEOUT_S = 25.0
_RELEASE_TIMEOUT_S = 3.0
_STOP_POLL_S = 0.1


class FleetStub(Protocol):
    """The part of :class:`client.wire.tacit_pb2_grpc.GatewayStub` that is used here."""

    def Fleet(self, request: FleetCall, timeout: float | None = None) -> FleetReply: ...  # noqa: N802


class FleetProxy:
    """A loopback HTTP server for one SuperNode.

    Args:
        stub: the gateway, over the site's channel (made with :data:`client.fleet_api.GRPC_OPTIONS`).
        on_refusal: called with the reason for every refused run or bundle, for the agent's log and ledger.
        on_link: called with (reachable, what the coordinator did) when the gateway comes into or goes out of reach.
        check_bundle: the check of a bundle's bytes; replaced in tests only.
        timeout_s: longest wait for the gateway's answer to one call.
    """

    def __init__(
        self,
        stub: FleetStub,
        on_refusal: Callable[[str], None] | None = None,
        *,
        on_link: Callable[[bool, str], None] | None = None,
        check_bundle: Callable[[bytes], None] = check_fab,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._stub = stub
        self._on_refusal = on_refusal
        self._on_link = on_link
        self._check_bundle = check_bundle
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._node_id: int | None = None
        self._identity: dict[str, str] = {}
        self._told: tuple[bool, str] | None = None
        self._server = _LoopbackServer((LOOPBACK, 0), _handler_for(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_STOP_POLL_S,), name="fleet-proxy", daemon=True
        )

    @property
    def address(self) -> str:
        """``127.0.0.1:<port>``, for the SuperNode's ``--superlink``."""
        return f"{LOOPBACK}:{self._server.server_address[1]}"

    @property
    def node_id(self) -> int | None:
        """Flower's id of the SuperNode behind this proxy while it is active, or None."""
        with self._lock:
            return self._node_id

    def start(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port. Safe to call twice, and without :meth:`start`."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def release(self) -> None:
        """Sign off a SuperNode that died without doing so; does nothing when none is active.

        Without this, Flower's SuperLink counts it as online until its heartbeat lapses (60 s) and keeps
        giving it messages. The SuperNode's last signed timestamp, which the SuperLink accepts for five
        minutes, is the proof of identity.
        """
        with self._lock:
            node_id, self._node_id = self._node_id, None
            headers = {**self._identity, "content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}
        if node_id is None:
            return
        for path, request in (
            (DEACTIVATE, DeactivateNodeRequest(node_id=node_id)),
            (UNREGISTER, UnregisterNodeFleetRequest(node_id=node_id)),
        ):
            call = FleetCall(path=path, headers=headers, body=request.SerializeToString())
            try:
                self._stub.Fleet(call, timeout=_RELEASE_TIMEOUT_S)
            except grpc.RpcError as error:
                logger.warning("could not sign off node %d: %s", node_id, _status(error).name)
                return

    def carry(self, path: str, headers: dict[str, str], body: bytes) -> FleetReply:
        """Carry one call to the gateway and check the reply. Never raises."""
        call = FleetCall(path=path, headers=headers, body=body)
        try:
            reply = self._stub.Fleet(call, timeout=self._timeout_s)
        except grpc.RpcError as error:
            status = _status(error)
            self._link(False, explain_unreachable(error))
            return _error(_HTTP_STATUS.get(status, HTTPStatus.SERVICE_UNAVAILABLE), "no answer from the gateway")
        self._link(True, "answers")
        if reply.status != HTTPStatus.OK:
            if reply.status == HTTPStatus.UNAUTHORIZED:
                with self._lock:
                    self._node_id = None
            # a redirect would be followed, to wherever the coordinator likes
            return reply if reply.status >= HTTPStatus.BAD_REQUEST else _error(HTTPStatus.BAD_GATEWAY, "no reply")
        try:
            activated = self._check_reply(path, reply.body)
        except Refusal as refusal:
            logger.error("refused the reply to %s: %s", path, refusal.message)
            if self._on_refusal is not None:
                self._on_refusal(refusal.message)
            return _error(HTTPStatus.FORBIDDEN, refusal.message)
        with self._lock:
            self._identity = {name: value for name, value in headers.items() if name in IDENTITY_HEADERS}
            if path in (REGISTER, ACTIVATE, DEACTIVATE, UNREGISTER):
                self._node_id = activated
        return reply

    def _check_reply(self, path: str, body: bytes) -> int | None:
        """Check a good reply; return the node id that an activation gave."""
        if path == GET_FAB:
            fab = _parse(GetFabResponse(), body).fab
            self._check_bundle(fab.content)
            if hashlib.sha256(fab.content).hexdigest() != fab.hash_str:
                raise Refusal(RefusalReason.POLICY, "the bundle's bytes do not have the hash they came with")
        elif path == GET_RUN:
            run = _parse(GetRunResponse(), body).run
            check_run(run.fab_id, run.fab_version, run.fab_hash, run.primary_task_type)
        elif path == ACTIVATE:
            return _parse(ActivateNodeResponse(), body).node_id
        return None

    def _link(self, reachable: bool, message: str) -> None:
        with self._lock:
            told, self._told = self._told, (reachable, message)
        if told != (reachable, message):
            logger.log(logging.INFO if reachable else logging.WARNING, "the coordinator %s", message)
            if self._on_link is not None:
                self._on_link(reachable, message)


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    # a connection that the SuperNode keeps open must not delay the end of the proxy
    block_on_close = False

    def server_bind(self) -> None:
        # not HTTPServer's own, which asks the name service for the address's name
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        # mostly a SuperNode that was stopped while it waited for an answer
        logger.debug("a connection of the SuperNode broke", exc_info=True)


def _handler_for(proxy: FleetProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "tacit"
        sys_version = ""
        timeout = 120

        def do_POST(self) -> None:
            if self.path not in FLEET_CALLS:
                self._answer(_error(HTTPStatus.NOT_FOUND, "only Flower's fleet calls pass here"), close=True)
                return
            length = self.headers.get("content-length", "")
            if not length.isdecimal() or "transfer-encoding" in self.headers:
                self._answer(_error(HTTPStatus.LENGTH_REQUIRED, "a body of stated length is needed"), close=True)
                return
            if len(length) > 12 or int(length) > MAX_BODY_BYTES:
                message = f"a call may carry {MAX_BODY_BYTES} bytes, received {length}"
                self._answer(_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message), close=True)
                return
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                headers = allowed_headers(self.headers.items(), REQUEST_HEADERS)
                self._answer(proxy.carry(self.path, headers, body))

        def _answer(self, reply: FleetReply, *, close: bool = False) -> None:
            self.send_response(reply.status)
            for name, value in allowed_headers(reply.headers.items(), REPLY_HEADERS).items():
                self.send_header(name, " ".join(value.split()))
            self.send_header("Content-Length", str(len(reply.body)))
            if close:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            logger.debug(format, *args)

    return Handler


#: Flower retries 502, 503 and 504; it takes 403 for "this run is over" and ends on anything else.
_HTTP_STATUS = {
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.FORBIDDEN,
}


def explain_unreachable(error: grpc.RpcError) -> str:
    """Say in a person's words what the coordinator did: it cannot be reached and why, or it turned this site away."""
    details = (error.details() if isinstance(error, grpc.Call) else None) or ""
    status = _status(error)
    if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.ALREADY_EXISTS):
        return f"turned this site away: {details}"
    for sign, meaning in _MEANINGS:
        if sign in details:
            return f"cannot be reached: {meaning}"
    if status in _NOT_A_GATEWAY:
        return f"cannot be reached: something listens there that does not answer as a gateway ({status.name})"
    return f"cannot be reached: the gateway did not answer ({status.name})"


#: how calls end where another program listens, or another service: a gateway that is there ends none so
_NOT_A_GATEWAY = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNIMPLEMENTED)


#: what gRPC and BoringSSL write, the most telling first: a failed handshake may also close the socket
_MEANINGS = (
    ("certificate has expired", "its certificate has expired"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not of this site's consortium (CERTIFICATE_VERIFY_FAILED)"),
    ("is not in peer certificate", "its certificate was not made for this host name"),
    ("Connection refused", "nothing listens there (connection refused)"),
    ("lookup failed", "there is no such host name"),
    ("Socket closed", "it closed the connection; it may not accept this site's certificate"),
    ("Handshake read failed", "it closed the connection; it may not accept this site's certificate"),
)


def _status(error: grpc.RpcError) -> grpc.StatusCode:
    code = error.code() if isinstance(error, grpc.Call) else None
    return code if code is not None else grpc.StatusCode.UNKNOWN


def _error(status: HTTPStatus, message: str) -> FleetReply:
    body = json.dumps({"detail": message}).encode()
    return FleetReply(status=status, headers={"content-type": "application/json"}, body=body)


def _parse(message: Reply, body: bytes) -> Reply:
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise Refusal(RefusalReason.POLICY, f"the reply is not a {type(message).__name__}") from error
    return message
