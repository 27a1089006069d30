"""The step journal remembers what was sent, through crashes at any byte, and refuses to forget."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from client.step_journal import FileStepJournal
from privacy.secagg.journal import Sent, StepRecord, check_new_step, last_steps
from tacit.errors import LedgerCorrupt, LedgerError, RepeatedStep, StorageFull

RUN, OTHER = "00112233445566ff", "ffeeddccbbaa9988"


def record(step: int, run_id: str = RUN, sent: Sent = Sent.UPLOADED) -> StepRecord:
    return StepRecord(run_id, 1, step, sent, "ab" * 32)


def test_it_remembers_the_last_step_of_each_run(tmp_path: Path) -> None:
    path = tmp_path / "state" / "steps.jsonl"
    journal = FileStepJournal(path)
    assert journal.last_step(RUN) == 0
    journal.keep(record(3))
    journal.keep(record(3, sent=Sent.LOCKED))
    journal.keep(record(9, OTHER))
    assert (journal.last_step(RUN), journal.last_step(OTHER)) == (3, 9)
    journal.close()
    again = FileStepJournal(path)
    assert (again.last_step(RUN), again.last_step(OTHER)) == (3, 9)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_synced_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, order = FileStepJournal(tmp_path / "steps.jsonl"), []
    write, sync = os.write, os.fdatasync

    def noted_write(handle: int, data: bytes) -> int:
        order.append("write")
        return write(handle, data)

    def noted_sync(handle: int) -> None:
        order.append("sync")
        sync(handle)

    monkeypatch.setattr(os, "write", noted_write)
    monkeypatch.setattr(os, "fdatasync", noted_sync)
    journal.keep(record(1))
    assert order == ["write", "sync"]


def test_a_line_that_a_crash_cut_short_is_dropped_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    journal = FileStepJournal(path)
    journal.keep(record(1))
    first = path.stat().st_size
    journal.keep(record(2))
    whole = path.read_bytes()
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        reopened = FileStepJournal(path)
        assert reopened.last_step(RUN) == 1
        reopened.keep(record(5))
        reopened.close()
        assert FileStepJournal(path).last_step(RUN) == 5


@pytest.mark.parametrize("damage", [b"nonsense\n", b'{"run_id":"x"}\n', b"\n"])
def test_any_other_damage_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "steps.jsonl"
    FileStepJournal(path).keep(record(1))
    path.write_bytes(damage + path.read_bytes())
    with pytest.raises(LedgerCorrupt, match="line 1"):
        FileStepJournal(path)


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, StorageFull), (errno.EIO, LedgerError)])
def test_a_disk_that_refuses_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[LedgerError]
) -> None:
    path = tmp_path / "steps.jsonl"
    journal = FileStepJournal(path)
    journal.keep(record(1))
    before = path.read_bytes()

    def refuse(handle: int) -> None:
        raise OSError(number, "no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        with pytest.raises(error):
            journal.keep(record(2))
    assert path.read_bytes() == before
    assert journal.last_step(RUN) == 1
    journal.keep(record(3))
    assert FileStepJournal(path).last_step(RUN) == 3


def test_a_long_journal_is_cut_down_to_the_last_step_of_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "steps.jsonl"
    journal = FileStepJournal(path)
    for step in range(1, 30):
        journal.keep(record(step))
    journal.keep(record(7, OTHER))
    journal.close()
    monkeypatch.setattr("client.step_journal._COMPACT_BYTES", 100)
    reopened = FileStepJournal(path)
    assert path.read_bytes().count(b"\n") == 2
    assert (reopened.last_step(RUN), reopened.last_step(OTHER)) == (29, 7)
    reopened.keep(record(30))
    assert FileStepJournal(path).last_step(RUN) == 30


def test_no_step_is_taken_twice_nor_an_older_one() -> None:
    last = last_steps([record(4), record(2), record(9, OTHER)])
    assert last == {RUN: 4, OTHER: 9}
    check_new_step("alpha", RUN, 5, last[RUN])
    for step in (4, 3):
        with pytest.raises(RepeatedStep, match=f"step {step}"):
            check_new_step("alpha", RUN, step, last[RUN])
