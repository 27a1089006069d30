"""The coordinator's end of the tunnel: who may speak for which node. The SuperLink is a table in this file."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    RegisterNodeFleetResponse,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from google.protobuf.message import Message as Protobuf

from certs.names import PeerName, Role
from client.fleet_api import (
    ACTIVATE,
    CONFIRM,
    DEACTIVATE,
    FLEET_CALLS,
    GET_FAB,
    GET_RUN,
    HEARTBEAT,
    MAX_BODY_BYTES,
    PULL_MESSAGES,
    PULL_OBJECT,
    PUSH_MESSAGES,
    PUSH_OBJECT,
    REGISTER,
    UNREGISTER,
)
from client.wire.tacit_pb2 import FleetCall, FleetReply
from server.tunnel import ACTIVE_S, FleetTunnel
from tacit.errors import ConfigError

ALPHA, BETA = (PeerName("test", Role.SITE, name) for name in ("alpha", "beta"))
COORDINATOR = PeerName("test", Role.COORDINATOR, "hub")
HEADERS = {"flwr-public-key": "k", "flwr-timestamp": "t", "flwr-signature": "s"}


class SuperLink:
    """Registers and answers like Flower's, as far as the tunnel looks."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.keys: dict[bytes, int] = {}
        #: whether each of the next pulls finds a message; afterwards all do, unless it is silent
        self.messages: list[bool] = []
        self.silent = False
        self.status = 200
        #: released for every pull
        self.asked = threading.Semaphore(0)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.status != 200:
            return httpx.Response(self.status, json={"detail": "no"})
        reply: Protobuf | None = None
        match request.url.path:
            case path if path == REGISTER:
                key = RegisterNodeFleetRequest.FromString(request.content).public_key
                self.keys[key] = 100 + len(self.keys)
                reply = RegisterNodeFleetResponse(node_id=self.keys[key])
            case path if path == ACTIVATE:
                key = ActivateNodeRequest.FromString(request.content).public_key
                reply = ActivateNodeResponse(node_id=self.keys[key])
            case path if path == PULL_MESSAGES:
                self.asked.release()
                full = self.messages.pop(0) if self.messages else not self.silent
                reply = PullMessagesResponse(messages_list=[Message()] if full else [])
        headers = {"content-type": "application/protobuf", "set-cookie": "no", "location": "http://elsewhere/"}
        return httpx.Response(200, content=reply.SerializeToString() if reply else b"", headers=headers)

    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]


class Bench:
    """A tunnel, its SuperLink and a clock that is moved by hand."""

    def __init__(
        self, folder: Path | None = None, superlink: SuperLink | None = None, pull_poll_s: float = 0.0
    ) -> None:
        self.now_s = 1000.0
        self.superlink = superlink or SuperLink()
        self.changes: list[tuple[str, int | None]] = []
        self.tunnel = FleetTunnel(
            "127.0.0.1:1",
            folder,
            pull_hold_s=5.0,
            pull_poll_s=pull_poll_s,
            on_change=lambda *change: self.changes.append(change),
            transport=httpx.MockTransport(self.superlink),
            clock=lambda: self.now_s,
        )

    def call(self, peer: PeerName, path: str, request: Protobuf, **headers: str) -> FleetReply:
        call = FleetCall(path=path, body=request.SerializeToString(), headers={**HEADERS, **headers})
        return self.tunnel.forward(peer, call)

    def join(self, peer: PeerName, key: bytes, **headers: str) -> int:
        assert self.call(peer, REGISTER, RegisterNodeFleetRequest(public_key=key), **headers).status == 200
        reply = self.call(peer, ACTIVATE, ActivateNodeRequest(public_key=key), **headers)
        assert reply.status == 200
        return ActivateNodeResponse.FromString(reply.body).node_id

    def beat(self, peer: PeerName, node_id: int) -> int:
        return self.call(peer, HEARTBEAT, SendNodeHeartbeatRequest(node=Node(node_id=node_id))).status

    def refused(self, peer: PeerName, path: str, request: Protobuf, status: int = 403) -> None:
        before = len(self.superlink.requests)
        assert self.call(peer, path, request).status == status
        assert len(self.superlink.requests) == before, "a refused call reached the SuperLink"


