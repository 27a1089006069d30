"""The log on disk: SQLite as an append-only table of entries, tree nodes and the newest tree head.

One writer, guarded by a lock file; every append is one transaction in the write-ahead log, synced before it returns.
Whatever SQLite says is translated to :mod:`tacit.errors` here and nowhere else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from privacy.ledger.head import TreeHead
from privacy.ledger.state import StepKey
from tacit.durable import sync_directory
from tacit.errors import LedgerCorrupt, LedgerError, StepAlreadySpent, StorageFull, TacitError

_APPLICATION_ID = 0x54414331  # "TAC1"
_USER_VERSION = 1
_BUSY_TIMEOUT_S = 5.0

_SCHEMA = (
    "CREATE TABLE entry (position INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    """CREATE TABLE node (
        level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (level, position)
    ) WITHOUT ROWID""",
    """CREATE TABLE spent_step (
        run_id TEXT NOT NULL, round INTEGER NOT NULL, step INTEGER NOT NULL,
        position INTEGER NOT NULL UNIQUE REFERENCES entry (position),
        PRIMARY KEY (run_id, round, step)
    ) WITHOUT ROWID""",
    """CREATE TABLE head (
        one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, root TEXT NOT NULL,
        timestamp TEXT NOT NULL, signature TEXT NOT NULL
    )""",
)
# Nobody who means well edits the log; these stop a slip of the hand. Hashes and signatures stop the others.
_APPEND_ONLY = tuple(
    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    for table in ("entry", "node", "spent_step")
    for verb in ("UPDATE", "DELETE")
)

_LOST_HINT = "a site that has spent before must not start afresh; restore the newest copy of its ledger"
_FULL_HINT = "free some space and order the step again; nothing was recorded"
_REFUSED_WRITES = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


class LedgerStore:
    """Rows in, rows out; what they mean is decided elsewhere. Opened by the class methods only."""

    def __init__(self, connection: sqlite3.Connection, name: str, lock: int | None, writable: bool) -> None:
        self._connection = connection
        self._lock = lock
        self.name = name
        self.writable = writable

    @classmethod
    def create_or_open(cls, path: Path, *, create: bool) -> LedgerStore:
        """Open for writing, taking the writer's lock.

        Raises:
            LedgerError: locked by another process, missing, or not a ledger of this version.
            LedgerCorrupt: SQLite cannot read the file.
            StorageFull: no room to create it.
        """
        if not create and not path.exists():
            raise LedgerError(
                f"there is no ledger at {path}",
                hint=_LOST_HINT,
            )
        with _translated(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path)
            try:
                # Created by hand because SQLite would give it the umask's mode.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                sync_directory(path.parent)
                connection = _connect(path.resolve().as_uri() + "?mode=rw")
                try:
                    if not create and _is_blank(connection):
                        raise LedgerError(f"{path} is empty", hint=_LOST_HINT)
                    return cls._prepared(connection, str(path), lock)
                except BaseException:
                    connection.close()
                    raise
            except BaseException:
                os.close(lock)
                raise

    @classmethod
    def in_memory(cls) -> LedgerStore:
        """Open an empty log that is lost on close; for simulations and tests."""
        return cls._prepared(_connect(":memory:"), "in-memory ledger", None)

    @classmethod
    def open_readonly(cls, path: Path) -> LedgerStore:
        """Open for reading, while a writer may be at work.

        Raises:
            LedgerError: missing, or not a ledger of this version.
            LedgerCorrupt: SQLite cannot read the file.
        """
        if not path.is_file():
            raise LedgerError(f"there is no ledger at {path}", hint="name a site folder or a ledger.sqlite file")
        uri = path.resolve().as_uri()
        with _translated(str(path)):
            connection = _connect(uri + "?mode=ro")
            try:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.OperationalError:
                connection.close()
                if path.with_name(path.name + "-wal").exists():
                    raise
                # A copy on a read-only medium: SQLite cannot place its shared-memory file beside it.
                connection = _connect(uri + "?immutable=1")
            store = cls(connection, str(path), None, writable=False)
            store._check_format()
            return store

    @classmethod
    def _prepared(cls, connection: sqlite3.Connection, name: str, lock: int | None) -> LedgerStore:
        store = cls(connection, name, lock, writable=True)
        blank = _is_blank(connection)
        if not blank:
            store._check_format()
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("PRAGMA foreign_keys=ON")
        if blank:
            with store.transaction():
                for statement in (*_SCHEMA, *_APPEND_ONLY):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={_USER_VERSION}")
        return store

    def _check_format(self) -> None:
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if (application, version) != (_APPLICATION_ID, _USER_VERSION):
            raise LedgerError(
                f"{self.name} is not a Tacit ledger of format {_USER_VERSION}",
                hint="name the site's state/ledger.sqlite",
            )

    def close(self) -> None:
        """Close the file and give the writer's lock back. Closing twice is harmless."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic, durable transaction: all or nothing.

        Raises:
            StorageFull: the disk refused the write; nothing was recorded.
            LedgerCorrupt: SQLite found the file damaged.
            LedgerError: the ledger is read-only, closed or locked.
        """
        with _translated(self.name):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """One consistent view for several reads, whatever a writer does meanwhile."""
        with _translated(self.name):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def append(
        self,
        position: int,
        content: bytes,
        nodes: Sequence[tuple[int, int, bytes]],
        head: TreeHead,
        key: StepKey | None,
    ) -> None:
        """Write one entry, the nodes it completes, its step key and the new head. Call inside a transaction.

        Raises:
            StepAlreadySpent: the database holds the step key already.
        """
        connection = self._connection
        connection.execute("INSERT INTO entry VALUES (?, ?)", (position, content))
        connection.executemany("INSERT INTO node VALUES (?, ?, ?)", nodes)
        if key is not None:
            try:
                connection.execute(
                    "INSERT INTO spent_step VALUES (?, ?, ?, ?)", (key.run_id, key.round, key.step, position)
                )
            except sqlite3.IntegrityError as error:
                raise StepAlreadySpent(
                    f"{key} was reserved before",
                    hint="a second noise draw is never made for one step; order a new step",
                ) from error
        self.put_head(head)

    def put_head(self, head: TreeHead) -> None:
        """Replace the newest tree head. Call inside a transaction."""
        self._connection.execute(
            "INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?)",
            (head.size, head.root, head.timestamp, head.signature),
        )

    def head_row(self) -> tuple[object, ...] | None:
        """``(size, root, timestamp, signature)`` as stored, None in a log that never had a head."""
        with _translated(self.name):
            row = self._connection.execute("SELECT size, root, timestamp, signature FROM head").fetchone()
        return None if row is None else tuple(row)

    def contents(self) -> Iterator[tuple[int, object]]:
        """``(position, content)`` of every entry, in order of position."""
        with _translated(self.name):
            yield from self._connection.execute("SELECT position, content FROM entry ORDER BY position")

    def nodes(self) -> dict[tuple[int, int], object]:
        """Every stored tree node by ``(level, position)``."""
        with _translated(self.name):
            rows = self._connection.execute("SELECT level, position, hash FROM node")
            return {(level, position): value for level, position, value in rows}

    def node(self, level: int, position: int) -> bytes:
        """One stored tree node.

        Raises:
            LedgerCorrupt: it is missing.
        """
        with _translated(self.name):
            row = self._connection.execute(
                "SELECT hash FROM node WHERE level = ? AND position = ?", (level, position)
            ).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise LedgerCorrupt(f"tree node ({level}, {position}) is missing from {self.name}")
        return row[0]

    def step_rows(self) -> dict[StepKey, int]:
        """Every step key the database guards, with its entry's position."""
        with _translated(self.name):
            rows = self._connection.execute("SELECT run_id, round, step, position FROM spent_step")
            return {StepKey(run_id, round_, step): position for run_id, round_, step, position in rows}


