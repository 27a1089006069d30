"""The shim: what it imports, what it hands over, and what it says when something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.app.message import make_message

import client.app
import client.supernode
from client.wire import tacit_pb2 as pb
from client.wire import tacit_pb2_grpc as rpc
from tacit.errors import InputError, TransportError

ORDER = json.dumps({"run_id": "0123456789abcdef", "deadline_s": 30.0}).encode()
VECTOR = np.array([1.0, -2.5, 3.25], dtype=np.float32)
NODE = 4242


def message(content: RecordDict, message_type: str = "train") -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="m1",
        src_node_id=1,
        dst_node_id=NODE,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=100.0,
        message_type=message_type,
    )
    return make_message(metadata, content)


def order(adapter: object = None, json_bytes: object = ORDER) -> Message:
    records = {"order": ConfigRecord({"json": json_bytes})}
    records["adapter"] = ArrayRecord({"vector": Array(VECTOR)}) if adapter is None else adapter
    return message(RecordDict(records))


def run(sent: Message, node_id: int = NODE) -> Message:
    context = Context(run_id=1, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
    return client.app.app(sent, context)


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(client.app.AGENT_SOCKET_VARIABLE, raising=False)


class Agent(rpc.AgentServicer):
    """Keeps what it was given; answers what the test says."""

    def __init__(self) -> None:
        self.given: list[pb.Envelope] = []
        self.time_left_s: float = 0.0
        self.answer: Callable[[grpc.ServicerContext], bytes] = lambda context: b'{"receipt":1}'

    def Execute(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:
        self.given.append(request)
        self.time_left_s = context.time_remaining()
        return pb.Envelope(json=self.answer(context))


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    served = Agent()
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(2), options=unlimited)
    rpc.add_AgentServicer_to_server(served, server)
    server.add_insecure_port(f"unix:{tmp_path / 'agent.sock'}")
    server.start()
    monkeypatch.setenv(client.app.AGENT_SOCKET_VARIABLE, str(tmp_path / "agent.sock"))
    yield served
    server.stop(None).wait()


def test_the_order_and_the_adapter_reach_the_agent_unchanged(agent: Agent) -> None:
    reply = run(order())
    (given,) = agent.given
    assert given.json == ORDER
    assert given.vector == VECTOR.astype("<f4").tobytes()
    assert reply.content["receipt"]["json"] == b'{"receipt":1}'
    assert reply.metadata.reply_to_message_id == "m1"
    assert set(reply.content) == {"receipt"}


def test_the_agent_has_the_orders_deadline_and_some_more(agent: Agent) -> None:
    run(order())
    # the clocks that gRPC compares are not quite the same
    assert 30.0 < agent.time_left_s < 30.0 + 301.0


@pytest.mark.parametrize(
    "adapter",
    [
        ConfigRecord({"vector": VECTOR.astype("<f4").tobytes()}),
        ArrayRecord({"vector": Array(VECTOR.astype(">f4"))}),
    ],
    ids=["bytes", "big-endian"],
)
def test_the_adapter_is_always_little_endian(agent: Agent, adapter: object) -> None:
    run(order(adapter))
    assert agent.given[0].vector == VECTOR.astype("<f4").tobytes()


def test_an_adapter_larger_than_grpcs_default_limit_passes(agent: Agent) -> None:
    large = np.zeros(3_000_000, dtype=np.float32)
    run(order(ArrayRecord({"vector": Array(large)})))
    assert len(agent.given[0].vector) == 12_000_000


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (ArrayRecord({"vector": Array(np.zeros(3))}), "expected float32 in one row"),
        (ArrayRecord({"vector": Array(np.zeros((2, 2), np.float32))}), "expected float32 in one row"),
        (ArrayRecord({"other": Array(VECTOR)}), "without an adapter"),
        (ConfigRecord({"vector": [1.0, 2.0]}), "without an adapter"),
    ],
)
def test_an_adapter_that_is_none_is_refused(agent: Agent, adapter: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        run(order(adapter))
    assert agent.given == []


def test_a_message_without_an_order_is_refused(agent: Agent) -> None:
    for content in (RecordDict(), RecordDict({"order": ConfigRecord({"json": "text"})})):
        with pytest.raises(InputError, match="without an order"):
            run(message(content))
    with pytest.raises(InputError, match="without an adapter"):
        run(message(RecordDict({"order": ConfigRecord({"json": ORDER})})))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"deadline_s": "soon"}', b'{"deadline_s": null}'])
def test_an_order_without_a_deadline_is_refused(agent: Agent, text: bytes) -> None:
    with pytest.raises(InputError, match="without a deadline"):
        run(order(json_bytes=text))


@pytest.mark.parametrize("number", ["0", "-1", "NaN", "Infinity"])
def test_an_impossible_deadline_is_refused(agent: Agent, number: str) -> None:
    with pytest.raises(InputError, match="impossible deadline"):
        run(order(json_bytes=f'{{"deadline_s": {number}}}'.encode()))


def test_only_training_messages_are_known(agent: Agent) -> None:
    with pytest.raises(ValueError, match="query"):
        run(message(order().content, "query"))
    assert agent.given == []


def test_what_the_agent_says_when_it_fails_never_travels(agent: Agent) -> None:
    """Flower sends a ClientApp's exception to the coordinator, text and all."""

    def fail(context: grpc.ServicerContext) -> bytes:
        raise ValueError("record 17 says: my card is 4111 1111 1111 1111")

    def abort(context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "label 'secret' of record 17")
        return b""

    for answer, code in ((fail, "UNKNOWN"), (abort, "FAILED_PRECONDITION")):
        agent.answer = answer
        with pytest.raises(TransportError) as caught:
            run(order())
        assert str(caught.value) == f"the site agent did not carry out the order: {code}"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_an_agent_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client.app.AGENT_SOCKET_VARIABLE, str(tmp_path / "nobody.sock"))
    with pytest.raises(TransportError, match="UNAVAILABLE"):
        run(order())