@pytest.fixture
def bench() -> Bench:
    return Bench()


def speaking_for(node_id: int) -> list[tuple[str, Protobuf]]:
    """One request of every kind that names a node."""
    node = Node(node_id=node_id)
    calls = [
        (DEACTIVATE, DeactivateNodeRequest(node_id=node_id)),
        (UNREGISTER, UnregisterNodeFleetRequest(node_id=node_id)),
        *(
            (path, FLEET_CALLS[path](node=node))
            for path in (HEARTBEAT, PULL_MESSAGES, GET_RUN, GET_FAB, PUSH_OBJECT, PULL_OBJECT, CONFIRM)
        ),
        (PUSH_MESSAGES, pushed(node_id, node_id)),
    ]
    assert {path for path, _ in calls} | {REGISTER, ACTIVATE} == set(FLEET_CALLS)
    return calls


def pushed(node_id: int, source: int, reply_to: str = "m") -> PushMessagesRequest:
    message = Message(metadata=Metadata(src_node_id=source, reply_to_message_id=reply_to))
    return PushMessagesRequest(node=Node(node_id=node_id), messages_list=[message])


def test_a_site_registers_and_is_known_by_its_certificates_name(bench: Bench) -> None:
    node_id = bench.join(ALPHA, b"a")
    assert bench.tunnel.sites() == {"alpha": node_id}
    assert bench.tunnel.node_id_of("alpha") == node_id
    assert bench.tunnel.node_id_of("beta") is None
    other = bench.join(BETA, b"b")
    assert bench.tunnel.sites() == {"alpha": node_id, "beta": other}
    assert bench.changes == [("alpha", node_id), ("beta", other)]


def test_a_registered_but_not_active_node_is_not_there(bench: Bench) -> None:
    bench.call(ALPHA, REGISTER, RegisterNodeFleetRequest(public_key=b"a"))
    assert bench.tunnel.sites() == {}


def test_nobody_speaks_for_another_sites_node(bench: Bench) -> None:
    node_id = bench.join(ALPHA, b"a")
    bench.join(BETA, b"b")
    for path, request in speaking_for(node_id):
        bench.refused(BETA, path, request)
    assert bench.tunnel.node_id_of("alpha") == node_id
    for path, request in sorted(speaking_for(node_id), key=lambda call: call[0] in (DEACTIVATE, UNREGISTER)):
        assert bench.call(ALPHA, path, request).status == 200


def test_nobody_uses_another_sites_key(bench: Bench) -> None:
    bench.join(ALPHA, b"a")
    bench.refused(BETA, REGISTER, RegisterNodeFleetRequest(public_key=b"a"))
    bench.refused(BETA, ACTIVATE, ActivateNodeRequest(public_key=b"a"))


def test_a_pushed_message_must_come_from_the_sites_own_node(bench: Bench) -> None:
    alpha, beta = bench.join(ALPHA, b"a"), bench.join(BETA, b"b")
    bench.refused(BETA, PUSH_MESSAGES, pushed(beta, alpha))
    bench.refused(BETA, PUSH_MESSAGES, pushed(beta, 1))  # 1 is the SuperLink's own id
    bench.refused(BETA, PUSH_MESSAGES, pushed(beta, 424242))
    assert bench.call(BETA, PUSH_MESSAGES, pushed(beta, beta)).status == 200


def test_a_site_cannot_give_orders(bench: Bench) -> None:
    """Flower's SuperLink takes a pushed message that answers none for an instruction to its destination."""
    beta = bench.join(BETA, b"b")
    bench.refused(BETA, PUSH_MESSAGES, pushed(beta, beta, reply_to=""), status=400)


def test_a_node_nobody_registered_is_told_to_register(bench: Bench) -> None:
    """401 makes a SuperNode end, and its supervisor start it again; 403 would make it wait for ever."""
    for path, request in speaking_for(5):
        bench.refused(ALPHA, path, request, status=401)
    bench.refused(ALPHA, ACTIVATE, ActivateNodeRequest(public_key=b"new"), status=401)


