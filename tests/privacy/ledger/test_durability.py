"""Killed anywhere, on a full disk, opened twice, with a new key: nothing lost, nothing spent twice."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from privacy.accounting import epsilon
from privacy.ledger import Budget, Ledger, StepKey
from privacy.ledger import store as store_module
from privacy.ledger.entries import Commit, Forfeit, KeyRotation, Reserve
from tacit.errors import InputError, LedgerCorrupt, LedgerError, StepAlreadySpent, StorageFull

ROOT = Path(__file__).resolve().parents[3]

# Reserves and commits for ever, and says on a line what it has been promised.
SPENDER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    sys.path[:0] = [sys.argv[2], sys.argv[2] + "/tests/privacy/ledger"]
    from conftest import Site, Words
    from privacy.ledger import Ledger

    with Ledger.open(Path(sys.argv[1]), Site("alpha")) as ledger:
        ledger.accept_agreement(Words.AGREEMENT, {})
        step = 0
        while True:
            step += 1
            reservation = Words.reserve(ledger, step)
            print("reserved", step, flush=True)
            ledger.commit(reservation, ctx=b"", bytes_sent=0)
            print("committed", step, flush=True)
    """
)


def steps_of(ledger, kind):
    """Steps reserved, or those whose reservation ended in ``kind``."""
    bodies = [entry.body for entry in ledger.entries()]
    if kind is Reserve:
        return [body.step for body in bodies if isinstance(body, Reserve)]
    return [bodies[body.reservation].step for body in bodies if isinstance(body, kind)]


@pytest.mark.processes
@pytest.mark.parametrize("after", ["reserved 1", "committed 2", "reserved 5"])
def test_a_real_process_killed_with_sigkill(path, site, words, after):
    process = subprocess.Popen([sys.executable, "-c", SPENDER, path, ROOT], stdout=subprocess.PIPE, text=True)
    promised = []
    for line in process.stdout:
        promised.append(line.split())
        if line.strip() == after:
            process.kill()
            break
    promised += [line.split() for line in process.stdout if line.endswith("\n")]
    assert process.wait() == -signal.SIGKILL

    with Ledger.open(path, site) as ledger:
        ledger.verify(site)
        reserved, committed = steps_of(ledger, Reserve), steps_of(ledger, Commit)
        assert reserved == list(range(1, len(reserved) + 1))
        assert {int(step) for word, step in promised if word == "reserved"} <= set(reserved)
        assert {int(step) for word, step in promised if word == "committed"} <= set(committed)
        open_steps = [step for step in reserved if step not in committed]
        assert len(open_steps) <= 1
        assert ledger.recover() == [words.key(step) for step in open_steps]
        assert steps_of(ledger, Forfeit) == open_steps
        assert ledger.recover() == []
        # What the crash interrupted is spent, and is never spent a second time.
        assert ledger.spent(words.DATASET, 1e-5) == epsilon([words.event(steps=10 * len(reserved))], 1e-5)
        with pytest.raises(StepAlreadySpent):
            words.reserve(ledger, reserved[-1])
        words.reserve(ledger, reserved[-1] + 1)


