"""The site's end of the tunnel, over real HTTP on the loopback interface, with a gateway made of answers."""

from __future__ import annotations

import hashlib
import http.client
import socket
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.proto.fab_pb2 import Fab, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    DeactivateNodeRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.run_pb2 import GetRunResponse, Run

from client.fab import build_fab
from client.fleet_api import (
    ACTIVATE,
    CONFIRM,
    DEACTIVATE,
    GET_FAB,
    GET_RUN,
    HEARTBEAT,
    MAX_BODY_BYTES,
    REGISTER,
    UNREGISTER,
)
from client.tunnel import FleetProxy, explain_unreachable
from client.wire.tacit_pb2 import FleetCall, FleetReply
from client.wire.tacit_pb2_grpc import GatewayStub

FAB = build_fab()
IDENTITY = {"flwr-public-key": "key", "flwr-timestamp": "now", "flwr-signature": "signed"}


class Broken(grpc.RpcError, grpc.Call):
    """A gRPC call that failed, as the stub raises it."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


for _name in grpc.Call.__abstractmethods__ - {"code"}:
    setattr(Broken, _name, lambda self, *_: None)
Broken.__abstractmethods__ = frozenset()


class Gateway:
    """A stub that records calls and answers what the test put in."""

    def __init__(self) -> None:
        self.calls: list[FleetCall] = []
        self.answer: Callable[[FleetCall], FleetReply] = lambda call: FleetReply(status=200)

    def Fleet(self, request: FleetCall, timeout: float | None = None) -> FleetReply:
        assert timeout is not None
        self.calls.append(request)
        return self.answer(request)

    def paths(self) -> list[str]:
        return [call.path for call in self.calls]


class Proxy:
    """The proxy under test and an HTTP client."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.refusals: list[str] = []
        self.links: list[tuple[bool, str]] = []
        self.proxy = FleetProxy(
            self.gateway, self.refusals.append, on_link=lambda *link: self.links.append(link)
        ).start()
        host, port = self.proxy.address.split(":")
        self.http = http.client.HTTPConnection(host, int(port), timeout=10)

    def post(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, bytes, dict]:
        self.http.request("POST", path, body=body, headers=headers or {})
        response = self.http.getresponse()
        content = response.read()
        return response.status, content, {name.lower(): value for name, value in response.getheaders()}

    def replies(self, body: bytes, status: int = 200) -> None:
        self.gateway.answer = lambda call: FleetReply(status=status, body=body)

    def breaks(self, code: grpc.StatusCode) -> None:
        def answer(call: FleetCall) -> FleetReply:
            raise Broken(code)

        self.gateway.answer = answer


@pytest.fixture
def site() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.http.close()
    made.proxy.stop()


def test_it_listens_on_the_loopback_interface_only(site: Proxy) -> None:
    assert site.proxy.address.startswith("127.0.0.1:")
    assert site.proxy._server.socket.getsockname()[0] == "127.0.0.1"


def test_a_call_is_carried_with_its_body_and_listed_headers_only(site: Proxy) -> None:
    site.gateway.answer = lambda call: FleetReply(
        status=200, body=b"answer", headers={"content-type": "application/protobuf", "set-cookie": "no"}
    )
    given = {**IDENTITY, "Content-Type": "application/protobuf", "Cookie": "secret", "X-Other": "1"}
    status, body, headers = site.post(CONFIRM, b"question", given)
    assert (status, body) == (200, b"answer")
    assert headers["content-type"] == "application/protobuf"
    assert "set-cookie" not in headers
    (call,) = site.gateway.calls
    assert (call.path, call.body) == (CONFIRM, b"question")
    assert dict(call.headers) == {**IDENTITY, "content-type": "application/protobuf"}


def test_one_connection_carries_many_calls(site: Proxy) -> None:
    for _ in range(3):
        assert site.post(HEARTBEAT)[0] == 200
        port = site.http.sock.getsockname()[1]
        assert site.post(HEARTBEAT)[0] == 200
        assert site.http.sock.getsockname()[1] == port


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/",
        "/v1/fleet/other",
        "/v1/fleet/get-run?x=1",
        "/v1/fleet/../control/start-run",
        "http://elsewhere/v1/fleet/get-run",
        "/",
    ],
)
def test_no_other_path_passes(site: Proxy, path: str) -> None:
    assert site.post(path)[0] == 404
    assert site.gateway.calls == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "CONNECT", "OPTIONS"])
