"""Killed at every SQL statement of every move that writes, and at every line of one of them, every fifth of the others.

Whatever the line: the log afterwards is the one before or the one after, whole and signed; what was promised is there;
a step that may have drawn noise is spent, and is spent once.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting import epsilon
from privacy.ledger import Budget, Ledger, StepKey
from privacy.ledger import ledger as ledger_module
from privacy.ledger import store as store_module
from privacy.ledger.entries import EntryKind, Reserve
from tacit.errors import BudgetExceeded, RefusalReason, StepAlreadySpent

pytestmark = pytest.mark.processes

#: the files whose lines decide what is written
_FILES = {ledger_module.__file__, store_module.__file__}
_DELTA = 1e-5


class Moves:
    """Every public move that writes. ``open_step`` is the reservation the template left open."""

    def __init__(self, words: Any, open_step: Any) -> None:
        self._words, self._open = words, open_step

    def reserve(self, ledger: Ledger) -> None:
        self._words.reserve(ledger, 4)

    def commit(self, ledger: Ledger) -> None:
        ledger.commit(self._open, ctx=b"\3" * 32, bytes_sent=103)

    def forfeit(self, ledger: Ledger) -> None:
        ledger.forfeit(self._open, "the step was burnt")

    def recover(self, ledger: Ledger) -> None:
        ledger.recover()

    def egress(self, ledger: Ledger) -> None:
        ledger.record_egress("receipt", 512, key=self._words.key(3))

    def refusal(self, ledger: Ledger) -> None:
        ledger.record_refusal("", RefusalReason.POLICY, "no runs today")

    def withdrawal(self, ledger: Ledger) -> None:
        ledger.withdraw(self._words.AGREEMENT, "the purpose ended")

    def release(self, ledger: Ledger) -> None:
        ledger.record_release(self._words.RUN, "partners", self._words.AGREEMENT)


#: by move, the kind of entry it adds
MOVES = {
    "reserve": EntryKind.RESERVE,
    "commit": EntryKind.COMMIT,
    "forfeit": EntryKind.FORFEIT,
    "recover": EntryKind.FORFEIT,
    "egress": EntryKind.EGRESS,
    "refusal": EntryKind.REFUSAL,
    "withdrawal": EntryKind.WITHDRAWAL,
    "release": EntryKind.RELEASE,
}
#: entries of the template: agreement, two steps reserved and committed, a third reserved
_BEFORE = 6


@pytest.fixture
def template(tmp_path: Path, site: Any, words: Any) -> tuple[Path, Any]:
    path = tmp_path / "template.sqlite"
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 2)
        reservation = words.reserve(ledger, 3)
        assert ledger.tree_head().size == _BEFORE
    return path, reservation


def die_at_line(number: int) -> None:
    """From now on, kill this process as it is about to run its ``number``-th line of the ledger's own files."""
    seen = 0

    def line(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    sys.settrace(lambda frame, _event, _argument: line if frame.f_code.co_filename in _FILES else None)


def die_at_statement(ledger: Ledger, number: int) -> None:
    """From now on, kill this process as it is about to run its ``number``-th SQL statement."""
    seen = 0

    def statement(_text: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger._store._connection.set_trace_callback(statement)


def in_child(act: Callable[[], None]) -> bool:
    """Run ``act`` in a forked process; return whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, "the move itself failed"
    return status == 0


@pytest.mark.parametrize("where", ["line", "statement"])
@pytest.mark.parametrize("move", MOVES)
def test_killed_at_every_one(tmp_path: Path, template: tuple[Path, Any], site: Any, words: Any, move: str, where: str):
    original, open_step = template
    path, promised = tmp_path / "ledger.sqlite", tmp_path / "promised"
    outcomes = set()
    # Every move runs through the same lines of the store: one goes line by line, the others take steps through them.
    stride = 1 if where == "statement" or move == "reserve" else 5
    for number in range(1, 1000, stride):
        shutil.copy(original, path)
        for left in ("-wal", "-shm"):
            path.with_name(path.name + left).unlink(missing_ok=True)

        def act(number: int = number) -> None:
            ledger = Ledger.open(path, site)
            if where == "line":
                die_at_line(number)
            else:
                die_at_statement(ledger, number)
            getattr(Moves(words, open_step), move)(ledger)
            sys.settrace(None)
            promised.touch()

        whole = in_child(act)
        assert whole == promised.exists()
        with Ledger.open(path, site) as ledger:
            outcomes.add(check(ledger, site, words, move, promised=whole))
        if whole:
            break
    else:
        pytest.fail("the move never finished")
    assert number > 5
    # Somewhere it was killed with nothing written; what is there at the end is what was promised.
    assert {0, 1} == outcomes


def check(ledger: Ledger, site: Any, words: Any, move: str, *, promised: bool) -> int:
    """Whole, signed, nothing lost, nothing spent twice, nothing under-counted; return how many entries were added."""
    ledger.verify(site)
    added = ledger.tree_head().size - _BEFORE
    assert added in ((1,) if promised else (0, 1))
    if added:
        assert ledger.entries()[-1].body.kind == MOVES[move]
    reserved = [entry.body.step for entry in ledger.entries() if isinstance(entry.body, Reserve)]
    assert reserved == ([1, 2, 3, 4] if move == "reserve" and added else [1, 2, 3])
    cost = epsilon([words.event(steps=10 * len(reserved))], _DELTA)
    assert ledger.spent(words.DATASET, _DELTA) == cost
    still_open = {3, 4} & set(reserved) if move not in ("commit", "forfeit", "recover") or not added else set()
    assert {key.step for key in ledger.recover()} == still_open
    assert ledger.recover() == []
    assert ledger.spent(words.DATASET, _DELTA) == cost
    if move == "withdrawal" and added:
        return added
    for step in reserved:
        with pytest.raises(StepAlreadySpent):
            words.reserve(ledger, step)
    # The budget of one step more than was counted is not there: no crash made room.
    tight = Budget(epsilon_per_run=50.0, epsilon_lifetime=cost, delta=_DELTA)
    with pytest.raises(BudgetExceeded):
        words.reserve(ledger, 9, key=StepKey("f" * 16, 9, 9), budget=tight)
    return added