def in_child(move) -> int:
    """Run ``move`` in a forked process; return its wait status."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            move()
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1]


def kill_at_statement(ledger, number):
    """From now on, kill this process as it is about to run its ``number``-th SQL statement."""
    seen = 0

    def trace(_statement):
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger._store._connection.set_trace_callback(trace)


@pytest.mark.processes
@pytest.mark.parametrize("move", ["create", "reserve", "commit", "forfeit"])
def test_killed_at_every_statement_that_writes(tmp_path, site, words, move):
    """Whatever the statement, the log afterwards is the one before or the one after, whole and signed."""
    for number in range(1, 200):
        path = tmp_path / f"{number}.sqlite"
        if move != "create":
            with Ledger.open(path, site) as ledger:
                words.fill(ledger, 2)
                if move != "reserve":
                    words.reserve(ledger, 3)

        def act(path=path, number=number):
            if move == "create":
                connect = sqlite3.connect

                def traced(*arguments, **options):
                    connection = connect(*arguments, **options)
                    countdown = iter(range(number - 1))
                    connection.set_trace_callback(
                        lambda _: next(countdown, None) is None and os.kill(os.getpid(), signal.SIGKILL)
                    )
                    return connection

                sqlite3.connect = traced
            ledger = Ledger.open(path, site)
            kill_at_statement(ledger, number)
            if move == "reserve":
                words.reserve(ledger, 3)
            elif move == "commit":
                index = max(ledger.state.open_reservations)
                ledger._append(Commit(reservation=index, ctx="", bytes_sent=0))
            elif move == "forfeit":
                ledger.recover()

        status = in_child(act)
        assert os.WIFSIGNALED(status) or status == 0
        with Ledger.open(path, site) as ledger:
            ledger.verify(site)
            size = ledger.tree_head().size
            if move == "create":
                assert size == 0
            elif move == "reserve":
                assert size in (5, 6)
                # Reserved or not, the ledger knows; a step it knows is not given again.
                if size == 6:
                    assert ledger.recover() == [words.key(3)]
                    with pytest.raises(StepAlreadySpent):
                        words.reserve(ledger, 3)
                else:
                    words.reserve(ledger, 3)
            else:
                assert size in (6, 7)
                assert ledger.recover() == ([words.key(3)] if size == 6 else [])
                assert ledger.spent(words.DATASET, 1e-5) == epsilon([words.event(steps=30)], 1e-5)
        if status == 0:
            assert number > 5  # it did write, and every statement before was tried
            break
    else:
        pytest.fail("the move never finished")


def cap_pages(ledger, spare):
    """Leave room for ``spare`` more pages in the file, as a disk that is nearly full would."""
    connection = ledger._store._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + spare}")


@pytest.mark.parametrize("spare", range(4))
def test_a_full_disk_records_nothing_and_spends_nothing(ledger, site, words, spare):
    """SQLite's own "database or disk is full", at whichever page of the transaction it comes."""
    words.fill(ledger, 2)
    cap_pages(ledger, spare)
    before_each = []

    def write_until_refused():
        for step in range(3, 500):
            before_each.append((ledger.tree_head(), ledger.spent(words.DATASET, 1e-5), len(ledger.entries())))
            if step % 2:
                words.reserve(ledger, step, event=words.event(noise_multiplier=30.0))
            else:
                ledger.accept_agreement("sha256:" + "e" * 64, {"filler": "x" * 3000, "step": step})

    with pytest.raises(StorageFull, match="disk is full") as caught:
        write_until_refused()
    last = before_each[-1]
    assert caught.value.hint
    assert (ledger.tree_head(), ledger.spent(words.DATASET, 1e-5), len(ledger.entries())) == last
    assert ledger.verify(site) == last[0]
    cap_pages(ledger, 1000)
    words.reserve(ledger, 600)  # room again: on it goes, and the refused step was not spent
    ledger.verify(site)


@pytest.mark.processes
def test_a_file_size_limit_is_a_full_disk(path, site, words):
    """The kernel refuses the write (RLIMIT_FSIZE), in a process of its own."""
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 2)
    report = path.parent / "report"

    def act():
        with Ledger.open(path, site) as ledger:
            limit = path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            done = 0
            try:
                for step in range(3, 500):
                    words.reserve(ledger, step, event=words.event(noise_multiplier=30.0))
                    done = step
            except StorageFull:
                report.write_text(str(done))

    assert in_child(act) == 0
    done = int(report.read_text())
    with Ledger.open(path, site) as ledger:
        ledger.verify(site)
        assert steps_of(ledger, Reserve) == list(range(1, max(done, 2) + 1))


def test_a_disk_too_full_to_begin(path, site):
    path.parent.mkdir()

    def act():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with contextlib.suppress(StorageFull):
            Ledger.open(path, site)
            os._exit(7)

    assert in_child(act) == 0
    with Ledger.open(path, site) as ledger:  # what it left behind does not stand in the way
        assert ledger.tree_head().size == 0


def test_one_writer(path, site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 1)
        with pytest.raises(LedgerError, match=f"in use by process {os.getpid()}; a ledger has one writer"):
            Ledger.open(path, site)
        assert in_child(lambda: Ledger.open(path, site)) == 1 << 8
        with Ledger.open_readonly(path) as reader:
            assert reader.tree_head() == ledger.tree_head()
        words.reserve(ledger, 2)
    Ledger.open(path, site).close()


def test_a_failed_opening_lets_the_lock_go(path, site, other_site):
    Ledger.open(path, site).close()
    with pytest.raises(LedgerError, match="not signed by this site"):
        Ledger.open(path, other_site)
    Ledger.open(path, site).close()