def test_no_other_method_passes(site: Proxy, method: str) -> None:
    site.http.request(method, HEARTBEAT)
    assert site.http.getresponse().status == 501
    assert site.gateway.calls == []


def test_a_body_that_is_too_large_or_of_no_length_is_not_read(site: Proxy) -> None:
    for length, expected in ((str(MAX_BODY_BYTES + 1), 413), ("9" * 40, 413), ("-1", 411), ("1e3", 411)):
        site.http.putrequest("POST", CONFIRM)
        site.http.putheader("Content-Length", length)
        site.http.endheaders()
        response = site.http.getresponse()
        assert response.status == expected
        response.read()
        site.http.close()
    site.http.putrequest("POST", CONFIRM)
    site.http.putheader("Transfer-Encoding", "chunked")
    site.http.putheader("Content-Length", "3")
    site.http.endheaders()
    assert site.http.getresponse().status == 411
    assert site.gateway.calls == []


def test_a_body_that_ends_early_is_dropped(site: Proxy) -> None:
    host, port = site.proxy.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"POST {CONFIRM} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1024) == b""
    assert site.gateway.calls == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 503),
        (grpc.StatusCode.INTERNAL, 503),
        (grpc.StatusCode.PERMISSION_DENIED, 403),
        (grpc.StatusCode.UNAUTHENTICATED, 403),
    ],
)
def test_a_gateway_that_is_away_is_tried_again_by_the_supernode(
    site: Proxy, code: grpc.StatusCode, expected: int
) -> None:
    site.breaks(code)
    assert site.post(HEARTBEAT)[0] == expected


def test_the_link_is_reported_when_it_changes(site: Proxy) -> None:
    site.breaks(grpc.StatusCode.UNAVAILABLE)
    site.post(HEARTBEAT)
    site.post(HEARTBEAT)
    site.replies(b"")
    site.post(HEARTBEAT)
    site.post(HEARTBEAT)
    assert [reachable for reachable, _ in site.links] == [False, True]
    assert site.links[0][1] == "cannot be reached: the gateway did not answer (UNAVAILABLE)"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (grpc.StatusCode.ALREADY_EXISTS, "turned this site away: "),
        (grpc.StatusCode.PERMISSION_DENIED, "turned this site away: "),
        (grpc.StatusCode.CANCELLED, "cannot be reached: something listens there that does not answer as a gateway"),
    ],
)
def test_what_the_coordinator_did_is_said(site: Proxy, code: grpc.StatusCode, said: str) -> None:
    site.breaks(code)
    site.post(HEARTBEAT)
    assert site.links[0][1].startswith(said)


def test_another_service_in_the_gateways_place_is_said_to_be_none() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as failed:
            GatewayStub(channel).Fleet(FleetCall(path=HEARTBEAT), timeout=20)
    finally:
        server.stop(None)
    told = explain_unreachable(failed.value)
    assert told == "cannot be reached: something listens there that does not answer as a gateway (UNIMPLEMENTED)"


def test_a_redirect_is_not_passed_on(site: Proxy) -> None:
    """Flower's client follows redirects: one would lead it past the check of the bundle."""
    for status in (100, 201, 302, 307, 308):
        site.gateway.answer = lambda call, status=status: FleetReply(
            status=status, headers={"location": "http://elsewhere/"}
        )
        answered, _, headers = site.post(GET_FAB)
        assert answered == 502
        assert "location" not in headers


def test_errors_of_the_superlink_are_passed_on(site: Proxy) -> None:
    site.replies(b'{"code": 1}', status=412)
    assert site.post(ACTIVATE)[:2] == (412, b'{"code": 1}')


def fab_reply(content: bytes, hash_str: str | None = None) -> bytes:
    digest = hashlib.sha256(content).hexdigest() if hash_str is None else hash_str
    return GetFabResponse(fab=Fab(hash_str=digest, content=content)).SerializeToString()


def test_the_bundle_without_code_passes(site: Proxy) -> None:
    site.replies(fab_reply(FAB))
    assert site.post(GET_FAB)[:2] == (200, fab_reply(FAB))
    assert site.refusals == []


