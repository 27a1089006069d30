"""Somebody edits the file: whatever they do, verifying says so, and names the entry where one can be named."""

from __future__ import annotations

import sqlite3

import pytest

from privacy.ledger import Ledger, merkle
from privacy.ledger.head import sign_head
from tacit.errors import LedgerCorrupt, LedgerError

STEPS = 3
ENTRIES = 1 + 2 * STEPS


@pytest.fixture
def log(path, site, words):
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, STEPS)
    return path


def edit(path, *statements):
    """Edit as an attacker would: without the append-only triggers."""
    connection = sqlite3.connect(path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement, arguments in statements:
        connection.execute(statement, arguments)
    connection.close()


def contents(path):
    connection = sqlite3.connect(path)
    rows = [row[0] for row in connection.execute("SELECT content FROM entry ORDER BY position")]
    connection.close()
    return rows


def assert_corrupt(path, site, match):
    for attempt in (lambda: Ledger.open(path, site), lambda: Ledger.open_readonly(path)):
        with pytest.raises(LedgerCorrupt, match=match):
            attempt()


def rebuild(path, entries):
    """Write ``entries`` with a tree that fits them, leaving the head as it was signed."""
    nodes: dict = {}
    for index, content in enumerate(entries):
        for level, at, value in merkle.completed_nodes(index, merkle.leaf_hash(content), lambda lv, i: nodes[lv, i]):
            nodes[level, at] = value
    edit(
        path,
        ("PRAGMA foreign_keys=OFF", ()),
        ("DELETE FROM entry", ()),
        ("DELETE FROM node", ()),
        *(("INSERT INTO entry VALUES (?, ?)", (index, content)) for index, content in enumerate(entries)),
        *(("INSERT INTO node VALUES (?, ?, ?)", (level, at, value)) for (level, at), value in nodes.items()),
    )
    return nodes


def test_an_untouched_log_verifies(log, site):
    with Ledger.open(log, site) as ledger:
        assert ledger.verify(site).size == ENTRIES
    with Ledger.open_readonly(log) as ledger:
        assert ledger.verify(site).size == ENTRIES


@pytest.mark.parametrize("index", range(ENTRIES))
def test_any_changed_byte_of_any_entry(log, site, index):
    original = contents(log)[index]
    for at in range(0, len(original), 17):
        changed = original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :]
        edit(log, ("UPDATE entry SET content = ? WHERE position = ?", (changed, index)))
        with pytest.raises(LedgerCorrupt, match=f"entry {index} was changed"):
            Ledger.open_readonly(log)
    edit(log, ("UPDATE entry SET content = ? WHERE position = ?", (original, index)))
    Ledger.open_readonly(log).close()


def test_an_entry_retyped_as_text(log, site):
    edit(log, ("UPDATE entry SET content = CAST(content AS TEXT) WHERE position = 2", ()))
    assert_corrupt(log, site, "entry 2")


@pytest.mark.parametrize("index", range(ENTRIES))
def test_a_deleted_entry(log, site, index):
    edit(log, ("DELETE FROM entry WHERE position = ?", (index,)))
    assert_corrupt(log, site, f"entry {index} is missing")


def test_a_deleted_entry_with_the_rest_moved_up(log, site):
    edit(
        log,
        ("DELETE FROM entry WHERE position = 2", ()),
        *(("UPDATE entry SET position = ? WHERE position = ?", (at - 1, at)) for at in range(3, ENTRIES)),
    )
    assert_corrupt(log, site, "entry 2 was changed or moved")


def test_reordered_entries(log, site):
    one, two = contents(log)[1:3]
    edit(
        log,
        ("UPDATE entry SET content = ? WHERE position = 1", (two,)),
        ("UPDATE entry SET content = ? WHERE position = 2", (one,)),
    )
    assert_corrupt(log, site, "entry 1 was changed or moved")


def test_an_added_entry(log, site):
    edit(log, ("INSERT INTO entry VALUES (?, ?)", (ENTRIES, contents(log)[-1])))
    assert_corrupt(log, site, f"entry {ENTRIES}")


def test_entries_moved_with_their_tree(log, site):
    rows = contents(log)
    rebuild(log, [rows[0], rows[2], rows[1], *rows[3:]])
    assert_corrupt(log, site, "entry 1 says that it is entry 2")


def test_an_entry_changed_with_its_tree(log, site):
    """The signed head is what this attacker cannot make."""
    rows = contents(log)
    rows[2] = rows[2].replace(b'"bytes_sent":101', b'"bytes_sent":100')
    rebuild(log, rows)
    assert_corrupt(log, site, "do not add up to the tree head's root")


def test_an_entry_changed_with_its_tree_and_the_head_signed_by_another(log, site, other_site):
    rows = contents(log)
    rows[2] = rows[2].replace(b'"bytes_sent":101', b'"bytes_sent":100')
    nodes = rebuild(log, rows)
    root = merkle.root(ENTRIES, lambda level, at: nodes[level, at])
    forged = sign_head(other_site, ENTRIES, root, "2026-01-01T00:00:00Z")
    edit(
        log,
        ("UPDATE head SET root = ?, timestamp = ?, signature = ?", (forged.root, forged.timestamp, forged.signature)),
    )
    with pytest.raises(LedgerError, match="not signed by this site"):
        Ledger.open(log, site)
    with Ledger.open_readonly(log) as ledger, pytest.raises(LedgerCorrupt, match="signature"):
        ledger.verify(site)