def test_reading_while_the_agent_writes(path, site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 1)
        with Ledger.open_readonly(path) as reader:
            words.reserve(ledger, 2)
            assert reader.tree_head().size == 3  # the snapshot it opened
            assert reader.verify(site).size == 4  # reads again
            for write in (
                lambda: words.reserve(reader, 3),
                lambda: reader.record_egress("receipt", 1),
                lambda: reader.recover() or reader.accept_agreement(words.AGREEMENT, {"new": 1}),
            ):
                with pytest.raises(LedgerError, match="reading only"):
                    write()


def test_reading_a_copy_on_a_read_only_medium(path, site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 1)
    assert not path.with_name(path.name + "-wal").exists()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        with Ledger.open_readonly(path) as reader:
            assert reader.verify(site).size == 3
    finally:
        path.parent.chmod(0o700)


def test_where_sqlite_cannot_place_its_shared_memory(path, site, words, monkeypatch):
    """What a read-only medium does to a reader, for test runs by root, whom no permission stops."""
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 1)
    connect = store_module._connect

    class Refused:
        def execute(self, _statement):
            raise sqlite3.OperationalError("attempt to write a readonly database")

        def close(self):
            pass

    monkeypatch.setattr(store_module, "_connect", lambda uri: Refused() if "mode=ro" in uri else connect(uri))
    with Ledger.open_readonly(path) as reader:
        assert reader.verify(site).size == 3
    # With a write-ahead log beside it, part of the ledger is in there: nothing is read past it.
    path.with_name(path.name + "-wal").touch()
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger.open_readonly(path)


def test_a_reader_does_not_create(path, site):
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.open_readonly(path)
    assert not path.parent.exists()


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_site_that_spent_before_does_not_start_afresh(path, site, left):
    if left == "an empty file":
        path.parent.mkdir()
        path.touch()
    with pytest.raises(LedgerError, match=r"no ledger at|is empty") as caught:
        Ledger.open(path, site, create=False)
    assert "restore" in caught.value.hint
    Ledger.open(path, site).close()
    Ledger.open(path, site, create=False).close()


def test_the_files_are_private(path, site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 1)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_a_folder_that_cannot_be_written(tmp_path, site):
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(tmp_path / "file" / "ledger.sqlite", site)


def test_every_commit_is_synced(path, site):
    with Ledger.open(path, site) as ledger:
        connection = ledger._store._connection
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 3  # EXTRA
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_reopening_changes_nothing(path, site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 2)
        words.reserve(ledger, 3)
        before = ledger.tree_head(), ledger.entries(), ledger.spent(words.DATASET, 1e-5)
    with Ledger.open(path, site) as ledger:
        assert (ledger.tree_head(), ledger.entries(), ledger.spent(words.DATASET, 1e-5)) == before
        assert ledger.recover() == [words.key(3)]


def test_the_lifetime_is_remembered_across_openings(path, site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 2)
        spent = ledger.spent(words.DATASET, 1e-5)
    with Ledger.open(path, site) as ledger:
        assert ledger.spent(words.DATASET, 1e-5) == spent
        tight = Budget(epsilon_per_run=50.0, epsilon_lifetime=spent, delta=1e-5)
        with pytest.raises(LedgerError, match="lifetime"):
            words.reserve(ledger, 1, key=StepKey("f" * 16, 1, 1), budget=tight)


def test_a_rotated_key_is_recorded_with_both_signatures(path, site, other_site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, 1)
        before = ledger.tree_head()
    with pytest.raises(LedgerCorrupt):
        Ledger.open(path, other_site, previous=other_site)
    with Ledger.open(path, other_site, previous=site) as ledger:
        rotation = ledger.entries()[-1].body
        assert isinstance(rotation, KeyRotation)
        assert (rotation.size, rotation.root) == (before.size, before.root)
        assert rotation.previous_signature == before.signature
        before.model_copy(update={"signature": rotation.new_signature}).verify(other_site)
        ledger.verify(other_site)
        with pytest.raises(LedgerCorrupt):
            ledger.verify(site)
    Ledger.open(path, other_site).close()


def test_a_closed_ledger_says_so(path, site, words):
    ledger = Ledger.open(path, site)
    ledger.close()
    ledger.close()
    with pytest.raises((LedgerError, InputError)):
        ledger.accept_agreement(words.AGREEMENT, {})