def test_a_bundle_with_code_is_refused_and_told(site: Proxy) -> None:
    document = b'[project]\nname = "tacit"\nversion = "0.1.0"\n[tool.flwr.app]\npublisher = "tacit"\n'
    document += (
        b'[tool.flwr.app.components]\nserverapp = "server.app:app"\nclientapp = "client.app:app"\n'
        b'[tool.flwr.app.config]\nrun-spec = ""\n'
    )
    evil, _ = build_fab_from_files({"pyproject.toml": document, "client/app.py": b"steal()"})
    site.replies(fab_reply(evil))
    status, body, _ = site.post(GET_FAB)
    assert status == 403
    assert b"steal" not in body
    assert len(site.refusals) == 1
    assert "client/app.py" in site.refusals[0]


def test_a_bundle_under_another_hash_is_refused(site: Proxy) -> None:
    site.replies(fab_reply(FAB, "0" * 64))
    assert site.post(GET_FAB)[0] == 403
    assert "hash" in site.refusals[0]


def test_a_reply_that_is_no_bundle_is_refused(site: Proxy) -> None:
    site.replies(b"\x0a\xff\xff")
    assert site.post(GET_FAB)[0] == 403
    site.replies(b"")
    assert site.post(GET_FAB)[0] == 403
    assert len(site.refusals) == 2


def run_reply(**changed: str) -> bytes:
    run = {"fab_id": "tacit/tacit", "fab_version": "0.1.0", "fab_hash": "0f" * 32}
    return GetRunResponse(run=Run(**{**run, **changed})).SerializeToString()


def test_only_runs_of_tacit_pass(site: Proxy) -> None:
    site.replies(run_reply())
    assert site.post(GET_RUN)[0] == 200
    for changed in ({"fab_id": "evil/app"}, {"fab_version": "../x"}, {"primary_task_type": "flwr-agentapp"}):
        site.replies(run_reply(**changed))
        assert site.post(GET_RUN)[0] == 403
    assert len(site.refusals) == 3


def activate(site: Proxy, node_id: int = 7) -> None:
    site.replies(b"")
    register = RegisterNodeFleetRequest(public_key=b"k").SerializeToString()
    assert site.post(REGISTER, register, IDENTITY)[0] == 200
    site.replies(ActivateNodeResponse(node_id=node_id).SerializeToString())
    assert site.post(ACTIVATE, b"", IDENTITY)[0] == 200


def test_the_node_is_known_from_activation_to_its_sign_off(site: Proxy) -> None:
    assert site.proxy.node_id is None
    activate(site)
    assert site.proxy.node_id == 7
    site.replies(b"")
    site.post(HEARTBEAT, b"", IDENTITY)
    assert site.proxy.node_id == 7
    site.post(DEACTIVATE, b"", IDENTITY)
    assert site.proxy.node_id is None


def test_a_node_the_superlink_has_forgotten_is_not_active(site: Proxy) -> None:
    activate(site)
    site.replies(b"{}", status=401)
    assert site.post(HEARTBEAT, b"", IDENTITY)[0] == 401
    assert site.proxy.node_id is None


def test_a_dead_supernode_is_signed_off_with_its_last_proof_of_identity(site: Proxy) -> None:
    activate(site)
    site.replies(b"")
    later = {**IDENTITY, "flwr-timestamp": "later", "flwr-signature": "signed later"}
    site.post(HEARTBEAT, b"", later)
    before = len(site.gateway.calls)
    site.proxy.release()
    deactivate, unregister = site.gateway.calls[before:]
    assert deactivate.path == DEACTIVATE
    assert DeactivateNodeRequest.FromString(deactivate.body).node_id == 7
    assert unregister.path == UNREGISTER
    assert UnregisterNodeFleetRequest.FromString(unregister.body).node_id == 7
    for call in (deactivate, unregister):
        assert {name: call.headers[name] for name in IDENTITY} == later
        assert call.headers["content-type"] == "application/protobuf"
    assert site.proxy.node_id is None
    site.proxy.release()
    assert len(site.gateway.calls) == before + 2


def test_signing_off_survives_a_gateway_that_is_away(site: Proxy) -> None:
    activate(site)
    site.breaks(grpc.StatusCode.UNAVAILABLE)
    site.proxy.release()
    assert site.proxy.node_id is None


def test_it_can_be_stopped_twice_and_without_a_start() -> None:
    proxy = FleetProxy(Gateway())
    proxy.stop()
    proxy.stop()
    with FleetProxy(Gateway()) as started:
        assert started.address