def test_only_sites_have_supernodes(bench: Bench) -> None:
    bench.refused(COORDINATOR, REGISTER, RegisterNodeFleetRequest(public_key=b"c"))


@pytest.mark.parametrize(
    "path",
    ["/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet/../control/start-run", "", "/v1/fleet/x"],
)
def test_no_other_path_is_forwarded(bench: Bench, path: str) -> None:
    assert bench.tunnel.forward(ALPHA, FleetCall(path=path)).status == 404
    assert bench.superlink.requests == []


def test_what_is_not_the_paths_message_is_not_forwarded(bench: Bench) -> None:
    assert bench.tunnel.forward(ALPHA, FleetCall(path=GET_RUN, body=b"\x0a\xff")).status == 400
    assert bench.tunnel.forward(ALPHA, FleetCall(path=GET_RUN, body=bytes(MAX_BODY_BYTES + 1))).status == 413
    assert bench.superlink.requests == []


def test_only_listed_headers_travel(bench: Bench) -> None:
    bench.join(ALPHA, b"a", cookie="secret", host="elsewhere", **{"flwr-task-token": "stolen"})
    request = bench.superlink.requests[0]
    assert request.headers["flwr-signature"] == "s"
    assert request.headers["host"] == "127.0.0.1:1"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"cookie", "flwr-task-token"} & set(request.headers)
    reply = bench.call(ALPHA, REGISTER, RegisterNodeFleetRequest(public_key=b"a2"))
    assert dict(reply.headers) == {"content-type": "application/protobuf"}


def test_a_superlink_that_is_away_is_tried_again(bench: Bench) -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    tunnel = FleetTunnel("127.0.0.1:1", transport=httpx.MockTransport(away))
    body = RegisterNodeFleetRequest(public_key=b"a").SerializeToString()
    assert tunnel.forward(ALPHA, FleetCall(path=REGISTER, body=body)).status == 503
    tunnel.close()
    assert tunnel.forward(ALPHA, FleetCall(path=REGISTER, body=body)).status == 503


