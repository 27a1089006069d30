"""Flower's ``Grid`` in one process: messages go to the same ClientApp, one thread a node, no Ray and no network."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

#: Flower's id of the coordinator's side (``flwr.common.constant.SUPERLINK_NODE_ID``)
_SUPERLINK_NODE_ID = 1


class InProcessGrid(Grid):
    """Delivers each message to ``client_app`` under the destination node's context.

    Args:
        client_app: the ClientApp component, the very object a deployed site runs.
        node_ids: the nodes there are.
        run_id: Flower's run id, in every message's metadata.
    """

    def __init__(self, client_app: ClientApp, node_ids: Iterable[int], run_id: int = 1) -> None:
        self._client_app = client_app
        self._run_id = run_id
        # Flower's Message constructor asks the process which task it is; a ServerApp process is told by its SuperLink
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, _SUPERLINK_NODE_ID, run_id
        self._contexts = {
            node_id: Context(run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
            for node_id in node_ids
        }
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self._contexts)), thread_name_prefix="node")
        self._replies: dict[str, Future[Message]] = {}
        self._lock = threading.Lock()
        self._sent = 0

    def set_run(self, run: Any) -> None:
        """Accept Flower's run record; only its id matters here."""
        self._run_id = run.run_id

    @property
    def run(self) -> Any:
        """There is no SuperLink, hence no run record."""
        raise RuntimeError("an in-process grid has no Flower run record")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (Flower's deprecated way; the constructor does the same)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes there are."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start carrying out each message on its node's thread; return the message ids."""
        ids = []
        for message in messages:
            node_id = message.metadata.dst_node_id
            if node_id not in self._contexts:
                raise ValueError(f"message for unknown node {node_id}; there are {sorted(self._contexts)}")
            with self._lock:
                self._sent += 1
                message_id = f"{self._run_id}-{self._sent}"
            # Flower's own grids stamp it the same way
            message.metadata.__dict__["_message_id"] = message_id
            future = self._pool.submit(self._client_app, message, self._contexts[node_id])
            with self._lock:
                self._replies[message_id] = future
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there; a ClientApp's exception is raised here."""
        ready = []
        for message_id in list(message_ids):
            with self._lock:
                future = self._replies.get(message_id)
                if future is None or not future.done():
                    continue
                del self._replies[message_id]
            ready.append(future.result())
        return ready

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, wait, pull."""
        ids = list(self.push_messages(messages))
        with self._lock:
            waiting = {message_id: self._replies[message_id] for message_id in ids}
        for future in waiting.values():
            future.exception(timeout)
        return self.pull_messages(ids)

    def close(self) -> None:
        """Wait for running nodes and end their threads."""
        self._pool.shutdown(wait=True)
