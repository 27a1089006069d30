"""Deadlines pass once, in order, unless they are set again or cancelled."""

from __future__ import annotations

import queue
from collections.abc import Hashable

import pytest

from server.deadlines import Deadlines

_PATIENCE_S = 10.0


def test_they_pass_in_the_order_of_their_times_whatever_the_order_they_were_set_in() -> None:
    passed: queue.SimpleQueue[Hashable] = queue.SimpleQueue()
    deadlines = Deadlines(passed.put)
    deadlines.set("late", 0.06)
    deadlines.set("early", 0.02)
    deadlines.set("never", 30.0)
    assert [passed.get(timeout=_PATIENCE_S) for _ in range(2)] == ["early", "late"]
    deadlines.close()


def test_one_that_is_cancelled_or_set_again_does_not_pass_when_it_would_have() -> None:
    passed: queue.SimpleQueue[Hashable] = queue.SimpleQueue()
    deadlines = Deadlines(passed.put)
    deadlines.set("cancelled", 0.02)
    deadlines.set("later", 0.02)
    deadlines.cancel("cancelled")
    deadlines.cancel("unknown")
    deadlines.set("later", 0.08)
    deadlines.set("mark", 0.05)
    assert [passed.get(timeout=_PATIENCE_S) for _ in range(2)] == ["mark", "later"]
    assert passed.empty()
    deadlines.close()


def test_after_closing_nothing_passes_and_the_thread_ends() -> None:
    passed: queue.SimpleQueue[Hashable] = queue.SimpleQueue()
    deadlines = Deadlines(passed.put)
    deadlines.set("pending", 0.05)
    deadlines.close()
    deadlines._thread.join(_PATIENCE_S)
    assert not deadlines._thread.is_alive()
    with pytest.raises(queue.Empty):
        passed.get(timeout=0.1)
