"""The table of fleet calls, against Flower's own client and server."""

from __future__ import annotations

import inspect
import re

import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import Message as FlowerMessage
from flwr.proto.message_pb2 import Metadata, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supernode import fleet_http_client
from hypothesis import given
from hypothesis import strategies as st

from client.fleet_api import (
    FLEET_CALLS,
    HEARTBEAT,
    PULL_MESSAGES,
    PUSH_MESSAGES,
    REPLY_HEADERS,
    REQUEST_HEADERS,
    allowed_headers,
    parse_call,
    speaker_of,
)
from tacit.errors import MalformedMessage


def test_the_table_is_what_flowers_client_calls_and_its_server_parses() -> None:
    called = set(re.findall(r'path="(/v1/[^"]+)"', inspect.getsource(fleet_http_client)))
    assert called == set(FLEET_CALLS)
    parsed = {path: kind for (_, path), kind in PROTOBUF_REQUEST_TYPES.items() if path.startswith("/v1/fleet/")}
    assert parsed == dict(FLEET_CALLS)


def test_every_call_names_its_node_or_key() -> None:
    """Should a later Flower add a call that says who it is in another way, this fails rather than the guard."""
    for path, kind in FLEET_CALLS.items():
        fields = set(kind.DESCRIPTOR.fields_by_name)
        assert fields & {"public_key", "node_id", "node"}, path


def test_who_a_request_speaks_for() -> None:
    assert speaker_of(RegisterNodeFleetRequest(public_key=b"k")).public_key == b"k"
    assert speaker_of(ActivateNodeRequest(public_key=b"k")).public_key == b"k"
    assert speaker_of(DeactivateNodeRequest(node_id=7)).node_ids == {7}
    assert speaker_of(UnregisterNodeFleetRequest(node_id=7)).node_ids == {7}
    assert speaker_of(PullMessagesRequest(node=Node(node_id=7))).node_ids == {7}
    assert speaker_of(PushObjectRequest(node=Node(node_id=7))).node_ids == {7}
    assert speaker_of(PullMessagesRequest()).node_ids == {0}


def push(*messages: Metadata) -> PushMessagesRequest:
    listed = [FlowerMessage(metadata=metadata) for metadata in messages]
    return PushMessagesRequest(node=Node(node_id=7), messages_list=listed)


def test_a_pushed_message_speaks_for_its_source_too() -> None:
    request = push(Metadata(src_node_id=7, reply_to_message_id="m"), Metadata(src_node_id=8, reply_to_message_id="m"))
    assert speaker_of(request).node_ids == {7, 8}


def test_a_pushed_message_must_be_a_reply() -> None:
    with pytest.raises(MalformedMessage, match="replies only"):
        speaker_of(push(Metadata(src_node_id=1)))


@given(st.binary(max_size=200))
def test_a_body_is_parsed_or_refused(body: bytes) -> None:
    for path in (HEARTBEAT, PULL_MESSAGES, PUSH_MESSAGES):
        try:
            assert isinstance(parse_call(path, body), FLEET_CALLS[path])
        except MalformedMessage:
            continue


def test_a_body_that_is_another_message_is_refused() -> None:
    with pytest.raises(MalformedMessage, match=r"/v1/fleet/pull-messages is not a PullMessagesRequest"):
        parse_call(PULL_MESSAGES, b"\x0a\xff\xff")


def test_only_listed_headers_pass() -> None:
    given_headers = [
        ("Content-Type", "application/protobuf"),
        ("FLWR-Signature", "first"),
        ("flwr-signature", "second"),
        ("Cookie", "c"),
        ("Authorization", "a"),
        ("Location", "http://elsewhere/"),
        ("Content-Encoding", "gzip"),
    ]
    assert allowed_headers(given_headers, REQUEST_HEADERS) == {
        "content-type": "application/protobuf",
        "flwr-signature": "first",
    }
    assert allowed_headers(given_headers, REPLY_HEADERS) == {"content-type": "application/protobuf"}
