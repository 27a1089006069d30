"""Flower's Fleet API as the tunnel knows it: twelve paths, a few headers, and who a request speaks for.

Flower 1.41's SuperNode calls ``POST /v1/fleet/<call>`` with a protobuf body
(``flwr/supernode/fleet_http_client.py``). Both ends of the tunnel read this one table; whatever is not in it
does not travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest
from google.protobuf.message import DecodeError, Message

from tacit.errors import MalformedMessage

REGISTER = "/v1/fleet/register-node"
ACTIVATE = "/v1/fleet/activate-node"
DEACTIVATE = "/v1/fleet/deactivate-node"
UNREGISTER = "/v1/fleet/unregister-node"
HEARTBEAT = "/v1/fleet/send-node-heartbeat"
PULL_MESSAGES = "/v1/fleet/pull-messages"
PUSH_MESSAGES = "/v1/fleet/push-messages"
GET_RUN = "/v1/fleet/get-run"
GET_FAB = "/v1/fleet/get-fab"
PUSH_OBJECT = "/v1/fleet/push-object"
PULL_OBJECT = "/v1/fleet/pull-object"
CONFIRM = "/v1/fleet/confirm-message-received"

#: Every path that may travel, and the message its body must be.
FLEET_CALLS: Mapping[str, type[Message]] = {
    REGISTER: RegisterNodeFleetRequest,
    ACTIVATE: ActivateNodeRequest,
    DEACTIVATE: DeactivateNodeRequest,
    UNREGISTER: UnregisterNodeFleetRequest,
    HEARTBEAT: SendNodeHeartbeatRequest,
    PULL_MESSAGES: PullMessagesRequest,
    PUSH_MESSAGES: PushMessagesRequest,
    GET_RUN: GetRunRequest,
    GET_FAB: GetFabRequest,
    PUSH_OBJECT: PushObjectRequest,
    PULL_OBJECT: PullObjectRequest,
    CONFIRM: ConfirmMessageReceivedRequest,
}

#: The SuperNode's own proof of identity: a public key and a signature over a timestamp.
IDENTITY_HEADERS = frozenset({"flwr-public-key", "flwr-timestamp", "flwr-signature"})
REQUEST_HEADERS = IDENTITY_HEADERS | {
    "content-type",
    "accept",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-component-name",
}
#: No ``location`` here: a SuperNode follows redirects, and one could lead it past the check of the bundle.
REPLY_HEADERS = frozenset({"content-type", "flwr-version-incompatibility-message"})

MEDIA_TYPE = "application/protobuf"

#: Flower cuts arrays into chunks of 20 MiB; the largest call is one chunk and its envelope.
MAX_BODY_BYTES = 32 * 1024 * 1024
#: gRPC options both ends of the tunnel need (the default limit of a message is 4 MiB).
GRPC_OPTIONS = (
    ("grpc.max_send_message_length", MAX_BODY_BYTES + 64 * 1024),
    ("grpc.max_receive_message_length", MAX_BODY_BYTES + 64 * 1024),
)


@dataclass(frozen=True)
class Speaker:
    """Who a request says it comes from.

    Args:
        public_key: set for registration and activation only.
        node_ids: every node id the request speaks for; must all be the caller's own.
    """

    public_key: bytes | None
    node_ids: frozenset[int]


def parse_call(path: str, body: bytes) -> Message:
    """Parse the body of a call in :data:`FLEET_CALLS`.

    Raises:
        MalformedMessage: the body is not the message that belongs to this path.
    """
    request = FLEET_CALLS[path]()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise MalformedMessage(f"the body of {path} is not a {type(request).__name__}") from error
    return request


def speaker_of(request: Message) -> Speaker:
    """Return who ``request`` speaks for.

    Raises:
        MalformedMessage: it pushes a message that is not a reply. Flower's SuperLink would take one that
            names the SuperLink as its source for an instruction to another site.
    """
    if isinstance(request, RegisterNodeFleetRequest | ActivateNodeRequest):
        return Speaker(request.public_key, frozenset())
    if isinstance(request, DeactivateNodeRequest | UnregisterNodeFleetRequest):
        return Speaker(None, frozenset({request.node_id}))
    node_ids = {request.node.node_id}
    if isinstance(request, PushMessagesRequest):
        for message in request.messages_list:
            if not message.metadata.reply_to_message_id:
                raise MalformedMessage("a site may push replies only, received a message that answers none")
            node_ids.add(message.metadata.src_node_id)
    return Speaker(None, frozenset(node_ids))


def allowed_headers(headers: Iterable[tuple[str, str]], allowed: frozenset[str]) -> dict[str, str]:
    """Keep the headers whose lower-case name is in ``allowed``; of a repeated header the first one."""
    kept: dict[str, str] = {}
    for name, value in headers:
        if name.lower() in allowed:
            kept.setdefault(name.lower(), value)
    return kept
