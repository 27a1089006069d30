"""The Flower ClientApp: a shim that hands the order to the site agent and returns the agent's receipt.

Flower starts a fresh process for every message, so this module imports nothing but the standard library,
``flwr``, ``grpc``, the wire format and :mod:`tacit.errors`. It holds no model, no data and no key, and
decides nothing. In a simulation the agents are objects in this process, found in a table, not at a socket.

A message holds ``order`` = ConfigRecord {``json``: canonical JSON}, and ``adapter`` = ArrayRecord {``vector``:
one float32 array} or ConfigRecord {``vector``: little-endian float32 bytes}. The reply holds ``receipt`` =
ConfigRecord {``json``: canonical JSON}.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable

import grpc
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.wire.tacit_pb2 import Envelope
from client.wire.tacit_pb2_grpc import AgentStub
from tacit.errors import InputError, TransportError

#: Where the site agent listens; set by the agent for its SuperNode (:mod:`client.supernode`).
AGENT_SOCKET_VARIABLE = "TACIT_AGENT_SOCKET"
#: Joining comes before, locking and revealing after what the order's deadline covers.
_AROUND_UPLOAD_S = 300.0

Execute = Callable[[bytes, bytes], bytes]

_local_agents: dict[int, Execute] = {}
_local_agents_lock = threading.Lock()

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Carry out one order: hand it to the agent, return the receipt.

    Raises:
        InputError: the message is not an order of this version.
        TransportError: there is no agent, or it failed. The text never quotes the agent: it travels to the
            coordinator inside Flower's error message.
    """
    order, vector = _read(message)
    receipt = _agent(context.node_id, order)(order, vector)
    return Message(RecordDict({"receipt": ConfigRecord({"json": receipt})}), reply_to=message)


def register_local_agent(node_id: int, execute: Execute) -> None:
    """Make an agent object the site ``node_id`` of a simulation in this process.

    Args:
        node_id: Flower's id of the simulated node.
        execute: takes the order's JSON and the adapter's bytes, returns the receipt's JSON.
    """
    with _local_agents_lock:
        _local_agents[node_id] = execute


def forget_local_agent(node_id: int) -> None:
    """Undo :func:`register_local_agent`."""
    with _local_agents_lock:
        _local_agents.pop(node_id, None)


def _read(message: Message) -> tuple[bytes, bytes]:
    order = message.content.get("order")
    json_bytes = order.get("json") if isinstance(order, ConfigRecord) else None
    if not isinstance(json_bytes, bytes):
        raise InputError("received a message without an order, expected a ConfigRecord 'order' with 'json' bytes")
    adapter = message.content.get("adapter")
    vector: object = adapter.get("vector") if isinstance(adapter, ArrayRecord | ConfigRecord) else None
    if isinstance(vector, Array):
        array = vector.numpy()
        if array.dtype.str[1:] != "f4" or array.ndim != 1:
            raise InputError(f"received an adapter of {array.dtype}{list(array.shape)}, expected float32 in one row")
        vector = array.astype("<f4", copy=False).tobytes()
    if not isinstance(vector, bytes):
        raise InputError("received an order without an adapter, expected 'adapter' with one array 'vector'")
    return json_bytes, vector


def _agent(node_id: int, order: bytes) -> Execute:
    socket = os.environ.get(AGENT_SOCKET_VARIABLE)
    if socket:
        return _RemoteAgent(socket, _deadline_s(order))
    with _local_agents_lock:
        execute = _local_agents.get(node_id)
    if execute is None:
        raise TransportError(
            f"no site agent: {AGENT_SOCKET_VARIABLE} is not set, and node {node_id} is not simulated here",
            hint="start the SuperNode with `tacit site serve`",
        )
    return execute


def _deadline_s(order: bytes) -> float:
    """Read how long the agent may take. The agent's gate judges the order; here it only must be a number."""
    try:
        deadline_s = float(json.loads(order)["deadline_s"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError("received an order without a deadline, expected seconds in 'deadline_s'") from error
    if not 0 < deadline_s < float("inf"):
        raise InputError("received an order with an impossible deadline, expected positive seconds")
    return deadline_s + _AROUND_UPLOAD_S


class _RemoteAgent:
    """The agent of this site, at its Unix socket."""

    def __init__(self, socket: str, timeout_s: float) -> None:
        self._socket = socket
        self._timeout_s = timeout_s

    def __call__(self, order: bytes, vector: bytes) -> bytes:
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"unix:{self._socket}", options=unlimited) as channel:
            try:
                reply = AgentStub(channel).Execute(Envelope(json=order, vector=vector), timeout=self._timeout_s)
            except grpc.RpcError as error:
                # the code only: the agent's own words could quote a record, and would reach the coordinator
                code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
                raise TransportError(f"the site agent did not carry out the order: {code}") from None
        return bytes(reply.json)