def test_a_cut_log(log, site):
    edit(log, ("DELETE FROM entry WHERE position >= 5", ()), ("DELETE FROM node WHERE level = 0 AND position >= 5", ()))
    assert_corrupt(log, site, "entry 5 is missing")


def test_a_cut_log_with_its_tree(log, site):
    rebuild(log, contents(log)[:5])
    edit(log, ("DELETE FROM spent_step WHERE position >= 5", ()))
    assert_corrupt(log, site, "entry 5 is missing: the tree head covers 7 entries")


def test_a_log_longer_than_its_head(log, site):
    edit(log, ("UPDATE head SET size = 5", ()))
    assert_corrupt(log, site, "entry 5 is not covered")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE node SET hash = zeroblob(32) WHERE level = 1 AND position = 1",
        "DELETE FROM node WHERE level = 2",
        "INSERT INTO node VALUES (9, 9, zeroblob(32))",
        "UPDATE node SET hash = zeroblob(32) WHERE level = 0 AND position = 4",
        "UPDATE head SET root = '00'",
        "UPDATE head SET size = -1",
        "UPDATE head SET size = 'seven'",
        "DELETE FROM head",
        "DELETE FROM spent_step WHERE step = 2",
        "UPDATE spent_step SET step = 9 WHERE step = 2",
        "INSERT INTO spent_step VALUES ('ffff', 1, 1, 0)",
        "DROP TABLE node",
    ],
)
def test_edited_nodes_heads_and_step_guards(log, site, statement):
    edit(log, (statement, ()))
    with pytest.raises(LedgerError):
        Ledger.open(log, site)
    with pytest.raises(LedgerError):
        Ledger.open_readonly(log)


def test_a_well_formed_lie(log, site, words):
    """An entry that contradicts the ones before it does not pass even when hash, tree and signature are right."""
    rows = contents(log)
    twice = rows[2].replace(b'"index":2', b'"index":7')  # the same reservation committed a second time
    nodes = rebuild(log, [*rows, twice])
    forged = sign_head(site, 8, merkle.root(8, lambda level, at: nodes[level, at]), "2026-01-01T00:00:00Z")
    edit(
        log,
        (
            "UPDATE head SET size = 8, root = ?, timestamp = ?, signature = ?",
            (forged.root, forged.timestamp, forged.signature),
        ),
    )
    assert_corrupt(log, site, "entry 7 contradicts")


@pytest.mark.parametrize(
    "change",
    [
        (b'{"body"', b'{ "body"'),  # not canonical
        (b'"tacit_entry":1', b'"tacit_entry":2'),  # another version
        (b'"kind":"commit"', b'"kind":"unheard"'),
        (b'"bytes_sent":101', b'"bytes_sent":101,"surplus":1'),
        (b'"bytes_sent":101', b'"bytes_sent":101,"bytes_sent":101'),
        (b'"bytes_sent":101', b'"bytes_sent":"101"'),
        (b'"bytes_sent":101', b'"bytes_sent":\xff'),
    ],
)
def test_entries_that_are_not_well_formed(log, site, change):
    rows = contents(log)
    assert change[0] in rows[2]
    rows[2] = rows[2].replace(*change)
    rebuild(log, rows)
    assert_corrupt(log, site, "entry 2 (cannot be read|is not in canonical form)")


def test_changes_behind_a_running_agents_back(path, site, words):
    """verify() reads the disk, not what the process remembers; and nothing is appended to a changed log."""
    with Ledger.open(path, site) as ledger:
        words.fill(ledger, STEPS)
        rows = contents(path)
        edit(path, ("UPDATE entry SET content = ? WHERE position = 3", (rows[3] + b" ",)))
        with pytest.raises(LedgerCorrupt, match="entry 3"):
            ledger.verify(site)
        edit(path, ("UPDATE head SET size = 3", ()))
        with pytest.raises(LedgerError, match="changed by another program"):
            words.reserve(ledger, 9)


def test_the_append_only_triggers_stop_a_slip_of_the_hand(log):
    connection = sqlite3.connect(log)
    for statement in (
        "DELETE FROM entry",
        "UPDATE entry SET content = x'00'",
        "DELETE FROM node",
        "UPDATE node SET level = 0",
        "DELETE FROM spent_step",
        "UPDATE spent_step SET step = 0",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_damaged_pages(log, site):
    size = log.stat().st_size
    with log.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * (size - 4096))
    assert_corrupt(log, site, "ledger|SQLite")


def test_a_file_that_is_no_database(path, site):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    assert_corrupt(path, site, "cannot read")


def test_a_database_that_is_no_ledger(path, site):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE something (else_ INTEGER)")
    connection.close()
    before = path.read_bytes()
    for attempt in (lambda: Ledger.open(path, site), lambda: Ledger.open_readonly(path)):
        with pytest.raises(LedgerError, match="not a Tacit ledger"):
            attempt()
    assert path.read_bytes() == before
