"""The coordinator's end of the tunnel for Flower's fleet calls.

Flower's SuperLink, without its own TLS, knows a SuperNode by a key pair the SuperNode made up a moment ago.
The certificate of the peer says who it is; :class:`FleetTunnel` ties the two together: a node id belongs to
the site that registered it, and no other site can speak for it.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesResponse,
    RegisterNodeFleetResponse,
    UnregisterNodeFleetRequest,
)
from google.protobuf.message import DecodeError

from certs.names import PeerName, Role
from client.fleet_api import (
    ACTIVATE,
    DEACTIVATE,
    FLEET_CALLS,
    IDENTITY_HEADERS,
    MAX_BODY_BYTES,
    MEDIA_TYPE,
    PULL_MESSAGES,
    REGISTER,
    REPLY_HEADERS,
    REQUEST_HEADERS,
    UNREGISTER,
    Speaker,
    allowed_headers,
    parse_call,
    speaker_of,
)
from client.wire.tacit_pb2 import FleetCall, FleetReply
from tacit.canonical import canonical_json, parse_json
from tacit.durable import write_atomic
from tacit.errors import ConfigError, InputError, MalformedMessage

logger = logging.getLogger(__name__)

#: Flower counts a SuperNode as online for two heartbeats of 30 s.
ACTIVE_S = 60.0


@dataclass(frozen=True)
class _Node:
    """One registered SuperNode: its last proof of identity, and when that was (None while not active)."""

    site: str
    public_key: bytes
    identity: dict[str, str] = field(default_factory=dict)
    seen_s: float | None = None


class FleetTunnel:
    """Forwards the fleet calls of authenticated sites to the SuperLink on the loopback interface.

    An empty pull is held back for a while and asked again on the site's behalf: a SuperNode that was told
    "nothing" sleeps for three seconds, which would be added to every round.

    Args:
        superlink_address: ``host:port`` of the SuperLink.
        state_folder: ``fleet.json`` in it remembers who registered which node; None keeps that in memory.
        pull_hold_s: longest time an empty pull is held; below :data:`client.tunnel.CALL_TIMEOUT_S`. Each held
            pull occupies one thread of the gateway.
        pull_poll_s: how often the SuperLink is asked meanwhile.
        on_change: called with (site, node id or None) when a site's node appears, changes or signs off.
        transport: of the HTTP client; replaced in tests only.
        clock: monotonic seconds.

    Raises:
        ConfigError: ``fleet.json`` exists and cannot be understood.
    """

    def __init__(
        self,
        superlink_address: str,
        state_folder: Path | None = None,
        *,
        pull_hold_s: float = 10.0,
        pull_poll_s: float = 0.5,
        on_change: Callable[[str, int | None], None] | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.Client(
            base_url=f"http://{superlink_address}",
            timeout=20.0,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )
        self._state_file = None if state_folder is None else state_folder / "fleet.json"
        self._pull_hold_s = pull_hold_s
        self._pull_poll_s = pull_poll_s
        self._on_change = on_change
        self._clock = clock
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._nodes: dict[int, _Node] = {}
        self._keys: dict[bytes, str] = {}
        self._load()

    def forward(self, peer: PeerName, call: FleetCall, is_connected: Callable[[], bool] = lambda: True) -> FleetReply:
        """Carry one call of the authenticated ``peer`` to the SuperLink. Never raises on what the peer sent.

        Args:
            peer: who calls.
            call: what it asks.
            is_connected: whether the peer still waits for the reply. A message must not be fetched for a peer
                that is gone, nor does a call that it did not live to see the end of count as a sign of life.

        The reply's status is the SuperLink's own, or: 403 not this site's node, 404 not a fleet call, 413 too
        large, 400 not the message that belongs to the path, 401 a node nobody registered (which makes the
        SuperNode register again), 503 the SuperLink is away (which makes it try again).
        """
        if peer.role is not Role.SITE:
            return self._refuse(peer, HTTPStatus.FORBIDDEN, "only sites have SuperNodes")
        if call.path not in FLEET_CALLS:
            return self._refuse(peer, HTTPStatus.NOT_FOUND, "only Flower's fleet calls pass here")
        if len(call.body) > MAX_BODY_BYTES:
            return self._refuse(peer, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the call is too large")
        try:
            speaker = speaker_of(parse_call(call.path, call.body))
        except MalformedMessage as error:
            return self._refuse(peer, HTTPStatus.BAD_REQUEST, error.message)
        if (refusal := self._authorise(peer, call.path, speaker)) is not None:
            return refusal
        headers = allowed_headers(call.headers.items(), REQUEST_HEADERS)
        if call.path == PULL_MESSAGES:
            reply = self._pull(headers, call.body, speaker, is_connected)
        else:
            reply = self._post(call.path, headers, call.body)
        self._learn(peer.name, call.path, speaker, headers, reply)
        if not is_connected():
            self._lose(peer.name, speaker.node_ids)
        return reply

    def lost(self, site: str) -> None:
        """The site's connection broke: its SuperNode counts as absent until it speaks again."""
        with self._lock:
            nodes = frozenset(node_id for node_id, node in self._nodes.items() if node.site == site)
        self._lose(site, nodes)

    def node_id_of(self, site: str) -> int | None:
        """Return Flower's node id of the site's active SuperNode, or None."""
        return self.sites().get(site)

    def sites(self) -> dict[str, int]:
        """Return the node id of every site whose SuperNode is active now."""
        oldest = self._clock() - ACTIVE_S
        with self._lock:
            active = ((n.site, node_id) for node_id, n in self._nodes.items() if n.seen_s and n.seen_s > oldest)
            return dict(sorted(active))

    def close(self) -> None:
        """Let go of held pulls and close the connections."""
        self._closing.set()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _authorise(self, peer: PeerName, path: str, speaker: Speaker) -> FleetReply | None:
        with self._lock:
            if speaker.public_key is not None:
                owner = self._keys.get(speaker.public_key)
                if owner is None and path == ACTIVATE:
                    return self._refuse(peer, HTTPStatus.UNAUTHORIZED, "nobody registered this SuperNode")
                owners: set[str | None] = {owner or peer.name}
            else:
                known = [self._nodes.get(node_id) for node_id in speaker.node_ids]
                if all(node is None for node in known):
                    return self._refuse(peer, HTTPStatus.UNAUTHORIZED, "nobody registered this SuperNode")
                owners = {node.site if node else None for node in known}
        if owners != {peer.name}:
            return self._refuse(peer, HTTPStatus.FORBIDDEN, "this SuperNode is another site's")
        return None

    def _lose(self, site: str, node_ids: Iterable[int]) -> None:
        changed = False
        with self._lock:
            for node_id in node_ids:
                node = self._nodes.get(node_id)
                if node is not None and node.seen_s is not None:
                    self._nodes[node_id] = replace(node, seen_s=None)
                    changed = True
        if changed and self._on_change is not None:
            self._on_change(site, None)

    def _pull(
        self, headers: dict[str, str], body: bytes, speaker: Speaker, is_connected: Callable[[], bool]
    ) -> FleetReply:
        deadline = self._clock() + self._pull_hold_s
        while True:
            reply = self._post(PULL_MESSAGES, headers, body)
            if reply.status != HTTPStatus.OK or self._clock() >= deadline or _has_messages(reply.body):
                return reply
            # a node that was replaced or signed off meanwhile must not be given a message
            if self._closing.wait(self._pull_poll_s) or not self._known(speaker) or not is_connected():
                return reply

    def _known(self, speaker: Speaker) -> bool:
        with self._lock:
            return all(node_id in self._nodes for node_id in speaker.node_ids)

    def _post(self, path: str, headers: dict[str, str], body: bytes) -> FleetReply:
        try:
            response = self._http.post(
                path, content=body, headers={**headers, "accept-encoding": "identity", "user-agent": "tacit"}
            )
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            logger.warning("the SuperLink did not answer %s: %s", path, type(error).__name__)
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "the SuperLink does not answer")
        kept = allowed_headers(response.headers.items(), REPLY_HEADERS)
        return FleetReply(status=response.status_code, headers=kept, body=response.content)

    def _learn(self, site: str, path: str, speaker: Speaker, headers: dict[str, str], reply: FleetReply) -> None:
        identity = {name: value for name, value in headers.items() if name in IDENTITY_HEADERS}
        replaced: dict[int, _Node] = {}
        changed: list[int | None] = []
        with self._lock:
            if reply.status == HTTPStatus.UNAUTHORIZED or (path == UNREGISTER and reply.status == HTTPStatus.OK):
                for node_id in speaker.node_ids:
                    self._forget(node_id, changed)
            elif reply.status != HTTPStatus.OK:
                return
            elif path == REGISTER and speaker.public_key is not None:
                node_id = RegisterNodeFleetResponse.FromString(reply.body).node_id
                self._nodes[node_id] = _Node(site, speaker.public_key, identity)
                self._keys[speaker.public_key] = site
                self._save()
            elif path == ACTIVATE and speaker.public_key is not None:
                node_id = ActivateNodeResponse.FromString(reply.body).node_id
                replaced = {i: n for i, n in self._nodes.items() if n.site == site and i != node_id}
                for other in replaced:
                    self._forget(other, [])
                self._nodes[node_id] = _Node(site, speaker.public_key, identity, self._clock())
                self._save()
                changed.append(node_id)
            else:
                for node_id in speaker.node_ids & self._nodes.keys():
                    node = self._nodes[node_id]
                    if path == DEACTIVATE:
                        self._nodes[node_id] = replace(node, identity=identity, seen_s=None)
                        changed.append(None)
                    else:
                        if node.seen_s is None:
                            changed.append(node_id)
                        self._nodes[node_id] = replace(node, identity=identity, seen_s=self._clock())
        for node_id, node in replaced.items():
            self._sign_off(node_id, node)
        if self._on_change is not None:
            for now in changed:
                self._on_change(site, now)

    def _forget(self, node_id: int, changed: list[int | None]) -> None:
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._keys.pop(node.public_key, None)
            self._save()
            if node.seen_s is not None:
                changed.append(None)

    def _sign_off(self, node_id: int, node: _Node) -> None:
        """Tell the SuperLink that a replaced SuperNode, which died without a word, is gone.

        Otherwise it counts as online until its heartbeat lapses and a message sent to it waits as long. Its
        last signed timestamp is accepted for five minutes; after that the heartbeat has lapsed anyway.
        """
        logger.info("site %s replaced its SuperNode %d", node.site, node_id)
        headers = {**node.identity, "content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}
        self._post(DEACTIVATE, headers, DeactivateNodeRequest(node_id=node_id).SerializeToString())
        self._post(UNREGISTER, headers, UnregisterNodeFleetRequest(node_id=node_id).SerializeToString())

    def _refuse(self, peer: PeerName, status: HTTPStatus, message: str) -> FleetReply:
        logger.warning("refused a fleet call of %s: %s", peer, message)
        return _error(status, message)

    def _save(self) -> None:
        if self._state_file is not None:
            nodes = {
                str(node_id): {"site": n.site, "public_key": base64.b64encode(n.public_key).decode()}
                for node_id, n in self._nodes.items()
            }
            write_atomic(self._state_file, canonical_json({"tacit_fleet": 1, "nodes": nodes}), mode=0o600)

    def _load(self) -> None:
        if self._state_file is None or not self._state_file.exists():
            return
        try:
            document = parse_json(self._state_file.read_bytes())
            if document["tacit_fleet"] != 1:
                raise InputError(f"version {document['tacit_fleet']!r}")
            for node_id, node in document["nodes"].items():
                public_key = base64.b64decode(node["public_key"], validate=True)
                self._nodes[int(node_id)] = _Node(str(node["site"]), public_key)
                self._keys[public_key] = str(node["site"])
        except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{self._state_file} is not a list of nodes of this version: {error}",
                hint="stop the gateway, delete that file and start again; the sites register anew",
            ) from error


def _has_messages(body: bytes) -> bool:
    try:
        return len(PullMessagesResponse.FromString(body).messages_list) > 0
    except DecodeError:
        return True  # not for us to judge


def _error(status: HTTPStatus, message: str) -> FleetReply:
    body = json.dumps({"detail": message}).encode()
    return FleetReply(status=status, headers={"content-type": "application/json"}, body=body)