def test_a_redirect_of_the_superlink_is_not_followed() -> None:
    seen: list[str] = []

    def elsewhere(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://elsewhere/"})

    with FleetTunnel("127.0.0.1:1", transport=httpx.MockTransport(elsewhere)) as tunnel:
        body = RegisterNodeFleetRequest(public_key=b"a").SerializeToString()
        reply = tunnel.forward(ALPHA, FleetCall(path=REGISTER, body=body))
    assert (reply.status, dict(reply.headers), len(seen)) == (307, {}, 1)


def test_a_site_whose_connection_broke_is_absent_until_it_speaks_again(bench: Bench) -> None:
    """Otherwise a killed site would count as connected for a minute, and a round would be begun without it."""
    node_id = bench.join(ALPHA, b"a")
    other = bench.join(BETA, b"b")
    bench.tunnel.lost("alpha")
    bench.tunnel.lost("alpha")
    assert bench.tunnel.sites() == {"beta": other}
    assert bench.changes[-1] == ("alpha", None)
    assert bench.beat(ALPHA, node_id) == 200
    assert bench.tunnel.sites() == {"alpha": node_id, "beta": other}


def test_a_pull_that_its_site_did_not_live_to_see_is_no_sign_of_life_and_fetches_no_message(bench: Bench) -> None:
    node_id = bench.join(ALPHA, b"a")
    bench.superlink.messages = [False, True]
    call = FleetCall(
        path=PULL_MESSAGES,
        body=PullMessagesRequest(node=Node(node_id=node_id)).SerializeToString(),
        headers=HEADERS,
    )
    reply = bench.tunnel.forward(ALPHA, call, lambda: False)
    assert not PullMessagesResponse.FromString(reply.body).messages_list
    assert bench.superlink.paths().count(PULL_MESSAGES) == 1
    assert bench.tunnel.sites() == {}


def test_a_silent_site_is_not_active_until_it_speaks_again(bench: Bench) -> None:
    node_id = bench.join(ALPHA, b"a")
    bench.now_s += ACTIVE_S - 1
    assert bench.beat(ALPHA, node_id) == 200
    bench.now_s += ACTIVE_S - 1
    assert bench.tunnel.sites() == {"alpha": node_id}
    bench.now_s += 2
    assert bench.tunnel.sites() == {}
    bench.beat(ALPHA, node_id)
    assert bench.tunnel.sites() == {"alpha": node_id}


@pytest.mark.parametrize(
    ("path", "kind"), [(DEACTIVATE, DeactivateNodeRequest), (UNREGISTER, UnregisterNodeFleetRequest)]
)
def test_a_site_that_signs_off_is_gone_at_once(bench: Bench, path: str, kind: type[Protobuf]) -> None:
    node_id = bench.join(ALPHA, b"a")
    assert bench.call(ALPHA, path, kind(node_id=node_id)).status == 200
    assert bench.tunnel.sites() == {}
    assert bench.changes == [("alpha", node_id), ("alpha", None)]


def test_a_node_the_superlink_has_forgotten_is_forgotten_here(bench: Bench) -> None:
    node_id = bench.join(ALPHA, b"a")
    bench.superlink.status = 401
    assert bench.beat(ALPHA, node_id) == 401
    assert bench.tunnel.sites() == {}
    bench.superlink.status = 200
    bench.refused(ALPHA, HEARTBEAT, SendNodeHeartbeatRequest(node=Node(node_id=node_id)), status=401)


def test_other_errors_of_the_superlink_change_nothing(bench: Bench) -> None:
    node_id = bench.join(ALPHA, b"a")
    for status in (403, 412, 500, 503):
        bench.superlink.status = status
        assert bench.beat(ALPHA, node_id) == status
        assert bench.call(ALPHA, UNREGISTER, UnregisterNodeFleetRequest(node_id=node_id)).status == status
    assert bench.tunnel.sites() == {"alpha": node_id}


def test_a_site_has_one_node_and_the_old_one_is_signed_off_with_its_own_proof(bench: Bench) -> None:
    old = bench.join(ALPHA, b"a", **{"flwr-signature": "old"})
    beta = bench.join(BETA, b"b")
    before = len(bench.superlink.requests)
    new = bench.join(ALPHA, b"a2", **{"flwr-signature": "new"})
    assert bench.tunnel.sites() == {"alpha": new, "beta": beta}
    _, _, deactivate, unregister = bench.superlink.requests[before:]
    assert DeactivateNodeRequest.FromString(deactivate.content).node_id == old
    assert UnregisterNodeFleetRequest.FromString(unregister.content).node_id == old
    assert {deactivate.headers["flwr-signature"], unregister.headers["flwr-signature"]} == {"old"}
    bench.refused(ALPHA, HEARTBEAT, SendNodeHeartbeatRequest(node=Node(node_id=old)), status=401)


def test_who_registered_what_survives_a_restart(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    node_id = first.join(ALPHA, b"a")
    first.tunnel.close()
    second = Bench(tmp_path, first.superlink)
    assert second.tunnel.sites() == {}, "nobody has spoken yet"
    second.refused(BETA, HEARTBEAT, SendNodeHeartbeatRequest(node=Node(node_id=node_id)))
    second.refused(BETA, ACTIVATE, ActivateNodeRequest(public_key=b"a"))
    assert second.beat(ALPHA, node_id) == 200
    assert second.tunnel.sites() == {"alpha": node_id}
    assert second.changes == [("alpha", node_id)]
    assert (tmp_path / "fleet.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", ["", "{}", '{"tacit_fleet": 2, "nodes": {}}', '{"tacit_fleet": 1, "nodes": {"x": {}}}', "[]"]
)
def test_a_list_of_nodes_that_cannot_be_read_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "fleet.json").write_text(content)
    with pytest.raises(ConfigError, match=r"fleet\.json") as caught:
        FleetTunnel("127.0.0.1:1", tmp_path)
    assert "delete" in str(caught.value.hint)


def test_the_list_of_nodes_holds_names_and_public_keys_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    node_id = bench.join(ALPHA, b"a")
    stored = json.loads((tmp_path / "fleet.json").read_text())
    assert stored == {"tacit_fleet": 1, "nodes": {str(node_id): {"site": "alpha", "public_key": "YQ=="}}}


class TestHeldPulls:
    """An empty pull is asked again on the site's behalf."""

    @staticmethod
    def pull(bench: Bench, node_id: int) -> PullMessagesResponse:
        reply = bench.call(ALPHA, PULL_MESSAGES, PullMessagesRequest(node=Node(node_id=node_id)))
        assert reply.status == 200
        return PullMessagesResponse.FromString(reply.body)

    def test_a_message_that_comes_later_is_delivered_in_the_same_call(self, bench: Bench) -> None:
        node_id = bench.join(ALPHA, b"a")
        bench.superlink.messages = [False, False, True]
        assert len(self.pull(bench, node_id).messages_list) == 1
        assert bench.superlink.paths().count(PULL_MESSAGES) == 3

    def test_a_message_that_is_there_is_delivered_at_once(self, bench: Bench) -> None:
        node_id = bench.join(ALPHA, b"a")
        bench.superlink.messages = [True]
        assert len(self.pull(bench, node_id).messages_list) == 1
        assert bench.superlink.paths().count(PULL_MESSAGES) == 1

    def held(self, bench: Bench, node_id: int) -> tuple[threading.Thread, list[FleetReply]]:
        """Start a pull in a thread and wait until the SuperLink has been asked twice."""
        bench.superlink.silent = True
        done: list[FleetReply] = []
        request = PullMessagesRequest(node=Node(node_id=node_id))
        thread = threading.Thread(target=lambda: done.append(bench.call(ALPHA, PULL_MESSAGES, request)))
        thread.start()
        for _ in range(2):
            assert bench.superlink.asked.acquire(timeout=20)
        return thread, done

    @pytest.mark.parametrize("end", ["time", "close", "replaced", "signed off"])
    def test_it_is_held_until(self, bench: Bench, end: str) -> None:
        node_id = bench.join(ALPHA, b"a")
        thread, done = self.held(bench, node_id)
        ends: dict[str, Callable[[], object]] = {
            "time": lambda: setattr(bench, "now_s", bench.now_s + 6),
            "close": bench.tunnel.close,
            "replaced": lambda: bench.join(ALPHA, b"a2"),
            "signed off": lambda: bench.call(ALPHA, UNREGISTER, UnregisterNodeFleetRequest(node_id=node_id)),
        }
        ends[end]()
        thread.join(20)
        assert not thread.is_alive()
        (reply,) = done
        if end == "close":
            assert reply.status in (200, 503), "the connection may be closed before or after the next question"
        else:
            assert (reply.status, reply.body) == (200, b"")

    def test_the_superlink_is_asked_again_only_after_a_while(self) -> None:
        bench = Bench(pull_poll_s=600.0)
        node_id = bench.join(ALPHA, b"a")
        bench.superlink.silent = True
        thread = threading.Thread(target=lambda: self.pull(bench, node_id))
        thread.start()
        assert bench.superlink.asked.acquire(timeout=20)
        bench.tunnel.close()
        thread.join(20)
        assert not thread.is_alive()
        assert bench.superlink.paths().count(PULL_MESSAGES) == 1

    def test_an_error_is_not_held(self, bench: Bench) -> None:
        node_id = bench.join(ALPHA, b"a")
        bench.superlink.status = 503
        assert bench.call(ALPHA, PULL_MESSAGES, PullMessagesRequest(node=Node(node_id=node_id))).status == 503


def test_objects_travel_whole(bench: Bench) -> None:
    node_id = bench.join(ALPHA, b"a")
    content = bytes(range(256)) * 1000
    request = PushObjectRequest(node=Node(node_id=node_id), object_content=content)
    assert bench.call(ALPHA, PUSH_OBJECT, request).status == 200
    assert PushObjectRequest.FromString(bench.superlink.requests[-1].content).object_content == content
    assert bench.call(ALPHA, PULL_OBJECT, PullObjectRequest(node=Node(node_id=node_id))).status == 200
    assert bench.call(ALPHA, GET_RUN, GetRunRequest(node=Node(node_id=node_id))).status == 200