def _connect(target: str) -> sqlite3.Connection:
    # isolation_level=None: transactions are begun here, not guessed by the module.
    return sqlite3.connect(
        target,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        uri=target != ":memory:",
    )


def _is_blank(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0)


def _take_lock(path: Path) -> int:
    lock_path = path.with_name(path.name + ".lock")
    handle = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(handle, 64, 0).decode("ascii", "replace").strip()
        os.close(handle)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        who = f"process {holder}" if holder else "another process"
        raise LedgerError(
            f"{path} is in use by {who}; a ledger has one writer",
            hint="stop the other site agent first; `tacit ledger show` only reads and works meanwhile",
        ) from error
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        # The process number is a courtesy to the reader of the error above; the lock is held without it.
        return handle
    return handle


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn what SQLite and the file system raise into the ledger's own errors."""
    try:
        yield
    except TacitError:
        raise
    except sqlite3.Error as error:
        raise _ledger_error(name, error) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(f"no room left on the disk for {name}", hint=_FULL_HINT) from error
        raise LedgerError(f"{name} cannot be opened: {error.strerror}") from error


def _ledger_error(name: str, error: sqlite3.Error) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _REFUSED_WRITES:
        return StorageFull(f"the disk refused to write {name}: {error}", hint=_FULL_HINT)
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerCorrupt(
            f"SQLite cannot read {name}: {error}",
            hint="restore the newest copy; witnesses hold its last tree head",
        )
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerError(f"{name} is locked by another program", hint="close it and try again")
    return LedgerError(f"{name} cannot be used: {error}")