def test_no_agent_at_all_is_a_clear_error() -> None:
    with pytest.raises(TransportError, match=f"TACIT_AGENT_SOCKET is not set, and node {NODE}") as caught:
        run(order())
    assert "tacit site serve" in str(caught.value.hint)


def test_in_a_simulation_the_agent_of_the_node_is_called() -> None:
    client.app.register_local_agent(NODE, lambda order, vector: b"mine:" + order[:1] + vector[:4])
    client.app.register_local_agent(NODE + 1, lambda order, vector: b"other")
    try:
        assert run(order()).content["receipt"]["json"] == b"mine:{" + VECTOR.tobytes()[:4]
        assert run(order(), NODE + 1).content["receipt"]["json"] == b"other"
    finally:
        client.app.forget_local_agent(NODE)
        client.app.forget_local_agent(NODE + 1)
    with pytest.raises(TransportError, match="no site agent"):
        run(order())
    client.app.forget_local_agent(NODE)


def test_a_real_agent_goes_before_a_simulated_one(agent: Agent) -> None:
    client.app.register_local_agent(NODE, lambda order, vector: b"simulated")
    try:
        assert run(order()).content["receipt"]["json"] == b'{"receipt":1}'
    finally:
        client.app.forget_local_agent(NODE)


def test_both_sides_name_the_socket_alike() -> None:
    assert client.app.AGENT_SOCKET_VARIABLE == client.supernode.AGENT_SOCKET_VARIABLE


LOADED = """
import sys
import flwr.app, flwr.clientapp, flwr.supernode.runtime.run_clientapp, grpc
before = set(sys.modules)
import client.app
print(*sorted(set(sys.modules) - before))
"""


def test_it_imports_nothing_heavy() -> None:
    """It is imported afresh for every message."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.split(".")[0] in ("client", "tacit")}
    assert ours == {
        "client",
        "client.app",
        "client.wire",
        "client.wire.tacit_pb2",
        "client.wire.tacit_pb2_grpc",
        "tacit",
        "tacit.errors",
    }
    others = {name.split(".")[0] for name in done.stdout.split()} - {"client", "tacit"}
    assert others <= sys.stdlib_module_names, "something that flwr and grpc do not need themselves"
