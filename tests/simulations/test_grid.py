"""Flower's Grid in one process."""

from __future__ import annotations

import threading

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from simulations.grid import InProcessGrid


def echo_app(barrier: threading.Barrier | None = None) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if barrier is not None:
            barrier.wait(10.0)
        content = {"echo": ConfigRecord({"node": context.node_id})}
        return Message(RecordDict(content), reply_to=message)

    return app


def message_to(node_id: int) -> Message:
    return Message(RecordDict(), dst_node_id=node_id, message_type="train", group_id="1")


def test_each_node_answers_under_its_own_context() -> None:
    grid = InProcessGrid(echo_app(), [7, 8])
    replies = list(grid.send_and_receive([message_to(7), message_to(8)], timeout=10.0))
    assert sorted(reply.content["echo"]["node"] for reply in replies) == [7, 8]
    assert list(grid.get_node_ids()) == [7, 8]
    grid.close()


def test_nodes_work_at_the_same_time() -> None:
    grid = InProcessGrid(echo_app(threading.Barrier(3)), [1001, 1002, 1003])
    replies = list(grid.send_and_receive([message_to(node) for node in (1001, 1002, 1003)], timeout=10.0))
    assert len(replies) == 3
    grid.close()


def test_replies_are_pulled_once_and_name_their_message() -> None:
    grid = InProcessGrid(echo_app(), [7])
    (message_id,) = grid.push_messages([message_to(7)])
    grid.close()
    (reply,) = grid.pull_messages([message_id])
    assert reply.metadata.reply_to_message_id == message_id
    assert list(grid.pull_messages([message_id])) == []


def test_an_unknown_node_is_an_error() -> None:
    grid = InProcessGrid(echo_app(), [7])
    with pytest.raises(ValueError, match="unknown node 9"):
        grid.push_messages([message_to(9)])
    grid.close()
