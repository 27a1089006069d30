"""Every frame once and in order, whatever breaks in between."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.delivery import ACK_EVERY, Inbox, Outbox
from tacit.errors import ProtocolViolation


def test_what_is_not_acknowledged_is_kept_in_order() -> None:
    outbox: Outbox[str] = Outbox()
    assert [outbox.add(item, len(item)).number for item in ("a", "bb", "ccc")] == [1, 2, 3]
    assert outbox.size_bytes == 6
    outbox.acknowledged(1)
    outbox.acknowledged(0)
    assert [(kept.number, kept.item) for kept in outbox.unacknowledged()] == [(2, "bb"), (3, "ccc")]
    assert outbox.size_bytes == 5
    outbox.acknowledged(3)
    assert outbox.unacknowledged() == []
    assert outbox.size_bytes == 0
    assert outbox.add("d").number == 4


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.add("a")
    with pytest.raises(ProtocolViolation, match="only 1 were sent"):
        outbox.acknowledged(2)


def test_repeats_are_passed_over_and_a_gap_is_refused() -> None:
    inbox = Inbox()
    assert inbox.accept(1)
    assert not inbox.accept(1)
    assert inbox.accept(2)
    with pytest.raises(ProtocolViolation, match="one is missing"):
        inbox.accept(4)
    assert inbox.last == 2


def test_an_acknowledgement_is_owed_now_and_then() -> None:
    inbox, owed = Inbox(), 0
    for number in range(1, 5 * ACK_EVERY + 1):
        inbox.accept(number)
        owed += inbox.owes_acknowledgement()
    assert owed == 5


@settings(max_examples=60, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_all_arrives_once_and_in_order_over_connections_that_break(seed: int, count: int) -> None:
    """A connection delivers some of what is in it, and loses the rest when it breaks; acknowledgements may be late."""
    rng = random.Random(seed)
    outbox: Outbox[int] = Outbox()
    inbox = Inbox()
    arrived: list[int] = []
    connection = []
    for item in range(count):
        connection.append(outbox.add(item))
        if rng.random() < 0.4:
            kept = rng.randint(0, len(connection))
            for numbered in connection[:kept]:
                if inbox.accept(numbered.number):
                    arrived.append(numbered.item)
            connection = connection[kept:]
        if rng.random() < 0.3:
            outbox.acknowledged(rng.randint(max(0, inbox.last - 3), inbox.last))
        if rng.random() < 0.3:
            connection = outbox.unacknowledged()
    for numbered in outbox.unacknowledged():
        if inbox.accept(numbered.number):
            arrived.append(numbered.item)
    assert arrived == list(range(count))
